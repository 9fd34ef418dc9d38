"""Scores and metrics of checkpoints against training step and depth.

Likelihood tasks and embedding tasks are never averaged: give `trajectories` one side of the results
(see sides.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Literal

from lrd_harness.board.families import Family, families
from lrd_harness.board.layers import LayerScores, best, mean_by_layer, scores_by_task
from lrd_harness.results.database import Key, MetricRow, Profile, Results, ScoreRow

Best = Literal["max", "min"]
ByTask = Mapping[str, LayerScores]


@dataclass(frozen=True)
class Curve:
    """One number a layer, of every member of a family.

    name: "score", or METRIC.SCORE of the profile that chooses a layer (the metric's first one where
        none does); metric: its metric, "" for the score.
    choose: which value chooses the layer; None where the metric has no layer choice.
    tasks: those that every member with such a profile has. Only they are in the means: means over
        different tasks are not comparable.
    profiles: one a member, means over these tasks at the layers that have all of them.
    """

    name: str
    metric: str
    choose: Best | None
    tasks: tuple[str, ...]
    profiles: tuple[Profile, ...]

    def chosen(self) -> tuple[int | None, ...]:
        """The layer that each member's mean profile chooses; ties to the lower layer."""
        sign = -1 if self.choose == "min" else 1
        found = []
        for profile in self.profiles:
            signed = {layer: sign * value for layer, value in _pairs(profile).items()}
            pick = best(signed) if self.choose else None
            found.append(pick[0] if pick else None)
        return tuple(found)


@dataclass(frozen=True)
class Selected:
    """A metric's selection score, of every member: the mean over the tasks that all of them have"""

    metric: str
    score: str
    best: Best
    tasks: tuple[str, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Trajectory:
    """A family through its training; tuples have an item a member.

    depths: L, the last layer's number; last: the score there; scores: of all layers; selected and
    curves: by metric, in order of first appearance.
    """

    family: Family
    depths: tuple[int | None, ...]
    last: tuple[float | None, ...]
    scores: Curve
    selected: tuple[Selected, ...]
    curves: tuple[Curve, ...]

    def best(self) -> tuple[tuple[int, float] | None, ...]:
        """The layer with the highest mean score and that score; None of fewer than two layers."""
        return tuple(best(_pairs(profile)) for profile in self.scores.profiles)


def trajectories(results: Results) -> tuple[Trajectory, ...]:
    """One for every family that has a score or a metric's value."""
    held = families(results)
    if not held:
        return ()
    scores: dict[Key, list[ScoreRow]] = {}
    for row in results.scores:
        scores.setdefault(row.key, []).append(row)
    metrics: dict[str, dict[Key, dict[str, MetricRow]]] = {}
    for metric in results.metrics:  # of a unit that was measured twice the newer one counts
        metrics.setdefault(metric.metric, {}).setdefault(metric.key, {})[metric.task] = metric
    blocks = {row.key: row.blocks for row in results.models}
    found = [_trajectory(family, scores, metrics, blocks) for family in held]
    return tuple(t for t in found if t.scores.tasks or t.selected or t.curves)


def depth(blocks: int | None, scores: Iterable[ScoreRow]) -> int | None:
    """L of a model, as its scores or else its record have it; None where neither says."""
    return next((row.layers for row in scores), blocks)


def _trajectory(
    family: Family,
    scores: Mapping[Key, Sequence[ScoreRow]],
    metrics: Mapping[str, Mapping[Key, Mapping[str, MetricRow]]],
    blocks: Mapping[Key, int | None],
) -> Trajectory:
    keys = [member.key for member in family.members]
    curve = _curve("score", "", "max", [scores_by_task(scores.get(key, ())) for key in keys])
    depths = tuple(depth(blocks.get(key), scores.get(key, ())) for key in keys)
    ends = zip(curve.profiles, depths, strict=True)
    by_metric = {name: [held.get(key, {}) for key in keys] for name, held in metrics.items()}
    return Trajectory(
        family=family,
        depths=depths,
        last=tuple(None if end is None else _pairs(own).get(end) for own, end in ends),
        scores=curve,
        selected=tuple(filter(None, (_selected(n, held) for n, held in by_metric.items()))),
        curves=tuple(filter(None, (_of_metric(n, held) for n, held in by_metric.items()))),
    )


def _of_metric(metric: str, members: Sequence[Mapping[str, MetricRow]]) -> Curve | None:
    """The curve of the profile that chooses a layer; None of a metric without profiles."""
    rows = [row for own in members for row in own.values() if row.profiles]
    if not rows:
        return None
    choice = next((r.layer_choice for r in rows if r.layer_choice), None)
    name, choose = choice if choice else (next(iter(rows[0].profiles)), None)
    by_member = [
        {task: _pairs(row.profiles[name]) for task, row in own.items() if name in row.profiles}
        for own in members
    ]
    return _curve(f"{metric}.{name}", metric, choose, by_member)


def _curve(name: str, metric: str, choose: Best | None, by_member: Sequence[ByTask]) -> Curve:
    tasks = _shared(by_member)
    profiles = []
    for own in by_member:
        means = mean_by_layer(own[task] for task in tasks) if own else {}
        profiles.append(Profile(tuple(means), tuple(means.values())))
    return Curve(name, metric, choose, tasks, tuple(profiles))


def _selected(metric: str, members: Sequence[Mapping[str, MetricRow]]) -> Selected | None:
    selection = next((r.selection for own in members for r in own.values() if r.selection), None)
    if selection is None:
        return None
    score, which = selection
    by_member = [
        {task: row.values[score] for task, row in own.items() if score in row.values}
        for own in members
    ]
    tasks = _shared(by_member)
    if not tasks:
        return None
    values = (fsum(own[t] for t in tasks) / len(tasks) if own else None for own in by_member)
    return Selected(metric, score, which, tasks, tuple(values))


def _shared(by_member: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """The tasks of every member that has any, in the first one's order."""
    held = [own for own in by_member if own]
    return tuple(task for task in (held[0] if held else ()) if all(task in own for own in held))


def _pairs(profile: Profile) -> dict[int, float]:
    """Layer -> value, without the absent ones."""
    pairs = zip(profile.layers, profile.values, strict=True)
    return {layer: value for layer, value in pairs if value is not None}
