"""How long things take, measured on a little of them: what the estimate of a run is made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch

from lrd_harness import measuring
from lrd_harness.capture.batches import SEGMENT_TOKENS
from lrd_harness.capture.embeddings import Captured
from lrd_harness.contracts import Continuation, PromptType, Task
from lrd_harness.errors import UnitError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.store import files

FIND = 6e-6  # seconds to find a text's state in the store
RECORD = 0.006  # seconds to put a unit on disk
LONG = 0.7  # seconds from which on a measurement is long enough
SURE, UNSURE = 1.25, 1.6  # how far off a measured time may be, and one that was scaled up
FIRST = 128  # texts that a metric is tried on first
LAYERS = 4  # states that a metric is tried on; how it grows with them is found on few texts
WORDS = 2**14  # columns into which a stand-in sorts words
Item = TypeVar("Item")


@dataclass(frozen=True)
class Span:
    """Seconds, from `low` to `high`."""

    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: Span) -> Span:
        """Both, one after the other."""
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, number: float) -> Span:
        """So many of them."""
        return Span(self.low * number, self.high * number)

    def __str__(self) -> str:
        """A span of time as one says it: 3-6 min."""
        scales = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
        unit, scale = next((s for s in scales if self.high >= 2 * s[1]), scales[-1])
        if self.high < scale:
            return "< 1 s"
        values = (self.low / scale, self.high / scale)
        ends = [f"{v:.1f}" if v < 3 and scale > 1 else f"{v:.0f}" for v in values]
        return f"{'-'.join(dict.fromkeys(end.removesuffix('.0') for end in ends))} {unit}"

    @classmethod
    def about(cls, seconds: float, factor: float = SURE) -> Self:
        """Seconds that may be off by a factor."""
        return cls(seconds / factor, seconds * factor)


def total(spans: Iterable[Span]) -> Span:
    """All of them, one after the other."""
    return sum(spans, Span())


class Calibration(NamedTuple):
    """What a part of some items cost, and the bytes that were written; share: of all items.

    fixed: seconds that do not grow with tokens, spent again for each file that is written;
    rate: seconds per token.
    """

    part: Sequence[Any]
    cost: Captured
    disk: int
    share: float
    fixed: float
    rate: float

    def seconds(self, tokens: float) -> Span:
        """The seconds of so many tokens."""
        written = math.ceil(tokens / SEGMENT_TOKENS)
        seconds = self.fixed * written + self.rate * tokens
        return Span.about(seconds, SURE if self.share == 1 else UNSURE)


def spread(ordered: Sequence[Item], count: int, runs: int = 16) -> list[Item]:
    """About `count` items from all along a list, in runs of neighbours, as batches are made of."""
    if count >= len(ordered):
        return list(ordered)
    runs = min(runs, count)
    length = count // runs
    starts = [int((i + 0.5) * len(ordered) / runs - length / 2) for i in range(runs)]
    places = {max(0, start) + i: None for start in starts for i in range(length)}
    return [ordered[place] for place in places if place < len(ordered)]


def calibrate(
    ordered: Sequence[Item], read: Callable[[Sequence[Item], Path], Captured]
) -> Calibration:
    """Read more and more of some items, ordered by size, until it takes long enough.

    read: reads a part into a store in a folder, which goes again. It is called on a few first, to
    warm up.
    """

    def run(part: Sequence[Item]) -> tuple[Captured, int]:
        with files.scratch() as folder:
            done = read(part, folder)
            return done, sum(p.stat().st_size for p in folder.rglob("*.safetensors"))

    run(spread(ordered, 8))
    few = spread(ordered, 16)
    (first, disk), count = run(few), 48
    while True:
        part = spread(ordered, count)
        done, disk = run(part) if len(part) > len(few) else (first, disk)
        if len(part) == len(ordered) or done.seconds >= max(LONG, 2 * first.seconds):
            break
        count *= max(2, min(16, int(LONG / max(done.seconds, 1e-3))))
    rate = (done.seconds - first.seconds) / max(1, done.tokens - first.tokens)
    if not 0 < rate * done.tokens < done.seconds:  # too little to tell them apart
        rate = done.seconds / done.tokens
    fixed = done.seconds - rate * done.tokens
    return Calibration(part, done, disk, len(part) / len(ordered), fixed, rate)


class Growth:
    """Seconds that something takes at size n, measured at growing sizes until it takes long.

    Beyond the last of these sizes, the power of n with which it grew last is carried on, between 1
    and 3: what compares every text with every other grows with the square or the cube.
    """

    def __init__(self, run: Callable[[int], float]) -> None:
        self._run = run
        self._measured: dict[int, float] = {}

    def at(self, n: int) -> Span:
        """The seconds at a size."""
        length, tried = min(n, FIRST), []
        while True:
            if length not in self._measured:
                self._measured[length] = self._run(length)
            tried.append(length)
            if length == n:
                return Span.about(self._measured[n])
            if self._measured[length] >= LONG and len(tried) > 1:
                break
            length = min(n, 2 * length)
        before, last = tried[-2:]
        ratio = self._measured[last] / max(self._measured[before], 1e-9)
        power = min(3.0, max(1.0, math.log(ratio) / math.log(last / before)))
        return Span.about(self._measured[last] * (n / last) ** power, UNSURE)


def metric_growth(item: PlannedMetric, states: int, width: int, device: str) -> Growth:
    """A pooled or view metric's seconds on n texts of a model with so many states.

    Measured on random states that drift from layer to layer.
    """
    few = min(states, LAYERS)
    device = "cpu" if device.startswith("mps") else device
    inner = (max(2, item.metric.views),) if item.metric.needs == "views" else ()

    def run(n: int, layers: int = few) -> float:
        draw = np.random.default_rng(0)
        shape = (n, *inner, width)
        first, step = (draw.standard_normal(shape, dtype=np.float32) for _ in range(2))
        drifting = [torch.from_numpy(first + 0.3 * layer * step) for layer in range(layers)]
        arrays = [state.to(device) for state in drifting]
        begun = time.perf_counter()
        try:
            measuring.measure(item.metric, arrays, **item.parameters)
        except UnitError:  # it cannot be computed on so few, and costs nothing
            return 1e-6
        return time.perf_counter() - begun

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
