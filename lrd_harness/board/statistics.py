"""Rank statistics: correlations, their p-values and intervals, ranks, means over tasks, regret.

None stands for a missing value or for a statistic that is not defined; NaN is treated as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np
from scipy import stats

Cells = Sequence[float | None] | np.ndarray
Interval = tuple[float | None, float | None]  # by percentiles; of None where it is not drawn
EXACT = 8  # up to 8! = 40,320 orders are counted, above that they are drawn
LARGE = 500  # above so many, resamples of the models do not fit
DRAWS = 9_999
RESAMPLES = 2_000
LEVEL, ALPHA = 0.95, 0.05
LEAST = 5  # models, or tasks, that an interval is drawn of
WALKS = 1_000  # pairs of random walks drawn for a length
_CHUNK = 2_000_000  # numbers at once: bounds memory where there are many models or layers
_SAME = 1e-9  # relative: statistics that differ by less are level
_NOTHING = 1e-11  # of a spread of 1: distances below it hold more rounding than difference


def complete(*sides: Cells) -> list[np.ndarray]:
    """The cases of which every side is there: one float64 array (n,) per side.

    Raises ValueError if lengths differ.

    Examples
    --------
    >>> [side.tolist() for side in complete([1, None, 3], [4, 5, 6])]
    [[1.0, 3.0], [4.0, 6.0]]
    """
    arrays = [np.asarray(side, dtype=np.float64) for side in sides]  # None becomes NaN
    if len({len(side) for side in arrays}) > 1:
        raise ValueError(f"sides of different lengths: {', '.join(str(len(s)) for s in arrays)}")
    whole = ~np.any(np.isnan(arrays), axis=0)
    return [side[whole] for side in arrays]


def spearman(x: Cells, y: Cells) -> float | None:
    """Spearman's rho with average ranks for ties (`scipy.stats.spearmanr`), -1..1.

    None where fewer than 3 pairs are there, or all of one side are equal.

    Examples
    --------
    >>> spearman([1, 2, 3, None], [0.2, 0.4, 0.3, 0.9])
    0.5
    """
    a, b = complete(x, y)
    return float(stats.spearmanr(a, b).statistic) if _comparable(a, b) else None


def permutation_p(x: Cells, y: Cells, draws: int = DRAWS, seed: int = 42) -> float | None:
    """Two-sided p-value of Spearman's rho under random orders; None where rho is.

    The share with |rho| as large: of all n! orders for n <= 8, above that of the one observed and
    at least `draws` others, see `products`, so that P(p <= a) <= a under the null for any n and
    any ties. Ranks are doubled to whole numbers: ties are compared without rounding.

    Examples
    --------
    >>> permutation_p([1, 2, 3, 4], [1, 2, 3, 4])  # 2 of 24 orders
    0.08333333333333333
    """
    a, b = complete(x, y)
    if not _comparable(a, b):
        return None
    (drawn,) = products(doubled_ranks(a), doubled_ranks(b), draws=draws, seed=seed)
    return float(np.mean(np.abs(drawn) >= np.abs(drawn[0])))


def products(u: np.ndarray, *others: np.ndarray, draws: int, seed: int) -> list[np.ndarray]:
    """u in many orders, times each of the others as it is: (orders,) each, the first u as it is.

    u, others: whole numbers (n,). All n! orders for n <= 8. Above that seeded random ones, each in
    all of its n rotations, draws + 1 in all or the next multiple of n: the rotations of one are a
    Fourier transform, so that ten thousand models cost as little as twenty. If all orders of u are
    alike then so are the places in this list, any one's rank in it as likely as another's. A first
    order, of all sides alike, takes out how the models happen to be listed.
    """
    n = len(u)
    if n <= EXACT:
        return [u[all_orders(n)] @ other for other in others]
    orders = _drawn_orders(n, draws // n + 1, seed)
    turned = np.fft.rfft(u[orders])
    spectra = (np.conj(np.fft.rfft(other[orders[0]])) for other in others)
    return [np.rint(np.fft.irfft(turned * spectrum, n)).ravel() for spectrum in spectra]


def doubled_ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks of (n,), doubled and centred: whole numbers (n,), int64, of sum 0."""
    whole = np.rint(2 * stats.rankdata(values)).astype(np.int64)
    return np.asarray(whole - (len(values) + 1))


@lru_cache(maxsize=EXACT)
def all_orders(n: int) -> np.ndarray:
    """All orders of n things: places (n!, n). For n <= 8."""
    return np.array(list(permutations(range(n))))


@lru_cache(maxsize=128)
def _drawn_orders(n: int, count: int, seed: int) -> np.ndarray:
    """Seeded random orders of n things: places (count, n). Kept, as many tasks have the same n."""
    places = np.tile(np.arange(n, dtype=np.int32), (count, 1))
    return np.random.default_rng(seed).permuted(places, axis=1)


def mean_of_all(values: Cells) -> float | None:
    """Their mean; None where one is missing, or there is none.

    Examples
    --------
    >>> mean_of_all([0.25, 0.5]), mean_of_all([0.25, None])
    (0.375, None)
    """
    (known,) = complete(values)
    return math.fsum(known) / len(known) if len(known) == len(values) > 0 else None


def mean_stderr(errors: Cells) -> float | None:
    """The standard error of the mean of independent values, from the standard errors of each.

    None where one is missing, or there is none.

    Examples
    --------
    >>> mean_stderr([0.03, 0.04])
    0.025
    """
    (known,) = complete(errors)
    return math.hypot(*known) / len(known) if len(known) == len(errors) > 0 else None


def places(values: Cells, higher_is_better: bool = True) -> list[int | None]:
    """Places as in a contest: 1 = best, those that are level share the better place.

    Examples
    --------
    >>> places([0.3, None, 0.5, 0.3])
    [2, None, 1, 2]
    """
    signed = np.asarray(values, dtype=np.float64) * (-1 if higher_is_better else 1)
    ranks = stats.rankdata(signed, method="min", nan_policy="omit").tolist()
    return [None if math.isnan(rank) else int(rank) for rank in ranks]


def _comparable(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether a correlation is defined: 3 pairs at least, and neither side all equal."""
    return len(a) >= 3 and bool(np.any(a != a[0])) and bool(np.any(b != b[0]))


def kendall(x: Cells, y: Cells) -> float | None:
    """Kendall's tau-b (`scipy.stats.kendalltau`), -1..1; None where Spearman's rho is.

    Examples
    --------
    >>> round(kendall([1, 2, 3, 4], [1, 2, 4, 3]), 4)
    0.6667
    """
    a, b = complete(x, y)
    both = _comparable(a, b)
    return float(stats.kendalltau(a, b, method="asymptotic").statistic) if both else None


def gaps_in_order(x: Cells, y: Cells) -> float | None:
    """The share of the gaps in y that x has in order less that which it reverses, -1..1.

    The sum of |y_i - y_j| over all pairs, + where x agrees, - where it does not, 0 where it is
    level, by the sum of all: Kendall's tau with pairs counted by their gap, which is Gini's
    correlation (Schechtman & Yitzhaki 1987) and so had from ranks. None where Spearman's rho is.

    Examples
    --------
    >>> gaps_in_order([1, 2, 3], [1, 5, 4])  # of gaps 4, 3 and 1 the last is wrong
    0.75
    """
    a, b = complete(x, y)
    if not _comparable(a, b):
        return None
    b = (b - b.min()) / np.ptp(b)
    return float(b @ doubled_ranks(a) / (b @ doubled_ranks(b)))


def pearson(x: Cells, y: Cells) -> float | None:
    """Pearson's r of the values themselves, -1..1; None where Spearman's rho is.

    Examples
    --------
    >>> pearson([1, 2, 3], [1.0, 3.0, 2.0])
    0.5
    """
    a, b = complete(x, y)
    if not _comparable(a, b):
        return None
    a, b = ((side - side.min()) / np.ptp(side) for side in (a, b))  # no under- or overflow
    return float(np.clip(np.corrcoef(a, b)[0, 1], -1, 1))


def holm(ps: Cells) -> list[float | None]:
    """Holm's (1979) adjusted p-values of the tests that are there, at most 1; None stays None.

    The k-th smallest of m (k = 0, 1, ...) is multiplied by m - k, and never below the one before.

    Examples
    --------
    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    there = sorted((p, i) for i, p in enumerate(ps) if p is not None and not math.isnan(p))
    adjusted: list[float | None] = [None] * len(ps)
    least = 0.0
    for k, (p, i) in enumerate(there):
        least = max(least, min(1.0, (len(there) - k) * p))
        adjusted[i] = least
    return adjusted


@lru_cache(maxsize=4)
def resamples(n: int, draws: int = RESAMPLES, seed: int = 42) -> np.ndarray:
    """How often each of n is in each seeded resample of n with replacement: (draws, n) float64.

    Examples
    --------
    >>> resamples(4, draws=3).sum(axis=1).tolist()
    [4.0, 4.0, 4.0]
    """
    chosen = np.random.default_rng(seed).integers(0, n, (draws, n))
    chosen += n * np.arange(draws)[:, None]
    counts = np.bincount(chosen.ravel(), minlength=draws * n)
    return counts.reshape(draws, n).astype(np.float64)


class Resampled:
    """One side of pairs in each resample, for other sides to be held against.

    y: (n,); counts: (draws, n), how often each pair is in each resample.

    Examples
    --------
    >>> twice = np.array([[1, 1, 1, 1], [0, 1, 2, 1]])
    >>> Resampled(np.array([1.0, 2, 3, 4]), twice).rho(np.array([1.0, 2, 4, 3])).round(4).tolist()
    [0.8, 0.3333]
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
            rho = np.clip(product / np.sqrt(square * self.square), -1, 1)
        return np.where((square > 0) & (self.square > 0) & self.enough, rho, np.nan)

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


def interval(drawn: np.ndarray | None, level: float = LEVEL) -> Interval:
    """The middle `level` of what was drawn; none of None, or where most of it is not defined.

    Examples
    --------
    >>> interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    if drawn is None or np.isnan(drawn).mean() > 0.5:
        return None, None
    low, high = np.nanpercentile(drawn, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def span(low: float | None, high: float | None, form: str = "+z.2f") -> str | None:
    """An interval for people, None where there is none.

    Examples
    --------
    >>> span(0.123, 0.456)
    '+0.12 to +0.46'
    """
    return None if low is None or high is None else f"{low:{form}} to {high:{form}}"


def median(values: Cells) -> float | None:
    """The median of what is there; None where nothing is.

    Examples
    --------
    >>> median([3.0, None, 1.0])
    2.0
    """
    (there,) = complete(values)
    return float(np.median(there)) if len(there) else None


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


def spearman_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rho of each row of x (m, n) with the same row of y: (m,), as `spearman` has it.

    Of the pairs of a row that are there. NaN for a row that is constant on one side. For many short
    rows at once.

    Examples
    --------
    >>> x = np.array([[1.0, 2.0, 3.0, np.nan], [1.0, 1.0, 1.0, 1.0]])
    >>> spearman_rows(x, x[::-1] + [0.0, 2.0, 1.0, 9.0]).tolist()
    [0.5, nan]
    """
    there = ~(np.isnan(x) | np.isnan(y))
    middle = (there.sum(axis=1, keepdims=True) + 1) / 2
    a, b = (
        np.where(there, stats.rankdata(np.where(there, side, np.inf), axis=1) - middle, 0)
        for side in (x, y)
    )
    lengths = np.sqrt(np.sum(a * a, axis=1) * np.sum(b * b, axis=1))
    with np.errstate(invalid="ignore"):  # 0 / 0 of a constant row
        return np.asarray(np.clip(np.sum(a * b, axis=1) / lengths, -1, 1))


def distance_correlation_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bias-corrected distance correlation of each row of x (m, n) with the same row of y: (m,).

    That of Székely & Rizzo (2013, The distance correlation t-test of independence in high
    dimension; 2014, Partial distance correlation): of squares, by U-centred distances; 0 is
    expected of independent samples, so it may be negative; at most 1. NaN where one side's distance
    variance is 0 (it is constant, or constant but for one value, or for one on either side).
    ValueError for n < 4.

    Examples
    --------
    >>> x = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    >>> distance_correlation_rows(x, x**2).round(4).tolist()
    [0.9931]
    """
    m, n = x.shape
    if n < 4:
        raise ValueError(f"a distance correlation needs 4 values, got {n}")
    step = max(1, _CHUNK // n**2)
    parts = [np.empty(0)]
    for i in range(0, m, step):
        u, v = (_u_centred(side[i : i + step]) for side in (x, y))  # (step, n * n) each
        product, first, second = (np.einsum("mi,mi->m", *s) for s in ((u, v), (u, u), (v, v)))
        with np.errstate(invalid="ignore"):  # 0 / 0 where a side has no distance variance
            parts.append(np.minimum(product / np.sqrt(first * second), 1))
    return np.concatenate(parts)


def _u_centred(x: np.ndarray) -> np.ndarray:
    """U-centred distances within each row of x (m, n): (m, n * n); 0 where they are rounding."""
    m, n = x.shape
    spread = np.ptp(x, axis=1, keepdims=True)
    x = (x - x.min(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)  # no under-, overflow
    distances = np.abs(x[:, :, None] - x[:, None, :])  # (m, n, n)
    sums = distances.sum(axis=1) / (n - 2)  # (m, n)
    total = sums.sum(axis=1) / (n - 1)
    centred = distances - sums[:, :, None] - sums[:, None, :] + total[:, None, None]
    centred[:, range(n), range(n)] = 0
    centred[np.max(np.abs(centred), axis=(1, 2)) < _NOTHING * n] = 0
    return np.asarray(centred.reshape(m, n * n))


class WalkLevel(NamedTuple):
    """What two independent random walks have in common: means over the pairs drawn.

    spearman: of rho, about 0; absolute: of |rho|; positive: the share of pairs with rho above 0;
    distance: of the bias-corrected distance correlation.
    """

    spearman: float
    absolute: float
    positive: float
    distance: float


@lru_cache(maxsize=256)
def random_walk_level(n: int, pairs: int = WALKS, seed: int = 42) -> WalkLevel:
    """The level of chance for curves over n layers, n >= 4: neighbouring layers go together.

    A walk is the running sum of n independent standard normal steps.

    Examples
    --------
    >>> round(random_walk_level(12).absolute, 1)  # of values in no order it is about 0.2
    0.4
    """
    steps = np.random.default_rng(seed).standard_normal((2, pairs, n))
    x, y = np.cumsum(steps, axis=2)
    rho, distance = spearman_rows(x, y), distance_correlation_rows(x, y)
    sides = (rho, np.abs(rho), rho > 0, distance)
    return WalkLevel(*(float(np.mean(side)) for side in sides))
