"""Choosing a layer without labels: what each metric's choice gains, beside controls.

    leaderboard.build(results).choice       # None where only last layers were scored

A metric chooses, on each model and task, the layer where its profile is highest (or lowest), among
those that have a score too. What that gains over the last layer is in `gains`, both directions,
with the controls of choice_controls.py; how the metric goes with the score over layers is in
`correlations`, with the baselines of choice_correlations.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from typing import Literal

from lrd_harness.checkpoints import families
from lrd_harness.choice_controls import (
    Cell,
    Gain,
    Outcome,
    controls,
    counts,
    means,
    rival,
    stderr_over_runs,
)
from lrd_harness.choice_correlations import LayerCorrelation, baselines, of_metric
from lrd_harness.contracts import Choice
from lrd_harness.layers import OTHER, pick
from lrd_harness.results import Key, MetricRow, Profile, Results

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
