"""The texts of a user's file: a column of a table, or plain lines.

.csv and .tsv, .parquet, and JSON lines (.jsonl, .ndjson, .json) are tables; a text is then what a
column holds, by default `text`. Anything else is plain text, a line a text.

Rows of a JSON lines file, each checked: what is wrong is told with file and row.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrd_harness.board.external import column_places, records
from lrd_harness.errors import UserError
from lrd_harness.store.documents import json_value, read_file

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


JSON_LINES = (".jsonl", ".ndjson", ".json")
DELIMITERS = {".csv": None, ".tsv": "\t", ".tab": "\t"}  # None: as the header shows
PARQUET = (".parquet", ".pq")
SHOWN = 8  # columns that a message names


def is_table(path: Path) -> bool:
    """Whether a text is a column's, by the file's name."""
    return path.suffix.lower() in (*JSON_LINES, *DELIMITERS, *PARQUET)


def read_texts(path: Path, column: str) -> list[str]:
    """The texts of a file, one or more.

    An empty cell is an empty text, as "" is in JSON; rows without any cell that holds something,
    and blank lines, do not count. Raises UserError for a file that cannot be read, a table that
    lacks the column, and a row without a text there (row or line named).
    """
    suffix = path.suffix.lower()
    if suffix in JSON_LINES:
        first = first_row(path)
        if first and column not in first:
            raise _lacking(path, column, list(first))
        found = [row[column] for _, row in read_rows(path, {column: "a text"})]
    elif suffix in DELIMITERS:
        found = _of_csv(path, column, DELIMITERS[suffix])
    elif suffix in PARQUET:
        found = _of_parquet(path, column)
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        found = [line.rstrip("\r") for line in lines if line.strip()]
    if not found:
        raise UserError(f"{path}: no texts")
    return found


def _of_csv(path: Path, column: str, delimiter: str | None) -> list[str]:
    rows = records(path, [column], longest=min(sys.maxsize, 2**31 - 1), delimiter=delimiter)
    if not rows:
        raise UserError(f"{path}: no texts")
    header = [name.strip() for name in rows[0][1]]
    places = column_places(path, header)
    if column not in places:
        raise _lacking(path, column, list(places))
    found = []
    for number, cells in rows[1:]:
        if any(cells[len(header) :]):
            raise UserError(
                f"{path} line {number}: {len(cells)} cells, but {len(header)} columns "
                "(a text that holds the separator needs quotes)"
            )
        if len(cells) <= places[column]:
            raise UserError(f"{path} line {number}: no '{column}': the row ends before it")
        found.append(cells[places[column]])
    return found


def _of_parquet(path: Path, column: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        if column not in names:
            raise _lacking(path, column, names)
        if names.count(column) > 1:
            raise UserError(f"{path} has the column {column} twice")
        cells: list[str] = pq.read_table(path, columns=[column]).column(0).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:  # pyarrow's are mostly ValueErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason:.120})") from None
    for number, cell in enumerate(cells, 1):
        if cell is None:
            raise UserError(f"{path}, row {number}: no '{column}'")
        if not isinstance(cell, str):
            raise UserError(f"{path}, row {number}: '{column}' is not a text")
    return cells


def _lacking(path: Path, column: str, there: list[str]) -> UserError:
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    names = ", ".join(f"{name:.30}" for name in there[:SHOWN]) + more
    return UserError(f"{path} has no column '{column}' (--text-column): it has {names}")
