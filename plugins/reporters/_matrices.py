"""Figures of models beside each other: a map for each matrix of a panel metric."""

from __future__ import annotations

from collections.abc import Iterator

import altair as alt
import numpy as np

from lrd_harness.errors import plain
from lrd_harness.report import Table

from ._charts import DATA, MODELS, ROW, Figure, Side, distinct
from ._data import counted, valued

START = "pairs."  # of the names of the tables
MATRICES, SIDE = 8, 320  # maps of a board; pixels of one


def matrices(side: Side) -> Iterator[Figure]:
    """Of the first matrices, models in the order of the ranking."""
    start = side.prefix + START
    tables = [table for table in side.report.tables if table.name.startswith(start)]
    for number, table in enumerate(tables[:MATRICES], 1):
        if figure := _map(side, table, f"pairs-{number}"):
            yield figure


def _map(side: Side, table: Table, name: str) -> Figure | None:
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
    axis = alt.Axis(labelLimit=140, ticks=False, grid=False)
    # names are values, never a list: see `ordered`
    y, x = (alt.EncodingSortField(field, op="min") for field in ("order", "right"))
    legend = alt.Legend(type="gradient", direction="horizontal", gradientLength=180, tickCount=4)
    score = plain(table.name.removeprefix(side.prefix + START).replace(".", " ", 1))
    way = ", from row to column" * directed
    chart = alt.Chart(DATA).mark_rect().properties(width=SIDE, height=SIDE)
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
