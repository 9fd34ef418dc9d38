"""Mutual information of two labellings, plain and adjusted for chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Labels = np.ndarray[Any, np.dtype[np.int64]]


def mutual_information(a: Labels, b: Labels) -> float:
    """Mutual information, in nats, of two labellings (n,) by 0, 1, 2, ..."""
    import numpy as np

    width = int(b.max()) + 1
    cells, counts = np.unique(a * width + b, return_counts=True)
    chance = np.bincount(a)[cells // width] * np.bincount(b)[cells % width] / len(a)
    return max(0.0, float(counts @ np.log(counts / chance)) / len(a))


def adjusted_mutual_information(a: Labels, b: Labels) -> float:
    """Adjusted for chance, arithmetic mean (Vinh, Epps and Bailey 2010); 1 where equal.

    As sklearn.metrics.adjusted_mutual_info_score, at the cost of the distinct component sizes.
    """
    import numpy as np

    sizes_a, sizes_b = np.bincount(a), np.bincount(b)
    if len(sizes_a) == 1 or len(sizes_b) == 1:
        return float(len(sizes_a) == len(sizes_b))
    expected = expected_mutual_information(sizes_a, sizes_b)
    entropies = [float(np.log(len(a) / s) @ s) / len(a) for s in (sizes_a, sizes_b)]
    room = sum(entropies) / 2 - expected
    if room < 1e-14:  # no labelling of these sizes can do better than chance: only equal ones
        return 1.0
    return (mutual_information(a, b) - expected) / room


def expected_mutual_information(sizes_a: Labels, sizes_b: Labels) -> float:
    """Mean mutual information, in nats, of random labellings with these component sizes.

    Depends on the sizes alone, so every pair of distinct sizes is reckoned once, with its overlap
    hypergeometric: most components of a neighbour graph have one of a few small sizes.
    """
    import numpy as np
    from scipy.special import gammaln

    n = int(sizes_a.sum())
    (a, times_a), (b, times_b) = (np.unique(s, return_counts=True) for s in (sizes_a, sizes_b))
    weight = np.outer(times_a, times_b).ravel()
    a, b = np.repeat(a, len(b)), np.tile(b, len(a))
    least = np.maximum(1, a + b - n)
    spans = np.minimum(a, b) - least + 1
    # One flat row of overlaps x = least..min(a, b) for each pair of sizes.
    pair = np.repeat(np.arange(len(a)), spans)
    x = least[pair] + np.arange(len(pair)) - (np.cumsum(spans) - spans)[pair]
    log_factorial = gammaln(np.arange(1, n + 2))
    fixed = sum(log_factorial[s] for s in (a, b, n - a, n - b)) - log_factorial[n]
    a, b, fixed = a[pair], b[pair], fixed[pair]
    free = sum(log_factorial[s] for s in (x, a - x, b - x, n - a - b + x))
    information = x / n * np.log(n * x / (a * b))
    return float(weight[pair] @ (information * np.exp(fixed - free)))
