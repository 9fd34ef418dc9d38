"""Curvature: how sharply a text's path turns from token to token, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.hookspecs import hookimpl

from ._directions import LAWS, directions, longest, nonzero, pieces

if TYPE_CHECKING:
    import torch


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    choice = Choice("curvature", "min")
    return [Metric("curvature", curvature, "tokens", None, choice, invariances=LAWS, of="states")]


def curvature(states: Sequence[torch.Tensor], skip: int = 0) -> dict[str, list[float]]:
    """Mean angle between neighbouring steps of a text's path from token to token.

    Source: Layer by Layer, arXiv 2502.02013.

    Parameters
    ----------
    states : tensor (S, T, d), or S tensors (T, d_l)
        The token states of one text.
    skip : int, default 0
        Leading tokens left out.

    Returns
    -------
    dict
        ``curvature``, S values in radians, 0..pi: mean angle between the step from one token to the
        next and the step after it, without pairs with a step of length 0 (NaN if none is left);
        ``normalised``, that / pi.

    Raises
    ------
    NotEnoughTokens
        Below 3 tokens.

    Examples
    --------
    A path that turns by a right angle at each token:

    >>> import torch
    >>> square = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    >>> round(curvature(square)["normalised"][0], 3)
    0.5
    """
    turns: list[float] = []
    for piece in pieces("curvature", states, 3, skip):
        turns += mean_turn(piece).tolist()
    return {"curvature": turns, "normalised": [turn / pi for turn in turns]}


def mean_turn(states: torch.Tensor) -> torch.Tensor:
    """The mean angle (s,) between neighbouring steps of the tokens in states (s, T, d)."""
    import torch

    steps = directions(states.diff(dim=-2), longest(states))
    chords = torch.linalg.vector_norm(steps.diff(dim=-2), dim=-1)
    moves = nonzero(steps)
    both = moves[..., 1:] & moves[..., :-1]
    # By the chord, since an arccos near 1 is off by the root of its rounding.
    angles = 2 * (chords / 2).clamp(max=1).arcsin()
    turns: torch.Tensor = angles.where(both, 0.0).sum(dim=-1) / both.sum(dim=-1)
    return turns
