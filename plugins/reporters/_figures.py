"""The figures of a leaderboard, made with Altair (Vega-Lite): the page, SVG and PNG show the same.

    figures(board)        # those that there are data for
    figure_files(board)   # NAME.svg and NAME.png of each, made without a browser

A figure's data are one table, `rows`, which the page offers beside it. Names in it come from
strangers: they are values, never names of fields, and a list of them may be a scale's domain but
not the order of panels. Vega-Lite would make fields of such a list, and Vega takes a value such as
"constructor" there for what every object inherits. Panels are ordered by a number: `ordered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt
import vl_convert

from lrd_harness.errors import say

from ._cells import plain

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


Rows = Sequence[Mapping[str, Any]]
# Okabe and Ito's colours, which colour-blind readers tell apart, without black and yellow and a
# little darker or lighter, so that each has a contrast of 3 to the white and to the dark page.
COLOURS = ("#1F7FC0", "#D55E00", "#00906A", "#C0649A", "#B07D00", "#3F97CC", "#8C6BB1", "#7D7D7D")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 3], [1, 3], [6, 2, 1, 2, 1, 2])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
GREY = "#7d7d7d"  # to be read on white and on a dark page
WIDTH = 250  # pixels of a facet in the files; the page fits facets to the screen
DATA = alt.NamedData(name="rows")  # of every chart
STROKE = alt.Legend(symbolType="stroke", symbolSize=600)  # long enough to tell dashes apart
SCALE = 2  # PNG pixels a unit


@dataclass(frozen=True)
class Figure:
    """A figure. rows: the data that it draws; chart: a Vega-Lite specification that names them.

    caption: what to read off it, with n; alt: the same for who cannot see it, in a sentence.
    facet: whether the chart is a row of charts, which may be broken into lines.
    """

    name: str
    title: str
    caption: str
    alt: str
    rows: Rows
    chart: Mapping[str, Any]
    facet: bool = False


def figures(board: Leaderboard) -> list[Figure]:
    """All figures that there are data for, those of the base models behind the others."""
    from . import (
        _figures_layers,
        _figures_profiles,
        _figures_pruned,
        _figures_ranking,
        _figures_tables,
    )

    makers = (
        _figures_ranking.predictors,
        _figures_ranking.ranks,
        _figures_layers.curves,
        _figures_profiles.by_kind,
        _figures_profiles.by_family,
        _figures_profiles.by_task_type,
        _figures_tables.distances,
        _figures_tables.entropies,
        _figures_pruned.pruning,
    )
    sides = [board, *([board.base] if board.base else [])]
    return [figure for side in sides for make in makers if (figure := make(side))]


def figure_files(board: Leaderboard) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each figure as SVG and as PNG (2 pixels a unit, white ground).

    One that cannot be drawn is left out, which is said.
    """
    for figure in figures(board):
        try:
            svg: str = vl_convert.vegalite_to_svg(drawn(figure), vl_version=vega_lite())
        except ValueError as error:
            say(f"The figure {figure.name!r} could not be drawn: {plain(str(error))[:200]}")
            continue
        # or seams would shine through between the cells of a map
        svg = svg.replace('class="mark-rect', 'shape-rendering="crispEdges" class="mark-rect')
        yield f"{figure.name}.svg", svg.encode()
        png: bytes = vl_convert.svg_to_png(svg, scale=SCALE)
        yield f"{figure.name}.png", png


def drawn(figure: Figure) -> dict[str, Any]:
    """The specification with its data and its title, as a file shows it."""
    title = {"text": figure.title, "anchor": "start", "fontSize": 15, "offset": 12}
    ground = {"background": "white"}
    return {**figure.chart, **ground, "title": title, "datasets": {"rows": list(figure.rows)}}


def vega_lite() -> str:
    """The version of Vega-Lite that Altair writes: "6.4"."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def finished(chart: alt.TopLevelMixin, description: str) -> dict[str, Any]:
    """The chart's specification over the data named "rows", with the look of all figures."""
    return {
        **_shared(chart.to_dict(validate=False)),
        "data": DATA.to_dict(),
        "description": description,
        "config": CONFIG,
    }


def _shared(part: Any) -> Any:
    """Without the named data of single layers: a facet hands its share of the rows to each."""
    if isinstance(part, list):
        return [_shared(one) for one in part]
    if not isinstance(part, dict):
        return part
    named = isinstance(part.get("data"), dict) and "name" in part["data"]
    return {key: _shared(one) for key, one in part.items() if not (named and key == "data")}


CONFIG: dict[str, Any] = {
    "background": None,
    "aria": True,
    "font": "system-ui, sans-serif",
    "mark": {"aria": False},  # thousands of marks would be read out; the data are a table beside it
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 170,
        "gridColor": "#dddddd",
        "domainColor": "#888888",
        "tickColor": "#888888",
    },
    "legend": {
        "orient": "bottom",
        "direction": "vertical",
        "columns": 2,
        "labelFontSize": 11,
        "labelLimit": 220,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "symbolSize": 90,
        "symbolStrokeWidth": 2,
        "symbolOpacity": 1,
    },
    "header": {"labelFontSize": 12, "labelLimit": 250, "titleFontSize": 12},
}


def colour(field: str, names: Sequence[str], title: str | None = None, **more: Any) -> alt.Color:
    """Names in the palette's colours, in this order."""
    shades = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    scale = alt.Scale(domain=list(names), range=shades)
    return alt.Color(field, type="nominal", title=title, scale=scale, **more)


def ordered(rows: Sequence[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """The rows with the place of their panel, 0 first, as "order": panels as they first come up."""
    names = {name: i for i, name in enumerate(dict.fromkeys(row[field] for row in rows))}
    return [{**row, "order": names[row[field]]} for row in rows]


def panels(field: str) -> alt.Facet:
    """A panel for each value of a field of rows that are `ordered` by it."""
    return alt.Facet(
        field, type="nominal", sort=alt.EncodingSortField("order", op="min"), title=None
    )


def dash(field: str, names: Sequence[str], title: str | None = None) -> alt.StrokeDash:
    """Names in dash patterns, so that lines differ in grey print too."""
    patterns = [DASHES[i % len(DASHES)] for i in range(len(names))]
    scale = alt.Scale(domain=list(names), range=patterns)
    return alt.StrokeDash(field, type="nominal", title=title, scale=scale, legend=STROKE)


def tips(rows: Rows, names: Sequence[str]) -> list[alt.Tooltip]:
    """What is shown of a mark that is pointed at; words where any row has one."""
    found = []
    for name in names:
        words = any(isinstance(row[name], str) for row in rows)
        form: dict[str, Any] = {} if words else {"format": ".4~g"}
        found.append(alt.Tooltip(name, type="nominal" if words else "quantitative", **form))
    return found


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 model", "2 models"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def prefix(board: Leaderboard) -> tuple[str, str]:
    """What stands before the names of the files and the titles of a board's figures."""
    return ("base-", "Base models: ") if board.kind == "base" else ("", "")


def titled(board: Leaderboard, title: str) -> str:
    """The title of a figure, which says where it is of base models."""
    text = prefix(board)[1] + title
    return text[:1].upper() + text[1:]
