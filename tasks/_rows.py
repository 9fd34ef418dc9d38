"""Rows of a JSON lines file, each checked: what is wrong is told with file and row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError

Row = dict[str, Any]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_several_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_texts(value: Any) -> bool:
    """A text, or a list of texts, as a row of a legacy clustering or pair task holds."""
    return _is_several_texts(value) or _is_text(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_number, value))


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_name, value))


def _is_anything(value: Any) -> bool:
    return True


KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": _is_text,
    "a list of texts": _is_several_texts,
    "a text or a list of texts": _is_texts,
    "a number": _is_number,
    "a list of numbers": _is_numbers,
    "an id": _is_name,
    "a list of ids": _is_names,
    "anything": _is_anything,
}


def read_rows(path: Path, columns: Mapping[str, str]) -> list[tuple[int, Row]]:
    """The rows of a JSON lines file, each with its number; blank lines are no rows.

    columns: what every row must have, and of which of `KINDS` it must be. What else a row has must
    be of the same kind as in the first one, since a column of a data set has one type.
    Raises UserError that names file and row.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a text may hold other line ends
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    rows: list[tuple[int, Row]] = []
    shapes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
            _check(row, columns)
            _check_alike(row, shapes, first=not rows)
        except ValueError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
        rows.append((number, row))
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def first_row(path: Path) -> Row:
    """The first row alone, to see which columns there are; empty where `read_rows` would raise."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            return _parse(next(line for line in file if line.strip()))
    except (OSError, ValueError, StopIteration):
        return {}


def _parse(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if "\\u" in line:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair, which is no character") from None
    return row


def _check(row: Row, columns: Mapping[str, str]) -> None:
    for column, kind in columns.items():
        value = row.get(column)
        if value is None:
            raise ValueError(f"no '{column}'")
        if not KINDS[kind](value):
            raise ValueError(f"'{column}' is not {kind}")


def _check_alike(row: Row, shapes: dict[str, str], first: bool) -> None:
    for column, value in row.items():
        shape = _shape(value)
        if first:
            shapes[column] = shape
        held = shapes.get(column)
        if held == "nothing" or held == "a list":
            shapes[column] = shape
        elif held is not None and shape not in (held, "nothing", "a list"):
            raise ValueError(f"'{column}' is {shape}, and {held} in the rows before")


def _shape(value: Any) -> str:
    """What a value is, in words; of a list, what it is of."""
    if isinstance(value, list):
        of = next((_shape(v) for v in value if v is not None), "")
        return f"a list of {of.removeprefix('a ')}s" if of else "a list"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return "nothing" if value is None else names.get(type(value), "an object")
