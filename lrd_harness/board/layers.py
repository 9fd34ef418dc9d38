"""Scores and profiles layer by layer: a model's table, and the best layer of a task or of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import fsum
from typing import Literal

from lrd_harness.errors import unknown
from lrd_harness.results.database import MetricRow, Results, ScoreRow
from lrd_harness.results.tasks import likelihood_tasks

LayerScores = Mapping[int, float]  # layer -> score
Direction = Literal["max", "min"]
OTHER: Mapping[Direction, Direction] = {"max": "min", "min": "max"}


@dataclass(frozen=True)
class LayerTable:
    """One model, layer by layer.

    layers: the numbers of the states that have a score or a value, ascending.
    scores: a tuple a layer, a score a task, None where there is none.
    means: the mean of each layer's scores, None where the layer lacks a task.
    profiles: "metric.score" -> a value a layer, the mean over the tasks that have this profile;
        None where the layer lacks one of them (what begins above a degenerate state, or belongs to
        steps and so ends below L).
    apart: the likelihood tasks, where there are embedding tasks too: their scores are no part of
        the means, and their profiles only where no embedding task has such a profile.
    """

    model: str
    revision: str
    layers: tuple[int, ...]
    tasks: tuple[str, ...]
    scores: tuple[tuple[float | None, ...], ...]
    means: tuple[float | None, ...]
    profiles: Mapping[str, tuple[float | None, ...]]
    apart: tuple[str, ...] = ()


def layer_table(
    results: Results, model: str, revision: str | None = None, variant: str = "full"
) -> LayerTable:
    """The scores and profiles of a model (its newest revision where none is given).

    Raises UserError for a model that is not in the results.
    """
    keys = [row.key for row in results.models if row.variant == variant]
    found = [k for k in keys if k.model == model and revision in (None, k.revision)]
    if not found:
        asked = model if revision is None else f"{model} (revision {revision})"
        raise unknown("model", asked, {k.model for k in keys})
    key = found[-1]
    by_task = scores_by_task(row for row in results.scores if row.key == key)
    metrics = [row for row in results.metrics if row.key == key]
    tasks = {*by_task, *(row.task for row in metrics)}
    likelihood = likelihood_tasks(results) & tasks
    apart = likelihood if likelihood < tasks else frozenset[str]()
    by_name = _profiles(row for row in metrics if row.task in apart)
    by_name |= _profiles(row for row in metrics if row.task not in apart)
    averaged = [scores for task, scores in by_task.items() if task not in apart]
    held = [*by_task.values(), *(p for several in by_name.values() for p in several)]
    layers = sorted({layer for values in held for layer in values})
    return LayerTable(
        model=key.model,
        revision=key.revision,
        layers=tuple(layers),
        tasks=tuple(by_task),
        scores=tuple(tuple(by_task[t].get(layer) for t in by_task) for layer in layers),
        means=tuple(_mean(averaged, layer) for layer in layers),
        profiles={
            name: tuple(_mean(several, layer) for layer in layers)
            for name, several in by_name.items()
        },
        apart=tuple(task for task in by_task if task in apart),
    )


def scores_by_task(rows: Iterable[ScoreRow]) -> dict[str, dict[int, float]]:
    """Task -> layer -> score, of one model's rows."""
    tasks: dict[str, dict[int, float]] = {}
    for row in rows:
        tasks.setdefault(row.task, {})[row.layer] = row.score
    return tasks


def pick(values: LayerScores, direction: Direction = "max") -> int:
    """The layer with the highest or lowest value; ties to the lower layer, the cheaper one."""
    sign = 1 if direction == "max" else -1
    return max(values, key=lambda layer: (sign * values[layer], -layer))


def best(scores: LayerScores) -> tuple[int, float] | None:
    """The layer with the highest score and that score; ties to the lower layer, the cheaper one.

    None where fewer than two layers were scored: there was nothing to choose from.
    """
    if len(scores) < 2:
        return None
    layer = pick(scores)
    return layer, scores[layer]


def mean_by_layer(tasks: Iterable[LayerScores]) -> dict[int, float]:
    """The mean over tasks at every layer that all of them have."""
    several = list(tasks)
    layers = sorted({layer for scores in several for layer in scores})
    means = {layer: _mean(several, layer) for layer in layers}
    return {layer: mean for layer, mean in means.items() if mean is not None}


def _profiles(rows: Iterable[MetricRow]) -> dict[str, list[dict[int, float]]]:
    """For each "metric.score" a profile a task, as layer -> value."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for name, profile in row.profiles.items():
            pairs = zip(profile.layers, profile.values, strict=True)
            values = {layer: value for layer, value in pairs if value is not None}
            found.setdefault(f"{row.metric}.{name}", {})[row.task] = values
    return {name: list(by_task.values()) for name, by_task in found.items()}


def _mean(several: Iterable[LayerScores], layer: int) -> float | None:
    values = [scores.get(layer) for scores in several]
    there = [value for value in values if value is not None]
    return fsum(there) / len(there) if there and len(there) == len(values) else None
