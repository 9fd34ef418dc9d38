"""What must be said of choosing layers without labels, in plain sentences.

What choosing a layer gains without any metric: what a metric's choice must be held against.

A gain is the score of the chosen layer less the score of the last one, in the score's unit (0..1).
A cell is one model on one task; all means are over cells.

Whether a metric follows the score over a model's layers, or just changes with depth.

Curves over layers are smooth: neighbouring layers are alike, so that any two of them correlate.
A metric's correlation says something where it exceeds that of the layer's number and that of two
independent random walks.

Choosing a layer without labels: what each metric's choice gains, beside controls.

    leaderboard.build(results).choice       # None where only last layers were scored

A metric chooses, on each model and task, the layer where its profile is highest (or lowest), among
those that have a score too. What that gains over the last layer is in `gains`, both directions,
with the controls of choice_controls.py; how the metric goes with the score over layers is in
`correlations`, with the baselines of choice_correlations.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, sqrt
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import t

from lrd_harness.board import statistics
from lrd_harness.board.families import families
from lrd_harness.board.layers import OTHER, pick
from lrd_harness.contracts import Choice
from lrd_harness.results.database import Key, MetricRow, Profile, Results

SPLITS = 500  # random halves of a model's tasks
SEED = 42
LAST, HONEST, ORACLE = "last layer", "honest choice", "oracle"
_TENTHS = (5, 7, 8)  # the fixed depths
_DIGITS = 12  # means of scores that are equal to this are the same


class Outcome(NamedTuple):
    """What a rule makes of one cell: depth (0..1) of its layer, gain, whether it gained (0..1)."""

    depth: float
    gain: float
    gained: float


@dataclass(frozen=True)
class Cell:
    """One model on one task: its score at each layer that has one, of 0..layers (L).

    checkpoint_of: what stands for its training run, if other models are checkpoints of it too.
    """

    key: Key
    task: str
    layers: int
    scores: Mapping[int, float]
    checkpoint_of: Key | None = None

    @property
    def run(self) -> Key:
        """What is independent of other cells: the training run; without others, the model."""
        return self.checkpoint_of or self.key

    @property
    def whole(self) -> bool:
        """Whether there is a choice of layers and a last one to hold it against."""
        return len(self.scores) > 1 and self.layers in self.scores

    def outcome(self, layer: int) -> Outcome:
        """Of choosing this layer. KeyError where it, or the last one, has no score."""
        gain = self.scores[layer] - self.scores[self.layers]
        return Outcome(layer / self.layers, gain, float(gain > 0))


@dataclass(frozen=True)
class Gain:
    """What a rule for choosing a layer gains over the last layer, on average over n cells.

    rule: the metric, or the control; score: the metric's profile, and best: which of its values is
    chosen, None of a control; published: whether the metric itself says so (the paper's
    direction); first: whether this direction is the one that the metric is judged by.
    depth: mean of chosen layer / L; gain: mean, in the score's unit; gained: the share of cells
    with a gain above 0; n: cells; models: how many models they are of, runs: of how many training
    runs, checkpoints of one counting once. None where n is 0.
    rival, rival_gain: the control that gains most on the same n cells, of those that know no score
    (last layer: 0, first, random, fixed depths), and what it gains. lead_stderr: the standard
    error of gain - rival_gain, the training runs taken as independent, their checkpoints and tasks
    not; None for fewer than 2 runs.
    """

    rule: str
    kind: Literal["metric", "control"]
    score: str | None = None
    best: Literal["max", "min"] | None = None
    published: bool = False
    first: bool = True
    depth: float | None = None
    gain: float | None = None
    gained: float | None = None
    n: int = 0
    models: int = 0
    rival: str | None = None
    rival_gain: float | None = None
    lead_stderr: float | None = None
    runs: int = 0


class Means(NamedTuple):
    """The averaged fields of a Gain."""

    depth: float | None
    gain: float | None
    gained: float | None


def means(outcomes: Sequence[Outcome]) -> Means:
    """Over cells; None of none."""
    return Means(*_mean(outcomes)) if outcomes else Means(None, None, None)


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(fsum(column) / len(outcomes) for column in zip(*outcomes, strict=True)))


class Counts(NamedTuple):
    """How much cells are: the counts of a Gain."""

    n: int
    models: int
    runs: int


def counts(cells: Sequence[Cell]) -> Counts:
    """How many cells, models and training runs."""
    return Counts(len(cells), len({cell.key for cell in cells}), len({cell.run for cell in cells}))


def controls(cells: Sequence[Cell]) -> tuple[Gain, ...]:
    """A row a control, over the cells that have the last layer's score and another one."""
    whole = [cell for cell in cells if cell.whole]
    of = counts(whole)._asdict()
    blind = {rule: means([play(cell) for cell in whole]) for rule, play in BLIND.items()}
    best = means([_oracle(cell) for cell in whole])
    rows = [Gain(rule, "control", **found._asdict(), **of) for rule, found in blind.items()]
    oracle = Gain(ORACLE, "control", **best._asdict(), **of)
    return (*rows, honest_choice(whole), oracle)


def rival(cells: Sequence[Cell]) -> tuple[str, list[float]]:
    """The control that gains most on these cells without knowing a score; its gain on each."""
    gains = {LAST: [0.0] * len(cells)}
    gains |= {rule: [play(cell).gain for cell in cells] for rule, play in BLIND.items()}
    best = max(gains, key=lambda rule: fsum(gains[rule]))
    return best, gains[best]


def stderr_over_runs(cells: Sequence[Cell], values: Sequence[float]) -> float | None:
    """The standard error of the mean of a value a cell; cells of one training run may go together.

    The square root of M / (M - 1) times the sum over the M runs of the squared sum of a run's
    deviations from the mean, over the number of cells. None for fewer than 2 runs.
    """
    mean = fsum(values) / max(1, len(values))
    by_run: dict[Key, float] = {}
    for cell, value in zip(cells, values, strict=True):
        by_run[cell.run] = by_run.get(cell.run, 0.0) + value - mean
    m = len(by_run)
    if m < 2:
        return None
    return sqrt(m / (m - 1) * fsum(total**2 for total in by_run.values())) / len(values)


def honest_choice(cells: Sequence[Cell]) -> Gain:
    """Of each model the layer best in the mean over half of its tasks, scored on the other half.

    A random half of floor(k / 2) of its k tasks chooses among the layers that all k have, ties to
    the lower layer. 500 seeded splits; averaged over those in which a task is scored, then over
    tasks. Models with one task, or without two such layers, are left out. n: models x tasks.
    """
    by_model: dict[Key, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.key, []).append(cell)
    found: list[Outcome] = []
    chosen: list[Cell] = []
    for own in by_model.values():
        layers = sorted(set.intersection(*(set(cell.scores) for cell in own)))
        if len(own) > 1 and len(layers) > 1:
            found += _honest(own, layers)
            chosen += own
    return Gain(HONEST, "control", **means(found)._asdict(), **counts(chosen)._asdict())


def _honest(cells: Sequence[Cell], layers: Sequence[int]) -> list[Outcome]:
    """Of one model's tasks: each one's mean over its splits; the last of `layers` is L."""
    k, half = len(cells), len(cells) // 2
    scores = np.array([[cell.scores[layer] for layer in layers] for cell in cells])  # (k, layers)
    gains = scores - scores[:, -1:]
    generator = np.random.default_rng(SEED)
    orders = generator.permuted(np.tile(np.arange(k), (SPLITS, 1)), axis=1)  # (splits, k)
    chooses = orders < half  # (splits, k): in each split `half` of the tasks, at random
    picked = np.argmax(np.round(chooses @ scores / half, _DIGITS), axis=1)  # the lower of ties
    found = []
    for task, cell in enumerate(cells):
        layer = picked[~chooses[:, task]]  # as often as the task was not among those that chose
        depth = np.mean(np.array(layers)[layer]) / cell.layers
        gain, gained = np.mean(gains[task, layer]), np.mean(gains[task, layer] > 0)
        found.append(Outcome(float(depth), float(gain), float(gained)))
    return found


def _first(cell: Cell) -> Outcome:
    return cell.outcome(min(cell.scores))


def _random(cell: Cell) -> Outcome:
    """The expectation of a layer drawn among all that were scored."""
    return _mean([cell.outcome(layer) for layer in cell.scores])


def _at(tenths: int) -> Callable[[Cell], Outcome]:
    """The scored layer nearest to a depth, in whole numbers so that ties are ties: the lower."""

    def play(cell: Cell) -> Outcome:
        aim = tenths * cell.layers
        return cell.outcome(min(cell.scores, key=lambda layer: (abs(10 * layer - aim), layer)))

    return play


def _oracle(cell: Cell) -> Outcome:
    """The best layer, the lower one of several."""
    return cell.outcome(pick(cell.scores))


# The controls that know no score, in the order shown.
BLIND: Mapping[str, Callable[[Cell], Outcome]] = {
    "first layer": _first,
    "random layer": _random,
    **{f"depth 0.{tenths}": _at(tenths) for tenths in _TENTHS},
}


LEAST = 4  # layers of a cell: a distance correlation needs as many

Pairs = tuple[Sequence[float], Sequence[float]]  # one cell: values and scores of the same layers


@dataclass(frozen=True)
class LayerCorrelation:
    """How a metric and the score go together over layers, in the mean over n cells.

    name: the metric or the baseline; score: the metric's profile, None of a baseline.
    spearman: mean rho; absolute: mean |rho|; positive: the share of cells with rho above 0;
    distance: mean bias-corrected distance correlation over the cells that have one. None where
    there is no cell of at least 4 layers in which both sides vary.
    """

    name: str
    kind: Literal["metric", "baseline"]
    score: str | None = None
    spearman: float | None = None
    absolute: float | None = None
    positive: float | None = None
    distance: float | None = None
    n: int = 0


def of_metric(name: str, score: str, cells: Sequence[Pairs]) -> LayerCorrelation:
    """A metric's row, from its values and the scores at the layers that have both."""
    return _row(name, "metric", score, cells)


def baselines(cells: Sequence[Cell]) -> tuple[LayerCorrelation, LayerCorrelation]:
    """The layer's number instead of a metric, and random walks of the same lengths."""
    curves = [sorted(cell.scores.items()) for cell in cells]
    pairs = [([float(layer) for layer, _ in c], [score for _, score in c]) for c in curves]
    return _row("depth alone", "baseline", None, pairs), _walks(pairs)


def _walks(cells: Sequence[Pairs]) -> LayerCorrelation:
    """Two walks in place of each cell with a score that varies, cells of a length alike."""
    lengths = [len(y) for _, y in cells if len(y) >= LEAST and min(y) < max(y)]
    if not lengths:
        return LayerCorrelation("random walks", "baseline")
    levels = [statistics.random_walk_level(length) for length in lengths]
    over = statistics.WalkLevel(
        *(fsum(column) / len(levels) for column in zip(*levels, strict=True))
    )
    return LayerCorrelation("random walks", "baseline", n=len(levels), **over._asdict())


def _row(
    name: str, kind: Literal["metric", "baseline"], score: str | None, cells: Sequence[Pairs]
) -> LayerCorrelation:
    """The means; cells of one length are reckoned at once."""
    by_length: dict[int, list[Pairs]] = {}
    for pair in cells:
        if len(pair[0]) >= LEAST:
            by_length.setdefault(len(pair[0]), []).append(pair)
    found = [np.empty((2, 0))]
    for same in by_length.values():
        x, y = (np.array([pair[side] for pair in same], dtype=np.float64) for side in (0, 1))
        found.append(
            np.array([statistics.spearman_rows(x, y), statistics.distance_correlation_rows(x, y)])
        )
    rho, distance = np.concatenate(found, axis=1)
    rho, distance = rho[~np.isnan(rho)], distance[~np.isnan(distance)]
    return LayerCorrelation(
        name,
        kind,
        score,
        spearman=_mean_choice_correlations(rho),
        absolute=_mean_choice_correlations(np.abs(rho)),
        positive=_mean_choice_correlations(rho > 0),
        distance=_mean_choice_correlations(distance),
        n=len(rho),
    )


def _mean_choice_correlations(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


__all__ = ["Gain", "LayerChoice", "LayerCorrelation", "Pick", "build_choice"]

Place = tuple[Key, str]  # model and task


@dataclass(frozen=True)
class Pick:
    """The layer that a metric chooses for one model on one task.

    layer: in the metric's first direction; reverse: in the other one; the lower of ties. gain,
    reverse_gain: over the last layer, in the score's unit; None where the last has no score.
    """

    model: str
    revision: str
    task: str
    metric: str
    score: str
    best: Literal["max", "min"]
    layer: int
    gain: float | None
    reverse: int
    reverse_gain: float | None


@dataclass(frozen=True)
class LayerChoice:
    """The tables of one board.

    gains: two rows a metric, its own direction first, the metrics that gain most first; then the
        controls: first layer, random layer, fixed depths, honest choice, oracle.
    correlations: a row a metric in the same order; then depth alone and random walks.
    picks: a row a metric, model and task.
    """

    gains: tuple[Gain, ...]
    correlations: tuple[LayerCorrelation, ...]
    picks: tuple[Pick, ...]


@dataclass(frozen=True)
class _Chooser:
    """A metric's way of choosing, and what it gave: its profile by place."""

    metric: str
    choice: Choice
    published: bool
    profiles: Mapping[Place, Profile]


def build_choice(results: Results) -> LayerChoice | None:
    """The tables of the whole models (variant "full"); None where no cell has two scored layers.

    A metric without a `layer_choice` is judged by its first profile, highest first, and marked as
    unpublished. Of a unit that is there twice the newer row counts.
    """
    if all(row.last for row in results.scores):  # asked first: large boards have last layers only
        return None
    cells = cells_of(results)
    if not any(len(cell.scores) > 1 for cell in cells.values()):
        return None
    found = [_of_metric(chooser, cells) for chooser in _choosers(results.metrics)]
    found.sort(key=lambda one: -_or_least(one[0][0].gain))
    held = list(cells.values())
    return LayerChoice(
        gains=(*(gain for gains, _, _ in found for gain in gains), *controls(held)),
        correlations=(*(correlation for _, correlation, _ in found), *baselines(held)),
        picks=tuple(pick for _, _, picks in found for pick in picks),
    )


def _or_least(gain: float | None) -> float:
    return float("-inf") if gain is None else gain


def cells_of(results: Results) -> dict[Place, Cell]:
    """The scores of the whole models over layers, by model and task."""
    scores: dict[Place, dict[int, float]] = {}
    layers: dict[Place, int] = {}
    runs = {m.key: family.members[0].key for family in families(results) for m in family.members}
    for row in results.scores:
        if row.variant == "full":
            place = row.key, row.task
            scores.setdefault(place, {})[row.layer] = row.score
            layers[place] = row.layers
    return {
        place: Cell(*place, layers[place], held, runs.get(place[0]))
        for place, held in scores.items()
    }


def _choosers(rows: Sequence[MetricRow]) -> list[_Chooser]:
    """The metrics with a profile, in order of first appearance."""
    by_metric: dict[str, list[MetricRow]] = {}
    for row in rows:
        if row.variant == "full" and row.profiles:
            by_metric.setdefault(row.metric, []).append(row)
    found = []
    for metric, own in by_metric.items():
        published = next((Choice(*row.layer_choice) for row in own if row.layer_choice), None)
        choice = published or Choice(next(iter(own[0].profiles)))
        profiles = {
            (r.key, r.task): r.profiles[choice.score] for r in own if choice.score in r.profiles
        }
        found.append(_Chooser(metric, choice, published is not None, profiles))
    return found


def _of_metric(
    chooser: _Chooser, cells: Mapping[Place, Cell]
) -> tuple[list[Gain], LayerCorrelation, list[Pick]]:
    """A metric's two rows of gains, its row of correlations, its picks."""
    picks, whole, pairs = [], [], []
    chosen: tuple[list[Outcome], list[Outcome]] = ([], [])
    for place, profile in chooser.profiles.items():
        cell = cells.get(place)
        values = _candidates(profile, cell) if cell else {}
        if cell is None or len(values) < 2:
            continue
        pairs.append((list(values.values()), [cell.scores[layer] for layer in values]))
        best = chooser.choice.best
        layers = pick(values, best), pick(values, OTHER[best])
        outcomes = [cell.outcome(layer) for layer in layers] if cell.whole else []
        if outcomes:
            whole.append(cell)
            chosen[0].append(outcomes[0])
            chosen[1].append(outcomes[1])
        picks.append(_pick(chooser, place, layers, [outcome.gain for outcome in outcomes]))
    return (
        _gains(chooser, whole, chosen),
        of_metric(chooser.metric, chooser.choice.score, pairs),
        picks,
    )


def _candidates(profile: Profile, cell: Cell) -> dict[int, float]:
    """The metric's values at the layers that have a score, in ascending order of the layers."""
    held = sorted(zip(profile.layers, profile.values, strict=True))
    return {layer: v for layer, v in held if v is not None and layer in cell.scores}


def _pick(chooser: _Chooser, place: Place, layers: tuple[int, int], gains: Sequence[float]) -> Pick:
    key, task = place
    gain, reverse_gain = gains or (None, None)
    return Pick(
        model=key.model,
        revision=key.revision,
        task=task,
        metric=chooser.metric,
        score=chooser.choice.score,
        best=chooser.choice.best,
        layer=layers[0],
        gain=gain,
        reverse=layers[1],
        reverse_gain=reverse_gain,
    )


def _gains(
    chooser: _Chooser, cells: Sequence[Cell], chosen: tuple[list[Outcome], list[Outcome]]
) -> list[Gain]:
    """Both directions, over the cells with a last layer's score; the rival on the same cells."""
    best = chooser.choice.best
    first, reverse = (
        Gain(
            chooser.metric,
            "metric",
            chooser.choice.score,
            direction,
            published=chooser.published,
            first=direction == best,
            **means(outcomes)._asdict(),
            **counts(cells)._asdict(),
        )
        for direction, outcomes in zip((best, OTHER[best]), chosen, strict=True)
    )
    return [_against_rival(first, cells, chosen[0]), _against_rival(reverse, cells, chosen[1])]


def _against_rival(gain: Gain, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> Gain:
    if not cells:
        return gain
    name, gains = rival(cells)
    leads = [outcome.gain - other for outcome, other in zip(outcomes, gains, strict=True)]
    return replace(
        gain,
        rival=name,
        rival_gain=fsum(gains) / len(gains),
        lead_stderr=stderr_over_runs(cells, leads),
    )


FEW_PAIRS, FEW_RUNS = 30, 5  # below either, what is seen is an illustration
ALPHA = 0.05  # two-sided, for all metrics together
_EQUAL = 1e-9  # gains that differ by less are the same


def of_choice(choice: LayerChoice | None) -> tuple[str, ...]:
    """Whether some metric's choice gained more than what needs no metric; () without a metric.

    Each metric is compared in its published direction, over the cells that it has. One without
    takes no part: its direction was not stated before, and one that rises to the last layer by its
    very definition would pick that one always.
    """
    if choice is None:
        return ()
    own = [g for g in choice.gains if g.kind == "metric" and g.first and g.published and g.n]
    if not own:
        return ()
    ahead = [g for g in own if _lead(g) > _EQUAL]
    said = _won(max(ahead, key=_lead), own, _honest_choice_remarks(choice)) if ahead else _lost(own)
    return (said + _caution(ahead or own),)


def points(gain: float) -> str:
    """A gain in points, hundredths of the score, with its sign: "+1.2 points"."""
    return f"{100 * gain:+z.1f} points"


def _lead(gain: Gain) -> float:
    return (gain.gain or 0.0) - (gain.rival_gain or 0.0)


def _honest_choice_remarks(choice: LayerChoice) -> Gain | None:
    return next((g for g in choice.gains if g.rule == HONEST and g.gain is not None), None)


def _lost(own: Sequence[Gain]) -> str:
    rivals = {(gain.rival, gain.rival_gain) for gain in own}
    if len(rivals) > 1:  # metrics that were measured on other pairs have another rival
        return (
            "No metric's layer gained more than the best of the last, first, random and "
            "fixed-depth layers did on the same model-task pairs"
        )
    ((name, gain),) = rivals
    if name == LAST:
        return "No metric's layer gained anything over the last layer"
    return f"No metric's layer gained more than {name} ({points(gain or 0.0)})"


def _won(best: Gain, own: Sequence[Gain], honest: Gain | None) -> str:
    rival = "the last layer itself"
    if best.rival != LAST:
        rival = f"{best.rival}, {points(best.rival_gain or 0.0)}"
    said = (
        f"{best.rule}'s layer gained {points(best.gain or 0.0)} over the last layer, more than "
        f"every choice that needs no metric (best: {rival})"
    )
    if honest and (honest.gain or 0.0) >= (best.gain or 0.0) - _EQUAL:
        said += (
            f", but not more than the honest choice, which needs the scores of other tasks "
            f"({points(honest.gain or 0.0)})"
        )
    if len(own) > 1:
        said += f"; it is the best of {len(own)} metrics, picked by this very table"
    if _by_luck(best, len(own)):
        said += "; luck alone may give such a lead"
    return said


def _by_luck(best: Gain, metrics: int) -> bool:
    """Whether the lead is within what the best of so many metrics has by chance (t, Bonferroni)."""
    if best.lead_stderr is None:
        return False
    return bool(_lead(best) <= best.lead_stderr * t.ppf(1 - ALPHA / 2 / metrics, best.runs - 1))


def _caution(own: Sequence[Gain]) -> str:
    """How much it rests on."""
    n, models = max(gain.n for gain in own), max(gain.models for gain in own)
    runs = max(gain.runs for gain in own)
    of = f"n = {n} model-task pair{'s' if n != 1 else ''} of {models} model"
    of += "s" if models != 1 else ""
    if runs < models:  # checkpoints are no models of their own
        of += f" from {runs} training run{'s' if runs != 1 else ''}"
    if n < FEW_PAIRS or runs < FEW_RUNS:
        return f"; {of}: illustration, not evidence."
    return f"; {of}."
