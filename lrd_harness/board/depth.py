"""How scores and metrics run over depth: mean curves, peak depths, what goes together.

    leaderboard.build(results).profiles     # None where nothing has two values over layers

Depth is the place of a layer between the first and the last one of its profile, 0..1: for scores
layer / L, for a metric's profile index / (length - 1), so that one of steps (speed, jaccard) or one
that begins above degenerate states runs from 0 to 1 too. In between it is interpolated linearly,
over a missing value as well; beyond the first or last value that is there nothing is put in.

How scores and metrics run over depth, group by group: the rows that profiles.py makes.

One profile over depth as a curve, and means of curves in which a model counts once.

Which sources run alike over the layers of one model: Spearman's rho between aligned profiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import isfinite, isnan
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from lrd_harness.board.cautions import names
from lrd_harness.board.layer_choice import LEAST
from lrd_harness.results.database import Key, MetricRow, ModelRow, Results
from lrd_harness.results.models import model_kind
from lrd_harness.results.tasks import Kind

DEPTHS = 101  # 0, 0.01, ..., 1
SCORE = "score"  # the source that is the task's main score
Grouping = Literal["all", "kind", "family", "task type"]
GROUPINGS: tuple[Grouping, ...] = ("all", "kind", "family", "task type")
Place = tuple[Key, str]  # model and task


class Peak(NamedTuple):
    """The depth (0..1) of a curve's extreme value.

    mean: over models of their mean over tasks; low, high: the least and the greatest of any model
    and task.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ProfileRow:
    """The mean curve of one source in one group of models or tasks.

    grouping, group: "kind", "encoder"; "all" is one group of its own. source: "score", or
    "metric.profile". best: which end of it chooses a layer: "max" of the score, the published end
    of a metric's own profile, None of a profile without one.
    means: (101,), at depths 0, 0.01, ..., 1, in the source's unit: the mean over models of each
    one's mean over its tasks, so that a model with many tasks counts no more than another.
    spread: (101,), the standard deviation (n - 1) of these models' means, None below two.
    counts: (101,), how many models have a value at that depth; None in `means` where it is 0.
    highest, lowest: where the curves have their greatest and their least value.
    models, tasks: how many different ones; pairs: how many models x tasks.
    """

    grouping: Grouping
    group: str
    source: str
    best: Literal["max", "min"] | None
    means: tuple[float | None, ...]
    spread: tuple[float | None, ...]
    counts: tuple[int, ...]
    highest: Peak
    lowest: Peak
    models: int
    tasks: int
    pairs: int


@dataclass(frozen=True)
class ProfileCorrelation:
    """Spearman's rho of two sources over the layers of one model on one task: its median.

    Over the `pairs` models x tasks of the group that have at least 4 layers of both, neither of
    them constant; low, high: its quartiles over these; models: how many they are of.
    """

    grouping: Grouping
    group: str
    first: str
    second: str
    rho: float
    low: float
    high: float
    pairs: int
    models: int


@dataclass(frozen=True)
class Profiles:
    """The curves and correlations of one board.

    main: the source that stands for each metric, the score first: the profile that chooses its
    layer, else its first. selection: of these, those of metrics that rank models. notes: what is
    left out and why.
    """

    rows: tuple[ProfileRow, ...]
    correlations: tuple[ProfileCorrelation, ...]
    main: tuple[str, ...]
    selection: tuple[str, ...]
    notes: tuple[str, ...] = ()


def members(
    places: Sequence[Place], groups: Mapping[Grouping, Mapping[Place, str]]
) -> Iterator[tuple[Grouping, str, list[int]]]:
    """Which of the places (their numbers) are in each group, in order of appearance."""
    for grouping in GROUPINGS:
        by_group: dict[str, list[int]] = {}
        for i, place in enumerate(places):
            if place in groups[grouping]:
                by_group.setdefault(groups[grouping][place], []).append(i)
        for group, own in by_group.items():
            yield grouping, group, own


GRID = np.arange(DEPTHS) / (DEPTHS - 1)  # k / 100 as layer / L is rounded: equal depths are equal


@dataclass(frozen=True)
class Line:
    """A profile of one model on one task. values: by layer, at least two; first, last: its span."""

    values: Mapping[int, float]
    first: int
    last: int

    def depth(self, layer: int) -> float:
        """Where the layer lies in the span, 0..1."""
        return (layer - self.first) / (self.last - self.first)

    def curve(self) -> np.ndarray:
        """Its values at the 101 depths: (101,), NaN beyond the first and the last value."""
        layers = sorted(self.values)
        depths = [self.depth(layer) for layer in layers]
        held = [self.values[layer] for layer in layers]
        return np.asarray(np.interp(GRID, depths, held, left=np.nan, right=np.nan))

    def extremes(self) -> tuple[float, float]:
        """The depths of its greatest and of its least value, the lower layer of ties."""
        layers = sorted(self.values)
        most = max(layers, key=self.values.__getitem__)
        return self.depth(most), self.depth(min(layers, key=self.values.__getitem__))


def by_model(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Means over each model's rows: (models, k) of values (m, k), NaN where it has none.

    of: (m,), whose each row is, 0..models - 1, each there. A NaN is passed over.
    """
    there = ~np.isnan(values)
    sums = over_models(np.add, np.where(there, values, 0.0), of)
    return _quotient(sums, over_models(np.add, there.astype(np.int64), of))


def over_models(reduce: np.ufunc, values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Rows of a model put together: (models, k) of values (m, k); of: (m,), each model there."""
    order = np.argsort(of, kind="stable")
    first = np.searchsorted(of[order], np.arange(int(of.max()) + 1))
    return np.asarray(reduce.reduceat(values[order], first, axis=0))


def mean_and_spread(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over models, of curves (models, k): mean, standard deviation (n - 1), how many: (k,) each.

    NaN where no model, or for the deviation fewer than two, has a value.
    """
    there = ~np.isnan(curves)
    counts = there.sum(axis=0)
    mean = _quotient(np.where(there, curves, 0.0).sum(axis=0), counts)
    squares = np.where(there, curves - mean, 0.0) ** 2
    return mean, np.sqrt(_quotient(squares.sum(axis=0), counts - 1)), counts


def _quotient(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """NaN where there are none."""
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


Values = Mapping[int, float]  # layer -> value


def correlate(
    sources: Mapping[str, Mapping[Place, Values]], groups: Mapping[Grouping, Mapping[Place, str]]
) -> tuple[ProfileCorrelation, ...]:
    """Every pair of sources in every group in which some model has both; see ProfileCorrelation.

    Layers are aligned by their numbers: a step's value stands with the state that it leaves.
    """
    places = list(dict.fromkeys(place for own in sources.values() for place in own))
    first, second = np.triu_indices(len(sources), 1)
    rho = _all(list(sources.values()), places)[:, first, second]  # (places, pairs)
    names = list(sources)
    pairs = [(names[a], names[b]) for a, b in zip(first, second, strict=True)]
    found: list[ProfileCorrelation] = []
    for grouping, group, own in members(places, groups):
        found += _rows(grouping, group, pairs, [places[i][0] for i in own], rho[own])
    return tuple(found)


def _all(sources: Sequence[Mapping[Place, Values]], places: Sequence[Place]) -> np.ndarray:
    """Rho of all sources of each place: (places, s, s); those of the same layers in one batch."""
    found = np.full((len(places), len(sources), len(sources)), np.nan)
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for i, place in enumerate(places):
        layers = tuple(tuple(sorted(own.get(place, ()))) for own in sources)
        alike.setdefault(layers, []).append(i)
    for layers, own in alike.items():
        held = [s for s, there in enumerate(layers) if there]
        columns = sorted({layer for there in layers for layer in there})
        table = [
            [[sources[s][places[i]].get(layer, np.nan) for layer in columns] for s in held]
            for i in own
        ]
        found[np.ix_(own, held, held)] = rhos(np.array(table, dtype=np.float64))
    return found


def rhos(table: np.ndarray) -> np.ndarray:
    """Spearman's rho between all sources of each batch: (m, s, s) of values (m, s, layers).

    NaN: no value; each batch has its values in the same places. Over the layers that both sources
    have; NaN where these are fewer than 4, or one source is constant over them. Sources that are
    there on the same layers are ranked at once.
    """
    found = np.full((*table.shape[:2], table.shape[1]), np.nan)
    masks, of = np.unique(~np.isnan(table[0]), axis=0, return_inverse=True)
    of = of.reshape(-1)
    for a, b in combinations_with_replacement(range(len(masks)), 2):
        common = masks[a] & masks[b]
        if common.sum() < LEAST:
            continue
        i, j = np.flatnonzero(of == a), np.flatnonzero(of == b)
        x, y = (_unit(table[:, side][:, :, common]) for side in (i, j))
        found[:, i[:, None], j] = x @ y.swapaxes(1, 2)
        found[:, j[:, None], i] = y @ x.swapaxes(1, 2)
    return np.asarray(np.clip(found, -1, 1))


def _unit(values: np.ndarray) -> np.ndarray:
    """Average ranks along the last axis, centred and of length 1; NaN where it is constant."""
    ranks = stats.rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return np.asarray(ranks / np.where(length > 0, length, np.nan))


def _rows(
    grouping: Grouping,
    group: str,
    pairs: Sequence[tuple[str, str]],
    keys: Sequence[Key],
    rho: np.ndarray,
) -> Iterator[ProfileCorrelation]:
    """Of one group: rho (places, pairs), keys the places' models."""
    numbers: dict[Key, int] = {}
    of = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    models = over_models(np.logical_or, ~np.isnan(rho), of).sum(axis=0)
    counts = np.sum(~np.isnan(rho), axis=0)
    ordered = np.sort(rho, axis=0)  # NaN last
    low, middle, high = (_quantile(ordered, counts, share) for share in (0.25, 0.5, 0.75))
    for p in np.flatnonzero(counts).tolist():
        yield ProfileCorrelation(
            grouping,
            group,
            *pairs[p],
            rho=float(middle[p]),
            low=float(low[p]),
            high=float(high[p]),
            pairs=int(counts[p]),
            models=int(models[p]),
        )


def _quantile(ordered: np.ndarray, counts: np.ndarray, share: float) -> np.ndarray:
    """Of the first `counts` of each column, ascending, as `numpy.quantile` has it by default."""
    place = np.maximum(counts - 1, 0) * share
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(counts - 1, 0))
    columns = np.arange(ordered.shape[1])
    first, second = ordered[below, columns], ordered[above, columns]
    return np.asarray(first + (second - first) * (place - below))


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
            for row in _rows_profiles(source, best.get(source), own, groups)
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


def _rows_profiles(
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
