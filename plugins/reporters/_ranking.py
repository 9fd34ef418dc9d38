"""The ranking: the first sheet of a leaderboard, and what its columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from ._cells import NONE, Column, Sheet, measured, number, places, plain

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard, MetricColumn, Row


ARROW = {"max": "↑", "min": "↓"}


def unit_of(metric: str, score: str) -> str:
    """The unit of a selection score, "" for any other score or of a metric that is not here."""
    return _units().get((metric, score), "")


@cache  # as a board asks for each column, and a process has the same metrics throughout
def _units() -> dict[tuple[str, str], str]:
    from lrd_harness import manager

    known = manager.load().all("metric")
    return {(m.name, m.selection.score): m.unit for m in known if m.selection is not None}


def ranking(board: Leaderboard) -> Sheet:
    """A line a model; columns in which no model has anything are left out."""
    rows = board.rows
    columns = [
        Column(("actual", "rank"), places([row.rank for row in rows])),
        *(
            Column(("pred.", plain(metric.name)), places([r.predicted[metric.name] for r in rows]))
            for metric in board.metrics
        ),
        Column(("model",), tuple(plain(row.label) for row in rows), "left", key=True),
        *_sizes(rows),
        Column(("score ↑", "last"), tuple(measured(row.score, row.stderr) for row in rows)),
        Column(("chance",), tuple(number(row.chance) for row in rows)),
        Column(
            ("best", "layer"),
            tuple(_of(row.best_layer, row.info.blocks) for row in rows),
        ),
        Column(
            ("score ↑", "best"),
            tuple(measured(row.best_score, row.best_stderr) for row in rows),
            tied=board.kind == "base",
        ),
        *(_selection(metric, rows) for metric in board.metrics),
        *_origins(board),
    ]
    filled = [c for c in columns if c.key or any(cell != NONE for cell in c.cells)]
    return Sheet(_title(board), tuple(filled), tuple(_legend(board)))


def _title(board: Leaderboard) -> str:
    models = f"{len(board.rows)} model{'s' if len(board.rows) != 1 else ''}"
    tasks = f"{len(board.tasks)} task{'s' if len(board.tasks) != 1 else ''}"
    if board.kind == "embedding":
        return f"Leaderboard: {models}, {tasks}"
    only = board.tasks[0] if len(board.tasks) == 1 else None  # it has no sheet of its own
    named = f" ({plain(only.name)}, {plain(only.score_name or 'score')})" if only else ""
    return f"Base models: {models}, {tasks}{named}"


def _of(layer: int | None, blocks: int | None) -> str:
    return number(layer, "d") + (f"/{blocks}" if layer is not None and blocks else "")


def _sizes(rows: Sequence[Row]) -> list[Column]:
    millions = [r.info.parameters / 1e6 if r.info.parameters else None for r in rows]
    return [
        Column(("million", "params"), tuple(number(m, ",.1f") for m in millions), rest=1),
        Column(("blocks",), tuple(number(row.info.blocks, "d") for row in rows), rest=1),
        Column(("width", "(dims)"), tuple(number(row.info.width, "d") for row in rows), rest=1),
    ]


def _selection(metric: MetricColumn, rows: Sequence[Row]) -> Column:
    score, best = metric.selection
    unit = plain(unit_of(metric.name, score))
    heading = (plain(metric.name), f"{plain(score)} {ARROW[best]}", *([f"({unit})"] * bool(unit)))
    return Column(heading, tuple(number(row.values[metric.name], "#.4g") for row in rows))


def _origins(board: Leaderboard) -> list[Column]:
    rows = board.rows
    tasks = tuple(f"{row.tasks}/{len(board.tasks)}" if board.tasks else NONE for row in rows)
    revisions = tuple(plain(row.info.revision[:7]) or NONE for row in rows)
    poolings = tuple(plain(row.info.pooling) if row.info.pooling else NONE for row in rows)
    return [
        Column(("tasks",), tasks, rest=2),
        Column(("pooling",), poolings, "left", rest=2),
        Column(("revision",), revisions, "left", rest=2),
    ]


def _legend(board: Leaderboard) -> list[str]:
    lines = []
    if board.tasks and board.kind == "base":
        counted = all(task.score_name.startswith("acc") for task in board.tasks)
        what = "accuracy" if counted else "main score"
        over = f"mean over the tasks of the {what}" if len(board.tasks) > 1 else what
        lines.append(
            f"actual rank: order of the score (1 = best). score ↑ last: {over} (0 to 1, higher is "
            "better), as lm-eval counts it, of the last layer, which is the model itself; best: "
            "the layer that scores highest when the model's language-model head reads it."
        )
    elif board.tasks:
        lines.append(
            "actual rank: order of the score (1 = best). score ↑ last: mean over the tasks of the "
            "main score (0 to 1, higher is better) of the last layer, which is the model itself; "
            "best: the layer with the highest mean."
        )
    lines += _uncertainty(board)
    if board.metrics:
        lines.append(
            "pred.: predicted rank (1 = best), without labels: order of the mean over tasks of the "
            "model's rank within each task by the metric's selection score, whose own mean over "
            "tasks is in the metric's column (↑ higher, ↓ lower is ranked first)."
        )
    return lines


def _uncertainty(board: Leaderboard) -> list[str]:
    """What ± and chance mean, where they are shown."""
    several = len(board.tasks) > 1
    words = []
    if any(row.stderr is not None or row.best_stderr is not None for row in board.rows):
        independent = ", taking the tasks as independent" if several else ""
        words.append(f"±: one standard error over the questions{independent}.")
    if any(row.chance is not None for row in board.rows):
        words.append(f"chance: what guessing gets{', mean over the tasks' if several else ''}.")
    return [" ".join(words)] if words else []
