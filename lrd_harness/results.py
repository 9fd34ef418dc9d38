"""The journals and the SQLite record made of them, read as typed rows.

    journal = Journal(out); journal.append({...})    # as units are finished, see journal.py
    build_database(out)                              # out/results.sqlite, see database.py
    load(out).scores                                 # typed rows

Kinds of record, all with `unit` (a key), `model`, `revision`, `variant` ("full"): "model", "score",
"metric", "error" and "capture", with the fields of the row classes below. A kind that is not known
here is kept and ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from lrd_harness import database, journal
from lrd_harness.errors import UserError
from lrd_harness.journal import Journal, Record, files, finite, latest, read

__all__ = [
    "CaptureRow",
    "ErrorRow",
    "Journal",
    "Key",
    "MetricRow",
    "ModelRow",
    "Profile",
    "Results",
    "ScoreRow",
    "build_database",
    "finite",
    "latest",
    "load",
    "read",
    "restore",
]


class Key(NamedTuple):
    """What tells one model from another in the results."""

    model: str
    revision: str
    variant: str


class Profile(NamedTuple):
    """A score per layer: values[i] belongs to state (or block, or step) layers[i]."""

    layers: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class _Row:
    model: str
    revision: str = ""
    variant: str = "full"

    @property
    def key(self) -> Key:
        return Key(self.model, self.revision, self.variant)


@dataclass(frozen=True, kw_only=True)
class ModelRow(_Row):
    """A model; all None where it appears in other records only (it could not be opened)."""

    parameters: int | None = None
    blocks: int | None = None
    width: int | None = None
    pooling: str | None = None
    max_length: int | None = None
    family: str | None = None
    adapter: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRow(_Row):
    """A task's score at one layer, 0..layers (L); layer L is the model itself.

    stderr: the score's standard error over the task's documents; chance: what guessing gets; None
    where the task has none.
    """

    task: str
    task_type: str = ""
    layer: int
    layers: int
    score_name: str = ""
    score: float
    stderr: float | None = None
    chance: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def last(self) -> bool:
        return self.layer == self.layers


@dataclass(frozen=True, kw_only=True)
class MetricRow(_Row):
    """A metric's values on n texts of one task; states before `start` were degenerate.

    task_type: "" in records that were made before metrics said it.
    """

    task: str
    task_type: str = ""
    metric: str
    version: str = "1"
    n: int
    start: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    selection: tuple[str, Literal["max", "min"]] | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ErrorRow(_Row):
    """What went wrong with one unit: "NotFinite: state 3 holds NaN"."""

    task: str | None = None
    layer: int | None = None
    metric: str | None = None
    error: str


@dataclass(frozen=True, kw_only=True)
class UndefinedRow(_Row):
    """A layer at which a task has no score, though nothing failed: its states are all the same."""

    task: str
    layer: int
    error: str


@dataclass(frozen=True, kw_only=True)
class CaptureRow(_Row):
    """Counters of a model's forward pass, in texts; seconds of wall time."""

    texts: int
    forwarded: int
    tokens: int
    truncated: int
    empty: int
    duplicates: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Results:
    """All that is recorded of a run, one row a unit; models in order of first appearance."""

    models: tuple[ModelRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    errors: tuple[ErrorRow, ...] = ()
    captures: tuple[CaptureRow, ...] = ()
    undefined: tuple[UndefinedRow, ...] = ()


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
    models: dict[Key, ModelRow] = {}
    for record in records:
        if record["kind"] == "model":
            row = _row(ModelRow, record)
            models[row.key] = row  # a place taken by an earlier record stays the same
        elif record["kind"] in ("score", "metric", "error", "capture"):
            bare = _row(_Row, record)
            named = ModelRow(model=bare.model, revision=bare.revision, variant=bare.variant)
            models.setdefault(bare.key, named)
    return Results(
        tuple(models.values()),
        tuple(scores),
        tuple(metrics),
        tuple(errors),
        tuple(captures),
        tuple(undefined),
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


RowType = TypeVar("RowType", bound=_Row)


def _row(cls: type[RowType], record: Record, **changes: Any) -> RowType:
    fields = dataclasses.fields(cls)
    known = {f.name: record[f.name] for f in fields if f.name in record}
    try:
        return cls(**known, **changes)
    except TypeError:
        needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
        lacking = ", ".join(name for name in needed if name not in known)
        raise UserError(
            f"the {record['kind']} record of unit '{record['unit']}' lacks {lacking}"
        ) from None


def _metric(record: Record) -> MetricRow:
    selection = record.get("selection")
    profiles = {
        name: Profile(tuple(profile["layers"]), tuple(profile["values"]))
        for name, profile in (record.get("profiles") or {}).items()
    }
    changed = {"selection": tuple(selection) if selection else None, "profiles": profiles}
    return _row(MetricRow, {k: v for k, v in record.items() if k not in changed}, **changed)
