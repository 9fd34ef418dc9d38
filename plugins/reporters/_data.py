"""Reports for programs: CSV of one table, JSON of all, and the folder `tidy`.

In the folder: values, the table of that name; statistics, every number of the tables of statistics,
one per row. Both are there as CSV and as Parquet, a missing value being an empty cell and a null.
scores.csv, metrics.csv and models.csv are whole models in the forms that `lrd-harness leaderboard
--actual scores.csv --values metrics.csv --models-info models.csv` reads. They carry what orders
models, and no more: no pooling, no standard errors, no chance, no further scores of a task, no
pruned models, no errors.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from typing import Any, TypeVar

from lrd_harness.errors import plain
from lrd_harness.report import BOARDS, Report, Row, Table, placed
from lrd_harness.store.tables import written

PREFIXES = ("", *(f"{board}." for board in BOARDS))  # of the tables of each board
SCHEMA, VERSION = "lrd-harness/leaderboard", 2
Named = TypeVar("Named", bound=Hashable)
# Columns of values.parquet that are numbers; the others are texts.
VALUES: Mapping[str, type] = {
    **dict.fromkeys(("parameters", "blocks", "width", "max_length", "layer", "place", "n"), int),
    **dict.fromkeys(("depth", "value", "stderr", "chance", "seconds"), float),
}
# board: the kind of tasks; about: what it is a statistic of, the table's name or the word that
# stands for it; predictor: the row's key; statistic: the column; n: models, or pairs with tasks.
STATISTICS = ("board", "about", "predictor", "kind", "best", "task", "other", "statistic")
NUMBERS: Mapping[str, type] = {"value": float, "n": float}
DIGITS = 12  # that a number has which was computed from few; by chance one in a thousand has
ABOUT = {
    "correlations": "mean",
    "agreement": "tasks",
    "agreement_tasks": "task",
    "rivals": "rival",
    "families": "kin",
    "combined": "unseen",
}
NO_STATISTICS = set(
    "models ranking scores model_info tasks metrics values errors family_ranks family_rivals "
    "outlying_scores combined_models combined_strengths layers layer_picks model_layers "
    "panel panel_places controls".split()
)
NO_STATISTICS_OF = ("profile", "checkpoint", "pruning", "pairs.")  # how names of tables begin
KIND, OTHER = ("verdict", "kind"), ("other", "control", "rival")  # columns, the first there is
FORMS = {
    "scores": ("model", "layer", "task", "score", "task_type", "score_name"),
    "metrics": ("model", "layer", "task", "name", "value"),
    "models": ("model", "parameters_millions", "width", "blocks", "family", "released"),
}


def as_csv(table: Table) -> str:
    """A table with all of its columns, numbers in full, empty cells where there is no value.

    A list is written with "; " between its values. A name that a spreadsheet would take for a
    formula has an apostrophe before it.
    """
    if not table.rows:
        return ""
    names = [column.name for column in table.columns]
    return written(names, ([_cell(row.get(name)) for name in names] for row in table.rows))


def _cell(value: Any) -> Any:
    value = valued(value)
    if isinstance(value, bool):
        return int(value)
    return "; ".join(map(str, value)) if isinstance(value, list) else written_number(value)


def as_json(report: Report) -> str:
    """Everything but the single values, which the tidy form has.

    {"schema", "version", "title", "answer": [...], "facts", "notes": [...], "errors": [...],
    "tables": {NAME: {"title", "caption": [...], "columns": [{"name", "label", "unit", "best"}],
    "rows": [{column: cell}]}}}. Numbers are in full, null stands where there is no value. The
    version changes when one of these keys changes its meaning or goes.
    """
    head = {
        "schema": SCHEMA,
        "version": VERSION,
        "title": report.title,
        "answer": list(report.answer),
        "facts": valued(report.facts),
        "notes": list(report.notes),
        "errors": list(report.errors),
    }
    parts = [f"{_json(key)}: {_json(value)}" for key, value in head.items()]
    tables = [f"{_json(t.name)}: {_table(t)}" for t in report.tables if t.name != "values"]
    parts.append('"tables": {\n' + ",\n".join(tables) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _table(table: Table) -> str:
    """A line per row, which is quicker to write than json's own indent, and to compare."""
    names = [column.name for column in table.columns]
    columns = [
        {"name": c.name, "label": c.label or c.name, "unit": c.unit, "best": c.best}
        for c in table.columns
    ]
    head = {"title": table.title, "caption": list(table.caption), "columns": columns}
    rows = (_json({n: written_number(valued(row.get(n))) for n in names}) for row in table.rows)
    return _json(head)[:-1] + ', "rows": [\n' + ",\n".join(rows) + "\n]}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def valued(value: Any) -> Any:
    """A cell as a plain value of Python; None for what is not finite or stands for nothing."""
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): valued(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [valued(item) for item in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if isinstance(value, (str, int)) else None


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 model", "2 models"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def family(row: Row) -> str:
    """The family of a model, "unknown" where it is."""
    return plain(row.get("family") or "unknown")


def written_number(value: Any) -> Any:
    """A number of few digits without the noise of its last bits; all others as they are.

    >>> written_number(0.7928000000000001), written_number(1 / 3), written_number(2)
    (0.7928, 0.3333333333333333, 2)
    """
    if type(value) is not float:
        return value
    short = f"{value:.15g}"
    digits = short.partition("e")[0].lstrip("-0.").replace(".", "")
    return float(short) if len(digits) <= DIGITS else value


def tidy(report: Report) -> Iterator[tuple[str, bytes]]:
    """The files of the folder."""
    values = report.get("values")
    if values is not None:
        names = [column.name for column in values.columns]
        yield from _both("values", names, VALUES, values.rows)
    yield from _both("statistics", [*STATISTICS, *NUMBERS], NUMBERS, list(statistics(report)))
    for name, rows in interchange(report).items():
        cells = [[_clean(cell) for cell in row] for row in rows]
        yield f"{name}.csv", written(FORMS[name], cells).encode()


def _both(
    name: str, header: Sequence[str], kinds: Mapping[str, type], rows: Iterable[Row]
) -> Iterator[tuple[str, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [[_clean(row.get(column), kinds.get(column, str)) for column in header] for row in rows]
    yield f"{name}.csv", written(header, cells).encode()
    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema([(column, types[kinds.get(column, str)]) for column in header])
    columns = list(zip(*cells, strict=True)) or [()] * len(header)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink)
    yield f"{name}.parquet", bytes(sink.getvalue())


def _clean(cell: Any, kind: type | None = None) -> Any:
    """An empty text is none; half of a pair of UTF-16, which no file takes, is shown as escape."""
    cell = written_number(valued(cell))
    if cell is not None and kind is not None:
        cell = kind(cell)
    if isinstance(cell, str):
        return cell.encode("utf-8", "backslashreplace").decode() or None
    return cell


def statistics(report: Report) -> Iterator[dict[str, Any]]:
    """Every number of every table of statistics; what is not defined has no row."""
    for table in report.tables:
        board, name = placed(table.name)
        board = board or report.facts.get("kind", "embedding")
        if name in NO_STATISTICS or name.startswith(NO_STATISTICS_OF):
            continue
        about = ABOUT.get(name, name)
        for row in table.rows:
            named = {"board": board, "about": about, **_named(table, row)}
            for column in table.columns:
                value = valued(row.get(column.name))
                if type(value) in (int, float) and column.name != "n":
                    yield {**named, "statistic": column.name, "value": value}


def _named(table: Table, row: Row) -> dict[str, Any]:
    """Of what a row is a statistic, and on how many models."""
    keys = [valued(row.get(column.name)) for column in table.columns if column.key]
    return {
        "predictor": row.get("predictor") or " / ".join(str(k) for k in keys if k is not None),
        "kind": next((row[name] for name in KIND if row.get(name)), None),
        "best": row.get("best"),
        "task": row.get("task"),
        "other": next((row[name] for name in OTHER if row.get(name)), None),
        "n": row.get("n"),
    }


def interchange(report: Report) -> dict[str, list[Sequence[Any]]]:
    """The rows of scores, metrics and models: of each what there is any of.

    A model is named as in the tables, MODEL@REVISION where a name is that of several. What the
    forms would read as another name is changed: see `distinct`. Scores that do not lie in -1..1
    have no file, as they would be read as percent. The last value of a metric counts.
    """
    values, models = report.get("values"), report.get("model_info")
    if values is None or models is None:
        return {}
    names = distinct({(m["name"], m["revision"]): m["model"] for m in models.rows})
    rows = [
        row
        for row in values.rows
        if row["kind"] in ("score", "metric", "profile")
        and (row["variant"], (row["model"], row["revision"]) in names) == ("full", True)
    ]
    tasks = distinct({row["task"]: row["task"] for row in rows})
    families = distinct({m["family"]: m["family"] for m in models.rows if m["family"] is not None})
    scores: list[Sequence[Any]] = []
    measured: dict[Any, Any] = {}
    for row in rows:
        model, task = names[row["model"], row["revision"]], tasks[row["task"]]
        if row["kind"] == "score":
            known = (readable(row["task_type"] or ""), readable(row["name"] or ""))
            scores.append((model, valued(row["layer"]), task, row["value"], *known))
        else:
            layer = valued(row["layer"]) if row["kind"] == "profile" else "model"
            measured[model, layer, task, f"{row['source']}.{row['name']}"] = row["value"]
    sizes: list[Sequence[Any]] = []
    for m in models.rows:
        size = (m["parameters"] / 1e6 if m["parameters"] else None, m["width"], m["blocks"])
        kind = (families.get(m["family"]) if m["family"] else None, m["released"])
        sizes.append((names[m["name"], m["revision"]], *size, *kind))
    parts: dict[str, list[Sequence[Any]]] = {
        "scores": [] if any(abs(row[3]) > 1 for row in scores) else scores,
        "metrics": [(*place, value) for place, value in measured.items()],
        "models": sizes,
    }
    return {name: rows for name, rows in parts.items() if rows}


def distinct(names: Mapping[Named, str]) -> dict[Named, str]:
    """Names that the forms give back as they are, as different as those given; most are the same.

    One with blanks around it, line ends, a # at its beginning, or none at all is changed so that it
    is read, and numbered where another has the changed name already.
    """
    new: dict[Named, str] = {}
    taken: set[str] = set()
    # those that are read as they are come first, and keep their names
    for key in sorted(names, key=lambda key: names[key] != (readable(names[key]) or None)):
        start = readable(names[key]) or "unnamed"
        numbered = (f"{start} ({number})" for number in count(2))
        new[key] = next(name for name in chain([start], numbered) if name not in taken)
        taken.add(new[key])
    return new


def readable(name: str) -> str:
    """Without what a form drops: blanks around, unprintable characters (as escapes), a # first."""
    shown = plain(name.strip()).strip()
    return f"\\{shown}" if shown.startswith("#") else shown
