"""The order of results: that of the run's models and tasks, whichever was finished first.

Several processes, and slices that ran beside each other, finish units in any order.

results.sqlite: the journals' records as tables, for queries. A view; it can be made again.

All tables but `records` begin with model, revision, variant ("full", or a pruned one). Scores and
metrics of likelihood tasks, task_type "LogLikelihood", are not to be averaged with those of others.

    records        position, unit, kind, time, json: each unit's record as the journal holds it
    models         parameters, blocks, width, pooling, max_length (tokens), family, adapter,
                   released (ISO date, NULL where not known)
    scores         task, task_type, layer (0..layers), layers (L; layer = L is the model itself),
                   score_name, score (main score, 0..1 for mteb's), seconds, stderr (of the score,
                   over the task's documents), chance (what guessing gets)
    score_details  task, layer, name, value: every score of the task's own library
    metrics        task, metric, version, n (texts), start (first sound state), selection (the score
                   that ranks models), best ("max", "min"), parameters (JSON), seconds, task_type
    metric_values  task, metric, version, name, layer ("model" for a model-level value, else the
                   number, as text), value, n, parameters (JSON), task_type
    errors         task, layer, metric, rule (NULL where the error is of something wider), error
    captures       texts, forwarded, tokens, truncated, empty, duplicates (texts), seconds
    prunings       rule, seed (NULL of a rule that draws nothing), budget (share of candidates),
                   removed, candidates (blocks, 1-based, JSON), blocks (L), n (texts the choice was
                   made on), version; variant: of the model without these blocks, in `scores`
    variants       removed (as above), parameters, parameters_full, latency, latency_full (seconds
                   of one forward pass, NULL where not measured)

The journals and the SQLite record made of them, read as typed rows.

    journal = Journal(out); journal.append({...})    # as units are finished, see journal.py
    build_database(out)                              # out/results.sqlite, see database.py
    load(out).scores                                 # typed rows

Kinds of record, all with `unit` (a key), `model`, `revision`, `variant` ("full"): "model", "score",
"metric", "error", "undefined", "capture", "pruning" and "variant", with the fields of the row
classes of rows.py. A kind that is not known here is kept and ignored.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from lrd_harness.errors import UserError
from lrd_harness.results import journal, rows
from lrd_harness.results import rows as schema
from lrd_harness.results.journal import Journal, Record, files, finite, latest
from lrd_harness.results.journal import read as read_journal
from lrd_harness.results.rows import (
    CaptureRow,
    ErrorRow,
    Key,
    MetricRow,
    ModelRow,
    Profile,
    PruningRow,
    Results,
    Row,
    ScoreRow,
    SweepRow,
    Table,
    UndefinedRow,
    VariantRow,
)
from lrd_harness.store.documents import json_value
from lrd_harness.store.files import write_bytes

NAME = "results.sqlite"
VERSION = 1  # of the schema, in PRAGMA user_version
_MODEL = "model TEXT, revision TEXT, variant TEXT"
_METRIC = "task TEXT, metric TEXT, version TEXT"

TABLES = {
    "records": "position INTEGER PRIMARY KEY, unit TEXT UNIQUE, kind TEXT, time TEXT, json TEXT",
    "models": f"{_MODEL}, parameters INTEGER, blocks INTEGER, width INTEGER, pooling TEXT, "
    "max_length INTEGER, family TEXT, adapter TEXT, released TEXT",
    "scores": f"{_MODEL}, task TEXT, task_type TEXT, layer INTEGER, layers INTEGER, "
    "score_name TEXT, score REAL, seconds REAL, stderr REAL, chance REAL",
    "score_details": f"{_MODEL}, task TEXT, layer INTEGER, name TEXT, value REAL",
    "metrics": f"{_MODEL}, {_METRIC}, n INTEGER, start INTEGER, selection TEXT, best TEXT, "
    "parameters TEXT, seconds REAL, task_type TEXT",
    "metric_values": f"{_MODEL}, {_METRIC}, name TEXT, layer TEXT, value REAL, n INTEGER, "
    "parameters TEXT, task_type TEXT",
    "errors": f"{_MODEL}, task TEXT, layer INTEGER, metric TEXT, rule TEXT, error TEXT",
    "captures": f"{_MODEL}, texts INTEGER, forwarded INTEGER, tokens INTEGER, truncated INTEGER, "
    "empty INTEGER, duplicates INTEGER, seconds REAL",
    "prunings": f"{_MODEL}, rule TEXT, seed INTEGER, budget REAL, removed TEXT, candidates TEXT, "
    "blocks INTEGER, n INTEGER, version TEXT",
    "variants": f"{_MODEL}, removed TEXT, parameters INTEGER, parameters_full INTEGER, "
    "latency REAL, latency_full REAL",
}
INDEXES = (
    "CREATE INDEX scores_by_model ON scores (model, task, layer)",
    "CREATE INDEX scores_by_task ON scores (task, layer)",
    "CREATE INDEX details_by_model ON score_details (model, task, layer)",
    "CREATE INDEX values_by_model ON metric_values (model, task, metric, name)",
    "CREATE INDEX values_by_name ON metric_values (metric, name, task)",
)


def write(out: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """Make `out/results.sqlite` anew from one record a unit; readers see the old or the new one.

    The file is made in memory and put in place whole: SQLite's locks, which network file systems
    often lack, are never needed.
    """
    database = sqlite3.connect(":memory:")
    try:
        for table, columns in TABLES.items():
            database.execute(f"CREATE TABLE {table} ({columns})")
        for position, record in enumerate(records):
            for table, row in _rows(position, record):
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


def read(out: Path) -> list[dict[str, Any]]:
    """The records that `out/results.sqlite` was made of, in their order.

    Raises UserError if the file is not such a database, or a record of it is of a wrong form.
    """
    path = (Path(out) / NAME).resolve()
    try:
        # immutable: no locks and no files beside it, as on a read-only or a network file system
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            rows = database.execute("SELECT json FROM records ORDER BY position").fetchall()
        finally:
            database.close()
        records = [json_value(text) for (text,) in rows]
    except (sqlite3.Error, ValueError, TypeError) as error:  # of another kind of value than text
        raise UserError(f"{path}: not a record of results ({error})") from None
    for number, record in enumerate(records, 1):
        fault = schema.record_fault(record)
        if fault:
            raise UserError(f"{path}, record {number}: {fault}")
    return records


def _rows(position: int, record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows that one record becomes, each with its table."""
    record = {"variant": "full", **record}
    kind = record["kind"]
    text = json.dumps(record, ensure_ascii=False)
    yield "records", {"position": position, **record, "json": text}
    if kind in ("model", "capture", "error", "pruning", "variant"):
        yield f"{kind}s", record
    elif kind == "score":
        yield "scores", record
        for name, value in (record.get("scores") or {}).items():
            yield "score_details", {**record, "name": name, "value": value}
    elif kind == "metric":
        selection, best = record.get("selection") or (None, None)
        parameters = json.dumps(record.get("parameters") or {}, sort_keys=True, ensure_ascii=False)
        record = {**record, "selection": selection, "best": best, "parameters": parameters}
        yield "metrics", record
        for name, layer, value in values(record):
            yield "metric_values", {**record, "name": name, "layer": layer, "value": value}


def values(record: Mapping[str, Any]) -> Iterator[tuple[str, str, float | None]]:
    """A metric record's values in long form: score name, layer ("model" or a number), value."""
    for name, value in (record.get("values") or {}).items():
        yield name, "model", value
    for name, profile in (record.get("profiles") or {}).items():
        for layer, value in zip(profile["layers"], profile["values"], strict=True):
            yield name, str(layer), value


def _insert(database: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    names: Sequence[str] = [column.split()[0] for column in TABLES[table].split(", ")]
    cells = [row.get(name) for name in names]
    # A stranger's metric may keep a list where a number belongs (a histogram): as JSON, not lost
    cells = [json.dumps(c) if isinstance(c, list | tuple | dict) else c for c in cells]
    database.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", cells)


__all__ = [
    "CaptureRow",
    "ErrorRow",
    "Journal",
    "Key",
    "MetricRow",
    "ModelRow",
    "Profile",
    "PruningRow",
    "Results",
    "ScoreRow",
    "UndefinedRow",
    "VariantRow",
    "build_database",
    "finite",
    "latest",
    "load",
    "read",
    "restore",
]


def build_database(out: Path) -> Path:
    """Make `out/results.sqlite` anew from the journals; its path.

    Where the journals are gone but the database is there, it is left as it is: nothing is lost.
    Raises UserError if `out` is not a folder of a run, or a journal is malformed.
    """
    if not files(out) and (Path(out) / NAME).is_file():
        return Path(out) / NAME
    return write(out, _winners(out))


def restore(out: Path) -> None:
    """Where the journals are gone but the database is there, make a journal of it to go on from."""
    if not files(out) and (Path(out) / NAME).is_file():
        journal.restore(out, read(out))


def load(out: Path) -> Results:
    """The results of a run, from its journals, or from results.sqlite where there are none.

    Raises UserError if `out` is not a folder of a run, or a record is malformed.
    """
    return from_records(_winners(out))


def from_records(records: Sequence[Record]) -> Results:
    """Typed rows of records, one a unit. Raises UserError for a record without a field it needs."""
    scores = [_row(ScoreRow, r) for r in records if r["kind"] == "score"]
    metrics = [_metric(r) for r in records if r["kind"] == "metric"]
    errors = [_row(ErrorRow, r) for r in records if r["kind"] == "error"]
    captures = [_row(CaptureRow, r) for r in records if r["kind"] == "capture"]
    undefined = [_row(UndefinedRow, r) for r in records if r["kind"] == "undefined"]
    prunings = [_blocks(PruningRow, r) for r in records if r["kind"] == "pruning"]
    variants = [_blocks(VariantRow, r) for r in records if r["kind"] == "variant"]
    sweeps = [_row(SweepRow, r) for r in records if r["kind"] == "sweep"]
    models: dict[Key, ModelRow] = {}
    for record in records:
        if record["kind"] == "model":
            row = _row(ModelRow, record)
            models[row.key] = row  # a place taken by an earlier record stays the same
        elif record["kind"] in ("score", "metric", "error", "capture"):
            bare = _row(Row, record)
            named = ModelRow(model=bare.model, revision=bare.revision, variant=bare.variant)
            models.setdefault(bare.key, named)
    return Results(
        tuple(models.values()),
        tuple(scores),
        tuple(metrics),
        tuple(errors),
        tuple(captures),
        tuple(undefined),
        tuple(prunings),
        tuple(variants),
        tuple(sweeps),
    )


def _winners(out: Path) -> list[Record]:
    out = Path(out)
    if not out.is_dir():
        raise UserError(f"no such folder: {out}")
    if files(out):
        return latest(read_journal(out))
    if (out / NAME).is_file():
        return read(out)
    if (out / "run.json").is_file():  # stopped before its first unit was finished
        return []
    raise UserError(f"{out} is not a folder of a run: no journal, no {NAME}")


RowType = TypeVar("RowType", bound=Row)


def _row(cls: type[RowType], record: Record, **changes: Any) -> RowType:
    known = {f.name: record[f.name] for f in dataclasses.fields(cls) if f.name in record}
    try:
        return cls(**known, **changes)
    except TypeError:
        raise UserError(rows.record_fault(record)) from None


def _metric(record: Record) -> MetricRow:
    profiles = {
        name: Profile(tuple(profile["layers"]), tuple(profile["values"]))
        for name, profile in (record.get("profiles") or {}).items()
    }
    tables = {
        name: Table(tuple(table["layers"]), tuple(map(tuple, table["rows"])))
        for name, table in (record.get("tables") or {}).items()
    }
    choices = {
        name: tuple(record[name]) if record.get(name) else None
        for name in ("selection", "layer_choice")
    }
    changed = {**choices, "profiles": profiles, "tables": tables}
    return _row(MetricRow, {k: v for k, v in record.items() if k not in changed}, **changed)


def _blocks(cls: type[RowType], record: Record) -> RowType:
    """A row with lists of blocks, which JSON has no tuples for."""
    lists = {name: tuple(record[name]) for name in ("removed", "candidates") if name in record}
    known = {f.name for f in dataclasses.fields(cls)}
    bare = {name: value for name, value in record.items() if name not in lists}
    return _row(cls, bare, **{name: value for name, value in lists.items() if name in known})


Place = Callable[[str | None], int]


def ordered(results: Results, held: Mapping[str, Any]) -> Results:
    """The rows by model, task, metric and layer, as run.json (`held`) lists these.

    What it does not list comes last, in the order in which it was finished.
    """
    model, task, metric = (_places(held.get(kind)) for kind in ("models", "tasks", "metrics"))
    return replace(
        results,
        models=tuple(sorted(results.models, key=lambda r: model(r.model))),
        scores=tuple(sorted(results.scores, key=lambda r: (model(r.model), task(r.task), r.layer))),
        metrics=tuple(
            sorted(results.metrics, key=lambda r: (model(r.model), task(r.task), metric(r.metric)))
        ),
        errors=tuple(sorted(results.errors, key=lambda r: (model(r.model), task(r.task)))),
        undefined=tuple(
            sorted(results.undefined, key=lambda r: (model(r.model), task(r.task), r.layer))
        ),
        prunings=tuple(sorted(results.prunings, key=lambda r: model(r.model))),
        variants=tuple(sorted(results.variants, key=lambda r: model(r.model))),
        sweeps=tuple(sorted(results.sweeps, key=lambda r: model(r.model))),
    )


def _places(entries: Sequence[Mapping[str, Any]] | None) -> Place:
    """Of a name, its place in a list of run.json."""
    listed = {entry.get("name"): i for i, entry in enumerate(entries or ())}
    return lambda name: listed.get(name, len(listed))
