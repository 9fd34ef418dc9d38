"""The journals and the SQLite record made of them, read as typed rows.

    journal = Journal(out); journal.append({...})    # as units are finished, see journal.py
    build_database(out)                              # out/results.sqlite, see database.py
    load(out).scores                                 # typed rows

Kinds of record, all with `unit` (a key), `model`, `revision`, `variant` ("full"): "model", "score",
"metric", "error", "undefined", "capture", "pruning" and "variant", with the fields of the row
classes of rows.py. A kind that is not known here is kept and ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from lrd_harness import database, journal, schema
from lrd_harness.errors import UserError
from lrd_harness.journal import Journal, Record, files, finite, latest, read
from lrd_harness.rows import (
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
    if not files(out) and (Path(out) / database.NAME).is_file():
        return Path(out) / database.NAME
    return database.write(out, _winners(out))


def restore(out: Path) -> None:
    """Where the journals are gone but the database is there, make a journal of it to go on from."""
    if not files(out) and (Path(out) / database.NAME).is_file():
        journal.restore(out, database.read(out))


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
        return latest(read(out))
    if (out / database.NAME).is_file():
        return database.read(out)
    if (out / "run.json").is_file():  # stopped before its first unit was finished
        return []
    raise UserError(f"{out} is not a folder of a run: no journal, no {database.NAME}")


RowType = TypeVar("RowType", bound=Row)


def _row(cls: type[RowType], record: Record, **changes: Any) -> RowType:
    known = {f.name: record[f.name] for f in dataclasses.fields(cls) if f.name in record}
    try:
        return cls(**known, **changes)
    except TypeError:
        raise UserError(schema.record_fault(record)) from None


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
