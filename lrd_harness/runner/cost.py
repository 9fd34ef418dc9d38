"""What a run will cost: texts, passes, disk and time of each model, from a short trial.

Every model is opened and reads some of its texts, every metric is measured on random states, and
every task is evaluated on a stand-in for a layer. What is recorded or stored is not counted.
"""

from __future__ import annotations

import functools
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lrd_harness import measuring
from lrd_harness.capture import likelihoods
from lrd_harness.capture.embeddings import Captured, Embeddings, size
from lrd_harness.capture.likelihoods import Likelihoods, Reader
from lrd_harness.capture.samples import Questions, drawn
from lrd_harness.contracts import Continuation, Model, Request, Task, Text
from lrd_harness.errors import described
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models import text_model
from lrd_harness.models.inspection import slow_path
from lrd_harness.models.readout import embedded
from lrd_harness.models.wheels import Progress, shown_by
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.resolve import Plan
from lrd_harness.planning.shards import Cut, Seconds
from lrd_harness.progress import Display
from lrd_harness.report import Column, Report, Table
from lrd_harness.runner import calibration
from lrd_harness.runner.calibration import Reading, Span, total
from lrd_harness.runner.sweep import Sweep
from lrd_harness.runner.units import Context, Ledger, reader_settings
from lrd_harness.store import location

STAGES = ("opening", "reading", "metrics", "tasks × layers", "pruning")
DEVICE, CPU = ("opening", "reading"), ("metrics", "tasks × layers")  # what takes their time
COUNTS = ("texts", "stored", "passes", "tokens", "disk")
TOKEN_ROW = 5e-5  # seconds to find one text's values of a token metric, and to average them
SHARED = 0.6  # of a pass, what a pruned model costs that shares blocks with others
UNEVEN = 1.15  # the slowest slice to the mean, from which on it is said why
DISTINCT = 0.7  # of the choices, those that no other rule makes


@dataclass
class ModelCost:
    """What a model will cost.

    texts: distinct ones that are asked for (of likelihood tasks: requests); stored: of these, those
    that need no pass; passes, tokens: to be run; disk: bytes that the store will grow by; units:
    scores and metrics to be made; spans: seconds by stage; tasks: what each would take alone, but
    for opening and pruning; faults: what could not be estimated; slow: why it is read slowly, ""
    for most; speed: tokens that were read in a second.
    """

    name: str
    texts: int = 0
    stored: int = 0
    passes: int = 0
    tokens: int = 0
    disk: int = 0
    units: int = 0
    spans: dict[str, Span] = field(default_factory=lambda: dict.fromkeys(STAGES, Span()))
    tasks: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    slow: str = ""
    speed: float | None = None

    @property
    def span(self) -> Span:
        """All stages."""
        return total(self.spans.values())

    def of(self, stages: Iterable[str]) -> Span:
        """Some stages."""
        return total(self.spans[stage] for stage in stages)

    @contextmanager
    def of_task(self, name: str) -> Iterator[None]:
        """What is added in the block is a task's."""
        before = self.span.middle
        yield
        self.tasks[name] = self.tasks.get(name, 0.0) + self.span.middle - before

    @contextmanager
    def attempt(self, *what: str) -> Iterator[None]:
        """Note in one line what cannot be estimated; the run will record it and go on."""
        try:
            yield
        except Exception as error:
            fault = described(error).removeprefix(f"{self.name} cannot be opened: ")
            self.faults.append(": ".join((self.name, *what, fault)))


@dataclass
class Estimate:
    """What a run will cost. common: seconds apart from models, to begin and to collect texts.

    panel: the panel metrics, which are not estimated.
    """

    models: list[ModelCost]
    common: Span
    panel: Sequence[str] = ()

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
        models = [
            asdict(m) | {"device": asdict(m.of(DEVICE)), "cpu": asdict(m.of(CPU))}
            for m in self.models
        ]
        return {"seconds": asdict(self.span), "common": asdict(self.common), "models": models}

    def report(self) -> Report:
        """What there is to do, by model, and where the time goes."""
        ends = [Column(end, unit="seconds", shown=False) for end in ("low", "high")]
        columns = [Column("model", key=True), Column("texts", form=",")]
        columns += [Column("stored", "in store", form=","), Column("passes", form=",")]
        columns += [Column("tokens", form=","), Column("disk", unit="bytes", shown=False)]
        columns += [Column("size", "disk"), Column("device"), Column("cpu", "CPU")]
        columns += [Column("time"), *ends]
        rows = [_cost_row(model.name, [model]) for model in self.models]
        rows.append(_cost_row("all", self.models))
        caption = "Device: to open models and to read; CPU: metrics and tasks, on one core."
        cost = Table("cost", "What there is to do", tuple(columns), rows, (caption,))
        spans = {"to begin, and to collect texts": self.common}
        spans |= {stage: total(m.spans[stage] for m in self.models) for stage in STAGES}
        columns = [Column("stage", key=True), Column("time"), *ends]
        rows = [{"stage": s, **_time(span)} for s, span in spans.items() if span.high > 0.5]
        stages = Table("stages", "Where the time goes", tuple(columns), rows)
        notes = [f"The run will take about {self.span}."]
        for model in self.models:
            if model.slow and model.speed:
                speed = f"about {model.speed:,.0f} tokens a second"
                notes.append(f"{model.name} is read by {model.slow}: {speed} here.")
        if spans["pruning"].high:
            notes.append(
                "Pruning is a rough guess: which rules choose the same blocks is not known yet."
            )
        if self.panel:
            named = ", ".join(self.panel)
            notes.append(f"Not counted: comparing the models by {named}, once all are read.")
        return Report("Cost of the run", (cost, stages), tuple(notes))

    def seconds(self, plan: Plan) -> dict[str, Seconds]:
        """What models and their tasks take, to cut a run at equal cost.

        What could not be estimated takes as long as the mean of what could.
        """
        every = [seconds for model in self.models for seconds in model.tasks.values()]
        usual, found = sum(every) / max(1, len(every)), {}
        for model in self.models:
            least = usual if model.faults else 0.0
            more = calibration.RECORD + model.spans["pruning"].middle / len(plan.tasks)
            tasks = {task.name: model.tasks.get(task.name, least) + more for task in plan.tasks}
            found[model.name] = Seconds(model.spans["opening"].middle, tasks)
        return found


def slices(cut: Cut, out: Path | None) -> Table:
    """A run that is cut into slices; out: where the cut is kept, None where it is not."""
    columns = (Column("slice", key=True), Column("models"), Column("pairs"), Column("time"))
    rows = []
    for number, part in enumerate(cut.slices, 1):
        row = {"slice": f"{number}/{len(cut.slices)}", "models": len(part.pairs)}
        row |= {"pairs": sum(map(len, part.pairs.values())), "seconds": part.seconds}
        rows.append({**row, "time": str(Span.about(part.seconds))})
    caption = [
        f"To run one: `lrd-harness run` with these options, --shard I/{len(rows)} --output {out}."
        if out
        else "The cut is not kept: give --output OUT, too, to run its slices."
    ]
    slowest = f"The slowest takes {cut.ratio:.2f} times as long as the mean."
    caption.append(f"Pairs: of a model and a task. {slowest}")
    seconds, model, task = cut.largest
    if cut.ratio > UNEVEN:
        time = Span.about(seconds)
        largest = f"the largest, {model} on {task}, takes {time}"
        caption.append(f"No pair is cut, and {largest}: fewer slices may take as long.")
    unit = Column("seconds", unit="seconds", shown=False)
    return Table("slices", "Slices of the run", (*columns, unit), rows, tuple(caption))


def _cost_row(name: str, models: Sequence[ModelCost]) -> dict[str, Any]:
    sums = {count: sum(getattr(model, count) for model in models) for count in COUNTS}
    time = _time(total(model.span for model in models))
    device, cpu = (str(total(model.of(part) for model in models)) for part in (DEVICE, CPU))
    size = location.shown(sums["disk"])
    return {"model": name, **sums, "size": size, "device": device, "cpu": cpu, **time}


def _time(span: Span) -> dict[str, Any]:
    return {"time": str(span), **asdict(span)}


class Estimator:
    """Estimates a plan into an output folder, whose records are not counted again.

    begun: seconds that it took to resolve the plan, which the run will take too.
    """

    def __init__(self, plan: Plan, out: Path, display: Display, begun: float) -> None:
        self.plan, self.display = plan, display
        self.out, self.ledger = out, Ledger(out)
        self.questions = Questions(plan.settings.max_texts)
        self.common = Span.about(begun)
        self.evaluated = functools.cache(calibration.evaluated)  # for models of one width
        self._metrics: dict[tuple[object, ...], Callable[[int], float]] = {}

    def estimate(self) -> Estimate:
        """All models, one after the other."""
        models = []
        for number, planned in enumerate(self.plan.models, 1):
            cost = ModelCost(planned.name)
            stage = self.display.stage(f"[{number}/{len(self.plan.models)}] {planned.name}")
            with stage as advance:
                self._add(planned, cost, advance)
            models.append(cost)
            gc.collect()
        panel = [item.metric.name for item in self.plan.panel]
        return Estimate(models, self.common, panel)

    def _add(self, planned: PlannedModel, cost: ModelCost, progress: Progress) -> None:
        """Open a model, and add up what its tasks cost, kind by kind."""
        told = Display(quiet=True)
        context = Context(self.plan, planned, self.ledger, self.out, told, questions=self.questions)
        begun = time.perf_counter()
        model: Model | None = None
        with cost.attempt(), shown_by(lambda _: progress):
            model = planned.open()
        if model is None:
            return
        opening = Span.about(time.perf_counter() - begun)
        cost.slow = slow_path(model.parts.module) if isinstance(model, text_model.TextModel) else ""
        tasks = context.pending(model.info.blocks, self.plan.tasks)
        if self.plan.pruning is not None and (sweep := Sweep(context)).pending():
            tasks = [t for t in self.plan.tasks if t in tasks or t in sweep.tasks()]
        if any(task.likelihood for task in tasks) and model.head is None:
            cost.faults.append(f"{planned.name}: {model.headless}")
            tasks = [task for task in tasks if not task.likelihood]
        for kind in (Embeddings, Likelihoods):
            if of_kind := [task for task in tasks if task.likelihood == kind.likelihood]:
                settings = reader_settings(self.plan.settings, planned, model)
                reader = kind(model, self.questions, *settings)
                Reckoning(self, context, reader, cost).add(of_kind)
        if tasks:
            cost.spans["opening"] += opening

    def metric(self, item: PlannedMetric, n: int, context: Context, model: Model) -> Span:
        """A metric that sees n texts at once, for models of this shape."""
        shape = model.info.blocks + 1, model.info.width
        key = item.metric.name, *shape
        if key not in self._metrics:
            device = context.planned.options.device
            self._metrics[key] = calibration.metric_seconds(item, *shape, device)
        return calibration.grown(self._metrics[key], n)


@dataclass
class Reckoning:
    """Adds to a model's cost what tasks of one kind cost it."""

    estimator: Estimator
    context: Context
    reader: Reader
    cost: ModelCost
    reading: Reading | None = None  # the last one

    def add(self, tasks: Sequence[Task]) -> None:
        """All that these tasks cost, as far as it can be found; faults are noted in the cost."""
        attempt = self.cost.attempt
        requests: dict[Task, Sequence[Any]] = {}
        for task in tasks:
            with attempt(task.name):
                requests[task] = self._ask(task)
        if isinstance(self.reader, Embeddings):
            with attempt("reading"):
                self._read_texts(self.reader, requests)
        for task in requests:
            with self.cost.of_task(task.name):
                with attempt(task.name):
                    if isinstance(self.reader, Likelihoods):
                        self._read_requests(self.reader, task, requests[task])
                with attempt(task.name):
                    self._measure(task)
                with attempt(task.name):
                    self._evaluate(task)
        with attempt("pruning"):
            self._prune(requests)

    def _ask(self, task: Task) -> Sequence[Any]:
        """What a task asks for; the time counts once for all models, which share the answer."""
        layers = self.context.layers(task, self.reader.model.info.blocks)
        begun = time.perf_counter()
        texts = self.reader.ask(task, len(layers) > 0, bool(self.context.plan.measures))
        self.estimator.common += Span.about(time.perf_counter() - begun)
        return texts

    def _read_texts(self, reader: Embeddings, requests: Mapping[Task, Sequence[Text]]) -> None:
        """Texts of all tasks, and the views and token values that metrics need of them."""
        measured = {task: self.context.unmeasured(task) for task in requests}
        texts, seen, items = reader.demand(requests, measured)
        watching = reader.samples.watched(seen, items)
        watched = dict.fromkeys([*watching.missing(), *watching.unattended()] if watching else ())
        missing = reader.store.missing(texts)
        self._count(texts, {*missing, *watched})
        before = self.cost.span.middle
        self._read([text for text in missing if text not in watched])
        self._read(watched, items)
        sizes = {text: size(text) for asked in requests.values() for text in asked}
        per_size = (self.cost.span.middle - before) / max(1, sum(sizes.values()))
        for task in requests:  # what several ask for counts in each
            own = sum(sizes[text] for text in set(requests[task]))
            self.cost.tasks[task.name] = own * per_size

    def _count(self, texts: Sequence[Any], unread: Collection[Any]) -> None:
        distinct = len(set(texts))
        self.cost.texts += distinct
        self.cost.stored += distinct - len(unread)

    def _read(self, texts: Collection[Text], items: Sequence[PlannedMetric] = ()) -> None:
        """Texts that are still to be read, with the token metrics that look on."""
        if texts:
            self._spend(self._calibrated(texts, items))

    def _calibrated(self, texts: Collection[Text], items: Sequence[PlannedMetric] = ()) -> Reading:
        def read(part: Sequence[Text], folder: Path) -> Captured:
            reader = self.reader.at(folder)
            reader.read(part, watched=reader.samples.watched(part, items))
            return reader.captured

        return calibration.calibrate(texts, size, read)

    def _spend(self, reading: Reading) -> None:
        self.reading, self.cost.speed = reading, reading.tokens / max(reading.seconds, 1e-6)
        self.cost.passes += round(reading.passes)
        self.cost.tokens += round(reading.tokens)
        self.cost.disk += round(reading.disk)
        self.cost.spans["reading"] += Span.about(reading.seconds, reading.sure)

    def _read_requests(
        self, reader: Likelihoods, task: Task, requests: Sequence[Continuation]
    ) -> None:
        """Requests of a likelihood task, by context, and the views of contexts."""
        items, sample = self.context.unmeasured(task), reader.sample(task)
        watched = reader.samples.watched(sample, items)
        run, unread = likelihoods.lacking(requests, sample, reader.store, watched)
        self._count(requests, run)
        by_context: defaultdict[str, list[Continuation]] = defaultdict(list)
        for request in run:
            by_context[request.context].append(request)
        pooled = [text for text in sample if text.text in unread]

        def read(part: Sequence[str], folder: Path) -> Captured:
            trial = reader.at(folder)
            trial.compare(task, [r for c in part for r in by_context[c]], pooled, items)
            return trial.captured

        if by_context:
            self._spend(calibration.calibrate(by_context, len, read))
        views = reader.samples.views(sample, items)
        missing = reader.plain.missing(views)
        self._count(views, missing)
        self._read(missing)

    def _measure(self, task: Task) -> None:
        """The metrics on a task."""
        n, states = len(self.reader.sample(task)), self.reader.model.info.blocks + 1
        for item in self.context.unmeasured(task):
            self.cost.units += 1
            if item.metric.needs in measuring.PER_TEXT:
                seconds = n * TOKEN_ROW + calibration.RECORD
                self.cost.spans["metrics"] += Span.about(seconds, calibration.UNSURE)
                continue
            count = measuring.copies(item.metric)
            seen = min(n, self.reader.samples.sampling.copied(item.metric)) if count else n
            seconds = calibration.FIND * seen * states * max(1, count)
            self.cost.spans["metrics"] += Span.about(seconds + calibration.RECORD)
            if seen >= measuring.MIN_TEXTS:
                span = self.estimator.metric(item, seen, self.context, self.reader.model)
                self.cost.spans["metrics"] += span

    def _evaluate(self, task: Task) -> None:
        """A task at every layer that is asked for."""
        layers = len(self.context.unevaluated(task, self.reader.model.info.blocks))
        self.cost.units += layers
        if layers:
            self.cost.spans["tasks × layers"] += self._evaluation(task) * layers

    def _evaluation(self, task: Task) -> Span:
        """One evaluation, result files included."""
        model, width = self.reader.model, 1
        if not task.likelihood:
            first = next(iter(self.estimator.questions.requests(task)), Request(""))
            pooled = torch.zeros(1, model.info.width)
            width = embedded(model.embed, pooled, first.prompt_type).shape[1]
        return self.estimator.evaluated(task, width, model.similarity)

    def _prune(self, requests: Mapping[Task, Sequence[Any]]) -> None:
        """Pruned models, as if every choice made one of its own: read, and scored on the tasks."""
        pruning = self.context.plan.pruning
        tasks = [task for task in requests if pruning and task in pruning.tasks]
        if not tasks or not (sweep := Sweep(self.context)).pending():
            return
        read = list(dict.fromkeys(text for task in tasks for text in requests[task]))
        narrow = self.context.plan.settings.store_dtype != "float32"
        passes, kept = read, (2 if narrow else 4) * self.reader.model.info.width
        if self.reader.likelihood:
            passes = [Text(c) for c in dict.fromkeys(request.context for request in read)]
            kept = 2 * 4  # two numbers of each request
        if self.reading is None:  # all is in the store
            self.reading = self._calibrated(passes)
        if any(rule.name == "ablation" for rule in sweep.pruning.rules):
            few = drawn(passes, sweep.pruning.settings.texts)
            self.cost.spans["pruning"] += calibration.ablated(few, self.reader.model, self.reading)
        draws = sweep.pruning.settings.text_samples
        wanted = {name for rule in sweep.pruning.rules for name in rule.metrics if draws > 1}
        for item in self.context.plan.metrics:
            for task in tasks if item.metric.name in wanted else ():
                n = max(measuring.MIN_TEXTS, len(self.reader.sample(task)) // 2)
                span = self.estimator.metric(item, n, self.context, self.reader.model)
                self.cost.spans["pruning"] += span * draws
        variants = len(sweep.choices)
        times = variants * sum(map(size, passes)) / max(1, self.reading.size)
        self.cost.passes += variants * len(passes)
        self.cost.tokens += round(times * self.reading.tokens)
        self.cost.disk += variants * len(read) * kept
        scored = total(map(self._evaluation, tasks))
        self.cost.spans["pruning"] += scored * (variants * DISTINCT)
        self.cost.spans["pruning"] += Span.about(times * self.reading.seconds * SHARED, 2)
