"""What one model costs on one kind of task, embeddings or likelihoods: read a little, count all."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness import likelihoods, temporary
from lrd_harness.cache import cache_dir
from lrd_harness.calibration import UNSURE, Sampled, Span, sampled, spread
from lrd_harness.capture import capture
from lrd_harness.contracts import Continuation, Task, Text
from lrd_harness.costs import READ, RECORD, ModelCost, line, total
from lrd_harness.parameters import PlannedMetric
from lrd_harness.plan import PlannedModel
from lrd_harness.reading import Embeddings, Likelihoods
from lrd_harness.store import Store
from lrd_harness.token_values import TokenValues, Watched

if TYPE_CHECKING:
    from lrd_harness.estimate import Estimator

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
            with temporary.scratch() as folder:
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
            with temporary.scratch() as folder:
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
