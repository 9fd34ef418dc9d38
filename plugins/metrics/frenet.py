"""Frenet: the path that a model's dominant subspace takes through its layers."""

from __future__ import annotations

from math import pi, sqrt
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DegenerateState, UnitError
from lrd_harness.hookspecs import hookimpl

from ._subspace import Space, check_subspace, grassmann, leading_basis, least_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


STILL = 1e-12  # a step as short as this, on average, is rounding


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="frenet",
            measure=frenet,
            selection=Choice("d0L", "max"),
            unit="radians",
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def frenet(
    states: Sequence[torch.Tensor],
    variance: float = 0.95,
    rank: int | None = None,
    space: Space = "feature",
) -> dict[str, float | list[float]]:
    """Speed and curvature of the path of top-r subspaces (LRD, arXiv 2605.12714).

    states: S tensors (n, d_l). Rows are scaled to unit length and centred. variance: share of the
    last state's squared singular values that r must hold (r >= 2); rank: a fixed r instead. space:
    right singular vectors ("feature", equal widths), or left ones ("sample", any widths).

    Returns, in radians of Grassmann distance: `speed` (a value a step), `curvature` (Menger's, a
    value an inner state), `d0L` between first and last state, the selection score, `arc_length`,
    `straightness` = d0L / arc_length (absent where steps are rounding), `d0L_normalised` =
    d0L / (sqrt(r)·pi/2), `rank` r, and `start`: how many leading states were left out since their
    rank is below r.
    Raises UnitError for an r that n or d cannot hold and for unequal widths, DegenerateState for a
    rank below r further up, UserError for parameters out of range.
    """
    check_subspace("frenet", variance, rank, space)
    last = states[-1]
    n, d = last.shape
    r = least_rank(last, variance) if rank is None else rank
    if r > min(n - 1, d):
        raise UnitError(f"frenet: {n} texts of width {d} hold no subspace of rank {r}")
    speed, curvature, d0L, start = _path(states, r, space)
    arc_length = sum(speed)
    return {
        "speed": speed,
        "curvature": curvature,
        "d0L": d0L,
        "arc_length": arc_length,
        **({"straightness": d0L / arc_length} if arc_length > STILL * len(speed) else {}),
        "d0L_normalised": d0L / (sqrt(r) * pi / 2),
        "rank": r,
        "start": start,
    }


def _path(
    states: Sequence[torch.Tensor], r: int, space: Space
) -> tuple[list[float], list[float], float, int]:
    """Speeds, curvatures, distance from first to last, and how many states were left out.

    Holds three bases at a time, however many layers there are.
    """
    speed: list[float] = []
    curvature: list[float] = []
    first = before = previous = None
    for layer in range(len(states)):
        basis = leading_basis(states[layer], r, space)
        if basis is None and (previous is not None or layer == len(states) - 1):
            raise DegenerateState(f"frenet: layer {layer} has numerical rank below r = {r}")
        if basis is None:
            continue
        if previous is not None:
            speed.append(grassmann(previous, basis))
        if before is not None:
            curvature.append(menger(speed[-2], speed[-1], grassmann(before, basis)))
        first = basis if first is None else first
        before, previous = previous, basis
    if first is None or previous is None or not speed:
        raise DegenerateState(f"frenet: no layer but the last has numerical rank r = {r}")
    return speed, curvature, grassmann(first, previous), len(states) - len(speed) - 1


def menger(a: float, b: float, c: float) -> float:
    """Menger curvature of three points from their distances; 0 for a degenerate triple."""
    p = (a + b + c) / 2
    radicand = p * (p - a) * (p - b) * (p - c)
    if a * b * c < 1e-15 or radicand <= 0:
        return 0.0
    return 4 * sqrt(radicand) / (a * b * c)
