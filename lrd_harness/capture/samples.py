"""What tasks ask of a model, and what metrics are measured on: texts, views, halves, labels."""

from __future__ import annotations

import inspect
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np

from lrd_harness import measuring
from lrd_harness.capture.augment import views
from lrd_harness.capture.layers import StoredStates, planes
from lrd_harness.capture.token_metrics import TokenValues, Watched, share_faults
from lrd_harness.contracts import Metric, Model, Norm, PromptType, Request, Task, Text
from lrd_harness.errors import NotEnoughTexts, UnitError, UserError
from lrd_harness.measuring import MIN_TEXTS, PER_TEXT, PlannedMetric, PlannedPanel, copies
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.scores import Scores
from lrd_harness.store.store import Store

WIDTH = 8  # of the noise that a dry run answers with
SEED = 42
HALVED = 6  # words of the shortest text that has halves
MOST_HALVED = 500  # texts
Item = TypeVar("Item")


class Listener:
    """A ModelView that notes what it is asked and answers with seeded noise."""

    name = "lrd-harness/dry-run"
    revision = "none"
    similarity = "cosine"
    experiments: Sequence[Mapping[str, Any]] = ({},)

    def __init__(self, task: Task) -> None:
        self._task = task
        self.requests: list[Request] = []

    def encode(
        self, texts: Sequence[str], task: Task, prompt_type: PromptType | None = None
    ) -> np.ndarray:
        """Noise that depends on the text alone: (len(texts), 8) float32."""
        kinds = (None, *get_args(PromptType))
        listed = not isinstance(texts, str) and all(isinstance(text, str) for text in texts)
        if not listed or not isinstance(task, Task) or prompt_type not in kinds:
            raise TypeError(f"encode takes a list of texts, a Task, and one of {kinds}")
        part = None if task is self._task else task
        self.requests += [Request(text, prompt_type, part) for text in texts]
        noise = np.empty((len(texts), WIDTH), np.float32)
        for i, text in enumerate(texts):
            noise[i] = np.random.default_rng(zlib.crc32(text.encode())).normal(size=WIDTH)
        return noise


def requests_of(task: Task) -> Sequence[Any]:
    """All texts that the task's evaluation asks for, as often as it does, in order."""
    if task.requests is not None:
        return task.requests()
    if task.evaluate is None:
        return task.texts()
    listener = Listener(task)
    task.evaluate(listener)
    return listener.requests


class Questions:
    """The requests and texts of tasks; neither depends on a model.

    requests(task): all that its evaluation will ask for, as often as it does, in order;
    texts(task): its texts without labels, in order; labels(task): of each text of `sample` its
    label, None where it has none, and where it is there with several. All are found at the first
    call.
    """

    def __init__(self, max_texts: int) -> None:
        self.max_texts = max_texts
        self.requests: Callable[[Task], Sequence[Any]] = cache(requests_of)
        self.texts: Callable[[Task], Sequence[Any]] = cache(lambda task: list(task.texts()))
        self.labels: Callable[[Task], Sequence[Any]] = cache(self._labels)
        self.count: Callable[[Task], int] = cache(lambda task: len(self.sample(task)))
        self.left_out: defaultdict[tuple[str, int], dict[str, None]] = defaultdict(dict)

    def sample(self, task: Task) -> Sequence[Request]:
        """The distinct texts of a task for metrics, `max_texts` of them at most."""
        first: dict[str, Request] = {}
        for request in self.texts(task):
            first.setdefault(request.text, request)
        return drawn(list(first.values()), self.max_texts)

    def too_few(self, item: PlannedMetric | PlannedPanel, task: Task) -> bool:
        """Whether a metric that was not named itself needs more texts, as `left_out` then tells.

        Of fewer than any metric needs it is measured all the same, which is an error.
        """
        if item.named or item.metric.texts <= MIN_TEXTS:
            return False
        try:
            few = MIN_TEXTS <= self.count(task) < item.metric.texts
        except Exception:  # which is told where the task is read
            return False
        if few:
            self.left_out[item.metric.name, item.metric.texts][task.name] = None
        return few

    def _labels(self, task: Task) -> list[Any]:
        texts, labels = self.texts(task), task.labels() if task.labels else ()
        if len(labels) != len(texts):
            raise UserError(f"{task.name} has {len(labels)} labels of {len(texts)} texts")
        of: dict[str, set[Any]] = {}
        for request, label in zip(texts, labels, strict=True):
            of.setdefault(request.text, set()).add(label)
        every = (of[request.text] for request in self.sample(task))
        return [next(iter(some)) if len(some) == 1 else None for some in every]


def drawn(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, drawn by a seed, in order."""
    if len(items) <= most:
        return list(items)
    chosen = np.random.RandomState(SEED).choice(len(items), most, replace=False)
    return [items[i] for i in sorted(chosen)]


def halves(text: str) -> list[str]:
    """The first half of a text's words, rounded down, and the others; none of fewer than 6 words.

    >>> halves("one two three  four five six seven"), halves("one two")
    (['one two three', 'four five six seven'], [])
    """
    words = text.split()
    middle = len(words) // 2
    return [" ".join(words[:middle]), " ".join(words[middle:])] if len(words) >= HALVED else []


def unsuited(metric: Metric, task: Task) -> str:
    """Why a metric is not measured on a task; "" where it is."""
    if metric.needs == "labels" and task.labels is None:
        return "no labels"
    if metric.needs == "halves" and task.modality != "text":
        return f"{task.modality}s have no halves"
    return ""


@dataclass(frozen=True)
class Sampling:
    """How metrics see a model. norm: see `planes`; view_texts: how many texts get views.

    store_dtype: in which pooled states are kept, and seen by tasks as well.
    """

    norm: Norm = "hf"
    view_texts: int = 1000
    device: str = "cpu"
    store_dtype: str = "float32"

    def norm_of(self, metric: Metric) -> Norm:
        """Which states a metric sees: those that it names itself, or else the run's."""
        return metric.norm or self.norm

    @property
    def halved(self) -> int:
        """How many texts have their halves read at most."""
        return min(MOST_HALVED, self.view_texts)

    def copied(self, metric: Metric) -> int:
        """How many texts a metric of views or halves sees at most."""
        return self.halved if metric.needs == "halves" else self.view_texts

    def kept(self, identity: Mapping[str, str]) -> dict[str, str]:
        """The identity of a store of pooled states, which names their type unless it is float32."""
        narrow = self.store_dtype != "float32"
        return {**identity, **({"store_dtype": self.store_dtype} if narrow else {})}


class Reading(NamedTuple):
    """What a metric of many texts is measured on, of n texts.

    rows: the numbers of those that it is measured on, by which `states` and `labels` go; left: how
    many of the others there are, by the name of the score that says so.
    """

    states: StoredStates
    rows: Sequence[int]
    labels: Sequence[Any] | None
    left: Mapping[str, float]


@dataclass(eq=False)
class Samples:
    """The samples of one model for the metrics of a run.

    store: of the pooled states of the texts; plain: of texts read as they are, for the views;
    root: the folder of the stores of token values.
    """

    model: Model
    store: Store
    plain: Store
    identity: dict[str, str]
    sampling: Sampling
    root: Path
    _tokens: dict[int, TokenValues] = field(default_factory=dict, init=False)

    def views(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> list[Text]:
        """The views, and then the halves, that these metrics ask for, under the texts' prompts.

        Those of a text stand together.
        """
        count = max((i.metric.views for i in items if i.metric.needs == "views"), default=0)
        viewed = texts[: self.sampling.view_texts if count else 0]
        halved = any(item.metric.needs == "halves" for item in items)
        numbers = self._halved(texts) if halved else ()
        return [
            *(Text(view, text.prompt) for text in viewed for view in views(text.text, count)),
            *(Text(half, texts[i].prompt) for i in numbers for half in halves(texts[i].text)),
        ]

    def _halved(self, texts: Sequence[Text]) -> list[int]:
        """The numbers of the texts whose halves are read: 500 at most, by a seed."""
        long = [i for i, text in enumerate(texts) if halves(text.text)]
        return drawn(long, self.sampling.halved)

    def watched(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> Watched | None:
        """What is to watch the forward pass of these texts; None where no metric needs it."""
        by = {
            needs: [self.tokens(item) for item in items if item.metric.needs == needs]
            for needs in PER_TEXT
        }
        if not any(by.values()):
            return None
        return Watched(self.model, by["tokens"], texts, by["attention"])

    def tokens(self, item: PlannedMetric) -> TokenValues:
        """The values of a metric that sees one text at a time."""
        if id(item) not in self._tokens:
            states, attention = self.model.info.blocks + 1, item.metric.needs == "attention"
            identity = self.model.identity if attention else self.identity
            norm = self.sampling.norm_of(item.metric)
            values = TokenValues(item, self.root, identity, norm, states)
            shows = "observe" in inspect.signature(self.model.states).parameters
            if attention and not hasattr(self.model, "attention"):
                values.fault = UnitError("the model's adapter shows no attention maps")
            elif not attention and not shows:
                values.fault = UnitError("the model's adapter shows no states of tokens")
            self._tokens[id(item)] = values
        return self._tokens[id(item)]

    def refresh(self, ranks: Ranks = ALONE) -> None:
        """Take note of what other processes have kept, and of token metrics that failed there.

        Each waits for all.
        """
        for values in self._tokens.values():
            values.store.refresh()
        share_faults(list(self._tokens.values()), ranks)

    def reading(
        self,
        item: PlannedMetric,
        texts: Sequence[Text],
        labels: Callable[[], Sequence[Any]] | None = None,
    ) -> Reading:
        """What a metric that sees many texts at once is measured on.

        labels: gives those of the texts, None where one has none. Raises NotEnoughTexts for fewer
        than 8 texts that have the halves, or the label, that it needs.
        """
        metric, n = item.metric, len(texts)
        store, read, of = self.store, texts, None
        rows: Sequence[int] = range(n)
        which, left = "", dict[str, float]()
        if metric.needs == "views":
            rows = rows[: self.sampling.view_texts]
        elif metric.needs == "halves":
            rows, which = self._halved(texts), f" of {HALVED} words or more"
            left = {"too_short": n - sum(bool(halves(text.text)) for text in texts)}
        elif metric.needs == "labels":
            every = labels() if labels else [None] * n
            rows, which = [i for i, label in enumerate(every) if label is not None], " with a label"
            read, of = [texts[i] for i in rows], [every[i] for i in rows]
            left = {"left_out": n - len(rows)}
        if which and len(rows) < MIN_TEXTS:
            least = f"at least {MIN_TEXTS} texts{which}"
            raise NotEnoughTexts(f"{metric.name} needs {least}, got {len(rows)} of {n}")
        if count := copies(metric):
            read, store = self.views(texts, [item]), self.plain
        chosen = planes(self.model, self.sampling.norm_of(metric))
        states = StoredStates(store, read, chosen, self.sampling.device, count)
        return Reading(states, rows, of, {name: count for name, count in left.items() if count})

    def measure(
        self,
        item: PlannedMetric,
        texts: Sequence[Text],
        labels: Callable[[], Sequence[Any]] | None = None,
    ) -> tuple[Scores, int]:
        """A metric's scores on texts that were captured, and the number of texts they are of.

        labels: see `reading`. Raises whatever the metric raises.
        """
        metric = item.metric
        if metric.needs in PER_TEXT:
            return self.tokens(item).finished(texts)
        states, rows, of, left = self.reading(item, texts, labels)
        scores = measuring.measure(metric, states, of, **item.parameters)
        itself = scores.get("left_out") if metric.needs == "labels" else None  # small classes
        small = int(itself) if isinstance(itself, int | float) else 0
        scores.update({name: count + small * (name == "left_out") for name, count in left.items()})
        return scores, len(rows) - small
