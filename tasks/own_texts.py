"""Own unlabelled texts: `texts:FILE`, for metrics without scores.

.csv and .tsv, .parquet, and JSON lines (.jsonl, .ndjson, .json) are tables; a text is then what a
column holds, by default `text`. Anything else is plain text, one text per line.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from lrd_harness.contracts import Request, Task, TaskFamily, TaskOptions
from lrd_harness.errors import UserError, named, plain, say
from lrd_harness.hookspecs import hookimpl
from lrd_harness.store.tables import column_places, records

from .rows import first_row, read_rows

JSON_LINES = (".jsonl", ".ndjson", ".json")
DELIMITERS = {".csv": None, ".tsv": "\t", ".tab": "\t"}  # None: as the header shows
PARQUET = (".parquet", ".pq")
SHOWN = 8  # columns that a message names
LONGEST = 150  # characters of the name of a file or folder in that of its task


def open_file(name: str, options: TaskOptions) -> Task:
    """The texts of a file: a column of a table, or plain lines.

    Raises UserError for a file that is not there or a row without text (file and row named).
    """
    path = named(name)
    if not name.strip():
        raise UserError("texts: names no file")

    @functools.cache
    def texts() -> Sequence[Request]:
        return [Request(text) for text in read_texts(path, options.text_column)]

    def check() -> None:
        if path.is_dir():
            raise UserError(f"{path} is a folder, not a file of texts")
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        texts()

    def fingerprint() -> str:
        digest = hashlib.sha256(path.read_bytes())
        tables = (*JSON_LINES, *DELIMITERS, *PARQUET)
        if path.suffix.lower() in tables and path.suffix != ".jsonl":  # were once read as lines
            digest.update(b"a table")
        if options.text_column != TaskOptions.text_column:
            digest.update(options.text_column.encode())
        return digest.hexdigest()[:16]

    shown = plain(path.name if path.is_absolute() else name)
    return Task(
        name=f"texts:{shown[-LONGEST:]}",
        place=f"texts:{name}",
        texts=texts,
        evaluate=None,
        description=f"texts of {path.name}, without labels",
        check=check,
        fingerprint=fingerprint,
    )


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
        texts = [row[column] for _, row in read_rows(path, {column: "a text"})]
    elif suffix in DELIMITERS:
        texts = _of_csv(path, column, DELIMITERS[suffix])
    elif suffix in PARQUET:
        texts = _of_parquet(path, column)
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        texts = [line.rstrip("\r") for line in lines if line.strip()]
        if blank := len("\n".join(lines).rstrip().split("\n")) - len(texts):
            say(f"{path}: blank lines left out: {blank:,}")
    if not texts:
        raise UserError(f"{path}: no texts")
    return texts


def _of_csv(path: Path, column: str, delimiter: str | None) -> list[str]:
    rows = records(path, [column], longest=min(sys.maxsize, 2**31 - 1), delimiter=delimiter)
    if not rows:
        raise UserError(f"{path}: no texts")
    header = [name.strip() for name in rows[0][1]]
    places = column_places(path, header)
    if column not in places:
        raise _lacking(path, column, list(places))
    texts = []
    for number, cells in rows[1:]:
        if any(cells[len(header) :]):
            raise UserError(
                f"{path} line {number}: {len(cells)} cells, but {len(header)} columns "
                "(a text that holds the separator needs quotes)"
            )
        if len(cells) <= places[column]:
            raise UserError(f"{path} line {number}: no '{column}': the row ends before it")
        texts.append(cells[places[column]])
    return texts


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


@hookimpl
def lrd_tasks() -> list[TaskFamily]:
    """Texts from a file."""
    return [TaskFamily("texts", names=dict, open=open_file)]
