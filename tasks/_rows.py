"""Rows of a JSON lines file, each checked: what is wrong is told with file and row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrd_harness.documents import json_value, read_file
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


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value)


def _is_relevance(value: Any) -> bool:
    return _is_whole(value) and 0 <= value <= MOST_RELEVANT


def _is_pair_label(value: Any) -> bool:
    """Whether two texts belong together, or a list of such labels."""
    if isinstance(value, list):
        return bool(value) and all(map(_is_pair_label, value))
    return isinstance(value, (bool, int, float)) and value in (0, 1)


def _is_class(value: Any) -> bool:
    """A class, or a list of them; a fraction is none that a classifier can learn."""
    if isinstance(value, list):
        return all(map(_is_class, value))
    return isinstance(value, (str, bool)) or _is_whole(value)


def _is_group(value: Any) -> bool:
    """A label that tells groups apart, or a list of them."""
    if isinstance(value, list):
        return all(map(_is_group, value))
    return isinstance(value, (str, bool)) or _is_number(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_name, value))


def _is_anything(value: Any) -> bool:
    return True


MOST_RELEVANT = 1_000_000
RELEVANCE = f"a whole number from 0 to {MOST_RELEVANT:,}"
PAIR_LABEL = "0 or 1, or a list of these"
CLASS = "a class (a text or a whole number), or a list of these"
GROUP = "a label (a text or a number), or a list of these"
KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": _is_text,
    "a list of texts": _is_several_texts,
    "a text or a list of texts": _is_texts,
    "a number": _is_number,
    "a list of numbers": _is_numbers,
    RELEVANCE: _is_relevance,
    PAIR_LABEL: _is_pair_label,
    CLASS: _is_class,
    GROUP: _is_group,
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
            _check_alike(row, shapes, first=not rows)
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
