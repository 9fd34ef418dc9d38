"""How well each predictor orders the models: the metrics, and what needs no metric.

What is to be ranked: scores, standard errors and metrics of models, by task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, log
from typing import Literal

from lrd_harness.board import statistics
from lrd_harness.board.layers import best, mean_by_layer
from lrd_harness.contracts import Choice
from lrd_harness.results import models as releases
from lrd_harness.results.database import Key, MetricRow, ModelRow, Results, ScoreRow

Values = dict[str, dict[Key, float]]  # task -> model -> value
MeanRanks = dict[Key, float | None]  # mean over tasks of within-task ranks, 1 = best
Layers = Mapping[int, ScoreRow]  # layer -> its row
# Model-level scores that are judged beside the selection scores; of all, the higher is the better.
OTHERS = (("frenet", "d0L_normalised"), ("gfmi", "mean_auc_adjusted"))
_DIGITS = 12  # of mean scores: equal ones are level, whatever they are the means of


@dataclass(frozen=True)
class TaskScore:
    """A model's main score on one task: at the last layer, and at the best one (an oracle).

    stderr, best_stderr: the standard errors of these over the task's documents; chance: what
    guessing gets. None where the task has none.
    """

    last: float | None = None
    best_layer: int | None = None
    best: float | None = None
    stderr: float | None = None
    chance: float | None = None
    best_stderr: float | None = None


NONE = TaskScore()


@dataclass(frozen=True)
class MetricColumn:
    """A metric, the score of it that ranks models, and which of its values is the better one."""

    name: str
    selection: Choice
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class TaskColumn:
    """A scored task: its main score's name, how many models have it, what guessing gets."""

    name: str
    type: str
    score_name: str
    models: int
    chance: float | None = None


@dataclass(frozen=True)
class Panel:
    """The whole models (variant "full"), and their scores in the forms that are needed.

    selected: metric -> its selection score; others: "metric.score" -> a score of `OTHERS` that was
    recorded and is not the selection score.
    """

    models: Mapping[Key, ModelRow]
    metrics: tuple[MetricColumn, ...]
    tasks: tuple[TaskColumn, ...]
    last: Values
    layers: Mapping[Key, Mapping[str, Layers]]
    selected: Mapping[str, Values]
    frenet_rank: Values
    others: Mapping[str, Values]

    def actual(self) -> dict[Key, float | None]:
        """The mean score of each model that has every task."""
        whole = {k for k in self.models if all(k in by_model for by_model in self.last.values())}
        return {key: self.score(key) if key in whole else None for key in self.models}

    def score(self, key: Key) -> float | None:
        """The model's mean score over the tasks that it has, without what rounding adds."""
        found = mean(self.last, key)
        return None if found is None else round(found, _DIGITS)

    def scored(self, key: Key) -> list[Layers]:
        """The layers of each task that the model was scored on at its last layer."""
        own = self.layers[key]
        return [own[task] for task, by_model in self.last.items() if key in by_model]

    def means(self, key: Key) -> dict[int, float]:
        """The mean over these tasks at every layer that all of them have."""
        found = mean_by_layer(_plain(layers) for layers in self.scored(key))
        return {layer: round(score, _DIGITS) for layer, score in found.items()}

    def whole(self, key: Key) -> TaskScore:
        """The model's scores over the tasks that it has: means, and the layer best in the mean."""
        scored = self.scored(key)
        last = [row for layers in scored for row in layers.values() if row.last]
        several = all(len(layers) > 1 for layers in scored)
        layer, score = (best(self.means(key)) if several else None) or (None, None)
        chosen = [] if layer is None else [layers[layer] for layers in scored]
        return TaskScore(
            self.score(key),
            layer,
            score,
            statistics.mean_stderr([row.stderr for row in last]),
            statistics.mean_of_all([row.chance for row in last]),
            statistics.mean_stderr([row.stderr for row in chosen]),
        )

    def on_task(self, key: Key, task: str) -> TaskScore:
        """The model's scores on one task; the best layer also where the last one is missing."""
        layers = self.layers[key].get(task, {})
        if len(layers) < 2:  # nothing to choose from
            for row in layers.values():
                if row.last:
                    return TaskScore(row.score, None, None, row.stderr, row.chance)
            return NONE
        last = next((row for row in layers.values() if row.last), None)
        layer, score = best(_plain(layers)) or (None, None)
        return TaskScore(
            last.score if last else None,
            layer,
            score,
            last.stderr if last else None,
            last.chance if last else None,
            None if layer is None else layers[layer].stderr,
        )


def make(results: Results) -> Panel:
    """The panel of results; of a unit that is there twice the newer row counts."""
    models = {row.key: row for row in results.models if row.variant == "full"}
    layers: dict[Key, dict[str, dict[int, ScoreRow]]] = {key: {} for key in models}
    last: Values = {}
    known: dict[str, ScoreRow] = {}
    chances: dict[str, float] = {}
    for row in results.scores:
        known[row.task] = row
        key = row.key
        if key not in models:
            continue
        layers[key].setdefault(row.task, {})[row.layer] = row
        if row.last:
            last.setdefault(row.task, {})[key] = row.score
            if row.chance is not None:
                chances[row.task] = row.chance
    metrics = _metric_columns(results.metrics)
    return Panel(
        models=models,
        metrics=metrics,
        tasks=tuple(
            TaskColumn(t, known[t].task_type, known[t].score_name, len(held), chances.get(t))
            for t, held in last.items()
        ),
        last=last,
        layers=layers,
        selected={c.name: _values(results.metrics, c.name, c.selection.score) for c in metrics},
        frenet_rank=_values(results.metrics, "frenet", "rank"),
        others=_others(results.metrics, metrics),
    )


def mean(values: Values, key: Key) -> float | None:
    """The mean over the tasks that the model has; None where it has none."""
    own = [by_model[key] for by_model in values.values() if key in by_model]
    return fsum(own) / len(own) if own else None


def mean_ranks(values: Values, keys: Iterable[Key], choice: Choice) -> MeanRanks:
    """Each model's mean over tasks of its rank within the task; None for one that lacks a task."""
    keys = list(keys)
    table = [[by_model.get(key) for key in keys] for by_model in values.values()]
    ranks = statistics.mean_ranks(table, higher_is_better=choice.best == "max")
    return dict(zip(keys, ranks, strict=True)) if table else dict.fromkeys(keys)


def _plain(layers: Layers) -> dict[int, float]:
    return {layer: row.score for layer, row in layers.items()}


def _metric_columns(metrics: Sequence[MetricRow]) -> tuple[MetricColumn, ...]:
    """The metrics that rank models, in order of first appearance."""
    choices: dict[str, Choice] = {}
    tasks: dict[str, dict[str, None]] = {}
    for row in metrics:
        if row.selection and row.variant == "full" and row.selection[0] in row.values:
            choices.setdefault(row.metric, Choice(*row.selection))
            tasks.setdefault(row.metric, {})[row.task] = None
    return tuple(MetricColumn(name, choices[name], tuple(tasks[name])) for name in choices)


def _others(metrics: Sequence[MetricRow], columns: Sequence[MetricColumn]) -> dict[str, Values]:
    chosen = {(column.name, column.selection.score) for column in columns}
    found = {f"{m}.{s}": _values(metrics, m, s) for m, s in OTHERS if (m, s) not in chosen}
    return {name: values for name, values in found.items() if values}


def _values(metrics: Sequence[MetricRow], metric: str, score: str) -> Values:
    """One model-level score of a metric; where a unit was measured twice the newer one counts."""
    values: Values = {}
    for row in metrics:
        if row.metric == metric and row.variant == "full" and score in row.values:
            values.setdefault(row.task, {})[row.key] = row.values[score]
    return values


LOG_PARAMETERS, FRENET_RANK, RELEASED = "log parameters", "frenet.rank", "released later"
DATED = 4  # models whose release date is known, for it to be a baseline


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


def correlations(
    panel: Panel, actual: Mapping[Key, float | None], order: Mapping[str, MeanRanks]
) -> tuple[Correlation, ...]:
    """Each predictor's agreement with the mean score: the metrics, then what needs no metric.

    `frenet.rank` is ranked within tasks as a metric's score is, higher = better.
    """
    frenet = mean_ranks(panel.frenet_rank, panel.models, Choice("rank", "max"))
    baselines = {**sizes(panel), FRENET_RANK: negated(frenet), **dates(panel)}
    return (
        *(_correlation(name, "metric", negated(ranks), actual) for name, ranks in order.items()),
        *(_correlation(name, "baseline", values, actual) for name, values in baselines.items()),
    )


def sizes(panel: Panel) -> dict[str, dict[Key, float | None]]:
    """What a model's size predicts: log parameters, log width, depth (blocks); None: not known."""
    models = panel.models.items()
    return {
        LOG_PARAMETERS: {key: log(m.parameters) if m.parameters else None for key, m in models},
        "log width": {key: log(m.width) if m.width else None for key, m in models},
        "depth": {key: float(m.blocks) if m.blocks else None for key, m in models},
    }


def dates(panel: Panel) -> dict[str, dict[Key, float | None]]:
    """What a model's release date predicts, the later the better; {} where 4 are not known."""
    known = {key: m.released for key, m in panel.models.items() if m.released}
    if len(known) < DATED:
        return {}
    days = {key: releases.middle(released) for key, released in known.items()}
    return {RELEASED: {key: days.get(key) for key in panel.models}}


def negated(ranks: MeanRanks) -> MeanRanks:
    """Rank 1 is the best, a score of 1 the worst: turned so that + means that they agree."""
    return {key: None if rank is None else -rank for key, rank in ranks.items()}


def _correlation(
    name: str,
    kind: Literal["metric", "baseline"],
    predicted: Mapping[Key, float | None],
    actual: Mapping[Key, float | None],
) -> Correlation:
    x, y = [predicted[key] for key in actual], list(actual.values())
    n = len(statistics.paired(x, y)[0])
    return Correlation(name, kind, statistics.spearman(x, y), statistics.permutation_p(x, y), n)
