"""The leaderboard as sheets of plain text cells, for the reporters that are read by people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._cells import NONE, Column, Sheet, measured, number, plain
from ._claims import claim_sheets
from ._combined import combined_sheets
from ._families import family_sheets
from ._layers import choice_sheets
from ._profiles import profile_sheets
from ._ranking import ranking
from ._selection import selection_sheets

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import LayerTable, Leaderboard, TaskScore
    from lrd_harness.results.database import ErrorRow


__all__ = [
    "Column",
    "Sheet",
    "boards",
    "error_line",
    "errors",
    "layer_sheet",
    "notes",
    "plain",
    "sheets",
]


def sheets(board: Leaderboard) -> list[Sheet]:
    """What there is to show: the ranking, scores by task, correlations, the choice of a layer."""
    base = board.kind == "base"
    found = [ranking(board)]
    if len(board.tasks) > (1 if base else 0):  # of a single one the ranking says all
        found.append(_by_task(board))
    if any(c.rho is not None if base else c.n for c in board.correlations):
        found.append(_correlations(board))
    found += selection_sheets(board) + family_sheets(board) + combined_sheets(board)
    return found + choice_sheets(board) + profile_sheets(board) + claim_sheets(board)


def boards(board: Leaderboard) -> list[tuple[Leaderboard, str]]:
    """The boards in the order they are shown, each with the title of its notes."""
    base = [(board.base, "Notes on the base models")] if board.base else []
    return [(board, "Notes"), *base]


def notes(board: Leaderboard) -> list[str]:
    """The leaderboard's remarks, then those on single models."""
    of_models = [f"{plain(row.label)}: {plain(note)}." for row in board.rows for note in row.notes]
    return [*map(plain, board.notes), *of_models]


def errors(board: Leaderboard) -> list[ErrorRow]:
    """All of them: of whole models, then of pruned ones."""
    return [*board.errors, *(board.pruned.errors if board.pruned else ())]


def error_line(error: ErrorRow) -> str:
    """Where an error happened and what it was, in one line."""
    place = [error.model]
    place += [error.variant] if error.variant != "full" else []
    place += [f"rule {error.rule}"] if error.rule else []
    place += [error.task] if error.task else []
    place += [f"layer {error.layer}"] if error.layer is not None else []
    place += [error.metric] if error.metric else []
    return plain(f"{' · '.join(place)}: {error.error}")


def layer_sheet(table: LayerTable) -> Sheet:
    """One model: a line a layer, scores by task and profiles of the metrics."""
    columns = [Column(("layer",), tuple(map(str, table.layers)), key=True)]
    if table.tasks:
        columns.append(Column(("mean", "score ↑"), tuple(number(m) for m in table.means)))
    for i, task in enumerate(table.tasks):
        columns.append(
            Column((plain(task), "score ↑"), tuple(number(line[i]) for line in table.scores))
        )
    for name, values in table.profiles.items():
        columns.append(
            Column(tuple(plain(name).split(".", 1)), tuple(number(v, "#.4g") for v in values))
        )
    legend = [
        "layer 0: what enters the first block; layer l: what block l writes. Scores: the task's "
        "main score at that layer (0 to 1, ↑ higher is better). Other columns: the metric's "
        f"profile, mean over its tasks, in its own unit. {NONE}: none, or not for every task.",
    ]
    if table.apart:
        legend.append(
            "Means are over the embedding tasks alone, of scores and of every profile that was "
            f"measured on one; likelihood tasks are not in them: {plain(', '.join(table.apart))}."
        )
    return Sheet(f"Layers of {plain(table.model)}", tuple(columns), tuple(legend))


def _by_task(board: Leaderboard) -> Sheet:
    columns = [Column(("model",), tuple(plain(r.label) for r in board.rows), "left", key=True)]
    for task in board.tasks:
        unit = f"{plain(task.score_name or 'score')} ↑"
        chance = [] if task.chance is None else [f"chance {task.chance:.4g}"]
        heading = (plain(task.name), unit, *chance, f"n = {task.models}")
        columns.append(Column(heading, tuple(_cell(row.scores[task.name]) for row in board.rows)))
    cells = [score for row in board.rows for score in row.scores.values()]
    legend = [
        "Main score of the last layer (0 to 1, ↑ higher is better), n: models that have it; in "
        "parentheses the best layer of that task and its score (an oracle).",
    ]
    if any(score.stderr is not None for score in cells):
        legend.append("±: one standard error over the task's questions.")
    title = "Base models: scores by task" if board.kind == "base" else "Scores by task"
    return Sheet(title, tuple(columns), tuple(legend))


def _cell(score: TaskScore) -> str:
    last = measured(score.last, score.stderr)
    if score.best_layer is None or score.best is None:
        return last
    return f"{last} ({score.best_layer}: {score.best:.4f})"


def _correlations(board: Leaderboard) -> Sheet:
    held = [c for c in board.correlations if c.n or c.kind == "metric"]  # what is known of any
    columns = (
        Column(("predictor",), tuple(plain(c.name) for c in held), "left", key=True),
        Column(("kind",), tuple(c.kind for c in held), "left"),
        Column(("Spearman's rho ↑", "(-1 to +1)"), tuple(number(c.rho, "+.2f") for c in held)),
        Column(("p", "(two-sided)"), tuple(number(c.p, ".2g") for c in held)),
        Column(("n", "(models)"), tuple(str(c.n) for c in held)),
    )
    legend = (
        "Spearman's rho of the predicted order with the mean score of the last layer: +1 the same "
        "order, 0 none, -1 the reverse; p by permutation. A metric is worth its cost where it "
        f"beats the baselines. {NONE}: fewer than 3 models, or all level.",
    )
    models = "base models" if board.kind == "base" else "models"
    return Sheet(f"How well each predictor orders the {models}", columns, legend)
