"""The texts of a user's file: a column of a table, or plain lines.

.csv and .tsv, .parquet, and JSON lines (.jsonl, .ndjson, .json) are tables; a text is then what a
column holds, by default `text`. Anything else is plain text, a line a text.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lrd_harness.csv_tables import column_places, records
from lrd_harness.errors import UserError

from ._rows import first_row, read_rows

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
