"""How long things take, measured on a little of them: what the estimate of a run is made of."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch

from lrd_harness import measuring
from lrd_harness.capture.embeddings import Captured, size
from lrd_harness.capture.evidence import ABLATION_TOKENS
from lrd_harness.contracts import Continuation, Model, PromptType, Task, Text
from lrd_harness.errors import UnitError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.store import files

CLASSES = 5  # of labels
FIND = 6e-6  # seconds to find a text's state in the store
RECORD = 0.006  # seconds to put a unit on disk
LONG = 1.0  # seconds from which on a measurement is long enough
SURE, UNSURE = 1.25, 1.6  # how far off a measured time may be, and one that was scaled up
FIRST = 128  # texts that a metric is tried on first
HEAD = 0.4  # of a pass, what a language model's distributions of next tokens cost
WORDS = 2**14  # columns into which a stand-in sorts words
Item = TypeVar("Item")


@dataclass(frozen=True)
class Span:
    """Seconds, from `low` to `high`."""

    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, number: float) -> Span:
        return Span(self.low * number, self.high * number)

    def __str__(self) -> str:
        """As one says it: 3-6 min."""
        scales = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
        unit, scale = next((s for s in scales if self.high >= 2 * s[1]), scales[-1])
        if self.high < scale:
            return "< 1 s"
        values = (self.low / scale, self.high / scale)
        ends = [f"{v:.1f}" if v < 3 and scale > 1 else f"{v:.0f}" for v in values]
        return f"{'-'.join(dict.fromkeys(end.removesuffix('.0') for end in ends))} {unit}"

    @property
    def middle(self) -> float:
        """One number for it."""
        return (self.low + self.high) / 2

    @classmethod
    def about(cls, seconds: float, factor: float = SURE) -> Self:
        """Seconds that may be off by a factor."""
        return cls(seconds / factor, seconds * factor)


def total(spans: Iterable[Span]) -> Span:
    """All of them, one after the other."""
    return sum(spans, Span())


class Reading(NamedTuple):
    """What it takes to read some items, scaled up from a part. size: of all; disk: bytes."""

    size: int
    passes: float
    tokens: float
    disk: float
    seconds: float
    sure: float  # the factor by which it may be off


def spread(ordered: Sequence[Item], count: int, runs: int = 16) -> list[Item]:
    """About `count` items from all along a list, in runs of neighbours, as batches are made of."""
    if count >= len(ordered):
        return list(ordered)
    runs = min(runs, count)
    length = count // runs
    places = np.array_split(np.arange(len(ordered)), runs)
    return [ordered[i] for run in places for i in run[(len(run) - length) // 2 :][:length]]


def calibrate(
    items: Iterable[Item],
    size: Callable[[Item], int],
    read: Callable[[Sequence[Item], Path], Captured],
) -> Reading:
    """Read more and more of some items until it takes long enough.

    size: about how long it takes to read an item; read: reads a part of them into a store in a
    folder, which goes again.
    """
    ordered, count = sorted(items, key=size), 48
    with files.scratch() as folder:  # warms up
        read(spread(ordered, 16), folder)
    while True:
        part = spread(ordered, count)
        with files.scratch() as folder:
            cost = read(part, folder)
            disk = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        if len(part) == len(ordered) or cost.seconds >= LONG:
            break
        count *= max(2, min(16, int(LONG / max(cost.seconds, 1e-3))))
    whole, more = sum(map(size, ordered)), len(ordered) / len(part)
    longer = whole / max(1, sum(map(size, part)))
    tokens, seconds = cost.tokens * longer, cost.seconds * longer
    sure = SURE if more == 1 else UNSURE
    return Reading(whole, cost.forwarded * more, tokens, disk * more, seconds, sure)


def ablated(texts: Sequence[Text], model: Model, reading: Reading) -> Span:
    """Running these texts without each block alone; reading: what it took to read some."""
    per = model.info.blocks * (0.5 + HEAD * (model.head is not None))
    share = sum(map(size, texts)) / max(1, reading.size)
    most = ABLATION_TOKENS / max(1.0, share * reading.tokens)
    return Span.about(per * share * min(1.0, most) * reading.seconds, 2)


def grown(run: Callable[[int], float], n: int) -> Span:
    """The seconds that `run` takes at size n, measured at growing sizes until it takes long.

    Beyond the last of these sizes, the power of n with which it grew last is carried on, between 1
    and 3: what compares every text with every other grows with the square or the cube.
    """
    before = size = min(n, FIRST)
    while size < n and (size == before or run(size) < LONG):
        before, size = size, min(n, 2 * size)
    if size == n:
        return Span.about(run(n))
    power = math.log(run(size) / max(run(before), 1e-9)) / math.log(size / before)
    return Span.about(run(size) * (n / size) ** min(3.0, max(1.0, power)), UNSURE)


@dataclass(frozen=True)
class Drift:
    """Random states that drift from layer to layer, made as they are read."""

    first: torch.Tensor
    step: torch.Tensor
    states: int

    def __len__(self) -> int:
        return self.states

    def __getitem__(self, layer: int) -> torch.Tensor:
        return self.first + 0.3 * layer * self.step


def metric_seconds(
    item: PlannedMetric, states: int, width: int, device: str
) -> Callable[[int], float]:
    """The seconds of a metric that sees n texts at once, of a model with so many states.

    They are kept by n.
    """
    views = (max(2, count),) if (count := measuring.copies(item.metric)) else ()
    labelled = item.metric.needs == "labels"

    def run(n: int) -> float:
        draw = np.random.default_rng(0)
        arrays = [draw.standard_normal((n, *views, width), np.float32) for _ in range(2)]
        first, step = (torch.from_numpy(array).to(device) for array in arrays)
        begun = time.perf_counter()
        with suppress(UnitError):  # it cannot be computed on so few
            labels = [i % CLASSES for i in range(n)] if labelled else None
            measuring.measure(item.metric, Drift(first, step, states), labels, **item.parameters)
        return time.perf_counter() - begun

    run(2 * measuring.MIN_TEXTS)  # warms up
    return functools.cache(run)


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
        states = self._words.transform(texts) @ self._table
        states /= np.linalg.norm(states, axis=1, keepdims=True) + 1e-6
        self.texts += len(texts)
        self.seconds += time.perf_counter() - begun
        return np.asarray(states, np.float32)

    def loglikelihoods(self, requests: Sequence[Continuation]) -> list[tuple[float, bool]]:
        """Random ones, in nats."""
        values = -np.random.default_rng(0).exponential(size=len(requests))
        self.texts += len(requests)
        return [(value, False) for value in values.tolist()]


def evaluated(task: Task, width: int, similarity: str) -> Span:
    """The seconds of one evaluation of a task on a stand-in, result files included."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < 1:
        view, begun = StandIn(width, similarity), time.perf_counter()
        with files.scratch() as folder:
            assert task.evaluate is not None
            score = task.evaluate(view)
            if task.save is not None:
                task.save(score, view, folder)
            times.append(time.perf_counter() - begun - view.seconds + view.texts * FIND)
    return Span.about(sorted(times)[len(times) // 2]) + Span.about(RECORD)
