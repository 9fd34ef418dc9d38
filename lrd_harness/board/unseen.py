"""What is to be said of the combined predictor, in plain sentences.

All metrics and the size in one predictor, judged on families of models that it has not seen.

Ridge regression of the mean score on the model-level scores of all metrics (selection scores, those
judged beside them) and on size (log parameters, log width, depth). It is the mean score that is
predicted, as its order is the leaderboard's, and an error in points can be read. A feature is the
mean over tasks of the raw score, not of ranks within the panel: these would carry models that are
left out into training. One family at a time is left out; the standardisation and alpha come from
the other families. A fit to the models that it was made of is never reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from lrd_harness.board import inference, statistics
from lrd_harness.board import inference as ridge
from lrd_harness.board.agreement import Selection
from lrd_harness.board.claim_rows import ALPHA
from lrd_harness.board.panel import Panel, Values, mean, sizes
from lrd_harness.results.database import Key

LEAST_MODELS, LEAST_FAMILIES = 10, 3
LEAST_DRAWN = 5  # families that an interval is drawn of
LEAST_TOLD = 8  # that its verdict rests on: of fewer it is too narrow
DRAWS = 999
COMBINED, SIZE, GUESS = "combined", "size alone", "mean of the others"
_DIGITS = 12  # of predictions: equal models are level, whatever order a product was summed in
_SAME = 1e-9  # rhos that differ by less are the same


@dataclass(frozen=True)
class Judged:
    """How well one predictor does on families that it has not seen.

    rho: Spearman's, of held-out predictions with mean scores; None of what predicts one number a
    family. low, high: its 95 % bootstrap interval, whole families resampled; None below 5 of them.
    p: one-sided, all of it repeated with the scores in random order; chance: the mean rho of these
    (below 0: what is left out is missing in what predicts it). rmse: root mean squared error.
    lead: the rmse of this one less that of `combined`, above 0 where combining helps;
    lead_low, lead_high: its 95 % interval, as above. Errors are fractions, as scores are.
    """

    name: str
    features: tuple[str, ...]
    rho: float | None
    low: float | None
    high: float | None
    p: float | None
    chance: float | None
    rmse: float
    lead: float | None
    lead_low: float | None
    lead_high: float | None


@dataclass(frozen=True)
class HeldOut:
    """A model's mean score, and what was predicted without its family: predictor -> score."""

    model: str
    revision: str
    family: str
    actual: float
    predicted: Mapping[str, float]


@dataclass(frozen=True)
class Combined:
    """The combined predictor beside size alone and the mean of the other families.

    lacking: why there is not enough data, "" where there is; then rows and models hold something.
    models_left_out: models with a mean score whose family or one of the features is not known;
    features_left_out: what fewer than half of the models with a mean score have.
    alphas: family -> strength of the first row's ridge that predicts it.
    """

    lacking: str
    families: int
    models_left_out: int
    features_left_out: tuple[str, ...]
    rows: tuple[Judged, ...] = ()
    models: tuple[HeldOut, ...] = ()
    alphas: Mapping[str, float] | None = None
    n: int = 0


@dataclass(frozen=True)
class _Table:
    """Models that have everything: names of features, x (n, p), y (n,), families as numbers."""

    keys: Sequence[Key]
    names: tuple[str, ...]
    metrics: int  # the first so many features are metrics, the others sizes
    x: np.ndarray
    y: np.ndarray
    families: tuple[str, ...]
    groups: np.ndarray
    lost: tuple[str, ...]


@dataclass(frozen=True)
class _Held:
    """y: scores, then these in random orders; predicted: likewise, by predictor: (n, 1 + draws).

    alphas: by family, of the first predictor; counts: resamples of whole families (draws, n).
    """

    y: np.ndarray
    predicted: Mapping[str, np.ndarray]
    alphas: np.ndarray
    counts: np.ndarray | None


def build_combined(panel: Panel, actual: Mapping[Key, float | None]) -> Combined | None:
    """None where no model has a mean score over all tasks. actual: model -> that score."""
    scored = [key for key, score in actual.items() if score is not None]
    if not scored:
        return None
    table = _table(panel, scored, actual)
    left_out = len(scored) - len(table.keys)
    families = len(table.families)
    lacking = _lacking(table)
    if lacking:
        return Combined(lacking, families, left_out, table.lost, n=len(table.keys))
    held = _held_out(table)
    return Combined(
        lacking="",
        families=families,
        models_left_out=left_out,
        features_left_out=table.lost,
        rows=tuple(_judged(name, held, table) for name in held.predicted),
        models=tuple(_model(i, held, table) for i in range(len(table.keys))),
        alphas=dict(zip(table.families, held.alphas.tolist(), strict=True)),
        n=len(table.keys),
    )


def _lacking(table: _Table) -> str:
    models, families = len(table.keys), len(table.families)
    if models < LEAST_MODELS or families < LEAST_FAMILIES:
        kinds = "family" if families == 1 else "families"
        return (
            f"{models} model{'s' * (models != 1)} of {families} {kinds} with all scores, metrics "
            f"and sizes; it needs {LEAST_MODELS} of {LEAST_FAMILIES}"
        )
    if not table.names:
        return "neither metrics nor sizes are known"
    return "" if np.ptp(table.y) > 0 else "all mean scores are the same"


def _table(panel: Panel, scored: Sequence[Key], actual: Mapping[Key, float | None]) -> _Table:
    """The features that half of the scored models have, and the models that have all of these."""
    metrics = {}
    for column in panel.metrics:
        metrics[f"{column.name}.{column.selection.score}"] = panel.selected[column.name]
    found = {
        name: _means(values, scored) for name, values in (metrics | dict(panel.others)).items()
    }
    of_metrics = set(found)
    found |= {name: [row[key] for key in scored] for name, row in sizes(panel).items()}
    kept = [
        n for n, column in found.items() if 2 * sum(v is not None for v in column) >= len(scored)
    ]
    x = np.array([found[name] for name in kept], dtype=np.float64).reshape(len(kept), len(scored)).T
    names = [panel.models[key].family for key in scored]
    whole = ~np.isnan(x).any(axis=1) & np.array([bool(name) for name in names])
    keys = [key for key, there in zip(scored, whole, strict=True) if there]
    own = [panel.models[key].family or "" for key in keys]
    families = tuple(dict.fromkeys(own))
    return _Table(
        keys=keys,
        names=tuple(kept),
        metrics=sum(name in of_metrics for name in kept),
        x=x[whole],
        y=np.array([actual[key] for key in keys], dtype=np.float64),
        families=families,
        groups=np.array([families.index(name) for name in own], dtype=np.int64),
        lost=tuple(name for name in found if name not in kept),
    )


def _means(values: Values, keys: Sequence[Key]) -> list[float | None]:
    """Each model's mean over the metric's tasks; None for one that lacks a task."""
    whole = (all(key in by_model for by_model in values.values()) for key in keys)
    return [mean(values, key) if there else None for key, there in zip(keys, whole, strict=True)]


def _held_out(table: _Table) -> _Held:
    """What is predicted of each model without its family; drawn orders up to 500 models."""
    y = table.y[:, None]
    if len(y) <= statistics.LARGE:
        y = np.concatenate([y, _shuffled(table.y)], axis=1)
    parts = {COMBINED: table.x, SIZE: table.x[:, table.metrics :]}
    if not table.metrics:
        del parts[COMBINED]
    found, means, alphas = {}, y, []
    for name, x in parts.items():
        if x.shape[1]:
            predicted, means, chosen = ridge.held_out(x, y, table.groups)
            found[name] = np.round(predicted, _DIGITS)
            alphas.append(chosen[:, 0])
    return _Held(y, found | {GUESS: means}, alphas[0], _resampled(table))


def _shuffled(y: np.ndarray) -> np.ndarray:
    """The scores in seeded random orders: (n, draws)."""
    generator = np.random.default_rng(42)
    return np.asarray(generator.permuted(np.tile(y, (DRAWS, 1)), axis=1).T)


def _judged(name: str, held: _Held, table: _Table) -> Judged:
    predicted, y = held.predicted[name][:, 0], table.y
    rho = None if name == GUESS else statistics.spearman(predicted, y)
    span = lead_span = lead = None
    if rho is not None and held.counts is not None:
        span = inference.interval(inference.resampled_rho(predicted, y, held.counts))
    if COMBINED in held.predicted and name != COMBINED:
        own, best = (np.square(held.predicted[who][:, 0] - y) for who in (name, COMBINED))
        lead = sqrt(np.mean(own)) - sqrt(np.mean(best))
        if held.counts is not None:
            weights = held.counts / held.counts.sum(axis=1, keepdims=True)
            lead_span = inference.interval(np.sqrt(weights @ own) - np.sqrt(weights @ best))
    p, chance = (None, None) if rho is None else _by_chance(rho, held.predicted[name], held.y)
    return Judged(
        name=name,
        features={COMBINED: table.names, SIZE: table.names[table.metrics :]}.get(name, ()),
        rho=rho,
        low=span.low if span else None,
        high=span.high if span else None,
        p=p,
        chance=chance,
        rmse=sqrt(np.mean(np.square(predicted - y))),
        lead=lead,
        lead_low=lead_span.low if lead_span else None,
        lead_high=lead_span.high if lead_span else None,
    )


def _by_chance(
    rho: float, predicted: np.ndarray, y: np.ndarray
) -> tuple[float | None, float | None]:
    """p, (count + 1) / (draws + 1), and the mean rho, of the scores in random orders.

    predicted, y: (n, 1 + draws), the first the scores as they are; None without draws.
    """
    if y.shape[1] == 1:
        return None, None
    drawn = statistics.spearman_rows(predicted[:, 1:].T, y[:, 1:].T)
    there = drawn[~np.isnan(drawn)]  # undefined: nothing is predicted, so no rho as large
    p = (int(np.sum(there >= rho - _SAME)) + 1) / (len(drawn) + 1)
    return p, float(np.mean(there)) if len(there) else None


def _resampled(table: _Table) -> np.ndarray | None:
    """How often each model is in each resample of whole families: (draws, n); None for few."""
    if len(table.families) < LEAST_DRAWN or len(table.y) > statistics.LARGE:
        return None
    return inference.resamples(len(table.families))[:, table.groups]


def _model(i: int, held: _Held, table: _Table) -> HeldOut:
    key = table.keys[i]
    return HeldOut(
        model=key.model,
        revision=key.revision,
        family=table.families[table.groups[i]],
        actual=float(table.y[i]),
        predicted={name: float(values[i, 0]) for name, values in held.predicted.items()},
    )


LEAD = "Combined predictor"


def of_combined(combined: Combined | None, selection: Selection | None) -> tuple[str, ...]:
    """One sentence on it, and one on what was left out; () where no rho could tell anything."""
    if combined is None or selection is None or not selection.telling:
        return ()
    if combined.lacking:
        return (f"{LEAD}: not enough data: {combined.lacking}.",)
    rows = {row.name: row for row in combined.rows}
    size, whole = rows.get(SIZE), rows.get(COMBINED)
    on = f"on {combined.n} models of {combined.families} families, each predicted without its own"
    guess = combined.rows[-1]
    if whole is None and size is not None:  # the features are size alone
        said = f"no metric to combine; ridge on size alone, {on}: {_judged_combined_remarks(size)}"
    elif whole is not None:
        beside = f"; size alone: {_judged_combined_remarks(size)}" if size else ""
        both = "all metrics and size" if size else "all metrics (no size is known)"
        said = f"ridge on {both}, {on}: {_judged_combined_remarks(whole)}{beside}"
    mean = f"; the mean of the other families: {_points(guess.rmse)}"
    verdict = f": {_verdict(combined, whole)}" if whole is not None else ""
    return (f"{LEAD}, {said}{mean}{verdict}.", *_left_out(combined))


def _judged_combined_remarks(row: Judged) -> str:
    rho = "no rho" if row.rho is None else f"rho {row.rho:+z.2f}"
    if row.p is not None:
        rho += f" (p = {row.p:.2g})"
    return f"{rho}, error {_points(row.rmse)}"


def _verdict(combined: Combined, whole: Judged) -> str:
    """whole: the row of combining, which has to beat the best of the others."""
    rival = min((row for row in combined.rows if row is not whole), key=lambda row: row.rmse)
    name = f"the {GUESS}" if rival.name == GUESS else rival.name
    if rival.lead is None or rival.lead <= 0:
        return f"combining is no better than {name}"
    spread = "no interval can be drawn"
    if rival.lead_low is not None and rival.lead_high is not None:
        spread = f"95 %: {100 * rival.lead_low:+z.2f} to {100 * rival.lead_high:+z.2f}"
    by = f"by {100 * rival.lead:.2f} points ({spread})"
    ahead = f"combining is ahead of {name}, {by}, but"
    if rival.lead_low is None or rival.lead_low <= 0:
        return f"{ahead} other families might undo that"
    if combined.families < LEAST_TOLD:
        return f"{ahead} a verdict needs {LEAST_TOLD} families"
    if whole.p is None or whole.p >= ALPHA:  # where an interval is drawn, p is as well
        return f"{ahead} its order of the models may be chance"
    return f"combining is better than {name}, {by}"


def _left_out(combined: Combined) -> tuple[str, ...]:
    parts = []
    if combined.models_left_out:
        count = combined.models_left_out
        parts.append(
            f"{count} model{'s' * (count > 1)} whose family, or one of the scores it is made of, "
            f"{'are' if count > 1 else 'is'} not known"
        )
    if combined.features_left_out:
        parts.append(f"{', '.join(combined.features_left_out)}, which most models lack")
    return (f"{LEAD}: left out: {'; '.join(parts)}.",) if parts else ()


def _points(rmse: float) -> str:
    return f"{100 * rmse:.1f} points"
