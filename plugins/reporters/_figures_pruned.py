"""The figure of pruning: what each rule costs at each budget, beside random removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from lrd_harness.board.pruned import RANDOM

from ._cells import plain
from ._figures import (
    DATA,
    GREY,
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
    tips,
    titled,
)

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


MODELS = 9  # facets
KINDS = {"embedding": "", "base": " (base)"}


def pruning(board: Leaderboard) -> Figure | None:
    """Change of the mean score against the budget, a line a rule, random's interval as a band."""
    if board.pruned is None:
        return None
    held = [row for row in board.pruned.rows if row.change is not None]
    facets = list(dict.fromkeys((row.label, row.kind) for row in held))[:MODELS]
    rows = ordered([_line(r) for r in held if (r.label, r.kind) in facets], "panel")
    if not rows:
        return None
    rules = list(dict.fromkeys(row["rule"] for row in rows if row["rule"] != RANDOM))
    seeds = max((row["seeds of random"] or 0 for row in rows), default=0)
    caption = (
        "Change of the mean score against the whole model's, in percent (higher is better, 0 as "
        "good as whole), by the share of the candidate blocks that is removed."
    )
    if seeds:
        caption += (
            f" Grey: random removal, its median and its interval over {counted(seeds, 'seed')}; "
            "a rule has to lie above the band."
        )
    whole = len({(row.label, row.kind) for row in held})
    caption += f" n = {counted(len(facets), 'panel')}, one a model and kind of task"
    caption += f", the first of {whole}." if whole > len(facets) else "."
    alt_text = f"Score change against pruning budget for {counted(len(rules), 'rule')} and random "
    alt_text += f"removal, {counted(len(facets), 'panel')}."
    return Figure(
        "pruning",
        titled(board, "what removing blocks costs"),
        caption,
        alt_text,
        rows,
        finished(_facets(rows, rules), alt_text),
        facet=True,
    )


def _line(row: Any) -> dict[str, Any]:
    spread = row.random
    return {
        "panel": plain(row.label) + KINDS[row.kind],
        "rule": plain(row.rule),
        "budget": 100 * row.budget,
        "blocks removed": row.removed,
        "change": row.change,
        "random low": spread.low if spread else None,
        "random median": spread.median if spread else None,
        "random high": spread.high if spread else None,
        "seeds of random": spread.seeds if spread else None,
    }


def _facets(rows: Rows, rules: Sequence[str]) -> Any:
    budgets = sorted({row["budget"] for row in rows})
    x = alt.X(
        "budget",
        type="quantitative",
        title="blocks removed (% of the candidates)",
        scale=alt.Scale(domain=[budgets[0] - 1, budgets[-1] + 1], nice=False),
        axis=alt.Axis(values=budgets, format="d"),
    )
    title = "score change (%) ↑"
    y = alt.Y("change", type="quantitative", title=title)
    only = "datum.rule == 'random'"
    base = alt.Chart(DATA)
    # the band is in every rule's line; drawn once, from those of random itself where it is there
    of = only if any(row["rule"] == RANDOM for row in rows) else "true"
    band = base.mark_area(color=GREY, opacity=0.25).transform_filter(of)
    band = band.encode(
        x=x, y=alt.Y("random low", type="quantitative", title=title), y2="random high"
    )
    median = base.mark_line(color=GREY, strokeDash=[3, 3]).transform_filter(of)
    median = median.encode(x=x, y=alt.Y("random median", type="quantitative", title=title))
    lines = base.mark_line(point=alt.OverlayMarkDef(size=45), strokeWidth=1.8)
    names = ("panel", "rule", "budget", "blocks removed", "change", "random median")
    drawn = lines.transform_filter("datum.rule != 'random'").encode(
        x=x,
        y=y,
        color=colour("rule", rules, title="rule", legend=STROKE),
        strokeDash=dash("rule", rules, title="rule"),
        tooltip=tips(rows, names),
    )
    zero = base.mark_rule(color=GREY, strokeWidth=1).encode(y=alt.datum(0))
    cell = alt.layer(band, median, zero, drawn).properties(width=WIDTH, height=170)
    chart = cell.facet(panels("panel"), columns=3, data=DATA)
    return chart.resolve_axis(x="independent", y="independent")
