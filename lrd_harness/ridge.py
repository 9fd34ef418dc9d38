"""Ridge regression judged on groups it has not seen, for many targets at once.

The same as scikit-learn's Pipeline(StandardScaler, Ridge) under LeaveOneGroupOut, its alpha chosen
by grouped cross-validation inside the training groups. Written out, as a permutation test repeats
all of it for a thousand targets: every fit is made of sums over groups, and all targets share its
decomposition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

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
