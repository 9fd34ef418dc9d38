"""What metrics with one value a layer share: bounds, values that are none, pairs of views."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from lrd_harness.errors import DegenerateState, NotEnoughTexts, UnitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


def defined(name: str, layer: int, value: float) -> float:
    """The value; raises DegenerateState where it is NaN, since all states there are the same."""
    if isnan(value):
        raise DegenerateState(f"{name}: layer {layer} is the same for all texts")
    return value


def with_normalised(
    name: str, values: Sequence[float], bounds: Sequence[float]
) -> dict[str, list[float]]:
    """The score, kept at or below its bounds, and `normalised` = value / bound.

    `normalised` is left out where a bound is 0, as the logarithm of one dimension is.
    """
    kept = [min(value, bound) for value, bound in zip(values, bounds, strict=True)]
    if not all(bounds):
        return {name: kept}
    return {name: kept, "normalised": [v / b for v, b in zip(kept, bounds, strict=True)]}


def first_views(name: str, layer: int, state: torch.Tensor, least: int, most: int) -> torch.Tensor:
    """The first `most` views of (n, q, d), or all of fewer.

    Raises UnitError below `least` views, NotEnoughTexts for a single text, which has no others to
    be told from.
    """
    n, q, _ = state.shape
    if q < least:
        raise UnitError(f"{name} needs {least} views of a text, layer {layer} has {q}")
    if n < 2:
        raise NotEnoughTexts(f"{name} needs at least 2 texts, got {n}")
    return state[:, :most]
