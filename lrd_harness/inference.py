"""More of what a rank correlation needs: tau, Holm's correction, partial rho, bootstrap, regret.

None stands for a missing value or for a statistic that is not defined; NaN is treated as one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from lrd_harness.stats import (
    DRAWS,
    EXACT,
    LARGE,
    Cells,
    all_orders,
    comparable,
    complete,
    doubled_ranks,
    drawn_orders,
    paired,
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
    """Kendall's tau-b (`scipy.stats.kendalltau`), -1..1; None where Spearman's rho is."""
    a, b = paired(x, y)
    if not comparable(a, b):
        return None
    return float(scipy_stats.kendalltau(a, b, method="asymptotic").statistic)


def holm(ps: Cells) -> list[float | None]:
    """Holm's (1979) adjusted p-values of the tests that are there, at most 1; None stays None.

    The k-th smallest of m (k = 0, 1, ...) is multiplied by m - k, and never below the one before.
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
    """
    a, b, c = complete(x, y, control)
    if len(a) < 4:
        return None
    u, v, w = (doubled_ranks(side) for side in (a, b, c))
    own, free = _partial_parts(u[None], v, w)
    rest = _left(v, w)
    if not (free[0] > 0 and rest > 0):
        return None
    return float(np.clip(own[0] / math.sqrt(free[0]) / math.sqrt(rest), -1, 1))


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
    studentised. All orders for n <= 8, above that (count + 1) / (draws + 1); orders that leave the
    statistic undefined are not counted. Above 500 cases by Student's t with n - 3 degrees.
    rho: `partial_rho` of the same, where it is known already.
    """
    observed = partial_rho(x, y, control) if rho is None else rho
    if observed is None:
        return None
    sides = complete(x, y, control)
    n = len(sides[0])
    if n > LARGE:
        t = abs(observed) * math.sqrt((n - 3) / max(1 - observed**2, 1e-300))
        return float(2 * scipy_stats.t.sf(t, n - 3))
    u, v, w = (doubled_ranks(side) for side in sides)
    exact = n <= EXACT
    parts = (all_orders(n),) if exact else drawn_orders(n, draws, seed)
    least = observed**2 * _left(v, w) * (1 - _SAME)
    count = held = 0 if exact else 1
    for part in parts:
        own, free = _partial_parts(u[part], v, w)
        there = free > 0
        count += int(np.sum(own[there] ** 2 >= least * free[there]))
        held += int(np.sum(there))
    return count / held


def _partial_parts(u: np.ndarray, v: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of u (m, n) with v, given w: the partial covariance, and what is left of u.

    Whole numbers as float64 (m,); those that decide whether there is anything are computed exactly.
    """
    ww, vw = int(w @ w), int(v @ w)
    uv, uw = u @ v, u @ w
    uu = int(u[0] @ u[0])  # the rows are orders of the same ranks
    if len(v) <= LARGE:  # at most n^6 / 9 each: within int64
        return (uv * ww - uw * vw).astype(np.float64), (uu * ww - uw**2).astype(np.float64)
    rows = zip(uv.tolist(), uw.tolist(), strict=True)
    pairs = [(a * ww - b * vw, uu * ww - b**2) for a, b in rows]
    table = np.array(pairs, dtype=np.float64)
    return table[:, 0], table[:, 1]


def _left(v: np.ndarray, w: np.ndarray) -> int:
    """What is left of v once w is known: 0 where nothing is."""
    return int(v @ v) * int(w @ w) - int(v @ w) ** 2


@lru_cache(maxsize=4)
def resamples(n: int, draws: int = RESAMPLES, seed: int = 42) -> np.ndarray:
    """How often each of n is in each seeded resample of n with replacement: (draws, n) float64."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def resampled_rho(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's rho in each resample: (draws,), NaN where a side is constant in it.

    x, y: (n,); counts: (draws, n), how often each pair is there.
    """
    half = counts.sum(axis=1, keepdims=True) / 2
    u, v = (_resampled_ranks(side, counts) - half for side in (x, y))  # centred, exact
    product, first, second = (
        np.einsum("dn,dn->d", counts * a, b) for a, b in ((u, v), (u, u), (v, v))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.clip(product / np.sqrt(first * second), -1, 1)
    return np.where((first > 0) & (second > 0), found, np.nan)


def _resampled_ranks(side: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average ranks in each resample, less a half: what is below, and half of what is level."""
    _, first, level = np.unique(np.sort(side), return_index=True, return_inverse=True)
    order = np.argsort(side, kind="stable")
    own = np.add.reduceat(counts[:, order], first, axis=1)  # (draws, different values)
    places = np.empty_like(order)
    places[order] = level
    return np.asarray((np.cumsum(own, axis=1) - own / 2)[:, places])


def bootstrap_rho(
    x: Cells, y: Cells, draws: int = RESAMPLES, seed: int = 42, level: float = LEVEL
) -> Interval | None:
    """Percentile bootstrap interval of Spearman's rho, whole pairs resampled.

    Resamples in which a side is constant are dropped. None below 5 pairs, where rho is None, and
    above 500 pairs, where the resamples would not fit.
    """
    a, b = paired(x, y)
    if not comparable(a, b) or not LEAST <= len(a) <= LARGE:
        return None
    return interval(resampled_rho(a, b, resamples(len(a), draws, seed)), level)


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
    None where nothing is there.
    """
    x, y = paired(predicted, actual)
    return float(np.max(y) - np.mean(y[x == np.max(x)])) if len(x) else None
