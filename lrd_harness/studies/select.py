"""Which of several models for some texts, without labels: ranks with intervals over the texts.

How far a rank hangs on these very texts is read off random halves of them, the same for all models.
Some scores depend on how many texts there are; so those of halves are moved to vary about that of
all texts. A rank's interval holds the middle 95 % of its ranks by these.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, combinations
from math import isfinite, sqrt
from operator import itemgetter
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lrd_harness.board import statistics
from lrd_harness.capture.embeddings import forward
from lrd_harness.capture.samples import sampled
from lrd_harness.contracts import Choice, Metric, Model, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.report import Column, Report, Row, Table
from lrd_harness.scores import Scores
from lrd_harness.studies.values import MANY, Design, Measurement, Sample, fault, interval, opened

TIMED = 64  # texts that a model's speed is measured on
ROUNDS, LONG = 5, 4.0  # passes of them at most, and seconds after which there is no other one
TIMING = "what it costs"  # a fault of it, among those by metric: no metric's name
STEADY = 0.95  # share of half-samples in which the first model must be first
FEW = 8  # models below which an order may well come about by chance
SIZES = {"parameters": "most parameters", "width": "widest"}
COLUMNS = (
    "metric score unit best model revision value low high rank rank_low rank_high first halved "
    "draws n rank_by_parameters rank_by_width parameters blocks width bytes tokens_1000 "
    "seconds_1000"
).split()
CAUTIONS = {
    "none": "No model could be ranked.",
    "alone": "Only one model has a score by {metrics}: nothing is ranked there.",
    "differ": "The metrics choose different models ({firsts}): they measure different things, and "
    "texts without labels do not say which of them is right here.",
    "steady": "Other texts like these would very likely put the same models first.",
    "unsteady": "By {metrics} another model may well be first on other texts like these.",
    "undrawn": "No half-samples were drawn (--draws 0): nothing is known of how other texts would "
    "rank the models.",
    "lost": "Too few half-samples gave each model a score by {metrics}: ranks have no interval.",
    "rough": "{texts} texts are few: scores, ranks and intervals are rough below {many}.",
    "overtaken": "On half as many texts {metric} would put {model} first.",
    "size level": "Size cannot tell these models apart: all are equally large and wide.",
    "size differs": "Size alone would choose as {metrics} ({sizes}).",
    "size agrees": "Size alone would choose the same ({sizes}): no metric adds to it here.",
    "among the largest": "Every metric's choice is among the largest ({sizes}): it says little "
    "more than that.",
    "labels": "No label was seen, and no interval here says how well the models would do: over a "
    "published panel of embedding models and 30 tasks, the logarithm of the width alone orders the "
    "models with a median rho of .70, which a metric has to beat. Before you rely on it, score the "
    "first ones on some labelled examples (`lrd-harness run`).",
    "few": "With {n} models, guessing finds the best one in 1 of {n} cases, so that being right or "
    "wrong once says little.",
}
Rankings = Mapping[str, Sequence[Row]]  # metric -> a row per model, the best first


def size(model: Model) -> dict[str, Any]:
    """What is known of its cost without running it; bytes: of one vector in float32."""
    info = model.info
    known = {"parameters": info.parameters, "blocks": info.blocks, "width": info.width}
    return {**known, "bytes": 4 * info.width, "tokens_1000": None, "seconds_1000": None}


def cost(model: Model, texts: Sequence[Text], batch_tokens: int) -> dict[str, Any]:
    """What 1,000 such texts cost, prompts included, by the fastest of some passes of a sample.

    The fastest is the one that whatever else the machine does has disturbed least.
    """
    sample = sampled(texts, TIMED)
    run = partial(
        forward,
        model,
        run=model.states,
        keep=lambda texts, states, cut: None,
        batch_tokens=batch_tokens,
        progress=lambda done, total: None,
    )
    run(sample[:1])  # which warms up
    spent: list[float] = []
    while len(spent) < ROUNDS and sum(spent) < LONG:
        begun = time.perf_counter()
        tokens = run(sample)
        spent.append(time.perf_counter() - begun)
    every = 1000 * sum(len(encoded["input_ids"]) for encoded in model.tokenize(texts)) / len(texts)
    seconds = every * min(spent) / max(tokens, 1)
    return {**size(model), "tokens_1000": every, "seconds_1000": seconds}


@dataclass
class Candidate:
    """What was found of one model; cost: {} where it could not be read; faults: by metric."""

    name: str
    revision: str
    pooling: str = ""
    cost: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Measurement[float]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def select(models: Sequence[PlannedModel], design: Design, display: Display) -> Report:
    """Measure the models one after the other, and rank them.

    A fault of a model, or of a metric on one, costs its values only. Raises UserError for fewer
    than two models, one that is there twice, metrics that rank no models, and too few texts;
    StorageFull.
    """
    check_models(models)
    check_metrics(design.items)
    design.check("to rank models takes")
    candidates = []
    for planned in models:
        candidates.append(_candidate(planned, design, display))
        gc.collect()  # no two models in memory at once
    return report(candidates, design)


def check_models(models: Sequence[PlannedModel]) -> None:
    """Raise UserError for models between which there is nothing to choose."""
    if len(models) < 2:
        raise UserError("there is nothing to choose: name at least 2 models")
    seen: dict[object, str] = {}
    for model in models:
        what = model.checkpoint.path, model.checkpoint.revision, model.label
        if what in seen:
            raise UserError(f"{seen[what]} and {model.name} are the same model")
        seen[what] = model.name


def check_metrics(items: Sequence[PlannedMetric]) -> None:
    """Raise UserError for a metric that ranks no models."""
    for item in items:
        _choice(item.metric)


def _choice(metric: Metric) -> Choice:
    if metric.selection is None:
        raise UserError(f"{metric.name} ranks no models: see `lrd-harness plugins`")
    return metric.selection


def _candidate(planned: PlannedModel, design: Design, display: Display) -> Candidate:
    """Open a model, read the texts, measure each metric on all of them and on every half."""
    candidate = Candidate(planned.name, planned.checkpoint.revision)
    try:
        model = opened(planned, display)
        sample = Sample(planned.name, model, design, display)
        candidate.cost, candidate.pooling = size(model), model.info.pooling
    except Exception as error:  # a model's fault costs its values only
        candidate.faults = {"": fault(error)}
        return candidate
    try:
        with display.stage(f"{planned.name}: speed"):
            candidate.cost = cost(model, sample.texts, design.batch_tokens)
    except Exception as error:
        candidate.faults[TIMING] = fault(error)
    candidate.scores, faults = sample.measured(selection_score)
    candidate.faults |= faults
    return candidate


def selection_score(metric: Metric, scores: Scores) -> float:
    """The score by which the metric ranks models. Raises UnitError where it is not finite."""
    name = _choice(metric).score
    value = scores.get(name)
    if not isinstance(value, (int, float)) or not isfinite(value):
        raise UnitError(f"gave no finite score {name}")
    return float(value)


def ranked(candidates: Sequence[Candidate], metric: Metric, texts: int) -> list[dict[str, Any]]:
    """One row per model that has the metric's score, the best first, level ones sharing a rank.

    low, high: the score's 95 % interval over texts; rank_low, rank_high: that of the rank; first:
    in what share of half-samples, each moved to its score on all texts, no model is before it;
    halved: the mean score on halves as they are; overtakes: by these it is before the first model,
    by more than 2 standard errors of their mean difference; draws: the halves that gave all these
    models a score. None where fewer than half of them did. A model that alone has a score has no
    rank either. texts: what the halves are halves of.
    """
    have = [candidate for candidate in candidates if metric.name in candidate.scores]
    if not have:
        return []
    measured = [candidate.scores[metric.name] for candidate in have]
    choice = _choice(metric)
    sign = -1 if choice.best == "max" else 1  # so that less is better
    values = np.array([score.whole for score in measured])
    ranks = stats.rankdata(sign * values, "min").astype(int).tolist()
    table = np.array([score.halves for score in measured], dtype=np.float64).T  # (halves, models)
    whole = table[np.isfinite(table).all(1)]
    unknown = {**dict.fromkeys(("rank_low", "rank_high", "first", "halved")), "overtakes": False}
    again: list[dict[str, Any]] = [unknown] * len(have)
    if len(have) > 1 and len(whole) >= max(2, len(table) / 2):
        again = _ranked_again(whole, values, ranks, sign)
    by = {"metric": metric.name, "score": choice.score, "unit": metric.unit, "best": choice.best}
    rows: list[dict[str, Any]] = []
    for candidate, score, rank, by_halves in zip(have, measured, ranks, again, strict=True):
        low, high = interval(score.whole, score.halves, texts) or (None, None)
        row = {"model": candidate.name, "revision": candidate.revision, "value": score.whole}
        row |= {"low": low, "high": high, "rank": rank if len(have) > 1 else None}
        rows.append({**by, **row, **by_halves, "n": score.n, "draws": len(whole)})
    return sorted(rows, key=lambda row: row["rank"] or 0)


def _ranked_again(
    halves: np.ndarray, values: np.ndarray, ranks: Sequence[int], sign: int
) -> list[dict[str, Any]]:
    """What halves (halves, models) say of each model's rank; values: on all texts."""
    means = halves.mean(0)
    again = stats.rankdata(sign * (halves - means + values), "min", axis=1)
    lows = np.quantile(again, 0.025, axis=0, method="lower")  # the middle 95 %, outwards to a rank
    highs = np.quantile(again, 0.975, axis=0, method="higher")
    lead = sign * (halves[:, [ranks.index(1)]] - halves)
    errors = lead.std(0, ddof=1) / sqrt(len(lead))
    ahead = (lead.mean(0) > 2 * errors) & (np.array(ranks) != 1)
    columns = {"rank_low": lows.astype(int), "rank_high": highs.astype(int), "halved": means}
    columns |= {"first": (again == 1).mean(0), "overtakes": ahead}
    rows: list[dict[str, Any]] = pd.DataFrame(columns).to_dict("records")
    return rows


def size_ranks(candidates: Sequence[Candidate]) -> dict[str, dict[str, int | None]]:
    """What size predicts, 1 = largest: by parameters (or their logarithm), and by width."""
    ranks = {}
    for size in SIZES:
        places = statistics.places([candidate.cost.get(size) for candidate in candidates])
        ranks[size] = {c.name: place for c, place in zip(candidates, places, strict=True)}
    return ranks


def report(candidates: Sequence[Candidate], design: Design) -> Report:
    """Ranks side by side, the scores behind them, costs, and how far to trust it all."""
    by_metric = {i.metric.name: ranked(candidates, i.metric, design.texts) for i in design.items}
    every = {metric: rows for metric, rows in by_metric.items() if rows}
    rankings = {metric: rows for metric, rows in every.items() if len(rows) > 1}
    names = {row["model"] for rows in rankings.values() for row in rows}
    placed = [candidate for candidate in candidates if candidate.name in names]
    sizes, costs = size_ranks(placed), {c.name: c.cost for c in candidates}
    rows = []
    for row in chain.from_iterable(every.values()):
        by_size = {f"rank_by_{size}": ranks.get(row["model"]) for size, ranks in sizes.items()}
        rows.append({**row, **by_size, **costs[row["model"]]})
    faults = [
        f"{candidate.name}{f', {metric}' if metric else ''}: {error}"
        for candidate in candidates
        for metric, error in candidate.faults.items()
    ]
    notes = [CAUTIONS[code].format(**of) for code, of in cautions(every, placed, design)]
    tables = (
        _ranks(rankings, placed, design.texts),
        *map(_scores, every.values()),
        _orders(rankings),
        _costs(costs, design),
        Table("select", "Values", tuple(map(Column, COLUMNS)), rows, shown=False),
    )
    models = [
        {"model": c.name, "revision": c.revision, "pooling": c.pooling, **c.cost}
        for c in candidates
    ]
    facts = {**design.facts, "device": design.sampling.device, "models": models}
    facts |= {"remarks": notes, "errors": faults}
    return Report("Models for your texts", tables, tuple(notes), tuple(faults), facts)


def _ranks(rankings: Rankings, placed: Sequence[Candidate], texts: int) -> Table:
    """One row per model, the best by mean rank first: its rank by each metric and by size."""
    sizes = size_ranks(placed)
    keyed = []
    for candidate in placed:
        name, cost = candidate.name, candidate.cost
        cells, ranks = {"model": name}, []
        for metric, rows in rankings.items():
            for row in (row for row in rows if row["model"] == name):
                span = f" ({row['rank_low']}-{row['rank_high']})" if row["rank_low"] else ""
                cells[f"rank.{metric}"] = f"{row['rank']}{span}"
                ranks.append(row["rank"])
        cells["parameters"] = f"{sizes['parameters'][name]} ({cost['parameters']:,})"
        cells["width"] = f"{sizes['width'][name]} ({cost['width']})"
        keyed.append((-len(ranks), fmean(ranks), cells))  # models that lack a metric come last
    by_metric = (Column(f"rank.{metric}", metric) for metric in rankings)
    columns = (Column("model", key=True), *by_metric, Column("parameters"), Column("width"))
    title = f"Ranks on {texts} texts, and by size (1 = best or largest)"
    rows = [cells for *_, cells in sorted(keyed, key=itemgetter(0, 1))]
    return Table("ranks", title, columns, rows)


def _scores(rows: Sequence[Row]) -> Table:
    """The scores by a metric."""
    first, ns = rows[0], sorted({row["n"] for row in rows})
    ranks = {row["rank"] for row in rows}  # scores that are not level are not to look so
    forms = (f"#.{digits}g" for digits in range(4, 18))
    form = next(f for f in forms if len({format(row["value"], f) for row in rows}) >= len(ranks))
    columns = (
        Column("model", key=True),
        Column("value", "score", first["unit"], first["best"], form),
        Column("low", "from", form=form),
        Column("high", "to", form=form),
        Column("first", form="%"),
    )
    texts = f"{ns[0]}{f'-{ns[-1]}' if len(ns) > 1 else ''} texts"
    title = f"{first['metric']}.{first['score']}, {texts}"
    return Table(f"scores.{first['metric']}", title, columns, rows)


def _orders(rankings: Rankings) -> Table:
    """Kendall's tau-b of each pair of metrics, on the models that both have."""
    ranks = pd.DataFrame({m: {r["model"]: r["rank"] for r in rows} for m, rows in rankings.items()})
    rows = []
    for metric, other in combinations(rankings, 2):
        both = ranks[[metric, other]].dropna()
        if len(both) > 2:
            tau = statistics.kendall(both[metric].to_numpy(), both[other].to_numpy())
            rows.append({"metric": metric, "other": other, "tau": tau, "n": len(both)})
    keys = (Column("metric", key=True), Column("other", key=True))
    columns = (*keys, Column("tau", form="+.2f"), Column("n", "models"))
    return Table("orders", "How alike the metrics order the models (Kendall's tau)", columns, rows)


def _costs(costs: Mapping[str, Mapping[str, Any]], design: Design) -> Table:
    columns = (
        Column("model", key=True),
        Column("tokens_1000", "tokens", form=",.0f"),
        Column("seconds_1000", "seconds", form=",.3g"),
        Column("bytes", form=","),
    )
    rows = [{"model": name, **cost} for name, cost in costs.items() if cost]
    title = f"What 1,000 texts cost, and a vector (from {design.texts} texts)"
    intervals = (
        "from, to, and beside ranks: 95 % intervals over texts; first: in what share of "
        "half-samples, each moved to its score on all texts, no model is before it."
    )
    seconds = (
        f"seconds: of the forward passes on {design.sampling.device}, measured on "
        f"{min(TIMED, design.texts)} of your texts; bytes: of one stored vector in float32."
    )
    caption = (intervals, seconds) if design.draws else (seconds,)
    return Table("costs", title, columns, rows, caption)


def cautions(
    every: Rankings, placed: Sequence[Candidate], design: Design
) -> Iterator[tuple[str, dict[str, Any]]]:
    """How far to trust a choice that saw no label: codes of CAUTIONS, each with its numbers.

    every: the rows of each metric that some model has; placed: the models that are ranked.
    """
    rankings = {metric: rows for metric, rows in every.items() if len(rows) > 1}
    tops = {m: [r["model"] for r in rows if r["rank"] == 1] for m, rows in rankings.items()}
    if not every:
        yield "none", {}
    if len(set(map(tuple, tops.values()))) > 1:
        firsts = "; ".join(f"{metric}: {_and(models)}" for metric, models in tops.items())
        yield "differ", {"firsts": firsts}
    if alone := [metric for metric in every if metric not in rankings]:
        yield "alone", {"metrics": _and(alone)}
    if not rankings:
        return
    # whether another sample of texts, or half as many, might put another model first
    first = {metric: rows[0]["first"] for metric, rows in rankings.items()}
    unsure = [metric for metric, share in first.items() if share is not None and share < STEADY]
    lost = [metric for metric, share in first.items() if share is None]
    if len(lost) < len(first):
        yield "unsteady" if unsure else "steady", {"metrics": _and(unsure)}
    if not design.draws:
        yield "undrawn", {}
    elif lost:
        yield "lost", {"metrics": _and(lost)}
    if design.texts < MANY:
        yield "rough", {"texts": design.texts, "many": MANY}
    for metric, rows in rankings.items():
        if before := [row for row in rows if row["overtakes"]]:
            best = max if rows[0]["best"] == "max" else min
            model = best(before, key=itemgetter("halved"))["model"]
            yield "overtaken", {"metric": metric, "model": model}
    yield _size(tops, placed)
    yield "labels", {}
    if len(placed) < FEW:
        yield "few", {"n": len(placed)}


def _size(tops: Mapping[str, list[str]], placed: Sequence[Candidate]) -> tuple[str, dict[str, Any]]:
    """Whether the choice says more than that a model is large, by sizes in which they differ."""
    largest = {
        SIZES[size]: [name for name, rank in ranks.items() if rank == 1]
        for size, ranks in size_ranks(placed).items()
        if len(set(ranks.values())) > 1
    }
    large = set(chain.from_iterable(largest.values()))
    same = [metric for metric, models in tops.items() if set(models) & large]
    sizes = "; ".join(f"{size}: {_and(names)}" for size, names in largest.items())
    if not largest:
        return "size level", {}
    if len(same) < len(tops):
        return "size differs", {"metrics": _and(same) or "no metric", "sizes": sizes}
    return "size agrees" if len(large) == 1 else "among the largest", {"sizes": sizes}


def _and(names: Sequence[str]) -> str:
    """Names in a row."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
