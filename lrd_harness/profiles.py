"""How scores and metrics run over depth: mean curves, peak depths, what goes together.

    leaderboard.build(results).profiles     # None where nothing has two values over layers

Depth is the place of a layer between the first and the last one of its profile, 0..1: for scores
layer / L, for a metric's profile index / (length - 1), so that one of steps (speed, jaccard) or one
that begins above degenerate states runs from 0 to 1 too. In between it is interpolated linearly,
over a missing value as well; beyond the first or last value that is there nothing is put in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite, isnan
from typing import Literal

import numpy as np

from lrd_harness.kinds import model_kind
from lrd_harness.profile_correlations import correlate
from lrd_harness.profile_curves import Line, by_model, mean_and_spread
from lrd_harness.profile_rows import (
    SCORE,
    Grouping,
    Peak,
    Place,
    ProfileCorrelation,
    ProfileRow,
    Profiles,
    members,
)
from lrd_harness.remarks import names
from lrd_harness.results import Key, MetricRow, ModelRow, Results
from lrd_harness.sides import Kind

__all__ = ["Peak", "ProfileCorrelation", "ProfileRow", "Profiles", "build_profiles"]

Groups = Mapping[Grouping, Mapping[Place, str]]
Best = Literal["max", "min"]


Lines = dict[str, dict[Place, Line]]  # source -> place -> its line


def build_profiles(results: Results, kind: Kind = "embedding") -> Profiles | None:
    """The profiles of the whole models (variant "full") of one side's results; see sides.py.

    kind: of the tasks; None where no model has two values over layers on any task. Of a unit that
    is there twice the newer row counts.
    """
    short: dict[str, list[Place]] = {}
    lines = _scores(results) | _metrics(results.metrics, short)
    if not lines:
        return None
    groups, notes = _groups(results, kind, {place for own in lines.values() for place in own})
    main, selection, best = _roles(results.metrics, lines)
    return Profiles(
        rows=tuple(
            row
            for source, own in lines.items()
            for row in _rows(source, best.get(source), own, groups)
        ),
        correlations=correlate(
            {source: {p: line.values for p, line in own.items()} for source, own in lines.items()},
            groups,
        ),
        main=main,
        selection=selection,
        notes=(*_left_out(short), *notes),
    )


def _scores(results: Results) -> Lines:
    """The score's curves: where two layers at least were scored, which CSV files rarely have."""
    places = {(r.key, r.task) for r in results.scores if r.variant == "full" and not r.last}
    scores: dict[Place, dict[int, float]] = {}
    layers: dict[Place, int] = {}
    for row in results.scores if places else ():
        if (row.key, row.task) in places:
            scores.setdefault((row.key, row.task), {})[row.layer] = row.score
            layers[row.key, row.task] = row.layers
    held = {p: Line(own, 0, layers[p]) for p, own in scores.items() if len(own) > 1}
    return {SCORE: held} if held else {}


def _metrics(rows: Sequence[MetricRow], short: dict[str, list[Place]]) -> Lines:
    """The metrics' curves by source, in order of appearance; short: gets those without two."""
    held = (row for row in rows if row.variant == "full" and row.profiles)
    newest = {(row.metric, row.key, row.task): row for row in held}
    found: Lines = {}
    for (metric, key, task), row in newest.items():
        for name, profile in row.profiles.items():
            source = f"{metric}.{name}"
            pairs = zip(profile.layers, profile.values, strict=True)
            values = {layer: v for layer, v in pairs if v is not None and isfinite(v)}
            if len(values) > 1:
                line = Line(values, min(profile.layers), max(profile.layers))
                found.setdefault(source, {})[key, task] = line
            else:
                short.setdefault(source, []).append((key, task))
    return found


def _left_out(short: Mapping[str, Sequence[Place]]) -> list[str]:
    """One line for all sources that lack the same places."""
    sources: dict[tuple[Place, ...], list[str]] = {}
    for source, places in short.items():
        sources.setdefault(tuple(places), []).append(source)
    found = []
    for places, own in sources.items():
        count = f"{len(places)} model-task pair{'s' if len(places) > 1 else ''}"
        of = names(list(dict.fromkeys(key.model for key, _ in places)))
        found.append(
            f"{names(own)} {'have' if len(own) > 1 else 'has'} fewer than two values over layers "
            f"on {count} (of {of}) and {'are' if len(own) > 1 else 'is'} left out there."
        )
    return found


def _roles(
    rows: Sequence[MetricRow], lines: Lines
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Best]]:
    """The main sources, those of metrics that rank models, and the end that chooses a layer."""
    best: dict[str, Best] = {SCORE: "max"}
    main: dict[str, str] = {}
    ranking: dict[str, None] = {}
    for row in rows:
        if row.layer_choice:
            best[f"{row.metric}.{row.layer_choice[0]}"] = row.layer_choice[1]
            main[row.metric] = f"{row.metric}.{row.layer_choice[0]}"
        for name in row.profiles:
            main.setdefault(row.metric, f"{row.metric}.{name}")
        if row.selection:
            ranking[row.metric] = None
    held = {metric: source for metric, source in main.items() if source in lines}
    score = (SCORE,) if SCORE in lines else ()
    return (
        (*score, *held.values()),
        tuple(source for metric, source in held.items() if metric in ranking),
        best,
    )


def _groups(results: Results, kind: Kind, places: set[Place]) -> tuple[Groups, list[str]]:
    """Of each place the group it belongs to; what belongs to none is remarked on."""
    models = {row.key: row for row in results.models}
    types = {row.task: row.task_type for row in results.metrics if row.task_type}
    types |= {row.task: row.task_type for row in results.scores if row.task_type}
    kinds, families = {}, {}
    for key in {key for key, _ in places}:
        model = models.get(key) or ModelRow(model=key.model)
        kinds[key], families[key] = model_kind(model, kind) or "", model.family or ""
    found: dict[Grouping, dict[Place, str]] = {
        "all": dict.fromkeys(places, "all"),
        "kind": {place: kinds[place[0]] for place in places if kinds[place[0]]},
        "family": {place: families[place[0]] for place in places if families[place[0]]},
        "task type": {place: types[place[1]] for place in places if place[1] in types},
    }
    return found, [
        *_unknown("kind of model", (key.model for key, one in kinds.items() if not one)),
        *_unknown("family", (key.model for key, one in families.items() if not one)),
        *_unknown("type of task", {task for _, task in places if task not in types}),
    ]


def _unknown(what: str, of: Iterable[str]) -> list[str]:
    held = sorted(set(of))
    return [f"The {what} is not known of {names(held)}: in no such group."] if held else []


def _rows(
    source: str, best: Best | None, lines: Mapping[Place, Line], groups: Groups
) -> Iterator[ProfileRow]:
    """A row a group that has the source, by grouping, in order of appearance."""
    places = list(lines)
    curves = np.array([line.curve() for line in lines.values()])
    ends = np.array([line.extremes() for line in lines.values()])  # (pairs, 2): greatest, least
    for grouping, group, own in members(places, groups):
        names = grouping, group, source, best
        yield _row(names, [places[i] for i in own], curves[own], ends[own])


def _row(
    names: tuple[Grouping, str, str, Best | None],
    places: Sequence[Place],
    curves: np.ndarray,
    ends: np.ndarray,
) -> ProfileRow:
    """One source in one group: curves (pairs, 101) and ends (pairs, 2) of these places."""
    numbers: dict[Key, int] = {}
    of = np.array([numbers.setdefault(key, len(numbers)) for key, _ in places])
    mean, spread, counts = mean_and_spread(by_model(curves, of))
    highest, lowest = (
        Peak(float(over), float(side.min()), float(side.max()))
        for over, side in zip(by_model(ends, of).mean(axis=0), ends.T, strict=True)
    )
    return ProfileRow(
        *names,
        means=_cells(mean),
        spread=_cells(spread),
        counts=tuple(counts.tolist()),
        highest=highest,
        lowest=lowest,
        models=len(numbers),
        tasks=len({task for _, task in places}),
        pairs=len(places),
    )


def _cells(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(None if isnan(value) else value for value in values.tolist())
