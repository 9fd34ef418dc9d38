"""Figures over depth: scores and metrics layer by layer, and profiles averaged over families."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import altair as alt

from lrd_harness.board.layers import mean_by_layer

from ._cells import plain
from ._figures import (
    DATA,
    STROKE,
    WIDTH,
    Figure,
    Rows,
    colour,
    counted,
    dash,
    finished,
    ordered,
    panels,
    prefix,
    tips,
    titled,
)

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard
    from lrd_harness.board.leaderboard import Row as BoardRow
    from lrd_harness.results.database import Key, MetricRow


MODELS = 30  # lines of a facet
APART = 8  # models that are told apart by colours of their own
FACETS = 12
SCORE = "score ↑"
Curves = dict[tuple[str, Any], list[Mapping[int, float]]]  # (name, model) -> a mapping a task


def curves(board: Leaderboard) -> Figure | None:
    """Scores and each metric's profile against depth 0..1, a line a model."""
    held = {row.info.key: row for row in board.rows[:MODELS]}
    rows = [
        line
        for name, key, by_layer in _means(board, held)
        for line in _lines(held[key], name, by_layer)
    ]
    if not rows:
        return None
    rows = ordered(rows, "name")
    models = list(dict.fromkeys(row["model"] for row in rows))
    facets = list(dict.fromkeys(row["name"] for row in rows))
    apart = len(models) <= APART
    caption = (
        "Mean over tasks at each layer; depth 0 is what enters the first block, 1 the last layer. "
        "Scores are higher for the better, 0 to 1; every other panel is a metric's profile in its "
        f"own unit. n = {counted(len(models), 'model')}"
    )
    caption += ", a colour each, dashes by family." if apart else ", coloured by family."
    if len(board.rows) > MODELS:
        caption += f" Only the first {MODELS} models of {len(board.rows):,} are drawn."
    alt_text = f"Curves over depth of {', '.join(facets)} for {counted(len(models), 'model')}."
    return Figure(
        f"{prefix(board)[0]}curves",
        titled(board, "scores and metrics, layer by layer"),
        caption,
        alt_text,
        rows,
        finished(_facets(rows, "model" if apart else "family"), alt_text),
        facet=True,
    )


def _means(
    board: Leaderboard, models: Mapping[Key, BoardRow]
) -> Iterable[tuple[str, Key, Mapping[int, float]]]:
    """Of each model its mean scores, then its mean profiles; curves of one layer are none."""
    found: Curves = {}
    scores: dict[tuple[Key, str], dict[int, float]] = {}
    for score in board.results.scores:
        if score.key in models:
            scores.setdefault((score.key, score.task), {})[score.layer] = score.score
    for (key, _), by_layer in scores.items():
        found.setdefault((SCORE, key), []).append(by_layer)
    newest = {(m.key, m.task, m.metric): m for m in board.results.metrics if m.key in models}
    for metric in newest.values():
        name = _profile(metric)
        if name is not None:
            pairs = zip(*metric.profiles[name], strict=True)
            by_layer = {layer: value for layer, value in pairs if value is not None}
            named = f"{metric.metric}.{name}" if name != metric.metric else name
            found.setdefault((plain(named), metric.key), []).append(by_layer)
    names = list(dict.fromkeys(name for name, _ in found))[:FACETS]
    for (name, key), several in found.items():
        means = mean_by_layer(several)
        if name in names and len(means) > 1:
            yield name, key, means


def _profile(metric: MetricRow) -> str | None:
    """The profile that stands for a metric: the one that chooses a layer, else its first."""
    chosen = metric.layer_choice[0] if metric.layer_choice else None
    return chosen if chosen in metric.profiles else next(iter(metric.profiles), None)


def _lines(row: BoardRow, name: str, by_layer: Mapping[int, float]) -> list[dict[str, Any]]:
    depth = max(row.info.blocks or 0, *by_layer)
    return [
        {
            "name": name,
            "model": plain(row.label),
            "family": plain(row.info.family or "unknown"),
            "layer": layer,
            "depth": layer / depth,
            "value": value,
        }
        for layer, value in by_layer.items()
    ]


def _facets(rows: Rows, by: str) -> Any:
    names = list(dict.fromkeys(row[by] for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    tooltip = tips(rows, ("model", "family", "name", "layer", "value"))
    lines = alt.Chart(DATA).mark_line(
        strokeWidth=1.8 if by == "model" else 1.2, opacity=0.9, point=False, clip=True
    )
    chart = lines.encode(
        x=alt.X(
            "depth",
            type="quantitative",
            title="depth (0 input, 1 last layer)",
            scale=alt.Scale(domain=[0, 1]),
            axis=alt.Axis(tickCount=4),
        ),
        y=alt.Y("value", type="quantitative", title=None, scale=alt.Scale(zero=False)),
        color=colour(by, names, title=by, legend=STROKE),
        strokeDash=dash("family", families, title="family"),
        detail="model:N",
        tooltip=tooltip,
    )
    cell = chart.properties(width=WIDTH, height=150)
    chart = cell.facet(panels("name"), columns=3, data=DATA)
    return chart.resolve_scale(y="independent").resolve_axis(x="independent")
