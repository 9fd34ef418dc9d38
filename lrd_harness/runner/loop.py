"""The loop: open each model, read its states once, measure them, evaluate every layer.

What of a plan is still to be done: what the ledger does not hold.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lrd_harness.capture.batches import remembered
from lrd_harness.capture.embeddings import Captured
from lrd_harness.capture.requests import Questions
from lrd_harness.capture.samples import Sampling
from lrd_harness.capture.states import Embeddings, Likelihoods, Reading
from lrd_harness.contracts import Model, Task
from lrd_harness.errors import UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models import text_model
from lrd_harness.planning.resolve import Plan, PlannedModel
from lrd_harness.processes import ALONE, Ranks, together
from lrd_harness.progress import Display
from lrd_harness.results import models
from lrd_harness.runner import steps
from lrd_harness.runner.ledger import Ledger, metric_unit, unit
from lrd_harness.runner.sweep import Sweep
from lrd_harness.store.location import cache_dir


class Todo:
    """The units of a plan that are not recorded yet."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.plan, self.ledger = plan, ledger

    def pending(self, planned: PlannedModel, blocks: int, tasks: Sequence[Task]) -> bool:
        """Whether any unit of these tasks is not recorded, or only as an error."""
        own = [t for t in tasks if planned.takes(t)]
        keys = [unit(planned, t.name, layer) for t in own for layer in self.layers(t, blocks)]
        keys += [metric_unit(planned, t, item) for t in own for item in self.plan.metrics]
        return any(map(self.ledger.undone, keys))

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

    def unmeasured(
        self, planned: PlannedModel, tasks: Iterable[Task]
    ) -> dict[Task, list[PlannedMetric]]:
        """The metrics that are still to be measured on each task."""
        return {
            task: [
                m for m in self.plan.metrics if self.ledger.undone(metric_unit(planned, task, m))
            ]
            for task in tasks
        }


Kind = type[Embeddings] | type[Likelihoods]
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 8_192}


class Run:
    """One run of a plan into an output folder; units that the folder's journals hold are skipped.

    ledger.errors: how many units failed in this call.
    """

    def __init__(self, plan: Plan, out: Path, display: Display, ranks: Ranks = ALONE) -> None:
        text_model.exact()
        self.plan, self.out, self.display, self.ranks = plan, out, display, ranks
        self.ledger = together(ranks, lambda: Ledger(out, display))
        self.todo = Todo(plan, self.ledger)
        self.readings: dict[str, list[Reading]] = {}
        self.past: dict[str, Captured] = {}  # of models that are done and let go of
        self.sweeps: dict[str, Sweep] = {}
        self.questions = Questions(plan.settings.max_texts)

    @property
    def counters(self) -> dict[str, Captured]:
        """What was read by this call, by model."""
        found: dict[str, Captured] = {}
        for name in {**self.past, **self.readings, **self.sweeps}:
            past = [self.past[name]] if name in self.past else []
            sweep = [self.sweeps[name].captured] if name in self.sweeps else []
            captured = [reading.captured for reading in self.readings.get(name, ())]
            found[name] = sum([*past, *captured, *sweep], Captured())
        return found

    def execute(self) -> None:
        """Do all that is not done yet. A fault in a unit is recorded and does not end the run."""
        for number, planned in enumerate(self.plan.models, 1):
            place = f"[{number}/{len(self.plan.models)}] {planned.name}"
            known = self.ledger.get(unit(planned, "model"))
            if self.plan.pruning is not None:
                self.sweeps[planned.name] = Sweep(
                    planned, self.plan, self.ledger, self.display, self.out, self.ranks
                )
            blocks = known.get("blocks") if known is not None else None  # unknown: opened again
            if blocks is not None and not self._left(planned, blocks):
                if planned.name in self.sweeps:
                    self.sweeps[planned.name].note()
                self.display.line(f"{place}: nothing left to do")
                continue
            self._model(planned, place)
            self.ledger.meet(self.ranks)
            self._let_go(planned)
            gc.collect()  # no two models in memory at once
        self.ledger.close()

    def _let_go(self, planned: PlannedModel) -> None:
        """Keep the counters alone of a model that is done: neither it nor its states are in use."""
        readings = self.readings.pop(planned.name, None)
        if readings is not None:
            self.past[planned.name] = sum((r.captured for r in readings), Captured())

    def _left(self, planned: PlannedModel, blocks: int) -> bool:
        """Whether anything is left to do for a model."""
        sweep = self.sweeps.get(planned.name)
        return self.todo.pending(planned, blocks, self.plan.tasks) or bool(
            sweep and sweep.pending()
        )

    def _open(self, planned: PlannedModel, place: str) -> Model | None:
        begun = time.perf_counter()
        model: Model | None = None
        with self.display.stage(f"{place}: opening"):
            try:
                model = planned.open()
                _check_layers(self.plan, planned, model)
            except Exception as error:  # one model of a panel that cannot be opened
                self.ledger.fail(unit(planned, "model"), planned, error)
                model = None
        if not self.ranks.agree(model is not None) or model is None:
            return None
        if self.ranks.main:
            self.ledger.record(
                "model",
                unit(planned, "model"),
                planned,
                adapter=model.identity["adapter"],
                **asdict(model.info),
                released=models.known(planned.name),
                seconds=time.perf_counter() - begun,
            )
        return model

    def _model(self, planned: PlannedModel, place: str) -> None:
        model = self._open(planned, place)
        if model is None:
            return
        tasks = [t for t in self.plan.tasks if self.todo.pending(planned, model.info.blocks, [t])]
        self._read(planned, model, Embeddings, [t for t in tasks if not t.likelihood], place)
        compared = [t for t in tasks if t.likelihood]
        left = [t.name for t in self.plan.tasks if t.likelihood and not planned.adapter.likelihoods]
        if left:
            self.display.line(f"{place}: no language model, so not evaluated on {', '.join(left)}")
        if model.head is not None:
            self._read(planned, model, Likelihoods, compared, place)
        for task in compared if model.head is None and self.ranks.main else ():
            key = unit(planned, task.name, "texts")
            self.ledger.fail(key, planned, UserError(model.headless), task=task.name)
        self.ledger.meet(self.ranks)
        self._prune(planned, model, place)

    def _prune(self, planned: PlannedModel, model: Model, place: str) -> None:
        """Choose blocks to remove, and score what is left, where that is asked for."""
        sweep = self.sweeps.get(planned.name)
        if sweep is None or not self.ranks.first(sweep.pending()):
            return
        kinds: list[Kind] = [Embeddings] * any(not t.likelihood for t in sweep.tasks())
        if model.head is not None and any(t.likelihood for t in sweep.tasks()):
            kinds.append(Likelihoods)
        held = {type(reading): reading for reading in self.readings.get(planned.name, ())}
        readings = [held.get(kind) or self._reading(planned, model, kind) for kind in kinds]
        if self.ranks.agree(None not in readings):
            sweep.execute(model, [reading for reading in readings if reading is not None], place)

    def _read(
        self, planned: PlannedModel, model: Model, kind: Kind, tasks: Sequence[Task], place: str
    ) -> None:
        """Capture what tasks of one kind ask for, then measure and evaluate all of them."""
        reading = self._reading(planned, model, kind) if tasks else None
        if not self.ranks.agree(reading is not None) or reading is None:
            return
        asked = self._ask(planned, model, reading, tasks, place)
        if not asked or not self._forward(planned, reading, asked, place):
            return
        for task, wanted in asked.items() if self.ranks.main else ():
            self._count(planned, reading, task, wanted, place)
        work: list[Callable[[], None]] = []
        for task in asked:
            for metric in self.plan.metrics:
                if self.ledger.undone(metric_unit(planned, task, metric)):
                    step = partial(steps.measure, self.ledger, planned, reading, task, metric)
                    work.append(partial(step, self.plan.settings.norm))
            for layer in self.todo.layers(task, model.info.blocks):
                if self.ledger.undone(unit(planned, task.name, layer)):
                    step = partial(steps.evaluate_layer, self.ledger, planned, reading, task, layer)
                    work.append(partial(step, self.out))
        with self.display.stage(f"{place}: metrics, tasks × layers", "units") as advance:
            for done, do in self.ranks.deal(work):
                advance(done, len(work))
                do()
            advance(len(work), len(work))

    def _reading(self, planned: PlannedModel, model: Model, kind: Kind) -> Reading | None:
        device = planned.options.device.split(":")[0]
        tokens = self.plan.settings.batch_tokens or BATCH_TOKENS.get(device, 4096)
        folder = cache_dir() / "budgets"
        budget = remembered(folder, model.identity, planned.options.device, tokens)
        try:
            settings = self.plan.settings
            sampling = Sampling(settings.norm, settings.view_texts, planned.options.device)
            reading = kind(model, self.questions, budget, sampling, self.ranks)
        except OSError as error:  # the store cannot be written
            self.ledger.fail(unit(planned, "forward"), planned, error)
            return None
        self.readings.setdefault(planned.name, []).append(reading)
        return reading

    def _ask(
        self,
        planned: PlannedModel,
        model: Model,
        reading: Reading,
        tasks: Sequence[Task],
        place: str,
    ) -> dict[Task, list[Any]]:
        """What each task, and metrics on it, will ask for; those that fail are out."""
        asked: dict[Task, list[Any]] = {}
        with self.display.stage(f"{place}: collecting texts", "tasks") as advance:
            for done, task in enumerate(tasks, 1):
                advance(done, len(tasks))
                key = unit(planned, task.name, "texts")
                try:
                    evaluated = bool(len(self.todo.layers(task, model.info.blocks)))
                    asked[task] = reading.ask(task, evaluated, bool(self.plan.metrics))
                except Exception as error:
                    self.ledger.fail(key, planned, error, task=task.name)
                    continue
                self.ledger.mend(key, planned)
        common = self.ranks.common(task.name for task in asked)
        return {task: wanted for task, wanted in asked.items() if task.name in common}

    def _forward(
        self,
        planned: PlannedModel,
        reading: Reading,
        asked: dict[Task, list[Any]],
        place: str,
    ) -> bool:
        """Have the store hold all that is asked for; False if the model fails on it.

        A task whose own requests fail is taken out of `asked`.
        """
        failed = unit(planned, "forward")
        faults: dict[Task, Exception] | None = None
        try:
            with self.display.stage(f"{place}: reading all layers", "texts") as advance:
                told = self.ranks.adding(advance)
                faults = reading.capture(asked, told, self.todo.unmeasured(planned, asked))
        except Exception as error:  # memory that does not suffice, a text it cannot take
            self.ledger.fail(failed, planned, error)
        if not self.ranks.agree(faults is not None) or faults is None:
            return False
        reading.refresh()
        self.ledger.mend(failed, planned)
        for task, fault in faults.items():
            self.ledger.fail(unit(planned, task.name, "texts"), planned, fault, task=task.name)
        lost = {n for names in self.ranks.gather([t.name for t in faults]) for n in names}
        for task in [task for task in asked if task.name in lost]:
            del asked[task]
        key = unit(planned, "capture", time.time_ns())
        self.ledger.record("capture", key, planned, **reading.captured.record())
        return True

    def _count(
        self,
        planned: PlannedModel,
        reading: Reading,
        task: Task,
        asked: Sequence[Any],
        place: str,
    ) -> None:
        """Record what the task's texts are like: repeated, empty, longer than the model takes."""
        met = reading.met(task, asked)
        self.ledger.record("texts", unit(planned, task.name, "met"), planned, task=task.name, **met)
        if task.likelihood and met["truncated"]:
            self.display.line(
                f"{place}: {task.name}: {met['truncated']} of {met['asked']} prompts are longer "
                "than the model takes and were cut from the left"
            )


def _check_layers(plan: Plan, planned: PlannedModel, model: Model) -> None:
    """Once more, for a model whose configuration did not say how deep it is."""
    chosen = plan.settings.layers
    if not isinstance(chosen, str) and max(chosen) > model.info.blocks:
        raise UserError(
            f"{planned.name} has layers 0 to {model.info.blocks}, no layer {max(chosen)}"
        )
