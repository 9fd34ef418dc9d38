"""A pruned model that was saved is the pruned model: whole or not at all, with its card."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
import yaml
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


def answer(model: Any) -> Tensor:
    """Logits of a model with a head, else its states."""
    inner = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.inference_mode():
        found: Tensor = inner.eval()(**probe())[0]
    return found


def in_memory(folder: Path, removed: tuple[int, ...], auto: Any) -> Any:
    model = auto.from_pretrained(folder)
    remove(model, Backbone(within(model), probe()).blocks, removed)
    return model


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
        assert sum(p.numel() for p in again.parameters()) == sum(
            p.numel() for p in pruned.parameters()
        )
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
    from safetensors import safe_open

    tiny.save("Llama", tmp_path / "full", causal=True, tie_word_embeddings=tied)
    folder = save(find(str(tmp_path / "full")), (1,), tmp_path / "pruned", CARD)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert ("lm_head.weight" in weights.keys()) != tied  # noqa: SIM118 - no mapping
    pruned = in_memory(tmp_path / "full", (1,), transformers.AutoModelForCausalLM)
    torch.testing.assert_close(answer(model), answer(pruned), rtol=1e-5, atol=1e-5)


def test_the_precision_and_other_heads_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(tiny.config("Bert")).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "full")
    tiny.tokenizer().save_pretrained(tmp_path / "full")
    folder = save(find(str(tmp_path / "full")), (2,), tmp_path / "pruned", CARD)
    again = transformers.BertForMaskedLM.from_pretrained(folder, dtype="auto")
    assert again.dtype == torch.bfloat16
    for name, value in again.cls.state_dict().items():
        assert torch.equal(value, model.cls.state_dict()[name])


def test_a_head_that_has_no_weights_is_left_out(tmp_path: Path) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    for said in (["BertForMaskedLM"], ["NoSuchModel"], ["BertTokenizer"], None):
        config["architectures"] = said
        (tmp_path / "full" / "config.json").write_text(json.dumps(config))
        checkpoint = find(str(tmp_path / "full"))
        folder = save(checkpoint, (1,), tmp_path / str(said), CARD)
        assert find(str(folder)).config["architectures"] == ["BertModel"]


def test_settings_for_generation_are_kept(tmp_path: Path) -> None:
    tiny.save("Llama", tmp_path / "full", causal=True)
    # what transformers reads with a warning, and refuses to write
    said = {"do_sample": False, "temperature": 0.6, "max_new_tokens": 7, "eos_token_id": 6}
    (tmp_path / "full" / "generation_config.json").write_text(json.dumps(said))
    folder = save(find(str(tmp_path / "full")), (1,), tmp_path / "pruned", CARD)
    assert json.loads((folder / "generation_config.json").read_text()) == said


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


def test_it_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    logging = transformers.utils.logging
    logging.enable_progress_bar()
    level = logging.get_verbosity()
    capfd.readouterr()
    save(checkpoint, (1,), tmp_path / "pruned", CARD)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, True)


def test_models_that_cannot_be_pruned(tmp_path: Path) -> None:
    tiny.save("Albert", tmp_path / "albert")
    with pytest.raises(UserError, match="shares weights between its blocks"):
        save(find(str(tmp_path / "albert")), (1,), tmp_path / "pruned", CARD)
    checkpoint = original("Llama", tmp_path / "llama")
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    config["num_hidden_layers"] = BLOCKS + 1
    config.pop("layer_types", None)
    (tmp_path / "llama" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="its weights lack 9 tensors"):
        save(checkpoint, (1,), tmp_path / "pruned", CARD)
    assert not (tmp_path / "pruned").exists()


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_folders_that_are_taken(tmp_path: Path) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = names(tmp_path)
    with pytest.raises(UserError, match="taken is not empty"):
        save(checkpoint, (1,), tmp_path / "taken", CARD)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as caught:
            save(checkpoint, (1,), folder, CARD)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    (tmp_path / "empty").mkdir()
    save(checkpoint, (1,), tmp_path / "empty", CARD)
    assert (tmp_path / "empty" / "config.json").is_file()
    save(checkpoint, (1,), tmp_path / "new" / "below", CARD)
    assert (tmp_path / "new" / "below" / "config.json").is_file()
    plain = tmp_path / "plain"
    plain.mkdir()
    assert (tmp_path / "new" / "below").stat().st_mode == plain.stat().st_mode


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    before = names(tmp_path)
    for removed, complaint in (((9,), "block 9 does not exist"), ((1, 1), "block 1 is given twi")):
        with pytest.raises(UserError, match=complaint):
            save(checkpoint, removed, tmp_path / "new" / "pruned", CARD)
    assert names(tmp_path) == before

    def raising(error: BaseException) -> Any:
        def fail(*_: Any) -> None:
            raise error

        return fail

    for error, expected, line in (
        (OSError(28, "No space left on device"), UserError, r"cannot be saved to .*No space left"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
    ):
        monkeypatch.setattr(saving, "_compare", raising(error))
        with pytest.raises(expected, match=line):
            save(checkpoint, (1,), tmp_path / "new" / "pruned", CARD)
        assert names(tmp_path) == before
    folder = tmp_path / "pruned"

    def fill(*_: Any) -> None:
        folder.mkdir()
        (folder / "notes").write_text("mine")

    monkeypatch.setattr(saving, "_compare", fill)
    with pytest.raises(UserError, match="is not empty"):
        save(checkpoint, (1,), folder, CARD)
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


@pytest.mark.parametrize(
    ("removed", "ranges"),
    [((1,), [[1, 12]]), ((12,), [[0, 11]]), ((7, 3, 4), [[0, 2], [4, 6], [7, 12]])],
)
def test_the_same_for_mergekit(removed: tuple[int, ...], ranges: list[list[int]]) -> None:
    name = "./a: b #c"
    config = yaml.safe_load(mergekit(name, 12, removed, dtype="bfloat16"))
    slices = [{"sources": [{"model": name, "layer_range": pair}]} for pair in ranges]
    assert config == {"slices": slices, "merge_method": "passthrough", "dtype": "bfloat16"}
    kept = [i + 1 for first, end in ranges for i in range(first, end)]
    assert tuple(kept) == kept_blocks(removed, 12)
    with pytest.raises(UserError, match="block 13 does not exist"):
        mergekit(name, 12, (13,))


def front(text: str) -> Any:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


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
            Pruned("/x/a: #b|c", "abc", 4, (2,), (10, 8), library="sentence-transformers"),
            {"tags": ["lrd-harness", "pruned", "layer-pruning"]},
            ["# a: #b\\|c without 1 of its 4 blocks", "| chosen by | hand |"],
        ),
        (
            Pruned("m", "abc", 4, (2, 4), (10, 8), rule="random", seed=3, budget=0.5, protect=1),
            {"tags": ["lrd-harness", "pruned", "layer-pruning", "random"]},
            [
                "| blocks removed | 2,4 (2 of 4) |",
                "| chosen by | the rule `random` (seed 3) at a budget of 50 % of the candidates; "
                "blocks kept at either end: 1 |",
            ],
        ),
    ],
)
def test_cards(pruned: Pruned, data: dict[str, Any], lines: list[str]) -> None:
    text = card(pruned)
    assert front(text) == {"library_name": pruned.library, **data}
    assert set(lines) <= set(text.splitlines())
    assert ("Scores" in text) == bool(pruned.scores)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"pooling": 3}', '{"prompts": {"query": 1}}', '{"max_length": 0}',
             '{"max_length": true}', '{"plain": "yes"}', "[" * 9999],
)  # fmt: skip
def test_a_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    full = tiny.save("Bert", tmp_path / "full")
    (full / FILE).write_text(text)
    with pytest.raises(UserError, match=f"local/full: its {FILE} (cannot be read|has no sound)"):
        tiny.open_model(full)
