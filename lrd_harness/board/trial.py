"""Whether a rule beats its control beyond the models and tasks at hand, and how many would tell.

The outcome of a rule on a task is of all models: the mean of what it gains, or a rank correlation.
Taken with all models and without each family in turn it gives a pseudo-value (Tukey 1958) for every
family and task; of a mean over families of one model these are the gains themselves. A two-way
bootstrap (Owen 2007, The pigeonhole bootstrap) draws tasks and whole families with replacement.

As percentiles of few are too narrow, its variance is taken apart into that of families, of tasks
and of both, each set right for how many it is drawn from; the interval is Student's with
Satterthwaite's degrees of freedom. From 4 families and 3 tasks on, a rule that is worth nothing is
then told from its control in at most 5 % of panels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import sqrt
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST_FAMILIES, LEAST_TASKS = 4, 3  # below either there is no test
GROUPS = 60  # families are left out one by one; more are dealt into so many groups
MOST = 1_000  # families that a plan goes up to
_FAR = 20.0  # standard errors beyond what is needed: found for sure
_DIGITS = 12  # of effects: those that are equal to this are level


class Groups:
    """The models by family, of many families in groups of several.

    names: of the groups; per: how many families a group has; weights: (groups + 1, models), 1 for
    the models that are left: all, then without each group.

    Examples
    --------
    >>> groups = Groups(["bert", "bert", "llama"])
    >>> groups.weights.tolist()
    [[1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """

    def __init__(self, families: Sequence[str], seed: int = 42) -> None:
        self.of = np.unique(np.array(families, dtype=str), return_inverse=True)
        names, places = self.of
        self.per = max(1.0, len(names) / GROUPS)
        if len(names) > GROUPS:
            places = (np.random.default_rng(seed).permutation(len(names)) % GROUPS)[places]
            names = np.array([f"group {n + 1}" for n in range(GROUPS)])
        self.names: list[str] = names.tolist()
        self.member = (np.arange(len(names))[:, None] == places).astype(np.float64)
        self.weights = np.concatenate([np.ones((1, len(places))), 1 - self.member])

    def means(self, values: np.ndarray) -> np.ndarray:
        """Of (models, tasks), all and without each group: (groups + 1, tasks); NaN of nothing."""
        there = ~np.isnan(values)
        with np.errstate(invalid="ignore"):  # 0 / 0
            return np.asarray(self.weights @ np.where(there, values, 0) / (self.weights @ there))

    def trial(self, outcomes: np.ndarray, there: np.ndarray) -> Trial:
        """Of outcomes (groups + 1, tasks); there: (models, tasks), which models they are of."""
        outcomes = np.round(outcomes, _DIGITS)
        whole, without = outcomes[0], outcomes[1:]
        there = there & ~np.isnan(whole)
        part = self.member @ there > 0
        pseudo = np.where(part, (part.sum(axis=0) - 1) * (whole - without), np.nan)
        pseudo += whole - means(pseudo)  # so that their mean is the outcome, of any sizes
        models = there.any(axis=1)
        sizes = self.member @ models
        counts = {"families": len(set(self.of[1][models])), "models": int(models.sum())}
        counts |= {"tasks": int(there.any(axis=0).sum()), "pairs": int(there.sum())}
        return Trial(
            pseudo,
            float(means(whole[:, None])[0]),
            np.where(np.isnan(whole), np.nan, without),
            float(sizes.sum() ** 2 / (sizes @ sizes)) if sizes.any() else 0.0,
            self.per,
            counts,
        )


class Tested(NamedTuple):
    """Of an effect against 0, two-sided; all None where there are too few families or tasks."""

    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


class Trial(NamedTuple):
    """A rule against its control.

    cells: pseudo-values (groups, tasks), NaN for a family that a task lacks; effect: of all models,
    the mean over tasks; outcomes: of tasks without each group (groups, tasks), NaN where nothing is
    left; effective: how many groups of equal size would say as much (Kish 1965), as a family of 9
    models and one of 1 are no two; per: families of a group; counts: families, models, tasks, and
    pairs of model and task; chosen: whether it is of a choice among rules, see `best_of`.
    """

    cells: np.ndarray
    effect: float
    outcomes: np.ndarray
    effective: float
    per: float
    counts: Mapping[str, int]
    chosen: bool = False

    @property
    def without(self) -> np.ndarray:
        """The effect without each group: (groups,), NaN where nothing is left."""
        return means(self.outcomes.T)

    @property
    def others(self) -> np.ndarray:
        """The effect on the tasks but each, without each group: (groups, tasks); of one task it."""
        there = ~np.isnan(self.outcomes)
        values = np.where(there, self.outcomes, 0)
        left = there.sum(axis=1, keepdims=True) - there
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (values.sum(axis=1, keepdims=True) - values) / left
        return np.where(left > 0, means, self.outcomes)

    @property
    def shared(self) -> float:
        """By how much the variance of a mean of choices is larger, see `best_of`."""
        n = max(2, len(_filled(self.cells)))
        return 1 + n / (n - 1) if self.chosen else 1.0

    def test(self, alpha: float, resamples: int, seed: int) -> Tested:
        """With its interval at 1 - alpha. A choice may be better, never worse: its p is 1 then."""
        cells = _filled(self.cells)
        if cells.shape[0] < LEAST_FAMILIES or cells.shape[1] < LEAST_TASKS:
            return Tested()
        families, tasks, both = _bootstrap(cells, resamples, seed)
        variance = max(families + tasks - both, families, tasks)
        error = sqrt(self.shared * variance)
        if not error > 0:
            return Tested(0.0, self.effect, self.effect, float(self.effect == 0))
        numbers = min(cells.shape[0], self.effective), cells.shape[1]
        degrees = _degrees((families, tasks), variance, numbers)
        reach = error * float(stats.t.ppf(1 - alpha / 2, degrees))
        ratio = self.effect / error if self.chosen else abs(self.effect) / error
        p = min(1.0, 2 * float(stats.t.sf(ratio, degrees)))
        return Tested(error, self.effect - reach, self.effect + reach, p)

    def layout(self) -> Layout | None:
        """Variances of one family and task, by Henderson's (1953) method 1; None below 2 of either.

        Where every family has every task it is the analysis of variance. A group of several
        families varies less than one: by as many times as these.
        """
        cells = _filled(self.cells)
        if min(cells.shape) < 2:
            return None
        there = ~np.isnan(cells)
        y, n = np.where(there, cells, 0), int(there.sum())
        by_family, by_task = there.sum(axis=1), there.sum(axis=0)
        squares = [np.sum(y.sum(axis=1) ** 2 / by_family), np.sum(y.sum(axis=0) ** 2 / by_task)]
        total = np.array([*squares, np.sum(y**2)]) - y.sum() ** 2 / n
        f, t = cells.shape
        expected = np.array([[n, f, f], [t, n, t], [n, n, n]], dtype=np.float64)
        expected -= [np.sum(by_family**2) / n, np.sum(by_task**2) / n, 1]
        found = np.linalg.lstsq(expected, total, rcond=None)[0]
        found *= [self.per, 1, self.per]
        return Layout(*(self.shared * np.maximum(found, 0)).tolist())


class Layout(NamedTuple):
    """Variances of one family and task: between families, between tasks, and what is left."""

    families: float
    tasks: float
    rest: float

    def power(self, families: float, tasks: float, effect: float, alpha: float) -> float:
        """The probability that a true effect above 0 is found in so many families and tasks.

        Examples
        --------
        >>> layout = Layout(families=1.0, tasks=0.25, rest=1.0)
        >>> [round(layout.power(n, 30, 0.5, 0.05), 2) for n in (10, 40, 160)]
        [0.27, 0.76, 0.98]
        """
        rest = self.rest / families / tasks
        parts = self.families / families + rest, self.tasks / tasks + rest
        variance = max(sum(parts) - rest, *parts)
        if variance <= 0:
            return 1.0
        degrees = _degrees(parts, variance, (families, tasks))
        reach, distance = float(stats.t.ppf(1 - alpha / 2, degrees)), effect / sqrt(variance)
        return 1.0 if distance > reach + _FAR else float(stats.nct.sf(reach, degrees, distance))

    def least(self, tasks: float, effect: float, alpha: float, power: float) -> int | None:
        """The least families that have such a power with so many tasks; None above 1,000."""
        low, high = LEAST_FAMILIES - 1, MOST
        if self.power(high, tasks, effect, alpha) < power:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            found = self.power(middle, tasks, effect, alpha) >= power
            low, high = (low, middle) if found else (middle, high)
        return high


def best_of(trials: Sequence[Trial]) -> tuple[Trial, list[int]]:
    """What choosing among rules comes to: in each cell the rule best on other families and tasks.

    Also which one that is for most tasks of each group; the first of those that are level. As any
    two choices have nearly all families in common, the variance of the mean is that of Nadeau &
    Bengio (2003, Inference for the generalization error), 1 / n + 1 / (n - 1) times a cell's in
    place of 1 / n. A choice among rules that are level loses a little by fluttering, which says
    nothing of any of them: a choice is never called worse.
    """
    if len(trials) == 1:
        return trials[0], [0] * len(trials[0].cells)
    others = np.array([trial.others for trial in trials])
    ranked = np.where(np.isnan(others), -np.inf, np.round(others, _DIGITS))
    places = np.argmax(ranked, axis=0)  # (groups, tasks)
    cells = np.take_along_axis(np.array([trial.cells for trial in trials]), places[None], 0)[0]
    cells = np.where(np.isinf(ranked).all(axis=0), np.nan, cells)  # nothing to choose on
    used = [trials[i] for i in np.unique(places)]
    effect = float(means(means(cells)[:, None])[0])
    fewest = min(used, key=lambda trial: trial.counts["pairs"])
    most = [int(np.bincount(row).argmax()) for row in places]
    return fewest._replace(cells=cells, effect=effect, chosen=True), most


def _bootstrap(cells: np.ndarray, resamples: int, seed: int) -> tuple[float, float, float]:
    """Variances of the mean of cells (families, tasks) due to families, to tasks, to both at once.

    Of draws of either alone, and of both; each times n / (n - 1), as a sample varies less than what
    it is of.
    """
    there = (~np.isnan(cells)).astype(np.float64)
    y, (f, t) = np.where(there > 0, cells, 0), cells.shape
    of_families, of_tasks = _drawn(f, resamples, seed), _drawn(t, resamples, seed + 1)
    sums, counts = of_families @ y, of_families @ there  # (resamples, tasks)
    with np.errstate(invalid="ignore"):  # where nothing was drawn that is there
        families = np.nanvar(sums.sum(axis=1) / counts.sum(axis=1)) * f / (f - 1)
        tasks = np.nanvar(of_tasks @ y.sum(axis=0) / (of_tasks @ there.sum(axis=0))) * t / (t - 1)
        both = np.nanvar((sums * of_tasks).sum(axis=1) / (counts * of_tasks).sum(axis=1))
    alone = families * (f - 1) / f + tasks * (t - 1) / t
    shared = max(0.0, float(both - alone)) * f * t / ((f - 1) * (t - 1))
    return float(families), float(tasks), shared


@lru_cache(maxsize=8)
def _drawn(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of n is in each resample: (resamples, n)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), resamples).astype(np.float64)


def _degrees(parts: Sequence[float], variance: float, numbers: Sequence[float]) -> float:
    """Satterthwaite's, of the variances of a mean over families and tasks, of so many of each.

    At least those of the fewer of both, and 1.
    """
    squares = sum(part**2 / max(n - 1, 1) for part, n in zip(parts, numbers, strict=True))
    return max(variance**2 / squares, min(numbers) - 1, 1.0)


def _filled(cells: np.ndarray) -> np.ndarray:
    """Without the families and tasks that have nothing."""
    there = ~np.isnan(cells)
    return np.asarray(cells[there.any(axis=1)][:, there.any(axis=0)])


def means(rows: np.ndarray) -> np.ndarray:
    """The mean of what is there of each column, NaN of nothing: (columns,)."""
    there = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return np.asarray(np.where(there, rows, 0).sum(axis=0) / there.sum(axis=0))
