"""The papers' findings on this run's data: a sheet for people, JSON's part."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ._cells import NONE, Column, Sheet, number, plain

if TYPE_CHECKING:
    from lrd_harness.board.claim_rows import Claim
    from lrd_harness.board.leaderboard import Leaderboard


UNDECIDED = "not enough data"
FORMS = {"median rho": "+z.2f", "points": "+z.1f", "%": "+z.1f", "% change": "+z.1f"}


def claim_sheets(board: Leaderboard) -> list[Sheet]:
    """The sheet; none where no claim has a number, nor beside the main board without a verdict."""
    told = [claim for claim in board.claims if claim.value is not None]
    if board.kind == "base":
        told = [claim for claim in told if claim.verdict != UNDECIDED]
    if not told:
        return []
    of = "Base models: the" if board.kind == "base" else "The"
    return [_sheet(f"{of} papers' claims on this run", board.claims)]


def claims_document(claims: tuple[Claim, ...]) -> list[dict[str, Any]]:
    """The key "claims" of the JSON form: the fields of claim_rows.py."""
    return [asdict(claim) for claim in claims]


def _sheet(title: str, claims: tuple[Claim, ...]) -> Sheet:
    columns = (
        Column(("claim",), tuple(plain(claim.name) for claim in claims), "left", key=True),
        Column(("number", "↑"), tuple(_number(claim, claim.value) for claim in claims)),
        Column(("control", "↑"), tuple(_number(claim, claim.control_value) for claim in claims)),
        Column(("unit",), tuple(claim.unit for claim in claims), "left"),
        Column(("n",), tuple(map(_cases, claims))),
        Column(("verdict",), tuple(claim.verdict for claim in claims), "left"),
        Column(("95 %",), tuple(map(_span, claims)), rest=1),
        Column(("p", "one-sided"), tuple(number(claim.p, ".2g") for claim in claims), rest=1),
        Column(("the", "control"), tuple(plain(c.control or NONE) for c in claims), "left", rest=1),
        Column(("ahead of", "control"), tuple(map(_ahead, claims)), "left", rest=1),
    )
    return Sheet(title, columns, (*_LEGEND, *(_line(claim) for claim in claims)))


_LEGEND = (
    "number, control: of the claim and of what needs no metric, in the unit (↑ higher is better); "
    "n: what the number is over; 95 %: its interval. holds: the test of the claim (p < .05, or an "
    "interval above 0) passes. does not hold: there is enough data for the test, and it does not "
    "pass; that is no proof of the opposite. not enough data: no test, or too few models to speak "
    "for others. The verdict is on the claim alone: ahead of control says whether the number "
    "exceeds the control's by more than chance may give.",
    "Tests. d0L: binomial over tasks, and bootstrap over models of the median rho. All three: that "
    "bootstrap, of each. Random removal: the rule's place among random's seeds, models of one "
    "depth together as they share the draws; frenet: p < .05 at the lightest budget only. Layers: "
    "t intervals over training runs; about 3 %: above 0, and 3 % within or below the interval.",
)


def _number(claim: Claim, value: float | None) -> str:
    return number(value, FORMS.get(claim.unit, ".0f"))


def _cases(claim: Claim) -> str:
    return (
        f"{claim.n} {claim.of.removesuffix('s') if claim.n == 1 else claim.of}" if claim.n else NONE
    )


def _span(claim: Claim) -> str:
    if claim.low is None or claim.high is None:
        return NONE
    return f"{_number(claim, claim.low)} to {_number(claim, claim.high)}"


def _ahead(claim: Claim) -> str:
    return NONE if claim.ahead is None else "yes" if claim.ahead else "no"


def _line(claim: Claim) -> str:
    """Whose claim it is, and why it holds or not; what it says exactly where there is a number."""
    said = "" if claim.value is None else f"{claim.statement} {claim.verdict.capitalize()}: "
    return plain(f"{claim.name} ({claim.paper}): {said}{claim.reason}.")
