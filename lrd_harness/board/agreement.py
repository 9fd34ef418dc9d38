"""How well each predictor orders the models task by task, and each metric beside each baseline.

Predictors are the metrics' selection scores, some other model-level scores, and what needs no
metric. + always means that they agree: a metric that ranks the lowest value first is turned.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lrd_harness.board import panel as panels
from lrd_harness.board import statistics, training
from lrd_harness.board.layers import Row, hidden
from lrd_harness.board.panel import Panel, Predictor
from lrd_harness.board.size_controls import partial_p as _partial_p
from lrd_harness.board.size_controls import partial_rho
from lrd_harness.report import Column, Table, listing

REACHES = 5  # models from which on p < .05 can be reached
LEAST = 4  # models that have both, for a task to count
RANDOM = "random model"
# What a partial correlation is given; of several together only models that have all count.
CONTROLS = {
    panels.LOG_PARAMETERS: (panels.LOG_PARAMETERS,),
    panels.FRENET_RANK: (panels.FRENET_RANK,),
    panels.TOGETHER: (panels.LOG_PARAMETERS, panels.RELEASED),
}
MEDIANS = ("tau", "gaps", "pearson", *(f"partial.{control}" for control in CONTROLS))
REGRETS = ("regret", "regret_largest", "regret_random")


class Rival(NamedTuple):
    """A metric beside one baseline, on the models and tasks that have both and a score.

    metric_rho, rho: median rho of the metric and of the baseline; low, high: bootstrap interval of
    their difference, for all metrics together at 95 % (Bonferroni); None where it cannot be drawn
    of each of these tasks. n, runs: median numbers of models, and of training runs, per task.
    """

    name: str
    size: bool
    metric_rho: float
    rho: float
    low: float | None
    high: float | None
    n: float
    runs: float
    tasks: int
    over: Literal["models", "tasks"]

    @property
    def lead(self) -> float:
        return self.metric_rho - self.rho

    @property
    def bar(self) -> bool:
        """Whether a metric has to beat it: size, release date, both together."""
        return self.name in panels.BARS

    @property
    def ahead(self) -> bool:
        """Whether the metric leads, by what is seen in print."""
        return round(self.lead, 2) > 0


RIVALS = "other size own rho low high n runs tasks over".split()  # columns of a Rival's fields


@dataclass(frozen=True)
class Agreement:
    """One predictor over all tasks with at least 4 models that have it and a score.

    rho, n, runs: medians over tasks; low, high: 95 % bootstrap interval of the median rho over
    tasks (None below 5); models_low, models_high: the same over models (None above 500, and where a
    task of the median has fewer than 5). more: `MEDIANS` over tasks, and means of `REGRETS`. tasks:
    see `_on_task`; rivals: of a metric, the baselines beside it.
    """

    name: str
    kind: panels.Kind
    best: Literal["max", "min"]
    rho: float | None
    low: float | None
    high: float | None
    models_low: float | None
    models_high: float | None
    n: float | None
    runs: float | None
    more: Mapping[str, float | None]
    tasks: tuple[Row, ...]
    rivals: tuple[Rival, ...] = ()

    def below(self, p: str) -> int:
        """Tasks with a p, or p_holm, below .05."""
        return sum(task[p] is not None and task[p] < statistics.ALPHA for task in self.tasks)


class Selection(NamedTuple):
    """All predictors. models: the most that a task has, of so many training runs.

    large: whether there are more models than can be resampled, so that intervals are over tasks.
    """

    rows: tuple[Agreement, ...]
    models: int
    runs: int
    large: bool = False

    @property
    def telling(self) -> bool:
        """Whether p < .05 can be reached."""
        return self.models >= REACHES


class _Compared(NamedTuple):
    """Predictors on the n models of one task that have all of them and a score.

    rhos: one each, None where not defined; runs: how many training runs the models are of; drawn:
    each one's rho in resamples of all models, see `_Task.draw`.
    """

    rhos: tuple[float | None, ...]
    n: int
    runs: int
    drawn: tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class _Task:
    """One task: scores (models,), predictor -> values (models,), + agrees, runs as numbers."""

    name: str
    scores: np.ndarray
    values: Mapping[str, np.ndarray]
    runs: np.ndarray
    resampled: dict[tuple[bytes, bool], statistics.Resampled] = field(default_factory=dict)
    drawn: dict[tuple[str, bytes, bool], np.ndarray] = field(default_factory=dict)

    def there(self, *predictors: str) -> np.ndarray:
        """Where there is a score and a value of each: (models,)."""
        sides = [self.scores, *(self.values[name] for name in predictors)]
        return np.asarray(~np.isnan(sides).any(axis=0))

    def compare(self, *predictors: str) -> _Compared | None:
        """None for fewer than 4 models."""
        there = self.there(*predictors)
        if there.sum() < LEAST:
            return None
        y = self.scores[there]
        return _Compared(
            tuple(statistics.spearman(self.values[name][there], y) for name in predictors),
            n=len(y),
            runs=len(np.unique(self.runs[there])),
            drawn=tuple(self.draw(name, there) for name in predictors),
        )

    def draw(self, name: str, there: np.ndarray, alone: bool = False) -> np.ndarray | None:
        """Rho, (draws,), in resamples of all models, the same for all predictors; NaN: undefined.

        alone: of those in the mask. None for fewer than 5, and above 500 models: it would not fit.
        """
        if len(there) > statistics.LARGE or there.sum() < statistics.LEAST:
            return None
        place = there.tobytes(), alone and not there.all()
        if place not in self.resampled:
            counts = statistics.resamples(int(there.sum()) if place[1] else len(there))
            counts = counts if place[1] else counts[:, there]
            self.resampled[place] = statistics.Resampled(self.scores[there], counts)
        if (name, *place) not in self.drawn:
            self.drawn[name, *place] = self.resampled[place].rho(self.values[name][there])
        return self.drawn[name, *place]


def build_selection(panel: Panel) -> Selection | None:
    """Every predictor on every task; None where no task has scores of 4 models."""
    scored = ~np.isnan(panel.scores.last)
    places = np.flatnonzero(scored.sum(axis=1) >= LEAST).tolist()
    if not places:
        return None
    level_values = np.zeros((1, len(panel.models)))
    predictors = (*panel.predictors, Predictor(RANDOM, RANDOM, "control", "max", level_values))
    names = [panel.tasks[t].name for t in places]
    grids = {predictor.score: predictor.on(names) for predictor in predictors}
    metrics = [predictor.score for predictor in predictors if predictor.kind == "metric"]
    baselines = [predictor.score for predictor in predictors if predictor.kind == "baseline"]
    sides = [(name,) for name in grids] + [(m, base) for m in metrics for base in baselines]
    run_of = training.runs(panel.models)
    runs = pd.factorize(pd.Series([run_of.get(row.key, row.key) for row in panel.models]))[0]
    on_task: dict[str, list[Row]] = defaultdict(list)
    compared: dict[tuple[str, ...], list[_Compared]] = defaultdict(list)  # where each has a rho
    for i, t in enumerate(places):  # one task at a time: what is drawn for it is large
        values = {name: grid[i] for name, grid in grids.items()}
        task = _Task(names[i], panel.scores.last[t], values, runs)
        for side in sides:
            shared = task.compare(*side)
            if shared and len(side) == 1:
                on_task[side[0]].append(_on_task(task, side[0], shared))
            if shared and None not in shared.rhos:
                compared[side].append(shared)
    level = 1 - (1 - statistics.LEVEL) / max(1, len(metrics))
    large = len(panel.models) > statistics.LARGE
    rows = []
    for predictor in predictors:
        name = predictor.score
        beside = {side[-1]: there for side, there in compared.items() if side[:-1] == (name,)}
        rivals = [_rival(base, tasks, level, large) for base, tasks in beside.items()]
        if on_task[name] or predictor.kind == "metric":
            rows.append(_agreement(predictor, on_task[name], compared[name,], rivals))
    most = max(scored[places], key=np.sum)
    return Selection(tuple(rows), int(most.sum()), len(np.unique(runs[most])), large)


def _on_task(task: _Task, name: str, alone: _Compared) -> Row:
    """One predictor on one task, over n models of so many training runs.

    p: of rho, by permutation (two-sided); low, high: 95 % bootstrap interval of rho over these
    models; partial.CONTROL: partial rank correlation given the control. regret: score lost by
    taking the predictor's top model instead of the best one; regret_largest, regret_random: by
    taking the largest known, and expected of a random one. p_holm is added by `_agreement`.
    """
    there = task.there(name)
    x, y = task.values[name][there], task.scores[there]
    controls = {
        control: [task.values[side][there] for side in sides]
        for control, sides in CONTROLS.items()
        if task.values.keys() >= {control, *sides} and name not in (control, *sides)
    }
    partial = {c: partial_rho(x, y, *sides) for c, sides in controls.items()}
    partial_p = {c: _partial_p(x, y, *controls[c], rho=rho) for c, rho in partial.items()}
    low, high = statistics.interval(task.draw(name, there, alone=True))
    size = task.values[panels.LOG_PARAMETERS][there]
    largest = None if np.isnan(size).all() else np.where(np.isnan(size), -np.inf, size)
    return {
        "task": task.name,
        "n": alone.n,
        "runs": alone.runs,
        "rho": alone.rhos[0],
        "p": statistics.permutation_p(x, y),
        "p_holm": None,
        "tau": statistics.kendall(x, y),
        "gaps": statistics.gaps_in_order(x, y),
        "pearson": statistics.pearson(x, y),
        "low": low,
        "high": high,
        **{f"partial.{control}": partial.get(control) for control in CONTROLS},
        **{f"partial_p.{control}": partial_p.get(control) for control in CONTROLS},
        "regret": statistics.regret(x, y),
        "regret_largest": None if largest is None else statistics.regret(largest, y),
        "regret_random": statistics.regret(np.zeros_like(y), y),
    }


def _agreement(
    predictor: Predictor, tasks: Sequence[Row], compared: Sequence[_Compared], rivals: list[Rival]
) -> Agreement:
    def cells(name: str) -> list[Any]:
        return [task[name] for task in tasks]

    more = {name: statistics.median(cells(name)) for name in MEDIANS}
    adjusted = zip(tasks, statistics.holm(cells("p")), strict=True)
    return Agreement(
        predictor.label,
        predictor.kind,
        predictor.best,
        statistics.median(cells("rho")),
        *_interval(_over_tasks(compared)),
        *_interval(_over_models(compared)),
        n=statistics.median(cells("n")),
        runs=statistics.median(cells("runs")),
        more=more | {name: statistics.mean_of_all(cells(name)) for name in REGRETS},
        tasks=tuple(task | {"p_holm": p} for task, p in adjusted),
        rivals=tuple(rivals),
    )


def _rival(name: str, compared: Sequence[_Compared], level: float, large: bool) -> Rival:
    metric_rho, rho = np.median([task.rhos for task in compared], axis=0).tolist()
    low, high = _interval(_over_tasks(compared) if large else _over_models(compared), level)
    n, runs = np.median([(task.n, task.runs) for task in compared], axis=0).tolist()
    over: Literal["models", "tasks"] = "tasks" if large else "models"
    size = name in panels.SIZES
    return Rival(name, size, metric_rho, rho, low, high, n, runs, len(compared), over)


def _interval(drawn: np.ndarray | None, level: float = statistics.LEVEL) -> statistics.Interval:
    """Of the predictor's median rho, or of its lead. drawn: (predictors, draws)."""
    if drawn is None:
        return None, None
    return statistics.interval(drawn[0] if len(drawn) == 1 else drawn[0] - drawn[1], level)


def _over_models(compared: Sequence[_Compared]) -> np.ndarray | None:
    """Each one's median over tasks in resamples of the models: (predictors, draws).

    Of the tasks where all are defined in a resample. None for nothing, or where a rho is undefined
    in most resamples of a task.
    """
    drawn = [rhos for task in compared for rhos in task.drawn]
    if not drawn or any(rhos is None or np.isnan(rhos).mean() > 0.5 for rhos in drawn):
        return None
    together = np.array(drawn).reshape(len(compared), -1, statistics.RESAMPLES)
    undefined = np.isnan(together).any(axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a resample where none is defined
        return np.asarray(np.nanmedian(np.where(undefined, np.nan, together), axis=0))


def _over_tasks(compared: Sequence[_Compared]) -> np.ndarray | None:
    """The same in resamples of the tasks; None below 5."""
    if len(compared) < statistics.LEAST:
        return None
    rhos = np.array([task.rhos for task in compared])
    shape = statistics.RESAMPLES, len(rhos)
    chosen = np.random.default_rng(42).integers(0, len(rhos), shape)
    return np.asarray(np.median(rhos[chosen], axis=1).T)


def agreement_tables(selection: Selection | None, what: str = "models") -> list[Table]:
    """Over all tasks, for people where p < .05 is in reach; by task; beside each baseline."""
    if selection is None:
        return []
    rows, tasks, rivals = [], [], []
    for row in selection.rows:
        who: Row = {"predictor": row.name, "kind": row.kind, "best": row.best}
        below = {"significant": row.below("p"), "holm": row.below("p_holm")}
        cells = {**vars(row), **row.more, **below, **who}
        cells["interval"] = statistics.span(row.low, row.high)
        cells["interval_models"] = statistics.span(row.models_low, row.models_high)
        if row.rho is not None:
            cells |= {f"{name}_share": f"{n}/{len(row.tasks)}" for name, n in below.items()}
        rows.append(cells)
        tasks += [who | task for task in row.tasks]
        rivals += [
            who | {column: rival[i] for i, column in enumerate(RIVALS)} for rival in row.rivals
        ]
    known = {*CONTROLS} - {panels.TOGETHER} | {row.name for row in selection.rows}
    columns = (
        Column("predictor", key=True),
        Column("kind"),
        Column("best"),
        Column("rho", "median rho", best="max", form="+z.2f"),
        Column("gaps", "gaps in order", "-1 to +1", "max", "+z.2f"),
        Column("interval", "95 % over tasks"),
        Column("significant_share", "p < .05", "tasks"),
        Column("holm_share", "Holm", "tasks"),
        Column("regret", best="min", form=".3f"),
        Column("n", "n", "models", form="g", rest=1),
        Column("interval_models", "95 % over models", rest=1),
        Column("tau", "median tau", "", "max", "+z.2f", rest=1),
        Column("pearson", "Pearson's r", "", "max", "+z.2f", rest=1),
        Column("regret_largest", "regret (largest)", "", "min", ".3f", rest=1),
        Column("regret_random", "regret (random)", "", "min", ".3f", rest=1),
        *(
            Column(f"partial.{c}", f"rho given {c}", form="+z.2f", rest=1, shown=c in known)
            for c in CONTROLS
        ),
        *hidden("low", "high", "models_low", "models_high", "significant", "holm", "runs"),
    )
    title = f"How well each predictor orders the {what}, task by task"
    caption = (
        "Per task, Spearman's rho over the models between predictor and main score of the last "
        "layer (+1 the same order, -1 the reverse; a metric whose best is min is turned); the "
        "median over the tasks with at least 4 models. 95 %: " + _intervals(selection),
        "p < .05: tasks whose two-sided permutation p is below, of all; Holm: the same after "
        "Holm's correction over the tasks. n: median number of models. tau: Kendall's tau-b. gaps "
        "in order: of the differences in score between any two models, the share that the order "
        "has right less the share that it reverses, so that near-ties count little (+1 all right, "
        "-1 all reversed); Pearson's r: of value and score. All are medians over tasks.",
        "rho given: median partial rank correlation, what the predictor says beyond the number of "
        "parameters, or beyond the rank of the final state"
        + (", or beyond size and release date together." if panels.TOGETHER in known else "."),
        "regret: score lost by taking the model predicted best instead of the one that is, mean "
        "over tasks; (largest): by taking the largest known of the same models, (random): what a "
        "draw among them is expected to lose.",
    )
    return [
        Table("agreement", title, columns, rows, caption, selection.telling),
        listing("agreement_tasks", "Each predictor on each task", tasks, "predictor", "task"),
        listing("rivals", "Each metric beside each baseline", rivals, "predictor", "other"),
    ]


def _intervals(selection: Selection) -> str:
    what = "bootstrap interval of this median over tasks"
    needs = "it needs 5 models on each task of the median."
    if selection.large:
        return (
            f"{what}, as are those of the verdicts: above {statistics.LARGE} models none is drawn "
            "over models, which would be the one that counts for models not seen here."
        )
    if all(row.models_low is None for row in selection.rows):
        return f"{what}; over models, which counts for models not seen here, {needs}"
    return (
        f"{what}, and over models, which is the one that counts for models not seen here (and too "
        f"narrow where they are of one family); {needs}"
    )
