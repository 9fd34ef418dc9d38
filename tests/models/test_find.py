"""From a typed name to a checkpoint; what is no model is told at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from odd_checkpoints import Info, at_the_hub, change, hub_says

from lrd_harness.errors import UserError
from lrd_harness.models.find import content_hash, find
from lrd_harness.models.recognition import check_readable, check_sizes
from lrd_harness.planning.suite import known_models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.save("Bert", tmp_path / "model")


def test_a_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its revision is its content, its name the one that was typed, and so that of a link."""
    checkpoint = find(str(folder))
    assert (checkpoint.name, checkpoint.path) == ("local/model", str(folder))
    assert checkpoint.config["model_type"] == "bert"
    assert {"config.json", "model.safetensors"} <= checkpoint.files
    assert checkpoint.revision == content_hash(folder)
    monkeypatch.chdir(tmp_path)
    for name in ("model", "./model", f"../{tmp_path.name}/model"):
        assert find(name) == checkpoint
    assert content_hash(Path(shutil.copytree(folder, tmp_path / "copy"))) == checkpoint.revision

    (tmp_path / "mine").symlink_to(folder, target_is_directory=True)
    linked = find(str(tmp_path / "mine"))
    assert (linked.name, linked.path) == ("local/mine", str(tmp_path / "mine"))
    assert (linked.revision, linked.files) == (checkpoint.revision, checkpoint.files)
    assert find(f"{tmp_path}/mine/") == find(f"{folder}/../mine/.") == linked
    # a link above the folder is no name of the model's
    (tmp_path / "above").symlink_to(tmp_path, target_is_directory=True)
    assert find(str(tmp_path / "above" / "model")) == checkpoint
    monkeypatch.chdir(tmp_path / "mine")
    assert find(".") == checkpoint  # no name was typed
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    assert "lost: no such folder" in fault(tmp_path / "lost")

    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert content_hash(folder) != checkpoint.revision


def fault(name: str | Path) -> str:
    """The one line that a name is answered with."""
    with pytest.raises(UserError) as error:
        check_readable(find(str(name)))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folders_that_are_no_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{tmp_path}/modle: no such folder. Did you mean {folder}?" == fault(tmp_path / "modle")
    assert "is a file, not the folder of a model" in fault(folder / "config.json")
    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rglob", lambda *_: pytest.fail("walked through"))
        assert "empty is no model: it has neither config.json" in fault(tmp_path / "empty")
    weights = folder / "model.safetensors"
    for content in (weights.read_bytes()[:-1], b"", b"git-lfs pointer"):
        weights.write_bytes(content)
        assert f"{weights}: weights that are missing or damaged" in fault(folder)
    for text in (b"{", b"[1]", b"\xff"):
        (folder / "config.json").write_bytes(text)
        assert "config.json: not" in fault(folder)


def test_weights_in_several_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    part = weights.rename(folder / "model-00001-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": part.name}}))
    find(str(folder))
    lost = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps({"weight_map": {"a": part.name, "b": lost}}))
    assert f"{folder / lost}: weights that are missing" in fault(folder)
    index.write_text("{}")
    assert "not an index of weights" in fault(folder)


def test_kinds_of_model_that_transformers_does_not_know(folder: Path) -> None:
    config = folder / "config.json"
    change(config, auto_map={"AutoConfig": "custom.Config"}, model_type="strange")
    assert fault(folder).endswith(
        "names code of its own in the auto_map of config.json (custom.Config), which is not run "
        "unless you trust it (--trust-remote-code and this folder)"
    )
    config.write_text(json.dumps({"model_type": "strange"}))
    assert "knows no model of type 'strange'" in fault(folder)


def test_a_transformer_in_a_subfolder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in old models of sentence-transformers, whose own config.json says nothing, if it is."""
    folder = tiny.save_st(tmp_path / "model", dense=8)
    inner = tiny.to_subfolder(folder)
    for text in ("", '{"__version__": "0.2.5"}'):
        if text:
            (folder / "config.json").write_text(text)
        at_the_hub(folder, monkeypatch)
        for name in (str(folder), "org/it"):
            assert find(name).config["model_type"] == "bert"
    (dense,) = folder.glob("*_Dense/model.safetensors")
    dense.write_bytes(dense.read_bytes()[:-1])
    assert f"{dense}: weights that are" in fault(folder)
    (inner / "model.safetensors").unlink()
    assert "no weights as safetensors" in fault(folder)


def test_no_hub_within_reach() -> None:
    said = "is not on this machine, and the hub is out of reach. Did you mean sentence-transformers"
    with pytest.raises(UserError, match=f"{said}/all-MiniLM-L6-v2"):
        find("sentence-transformers/all-MiniLM-L6-v3", known=known_models)
    for name in ("gpt2", "Qwen/Qwen3-Embedding-0.6B"):  # known, so that nothing else was meant
        with pytest.raises(UserError, match=f"model '{name}' is not on this machine") as caught:
            find(name, known=known_models)
        assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["a b/c", "a/b/c", "org/..x", "org/a--b", "pypi:nothing", "a/b@"])
def test_names_that_are_none(name: str) -> None:
    assert name.partition("@")[0].removeprefix("pypi:") in fault(name)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Info("config.json", "pytorch_model.bin"), "org/it has no weights as safetensors"),
        (Info("config.json", "model.safetensors"), "org/it has no tokenizer"),
        (Info("model.safetensors"), "org/it on the hub is no transformers model"),
    ],
)
def test_repositories_that_are_no_model(
    answer: Any, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_hub(folder, monkeypatch)
    hub_says(monkeypatch, answer)
    assert line in fault("org/it@v9")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000: at most 10,000"),
        ({"num_hidden_layers": 10**40}, "num_hidden_layers is beyond 10^30: at most 10,000"),
        ({"num_hidden_layers": 9999}, "num_hidden_layers is 9999, but the weights beside it have"),
        ({"num_attention_heads": 10**9}, "num_attention_heads is 1000000000: at most 65,536"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000: at most 100,000,000 is possible"),
        ({"intermediate_size": 5 * 10**7}, "intermediate_size is 50000000, but no weight"),
        ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1000000000: at most 50"),
        ({"text_config": {"n_layer": 10**9}}, "n_layer is 1000000000: at most 10,000"),
        ({"num_hidden_layers": float("nan")}, "num_hidden_layers is nan: at most 10,000"),
        # what is left to transformers: blocks may share their weights
        ({"num_hidden_layers": 48, "max_position_embeddings": 10_485_760}, ""),
        ({"vocab_size": 262_144, "bos_token_id": 10**9, "rope_theta": 1e12}, ""),
    ],
)
def test_absurd_sizes_end_in_a_line(values: dict[str, Any], message: str, folder: Path) -> None:
    if message:
        change(folder / "config.json", **values)
        assert f"config.json: {message}" in fault(folder)
    else:
        for _ in range(2000):
            values = {"nested": values}
        check_sizes(folder, values)


DAMAGES: list[tuple[str, Any]] = [
    *(("config.json", {"hidden_size": width}) for width in ({}, 64)),
    *(("config.json", {"num_hidden_layers": count}) for count in ([], 9)),
    *(("config.json", {"model_type": kind}) for kind in ([], {"bert": 1})),
    ("config.json", {"num_attention_heads": 5}),  # which do not divide the width
    ("config.json", {"hidden_act": "none"}),
    ("config.json", {"quantization_config": [1]}),
    ("config.json", b'{"a":' * 100_000),
    ("config.json", b'{"model_type": "bert", "x": ' + b"9" * 6000 + b"}"),
    ("model.safetensors", None),  # a folder in its place
    ("tokenizer.json", b"[]"),
    ("tokenizer.json", b'{"model": {"type": "Nope"}}'),
    ("tokenizer.json", b"[" * 100_000),
    ("tokenizer_config.json", b"[]"),
    ("modules.json", b'[{"type": "sentence_transformers.models.Transformer", "path": "\\u0000"}]'),
]


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_a_damaged_folder_is_one_line(number: int, folder: Path) -> None:
    """hard/test_fuzz.py damages folders at random; these are kinds that it seldom meets."""
    name, content = DAMAGES[number]
    if isinstance(content, dict):
        change(folder / name, **content)
    elif content is None:
        (folder / name).unlink()
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        tiny.planned(folder).open()
    line = str(error.value)
    assert "model" in line or "Bert" in line
    assert "\n" not in line
    assert len(line) < 400
