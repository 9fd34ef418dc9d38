"""Which of several models for some texts, without labels: measured one after the other, and ranked.

What is measured is kept in the cache, model by model and metric by metric, so that a call that was
interrupted goes on. Half-samples, for intervals, are as many as there is time for.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, combinations
from math import ceil, isfinite
from operator import itemgetter
from statistics import fmean
from typing import Any

import pandas as pd
import torch

from lrd_harness.board import statistics
from lrd_harness.capture.embeddings import forward
from lrd_harness.capture.samples import drawn
from lrd_harness.contracts import Metric, Model, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models.find import parent_of
from lrd_harness.models.opened import token_count
from lrd_harness.planning import models as planned_models
from lrd_harness.planning.models import PlannedModel
from lrd_harness.progress import Advance, Display, duration
from lrd_harness.report import Column, Report, Row, Table, worded
from lrd_harness.scores import Scores
from lrd_harness.store import location
from lrd_harness.studies import verdict
from lrd_harness.studies.fidelity import Fidelity, to_parent
from lrd_harness.studies.resampling import Kept, Resampled, digest, kept_scores
from lrd_harness.studies.values import Design, Sample, captioned, fault, opened
from lrd_harness.studies.verdict import CERTAIN, FEW, SURE, Candidate, Origin, Rankings

TIMED, WARM = 64, 8  # texts that a model's speed is measured on at most, and that come before
ROUNDS, LONG = 5, 4.0  # passes of them at most, and seconds that are to be spent on them
FIGURES = "cosine unpaired rsa knn_overlap chance cka".split()  # of fidelity, those that are shown
TIMING = "what it costs"  # a fault of it, among those by metric: no metric's name
BUDGET = 60.0  # seconds for the half-samples of all models and metrics
DRAWS = (100, 60, SURE, 20, 10)  # the first that fits; few numbers, so that none hangs on chance
COLUMNS = (
    "metric score unit best model revision value low high rank rank_low rank_high first halved "
    "draws n rank_by_parameters rank_by_width parameters blocks width bytes tokens_1000 "
    "seconds_1000"
).split()


def size(model: Model) -> dict[str, Any]:
    """What is known of its cost without running it; bytes: of one vector in float32."""
    info = model.info
    known = {"parameters": info.parameters, "blocks": info.blocks, "width": info.width}
    return {**known, "bytes": 4 * info.width, "tokens_1000": None, "seconds_1000": None}


def cost(
    model: Model,
    texts: Sequence[Text],
    batch_tokens: int,
    advance: Advance = lambda done, total: None,
) -> dict[str, Any]:
    """What 1,000 such texts cost, prompts included, by the fastest of some passes of a sample.

    The fastest is the one that whatever else the machine does has disturbed least. The sample is as
    large as a first pass, which warms up, says that there is time for.
    """
    sample = drawn(texts, TIMED)
    run = partial(
        forward,
        model,
        run=model.states,
        keep=lambda texts, states, cut: None,
        batch_tokens=batch_tokens,
        progress=lambda done, total: None,
    )
    begun = time.perf_counter()
    run(sample[:WARM])
    warm = time.perf_counter() - begun
    sample = sample[: max(WARM, int(min(TIMED, WARM * LONG / max(warm, 1e-9))))]
    spent: list[float] = []
    while len(spent) < ROUNDS and sum(spent) < LONG:
        advance(len(spent), ROUNDS)
        begun = time.perf_counter()
        tokens = run(sample)
        spent.append(time.perf_counter() - begun)
    advance(len(spent), len(spent))
    every = 1000 * sum(token_count(encoded) for encoded in model.tokenize(texts)) / len(texts)
    return {"tokens_1000": every, "seconds_1000": every * min(spent) / max(tokens, 1)}


def select(models: Sequence[PlannedModel], design: Design, display: Display) -> Report:
    """Measure the models one after the other, and rank them.

    A fault of a model, or of a metric on one, costs its values only. Raises UserError for fewer
    than two models, one that is there twice, metrics that rank no models, and too few texts;
    StorageFull.
    """
    check_models(models)
    check_metrics(design.items)
    design.check("to rank models takes")
    candidates: list[tuple[Candidate, dict[str, Resampled]]] = []
    for planned in models:
        candidates.append(_candidate(planned, design, display, [] if candidates else models))
        gc.collect()  # no two models in memory at once
    half = sum(score.seconds for _, scores in candidates for score in scores.values())
    chosen = design.draws is None
    if chosen:
        design = replace(design, draws=affordable(half))
        display.line(f"{design.draws} half-samples: about {duration((design.draws or 0) * half)}")
    for candidate, scores in candidates:
        for name, score in scores.items():
            stage = f"{candidate.name}: {name}, half-samples"
            with display.stage(stage, "draws") as advance:
                candidate.scores[name] = score.measured(design.draws or 0, advance)
    return report([candidate for candidate, _ in candidates], design, half if chosen else 0.0)


def affordable(half: float) -> int:
    """How many half-samples there is time for, each taking so many seconds; 0 for too few."""
    return next((draws for draws in DRAWS if draws * half <= BUDGET), 0)


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
        verdict.choice(item.metric)


def _candidate(
    planned: PlannedModel, design: Design, display: Display, ahead: Sequence[PlannedModel]
) -> tuple[Candidate, dict[str, Resampled]]:
    """Open a model, read the texts, measure each metric on all of them and on a few halves.

    ahead: all models, for an estimate beforehand; none where it was given.
    """
    candidate = Candidate(planned.name, planned.checkpoint.revision)
    measured: dict[str, Resampled] = {}
    try:
        model = opened(planned, display)
        candidate.cost, candidate.pooling = size(model), model.info.pooling
        questions, task = design.questions.sample(design.task), design.task
        texts = [Text(q.text, model.prompt(task, q.prompt_type)) for q in questions]
    except Exception as error:  # a model's fault costs its values only
        candidate.faults = {"": fault(error)}
        return candidate, measured
    try:
        with display.stage(f"{planned.name}: speed", "passes") as advance:
            candidate.cost |= _kept_cost(model, texts, design, advance)
        if ahead:
            seconds = candidate.cost["seconds_1000"] * len(texts) / 1000
            display.line(worded(estimate(ahead, seconds), task.modality))
    except Exception as error:
        candidate.faults[TIMING] = fault(error)
    try:
        sample = Sample(planned.name, model, design, display)
    except Exception as error:
        candidate.faults, candidate.cost = {"": fault(error)}, {}
        return candidate, measured
    candidate.origin = _origin(planned, model, texts, design, display)
    for item in design.items:
        name = item.metric.name
        try:
            with display.stage(f"{planned.name}: {name}"):
                take = partial(selection_score, item.metric)
                kept = kept_scores(model.identity, item, design, texts)
                score = Resampled(sample.statistic(item), take, design, kept)
                score.pilot()
                measured[name] = score
        except Exception as error:
            candidate.faults[name] = fault(error)
    return candidate, measured


def _kept_cost(
    model: Model, texts: Sequence[Text], design: Design, advance: Advance
) -> dict[str, float]:
    """What `cost` says, as it was measured first on this machine."""
    about = {
        "measured": "speed",
        "texts": digest(texts),
        "device": f"{design.sampling.device}, {torch.get_num_threads()} threads",
        "machine": location.mark(platform.node()),
        "batch_tokens": str(design.batch_tokens),
    }
    kept, names = Kept(model.identity, about), ("tokens_1000", "seconds_1000")
    if row := kept.read(["cost"]):
        return dict(zip(names, row["cost"], strict=True))
    found = cost(model, texts, design.batch_tokens, advance)
    kept.write({"cost": [found[name] for name in names]})
    return found


def _origin(
    planned: PlannedModel, model: Model, texts: Sequence[Text], design: Design, display: Display
) -> Origin | None:
    """What a model was made from, and how alike the two are on the texts; None if it names none."""
    parent = parent_of(planned.checkpoint)
    if parent is None:
        return None
    about = {"measured": "fidelity", "parent": f"{parent.name}@{parent.revision}"}
    figures, reason = dict[str, float](), ""
    try:
        kept = Kept(model.identity, {**about, "texts": digest(texts)})
        figures = {name: row[0] for name, row in kept.read(FIGURES).items()}
        found = None if figures else to_parent(planned, design, display, model)
        if isinstance(found, Fidelity):
            reason = " ".join(found.notes)
            figures = {n: found.figures[n] for n in FIGURES if n in found.figures}
            kept.write({name: [value] for name, value in figures.items()})
        else:
            reason = found or ""
    except Exception as error:  # which costs these figures only
        reason = fault(error)
    name = location.place(parent.name) if os.path.isabs(parent.name) else parent.name
    return Origin(name, parent.removed, figures, location.text(reason))


def estimate(models: Sequence[PlannedModel], seconds: float) -> str:
    """How long all will take. seconds: to read the texts by the first model.

    The others are reckoned by their blocks and the square of their width, where configs say them.
    """
    weights = [
        (model.depth or 0) * (planned_models.width_of(model.checkpoint.config) or 0) ** 2
        for model in models
    ]
    first = weights[0] or 1
    whole = sum(seconds * (weight / first if weight and weights[0] else 1) for weight in weights)
    return (
        f"{len(models)} models: about {duration(whole)} to read the texts, less what was read "
        f"before; then intervals, {duration(BUDGET)} or less"
    )


def selection_score(metric: Metric, scores: Scores) -> float:
    """The score by which the metric ranks models. Raises UnitError where it is not finite."""
    name = verdict.choice(metric).score
    value = scores.get(name)
    if not isinstance(value, (int, float)) or not isfinite(value):
        raise UnitError(f"gave no finite score {name}")
    return float(value)


def report(candidates: Sequence[Candidate], design: Design, half: float = 0.0) -> Report:
    """The verdict, ranks side by side, what is behind them, costs, and how far to trust it all.

    half: the seconds that a half-sample of all models takes, where their number hung on that.
    """
    by_metric = {
        i.metric.name: verdict.ranked(candidates, i.metric, design.texts) for i in design.items
    }
    every = {metric: rows for metric, rows in by_metric.items() if rows}
    rankings = {metric: rows for metric, rows in every.items() if len(rows) > 1}
    names = {row["model"] for rows in rankings.values() for row in rows}
    placed = [candidate for candidate in candidates if candidate.name in names]
    sizes, costs = verdict.size_ranks(placed), {c.name: c.cost for c in candidates}
    rows = []
    for row in chain.from_iterable(every.values()):
        by_size = {f"rank_by_{size}": ranks.get(row["model"]) for size, ranks in sizes.items()}
        rows.append({**row, **by_size, **costs[row["model"]]})
    faults = [
        f"{candidate.name}{f', {metric}' if metric else ''}: {error}"
        for candidate in candidates
        for metric, error in candidate.faults.items()
    ]
    said = list(verdict.cautions(every, placed, design, half))
    answer, notes = (
        tuple(
            worded(verdict.SENTENCES[code].format(**of), design.task.modality, *costs)
            for code, of in said
            if (code in verdict.ANSWER) is first
        )
        for first in (True, False)
    )
    first = "first: in what share of half-samples, each moved to its score on all texts, no model "
    shares = [f"{first}is before it."] if any(row["first"] is not None for row in rows) else []
    interval = "from, to: 95 % intervals over texts."
    sure = [interval] if any(row["low"] is not None for row in rows) else []
    tables = (
        _ranks(rankings, placed, design.texts),
        _origins(candidates),
        _costs(costs, design),
        *captioned([_scores(rows) for rows in every.values()], [*sure, *shares]),
        _orders(rankings),
        Table("select", "Values", tuple(map(Column, COLUMNS)), rows, shown=False),
    )
    models = [
        {"model": c.name, "revision": c.revision, "pooling": c.pooling, **c.cost}
        for c in candidates
    ]
    facts = {**design.facts, "device": design.sampling.device, "models": models}
    facts |= {"answer": answer, "remarks": notes, "errors": faults}
    errors = tuple(faults)
    told = Report("Models for your texts", tables, notes, errors, facts, answer=answer)
    return told.of(design.task.modality, *costs)


def _ranks(rankings: Rankings, placed: Sequence[Candidate], texts: int) -> Table:
    """One row per model, the best by mean rank first: its rank by each metric and by size."""
    sizes = verdict.size_ranks(placed)
    keyed, spans = [], False
    for candidate in placed:
        name, cost = candidate.name, candidate.cost
        cells, ranks = {"model": name}, []
        for metric, rows in rankings.items():
            for row in (row for row in rows if row["model"] == name):
                span = _span(row, len(rows))
                spans |= bool(span)
                cells[f"rank.{metric}"] = f"{row['rank']}{span}"
                ranks.append(row["rank"])
        cells["parameters"] = f"{sizes['parameters'][name]} ({cost['parameters']:,})"
        cells["width"] = f"{sizes['width'][name]} ({cost['width']})"
        keyed.append((-len(ranks), fmean(ranks), cells))  # models that lack a metric come last
    by_metric = (Column(f"rank.{metric}", metric) for metric in rankings)
    columns = (Column("model", key=True), *by_metric, Column("parameters"), Column("width"))
    title = f"Ranks on {texts} texts, and by size (1 = best or largest)"
    caption = (
        "Beside ranks by metrics: 95 % intervals over texts. A rank that (nearly) all half-samples "
        f"agree on has none, unless there are {FEW} models and {CERTAIN} half-samples to be sure.",
    )
    rows = [cells for *_, cells in sorted(keyed, key=itemgetter(0, 1))]
    return Table("ranks", title, columns, rows, caption if spans else ())


def _span(row: Row, models: int) -> str:
    """The interval of a rank behind it, where there is one that says what it seems to."""
    low, high = row["rank_low"], row["rank_high"]
    certain = row["draws"] >= CERTAIN and models >= FEW
    return f" ({low}-{high})" if low is not None and (low != high or certain) else ""


def share(first: float | None, draws: int) -> str | None:
    """In what share of half-samples a model is first, as far as so many of them can tell.

    None, or all, of n leaves 3 / n at most for the others, with 95 % confidence (rule of three).

    >>> [share(first, 100) for first in (0.0, 0.994, 1.0)], share(1.0, 6)
    (['3 % or less', '99 %', '97 % or more'], '6 of 6')
    """
    if first is None:
        return None
    if draws < SURE:
        return f"{round(first * draws)} of {draws}"
    rest = ceil(300 / draws)
    if first in (0, 1):
        return f"{100 - rest} % or more" if first else f"{rest} % or less"
    return f"{min(99, max(1, round(100 * first)))} %"


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
        Column("share", "first"),
    )
    texts = f"{ns[0]}{f'-{ns[-1]}' if len(ns) > 1 else ''} texts"
    title = f"{first['metric']}.{first['score']}, {texts}"
    shown = [{**row, "share": share(row["first"], row["draws"])} for row in rows]
    return Table(f"scores.{first['metric']}", title, columns, shown)


def _origins(candidates: Sequence[Candidate]) -> Table:
    """How alike models are to those that they were made from."""
    columns = (
        Column("model", key=True),
        Column("parent"),
        Column("knn_overlap", "10-NN", form="%"),
        Column("chance", form="%"),
        Column("cosine", form=".3f"),
        Column("unpaired", form=".3f"),
        Column("rsa", "RSA", form=".3f"),
        Column("cka", "CKA", form=".3f"),
    )
    rows = [
        {"model": c.name, "parent": c.origin.parent, **c.origin.figures}
        for c in candidates
        if c.origin
    ]
    caption = (
        "10-NN: of each text's 10 nearest texts, those that are the parent's; chance: of models "
        "that have nothing in common. cosine: of a text's two vectors; unpaired: of two texts'. "
        "RSA: rank correlation of similarities.",
    )
    return Table("origins", "Against the models that they were made from", columns, rows, caption)


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
    caption = (
        f"seconds: of the forward passes on {design.sampling.device}, measured on some of your "
        "texts; bytes: of one stored vector in float32."
    )
    return Table("costs", title, columns, rows, (caption,))
