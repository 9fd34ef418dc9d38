"""Figures of metrics with several numbers per layer: distances of layers, entropies of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any

import altair as alt

from lrd_harness.errors import plain
from lrd_harness.report import Report

from ._charts import DATA, Figure, counted, figure, labels, ordered, panels, side_tasks, tips

MAPS, LAYERS, SIDE = 6, 33, 220  # maps; their rows, more being thinned out; their pixels
BINS = 25  # of a distribution, as drawn
Grid = list[list[float]]
_LAYERS = alt.Axis(labelOverlap=True, labelAngle=0, ticks=False, grid=False)


def distances(report: Report, prefix: str) -> Figure | None:
    """How far apart each two layers are: a map per model, of the first metric that measures it."""
    metric, maps = _maps(report, prefix, square=True)
    rows = [
        {"model": model, "layer": layers[i], "other layer": layers[j], "distance": grid[i][j]}
        for model, layers, grid in maps
        for i in _thinned(len(layers))
        for j in _thinned(len(layers))
    ]
    caption = (
        f"{plain(metric)} between the states of each two layers, mean over tasks: dark is near, "
        "bright is far; blocks along the diagonal are layers that do much the same."
    )
    scale = plain(metric)
    scale += " (0 the same, 1 orthogonal)" if metric == "subspace_distance" else ""
    x = {"x": alt.X("other layer:O", title="layer", axis=_LAYERS)}
    title = "how far apart the layers are"
    return _map(report, prefix, "distances", title, caption, rows, x, "distance", scale)


def entropies(report: Report, prefix: str) -> Figure | None:
    """How the texts' entropies spread in each layer: a map per model."""
    metric, maps = _maps(report, prefix, square=False)
    rows = []
    for model, layers, grid in maps:
        for i in _thinned(len(layers)):
            shares = _shares(grid[i])
            for k, share in enumerate(shares):
                ends = {"from": k / len(shares), "to": (k + 1) / len(shares)}
                rows.append({"model": model, "layer": layers[i], **ends, "share": share})
    caption = (
        f"{plain(metric)} of single texts, as a share of its bound (0 to 1), layer by layer from "
        "the input (bottom) to the last layer (top): the brighter, the more of the texts lie "
        "there (% of texts, all tasks)."
    )
    along = "share of the bound (0 to 1)"
    x = {"x": alt.X("from:Q", scale=alt.Scale(domain=[0, 1]), title=along), "x2": "to"}
    title = "the entropies of single texts"
    return _map(report, prefix, "entropies", title, caption, rows, x, "share", "% of texts")


def _maps(
    report: Report, prefix: str, square: bool
) -> tuple[str, list[tuple[str, list[int], Grid]]]:
    """The first metric with such a table, and of the first models the mean of it over tasks.

    square: a value for each two layers; else the counts of a histogram in each layer.
    """
    values, models = report.get("values"), labels(report, prefix)
    ours = side_tasks(report, prefix)
    held: dict[tuple[str, str], dict[Any, dict[str, dict[int, list[float]]]]] = {}
    for row in values.rows if values else ():
        key = row["model"], row["revision"]
        whole = row["kind"] == "table" and row["variant"] == "full"
        if whole and key in models and ours(row["task"]):
            tasks = held.setdefault((row["source"], row["name"]), {}).setdefault(key, {})
            cells = tasks.setdefault(row["task"], {}).setdefault(int(row["layer"]), [])
            cells[int(row["place"]) :] = [float(row["value"])]  # a newer record counts
    for (metric, name), by_model in held.items():
        found = []
        for key in [key for key in models if key in by_model][:MAPS]:
            tables = list(by_model[key].values())
            alike = [t for t in tables if _form(t) == _form(tables[0])]
            layers = list(tables[0])
            grid = [
                [fsum(cell) / len(alike) for cell in zip(*(t[n] for t in alike), strict=True)]
                for n in layers
            ]
            found.append((plain(models[key]["model"]), layers, grid))
        layers, grid = found[0][1:]
        if (len(grid[0]) == len(layers) > 2) if square else name == "histogram":
            return metric, found
    return "", []


def _form(table: Mapping[int, Sequence[float]]) -> list[tuple[int, int]]:
    return [(layer, len(cells)) for layer, cells in table.items()]


def _thinned(count: int) -> list[int]:
    """At most LAYERS places of that many, evenly spread, the first and the last among them."""
    if count <= LAYERS:
        return list(range(count))
    return [round(i * (count - 1) / (LAYERS - 1)) for i in range(LAYERS)]


def _shares(counts: Sequence[float]) -> list[float]:
    """Counts in fewer bins, in percent of all; only whole bins are put together."""
    width = max(1, len(counts) // BINS) if len(counts) % BINS == 0 else 1
    joined = [sum(counts[i : i + width]) for i in range(0, len(counts), width)]
    whole = sum(joined) or 1
    return [100 * count / whole for count in joined]


def _map(
    report: Report,
    prefix: str,
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
    drawn, models = len({row["model"] for row in rows}), len(labels(report, prefix))
    caption += f" n = {counted(drawn, 'model')}"
    caption += f", the first of {models:,}." if drawn < models else "."
    legend = alt.Legend(
        type="gradient", direction="horizontal", gradientLength=180, tickCount=4, titleLimit=300
    )
    scale = alt.Scale(scheme="viridis")
    cell = alt.Chart(DATA).mark_rect()
    cell = cell.encode(
        y=alt.Y("layer:O", sort="descending", axis=_LAYERS),
        color=alt.Color(f"{shade}:Q", title=of, scale=scale, legend=legend),
        tooltip=tips(rows, list(rows[0])),
        **across,
    )
    made = cell.properties(width=SIDE, height=SIDE).facet(panels("model"), columns=3, data=DATA)
    chart = made.resolve_scale(x="independent", y="independent")
    return figure(prefix, name, title, caption, ordered(rows, "model"), chart)
