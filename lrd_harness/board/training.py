"""Checkpoints of one training run: which models they are, and what changes over step and depth.

Checkpoints are models whose names differ in the step alone. A step is read from a revision
(`EleutherAI/pythia-410m@step1000`, `@step1000-tokens4B`, `@2000`) or from the end of a folder's
name (`local/checkpoint-500`, `local/run/global_step10`). Means are over the tasks that all have.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from lrd_harness.board import layers
from lrd_harness.report import Column, Table
from lrd_harness.results.rows import Key, ModelRow, Results

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


class _Name(NamedTuple):
    """A name read. base: the model that it is a checkpoint of; final: it names no checkpoint."""

    base: str
    stem: str
    label: str
    unit: str = ""
    step: int | None = None
    final: bool = False


def families(models: Sequence[ModelRow]) -> tuple[Family, ...]:
    """The families among the whole models (variant "full"): those with steps first.

    Models of unequal depth or width are never one family. Revisions without a step, as a commit,
    and the model without a revision belong to the model's steps where these are one series, else
    they are a family of their own.
    """
    series: dict[tuple[Any, ...], list[Member]] = defaultdict(list)  # shape, then stem and unit
    stepless: dict[tuple[Any, ...], list[tuple[_Name, ModelRow]]] = defaultdict(list)  # shape
    for row in {row.key: row for row in models if row.variant == "full"}.values():
        name = _read(row.model)
        shape = name.base, row.blocks, row.width
        if name.step is None:
            stepless[shape].append((name, row))
        else:
            member = Member(name.label, name.step, row.key)
            series[*shape, name.stem, name.unit].append(member)
    of_shape: dict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for place, members in series.items():
        members.sort(key=lambda member: member.step or 0)
        of_shape[place[:3]].append(place)
    for shape, named in stepless.items():
        places = of_shape[shape]
        place = places[0] if len(places) == 1 else (*shape, shape[0], "")
        series[place] += _without_step(named)
    return tuple(
        Family(stem, unit, tuple(members))
        for (*_, stem, unit), members in series.items()
        if len(members) > 1
    )


def runs(models: Sequence[ModelRow]) -> dict[Key, Key]:
    """What stands for the training run of each model that has others of the same run."""
    return {m.key: family.members[0].key for family in families(models) for m in family.members}


def _without_step(named: Sequence[tuple[_Name, ModelRow]]) -> Iterator[Member]:
    """Members in order of appearance, models without a revision last."""
    finals = sum(name.final for name, _ in named)
    labels = [name.label for name, _ in named]
    for name, row in sorted(named, key=lambda pair: pair[0].final):
        clear = labels.count(name.label) == 1 and not (name.final and finals > 1)
        label = name.label if clear else row.revision[:_SHORT] or name.label
        yield Member(label, None, row.key)


def _read(name: str) -> _Name:
    """A model's name as results have it, the reading in brackets kept with its base."""
    match = _NAME.fullmatch(name)
    bare, reading = (match[1], match[2] or "") if match else (name, "")
    base, at, revision = bare.partition("@")
    if not at or revision == "main":
        return _folder(base, reading)
    progress = _progress(revision)
    if progress is None:
        label = revision[:_SHORT] if re.fullmatch("[0-9a-f]{40}", revision) else revision
        return _Name(base + reading, base + reading, label)
    rest, unit, step = progress
    stem = f"{base}@{rest}" if rest else base
    return _Name(base + reading, stem + reading, revision, unit, step)


def _folder(name: str, reading: str) -> _Name:
    """A name without a revision: a checkpoint if it ends in a step, else a model of its own."""
    above, slash, last = name.rpartition("/")
    matches = list(_PROGRESS.finditer(last))
    progress = _progress(last) if matches and matches[-1].end() == len(last) else None
    # a hub's model may be called step3
    if progress is None or not (progress[0] or name.startswith("local/")):
        return _Name(name + reading, name + reading, "final", final=True)
    rest, unit, step = progress
    stem = above
    if rest or above == "local":  # the folder above is not known
        stem = f"{above}{slash}{rest or matches[0][1]}"
    return _Name(stem + reading, stem + reading, last, unit, step)


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


class MeanCurve(NamedTuple):
    """One source, of every member of a family.

    source: "score", or the profile that stands for `metric`; choose: which value chooses the
    layer, None where the metric publishes no choice; tasks: those that every member with such a
    curve has; values: by layer, one per member, means over these tasks at the layers that all have.
    """

    source: str
    metric: str
    choose: layers.Direction | None
    tasks: tuple[str, ...]
    values: tuple[layers.LayerScores, ...]

    @property
    def chosen(self) -> list[int | None]:
        """The layer that each member's mean curve chooses; None of fewer than two layers."""
        if self.choose is None:
            return [None] * len(self.values)
        return [layers.pick(v, self.choose) if len(v) > 1 else None for v in self.values]


class Trajectory(NamedTuple):
    """A family through its training.

    depths: L of each member; scores, metrics: mean curves; selected: "METRIC.SCORE" -> which end is
    better, and one mean of the selection score per member, over the tasks that all of them have.
    """

    family: Family
    depths: tuple[int | None, ...]
    scores: MeanCurve
    metrics: tuple[MeanCurve, ...]
    selected: Mapping[str, tuple[layers.Direction, list[float | None]]]

    @property
    def steps(self) -> list[int | str]:
        return [m.label if m.step is None else m.step for m in self.family.members]


def trajectories(results: Results) -> list[Trajectory]:
    """One for every family that has a score or a metric's value, of one side's results."""
    lines, last = layers.curves(results).dropna(subset="value"), layers.last_layers(results)
    numbers = results.frame[results.frame.variant == "full"]
    numbers = numbers[numbers.kind == "value"].assign(layer=0)
    paths = []
    for family in families(results.models):
        keys = [member.key for member in family.members]
        rows = [row for row in results.metrics if row.key in keys]
        sources: list[tuple[str, str, layers.Direction | None]] = [(layers.SCORE, "", "max")]
        for role in layers.roles(rows).values():
            chooses = role.published and not role.control
            sources.append((role.source, role.metric, role.best if chooses else None))
        scores, *metrics = (
            MeanCurve(*of, *_means(lines[lines.source == of[0]], keys)) for of in sources
        )
        free = [row for row in rows if not row.control]  # of labels
        selections = {row.metric: row.selection for row in reversed(free) if row.selection}
        selected = {}
        for metric in dict.fromkeys(row.metric for row in rows if row.metric in selections):
            score, end = selections[metric]
            of_score = numbers[(numbers.source == metric) & (numbers.name == score)]
            tasks, means = _means(of_score, keys)
            if tasks:
                selected[f"{metric}.{score}"] = end, [mean.get(0) for mean in means]
        if scores.tasks or metrics or selected:
            depths = tuple(last.get(key) for key in keys)
            paths.append(Trajectory(family, depths, scores, tuple(metrics), selected))
    return paths


def _means(
    lines: pd.DataFrame, keys: Sequence[Key]
) -> tuple[tuple[str, ...], tuple[layers.LayerScores, ...]]:
    """The tasks of every model that has any, and each model's means over these by layer."""
    by_model = dict(iter(lines.groupby(["model", "revision"], sort=False)))
    models = [by_model.get(key[:2], lines[:0]) for key in keys]
    several = [list(of_model.task.unique()) for of_model in models if len(of_model)]
    shared = tuple(t for t in (several or [[]])[0] if all(t in tasks for tasks in several))
    means = (layers.mean_by_layer(of_model[of_model.task.isin(shared)]) for of_model in models)
    return shared, tuple(means)


def checkpoint_tables(results: Results) -> list[Table]:
    """For each family its checkpoints, then curves by step and depth; all curves for programs."""
    tables: list[Table] = []
    rows: list[layers.Row] = []
    for number, path in enumerate(trajectories(results), 1):
        family = path.family
        tables.append(_summary(f"checkpoints.{number}", path))
        tables += _by_depth(f"checkpoints.{number}.depth", path)
        for curve in (path.scores, *path.metrics):
            common: layers.Row = {"family": family.stem, "unit": family.unit, "curve": curve.source}
            common |= {"metric": curve.metric, "choose": curve.choose, "tasks": list(curve.tasks)}
            for (label, step, key), of in zip(family.members, curve.values, strict=True):
                member = {"step": step, "label": label, **key._asdict()}
                rows.append({**common, **member, "layers": list(of), "values": list(of.values())})
    fields = "family unit curve metric choose step label model revision".split()
    lists = (Column(name, form="list", shown=False) for name in ("tasks", "layers", "values"))
    columns, title = (*layers.hidden(*fields), *lists), "Mean curves of checkpoints"
    if rows:
        tables.append(Table("checkpoint_curves", title, columns, rows, shown=False))
    return tables


def _summary(name: str, path: Trajectory) -> Table:
    """One row per checkpoint: its score, its best layer, what metrics say of it."""
    family, unit, tasks = path.family, path.family.unit, len(path.scores.tasks)
    choosing = [curve for curve in path.metrics if curve.choose]
    columns = [
        Column("step", family.counted, key=True),
        *layers.hidden("label", "model", "revision", "variant", "depth"),
        Column("score", best="max", form=".4f"),
        Column("best_layer", "best layer"),
        Column("best_score", "best score", best="max", form=".4f"),
        *(Column(score, score, best=end, form="#.4g") for score, (end, _) in path.selected.items()),
        *(Column(f"layer.{c.metric}", f"layer by {c.choose}. {c.source}") for c in choosing),
    ]
    cells: dict[str, Sequence[Any]] = {"step": path.steps, "depth": path.depths}
    cells["best_layer"] = path.scores.chosen
    cells |= {score: means for score, (_, means) in path.selected.items()}
    cells |= {f"layer.{curve.metric}": curve.chosen for curve in choosing}
    rows = []
    for i, (member, scores) in enumerate(zip(family.members, path.scores.values, strict=True)):
        row: layers.Row = {column: of_members[i] for column, of_members in cells.items()}
        row |= {"label": member.label, **member.key._asdict(), "score": scores.get(row["depth"])}
        rows.append(row | {"best_score": scores.get(row["best_layer"])})
    order = f"in order of the training {unit}" if unit else "in order of appearance"
    captions = [f"Checkpoints of one model {order}; those whose name has no {unit or 'step'} last."]
    if tasks:
        captions.append(
            f"Score: mean main score over the tasks that all of them have ({tasks}), of the last "
            "layer and of the layer that is best in the mean (an oracle)."
        )
    if path.selected or path.metrics:
        captions.append(
            "Metrics: the mean over tasks of the selection score, and the layer where the mean "
            "curve is highest (max.) or lowest (min.), chosen without labels."
        )
    title = f"Checkpoints of {family.stem}"
    return Table(name, title, layers.filled(columns, rows), rows, tuple(captions))


def _by_depth(name: str, path: Trajectory) -> Iterator[Table]:
    """One row per curve and checkpoint: values at five depths, and marks for all layers.

    Of the curves of which any member has more than one layer.
    """
    rows = []
    for curve in (path.scores, *path.metrics):
        if max(map(len, curve.values)) < 2:
            continue
        every = [value for values in curve.values for value in values.values()]
        numbers = [layer for values in curve.values for layer in values]
        last = max(*numbers, *filter(None, path.depths))
        for step, values, end in zip(path.steps, curve.values, path.depths, strict=True):
            row: layers.Row = {"curve": curve.source, "step": step}
            for share, fraction in FRACTIONS.items():
                layer = nearest(values, last if end is None else end, fraction)
                row[f"depth.{share}"] = None if layer is None else values[layer]
            marks = spark([values.get(n) for n in range(last + 1)], min(every), max(every))
            rows.append(row | {"layers": marks})
    columns = (
        Column("curve", key=True),
        Column("step", path.family.counted, key=True),
        *(Column(f"depth.{share}", f"depth {share}", form="#.4g") for share in FRACTIONS),
        Column("layers"),
    )
    captions = (
        "Mean over the tasks that all checkpoints have, at the layer nearest to that share of the "
        f"depth. layers: one mark per layer (at most {LONGEST}), {MARKS[0]} the lowest value of "
        f"the curve over all checkpoints to {MARKS[-1]} the highest; {GAP}: no value.",
    )
    if rows:
        title = f"Scores and metrics of {path.family.stem} by training and depth"
        yield Table(name, title, columns, rows, captions)


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


def nearest(values: layers.LayerScores, depth: int, fraction: float) -> int | None:
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
    models = {row.key: row for side in sides for row in side.models}
    runs_of = families(tuple(models.values()))
    by_side: list[dict[Any, pd.DataFrame]] = []
    for side in sides if runs_of else ():
        lines = layers.curves(side).dropna(subset="value").rename(columns={"source": "name"})
        by_side.append(dict(iter(lines.groupby(["model", "revision"]))))
    rows = [
        {"family": family.stem, "step": step, **row}
        for family in runs_of
        for by_model in by_side
        for _, step, key in family.members
        if key[:2] in by_model
        for row in layers.records(by_model[key[:2]][list(FIELDS[2:])])
    ]
    return Table(
        "checkpoints", "Checkpoints, value by value", layers.hidden(*FIELDS), rows, shown=False
    )
