"""Poolings against plain loops and against sentence-transformers' own.

A pooler that the checkpoint has no weights for is neither counted nor saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.readout import POOLINGS, left_out, named


def batch(lengths: list[int], side: str, seed: int = 0, spare: int = 0) -> tuple[Tensor, Tensor]:
    """Token states (b, T, 5) of texts of these lengths, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths) + spare
    state = torch.randn(len(lengths), longest, 5, generator=generator)
    mask = torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, longest - length :] = 1 if side == "left" else 0
        mask[row, :length] = 1 if side == "right" else mask[row, :length]
    assert mask.sum(1).tolist() == lengths
    return state, mask


def by_loop(name: str, state: Tensor, mask: Tensor) -> np.ndarray:
    rows = []
    for text, keep in zip(state.double().numpy(), mask.numpy(), strict=True):
        tokens = [token for token, there in zip(text, keep, strict=True) if there]
        chosen = {
            "mean": tokens,
            "cls": tokens[:1],
            "last": tokens[-1:],
            "mean-no-sink": tokens[1:] or tokens,
        }[name]
        rows.append(sum(chosen) / len(chosen))
    return np.array(rows)


texts = st.lists(st.integers(1, 6), min_size=1, max_size=5)
sides = st.sampled_from(["left", "right"])


@settings(max_examples=60, deadline=None)
@given(texts, sides, st.sampled_from(sorted(POOLINGS)), st.integers(0, 3))
def test_equal_to_a_loop_on_either_side(
    lengths: list[int], side: str, name: str, spare: int
) -> None:
    state, mask = batch(lengths, side, spare=spare)
    found = named(name)(state, mask)
    np.testing.assert_allclose(found.numpy(), by_loop(name, state, mask), atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_stands_in_the_padding_does_not_matter(name: str, side: str) -> None:
    state, mask = batch([1, 4, 2, 6], side)
    expected = named(name)(state, mask)
    for filler in (float("nan"), float("inf"), 1e30):
        filled = state.masked_fill(mask.unsqueeze(-1) == 0, filler)
        assert torch.equal(named(name)(filled, mask), expected)
        assert filled.isnan().any() == (filler != filler)  # the states themselves stay as they are


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", POOLINGS)
def test_half_precision_is_averaged_in_float32(name: str, dtype: torch.dtype) -> None:
    state, mask = batch([200, 3, 77], "right")
    state = (state + 100).to(dtype)
    found = named(name)(state, mask).float()
    np.testing.assert_allclose(found.numpy(), by_loop(name, state, mask), rtol=1e-6)


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"unknown pooling 'men'. Did you mean mean"):
        named("men")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_half_precision_is_pooled_in_float32(pooling: str, dtype: str, tmp_path: Path) -> None:
    """A sentence-transformers model's pooled states are those of its token states, one by one."""
    folder = tiny.save_st(tmp_path / "m", pooling=pooling, normalize=False, family="GPT2")
    opened = tiny.open_model(folder, dtype=dtype)
    assert opened.identity["adapter"] == "sentence-transformers"
    assert opened.has_final_norm
    normed = torch.inference_mode()(opened.normed)
    for text in tiny.sentences(3, least=8):
        batch = opened.tokenize([Text(text)])
        tokens: list[Tensor] = []
        opened.watch(batch, lambda layer, state, tokens=tokens: tokens.append(state[0].clone()))
        found = opened.states(batch)
        for layer, state in enumerate(tokens):
            assert state.dtype == getattr(torch, dtype)
            for kind, own in (("raw", state), ("final", normed(state))):
                expected = own.float().mean(0) if pooling == "mean" else own[-1].float()
                torch.testing.assert_close(found[kind, layer][0], expected, rtol=1e-5, atol=1e-6)


POOLER = 32 * 32 + 32


def in_files(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def strip(folder: Path) -> None:
    """Take the pooler's weights out of the checkpoint."""
    kept = {name: value for name, value in in_files(folder).items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("of_modules", [False, True])
@pytest.mark.parametrize("family", ["Bert", "MPNet"])
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
