"""Markdown: a report as GitHub shows it, and the folder `cards` of Hugging Face model cards.

The form `fragment` is the same as HTML without a page around it, as cells of notebooks show it.

A card is MODEL/README.md. Its metadata are made by huggingface_hub (`model-index`), which reads
them back with `ModelCard.load`: one result per task, the main score of the last layer, 0 to 1.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.errors import plain
from lrd_harness.report import Column, Report, Row, Table, inputs
from lrd_harness.store.folders import safe_names

from ._data import PREFIXES, valued
from ._sheets import NONE, places, sentences, sheets

# What Markdown would read as markup. An underscore within a word is none and stays readable.
_MARKUP = re.compile(r"([\\`*\[\]{}|~#$!])|((?<![^\W_])_|_(?![^\W_]))")
TYPES = {LIKELIHOOD: "text-generation"}  # the hub's word; of the others mteb's is used there
CAUTION = (
    "Predicted ranks come from measures of the model's states on {} without labels. They are "
    "useful only where they order models better than size alone does: see the leaderboard of the "
    "run for how well they did, and with how many models."
)
ORACLE = (
    "The best layer is an oracle: it was found with the labels of the same data, so its score is "
    "an upper bound, not what is to be expected."
)
ACTUAL = "actual rank (mean score of the last layer)"


def markdown(report: Report) -> str:
    """GitHub's Markdown: tables with their captions, then notes and errors."""
    parts = [f"# {escape(plain(report.title))}"] if report.title else []
    parts.append(_listed(list(map(plain, report.answer))))
    for sheet in sheets(report):
        heads = [" ".join(map(escape, column.heading)) for column in sheet.columns]
        rules = [":---" if column.left else "---:" for column in sheet.columns]
        rows = zip(*([escape(cell) for cell in c.cells] for c in sheet.columns), strict=True)
        lines = [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
        parts += [f"## {escape(sheet.title)}", "\n".join(lines), _listed(sheet.caption)]
    for title, lines in sentences(report):
        parts += [f"## {title}", _listed(lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def fragment(report: Report) -> str:
    """HTML of the answer, the tables with their captions, notes and errors."""
    parts = [_element("h3", report.title)] if report.title else []
    parts.append(_items(report.answer))
    for sheet in sheets(report):
        heads = [_element("th", " ".join(column.heading)) for column in sheet.columns]
        cells = zip(*(column.cells for column in sheet.columns), strict=True)
        rows = [heads, *([_element("td", cell) for cell in row] for row in cells)]
        lines = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
        parts += [_element("h4", sheet.title), f"<table>\n{lines}\n</table>"]
        parts.append(_items(sheet.caption))
    for title, items in sentences(report):
        parts += [_element("h4", title), _items(items)]
    return "".join(f"{part}\n" for part in parts if part)


def _element(name: str, text: str) -> str:
    return f"<{name}>{html.escape(plain(text))}</{name}>"


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(_element('li', line) for line in lines)}</ul>" if lines else ""


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"* {escape(line)}" for line in lines)


def escape(text: str) -> str:
    """Printable text so that it is shown as it is, in a table's cell or in a line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", text)


FACTS = {
    **{name: name for name in ("revision", "parameters", "blocks", "width", "pooling")},
    "max_length": "longest {} (tokens)",
}
FACT = (Column("property", key=True), Column("value", form=",d"))
SCORES = (
    Column("task", key=True),
    Column("score", "last layer", best="max", form=".4f", error="stderr"),
    Column("chance", form=".4f"),
    Column("best_layer", "best layer"),
    Column("best_score", "its score", best="max", form=".4f"),
)


class Board(NamedTuple):
    """Of one kind of tasks: those that have scores, and for each predictor every model's place."""

    kind: str
    tasks: Sequence[Row]
    places: Mapping[str, Sequence[str]]


def cards(report: Report) -> Iterator[tuple[str, bytes]]:
    """A card for each model that has a score; tasks of all kinds in one card."""
    models, known = report.get("models"), report.get("model_info")
    if models is None or known is None:
        return
    labels: dict[Any, str] = {(row["name"], row["revision"]): row["model"] for row in known.rows}
    boards = [_board(report, models, prefix) for prefix in PREFIXES]
    texts: dict[str, str] = {}
    for i, row in enumerate(models.rows):
        scored = [(b, t) for b in boards for t in b.tasks if _score(row, t) is not None]
        if scored:
            label = labels.get((row["model"], row["revision"]), str(row["model"]))
            tables = tuple(table for board in boards for table in _tables(board, i, row))
            about = _facts(row, inputs(scored[0][0].kind).removesuffix("s"))
            results = [_result(row, task) for _, task in scored]
            texts[label] = _card(label, results, (about, *tables))
    folders = safe_names(texts)
    for label, card in texts.items():
        yield f"{folders[label]}/README.md", card.encode("utf-8", "backslashreplace")


def _board(report: Report, models: Table, prefix: str) -> Board:
    """That whose tables have the prefix; without any tasks where there is none."""
    tasks, metrics = report.get(f"{prefix}tasks"), report.get(f"{prefix}metrics")
    columns = {
        f"{m['metric']} ({m['score']})": f"predicted.{m['metric']}"
        for m in (metrics.rows if metrics else ())
    }
    columns[ACTUAL] = "rank"
    ranks = {
        name: places([valued(row.get(prefix + column)) for row in models.rows])
        for name, column in columns.items()
    }
    kind = prefix[:-1] or report.facts.get("kind", "embedding")
    return Board(kind, tasks.rows if tasks else (), ranks)


def _score(row: Row, task: Row, column: str = "score") -> Any:
    return valued(row.get(f"{column}.{task['task']}"))


def _result(row: Row, task: Row) -> dict[str, Any]:
    """The fields of an EvalResult."""
    name, kind = plain(task["score_name"] or ""), task["type"] or ""
    return {
        "task_type": TYPES.get(kind, plain(kind) or "other"),
        "dataset_type": plain(task["task"]),
        "dataset_name": plain(task["task"]),
        "metric_type": name or "main_score",
        "metric_name": name or "main score",
        "metric_value": _score(row, task),
    }


def _tables(board: Board, place: int, row: Row) -> Iterator[Table]:
    """Scores by task, and how the metrics rank the model beside the others that they rank."""
    names = [column.name for column in SCORES[1:]] + ["stderr"]
    scores = [
        {"task": f"{task['task']} ({task['score_name'] or 'score'})"}
        | {name: _score(row, task, name) for name in names}
        for task in board.tasks
        if _score(row, task) is not None
    ]
    if not scores:
        return
    title = "Base model: scores by task" if board.kind == "base" else "Scores by task"
    yield Table("scores", title, SCORES, scores, (f"Scores are 0 to 1. {ORACLE}",))
    of = {name: sum(rank != NONE for rank in ranks) for name, ranks in board.places.items()}
    ranked = [
        {"predictor": name, "rank": ranks[place], "of": of[name]}
        for name, ranks in board.places.items()
        if ranks[place] != NONE and of[name] > 1
    ]
    if {rank["predictor"] for rank in ranked} - {ACTUAL}:
        columns = (Column("predictor", key=True), Column("rank"), Column("of", "models ranked"))
        caution = CAUTION.format(inputs(board.kind))
        yield Table("ranks", "Predicted ranks", columns, ranked, (caution,))


def _facts(row: Row, read: str) -> Table:
    """What the model is. read: what it reads, one of these."""
    values = {name: valued(row.get(name)) for name in FACTS}
    facts = [
        {"property": FACTS[name].format(read), "value": value}
        for name, value in values.items()
        if value
    ]
    return Table("facts", "The model", FACT, facts, ("Evaluated layer by layer with lrd-harness.",))


def _card(label: str, results: list[dict[str, Any]], tables: tuple[Table, ...]) -> str:
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    data = ModelCardData(
        model_name=plain(label) or "unnamed",
        eval_results=[EvalResult(**result) for result in results],
        tags=["lrd-harness"],
    )
    text = markdown(Report(label, tables))
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))
