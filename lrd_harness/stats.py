"""Rank statistics: Spearman's rho, its permutation p-value, ranks within tasks and over them.

Also means over tasks, with their standard errors.

None stands for a missing value; NaN is treated as one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Literal, TypeGuard

import numpy as np
from scipy import stats

Cells = Sequence[float | None]
EXACT = 8  # up to 8! = 40,320 orders are counted, above that they are drawn
DRAWS = 9_999
_CHUNK = 2_000_000  # numbers shuffled at once: bounds memory where there are many models


def paired(x: Cells, y: Cells) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of which both are there: two float64 arrays (n,). ValueError if lengths differ."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if _there(a) and _there(b)]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def spearman(x: Cells, y: Cells) -> float | None:
    """Spearman's rho with average ranks for ties (`scipy.stats.spearmanr`), -1..1.

    None where fewer than 3 pairs are there, or all of one side are equal.
    """
    a, b = paired(x, y)
    if not _comparable(a, b):
        return None
    return float(stats.spearmanr(a, b).statistic)


def permutation_p(x: Cells, y: Cells, draws: int = DRAWS, seed: int = 42) -> float | None:
    """Two-sided p-value of Spearman's rho under random orders; None where rho is.

    Exact (the share of all n! orders with |rho| as large) for n <= 8; above that
    (count + 1) / (draws + 1) of seeded draws, so that P(p <= a) <= a under the null either way.
    Ranks are doubled to whole numbers: ties are compared without rounding.
    """
    a, b = paired(x, y)
    if not _comparable(a, b):
        return None
    n = len(a)
    u, v = (np.rint(2 * stats.rankdata(side)).astype(np.int64) - (n + 1) for side in (a, b))
    observed = abs(int(u @ v))
    if n <= EXACT:
        orders = np.array(list(permutations(v)))  # (n!, n)
        return float(np.mean(np.abs(orders @ u) >= observed))
    generator = np.random.default_rng(seed)
    count, left, step = 0, draws, max(1, _CHUNK // n)
    while left > 0:
        size = min(step, left)
        orders = generator.permuted(np.tile(v, (size, 1)), axis=1)  # (size, n)
        count += int(np.sum(np.abs(orders @ u) >= observed))
        left -= size
    return (count + 1) / (draws + 1)


def mean_of_all(values: Cells) -> float | None:
    """Their mean; None where one is missing, or there is none."""
    held = [value for value in values if _there(value)]
    return math.fsum(held) / len(held) if held and len(held) == len(values) else None


def mean_stderr(errors: Cells) -> float | None:
    """The standard error of the mean of independent values, from the standard errors of each.

    None where one is missing, or there is none.
    """
    held = [error for error in errors if _there(error)]
    return math.hypot(*held) / len(held) if held and len(held) == len(errors) else None


def ranks(values: Cells, higher_is_better: bool = True) -> list[float | None]:
    """Ranks, 1 = best, the average rank for ties; None where there is no value."""
    return _ranked(values, higher_is_better, "average")


def mean_ranks(table: Sequence[Cells], higher_is_better: bool = True) -> list[float | None]:
    """Mean over tasks of within-task ranks; `table` holds a row of models' values a task.

    A model that lacks a task is None and takes no part in any task's ranks: means over different
    tasks are not comparable, and it would shift the ranks of others in some tasks only.
    """
    if not table:
        return []
    whole = [i for i in range(len(table[0])) if all(_there(row[i]) for row in table)]
    by_task = [ranks([row[i] for i in whole], higher_is_better) for row in table]
    found: list[float | None] = [None] * len(table[0])
    for column, i in enumerate(whole):
        found[i] = sum(row[column] or 0.0 for row in by_task) / len(table)
    return found


def mean_rank_order(table: Sequence[Cells], higher_is_better: bool = True) -> list[int | None]:
    """A model's predicted rank: the order of its mean over tasks of within-task ranks, 1 = best.

    Models that are level share the better rank (1, 2, 2, 4).
    """
    return places(mean_ranks(table, higher_is_better), higher_is_better=False)


def places(values: Cells, higher_is_better: bool = True) -> list[int | None]:
    """Places as in a contest: 1 = best, those that are level share the better place."""
    found = _ranked(values, higher_is_better, "min")
    return [None if place is None else int(place) for place in found]


def _ranked(
    values: Cells, higher_is_better: bool, ties: Literal["average", "min"]
) -> list[float | None]:
    sign = -1.0 if higher_is_better else 1.0
    ordered = iter(stats.rankdata([sign * v for v in values if _there(v)], method=ties))
    return [float(next(ordered)) if _there(value) else None for value in values]


def _there(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def _comparable(a: np.ndarray, b: np.ndarray) -> bool:
    return len(a) >= 3 and bool(np.any(a != a[0])) and bool(np.any(b != b[0]))
