"""What a run's folder may hold: records and run.json are checked when they are read.

A journal's record is of the form of its row class, and run.json of `Run`. What is not known here is
let through: it is of a later version. The tables of the SQLite file are made of the same classes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Required

from pydantic import StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lrd_harness.results.rows import KINDS, Number, Row, Whole

Slice = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}/[1-9][0-9]{0,5}$")]


class Named(TypedDict, total=False):
    """A task of a run."""

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


class Order(TypedDict, total=False):
    """Of the whole of which this is a slice."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]


class Run(Part, total=False):
    """run.json."""

    suite: str | None
    settings: Mapping[str, Any]
    models: tuple[Model, ...]
    tasks: tuple[Named, ...]
    metrics: tuple[Measured, ...]
    data: Mapping[str, str]
    pruning: Mapping[str, Any] | None
    merged: Mapping[str, Part]
    order: Order


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
        names = [one["loc"][-1] for one in (first, *more) if one["loc"][:-1] == here]
        if isinstance(names[0], int):
            return f": {where} has {len(value)} values, not {int(names[-1]) + 1}"
        return f"{f': {where}' if where else ''} lacks {', '.join(map(str, names))}"
    if not where and not isinstance(document, dict):
        return f": it is {_kind(document)}, not a mapping"
    kind = _kind(value)
    if wanted := _WANTED.get(first["type"]) or (kind.startswith("beyond") and "a whole number"):
        return f": {where} is {kind}, not {wanted}"
    for name, bound in (("ge", "at least"), ("le", "at most")):
        if name in first.get("ctx", {}):
            return f": {where} is {value}, not {bound} {first['ctx'][name]}"
    wrong = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f": {where} {wrong[0].lower()}{wrong[1:]}"


_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
_WORDS |= {type(None): "null", list: "a list", dict: "a mapping"}

_WANTED = {
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


def sql_columns(cls: type[Row]) -> str:
    """A table of one kind of row, as SQL declares it: its numbers, texts and lists."""
    words = {"Whole": "INTEGER", "Depth": "INTEGER", "Number": "REAL", "str": "TEXT"}
    columns = []
    for one in dataclasses.fields(cls):
        kind = words.get(str(one.type).removesuffix(" | None"))
        if kind is None and str(one.type).startswith("tuple"):
            kind = "TEXT"  # as JSON
        if kind and one.name != "unit":
            columns.append(f"{one.name} {kind}")
    return ", ".join(columns)
