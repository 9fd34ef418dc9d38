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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan, sqrt
from typing import Literal

import numpy as np

from lrd_harness import measuring, stats
from lrd_harness.choose_model_costs import Cost, cost, size
from lrd_harness.compare import Asked, Pooled, Rows, Statistic
from lrd_harness.contracts import Choice
from lrd_harness.errors import UnitError, UserError
from lrd_harness.halves import halves, interval
from lrd_harness.layer_scores import fault
from lrd_harness.parameters import PlannedMetric
from lrd_harness.plan import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.reading import Embeddings

TIMING = "what it costs"  # a fault of it, among those by metric: no metric's name


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

    value: the selection score in `unit` ("": none is known), low, high: its 95 % interval over
    texts; rank_low, rank_high: that of the rank; first: in what share of half-samples, each moved
    to its score on all texts, no model is before it; halved: the mean score on halves as they are;
    overtakes: by these it is before the first model, by more than 2 standard errors of their mean
    difference; draws: the halves that gave all these models a score. None where fewer than half of
    them did. A model that alone has a score has no rank either.
    """

    metric: str
    score: str
    unit: str
    best: Literal["max", "min"]
    model: str
    value: float
    low: float | None
    high: float | None
    rank: int | None
    rank_low: int | None
    rank_high: int | None
    first: float | None
    halved: float | None
    overtakes: bool
    n: int
    draws: int


@dataclass(frozen=True)
class Chosen:
    """What was found: the models as they were named, and their places by metric.

    texts: how many were read; draws: how many half-samples of them were asked for.
    """

    candidates: tuple[Candidate, ...]
    places: Mapping[str, tuple[Place, ...]]
    texts: int
    draws: int

    @property
    def rankings(self) -> dict[str, tuple[Place, ...]]:
        """The places by those metrics that two or more models have."""
        return {metric: places for metric, places in self.places.items() if len(places) > 1}

    @property
    def ranked(self) -> list[Candidate]:
        """The models that are ranked by some metric."""
        names = {place.model for places in self.rankings.values() for place in places}
        return [one for one in self.candidates if one.name in names]


def choose(models: Sequence[PlannedModel], asked: Asked, display: Display) -> Chosen:
    """Measure the models one after the other, and rank them.

    A fault of a model, or of a metric on one, costs its values only. Raises UserError for fewer
    than two models, one that is there twice, metrics that rank no models, and too few texts;
    StorageFull.
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
    places = {}
    for item in asked.items:
        name = item.metric.name
        places[name] = ranked(found, name, _choice(item), n, item.metric.unit)
    placed = {name: rows for name, rows in places.items() if rows}
    return Chosen(tuple(found), placed, n, asked.draws)


def check(models: Sequence[PlannedModel], items: Sequence[PlannedMetric]) -> None:
    """Raise UserError for models and metrics between which there is nothing to rank."""
    if len(models) < 2:
        raise UserError("there is nothing to choose: name at least 2 models")
    seen: dict[object, str] = {}
    for model in models:
        what = model.checkpoint.path, model.checkpoint.revision, model.label
        if model.name in seen.values():  # by which all that is found is kept
            raise UserError(f"{model.name} is named twice")
        if what in seen:
            raise UserError(f"{seen[what]} and {model.name} are the same model")
        seen[what] = model.name
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
            model = planned.open()
        reading = Embeddings(model, asked.questions, asked.batch_tokens, asked.sampling)
        texts = reading.sample(asked.task)
        with display.stage(f"{planned.name}: reading all layers", "texts") as advance:
            reading.capture({asked.task: texts}, advance, {asked.task: asked.items})
        found.cost, found.pooling = size(model), model.info.pooling
    except Exception as error:  # a model's fault costs its values only
        found.faults = {"": fault(error)}
        return found
    try:
        with display.stage(f"{planned.name}: speed"):
            found.cost = cost(model, texts, asked.batch_tokens)
    except Exception as error:
        found.faults[TIMING] = fault(error)
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
        except Exception as error:  # as too few texts with enough tokens in this half
            fault(error)  # but a full disk ends it
            found.append(nan)
    advance(len(drawn), len(drawn))
    return Drawn(float(value), n, tuple(found))


def ranked(
    candidates: Sequence[Candidate], metric: str, choice: Choice, texts: int, unit: str = ""
) -> tuple[Place, ...]:
    """The models that have the metric, the best first. texts: what the halves are halves of."""
    have = [one for one in candidates if metric in one.drawn]
    drawn = [one.drawn[metric] for one in have]
    up = choice.best == "max"
    ranks = stats.places([one.value for one in drawn], up)
    table = np.array([one.halves for one in drawn], dtype=np.float64).T  # (halves, models)
    whole = table[np.isfinite(table).all(1)] if have else table
    enough = len(have) > 1 and len(whole) >= max(2, len(table) / 2)
    means = whole.mean(0) if enough else np.zeros(len(have))
    moved = whole - means + [one.value for one in drawn]
    again = np.array([stats.places(draw.tolist(), up) for draw in moved], dtype=np.float64)
    ahead = _overtakes(whole, ranks, up) if enough else [False] * len(have)
    rows = []
    for i, (one, own, rank) in enumerate(zip(have, drawn, ranks, strict=True)):
        low, high = interval(own.value, own.halves, texts) or (None, None)
        rank_low, rank_high = _span(again[:, i]) if enough else (None, None)
        rows.append(
            Place(
                metric=metric,
                score=choice.score,
                unit=unit,
                best=choice.best,
                model=one.name,
                value=own.value,
                low=low,
                high=high,
                rank=rank if len(have) > 1 else None,
                rank_low=rank_low,
                rank_high=rank_high,
                first=float((again[:, i] == 1).mean()) if enough else None,
                halved=float(means[i]) if enough else None,
                overtakes=ahead[i],
                n=own.n,
                draws=len(whole),
            )
        )
    return tuple(sorted(rows, key=lambda row: row.rank or 0))


def _span(ranks: np.ndarray) -> tuple[int, int]:
    """The middle 95 % of ranks, outwards to a rank that there is."""
    low = np.quantile(ranks, 0.025, method="lower")
    return int(low), int(np.quantile(ranks, 0.975, method="higher"))


def _overtakes(whole: np.ndarray, ranks: Sequence[int | None], up: bool) -> list[bool]:
    """Which models are before the first one on halves (halves, models), beyond what chance does."""
    lead = (whole - whole[:, [ranks.index(1)]]) * (1 if up else -1)
    errors = lead.std(0, ddof=1) / sqrt(len(lead))
    return [rank != 1 and bool(lead[:, i].mean() > 2 * errors[i]) for i, rank in enumerate(ranks)]
