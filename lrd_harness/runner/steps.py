"""The two steps of the work on captured states: measure a metric, evaluate a layer. Each is a unit.

A fault is recorded with its unit and ends nothing else.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrd_harness.capture.states import Reading, View
from lrd_harness.contracts import Norm, Score, Task
from lrd_harness.measuring import PlannedMetric, split_scores
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.results import journal
from lrd_harness.runner.ledger import Ledger, metric_unit, unit

SAME_STATE = "every text has the same state there"


def measure(
    ledger: Ledger,
    planned: PlannedModel,
    reading: Reading,
    task: Task,
    item: PlannedMetric,
    norm: Norm,
) -> None:
    """A metric on the texts of a task; its values are recorded, or its error."""
    begun = time.perf_counter()
    key = metric_unit(planned, task, item)
    where = {"task": task.name, "metric": item.metric.name}
    try:
        scores, n = reading.samples.measure(item, reading.sample(task))
        found = split_scores(scores, reading.model.info.blocks + 1)
        pooling = reading.model.info.pooling
        ledger.record(
            "metric",
            key,
            planned,
            **where,
            task_type=task.type,
            version=item.metric.version,
            n=n,
            start=int(found.values.get("start", 0)),
            parameters={**item.written, "norm": norm, "pooling": pooling},
            selection=item.metric.selection,
            layer_choice=item.metric.layer_choice,
            **found._asdict(),
            seconds=time.perf_counter() - begun,
        )
    except Exception as error:  # also values that no journal can hold
        ledger.fail(key, planned, error, **where)


class Where(NamedTuple):
    """Where a score belongs: its unit, its layer of how many, and of which variant of the model."""

    unit: str
    layer: int
    layers: int
    variant: str = "full"


def evaluate_layer(
    ledger: Ledger, planned: PlannedModel, reading: Reading, task: Task, layer: int, out: Path
) -> None:
    """A task at a layer of the whole model; its score is recorded, or its error."""
    blocks, found = reading.model.info.blocks, planned.checkpoint
    experiments = _experiments(planned, layer, blocks)
    view = reading.view(layer, found.name, found.revision, experiments)
    where = Where(unit(planned, task.name, layer), layer, blocks)
    evaluate(ledger, planned, task, view, where, out)


def evaluate(
    ledger: Ledger, planned: PlannedModel, task: Task, view: View, where: Where, out: Path
) -> None:
    """A task on a view; its score is recorded and its native result written, or its error."""
    assert task.evaluate is not None
    begun = time.perf_counter()
    place: dict[str, Any] = {"task": task.name, "layer": where.layer, "variant": where.variant}
    try:
        score = task.evaluate(view)
        if not np.isfinite(score.main) and view.constant:
            ledger.record("undefined", where.unit, planned, **place, error=SAME_STATE)
            return
        _check(task, score)
        if task.save is not None:
            task.save(score, view, out)
        ledger.record(
            "score",
            where.unit,
            planned,
            **place,
            task_type=task.type,
            layers=where.layers,
            score_name=score.name,
            score=score.main,
            stderr=score.stderr,
            chance=score.chance,
            scores=journal.finite(score.scores),
            seconds=time.perf_counter() - begun,
        )
    except Exception as error:  # also values that no journal can hold
        ledger.fail(where.unit, planned, error, **place)


def _check(task: Task, score: Score) -> None:
    """Raise ValueError for a number that is none, which no table can hold."""
    for what, value in (
        ("its main score", score.main),
        ("the standard error of its score", score.stderr),
        ("the score of chance", score.chance),
    ):
        if value is not None and not np.isfinite(value):
            raise ValueError(f"{task.name} gave {value} for {what}")


def _experiments(planned: PlannedModel, layer: int, blocks: int) -> list[dict[str, Any]]:
    """The names under which a layer's result is kept: its own, and for the last the model's."""
    reading = {"reading": planned.label} if planned.label else {}
    experiments: list[dict[str, Any]] = [{"layer": layer, **reading}]
    return [*experiments, reading] if layer == blocks else experiments
