"""What a rank correlation needs beside it: tau, Holm's correction, control, intervals, regret.

None stands for a missing value or for a statistic that is not defined; NaN is treated as one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from lrd_harness.board.statistics import (
    DRAWS,
    Cells,
    comparable,
    complete,
    doubled_ranks,
    products,
)

RESAMPLES = 2_000
LEVEL = 0.95
LEAST = 5  # models, or tasks, that an interval is drawn of
_SAME = 1e-9  # relative: statistics that differ by less are level


class Interval(NamedTuple):
    """A percentile bootstrap interval."""

    low: float
    high: float


def kendall(x: Cells, y: Cells) -> float | None:
    """Kendall's tau-b (`scipy.stats.kendalltau`), -1..1; None where Spearman's rho is.

    Examples
    --------
    >>> round(kendall([1, 2, 3, 4], [1, 2, 4, 3]), 4)
    0.6667
    """
    a, b = complete(x, y)
    if not comparable(a, b):
        return None
    return float(scipy_stats.kendalltau(a, b, method="asymptotic").statistic)


def holm(ps: Cells) -> list[float | None]:
    """Holm's (1979) adjusted p-values of the tests that are there, at most 1; None stays None.

    The k-th smallest of m (k = 0, 1, ...) is multiplied by m - k, and never below the one before.

    Examples
    --------
    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    held = sorted((p, i) for i, p in enumerate(ps) if p is not None and not math.isnan(p))
    found: list[float | None] = [None] * len(ps)
    least = 0.0
    for k, (p, i) in enumerate(held):
        least = max(least, min(1.0, (len(held) - k) * p))
        found[i] = least
    return found


def partial_rho(x: Cells, y: Cells, control: Cells) -> float | None:
    """Partial rank correlation: Pearson's partial correlation of average ranks, -1..1.

    Ranks are taken among the cases of which all three are there. None for fewer than 4, and where
    a side is constant or goes with the control without exception, so that nothing of it is left.

    Examples
    --------
    >>> round(partial_rho([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], [1, 3, 2, 5, 4]), 4)
    0.9784
    """
    a, b, c = complete(x, y, control)
    if len(a) < 4:
        return None
    u, v, w = (doubled_ranks(side) for side in (a, b, c))
    own = int(u @ v) * int(w @ w) - int(u @ w) * int(v @ w)  # exact, however many
    free, rest = _left(u, w), _left(v, w)
    if not (free > 0 and rest > 0):
        return None
    return float(np.clip(own / math.sqrt(free) / math.sqrt(rest), -1, 1))


def partial_p(
    x: Cells,
    y: Cells,
    control: Cells,
    draws: int = DRAWS,
    seed: int = 42,
    rho: float | None = None,
) -> float | None:
    """Two-sided p-value of `partial_rho` by permuting x; None where that is.

    The null: x says nothing of y, nor of the control. Under it P(p <= a) <= a for any n and any
    ties; where x goes with the control it is an approximation, a good one as the statistic is
    studentised. The orders are those of `stats.permutation_p`; those that leave the statistic
    undefined are not counted. rho: `partial_rho` of the same, where it is known already.
    """
    observed = partial_rho(x, y, control) if rho is None else rho
    if observed is None:
        return None
    u, v, w = (doubled_ranks(side) for side in complete(x, y, control))
    uv, uw = products(u, v, w, draws=draws, seed=seed)
    ww = float(w @ w)
    own = uv * ww - uw * float(v @ w)  # up to 650 cases exact: n^6 / 9 is below 2^53
    free = float(u @ u) * ww - uw.astype(np.float64) ** 2
    there = free > 0
    least = observed**2 * _left(v, w) * (1 - _SAME)
    return float(np.mean(own[there] ** 2 >= least * free[there]))


def _left(v: np.ndarray, w: np.ndarray) -> int:
    """What is left of v once w is known: 0 where nothing is."""
    return int(v @ v) * int(w @ w) - int(v @ w) ** 2


@lru_cache(maxsize=4)
def resamples(n: int, draws: int = RESAMPLES, seed: int = 42) -> np.ndarray:
    """How often each of n is in each seeded resample of n with replacement: (draws, n) float64."""
    chosen = np.random.default_rng(seed).integers(0, n, (draws, n))
    chosen += n * np.arange(draws)[:, None]
    counts = np.bincount(chosen.ravel(), minlength=draws * n)
    return counts.reshape(draws, n).astype(np.float64)


class Resampled:
    """One side of pairs in each resample, for other sides to be held against.

    y: (n,); counts: (draws, n), how often each pair is in each resample.
    """

    def __init__(self, y: np.ndarray, counts: np.ndarray) -> None:
        self.counts = np.ascontiguousarray(counts.T)  # (n, draws): what is done is done in rows
        self.half = self.counts.sum(axis=0) / 2
        ranks = self._centred(y)
        self.weighted = self.counts * ranks
        self.square = np.einsum("nd,nd->d", self.weighted, ranks)
        self.enough = np.count_nonzero(self.counts, axis=0) >= 3

    def rho(self, x: np.ndarray) -> np.ndarray:
        """Spearman's rho of x (n,) with y in each resample: (draws,).

        NaN where a side is constant in it, and where it has fewer than 3 different pairs.
        """
        ranks = self._centred(x)
        product = np.einsum("nd,nd->d", self.weighted, ranks)
        square = np.einsum("nd,nd->d", self.counts * ranks, ranks)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.clip(product / np.sqrt(square * self.square), -1, 1)
        return np.where((square > 0) & (self.square > 0) & self.enough, found, np.nan)

    def _centred(self, side: np.ndarray) -> np.ndarray:
        """Average ranks in each resample, centred: what is below, and half of what is level."""
        order = np.argsort(side, kind="stable")
        below = np.zeros((len(side) + 1, self.counts.shape[1]))  # of how many before each place
        np.cumsum(self.counts[order], axis=0, out=below[1:])
        placed = side[order]
        ranks = below[np.searchsorted(placed, side, "left")]
        ranks += below[np.searchsorted(placed, side, "right")]
        ranks /= 2
        ranks -= self.half
        return np.asarray(ranks)


def bootstrap_median(
    values: Cells, draws: int = RESAMPLES, seed: int = 42, level: float = LEVEL
) -> Interval | None:
    """Percentile bootstrap interval of the median of what is there; None below 5 values."""
    (held,) = complete(values)
    if len(held) < LEAST:
        return None
    chosen = np.random.default_rng(seed).integers(0, len(held), (draws, len(held)))
    return interval(np.median(held[chosen], axis=1), level)


def interval(drawn: np.ndarray, level: float = LEVEL) -> Interval | None:
    """The middle `level` of what was drawn; None where less than half of it is defined."""
    held = drawn[~np.isnan(drawn)]
    if len(held) == 0 or 2 * len(held) < len(drawn):
        return None
    low, high = np.percentile(held, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high))


def median(values: Cells) -> float | None:
    """The median of what is there; None where nothing is."""
    (held,) = complete(values)
    return float(np.median(held)) if len(held) else None


def regret(predicted: Cells, actual: Cells) -> float | None:
    """The best actual value less that of the one predicted highest; 0 = nothing lost.

    Among those level at the top the expected one, so that a constant prediction is a random choice.
    None where nothing is there. A prediction of -inf is chosen where there is no other.

    Examples
    --------
    >>> regret([3, 1, 2], [0.5, 0.75, 0.25])
    0.25
    """
    x, y = complete(predicted, actual)
    return float(np.max(y) - np.mean(y[x == np.max(x)])) if len(x) else None
