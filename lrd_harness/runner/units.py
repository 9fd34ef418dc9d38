"""Units of work: what of a model is still to be done, and the record of each unit that is done.

A fault is recorded with its unit and ends nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lrd_harness.capture.layers import LayerView, LikelihoodLayer
from lrd_harness.capture.likelihoods import Reader
from lrd_harness.capture.samples import Questions, Sampling, unsuited
from lrd_harness.capture.token_budget import Budget, batch_size, found_before
from lrd_harness.contracts import Model, Task
from lrd_harness.errors import Elsewhere, UnitError, described
from lrd_harness.measuring import PER_TEXT, PlannedMetric, PlannedPanel
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.resolve import Plan
from lrd_harness.planning.settings import Settings
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.progress import Advance, Display
from lrd_harness.report import worded
from lrd_harness.results import database, journal
from lrd_harness.runner.profile import Profile
from lrd_harness.scores import split_scores
from lrd_harness.store import location
from lrd_harness.store.files import full
from lrd_harness.store.location import cache_dir

LONGEST_TRACE = 50_000  # characters: a message may hold all that was read
ODD = ("asked", "duplicates", "empty", "truncated")
Result = TypeVar("Result")


class Ledger:
    """The finished units of a run: those of its folder's journals, and those recorded now.

    failed: the units that failed since this ledger was opened.
    """

    def __init__(self, out: Path) -> None:
        database.restore(out)
        self._out = out
        self._journal = journal.Journal(out)
        self.failed: set[str] = set()
        self._refresh()

    def _refresh(self) -> None:
        self._records = {r["unit"]: r for r in journal.latest(journal.read(self._out))}

    def meet(self, ranks: Ranks) -> None:
        """Wait for the other processes, and take note of what they have recorded.

        None goes on before all have: they decide alike.
        """
        if ranks.world > 1:
            ranks.wait()
            self._refresh()
            ranks.wait()

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a unit that was finished without an error."""
        record = self._records.get(key)
        return None if record is None or record["kind"] == "error" else record

    def undone(self, key: str) -> bool:
        """Whether a unit is not recorded yet, or only as an error, which is tried again."""
        return self.get(key) is None

    def failing(self, key: str) -> bool:
        """Whether a unit is recorded as an error."""
        return key in self._records and self.undone(key)

    def faults(self) -> dict[str, str]:
        """What failed since this ledger was opened, by unit: where, and how."""
        records = {unit: self._records[unit] for unit in self.failed}
        names = "model", "task", "error"
        return {u: ": ".join(filter(None, map(r.get, names))) for u, r in records.items()}

    def note(self, record: dict[str, Any]) -> None:
        """Take note of what an evaluator has recorded."""
        self._records[record["unit"]] = record
        if record["kind"] == "error":
            self.failed.add(record["unit"])

    def append(self, record: dict[str, Any]) -> None:
        """Keep a unit's record; when this returns, it is on disk."""
        self._journal.append(record)
        self._records[record["unit"]] = record

    def met(self) -> dict[str, dict[str, dict[str, int]]]:
        """By model and task: texts asked for, duplicates, empty and truncated ones among them."""
        counts: defaultdict[str, dict[str, dict[str, int]]] = defaultdict(dict)
        for record in self._records.values():
            if record["kind"] == "texts":
                counts[record["model"]][record["task"]] = {name: record[name] for name in ODD}
        return counts

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


@dataclass
class Context:
    """A run's work on one of its models: what is planned and recorded, who works, where it is told.

    out: the output folder; place: the model among those of the run, as "[1/2] NAME"; profile,
    questions: of all of the run.
    """

    plan: Plan
    planned: PlannedModel
    ledger: Ledger
    out: Path
    display: Display
    ranks: Ranks = ALONE
    place: str = ""
    profile: Profile = field(default_factory=Profile)
    questions: Questions | None = None

    @property
    def label(self) -> dict[str, str]:
        """How the model is read, where that is not its own way; of an experiment's name."""
        return self.planned.experiment

    @property
    def inputs(self) -> str:
        """What the model reads, in progress: "texts" or "images"."""
        return f"{self.planned.modality}s"

    @property
    def named(self) -> str:
        """NAME@REVISION of the model."""
        return f"{self.planned.name}@{self.planned.checkpoint.revision}"

    def unit(self, *parts: object) -> str:
        """The name under which a finished piece of work is known; settings are a folder's own."""
        return "|".join([self.named, *map(str, parts)])

    def metric_unit(self, task: Task, item: PlannedMetric | PlannedPanel) -> str:
        """A metric's unit: other parameters or another version of it are other units."""
        parameters = json.dumps(dict(item.parameters), sort_keys=True, default=str)
        return self.unit(task.name, "metric", item.metric.name, item.metric.version, parameters)

    def readable(self, task: Task) -> bool:
        """Whether the model takes a task, and nothing is recorded that kept it from being read."""
        units = (("model",), ("forward",), (task.name, "texts"))
        failing = (self.ledger.failing(self.unit(*parts)) for parts in units)
        return self.planned.takes(task) and not any(failing)

    def panel(self, task: Task) -> list[Context]:
        """The work on the models of this call that a panel metric compares on a task."""
        every = (replace(self, planned=planned) for planned in self.plan.models)
        return [context for context in every if context.readable(task)]

    def panel_unit(self, task: Task, item: PlannedPanel, panel: Sequence[Context]) -> str:
        """As `metric_unit`: what a model's values are among other models are other units."""
        names = "\n".join(context.named for context in panel)
        return f"{self.metric_unit(task, item)}|{hashlib.sha256(names.encode()).hexdigest()[:16]}"

    def uncompared(self, task: Task) -> list[PlannedPanel]:
        """The panel metrics of which a value on a task is missing; none below two models."""
        panel = self.panel(task) if self.plan.panel else []
        return [
            item
            for item in self.plan.panel
            if len(panel) > 1
            and any(self.ledger.undone(of.panel_unit(task, item, panel)) for of in panel)
            and not self._too_few(item, task)
        ]

    def undone(self, *parts: object) -> bool:
        """Whether a unit is not recorded yet, or only as an error."""
        return self.ledger.undone(self.unit(*parts))

    def record(self, kind: str, key: str, **fields: Any) -> None:
        """Keep a finished unit of this model."""
        name, revision = self.planned.name, self.planned.checkpoint.revision
        of = {"kind": kind, "unit": key, "model": name, "revision": revision, "variant": "full"}
        self.ledger.append({**of, **fields})

    def fail(self, key: str, error: Exception, **where: str | int | None) -> None:
        """Keep a unit's error (task, layer, metric say where) and show it; the run goes on.

        Raises StorageFull instead where a full disk is behind it, which is no fault of the unit.
        """
        if no_space := full(error):
            raise no_space from error
        if isinstance(error, Elsewhere):  # no fault of this unit: the run is at its end
            raise error
        self.ledger.failed.add(key)
        text = location.text(described(error))
        if isinstance(error, UnitError):  # others name files
            text = worded(text, self.planned.modality)
        place = ", ".join(f"{k} {v}" for k, v in where.items() if v is not None)
        line = text or type(error).__name__
        self.display.line(f"error: {self.planned.name}{': ' if place else ''}{place}: {line}")
        nowhere: dict[str, Any] = {"task": None, "layer": None, "metric": None}
        self.record("error", key, **{**nowhere, **where}, error=text, traceback=trace(error))

    @contextmanager
    def attempt(
        self, key: str, kind: type[Exception] = Exception, **where: str | int | None
    ) -> Iterator[None]:
        """Do something, whose error is the unit's (see `fail`) and ends nothing else."""
        try:
            yield
        except kind as error:
            self.fail(key, error, **where)

    def everywhere(
        self,
        key: str,
        do: Callable[[], Result],
        kind: type[Exception] = Exception,
        **where: str | int | None,
    ) -> Result | None:
        """What `do` gives in every process; None where it failed in any (see `attempt`)."""
        results = []
        with self.attempt(key, kind, **where):
            results.append(do())
        return results[0] if self.ranks.agree(bool(results)) else None

    def work_through(self, what: str, units: Sequence[Callable[[], None]]) -> None:
        """Do units of a stage, dealt out among the processes."""
        with self.display.stage(f"{self.place}: {what}", "units") as advance:
            for number, do in self.ranks.deal(units):
                advance(number, len(units))
                do()
            advance(len(units), len(units))

    def mend(self, key: str) -> None:
        """Note that a unit has now succeeded, if it had failed in an earlier call."""
        if self.ledger.failing(key):
            self.record("mended", key)

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
        suited = (item for item in self.plan.metrics if not unsuited(item.metric, task))
        left = [item for item in suited if undone(self.metric_unit(task, item))]
        return [item for item in left if not self._too_few(item, task)]

    def _too_few(self, item: PlannedMetric | PlannedPanel, task: Task) -> bool:
        return self.questions is not None and self.questions.too_few(item, task)

    def pending(self, blocks: int, tasks: Iterable[Task]) -> list[Task]:
        """Those of the tasks of which some unit is not recorded, or only as an error."""
        return [
            task
            for task in tasks
            if self.planned.takes(task)
            and (self.unevaluated(task, blocks) or self.unmeasured(task) or self.uncompared(task))
        ]

    def ask(
        self,
        reader: Reader,
        tasks: Sequence[Task],
        measured: bool,
        advance: Advance = lambda done, total: None,
    ) -> dict[Task, list[Any]]:
        """What tasks, and metrics on them if `measured`, will ask for.

        Tasks that fail in any process are out.
        """
        requests: dict[Task, list[Any]] = {}
        for done, task in enumerate(tasks, 1):
            advance(done, len(tasks))
            attempt = self.attempt(self.unit(task.name, "texts"), task=task.name)
            with self.profile.stage("collecting texts"), attempt:
                evaluated = len(self.layers(task, reader.model.info.blocks)) > 0
                requests[task] = list(reader.ask(task, evaluated, measured))
        names = self.ranks.common(task.name for task in requests)
        return {task: texts for task, texts in requests.items() if task.name in names}


def reader_settings(
    settings: Settings, planned: PlannedModel, model: Model
) -> tuple[Budget, Sampling]:
    """How a run reads a model: the tokens of a batch, and what metrics see."""
    device = planned.options.device
    tokens = batch_size(device, settings.batch_tokens)
    budget = found_before(cache_dir() / "budgets", model.identity, device, tokens)
    return budget, Sampling(settings.norm, settings.view_texts, device, settings.store_dtype)


class Unit(NamedTuple):
    """A metric on the texts of a task, or a task at a layer of the whole model, by names.

    identity: of the model whose states are looked at.
    """

    model: str
    task: str
    identity: Mapping[str, str]
    metric: str = ""
    layer: int = 0

    def do(self, context: Context, reader: Reader, task: Task) -> None:
        """Measure or evaluate; the result is recorded, or its error."""
        items = [item for item in context.plan.metrics if item.metric.name == self.metric]
        for item in items:
            measure(context, reader, task, item)
        if not items:
            evaluate_layer(context, reader, task, self.layer)


def measure(context: Context, reader: Reader, task: Task, item: PlannedMetric) -> None:
    """A metric on the texts of a task; its values are recorded, or its error."""
    begun = time.perf_counter()
    key, metric = context.metric_unit(task, item), item.metric
    attempt = context.attempt(key, task=task.name, metric=metric.name)
    with context.profile.stage("metrics"), attempt:  # values no journal can hold too
        labels = partial(reader.questions.labels, task)
        scores, n = reader.samples.measure(item, reader.sample(task), labels)
        split = split_scores(scores)
        shown = {"start": scores.start} if metric.needs not in PER_TEXT or scores.start else {}
        norm, pooling = reader.samples.sampling.norm_of(metric), reader.model.info.pooling
        context.record(
            "metric",
            key,
            task=task.name,
            metric=metric.name,
            task_type=task.type,
            version=metric.version,
            n=n,
            start=scores.start,
            parameters={**item.written, "norm": norm, "pooling": pooling},
            selection=metric.selection,
            layer_choice=metric.layer_choice,
            values={**split.values, **shown},
            profiles=split.profiles,
            tables=split.tables,
            seconds=time.perf_counter() - begun,
            **({"control": True} if metric.needs == "labels" else {}),
            **({"margin": metric.margin} if metric.margin else {}),
        )


def evaluate_layer(context: Context, reader: Reader, task: Task, layer: int) -> None:
    """A task at a layer of the whole model; its score is recorded, or its error."""
    blocks, checkpoint = reader.model.info.blocks, context.planned.checkpoint
    # the names under which its result is kept: its own, and for the last layer the model's
    experiments: list[dict[str, Any]] = [{"layer": layer, **context.label}]
    if layer == blocks:
        experiments.append(context.label)
    view = reader.view(layer, checkpoint.name, checkpoint.revision, experiments)
    with context.profile.stage("tasks × layers"):
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
    with context.attempt(key, **place):
        score = task.evaluate(view)
        if not math.isfinite(score.main) and view.constant:
            alike = f"every {task.modality} has the same state there"
            context.record("undefined", key, **place, error=alike)
            return
        for what, value in (
            ("its main score", score.main),
            ("the standard error of its score", score.stderr),
            ("the score of chance", score.chance),
        ):
            if value is not None and not math.isfinite(value):  # no table can hold it
                raise ValueError(f"{task.name} gave {value} for {what}")
        if task.save is not None:
            with context.profile.stage("writing"):
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


def trace(error: Exception) -> str:
    """The traceback of an error, as a journal keeps it: without this machine's folders."""
    return location.text("".join(traceback.format_exception(error)))[-LONGEST_TRACE:]
