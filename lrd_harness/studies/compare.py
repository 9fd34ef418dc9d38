"""Two models of equal depth on the same texts, layer by layer: a base and its tuned version."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan

import numpy as np
import torch

from lrd_harness import measuring
from lrd_harness.capture.layers import planes
from lrd_harness.capture.requests import Questions
from lrd_harness.capture.samples import Sampling
from lrd_harness.capture.states import Embeddings
from lrd_harness.contracts import Model, Task, Text
from lrd_harness.errors import UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.studies.values import (
    LayerScore,
    by_layer,
    fault,
    halves,
    interval,
    layer_score,
    split_of,
)

Rows = np.ndarray  # ascending numbers of texts
Statistic = Callable[[Rows | None], tuple[measuring.Scores, int]]  # None: all texts


@dataclass(frozen=True)
class Asked:
    """What is compared: the metrics, on which texts, with how many half-samples.

    sampling: norm and device, and texts that get views; batch_tokens: padding included.
    """

    task: Task
    items: Sequence[PlannedMetric]
    questions: Questions
    sampling: Sampling
    draws: int
    seed: int
    batch_tokens: int


@dataclass(frozen=True)
class Difference:
    """A metric's score at a layer of both models; difference: of b minus a.

    depth: layer / L; low, high: the 95 % interval of the difference over texts, None without;
    n: texts of a and b; draws: how many half-samples gave a value.
    """

    metric: str
    score: str
    layer: int
    depth: float
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    n: tuple[int, int]
    draws: int

    @property
    def apart(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Fault:
    """What went wrong with a metric on one of the models ("A" or "B")."""

    side: str
    metric: str
    error: str


@dataclass(frozen=True)
class Measured:
    """A metric on one model: of all texts, and on each half (one mapping a draw) by layer."""

    score: LayerScore
    n: int
    drawn: Sequence[Mapping[int, float | None]]


@dataclass
class Side:
    """What was found on one model. blocks: L."""

    blocks: int
    pooling: str
    measured: dict[str, Measured] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass
class Compared:
    """What a comparison found; curves: metric -> its score, as of a; blocks: L of both."""

    blocks: int
    poolings: tuple[str, str]
    texts: int
    differences: list[Difference] = field(default_factory=list)
    scores: dict[str, LayerScore] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def compare(a: PlannedModel, b: PlannedModel, asked: Asked, display: Display) -> Compared:
    """Measure both models, one after the other, and take the differences.

    Raises UserError for models of unequal depth, for too few texts for intervals, and for a model
    that cannot be opened.
    """
    if a.depth is not None and b.depth is not None:
        _check_depths(a, b, a.depth, b.depth)
    n = len(asked.questions.sample(asked.task))
    if n < measuring.MIN_TEXTS:
        raise UserError(f"a comparison needs at least {measuring.MIN_TEXTS} texts, got {n}")
    drawn = halves(n, asked.draws, asked.seed)
    one = measure_side(a, asked, asked.items, drawn, display)
    gc.collect()  # no two models in memory at once
    left = [item for item in asked.items if item.metric.name in one.measured]
    two = measure_side(b, asked, left, drawn, display, expected=(a, one.blocks))
    found = Compared(one.blocks, (one.pooling, two.pooling), n)
    for name, side in (("A", one), ("B", two)):
        found.faults += [Fault(name, metric, error) for metric, error in side.faults.items()]
    for item in left:
        name = item.metric.name
        if name in two.measured:
            found.scores[name] = one.measured[name].score
            pair = one.measured[name], two.measured[name]
            found.differences += differences(name, *pair, one.blocks, n)
    return found


def _check_depths(a: PlannedModel, b: PlannedModel, depth_a: int, depth_b: int) -> None:
    if depth_a != depth_b:
        raise UserError(
            f"{a.name} has {depth_a} blocks and {b.name} has {depth_b}: "
            "layers are compared one by one, so the models must be equally deep"
        )


def differences(metric: str, a: Measured, b: Measured, blocks: int, texts: int) -> list[Difference]:
    """The layers at which both models have a value. texts: how many the halves are halves of."""
    found = []
    for layer, value in a.score.values.items():
        other = b.score.values.get(layer)
        if value is None or other is None:
            continue
        pairs = ((x.get(layer), y.get(layer)) for x, y in zip(a.drawn, b.drawn, strict=True))
        drawn = [nan if x is None or y is None else y - x for x, y in pairs]
        reach = interval(other - value, drawn, texts)
        low, high = reach or (None, None)
        found.append(
            Difference(
                metric=metric,
                score=a.score.name,
                layer=layer,
                depth=layer / blocks,
                a=value,
                b=other,
                difference=other - value,
                low=low,
                high=high,
                n=(a.n, b.n),
                draws=int(np.isfinite(drawn).sum()),
            )
        )
    return found


def measure_side(
    planned: PlannedModel,
    asked: Asked,
    items: Sequence[PlannedMetric],
    drawn: Sequence[Rows],
    display: Display,
    expected: tuple[PlannedModel, int] | None = None,
) -> Side:
    """Open a model, read the texts, measure the metrics on all of them and on every half.

    expected: the other model and how deep it is.
    """
    with display.stage(f"{planned.name}: opening"):
        model = planned.open()
    if expected is not None:
        _check_depths(expected[0], planned, expected[1], model.info.blocks)
    reading = Embeddings(model, asked.questions, asked.batch_tokens, asked.sampling)
    texts = reading.sample(asked.task)
    with display.stage(f"{planned.name}: reading all layers", "texts") as advance:
        reading.capture({asked.task: texts}, advance, {asked.task: items})
    side = Side(model.info.blocks, model.info.pooling)
    held = Pooled(reading, model, asked.sampling, texts)
    for item in items:
        name = item.metric.name
        try:
            with display.stage(f"{planned.name}: {name}, half-samples", "draws") as advance:
                statistic = held.statistic(item)
                side.measured[name] = measured(item, statistic, side.blocks, drawn, advance)
        except Exception as error:  # a metric's fault costs its values only
            side.faults[name] = fault(error)
    return side


def measured(
    item: PlannedMetric,
    statistic: Statistic,
    blocks: int,
    drawn: Sequence[Rows],
    advance: Callable[[int, int | None], None] = lambda done, total: None,
) -> Measured:
    """A metric on all texts, whose fault is raised, and on halves, where a fault is no value."""
    scores, n = statistic(None)
    score = layer_score(item.metric, split_of(scores, blocks))
    found: list[Mapping[int, float | None]] = []
    for done, rows in enumerate(drawn):
        advance(done, len(drawn))
        try:
            found.append(by_layer(split_of(statistic(rows)[0], blocks), score.name))
        except Exception as error:  # as too few texts with enough tokens in this half
            fault(error)  # but a full disk ends it
            found.append({})
    advance(len(drawn), len(drawn))
    return Measured(score, n, found)


class Pooled:
    """The states of one model's texts in memory, float32, read from the store once."""

    def __init__(
        self, reading: Embeddings, model: Model, sampling: Sampling, texts: Sequence[Text]
    ) -> None:
        self._reading, self._texts, self._device = reading, texts, sampling.device
        self._planes = planes(model, sampling.norm)
        self._pooled: list[np.ndarray] | None = None

    def statistic(self, item: PlannedMetric) -> Statistic:
        """A metric as a function of which texts it is measured on."""
        if item.metric.needs == "tokens":
            tokens = self._reading.samples.tokens(item)
            return lambda rows: tokens.finished([self._texts[i] for i in self._rows(rows)])
        if item.metric.needs == "views":
            states = self._views(item)
        else:
            self._pooled = states = self._pooled or self._read(self._texts)

        def measure(rows: Rows | None) -> tuple[measuring.Scores, int]:
            chosen = self._rows(rows)
            some = _Some(states, chosen, self._device)
            return measuring.measure(item.metric, some, **item.parameters), len(chosen)

        return measure

    def _rows(self, rows: Rows | None) -> Rows:
        return np.arange(len(self._texts)) if rows is None else rows

    def _read(self, texts: Sequence[Text]) -> list[np.ndarray]:
        return [self._reading.store.read(texts, plane) for plane in self._planes]

    def _views(self, item: PlannedMetric) -> list[np.ndarray]:
        """(n, q, d_l) of each layer."""
        views = self._reading.samples.views(self._texts, [item])
        shape = len(self._texts), item.metric.views, -1
        return [state.reshape(shape) for state in self._read(views)]


class _Some:
    """Some rows of the states of all layers, copied when a layer is read."""

    def __init__(self, states: Sequence[np.ndarray], rows: Rows, device: str) -> None:
        self._states, self._rows, self._device = states, rows, device

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, layer: int) -> torch.Tensor:
        return torch.from_numpy(self._states[layer][self._rows]).to(self._device)
