"""Ridge regression judged on groups it has not seen, for many targets at once.

The same as scikit-learn's Pipeline(StandardScaler, Ridge) under LeaveOneGroupOut, its alpha chosen
by grouped cross-validation inside the training groups. Written out, as a permutation test repeats
all of it for a thousand targets: every fit is made of sums over groups, and all targets share its
decomposition.

More of what a rank correlation needs: tau, Holm's correction, partial rho, bootstrap, regret.

None stands for a missing value or for a statistic that is not defined; NaN is treated as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from lrd_harness.board.statistics import (
    DRAWS,
    LARGE,
    Cells,
    comparable,
    complete,
    doubled_ranks,
    paired,
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

    y: (n,); counts: (draws, n), how often each pair is there.
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


def resampled_rho(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's rho in each resample: (draws,), NaN where it is not defined, see `Resampled`.

    x, y: (n,); counts: (draws, n), how often each pair is there.
    """
    return Resampled(y, counts).rho(x)


def bootstrap_rho(
    x: Cells, y: Cells, draws: int = RESAMPLES, seed: int = 42, level: float = LEVEL
) -> Interval | None:
    """Percentile bootstrap interval of Spearman's rho, whole pairs resampled.

    Resamples in which a side is constant, or with fewer than 3 different pairs, are dropped. None
    below 5 pairs, where rho is None, and above 500 pairs, where the resamples would not fit.
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
    None where nothing is there. A prediction of -inf is chosen where there is no other.
    """
    x, y = paired(predicted, actual)
    return float(np.max(y) - np.mean(y[x == np.max(x)])) if len(x) else None


# Of standardised features, so alpha is of the size of n: from nearly all shrinkage to hardly any
ALPHAS = np.logspace(3, -1, 9)  # the strongest first: of several that are as good, it is taken
INNER = 10  # inner folds at most; up to so many groups, each is one
_FLAT = 1e-13  # of the variance over all groups: a feature that varies less is constant


class _Sums(NamedTuple):
    """Sums over rows: their number, of x (p,), of y (k,), of x xᵀ (p, p), of x yᵀ (p, k)."""

    n: float
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray


class _Fit(NamedTuple):
    """What ridges of every alpha share. z = (x - centre) * scale, (p,); mean: of y, (k,).

    vectors (p, p), values (p,): eigenvectors and eigenvalues of zᵀz; own: zᵀy turned by the
    eigenvectors, (p, k), so that the coefficients of z are vectors @ (own / (values + alpha)).
    """

    centre: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    own: np.ndarray


def held_out(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions for each group by a ridge that was fitted without it.

    x: features (n, p), finite; y: targets (n, k); groups: (n,) whole numbers 0..g-1, g >= 3.
    Means, standard deviations, coefficients and alpha come from the other groups alone. alpha: of
    ALPHAS, that with the least squared error over grouped folds of these (of several the largest).
    Returns predictions (n, k), the means of the other groups (n, k), and alphas (g, k).
    """
    level, flat = y.mean(axis=0), np.ptp(x, axis=0) == 0
    x = np.where(flat, 0, (x - x.mean(axis=0)) / np.where(flat, 1, x.std(axis=0)))  # for rounding
    y = y - level
    parts = [_sums(x[groups == group], y[groups == group]) for group in range(groups.max() + 1)]
    whole = _add(parts)
    predicted, means = np.empty_like(y), np.empty_like(y)
    chosen = np.empty((len(parts), y.shape[1]))
    for group, part in enumerate(parts):
        rest = _less(whole, part)
        fit = _fit(rest)
        chosen[group] = ALPHAS[_best(rest, [*parts[:group], *parts[group + 1 :]])]
        weights = fit.own / (fit.values[:, None] + chosen[group])  # (p, k)
        out = groups == group
        predicted[out] = fit.mean + (x[out] - fit.centre) * fit.scale @ fit.vectors @ weights
        means[out] = fit.mean
    return predicted + level, means + level, chosen


def _best(rest: _Sums, parts: Sequence[_Sums]) -> np.ndarray:
    """For each target the place in ALPHAS of the least error over inner folds: (k,)."""
    return np.asarray(
        np.argmin(sum(_loss(_fit(_less(rest, out)), out) for out in _folds(parts)), 0)
    )


def _folds(parts: Sequence[_Sums]) -> Iterator[_Sums]:
    """The groups to leave out: each its own, or dealt into INNER folds by size."""
    ordered = sorted(parts, key=lambda part: -part.n)
    for fold in range(min(INNER, len(ordered))):
        yield _add(ordered[fold::INNER])


def _fit(rows: _Sums) -> _Fit:
    """Features are standardised on these rows (population deviation; a constant one becomes 0)."""
    centre, mean = rows.x / rows.n, rows.y / rows.n
    spread = rows.xx - rows.n * np.outer(centre, centre)
    variance = np.diag(spread) / rows.n
    flat = variance < _FLAT
    scale = np.where(flat, 0, 1 / np.sqrt(np.where(flat, 1, variance)))
    values, vectors = np.linalg.eigh(spread * np.outer(scale, scale))
    turned = vectors.T * scale  # (p, p)
    own = turned @ (rows.xy - np.outer(centre, rows.y))
    return _Fit(centre, scale, mean, np.maximum(values, 0), vectors, own)


def _loss(fit: _Fit, out: _Sums) -> np.ndarray:
    """Squared error on the rows left out, less what is the same for every alpha: (alphas, k)."""
    turned = fit.vectors.T * fit.scale
    off = out.x - out.n * fit.centre
    zz = out.xx - np.outer(fit.centre, out.x) - np.outer(off, fit.centre)
    zy = turned @ (out.xy - np.outer(fit.centre, out.y) - np.outer(off, fit.mean))
    weights = fit.own / (fit.values[:, None] + ALPHAS[:, None, None])  # (alphas, p, k)
    return np.asarray(np.sum(weights * ((turned @ zz @ turned.T) @ weights - 2 * zy), axis=1))


def _sums(x: np.ndarray, y: np.ndarray) -> _Sums:
    return _Sums(float(len(x)), x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y)


def _add(parts: Sequence[_Sums]) -> _Sums:
    return _Sums(*(sum(sides[1:], start=sides[0]) for sides in zip(*parts, strict=True)))


def _less(a: _Sums, b: _Sums) -> _Sums:
    return _Sums(a.n - b.n, a.x - b.x, a.y - b.y, a.xx - b.xx, a.xy - b.xy)
