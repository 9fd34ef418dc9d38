"""Figures of mean curves over depth: kinds of models, families and types of tasks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from ._cells import plain
from ._figures import (
    DATA,
    WIDTH,
    Figure,
    Rows,
    colour,
    counted,
    dash,
    finished,
    prefix,
    tips,
    titled,
)

if TYPE_CHECKING:
    from lrd_harness.leaderboard import Leaderboard
    from lrd_harness.profile_rows import Grouping, ProfileRow

GROUPS = 8  # lines of a facet: more colours are not told apart
FACETS = 9
STEP = 4  # of the 101 depths every fourth is drawn
OF: dict[Grouping, str] = {
    "kind": "kinds of models",
    "family": "families",
    "task type": "task types",
}


def by_kind(board: Leaderboard) -> Figure | None:
    """Encoders, decoder embedders and base models side by side."""
    return _figure(board, "kind")


def by_family(board: Leaderboard) -> Figure | None:
    """A line a model family."""
    return _figure(board, "family")


def by_task_type(board: Leaderboard) -> Figure | None:
    """A line a type of task."""
    return _figure(board, "task type")


def _figure(board: Leaderboard, grouping: Grouping) -> Figure | None:
    """The mean curves of the groups; None below two of them, where there is nothing to compare."""
    if board.profiles is None:
        return None
    main = board.profiles.main[:FACETS]
    held = [row for row in board.profiles.rows if row.grouping == grouping and row.source in main]
    every = list(dict.fromkeys(row.group for row in held))
    groups = every[:GROUPS]
    rows = [line for row in held if row.group in groups for line in _lines(row)]
    if len(groups) < 2 or not rows:
        return None
    caption = (
        "Mean over models (of each one's mean over tasks) along depth, 0 the first layer of a "
        "profile, 1 the last; the band is one standard deviation between models. Scores are higher "
        "for the better, 0 to 1; every other panel is a metric's profile in its own unit. "
        f"n = {_sizes(held, groups)}."
    )
    if len(every) > len(groups):
        caption += f" Only the first {GROUPS} of {len(every)} are drawn."
    facets = [_named(source) for source in main]
    alt_text = f"Mean curves over depth of {', '.join(facets)} for "
    alt_text += f"{counted(len(groups), OF[grouping].partition(' ')[0])}: {_listed(groups)}."
    return Figure(
        f"{prefix(board)[0]}profiles-{grouping.replace(' ', '-')}",
        titled(board, f"{OF[grouping]} along depth"),
        caption,
        alt_text,
        rows,
        finished(_facets(rows, facets, grouping), alt_text),
        facet=True,
    )


def _sizes(held: Sequence[ProfileRow], groups: Sequence[str]) -> str:
    """How many models each group has: "encoder 3 models, decoder 1 model"."""
    most = {group: max(row.models for row in held if row.group == group) for group in groups}
    return ", ".join(f"{plain(group)} {counted(most[group], 'model')}" for group in groups)


def _listed(groups: Sequence[str]) -> str:
    return ", ".join(map(plain, groups))


def _named(source: str) -> str:
    if source == "score":
        return "score ↑"
    metric, _, name = source.partition(".")
    return plain(metric if name == metric else source)


def _lines(row: ProfileRow) -> list[dict[str, Any]]:
    last = len(row.means) - 1
    found = []
    for i in range(0, last + 1, STEP):
        mean, spread = row.means[i], row.spread[i] or 0.0
        if mean is not None:
            found.append(
                {
                    "name": _named(row.source),
                    "group": plain(row.group),
                    "depth": i / last,
                    "mean": mean,
                    "low": mean - spread,
                    "high": mean + spread,
                    "models": row.counts[i],
                }
            )
    return found


def _facets(rows: Rows, facets: Sequence[str], grouping: str) -> Any:
    groups = list(dict.fromkeys(row["group"] for row in rows))
    x = alt.X(
        "depth",
        type="quantitative",
        title="depth (0 first layer, 1 last)",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(tickCount=4),
    )
    scale = alt.Scale(zero=False)
    shade = colour("group", groups, title=grouping, legend=alt.Legend(symbolType="stroke"))
    band = alt.Chart().mark_area(opacity=0.15)
    band = band.encode(
        x=x, y=alt.Y("low", type="quantitative", title=None, scale=scale), y2="high", color=shade
    )
    lines = (
        alt.Chart()
        .mark_line(strokeWidth=1.8)
        .encode(
            x=x,
            y=alt.Y("mean", type="quantitative", title=None, scale=scale),
            color=shade,
            strokeDash=dash("group", groups, title=grouping),
            tooltip=tips(rows, ("name", "group", "depth", "mean", "models")),
        )
    )
    cell = alt.layer(band, lines).properties(width=WIDTH, height=150)
    header = alt.Facet("name", type="nominal", sort=list(facets), title=None)
    chart = cell.facet(header, columns=3, data=DATA)
    return chart.resolve_scale(y="independent").resolve_axis(x="independent")
