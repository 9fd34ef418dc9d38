"""Units of work: what of a model is still to be done, and the record of each unit that is done.

A fault is recorded with its unit and ends nothing else.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrd_harness.capture.layers import LayerView, LikelihoodLayer
from lrd_harness.capture.likelihoods import Reader
from lrd_harness.contracts import Score, Task
from lrd_harness.errors import Elsewhere, described
from lrd_harness.measuring import PlannedMetric
from lrd_harness.planning.resolve import Plan, PlannedModel
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.progress import Display
from lrd_harness.results import database, journal
from lrd_harness.scores import split_scores
from lrd_harness.store import location
from lrd_harness.store.files import full

LONGEST_TRACE = 50_000  # characters: a message may hold all that was read
ODD = ("asked", "duplicates", "empty", "truncated")
SAME_STATE = "every text has the same state there"


class Ledger:
    """The finished units of a run: those of its folder's journals, and those recorded now.

    failed: the units that failed since this ledger was opened.
    """

    def __init__(self, out: Path, display: Display) -> None:
        database.restore(out)
        self._out, self._display = out, display
        self._journal = journal.Journal(out)
        self.failed: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Take note of what other processes have recorded."""
        self._records = {r["unit"]: r for r in journal.latest(journal.read(self._out))}

    def meet(self, ranks: Ranks) -> None:
        """Wait for the other processes, and take note of what they have recorded.

        None goes on before all have: they decide alike.
        """
        if ranks.world > 1:
            ranks.wait()
            self.refresh()
            ranks.wait()

    def undone(self, key: str) -> bool:
        """Whether a unit is not recorded yet, or only as an error, which is tried again."""
        record = self._records.get(key)
        return record is None or record["kind"] == "error"

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a unit that was finished without an error."""
        return None if self.undone(key) else self._records[key]

    def record(self, kind: str, key: str, planned: PlannedModel, **fields: Any) -> None:
        """Keep a finished unit; when this returns, it is on disk."""
        record = {
            "kind": kind,
            "unit": key,
            "model": planned.name,
            "revision": planned.checkpoint.revision,
            "variant": "full",
            **fields,
        }
        self._journal.append(record)
        self._records[key] = record

    def fail(
        self, key: str, planned: PlannedModel, error: Exception, **where: str | int | None
    ) -> None:
        """Keep a unit's error (task, layer, metric say where) and show it; the run goes on.

        Raises StorageFull instead where a full disk is behind it, which is no fault of the unit.
        """
        no_space = full(error)
        if no_space is not None:
            raise no_space from error
        if isinstance(error, Elsewhere):  # no fault of this unit: the run is at its end
            raise error
        self.failed.add(key)
        text = location.text(described(error))
        place = ", ".join(f"{k} {v}" for k, v in where.items() if v is not None)
        line = text or type(error).__name__
        self._display.line(f"error: {planned.name}{': ' if place else ''}{place}: {line}")
        trace = location.text("".join(traceback.format_exception(error)))[-LONGEST_TRACE:]
        nowhere: dict[str, Any] = {"task": None, "layer": None, "metric": None}
        self.record("error", key, planned, **{**nowhere, **where}, error=text, traceback=trace)

    def mend(self, key: str, planned: PlannedModel) -> None:
        """Note that what failed in an earlier call has now succeeded, if it had failed."""
        if key in self._records and self.undone(key):
            self.record("mended", key, planned)

    def met(self) -> dict[str, dict[str, dict[str, int]]]:
        """By model and task: texts asked for, duplicates, empty and truncated ones among them."""
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for record in self._records.values():
            if record["kind"] == "texts":
                own = {name: record[name] for name in ODD}
                counts.setdefault(record["model"], {})[record["task"]] = own
        return counts

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


@dataclass
class Context:
    """A run's work on one of its models: what is planned and recorded, who works, where it is told.

    out: the output folder; place: the model among those of the run, as "[1/2] NAME".
    """

    plan: Plan
    planned: PlannedModel
    ledger: Ledger
    out: Path
    display: Display
    ranks: Ranks = ALONE
    place: str = ""

    def unit(self, *parts: object) -> str:
        """The name under which a finished piece of work is known; settings are a folder's own."""
        model = f"{self.planned.name}@{self.planned.checkpoint.revision}"
        return "|".join([model, *map(str, parts)])

    def metric_unit(self, task: Task, item: PlannedMetric) -> str:
        """A metric's unit: other parameters or another version of it are other units."""
        parameters = json.dumps(dict(item.parameters), sort_keys=True, default=str)
        return self.unit(task.name, "metric", item.metric.name, item.metric.version, parameters)

    def undone(self, *parts: object) -> bool:
        """Whether a unit is not recorded yet, or only as an error."""
        return self.ledger.undone(self.unit(*parts))

    def record(self, kind: str, key: str, **fields: Any) -> None:
        """Keep a finished unit of this model."""
        self.ledger.record(kind, key, self.planned, **fields)

    def fail(self, key: str, error: Exception, **where: str | int | None) -> None:
        """Keep the error of a unit of this model, and show it. Raises as Ledger.fail."""
        self.ledger.fail(key, self.planned, error, **where)

    def mend(self, key: str) -> None:
        """Note that a unit of this model has now succeeded, if it had failed."""
        self.ledger.mend(key, self.planned)

    def layers(self, task: Task, blocks: int) -> Sequence[int]:
        """The layers that a task is evaluated at: 0..L, L alone, or chosen ones."""
        chosen = self.plan.settings.layers
        if task.evaluate is None:
            return []
        if chosen == "last":
            return [blocks]
        if isinstance(chosen, str):
            return range(blocks + 1)
        pruned = self.plan.pruning is not None and task in self.plan.pruning.tasks
        return sorted({*chosen, blocks}) if pruned else chosen  # what is left is compared with L

    def unevaluated(self, task: Task, blocks: int) -> list[int]:
        """The layers that a task is still to be evaluated at."""
        return [layer for layer in self.layers(task, blocks) if self.undone(task.name, layer)]

    def unmeasured(self, task: Task) -> list[PlannedMetric]:
        """The metrics that are still to be measured on a task."""
        undone = self.ledger.undone
        return [item for item in self.plan.metrics if undone(self.metric_unit(task, item))]

    def pending(self, blocks: int, tasks: Iterable[Task]) -> list[Task]:
        """Those of the tasks of which some unit is not recorded, or only as an error."""
        return [
            task
            for task in tasks
            if self.planned.takes(task)
            and (self.unevaluated(task, blocks) or self.unmeasured(task))
        ]

    def ask(self, reader: Reader, task: Task, evaluated: bool, measured: bool) -> list[Any] | None:
        """What a task will ask for, and metrics on it; None where that fails, which is recorded."""
        try:
            return list(reader.ask(task, evaluated, measured))
        except Exception as error:
            self.fail(self.unit(task.name, "texts"), error, task=task.name)
            return None

    def common(self, asked: Mapping[Task, list[Any]]) -> dict[Task, list[Any]]:
        """What is asked of those tasks that have not failed in any process."""
        names = self.ranks.common(task.name for task in asked)
        return {task: texts for task, texts in asked.items() if task.name in names}


def measure(context: Context, reader: Reader, task: Task, item: PlannedMetric) -> None:
    """A metric on the texts of a task; its values are recorded, or its error."""
    begun = time.perf_counter()
    key = context.metric_unit(task, item)
    where = {"task": task.name, "metric": item.metric.name}
    try:
        scores, n = reader.samples.measure(item, reader.sample(task))
        split = split_scores(scores)
        values = split.values
        if item.metric.needs != "tokens" or scores.start:
            values = {**values, "start": scores.start}
        norm, pooling = context.plan.settings.norm, reader.model.info.pooling
        context.record(
            "metric",
            key,
            **where,
            task_type=task.type,
            version=item.metric.version,
            n=n,
            start=scores.start,
            parameters={**item.written, "norm": norm, "pooling": pooling},
            selection=item.metric.selection,
            layer_choice=item.metric.layer_choice,
            values=values,
            profiles=split.profiles,
            tables=split.tables,
            seconds=time.perf_counter() - begun,
        )
    except Exception as error:  # also values that no journal can hold
        context.fail(key, error, **where)


def evaluate_layer(context: Context, reader: Reader, task: Task, layer: int) -> None:
    """A task at a layer of the whole model; its score is recorded, or its error."""
    blocks, checkpoint = reader.model.info.blocks, context.planned.checkpoint
    label = {"reading": context.planned.label} if context.planned.label else {}
    # the names under which its result is kept: its own, and for the last layer the model's
    experiments: list[dict[str, Any]] = [{"layer": layer, **label}]
    if layer == blocks:
        experiments.append(label)
    view = reader.view(layer, checkpoint.name, checkpoint.revision, experiments)
    evaluate(context, task, view, context.unit(task.name, layer), layer, blocks)


def evaluate(
    context: Context,
    task: Task,
    view: LayerView | LikelihoodLayer,
    key: str,
    layer: int,
    layers: int,
    variant: str = "full",
) -> None:
    """A task on a view; its score is recorded and its native result written, or its error."""
    assert task.evaluate is not None
    begun = time.perf_counter()
    place: dict[str, Any] = {"task": task.name, "layer": layer, "variant": variant}
    try:
        score = task.evaluate(view)
        if not np.isfinite(score.main) and view.constant:
            context.record("undefined", key, **place, error=SAME_STATE)
            return
        _check(task, score)
        if task.save is not None:
            task.save(score, view, context.out)
        context.record(
            "score",
            key,
            **place,
            task_type=task.type,
            layers=layers,
            score_name=score.name,
            score=score.main,
            stderr=score.stderr,
            chance=score.chance,
            scores=journal.finite(score.scores),
            seconds=time.perf_counter() - begun,
        )
    except Exception as error:  # also values that no journal can hold
        context.fail(key, error, **place)


def _check(task: Task, score: Score) -> None:
    """Raise ValueError for a number that is none, which no table can hold."""
    for what, value in (
        ("its main score", score.main),
        ("the standard error of its score", score.stderr),
        ("the score of chance", score.chance),
    ):
        if value is not None and not np.isfinite(value):
            raise ValueError(f"{task.name} gave {value} for {what}")
