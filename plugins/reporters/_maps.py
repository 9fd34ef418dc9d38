"""Figures that are maps: layer by layer within a model, and model by model of a panel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from lrd_harness.errors import plain
from lrd_harness.report import Table

from ._charts import DATA, LAYER_AXIS, MODELS, ROW, Figure, Side, distinct, faceted, ordered
from ._data import counted, valued

MAPS, LAYERS, PIXELS = 6, 33, 220  # maps; rows of a map, more being thinned out; its size
SCALES = {
    "subspace_distance": " (0 the same, 1 orthogonal)",
    "cka": " (1 alike, about 0 independent)",
}
Maps = tuple[str, list[tuple[str, pd.DataFrame]]]  # a metric, and by name of model its table
BINS = 25  # of a distribution, as drawn
START = "pairs."  # of the names of the tables
MATRICES, SIDE = 8, 320  # maps of a board; pixels of one


def matrices(side: Side) -> Iterator[Figure]:
    """Of the first matrices, models in the order of the ranking."""
    start = side.prefix + START
    tables = [table for table in side.report.tables if table.name.startswith(start)]
    for number, table in enumerate(tables[:MATRICES], 1):
        if figure := _of_models(side, table, f"pairs-{number}"):
            yield figure


def _of_models(side: Side, table: Table, name: str) -> Figure | None:
    """None without a number."""
    columns = [column for column in table.columns if column.name.startswith("with.")][:MODELS]
    rows = [
        {
            "model": plain(row["model"]),
            "other model": plain(column.label),
            "value": valued(row.get(column.name)),
            "order": i,
            "right": j,
        }
        for i, row in enumerate(table.rows[:MODELS])
        for j, column in enumerate(columns)
    ]
    values = np.array([row["value"] for row in rows], dtype=float).reshape(-1, len(columns))
    if np.isnan(values).all():
        return None
    directed = not np.allclose(values, values.T, equal_nan=True)
    rows = [row for row in rows if row["value"] is not None]
    axis = alt.Axis(ticks=False, grid=False)
    # names are values, never a list: see `ordered`
    y, x = (alt.EncodingSortField(field, op="min") for field in ("order", "right"))
    # above, as names of models below the map are of any length
    gradient: Any = {"type": "gradient", "direction": "horizontal", "gradientLength": 180}
    legend = alt.Legend(**gradient, tickCount=4, orient="top", titleLimit=300)
    score = plain(table.name.removeprefix(side.prefix + START).replace(".", " ", 1))
    way = ", from row to column" * directed
    room = {"left": 24, "right": 5, "top": 5, "bottom": 24}  # letters may be wider on a screen
    chart = alt.Chart(DATA).mark_rect().properties(width=SIDE, height=SIDE, padding=room)
    chart = chart.encode(
        y=alt.Y("model:N", sort=y, title=None, axis=axis),
        x=alt.X("other model:N", sort=x, title=None, axis=axis),
        color=alt.Color(
            "value:Q", title=score + way, scale=alt.Scale(scheme="viridis"), legend=legend
        ),
        description=ROW,
    )
    caption = f"{score}, mean over tasks, models in the order of the ranking. "
    if directed:
        caption += "From the model of a row to that of a column; the way back is another value. "
    caption += f"n = {counted(len(distinct(rows, 'model')), 'model')}"
    caption += f", the first of {len(table.rows):,}." if len(table.rows) > MODELS else "."
    return side.figure(name, f"model by model: {score}", caption, rows, chart)


def distances(side: Side) -> list[Figure]:
    """How near each two layers are: for each metric that measures it a map per model."""
    drawn = (_distances(side, *of_metric) for of_metric in enumerate(_maps(side, square=True), 1))
    return [figure for figure in drawn if figure]


def _distances(side: Side, number: int, found: Maps) -> Figure | None:
    metric, maps = found
    rows = [
        {"model": model, "layer": layer, "other layer": other, "distance": value}
        for model, grid in maps
        for layer, values in _thinned(_thinned(grid).T).T.iterrows()
        for other, value in values.items()
    ]
    grid = maps[0][1].to_numpy()
    alike = grid.diagonal().mean() > grid.mean()  # a layer is nearest to itself
    ends = "bright is near, dark is far" if alike else "dark is near, bright is far"
    caption = (
        f"{plain(metric)} between the states of each two layers, mean over tasks: {ends}; "
        "blocks along the diagonal are layers that do much the same."
    )
    caption += " Where top_share is near 1, one direction decides it." * (metric == "cka")
    scale = plain(metric) + SCALES.get(metric, "")
    x = {"x": alt.X("other layer:O", title="layer", axis=LAYER_AXIS)}
    title = "how alike the layers are" if alike else "how far apart the layers are"
    name = "distances" if number == 1 else f"distances-{number}"
    return _map(side, name, title, caption, rows, x, "distance", scale)


def entropies(side: Side) -> Figure | None:
    """How the entropies of texts or images spread in each layer: a map per model."""
    metric, maps = next(_maps(side, square=False), ("", []))
    rows = []
    for model, grid in maps:
        for layer, counts in _thinned(grid).iterrows():
            shares = _shares(counts.to_numpy())
            for i, share in enumerate(shares):
                ends = {"from": i / len(shares), "to": (i + 1) / len(shares)}
                rows.append({"model": model, "layer": layer, **ends, "share": share})
    inputs = side.inputs
    caption = (
        f"{plain(metric)} of single {inputs}, as a share of its bound (0 to 1), layer by layer "
        f"from the input (bottom) to the last layer (top): the brighter, the more of the {inputs} "
        f"lie there (% of {inputs}, all tasks)."
    )
    along = "share of the bound (0 to 1)"
    x = {"x": alt.X("from:Q", scale=alt.Scale(domain=[0, 1]), title=along), "x2": "to"}
    title = f"the entropies of single {inputs}"
    return _map(side, "entropies", title, caption, rows, x, "share", f"% of {inputs}")


def _maps(side: Side, square: bool) -> Iterator[Maps]:
    """Each metric with such a table, and of the first models the mean of it over tasks.

    square: a value for each two layers; else the counts of a histogram in each layer.
    """
    values = side.report.get("values")
    ranks = {key: rank for rank, key in enumerate(side.models)}
    columns = ["source", "name", "task", "layer", "place", "value"]
    cells = [
        [ranks[key], *map(row.get, columns)]
        for row in (values.rows if values else ())
        if row["kind"] == "table"
        and row["variant"] == "full"
        and (key := (row["model"], row["revision"])) in ranks
        and side.has_task(row["task"])
    ]
    frame = pd.DataFrame(cells, columns=["rank", *columns]).astype({"layer": int, "value": float})
    layers = [frame[name] for name in ("rank", *columns[:4])]
    record = frame.place.eq(0).groupby(layers).cumsum()  # a newer one counts, whole
    frame = frame[record == record.groupby(layers).transform("max")]
    for (metric, name), tables in frame.groupby(["source", "name"], sort=False):
        maps = []
        for rank, of_model in list(tables.groupby("rank"))[:MAPS]:
            of_tasks = of_model.groupby("task", sort=False)
            grids = [
                task.pivot(index="layer", columns="place", values="value") for _, task in of_tasks
            ]
            alike = [grid for grid in grids if grid.notna().equals(grids[0].notna())]
            label = list(side.models.values())[rank]["model"]
            maps.append((plain(label), sum(alike[1:], alike[0]) / len(alike)))
        grid = maps[0][1]
        if (grid.shape[0] == grid.shape[1] > 2) if square else name == "histogram":
            if square:
                maps = [(m, g.set_axis(g.index, axis=1)) for m, g in maps if len(set(g.shape)) == 1]
            yield metric, maps


def _thinned(grid: pd.DataFrame) -> pd.DataFrame:
    """At most LAYERS rows, evenly spread, the first and the last among them."""
    places = np.linspace(0, len(grid) - 1, min(len(grid), LAYERS))
    return grid.iloc[places.round().astype(int)]


def _shares(counts: np.ndarray[Any, Any]) -> list[float]:
    """Counts in fewer bins, in percent of all; only whole bins are put together."""
    width = max(1, len(counts) // BINS) if len(counts) % BINS == 0 else 1
    joined = counts.reshape(-1, width).sum(axis=1)
    shares: list[float] = (100 * joined / (joined.sum() or 1)).tolist()
    return shares


def _map(
    side: Side,
    name: str,
    title: str,
    caption: str,
    rows: list[dict[str, Any]],
    across: Mapping[str, Any],
    shade: str,
    of: str,
) -> Figure | None:
    """A map per model: layers upwards, and across layers or shares; None without rows."""
    if not rows:
        return None
    drawn, models = len(distinct(rows, "model")), len(side.models)
    caption += f" n = {counted(drawn, 'model')}"
    caption += f", the first of {models:,}." if drawn < models else "."
    legend = alt.Legend(
        type="gradient", direction="horizontal", gradientLength=180, tickCount=4, titleLimit=300
    )
    scale = alt.Scale(scheme="viridis")
    cell = alt.Chart(DATA).mark_rect()
    cell = cell.encode(
        y=alt.Y("layer:O", sort="descending", axis=LAYER_AXIS),
        color=alt.Color(f"{shade}:Q", title=of, scale=scale, legend=legend),
        description=ROW,
        **across,
    )
    chart = faceted(cell, "model", PIXELS, PIXELS, free="xy")
    return side.figure(name, title, caption, ordered(rows, "model"), chart)
