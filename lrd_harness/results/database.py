"""The results of a run, from its journals or from results.sqlite, which is made of them.

The SQLite file holds the journals' records as tables, for queries: a view that can be made again.
All tables but `records` begin with model, revision, variant ("full", or a pruned one); their
columns are the fields of the row classes in rows.py. Scores and metrics of likelihood tasks,
task_type "LogLikelihood", are not to be averaged with those of others.

    records        position, unit, kind, time, json: each unit's record as the journal holds it
    models         ModelRow; released: ISO date, NULL where not known
    scores         ScoreRow without scores; layer = layers is the model itself
    score_details  task, layer, name, value: every score of the task's own library
    metrics        MetricRow without values; selection: the score that ranks models, best ("max",
                   "min"), parameters (JSON)
    metric_values  task, metric, version, name, layer ("model" for a model-level value, else the
                   number, as text), value, n, parameters (JSON), task_type
    errors         ErrorRow
    captures       CaptureRow
    prunings       PruningRow; lists of blocks (1-based) as JSON
    variants       VariantRow; latency: seconds of one forward pass
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lrd_harness.errors import UserError
from lrd_harness.results import journal, rows, schema
from lrd_harness.results.journal import Record
from lrd_harness.results.rows import Key, ModelRow, Results, Row
from lrd_harness.results.schema import sql_columns
from lrd_harness.store.documents import json_value
from lrd_harness.store.files import write_bytes

NAME = "results.sqlite"
VERSION = 1  # of the schema, in PRAGMA user_version
_KEY = "model TEXT, revision TEXT, variant TEXT"

TABLES = {
    "records": "position INTEGER PRIMARY KEY, unit TEXT UNIQUE, kind TEXT, time TEXT, json TEXT",
    "models": sql_columns(rows.ModelRow),
    "scores": sql_columns(rows.ScoreRow),
    "score_details": f"{_KEY}, task TEXT, layer INTEGER, name TEXT, value REAL",
    "metrics": sql_columns(rows.MetricRow).replace(
        "seconds", "selection TEXT, best TEXT, parameters TEXT, seconds"
    ),
    "metric_values": f"{_KEY}, task TEXT, metric TEXT, version TEXT, name TEXT, layer TEXT, "
    "value REAL, n INTEGER, parameters TEXT, task_type TEXT",
    "errors": sql_columns(rows.ErrorRow),
    "captures": sql_columns(rows.CaptureRow),
    "prunings": sql_columns(rows.PruningRow),
    "variants": sql_columns(rows.VariantRow),
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
        journal.restore(out, read(out))


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
    found: dict[type[Row], list[Any]] = {cls: [] for cls in rows.KINDS.values()}
    models: dict[Key, ModelRow] = {}
    for record in records:
        try:
            row = schema.typed(record)
        except ValidationError:
            raise UserError(schema.record_fault(record)) from None
        if isinstance(row, ModelRow):
            models[row.key] = row  # a place taken by an earlier record stays the same
        elif row is not None:
            found[type(row)].append(row)
            if record["kind"] in ("score", "metric", "error", "capture"):
                models.setdefault(row.key, ModelRow(**row.key._asdict()))
    return Results(
        models=tuple(models.values()),
        scores=tuple(found[rows.ScoreRow]),
        metrics=tuple(found[rows.MetricRow]),
        errors=tuple(found[rows.ErrorRow]),
        captures=tuple(found[rows.CaptureRow]),
        undefined=tuple(found[rows.UndefinedRow]),
        prunings=tuple(found[rows.PruningRow]),
        variants=tuple(found[rows.VariantRow]),
        sweeps=tuple(found[rows.SweepRow]),
    )


_ORDER: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("models", "prunings", "variants", "sweeps"), ("model",)),
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

    return replace(
        results,
        **{
            kind: tuple(sorted(getattr(results, kind), key=lambda r: [place(r, n) for n in names]))
            for kind, names in _ORDER.items()
        },
    )


def write(out: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Make `out/results.sqlite` anew from one record per unit; readers see the old or the new one.

    The file is made in memory and put in place whole: SQLite's locks, which network file systems
    often lack, are never needed.
    """
    database = sqlite3.connect(":memory:")
    try:
        for table, columns in TABLES.items():
            database.execute(f"CREATE TABLE {table} ({columns})")
        for position, record in enumerate(records):
            for table, row in _table_rows(position, record):
                _insert(database, table, row)
        for index in INDEXES:
            database.execute(index)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.commit()
        content = database.serialize()
    finally:
        database.close()
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
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            texts = database.execute("SELECT json FROM records ORDER BY position").fetchall()
        finally:
            database.close()
        records = [json_value(text) for (text,) in texts]
    except (sqlite3.Error, ValueError, TypeError) as error:  # of another kind of value than text
        raise UserError(f"{path}: not a record of results ({error})") from None
    for number, record in enumerate(records, 1):
        if fault := schema.record_fault(record):
            raise UserError(f"{path}, record {number}: {fault}")
    return records


def _table_rows(position: int, record: Mapping[str, Any]) -> Iterator[tuple[str, Record]]:
    """The rows that one record becomes, each with its table."""
    record = {"variant": "full", **record}
    kind = record["kind"]
    yield "records", {"position": position, **record, "json": _json(record)}
    if kind == "metric":
        selection, best = record.get("selection") or (None, None)
        parameters = json.dumps(record.get("parameters") or {}, sort_keys=True, ensure_ascii=False)
        record |= {"selection": selection, "best": best, "parameters": parameters}
        for name, value in (record.get("values") or {}).items():
            yield "metric_values", {**record, "name": name, "layer": "model", "value": value}
        for name, profile in (record.get("profiles") or {}).items():
            for layer, value in zip(profile["layers"], profile["values"], strict=True):
                yield "metric_values", {**record, "name": name, "layer": str(layer), "value": value}
    if kind in rows.KINDS and f"{kind}s" in TABLES:
        yield f"{kind}s", record
    if kind == "score":
        for name, value in (record.get("scores") or {}).items():
            yield "score_details", {**record, "name": name, "value": value}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    names = [column.split()[0] for column in TABLES[table].split(", ")]
    cells = [row.get(name) for name in names]
    # A metric of another author may keep a list where a number belongs (a histogram)
    cells = [_json(c) if isinstance(c, list | tuple | dict) else c for c in cells]
    database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", cells)
