"""The loop: open each model, read its states once, measure them, evaluate every layer."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lrd_harness.capture.batches import Budget, remembered
from lrd_harness.capture.embeddings import Captured, Embeddings
from lrd_harness.capture.likelihoods import Likelihoods, Reader
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.contracts import Model, Task
from lrd_harness.errors import UserError, told_to
from lrd_harness.models import registry, text_model
from lrd_harness.planning.resolve import Plan, PlannedModel
from lrd_harness.processes import ALONE, Ranks, together
from lrd_harness.progress import Display
from lrd_harness.runner import folder, units
from lrd_harness.runner.sweep import Sweep
from lrd_harness.runner.units import Context, Ledger
from lrd_harness.store.location import cache_dir

Kind = type[Embeddings] | type[Likelihoods]
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 8_192}


def execute(
    plan: Plan,
    out: Path,
    display: Display,
    ranks: Ranks = ALONE,
    slices: Mapping[str, Any] | None = None,
) -> int:
    """Run a plan into an output folder, with its run.json. Returns how many units failed.

    slices: what run.json says of the slices of a run.
    """
    begun = folder.now()
    work = Run(plan, out, display, ranks)
    kept = {"begun": begun, "finished": None, **(slices or {})}
    if ranks.main:
        folder.write_run(out, plan, {}, work.ledger.met(), **kept)
    ranks.wait()  # a journal without a run.json would be no run
    try:
        with told_to(display.line) if ranks.main else nullcontext():
            work.execute()
        kept["finished"] = folder.now()
    finally:
        done = [(work.counters, work.ledger.failed)]
        if kept["finished"] is not None:  # all are here
            done = ranks.gather(done[0])
        errors = len(set().union(*(failed for _, failed in done)))
        by_name = {name: [c[name] for c, _ in done if name in c] for name in work.counters}
        counters = {name: sum(parts, Captured()).record() for name, parts in by_name.items()}
        if ranks.main:
            folder.write_run(out, plan, counters, work.ledger.met(), **{**kept, "errors": errors})
    return errors


def reader_settings(plan: Plan, planned: PlannedModel, model: Model) -> tuple[Budget, Sampling]:
    """How a run reads a model: the tokens of a batch, and what metrics see."""
    settings, device = plan.settings, planned.options.device
    tokens = settings.batch_tokens or BATCH_TOKENS.get(device.split(":")[0], 4096)
    budget = remembered(cache_dir() / "budgets", model.identity, device, tokens)
    return budget, Sampling(settings.norm, settings.view_texts, device)


class Run:
    """One run of a plan into an output folder; units that the folder's journals hold are skipped.

    ledger.failed: the units that failed in this call.
    """

    def __init__(self, plan: Plan, out: Path, display: Display, ranks: Ranks = ALONE) -> None:
        text_model.exact()
        self.plan, self.out, self.display, self.ranks = plan, out, display, ranks
        self.ledger = together(ranks, lambda: Ledger(out))
        self.questions = Questions(plan.settings.max_texts)
        self.counters: dict[str, Captured] = {}  # what was read by this call, by model

    def context(self, planned: PlannedModel, place: str = "") -> Context:
        """The run's work on one of its models."""
        return Context(self.plan, planned, self.ledger, self.out, self.display, self.ranks, place)

    def execute(self) -> None:
        """Do all that is not done yet. A fault in a unit is recorded and does not end the run."""
        for number, planned in enumerate(self.plan.models, 1):
            context = self.context(planned, f"[{number}/{len(self.plan.models)}] {planned.name}")
            sweep = Sweep(context) if self.plan.pruning is not None else None
            known = self.ledger.get(context.unit("model"))
            blocks = known.get("blocks") if known is not None else None  # unknown: opened again
            pending = blocks is None or context.pending(blocks, self.plan.tasks)
            if pending or (sweep and sweep.pending()):
                work = ModelRun(context, self.questions, sweep)
                try:
                    work.execute()
                finally:
                    self.counters[planned.name] = work.captured
                self.ledger.meet(self.ranks)
                del work
                gc.collect()  # no two models in memory at once
                continue
            if sweep is not None:
                sweep.note()
                self.counters[planned.name] = sweep.captured
            self.display.line(f"{context.place}: nothing left to do")
        self.ledger.close()


class ModelRun:
    """The work of a run on one model."""

    def __init__(self, context: Context, questions: Questions, sweep: Sweep | None) -> None:
        self.context, self.questions, self.sweep = context, questions, sweep
        self.plan, self.planned, self.ranks = context.plan, context.planned, context.ranks
        self.readers: dict[Kind, Reader] = {}

    @property
    def captured(self) -> Captured:
        """What was read so far."""
        parts = [reader.captured for reader in self.readers.values()]
        return sum([*parts, *([self.sweep.captured] if self.sweep else [])], Captured())

    def execute(self) -> None:
        """Open the model, have each kind of task read and scored, and prune."""
        context = self.context
        model = self._open()
        if model is None:
            return
        tasks = context.pending(model.info.blocks, self.plan.tasks)
        self._read(model, Embeddings, [task for task in tasks if not task.likelihood])
        compared = [task for task in tasks if task.likelihood]
        names = ", ".join(task.name for task in self.plan.tasks if task.likelihood)
        if names and not self.planned.adapter.likelihoods:
            context.display.line(f"{context.place}: no language model, so not evaluated on {names}")
        if model.head is not None:
            self._read(model, Likelihoods, compared)
        for task in compared if model.head is None and self.ranks.main else ():
            context.fail(
                context.unit(task.name, "texts"), UserError(model.headless), task=task.name
            )
        context.ledger.meet(self.ranks)
        self._prune(model)

    def _open(self) -> Model | None:
        context, begun = self.context, time.perf_counter()
        model: Model | None = None
        stage = context.display.stage(f"{context.place}: opening")
        with stage, context.attempt(context.unit("model")):
            found = self.planned.open()
            chosen, blocks = self.plan.settings.layers, found.info.blocks
            if not isinstance(chosen, str) and max(chosen) > blocks:
                # once more, for a model whose configuration did not say how deep it is
                name = self.planned.name
                raise UserError(f"{name} has layers 0 to {blocks}, no layer {max(chosen)}")
            model = found
        if not self.ranks.agree(model is not None) or model is None:
            return None
        if self.ranks.main:
            context.record(
                "model",
                context.unit("model"),
                adapter=model.identity["adapter"],
                **asdict(model.info),
                released=registry.released(self.planned.name),
                seconds=time.perf_counter() - begun,
            )
        return model

    def _reader(self, model: Model, kind: Kind) -> Reader | None:
        """How the model is read for a kind of task; None where the store cannot be written."""
        if kind not in self.readers:
            with self.context.attempt(self.context.unit("forward"), OSError):
                budget, sampling = reader_settings(self.plan, self.planned, model)
                self.readers[kind] = kind(model, self.questions, budget, sampling, self.ranks)
        return self.readers.get(kind)

    def _read(self, model: Model, kind: Kind, tasks: Sequence[Task]) -> None:
        """Capture what tasks of one kind ask for, then measure and evaluate all of them."""
        context = self.context
        reader = self._reader(model, kind) if tasks else None
        if not self.ranks.agree(reader is not None) or reader is None:
            return
        asked = self._ask(reader, tasks)
        if not asked or not self._forward(reader, asked):
            return
        for task, texts in asked.items() if self.ranks.main else ():
            met = reader.met(task, texts)
            context.record("texts", context.unit(task.name, "met"), task=task.name, **met)
            if task.likelihood and met["truncated"]:
                context.display.line(
                    f"{context.place}: {task.name}: {met['truncated']} of {met['asked']} prompts "
                    "are longer than the model takes and were cut from the left"
                )
        work: list[Callable[[], None]] = []
        for task in asked:
            work += [
                partial(units.measure, context, reader, task, item)
                for item in context.unmeasured(task)
            ]
            work += [
                partial(units.evaluate_layer, context, reader, task, layer)
                for layer in context.unevaluated(task, model.info.blocks)
            ]
        with context.display.stage(f"{context.place}: metrics, tasks × layers", "units") as advance:
            for done, do in self.ranks.deal(work):
                advance(done, len(work))
                do()
            advance(len(work), len(work))

    def _ask(self, reader: Reader, tasks: Sequence[Task]) -> dict[Task, list[Any]]:
        """What each task, and metrics on it, will ask for; those that fail are out."""
        context, blocks = self.context, reader.model.info.blocks
        asked: dict[Task, list[Any]] = {}
        with context.display.stage(f"{context.place}: collecting texts", "tasks") as advance:
            for done, task in enumerate(tasks, 1):
                advance(done, len(tasks))
                evaluated = len(context.layers(task, blocks)) > 0
                texts = context.ask(reader, task, evaluated, bool(self.plan.metrics))
                if texts is not None:
                    asked[task] = texts
                    context.mend(context.unit(task.name, "texts"))
        return context.common(asked)

    def _forward(self, reader: Reader, asked: dict[Task, list[Any]]) -> bool:
        """Have the store hold all that is asked for; False if the model fails on it.

        A task whose own requests fail is taken out of `asked`.
        """
        context, failed = self.context, self.context.unit("forward")
        faults: dict[Task, Exception] | None = None
        stage = context.display.stage(f"{context.place}: reading all layers", "texts")
        with context.attempt(failed), stage as advance:
            measured = {task: context.unmeasured(task) for task in asked}
            faults = reader.capture(asked, self.ranks.adding(advance), measured)
        if not self.ranks.agree(faults is not None) or faults is None:
            return False
        reader.refresh()
        context.mend(failed)
        for task, fault in faults.items():
            context.fail(context.unit(task.name, "texts"), fault, task=task.name)
        sound = self.ranks.common(task.name for task in asked if task not in faults)
        for task in [task for task in asked if task.name not in sound]:
            del asked[task]
        context.record(
            "capture", context.unit("capture", time.time_ns()), **reader.captured.record()
        )
        return True

    def _prune(self, model: Model) -> None:
        """Choose blocks to remove, and score what is left, where that is asked for."""
        if self.sweep is None or not self.ranks.first(self.sweep.pending()):
            return
        tasks = self.sweep.tasks()
        kinds: list[Kind] = [Embeddings] * any(not task.likelihood for task in tasks)
        if model.head is not None and any(task.likelihood for task in tasks):
            kinds.append(Likelihoods)
        readers = [self._reader(model, kind) for kind in kinds]
        if self.ranks.agree(None not in readers):
            self.sweep.execute(model, [reader for reader in readers if reader is not None])
