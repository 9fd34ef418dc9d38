"""Poolings against plain loops and against sentence-transformers' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.pooling import POOLINGS, named

OWN = {"mean": "mean", "cls": "cls", "last": "lasttoken"}  # ours -> sentence-transformers'


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


@settings(max_examples=40, deadline=None)
@given(texts, sides, st.sampled_from(sorted(OWN)))
def test_equal_to_sentence_transformers(lengths: list[int], side: str, name: str) -> None:
    state, mask = batch(lengths, side)
    theirs = Pooling(5, pooling_mode=OWN[name])({"token_embeddings": state, "attention_mask": mask})
    torch.testing.assert_close(
        named(name)(state, mask), theirs["sentence_embedding"], atol=1e-6, rtol=1e-6
    )


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


def test_a_text_of_one_token_keeps_it_without_the_sink() -> None:
    state, mask = batch([1, 3], "right")
    found = named("mean-no-sink")(state, mask)
    torch.testing.assert_close(found[0], state[0, 0])
    torch.testing.assert_close(found[1], state[1, 1:3].mean(0))


def test_a_boolean_mask_does_as_well() -> None:
    state, mask = batch([2, 5], "left")
    for name in POOLINGS:
        assert torch.equal(named(name)(state, mask.bool()), named(name)(state, mask))


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
