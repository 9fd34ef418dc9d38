"""Whether a pruning rule does better than random removal, over models: a rank test among seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import NamedTuple

import numpy as np

from lrd_harness.board.layers import ALPHA
from lrd_harness.board.pruned import RANDOM, PrunedRow
from lrd_harness.results.rows import Key

_SAME = 1e-9  # changes (%) that differ by less are the same


class Contest(NamedTuple):
    """A rule against random's seeds at one budget: means over models of the change (%).

    random: in the mean over random's seeds; low, high: of its worst and best seed. p: one-sided;
    least: the least that so many seeds and depths can give. runs: how many training runs.
    """

    change: float
    random: float
    low: float
    high: float
    p: float
    least: float
    seeds: int
    models: int
    runs: int

    @property
    def beaten(self) -> bool:
        return self.p < ALPHA and self.change > self.random


def contest(
    rows: Sequence[PrunedRow], rule: str, budget: float, run_of: Mapping[Key, Key]
) -> Contest | None:
    """The rule against the seeds of random that all models have; None without any.

    The test: random's blocks depend on seed and depth alone, so that models of as many blocks have
    the same draws, and count as one. Of each depth the rule's mean change over the models is ranked
    among those of the S seeds: T = how many are worse, level ones not counted. If the rule were one
    more draw, T would be uniform on 0..S, or lower for level ones, and independent between depths:
    p is the chance that the sum over depths is as large as it is.
    rows are on tasks of one kind; run_of: models' training runs, where these are not their own.
    """
    own = {name: [row for row in rows if row.line["rule"] == name] for name in (rule, RANDOM)}
    at = {name: [row for row in of if row.line["budget"] == budget] for name, of in own.items()}
    random = {row.key: row for row in at[RANDOM]}
    pairs = [(row, _seeds(random.get(row.key), row.tasks)) for row in at[rule]]
    pairs = [(row, drawn) for row, drawn in pairs if drawn and row.line["change"] is not None]
    seeds = sorted(set.intersection(*(set(drawn) for _, drawn in pairs))) if pairs else []
    if not seeds:
        return None
    changes = np.array([row.line["change"] for row, _ in pairs], dtype=np.float64)
    table = np.array([[drawn[seed] for seed in seeds] for _, drawn in pairs])  # (models, seeds)
    depths = np.array([row.line["blocks"] for row, _ in pairs])
    worse = [
        int(np.sum(table[depths == depth].mean(axis=0) < changes[depths == depth].mean() - _SAME))
        for depth in np.unique(depths)
    ]
    over_models = table.mean(axis=0)
    return Contest(
        float(changes.mean()),
        float(over_models.mean()),
        float(over_models.min()),
        float(over_models.max()),
        _tail(worse, len(seeds)),
        float((len(seeds) + 1.0) ** -len(worse)),
        len(seeds),
        len(pairs),
        len({run_of.get(row.key, row.key) for row, _ in pairs}),
    )


def _seeds(row: PrunedRow | None, tasks: Sequence[str]) -> dict[int, float]:
    """The change by seed of random removal; none if it is not over these tasks."""
    if row is None or row.tasks != tuple(tasks):
        return {}
    return {r.seed: r.change for r in row.runs if r.seed is not None and r.change is not None}


def _tail(worse: Sequence[int], seeds: int) -> float:
    """The chance that as many numbers, uniform on 0..seeds, have as high a sum."""
    chances = np.ones(1)
    for _ in worse:
        chances = np.convolve(chances, np.full(seeds + 1, 1 / (seeds + 1)))
    return min(1.0, fsum(chances[sum(worse) :].tolist()))
