"""Curves over layers: a score or a metric's profile of one model on one task; tables of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, isfinite
from typing import Any, Literal, NamedTuple

from lrd_harness.errors import unknown
from lrd_harness.report import Column, Table
from lrd_harness.results.kinds import likelihood_tasks
from lrd_harness.results.rows import Key, MetricRow, Results

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

    values: Mapping[int, float]
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
    scores: dict[Place, dict[int, float]] = {}
    layers: dict[Place, int] = {}
    for row in results.scores:
        if row.variant == variant:
            scores.setdefault((row.key, row.task), {})[row.layer] = row.score
            layers[row.key, row.task] = row.layers
    by_source: Curves = {}
    if scores:
        by_source[SCORE] = {
            place: Curve(dict(sorted(own.items())), 0, layers[place])
            for place, own in scores.items()
        }
    rows = (row for row in results.metrics if row.variant == variant and row.profiles)
    for (metric, key, task), measured in {(r.metric, r.key, r.task): r for r in rows}.items():
        for name, profile in measured.profiles.items():
            pairs = sorted(zip(profile.layers, profile.values, strict=True))
            values = {layer: v for layer, v in pairs if v is not None and isfinite(v)}
            span = min(profile.layers, default=0), max(profile.layers, default=0)
            by_source.setdefault(f"{metric}.{name}", {})[key, task] = Curve(values, *span)
    return by_source


def roles(rows: Iterable[MetricRow]) -> dict[str, Role]:
    """The metrics that have a profile, in order of appearance."""
    by_metric: dict[str, Role] = {}
    for row in rows:
        if row.profiles and row.variant == "full":
            old = by_metric.get(row.metric)
            role = old or Role(row.metric, next(iter(row.profiles)), "max", False, False)
            if row.layer_choice and not role.published:
                role = role._replace(
                    profile=row.layer_choice[0], best=row.layer_choice[1], published=True
                )
            by_metric[row.metric] = role._replace(ranks=role.ranks or row.selection is not None)
    return by_metric


def pick(values: LayerScores, direction: Direction = "max") -> int:
    """The layer with the highest or lowest value; ties to the lower layer, the cheaper one.

    Examples
    --------
    >>> pick({0: 0.2, 1: 0.5, 2: 0.5}), pick({0: 0.2, 1: 0.5}, "min")
    (1, 0)
    """
    sign = 1 if direction == "max" else -1
    return max(values, key=lambda layer: (sign * values[layer], -layer))


def best(scores: LayerScores) -> tuple[int, float] | None:
    """The layer with the highest score and that score; ties to the lower layer, the cheaper one.

    None where fewer than two layers were scored: there was nothing to choose from.

    Examples
    --------
    >>> best({0: 0.2, 1: 0.5, 2: 0.5}), best({2: 0.5})
    ((1, 0.5), None)
    """
    if len(scores) < 2:
        return None
    layer = pick(scores)
    return layer, scores[layer]


def mean_by_layer(tasks: Iterable[LayerScores]) -> dict[int, float]:
    """The mean over tasks at every layer that all of them have.

    Examples
    --------
    >>> mean_by_layer([{0: 1.0, 1: 2.0}, {1: 4.0}])
    {1: 3.0}
    """
    several = list(tasks)
    layers = set(several[0]).intersection(*several[1:]) if several else set()
    return {n: fsum(own[n] for own in several) / len(several) for n in sorted(layers)}


def hidden(*names: str) -> tuple[Column, ...]:
    """Columns for programs alone."""
    return tuple(Column(name, shown=False) for name in names)


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
        said = model if revision is None else f"{model} (revision {revision})"
        raise unknown("model", said, {key.model for key in keys})
    by_source = {
        source: by_task
        for source, places in curves(results, variant).items()
        if (by_task := {task: c.values for (key, task), c in places.items() if key == matches[-1]})
    }
    scores = by_source.pop(SCORE, {})
    tasks = {*scores, *(task for by_task in by_source.values() for task in by_task)}
    likelihood = likelihood_tasks(results) & tasks
    apart = likelihood if likelihood < tasks else frozenset[str]()
    columns = [Column("layer", key=True)]
    cells: dict[str, Mapping[int, float]] = {}
    if scores:
        cells["score"] = mean_by_layer(v for task, v in scores.items() if task not in apart)
        columns.append(Column("score", "mean score", best="max", form=".4f"))
        for task, values in scores.items():
            cells[f"score.{task}"] = values
            columns.append(Column(f"score.{task}", task, best="max", form=".4f"))
    for source, profiles in by_source.items():
        main = [values for task, values in profiles.items() if task not in apart]
        cells[source] = mean_by_layer(main or profiles.values())
        columns.append(Column(source, source, form="#.4g"))
    layers = sorted({n for by_layer in cells.values() for n in by_layer})
    caption = [
        "Layer 0: what enters the first block; layer l: what block l writes. Scores: the task's "
        "main score at that layer, 0 to 1. Other columns: the metric's profile, the mean over its "
        "tasks, in its own unit; empty where a task has none."
    ]
    if apart:
        names = ", ".join(task for task in scores if task in apart)
        caption.append(
            "Means are over the embedding tasks alone, of scores and of every profile that was "
            f"measured on one; likelihood tasks: {names}."
        )
    return Table(
        "model_layers",
        f"Layers of {model}",
        tuple(columns),
        [{"layer": n} | {name: column.get(n) for name, column in cells.items()} for n in layers],
        tuple(caption),
    )


def layers_table(sides: Sequence[Results], picks: Iterable[Mapping[str, Any]] = ()) -> Table:
    """One row per whole model, task and layer, for programs; tasks of one side below the other.

    model, revision, task, layer, depth (layer / L), score, METRIC.PROFILE (a step's value stands
    with the earlier state), picked.METRIC (1 at the layer that the metric chooses among those with
    a score). No rows where there are neither profiles nor scores of other layers than the last.

    Parameters
    ----------
    picks : of mappings with model, revision, task, metric and layer
    """
    rows: dict[tuple[str, str, str], dict[int, dict[str, float | None]]] = {}
    sources: dict[str, None] = {}
    depths = {row.key[:2]: row.blocks for side in sides for row in side.models}
    for side in sides:
        for source, places in curves(side).items():
            for (key, task), curve in places.items():
                own = rows.setdefault((key.model, key.revision, task), {})
                for layer, value in curve.values.items():
                    own.setdefault(layer, {})[source] = value
                    sources[source] = None
                if source == SCORE:
                    depths[key[:2]] = curve.last
    sources.pop(SCORE, None)
    picked: dict[str, None] = {}
    for one in picks:
        picked[f"picked.{one['metric']}"] = None
        by_layer = rows[one["model"], one["revision"], one["task"]]
        by_layer[one["layer"]][f"picked.{one['metric']}"] = 1
    head = ("model", "revision", "task", "layer", "depth", SCORE)
    columns = [*(Column(n, key=n in head[:4]) for n in (*head, *sources, *picked))]
    several = any(not row.last for side in sides for row in side.scores if row.variant == "full")
    lines = [
        {**dict(zip(head, (*place, layer), strict=False)), "depth": layer / L if L else None}
        | cells
        for place, by_layer in rows.items()
        for layer, cells in sorted(by_layer.items())
        for L in [depths.get(place[:2])]
    ]
    shown = lines if sources or several else []
    return Table("layers", "Scores and profiles by layer", tuple(columns), shown, shown=False)
