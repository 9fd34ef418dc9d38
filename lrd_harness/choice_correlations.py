"""Whether a metric follows the score over a model's layers, or just changes with depth.

Curves over layers are smooth: neighbouring layers are alike, so that any two of them correlate.
A metric's correlation says something where it exceeds that of the layer's number and that of two
independent random walks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

import numpy as np

from lrd_harness import stats
from lrd_harness.choice_controls import Cell

LEAST = 4  # layers of a cell: a distance correlation needs as many

Pairs = tuple[Sequence[float], Sequence[float]]  # one cell: values and scores of the same layers


@dataclass(frozen=True)
class LayerCorrelation:
    """How a metric and the score go together over layers, in the mean over n cells.

    name: the metric or the baseline; score: the metric's profile, None of a baseline.
    spearman: mean rho; absolute: mean |rho|; positive: the share of cells with rho above 0;
    distance: mean bias-corrected distance correlation over the cells that have one. None where
    there is no cell of at least 4 layers in which both sides vary.
    """

    name: str
    kind: Literal["metric", "baseline"]
    score: str | None = None
    spearman: float | None = None
    absolute: float | None = None
    positive: float | None = None
    distance: float | None = None
    n: int = 0


def of_metric(name: str, score: str, cells: Sequence[Pairs]) -> LayerCorrelation:
    """A metric's row, from its values and the scores at the layers that have both."""
    return _row(name, "metric", score, cells)


def baselines(cells: Sequence[Cell]) -> tuple[LayerCorrelation, LayerCorrelation]:
    """The layer's number instead of a metric, and random walks of the same lengths."""
    curves = [sorted(cell.scores.items()) for cell in cells]
    pairs = [([float(layer) for layer, _ in c], [score for _, score in c]) for c in curves]
    return _row("depth alone", "baseline", None, pairs), _walks(pairs)


def _walks(cells: Sequence[Pairs]) -> LayerCorrelation:
    """Two walks in place of each cell with a score that varies, cells of a length alike."""
    lengths = [len(y) for _, y in cells if len(y) >= LEAST and min(y) < max(y)]
    if not lengths:
        return LayerCorrelation("random walks", "baseline")
    levels = [stats.random_walk_level(length) for length in lengths]
    over = stats.WalkLevel(*(fsum(column) / len(levels) for column in zip(*levels, strict=True)))
    return LayerCorrelation("random walks", "baseline", n=len(levels), **over._asdict())


def _row(
    name: str, kind: Literal["metric", "baseline"], score: str | None, cells: Sequence[Pairs]
) -> LayerCorrelation:
    """The means; cells of one length are reckoned at once."""
    by_length: dict[int, list[Pairs]] = {}
    for pair in cells:
        if len(pair[0]) >= LEAST:
            by_length.setdefault(len(pair[0]), []).append(pair)
    found = [np.empty((2, 0))]
    for same in by_length.values():
        x, y = (np.array([pair[side] for pair in same], dtype=np.float64) for side in (0, 1))
        found.append(np.array([stats.spearman_rows(x, y), stats.distance_correlation_rows(x, y)]))
    rho, distance = np.concatenate(found, axis=1)
    rho, distance = rho[~np.isnan(rho)], distance[~np.isnan(distance)]
    return LayerCorrelation(
        name,
        kind,
        score,
        spearman=_mean(rho),
        absolute=_mean(np.abs(rho)),
        positive=_mean(rho > 0),
        distance=_mean(distance),
        n=len(rho),
    )


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
