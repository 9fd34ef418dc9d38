"""Every number of the statistics as a row of its own, for data frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ._sheets import boards

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


# Name -> type. board: "embedding" or "base"; about: what it is a statistic of: "mean" (a
# predictor's order with that of mean scores), "task" (on one task), "tasks" (over tasks), "rival"
# (a metric beside the baseline `other`), "kin" (within families), "unseen" (the combined predictor
# on families left out), "layer_gain" and "layer_correlation" (choosing a layer), "claim" (a paper's
# finding beside its control `other`, `kind` being the verdict).
# predictor, kind ("metric", "baseline", "control"), best ("max" or "min"); task; statistic: the
# field of the JSON form (rho, p, p_holm, low, high, tau, regret, ...), a control behind a point
# (partial.log parameters); n: the models, of layer_gain the cells (model x task).
COLUMNS: Mapping[str, type] = {
    **dict.fromkeys(("board", "about", "predictor", "kind", "best", "task", "other"), str),
    "statistic": str,
    "value": float,
    "n": float,
}
PARTS = ("name", "rule", "metric", "score")  # of a predictor's name
Line = dict[str, Any]


def statistic_rows(board: Leaderboard) -> Iterator[Line]:
    """Those of all boards; what is not defined has no row."""
    for part, _ in boards(board):
        for line in _rows(part):
            yield {"board": part.kind, **line}


def _rows(board: Leaderboard) -> Iterator[Line]:
    for correlation in board.correlations:
        yield from _numbers("mean", asdict(correlation))
    for row in board.selection.rows if board.selection else ():
        whole = asdict(row)
        tasks, rivals = whole.pop("tasks"), whole.pop("rivals")
        common = {"predictor": row.name, "kind": row.kind, "best": row.best}
        yield from _numbers("tasks", whole)
        for task in tasks:
            yield from _numbers("task", task, **common)
        for rival in rivals:
            yield from _numbers("rival", rival, **{**common, "other": rival["name"]})
    choice = board.choice
    n = board.combined.n if board.combined else None
    more: dict[str, Sequence[Any]] = {
        "kin": board.families.rows if board.families else (),
        "unseen": board.combined.rows if board.combined else (),
        "layer_gain": choice.gains if choice else (),
        "layer_correlation": choice.correlations if choice else (),
    }
    for about, rows in more.items():
        for one in rows:
            yield from _numbers(about, asdict(one), **({"n": n} if about == "unseen" else {}))
    for claim in board.claims:
        yield from _numbers("claim", asdict(claim), kind=claim.verdict, other=claim.control)


def _numbers(about: str, row: Mapping[str, Any], **common: Any) -> Iterator[Line]:
    """A line for each number of a row, those within a mapping by name.name."""
    named = {
        "predictor": ".".join(str(row[key]) for key in PARTS if row.get(key)),
        **{key: row[key] for key in ("kind", "best", "task") if isinstance(row.get(key), str)},
        "other": row.get("rival"),
        "n": row.get("n"),
        **common,
    }
    for name, value in _flat(row):
        if name != "n":
            yield {"about": about, **named, "statistic": name, "value": float(value)}


def _flat(row: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{above}{name}", value
