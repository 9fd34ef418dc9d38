"""What all figures share, made with Altair (Vega-Lite), and the figures over the layers of models.

A figure's data are one table, `rows`. Names in it come from strangers: they are values, never names
of fields, nor a list that orders panels, which Vega-Lite would make fields of: see `ordered`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from lrd_harness.errors import plain
from lrd_harness.report import BOARDS, Report, Row, Table, inputs

from ._data import PREFIXES, counted, family, valued

Rows = Sequence[Mapping[str, Any]]
# Okabe and Ito's colours, which colour-blind readers tell apart, without black and yellow and a
# little darker or lighter, so that each has a contrast of 3 to the white and to the dark page.
COLOURS = ("#1F7FC0", "#D55E00", "#00906A", "#C0649A", "#B07D00", "#3F97CC", "#8C6BB1", "#7D7D7D")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 3], [1, 3], [6, 2, 1, 2, 1, 2])
GREY = "#7d7d7d"  # to be read on white and on a dark page
WIDTH = 250  # pixels of a facet in the files; the page fits facets to the screen
# The look of all figures. Marks are not read out, as there may be thousands: the data are a table.
STYLE = Path(__file__).parent / "assets" / "figures.json"
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])  # that Altair writes
DATA = alt.NamedData(name="rows")  # of every chart
ROW = alt.Description("row:N")  # of marks: the number of their row, where a page draws them
STROKE = alt.Legend(symbolType="stroke", symbolSize=600)  # long enough to tell dashes apart
MODELS = 30  # lines of a facet
APART = 8  # models, or groups of them, that are told apart by colours of their own
FACETS = 12
GUTTER, ROWS_APART = 64, 88  # pixels between panels, where axes have their labels
BANDS = 3  # groups whose bands can be told apart
STEP = 4  # of the 101 depths of a mean curve every fourth is drawn
OF = {"kind": "kinds of models", "family": "families", "task type": "task types"}
_BAND = "; the band is one standard deviation between models, none where a group has one model"
LAYER_AXIS = alt.Axis(labelOverlap=True, labelAngle=0, ticks=False, grid=False)
PER_PANEL = "Scores are 0 to 1, higher is better; every other panel is a profile in its own unit."


@dataclass(frozen=True)
class Figure:
    """A figure. rows: the data that it draws; chart: a Vega-Lite specification that names them.

    caption: what to read off it, with n; alt: what is drawn, for who cannot see it.
    facet: whether the chart is a row of charts, which may be broken into lines.
    """

    name: str
    title: str
    caption: str
    alt: str
    rows: Rows
    chart: Mapping[str, Any]
    facet: bool = False


@dataclass(frozen=True)
class Side:
    """A report's tables of its main board, or with a prefix of one beside it: "base.", "image."."""

    report: Report
    prefix: str = ""

    @property
    def inputs(self) -> str:
        """What its models read: "texts" or "images"."""
        return inputs(self.prefix[:-1] or self.report.facts.get("kind", ""))

    def get(self, name: str) -> Table | None:
        """Its table of that name."""
        return self.report.get(self.prefix + name)

    @cached_property
    def models(self) -> dict[tuple[str, str], Row]:
        """Model and revision -> its row of model_info, in the order of the ranking."""
        known, ranking = self.report.get("model_info"), self.get("ranking")
        if known is None or ranking is None:
            return {}
        order = {row["model"]: i for i, row in enumerate(ranking.rows)}
        rows = [row for row in known.rows if row["model"] in order]
        rows.sort(key=lambda row: order[row["model"]])
        return {(row["name"], row["revision"]): row for row in rows}

    @cached_property
    def _boards(self) -> dict[str, str]:
        """Task -> the prefix of the board that ranks by its scores."""
        tables = {prefix: self.report.get(f"{prefix}tasks") for prefix in PREFIXES}
        return {row["task"]: prefix for prefix, t in tables.items() if t for row in t.rows}

    def has_task(self, task: str) -> bool:
        """Whether a task is of this side; one without scores reads what the side's models read."""
        prefix = self._boards.get(task)
        return self.prefix != "base." if prefix is None else prefix == self.prefix

    def figure(self, name: str, title: str, caption: str, rows: Rows, chart: Any) -> Figure:
        """A figure; of which models it is beside others, its name and title say."""
        of = BOARDS.get(self.prefix[:-1])
        title = f"{of}: {title}" if of else title[:1].upper() + title[1:]
        subjects = distinct(rows, next(iter(rows[0])))
        names = ", ".join(map(str, subjects[:FACETS])) + " and others" * (len(subjects) > FACETS)
        specification = {
            **_shared(chart.to_dict(validate=False)),
            "data": DATA.to_dict(),
            "description": f"{title}: {names}.",
            "config": json.loads(STYLE.read_text(encoding="utf-8")),
        }
        name = self.prefix.replace(".", "-") + name
        alt = specification["description"]
        return Figure(name, title, caption, alt, rows, specification, "facet" in specification)


def distinct(rows: Rows, field: str) -> list[Any]:
    """The values of a field, each once, as they first come up."""
    return list(dict.fromkeys(row[field] for row in rows))


def _shared(part: Any) -> Any:
    """Without the named data of single layers: a facet hands its share of the rows to each."""
    if isinstance(part, list):
        return [_shared(item) for item in part]
    if not isinstance(part, dict):
        return part
    named = isinstance(part.get("data"), dict) and "name" in part["data"]
    return {key: _shared(item) for key, item in part.items() if not (named and key == "data")}


def colour(rows: Rows, field: str, title: str | None = None) -> alt.Color:
    """The values of a field in the palette's colours, in the order of the rows."""
    return alt.Color(f"{field}:N", **_scaled(rows, field, title, COLOURS, 0))


def dash(rows: Rows, field: str, title: str | None = None) -> alt.StrokeDash:
    """The values of a field in dash patterns, others for those whose colours come up again."""
    return alt.StrokeDash(f"{field}:N", **_scaled(rows, field, title, DASHES, 1))


def _scaled(rows: Rows, field: str, title: str | None, looks: Any, shift: int) -> dict[str, Any]:
    names = distinct(rows, field)
    each = [looks[(i + i // len(looks) * shift) % len(looks)] for i in range(len(names))]
    scale = alt.Scale(domain=names, range=each)
    return {"title": title or field, "scale": scale, "legend": STROKE}


def ordered(rows: Sequence[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """The rows with the place of their panel, 0 first, as "order": panels as they first come up."""
    places = {name: i for i, name in enumerate(distinct(rows, field))}
    return [{**row, "order": places[row[field]]} for row in rows]


def depth_axis(title: str) -> alt.X:
    """Depth from 0 to 1."""
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=4)
    return alt.X("depth:Q", title=title, scale=scale, axis=axis)


def source_name(source: str) -> str:
    """A source of profiles as people read it: "score", "METRIC" or "METRIC.PROFILE"."""
    if source == "score":
        return "score ↑"
    metric, _, name = source.partition(".")
    return plain(metric if name == metric else source)


def curves(side: Side) -> Figure | None:
    """Scores and the main profile of each metric against depth 0..1, one line per model."""
    rows = ordered(list(_curves(side)), "name")
    if not rows:
        return None
    models = distinct(rows, "model")
    apart = len(models) <= APART
    caption = (
        "Mean over tasks at each layer; depth 0 is what enters the first block, 1 the last layer. "
        f"{PER_PANEL} n = {counted(len(models), 'model')}, "
    )
    caption += "a colour each, dashes by family." if apart else "coloured by family."
    if len(side.models) > MODELS:
        caption += f" Only the first {MODELS} models of {len(side.models):,} are drawn."
    by = "model" if apart else "family"
    lines = alt.Chart(DATA).mark_line(strokeWidth=1.8 if apart else 1.2, opacity=0.9, clip=True)
    chart = lines.encode(
        x=depth_axis("depth (0 input, 1 last layer)"),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=colour(rows, by),
        strokeDash=dash(rows, "family"),
        detail="model:N",
        description=ROW,
    )
    title = "scores and metrics, layer by layer"
    return side.figure("curves", title, caption, rows, faceted(chart, "name"))


def faceted(cell: Any, by: str, height: int = 150, width: int = WIDTH, free: str = "y") -> Any:
    """A panel for each value of a field of rows that are `ordered` by it, three in a row.

    free: the scales that are each panel's own, "y" or "xy"; "" for none.
    """
    panels = alt.Facet(f"{by}:N", sort=alt.EncodingSortField("order", op="min"), title=None)
    sized = cell.properties(width=width, height=height)
    apart = {"column": GUTTER, "row": ROWS_APART}
    chart = sized.facet(panels, columns=3, data=DATA, bounds="flush", spacing=apart)
    if free:
        chart = chart.resolve_scale(**dict.fromkeys(free, "independent"))
    return chart.resolve_axis(x="independent", y="independent")


def _curves(side: Side) -> Iterator[dict[str, Any]]:
    """The means over tasks; a curve of one layer is none."""
    recorded, profiles = side.report.get("layers"), side.get("profiles")
    if recorded is None or profiles is None:
        return
    main = [r["source"] for r in profiles.rows if r["grouping"] == "all" and r["main"]][:FACETS]
    by_model: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in recorded.rows:
        if side.has_task(row["task"]):
            by_model[row["model"], row["revision"]].append(row)
    for source in main:
        for key, model in list(side.models.items())[:MODELS]:
            values = [(r["layer"], r["task"], valued(r.get(source))) for r in by_model[key]]
            frame = pd.DataFrame(values, columns=["layer", "task", "value"]).dropna()
            # at every layer that all of the tasks have
            grid = frame.astype({"value": float}).pivot_table("value", "layer", "task").dropna()
            depth = max(valued(model.get("blocks")) or 0, *grid.index, 1)
            for layer, value in grid.mean(axis=1).items() if len(grid) > 1 else ():
                yield {
                    "name": source_name(source),
                    "model": plain(model["model"]),
                    "family": family(model),
                    "layer": int(layer),
                    "depth": layer / depth,
                    "value": value,
                }


def groups(side: Side, grouping: str) -> Figure | None:
    """Mean curves along depth of kinds of models, families or types of tasks, side by side.

    None below two groups, where there is nothing to compare; where each is a single model, which
    has its own curve already; and of families where these are the kinds over again.
    """
    profiles = side.get("profiles")
    main = [row for row in profiles.rows if row["main"]] if profiles else []
    # curves without the names of their groups
    shapes = {
        by: sorted(f"{row['source']} {row['means']}" for row in main if row["grouping"] == by)
        for by in ("kind", "family")
    }
    if grouping == "family" and shapes["family"] == shapes["kind"]:
        return None
    sources = distinct(main, "source")[:9]
    means = [row for row in main if row["grouping"] == grouping and row["source"] in sources]
    every = distinct(means, "group")
    drawn = every[:APART]
    means = [row for row in means if row["group"] in drawn]
    means.sort(key=lambda row: sources.index(row["source"]))
    rows = ordered([point for row in means for point in _group_points(row)], "name")
    single = grouping != "task type" and all(row["models"] < 2 for row in means)
    if len(drawn) < 2 or single or not rows:
        return None
    sizes = ", ".join(_size(means, group) for group in drawn)
    caption = (
        "Mean over models (of each one's mean over tasks) along depth, 0 the first layer of a "
        f"profile, 1 the last{_BAND if len(drawn) <= BANDS else ''}. {PER_PANEL} n = {sizes}."
    )
    if len(every) > len(drawn):
        caption += f" Only the first {APART} of {len(every)} are drawn."
    title, name = f"{OF[grouping]} along depth", f"profiles-{grouping.replace(' ', '-')}"
    return side.figure(name, title, caption, rows, faceted(_bands(rows, grouping), "name"))


def _size(rows: Iterable[Row], group: str) -> str:
    """How many models a group has: "encoder 3 models", "decoder up to 2 models"."""
    sizes = {int(row["models"]) for row in rows if row["group"] == group}  # a panel each
    return f"{plain(group)} {'up to ' * (len(sizes) > 1)}{counted(max(sizes), 'model')}"


def _group_points(row: Row) -> Iterator[dict[str, Any]]:
    means, spread, counts = (valued(row[name]) for name in ("means", "spread", "counts"))
    for i in range(0, len(means), STEP):
        if means[i] is not None:
            yield {
                "name": source_name(row["source"]),
                "group": plain(row["group"]),
                "depth": i / (len(means) - 1),
                "mean": means[i],
                "low": None if spread[i] is None else means[i] - spread[i],
                "high": None if spread[i] is None else means[i] + spread[i],
                "models": counts[i],
            }


def _bands(rows: Rows, grouping: str) -> Any:
    x, scale = depth_axis("depth (0 first layer, 1 last)"), alt.Scale(zero=False)
    shade = colour(rows, "group", grouping)
    # a group without a spread has a band of no height: a panel of nothing has no extent
    band = alt.Chart().mark_area(opacity=0.15)
    band = band.transform_calculate(
        bottom="datum.low === null ? datum.mean : datum.low",
        top="datum.high === null ? datum.mean : datum.high",
    )
    bottom = alt.Y("bottom:Q", title=None, scale=scale)
    line = alt.Chart().mark_line(strokeWidth=1.8)
    line = line.encode(
        x=x,
        y=alt.Y("mean:Q", title=None, scale=scale),
        color=shade,
        strokeDash=dash(rows, "group", grouping),
        description=ROW,
    )
    shades = [band.encode(x=x, y=bottom, y2="top", color=shade)]
    return alt.layer(*(shades if len(distinct(rows, "group")) <= BANDS else []), line)
