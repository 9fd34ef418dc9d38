"""Whether a pruning rule does better than random removal, over models: a rank test among seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import NamedTuple

import numpy as np
import pandas as pd

from lrd_harness.board.cautions import count
from lrd_harness.board.layer_choice import ALPHA, FEW_RUNS
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

    @property
    def undecided(self) -> str:
        """What is missing for a verdict."""
        if self.runs < FEW_RUNS:
            return f"{count(self.runs, 'training run')}, a verdict needs {FEW_RUNS}"
        seeds = count(self.seeds, "random seed")
        return f"{seeds} cannot give p < .05 (--random-seeds)" if self.least >= ALPHA else ""


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
    at_budget = [row for row in rows if row.line["budget"] == budget]
    drawn = {row.key: row for row in at_budget if row.line["rule"] == RANDOM}
    pairs = []
    for row in at_budget:
        random = drawn.get(row.key)
        if row.line["rule"] == rule and row.line["change"] is not None and random is not None:
            by_seed = {run.seed: run.change for run in random.runs if run.change is not None}
            if by_seed and random.tasks == row.tasks:
                pairs.append((row, by_seed))
    table = pd.DataFrame([by_seed for _, by_seed in pairs]).dropna(axis="columns")  # models x seeds
    if table.empty:
        return None
    changes = pd.Series([row.line["change"] for row, _ in pairs], dtype=np.float64)
    depths = np.array([row.line["blocks"] for row, _ in pairs])
    level = changes.groupby(depths).mean() - _SAME
    worse = table.groupby(depths).mean().lt(level, axis="index").sum(axis="columns").tolist()
    seeds = table.mean()
    return Contest(
        float(changes.mean()),
        float(seeds.mean()),
        float(seeds.min()),
        float(seeds.max()),
        _tail(worse, len(seeds)),
        float((len(seeds) + 1.0) ** -len(worse)),
        len(seeds),
        len(pairs),
        len({run_of.get(row.key, row.key) for row, _ in pairs}),
    )


def _tail(worse: Sequence[int], seeds: int) -> float:
    """The chance that as many numbers, uniform on 0..seeds, have as high a sum."""
    chances = np.ones(1)
    for _ in worse:
        chances = np.convolve(chances, np.full(seeds + 1, 1 / (seeds + 1)))
    return min(1.0, fsum(chances[sum(worse) :].tolist()))
