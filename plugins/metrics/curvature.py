"""Curvature: how sharply a text's path turns from token to token, layer by layer."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.hookspecs import hookimpl

from ._directions import directions, longest, pieces, point

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="curvature",
            measure=curvature,
            needs="tokens",
            layer_choice=Choice("curvature", "min"),
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def curvature(states: Sequence[torch.Tensor], skip: int = 0) -> dict[str, list[float]]:
    """Mean angle between neighbouring steps (Layer by Layer, arXiv 2502.02013).

    states: one text's, (S, T, d) or S tensors (T, d_l). skip: leading tokens left out.

    Returns `curvature` (S values, radians, 0..pi): the mean over the text of the angle between the
    step from one token to the next and the step after it; pairs with a step of length 0 are left
    out, NaN where no pair is left; `normalised`: that / pi.
    Raises NotEnoughTokens below 3 tokens, UserError for a negative skip.
    """
    found: list[float] = []
    for piece in pieces("curvature", states, 3, skip):
        found += mean_turn(piece).tolist()
    return {"curvature": found, "normalised": [value / pi for value in found]}


def mean_turn(states: torch.Tensor) -> torch.Tensor:
    """The mean angle (s,) between neighbouring steps of the tokens in states (s, T, d)."""
    import torch

    steps = directions(states.diff(dim=-2), longest(states))
    chords = torch.linalg.vector_norm(steps.diff(dim=-2), dim=-1)
    moves = point(steps)
    both = moves[..., 1:] & moves[..., :-1]
    # By the chord, since an arccos near 1 is off by the root of its rounding.
    angles = 2 * (chords / 2).clamp(max=1).arcsin()
    turns: torch.Tensor = angles.where(both, 0.0).sum(dim=-1) / both.sum(dim=-1)
    return turns
