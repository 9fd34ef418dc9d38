"""Cosine: how far the pooled texts keep their direction from layer to layer."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from lrd_harness.contracts import Metric
from lrd_harness.hookspecs import hookimpl

from ._directions import directions, equal_widths, one_minus_cosine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="cosine",
            measure=cosine,
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def cosine(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """Mean cosine of a text's state and its next one, as rules of pruning use it.

    states: S tensors (n, d) of one width.

    Returns `cosine` (S - 1 values, -1..1): the mean over the texts; a state of zeros is at right
    angles to all.
    Raises UnitError for widths that differ.
    """
    units = (directions(state) for state in equal_widths("cosine", states))
    return {"cosine": [1 - float(one_minus_cosine(a, b).mean()) for a, b in pairwise(units)]}
