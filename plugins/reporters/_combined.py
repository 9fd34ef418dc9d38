"""The combined predictor, judged on families that it has not seen: a sheet for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._cells import NONE, Column, Sheet, number, plain

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


def combined_sheets(board: Leaderboard) -> list[Sheet]:
    """The sheet; none where there is not enough data."""
    held = board.combined
    if held is None or held.lacking:
        return []
    rows = held.rows
    columns = [
        Column(("predictor",), tuple(row.name for row in rows), "left", key=True),
        Column(("rho ↑", "(-1 to +1)"), tuple(number(row.rho, "+z.2f") for row in rows)),
        Column(("95 %", "over families"), tuple(_span(r.low, r.high, ".2f") for r in rows)),
        Column(("p", "(one-sided)"), tuple(number(row.p, ".2g") for row in rows)),
        Column(("error ↓", "(points)"), tuple(number(100 * row.rmse, ".1f") for row in rows)),
        Column(("rho by", "chance"), tuple(number(row.chance, "+z.2f") for row in rows), rest=1),
        Column(("features",), tuple(str(len(row.features)) for row in rows), rest=1),
    ]
    if any(row.lead is not None for row in rows):
        leads = tuple(_lead(row.lead, row.lead_low, row.lead_high) for row in rows)
        columns.append(Column(("error less the", "combined's (points)"), leads, rest=1))
    base = "base models" if board.kind == "base" else "models"
    title = f"Combined predictor, on families of {base} that it has not seen"
    return [Sheet(title, tuple(columns), _legend(board))]


def _legend(board: Leaderboard) -> tuple[str, ...]:
    held = board.combined
    assert held is not None
    features = ", ".join(plain(name) for name in held.rows[0].features)
    return (
        f"Ridge regression of the mean score on {features}. n = {held.n} models of "
        f"{held.families} families; each family is predicted from the others alone, which also "
        "give the means, the deviations and the strength of the ridge.",
        "rho: Spearman's, of these predictions with the mean scores; 95 %: bootstrap of whole "
        "families (from 5 on; of fewer than 8 it is too narrow for a verdict). p: all of it "
        "repeated with the scores in random order, whose mean rho is the one by chance: below 0, "
        "as what is left out is missing in what predicts it. p takes models as independent, and is "
        "too small where kin are alike. error: root mean squared, in points (hundredths of the "
        f"score). {NONE}: not defined.",
    )


def _span(low: float | None, high: float | None, form: str, scale: float = 1) -> str:
    if low is None or high is None:
        return NONE
    return f"{scale * low:+z{form}} to {scale * high:+z{form}}"


def _lead(lead: float | None, low: float | None, high: float | None) -> str:
    if lead is None:
        return NONE
    span = _span(low, high, ".1f", 100)
    return f"{100 * lead:+z.1f}" + (f" ({span})" if span != NONE else "")
