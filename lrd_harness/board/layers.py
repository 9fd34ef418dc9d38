"""Curves over layers: a score or a metric's profile of one model on one task; tables of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from lrd_harness.errors import unknown
from lrd_harness.report import Column, Table
from lrd_harness.results.kinds import KINDS, TASKS
from lrd_harness.results.rows import Key, MetricRow, Results

Row = dict[str, Any]
LayerScores = Mapping[int, float]  # layer -> score
Direction = Literal["max", "min"]
OTHER: Mapping[Direction, Direction] = {"max": "min", "min": "max"}
SCORE = "score"  # the source that is the task's main score
LABELS = " (uses labels)"  # behind the name of what is no label-free metric


class Role(NamedTuple):
    """What a metric is for.

    profile: the one that chooses its layer, else its first; best: which value chooses; published:
    whether the metric itself says so; ranks: whether it ranks models; control: it uses labels;
    margin: whether it says how sure the lead of a layer over the last one is.
    """

    metric: str
    profile: str
    best: Direction
    published: bool
    ranks: bool
    control: bool = False
    margin: bool = False

    @property
    def source(self) -> str:
        return f"{self.metric}.{self.profile}{LABELS * self.control}"


def curves(results: Results, variant: str = "full") -> pd.DataFrame:
    """Every layer of every curve, the scores' first; layers ascending.

    place: number of the model and task, which are model, revision, task; source: "score" or
    METRIC.PROFILE, of a control with `LABELS`; value: NaN where there is none; layers: L, NaN
    where it is not known; depth: layer / L; along: from 0 to 1 between the layers where the curve
    may have values.
    """
    frame = results.frame
    kinds = ["score", "profile", "control profile"]
    frame = frame[(frame.variant == variant) & frame.kind.isin(kinds)]
    scores, control = frame.kind == "score", frame.kind == kinds[2]
    names = frame.source + "." + frame.name
    lines = frame[["model", "revision", "task", "value"]].assign(
        place=frame.groupby(["model", "revision", "task"], sort=False).ngroup(),
        source=frame.source.where(scores, names.where(~control, names + LABELS)),
        layer=frame.layer.astype(np.int64),
        layers=frame.layers.astype(np.float64),
    )
    lines["value"] = lines.value.where(np.isfinite(lines.value))
    lines["depth"] = lines.layer / lines.layers.where(lines.layers > 0)
    first, last = (
        lines.groupby(["source", "place"]).layer.transform(end) for end in ("min", "max")
    )
    along = (lines.layer - first) / (last - first).where(last > first)
    lines["along"] = along.where(~scores, lines.depth)
    order = [pd.factorize(lines.source)[0], lines.place, lines.layer]
    return lines.iloc[np.lexsort(order[::-1])].reset_index(drop=True)


def present(values: np.ndarray | pd.Series[Any]) -> list[Any]:
    """As a list, None where there is nothing."""
    return [None if isnan(value) else value for value in values.tolist()]


def records(lines: pd.DataFrame) -> list[Row]:
    """The rows of a frame, None where there is nothing."""
    rows: list[Row] = lines.astype(object).where(lines.notna(), None).to_dict("records")
    return rows


def roles(rows: Iterable[MetricRow]) -> dict[str, Role]:
    """The metrics that have a profile, in order of appearance."""
    by_metric: dict[str, Role] = {}
    for row in rows:
        if row.profiles and row.variant == "full":
            first = Role(row.metric, next(iter(row.profiles)), "max", False, False)
            role = by_metric.get(row.metric, first)
            if row.layer_choice and not role.published:
                role = Role(row.metric, *row.layer_choice, True, role.ranks)
            ranks = role.ranks or (row.selection is not None and not row.control)
            margin = role.margin or (role.published and row.margin in row.profiles)
            role = role._replace(ranks=ranks, control=row.control, margin=margin)
            by_metric[row.metric] = role
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


def mean_by_layer(lines: pd.DataFrame) -> dict[int, float]:
    """The mean over tasks at every layer that all of them have. lines: of one model and source."""
    grid = lines.pivot(index="layer", columns="task", values="value").dropna()
    return dict(zip(grid.index.tolist(), map(fmean, grid.to_numpy().tolist()), strict=True))


def hidden(*names: str) -> tuple[Column, ...]:
    """Columns for programs alone."""
    return tuple(Column(name, shown=False) for name in names)


def filled(columns: Iterable[Column], rows: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Without the columns in which people see nothing."""
    return tuple(c for c in columns if not c.shown or any(r.get(c.name) is not None for r in rows))


def layer_table(
    results: Results, model: str, revision: str | None = None, variant: str = "full"
) -> Table:
    """The scores and profiles of a model, one row per layer.

    The mean score is over the embedding tasks alone where there are some, and so is every profile
    that was measured on one; None where a task lacks the layer. Of other kinds alike.

    revision: the newest of the model where it is None. Raises UserError for a model that is not in
    the results.
    """
    keys = [row.key for row in results.models if row.variant == variant]
    matches = [key for key in keys if key.model == model and revision in (None, key.revision)]
    if not matches:
        name = model if revision is None else f"{model} (revision {revision})"
        raise unknown("model", name, {key.model for key in keys})
    lines = curves(results, variant).dropna(subset="value")
    lines = lines[(lines.model == model) & (lines.revision == matches[-1].revision)]
    kinds = {task: results.kinds.get(task, KINDS[0]) for task in lines.task}
    main, *others = [kind for kind in KINDS if kind in kinds.values()] or KINDS[:1]
    apart = {task for task, kind in kinds.items() if kind != main}
    columns = [Column("layer", key=True)]
    cells: dict[str, LayerScores] = {}
    for source, of_source in lines.groupby("source", sort=False):
        of_main = of_source[~of_source.task.isin(apart)]
        cells[source] = mean_by_layer(of_source if of_main.empty and source != SCORE else of_main)
        if source != SCORE:
            columns.append(Column(source, source, form="#.4g"))
            continue
        labels = {SCORE: "mean score"}
        for task, of_task in of_source.groupby("task", sort=False):
            labels[f"score.{task}"] = task
            cells[f"score.{task}"] = dict(zip(of_task.layer, of_task.value, strict=True))
        columns += [Column(name, of, best="max", form=".4f") for name, of in labels.items()]
    layers = sorted({n for by_layer in cells.values() for n in by_layer})
    rows = [{"layer": n} | {name: column.get(n) for name, column in cells.items()} for n in layers]
    caption = [
        "Layer 0: what enters the first block; layer l: what block l writes. Scores: the task's "
        "main score at that layer, 0 to 1. Other columns: the metric's profile, the mean over its "
        "tasks, in its own unit, of a block in the row of the state that it writes; empty where a "
        "task has none."
    ]
    if apart:
        scored = lines[lines.source == SCORE].task.unique()
        names = ", ".join(task for task in scored if task in apart)
        other = " and ".join(TASKS[kind] for kind in others)
        caption.append(
            f"Means are over the {TASKS[main]} tasks alone, of scores and of every profile that "
            f"was measured on one; {other} tasks: {names}."
        )
    return Table("model_layers", f"Layers of {model}", tuple(columns), rows, tuple(caption))


def layers_table(sides: Sequence[Results], picks: Iterable[Mapping[str, Any]] = ()) -> Table:
    """One row per whole model, task and layer, for programs; tasks of one side below the other.

    model, revision, task, layer, depth (layer / L), score, METRIC.PROFILE (a step's value stands
    with the earlier state), picked.METRIC (1 at the layer that the metric chooses among those with
    a score). No rows where there are neither profiles nor scores of other layers than the last.
    picks: of table "layer_picks".
    """
    head = ("model", "revision", "task", "layer", "depth", SCORE)
    by_place: dict[tuple[str, ...], dict[int, Row]] = defaultdict(dict)
    names = dict.fromkeys(head)
    for row in (row for side in sides for row in records(curves(side).dropna(subset="value"))):
        by_layer = by_place[row["model"], row["revision"], row["task"]]
        place = {name: row[name] for name in head[:-1]}
        by_layer.setdefault(row["layer"], place)[row["source"]] = row["value"]
        names[row["source"]] = None
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
