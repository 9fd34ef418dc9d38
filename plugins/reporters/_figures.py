"""The figures of a report: all of them, as files, and those of rankings and of pruning.

figures(report)        # those that there are tables for, and that say something
figure_files(report)   # NAME.svg and NAME.png of each, made without a browser
inline(figure)         # the same for a page: for a wide one and for a phone
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

from lrd_harness.errors import plain, say
from lrd_harness.report import Report, Table

from ._charts import (
    COLOURS,
    DATA,
    GREY,
    GUTTER,
    ROW,
    VEGA_LITE,
    WIDTH,
    Figure,
    Rows,
    Side,
    colour,
    curves,
    dash,
    distinct,
    faceted,
    groups,
    ordered,
)
from ._data import PREFIXES, counted, family, valued
from ._maps import distances, entropies, matrices

SCALE = 2  # PNG pixels a unit
WIDE, NARROW = 900, 340  # pixels of a figure on a page
LEAST = 5  # models: of fewer, even a perfect order is likely enough by chance, and a table says it
LABELLED = 25  # models; more names would cover each other
POINTS = 400  # models drawn
FACETS = 9  # of the figure of pruning
SIZES = ("log parameters", "log width", "depth")  # baselines that need no metric and no state
KINDS = ("metric", "baseline", "control")
SHAPES = ("circle", "square", "triangle-up")
RANDOM = "random"  # the pruning rule that the others are beside
# In an SVG: the number of a mark's row, other words for who cannot see it, a colour, a name.
MARK = re.compile(r' aria-label="(\d+)" role="graphics-symbol" aria-roledescription="[^"]*"')
UNSAID = re.compile(
    r' (?:aria-[a-z]+|role|pointer-events)="[^"]*"|<path class="foreground"[^>]* display="none"/>'
)
SHADE = re.compile(r'"rgb\((\d+), (\d+), (\d+)\)"')
NAMED = re.compile(r'((?<= )id="|url\(#)([^")]+)')


def figures(report: Report) -> list[Figure]:
    """All figures that there are tables for, board by board."""
    makers: list[Callable[[Side], Figure | Iterable[Figure] | None]] = [
        predictors,
        ranks,
        curves,
        *(partial(groups, grouping=grouping) for grouping in ("kind", "family", "task type")),
        distances,
        entropies,
        matrices,
    ]
    beside = [prefix for prefix in PREFIXES[1:] if report.get(f"{prefix}ranking")]
    sides = [Side(report, prefix) for prefix in ("", *beside)]
    drawings = [*(maker(side) for side in sides for maker in makers), pruning(report)]
    several = (d if isinstance(d, Iterable) else [d] for d in drawings if d)
    return [figure for some in several for figure in some]


def figure_files(report: Report) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each figure as SVG and as PNG (2 pixels a unit, white ground).

    One that cannot be drawn is left out, which is said.
    """
    for figure in figures(report):
        try:
            svg: str = vl_convert.vegalite_to_svg(drawn(figure), vl_version=VEGA_LITE)
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


def fitted(figure: Figure, width: int) -> dict[str, Any]:
    """The specification made to fit a page: as many panels side by side as there is room for."""
    chart, narrow = copy.deepcopy(dict(figure.chart)), width < WIDE
    config = chart["config"]
    config["axis"] |= {"labelFontSize": 12, "titleFontSize": 13}
    config["axis"] |= {"labelLimit": 120} if narrow else {}
    config["legend"] |= {"columns": max(1, width // 240), "labelFontSize": 12, "columnPadding": 30}
    config["legend"]["layout"] = {"bottom": {"margin": 48}}
    config["legend"]["layout"]["bottom"]["direction"] = "vertical" if narrow else "horizontal"
    if not figure.facet:
        fit = {"type": "fit-x", "contains": "padding"}
        return chart | {"width": min(820, width), "autosize": fit}
    panels = len(distinct(figure.rows, chart["facet"]["field"]))
    room = max(1, width // 270)
    columns = -(-panels // -(-panels // room))  # rows of equal length
    panel = min(420, width // columns - GUTTER)
    square = chart["spec"]["width"] == chart["spec"]["height"]
    chart["spec"] |= {"width": panel} | ({"height": min(panel, 280)} if square else {})
    config["header"] |= {"labelLimit": panel}
    return chart | {"columns": columns}


def inline(figure: Figure, width: int) -> str:
    """A figure as SVG to stand in a page, without words for it, as the page has its own.

    Marks that can be pointed at say which of the rows they are of: data-row="0", ...
    """
    chart = fitted(figure, width)
    chart["config"] |= {"aria": False, "mark": {"aria": True}}
    chart["datasets"] = {"rows": [{**row, "row": i} for i, row in enumerate(figure.rows)]}
    svg: str = vl_convert.vegalite_to_svg(chart, vl_version=VEGA_LITE)
    svg = MARK.sub(r' data-row="\1"', svg)
    svg = SHADE.sub(lambda m: f'"#{int(m[1]):02x}{int(m[2]):02x}{int(m[3]):02x}"', svg)
    # names within a file are names within the page; the library counts them on and on
    names: dict[str, int] = {}
    return NAMED.sub(
        lambda m: f"{m[1]}{figure.name}-{width}-{names.setdefault(m[2], len(names))}",
        UNSAID.sub("", svg),
    )


def predictors(side: Side) -> Figure | None:
    """Each predictor's rho, with its interval, and the best size baseline as a rule."""
    agreement = side.get("agreement")
    by_task = agreement is not None and agreement.shown and len(agreement.rows) > 0
    rows = [
        _rho(row)
        for row in _rows(agreement if by_task else side.get("correlations"))
        if row["rho"] is not None and (row.get("n") or 0) >= LEAST
    ]
    if not rows:
        return None
    sizes = [row for row in rows if row["predictor"] in SIZES and row["kind"] == "baseline"]
    bar = max(sizes, key=lambda row: row["rho"]) if sizes else None
    kinds = "Circles are metrics, squares baselines"
    kinds += ", triangles controls." if any(row["kind"] == "control" for row in rows) else "."
    rule = ""
    if bar:
        rule = f" The dashed line is the best size baseline, {bar['predictor']} "
        rule += f"({bar['rho']:+.2f}): a metric has to lie to the right of it."
    what = "median over tasks of Spearman's rho" if by_task else "Spearman's rho of the mean scores"
    short_what = "median rho over tasks" if by_task else "rho of the mean scores"
    lines = ""
    if any(row["low"] is not None for row in rows):
        over = "models" if any(row["interval over"] == "models" for row in rows) else "tasks"
        lines = f" Lines: 95 % bootstrap intervals over {over}."
    n = counted(max(int(row["n"]) for row in rows), "model")
    caption = (
        f"{what[0].upper()}{what[1:]} between predicted and actual order (+1 the same, 0 none, "
        f"-1 the reverse; higher is better), {n}.{lines} {kinds}{rule}"
    )
    title = "what a metric has to beat"
    return side.figure("predictors", title, caption, rows, _dots(rows, bar, short_what))


def _rows(table: Table | None) -> list[dict[str, Any]]:
    """The rows of a table as plain values."""
    return [valued(row) for row in table.rows] if table else []


def _rho(row: Any) -> dict[str, Any]:
    """With an interval over models, which counts for models not seen, if any; else over tasks."""
    over = "models" if row.get("models_low") is not None else "tasks"
    start = "models_" if over == "models" else ""
    low, high = row.get(f"{start}low"), row.get(f"{start}high")
    return {
        "predictor": plain(row["predictor"]),
        "kind": row["kind"],
        "rho": row["rho"],
        "low": low,
        "high": high,
        "n": row.get("n") or 0,
        "interval over": None if low is None else over,
        **{name: row[name] for name in ("p", "significant") if name in row},
    }


def _dots(rows: Rows, bar: Any, what: str) -> Any:
    order = [row["predictor"] for row in sorted(rows, key=lambda row: -row["rho"])]
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    colours = [COLOURS[KINDS.index(kind)] for kind in kinds]
    shapes = [SHAPES[KINDS.index(kind)] for kind in kinds]
    y = alt.Y("predictor:N", sort=order, title=None)
    low = min(0.0, *(row["low"] if row["low"] is not None else row["rho"] for row in rows))
    x = alt.Scale(domain=[-1 if low < -0.5 else -0.5 if low < 0 else 0, 1], nice=False)
    base = alt.Chart(DATA)
    spans = base.mark_rule(strokeWidth=2, opacity=0.7).encode(
        x=alt.X("low:Q", scale=x),
        x2="high",
        y=y,
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=colours)),
    )
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=alt.X("rho:Q", scale=x, title=f"{what} ↑", axis=alt.Axis(tickCount=6)),
        y=y,
        color=alt.Color("kind:N", title=None),
        shape=alt.Shape("kind:N", title=None, scale=alt.Scale(domain=kinds, range=shapes)),
        description=ROW,
    )
    rule = alt.Chart(DATA).mark_rule(color=GREY, strokeDash=[5, 4], strokeWidth=1.5)
    rules = [rule.encode(x=alt.datum(bar["rho"]))] if bar else []
    height = max(80, 24 * len(rows))
    return alt.layer(*rules, spans, points).properties(width=2 * WIDTH, height=height)


def ranks(side: Side) -> Figure | None:
    """Predicted beside actual rank: a facet per metric, and one for each size that is known.

    None for a few models, whose ranks stand side by side in the ranking.
    """
    actual = f"{side.prefix}rank"
    models = [row for row in _rows(side.report.get("models")) if row.get(actual) is not None]
    models.sort(key=lambda row: row[actual])
    rows = ordered(_ranks(side, models), "predictor") if len(models) >= LEAST else []
    if not rows:
        return None
    drawn = len(distinct(rows, "model"))
    caption = (
        "Each point is a model: its rank by the mean score (1 = best, at the top) against the rank "
        "that a metric, or its size alone, predicts (1 = best, at the left). On the line the two "
        f"agree; n = {counted(drawn, 'model')}."
    )
    if drawn < len(models):
        caption += f" Drawn are the {drawn:,} that rank first; ranks are among all {len(models):,}."
    title = "predicted and actual rank"
    return side.figure("ranks", title, caption, rows, _scatter(rows, drawn))


def _ranks(side: Side, models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A point per predictor and model; ranks are among all models, drawn or not."""
    start, frame = f"{side.prefix}predicted.", pd.DataFrame(models)
    predicted = {
        plain(name.removeprefix(start)): frame[name] for name in models[0] if name.startswith(start)
    }
    for name, field in (("log parameters", "parameters"), ("log width", "width")):
        sizes = pd.to_numeric(frame[field])
        predicted[name] = sizes.where(sizes > 0).rank(method="min", ascending=False)
    middle = (1 + max(row[f"{side.prefix}rank"] for row in models[:POINTS])) / 2
    rows = []
    for name, places in predicted.items():
        for row, place in list(zip(models, places, strict=True))[:POINTS]:
            if pd.isna(place):
                continue
            info = side.models.get((row["model"], row["revision"]), row)
            label = {"model": plain(info["model"]), "label": short(info["model"])}
            ranks = {"actual rank": row[f"{side.prefix}rank"], "predicted rank": int(place)}
            more = {"score": row[f"{side.prefix}score"], "right": bool(place > middle)}
            rows.append({"predictor": name, **label, "family": family(info), **ranks, **more})
    return rows


def short(name: str, most: int = 24) -> str:
    """A model's name without its owner, to be put beside a point."""
    text = plain(name).removeprefix("pypi:").rpartition("/")[2] or plain(name)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _scatter(rows: Rows, models: int) -> Any:
    highest = max(max(row["actual rank"], row["predicted rank"]) for row in rows)
    ticks = alt.Axis(values=_ticks(highest), format="d")
    pad = 0.04 * highest + 0.3
    ends: Any = {"domain": [1 - pad, highest + pad], "nice": False, "zero": False}
    right, down = alt.Scale(**ends), alt.Scale(**ends, reverse=True)
    x = alt.X("predicted rank:Q", scale=right, title="predicted rank (1 = best)", axis=ticks)
    y = alt.Y("actual rank:Q", scale=down, title="actual rank (1 = best)", axis=ticks)
    few = models <= LABELLED
    diagonal = alt.Data(values=[{"a": 1, "b": highest}])  # type: ignore[no-untyped-call]
    line = alt.Chart(diagonal).mark_rule(color=GREY, strokeDash=[5, 4], opacity=0.45)
    line = line.encode(x=alt.X("a:Q", scale=right), y=alt.Y("a:Q", scale=down), x2="b", y2="b")
    points = alt.Chart(DATA)
    points = points.mark_point(filled=True, size=60 if few else 25, opacity=0.9 if few else 0.5)
    points = points.encode(x=x, y=y, color=alt.value(COLOURS[0]), description=ROW)
    layers: list[Any] = [line, points]
    if few:
        for side, align, dx in (("false", "left", 7), ("true", "right", -7)):
            label = alt.Chart(DATA).mark_text(align=align, dx=dx, fontSize=10, limit=WIDTH)  # type: ignore[arg-type]
            label = label.encode(x=x, y=y, text="label:N")
            layers.append(label.transform_filter(f"datum.right == {side}"))
    height = max(160, min(330, 14 * models))
    return faceted(alt.layer(*layers), "predictor", height, free="")


def _ticks(highest: int) -> list[int]:
    """1, the best rank, and round numbers up to the last."""
    step = next(s * 10**e for e in range(9) for s in (1, 2, 5) if highest <= 10 * s * 10**e)
    return [1, *(n for n in range(step, highest + 1, step) if n > 1)]


def pruning(report: Report) -> Figure | None:
    """Change of the mean score against the budget, one line per rule, random's interval a band."""
    side, lines = Side(report), []
    for row in _rows(report.get("pruning")):
        if row["change"] is not None:
            model = side.models.get((row["model"], row["revision"]), row)["model"]
            lines.append(_rule_line(row, plain(model) + " (base)" * (row["kind"] == "base")))
    every = distinct(lines, "panel")
    rows = ordered([line for line in lines if line["panel"] in every[:FACETS]], "panel")
    if not rows:
        return None
    seeds = max(row["seeds of random"] or 0 for row in rows)
    caption = (
        "Change of the mean score against the whole model's, in percent (higher is better, 0 as "
        "good as whole), by the share of the candidate blocks that is removed."
    )
    if seeds:
        caption += " Grey: random removal, its median and its interval over "
        caption += f"{counted(seeds, 'seed')}; a rule has to lie above the band."
    drawn = min(len(every), FACETS)
    caption += f" n = {counted(drawn, 'panel')}, one per model and kind of task"
    caption += f", the first of {len(every)}." if len(every) > drawn else "."
    title = "what removing blocks costs"
    return side.figure("pruning", title, caption, rows, _budgets(rows))


def _rule_line(row: Any, panel: str) -> dict[str, Any]:
    numbers = {"change": "change", "random low": "random_low", "random median": "random_median"}
    numbers |= {"random high": "random_high", "seeds of random": "random_seeds"}
    choice = {"panel": panel, "rule": plain(row["rule"]), "budget": 100 * row["budget"]}
    values = {name: row[column] for name, column in numbers.items()}
    return {**choice, "blocks removed": row["removed"], **values}


def _budgets(rows: Rows) -> Any:
    rules = [row for row in rows if row["rule"] != RANDOM]
    budgets = sorted({row["budget"] for row in rows})
    ends = alt.Scale(domain=[budgets[0] - 1, budgets[-1] + 1], nice=False)
    ticks, along = alt.Axis(values=budgets, format="d"), "blocks removed (% of the candidates)"
    x = alt.X("budget:Q", title=along, scale=ends, axis=ticks)
    title = "score change (%) ↑"
    base = alt.Chart(DATA)
    # the band is in every rule's line; drawn once, from those of random itself where it is there
    of = "datum.rule == 'random'" if any(row["rule"] == RANDOM for row in rows) else "true"
    band = base.mark_area(color=GREY, opacity=0.25).transform_filter(of)
    band = band.encode(x=x, y=alt.Y("random low:Q", title=title), y2="random high")
    median = base.mark_line(color=GREY, strokeDash=[3, 3]).transform_filter(of)
    median = median.encode(x=x, y=alt.Y("random median:Q", title=title))
    lines = base.mark_line(point=alt.OverlayMarkDef(size=45), strokeWidth=1.8)
    drawn = lines.transform_filter("datum.rule != 'random'").encode(
        x=x,
        y=alt.Y("change:Q", title=title),
        color=colour(rules, "rule"),
        strokeDash=dash(rules, "rule"),
        description=ROW,
    )
    zero = base.mark_rule(color=GREY, strokeWidth=1).encode(y=alt.datum(0))
    return faceted(alt.layer(band, median, zero, drawn), "panel", 170, free="")
