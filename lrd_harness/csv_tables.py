"""CSV files as people make them: rows by column name, each knowing its line for a clear error.

Commas, semicolons or tabs, whichever the header has most of; UTF-8 with or without a byte order
mark; blanks around cells and empty rows do not count. Rows that begin with # are remarks about the
columns, as `#type` in published tables, or comments.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lrd_harness.errors import UserError

DELIMITERS = ",;\t"
SHOWN = 40  # characters of a cell that is wrong
MISSING = frozenset(["", "-", "\u2013", "na", "n/a", "nan", "none", "null"])  # in lower case


@dataclass(frozen=True)
class Line:
    """A row. places: column name -> index; a row that is shorter than the header lacks the rest."""

    file: Path
    number: int
    cells: Sequence[str]
    places: Mapping[str, int]

    def text(self, column: str) -> str:
        """The cell; "" where the row or the table has none."""
        place = self.places.get(column, -1)
        return self.cells[place] if 0 <= place < len(self.cells) else ""

    def value(self, column: str) -> float | None:
        """The cell as a number; None where it is missing. Raises UserError for anything else."""
        cell = self.text(column)
        try:
            found = float(cell)
        except ValueError:
            found = math.nan
        if math.isfinite(found) and "_" not in cell:  # first, as nearly all are
            return found
        if cell.lower() in MISSING:
            return None
        raise self.fault(f"'{cell:.{SHOWN}}' in column {column} is no number")

    def fault(self, message: str) -> UserError:
        """What is wrong with this row."""
        return UserError(f"{self.file} line {self.number}: {message}")


@dataclass(frozen=True)
class Sheet:
    """A file. remarks: what rows that begin with #NAME say, NAME -> column -> cell."""

    file: Path
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    remarks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def require(self, columns: Iterable[str], form: str) -> None:
        """Raise UserError unless these columns are there. form: which columns there should be."""
        lacking = [name for name in columns if name not in self.columns]
        if lacking:
            several = "s" if len(lacking) > 1 else ""
            raise UserError(f"{self.file} lacks the column{several} {', '.join(lacking)}: {form}")


def read_sheet(path: Path, keys: Iterable[str] = ()) -> Sheet:
    """The rows of a file. keys: columns whose names may be written in upper case.

    Raises UserError for a file that is not there, cannot be read, is not UTF-8, is empty or has a
    header only; for a column twice or without a name; and for a row with more cells than columns.
    """
    rows = _rows(path, _text(path).split("\n"))
    header = next((i for i, (_, cells) in enumerate(rows) if not cells[0].startswith("#")), None)
    if header is None:
        raise UserError(f"{path} is empty")
    head = rows.pop(header)[1]
    places = _places(path, head, frozenset(keys))
    nameless = [place for place, name in enumerate(head) if not name]
    lines, remarks = [], {}
    for number, cells in rows:
        line = Line(path, number, cells, places)
        if cells[0].startswith("#"):
            remarks[cells[0][1:].strip().lower()] = {name: line.text(name) for name in places}
        elif any(cells[len(head) :]) or any(any(cells[place : place + 1]) for place in nameless):
            raise line.fault(f"{len(cells)} cells, but {len(places)} columns have a name")
        else:
            lines.append(line)
    if not lines:
        raise UserError(f"{path} has no rows under its header")
    return Sheet(path, tuple(places), tuple(lines), remarks)


def _text(path: Path) -> str:
    """The text of a file, its lines ended by \\n alone."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _rows(path: Path, lines: Sequence[str]) -> list[tuple[int, list[str]]]:
    """The rows that are not empty: number of the line that a row ends in, and its cells."""
    head = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = max(DELIMITERS, key=lambda mark: _columns(head, mark))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: no CSV ({error})") from None
    return rows


def _columns(header: str, delimiter: str) -> int:
    """How many cells a header has; 0 where it cannot be read, as reading the rows will tell."""
    try:
        return len(next(csv.reader([header], delimiter=delimiter), ()))
    except csv.Error:
        return 0


def _places(path: Path, header: Sequence[str], keys: frozenset[str]) -> dict[str, int]:
    """Column name -> index, of the columns that have a name."""
    places: dict[str, int] = {}
    for place, cell in enumerate(header):
        name = cell.lower() if cell.lower() in keys else cell
        if name in places:
            raise UserError(f"{path} has the column {name} twice")
        if name:
            places[name] = place
    return places
