"""Whether predictors tell kin apart: two sheets for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ._cells import NONE, Column, Sheet, number, places, plain

if TYPE_CHECKING:
    from lrd_harness.board.families import Beside, Families, KinAgreement
    from lrd_harness.board.leaderboard import Leaderboard


LEAST = 5  # pairs of kin: below, a share of them says nothing
SHOWN = 6  # families whose rho is shown, the largest


def family_sheets(board: Leaderboard) -> list[Sheet]:
    """How predictors order kin, then the ranks of kin; none for fewer than 5 pairs of them."""
    held = board.families
    if held is None or max((row.pairs for row in held.rows), default=0) < LEAST:
        return []
    models = "base models" if board.kind == "base" else "models"
    labels = {(r.info.model, r.info.revision): plain(r.label) for r in board.rows}
    return [_agreements(held, models), _ranks(held, models, labels)]


def _agreements(held: Families, models: str) -> Sheet:
    rows = held.rows

    def column(*heading: str, of: Callable[[KinAgreement], str], rest: int = 0) -> Column:
        return Column(heading, tuple(map(of, rows)), rest=rest)

    p = column("p", "(two-sided)", of=lambda r: number(r.p, ".2g"))
    columns = [
        Column(("predictor",), tuple(plain(row.name) for row in rows), "left", key=True),
        column("kin in", "order ↑", of=lambda r: number(r.share, ".2f")),
        *([p] if any(row.p is not None for row in rows) else []),
        column("n", "(pairs)", of=lambda r: str(r.pairs)),
        column("others in", "order ↑", of=lambda r: number(r.between, ".2f")),
        column("median", "rho ↑", of=lambda r: number(r.rho, "+z.2f")),
    ]
    if any(row.beside for row in rows):
        columns.append(column("best size on", "the same kin", of=_rival))
    for kin in [kin for kin in held.families if any(kin.name in r.by_family for r in rows)][:SHOWN]:
        heading = ("rho in", plain(kin.name), f"n = {len(kin.models)}")
        columns.append(column(*heading, of=lambda r, k=kin.name: _rho(r, k), rest=1))  # type: ignore[misc]
    title = f"Within families: how well each predictor orders {models} that are kin"
    return Sheet(title, tuple(columns), _legend(held))


def _rho(row: KinAgreement, family: str) -> str:
    return number(row.by_family.get(family), "+z.2f")


def _rival(row: KinAgreement) -> str:
    """The size that has most of the same pairs in order."""
    sizes: list[Beside] = [
        b for b in row.beside if b.name in ("log parameters", "log width", "depth")
    ]
    if not sizes:
        return NONE
    best = max(sizes, key=lambda beside: beside.share)
    return f"{best.share:.2f} {best.name}"


def _legend(held: Families) -> tuple[str, ...]:
    from lrd_harness.board.families import MOST_PAIRS  # here: a plugin's import stays light

    left = (
        f" {held.left_out} models are in no family of two: it is not known, they lack a task, or "
        "they are the only one."
        if held.left_out
        else ""
    )
    pairs = sum(len(kin.models) * (len(kin.models) - 1) // 2 for kin in held.families)
    drawn = "p by orders drawn within the families"
    if pairs > MOST_PAIRS and any(row.p is None for row in held.rows):
        drawn = f"no p is drawn above {MOST_PAIRS:,} pairs of kin"
    return (
        "A predictor that only tells families from one another is worth little: size does that. "
        "Kin in order: of the pairs of one family with unlike mean scores, the share that the "
        "predictor has in the right order (0.5 is chance, 1 all; level predictions count as "
        f"half); {drawn}. Others in order: the same of pairs of two "
        "families. rho: Spearman's within a family of at least 4 models, and the median over "
        f"these families.{left}",
    )


def _ranks(held: Families, models: str, labels: dict[tuple[str, str], str]) -> Sheet:
    """A line a model, the families one under another."""
    lines = [(kin.name, model) for kin in held.families for model in kin.models]
    metrics = [row.name for row in held.rows if row.kind == "metric"]
    shown = metrics or [row.name for row in held.rows]
    columns = [
        Column(("model",), tuple(labels[m.model, m.revision] for _, m in lines), "left", key=True),
        Column(("family",), tuple(plain(name) for name, _ in lines), "left"),
        Column(("mean", "score ↑"), tuple(number(m.score) for _, m in lines)),
        Column(("rank", "actual"), _places(held, None)),
    ]
    columns += [Column(("rank by", plain(name)), _places(held, name)) for name in shown]
    legend = (
        "Ranks within the family, 1 = best, = level: by mean score of the last layer (0 to 1, ↑ "
        f"higher is better), and as predicted. {NONE}: not predicted.",
    )
    return Sheet(f"Ranks of {models} within their families", tuple(columns), legend)


def _places(held: Families, predictor: str | None) -> tuple[str, ...]:
    """A rank a line; with = where several of the family share it."""
    found: list[str] = []
    for kin in held.families:
        ranks = [m.rank if predictor is None else m.predicted[predictor] for m in kin.models]
        found += places(ranks)
    return tuple(found)
