"""Figures of the ranking: how well each predictor orders the models, predicted beside actual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from lrd_harness.board import statistics

from ._cells import plain
from ._figures import (
    COLOURS,
    DATA,
    GREY,
    SHAPES,
    WIDTH,
    Figure,
    Rows,
    counted,
    finished,
    ordered,
    panels,
    prefix,
    tips,
    titled,
)

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


LABELLED = 25  # models; more names would cover each other
POINTS = 400  # models drawn
SIZES = ("log parameters", "log width", "depth")  # baselines that need no metric and no state
KINDS = ("metric", "baseline", "control")


def predictors(board: Leaderboard) -> Figure | None:
    """Each predictor's rho, with its interval, and the best size baseline as a rule."""
    telling = board.selection is not None and board.selection.telling
    rows = _by_task(board) if telling else _overall(board)
    if not rows:
        return None
    bars = [row for row in rows if row["predictor"] in SIZES and row["kind"] == "baseline"]
    bar = max(bars, key=lambda row: row["rho"]) if bars else None
    kinds = "Circles are metrics, squares baselines"
    kinds += ", triangles controls." if any(row["kind"] == "control" for row in rows) else "."
    said = ""
    if bar:
        said = f" The dashed line is the best size baseline, {bar['predictor']} "
        said += f"({bar['rho']:+.2f}): a metric has to lie to the right of it."
    what = "median over tasks of Spearman's rho" if telling else "Spearman's rho of the mean scores"
    n = max(int(row["n"]) for row in rows)
    lines = ""
    if any(row["low"] is not None for row in rows):
        over = "models" if any(row["interval over"] == "models" for row in rows) else "tasks"
        lines = f" Lines: 95 % bootstrap intervals over {over}."
    few = "" if telling else " So few models illustrate, they prove nothing."
    caption = (
        f"{what[0].upper()}{what[1:]} between predicted and actual order (+1 the same, 0 none, "
    )
    caption += (
        f"-1 the reverse; higher is better), {counted(n, 'model')}.{lines} {kinds}{said}{few}"
    )
    best = max(rows, key=lambda row: row["rho"])
    alt_text = f"{counted(len(rows), 'predictor')} by {what}; the highest is {best['predictor']} "
    alt_text += f"with {best['rho']:+.2f}." + (said if bar else "")
    return Figure(
        f"{prefix(board)[0]}predictors",
        titled(board, "what a metric has to beat"),
        caption,
        alt_text,
        rows,
        finished(_dots(rows, bar, what), alt_text),
    )


def _by_task(board: Leaderboard) -> list[dict[str, Any]]:
    """Medians over tasks; intervals over models, which count for models not seen here, if any."""
    rows = []
    for one in board.selection.rows if board.selection else ():
        if one.rho is None:
            continue
        models = one.models_low is not None
        rows.append(
            {
                "predictor": plain(one.name),
                "kind": one.kind,
                "rho": one.rho,
                "low": one.models_low if models else one.low,
                "high": one.models_high if models else one.high,
                "interval over": "models" if models else "tasks",
                "significant tasks": one.significant,
                "tasks": len(one.tasks),
                "n": one.n or 0,
            }
        )
    return rows


def _overall(board: Leaderboard) -> list[dict[str, Any]]:
    return [
        {
            "predictor": plain(one.name),
            "kind": one.kind,
            "rho": one.rho,
            "low": None,
            "high": None,
            "p": one.p,
            "n": one.n,
        }
        for one in board.correlations
        if one.rho is not None
    ]


def _dots(rows: Rows, bar: Any, what: str) -> Any:
    order = [row["predictor"] for row in sorted(rows, key=lambda row: -row["rho"])]
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    colours = [COLOURS[KINDS.index(kind)] for kind in kinds]
    shapes = [SHAPES[KINDS.index(kind)] for kind in kinds]
    y = alt.Y("predictor", type="nominal", sort=order, title=None)
    low = min(0.0, *(row["low"] if row["low"] is not None else row["rho"] for row in rows))
    x = alt.Scale(domain=[-1 if low < -0.5 else -0.5 if low < 0 else 0, 1])
    base = alt.Chart(DATA)
    tooltip = tips(rows, list(rows[0]))
    spans = base.mark_rule(strokeWidth=2, opacity=0.7).encode(
        x=alt.X("low", type="quantitative", scale=x),
        x2="high",
        y=y,
        color=alt.Color("kind", type="nominal", scale=alt.Scale(domain=kinds, range=colours)),
    )
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=alt.X("rho", type="quantitative", scale=x, title=f"{what} ↑"),
        y=y,
        color=alt.Color("kind", type="nominal", title=None),
        shape=alt.Shape(
            "kind", type="nominal", title=None, scale=alt.Scale(domain=kinds, range=shapes)
        ),
        tooltip=tooltip,
    )
    rule = alt.Chart(DATA).mark_rule(color=GREY, strokeDash=[5, 4], strokeWidth=1.5)
    rules = [rule.encode(x=alt.datum(bar["rho"]))] if bar else []
    height = max(80, 24 * len(rows))
    return alt.layer(*rules, spans, points).properties(width=2 * WIDTH, height=height)


def ranks(board: Leaderboard) -> Figure | None:
    """Predicted beside actual rank: a facet a metric, and one for each size that is known."""
    rows = ordered(_ranks(board), "predictor")
    if not rows:
        return None
    models = len({row["id"] for row in rows})
    facets = list(dict.fromkeys(row["predictor"] for row in rows))
    caption = (
        "Each point is a model: its rank by the mean score (1 = best, at the top) against the rank "
        "that a metric, or its size alone, predicts (1 = best, at the left). On the line the two "
        f"agree; n = {counted(models, 'model')}."
    )
    ranked = sum(row.rank is not None for row in board.rows)
    if models < ranked:
        caption += f" Drawn are the {models:,} that rank first; ranks are among all {ranked:,}."
    alt_text = f"Predicted against actual rank of {counted(models, 'model')} by "
    alt_text += ", ".join(facets) + "."
    return Figure(
        f"{prefix(board)[0]}ranks",
        titled(board, "predicted and actual rank"),
        caption,
        alt_text,
        [{k: v for k, v in row.items() if k != "id"} for row in rows],
        finished(_scatter(rows, models), alt_text),
        facet=True,
    )


def _ranks(board: Leaderboard) -> list[dict[str, Any]]:
    held = [row for row in board.rows if row.rank is not None]
    if len(held) < 2:
        return []
    columns: dict[str, Sequence[float | None]] = {
        plain(metric.name): [row.predicted.get(metric.name) for row in held]
        for metric in board.metrics
    }
    for name, field in (("log parameters", "parameters"), ("log width", "width")):
        columns[name] = statistics.places([getattr(row.info, field) for row in held], True)
    highest = max(row.rank or 0 for row in held[:POINTS])
    rows = []  # ranks are among all models, drawn or not
    for name, places in columns.items():
        for row, place in list(zip(held, places, strict=True))[:POINTS]:
            if place is not None and row.rank is not None:
                rows.append(
                    {
                        "id": row.label,
                        "predictor": name,
                        "model": plain(row.label),
                        "label": short(row.label),
                        "family": plain(row.info.family or "unknown"),
                        "actual rank": row.rank,
                        "predicted rank": place,
                        "score": row.score,
                        "right": place > (1 + highest) / 2,
                    }
                )
    return rows


def short(name: str, most: int = 24) -> str:
    """A model's name without its owner, to be put beside a point."""
    text = plain(name).removeprefix("pypi:").rpartition("/")[2] or plain(name)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _scatter(rows: Rows, models: int) -> Any:
    highest = max(max(row["actual rank"], row["predicted rank"]) for row in rows)
    ticks = alt.Axis(values=_ticks(highest), format="d")
    pad = 0.04 * highest + 0.3
    scale = alt.Scale(domain=[1 - pad, highest + pad], reverse=False, nice=False, zero=False)
    down = alt.Scale(domain=[1 - pad, highest + pad], reverse=True, nice=False, zero=False)
    x = alt.X(
        "predicted rank",
        type="quantitative",
        scale=scale,
        title="predicted rank (1 = best)",
        axis=ticks,
    )
    y = alt.Y(
        "actual rank",
        type="quantitative",
        scale=down,
        title="actual rank (1 = best)",
        axis=ticks,
    )
    few = models <= LABELLED
    ends = alt.Data(values=[{"a": 1, "b": highest}])  # type: ignore[no-untyped-call]
    line = (
        alt.Chart(ends)
        .mark_rule(color=GREY, strokeDash=[5, 4], opacity=0.45)
        .encode(
            x=alt.X("a", type="quantitative", scale=scale),
            y=alt.Y("a", type="quantitative", scale=down),
            x2="b",
            y2="b",
        )
    )
    names = ("model", "family", "predictor", "actual rank", "predicted rank", "score")
    points = (
        alt.Chart(DATA)
        .mark_point(filled=True, size=60 if few else 25, opacity=0.9 if few else 0.5)
        .encode(x=x, y=y, color=alt.value(COLOURS[0]), tooltip=tips(rows, names))
    )
    layers: list[Any] = [line, points]
    if few:
        for side, align, dx in (("false", "left", 7), ("true", "right", -7)):
            labels = alt.Chart(DATA).mark_text(align=align, dx=dx, fontSize=10, limit=WIDTH)  # type: ignore[arg-type]
            layers.append(
                labels.encode(x=x, y=y, text="label:N").transform_filter(f"datum.right == {side}")
            )
    cell = alt.layer(*layers).properties(width=WIDTH, height=max(160, min(330, 14 * models)))
    chart = cell.facet(panels("predictor"), columns=3, data=DATA)
    return chart.resolve_axis(x="independent", y="independent")


def _ticks(highest: int) -> list[int]:
    """1, the best rank, and round numbers up to the last."""
    step = next(s * 10**e for e in range(9) for s in (1, 2, 5) if highest <= 10 * s * 10**e)
    return [1, *(n for n in range(step, highest + 1, step) if n > 1)]
