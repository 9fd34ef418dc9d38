"""The results of a run, from its journals or from results.sqlite, which is made of them.

The SQLite file holds the journals' records as tables, for queries: a view that can be made again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lrd_harness.errors import UserError
from lrd_harness.results import journal, rows
from lrd_harness.results.journal import Record
from lrd_harness.results.rows import Key, ModelRow, Results, Row
from lrd_harness.store.documents import json_value
from lrd_harness.store.files import write_bytes, write_text

NAME = "results.sqlite"
VERSION = 1  # of the schema, in PRAGMA user_version


def _columns(cls: type[Row]) -> str:
    """A table of one kind of row, as SQL declares it: its numbers, texts and lists (as JSON)."""
    words = {"Whole": "INTEGER", "Depth": "INTEGER", "Number": "REAL", "str": "TEXT"}
    words["tuple"] = "TEXT"
    columns = []
    for field in dataclasses.fields(cls):
        kind = words.get(re.split(r"\W", str(field.type), maxsplit=1)[0])
        if kind and field.name != "unit":
            columns.append(f"{field.name} {kind}")
    return ", ".join(columns)


# All but `records` begin with model, revision, variant ("full", or a pruned one). Scores and
# metrics of likelihood tasks, task_type "LogLikelihood", and of tasks on images are not to be
# averaged with the others.
_KEY = "model TEXT, revision TEXT, variant TEXT"
TABLES = {
    # each unit's record as the journal holds it
    "records": "position INTEGER PRIMARY KEY, unit TEXT UNIQUE, kind TEXT, time TEXT, json TEXT",
    # released: ISO date, NULL where not known
    "models": _columns(rows.ModelRow),
    # layer = layers is the model itself
    "scores": _columns(rows.ScoreRow),
    # every score of the task's own library
    "score_details": f"{_KEY}, task TEXT, layer INTEGER, name TEXT, value REAL",
    # selection: the score that ranks models, best ("max", "min")
    "metrics": _columns(rows.MetricRow).replace(
        "seconds", "selection TEXT, best TEXT, parameters TEXT, seconds"
    ),
    # layer: "model" for a model-level value, else the number, as text
    "metric_values": f"{_KEY}, task TEXT, metric TEXT, version TEXT, name TEXT, layer TEXT, "
    "value REAL, n INTEGER, parameters TEXT, task_type TEXT",
    "errors": _columns(rows.ErrorRow),
    "captures": _columns(rows.CaptureRow),
    # lists of blocks are 1-based
    "prunings": _columns(rows.PruningRow),
    # latency: seconds of one forward pass
    "variants": _columns(rows.VariantRow),
}
INDEXES = (
    "CREATE INDEX scores_by_model ON scores (model, task, layer)",
    "CREATE INDEX scores_by_task ON scores (task, layer)",
    "CREATE INDEX details_by_model ON score_details (model, task, layer)",
    "CREATE INDEX values_by_model ON metric_values (model, task, metric, name)",
    "CREATE INDEX values_by_name ON metric_values (metric, name, task)",
)


def build_database(out: Path) -> Path:
    """Make `out/results.sqlite` anew from the journals; its path.

    Where the journals are gone but the database is there, it is left as it is: nothing is lost.
    Raises UserError if `out` is not a folder of a run, or a journal is malformed.
    """
    if not journal.files(out) and (Path(out) / NAME).is_file():
        return Path(out) / NAME
    return write(out, _newest(out))


def restore(out: Path) -> None:
    """Where the journals are gone but the database is there, make a journal of it to go on from."""
    if not journal.files(out) and (Path(out) / NAME).is_file():
        records, folder = read(out), Path(out) / journal.FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "restored.jsonl", journal.text(records))


def load(out: Path) -> Results:
    """The results of a run, from its journals, or from results.sqlite where there are none.

    Raises UserError if `out` is not a folder of a run, or a record is malformed.
    """
    return from_records(_newest(out))


def _newest(out: Path) -> list[Record]:
    out = Path(out)
    if not out.is_dir():
        raise UserError(f"no such folder: {out}")
    if journal.files(out):
        return journal.latest(journal.read(out))
    if (out / NAME).is_file():
        return read(out)
    if (out / "run.json").is_file():  # stopped before its first unit was finished
        return []
    raise UserError(f"{out} is not a folder of a run: no journal, no {NAME}")


def from_records(records: Sequence[Record]) -> Results:
    """Typed rows of records, one per unit. Raises UserError for a record of a wrong form."""
    by_kind: dict[str, list[Any]] = {kind: [] for kind in rows.KINDS}
    models: dict[Key, ModelRow] = {}
    for record in records:
        try:
            row = journal.typed(record)
        except ValidationError:
            raise UserError(journal.record_fault(record)) from None
        if isinstance(row, ModelRow):
            models[row.key] = row  # a place taken by an earlier record stays the same
        elif row is not None:
            by_kind[record["kind"]].append(row)
            if record["kind"] in ("score", "metric", "error", "capture"):
                models.setdefault(row.key, ModelRow(**row.key._asdict()))
    names = [field.name for field in dataclasses.fields(Results) if field.name != "models"]
    lists = {n: tuple(by_kind[n if n in by_kind else n.removesuffix("s")]) for n in names}
    return Results(models=tuple(models.values()), **lists)


_ORDER = {
    **dict.fromkeys(("models", "prunings", "variants", "sweeps"), ("model",)),
    **dict.fromkeys(("ablations", "orders", "redraws"), ("model",)),
    **dict.fromkeys(("scores", "undefined"), ("model", "task", "layer")),
    "metrics": ("model", "task", "metric"),
    "errors": ("model", "task"),
}


def ordered(results: Results, run: Mapping[str, Any]) -> Results:
    """The rows by model, task, metric and layer, as run.json (`run`) lists these.

    Processes and slices finish units in any order. What run.json does not list comes last, in the
    order in which it was finished.
    """
    places = {
        name: {entry.get("name"): i for i, entry in enumerate(run.get(f"{name}s") or ())}
        for name in ("model", "task", "metric")
    }

    def place(row: Row, name: str) -> int:
        value = getattr(row, name)
        return int(value if name == "layer" else places[name].get(value, len(places[name])))

    lists: dict[str, Any] = {
        kind: tuple(sorted(getattr(results, kind), key=lambda row: [place(row, n) for n in names]))
        for kind, names in _ORDER.items()
    }
    return dataclasses.replace(results, **lists)


def write(out: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Make `out/results.sqlite` anew from one record per unit; readers see the old or the new one.

    The file is made in memory and put in place whole: SQLite's locks, which network file systems
    often lack, are never needed.
    """
    with closing(sqlite3.connect(":memory:")) as database:
        for table, columns in TABLES.items():
            database.execute(f"CREATE TABLE {table} ({columns})")
        for position, record in enumerate(records):
            for table, row in _table_rows(position, record):
                cells = [row.get(column.split()[0]) for column in TABLES[table].split(", ")]
                # a metric of another author may keep a list where a number belongs (a histogram)
                cells = [_json(c) if isinstance(c, list | tuple | dict) else c for c in cells]
                marks = ", ".join("?" * len(cells))
                database.execute(f"INSERT INTO {table} VALUES ({marks})", cells)
        for index in INDEXES:
            database.execute(index)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.commit()
        content = database.serialize()
    path = Path(out) / NAME
    write_bytes(path, content)
    return path


def read(out: Path) -> list[Record]:
    """The records that `out/results.sqlite` was made of, in their order.

    Raises UserError if the file is not such a database, or a record of it is of a wrong form.
    """
    path = (Path(out) / NAME).resolve()
    try:
        # immutable: no locks and no files beside it, as on a read-only or a network file system
        uri = f"{path.as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            texts = database.execute("SELECT json FROM records ORDER BY position").fetchall()
        records = [json_value(text) for (text,) in texts]
    except (sqlite3.Error, ValueError, TypeError) as error:  # of another kind of value than text
        raise UserError(f"{path}: not a record of results ({error})") from None
    for number, record in enumerate(records, 1):
        if fault := journal.record_fault(record):
            raise UserError(f"{path}, record {number}: {fault}")
    return records


def _table_rows(position: int, record: Mapping[str, Any]) -> Iterator[tuple[str, Record]]:
    """The rows that one record becomes, each with its table."""
    record = {"variant": "full", **record}
    kind = record["kind"]
    yield "records", {"position": position, **record, "json": _json(record)}
    if kind == "metric":
        selection, best = record.get("selection") or (None, None)
        parameters = _json(record.get("parameters") or {}, sort_keys=True)
        record |= {"selection": selection, "best": best, "parameters": parameters}
        values = [(name, "model", value) for name, value in (record.get("values") or {}).items()]
        for name, profile in (record.get("profiles") or {}).items():
            by_layer = zip(profile["layers"], profile["values"], strict=True)
            values += [(name, str(layer), value) for layer, value in by_layer]
        for name, layer, value in values:
            yield "metric_values", {**record, "name": name, "layer": layer, "value": value}
    if kind in rows.KINDS and f"{kind}s" in TABLES:
        yield f"{kind}s", record
    if kind == "score":
        for name, value in (record.get("scores") or {}).items():
            yield "score_details", {**record, "name": name, "value": value}


_json = functools.partial(json.dumps, ensure_ascii=False)
