"""How long things take, measured on a little of them: what a plan's estimate is made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch

from lrd_harness import measuring
from lrd_harness.capture import SHARD_TOKENS
from lrd_harness.contracts import Continuation, PromptType, Task
from lrd_harness.errors import UnitError
from lrd_harness.parameters import PlannedMetric

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
