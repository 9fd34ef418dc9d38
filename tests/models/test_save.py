"""A pruned model that was saved is the pruned model: whole or not at all, with its card."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import tiny
import torch
import transformers
import yaml
from safetensors.torch import load_file
from test_cut import BLOCKS, by_hand, changes, probe, within
from torch import Tensor

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError
from lrd_harness.models import save as saving
from lrd_harness.models.backbone import Backbone
from lrd_harness.models.cut import kept_blocks, remove
from lrd_harness.models.find import FILE, find
from lrd_harness.models.save import Pruned, card, mergekit, save

CARD = "---\ntags:\n- pruned\n---\n\n# A card\n"
ENCODERS = ("Bert", "MPNet", "T5", "Bart")
DECODERS = ("Llama", "Gemma3Text", "GPT2", "Qwen2", "Mamba", "OPT", "GPTNeo", "DeepseekV3")
REMOVED = [(1,), (2, 5)]


def original(family: str, folder: Path, causal: bool = False) -> Checkpoint:
    """A checkpoint of five blocks, found as a user names it."""
    tiny.save(family, folder, causal=causal, **changes(family))
    return find(str(folder))


@pytest.fixture
def bert(tmp_path: Path) -> Checkpoint:
    return original("Bert", tmp_path / "full")


def answer(model: Any) -> Tensor:
    """Logits of a model with a head, else its states."""
    inner = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.inference_mode():
        output: Tensor = inner.eval()(**probe())[0]
    return output


def in_memory(folder: Path, removed: tuple[int, ...], auto: Any) -> Any:
    model = auto.from_pretrained(folder)
    remove(model, Backbone(within(model), probe()).blocks, removed)
    return model


def changed(folder: Path, file: str = "config.json", **settings: Any) -> Checkpoint:
    """The checkpoint in a folder, found after a change of its settings; those of None go."""
    content = {**json.loads((folder / file).read_text()), **settings}
    (folder / file).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return find(str(folder))


@pytest.mark.parametrize("family", tiny.rest_slow([*ENCODERS, *DECODERS], "Bert", "Llama"))
def test_the_saved_model_is_the_pruned_one(family: str, tmp_path: Path) -> None:
    causal = family in DECODERS
    auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    checkpoint = original(family, tmp_path / "full", causal)
    for removed in REMOVED:
        folder = tmp_path / f"pruned-{removed[0]}"
        assert save(checkpoint, removed, folder, CARD) == folder
        again, loading = auto.from_pretrained(folder, output_loading_info=True)
        assert not any(loading[kind] for kind in loading)
        pruned = in_memory(tmp_path / "full", removed, auto)
        torch.testing.assert_close(answer(again), answer(pruned), rtol=1e-5, atol=1e-5)
        assert again.num_parameters() == pruned.num_parameters()
        full = auto.from_pretrained(tmp_path / "full").eval()
        expected = by_hand(within(full), kept_blocks(removed, BLOCKS))
        base = transformers.AutoModel.from_pretrained(folder)
        torch.testing.assert_close(answer(base), expected, rtol=1e-5, atol=1e-5)
        assert not list(folder.glob("*.bin"))
        assert (folder / "README.md").read_text() == CARD
        config = find(str(folder)).config  # what a run reads
        assert config["architectures"] == checkpoint.config["architectures"]
    assert len(list(tmp_path.iterdir())) == 1 + len(REMOVED)


@pytest.mark.parametrize("family", tiny.rest_slow(["T5", "GPT2", "ModernBert", "Albert"], "T5"))
def test_without_blocks_to_remove_the_whole_model_is_kept(family: str, tmp_path: Path) -> None:
    """Also of kinds of which no block can go."""
    checkpoint = original(family, tmp_path / "full")
    save(checkpoint, (), tmp_path / "kept", CARD)
    assert (tmp_path / "kept" / "README.md").read_text() == CARD
    full, kept = (
        transformers.AutoModel.from_pretrained(tmp_path / name).state_dict()
        for name in ("full", "kept")
    )
    assert kept.keys() == full.keys()
    assert all(torch.equal(kept[name], full[name]) for name in full if "pooler" not in name)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(tied: bool, tmp_path: Path) -> None:
    tiny.save("Llama", tmp_path / "full", causal=True, tie_word_embeddings=tied)
    # what transformers reads with a warning, and refuses to write
    settings = {"do_sample": False, "temperature": 0.6, "max_new_tokens": 7, "eos_token_id": 6}
    (tmp_path / "full" / "generation_config.json").write_text(json.dumps(settings))
    folder = save(find(str(tmp_path / "full")), (1,), tmp_path / "pruned", CARD)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) != tied
    pruned = in_memory(tmp_path / "full", (1,), transformers.AutoModelForCausalLM)
    torch.testing.assert_close(answer(model), answer(pruned), rtol=1e-5, atol=1e-5)
    assert json.loads((folder / "generation_config.json").read_text()) == settings


def test_the_precision_and_other_heads_stay(tmp_path: Path) -> None:
    model = transformers.BertForMaskedLM(tiny.config("Bert")).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "full")
    tiny.tokenizer().save_pretrained(tmp_path / "full")
    folder = save(find(str(tmp_path / "full")), (2,), tmp_path / "pruned", CARD)
    again = transformers.BertForMaskedLM.from_pretrained(folder, dtype="auto")
    assert again.dtype == torch.bfloat16
    torch.testing.assert_close(again.cls.state_dict(), model.cls.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("said", [["BertForMaskedLM"], ["NoSuchModel"], ["BertTokenizer"], None])
def test_a_head_that_has_no_weights_is_left_out(said: Any, tmp_path: Path) -> None:
    original("Bert", tmp_path / "full")
    checkpoint = changed(tmp_path / "full", architectures=said)
    folder = save(checkpoint, (1,), tmp_path / "pruned", CARD)
    assert find(str(folder)).config["architectures"] == ["BertModel"]


@pytest.mark.slow
def test_blocks_that_are_built_by_their_place(tmp_path: Path) -> None:
    modern = original("ModernBert", tmp_path / "modern")
    with pytest.raises(UserError, match="ModernBertModel builds its blocks by their place"):
        save(modern, (1,), tmp_path / "pruned", CARD)  # the first has no norm of its own
    save(modern, (2, 3), tmp_path / "pruned", CARD)
    tiny.save("GPT2", tmp_path / "gpt", causal=True, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="builds its blocks by their place"):
        save(find(str(tmp_path / "gpt")), (1,), tmp_path / "other", CARD)
    save(find(str(tmp_path / "gpt")), (3,), tmp_path / "other", CARD)


def test_it_is_quiet(bert: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging = transformers.utils.logging
    logging.enable_progress_bar()
    level = logging.get_verbosity()
    capfd.readouterr()
    save(bert, (1,), tmp_path / "pruned", CARD)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, True)


def test_blocks_that_have_no_weights(tmp_path: Path) -> None:
    original("Llama", tmp_path / "full")
    more = changed(tmp_path / "full", num_hidden_layers=BLOCKS + 1, layer_types=None)
    with pytest.raises(UserError, match="its weights lack 9 tensors"):
        save(more, (1,), tmp_path / "pruned", CARD)
    assert not (tmp_path / "pruned").exists()


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_folders_that_are_taken(bert: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = names(tmp_path)
    for name, line in (
        ("taken", "taken is not empty"),
        ("file", "is a file"),
        ("file/below", "below"),
    ):
        with pytest.raises(UserError, match=line) as caught:
            save(bert, (1,), tmp_path / name, CARD)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/below"):
        folder = save(bert, (1,), tmp_path / name, CARD)
        assert (folder / "config.json").is_file()
    assert folder.stat().st_mode == (tmp_path / "empty").stat().st_mode


@pytest.mark.parametrize(
    ("fault", "expected", "line"),
    [
        (OSError(28, "No space left"), UserError, "cannot be saved to .*No space left"),
        (ValueError("no way\n" * 9), UserError, "^local/full cannot be saved to [^:]*: no way$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_nothing_half_written_stays(
    fault: Any,
    expected: Any,
    line: str,
    bert: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = names(tmp_path)
    monkeypatch.setattr(saving, "_compare", Mock(side_effect=fault))
    with pytest.raises(expected, match=line):
        save(bert, (1,), tmp_path / "new" / "pruned", CARD)
    assert names(tmp_path) == before


def test_a_folder_that_somebody_else_makes_meanwhile(
    bert: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pruned"

    def fill(*_: Any) -> None:
        folder.mkdir()
        (folder / "notes").write_text("mine")

    monkeypatch.setattr(saving, "_compare", fill)
    with pytest.raises(UserError, match="is not empty"):
        save(bert, (1,), folder, CARD)
    assert names(folder) == ["notes"]
    assert sorted(os.listdir(tmp_path)) == ["full", "pruned"]


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_what_is_saved_follows_the_umask(umask: int, tmp_path: Path) -> None:
    """Weights too, which safetensors writes for one user alone."""
    tiny.save_st(tmp_path / "st", dense=8)
    before = os.umask(umask)
    try:
        folder = save(find(str(tmp_path / "st")), (1,), tmp_path / "pruned", CARD)
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        usual = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == usual & ~umask, path


def test_the_same_for_mergekit() -> None:
    name = "./a: b #c"
    config = yaml.safe_load(mergekit(name, 12, (7, 3, 4), dtype="bfloat16"))
    ranges = ([0, 2], [4, 6], [7, 12])
    slices = [{"sources": [{"model": name, "layer_range": pair}]} for pair in ranges]
    assert config == {"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("pruned", "data", "lines"),
    [
        (
            Pruned("org/m", "main", 4, (), (9, 9), hub=True, metric="dime", texts="a.jsonl"),
            {"base_model": "org/m", "tags": ["lrd-harness", "dime"]},
            ["# m with all of its 4 blocks", "| blocks | 1-4 |", "| parameters | 9 |"],
        ),
        (
            Pruned(
                *("org/model", "abc", 30, (14, 7, 12, 13), (1000, 850)),
                rule="gfmi",
                budget=0.15,
                texts="500 texts of FILE.jsonl",
                scores={"STS|B": (0.8, 0.76), "Other": (-0.1, 0.0)},
            ),
            {"tags": ["lrd-harness", "pruned", "layer-pruning", "gfmi"]},
            [
                "# model without 4 of its 30 blocks",
                "| blocks removed | 7,12-14 (4 of 30) |",
                "| blocks kept | 1-6,8-11,15-30 |",
                "| chosen by | the rule `gfmi` at a budget of 15 % of the candidates |",
                "| texts | 500 texts of FILE.jsonl |",
                "| parameters | 1,000 before, 850 after (-15.0%) |",
                "| STS\\|B | 0.8000 | 0.7600 | -5.0% |",
                "| Other | -0.1000 | 0.0000 |  |",
            ],
        ),
        (
            Pruned(
                *("/x/a: #b|c", "abc", 4, (2, 4), (10, 8)),
                rule="random",
                seed=3,
                budget=0.5,
                protect=1,
                library="sentence-transformers",
            ),
            {"tags": ["lrd-harness", "pruned", "layer-pruning", "random"]},
            [
                "# a: #b\\|c without 2 of its 4 blocks",
                "| chosen by | the rule `random` (seed 3) at a budget of 50 % of the candidates; "
                "blocks kept at either end: 1 |",
            ],
        ),
    ],
)
def test_cards(pruned: Pruned, data: dict[str, Any], lines: list[str]) -> None:
    text = card(pruned)
    before, front, _ = text.split("---\n", 2)
    assert (before, yaml.safe_load(front)) == ("", {"library_name": pruned.library, **data})
    assert set(lines) <= set(text.splitlines())
    assert ("Scores" in text) == bool(pruned.scores)


@pytest.mark.slow
def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    full = tiny.save("Bert", tmp_path / "full")
    entries = ("pooling: 3", "prompts: {query: 1}", "max_length: 0", "max_length: true", "plain: a")
    faults = [json.dumps(yaml.safe_load(f"{{{entry}}}")) for entry in entries]
    for text in ("", "[]", "[" * 9999, *faults):
        (full / FILE).write_text(text)
        line = f"local/full: its {FILE} (cannot be read|has no sound)"
        with pytest.raises(UserError, match=line):
            tiny.open_model(full)
