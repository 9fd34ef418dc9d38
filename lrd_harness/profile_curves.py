"""One profile over depth as a curve, and means of curves in which a model counts once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lrd_harness.profile_rows import DEPTHS

GRID = np.arange(DEPTHS) / (DEPTHS - 1)  # k / 100 as layer / L is rounded: equal depths are equal


@dataclass(frozen=True)
class Line:
    """A profile of one model on one task. values: by layer, at least two; first, last: its span."""

    values: Mapping[int, float]
    first: int
    last: int

    def depth(self, layer: int) -> float:
        """Where the layer lies in the span, 0..1."""
        return (layer - self.first) / (self.last - self.first)

    def curve(self) -> np.ndarray:
        """Its values at the 101 depths: (101,), NaN beyond the first and the last value."""
        layers = sorted(self.values)
        depths = [self.depth(layer) for layer in layers]
        held = [self.values[layer] for layer in layers]
        return np.asarray(np.interp(GRID, depths, held, left=np.nan, right=np.nan))

    def extremes(self) -> tuple[float, float]:
        """The depths of its greatest and of its least value, the lower layer of ties."""
        layers = sorted(self.values)
        most = max(layers, key=self.values.__getitem__)
        return self.depth(most), self.depth(min(layers, key=self.values.__getitem__))


def by_model(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Means over each model's rows: (models, k) of values (m, k), NaN where it has none.

    of: (m,), whose each row is, 0..models - 1, each there. A NaN is passed over.
    """
    there = ~np.isnan(values)
    sums = over_models(np.add, np.where(there, values, 0.0), of)
    return _quotient(sums, over_models(np.add, there.astype(np.int64), of))


def over_models(reduce: np.ufunc, values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Rows of a model put together: (models, k) of values (m, k); of: (m,), each model there."""
    order = np.argsort(of, kind="stable")
    first = np.searchsorted(of[order], np.arange(int(of.max()) + 1))
    return np.asarray(reduce.reduceat(values[order], first, axis=0))


def mean_and_spread(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over models, of curves (models, k): mean, standard deviation (n - 1), how many: (k,) each.

    NaN where no model, or for the deviation fewer than two, has a value.
    """
    there = ~np.isnan(curves)
    counts = there.sum(axis=0)
    mean = _quotient(np.where(there, curves, 0.0).sum(axis=0), counts)
    squares = np.where(there, curves - mean, 0.0) ** 2
    return mean, np.sqrt(_quotient(squares.sum(axis=0), counts - 1)), counts


def _quotient(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """NaN where there are none."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
