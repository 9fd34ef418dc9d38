"""What all figures share, made with Altair (Vega-Lite), and the figures over the layers of models.

A figure's data are one table, `rows`, which the page offers beside it. Names in it come from
strangers: they are values, never names of fields, and a list of them may be a scale's domain but
not the order of panels. Vega-Lite would make fields of such a list, and Vega takes a value such as
"constructor" there for what every object inherits. Panels are ordered by a number: `ordered`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

import altair as alt

from lrd_harness.errors import plain
from lrd_harness.report import Report, Row

from ._data import valued

Rows = Sequence[Mapping[str, Any]]
# Okabe and Ito's colours, which colour-blind readers tell apart, without black and yellow and a
# little darker or lighter, so that each has a contrast of 3 to the white and to the dark page.
COLOURS = ("#1F7FC0", "#D55E00", "#00906A", "#C0649A", "#B07D00", "#3F97CC", "#8C6BB1", "#7D7D7D")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 3], [1, 3], [6, 2, 1, 2, 1, 2])
GREY = "#7d7d7d"  # to be read on white and on a dark page
WIDTH = 250  # pixels of a facet in the files; the page fits facets to the screen
# The look of all figures. Marks are not read out, as there may be thousands: the data are a table.
STYLE = Path(__file__).parent / "assets" / "figures.json"
DATA = alt.NamedData(name="rows")  # of every chart
STROKE = alt.Legend(symbolType="stroke", symbolSize=600)  # long enough to tell dashes apart
MODELS = 30  # lines of a facet
APART = 8  # models, or groups of them, that are told apart by colours of their own
FACETS = 12
STEP = 4  # of the 101 depths of a mean curve every fourth is drawn
OF = {"kind": "kinds of models", "family": "families", "task type": "task types"}
MAPS, LAYERS, SIDE = 6, 33, 220  # maps; their rows, more being thinned out; their pixels
BINS = 25  # of a distribution, as drawn
Grid = list[list[float]]
_LAYERS = alt.Axis(labelOverlap=True, labelAngle=0, ticks=False, grid=False)
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


def figure(prefix: str, name: str, title: str, caption: str, rows: Rows, chart: Any) -> Figure:
    """A figure; prefix: "base." where it is of base models, which its name and title then say."""
    title = f"Base models: {title}" if prefix else title[:1].upper() + title[1:]
    shown = list(dict.fromkeys(str(row[next(iter(row))]) for row in rows))
    names = ", ".join(shown[:FACETS]) + (" and others" if len(shown) > FACETS else "")
    drawn = {
        **_shared(chart.to_dict(validate=False)),
        "data": DATA.to_dict(),
        "description": f"{title}: {names}.",
        "config": json.loads(STYLE.read_text(encoding="utf-8")),
    }
    name = f"base-{name}" if prefix else name
    return Figure(name, title, caption, drawn["description"], rows, drawn, "facet" in drawn)


def vega_lite() -> str:
    """The version of Vega-Lite that Altair writes: "6.4"."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _shared(part: Any) -> Any:
    """Without the named data of single layers: a facet hands its share of the rows to each."""
    if isinstance(part, list):
        return [_shared(one) for one in part]
    if not isinstance(part, dict):
        return part
    named = isinstance(part.get("data"), dict) and "name" in part["data"]
    return {key: _shared(one) for key, one in part.items() if not (named and key == "data")}


def colour(field: str, names: Sequence[str], title: str | None = None, **more: Any) -> alt.Color:
    """Names in the palette's colours, in this order."""
    shades = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    scale = alt.Scale(domain=list(names), range=shades)
    return alt.Color(f"{field}:N", title=title, scale=scale, **more)


def ordered(rows: Sequence[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """The rows with the place of their panel, 0 first, as "order": panels as they first come up."""
    names = {name: i for i, name in enumerate(dict.fromkeys(row[field] for row in rows))}
    return [{**row, "order": names[row[field]]} for row in rows]


def dash(field: str, names: Sequence[str], title: str | None = None) -> alt.StrokeDash:
    """Names in dash patterns, so that lines differ in grey print too."""
    patterns = [DASHES[i % len(DASHES)] for i in range(len(names))]
    scale = alt.Scale(domain=list(names), range=patterns)
    return alt.StrokeDash(f"{field}:N", title=title, scale=scale, legend=STROKE)


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


def depth_axis(title: str) -> alt.X:
    """Depth from 0 to 1."""
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(tickCount=4)
    return alt.X("depth:Q", title=title, scale=scale, axis=axis)


def labels(report: Report, prefix: str = "") -> dict[tuple[str, str], Row]:
    """Model and revision -> its row of model_info, in the order of the ranking."""
    known, ranking = report.get("model_info"), report.get(f"{prefix}ranking")
    if known is None or ranking is None:
        return {}
    order = {row["model"]: i for i, row in enumerate(ranking.rows)}
    rows = sorted((r for r in known.rows if r["model"] in order), key=lambda r: order[r["model"]])
    return {(row["name"], row["revision"]): row for row in rows}


def family(row: Row) -> str:
    """The family of a model, "unknown" where it is."""
    return plain(row.get("family") or "unknown")


def source_name(source: str) -> str:
    """A source of profiles as people read it: "score", "METRIC" or "METRIC.PROFILE"."""
    if source == "score":
        return "score ↑"
    metric, _, name = source.partition(".")
    return plain(metric if name == metric else source)


def curves(report: Report, prefix: str) -> Figure | None:
    """Scores and the main profile of each metric against depth 0..1, one line per model."""
    models = labels(report, prefix)
    drawn = dict(list(models.items())[:MODELS])
    rows = ordered(list(_curves(report, prefix, drawn)), "name")
    if not rows:
        return None
    shown = list(dict.fromkeys(row["model"] for row in rows))
    apart = len(shown) <= APART
    caption = (
        "Mean over tasks at each layer; depth 0 is what enters the first block, 1 the last layer. "
        f"{PER_PANEL} n = {counted(len(shown), 'model')}, "
    )
    caption += "a colour each, dashes by family." if apart else "coloured by family."
    if len(models) > MODELS:
        caption += f" Only the first {MODELS} models of {len(models):,} are drawn."
    by = "model" if apart else "family"
    lines = alt.Chart(DATA).mark_line(strokeWidth=1.8 if apart else 1.2, opacity=0.9, clip=True)
    chart = lines.encode(
        x=depth_axis("depth (0 input, 1 last layer)"),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=colour(by, list(dict.fromkeys(row[by] for row in rows)), title=by, legend=STROKE),
        strokeDash=dash("family", list(dict.fromkeys(r["family"] for r in rows)), title="family"),
        detail="model:N",
        tooltip=tips(rows, ("model", "family", "name", "layer", "value")),
    )
    title = "scores and metrics, layer by layer"
    return figure(prefix, "curves", title, caption, rows, faceted(chart, "name"))


def faceted(cell: Any, by: str, height: int = 150, width: int = WIDTH, free: str = "y") -> Any:
    """A panel for each value of a field of rows that are `ordered` by it, three in a row.

    free: the scales that are each panel's own, "y" or "xy"; "" for none.
    """
    panels = alt.Facet(f"{by}:N", sort=alt.EncodingSortField("order", op="min"), title=None)
    made = cell.properties(width=width, height=height).facet(panels, columns=3, data=DATA)
    if free:
        made = made.resolve_scale(**dict.fromkeys(free, "independent"))
    return made.resolve_axis(x="independent", y="independent")


def side_tasks(report: Report, prefix: str) -> Callable[[str], bool]:
    """Whether a task is of this side: of the likelihood tasks where the prefix is "base."."""
    base = report.get("base.tasks")
    of_base = {row["task"] for row in base.rows} if base else set()
    return lambda task: (task in of_base) == bool(prefix)


def _curves(report: Report, prefix: str, models: Mapping[Any, Row]) -> Iterator[dict[str, Any]]:
    """The means over tasks; a curve of one layer is none."""
    recorded, profiles = report.get("layers"), report.get(f"{prefix}profiles")
    if recorded is None or profiles is None:
        return
    main = [r["source"] for r in profiles.rows if r["grouping"] == "all" and r["main"]][:FACETS]
    of_side = side_tasks(report, prefix)
    rows: dict[Any, list[Row]] = {key: [] for key in models}
    for row in recorded.rows:
        if (row["model"], row["revision"]) in models and of_side(row["task"]):
            rows[row["model"], row["revision"]].append(row)
    for source in main:
        for key, model in models.items():
            tasks: dict[str, dict[int, float]] = {}
            for row in rows[key]:
                if (value := valued(row.get(source))) is not None:
                    tasks.setdefault(row["task"], {})[int(row["layer"])] = value
            # at every layer that all of them have
            layers = sorted(set.intersection(*map(set, tasks.values()))) if tasks else []
            means = {n: fsum(t[n] for t in tasks.values()) / len(tasks) for n in layers}
            depth = max(valued(model.get("blocks")) or 0, *means, 1)
            for layer, value in means.items() if len(means) > 1 else ():
                yield {
                    "name": source_name(source),
                    "model": plain(model["model"]),
                    "family": family(model),
                    "layer": layer,
                    "depth": layer / depth,
                    "value": value,
                }


def groups(report: Report, prefix: str, grouping: str) -> Figure | None:
    """Mean curves along depth of kinds of models, families or types of tasks, side by side.

    None below two groups, where there is nothing to compare, and of families where these are the
    kinds over again.
    """
    profiles = report.get(f"{prefix}profiles")
    if profiles is None:
        return None
    main = [row for row in profiles.rows if row["main"]]
    held = [row for row in main if row["grouping"] == grouping]
    # curves without the names of their groups
    shapes = [
        sorted(f"{row['source']} {row['means']}" for row in main if row["grouping"] == by)
        for by in (grouping, "kind")
    ]
    if grouping == "family" and shapes[0] == shapes[1]:
        return None
    sources = list(dict.fromkeys(row["source"] for row in main))[:9]
    every = list(dict.fromkeys(row["group"] for row in held if row["source"] in sources))
    shown = every[:APART]
    held = [row for row in held if row["source"] in sources and row["group"] in shown]
    held.sort(key=lambda row: sources.index(row["source"]))
    rows = ordered([line for row in held for line in _group_lines(row)], "name")
    if len(shown) < 2 or not rows:
        return None
    sizes = ", ".join(_size(held, group) for group in shown)
    caption = (
        "Mean over models (of each one's mean over tasks) along depth, 0 the first layer of a "
        "profile, 1 the last; the band is one standard deviation between models, none where a "
        f"group has one model. {PER_PANEL} n = {sizes}."
    )
    if len(every) > len(shown):
        caption += f" Only the first {APART} of {len(every)} are drawn."
    title, name = f"{OF[grouping]} along depth", f"profiles-{grouping.replace(' ', '-')}"
    chart = faceted(_bands(rows, grouping), "name")
    return figure(prefix, name, title, caption, rows, chart)


def _size(rows: Iterable[Row], group: str) -> str:
    """How many models a group has: "encoder 3 models", "decoder up to 2 models"."""
    sizes = {int(row["models"]) for row in rows if row["group"] == group}  # a panel each
    return f"{plain(group)} {'up to ' * (len(sizes) > 1)}{counted(max(sizes), 'model')}"


def _group_lines(row: Row) -> Iterator[dict[str, Any]]:
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
    names = list(dict.fromkeys(row["group"] for row in rows))
    x = depth_axis("depth (0 first layer, 1 last)")
    scale = alt.Scale(zero=False)
    shade = colour("group", names, title=grouping, legend=STROKE)
    # a group without a spread has a band of no height: a panel of nothing has no extent
    band = alt.Chart().mark_area(opacity=0.15)
    band = band.transform_calculate(
        bottom="datum.low === null ? datum.mean : datum.low",
        top="datum.high === null ? datum.mean : datum.high",
    )
    bottom = alt.Y("bottom:Q", title=None, scale=scale)
    lines = alt.Chart().mark_line(strokeWidth=1.8)
    return alt.layer(
        band.encode(x=x, y=bottom, y2="top", color=shade),
        lines.encode(
            x=x,
            y=alt.Y("mean:Q", title=None, scale=scale),
            color=shade,
            strokeDash=dash("group", names, title=grouping),
            tooltip=tips(rows, ("name", "group", "depth", "mean", "models")),
        ),
    )


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
            forms = [[(layer, len(cells)) for layer, cells in t.items()] for t in tables]
            alike = [t for t, form in zip(tables, forms, strict=True) if form == forms[0]]
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


def _thinned(count: int) -> list[int]:
    """At most LAYERS places of that many, evenly spread, the first and the last among them."""
    most = min(count, LAYERS)
    return [round(i * (count - 1) / max(1, most - 1)) for i in range(most)]


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
    chart = faceted(cell, "model", SIDE, SIDE, free="xy")
    return figure(prefix, name, title, caption, ordered(rows, "model"), chart)
