"""What is to be ordered and what may order it: scores and predictors of the whole models.

The actual rank orders the mean over tasks of the main score of the last layer (the model's own
output). Predictors are the metrics' scores, and what needs no metric: size, release date, the rank
of the final state. Means over different tasks are not comparable: a model that lacks a task that
others have gets none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from lrd_harness.board import statistics
from lrd_harness.board.layers import LABELS
from lrd_harness.report import Column, Table
from lrd_harness.results import kinds
from lrd_harness.results.rows import Key, ModelRow, Results

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["metric", "baseline", "control"]
# Model-level scores that are judged beside the selection scores; of all, the higher is the better.
OTHERS = (("frenet", "d0L_normalised"), ("gfmi", "mean_auc_adjusted"))
VALUES = ("value", "control value")  # of models, in the frame of results
SIZES = LOG_PARAMETERS, LOG_WIDTH, DEPTH = "log parameters", "log width", "depth"
FRENET_RANK, RELEASED, TOGETHER = "frenet.rank", "released later", "size and date"
BARS = (*SIZES, RELEASED, TOGETHER)  # what a metric has to beat: no model need be opened for it
DATED = 4  # models whose release date is known, for it to be a baseline
DATED_AND_SIZED = 5  # models of which both are known: given two controls, 4 leave one dimension
DIGITS = 12  # of mean scores: equal ones are level, whatever they are the means of


class TaskColumn(NamedTuple):
    """A scored task: its main score's name, how many models have it, what guessing gets."""

    name: str
    type: str
    score_name: str
    models: int
    chance: float | None


@dataclass(frozen=True)
class Predictor:
    """What may order models.

    name: "frenet" for the metric's selection score, else as `score`: "gfmi.mean_auc_adjusted",
        "log parameters"; of what uses labels both end in `LABELS`.
    selection: whether it is a metric's selection score.
    values: (tasks, models) as measured, NaN where there is none; of what is one number per model
        and the same for every task (1, models), with tasks None.
    """

    name: str
    score: str
    kind: Kind
    best: Literal["max", "min"]
    values: np.ndarray
    tasks: tuple[str, ...] | None = None
    selection: bool = False

    @property
    def label(self) -> str:
        """What tables by task call it: "frenet.d0L", "log width"."""
        metric, _, score = self.score.partition(".")
        return metric if self.selection and score == metric else self.score

    def on(self, tasks: Sequence[str]) -> np.ndarray:
        """On these tasks, turned so that higher predicts better: (tasks, models)."""
        if self.tasks is None:
            return np.repeat(self.values, len(tasks), axis=0)
        rows = dict(zip(self.tasks, self.values, strict=True))
        missing = np.full(self.values.shape[1], np.nan)
        values = np.array([rows.get(task, missing) for task in tasks]).reshape(len(tasks), -1)
        return np.asarray(values if self.best == "max" else -values)

    @cached_property
    def means(self) -> np.ndarray:
        """The mean over the tasks that a model has, NaN where it has none: (models,)."""
        return over_tasks(self.values)

    @cached_property
    def complete_means(self) -> np.ndarray:
        """The mean over all tasks, NaN for a model that lacks one: (models,)."""
        return np.where(np.isnan(self.values).any(axis=0), np.nan, self.means)

    @cached_property
    def strength(self) -> np.ndarray:
        """What orders the models, more is better: (models,).

        Minus the mean over tasks of the rank within the task, 1 = best; of a size, the size itself.
        NaN for a model that lacks a task, which takes no part in any task's ranks: it would shift
        those of others in some tasks only.
        """
        if self.tasks is None:
            return np.asarray(self.values[0])
        order = np.full(self.values.shape[1], np.nan)
        whole = ~np.isnan(self.values).any(axis=0) & bool(self.tasks)
        if whole.any():
            worst_first = -self.values if self.best == "max" else self.values
            order[whole] = -np.mean(stats.rankdata(worst_first[:, whole], axis=1), axis=0)
        return order


def over_tasks(values: np.ndarray) -> np.ndarray:
    """The mean of what is there of each column of (tasks, models): (models,), NaN for nothing."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # 0 / 0 of a column without anything
        return np.asarray(np.where(there, values, 0).sum(axis=0) / there.sum(axis=0))


class Scores(NamedTuple):
    """Scores of the last layer and of the best one (an oracle), of one shape, NaN: not there.

    stderr, best_stderr: standard errors; chance: what guessing gets.
    """

    last: np.ndarray
    stderr: np.ndarray
    chance: np.ndarray
    best_layer: np.ndarray
    best: np.ndarray
    best_stderr: np.ndarray


@dataclass(frozen=True)
class Panel:
    """The whole models (variant "full") of one kind of task.

    labels: what tables call the models; predictors: selection scores first, controls last. scores:
    by task and model (tasks, models); means: over the tasks that a model has (models,).
    layers: how many layers the best ones were chosen from, at most, and whether all from as many.
    """

    models: tuple[ModelRow, ...]
    labels: tuple[str, ...]
    tasks: tuple[TaskColumn, ...]
    predictors: tuple[Predictor, ...]
    scores: Scores
    means: Scores
    layers: tuple[int, bool]

    @property
    def actual(self) -> np.ndarray:
        """The mean score of each model that has every task, else NaN: (models,)."""
        return np.where(np.isnan(self.scores.last).any(axis=0), np.nan, self.means.last)

    @property
    def selecting(self) -> list[Predictor]:
        """The selection scores of metrics without labels."""
        return [p for p in self.predictors if p.selection and p.kind == "metric"]

    def named(self, place: int) -> dict[str, Any]:
        """Cells that say which model it is."""
        row = self.models[place]
        return {"model": self.labels[place], "name": row.model, "revision": row.revision}


def model_labels(models: Iterable[ModelRow]) -> dict[Key, str]:
    """What tables call the whole models: the name, with the revision where several have it."""
    keys = dict.fromkeys(row.key for row in models if row.variant == "full")
    revisions = Counter(key.model for key in keys)
    several = {key: f"{key.model}@{key.revision[:12]}" for key in keys if revisions[key.model] > 1}
    return {key: key.model for key in keys} | several


def build_panel(results: Results, labels: Mapping[Key, str] | None = None) -> Panel:
    """The panel of results; of a unit that is there twice the newer row counts.

    labels: of the models, and of others that must not be called the same.
    """
    labels = labels or model_labels(results.models)
    models = tuple({row.key: row for row in results.models if row.variant == "full"}.values())
    place = {row.key: i for i, row in enumerate(models)}
    frame = results.frame
    keys = zip(frame.model, frame.revision, frame.variant, strict=True)
    frame = frame.assign(place=[place.get(Key(*key), -1) for key in keys])
    frame = frame[frame.place >= 0]
    rows = frame[frame.kind == "score"]
    last = rows[rows.layer == rows.layers]
    of_task = last.groupby("task", sort=False)[["task_type", "name", "chance"]].last()
    numbers = {task: t for t, task in enumerate(of_task.index)}
    rows = rows.assign(t=[numbers.get(task, -1) for task in rows.task])
    scores, means, layers = _scored(rows[rows.t >= 0], len(of_task), len(models))
    scored = (~np.isnan(scores.last)).sum(axis=1).tolist()
    return Panel(
        models=models,
        labels=tuple(labels[row.key] for row in models),
        tasks=tuple(
            TaskColumn(name, kind, score, n, None if np.isnan(chance) else chance)
            for (name, kind, score, chance), n in zip(of_task.itertuples(), scored, strict=True)
        ),
        predictors=tuple(_predictors(results, frame[frame.kind.isin(VALUES)], models)),
        scores=scores,
        means=means,
        layers=layers,
    )


def _scored(rows: pd.DataFrame, tasks: int, models: int) -> tuple[Scores, Scores, tuple[int, bool]]:
    """Scores by task and model, and their means. rows: main scores, t and place as numbers."""

    def by_task(rows: pd.DataFrame, column: str) -> np.ndarray:
        cells = np.full((tasks, models), np.nan)
        cells[rows.t, rows.place] = rows[column].astype("float64")
        return cells

    several = rows.groupby(["place", "t"]).layer.transform("size") > 1
    best = rows[several].sort_values(["value", "layer"], ascending=[False, True])
    best = best.drop_duplicates(["place", "t"])
    last = rows[rows.layer == rows.layers]
    scores = Scores(
        *(by_task(last, column) for column in ("value", "stderr", "chance")),
        *(by_task(best, column) for column in ("layer", "value", "stderr")),
    )
    # The layer that is best in the mean: of those that all tasks with a last layer have.
    rows = rows.assign(several=several)
    scored = rows[~np.isnan(scores.last[rows.t, rows.place])]
    by_layer = scored.groupby(["place", "layer"], as_index=False).agg(
        value=("value", "mean"), tasks=("t", "size"), stderr=("stderr", statistics.mean_stderr)
    )
    count = (~np.isnan(scores.last)).sum(axis=0)
    alone = scored[~scored.several].place.unique()
    common = (by_layer.tasks == count[by_layer.place]) & ~by_layer.place.isin(alone)
    by_layer = by_layer[common].assign(value=by_layer.value.round(DIGITS))
    sizes = by_layer.groupby("place").layer.transform("size")
    top = by_layer[sizes > 1].sort_values(["value", "layer"], ascending=[False, True])
    top = top.drop_duplicates("place").set_index("place")
    by_model = last.groupby("place")
    columns = (
        by_model.stderr.agg(statistics.mean_stderr),
        by_model.chance.agg(statistics.mean_of_all),
        *(top[name] for name in ("layer", "value", "stderr")),
    )
    means = Scores(
        np.round(over_tasks(scores.last), DIGITS),
        *(c.reindex(range(models)).to_numpy("float64", na_value=np.nan) for c in columns),
    )
    counts = set(sizes[sizes > 1])
    return scores, means, (max(counts, default=0), len(counts) < 2)


def _predictors(
    results: Results, values: pd.DataFrame, models: Sequence[ModelRow]
) -> Iterable[Predictor]:
    """Selection scores, others of metrics, the baselines, controls. values: of whole models."""

    def measured(
        metric: str, score: str, kind: Kind, best: Literal["max", "min"], selection: bool = False
    ) -> Predictor:
        control = kind == "control"
        rows = values[(values.source == metric) & (values.name == score)]
        rows = rows[rows.kind == VALUES[control]]
        tasks = tuple(rows.task.unique())
        cells = np.full((len(tasks), len(models)), np.nan)
        cells[[tasks.index(task) for task in rows.task], rows.place] = rows.value
        mark = LABELS * control
        full = f"{metric}.{score}{mark}"
        name = f"{metric}{mark}" if selection else full
        return Predictor(name, full, kind, best, cells, tasks, selection)

    selections: dict[tuple[str, bool], tuple[str, Literal["max", "min"]]] = {}
    for row in results.metrics:
        if row.selection and row.variant == "full" and row.selection[0] in row.values:
            selections.setdefault((row.metric, row.control), row.selection)
    chosen = [(metric, *of) for (metric, control), of in selections.items() if not control]
    for name, score, best in chosen:
        yield measured(name, score, "metric", best, True)
    for name, score in OTHERS:
        other = measured(name, score, "metric", "max")
        if other.tasks and (name, score, "max") not in chosen:
            yield other
    of_size = sizes(models)
    for name, numbers in of_size.items():
        yield Predictor(name, name, "baseline", "max", numbers[None])
    yield measured("frenet", "rank", "baseline", "max")
    days = np.array([kinds.middle(row.released) if row.released else np.nan for row in models])
    dated = days[~np.isnan(days)]
    if len(dated) >= DATED and np.ptp(dated):
        yield Predictor(RELEASED, RELEASED, "baseline", "max", days[None])
    both = ~np.isnan(np.array([of_size[LOG_PARAMETERS], days])).any(axis=0)
    dated = days[both]
    if len(dated) >= DATED_AND_SIZED and np.ptp(dated):  # equal weights: nothing fitted to scores
        ranks = np.full(len(days), np.nan)
        sides = (of_size[LOG_PARAMETERS][both], dated)
        ranks[both] = np.mean([stats.rankdata(side) for side in sides], axis=0)
        yield Predictor(TOGETHER, TOGETHER, "baseline", "max", ranks[None])
    for (metric, control), (score, best) in selections.items():
        if control:
            yield measured(metric, score, "control", best, True)


def sizes(models: Sequence[ModelRow]) -> dict[str, np.ndarray]:
    """What a model's size predicts: log parameters, log width, depth (blocks); NaN: not known."""
    columns = {
        LOG_PARAMETERS: [log(m.parameters) if m.parameters else np.nan for m in models],
        LOG_WIDTH: [log(m.width) if m.width else np.nan for m in models],
        DEPTH: [m.blocks or np.nan for m in models],
    }
    return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}


def correlation_table(panel: Panel, what: str = "models") -> Table:
    """Spearman's rho of each predictor's order with the mean score.

    The metrics, then what needs no metric; scores that rank no models are left to `agreement`.
    """
    actual = panel.actual
    rows: list[Mapping[str, Any]] = []
    for predictor in panel.predictors:
        order = predictor.strength
        n = len(statistics.complete(order, actual)[0])
        if predictor.selection or (predictor.kind == "baseline" and n):
            rho, p = statistics.spearman(order, actual), statistics.permutation_p(order, actual)
            row = {"predictor": predictor.name, "kind": predictor.kind}
            rows.append(row | {"rho": rho, "p": p, "n": n})
    columns = (
        Column("predictor", key=True),
        Column("kind"),
        Column("rho", "Spearman's rho", "-1 to +1", "max", "+.2f"),
        Column("p", "p (two-sided)", form=".2g"),
        Column("n", "n", "models"),
    )
    caption = (
        "Spearman's rho of the predicted order with the mean score of the last layer: +1 the same "
        "order, 0 none, -1 the reverse; p by permutation. A metric is worth its cost where it "
        "beats the baselines. No value: fewer than 3 models, or all level.",
    )
    title = f"How well each predictor orders the {what}"
    shown = any(row["rho"] is not None for row in rows)
    return Table("correlations", title, columns, rows, caption, shown)
