"""How well each predictor orders the models task by task: a sheet for people, JSON's part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ._cells import NONE, Column, Sheet, number, plain

if TYPE_CHECKING:
    from lrd_harness.board.agreement import Agreement, Selection
    from lrd_harness.board.leaderboard import Leaderboard


SIGNED = "+z.2f"
CONTROLS = "– baselines –"


def selection_sheets(board: Leaderboard) -> list[Sheet]:
    """The sheet; none where so few models have scores that p < .05 cannot be reached."""
    if board.selection is None or not board.selection.telling:
        return []
    models = "base models" if board.kind == "base" else "models"
    title = f"How well each predictor orders the {models}, task by task"
    return [_sheet(title, board.selection)]


def selection_document(selection: Selection | None) -> list[dict[str, Any]] | None:
    """The key "selection" of the JSON form: a mapping a predictor, the fields of Agreement."""
    return [asdict(row) for row in selection.rows] if selection else None


def _sheet(title: str, selection: Selection) -> Sheet:
    """Metrics, then what needs none, set off. Columns behind the others have something to show."""
    held = selection.rows
    metrics = [row for row in held if row.kind == "metric"]
    rows: list[Agreement | None] = [*metrics, *([None] if metrics else [])]
    rows += [row for row in held if row.kind != "metric"]

    def column(*heading: str, of: Callable[[Agreement], str], rest: int = 0) -> Column:
        return Column(heading, tuple("" if row is None else of(row) for row in rows), rest=rest)

    def given(control: str) -> Column:
        return column(
            "rho given", plain(control), of=lambda r: number(r.partial[control], SIGNED), rest=1
        )

    def lost(control: str, of: Callable[[Agreement], float | None]) -> Column:
        return column("regret ↓", control, of=lambda r: _points(of(r)), rest=1)

    controls = {c: None for row in held for c in row.partial}
    columns = (
        Column(("predictor",), tuple(map(_name, rows)), "left", key=True),
        column("median", "rho ↑", of=lambda r: number(r.rho, SIGNED)),
        column("95 %", "over tasks", of=lambda r: _span(r.low, r.high)),
        column("p < .05", "(tasks)", of=lambda r: _share(r, r.significant)),
        column("Holm", "(tasks)", of=lambda r: _share(r, r.holm)),
        column("regret ↓", "(points)", of=lambda r: _points(r.regret)),
        column("n", "(models)", of=lambda r: number(r.n, "g"), rest=1),
        column("95 %", "over models", of=lambda r: _span(r.models_low, r.models_high), rest=1),
        column("median", "tau ↑", of=lambda r: number(r.tau, SIGNED), rest=1),
        lost("(largest)", of=lambda r: r.regret_largest),
        lost("(random)", of=lambda r: r.regret_random),
        *map(given, controls),
    )
    shown = tuple(c for c in columns if not c.rest or set(c.cells) - {"", NONE})
    return Sheet(title, shown, _legend(selection, bool(metrics)))


def _legend(selection: Selection, metrics: bool) -> tuple[str, ...]:
    turned = "; ↓: a metric whose lowest value ranks first, turned" if metrics else ""
    return (
        "Per task, Spearman's rho over the models between predictor and main score of the last "
        f"layer (+1 the same order, -1 the reverse{turned}); the median over the tasks with at "
        f"least 4 models. 95 %: {_intervals(selection)}",
        "p < .05: tasks whose two-sided permutation p is below, of all; Holm: the same after "
        "Holm's correction over the tasks. n: median number of models. tau: Kendall's tau-b. rho "
        "given: median partial rank correlation, what the predictor says beyond the number of "
        "parameters, or beyond the rank of the final state.",
        "regret: score lost by taking the model predicted best instead of the one that is, in "
        "points (hundredths of the score), mean over tasks; (largest): by taking the largest known "
        "of the same models, (random): what a draw among them is expected to lose.",
    )


def _intervals(selection: Selection) -> str:
    if selection.large:
        from lrd_harness.board.statistics import LARGE  # here: a plugin's import stays light

        return (
            f"bootstrap interval of this median over tasks, as are those of the verdicts: above "
            f"{LARGE} models none is drawn over models, which would be the one that counts for "
            "models not seen here."
        )
    if all(row.models_low is None for row in selection.rows):
        return (
            "bootstrap interval of this median over tasks; over models, which would be the one "
            "that counts for models not seen here, it needs 5 models on each task of the median."
        )
    return (
        "bootstrap intervals of this median, over tasks, and over models, which is the one that "
        "counts for models not seen here (and too narrow where they are kin); it needs 5 models on "
        "each task of the median."
    )


def _name(row: Agreement | None) -> str:
    if row is None:
        return CONTROLS
    return plain(row.name) + (" ↓" if row.best == "min" else "")


def _share(row: Agreement, count: int) -> str:
    return NONE if row.rho is None else f"{count}/{len(row.tasks)}"


def _span(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{low:+z.2f} to {high:+z.2f}"


def _points(value: float | None) -> str:
    return number(None if value is None else 100 * value, ".1f")
