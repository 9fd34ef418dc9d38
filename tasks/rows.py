"""Rows of a JSON lines file, each checked: what is wrong is told with file and row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError
from lrd_harness.store.documents import json_value, read_file

Row = dict[str, Any]
Test = Callable[[Any], bool]

MOST_RELEVANT = 1_000_000
RELEVANCE = f"a whole number from 0 to {MOST_RELEVANT:,}"
PAIR_LABEL = "0 or 1, or a list of these"
CLASS = "a class (a text or a whole number), or a list of these"
ONE_CLASS = "a class (a text or a whole number)"
FILE = "the name of a file"
GROUP = "a label (a text or a number), or a list of these"


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _listed(fits: Test) -> Test:
    """A list of one or more."""
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


def _nested(fits: Test, least: int = 0) -> Test:
    """A value, or a list of at least so many, at any depth."""

    def nested(value: Any) -> bool:
        if isinstance(value, list):
            return len(value) >= least and all(map(nested, value))
        return fits(value)

    return nested


KINDS: dict[str, Test] = {
    "a text": lambda value: isinstance(value, str),
    "a number": _number,
    RELEVANCE: lambda value: _number(value) and value == int(value) and 0 <= value <= MOST_RELEVANT,
    "an id": lambda value: isinstance(value, (str, int)) and not isinstance(value, bool),
    PAIR_LABEL: _nested(lambda v: isinstance(v, (bool, int, float)) and v in (0, 1), least=1),
    # a fraction is no class that a classifier can learn
    CLASS: _nested(lambda v: isinstance(v, (str, bool)) or (_number(v) and v == int(v))),
    ONE_CLASS: lambda v: not isinstance(v, list) and KINDS[CLASS](v),
    FILE: lambda value: isinstance(value, str) and bool(value.strip("\0 ")) and "\0" not in value,
    GROUP: _nested(lambda v: isinstance(v, (str, bool)) or _number(v)),
    "anything": lambda value: True,
}
KINDS |= {f"a list of {kind}s": _listed(KINDS[f"a {kind}"]) for kind in ("text", "number")}
KINDS["a list of ids"] = _listed(KINDS["an id"])
KINDS["a text or a list of texts"] = lambda value: (
    KINDS["a text"](value) or KINDS["a list of texts"](value)
)


def read_rows(path: Path, columns: Mapping[str, str]) -> list[tuple[int, Row]]:
    """The rows of a JSON lines file, each with its number; blank lines are no rows.

    columns: what every row must have, and of which of `KINDS` it must be. What else a row has must
    be of the same kind as in the first one, since a column of a data set has one type.
    Raises UserError that names file and row.
    """
    try:
        lines = read_file(path).decode("utf-8-sig").split("\n")  # a text may hold other line ends
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    rows: list[tuple[int, Row]] = []
    shapes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
            _check(row, columns)
            if not rows:
                shapes = {column: _shape(value) for column, value in row.items()}
            _check_alike(row, shapes)
        except ValueError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
        rows.append((number, row))
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def first_row(path: Path) -> Row:
    """The first row alone, to see which columns there are; empty where `read_rows` would raise."""
    if not path.is_file():  # a pipe would be waited for
        return {}
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            return _parse(next(line for line in file if line.strip()))
    except (OSError, ValueError, StopIteration):
        return {}


def _parse(line: str) -> Row:
    try:
        row = json_value(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _check(row: Row, columns: Mapping[str, str]) -> None:
    for column, kind in columns.items():
        value = row.get(column)
        if value is None:
            raise ValueError(f"no '{column}'")
        if not KINDS[kind](value):
            raise ValueError(f"'{column}' is not {kind}")


def _check_alike(row: Row, shapes: dict[str, str]) -> None:
    """Raise ValueError for another shape than before; `shapes` learns what was empty so far."""
    for column, value in row.items():
        shape, before = _shape(value), shapes.get(column)
        if before in ("nothing", "a list"):
            shapes[column] = shape
        elif before is not None and shape not in (before, "nothing", "a list"):
            raise ValueError(f"'{column}' is {shape}, and {before} in the rows before")


def _shape(value: Any) -> str:
    """What a value is, in words; of a list, what it is of."""
    if isinstance(value, list):
        of = next((_shape(v) for v in value if v is not None), "")
        return f"a list of {of.removeprefix('a ')}s" if of else "a list"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return "nothing" if value is None else names.get(type(value), "an object")
