"""Which of several models for some texts, without labels: ranks with intervals over the texts.

Every metric with a selection score ranks the models by it. How far a rank hangs on these very
texts is read off random halves of them, the same for all models (delete-half, see halves.py:
drawing with replacement would put copies of a text beside it, which neighbours and singular values
do not survive). Scores on halves vary about as much as those on other texts like all of these
would, but some depend on how many texts there are; so each model's are moved to vary about its
score on all texts, and a rank's interval holds the middle 95 % of its ranks by these.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Literal

import numpy as np

from lrd_harness import measuring, stats
from lrd_harness.capture import forward
from lrd_harness.compare import Asked, Pooled, Rows, Statistic
from lrd_harness.contracts import Choice, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.halves import halves, interval
from lrd_harness.layer_scores import fault
from lrd_harness.parameters import PlannedMetric
from lrd_harness.plan import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.protocols import Model
from lrd_harness.questions import sampled
from lrd_harness.reading import Embeddings

TIMED = 64  # texts that a model's speed is measured on
ROUNDS, LONG = 5, 4.0  # passes of them at most, and seconds after which there is no other one
BYTES = 4  # of a number in float32


@dataclass(frozen=True)
class Cost:
    """What a model takes.

    width: numbers in a vector of a text; tokens: of 1,000 texts like these, prompts included;
    seconds: of their forward passes on this device, measured on a sample of the texts.
    """

    parameters: int
    blocks: int
    width: int
    tokens: float
    seconds: float

    @property
    def stored(self) -> int:
        """Bytes of one vector in float32."""
        return self.width * BYTES


@dataclass(frozen=True)
class Drawn:
    """A selection score of n texts, and on each half; NaN on a half where there is none."""

    value: float
    n: int
    halves: tuple[float, ...]


@dataclass
class Candidate:
    """What was found of one model; cost: None where it could not be read; faults: by metric."""

    name: str
    revision: str
    pooling: str = ""
    cost: Cost | None = None
    drawn: dict[str, Drawn] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A model's place by a metric, 1 = best, level models sharing the better one.

    value: the selection score, low, high: its 95 % interval over texts; rank_low, rank_high: that
    of the rank; first: the share of halves in which no model is before it; halved: the mean score
    on halves as they are; draws: the halves that gave all these models a score. None where fewer
    than half of them did.
    """

    metric: str
    score: str
    best: Literal["max", "min"]
    model: str
    value: float
    low: float | None
    high: float | None
    rank: int
    rank_low: int | None
    rank_high: int | None
    first: float | None
    halved: float | None
    n: int
    draws: int


@dataclass(frozen=True)
class Chosen:
    """What was found: the models as they were named, and their places by metric."""

    candidates: tuple[Candidate, ...]
    places: Mapping[str, tuple[Place, ...]]
    texts: int


def choose(models: Sequence[PlannedModel], asked: Asked, display: Display) -> Chosen:
    """Measure the models one after the other, and rank them.

    A fault of a model, or of a metric on one, costs its values only. Raises UserError for fewer
    than two models, one that is there twice, metrics that rank no models, and too few texts.
    """
    check(models, asked.items)
    n = len(asked.questions.sample(asked.task))
    if n < measuring.MIN_TEXTS:
        raise UserError(f"to rank models takes at least {measuring.MIN_TEXTS} texts, got {n}")
    drawn = halves(n, asked.draws, asked.seed)
    found = []
    for planned in models:
        found.append(_candidate(planned, asked, drawn, display))
        gc.collect()  # no two models in memory at once
    choices = {i.metric.name: _choice(i) for i in asked.items}
    places = {name: ranked(found, name, choice, n) for name, choice in choices.items()}
    return Chosen(tuple(found), {name: rows for name, rows in places.items() if rows}, n)


def check(models: Sequence[PlannedModel], items: Sequence[PlannedMetric]) -> None:
    """Raise UserError for models and metrics between which there is nothing to rank."""
    if len(models) < 2:
        raise UserError("there is nothing to choose: name at least 2 models")
    names = [model.name for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    whats = [(m.checkpoint.path, m.checkpoint.revision, m.label) for m in models]
    if len(set(whats)) < len(whats):
        raise UserError(f"{twice or 'a model'} is named twice")
    for item in items:
        _choice(item)


def _choice(item: PlannedMetric) -> Choice:
    if item.metric.selection is None:
        raise UserError(f"{item.metric.name} ranks no models: see `lrd-harness plugins`")
    return item.metric.selection


def _candidate(
    planned: PlannedModel, asked: Asked, drawn: Sequence[Rows], display: Display
) -> Candidate:
    """Open a model, read the texts, measure each metric on all of them and on every half."""
    found = Candidate(planned.name, planned.checkpoint.revision)
    try:
        with display.stage(f"{planned.name}: opening"):
            model = planned.adapter.open(planned.checkpoint, planned.options)
        reading = Embeddings(model, asked.questions, asked.batch_tokens, asked.sampling)
        texts = reading.sample(asked.task)
        with display.stage(f"{planned.name}: reading all layers", "texts") as advance:
            reading.capture({asked.task: texts}, advance, {asked.task: asked.items})
        with display.stage(f"{planned.name}: speed"):
            found.cost = cost(model, texts, asked.batch_tokens)
    except Exception as error:  # a model's fault costs its values only
        found.faults = {"": fault(error)}
        return found
    found.pooling = model.info.pooling
    held = Pooled(reading, model, asked.sampling, texts)
    for item in asked.items:
        name = item.metric.name
        try:
            with display.stage(f"{planned.name}: {name}, half-samples", "draws") as advance:
                score = _choice(item).score
                found.drawn[name] = measured(held.statistic(item), score, drawn, advance)
        except Exception as error:
            found.faults[name] = fault(error)
    return found


def measured(
    statistic: Statistic,
    score: str,
    drawn: Sequence[Rows],
    advance: Callable[[int, int | None], None] = lambda done, total: None,
) -> Drawn:
    """A model-level score on all texts, whose fault is raised, and on halves, where it is NaN."""
    scores, n = statistic(None)
    value = scores.get(score)
    if not isinstance(value, (int, float)) or not isfinite(value):
        raise UnitError(f"gave no finite score {score}")
    found = []
    for done, rows in enumerate(drawn):
        advance(done, len(drawn))
        try:
            found.append(float(statistic(rows)[0][score]))  # type: ignore[arg-type]
        except Exception:  # as too few texts with enough tokens in this half
            found.append(nan)
    advance(len(drawn), len(drawn))
    return Drawn(float(value), n, tuple(found))


def ranked(
    candidates: Sequence[Candidate], metric: str, choice: Choice, texts: int
) -> tuple[Place, ...]:
    """The models that have the metric, the best first. texts: what the halves are halves of."""
    have = [one for one in candidates if metric in one.drawn]
    drawn = [one.drawn[metric] for one in have]
    up = choice.best == "max"
    ranks = stats.places([one.value for one in drawn], up)
    table = np.array([one.halves for one in drawn], dtype=np.float64).T  # (halves, models)
    whole = table[np.isfinite(table).all(1)] if have else table
    enough = len(whole) >= max(2, len(table) / 2)
    means = whole.mean(0) if enough else np.zeros(len(have))
    moved = whole - means + [one.value for one in drawn]
    again = np.array([stats.places(draw.tolist(), up) for draw in moved], dtype=np.float64)
    rows = []
    for i, (one, own, rank) in enumerate(zip(have, drawn, ranks, strict=True)):
        assert rank is not None
        low, high = interval(own.value, own.halves, texts) or (None, None)
        rank_low, rank_high = _span(again[:, i]) if enough else (None, None)
        rows.append(
            Place(
                metric=metric,
                score=choice.score,
                best=choice.best,
                model=one.name,
                value=own.value,
                low=low,
                high=high,
                rank=rank,
                rank_low=rank_low,
                rank_high=rank_high,
                first=float((again[:, i] == 1).mean()) if enough else None,
                halved=float(means[i]) if enough else None,
                n=own.n,
                draws=len(whole),
            )
        )
    return tuple(sorted(rows, key=lambda row: row.rank))


def _span(ranks: np.ndarray) -> tuple[int, int]:
    """The middle 95 % of ranks, outwards to a rank that there is."""
    low = np.quantile(ranks, 0.025, method="lower")
    return int(low), int(np.quantile(ranks, 0.975, method="higher"))


def cost(model: Model, texts: Sequence[Text], batch_tokens: int) -> Cost:
    """What 1,000 such texts cost, by the fastest of some passes of a sample of them.

    The fastest is the one that whatever else the machine does has disturbed least.
    """
    sample = sampled(texts, TIMED)
    _pass(model, sample[:1], batch_tokens)
    spent: list[float] = []
    while len(spent) < ROUNDS and sum(spent) < LONG:
        begun = time.perf_counter()
        tokens = _pass(model, sample, batch_tokens)
        spent.append(time.perf_counter() - begun)
    every = sum(len(encoded["input_ids"]) for encoded in model.tokenize(texts))
    info, per_text = model.info, every / len(texts)
    return Cost(
        parameters=info.parameters,
        blocks=info.blocks,
        width=info.width,
        tokens=1000 * per_text,
        seconds=1000 * per_text * min(spent) / max(tokens, 1),
    )


def _pass(model: Model, texts: Sequence[Text], batch_tokens: int) -> int:
    """Run texts and keep nothing; returns how many tokens they had."""

    def keep(texts: Sequence[Text], found: object, cut: Sequence[bool]) -> None:
        return

    return forward(
        model,
        texts,
        model.states,
        keep,
        batch_tokens=batch_tokens,
        progress=lambda done, total: None,
    )
