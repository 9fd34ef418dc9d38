"""Values to a table: actual and predicted ranks, and how well each predictor does.

The actual rank orders the mean over tasks of the main score of the last layer (the model's own
output). A predicted rank, one a metric, orders the mean over tasks of the within-task ranks of the
metric's selection score. Means over different tasks are not comparable, so a model that lacks a
task that others have gets no rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, inf, log
from typing import Literal

from lrd_harness import remarks, stats
from lrd_harness.contracts import Choice
from lrd_harness.layers import LayerTable, best, layer_table, mean_by_layer
from lrd_harness.results import ErrorRow, Key, MetricRow, ModelRow, Results

__all__ = [
    "Correlation",
    "LayerTable",
    "Leaderboard",
    "MetricColumn",
    "Row",
    "TaskColumn",
    "TaskScore",
    "build",
    "layer_table",
]

Values = dict[str, dict[Key, float]]  # task -> model -> value
MeanRanks = dict[Key, float | None]  # mean over tasks of within-task ranks, 1 = best


@dataclass(frozen=True)
class TaskScore:
    """A model's main score on one task: at the last layer, and at the best one (an oracle)."""

    last: float | None = None
    best_layer: int | None = None
    best: float | None = None


@dataclass(frozen=True)
class Row:
    """A model's line.

    rank, predicted: 1 = best, level models share the better rank, None where not comparable;
    score: mean over `tasks` tasks of the last layer's main score; best_layer: the layer with the
    highest mean over the same tasks, None where only one was scored; values: metric -> mean over
    tasks of its selection score; scores: by task; notes: what the reader must know of this line.
    """

    label: str
    info: ModelRow
    rank: int | None
    predicted: Mapping[str, int | None]
    tasks: int
    score: float | None
    best_layer: int | None
    best_score: float | None
    values: Mapping[str, float | None]
    scores: Mapping[str, TaskScore]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricColumn:
    """A metric, the score of it that ranks models, and which of its values is the better one."""

    name: str
    selection: Choice
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class TaskColumn:
    """A scored task, what its main score is called, and how many models have it."""

    name: str
    type: str
    score_name: str
    models: int


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of a predictor's order with the mean score, + = agrees, over n models.

    rho and its permutation p-value (two-sided) are None for n < 3 or where all are level.
    """

    name: str
    kind: Literal["metric", "baseline"]
    rho: float | None
    p: float | None
    n: int


@dataclass(frozen=True)
class Leaderboard:
    """The table and all that belongs under it; `results` are the rows that it was made of."""

    rows: tuple[Row, ...]
    metrics: tuple[MetricColumn, ...]
    tasks: tuple[TaskColumn, ...]
    correlations: tuple[Correlation, ...]
    notes: tuple[str, ...]
    errors: tuple[ErrorRow, ...]
    results: Results


@dataclass(frozen=True)
class _Panel:
    """What is to be ranked: the whole models, and their scores in the forms that are needed."""

    models: Mapping[Key, ModelRow]
    metrics: tuple[MetricColumn, ...]
    last: Values
    layers: Mapping[Key, Mapping[str, Mapping[int, float]]]  # model -> task -> layer -> score
    selected: Mapping[str, Values]  # metric -> its selection score
    frenet_rank: Values
    names: Mapping[str, int]  # how many models have the name: revisions of one

    def actual(self) -> dict[Key, float | None]:
        """The mean score of each model that has every task."""
        whole = {k for k in self.models if all(k in by_model for by_model in self.last.values())}
        return {key: _mean(self.last, key) if key in whole else None for key in self.models}


def build(results: Results) -> Leaderboard:
    """The leaderboard of the whole models (variant "full") of a run; holes in it are remarked on.

    Raises ValueError only for results that `load` would not give.
    """
    panel = _panel(results)
    actual = panel.actual()
    order = {
        column.name: _mean_ranks(panel.selected[column.name], panel.models, column.selection)
        for column in panel.metrics
    }
    places = _places(actual, higher_is_better=True)
    predicted = {name: _places(ranks, higher_is_better=False) for name, ranks in order.items()}
    rows = [_row(panel, key, places, predicted) for key in panel.models]
    ranked = sum(mean is not None for mean in actual.values())
    return Leaderboard(
        rows=_sorted(rows, panel.metrics),
        metrics=panel.metrics,
        tasks=_task_columns(results, panel.last),
        correlations=_correlations(panel, actual, order),
        notes=remarks.of_table(results, rows, panel.metrics, ranked),
        errors=tuple(error for error in results.errors if error.variant == "full"),
        results=results,
    )


def _panel(results: Results) -> _Panel:
    models = {row.key: row for row in results.models if row.variant == "full"}
    layers: dict[Key, dict[str, dict[int, float]]] = {key: {} for key in models}
    last: Values = {}
    for row in results.scores:
        if row.key in models:
            layers[row.key].setdefault(row.task, {})[row.layer] = row.score
            if row.last:
                last.setdefault(row.task, {})[row.key] = row.score
    columns = _metric_columns(results.metrics)
    selected = {c.name: _values(results.metrics, c.name, c.selection.score) for c in columns}
    ranks = _values(results.metrics, "frenet", "rank")
    names = Counter(key.model for key in models)
    return _Panel(models, columns, last, layers, selected, ranks, names)


def _metric_columns(metrics: Sequence[MetricRow]) -> tuple[MetricColumn, ...]:
    """The metrics that rank models, in order of first appearance."""
    choices: dict[str, Choice] = {}
    tasks: dict[str, dict[str, None]] = {}
    for row in metrics:
        if row.selection and row.variant == "full" and row.selection[0] in row.values:
            choices.setdefault(row.metric, Choice(*row.selection))
            tasks.setdefault(row.metric, {})[row.task] = None
    return tuple(MetricColumn(name, choices[name], tuple(tasks[name])) for name in choices)


def _task_columns(results: Results, last: Values) -> tuple[TaskColumn, ...]:
    known = {row.task: row for row in results.scores}
    return tuple(
        TaskColumn(task, known[task].task_type, known[task].score_name, len(by_model))
        for task, by_model in last.items()
    )


def _values(metrics: Sequence[MetricRow], metric: str, score: str) -> Values:
    """One model-level score of a metric; where a unit was measured twice the newer one counts."""
    values: Values = {}
    for row in metrics:
        if row.metric == metric and row.variant == "full" and score in row.values:
            values.setdefault(row.task, {})[row.key] = row.values[score]
    return values


def _mean_ranks(values: Values, keys: Iterable[Key], choice: Choice) -> MeanRanks:
    keys = list(keys)
    table = [[by_model.get(key) for key in keys] for by_model in values.values()]
    ranks = stats.mean_ranks(table, higher_is_better=choice.best == "max")
    return dict(zip(keys, ranks, strict=True)) if table else dict.fromkeys(keys)


def _places(values: Mapping[Key, float | None], higher_is_better: bool) -> dict[Key, int | None]:
    places = stats.places(list(values.values()), higher_is_better)
    return dict(zip(values, places, strict=True))


def _correlations(
    panel: _Panel, actual: Mapping[Key, float | None], order: Mapping[str, MeanRanks]
) -> tuple[Correlation, ...]:
    """Each predictor's agreement with the mean score: the metrics, then what needs no metric.

    `frenet.rank` is ranked within tasks as a metric's score is, higher = better.
    """
    models = panel.models.items()
    frenet = _mean_ranks(panel.frenet_rank, panel.models, Choice("rank", "max"))
    baselines = {
        "log parameters": {key: log(m.parameters) if m.parameters else None for key, m in models},
        "log width": {key: log(m.width) if m.width else None for key, m in models},
        "depth": {key: float(m.blocks) if m.blocks else None for key, m in models},
        "frenet.rank": _negated(frenet),
    }
    return (
        *(_correlation(name, "metric", _negated(ranks), actual) for name, ranks in order.items()),
        *(_correlation(name, "baseline", values, actual) for name, values in baselines.items()),
    )


def _negated(ranks: MeanRanks) -> MeanRanks:
    """Rank 1 is the best, a score of 1 the worst: turned so that + means that they agree."""
    return {key: None if rank is None else -rank for key, rank in ranks.items()}


def _correlation(
    name: str,
    kind: Literal["metric", "baseline"],
    predicted: Mapping[Key, float | None],
    actual: Mapping[Key, float | None],
) -> Correlation:
    x, y = [predicted[key] for key in actual], list(actual.values())
    n = len(stats.paired(x, y)[0])
    return Correlation(name, kind, stats.spearman(x, y), stats.permutation_p(x, y), n)


def _row(
    panel: _Panel,
    key: Key,
    places: Mapping[Key, int | None],
    predicted: Mapping[str, Mapping[Key, int | None]],
) -> Row:
    layers = panel.layers[key]
    scored = [layers[task] for task, by_model in panel.last.items() if key in by_model]
    layer, score = best(mean_by_layer(scored)) or (None, None)
    return Row(
        label=f"{key.model}@{key.revision[:12]}" if panel.names[key.model] > 1 else key.model,
        info=panel.models[key],
        rank=places[key],
        predicted={name: by_model[key] for name, by_model in predicted.items()},
        tasks=len(scored),
        score=_mean(panel.last, key),
        best_layer=layer,
        best_score=score,
        values={name: _mean(values, key) for name, values in panel.selected.items()},
        scores={
            task: TaskScore(by_model.get(key), *(best(layers.get(task, {})) or (None, None)))
            for task, by_model in panel.last.items()
        },
        notes=remarks.of_model(key, panel.last, panel.selected),
    )


def _sorted(rows: Sequence[Row], columns: Sequence[MetricColumn]) -> tuple[Row, ...]:
    """By actual rank, models without one last; where no model has one, by the first metric's."""
    guide = columns[0].name if columns and all(row.rank is None for row in rows) else None

    def place(row: Row) -> tuple[float, float]:
        rank = row.predicted.get(guide) if guide else row.rank
        return (inf if rank is None else rank, -row.tasks)

    return tuple(sorted(rows, key=place))


def _mean(values: Values, key: Key) -> float | None:
    """The mean over the tasks that the model has."""
    own = [by_model[key] for by_model in values.values() if key in by_model]
    return fsum(own) / len(own) if own else None
