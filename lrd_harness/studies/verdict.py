"""The verdict on models that were measured without labels: who is first, and how far to trust it.

How far a rank hangs on these very texts is read off random halves of them, the same for all models.
Some scores depend on how many texts there are; so those of halves are moved to vary about that of
all texts. A rank's interval holds the middle 95 % of its ranks by these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import sqrt
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lrd_harness.blocks import written
from lrd_harness.board import statistics
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import UserError
from lrd_harness.progress import duration
from lrd_harness.report import Row
from lrd_harness.studies.values import MANY, Design, Measurement, interval

SURE = 40  # half-samples from which on there are intervals: the least and the greatest of n values
# hold (n - 1) / (n + 1) of what they are drawn from, on average, 95 % from n = 39 on
CERTAIN = 60  # half-samples that, if a rank is the same in all, leave 5 % at most for others
STEADY = 0.95  # share of half-samples in which the first model must be first
FEW = 8  # models below which an order may well come about by chance
SLOW = 1.5  # times the seconds of the fastest model that are worth a word
SIZES = {"parameters": "most parameters", "width": "widest"}
SENTENCES = {
    "none": "No model could be ranked.",
    "chosen": "{models} first for these {texts} texts by {metrics}.",
    "differ": "{firsts}: the metrics measure different things, and texts without labels do not say "
    "which of them is right here.",
    "damaged": "{model} was made from {parent} without blocks {removed}: {figures}. These metrics "
    "do not see such damage.",
    "parent lost": "{model} was made from {parent} without blocks {removed}, and these metrics do "
    "not see such damage. How much there is could not be measured: {reason}.",
    "steady": "Other texts like these would very likely put the same first (half-samples that do: "
    "{shares}).",
    "unsteady": "On other texts like these another model may well be first by {metrics} "
    "(half-samples that put the same first: {shares}).",
    "undrawn": "How other texts would rank the models is not known: no half-samples were drawn.",
    "few draws": "How other texts would rank the models is not known: {draws} half-samples are too "
    "few, and 95 % intervals take {least} (`--draws {least}`{time}).",
    "lost": "Too few half-samples gave each model a score by {metrics}: ranks have no interval.",
    "slow": "{model} takes {seconds:,.3g} seconds for 1,000 such texts, {times} times as long as "
    "{fastest}.",
    "labels": "No label was seen, so that none of this says how well a model would do, or whether "
    "one is damaged: score the first ones on some labelled examples before you rely on it "
    "(`lrd-harness run`).",
    "alone": "Only one model has a score by {metrics}: nothing is ranked there.",
    "rough": "{texts} texts are few: scores, ranks and intervals are rough below {many}.",
    "overtaken": "On half as many texts {metric} would put {model} first.",
    "size level": "Size cannot tell these models apart: all are equally large and wide.",
    "size differs": "Size alone would choose as {metrics} ({sizes}).",
    "size agrees": "Size alone would choose the same ({sizes}): no metric adds to it here.",
    "among the largest": "Every metric's choice is among the largest ({sizes}): it says little "
    "more than that.",
    "panel": "Over a published panel of embedding models and 30 tasks, the logarithm of the width "
    "alone orders the models with a median rho of .70, which a metric has to beat.",
    "few": "With {n} models, guessing finds the best one in 1 of {n} cases, so that being right or "
    "wrong once says little.",
}
ANSWER = (  # what stands at the top; the others are notes
    *("none", "chosen", "differ", "alone", "damaged", "parent lost", "steady", "unsteady"),
    *("undrawn", "few draws", "lost", "slow", "labels"),
)
Rankings = Mapping[str, Sequence[Row]]  # metric -> a row per model, the best first
Tops = Mapping[str, list[str]]  # metric -> the models that it puts first
Cautions = Iterator[tuple[str, dict[str, Any]]]  # a code of SENTENCES, and its numbers


@dataclass(frozen=True)
class Origin:
    """What a model was made from: the parent's name, and the blocks (1..L) that were taken out.

    figures: how alike its outputs for the texts are to the parent's, see `fidelity.alike`; reason:
    why there are none.
    """

    parent: str
    removed: Sequence[int]
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass
class Candidate:
    """What was found of one model; cost: {} where it could not be read; faults: by metric.

    origin: None where it names no parent.
    """

    name: str
    revision: str
    pooling: str = ""
    cost: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Measurement[float]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    origin: Origin | None = None


def choice(metric: Metric) -> Choice:
    """The score that ranks models. Raises UserError for a metric without one."""
    if metric.selection is None:
        raise UserError(f"{metric.name} ranks no models: see `lrd-harness plugins`")
    if metric.needs == "labels":
        raise UserError(f"{metric.name} uses labels, and models are ranked here without any")
    return metric.selection


def ranked(candidates: Sequence[Candidate], metric: Metric, texts: int) -> list[dict[str, Any]]:
    """One row per model that has the metric's score, the best first, level ones sharing a rank.

    low, high: the score's 95 % interval over texts; rank_low, rank_high: that of the rank; first:
    in what share of half-samples, each moved to its score on all texts, no model is before it;
    halved: the mean score on halves as they are; overtakes: by these it is before the first model,
    by more than 2 standard errors of their mean difference; draws: the halves that gave all these
    models a score. None where fewer than half of them did; there are no intervals from fewer than
    SURE. A model that alone has a score has no rank either. texts: what the halves are halves of.
    """
    have = [candidate for candidate in candidates if metric.name in candidate.scores]
    if not have:
        return []
    measured = [candidate.scores[metric.name] for candidate in have]
    by_score = choice(metric)
    sign = -1 if by_score.best == "max" else 1  # so that less is better
    values = np.array([score.whole for score in measured])
    ranks = stats.rankdata(sign * values, "min").astype(int).tolist()
    table = np.array([score.halves for score in measured], dtype=np.float64).T  # (halves, models)
    whole = table[np.isfinite(table).all(1)]
    unknown = {**dict.fromkeys(("rank_low", "rank_high", "first", "halved")), "overtakes": False}
    again: list[dict[str, Any]] = [unknown] * len(have)
    if len(have) > 1 and len(whole) >= max(2, len(table) / 2):
        again = _ranked_again(whole, values, ranks, sign)
    if len(whole) < SURE:
        again = [{**row, "rank_low": None, "rank_high": None} for row in again]
    by = {"metric": metric.name, "score": by_score.score}
    by |= {"unit": metric.unit, "best": by_score.best}
    rows: list[dict[str, Any]] = []
    for candidate, score, rank, by_halves in zip(have, measured, ranks, again, strict=True):
        known = np.isfinite(np.array(score.halves, dtype=np.float64)).sum() >= SURE
        low, high = (known and interval(score.whole, score.halves, texts)) or (None, None)
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


def cautions(
    every: Rankings, placed: Sequence[Candidate], design: Design, half: float = 0.0
) -> Cautions:
    """What to choose, and how far to trust it: codes of SENTENCES, each with its numbers.

    every: the rows of each metric that some model has; placed: the models that are ranked.
    """
    rankings = {metric: rows for metric, rows in every.items() if len(rows) > 1}
    tops = {m: [r["model"] for r in rows if r["rank"] == 1] for m, rows in rankings.items()}
    if not every:
        yield "none", {}
    yield from _firsts(tops, design.texts)
    if alone := [metric for metric in every if metric not in rankings]:
        yield "alone", {"metrics": _and(alone)}
    if not rankings:
        return
    yield from _damage(tops, placed)
    yield from _steadiness(rankings, design, half)
    yield from _slowness(tops, placed)
    yield "labels", {}
    if design.texts < MANY:
        yield "rough", {"texts": design.texts, "many": MANY}
    for metric, rows in rankings.items():
        if before := [row for row in rows if row["overtakes"]]:
            best = max if rows[0]["best"] == "max" else min
            model = best(before, key=itemgetter("halved"))["model"]
            yield "overtaken", {"metric": metric, "model": model}
    yield _size(tops, placed)
    if design.task.modality == "text":  # of which the panel is
        yield "panel", {}
    if len(placed) < FEW:
        yield "few", {"n": len(placed)}


def _firsts(tops: Tops, texts: int) -> Cautions:
    """Which model is first, by which metrics."""
    firsts: dict[tuple[str, ...], list[str]] = {}
    for metric, first in tops.items():
        firsts.setdefault(tuple(first), []).append(metric)
    by_count = sorted(firsts.items(), key=lambda pair: -len(pair[1]))
    if len(by_count) > 1:
        each = [f"{_and(models)} by {_and(metrics)}" for models, metrics in by_count]
        names, metrics = by_count[0]
        each[0] = f"{_and(names)} {_are(names)} first by {_and(metrics)}"
        yield "differ", {"firsts": "; ".join(each)}
    elif by_count:
        ((names, metrics),) = by_count
        models = f"{_and(names)} {_are(names)}"
        yield "chosen", {"models": models, "texts": texts, "metrics": _and(metrics)}


def _damage(tops: Tops, placed: Sequence[Candidate]) -> Cautions:
    """What was taken out of models; those that are first are named first."""
    first = set(chain.from_iterable(tops.values()))
    for candidate in sorted(placed, key=lambda candidate: candidate.name not in first):
        origin = candidate.origin
        if origin is None or not origin.removed:
            continue
        who = {"model": candidate.name, "parent": origin.parent}
        who["removed"] = written(sorted(origin.removed))
        parts, figures = [], origin.figures
        if "knn_overlap" in figures:
            near, chance = (
                f"{figures[name]:.0%}".replace("%", " %") for name in ("knn_overlap", "chance")
            )
            parts.append(
                f"of each text's 10 nearest texts {near} are still the same (chance: {chance})"
            )
        if "cosine" in figures:
            paired, unpaired = figures["cosine"], figures["unpaired"]
            parts.append(
                f"its vectors have a cosine of {paired:.2f} with the parent's "
                f"(two different texts: {unpaired:.2f})"
            )
        if parts:
            yield "damaged", {**who, "figures": ", ".join(parts)}
        else:
            yield "parent lost", {**who, "reason": origin.reason.rstrip(".")}


def _steadiness(rankings: Rankings, design: Design, half: float) -> Cautions:
    """Whether other texts might put another model first, and what is not known of that."""
    if not design.draws and not half:
        yield "undrawn", {}
        return
    if design.draws is not None and design.draws < SURE:
        time = f", about {duration(SURE * half)}" if half else ""
        yield "few draws", {"draws": design.draws, "least": SURE, "time": time}
        return
    first = {m: rows[0] for m, rows in rankings.items() if rows[0]["first"] is not None}
    lost = [metric for metric in rankings if metric not in first]
    unsure = {metric: row for metric, row in first.items() if row["first"] < STEADY}
    times: dict[str, list[str]] = {}
    for metric, row in (unsure or first).items():
        count = f"{round(row['first'] * row['draws'])} of {row['draws']}"
        times.setdefault(count, []).append(metric)
    if first:
        shares = "; ".join(f"{count} by {_and(metrics)}" for count, metrics in times.items())
        yield "unsteady" if unsure else "steady", {"metrics": _and(list(unsure)), "shares": shares}
    if lost:
        yield "lost", {"metrics": _and(lost)}


def _slowness(tops: Tops, placed: Sequence[Candidate]) -> Cautions:
    """How much longer than the fastest model the slowest that is first takes."""
    seconds = {c.name: c.cost.get("seconds_1000") for c in placed}
    known = {name: value for name, value in seconds.items() if value}
    firsts = [name for name in dict.fromkeys(chain.from_iterable(tops.values())) if name in known]
    if firsts:
        fastest, model = min(known, key=known.__getitem__), max(firsts, key=known.__getitem__)
        times = known[model] / known[fastest]
        if times >= SLOW:
            said = f"{times:.1f}" if times < 10 else f"{times:.0f}"
            yield (
                "slow",
                {"model": model, "seconds": known[model], "times": said, "fastest": fastest},
            )


def _size(tops: Tops, placed: Sequence[Candidate]) -> tuple[str, dict[str, Any]]:
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


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are level and"


def _and(names: Sequence[str]) -> str:
    """Names in a row."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
