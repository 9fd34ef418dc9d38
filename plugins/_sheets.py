"""The leaderboard as sheets of plain text cells, for the reporters that are read by people.

Every heading says unit and direction (↑ higher is better, ↓ lower is better); "-" stands for what
is not there. Names come from strangers: what cannot be printed is shown as an escape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lrd_harness.leaderboard import LayerTable, Leaderboard, MetricColumn, Row, TaskScore
    from lrd_harness.results import ErrorRow

NONE = "-"
ARROW = {"max": "↑", "min": "↓"}
UNITS = {  # of the built-in selection scores; a stranger's is shown without
    ("frenet", "d0L"): "(radians)",
    ("nrs", "mean_jaccard"): "(0-1)",
    ("gfmi", "mean_auc"): "(nats x %)",
}


@dataclass(frozen=True, eq=False)  # a column is itself: two may look alike
class Column:
    """A column: heading in lines, one cell a row.

    key: repeated where a sheet is split, and broken into lines where it must be.
    rest: where a sheet is too wide, columns of a higher one go behind the others first.
    """

    heading: tuple[str, ...]
    cells: tuple[str, ...]
    align: Literal["left", "right"] = "right"
    key: bool = False
    rest: int = 0


@dataclass(frozen=True)
class Sheet:
    """A titled table, one of its columns a key, and what the columns mean."""

    title: str
    columns: tuple[Column, ...]
    legend: tuple[str, ...] = ()


def plain(text: object) -> str:
    """Text with everything unprintable (line ends, escapes, direction marks) made visible."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(text)
    )


def number(value: float | None, form: str = ".4f") -> str:
    """A number in that format, or the mark for none."""
    return NONE if value is None else f"{value:{form}}"


def sheets(board: Leaderboard) -> list[Sheet]:
    """What there is to show: the ranking, the scores by task, the correlations."""
    found = [_ranking(board)]
    if board.tasks:
        found.append(_by_task(board))
    if any(correlation.n for correlation in board.correlations):
        found.append(_correlations(board))
    return found


def notes(board: Leaderboard) -> list[str]:
    """The leaderboard's remarks, then those on single models."""
    of_models = [f"{plain(row.label)}: {plain(note)}." for row in board.rows for note in row.notes]
    return [*map(plain, board.notes), *of_models]


def error_line(error: ErrorRow) -> str:
    """Where an error happened and what it was, in one line."""
    place = [error.model]
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
    legend = (
        "layer 0: what enters the first block; layer l: what block l writes. Scores: the task's "
        "main score at that layer (0 to 1, ↑ higher is better). Other columns: the metric's "
        f"profile, mean over its tasks, in its own unit. {NONE}: none, or not for every task.",
    )
    return Sheet(f"Layers of {plain(table.model)}", tuple(columns), legend)


def _ranking(board: Leaderboard) -> Sheet:
    rows = board.rows
    columns = [
        Column(("actual", "rank"), _places([row.rank for row in rows])),
        *(
            Column(("pred.", plain(metric.name)), _places([r.predicted[metric.name] for r in rows]))
            for metric in board.metrics
        ),
        Column(("model",), tuple(plain(row.label) for row in rows), "left", key=True),
        *_sizes(rows),
        Column(("score ↑", "last"), tuple(number(row.score) for row in rows)),
        Column(
            ("best", "layer"),
            tuple(_of(row.best_layer, row.info.blocks) for row in rows),
        ),
        Column(("score ↑", "best"), tuple(number(row.best_score) for row in rows)),
        *(_selection(metric, rows) for metric in board.metrics),
        *_origins(board),
    ]
    models = f"{len(rows)} model{'s' if len(rows) != 1 else ''}"
    tasks = f"{len(board.tasks)} task{'s' if len(board.tasks) != 1 else ''}"
    filled = [c for c in columns if c.key or any(cell != NONE for cell in c.cells)]
    return Sheet(f"Leaderboard: {models}, {tasks}", tuple(filled), tuple(_legend(board)))


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
    unit = UNITS.get((metric.name, score))
    heading = (plain(metric.name), f"{plain(score)} {ARROW[best]}", *([unit] if unit else []))
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
    if board.tasks:
        lines.append(
            "actual rank: order of the score (1 = best). score ↑ last: mean over the tasks of the "
            "main score (0 to 1, higher is better) of the last layer, which is the model itself; "
            "best: the layer with the highest mean."
        )
    if board.metrics:
        lines.append(
            "pred.: predicted rank (1 = best), without labels: order of the mean over tasks of the "
            "model's rank within each task by the metric's selection score, whose own mean over "
            "tasks is in the metric's column (↑ higher, ↓ lower is ranked first)."
        )
    return lines


def _by_task(board: Leaderboard) -> Sheet:
    columns = [Column(("model",), tuple(plain(r.label) for r in board.rows), "left", key=True)]
    for task in board.tasks:
        unit = f"{plain(task.score_name or 'score')} ↑"
        heading = (plain(task.name), unit, f"n = {task.models}")
        columns.append(Column(heading, tuple(_cell(row.scores[task.name]) for row in board.rows)))
    legend = (
        "Main score of the last layer (0 to 1, ↑ higher is better), n: models that have it; in "
        "parentheses the best layer of that task and its score (an oracle).",
    )
    return Sheet("Scores by task", tuple(columns), legend)


def _cell(score: TaskScore) -> str:
    if score.best_layer is None or score.best is None:
        return number(score.last)
    return f"{number(score.last)} ({score.best_layer}: {score.best:.4f})"


def _correlations(board: Leaderboard) -> Sheet:
    held = board.correlations
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
        f"beats the baselines, which need no metric. {NONE}: fewer than 3 models, or all level.",
    )
    return Sheet("How well each predictor orders the models", columns, legend)


def _places(places: Iterable[int | None]) -> tuple[str, ...]:
    """Ranks as text, with = behind those that several share."""
    held = list(places)
    models = Counter(held)
    return tuple(
        NONE if place is None else f"{place}{'=' if models[place] > 1 else ''}" for place in held
    )
