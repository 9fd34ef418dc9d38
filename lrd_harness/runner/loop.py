"""The loop: open each model, read its states once, measure them, evaluate every layer."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lrd_harness.capture.embeddings import Captured, Embeddings
from lrd_harness.capture.likelihoods import Likelihoods, Reader
from lrd_harness.capture.samples import Questions, unsuited
from lrd_harness.contracts import Model, Task
from lrd_harness.errors import UserError, told_to
from lrd_harness.measuring import PER_TEXT
from lrd_harness.models import registry
from lrd_harness.models.wheels import shown_by
from lrd_harness.planning import shards
from lrd_harness.planning.resolve import Plan
from lrd_harness.planning.shards import Shard
from lrd_harness.processes import ALONE, Ranks, together
from lrd_harness.progress import Display
from lrd_harness.results.journal import recorded_run
from lrd_harness.runner import folder
from lrd_harness.runner.evaluators import Evaluators
from lrd_harness.runner.panel import Panel
from lrd_harness.runner.profile import Profile
from lrd_harness.runner.sweep import Sweep
from lrd_harness.runner.units import Context, Ledger, Unit, reader_settings
from lrd_harness.store import inventory
from lrd_harness.store.location import cache_dir

Kind = type[Embeddings] | type[Likelihoods]


@dataclass(frozen=True)
class Prepared:
    """A run whose folder is there. slices: what run.json says of the slices of a run."""

    plan: Plan
    out: Path
    slices: Mapping[str, Any]


def prepare(
    whole: Plan,
    output: Path | None,
    display: Display,
    shard: Shard | None = None,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Make room and the folder of a run, or of a slice of it; say how much is to be done.

    output: None for one named after the suite. Raises UserError as `folder.prepare` does.
    """
    inventory.make_room(cache_dir())
    plan, place, suffix = together(ranks, lambda: shards.part(whole, shard, output))

    def made() -> Path:
        return folder.prepare(place, plan, suffix) if ranks.main else Path()

    out = ranks.first(together(ranks, made))
    folder.check_shared(ranks, [out, cache_dir()])
    plan = folder.renamed(out, plan)
    display.line(f"{_count(plan, ranks)} into {out}")
    for item in plan.metrics:
        whys = {task.name: unsuited(item.metric, task) for task in plan.tasks}
        for why in dict.fromkeys(filter(None, whys.values())):
            names = ", ".join(name for name in whys if whys[name] == why)
            display.line(f"{item.metric.name} is not measured on {names}: {why}")
    if shard and whole.panel:
        names = ", ".join(item.metric.name for item in whole.panel)
        display.line(
            f"{names}: no slice has all models. Merge the slices, then give the same command "
            "without --shard, its --output the merged folder: it only compares"
        )
    return Prepared(plan, out, shards.recorded(out, shard, folder.renamed(out, whole)))


def unfinished(plan: Plan, out: Path) -> bool:
    """Whether anything that a plan asks for is not recorded in a folder, or only as an error."""
    if recorded_run(out).get("finished") is None:
        return True
    plan, questions = folder.renamed(out, plan), Questions(plan.settings.max_texts)
    panel = Panel(plan, Ledger(out), out, Display(quiet=True), questions=questions)
    return any(ModelRun(context, questions, panel).pending for context in panel.contexts())


def _count(plan: Plan, ranks: Ranks) -> str:
    counts = {"model": plan.models, "task": plan.tasks, "metric": plan.measures}
    parts = [f"{len(v)} {k}{'' if len(v) == 1 else 's'}" for k, v in counts.items()]
    by = f" in {ranks.world} processes" if ranks.world > 1 else ""
    return f"{parts[0]} × {parts[1]}, {parts[2]},{by}"


def execute(
    plan: Plan,
    out: Path,
    display: Display,
    ranks: Ranks = ALONE,
    slices: Mapping[str, Any] | None = None,
    profile: Profile | None = None,
    evaluators: Evaluators | None = None,
) -> int:
    """Run a plan into an output folder, with its run.json. Returns how many units failed.

    Units that the folder's journals hold are skipped; a fault in a unit is recorded and does not
    end the run. slices: what run.json says of the slices of a run; profile: its seconds are added;
    evaluators: what evaluates beside this process, by default nothing.
    """
    profile, evaluators = profile or Profile(), evaluators or Evaluators()
    ledger = together(ranks, lambda: Ledger(out))
    questions = Questions(plan.settings.max_texts)
    panel = Panel(plan, ledger, out, display, ranks, profile, questions)
    captured: defaultdict[str, Captured] = defaultdict(Captured)  # by this call, by model
    state = {"begun": folder.now(), "finished": None, **(slices or {})}
    state["profile"] = earlier = recorded_run(out).get("profile", [])
    if ranks.main:
        folder.write_run(out, plan, {}, ledger.met(), panel.recorded(), **state)
    ranks.wait()  # a journal without a run.json would be no run

    def work_on(context: Context, beside: Evaluators | None = None) -> None:
        work = ModelRun(context, questions, panel, beside, again=beside is None)
        try:
            work.execute()
        finally:
            if work.pending or work.sweep:
                captured[context.planned.name] += work.captured
        del work
        gc.collect()  # no two models in memory at once

    try:
        told = told_to(display.line) if ranks.main else nullcontext()
        with profile.watching(ranks), told, evaluators.serving(ledger, display, out, profile):
            for context in panel.contexts():
                work_on(context, evaluators)
            with profile.stage("metrics"):
                panel.measure()
            lacking = evaluators.finish(ranks)
            ledger.meet(ranks)
            for context in panel.contexts():
                if context.planned.name in lacking:
                    work_on(context)
        for (name, least), tasks in questions.left_out.items():
            why = f"fewer than {least} texts"
            display.line(f"{name} is not measured on {', '.join(tasks)}: {why}")
        ledger.close()
        state["finished"] = folder.now()
    finally:
        parts = [(dict(captured), ledger.failed, (profile.seconds(), profile.processes))]
        if state["finished"] is not None:  # all are here
            parts = ranks.gather(parts[0])
        of_others = parts[1:] if ranks.main else []
        errors = len(set().union(*(failed for _, failed, _ in parts)))
        for others, _, spent in of_others:
            profile.add(*spent)
            for name, counts in others.items():
                captured[name] += counts
        counters = {name: counts.record() for name, counts in captured.items()}
        if ranks.main:
            state |= {"errors": errors, "profile": [*earlier, profile.record(state["begun"])]}
            folder.write_run(out, plan, counters, ledger.met(), panel.recorded(), **state)
    return errors


class ModelRun:
    """The work of a run on one model; pending: whether any was left to do.

    again: it is what evaluators gave back of a model that was read before in the same call.
    """

    def __init__(
        self,
        context: Context,
        questions: Questions,
        panel: Panel,
        evaluators: Evaluators | None = None,
        again: bool = False,
    ) -> None:
        self.again = again
        self.context, self.questions, self.panel = context, questions, panel
        self.evaluators = evaluators or Evaluators()
        self.plan, self.planned, self.ranks = context.plan, context.planned, context.ranks
        self.sweep = Sweep(context) if self.plan.pruning is not None else None
        self.readers: dict[Kind, Reader] = {}
        record = context.ledger.get(context.unit("model")) or {}
        blocks = record.get("blocks")  # unknown: opened again
        left = blocks is None or context.pending(blocks, self.plan.tasks)
        self.pending = bool(left or (self.sweep and self.sweep.pending()))

    @property
    def captured(self) -> Captured:
        """What was read so far."""
        parts = [reader.captured for reader in self.readers.values()]
        return sum([*parts, *([self.sweep.captured] if self.sweep else [])], Captured())

    def execute(self) -> None:
        """Do what is not done yet: have each kind of task read and scored, and prune."""
        context = self.context
        if self.pending:
            self.evaluators.start()
            model = self._open()
            if model is not None:
                self._score(model)
                self._await(model)
                self._prune(model)
            context.ledger.meet(self.ranks)
            return
        if self.sweep:
            self.sweep.note()
        context.display.line(f"{context.place}: nothing left to do")

    def _open(self) -> Model | None:
        context, begun, opened = self.context, time.perf_counter(), list[Model]()
        stage = context.display.stage(f"{context.place}: opening")
        with stage as advance, context.attempt(context.unit("model")):
            with shown_by(lambda _: advance), context.profile.stage("opening"):
                model = self.planned.open(weights=False, opening=self._whole)
            chosen, blocks = self.plan.settings.layers, model.info.blocks
            if not isinstance(chosen, str) and max(chosen) > blocks:
                # once more, for a model whose configuration did not say how deep it is
                name = self.planned.name
                raise UserError(f"{name} has layers 0 to {blocks}, no layer {max(chosen)}")
            opened.append(model)
        if not self.ranks.agree(bool(opened)):
            return None
        (model,) = opened
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

    def _whole(self) -> Model:
        """The model with its weights, when the store lacks something."""
        stage = self.context.display.stage(f"{self.context.place}: opening")
        with stage as advance, shown_by(lambda _: advance), self.context.profile.stage("opening"):
            return self.planned.open()

    def _score(self, model: Model) -> None:
        """Measure and evaluate what is pending, kind by kind of task."""
        context = self.context
        tasks = context.pending(model.info.blocks, self.plan.tasks)
        self._read(model, Embeddings, [task for task in tasks if not task.likelihood])
        compared = [task for task in tasks if task.likelihood]
        names = ", ".join(task.name for task in self.plan.tasks if task.likelihood)
        if names and (why := self.planned.headless):
            context.display.line(f"{context.place}: {why}, so not evaluated on {names}")
        if model.head is not None:
            self._read(model, Likelihoods, compared)
        elif self.ranks.main:
            for task in compared:
                key, fault = context.unit(task.name, "texts"), UserError(model.headless)
                context.fail(key, fault, task=task.name)
        context.ledger.meet(self.ranks)

    def _reader(self, model: Model, kind: Kind) -> Reader | None:
        """How the model is read for a kind of task; None where the store cannot be written."""
        if kind not in self.readers:

            def make() -> Reader:
                settings = reader_settings(self.plan.settings, self.planned, model)
                return kind(model, self.questions, *settings, self.ranks)

            with self.context.profile.stage("reading"):
                reader = self.context.everywhere(self.context.unit("forward"), make, OSError)
            if reader is not None:
                self.readers[kind] = reader
        return self.readers.get(kind)

    def _read(self, model: Model, kind: Kind, tasks: Sequence[Task]) -> None:
        """Capture what tasks of one kind ask for, then measure and evaluate all of them."""
        context = self.context
        reader = self._reader(model, kind) if tasks else None
        if reader is None:
            return
        stage = f"{context.place}: collecting {context.inputs}"
        with context.display.stage(stage, "tasks") as advance:
            requests = context.ask(reader, tasks, bool(self.plan.measures), advance)
        for task in requests:
            context.mend(context.unit(task.name, "texts"))
        if requests and self._forward(reader, requests):
            self._evaluate(reader, requests)

    def _evaluate(self, reader: Reader, requests: Mapping[Task, Sequence[Any]]) -> None:
        """Have metrics measured, and tasks evaluated, on what was captured."""
        context, model = self.context, reader.model
        for task, texts in requests.items() if self.ranks.main else ():
            met = reader.met(task, texts)
            context.record("texts", context.unit(task.name, "met"), task=task.name, **met)
            if task.likelihood and met["truncated"]:
                context.display.line(
                    f"{context.place}: {task.name}: {met['truncated']} of {met['asked']} prompts "
                    "are longer than the model takes and were cut from the left"
                )
        # whose values, and faults, only a process that reads has
        own = {item.metric.name for item in self.plan.metrics if item.metric.needs in PER_TEXT}
        away = self.evaluators.number and self.ranks.agree(self.planned.has_frame)
        here, beside = list[Callable[[], None]](), list[Unit]()
        for task in requests:
            self.panel.take(context, reader, task)
            unit = partial(Unit, self.planned.name, task.name, dict(model.identity))
            units = [unit(metric=item.metric.name) for item in context.unmeasured(task)]
            units += [unit(layer=n) for n in context.unevaluated(task, model.info.blocks)]
            for each in units:
                if away and each.metric not in own:
                    beside.append(each)
                else:
                    here.append(partial(each.do, context, reader, task))
        self.evaluators.hand(beside[self.ranks.rank :: self.ranks.world])
        context.work_through("metrics, tasks × layers", here)

    def _forward(self, reader: Reader, requests: dict[Task, list[Any]]) -> bool:
        """Have the store hold all that is asked for; False if the model fails on it.

        A task whose own requests fail is taken out of `requests`.
        """
        context = self.context

        def capture() -> dict[Task, Exception]:
            measured = {task: context.unmeasured(task) for task in requests}
            stage = f"{context.place}: reading all layers"
            shown = context.display.stage(stage, context.inputs)
            with shown as advance, context.profile.stage("reading"):
                return reader.capture(requests, self.ranks.adding(advance), measured)

        before = reader.captured

        faults = context.everywhere(context.unit("forward"), capture)
        if faults is None:
            return False
        if self.again:  # these were counted when they were read
            counts = ("asked", "texts", "stored", "truncated", "empty")
            known = {name: getattr(before, name) for name in counts}
            reader.captured = replace(reader.captured, **known)
        reader.refresh()
        context.mend(context.unit("forward"))
        for task, fault in faults.items():
            context.fail(context.unit(task.name, "texts"), fault, task=task.name)
        sound = self.ranks.common(task.name for task in requests if task not in faults)
        for task in [task for task in requests if task.name not in sound]:
            del requests[task]
        key = context.unit("capture", time.time_ns())
        context.record("capture", key, **reader.captured.record())
        return True

    def _await(self, model: Model) -> None:
        """Have the metrics that rules look at; what evaluators could not do is done here."""
        if self.sweep is None or not self.evaluators.number:
            return
        text, name = f"{self.context.place}: metrics", self.planned.name
        lacking = self.evaluators.wait(text, lambda u: u.model == name and bool(u.metric))
        self.context.ledger.meet(self.ranks)
        if not self.ranks.agree(not lacking):
            # of its layers, too, so that none is evaluated here as well
            self.evaluators.wait(text, lambda u: u.model == name)
            self.context.ledger.meet(self.ranks)
            self.evaluators, self.again = Evaluators(), True
            self._score(model)

    def _prune(self, model: Model) -> None:
        """Choose blocks to remove, and score what is left, where that is asked for."""
        if self.sweep is None or not self.ranks.first(self.sweep.pending()):
            return
        likelihood = {task.likelihood for task in self.sweep.tasks()}
        kinds: list[Kind] = [Embeddings] if False in likelihood else []
        if model.head is not None and True in likelihood:
            kinds.append(Likelihoods)
        readers = [reader for kind in kinds if (reader := self._reader(model, kind)) is not None]
        if readers and len(readers) == len(kinds):
            with self.context.profile.stage("pruning"):
                self.sweep.execute(model, readers)
