"""The folder `cards`: MODEL/README.md, a Hugging Face model card with evaluation results.

The metadata are made by huggingface_hub (`model-index`), which reads them back with
`ModelCard.load`: a result a task, the main score of the last layer, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.store.folders import safe_names

from ._cells import NONE, number, places, plain
from ._markdown import escape

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard, Row
    from lrd_harness.results.database import Key


TYPES = {LIKELIHOOD: "text-generation"}  # the hub's word; of the others mteb's is used there
CAUTION = (
    "Predicted ranks come from measures of the model's states on texts without labels. They are "
    "of use where they order models better than size alone does: see the leaderboard of the run "
    "for how well they did, and with how many models."
)
ORACLE = (
    "The best layer is an oracle: it was found with the labels of the same data, so its score is "
    "what could be had at most, not what is to be expected."
)


ACTUAL = "actual rank (mean score of the last layer)"


class Order(NamedTuple):
    """What orders models, how many of them it does, and each one's place as text."""

    name: str
    of: int
    places: Mapping[Key, str]


def cards(board: Leaderboard) -> Iterator[tuple[str, bytes]]:
    """A card for each model that has a score; embedding and language-model tasks in one card."""
    sides = [
        (side, {row.info.key: row for row in side.rows}, _orders(side))
        for side in (board, *([board.base] if board.base else []))
    ]
    made: dict[str, str] = {}
    for row in board.rows:
        key = row.info.key
        parts = [(side, rows[key], orders) for side, rows, orders in sides if key in rows]
        results = [result for side, own, _ in parts for result in _results(side, own)]
        if results:
            made[row.label] = _card(row, results, "\n".join(_section(*part) for part in parts))
    folders = safe_names(made)
    for label, text in made.items():
        yield f"{folders[label]}/README.md", text.encode("utf-8", "backslashreplace")


def _orders(board: Leaderboard) -> list[Order]:
    """Those that the metrics predict, then the actual one."""
    keys = [row.info.key for row in board.rows]
    ranks = {
        f"{escape(plain(m.name))} ({escape(plain(m.selection.score))})": [
            row.predicted[m.name] for row in board.rows
        ]
        for m in board.metrics
    }
    ranks |= {ACTUAL: [row.rank for row in board.rows]}
    return [
        Order(
            name, sum(rank is not None for rank in held), dict(zip(keys, places(held), strict=True))
        )
        for name, held in ranks.items()
    ]


def _results(board: Leaderboard, row: Row) -> Iterator[dict[str, Any]]:
    """The fields of an EvalResult for each scored task."""
    for task in board.tasks:
        score = row.scores[task.name]
        if score.last is not None:
            kind = plain(task.type) or "other"
            yield {
                "task_type": TYPES.get(task.type, kind),
                "dataset_type": plain(task.name),
                "dataset_name": plain(task.name),
                "metric_type": plain(task.score_name) or "main_score",
                "metric_name": plain(task.score_name) or "main score",
                "metric_value": score.last,
            }


def _card(row: Row, results: list[dict[str, Any]], text: str) -> str:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    info = row.info
    data = ModelCardData(
        model_name=plain(row.label) or "unnamed",
        eval_results=[EvalResult(**result) for result in results],
        tags=["lrd-harness"],
    )
    of = [
        ("revision", info.revision),
        ("parameters", f"{info.parameters:,}" if info.parameters else ""),
        ("blocks", info.blocks),
        ("width", info.width),
        ("pooling", info.pooling),
        ("longest text (tokens)", info.max_length),
    ]
    facts = "".join(f"* {name}: {escape(plain(value))}\n" for name, value in of if value)
    title = escape(plain(row.label))
    body = f"# {title}\n\nEvaluated layer by layer with lrd-harness.\n\n{facts}\n{text}"
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def _section(board: Leaderboard, row: Row, orders: Sequence[Order]) -> str:
    """Scores by task, and predicted ranks; "" where the model has no score."""
    scores = {task: row.scores[task.name] for task in board.tasks}
    lines = []
    for task, score in scores.items():
        if score.last is None:
            continue
        name = f"{escape(plain(task.name))} ({escape(plain(task.score_name or 'score'))})"
        cells = [number(score.last), number(score.stderr), number(score.chance)]
        best = [NONE if score.best_layer is None else str(score.best_layer), number(score.best)]
        lines.append(f"| {name} | {' | '.join([*cells, *best])} |\n")
    if not lines:
        return ""
    title = "Base model: scores by task" if board.kind == "base" else "Scores by task"
    head = "| task | last layer ↑ | stderr | chance | best layer | its score ↑ |\n"
    rule = "|:---|---:|---:|---:|---:|---:|\n"
    table = f"## {title}\n\n{head}{rule}{''.join(lines)}\nScores are 0 to 1. {ORACLE}\n"
    return table + _predicted(row.info.key, orders)


def _predicted(key: Key, orders: Sequence[Order]) -> str:
    """How the metrics rank it beside the models that they rank; "" where none does."""
    known = [order for order in orders if order.of > 1 and order.places[key] != NONE]
    if all(order.name == ACTUAL for order in known):
        return ""
    lines = [f"* {order.name}: {order.places[key]} of {order.of}\n" for order in known]
    return f"\n## Predicted ranks\n\n{''.join(lines)}\n{CAUTION}\n"
