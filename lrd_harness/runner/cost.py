"""What a run will cost: texts, passes, disk and time of each model, from a short calibration.

Every model is opened and reads some of its texts, every metric is measured on random states, and
every task is evaluated on a stand-in for a layer. What is recorded or stored is not counted.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from lrd_harness import measuring
from lrd_harness.capture import likelihoods
from lrd_harness.capture.embeddings import Captured, Embeddings, capture, size
from lrd_harness.capture.likelihoods import Likelihoods, Reader
from lrd_harness.contracts import Continuation, LanguageModel, Model, Request, Task, Text
from lrd_harness.errors import described
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models.readout import embedded
from lrd_harness.planning.resolve import Plan, PlannedModel
from lrd_harness.progress import Display
from lrd_harness.report import Column, Report, Table
from lrd_harness.runner.calibration import (
    FIND,
    RECORD,
    UNSURE,
    Calibration,
    Growth,
    Span,
    calibrate,
    evaluated,
    metric_growth,
    spread,
    total,
)
from lrd_harness.runner.loop import Run, reader_settings
from lrd_harness.runner.sweep import Sweep
from lrd_harness.runner.units import Context
from lrd_harness.store import location
from lrd_harness.store.store import Store

STAGES = ("opening", "reading", "metrics", "tasks × layers", "pruning")
TOKEN_ROW = 5e-5  # seconds to find one text's values of a token metric, and to average them
TOKENISED = 256  # texts whose tokens are counted; those of the others are like them
SHARED = 0.6  # of a pass, what a pruned model costs that shares blocks with others
DISTINCT = 0.7  # of the choices, those that no other rule makes


@dataclass
class ModelCost:
    """What a model will cost.

    texts: distinct ones that are asked for (of likelihood tasks: requests); stored: of these, those
    that need no pass; passes, tokens: to be run; disk: bytes that the store will grow by; units:
    scores and metrics to be made; spans: seconds by stage; faults: what could not be estimated.
    """

    name: str
    texts: int = 0
    stored: int = 0
    passes: int = 0
    tokens: int = 0
    disk: int = 0
    units: int = 0
    spans: dict[str, Span] = field(default_factory=lambda: dict.fromkeys(STAGES, Span()))
    faults: list[str] = field(default_factory=list)

    @property
    def span(self) -> Span:
        """All stages."""
        return total(self.spans.values())

    def fault(self, what: str, error: Exception) -> None:
        """Note in one line what could not be estimated; the run will record it and go on."""
        text = described(error).removeprefix(f"{self.name} cannot be opened: ")
        self.faults.append(f"{what}: {text}")


@dataclass
class Estimate:
    """What a run will cost. common: seconds apart from models, to begin and to collect texts."""

    models: list[ModelCost]
    common: Span

    @property
    def span(self) -> Span:
        """The whole run."""
        return total(model.span for model in self.models) + self.common

    @property
    def faults(self) -> list[str]:
        """What could not be estimated, of all models."""
        return [fault for model in self.models for fault in model.faults]

    def record(self) -> dict[str, Any]:
        """All of it as JSON can hold it; seconds as {low, high}."""
        models = [asdict(model) for model in self.models]
        return {"seconds": asdict(self.span), "common": asdict(self.common), "models": models}

    def report(self) -> Report:
        """What there is to do, by model, and where the time goes."""
        counts = ("texts", "stored", "passes", "tokens", "disk")
        whole = {name: sum(getattr(m, name) for m in self.models) for name in counts}
        rows = [{"model": m.name, **asdict(m), **_time(m.span)} for m in self.models]
        rows.append({"model": "all", **whole, **_time(total(m.span for m in self.models))})
        rows = [{**row, "size": location.shown(row["disk"])} for row in rows]
        stages = {"to begin, and to collect texts": self.common}
        stages |= {stage: total(m.spans[stage] for m in self.models) for stage in STAGES}
        ends = [Column(end, unit="seconds", shown=False) for end in ("low", "high")]
        columns = [Column("model", key=True), Column("texts", form=",")]
        columns += [Column("stored", "in store", form=","), Column("passes", form=",")]
        columns += [Column("tokens", form=","), Column("disk", unit="bytes", shown=False)]
        columns += [Column("size", "disk"), Column("time"), *ends]
        cost = Table("cost", "What there is to do", tuple(columns), rows)
        columns = [Column("stage", key=True), Column("time"), *ends]
        rows = [{"stage": s, **_time(span)} for s, span in stages.items() if span.high > 0.5]
        notes = [f"The run will take about {self.span}."]
        if stages["pruning"].high:
            notes.append(
                "Pruning is a rough guess: which rules choose the same blocks is not known yet."
            )
        tables = (cost, Table("stages", "Where the time goes", tuple(columns), rows))
        return Report("Cost of the run", tables, tuple(notes))


def _time(span: Span) -> dict[str, Any]:
    return {"time": str(span), **asdict(span)}


class Reckoning:
    """Adds to a model's cost what tasks of one kind cost it."""

    def __init__(self, whole: Estimator, context: Context, reader: Reader, cost: ModelCost) -> None:
        self.whole, self.context, self.reader, self.cost = whole, context, reader, cost
        self.model = reader.model
        self.rate = self.density = 0.0  # seconds and tokens of a character, once some were read

    def add(self, tasks: Sequence[Task]) -> None:
        """All that these tasks cost, as far as it can be found; faults are noted in the cost."""
        asked: dict[Task, Sequence[Any]] = {}
        for task in tasks:
            self._try(task.name, partial(self._ask, task, asked))
        if isinstance(self.reader, Embeddings):
            self._try("reading", partial(self._read_texts, self.reader, asked))
        for task in asked:
            if isinstance(self.reader, Likelihoods):
                self._try(task.name, partial(self._read_requests, self.reader, task, asked[task]))
            self._try(task.name, partial(self._measure, task))
            self._try(task.name, partial(self._evaluate, task))
        self._try("pruning", partial(self._prune, asked))

    def _try(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            self.cost.fault(f"{self.cost.name}: {what}", error)

    def _ask(self, task: Task, asked: dict[Task, Sequence[Any]]) -> None:
        """What a task asks for; the time counts once for all models, which share the answer."""
        evaluated = len(self.context.layers(task, self.model.info.blocks)) > 0
        begun = time.perf_counter()
        asked[task] = self.reader.ask(task, evaluated, bool(self.context.plan.metrics))
        self.whole.common += Span.about(time.perf_counter() - begun)

    def _read_texts(self, reader: Embeddings, asked: Mapping[Task, Sequence[Text]]) -> None:
        """Texts of all tasks, and the views and token values that metrics need of them."""
        measured = {task: self.context.unmeasured(task) for task in asked}
        texts, seen, items = reader.demand(asked, measured)
        watching = reader.samples.watched(seen, items)
        watched = dict.fromkeys(watching.missing()) if watching else {}
        missing = reader.store.missing(texts)
        self._count(len(set(texts)), len({*missing, *watched}))
        self._read([text for text in missing if text not in watched], ())
        self._read(list(watched), items)

    def _count(self, texts: int, unread: int) -> None:
        self.cost.texts += texts
        self.cost.stored += texts - unread

    def _read(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> None:
        """Texts that are still to be read, with the token metrics that look on."""
        if not texts:
            return
        ordered = sorted(texts, key=size)
        part = spread(ordered, TOKENISED)
        tokens = sum(len(e["input_ids"]) for e in self.model.tokenize(part))
        tokens = round(tokens * len(ordered) / len(part))
        found = self._calibrate(ordered, items)
        self.density = tokens / max(1, sum(map(size, ordered)))
        self._spend(found, len(ordered), tokens, found.disk * tokens / found.cost.tokens)

    def _spend(self, calibration: Calibration, passes: float, tokens: float, disk: float) -> None:
        self.cost.passes += round(passes)
        self.cost.tokens += round(tokens)
        self.cost.disk += round(disk)
        self.rate = calibration.rate * self.density
        self.cost.spans["reading"] += calibration.seconds(tokens)

    def _calibrate(self, ordered: Sequence[Text], items: Sequence[PlannedMetric]) -> Calibration:
        def read(part: Sequence[Text], folder: Path) -> Captured:
            store, tokens = Store(folder, self.model.identity), self.reader.budget
            watched = replace(self.reader.samples, root=folder).watched(part, items)
            return capture(self.model, part, store, batch_tokens=tokens, watched=watched)

        return calibrate(ordered, read)

    def _read_requests(
        self, reader: Likelihoods, task: Task, requests: Sequence[Continuation]
    ) -> None:
        """Requests of a likelihood task, by context, and the views of contexts."""
        items, sample = self.context.unmeasured(task), reader.sample(task)
        watched = reader.samples.watched(sample, items)
        run, unread = likelihoods.lacking(requests, sample, reader.store, watched)
        self._count(len(set(requests)), len(run))
        groups: dict[str, list[Continuation]] = {}
        for request in run:
            groups.setdefault(request.context, []).append(request)
        if groups:
            self._read_contexts(reader, task, groups, unread, items)
        views = list(dict.fromkeys(reader.samples.views(sample, items)))
        missing = reader.plain.missing(views)
        self._count(len(views), len(missing))
        self._read(missing, ())

    def _read_contexts(
        self,
        reader: Likelihoods,
        task: Task,
        groups: Mapping[str, Sequence[Continuation]],
        sample: set[str],
        items: Sequence[PlannedMetric],
    ) -> None:
        model, tokenize = cast("LanguageModel", self.model), task.tokenize
        assert tokenize is not None

        def read(part: Sequence[str], folder: Path) -> Captured:
            wanted = [Text(context) for context in part if context in sample]
            return likelihoods.capture(
                model,
                [request for context in part for request in groups[context]],
                [text.text for text in wanted],
                tokenize,
                Store(folder, reader.identity(model)),
                batch_tokens=reader.budget,
                watched=replace(reader.samples, root=folder).watched(wanted, items),
            )

        found = calibrate(sorted(groups, key=len), read)
        self.density = found.cost.tokens / max(1, sum(map(len, found.part)))
        tokens, passes = self.density * sum(map(len, groups)), found.cost.forwarded / found.share
        self._spend(found, passes, tokens, found.disk / found.share)

    def _measure(self, task: Task) -> None:
        """The metrics on a task."""
        n, states = len(self.reader.sample(task)), self.model.info.blocks + 1
        for item in self.context.unmeasured(task):
            self.cost.units += 1
            if item.metric.needs == "tokens":
                self.cost.spans["metrics"] += Span.about(n * TOKEN_ROW + RECORD, UNSURE)
                continue
            views = item.metric.needs == "views"
            own = min(n, self.context.plan.settings.view_texts) if views else n
            grown = self.whole.growth(item, self.context.planned, self.model)
            seconds = FIND * own * states * max(1, item.metric.views) + RECORD
            computed = grown.at(own) if own >= measuring.MIN_TEXTS else Span()
            self.cost.spans["metrics"] += computed + Span.about(seconds)

    def _evaluate(self, task: Task) -> None:
        """A task at every layer that is asked for."""
        layers = len(self.context.unevaluated(task, self.model.info.blocks))
        self.cost.units += layers
        if layers:
            self.cost.spans["tasks × layers"] += self.whole.evaluation(task, self.model) * layers

    def _prune(self, asked: Mapping[Task, Sequence[Any]]) -> None:
        """Pruned models, as if every choice made one of its own: read, and scored on the tasks."""
        pruning = self.context.plan.pruning
        tasks = [task for task in asked if pruning and task in pruning.tasks]
        if pruning is None or not tasks or not Sweep(self.context).pending():
            return
        texts = list(dict.fromkeys(text for task in tasks for text in asked[task]))
        passes = texts
        if self.reader.likelihood:
            passes = [Text(c) for c in dict.fromkeys(r.context for r in texts)]
        ordered = sorted(passes, key=size)
        characters = sum(map(size, ordered))
        if not self.rate and ordered:  # all is in the store: nothing was read yet
            found = self._calibrate(ordered, ())
            self.density = found.cost.tokens / max(1.0, characters * found.share)
            self.rate = found.rate * self.density
        many = sum(len(pruning.seeds(rule)) for rule in pruning.rules) * len(pruning.asked.budgets)
        self.cost.passes += many * len(ordered)
        self.cost.tokens += round(many * characters * self.density)
        self.cost.disk += many * len(texts) * 4 * (self.model.info.width if passes is texts else 2)
        scored = [self.whole.evaluation(task, self.model) * (many * DISTINCT) for task in tasks]
        read = Span.about(many * characters * self.rate * SHARED, 2)
        self.cost.spans["pruning"] += total(scored) + read


class Estimator:
    """Estimates a plan into an output folder, whose records are not counted again.

    begun: seconds that it took to resolve the plan, which the run will take too.
    """

    def __init__(self, plan: Plan, out: Path, display: Display, begun: float) -> None:
        self.plan, self.display = plan, display
        self.run = Run(plan, out, Display(quiet=True))
        self.common = Span.about(begun)
        self._growths: dict[str, Growth] = {}
        self._evaluations: dict[tuple[str, int], Span] = {}

    def estimate(self) -> Estimate:
        """All models, one after the other."""
        models = []
        for number, planned in enumerate(self.plan.models, 1):
            with self.display.stage(f"[{number}/{len(self.plan.models)}] {planned.name}"):
                models.append(self._model(planned))
            gc.collect()
        return Estimate(models, self.common)

    def _model(self, planned: PlannedModel) -> ModelCost:
        cost, context = ModelCost(planned.name), self.run.context(planned)
        begun = time.perf_counter()
        try:
            model = planned.open()
        except Exception as error:
            cost.fault(planned.name, error)
            return cost
        opening = Span.about(time.perf_counter() - begun)
        tasks = context.pending(model.info.blocks, self.plan.tasks)
        if self.plan.pruning is not None and (sweep := Sweep(context)).pending():
            tasks = [t for t in self.plan.tasks if t in tasks or t in sweep.tasks()]
        if any(task.likelihood for task in tasks) and model.head is None:
            cost.faults.append(f"{planned.name}: {model.headless}")
            tasks = [task for task in tasks if not task.likelihood]
        for kind in (Embeddings, Likelihoods):
            own = [task for task in tasks if task.likelihood == kind.likelihood]
            if own:
                how = reader_settings(self.plan, planned, model)
                Reckoning(self, context, kind(model, self.run.questions, *how), cost).add(own)
        if tasks:
            cost.spans["opening"] += opening
        return cost

    def growth(self, item: PlannedMetric, planned: PlannedModel, model: Model) -> Growth:
        """How a pooled or view metric's time grows with texts, for models of this shape."""
        states, width = model.info.blocks + 1, model.info.width
        name = json.dumps([item.metric.name, dict(item.parameters), states, width], default=str)
        if name not in self._growths:
            device = planned.options.device
            self._growths[name] = metric_growth(item, states, width, device)
        return self._growths[name]

    def evaluation(self, task: Task, model: Model) -> Span:
        """One evaluation of a task, result files included; for models of this width."""
        width = 1
        if not task.likelihood:
            first = next(iter(self.run.questions.requests(task)), Request(""))
            pooled = torch.zeros(1, model.info.width)
            width = embedded(model.embed, pooled, first.prompt_type).shape[1]
        if (task.name, width) not in self._evaluations:
            self._evaluations[task.name, width] = evaluated(task, width, model.similarity)
        return self._evaluations[task.name, width]
