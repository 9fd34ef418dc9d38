"""Curves over layers: a score or a metric's profile of one model on one task; tables of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import fsum, isfinite
from typing import Any, Literal, NamedTuple

from lrd_harness.errors import unknown
from lrd_harness.report import Column, Table
from lrd_harness.results.rows import Key, MetricRow, Results

Row = dict[str, Any]
LayerScores = Mapping[int, float]  # layer -> score
Direction = Literal["max", "min"]
OTHER: Mapping[Direction, Direction] = {"max": "min", "min": "max"}
SCORE = "score"  # the source that is the task's main score
Place = tuple[Key, str]  # model and task


class Curve(NamedTuple):
    """One source over the layers of one model on one task.

    values: by layer, ascending, without absent ones; first, last: the layers between which it may
    have values: 0 and L of a score.
    """

    values: LayerScores
    first: int
    last: int


Curves = dict[str, dict[Place, Curve]]  # source ("score", "METRIC.PROFILE") -> place -> curve


class Role(NamedTuple):
    """What a metric is for.

    profile: the one that chooses its layer, else its first; best: which value chooses; published:
    whether the metric itself says so; ranks: whether it ranks models.
    """

    metric: str
    profile: str
    best: Direction
    published: bool
    ranks: bool

    @property
    def source(self) -> str:
        return f"{self.metric}.{self.profile}"


def curves(results: Results, variant: str = "full") -> Curves:
    """All curves, the score's first; of a unit that is there twice the newer row counts."""
    by_source: Curves = defaultdict(dict)
    scores: dict[Place, dict[int, float]] = defaultdict(dict)
    last: dict[Place, int] = {}
    for row in results.scores:
        if row.variant == variant:
            scores[row.key, row.task][row.layer] = row.score
            last[row.key, row.task] = row.layers
    for place, by_layer in scores.items():
        by_source[SCORE][place] = Curve(dict(sorted(by_layer.items())), 0, last[place])
    rows = (row for row in results.metrics if row.variant == variant and row.profiles)
    for (metric, key, task), measured in {(r.metric, r.key, r.task): r for r in rows}.items():
        for name, profile in measured.profiles.items():
            pairs = sorted(zip(profile.layers, profile.values, strict=True))
            values = {layer: v for layer, v in pairs if v is not None and isfinite(v)}
            span = min(profile.layers, default=0), max(profile.layers, default=0)
            by_source[f"{metric}.{name}"][key, task] = Curve(values, *span)
    return dict(by_source)


def roles(rows: Iterable[MetricRow]) -> dict[str, Role]:
    """The metrics that have a profile, in order of appearance."""
    by_metric: dict[str, Role] = {}
    for row in rows:
        if row.profiles and row.variant == "full":
            first = Role(row.metric, next(iter(row.profiles)), "max", False, False)
            role = by_metric.get(row.metric, first)
            if row.layer_choice and not role.published:
                role = Role(row.metric, *row.layer_choice, True, role.ranks)
            by_metric[row.metric] = role._replace(ranks=role.ranks or row.selection is not None)
    return by_metric


def last_layers(results: Results) -> dict[Key, int | None]:
    """L of every model, pruned ones too: as its scores say, or else the model's own record."""
    blocks: dict[Key, int | None] = {row.key: row.blocks for row in results.models}
    return blocks | {row.key: row.layers for row in results.scores}


def pick(values: LayerScores, direction: Direction = "max") -> int:
    """The layer with the highest or lowest value; ties to the lower layer, the cheaper one.

    Examples
    --------
    >>> pick({0: 0.2, 1: 0.5, 2: 0.5}), pick({0: 0.2, 1: 0.5}, "min")
    (1, 0)
    """
    sign = 1 if direction == "max" else -1
    return max(values, key=lambda layer: (sign * values[layer], -layer))


def mean_by_layer(tasks: Iterable[LayerScores]) -> dict[int, float]:
    """The mean over tasks at every layer that all of them have.

    Examples
    --------
    >>> mean_by_layer([{0: 1.0, 1: 2.0}, {1: 4.0}])
    {1: 3.0}
    """
    several = list(tasks)
    layers = set(several[0]).intersection(*several[1:]) if several else set()
    return {n: fsum(values[n] for values in several) / len(several) for n in sorted(layers)}


# ---------------------------------------------------------------- tables


def hidden(*names: str) -> tuple[Column, ...]:
    """Columns for programs alone."""
    return tuple(Column(name, shown=False) for name in names)


def filled(columns: Iterable[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Without the columns in which people see nothing."""
    return tuple(c for c in columns if not c.shown or any(r.get(c.name) is not None for r in rows))


def layer_table(
    results: Results, model: str, revision: str | None = None, variant: str = "full"
) -> Table:
    """The scores and profiles of a model, one row per layer.

    The mean score is over the embedding tasks alone where there are some, and so is every profile
    that was measured on one; None where a task lacks the layer.

    Parameters
    ----------
    revision : str, optional
        The newest revision of the model where it is not given.

    Raises
    ------
    UserError
        For a model that is not in the results.
    """
    keys = [row.key for row in results.models if row.variant == variant]
    matches = [key for key in keys if key.model == model and revision in (None, key.revision)]
    if not matches:
        name = model if revision is None else f"{model} (revision {revision})"
        raise unknown("model", name, {key.model for key in keys})
    by_source = {
        source: by_task
        for source, places in curves(results, variant).items()
        if (by_task := {task: c.values for (key, task), c in places.items() if key == matches[-1]})
    }
    tasks = {task for by_task in by_source.values() for task in by_task}
    likelihood = results.likelihood_tasks & tasks
    apart = likelihood if likelihood < tasks else frozenset[str]()
    columns = [Column("layer", key=True)]
    cells: dict[str, LayerScores] = {}
    for source, by_task in by_source.items():
        main = [values for task, values in by_task.items() if task not in apart]
        if source == SCORE:
            cells[SCORE] = mean_by_layer(main)
            cells |= {f"score.{task}": values for task, values in by_task.items()}
            labels = {SCORE: "mean score"} | {f"score.{task}": task for task in by_task}
            columns += [Column(name, of, best="max", form=".4f") for name, of in labels.items()]
        else:
            cells[source] = mean_by_layer(main or by_task.values())
            columns.append(Column(source, source, form="#.4g"))
    layers = sorted({n for by_layer in cells.values() for n in by_layer})
    rows = [{"layer": n} | {name: column.get(n) for name, column in cells.items()} for n in layers]
    caption = [
        "Layer 0: what enters the first block; layer l: what block l writes. Scores: the task's "
        "main score at that layer, 0 to 1. Other columns: the metric's profile, the mean over its "
        "tasks, in its own unit; empty where a task has none."
    ]
    if apart:
        names = ", ".join(task for task in by_source.get(SCORE, {}) if task in apart)
        caption.append(
            "Means are over the embedding tasks alone, of scores and of every profile that was "
            f"measured on one; likelihood tasks: {names}."
        )
    return Table("model_layers", f"Layers of {model}", tuple(columns), rows, tuple(caption))


def numbers(results: Results) -> Iterator[tuple[Key, str, int, float | None, str, float]]:
    """Every value of every curve: model, task, layer, depth (layer / L), source, value."""
    last = last_layers(results)
    for source, places in curves(results).items():
        for (key, task), curve in places.items():
            end = last.get(key)
            for layer, value in curve.values.items():
                yield key, task, layer, layer / end if end else None, source, value


def layers_table(sides: Sequence[Results], picks: Iterable[Mapping[str, Any]] = ()) -> Table:
    """One row per whole model, task and layer, for programs; tasks of one side below the other.

    model, revision, task, layer, depth (layer / L), score, METRIC.PROFILE (a step's value stands
    with the earlier state), picked.METRIC (1 at the layer that the metric chooses among those with
    a score). No rows where there are neither profiles nor scores of other layers than the last.

    Parameters
    ----------
    picks : of mappings with model, revision, task, metric and layer
    """
    head = ("model", "revision", "task", "layer", "depth", SCORE)
    by_place: dict[tuple[str, ...], dict[int, Row]] = defaultdict(dict)
    names = dict.fromkeys(head)
    for key, task, layer, depth, source, value in (n for side in sides for n in numbers(side)):
        by_layer = by_place[key.model, key.revision, task]
        place = {"model": key.model, "revision": key.revision, "task": task}
        by_layer.setdefault(layer, {**place, "layer": layer, "depth": depth})[source] = value
        names[source] = None
    several = any(not row.last for side in sides for row in side.scores if row.variant == "full")
    profiles = len(names) > len(head)
    for choice in picks:
        name = f"picked.{choice['metric']}"
        names[name] = None
        by_place[choice["model"], choice["revision"], choice["task"]][choice["layer"]][name] = 1
    columns = tuple(Column(name, key=name in head[:4]) for name in names)
    rows = [row for by_layer in by_place.values() for _, row in sorted(by_layer.items())]
    if not several and not profiles:
        rows = []
    return Table("layers", "Scores and profiles by layer", columns, rows, shown=False)
