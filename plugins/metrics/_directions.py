"""Rows as directions, and one text's token states in pieces that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lrd_harness.errors import NotEnoughTokens, UnitError, UserError

if TYPE_CHECKING:
    import torch


ROUNDING = 1e-12  # of the longest row: a difference of rows as short as this is rounding
PIECE = 2**22  # numbers in a piece of token states: 32 MiB
LAWS = frozenset({"rotation", "scaling", "permutation"})  # what leaves most metrics unchanged


def directions(rows: torch.Tensor, lengths: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Rows of (..., m, d) scaled to length 1; a row of zeros stays.

    lengths: of the rows that these are differences of; a difference as short as their rounding
    becomes a row of zeros.
    """
    norms = rows.norm(dim=-1, keepdim=True)
    unit: torch.Tensor = rows / norms.where(norms > ROUNDING * lengths, float("inf"))
    return unit


def centred(rows: torch.Tensor) -> torch.Tensor:
    """Rows of (n, d) scaled to length 1, less their mean."""
    unit = directions(rows)
    return unit - unit.mean(dim=0)


def nonzero(rows: torch.Tensor) -> torch.Tensor:
    """Which of the rows (..., m, d) are not all zeros, (..., m)."""
    norms: torch.Tensor = rows.norm(dim=-1)
    return norms > 0


def longest(rows: torch.Tensor) -> torch.Tensor:
    """The length of the longest row of each (m, d) in (..., m, d), as (..., 1, 1)."""
    norms: torch.Tensor = rows.norm(dim=-1, keepdim=True)
    return norms.amax(dim=-2, keepdim=True)


def centred_directions(rows: torch.Tensor) -> torch.Tensor:
    """Rows of (..., m, d) less their mean over m, scaled to length 1; those at the mean are 0."""
    return directions(rows - rows.mean(dim=-2, keepdim=True), longest(rows))


def one_minus_cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 - cosine (...) of directions a and b (..., d); 1 where one of them is a row of zeros.

    By the chord, which keeps the digits that 1 - cosine loses where the two are close.
    """
    squares = (a - b).square().sum(dim=-1)
    return (squares / 2).clamp(max=2).where(nonzero(a) & nonzero(b), 1.0)


def equal_widths(name: str, states: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The states one by one; raises UnitError where the width changes."""
    width = states[0].shape[-1]
    for layer, state in enumerate(states):
        if state.shape[-1] != width:
            raise UnitError(
                f"{name} compares states of one width: layer {layer} has {state.shape[-1]}, "
                f"layer {layer - 1} has {width}"
            )
        yield state


def pieces(
    name: str, states: Sequence[torch.Tensor], least: int, skip: int = 0
) -> Iterator[torch.Tensor]:
    """One text's states without its first `skip` tokens, as (s, T, d), some layers at a time.

    states: one tensor (S, T, d), or S tensors (T, d_l), which come one by one.
    Raises UserError for a negative skip, NotEnoughTokens where fewer than `least` tokens are left.
    """
    import torch

    if skip < 0:
        raise UserError(f"{name}: skip must not be negative, but is {skip}")
    tokens = states[0].shape[0] - skip
    if tokens < least:
        left = f", {max(0, tokens)} without the first {skip}" if skip else ""
        raise NotEnoughTokens(
            f"{name} needs at least {least} tokens, got {states[0].shape[0]}{left}"
        )
    if not isinstance(states, torch.Tensor):
        return (state[None, skip:] for state in states)
    kept = states[:, skip:]
    return iter(kept.split(max(1, PIECE // max(1, kept[0].numel()))))
