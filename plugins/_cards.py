"""The folder `cards`: MODEL/README.md, a Hugging Face model card with evaluation results.

The metadata are made by huggingface_hub (`model-index`), which reads them back with
`ModelCard.load`: a result a task, the main score of the last layer, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.folders import safe_name

from ._cells import NONE, number, plain
from ._markdown import escape

if TYPE_CHECKING:
    from lrd_harness.leaderboard import Leaderboard, Row

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


def cards(board: Leaderboard) -> Iterator[tuple[str, bytes]]:
    """A card for each model that has a score; embedding and language-model tasks in one card."""
    base = {row.info.key: row for row in (board.base.rows if board.base else ())}
    for row in board.rows:
        parts = [(board, row)]
        if board.base and row.info.key in base:
            parts.append((board.base, base[row.info.key]))
        results = [result for part, of in parts for result in _results(part, of)]
        if results:
            text = _card(row, results, "\n".join(_section(part, of) for part, of in parts))
            yield f"{safe_name(row.label)}/README.md", text.encode("utf-8", "backslashreplace")


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


def _section(board: Leaderboard, row: Row) -> str:
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
    return table + _predicted(board, row)


def _predicted(board: Leaderboard, row: Row) -> str:
    """How the metrics rank it beside the other models of the run; "" where nothing does."""
    ranks = {m: row.predicted[m.name] for m in board.metrics}
    of = len(board.rows)
    if of < 2 or all(rank is None for rank in ranks.values()):
        return ""
    of = len(board.rows)
    lines = [
        f"* {escape(plain(m.name))} ({escape(plain(m.selection.score))}): "
        f"{NONE if rank is None else rank} of {of}\n"
        for m, rank in ranks.items()
    ]
    actual = f"* actual rank (mean score of the last layer): {row.rank or NONE} of {of}\n"
    return f"\n## Predicted ranks\n\n{''.join(lines)}{actual}\n{CAUTION}\n"
