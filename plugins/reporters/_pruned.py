"""The pruning table in every form: sheets for people, CSV, and what JSON has of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lrd_harness.store import files

from ._cells import NONE, Column, Sheet, measured, number, plain

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard
    from lrd_harness.board.pruned import PrunedRow, PrunedTable, SummaryRow


OF_KIND = {"embedding": "embedding tasks", "base": "likelihood tasks"}
SIGNED = "+z.2f"  # z: what rounds to nothing is +0.00, not -0.00


def pruning_sheets(table: PrunedTable, by_task: bool = True) -> list[Sheet]:
    """The summary, then a sheet a model; embedding and likelihood tasks apart, as they must be.

    by_task: whether models' sheets have a column a task.
    """
    both = len({row.kind for row in table.rows}) > 1
    found = []
    for kind, summary in groupby(table.summary, key=lambda row: row.kind):
        title = "Pruning: summary" + (f", {OF_KIND[kind]}" if both else "")
        found.append(_summary(title, list(summary)))
    for (label, kind), rows in groupby(table.rows, key=lambda row: (row.label, row.kind)):
        title = f"Pruning: {plain(label)}" + (f", {OF_KIND[kind]}" if both else "")
        found.append(_model(title, list(rows), by_task))
    return found


def pruning_notes(table: PrunedTable) -> list[str]:
    """What must be known of the table."""
    return [plain(note) for note in table.notes]


def pruning_csv(board: Leaderboard) -> str:
    """One line a model, kind of task, rule and budget; "" where nothing was pruned.

    model, revision, kind ("embedding", "base"), rule, budget (share), blocks (of the whole model),
    removed (how many), removed_blocks (1-based; "; " between seeds), seeds, tasks, full (the whole
    model's mean score over these tasks), score, stderr, change (%), random_seeds, random_median,
    random_low, random_high (%), random_interval ("min-max" or "2.5-97.5 %"), difference (to
    random's median, percentage points), beats_random ("clearly", "yes", "no"), parameters_saved,
    latency_saved (%), missing (tasks), change.TASK (%). Medians over seeds; empty: none.
    """
    table = board.pruned
    if table is None:
        return ""
    tasks = list(dict.fromkeys(task for row in table.rows for task in row.by_task))
    lines = [_line(row, tasks) for row in table.rows]
    return files.written_rows(list(lines[0]), lines)


def pruning_document(table: PrunedTable) -> dict[str, Any]:
    """The key "pruning" of the JSON form: the fields of the rows of pruned_table.py."""
    return {
        "summary": [asdict(row) for row in table.summary],
        "rows": [asdict(row) for row in table.rows],
        "notes": table.notes,
        "errors": [asdict(error) for error in table.errors],
    }


def _line(row: PrunedRow, tasks: Sequence[str]) -> dict[str, Any]:
    names = ("model", "revision", "kind", "rule", "budget", "blocks", "removed")
    changes = {task: change.change for task, change in row.by_task.items()}
    random = row.random
    return {
        **{name: getattr(row, name) for name in names},
        "removed_blocks": "; ".join(",".join(map(str, run.removed)) for run in row.runs),
        "seeds": sum(run.seed is not None for run in row.runs) or None,
        "tasks": len(row.tasks),
        **{name: getattr(row, name) for name in ("full", "score", "stderr", "change")},
        "random_seeds": random.seeds if random else None,
        "random_median": random.median if random else None,
        "random_low": random.low if random else None,
        "random_high": random.high if random else None,
        "random_interval": _interval(random.quantiles) if random else None,
        "difference": row.difference,
        "beats_random": row.verdict,
        "parameters_saved": row.parameters_saved,
        "latency_saved": row.latency_saved,
        "missing": "; ".join(row.missing),
        **{f"change.{task}": changes.get(task) for task in tasks},
    }


def _interval(quantiles: bool) -> str:
    return "2.5-97.5 %" if quantiles else "min-max"


def _summary(title: str, rows: Sequence[SummaryRow]) -> Sheet:
    names = tuple(f"{plain(row.rule)} {100 * row.budget:g} %" for row in rows)
    compared = tuple(f"{r.beats} of {r.compared}" if r.compared else NONE for r in rows)
    columns = (
        Column(("rule, budget",), names, "left", key=True),
        Column(("change ↑", "(%)"), tuple(number(row.change, SIGNED) for row in rows)),
        Column(("vs random ↑", "(points)"), tuple(number(r.difference, SIGNED) for r in rows)),
        Column(("beats", "random"), tuple(row.verdict or NONE for row in rows)),
        Column(("better in", "(pairs)"), compared),
        Column(("pairs",), tuple(str(row.pairs) for row in rows)),
        Column(("models",), tuple(str(row.models) for row in rows)),
    )
    legend = (
        "change: of a task's score against the whole model's, in percent (↑ higher is better, 0 as "
        "good as whole), the median over the pairs of model and task. vs random: that change less "
        "the median over random removal's seeds on the same pair, in percentage points; the median "
        "over pairs. beats random: whether that is above 0. better in: pairs where the rule is "
        "above random's median. Budget: the share of the candidate blocks that goes.",
    )
    return Sheet(title, _filled(columns), legend)


def _model(title: str, held: Sequence[PrunedRow], by_task: bool) -> Sheet:
    """One model's rows of one kind of task, below the whole model."""
    names, rows = _merged(held)
    blank = (NONE,)
    whole = next((row.full for row in rows if not row.missing), None)
    tasks = list(dict.fromkeys(task for row in rows for task in row.by_task))

    def column(first: str, second: str, cells: Iterable[str], rest: int = 1) -> Column:
        return Column((first, second), (*blank, *cells), rest=rest)

    scores = [number(whole), *(measured(row.score, row.stderr) for row in rows)]
    columns = [
        Column(("rule, budget",), ("whole model", *names), "left", key=True),
        Column(("blocks", "removed"), (*blank, *map(_removed, rows)), "left"),
        Column(("score ↑", "mean" if len(tasks) > 1 else "(0-1)"), tuple(scores)),
        column("change ↑", "(%)", (number(r.change, SIGNED) for r in rows), 0),
        column("vs random ↑", "(points)", (number(r.difference, SIGNED) for r in rows), 0),
        Column(("beats", "random"), (*blank, *(row.verdict or NONE for row in rows)), tied=True),
        column("random's change", "(%, interval)", map(_band, rows)),
        column("params ↑", "(% saved)", (number(r.parameters_saved, ".1f") for r in rows)),
        column("latency ↑", "(% saved)", (number(r.latency_saved, "z.1f") for r in rows)),
    ]
    if any(row.missing for row in rows):
        asked = (f"{len(row.tasks)}/{len(row.tasks) + len(row.missing)}" for row in rows)
        columns.append(Column(("tasks",), (*blank, *asked), rest=1))
    for task in tasks if by_task and len(tasks) > 1 else ():
        changes = [row.by_task[task].change if task in row.by_task else None for row in rows]
        cells = (number(change, SIGNED) for change in changes)
        columns.append(column(plain(task), "change ↑ (%)", cells, 2))
    legend = _legend(rows)
    if not by_task and len(tasks) > 1:
        legend.append("Changes by task: in the forms md, json and pruning (a CSV).")
    return Sheet(title, _filled(columns), tuple(legend))


def _merged(rows: Sequence[PrunedRow]) -> tuple[list[str], list[PrunedRow]]:
    """Rows that differ in nothing but the budget as one, as in shallow models; and their names."""
    kept: list[PrunedRow] = []
    budgets: list[list[float]] = []
    for row in rows:
        for held, other in zip(budgets, kept, strict=True):
            if replace(row, budget=other.budget) == other:
                held.append(row.budget)
                break
        else:
            kept.append(row)
            budgets.append([row.budget])
    shares = [", ".join(f"{100 * budget:g}" for budget in held) for held in budgets]
    names = [f"{plain(row.rule)} {held} %" for row, held in zip(kept, shares, strict=True)]
    return names, kept


def _legend(rows: Sequence[PrunedRow]) -> list[str]:
    several = len({task for row in rows for task in row.tasks}) > 1
    lines = [
        f"Blocks are numbered 1 to {rows[0].blocks}. Budget: the share of the candidate blocks "
        f"that goes. score: {'mean over the tasks' if several else 'of the task'}, at the last "
        "layer; change: against the whole model's, in percent (↑ higher is better, 0 as good as "
        "whole). Several seeds: the median over them."
    ]
    spreads = [row.random for row in rows if row.random]
    if spreads:
        kinds = {one.quantiles for one in spreads}
        which = {
            frozenset({False}): "lowest to highest",
            frozenset({True}): "2.5 % to 97.5 % quantile",
        }.get(frozenset(kinds), "lowest to highest, of 20 seeds and more 2.5 % to 97.5 % quantile")
        lines.append(
            "vs random: change less the median of random removal's, in percentage points. beats "
            'random: "yes" above that median, "clearly" above the whole interval, else "no". '
            f"interval of random's change over its seeds: {which}."
        )
    if any(row.latency_saved is not None for row in rows):
        lines.append("latency: of one forward pass, as measured; a few percent are noise.")
    if any(row.stderr is not None for row in rows):
        lines.append("±: one standard error over the questions.")
    return lines


def _removed(row: PrunedRow) -> str:
    """The blocks where all seeds removed the same, else how many."""
    from lrd_harness.blocks import written  # not above: it is of no use to a listing

    if len({run.removed for run in row.runs}) == 1:
        return written(row.runs[0].removed)
    return f"{row.removed} ({len(row.runs)} seeds)"


def _band(row: PrunedRow) -> str:
    if row.random is None:
        return NONE
    return f"{row.random.low:{SIGNED}} to {row.random.high:{SIGNED}}"


def _filled(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Without the columns that hold nothing."""
    return tuple(c for c in columns if c.key or any(cell != NONE for cell in c.cells))
