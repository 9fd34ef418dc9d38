"""How far to trust a choice between models that saw no label, in plain sentences.

What a model takes to read texts like these: time, and the size of what it gives.

Which of several models for some texts, without labels: ranks with intervals over the texts.

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
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import isfinite, nan, sqrt
from typing import Literal

import numpy as np

from lrd_harness import measuring
from lrd_harness.board import inference, statistics
from lrd_harness.capture.embeddings import forward
from lrd_harness.capture.requests import sampled
from lrd_harness.capture.states import Embeddings
from lrd_harness.contracts import Choice, Model, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.studies.compare import Asked, Pooled, Rows, Statistic
from lrd_harness.studies.values import fault, halves, interval

TIMED = 64  # texts that a model's speed is measured on
ROUNDS, LONG = 5, 4.0  # passes of them at most, and seconds after which there is no other one
BYTES = 4  # of a number in float32


@dataclass(frozen=True)
class Cost:
    """What a model takes.

    width: numbers in a vector of a text; tokens: of 1,000 texts like these, prompts included;
    seconds: of their forward passes on this device, measured on a sample of the texts; None for
    these two where they could not be measured.
    """

    parameters: int
    blocks: int
    width: int
    tokens: float | None = None
    seconds: float | None = None

    @property
    def stored(self) -> int:
        """Bytes of one vector in float32."""
        return self.width * BYTES


def size(model: Model) -> Cost:
    """What is known without running it."""
    return Cost(model.info.parameters, model.info.blocks, model.info.width)


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
    per_text = every / len(texts)
    seconds = 1000 * per_text * min(spent) / max(tokens, 1)
    return replace(size(model), tokens=1000 * per_text, seconds=seconds)


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
    ranks = statistics.places([one.value for one in drawn], up)
    table = np.array([one.halves for one in drawn], dtype=np.float64).T  # (halves, models)
    whole = table[np.isfinite(table).all(1)] if have else table
    enough = len(have) > 1 and len(whole) >= max(2, len(table) / 2)
    means = whole.mean(0) if enough else np.zeros(len(have))
    moved = whole - means + [one.value for one in drawn]
    again = np.array([statistics.places(draw.tolist(), up) for draw in moved], dtype=np.float64)
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


STEADY = 0.95  # share of half-samples in which the first model must be first
FEW = 8  # models below which an order may well come about by chance
MANY = 200  # texts from which on scores and intervals of all metrics hold, see halves.py
SIZES = {"parameters": "most parameters", "width": "widest"}


def size_ranks(candidates: Sequence[Candidate]) -> dict[str, dict[str, int | None]]:
    """What size predicts, 1 = largest: by parameters (or their logarithm), and by width."""
    costs = [one.cost for one in candidates]
    values = {
        "parameters": [None if cost is None else float(cost.parameters) for cost in costs],
        "width": [None if cost is None else float(cost.width) for cost in costs],
    }
    names = [one.name for one in candidates]
    return {
        size: dict(zip(names, statistics.places(of), strict=True)) for size, of in values.items()
    }


def firsts(places: Sequence[Place]) -> list[str]:
    """The models that a metric puts first; several where they are level."""
    return [place.model for place in places if place.rank == 1]


def remarks(chosen: Chosen) -> list[str]:
    """On these texts, on the metrics among each other, on size, and on labels."""
    if not chosen.places:
        return ["No model could be ranked."]
    alone: dict[str, list[str]] = {}
    for metric, places in chosen.places.items():
        if len(places) == 1:
            alone.setdefault(places[0].model, []).append(metric)
    lines = [
        f"Only {model} has a score by {_and(metrics)}: nothing is ranked by "
        f"{'it' if len(metrics) == 1 else 'them'}."
        for model, metrics in alone.items()
    ]
    if not chosen.rankings:
        return lines
    tops = {metric: firsts(places) for metric, places in chosen.rankings.items()}
    labels = _labels(len(chosen.ranked))
    return [_agreement(tops, chosen), *lines, *_sampling(chosen), _size(tops, chosen), labels]


def _agreement(tops: dict[str, list[str]], chosen: Chosen) -> str:
    """Whether the metrics choose the same model, and how alike their orders are."""
    if len(tops) == 1:
        ((metric, models),) = tops.items()
        return f"{metric} puts {_and(models)} first; no other metric has ranked them."
    if len(set(map(tuple, tops.values()))) == 1:
        models = next(iter(tops.values()))
        every = "Both" if len(tops) == 2 else f"All {len(tops)}"
        return f"{every} metrics put {_and(models)} first{_taus(chosen)}."
    said = "; ".join(f"{metric}: {_and(models)}" for metric, models in tops.items())
    return (
        f"The metrics choose different models ({said}){_taus(chosen)}: they measure different "
        "things, and texts without labels do not say which of them is right here."
    )


def _taus(chosen: Chosen) -> str:
    """Kendall's tau-b of each pair of metrics on the models that both have."""
    found = []
    for (one, here), (two, there) in combinations(chosen.rankings.items(), 2):
        other = {place.model: place.rank for place in there}
        both = [(place.rank, other[place.model]) for place in here if place.model in other]
        tau = (
            inference.kendall([a for a, _ in both], [b for _, b in both]) if len(both) > 2 else None
        )
        if tau is not None:
            found.append(f"{one} and {two} {tau:+.2f}")
    return f" (Kendall's tau of their orders: {', '.join(found)})" if found else ""


def _sampling(chosen: Chosen) -> list[str]:
    """Whether another sample of texts, or half as many, might put another model first."""
    tops = [places[0] for places in chosen.rankings.values() if places[0].first is not None]
    lines = [_stay(tops)] if tops else []
    lost = [m for m, places in chosen.rankings.items() if places[0].first is None]
    if not chosen.draws:
        lines.append(
            "No half-samples were drawn (--draws 0): nothing is known of how other texts would "
            "rank the models."
        )
    elif lost:
        lines.append(
            f"Too few half-samples gave all models a score by {_and(lost)}: nothing is known of "
            "how other texts would rank them."
        )
    if chosen.texts < MANY:
        what = "scores, ranks and intervals" if chosen.draws else "scores and ranks"
        lines.append(f"{chosen.texts} texts are few: {what} are rough below {MANY}.")
    for places in chosen.rankings.values():
        before = [place for place in places if place.overtakes]
        if before:
            sign = 1 if places[0].best == "max" else -1
            halved = max(before, key=lambda place: sign * (place.halved or 0))
            lines.append(
                f"On half as many texts {halved.metric} would put {halved.model} first: its score "
                "depends on how many texts there are."
            )
    return lines


def _stay(tops: Sequence[Place]) -> str:
    """How often the first models are first on half-samples, too."""
    by_model: dict[str, list[str]] = {}
    for top in tops:
        share = f"{100 * (top.first or 0):.0f} % ({top.metric})"
        by_model.setdefault(top.model, []).append(share)
    shares = "; ".join(f"{model} in {_and(held)}" for model, held in by_model.items())
    unsure = [t.metric for t in tops if (t.first or 0) < STEADY]
    end = (
        f"By {_and(unsure)} another model may well be first on other texts like these"
        if unsure
        else "Other texts like these would very likely put the same models first"
    )
    return (
        "In what share of half-samples, each moved to its score on all texts, the first model is "
        f"first again: {shares}. {end}."
    )


def _size(tops: dict[str, list[str]], chosen: Chosen) -> str:
    """Whether the choice says more than that a model is large, by sizes in which they differ."""
    largest = {
        SIZES[size]: [name for name, rank in ranks.items() if rank == 1]
        for size, ranks in size_ranks(chosen.ranked).items()
        if len(set(ranks.values())) > 1
    }
    if not largest:
        return "Size cannot tell these models apart: all are equally large, and equally wide."
    large = {name for names in largest.values() for name in names}
    sizes = "; ".join(f"{size}: {_and(names)}" for size, names in largest.items())
    if len(largest) > 1 and len(set(map(tuple, largest.values()))) == 1:
        sizes = f"{', and '.join(largest)}: {_and(next(iter(largest.values())))}"
    same = [metric for metric, models in tops.items() if set(models) & large]
    if len(same) < len(tops):
        those = f"as {_and(same)} {'does' if len(same) == 1 else 'do'}" if same else "otherwise"
        return f"Size alone would choose {those} ({sizes})."
    if len(large) == 1:
        return f"Size alone would choose the same ({sizes}): no metric adds anything to it here."
    return f"Every metric's choice is among the largest ({sizes}): it says little more than that."


def _labels(models: int) -> str:
    """What no interval over texts says."""
    few = (
        f" With {models} models, guessing finds the best one in 1 of {models} cases, so that being "
        "right or wrong once says little."
        if models < FEW
        else ""
    )
    return (
        "No label was seen, and no interval here says how well the models would do: over a "
        "published panel of embedding models and 30 tasks, the logarithm of the width alone orders "
        f"the models with a median rho of .70, which a metric has to beat.{few} Before you rely on "
        "it, score the first ones on some labelled examples (`lrd-harness run`)."
    )


def _and(names: Sequence[str]) -> str:
    """Names in a row."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
