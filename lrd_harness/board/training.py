"""Checkpoints of one training run: which models they are, and what changes over step and depth.

Checkpoints are models whose names differ in the step alone. A step is read from a revision
(`EleutherAI/pythia-410m@step1000`, `@step1000-tokens4B`, `@2000`) or from the end of a folder's
name (`local/checkpoint-500`, `local/run/global_step10`). Means are over the tasks that all have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import NamedTuple

from lrd_harness.board.layers import (
    SCORE,
    Curves,
    Direction,
    LayerScores,
    Row,
    best,
    curves,
    filled,
    hidden,
    mean_by_layer,
    roles,
)
from lrd_harness.report import Column, Table
from lrd_harness.results.rows import Key, MetricRow, ModelRow, Results

UNITS = {  # what is counted, what counts more exactly first -> the words for it
    "step": "global_step steps step checkpoint ckpt iteration iter".split(),
    "epoch": ["epoch"],
    "tokens": ["tokens"],
}
_WORDS = {word: unit for unit, words in UNITS.items() for word in words}
_PROGRESS = re.compile(
    rf"(?<![a-z])({'|'.join(_WORDS)})[-_=]?(\d+)([kmb]?)(?![a-z0-9.])", re.IGNORECASE
)
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_NAME = re.compile(r"(.+?)( \[[^\[\]]*\])?", re.DOTALL)  # a way of reading the model, in brackets
_SHORT = 12  # digits of a commit that are shown
FRACTIONS = {"0": 0.0, "1/4": 0.25, "1/2": 0.5, "3/4": 0.75, "1": 1.0}
MARKS = "▁▂▃▄▅▆▇█"
GAP = "·"  # a layer without a value; a blank would be lost in Markdown
LONGEST = 40  # marks of a row
FIELDS = ("family", "step", "model", "revision", "task", "layer", "depth", "name", "value")


class Member(NamedTuple):
    """One checkpoint. step: None where its name has none; label: how a table calls it."""

    label: str
    step: int | None
    key: Key


class Family(NamedTuple):
    """The checkpoints of one run, at least two, in order of training as far as names tell.

    stem: what their names share; unit: of the steps, "step", "epoch" or "tokens", and "" where no
    member has one. Members without a step come last, in order of appearance, and of these the
    model without any revision (or with `main`) at the end, as "final".
    """

    stem: str
    unit: str
    members: tuple[Member, ...]

    @property
    def counted(self) -> str:
        """What tables call its steps."""
        return f"training {self.unit}" if self.unit else "revision"


class _Read(NamedTuple):
    """A name read. base: the model that it is a checkpoint of; final: it names no checkpoint."""

    base: str
    stem: str
    label: str
    unit: str = ""
    step: int | None = None
    final: bool = False


class _Group(NamedTuple):
    """What the members of a family have in common; blocks and width as an unlike model differs."""

    base: str
    blocks: int | None
    width: int | None
    stem: str = ""
    unit: str = ""


def families(models: Sequence[ModelRow]) -> tuple[Family, ...]:
    """The families among the whole models (variant "full"): those with steps first.

    Models of unequal depth or width are never one family. Revisions without a step, as a commit,
    and the model without a revision belong to the model's steps where these are one series, else
    they are a family of their own.
    """
    stepped: dict[_Group, list[Member]] = {}
    loose: dict[_Group, list[tuple[_Read, ModelRow]]] = {}
    for row in {row.key: row for row in models if row.variant == "full"}.values():
        read = _read(row.model)
        group = _Group(read.base, row.blocks, row.width)
        if read.step is None:
            loose.setdefault(group, []).append((read, row))
        else:
            series = group._replace(stem=read.stem, unit=read.unit)
            stepped.setdefault(series, []).append(Member(read.label, read.step, row.key))
    for members in stepped.values():
        members.sort(key=lambda member: member.step or 0)
    by_model: dict[tuple[object, ...], list[_Group]] = {}
    for series in stepped:
        by_model.setdefault(series[:3], []).append(series)
    for group, held in loose.items():
        same = by_model.get(group[:3], [])
        series = same[0] if len(same) == 1 else group._replace(stem=group.base)
        stepped.setdefault(series, []).extend(_without_step(held))
    found = (Family(group.stem, group.unit, tuple(held)) for group, held in stepped.items())
    return tuple(family for family in found if len(family.members) > 1)


def runs(models: Sequence[ModelRow]) -> dict[Key, Key]:
    """What stands for the training run of each model that has others of the same run."""
    return {m.key: family.members[0].key for family in families(models) for m in family.members}


def _without_step(held: Sequence[tuple[_Read, ModelRow]]) -> Iterator[Member]:
    """Members in order of appearance, models without a revision last."""
    finals = sum(read.final for read, _ in held)
    names = [read.label for read, _ in held]
    for read, row in sorted(held, key=lambda pair: pair[0].final):
        told = names.count(read.label) == 1 and not (read.final and finals > 1)
        label = read.label if told else row.revision[:_SHORT] or read.label
        yield Member(label, None, row.key)


def _read(name: str) -> _Read:
    """A model's name as results have it, the reading in brackets kept with its base."""
    match = _NAME.fullmatch(name)
    bare, reading = (match[1], match[2] or "") if match else (name, "")
    base, at, revision = bare.partition("@")
    if not at or revision == "main":
        return _folder(base, reading)
    found = _progress(revision)
    if found is None:
        label = revision[:_SHORT] if re.fullmatch("[0-9a-f]{40}", revision) else revision
        return _Read(base + reading, base + reading, label)
    rest, unit, step = found
    stem = f"{base}@{rest}" if rest else base
    return _Read(base + reading, stem + reading, revision, unit, step)


def _folder(name: str, reading: str) -> _Read:
    """A name without a revision: a checkpoint if it ends in a step, else a model of its own."""
    above, slash, last = name.rpartition("/")
    matches = list(_PROGRESS.finditer(last))
    found = _progress(last) if matches and matches[-1].end() == len(last) else None
    if found is None or not (found[0] or name.startswith("local/")):  # a hub's may be called step3
        return _Read(name + reading, name + reading, "final", final=True)
    rest, unit, step = found
    stem = above
    if rest or above == "local":  # the folder above is not known
        stem = f"{above}{slash}{rest or matches[0][1]}"
    return _Read(stem + reading, stem + reading, last, unit, step)


def _progress(text: str) -> tuple[str, str, int] | None:
    """What is left of a text without its counters, the unit of the best counter, and its number.

    None where it counts nothing: names of releases and commits count no steps.
    """
    if re.fullmatch(r"[0-9]{1,15}", text):
        return "", "step", int(text)
    counters: dict[str, int] = {}
    for word, digits, thousands in _PROGRESS.findall(text):
        count = int(digits) * _THOUSANDS[thousands.lower()]
        counters.setdefault(_WORDS[word.lower()], count)
    unit = next((unit for unit in UNITS if unit in counters), None)
    if unit is None:
        return None
    rest = re.sub(r"[-_=.]{2,}", "-", _PROGRESS.sub("", text)).strip("-_=.")
    return rest, unit, counters[unit]


# ---------------------------------------------------------------- means over tasks


class MeanCurve(NamedTuple):
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
    def curves(self) -> tuple[MeanCurve, ...]:
        return (self.scores, *self.metrics)

    @property
    def drawn(self) -> list[MeanCurve]:
        """The curves of which any member has more than one layer."""
        return [curve for curve in self.curves if any(len(own) > 1 for own in curve.values)]

    @property
    def steps(self) -> list[int | str]:
        return [m.label if m.step is None else m.step for m in self.family.members]


def trajectories(results: Results) -> list[Trajectory]:
    """One for every family that has a score or a metric's value, of one side's results."""
    every = curves(results)
    blocks = {row.key: row.blocks for row in results.models}
    blocks |= {key: curve.last for (key, _), curve in every.get(SCORE, {}).items()}
    paths = []
    for family in families(results.models):
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
    for curve in one.curves:
        common: Row = {"family": one.family.stem, "unit": one.family.unit, "curve": curve.source}
        common |= {"metric": curve.metric, "choose": curve.choose, "tasks": list(curve.tasks)}
        for (label, step, key), values in zip(one.family.members, curve.values, strict=True):
            own: Row = {"step": step, "label": label, "model": key.model, "revision": key.revision}
            yield common | own | {"layers": list(values), "values": list(values.values())}


def _summary(name: str, one: Trajectory) -> Table:
    unit, tasks = one.family.unit, len(one.scores.tasks)
    choosing = [curve for curve in one.metrics if curve.choose]
    picks = {"best_layer": one.scores.chosen}
    picks |= {f"layer.{curve.metric}": curve.chosen for curve in choosing}
    columns = [
        Column("step", one.family.counted, key=True),
        *hidden("label", "model", "revision", "variant", "depth"),
        Column("score", best="max", form=".4f"),
        Column("best_layer", "best layer"),
        Column("best_score", "best score", best="max", form=".4f"),
        *(Column(score, score, best=end, form="#.4g") for score, (end, _) in one.selected.items()),
        *(Column(f"layer.{c.metric}", f"layer by {c.choose}. {c.source}") for c in choosing),
    ]
    rows = []
    for i, (member, end) in enumerate(zip(one.family.members, one.depths, strict=True)):
        scores = one.scores.values[i]
        row: Row = {"step": one.steps[i], "label": member.label, **member.key._asdict()}
        row |= {"depth": end, "score": None if end is None else scores.get(end)}
        row |= {pick: layers[i] for pick, layers in picks.items()}
        row |= {score: values[i] for score, (_, values) in one.selected.items()}
        row["best_score"] = None if row["best_layer"] is None else scores[row["best_layer"]]
        rows.append(row)
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
    return Table(name, title, filled(columns, rows), rows, tuple(captions))


def _by_depth(name: str, one: Trajectory) -> Table:
    """One row per curve and checkpoint: values at five depths, and marks for all layers."""
    rows = []
    for curve in one.drawn:
        every = [value for own in curve.values for value in own.values()]
        last = max(*(layer for own in curve.values for layer in own), *filter(None, one.depths))
        for step, own, end in zip(one.steps, curve.values, one.depths, strict=True):
            row: Row = {"curve": curve.source, "step": step}
            for share, fraction in FRACTIONS.items():
                layer = nearest(own, last if end is None else end, fraction)
                row[f"depth.{share}"] = None if layer is None else own[layer]
            marks = spark([own.get(n) for n in range(last + 1)], min(every), max(every))
            rows.append(row | {"layers": marks})
    columns = (
        Column("curve", key=True),
        Column("step", one.family.counted, key=True),
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
    models = tuple({row.key: row for side in sides for row in side.models}.values())
    blocks = {row.key: row.blocks for row in models}
    by_side = [curves(side) for side in sides]
    for family in families(models):
        for side in by_side:
            ends = blocks | {key: c.last for (key, _), c in side.get(SCORE, {}).items()}
            for _, step, key in family.members:
                own = (family.stem, step, key.model, key.revision)
                for source, places in side.items():
                    for (of, task), curve in places.items():
                        end = ends.get(key)
                        for layer, value in curve.values.items() if of == key else ():
                            depth = layer / end if end else None
                            cells = (*own, task, layer, depth, source, value)
                            rows.append(dict(zip(FIELDS, cells, strict=True)))
    return Table("checkpoints", "Checkpoints, value by value", hidden(*FIELDS), rows, shown=False)
