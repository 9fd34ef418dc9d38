"""Choosing a layer without labels: what each metric's choice gains, beside controls.

A metric chooses, on each model and task, the layer where its profile is highest (or lowest), among
those that have a score too. A gain is the score of that layer less the score of the last one. A
cell is one model on one task; all means are over cells.

Curves over layers are smooth, so that any two of them correlate: a metric's correlation with the
score says something where it exceeds that of the layer's number and of independent random walks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import fsum, inf
from typing import Any, NamedTuple

import numpy as np

from lrd_harness.board import statistics
from lrd_harness.board.cautions import Caution, count
from lrd_harness.board.layers import (
    FEW_PAIRS,
    FEW_RUNS,
    OTHER,
    SCORE,
    Cell,
    Curves,
    Outcome,
    Place,
    Role,
    Row,
    by_model,
    curves,
    exceeds,
    hidden,
    pick,
    roles,
    stderr_over_runs,
)
from lrd_harness.board.training import runs
from lrd_harness.report import Column, Table
from lrd_harness.results.rows import Results

SPLITS = 500  # random halves of a model's tasks
SEED = 42
LAST, HONEST, ORACLE, RANDOM = "last layer", "honest choice", "oracle", "random layer"
LEAST = 4  # layers of a cell: a distance correlation needs as many
_DIGITS = 12  # means of scores that are equal to this are the same
_PICKED = ("layer", "gain", "reverse", "reverse_gain")
_EQUAL = 1e-9  # gains that differ by less are the same


class LayerChoice(NamedTuple):
    """cells: with a score; gains, correlations, picks: rows of the tables of these names."""

    cells: Mapping[Place, Cell]
    gains: list[Row]
    correlations: list[Row]
    picks: list[Row]

    @property
    def judged(self) -> list[Row]:
        """The gains by which metrics are judged: in the direction that each has published.

        A metric without one takes no part: one that rises to the last layer by its very definition
        would pick that one always.
        """
        return [g for g in self.gains if g["kind"] == "metric" and g["first"] and g["published"]]


def build_choice(results: Results) -> LayerChoice | None:
    """Of the whole models (variant "full"); None where no cell has two scored layers.

    A metric without a `layer_choice` is judged by its first profile, highest first. The metrics
    that gain most come first, in either direction, then the controls.
    """
    if all(row.last for row in results.scores):
        return None
    by_source = curves(results)
    cells = cells_of(results, by_source)
    if not any(len(cell.scores) > 1 for cell in cells.values()):
        return None
    judged = [_metric(role, by_source, cells) for role in roles(results.metrics).values()]
    judged.sort(key=lambda row: inf if row[0][0]["gain"] is None else -row[0][0]["gain"])
    every = list(cells.values())
    gains = [gain for two, _, _ in judged for gain in two] + controls(every)
    correlations = [row for _, row, _ in judged] + baselines(every)
    return LayerChoice(cells, gains, correlations, [row for *_, picks in judged for row in picks])


def cells_of(results: Results, by_source: Curves) -> dict[Place, Cell]:
    """The scores of the whole models over layers."""
    of = runs(results.models)
    return {
        (key, task): Cell(key, task, curve.last, curve.values, of.get(key))
        for (key, task), curve in by_source.get(SCORE, {}).items()
    }


def _metric(
    role: Role, by_source: Curves, cells: Mapping[Place, Cell]
) -> tuple[list[Row], Row, list[Row]]:
    """A metric's gains in both directions, its correlation, and its picks."""
    picks, whole, pairs = [], [], []
    chosen: tuple[list[Outcome], list[Outcome]] = ([], [])
    for place, curve in by_source.get(role.source, {}).items():
        cell = cells.get(place)
        values = {n: v for n, v in curve.values.items() if cell and n in cell.scores}
        if cell is None or len(values) < 2:
            continue
        pairs.append((list(values.values()), [cell.scores[layer] for layer in values]))
        layers = pick(values, role.best), pick(values, OTHER[role.best])
        gains: list[float | None] = [None, None]
        if cell.whole:
            whole.append(cell)
            for side, layer in enumerate(layers):
                chosen[side].append(cell.outcome(layer))
                gains[side] = chosen[side][-1].gain
        picks.append(
            {"model": cell.key.model, "revision": cell.key.revision, "task": cell.task}
            | {"metric": role.metric, "score": role.profile, "best": role.best}
            | dict(zip(_PICKED, (layers[0], gains[0], layers[1], gains[1]), strict=True))
        )
    name, rows = f"{role.metric}.{role.profile}", []
    for best, outcomes in zip((role.best, OTHER[role.best]), chosen, strict=True):
        first = best == role.best
        picked = f"arg{best}{'' if role.published else '*'}{'' if first else ', reverse'}"
        common = {"picks": picked, "best": best, "published": role.published, "first": first}
        rows.append(_gain(name, "metric", whole, outcomes) | common | _lead(whole, outcomes))
        rows[-1]["rule"] = role.metric
    return rows, _correlation(name, "metric", pairs), picks


def _gain(rule: str, kind: str, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> Row:
    """A row of means over cells, None of none; checkpoints of one training run count as one run."""
    means = _mean(outcomes)._asdict() if outcomes else dict.fromkeys(Outcome._fields)
    counts = {"n": len(cells), "models": len({cell.key for cell in cells})}
    counts["runs"] = len({cell.run for cell in cells})
    return {"predictor": rule, "label": _label(rule), "rule": rule, "kind": kind} | means | counts


def _label(rule: str) -> str:
    """METRIC.SCORE for people: METRIC where the score has its metric's name."""
    metric, _, score = rule.partition(".")
    return metric if metric == score else rule


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(fsum(column) / len(outcomes) for column in zip(*outcomes, strict=True)))


def _lead(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> Row:
    """The control that gains most on the same cells, of those that know no score."""
    if not cells:
        return {}
    gains = {LAST: [0.0] * len(cells)}
    gains |= {rule: [play(cell).gain for cell in cells] for rule, play in BLIND.items()}
    rival = max(gains, key=lambda rule: fsum(gains[rule]))
    leads = [one.gain - other for one, other in zip(outcomes, gains[rival], strict=True)]
    mean = fsum(gains[rival]) / len(cells)
    return {"rival": rival, "rival_gain": mean, "lead_stderr": stderr_over_runs(cells, leads)}


# ---------------------------------------------------------------- controls


def controls(cells: Sequence[Cell]) -> list[Row]:
    """One row per control, over the cells that have the last layer's score and another one."""
    whole = [cell for cell in cells if cell.whole]
    plays = {**BLIND, ORACLE: lambda cell: cell.outcome(pick(cell.scores))}
    rows = [_gain(rule, "control", whole, list(map(play, whole))) for rule, play in plays.items()]
    return [*rows[:-1], honest_choice(whole), rows[-1]]


def honest_choice(cells: Sequence[Cell]) -> Row:
    """Of each model the layer best in the mean over half of its tasks, scored on the other half.

    A random half of floor(k / 2) of its k tasks chooses among the layers that all k have, ties to
    the lower layer. 500 seeded splits; averaged over those in which a task is scored, then over
    tasks. Models with one task, or without two such layers, are left out. n: models x tasks.
    """
    outcomes: list[Outcome] = []
    chosen: list[Cell] = []
    for own, layers in by_model(cells):
        if len(layers) > 1:
            outcomes += _honest(own, layers)
            chosen += own
    return _gain(HONEST, "control", chosen, outcomes)


def _honest(cells: Sequence[Cell], layers: Sequence[int]) -> list[Outcome]:
    """Of one model's tasks: each one's mean over its splits; the last of `layers` is L."""
    k, half = len(cells), len(cells) // 2
    scores = np.array([[cell.scores[layer] for layer in layers] for cell in cells])  # (k, layers)
    gains = scores - scores[:, -1:]
    generator = np.random.default_rng(SEED)
    orders = generator.permuted(np.tile(np.arange(k), (SPLITS, 1)), axis=1)  # (splits, k)
    chooses = orders < half  # (splits, k): in each split `half` of the tasks, at random
    picked = np.argmax(np.round(chooses @ scores / half, _DIGITS), axis=1)  # the lower of ties
    outcomes = []
    for task, cell in enumerate(cells):
        layer = picked[~chooses[:, task]]  # as often as the task was not among those that chose
        depth = np.mean(np.array(layers)[layer]) / cell.layers
        gain, gained = np.mean(gains[task, layer]), np.mean(gains[task, layer] > 0)
        outcomes.append(Outcome(float(depth), float(gain), float(gained)))
    return outcomes


def _at(tenths: int) -> Callable[[Cell], Outcome]:
    """The scored layer nearest to a depth, in whole numbers so that ties are ties: the lower."""

    def play(cell: Cell) -> Outcome:
        aim = tenths * cell.layers
        return cell.outcome(min(cell.scores, key=lambda layer: (abs(10 * layer - aim), layer)))

    return play


# The controls that know no score, in the order shown.
BLIND: Mapping[str, Callable[[Cell], Outcome]] = {
    "first layer": lambda cell: cell.outcome(min(cell.scores)),
    RANDOM: lambda cell: _mean([cell.outcome(layer) for layer in cell.scores]),  # the expectation
    **{f"depth 0.{tenths}": _at(tenths) for tenths in (5, 7, 8)},
}


# ---------------------------------------------------------------- correlations over layers

Pairs = tuple[Sequence[float], Sequence[float]]  # of one cell: values and scores of the same layers


def baselines(cells: Sequence[Cell]) -> list[Row]:
    """The layer's number instead of a metric, and random walks of the same lengths."""
    pairs = [(list(map(float, cell.scores)), list(cell.scores.values())) for cell in cells]
    lengths = [len(y) for _, y in pairs if len(y) >= LEAST and min(y) < max(y)]
    levels = [statistics.random_walk_level(length) for length in lengths]
    walks = _correlation("random walks", "baseline", [])
    if levels:
        means = (fsum(column) / len(levels) for column in zip(*levels, strict=True))
        walks |= statistics.WalkLevel(*means)._asdict() | {"n": len(levels)}
    return [_correlation("depth alone", "baseline", pairs), walks]


def _correlation(name: str, kind: str, cells: Iterable[Pairs]) -> Row:
    """Means over the cells of at least 4 layers; cells of one length are reckoned at once."""
    by_length: dict[int, list[Pairs]] = {}
    for pair in cells:
        if len(pair[0]) >= LEAST:
            by_length.setdefault(len(pair[0]), []).append(pair)
    parts = [np.empty((2, 0))]
    for same in by_length.values():
        x, y = (np.array([pair[side] for pair in same], dtype=np.float64) for side in (0, 1))
        of = statistics.spearman_rows, statistics.distance_correlation_rows
        parts.append(np.array([correlation(x, y) for correlation in of]))
    rho, distance = (side[~np.isnan(side)] for side in np.concatenate(parts, axis=1))
    means = {"spearman": rho, "absolute": np.abs(rho), "positive": rho > 0, "distance": distance}
    row: Row = {"predictor": name, "label": _label(name), "kind": kind}
    row |= {field: float(np.mean(v)) if len(v) else None for field, v in means.items()}
    return row | {"n": len(rho)}


# ---------------------------------------------------------------- tables and cautions

_CONTROLS = (
    "Controls use no metric. First layer: the lowest that was scored; random layer: the "
    "expectation of a layer drawn at random; depth d: the scored layer nearest to d x blocks; "
    "honest choice: per model the layer best on a random half of its tasks, scored on the other "
    "half (500 splits); oracle: the best layer of each pair by its own score, the most that any "
    "choice can gain."
)
_GAINS = (
    "Gain: score of the chosen layer less that of the last one, mean over n pairs of model and "
    "task; gained: the share of pairs with a gain above 0; depth: chosen layer / blocks.",
    "A metric picks, without labels, the layer where it is highest (argmax) or lowest (argmin), "
    "first in its published direction; reverse: the other one, shown because signs flip between "
    "models; *: no direction is published, and the metric is not counted in the verdict. Any "
    "scored layer may be picked, layer 0 included. Controls are over all pairs.",
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


def choice_tables(choice: LayerChoice | None, prefix: str = "") -> list[Table]:
    """What choosing a layer gains, how metrics go with scores over layers, and the layers chosen.

    Gains are in the score's unit: 0.01 is a point.
    """
    if choice is None:
        return []
    names = [Column("label", "rule", key=True), *hidden("predictor", "kind")]
    gains = (
        *names,
        Column("picks", key=True),
        *hidden("best", "published", "first"),
        Column("depth", "mean depth", form=".2f"),
        Column("gain", unit="score", best="max", form="+z.4f"),
        Column("gained", unit="share of n", best="max", form=".2f"),
        Column("n", unit="pairs"),
        *hidden("models", "runs", "rival", "rival_gain", "lead_stderr"),
    )
    correlations = (
        *names,
        Column("spearman", "Spearman's rho", unit="mean", form="+z.2f"),
        Column("absolute", "|rho|", unit="mean", form=".2f"),
        Column("positive", "rho > 0", unit="share of n", form=".2f"),
        Column("distance", "distance correlation", form="+z.2f"),
        Column("n", unit="pairs"),
    )
    picks = hidden(*"model revision task metric score best".split(), *_PICKED)
    of = "Base models: " if prefix else ""

    def table(name: str, title: str, columns: Any, rows: list[Row], *said: str) -> Table:
        shown = bool(said) and any(row["n"] for row in rows)
        return Table(f"{prefix}{name}", f"{of}{title}", columns, rows, said, shown)

    title = "Metrics and scores over layers"
    return [
        table("layer_gain", "Choosing a layer without labels", gains, choice.gains, *_GAINS),
        table("layer_correlation", title, correlations, choice.correlations, *_CORRELATIONS),
        table("layer_picks", "Chosen layers", picks, choice.picks),
    ]


def choice_cautions(choice: LayerChoice | None) -> Iterator[Caution]:
    """Whether some metric's choice gained more than what needs no metric; nothing without one."""
    own = [row for row in choice.judged if row["n"]] if choice else []
    if choice is None or not own:
        return
    ahead = [row for row in own if row["gain"] - row["rival_gain"] > _EQUAL]
    best = max(ahead or own, key=lambda row: row["gain"] - row["rival_gain"])
    numbers = {"rival": best["rival"], "rival_points": 100 * best["rival_gain"]}
    if ahead:
        numbers |= {"metric": best["rule"], "points": 100 * best["gain"]}
        yield Caution("choice_won", numbers)
        honest = next(row["gain"] for row in choice.gains if row["rule"] == HONEST)
        if honest is not None and honest >= best["gain"] - _EQUAL:
            yield Caution("choice_honest", {"metric": best["rule"], "points": 100 * honest})
        if len(own) > 1:
            yield Caution("choice_best_of", {"metric": best["rule"], "metrics": len(own)})
        if exceeds(best, len(own)) is False:
            yield Caution("choice_luck", {"metric": best["rule"]})
    else:  # metrics that were measured on other pairs have another rival
        several = len({(row["rival"], row["rival_gain"]) for row in own}) > 1
        yield Caution("choice_lost_several" if several else "choice_lost", numbers)
    n, models, runs = (max(row[c] for row in ahead or own) for c in ("n", "models", "runs"))
    if n < FEW_PAIRS or runs < FEW_RUNS:  # checkpoints are no models of their own
        of = {"pairs": count(n, "model-task pair"), "models": count(models, "model")}
        yield Caution("choice_few", of | {"runs": count(runs, "training run")})
