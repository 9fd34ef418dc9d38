"""Choosing a layer without labels: what each metric's choice gains, beside controls.

A metric chooses, on each model and task, the layer where its profile is highest (or lowest), among
those that have a score too. A gain is the score of that layer less the score of the last one. A
metric with a margin chooses one layer a model as well, see `one_layer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import fsum, inf, sqrt
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

from lrd_harness.board import statistics
from lrd_harness.board.cautions import Caution, count, names
from lrd_harness.board.layers import LABELS, OTHER, SCORE, Row, curves, hidden, records, roles
from lrd_harness.board.one_layer import RULE, Steady, one_layers
from lrd_harness.board.training import runs
from lrd_harness.report import Column, Table
from lrd_harness.results.kinds import DECODERS, model_kind
from lrd_harness.results.rows import Key, Kind, Results

ALPHA = 0.05  # two-sided, for all metrics together
FEW_PAIRS, FEW_RUNS = 30, 5  # below either, what is seen is an illustration
SPLITS = 500  # random halves of a model's tasks
SEED = 42
LAST, HONEST, ORACLE, RANDOM = "last layer", "honest choice", "oracle", "random layer"
LEAST = 4  # layers of a model on a task: a distance correlation needs as many
OUTCOME = ("depth", "gain", "gained")
_DIGITS = 12  # means of scores that are equal to this are the same
_PICK = "model revision task metric score best layer gain reverse reverse_gain".split()
_EQUAL = 1e-9  # gains that differ by less are the same


class LayerChoice(NamedTuple):
    """What choosing layers comes to, on one side's results.

    cells: see `scored_layers`; chosen: of each metric the rows of the layers that it chooses, by
    place; blind: the gains of the rules that know no score, by place; gains, correlations, picks:
    rows of the tables of these names. unknown: models of which nothing tells whether they are
    decoders.
    """

    cells: pd.DataFrame
    chosen: Mapping[str, pd.DataFrame]
    blind: pd.DataFrame
    gains: list[Row]
    correlations: list[Row]
    picks: list[Row]
    unknown: tuple[str, ...] = ()

    @property
    def judged(self) -> list[Row]:
        """The gains by which metrics are judged: on some task, in their published direction.

        A metric without one takes no part: one that rises to the last layer by its very definition
        would pick that one always.
        """
        return [
            gain
            for gain in self.gains
            if gain["kind"] == "metric" and gain["first"] and gain["published"] and gain["n"]
        ]


def build_choice(results: Results, kind: Kind = "embedding") -> LayerChoice | None:
    """Of the whole models (variant "full"); None where none has two scored layers on a task.

    A metric without a `layer_choice` is judged by its first profile, highest first. The metrics
    that gain most come first, in either direction, then those that use labels, then the other
    controls. kind: of the tasks.
    """
    if all(row.last for row in results.scores):
        return None
    lines = curves(results).dropna(subset="value")
    cells = scored_layers(lines[lines.source == SCORE], runs(results.models))
    if not cells.place.duplicated().any():
        return None
    places = lines.drop_duplicates("place").set_index("place")[["model", "revision", "task"]]
    known = {row.key: model_kind(row, kind) for row in results.models}
    kinds = {p: known.get(Key(m, revision, "full")) for p, m, revision, _ in places.itertuples()}
    unknown = dict.fromkeys(places.model[p] for p in cells.place.unique() if not kinds[p])
    cells["tenths"] = [8 if kinds[place] in DECODERS else 10 for place in cells.place]
    controls = control_outcomes(cells[cells.whole])
    blind = {rule: outcomes.gain for rule, outcomes in controls.items() if rule in BLIND}
    rivals = pd.DataFrame({LAST: 0 * blind[RANDOM]} | blind)
    scored = _scored_everywhere(cells, places)
    of_metrics, chosen = [], {}
    for role in roles(results.metrics).values():
        values = lines.loc[lines.source == role.source, ["place", "layer", "value"]]
        measured = values.merge(cells, on=["place", "layer"])
        measured = measured[measured.place.duplicated(keep=False)]  # two layers at least
        directions = role.best, OTHER[role.best]
        best, reverse = (_least(measured, measured.value * _SIGN[end]) for end in directions)
        outcomes = best[best.whole], reverse[reverse.whole]
        chosen[role.metric] = outcomes[0]
        star, ends = "" if role.published else "*", ("", ", reverse")
        in_sample = ", in-sample" * role.control  # what it picks by are the labels that it sees
        of_kind = "control" if role.control else "metric"
        gains = [
            _gain(role.source, of_kind, of_direction)
            | _lead(of_direction, rivals)
            | {"rule": role.metric, "best": end, "published": role.published}
            | {"picks": f"arg{end}{star}{reverse_of}{in_sample}", "first": end == role.best}
            for end, of_direction, reverse_of in zip(directions, outcomes, ends, strict=True)
        ]
        correlation = _correlation(role.source, of_kind, measured, "value")
        picks = places.loc[best.index].assign(
            metric=role.metric + LABELS * role.control,
            score=role.profile,
            best=role.best,
            layer=best.layer,
            gain=best.gain,
            reverse=reverse.layer,
            reverse_gain=reverse.gain,
        )
        rows = records(picks)
        if role.margin:
            rule = f"{role.metric}, one standard error"
            of_model = _of_models(one_layers(results, role, scored), measured, places)
            chosen[rule] = of_model[of_model.whole]
            gain = _gain(rule, of_kind, chosen[rule]) | _lead(chosen[rule], rivals)
            gain |= {"best": role.best, "published": True, "first": True}
            gains.append(gain | {"picks": f"arg{role.best}, one a model{in_sample}"})
            picks = places.loc[of_model.index].assign(metric=rule + LABELS * role.control)
            picks = picks.assign(score=role.profile, best=role.best, layer=of_model.layer)
            rows += records(picks.assign(gain=of_model.gain))
        of_metrics.append((gains, correlation, rows))
    of_metrics.sort(key=lambda rows: inf if rows[0][0]["gain"] is None else -rows[0][0]["gain"])
    of_metrics.sort(key=lambda rows: str(rows[1]["kind"]), reverse=True)  # metrics, then controls
    return LayerChoice(
        cells,
        chosen,
        rivals,
        [gain for gains, _, _ in of_metrics for gain in gains]
        + [_gain(rule, "control", outcomes) for rule, outcomes in controls.items()],
        [correlation for _, correlation, _ in of_metrics] + _baselines(cells),
        [row for *_, picks in of_metrics for row in picks],
        tuple(unknown),
    )


def _scored_everywhere(cells: pd.DataFrame, places: pd.DataFrame) -> dict[Key, set[int]]:
    """Of each model the layers with a score on all of its tasks that have scores."""
    layers: dict[Key, set[int]] = {}
    for place, of_place in cells.groupby("place").layer:
        key = Key(places.model[place], places.revision[place], "full")
        layers[key] = layers.get(key, {*of_place}) & {*of_place}
    return layers


def _of_models(
    choices: Mapping[Key, Steady], measured: pd.DataFrame, places: pd.DataFrame
) -> pd.DataFrame:
    """The rows, by place, of the layers that are chosen for the places' models."""
    keys = {place: Key(m, revision, "full") for place, m, revision, _ in places.itertuples()}
    layers = {place: choices[key].layer for place, key in keys.items() if key in choices}
    rows = measured[measured.layer == measured.place.map(layers)]
    return rows.set_index("place").sort_index()


def scored_layers(lines: pd.DataFrame, run_of: Mapping[Key, Key]) -> pd.DataFrame:
    """One row per place and layer with a score. lines: of the score, see `curves`.

    model, run: numbers of the model and of its training run, of which it may be one of several
    checkpoints (run_of); layers: L; last: the score of layer L, NaN if none; depth: layer / L;
    gain: score - last; gained: 1 where that is above 0, else 0; whole: whether there is a choice of
    layers and a last one to compare it with.
    """
    cells = lines[["place", "layer", "depth"]].assign(layers=lines.layers, score=lines.value)
    cells["model"] = lines.groupby(["model", "revision"], sort=False).ngroup()
    models = lines[~cells.model.duplicated()]
    keys = [Key(*names, "full") for names in zip(models.model, models.revision, strict=True)]
    cells["run"] = pd.factorize(pd.Series([run_of.get(key, key) for key in keys]))[0][cells.model]
    cells["last"] = cells.place.map(cells[cells.layer == cells.layers].set_index("place").score)
    cells["gain"] = cells.score - cells["last"]
    cells["gained"] = (cells.gain > 0).astype(np.float64)
    cells["whole"] = cells.place.duplicated(keep=False) & cells["last"].notna()
    return cells


_SIGN = {"max": -1, "min": 1}


def _least(cells: pd.DataFrame, key: pd.Series[Any]) -> pd.DataFrame:
    """The rows with the least key of each model and task, the lower layer of ties, by place."""
    ordered = cells.loc[key.sort_values(kind="stable").index]
    return ordered.drop_duplicates("place").set_index("place").sort_index()


def _gain(rule: str, kind: str, outcomes: pd.DataFrame) -> Row:
    """A row of means, None of none; checkpoints of one training run count as one run."""
    row: Row = {"predictor": rule, "label": _label(rule), "rule": rule, "kind": kind}
    row |= {name: fmean(outcomes[name]) if len(outcomes) else None for name in OUTCOME}
    row |= {"n": len(outcomes), "models": outcomes.model.nunique(), "runs": outcomes.run.nunique()}
    return row


def _label(rule: str) -> str:
    """METRIC.SCORE for people: METRIC where the score has its metric's name."""
    metric, _, score = rule.partition(".")
    return metric if metric == score else rule


def _lead(outcomes: pd.DataFrame, rivals: pd.DataFrame) -> Row:
    """The control that gains most on the same places; rivals: gains by place, of each control."""
    if outcomes.empty:
        return {}
    gains = rivals.loc[outcomes.index]
    rival = max(gains, key=lambda rule: fsum(gains[rule]))
    error = stderr_over_runs(outcomes.run, outcomes.gain - gains[rival])
    return {"rival": rival, "rival_gain": fmean(gains[rival]), "lead_stderr": error}


DEPTHS = {f"depth 0.{tenths}": tenths for tenths in (5, 7, 8)}
BLIND = ("first layer", RANDOM, *DEPTHS, RULE)  # know no score; in the order shown


def control_outcomes(whole: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Outcomes by place of what needs no metric, where there is a last layer and another one."""
    # in whole numbers, so that ties are ties
    depths = {**DEPTHS, RULE: whole.tenths}
    far = {rule: 10 * whole.layer - tenths * whole.layers for rule, tenths in depths.items()}
    return {
        "first layer": _least(whole, whole.layer),
        RANDOM: whole.groupby("place").mean(),  # the expectation
        **{rule: _least(whole, distance.abs()) for rule, distance in far.items()},
        HONEST: _honest(whole),
        ORACLE: _least(whole, -whole.score),
    }


def by_model(whole: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Of each model with several tasks its scores: layers that all of them have x places."""
    grid = whole.pivot(index="layer", columns="place", values="score")
    for places in whole.groupby("model").place.unique():
        if len(places) > 1:
            yield grid[places].dropna()


def _honest(whole: pd.DataFrame) -> pd.DataFrame:
    """Of each model the layer best in the mean over half of its tasks, scored on the other half.

    A random half of floor(k / 2) of its k tasks chooses among the layers that all k have, ties to
    the lower layer. 500 seeded splits; averaged over those in which a task is scored. Models with
    one task, or without two such layers, are left out.
    """
    outcomes: list[tuple[float, ...]] = []
    for table in by_model(whole):
        layers, scores = table.index.to_numpy(), table.to_numpy().T  # (k, layers), the last one L
        if len(layers) < 2:
            continue
        k, half = len(scores), len(scores) // 2
        generator = np.random.default_rng(SEED)
        orders = generator.permuted(np.tile(np.arange(k), (SPLITS, 1)), axis=1)  # (splits, k)
        chooses = orders < half  # (splits, k): in each split `half` of the tasks, at random
        picked = np.argmax(np.round(chooses @ scores / half, _DIGITS), axis=1)  # lower of ties
        gains = (scores - scores[:, -1:])[:, picked].T  # (splits, k)
        sides = layers[picked, None] / layers[-1], gains, gains > 0
        means = (np.average(np.broadcast_to(side, gains.shape), 0, ~chooses) for side in sides)
        outcomes += zip(table.columns, *means, strict=True)
    frame = pd.DataFrame(outcomes, columns=["place", *OUTCOME]).set_index("place")
    return frame.join(whole.drop_duplicates("place").set_index("place")[["model", "run"]])


def stderr_over_runs(runs: pd.Series[Any], values: pd.Series[Any]) -> float | None:
    """The standard error of the mean of values; those of a training run go together.

    The square root of M / (M - 1) times the sum over the M runs of the squared sum of a run's
    deviations from the mean, over the number of values. None for fewer than 2 runs.

    Examples
    --------
    >>> stderr_over_runs(pd.Series(["a", "b"]), pd.Series([0.0, 1.0]))
    0.5
    """
    by_run = np.bincount(pd.factorize(runs)[0], values - values.mean())
    m = len(by_run)
    return sqrt(m / (m - 1) * float(by_run @ by_run)) / len(values) if m > 1 else None


def exceeds(gain: Row, metrics: int) -> bool | None:
    """Whether a gain exceeds its rival's by more than the best of so many metrics has by chance.

    By Student's t over training runs (Bonferroni); None for fewer than 2 of them.
    """
    if gain["lead_stderr"] is None:
        return None
    limit = gain["lead_stderr"] * t.ppf(1 - ALPHA / 2 / metrics, gain["runs"] - 1)
    return bool(gain["gain"] - gain["rival_gain"] > limit)


class Mean(NamedTuple):
    """A mean, its interval (None below 2 training runs), of how many values and runs."""

    value: float
    low: float | None
    high: float | None
    n: int
    runs: int

    def percent(self, of: float = 1.0, above: float = 0.0) -> Row:
        """Value and interval in percent of a number, plus another."""
        ends = zip(("value", "low", "high"), self[:3], strict=True)
        return {name: None if v is None else 100 * (above + v / of) for name, v in ends}


def mean(runs: pd.Series[Any], values: pd.Series[Any], tests: int = 1) -> Mean:
    """With its 95 % t interval over training runs, for all `tests`."""
    middle, error, m = fmean(values), stderr_over_runs(runs, values), runs.nunique()
    if error is None:
        return Mean(middle, None, None, len(values), m)
    reach = error * float(t.ppf(1 - ALPHA / 2 / tests, m - 1))
    return Mean(middle, middle - reach, middle + reach, len(values), m)


def _baselines(cells: pd.DataFrame) -> list[Row]:
    """The layer's number instead of a metric, and random walks of the same lengths."""
    scores = cells.groupby("place").score.agg(["size", "min", "max"])
    lengths = scores["size"][(scores["size"] >= LEAST) & (scores["min"] < scores["max"])]
    walks = _correlation("random walks", "baseline", cells[:0], "layer")
    if len(lengths):
        levels = [statistics.random_walk_level(length) for length in lengths]
        means = statistics.WalkLevel(*map(fmean, zip(*levels, strict=True)))
        walks |= means._asdict() | {"n": len(levels)}
    return [_correlation("depth alone", "baseline", cells, "layer"), walks]


def _correlation(name: str, kind: str, cells: pd.DataFrame, column: str) -> Row:
    """A column and the score over at least 4 layers: means over models and tasks."""
    lengths = cells.place.map(cells.place.value_counts())
    parts = [np.empty((2, 0))]
    for length in lengths[lengths >= LEAST].unique():  # those of one length at once
        same = cells[lengths == length]
        x, y = (same[side].to_numpy(np.float64).reshape(-1, length) for side in (column, "score"))
        far = statistics.distance_correlation_rows(x, y)
        parts.append(np.array([statistics.spearman_rows(x, y), far]))
    rho, distance = (side[~np.isnan(side)] for side in np.concatenate(parts, axis=1))
    means = {"spearman": rho, "absolute": np.abs(rho), "positive": rho > 0, "distance": distance}
    row: Row = {"predictor": name, "label": _label(name), "kind": kind}
    row |= {field: float(np.mean(v)) if len(v) else None for field, v in means.items()}
    return row | {"n": len(rho)}


_CONTROLS = (
    "Controls use no metric, or labels where they say so. First layer: the lowest that was scored; "
    "random layer: the expectation of a layer drawn at random; depth d: the scored layer nearest "
    f"to d x blocks; {RULE}: the one-line rule, of a decoder that at depth 0.8, of other models "
    "the last one; honest choice: per model the layer best on a random half of its tasks, scored "
    "on the other half (500 splits); oracle: the best layer of each pair by its own score, the "
    "most that any choice can gain."
)
_GAINS = (
    "Gain: score of the chosen layer less that of the last one, mean over n pairs of model and "
    "task; gained: the share of pairs with a gain above 0; depth: chosen layer / blocks.",
    "A metric picks, without labels, the layer where it is highest (argmax) or lowest (argmin), "
    "first in its published direction; reverse: the other one, shown because signs flip between "
    "models; *: no direction is published, and the metric is not counted in the verdict; one a "
    "model: over all its tasks, the best layer where its lead over the last one exceeds one "
    "standard error, else the last. Any scored layer may be picked, layer 0 included. Controls are "
    "over all pairs.",
    _CONTROLS,
)
_CORRELATIONS = (
    "Over the layers of one model on one task, a metric's value against the score; means over the "
    "n pairs of model and task with at least 4 layers. A metric that picks by argmin needs a "
    "negative rho. Distance correlation: bias-corrected, of squares; about 0 where independent, 1 "
    "at most; it also sees what is not monotone.",
    "depth alone: the layer's number in place of a metric. random walks: 1,000 pairs of "
    "independent walks of the same lengths. Neighbouring layers are alike, so that any two curves "
    "over them correlate: a metric says something where its |rho| and its distance correlation "
    "exceed those of both baselines.",
)


def choice_tables(choice: LayerChoice | None) -> list[Table]:
    """What choosing a layer gains, how metrics go with scores over layers, and the layers chosen.

    Gains are in the score's unit: 0.01 is a point.
    """
    if choice is None:
        return []
    named = [Column("label", "rule", key=True), *hidden("predictor", "kind")]
    gains = (
        *named,
        Column("picks", key=True),
        *hidden("best", "published", "first"),
        Column("depth", "mean depth", form=".2f"),
        Column("gain", unit="score", best="max", form="+z.4f"),
        Column("gained", unit="share of n", best="max", form=".2f"),
        Column("n", unit="pairs"),
        *hidden("models", "runs", "rival", "rival_gain", "lead_stderr"),
    )
    correlations = (
        *named,
        Column("spearman", "Spearman's rho", unit="mean", form="+z.2f"),
        Column("absolute", "|rho|", unit="mean", form=".2f"),
        Column("positive", "rho > 0", unit="share of n", form=".2f"),
        Column("distance", "distance correlation", form="+z.2f"),
        Column("n", unit="pairs"),
    )

    def table(name: str, title: str, columns: Any, rows: list[Row], *caption: str) -> Table:
        shown = bool(caption) and any(row["n"] for row in rows)
        return Table(name, title, columns, rows, caption, shown)

    title = "Metrics and scores over layers"
    return [
        table("layer_gain", "Choosing a layer without labels", gains, choice.gains, *_GAINS),
        table("layer_correlation", title, correlations, choice.correlations, *_CORRELATIONS),
        table("layer_picks", "Chosen layers", hidden(*_PICK), choice.picks),
    ]


def choice_cautions(choice: LayerChoice | None) -> Iterator[Caution]:
    """Whether some metric's choice gained more than what needs no metric; nothing without one."""
    judged = choice.judged if choice else []
    if choice is None or not judged:
        return
    if choice.unknown:
        yield Caution("choice_kind", {"models": names(choice.unknown), "rule": RULE})
    ahead = [row for row in judged if row["gain"] - row["rival_gain"] > _EQUAL]
    best = max(ahead or judged, key=lambda row: row["gain"] - row["rival_gain"])
    numbers = {"rival": best["rival"], "rival_points": 100 * best["rival_gain"]}
    if ahead:
        numbers |= {"metric": best["rule"], "points": 100 * best["gain"]}
        yield Caution("choice_won", numbers)
        honest = next(row["gain"] for row in choice.gains if row["rule"] == HONEST)
        if honest is not None and honest >= best["gain"] - _EQUAL:
            yield Caution("choice_honest", {"metric": best["rule"], "points": 100 * honest})
        if len(judged) > 1:
            yield Caution("choice_best_of", {"metric": best["rule"], "metrics": len(judged)})
        if exceeds(best, len(judged)) is False:
            yield Caution("choice_luck", {"metric": best["rule"]})
    else:  # metrics that were measured on other pairs have another rival
        several = len({(row["rival"], row["rival_gain"]) for row in judged}) > 1
        yield Caution("choice_lost_several" if several else "choice_lost", numbers)
    n, models, runs = (max(row[c] for row in ahead or judged) for c in ("n", "models", "runs"))
    if n < FEW_PAIRS or runs < FEW_RUNS:  # checkpoints are no models of their own
        of = {"pairs": count(n, "model-task pair"), "models": count(models, "model")}
        yield Caution("choice_few", of | {"runs": count(runs, "training run")})
