"""Journals and run.json: each process appends its finished units to a file of its own.

A file of one's own needs no lock, also on network file systems; a line that is written at once and
synced holds under kill -9. What is read is checked; what is not known here is of a later version.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Required

from pydantic import StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lrd_harness.errors import UserError
from lrd_harness.results.rows import KINDS, Number, Row, Whole
from lrd_harness.store.documents import json_value, read_file
from lrd_harness.store.files import space

Record = dict[str, Any]
FOLDER = "journal"
ADVICE = "without that line its unit is done again"


class Journal:
    """This process's journal in `out/journal/`; the file is made at the first append."""

    def __init__(self, out: Path) -> None:
        self._folder = Path(out) / FOLDER
        self._file: int | None = None
        self._last = ""

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one finished unit; when this returns, it is on disk.

        "time" (UTC, ISO 8601 with microseconds) is added. numpy numbers and arrays are accepted.
        Raises ValueError for a record without `kind` or `unit`, and for NaN or infinity anywhere in
        it: JSON has no word for them, and what is not a number is an error of its unit.
        Raises StorageFull where there is no space for it; what was recorded before stays.
        """
        line = self._line(record)
        with space(self._folder):
            if self._file is None:
                self._file = self._create()
            try:
                while line:  # more than once only where the disk is full, which is then said
                    line = line[os.write(self._file, line) :]
                os.fsync(self._file)
            except OSError:
                self.close()  # what was torn must stay the last line of its file
                raise

    def close(self) -> None:
        """Close the file; a later append begins a new one."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _line(self, record: Mapping[str, Any]) -> bytes:
        if not record.get("kind") or not isinstance(record.get("unit"), str):
            raise ValueError(f"a journal record needs 'kind' and 'unit': {record}")
        # Never before the one before, even if the clock is set back: `read` sorts by it.
        self._last = max(self._last, _now().isoformat(timespec="microseconds"))
        try:
            line = json.dumps(
                {**record, "time": self._last}, allow_nan=False, ensure_ascii=False, default=_plain
            )
        except ValueError as error:
            raise ValueError(f"unit '{record['unit']}' holds NaN or infinity: {error}") from error
        # "replace": half a surrogate pair in a hostile text must not stop the run.
        return line.encode("utf-8", "replace") + b"\n"

    def _create(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        host = re.sub(r"[^\w.]+", "_", socket.gethostname(), flags=re.ASCII)
        name = f"{_now():%Y%m%dT%H%M%S%f}-{host}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        file = os.open(self._folder / name, flags, 0o666)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name must be on disk too
        finally:
            os.close(folder)
        return file


def text(records: Iterable[Mapping[str, Any]]) -> str:
    """A journal of records that were kept elsewhere, times included."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def files(out: Path) -> list[Path]:
    """The journals of a run, by name and so by time of creation.

    Raises UserError where what should hold them is no folder.
    """
    folder = Path(out) / FOLDER
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder, and a run keeps its journals in one")
    return sorted(folder.glob("*.jsonl"))


def read(out: Path) -> list[Record]:
    """All records of all journals, by "time", then by file.

    The last line of a journal may be torn (its process was killed) and is then ignored.
    Raises UserError, naming file and line, for any other line that is not a record, and for a
    record of a wrong form: left out, its unit would be missing in silence.
    """
    records = [record for path in files(out) for record in _records(path)]
    return sorted(records, key=lambda record: str(record.get("time", "")))  # stable: then by file


def latest(records: Iterable[Record]) -> list[Record]:
    """One record per unit, the last, in order of the units' first appearance.

    A success is never replaced by an error of the same unit, whichever of them is newer.
    """
    units: dict[str, Record] = {}
    for record in records:
        earlier = units.get(record["unit"])
        if earlier is None or record["kind"] != "error" or earlier["kind"] == "error":
            units[record["unit"]] = record
    return list(units.values())


def finite(scores: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among scores by name: libraries give NaN for some secondary scores."""
    numbers = {str(n): v.item() if hasattr(v, "item") else v for n, v in scores.items()}
    return {
        name: float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _records(path: Path) -> list[Record]:
    lines = read_file(path).rstrip().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json_value(line)
        except ValueError:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not a journal record; {ADVICE}") from None
        if fault := record_fault(record):
            raise UserError(f"{path}, line {number}: {fault}; {ADVICE}")
        records.append(record)
    return records


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, torch tensors, paths and sets as JSON can hold them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} does not fit into a journal")


def _now() -> datetime:
    return datetime.now(UTC)


def read_run(out: Path) -> dict[str, Any]:
    """What run.json says. Raises UserError if the folder is no run, or the file is damaged."""
    path = out / "run.json"
    if not path.exists():
        raise UserError(f"{out} is no run: it has no run.json")
    try:
        run: dict[str, Any] = json_value(read_file(path))
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    if fault := run_fault(run):
        raise UserError(f"{path} is not a run's: {fault}")
    return _as_of_now(run)


def _as_of_now(run: dict[str, Any]) -> dict[str, Any]:
    """With the settings by their names of now: of the offline MMLU, `limit` counted questions in
    all. Where it counted documents of other tasks as well, no setting of now says the same.
    """
    settings = run.get("settings", {})
    limit, tasks = settings.get("limit"), {task["name"] for task in run.get("tasks", ())}
    if limit is None or "max_questions" in settings or "MMLU" not in tasks:
        return run
    if any(task.startswith("lm-eval:") for task in tasks):
        now: dict[str, Any] = {"max_questions": f"{limit} for MMLU alone"}
    else:
        now = {"limit": None, "max_questions": limit}
    return {**run, "settings": {**settings, **now}}


def recorded_run(out: Path) -> dict[str, Any]:
    """What run.json says; {} where there is none. Raises UserError for a damaged one."""
    return read_run(out) if (out / "run.json").exists() else {}


Slice = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}/[1-9][0-9]{0,5}$")]


class Named(TypedDict, total=False):
    """A task of a run; a model and a metric say more."""

    name: Required[str]


class Model(Named, total=False):
    """A model of a run."""

    path: Required[str]
    revision: Required[str]
    label: Required[str]


class Measured(Named, total=False):
    """A metric of a run."""

    version: Required[str]
    parameters: Required[Mapping[str, Any]]


class Counters(TypedDict, total=False):
    """What was read, in all and by model, and by task what its texts are like."""

    total: Mapping[str, Number]
    models: Mapping[str, Mapping[str, Number]]
    met: Mapping[str, Mapping[str, Mapping[str, Number]]]


class Part(TypedDict, total=False):
    """What a run says of itself; in a merge, of each of its parts."""

    command: tuple[str, ...]
    begun: str | None
    finished: str | None
    errors: Whole
    shards: tuple[Slice, ...]
    counters: Counters
    versions: Mapping[str, str]
    environment: Mapping[str, Any]


class Run(Part, total=False):
    """run.json. order: the models and tasks of the whole of which this is a slice."""

    suite: str | None
    settings: Mapping[str, Any]
    models: tuple[Model, ...]
    tasks: tuple[Named, ...]
    metrics: tuple[Measured, ...]
    panels: Mapping[str, Mapping[str, tuple[str, ...]]]
    data: Mapping[str, str]
    pruning: Mapping[str, Any] | None
    merged: Mapping[str, Part]
    order: Mapping[str, tuple[str, ...]]


def record_fault(record: Any) -> str:
    """What is wrong with a record of a journal; "" for nothing."""
    if not isinstance(record, dict):
        return f"not a journal record: it is {_kind(record)}, not a mapping"
    for name in ("unit", "kind"):
        if not isinstance(record.get(name), str):
            what = f"'{name}' is no text" if name in record else f"it has no {name}"
            return f"not a journal record: {what}"
    try:
        typed(record)
    except ValidationError as error:
        return f"the {record['kind']} record of unit '{record['unit']}'{_fault(error, record)}"
    return ""


def run_fault(document: Any) -> str:
    """What is wrong with what run.json says; "" for nothing."""
    try:
        _adapter(Run).validate_python(document)
    except ValidationError as error:
        return _fault(error, document).removeprefix(":").lstrip()
    return ""


def typed(record: Mapping[str, Any]) -> Row | None:
    """The row of a record; None for one of an unknown kind. Raises pydantic's ValidationError."""
    cls = KINDS.get(record["kind"])
    return _adapter(cls).validate_python(record) if cls else None


@functools.cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _fault(error: ValidationError, document: Any) -> str:
    """The first fault in words, behind what it is a fault of."""
    first, *more = error.errors(include_url=False)
    place, value = [], document
    for part in first["loc"]:
        try:  # the rest names kinds of values, not places
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break
        place.append(f"[{part}]" if isinstance(part, int) else f".{part}")
    where = "".join(place).lstrip(".")
    if first["type"] == "missing":
        here = first["loc"][:-1]
        names = [e["loc"][-1] for e in (first, *more) if e["loc"][:-1] == here]
        if isinstance(names[0], int):
            return f": {where} has {len(value)} values, not {int(names[-1]) + 1}"
        return f"{f': {where}' if where else ''} lacks {', '.join(map(str, names))}"
    if not where and not isinstance(document, dict):
        return f": it is {_kind(document)}, not a mapping"
    kind = _kind(value)
    if expected := _EXPECTED.get(first["type"]) or (kind.startswith("beyond") and "a whole number"):
        return f": {where} is {kind}, not {expected}"
    for name, bound in (("ge", "at least"), ("le", "at most")):
        if name in first.get("ctx", {}):
            return f": {where} is {value}, not {bound} {first['ctx'][name]}"
    wrong = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f": {where} {wrong[0].lower()}{wrong[1:]}"


_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
_WORDS |= {type(None): "null", list: "a list", dict: "a mapping"}

_EXPECTED = {
    **dict.fromkeys(("float_type", "finite_number"), "a number"),
    **dict.fromkeys(("dict_type", "mapping_type", "dataclass_type"), "a mapping"),
    "int_type": "a whole number",
    "string_pattern_mismatch": "I/N",
    "string_type": "a text",
    "tuple_type": "a list",
}  # pydantic's types of errors


def _kind(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 63:
        return "beyond 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    return _WORDS.get(type(value), type(value).__name__)
