"""What a run will cost: texts, passes, disk and time, of each model, from a short calibration.

Every model is opened and reads some of its texts, every metric is measured on random states, and
every task is evaluated once on a stand-in for a layer. What is recorded or stored is not counted.

What a run costs, as a plan tells it.

How long things take, measured on a little of them: what a plan's estimate is made of.

What one model costs on one kind of task, embeddings or likelihoods: read a little, count all.
"""

from __future__ import annotations

import gc
import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch

from lrd_harness import measuring
from lrd_harness.capture import likelihoods
from lrd_harness.capture.batches import remembered
from lrd_harness.capture.embeddings import SHARD_TOKENS, capture
from lrd_harness.capture.samples import Sampling
from lrd_harness.capture.states import Embeddings, Likelihoods
from lrd_harness.capture.token_metrics import TokenValues, Watched
from lrd_harness.contracts import Continuation, Model, PromptType, Request, Task, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models.prompts import embedded
from lrd_harness.planning.resolve import Plan, PlannedModel
from lrd_harness.progress import Display
from lrd_harness.runner.ledger import metric_unit, unit
from lrd_harness.runner.loop import BATCH_TOKENS, Kind, Run
from lrd_harness.runner.sweep import Sweep
from lrd_harness.store import files
from lrd_harness.store.location import cache_dir
from lrd_harness.store.store import Store

STAGES = ("opening", "reading", "metrics", "tasks × layers", "pruning")
READ = 6e-6  # seconds to find a text's state in the store
RECORD = 0.006  # seconds to put a unit on disk


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

    def add(self, stage: str, span: Span) -> None:
        """More seconds of a stage."""
        self.spans[stage] = self.spans[stage].plus(span)


def total(spans: Iterable[Span]) -> Span:
    """One after the other."""
    found = Span()
    for span in spans:
        found = found.plus(span)
    return found


@dataclass
class Estimate:
    """What a run will cost. common: seconds apart from models, to begin and to collect texts."""

    models: list[ModelCost]
    common: Span

    @property
    def span(self) -> Span:
        """The whole run."""
        return total([self.common, *(model.span for model in self.models)])

    def record(self) -> dict[str, Any]:
        """All of it as JSON can hold it; seconds as {low, high}."""
        return {
            "seconds": self.span._asdict(),
            "common": self.common._asdict(),
            "models": [
                {**asdict(m), "spans": {k: s._asdict() for k, s in m.spans.items()}}
                for m in self.models
            ],
        }


def line(name: str, error: Exception) -> str:
    """A fault in one line."""
    text = next(iter(str(error).splitlines()), "")
    kind = type(error).__name__
    if isinstance(error, UserError):  # it says all by itself
        return f"{name}: {text.removeprefix(f'{name} cannot be opened: ')}"
    return f"{name}: {kind}{f': {text}' if text else ''}"


Item = TypeVar("Item")
LONG = 0.7  # seconds from which on a measurement is long enough
FIRST = 128  # texts that a metric is tried on first
LAYERS = 4  # states that a metric is tried on; how it grows with them is found on few texts
SURE, UNSURE = 1.25, 1.6  # how far off a measured time may be, and one that was scaled up
WORDS = 2**14  # columns into which a stand-in sorts words


class Span(NamedTuple):
    """Seconds, from `low` to `high`."""

    low: float = 0.0
    high: float = 0.0

    @property
    def middle(self) -> float:
        """The estimate itself."""
        return math.sqrt(self.low * self.high)

    def plus(self, other: Span) -> Span:
        """Both, one after the other."""
        return Span(self.low + other.low, self.high + other.high)

    def times(self, number: float) -> Span:
        """So many of them."""
        return Span(self.low * number, self.high * number)

    @classmethod
    def about(cls, seconds: float, factor: float = SURE) -> Self:
        """Seconds that may be off by a factor."""
        return cls(seconds / factor, seconds * factor)


def timed(do: Callable[[], Any]) -> float:
    """How many seconds it takes."""
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


class Sampled(NamedTuple):
    """What a part of some items cost. tokens, passes: of the part; share: of all items.

    fixed: seconds that do not grow with tokens, spent again for each file that is written;
    rate: seconds a token.
    """

    tokens: int
    passes: int
    share: float
    fixed: float
    rate: float

    def seconds(self, tokens: float) -> Span:
        """The seconds of so many tokens."""
        files = math.ceil(tokens / SHARD_TOKENS)
        found = self.fixed * files + self.rate * tokens
        return Span.about(found, SURE if self.share == 1 else UNSURE)


def spread(ordered: Sequence[Item], count: int, runs: int = 16) -> list[Item]:
    """About `count` items from all along a list, in runs of neighbours, as batches are made of."""
    if count >= len(ordered):
        return list(ordered)
    runs = min(runs, count)
    size = count // runs
    starts = [int((i + 0.5) * len(ordered) / runs - size / 2) for i in range(runs)]
    places = {max(0, start) + i: None for start in starts for i in range(size)}
    return [ordered[place] for place in places if place < len(ordered)]


def sampled(
    ordered: Sequence[Item], run: Callable[[Sequence[Item]], tuple[float, int, int]]
) -> Sampled:
    """Run more and more of some items, ordered by size, until it takes long enough.

    run: seconds, tokens and passes of a part. It is called on a few first, to warm up.
    """
    run(spread(ordered, 8))
    few = spread(ordered, 16)
    first, count = run(few), 48
    while True:
        part = spread(ordered, count)
        seconds, tokens, passes = run(part) if len(part) > len(few) else first
        if len(part) == len(ordered) or seconds >= max(LONG, 2 * first[0]):
            break
        count *= max(2, min(16, int(LONG / max(seconds, 1e-3))))
    rate = (seconds - first[0]) / max(1, tokens - first[1])
    if not 0 < rate * tokens < seconds:  # too little to tell them apart
        rate = seconds / tokens
    return Sampled(tokens, passes, len(part) / len(ordered), seconds - rate * tokens, rate)


class Growth:
    """Seconds that something takes at size n, measured at growing sizes until it takes long.

    Beyond the last of these sizes, the power of n with which it grew last is carried on, between 1
    and 3: what compares every text with every other grows with the square or the cube.
    """

    def __init__(self, run: Callable[[int], float]) -> None:
        self._run = run
        self._held: dict[int, float] = {}

    def at(self, n: int) -> Span:
        """The seconds at a size."""
        size, tried = min(n, FIRST), []
        while True:
            if size not in self._held:
                self._held[size] = self._run(size)
            tried.append(size)
            if size == n:
                return Span.about(self._held[n])
            if self._held[size] >= LONG and len(tried) > 1:
                break
            size = min(n, 2 * size)
        before, last = tried[-2:]
        power = math.log(self._held[last] / max(self._held[before], 1e-9)) / math.log(last / before)
        power = min(3.0, max(1.0, power))
        return Span.about(self._held[last] * (n / last) ** power, UNSURE)


class Drifting:
    """Random states of S layers that change from layer to layer, made when they are read.

    shape: (n, d), or (n, q, d) of views.
    """

    def __init__(self, layers: int, shape: Sequence[int], device: str) -> None:
        draw = np.random.default_rng(0)
        self._first, self._step = (draw.standard_normal(shape, dtype=np.float32) for _ in range(2))
        self._layers, self._device = layers, device

    def __len__(self) -> int:
        return self._layers

    def __getitem__(self, layer: int) -> torch.Tensor:
        state = torch.from_numpy(self._first + 0.3 * layer * self._step)
        return state.to(self._device, torch.float64)


def metric_growth(item: PlannedMetric, states: int, width: int, device: str) -> Growth:
    """A pooled or view metric's seconds on n texts of a model with so many states."""
    few = min(states, LAYERS)
    device = "cpu" if device == "mps" else device
    inner = (max(2, item.metric.views),) if item.metric.needs == "views" else ()

    def run(n: int, layers: int = few) -> float:
        arrays = Drifting(layers, (n, *inner, width), device)

        def do() -> None:
            measuring.measure(item.metric, arrays, **item.parameters)

        try:
            return timed(do)
        except UnitError:  # it cannot be computed on so few, and costs nothing
            return 1e-6

    run(FIRST)  # warms up
    factor = run(FIRST, states) / run(FIRST) if states > few else 1.0
    most = (states - 1) / (few - 1) * 2
    factor = min(max(1.0, factor), most**2)
    return Growth(lambda n: factor * run(n))


class StandIn:
    """A ModelView and LikelihoodView without a model, to time a task's evaluation.

    Texts that share words are near each other, as in a model's states, so that classifiers and
    clusterings take about as long as on these. seconds: spent on making the embeddings.
    """

    name = "lrd-harness/plan"
    revision = "none"
    constant = False
    experiments: Sequence[Mapping[str, Any]] = ({"layer": 0},)

    def __init__(self, width: int, similarity: str) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.similarity = similarity
        self._words = HashingVectorizer(n_features=WORDS)
        self._table = np.random.default_rng(0).standard_normal((WORDS, width), dtype=np.float32)
        self.seconds = 0.0
        self.texts = 0

    def encode(
        self, texts: Sequence[str], task: Task, prompt_type: PromptType | None = None
    ) -> np.ndarray:
        """Sums of random vectors of the words: (len(texts), width) float32."""
        begun = time.perf_counter()
        found = self._words.transform(texts) @ self._table
        found /= np.linalg.norm(found, axis=1, keepdims=True) + 1e-6
        self.texts += len(texts)
        self.seconds += time.perf_counter() - begun
        return np.asarray(found, np.float32)

    def loglikelihoods(self, requests: Sequence[Continuation]) -> list[tuple[float, bool]]:
        """Random ones, in nats."""
        values = -np.random.default_rng(0).exponential(size=len(requests))
        self.texts += len(requests)
        return [(value, False) for value in values.tolist()]


TOKENISED = 256  # texts whose tokens are counted; those of the others are like them
SHARED = 0.6  # of a pass, what a pruned model costs that shares blocks with others
DISTINCT = 0.7  # of the choices, those that no other rule makes
TOKEN_ROW = 5e-5  # seconds to read one text's values of a token metric, and to average them


class Reckoning:
    """Adds to a model's cost what tasks of one kind cost it."""

    def __init__(
        self,
        whole: Estimator,
        planned: PlannedModel,
        reading: Embeddings | Likelihoods,
        cost: ModelCost,
    ) -> None:
        self.whole, self.planned, self.reading, self.cost = whole, planned, reading, cost
        self.model, self.samples = reading.model, reading.samples
        # once some were read: seconds and tokens of a character
        self.rate = self.density = 0.0

    def add(self, tasks: Sequence[Task]) -> None:
        """All that these tasks cost, as far as it can be found; faults are noted in the cost."""
        asked: dict[Task, Sequence[Any]] = {}
        for task in tasks:
            self._try(task.name, partial(self._ask, task, asked))
        if isinstance(self.reading, Embeddings):
            self._try("reading", partial(self._read_texts, asked))
        for task in asked:
            if task.likelihood:
                self._try(task.name, partial(self._read_requests, task, asked[task]))
            self._try(task.name, partial(self._measure, task))
            self._try(task.name, partial(self._evaluate, task))
        self._try("pruning", partial(self._prune, asked))

    def _try(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # the run will record it and go on
            self.cost.faults.append(line(f"{self.cost.name}: {what}", error))

    def _ask(self, task: Task, asked: dict[Task, Sequence[Any]]) -> None:
        """What a task asks for; the time counts once for all models, which share the answer."""
        layers = self.whole.run.todo.layers(task, self.model.info.blocks)
        begun = time.perf_counter()
        asked[task] = self.reading.ask(task, bool(len(layers)), bool(self.whole.plan.metrics))
        seconds = time.perf_counter() - begun
        self.whole.common = self.whole.common.plus(Span.about(seconds))

    def _read_texts(self, asked: Mapping[Task, Sequence[Text]]) -> None:
        """Texts of all tasks, and the views and token values that metrics need of them."""
        texts = dict.fromkeys(text for wanted in asked.values() for text in wanted)
        seen: dict[Text, None] = {}
        items: dict[int, PlannedMetric] = {}
        for task in asked:
            own = self.whole.metrics(self.planned, task)
            sample = self.reading.sample(task)
            texts |= dict.fromkeys(self.samples.views(sample, own))
            tokens = [item for item in own if item.metric.needs == "tokens"]
            seen |= dict.fromkeys(sample if tokens else ())
            items |= {id(item): item for item in tokens}
        missing = dict.fromkeys(self.reading.store.missing(list(texts)))
        watching = self.samples.watched(list(seen), list(items.values()))
        watched = dict.fromkeys(watching.missing()) if watching else {}
        self.cost.texts += len(texts)
        self.cost.stored += len(texts) - len(missing | watched)
        self._read([text for text in missing if text not in watched], ())
        self._read(list(watched), list(items.values()))

    def _read(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> None:
        """Texts that are still to be read, with the token metrics that look on."""
        if not texts:
            return
        ordered = sorted(texts, key=_size)
        part = spread(ordered, TOKENISED)
        counts = [len(e["input_ids"]) for e in self.model.tokenize(part)]
        tokens = sum(counts) * len(ordered) / len(part)
        found, size = self._calibrate(ordered, items)
        self.cost.passes += len(ordered)
        self.cost.tokens += round(tokens)
        self.cost.disk += round(size * tokens / found.tokens)
        characters = sum(map(_size, ordered))
        self.density = tokens / max(1, characters)
        self.rate = found.rate * self.density
        self.cost.add("reading", found.seconds(tokens))

    def _calibrate(
        self, ordered: Sequence[Text], items: Sequence[PlannedMetric]
    ) -> tuple[Sampled, int]:
        """A part of the texts read into a store that goes again, and how large that was."""
        sizes: list[int] = []

        def run(part: Sequence[Text]) -> tuple[float, int, int]:
            with files.scratch() as folder:
                store = Store(folder, self.model.identity)
                watched = self._watched(folder, part, items)
                done = capture(
                    self.model, part, store, batch_tokens=self.reading.budget, watched=watched
                )
                sizes.append(_bytes(folder))
                return done.seconds, done.tokens, done.forwarded

        return sampled(ordered, run), sizes[-1]

    def _watched(
        self, folder: Path, texts: Sequence[Text], items: Sequence[PlannedMetric]
    ) -> Watched | None:
        """What watches a pass into a store of one's own."""
        tokens = [item for item in items if item.metric.needs == "tokens"]
        if not tokens or "observe" not in inspect.signature(self.model.states).parameters:
            return None
        norm, states = self.whole.plan.settings.norm, self.model.info.blocks + 1
        values = [TokenValues(i, folder, self.model.identity, norm, states) for i in tokens]
        return Watched(self.model, norm, values, texts)

    def _read_requests(self, task: Task, requests: Sequence[Continuation]) -> None:
        """Requests of a likelihood task, by context, and the views of contexts."""
        assert isinstance(self.reading, Likelihoods)
        own, sample = self.whole.metrics(self.planned, task), self.reading.sample(task)
        store = self.reading.store
        distinct = list(dict.fromkeys(requests))
        missing = set(store.missing([likelihoods.key(r) for r in distinct]))
        watching = self.samples.watched(sample, own)
        lacking = [*store.missing(sample), *(watching.missing() if watching else ())]
        unread = {text.text for text in lacking}
        groups: dict[str, list[Continuation]] = {}
        for request in distinct:
            if likelihoods.key(request) in missing or request.context in unread:
                groups.setdefault(request.context, []).append(request)
        self.cost.texts += len(distinct)
        self.cost.stored += len(distinct) - sum(map(len, groups.values()))
        if groups:
            self._read_contexts(task, groups, {text.text for text in sample}, own)
        views = self.samples.views(sample, own)
        plain = Store(cache_dir() / "states", self.model.identity)
        unseen = plain.missing(views)
        self.cost.texts += len(set(views))
        self.cost.stored += len(set(views)) - len(unseen)
        self._read(unseen, ())

    def _read_contexts(
        self,
        task: Task,
        groups: Mapping[str, Sequence[Continuation]],
        sample: set[str],
        items: Sequence[PlannedMetric],
    ) -> None:
        assert isinstance(self.reading, Likelihoods)
        tokenize, model = task.tokenize, self.reading.model
        assert tokenize is not None
        sizes: list[tuple[int, int]] = []

        def run(part: Sequence[str]) -> tuple[float, int, int]:
            wanted = [context for context in part if context in sample]
            with files.scratch() as folder:
                done = likelihoods.capture(
                    model,
                    [request for context in part for request in groups[context]],
                    wanted,
                    tokenize,
                    Store(folder, likelihoods.identity(model)),
                    batch_tokens=self.reading.budget,
                    watched=self._watched(folder, [Text(text) for text in wanted], items),
                )
                sizes.append((_bytes(folder), sum(map(len, part))))
            return done.seconds, done.tokens, done.forwarded

        found = sampled(sorted(groups, key=len), run)
        size, characters = sizes[-1]
        times = sum(map(len, groups)) / max(1, characters)
        self.cost.passes += round(found.passes / found.share)
        self.cost.tokens += round(found.tokens * times)
        self.cost.disk += round(size / found.share)
        self.density = found.tokens / max(1, characters)
        self.rate = found.rate * self.density
        self.cost.add("reading", found.seconds(found.tokens * times))

    def _measure(self, task: Task) -> None:
        """The metrics on a task."""
        texts, states = self.reading.sample(task), self.model.info.blocks + 1
        for item in self.whole.metrics(self.planned, task):
            self.cost.units += 1
            n = len(texts)
            if item.metric.needs == "tokens":
                span = Span.about(n * TOKEN_ROW + RECORD, UNSURE)
            else:
                if item.metric.needs == "views":
                    n = min(n, self.whole.plan.settings.view_texts)
                device = self.planned.options.device
                grown = self.whole.growth(item, self.model, device).at(n) if n >= 8 else Span()
                read = READ * n * states * max(1, item.metric.views)
                span = grown.plus(Span.about(read + RECORD))
            self.cost.add("metrics", span)

    def _evaluate(self, task: Task) -> None:
        """A task at every layer that is asked for."""
        layers = self.whole.layers(self.planned, task, self.model)
        self.cost.units += layers
        if layers:
            span = self.whole.evaluation(task, self.model).times(layers)
            self.cost.add("tasks × layers", span)

    def _prune(self, asked: Mapping[Task, Sequence[Any]]) -> None:
        """Pruned models, as if every choice made one of its own: read, and scored on the tasks."""
        pruning = self.whole.plan.pruning
        tasks = [task for task in asked if pruning and task in pruning.tasks]
        if pruning is None or not tasks or not self.whole.sweep(self.planned).pending():
            return
        texts = list(dict.fromkeys(text for task in tasks for text in asked[task]))
        if self.reading.likelihood:
            passes: list[Any] = [Text(c) for c in dict.fromkeys(r.context for r in texts)]
        else:
            passes = texts
        ordered = sorted(passes, key=_size)
        if not self.rate and ordered:  # all is in the store: nothing was read yet
            found, _ = self._calibrate(ordered, ())
            part = sum(map(_size, ordered)) * found.share
            self.density = found.tokens / max(1.0, part)
            self.rate = found.rate * self.density
        characters = sum(map(_size, ordered))
        many = sum(len(pruning.seeds(rule)) for rule in pruning.rules)
        many *= len(pruning.asked.budgets)
        self.cost.passes += many * len(ordered)
        self.cost.tokens += round(many * characters * self.density)
        self.cost.disk += many * len(texts) * 4 * (self.model.info.width if passes is texts else 2)
        read = Span.about(many * characters * self.rate * SHARED, 2)
        scored = total(self.whole.evaluation(task, self.model).times(many) for task in tasks)
        self.cost.add("pruning", read.plus(scored.times(DISTINCT)))


def _size(text: Text) -> int:
    return len(text.prompt) + len(text.text)


def _bytes(folder: Path) -> int:
    """How large the files of a store are."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


KINDS: tuple[Kind, Kind] = (Embeddings, Likelihoods)


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
        cost = ModelCost(planned.name)
        opened: list[Model] = []
        try:
            seconds = timed(lambda: opened.append(planned.open()))
        except Exception as error:
            cost.faults.append(line(planned.name, error))
            return cost
        model = opened[0]
        own = [task for task in self.plan.tasks if planned.takes(task)]
        tasks = [task for task in own if self._left(planned, task, model)]
        kinds = ([t for t in tasks if not t.likelihood], [t for t in tasks if t.likelihood])
        if kinds[1] and model.head is None:
            cost.faults.append(f"{planned.name}: {model.headless}")
            kinds = (kinds[0], [])
        for kind, some in zip(KINDS, kinds, strict=True):
            if some:
                reading = kind(model, *self._how(planned, model))
                Reckoning(self, planned, reading, cost).add(some)
        if any(kinds):
            cost.add("opening", Span.about(seconds))
        return cost

    def _how(self, planned: PlannedModel, model: Model) -> tuple[Any, Any, Sampling]:
        """How a run reads a model."""
        settings, device = self.plan.settings, planned.options.device
        tokens = settings.batch_tokens or BATCH_TOKENS.get(device.split(":")[0], 4096)
        budget = remembered(cache_dir() / "budgets", model.identity, device, tokens)
        return self.run.questions, budget, Sampling(settings.norm, settings.view_texts, device)

    def _left(self, planned: PlannedModel, task: Task, model: Model) -> bool:
        """Whether anything is left to do for a task."""
        if self.layers(planned, task, model) or self.metrics(planned, task):
            return True
        pruning = self.plan.pruning
        return pruning is not None and task in pruning.tasks and self.sweep(planned).pending()

    def sweep(self, planned: PlannedModel) -> Sweep:
        """The sweep of a model, which knows what of it is recorded."""
        return Sweep(planned, self.plan, self.run.ledger, self.run.display, self.run.out)

    def layers(self, planned: PlannedModel, task: Task, model: Model) -> int:
        """How many layers of a task are still to be evaluated."""
        every = self.run.todo.layers(task, model.info.blocks)
        return sum(self.run.ledger.undone(unit(planned, task.name, layer)) for layer in every)

    def metrics(self, planned: PlannedModel, task: Task) -> list[PlannedMetric]:
        """The metrics still to be measured on a task."""
        undone = self.run.ledger.undone
        return [m for m in self.plan.metrics if undone(metric_unit(planned, task, m))]

    def growth(self, item: PlannedMetric, model: Model, device: str) -> Growth:
        """How a pooled or view metric's time grows with texts, for models of this shape."""
        states, width = model.info.blocks + 1, model.info.width
        name = json.dumps([item.metric.name, dict(item.parameters), states, width], default=str)
        if name not in self._growths:
            self._growths[name] = metric_growth(item, states, width, device)
        return self._growths[name]

    def evaluation(self, task: Task, model: Model) -> Span:
        """One evaluation of a task, result files included; for models of this width."""
        width = 1 if task.likelihood else self._width(task, model)
        if (task.name, width) not in self._evaluations:
            self._evaluations[task.name, width] = evaluated(task, width, model.similarity)
        return self._evaluations[task.name, width]

    def _width(self, task: Task, model: Model) -> int:
        """The width of what a model makes of a task's texts."""
        import torch

        first = next(iter(self.run.questions.requests(task)), Request(""))
        pooled = torch.zeros(1, model.info.width)
        return embedded(model.embed, pooled, first.prompt_type).shape[1]


def evaluated(task: Task, width: int, similarity: str) -> Span:
    """The seconds of one evaluation of a task on a stand-in."""
    assert task.evaluate is not None
    evaluate = task.evaluate
    times: list[float] = []
    while len(times) < 3 and sum(times) < 1:
        view = StandIn(width, similarity)
        with files.scratch() as folder:

            def do(view: StandIn = view, folder: Path = folder) -> None:
                score = evaluate(view)
                if task.save is not None:
                    task.save(score, view, folder)

            times.append(timed(do) - view.seconds + view.texts * READ)
    return Span.about(sorted(times)[len(times) // 2]).plus(Span.about(RECORD))
