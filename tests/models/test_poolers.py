"""A pooler that the checkpoint has no weights for is neither counted nor saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.models.pooling import left_out

POOLER = 32 * 32 + 32
FAMILIES = ("Bert", "Roberta", "MPNet", "Albert")


def in_files(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def strip(folder: Path) -> None:
    """Take the pooler's weights out of the checkpoint."""
    from safetensors.torch import save_file

    kept = {name: value for name, value in in_files(folder).items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("of_modules", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_checkpoint(
    family: str, of_modules: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "full"
    if of_modules:
        tiny.save_st(folder, family=family)
    else:
        tiny.save(family, folder)
    texts = [Text("a quick brown fox"), Text("dogs")]
    full = tiny.open_model(folder)
    states = full.states(full.tokenize(texts))
    assert full.info.parameters == sum(value.numel() for value in in_files(folder).values())
    assert not left_out(full.parts.module)
    strip(folder)
    bare = tiny.open_model(folder)
    assert bare.info.parameters == sum(value.numel() for value in in_files(folder).values())
    assert bare.info.parameters == full.info.parameters - POOLER
    assert left_out(bare.parts.module) == ["pooler"]
    found = bare.states(bare.tokenize(texts))
    assert found.keys() == states.keys()
    assert all(torch.equal(found[key], states[key]) for key in states)


@pytest.mark.parametrize("of_modules", [False, True])
def test_it_is_not_saved(of_modules: bool, tmp_path: Path, capsys: Any, own_cache: Path) -> None:
    folder = tmp_path / "full"
    (tiny.save_st(folder) if of_modules else tiny.save("Bert", folder))
    strip(folder)
    before = sum(value.numel() for value in in_files(folder).values())
    assert main(["prune", str(folder), "--layers", "2", "--save", str(tmp_path / "cut")]) == 0
    weights = in_files(tmp_path / "cut")
    assert not [name for name in weights if "pooler" in name]
    after = sum(value.numel() for value in weights.values())
    card = (tmp_path / "cut" / "README.md").read_text()
    assert f"| parameters | {before:,} before, {after:,} after" in card
    assert tiny.open_model(tmp_path / "cut").info.parameters == after


def test_a_part_of_a_pooler_is_no_random_one(tmp_path: Path) -> None:
    """Nor is a pooler that a checkpoint with a head has."""
    torch.manual_seed(0)
    made = transformers.BertForSequenceClassification(tiny.config("Bert"))
    made.save_pretrained(tmp_path / "full")
    tiny.tokenizer().save_pretrained(tmp_path / "full")
    opened = tiny.open_model(tmp_path / "full")
    assert not left_out(opened.parts.module)
    assert opened.info.parameters == sum(p.numel() for p in made.bert.parameters())
