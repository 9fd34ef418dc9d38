"""Figures of metrics with several numbers a layer: distances between layers, entropies of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from ._cells import plain
from ._figures import DATA, Figure, Rows, counted, finished, ordered, panels, prefix, tips, titled

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard
    from lrd_harness.results.rows import MetricRow, Table


MODELS = 6  # facets
LAYERS = 33  # rows of a map; more layers are thinned out
SIDE = 220  # pixels
BINS = 25  # of a distribution, as drawn
Grid = list[list[float]]
AXIS = alt.Axis(labelOverlap=True, labelAngle=0, ticks=False, grid=False)


def distances(board: Leaderboard) -> Figure | None:
    """How far apart each two layers are: a map a model, of the first metric that measures it."""
    held = _tables(
        board,
        lambda table: (
            len(table.layers) > 2 and all(len(r) == len(table.layers) for r in table.rows)
        ),
    )
    if not held:
        return None
    metric, by_model = held
    rows = []
    for label, layers, grid in by_model:
        kept = _thinned(range(len(layers)))
        rows += [
            {"model": label, "layer": layers[i], "other layer": layers[j], "distance": grid[i][j]}
            for i in kept
            for j in kept
        ]
    rows = ordered(rows, "model")
    models = len(by_model)
    caption = (
        f"{plain(metric)} between the states of each two layers, mean over tasks: dark is near, "
        "bright is far; blocks along the diagonal are layers that do much the same. "
        f"n = {counted(models, 'model')}{_of(board, models)}."
    )
    known = " (0 the same, 1 orthogonal)" if metric == "subspace_distance" else ""
    scale = plain(metric) + known
    alt_text = f"Maps of the distance between each two layers of {counted(models, 'model')}."
    return Figure(
        f"{prefix(board)[0]}distances",
        titled(board, "how far apart the layers are"),
        caption,
        alt_text,
        rows,
        finished(_map(rows, "other layer", "distance", scale), alt_text),
        facet=True,
    )


def entropies(board: Leaderboard) -> Figure | None:
    """How the texts' entropies spread in each layer: a map a model."""
    held = _tables(board, lambda table: len(table.rows[0]) != len(table.layers), "histogram")
    if not held:
        return None
    metric, by_model = held
    rows = []
    for label, layers, grid in by_model:
        for i in _thinned(range(len(layers))):
            shares = _shares(grid[i])
            rows += [
                {
                    "model": label,
                    "layer": layers[i],
                    "from": k / len(shares),
                    "to": (k + 1) / len(shares),
                    "share": s,
                }
                for k, s in enumerate(shares)
            ]
    rows = ordered(rows, "model")
    models = len(by_model)
    caption = (
        f"{plain(metric)} of single texts, as a share of its bound (0 to 1), layer by layer from "
        "the input (bottom) to the last layer (top): the brighter, the more of the texts lie "
        f"there (% of texts, all tasks). n = {counted(models, 'model')}{_of(board, models)}."
    )
    alt_text = f"Distribution over texts of {plain(metric)} in each layer of "
    alt_text += f"{counted(models, 'model')}."
    return Figure(
        f"{prefix(board)[0]}entropies",
        titled(board, "how the entropies of texts are spread"),
        caption,
        alt_text,
        rows,
        finished(_map(rows, "from", "share", "% of texts"), alt_text),
        facet=True,
    )


def _tables(
    board: Leaderboard, fits: Callable[[Table], bool], name: str | None = None
) -> tuple[str, list[tuple[str, tuple[int, ...], Grid]]] | None:
    """The first metric with such a table, and of the first models the mean of it over tasks."""
    places = {row.info.key: i for i, row in enumerate(board.rows)}
    newest: dict[tuple[Any, str], tuple[MetricRow, Table]] = {}
    chosen: str | None = None
    for row in board.results.metrics:
        for key, table in row.tables.items() if row.key in places else ():
            if name in (None, key) and table.rows and fits(table):
                chosen = chosen or row.metric
                if row.metric == chosen:
                    newest[row.key, row.task] = row, table
    if chosen is None:
        return None
    by_model: dict[Any, list[Table]] = {}
    for (key, _), (_, table) in newest.items():
        by_model.setdefault(key, []).append(table)
    found = []
    for key in sorted(by_model, key=lambda key: places[key])[:MODELS]:
        layers, grid = _mean(by_model[key])
        if layers:
            found.append((plain(board.rows[places[key]].label), layers, grid))
    return (chosen, found) if found else None


def _mean(tables: Sequence[Table]) -> tuple[tuple[int, ...], Grid]:
    """The mean of tables, over those of the form that the first one has."""
    first = tables[0]
    alike = [t for t in tables if t.layers == first.layers and len(t.rows[0]) == len(first.rows[0])]
    return first.layers, [
        [sum(cell) / len(alike) for cell in zip(*lines, strict=True)]
        for lines in zip(*(table.rows for table in alike), strict=True)
    ]


def _thinned(places: Sequence[int]) -> list[int]:
    """At most LAYERS of them, evenly spread, the first and the last among them."""
    last = len(places) - 1
    if last < LAYERS:
        return list(places)
    return [places[round(i * last / (LAYERS - 1))] for i in range(LAYERS)]


def _shares(counts: Sequence[float]) -> list[float]:
    """Counts in fewer bins, in percent of all; only whole bins are put together."""
    width = max(1, len(counts) // BINS) if len(counts) % BINS == 0 else 1
    joined = [sum(counts[i : i + width]) for i in range(0, len(counts), width)]
    whole = sum(joined) or 1
    return [100 * count / whole for count in joined]


def _of(board: Leaderboard, models: int) -> str:
    return f", the first of {len(board.rows):,}" if models < len(board.rows) else ""


def _map(rows: Rows, across: str, shade: str, title: str) -> Any:
    """A map a model: layers upwards, and across layers, or shares from `from` to `to`."""
    y = alt.Y("layer", type="ordinal", sort="descending", axis=AXIS)
    shades = alt.Color(
        shade,
        type="quantitative",
        title=title,
        scale=alt.Scale(scheme="viridis"),
        legend=alt.Legend(
            type="gradient", direction="horizontal", gradientLength=180, tickCount=4, titleLimit=300
        ),
    )
    names = [name for name in rows[0] if name != "order"]
    cell = alt.Chart(DATA).mark_rect().encode(y=y, color=shades, tooltip=tips(rows, names))
    if across == "from":
        scale = alt.Scale(domain=[0, 1])
        x = alt.X("from", type="quantitative", scale=scale, title="share of the bound (0 to 1)")
        cell = cell.encode(x=x, x2="to")
    else:
        cell = cell.encode(x=alt.X(across, type="ordinal", title="layer", axis=AXIS))
    faceted = cell.properties(width=SIDE, height=SIDE).facet(panels("model"), columns=3, data=DATA)
    return faceted.resolve_scale(x="independent", y="independent")
