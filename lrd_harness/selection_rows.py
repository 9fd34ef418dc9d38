"""How well predictors order the models task by task: the rows that selection.py makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

REACHES = 5  # models from which on p < .05 can be reached


@dataclass(frozen=True)
class TaskAgreement:
    """One predictor on one task, over the n models that have both, of so many training runs.

    rho: Spearman's, p: its permutation p-value (two-sided), p_holm: the same after Holm's
    correction over the tasks; tau: Kendall's tau-b; low, high: 95 % bootstrap interval of rho over
    these n models; partial, partial_p: control -> partial rank correlation given it, and its
    p-value by permuting the predictor.
    regret: score lost by taking the predictor's top model instead of the best one (a fraction, as
    the score); regret_largest, regret_random: the same of the model with the most parameters known,
    and expected of a random one, among the same n models. None where not defined.
    """

    task: str
    n: int
    runs: int
    rho: float | None
    p: float | None
    p_holm: float | None
    tau: float | None
    low: float | None
    high: float | None
    partial: Mapping[str, float | None]
    partial_p: Mapping[str, float | None]
    regret: float | None
    regret_largest: float | None
    regret_random: float | None


@dataclass(frozen=True)
class Rival:
    """A metric beside one baseline, on the models and tasks that have both and a score.

    own, rho: median rho over these tasks of the metric and of the baseline; low, high: bootstrap
    interval of own - rho, for all metrics together at 95 % (Bonferroni), over models, or over tasks
    for more than 500 models; None where it cannot be drawn of each of these tasks.
    n, runs: median numbers of models, and of training runs, a task.
    """

    name: str
    size: bool
    own: float
    rho: float
    low: float | None
    high: float | None
    n: float
    runs: float
    tasks: int
    over: Literal["models", "tasks"] = "models"


@dataclass(frozen=True)
class Agreement:
    """One predictor over all tasks with at least 4 models that have it and a score.

    best: which of its values predicts the better model. rho, tau, partial: medians over tasks; low,
    high: 95 % bootstrap interval of the median rho over tasks (None below 5); models_low,
    models_high: the same over models (None above 500, and where a task of the median has fewer than
    5); significant, holm: tasks with p < .05 and after Holm over tasks; n, runs: median numbers of
    models and of training runs; regret, regret_largest, regret_random: means over tasks. rivals: of
    a metric, the baselines beside it.
    """

    name: str
    kind: Literal["metric", "baseline", "control"]
    best: Literal["max", "min"]
    rho: float | None
    low: float | None
    high: float | None
    models_low: float | None
    models_high: float | None
    significant: int
    holm: int
    tau: float | None
    partial: Mapping[str, float | None]
    n: float | None
    runs: float | None
    regret: float | None
    regret_largest: float | None
    regret_random: float | None
    tasks: tuple[TaskAgreement, ...]
    rivals: tuple[Rival, ...] = ()


@dataclass(frozen=True)
class Selection:
    """All predictors. models: the most that a task has; runs: the training runs that these are of.

    large: whether there are more models than can be resampled, so that intervals are over tasks;
    telling: whether p < .05 can be reached.
    """

    rows: tuple[Agreement, ...]
    models: int
    runs: int
    large: bool = False

    @property
    def telling(self) -> bool:
        return self.models >= REACHES
