"""Models by hub id, from a hub on loopback: the right revision, whole; and what can go wrong."""

from __future__ import annotations

import io
import itertools
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coded
import huggingface_hub
import numpy as np
import pytest
import tiny
import tiny_images
from hub_server import TOKEN, Fault, Hub
from rich.console import Console
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from lrd_harness import manager
from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError, told_to
from lrd_harness.images import Image
from lrd_harness.models import hub as asking
from lrd_harness.models.find import find
from lrd_harness.models.wheels import shown_by
from lrd_harness.planning.models import PlannedModel, resolve_model
from lrd_harness.planning.resolve import make_plan
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import ModelEntry, Suite
from lrd_harness.progress import Display

Patch = pytest.MonkeyPatch
TEXTS = ["the cat sat", "a dog ran to the park in the rain", "x y z"]
GPT = {"n_layer": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.save("Bert", folder / "bert", num_hidden_layers=2, uneven=True)
    tiny.save("Bert", folder / "other", num_hidden_layers=2, uneven=True, seed=1)
    tiny.save_st(folder / "st", dense=8, prompts={"query": "q: "}, num_hidden_layers=2)
    tiny.save("GPT2", folder / "gpt", causal=True, **GPT)
    return folder


@pytest.fixture
def pauses(monkeypatch: Patch) -> list[float]:
    """The seconds that would have been waited for."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


def planned(name: str, *trusted: str) -> PlannedModel:
    stage, settings = Display(quiet=True).stage, Settings(trust_remote_code=trusted)
    return resolve_model(ModelEntry(name), settings, manager.load(), stage)


def states(model: Any) -> list[Any]:
    return list(model.states(model.tokenize(list(map(Text, TEXTS)))).values())


def same(name: str, folder: Path) -> None:
    """That the model of that name is that of the folder."""
    found = states(planned(name).open())
    for mine, theirs in zip(found, states(planned(str(folder)).open()), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def fault(name: str, *trusted: str) -> str:
    with pytest.raises(UserError) as error:
        planned(name, *trusted).open()
    line = str(error.value)
    assert "\n" not in line
    return line


def test_a_model_by_id_branch_and_commit(hub: Hub, models: Path) -> None:
    repository = hub.repository("org/it")
    old = repository.push(models / "other", "step1", "refs/pr/1")
    new = repository.push(models / "bert")
    for name, commit, folder in (
        ("org/it", new, "bert"),
        ("org/it@main", new, "bert"),
        ("org/it@step1", old, "other"),
        ("org/it@refs/pr/1", old, "other"),
        (f"org/it@{old}", old, "other"),
    ):
        checkpoint = find(name)
        assert (checkpoint.name, checkpoint.path, checkpoint.revision) == (
            "org/it",
            "org/it",
            commit,
        )
        same(name, models / folder)


@pytest.mark.parametrize("family", ["Dinov2Model", "CLIPModel"])
def test_a_model_of_images(family: str, hub: Hub, tmp_path: Path) -> None:
    towers = tiny_images.TOWERS if family == "CLIPModel" else {}
    tiny_images.save(family, tmp_path, **towers)
    hub.repository("org/eyes").push(tmp_path)
    texts = [Text(Image.of(picture)) for picture in tiny_images.pictures(3)]
    planes = []
    for name in ("org/eyes", str(tmp_path)):
        model: Any = planned(name).open()
        planes.append([*model.states(model.tokenize(texts)).values()])
    for mine, theirs in zip(*planes, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
    asked = len(hub.asked)
    planned("org/eyes").open()
    assert not [line for line in hub.asked[asked:] if "safetensors" in line or "/cdn/" in line]


def test_what_is_downloaded(hub: Hub, models: Path) -> None:
    """To be found, its small files; to be opened, its weights in one form; then nothing again."""
    files = {p.name: p.read_bytes() for p in (models / "gpt").iterdir()}
    more = ("pytorch_model.bin", "model.fp16.safetensors", "onnx/model.onnx", "logo.png")
    hub.repository("org/gpt").push({**files, **dict.fromkeys(more, b"0")})
    model = planned("org/gpt")
    assert not hub.count("safetensors|/cdn/")
    opened = model.open()
    assert hub.count("GET /cdn/") == 1
    assert not hub.count("|".join(more))
    assert opened.identity["model"] == "org/gpt"
    assert {Path(opened.checkpoint.path, name).is_file() for name in files} == {True}
    asked = len(hub.asked)
    model.open()
    assert hub.asked[asked:] == []


@pytest.mark.parametrize(
    ("read", "passed_over"),
    [
        ("a.json tokenizer.model merges.txt x.jinja code.py vocab.bpe", "a.bin a.pt b/c.onnx"),
        ("model.safetensors", "model-00001-of-00002.safetensors model.fp16.safetensors"),
        ("model-00001-of-00002.safetensors model.safetensors.index.json", "pytorch_model.bin"),
        ("model.safetensors adapter_model.safetensors", "consolidated.safetensors tf_model.h5"),
        (
            "model.safetensors 1_A/config.json",
            "checkpoint-5/model.safetensors 1_A/model.safetensors",
        ),
        ("modules.json 1_A/model.safetensors 0_T/model.safetensors", "0_T/tf_model.h5"),
        ("config.json", "original/tokenizer.model original/params.json .git/a.pkl logo.png"),
    ],
)
def test_which_files_are_read(read: str, passed_over: str) -> None:
    assert asking.wanted(f"{read} {passed_over}".split()) == {*read.split()}


def test_a_model_of_modules(hub: Hub, models: Path) -> None:
    hub.repository("org/st").push(models / "st")
    model = planned("org/st").open()
    theirs = SentenceTransformer(str(models / "st"), device="cpu")
    np.testing.assert_allclose(
        tiny.embeddings(model, map(Text, TEXTS)), theirs.encode(TEXTS), atol=1e-6
    )
    assert not any("Bearer" in token for token in hub.tokens)


BUSY = {
    "503": ({"status": 503}, "the hub is busy (503 Service Unavailable)", [1, 4]),
    "429": ({"status": 429, "headers": {"Retry-After": "7"}}, "429 Too Many Requests", [7, 7]),
    "limit": (
        {"status": 429, "headers": {"ratelimit": '"api";r=0;t=271'}},
        "429 Too Many Requests) and asks to be left alone for 271 s",
        [],
    ),
}


@pytest.mark.parametrize("kind", BUSY)
def test_a_busy_hub_is_asked_again(kind: str, hub: Hub, models: Path, pauses: list[float]) -> None:
    """Twice; then one line, and what is asked for next is not waited for. What is here opens."""
    keywords, line, waits = BUSY[kind]
    hub.repository("org/it").push(models / "bert")
    hub.faults = [Fault("GET /api/models/org/it", times=len(waits), **keywords)]
    same("org/it", models / "bert")
    assert pauses == waits
    hub.faults = [Fault("/api/models/", **keywords)]
    found, asked = find("org/it"), len(hub.asked)
    assert Path(found.path).is_dir()
    for name in ("org/that", "org/those"):
        assert f"model '{name}' is not on this machine, and the hub is busy" in fault(name)
    assert line in fault("org/that")
    assert hub.asked[asked:] == []
    assert pauses == waits * 2


def test_a_file_that_a_busy_hub_does_not_give(hub: Hub, models: Path, pauses: list[float]) -> None:
    hub.repository("org/it").push(models / "bert")
    hub.faults = [Fault("HEAD .*tokenizer.json", 503)]
    model = planned("org/it")
    with pytest.raises(UserError, match=r"org/it: its tokenizer.json cannot be .* busy \(503 "):
        model.open()
    assert pauses
    hub.faults = [Fault("HEAD .*config.json", 502)]
    hub.repository("org/new").push(models / "bert")
    assert fault("org/new") == (
        "org/new: its config.json cannot be downloaded: the hub is busy (502 Bad Gateway)"
    )


def test_a_transfer_that_breaks_off(hub: Hub, models: Path, pauses: list[float]) -> None:
    hub.repository("org/it").push(models / "bert")
    hub.faults = [Fault("GET /cdn/", None, times=3)]
    same("org/it", models / "bert")
    assert hub.count("GET /cdn/") == 4
    assert len(pauses) == 3
    hub.repository("org/that").push(models / "other")
    hub.faults = [Fault("GET /cdn/", None, times=1), Fault("GET /cdn/", 500)]
    model = planned("org/that")
    with pytest.raises(UserError, match=r"its model.safetensors cannot .* busy \(500 "):
        model.open()
    hub.faults = []
    same("org/that", models / "other")


def test_weights_are_downloaded_last(hub: Hub, models: Path, pauses: list[float]) -> None:
    """So that without a hub nothing opens of which a file that says how to read it is missing."""
    hub.repository("org/it").push(models / "bert")
    hub.faults = [Fault("HEAD .*/tokenizer.json", 500)]
    assert "its tokenizer.json cannot be downloaded" in fault("org/it")
    hub.stop()
    assert "no weights as safetensors" in fault("org/it")


def test_a_cache_that_others_filled_in_part(hub: Hub, models: Path) -> None:
    """They leave modules.json out, so that the model is another one: the user is told."""
    for name, more in (("part", {}), ("whole", {".gitattributes": b""})):
        files = {p.relative_to(models / "st").as_posix(): p for p in (models / "st").rglob("*.*")}
        hub.repository(f"org/{name}").push({k: p.read_bytes() for k, p in files.items()} | more)
    AutoModel.from_pretrained("org/part")
    AutoTokenizer.from_pretrained("org/part")
    tiny.planned("org/whole").open()
    hub.stop()
    for name, adapter in (("part", "encoder"), ("whole", "sentence-transformers")):
        told: list[str] = []
        with told_to(told.append):
            assert tiny.planned(f"org/{name}").adapter.name == adapter
        assert (name == "part") == ("perhaps without its modules.json" in " ".join(told))


REFUSED = {
    "unknown": ("org/bart", "unknown model 'org/bart'. Did you mean org/bert"),
    "private": ("org/private", "on the hub; a private one needs `hf auth login`."),
    "gated": ("org/gated", "org/gated is gated: accept its terms at {hub}/org/gated, and log in"),
    "revision": ("org/bert@step10", "no revision 'step10' on the hub. Did you mean step1?"),
    "commit": (f"org/bert@{'0' * 40}", f"org/bert has no revision '{'0' * 40}' on the hub"),
    "refused": ("org/barred", "org/barred: the hub refuses it (Client error '410 Gone' for url"),
    "name": ("org/a--b", "'org/a--b' is neither a folder nor a name that the hub allows"),
    "dataset": ("org/data", "unknown model 'org/data'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_hub_refuses(kind: str, hub: Hub, models: Path, pauses: list[float]) -> None:
    hub.repository("org/bert").push(models / "bert", "main", "step1")
    for name in ("private", "gated", "barred"):
        hub.repository(f"org/{name}").push(models / "bert")
    hub.repository("org/data", "datasets").push({"a.json": "{}"})
    hub.repository("org/private").private = hub.repository("org/gated").gated = True
    hub.faults = [Fault("org/barred", 410)]
    name, line = REFUSED[kind]
    with pytest.raises(UserError) as error:
        find(name, known=lambda: ["org/bert", "org/gpt"])
    assert line.format(hub=hub.address) in str(error.value)
    assert "\n" not in str(error.value)
    assert not pauses


def test_a_token_opens_what_is_not_for_all(hub: Hub, models: Path, monkeypatch: Patch) -> None:
    for name in ("gated", "private"):
        hub.repository(f"org/{name}").push(models / "bert")
    hub.repository("org/private").private = hub.repository("org/gated").gated = True
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "org/gated is gated: accept its terms at" in fault("org/gated")
    assert "with the account of your token" in fault("org/gated")
    assert fault("org/private").endswith("It is neither a folder nor on the hub.")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("org/gated", "org/private"):
        same(name, models / "bert")
    at_storage = [t for line, t in zip(hub.asked, hub.tokens, strict=True) if "/cdn/" in line]
    assert at_storage
    assert not any(at_storage)  # no other host is told of the token


def test_no_hub(hub: Hub, models: Path, pauses: list[float]) -> None:
    """One line, at once; what its cache has opens, and what it has a part of is told of."""
    repository = hub.repository("org/it")
    repository.push(models / "other", "step1")
    repository.push(models / "bert")
    hub.repository("org/part").push(models / "bert")
    for name in ("org/it", "org/it@step1"):
        planned(name).open()
    found = planned("org/part").checkpoint
    hub.stop()
    for name, folder in (("org/it", "bert"), ("org/it@step1", "other")):
        same(name, models / folder)
    assert fault("org/part").endswith("(as far as it is on this machine; the hub is out of reach)")
    assert not pauses
    with pytest.raises(UserError, match=r"org/part: its tokenizer.json cannot be .*refused\)"):
        asking.fetched(found)
    assert "model 'org/it' is not on this machine at v9, and the hub is out of" in fault(
        "org/it@v9"
    )


def test_offline_by_the_users_wish(hub: Hub, models: Path, monkeypatch: Patch) -> None:
    hub.repository("org/it").push(models / "bert")
    planned("org/it").open()
    asked = len(hub.asked)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    same("org/it", models / "bert")
    assert "the hub is out of reach (HF_HUB_OFFLINE)" in fault("org/that")
    assert len(hub.asked) == asked


def test_a_silent_hub_is_asked_again_after_a_while(
    hub: Hub, models: Path, monkeypatch: Patch
) -> None:
    hub.repository("org/it").push(models / "bert")
    hub.faults = [Fault("/api/", 503, times=3, headers={"Retry-After": "99"})]
    assert "asks to be left alone for 99 s" in fault("org/it")
    assert "asks to be left alone for 99 s" in fault("org/it")
    assert hub.count("/api/models") == 1
    monkeypatch.setattr(asking, "SILENCE", 0.0)
    hub.faults = []
    with asking.at_once():
        assert huggingface_hub.constants.is_offline_mode()
    assert not huggingface_hub.constants.is_offline_mode()
    same("org/it", models / "bert")
    with asking.at_once():
        assert not huggingface_hub.constants.is_offline_mode()


@pytest.mark.parametrize("kind", ["sharded", "in a folder of its own"])
def test_weights_in_other_places(kind: str, hub: Hub, models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if kind == "sharded":
        whole = AutoModel.from_pretrained(models / "bert")
        whole.save_pretrained(folder, max_shard_size="50KB")
        tiny.tokenizer().save_pretrained(folder)
        assert len([*folder.glob("*.safetensors")]) > 2
    else:
        tiny.to_subfolder(tiny.save_st(folder, dense=8, num_hidden_layers=2))
    hub.repository("org/it").push(folder)
    same("org/it", folder)
    assert hub.count("GET /cdn/") == len([*folder.rglob("*.safetensors")])


@pytest.mark.slow
def test_what_is_saved_of_a_model_of_the_hub(hub: Hub, models: Path, tmp_path: Path) -> None:
    """Is what is saved of its folder, and names the repository and the commit."""
    commit = hub.repository("org/gpt").push(models / "gpt")
    for name, kept in (("org/gpt", "a"), (str(models / "gpt"), "b")):
        assert main(["prune", name, "--blocks", "1", "--save", str(tmp_path / kept)]) == 0
    one, other = (load_file(tmp_path / kept / "model.safetensors") for kept in "ab")
    assert one.keys() == other.keys()
    assert all(one[key].equal(other[key]) for key in one)
    card = (tmp_path / "a" / "README.md").read_text()
    assert "base_model: org/gpt" in card
    assert commit in card
    hub.stop()
    asking._silent.clear()
    assert main(["prune", "org/gpt", "--blocks", "2", "--save", str(tmp_path / "c")]) == 0
    assert find(str(tmp_path / "c")).config["n_layer"] == 1


def test_code_of_its_own_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    """It runs where its commit is trusted, by itself and for other weights, and without the hub."""
    mark = tmp_path / "ran"
    folder = coded.save(tmp_path / "own", mark)
    commit = hub.repository("org/own").push(folder)
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".py"}
    config = json.loads(files["config.json"])
    config["auto_map"] = {k: f"org/own--{name}" for k, name in config["auto_map"].items()}
    other = hub.repository("org/weights").push({**files, "config.json": json.dumps(config)})
    assert f"--trust-remote-code org/own@{commit}" in fault("org/own")
    assert "takes its code from org/own" in fault(f"org/weights@{other}", f"org/weights@{other}")
    lost = f"org/own@{'0' * 40}"
    assert f"org/own has no revision '{'0' * 40}'" in fault(
        f"org/weights@{other}", lost, f"org/weights@{other}"
    )
    trusted = [f"{name}@{sha}" for name, sha in (("org/own", commit), ("org/weights", other))]
    for name in trusted:
        planned(name, *trusted)
    assert not mark.exists()
    here = states(planned(str(folder), str(folder)).open())
    assert mark.exists()
    for stop in (lambda: None, hub.stop):
        stop()
        for name in trusted:
            model = planned(name, *trusted).open()
            for mine, theirs in zip(states(model), here, strict=True):
                np.testing.assert_array_equal(mine, theirs)


def test_many_models_are_looked_up_under_one_line(
    hub: Hub, models: Path, monkeypatch: Patch
) -> None:
    """However slow the hub is; but what was downloaded is told of one by one."""
    names = [f"org/a{i}" for i in range(25)]
    for name in names:
        hub.repository(name).push({f.name: f.read_bytes() for f in (models / "bert").iterdir()})
    clock = itertools.count(step=3)
    monkeypatch.setattr("lrd_harness.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    told = io.StringIO()
    display = Display(Console(file=told, width=100))
    (models / "texts.txt").write_text("a cat\nthe dog\n")
    suite = Suite("x", tuple(map(ModelEntry, names)), (f"texts:{models}/texts.txt",), ("nrs",))
    plan = make_plan(suite, manager.load(), display.stage)
    assert [model.name for model in plan.models] == names
    lines = told.getvalue().splitlines()
    assert [line.partition(" (")[0] for line in lines][:2] == ["tasks", "models"]
    assert not any("org/" in line for line in lines)
    with display.stage("opening") as advance, shown_by(lambda _: advance):
        plan.models[0].open()
    assert re.fullmatch(r"opening: 0\.\d MB \(.* s\)", told.getvalue().splitlines()[-1])
    assert plan.models[0].checkpoint.hub  # what was planned is not changed by it
