"""Scores and metrics of checkpoints against training step and depth.

Means are over the tasks that every checkpoint of a family has: means over different tasks are not
comparable. Likelihood tasks and embedding tasks are never averaged: each side has its own tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from lrd_harness.board.families import Family, families
from lrd_harness.board.layer_gains import Row
from lrd_harness.board.layers import (
    SCORE,
    Curves,
    Direction,
    LayerScores,
    best,
    curves,
    hidden,
    mean_by_layer,
    roles,
)
from lrd_harness.report import Column, Table
from lrd_harness.results.rows import Key, MetricRow, Results

FRACTIONS = {"0": 0.0, "1/4": 0.25, "1/2": 0.5, "3/4": 0.75, "1": 1.0}
MARKS = "▁▂▃▄▅▆▇█"
GAP = "·"  # a layer without a value; a blank would be lost in Markdown
LONGEST = 40  # marks of a row
FIELDS = ("family", "step", "model", "revision", "task", "layer", "depth", "name", "value")


@dataclass(frozen=True)
class MeanCurve:
    """One source, of every member of a family.

    source: "score", or the profile that stands for `metric`; choose: which value chooses the
    layer, None where the metric publishes no choice; tasks: those that every member with such a
    curve has; values: by layer, one per member, means over these tasks at the layers that all have.
    """

    source: str
    metric: str
    choose: Direction | None
    tasks: tuple[str, ...]
    values: tuple[LayerScores, ...]

    @property
    def chosen(self) -> list[int | None]:
        """The layer that each member's mean curve chooses; None of fewer than two layers."""
        sign = -1 if self.choose == "min" else 1
        signed = ({layer: sign * v for layer, v in own.items()} for own in self.values)
        picks = [best(own) if self.choose else None for own in signed]
        return [pair[0] if pair else None for pair in picks]


@dataclass(frozen=True)
class Trajectory:
    """A family through its training.

    depths: L of each member; selected: "METRIC.SCORE" -> which end is better, and one mean of the
    selection score per member, over the tasks that all of them have.
    """

    family: Family
    depths: tuple[int | None, ...]
    scores: MeanCurve
    metrics: tuple[MeanCurve, ...]
    selected: Mapping[str, tuple[Direction, list[float | None]]]

    @property
    def drawn(self) -> list[MeanCurve]:
        """The curves of which any member has more than one layer."""
        every = (self.scores, *self.metrics)
        return [curve for curve in every if any(len(own) > 1 for own in curve.values)]


def trajectories(results: Results) -> list[Trajectory]:
    """One for every family that has a score or a metric's value, of one side's results."""
    runs = families(results)
    if not runs:
        return []
    every = curves(results)
    blocks = {row.key: row.blocks for row in results.models}
    blocks |= {key: curve.last for (key, _), curve in every.get(SCORE, {}).items()}
    paths = []
    for family in runs:
        keys = [member.key for member in family.members]
        own = [row for row in results.metrics if row.key in keys]
        metrics = [
            _mean(every, keys, role.source, role.metric, role.best if role.published else None)
            for role in roles(own).values()
        ]
        depths = tuple(blocks.get(key) for key in keys)
        scores = _mean(every, keys, SCORE, "", "max")
        paths.append(Trajectory(family, depths, scores, tuple(metrics), _selected(own, keys)))
    return [path for path in paths if path.scores.tasks or path.selected or path.metrics]


def _mean(
    every: Curves, keys: Sequence[Key], source: str, metric: str, choose: Direction | None
) -> MeanCurve:
    by_member: list[dict[str, LayerScores]] = [{} for _ in keys]
    for (key, task), curve in every.get(source, {}).items():
        if key in keys:
            by_member[keys.index(key)][task] = curve.values
    tasks = _shared(by_member)
    means = tuple(mean_by_layer(own[task] for task in tasks if own) for own in by_member)
    return MeanCurve(source, metric, choose, tasks, means)


def _selected(
    rows: Sequence[MetricRow], keys: Sequence[Key]
) -> dict[str, tuple[Direction, list[float | None]]]:
    choices = {row.metric: row.selection for row in reversed(rows) if row.selection}
    newest = {(row.metric, row.key, row.task): row for row in rows}
    means_by_score = {}
    for metric in dict.fromkeys(row.metric for row in rows if row.metric in choices):
        score, end = choices[metric]
        by_member: list[dict[str, float]] = [{} for _ in keys]
        for (name, key, task), row in newest.items():
            if name == metric and score in row.values:
                by_member[keys.index(key)][task] = row.values[score]
        if tasks := _shared(by_member):
            means = [fsum(own[t] for t in tasks) / len(tasks) if own else None for own in by_member]
            means_by_score[f"{metric}.{score}"] = (end, means)
    return means_by_score


def _shared(by_member: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """The tasks of every member that has any, in the first one's order."""
    several = [tasks for tasks in by_member if tasks]
    first = several[0] if several else ()
    return tuple(task for task in first if all(task in tasks for tasks in several))


# ---------------------------------------------------------------- tables


def checkpoint_tables(results: Results, prefix: str = "") -> list[Table]:
    """For each family its checkpoints, then curves by step and depth; all curves for programs."""
    paths = trajectories(results)
    tables = []
    for number, path in enumerate(paths, 1):
        tables.append(_summary(f"{prefix}checkpoints.{number}", path))
        if path.drawn:
            tables.append(_by_depth(f"{prefix}checkpoints.{number}.depth", path))
    fields = "family unit curve metric choose step label model revision".split()
    lists = (Column(name, form="list", shown=False) for name in ("tasks", "layers", "values"))
    rows = [row for path in paths for row in _curve_rows(path)]
    columns, title = (*hidden(*fields), *lists), "Mean curves of checkpoints"
    if rows:
        tables.append(Table(f"{prefix}checkpoint_curves", title, columns, rows, shown=False))
    return tables


def _curve_rows(one: Trajectory) -> Iterator[Row]:
    for curve in (one.scores, *one.metrics):
        common: Row = {"family": one.family.stem, "unit": one.family.unit, "curve": curve.source}
        common |= {"metric": curve.metric, "choose": curve.choose, "tasks": list(curve.tasks)}
        for member, values in zip(one.family.members, curve.values, strict=True):
            own: Row = {"step": member.step, "label": member.label, "model": member.key.model}
            own |= {"revision": member.key.revision, "layers": list(values)}
            yield common | own | {"values": list(values.values())}


def _summary(name: str, one: Trajectory) -> Table:
    unit, tasks = one.family.unit, len(one.scores.tasks)
    picks = {"best_layer": one.scores.chosen}
    picks |= {f"layer.{curve.metric}": curve.chosen for curve in one.metrics if curve.choose}
    columns = [
        Column("step", f"training {unit}" if unit else "revision", key=True),
        *hidden("label", "model", "revision", "variant", "depth"),
        Column("score", best="max", form=".4f"),
        Column("best_layer", "best layer"),
        Column("best_score", "best score", best="max", form=".4f"),
        *(Column(score, score, best=end, form="#.4g") for score, (end, _) in one.selected.items()),
        *(
            Column(f"layer.{curve.metric}", f"layer by {curve.choose}. {curve.source}")
            for curve in one.metrics
            if curve.choose
        ),
    ]
    rows = []
    for i, (member, end) in enumerate(zip(one.family.members, one.depths, strict=True)):
        scores = one.scores.values[i]
        row: Row = {"step": _step(one, i), "label": member.label, **member.key._asdict()}
        row |= {"depth": end, "score": None if end is None else scores.get(end)}
        row |= {pick: layers[i] for pick, layers in picks.items()}
        row |= {score: values[i] for score, (_, values) in one.selected.items()}
        row["best_score"] = None if row["best_layer"] is None else scores[row["best_layer"]]
        rows.append(row)
    filled = [c for c in columns if not c.shown or any(row.get(c.name) is not None for row in rows)]
    order = f"in order of the training {unit}" if unit else "in order of appearance"
    captions = [f"Checkpoints of one model {order}; those whose name has no {unit or 'step'} last."]
    if tasks:
        captions.append(
            f"Score: mean main score over the tasks that all of them have ({tasks}), of the last "
            "layer and of the layer that is best in the mean (an oracle)."
        )
    if one.selected or one.metrics:
        captions.append(
            "Metrics: the mean over tasks of the selection score, and the layer where the mean "
            "curve is highest (max.) or lowest (min.), chosen without labels."
        )
    title = f"Checkpoints of {one.family.stem}"
    return Table(name, title, tuple(filled), rows, tuple(captions))


def _step(one: Trajectory, i: int) -> int | str:
    member = one.family.members[i]
    return member.label if member.step is None else member.step


def _by_depth(name: str, one: Trajectory) -> Table:
    """One row per curve and checkpoint: values at five depths, and marks for all layers."""
    rows = []
    for curve in one.drawn:
        every = [value for own in curve.values for value in own.values()]
        low, high = min(every), max(every)
        last = max(layer for own in (*curve.values, dict.fromkeys(filter(None, one.depths)))
                   for layer in own)  # fmt: skip
        for i, (own, end) in enumerate(zip(curve.values, one.depths, strict=True)):
            row: Row = {"curve": curve.source, "step": _step(one, i)}
            for share, fraction in FRACTIONS.items():
                layer = nearest(own, last if end is None else end, fraction)
                row[f"depth.{share}"] = None if layer is None else own[layer]
            rows.append(row | {"layers": spark([own.get(n) for n in range(last + 1)], low, high)})
    unit = one.family.unit
    columns = (
        Column("curve", key=True),
        Column("step", f"training {unit}" if unit else "revision", key=True),
        *(Column(f"depth.{share}", f"depth {share}", form="#.4g") for share in FRACTIONS),
        Column("layers"),
    )
    captions = (
        "Mean over the tasks that all checkpoints have, at the layer nearest to that share of the "
        f"depth. layers: one mark per layer (at most {LONGEST}), {MARKS[0]} the lowest value of "
        f"the curve over all checkpoints to {MARKS[-1]} the highest; {GAP}: no value.",
    )
    title = f"Scores and metrics of {one.family.stem} by training and depth"
    return Table(name, title, columns, rows, captions)


def spark(values: Sequence[float | None], low: float, high: float) -> str:
    """One mark per value, in the middle where low is high; thinned to LONGEST.

    Examples
    --------
    >>> spark([0.0, None, 3.5, 7.0], 0, 7)
    '▁·▅█'
    """
    if len(values) > LONGEST:
        step = (len(values) - 1) / (LONGEST - 1)
        values = [values[round(i * step)] for i in range(LONGEST)]
    top = len(MARKS) - 1
    places = (
        None if v is None else (v - low) / (high - low) * top if high > low else top / 2 - 0.1
        for v in values
    )
    return "".join(GAP if place is None else MARKS[round(place)] for place in places)


def nearest(values: LayerScores, depth: int, fraction: float) -> int | None:
    """The layer with a value nearest to a fraction of the depth, the lower one of two.

    None where it is further away than one layer and an eighth of the depth.

    Examples
    --------
    >>> nearest({0: 0.1, 3: 0.2, 6: 0.3}, 6, 0.5), nearest({6: 0.3}, 6, 0.5)
    (3, None)
    """
    layer = min(values, key=lambda layer: (abs(layer - fraction * depth), layer), default=None)
    if layer is None or abs(layer - fraction * depth) > max(1, depth / 8):
        return None
    return layer


def checkpoints_table(sides: Sequence[Results]) -> Table:
    """One row per checkpoint, task, layer and number, for programs.

    family, step (None where the name has none), model, revision, task, layer, depth (layer / L),
    name ("score", or METRIC.PROFILE), value. Families are those of all sides together.
    """
    rows = []
    whole = Results(models=tuple({r.key: r for side in sides for r in side.models}.values()))
    blocks = {row.key: row.blocks for row in whole.models}
    by_side = [curves(side) for side in sides]
    for family in families(whole):
        for side in by_side:
            ends = blocks | {key: c.last for (key, _), c in side.get(SCORE, {}).items()}
            for member in family.members:
                own: Row = {"family": family.stem, "step": member.step}
                own |= {"model": member.key.model, "revision": member.key.revision}
                for source, places in side.items():
                    for (key, task), curve in places.items():
                        for layer, value in curve.values.items() if key == member.key else ():
                            end = ends.get(key)
                            at = {"layer": layer, "depth": layer / end if end else None}
                            rows.append({**own, "task": task, **at, "name": source, "value": value})
    return Table("checkpoints", "Checkpoints, value by value", hidden(*FIELDS), rows, shown=False)
