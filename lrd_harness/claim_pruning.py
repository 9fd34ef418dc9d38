"""Whether a pruning rule beats random removal: gfmi at 15 and 20 %, frenet at the least budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import fsum

import numpy as np

from lrd_harness.claim_rows import ALPHA, FAILS, FEW_RUNS, HOLDS, LRD, OPEN, Claim, Verdict, count
from lrd_harness.pruned_table import RANDOM, PrunedRow, PrunedTable
from lrd_harness.rows import Key
from lrd_harness.sides import Kind

HEAVY = (0.15, 0.20)  # budgets at which gfmi is said to beat random
_SAME = 1e-9  # changes (%) that differ by less are the same
RunOf = Callable[[Key], Key]  # a model's training run


@dataclass(frozen=True)
class Contest:
    """A rule against random's seeds at one budget, over models.

    change: the mean over models of the change (%); random: the same in the mean over random's
    seeds; low, high: of its worst and best seed. p: one-sided, see `contest`; least: the least that
    so many seeds and depths can give. models, runs: how many, and of how many training runs.
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

    def missing(self) -> str:
        """What is missing for a verdict; "" if nothing is."""
        if self.runs < FEW_RUNS:
            return f"{count(self.runs, 'training run')}, a verdict needs {FEW_RUNS}"
        if self.least >= ALPHA:
            return f"{count(self.seeds, 'random seed')} cannot give p < .05 (--random-seeds)"
        return ""

    def said(self) -> str:
        seeds = count(self.seeds, "seed")
        return (
            f"{self.change:+z.1f} % against random's {self.random:+z.1f} % ({seeds}, "
            f"{self.low:+z.1f} to {self.high:+z.1f} %; p = {self.p:.2g}, "
            f"{count(self.models, 'model')})"
        )


def pruning_claims(table: PrunedTable | None, kind: Kind, run_of: RunOf) -> tuple[Claim, ...]:
    """The claims on tasks of one kind; of a model that is scored on them."""
    rows = [row for row in table.rows if row.kind == kind] if table else []
    return (*(_heavy(rows, budget, run_of) for budget in HEAVY), _lightest(rows, run_of))


def _empty(name: str, statement: str) -> Claim:
    return Claim(name, statement, LRD, "% change", "models", OPEN, "")


def _heavy(rows: Sequence[PrunedRow], budget: float, run_of: RunOf) -> Claim:
    """Holds if gfmi keeps more of the score than random removal does, p < .05."""
    empty = _empty(
        f"gfmi beats random, {100 * budget:g} %",
        f"The {100 * budget:g} % of the blocks that gfmi chooses cost less of the score than as "
        "many random ones.",
    )
    held = contest(rows, "gfmi", budget, run_of)
    if held is None:
        return replace(empty, reason=_absent("gfmi", f"at {100 * budget:g} %"))
    verdict = HOLDS if held.beaten else FAILS
    return _judged(empty, held, verdict, held.said(), held.missing())


def _lightest(rows: Sequence[PrunedRow], run_of: RunOf) -> Claim:
    """Holds if frenet beats random at the least budget, p < .05, and at none that removes more."""
    empty = _empty(
        "frenet beats random only lightly",
        "The blocks that frenet chooses cost less of the score than random ones do at the lightest "
        "budget (number), and at no heavier one.",
    )
    budgets = sorted({row.budget for row in rows if row.rule == "frenet"})
    found = {b: contest(_heavier(rows, b, budgets), "frenet", b, run_of) for b in budgets}
    held = {budget: one for budget, one in found.items() if one is not None}
    if not budgets or budgets[0] not in held:
        return replace(empty, reason=_absent("frenet", "at the lightest budget"))
    said = "; ".join(f"{100 * budget:g} %: {one.said()}" for budget, one in held.items())
    light, *others = held.values()
    missing = next((few for one in held.values() if (few := one.missing())), "")
    if not others:
        missing = "no heavier budget that removes more blocks is there to compare"
    only = light.beaten and not any(one.beaten for one in others)
    return _judged(empty, light, HOLDS if only else FAILS, said, missing)


def _heavier(
    rows: Sequence[PrunedRow], budget: float, budgets: Sequence[float]
) -> Sequence[PrunedRow]:
    """Without the models in which a heavier budget comes to as many blocks as the lightest."""
    if budget == budgets[0]:
        return rows
    least = {_key(row): row.removed for row in rows if row.budget == budgets[0]}
    return [row for row in rows if row.removed > least.get(_key(row), row.removed)]


def _absent(rule: str, where: str) -> str:
    return f"no model was pruned by {rule} and at random {where} and scored on the same tasks"


def _judged(empty: Claim, held: Contest, verdict: Verdict, said: str, missing: str) -> Claim:
    return replace(
        empty,
        value=held.change,
        p=held.p,
        control=RANDOM,
        control_value=held.random,
        ahead=None if missing else held.beaten,
        n=held.models,
        verdict=OPEN if missing else verdict,
        reason=f"{said}; {missing}" if missing else said,
    )


def contest(rows: Sequence[PrunedRow], rule: str, budget: float, run_of: RunOf) -> Contest | None:
    """The rule against the seeds of random that all models have; None without any.

    The test: random's blocks depend on seed and depth alone, so that models of as many blocks have
    the same draws, and count as one. Of each depth the rule's mean change over the models is ranked
    among those of the S seeds: T = how many are worse, level ones not counted. If the rule were one
    more draw, T would be uniform on 0..S, or lower for level ones, and independent between depths:
    p is the chance that the sum over depths is as large as it is.
    """
    random = {_key(row): row for row in rows if (row.rule, row.budget) == (RANDOM, budget)}
    own = [row for row in rows if (row.rule, row.budget) == (rule, budget)]
    pairs = [(row, _seeds(random.get(_key(row)), row.tasks)) for row in own]
    pairs = [(row, drawn) for row, drawn in pairs if drawn and row.change is not None]
    seeds = sorted(set.intersection(*(set(drawn) for _, drawn in pairs))) if pairs else []
    if not seeds:
        return None
    changes = np.array([row.change for row, _ in pairs], dtype=np.float64)
    table = np.array([[drawn[seed] for seed in seeds] for _, drawn in pairs])  # (models, seeds)
    depths = np.array([row.blocks for row, _ in pairs])
    worse = [
        int(np.sum(table[depths == depth].mean(axis=0) < changes[depths == depth].mean() - _SAME))
        for depth in np.unique(depths)
    ]
    over_models = table.mean(axis=0)
    return Contest(
        change=float(changes.mean()),
        random=float(over_models.mean()),
        low=float(over_models.min()),
        high=float(over_models.max()),
        p=_tail(worse, len(seeds)),
        least=float((len(seeds) + 1.0) ** -len(worse)),
        seeds=len(seeds),
        models=len(pairs),
        runs=len({run_of(_key(row)) for row, _ in pairs}),
    )


def _seeds(row: PrunedRow | None, tasks: Sequence[str]) -> dict[int, float]:
    """The change by seed of random removal; none if it is not over these tasks."""
    if row is None or row.tasks != tuple(tasks):
        return {}
    return {
        run.seed: run.change for run in row.runs if run.seed is not None and run.change is not None
    }


def _tail(worse: Sequence[int], seeds: int) -> float:
    """The chance that as many numbers, uniform on 0..seeds, have as high a sum."""
    chances = np.ones(1)
    for _ in worse:
        chances = np.convolve(chances, np.full(seeds + 1, 1 / (seeds + 1)))
    return min(1.0, fsum(chances[sum(worse) :].tolist()))


def _key(row: PrunedRow) -> Key:
    return Key(row.model, row.revision, "full")
