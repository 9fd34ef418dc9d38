"""Figures of mean curves over depth: kinds of models, families and types of tasks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

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
    from lrd_harness.board.depth import Grouping, ProfileRow
    from lrd_harness.board.leaderboard import Leaderboard


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
    """A line a model family; None where these are the kinds over again."""
    if board.profiles is not None and _means(board, "family") == _means(board, "kind"):
        return None
    return _figure(board, "family")


def by_task_type(board: Leaderboard) -> Figure | None:
    """A line a type of task."""
    return _figure(board, "task type")


def _figure(board: Leaderboard, grouping: Grouping) -> Figure | None:
    """The mean curves of the groups; None below two of them, where there is nothing to compare."""
    if board.profiles is None:
        return None
    main = board.profiles.main[:FACETS]
    facets = [_named(source) for source in main]
    held = [row for row in board.profiles.rows if row.grouping == grouping and row.source in main]
    every = list(dict.fromkeys(row.group for row in held))
    groups = every[:GROUPS]
    rows = [line for row in held if row.group in groups for line in _lines(row)]
    rows = ordered(sorted(rows, key=lambda row: facets.index(row["name"])), "name")
    if len(groups) < 2 or not rows:
        return None
    caption = (
        "Mean over models (of each one's mean over tasks) along depth, 0 the first layer of a "
        "profile, 1 the last; the band is one standard deviation between models, none "
        "where a group has one model. Scores are higher for the better, 0 to 1; every other panel "
        "is a metric's profile in its own unit. "
        f"n = {_sizes(held, groups)}."
    )
    if len(every) > len(groups):
        caption += f" Only the first {GROUPS} of {len(every)} are drawn."
    alt_text = f"Mean curves over depth of {', '.join(facets)} for "
    alt_text += f"{counted(len(groups), OF[grouping].partition(' ')[0])}: {_listed(groups)}."
    return Figure(
        f"{prefix(board)[0]}profiles-{grouping.replace(' ', '-')}",
        titled(board, f"{OF[grouping]} along depth"),
        caption,
        alt_text,
        rows,
        finished(_facets(rows, grouping), alt_text),
        facet=True,
    )


def _means(board: Leaderboard, grouping: Grouping) -> list[tuple[str, Any]]:
    """The curves of a grouping without the names of its groups."""
    held = board.profiles.rows if board.profiles else ()
    return sorted((row.source, str(row.means)) for row in held if row.grouping == grouping)


def _sizes(held: Sequence[ProfileRow], groups: Sequence[str]) -> str:
    """How many models each group has: "encoder 3 models, decoder up to 2 models"."""
    said = []
    for group in groups:
        sizes = {row.models for row in held if row.group == group}  # a panel each
        most = counted(max(sizes), "model")
        said.append(f"{plain(group)} {'up to ' if len(sizes) > 1 else ''}{most}")
    return ", ".join(said)


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
        mean, spread = row.means[i], row.spread[i]
        if mean is not None:
            found.append(
                {
                    "name": _named(row.source),
                    "group": plain(row.group),
                    "depth": i / last,
                    "mean": mean,
                    "low": None if spread is None else mean - spread,
                    "high": None if spread is None else mean + spread,
                    "models": row.counts[i],
                }
            )
    return found


def _facets(rows: Rows, grouping: str) -> Any:
    groups = list(dict.fromkeys(row["group"] for row in rows))
    x = alt.X(
        "depth",
        type="quantitative",
        title="depth (0 first layer, 1 last)",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(tickCount=4),
    )
    scale = alt.Scale(zero=False)
    shade = colour("group", groups, title=grouping, legend=STROKE)
    # a group without a spread has a band of no height: a panel of nothing has no extent
    band = alt.Chart().mark_area(opacity=0.15)
    band = band.transform_calculate(
        bottom="datum.low === null ? datum.mean : datum.low",
        top="datum.high === null ? datum.mean : datum.high",
    )
    band = band.encode(
        x=x, y=alt.Y("bottom", type="quantitative", title=None, scale=scale), y2="top", color=shade
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
    chart = cell.facet(panels("name"), columns=3, data=DATA)
    return chart.resolve_scale(y="independent").resolve_axis(x="independent")
