"""CSV files as people make them, by column name and line, and as they are written.

Names cannot become formulas in a spreadsheet: an apostrophe before = + - @, a tab or a line end
says "this is text", and is taken off again in reading; numbers are written as they are.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError

DELIMITERS = ",;\t"
SHOWN = 40  # characters of a cell that is wrong
MOST_COLUMNS = 20_000
LONGEST = 131_072  # characters of a cell
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
            number = float(cell)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and "_" not in cell:  # first, as nearly all are
            return number
        if cell.lower() in MISSING:
            return None
        hint = ": write decimals with a point, as 0.5" if "," in cell else ""
        raise self.fault(f"'{cell:.{SHOWN}}' in column {column:.{SHOWN}} is no number{hint}")

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

    Blanks around cells and empty rows do not count. Rows that begin with # are remarks about the
    columns, as `#type` in published tables, or comments.
    Raises UserError as `records` does; for a file with a header only; for a column twice or without
    a name; and for a row with more cells than columns.
    """
    keys = frozenset(keys)
    rows = [
        (number, [unguarded(cell.strip()) for cell in cells])
        for number, cells in records(path, keys, remarks=True)
    ]
    header = next((i for i, (_, cells) in enumerate(rows) if not cells[0].startswith("#")), None)
    if header is None:
        raise UserError(f"{path} is empty")
    head = rows.pop(header)[1]
    places = column_places(path, head, keys)
    nameless = [place for place, name in enumerate(head) if not name]
    lines, remarks = [], {}
    for number, cells in rows:
        line = Line(path, number, cells, places)
        if cells[0].startswith("#"):
            remarks[cells[0][1:].strip().lower()] = {name: line.text(name) for name in places}
        elif any(cells[len(head) :]) or any(any(cells[place : place + 1]) for place in nameless):
            raise line.fault(
                f"{len(cells)} cells, but {len(places)} columns have a name "
                "(a cell that holds the separator needs quotes)"
            )
        else:
            lines.append(line)
    if not lines:
        raise UserError(f"{path} has no rows under its header")
    return Sheet(path, tuple(places), tuple(lines), remarks)


def records(
    path: Path,
    columns: Iterable[str],
    remarks: bool = False,
    longest: int = LONGEST,
    delimiter: str | None = None,
) -> list[tuple[int, list[str]]]:
    """The rows that are not blank: number of the line that each begins in, and its cells as such.

    The delimiter is the one by which the header has the columns that are looked for, or else most
    columns, unless a first line says `sep=;`, as Excel writes it.
    columns: those that are looked for, by which the delimiter is found; remarks: whether a row may
    begin with #; longest: characters that a cell may have.
    Raises UserError for a file that is not there, cannot be read, is not UTF-8 or no CSV, and for
    too many columns.
    """
    text, skipped = _text(path), 0
    if first := _SEPARATOR.match(text):
        text, skipped, delimiter = text[first.end() :], 1, first[1]
    number, rows = 1 + skipped, []
    before = csv.field_size_limit(longest)
    try:
        mark = delimiter or max(DELIMITERS, key=lambda mark: _fit(text, mark, columns, remarks))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        for cells in reader:
            if len(cells) > MOST_COLUMNS:
                raise UserError(
                    f"{path} line {number}: {len(cells):,} columns; "
                    f"at most {MOST_COLUMNS:,} are read"
                )
            if any(map(str.strip, cells)):
                rows.append((number, cells))
            number = reader.line_num + 1 + skipped
    except csv.Error as error:
        raise UserError(f"{path} line {number}: no CSV ({error})") from None
    finally:
        csv.field_size_limit(before)
    return rows


_SEPARATOR = re.compile(r'"?sep=([^\w\s"\\]|\t)"?[ \t]*(?:\r\n|\r|\n|$)', re.IGNORECASE)


def _text(path: Path) -> str:
    """The text of a file, line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from None


def _fit(text: str, delimiter: str, columns: Iterable[str], remarks: bool) -> tuple[int, int]:
    """How many of the columns a header has that is read so, and how many in all.

    (0, 0) where it cannot be read, as reading the rows will tell.
    """
    known = {name.lower() for name in columns}
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            names = [cell.strip(f" {DELIMITERS}") for cell in cells]
            if any(names) and not (remarks and names[0].startswith("#")):
                return len(known & {name.lower() for name in names}), len(names)
    except csv.Error:
        pass
    return 0, 0


def column_places(
    path: Path, header: Sequence[str], keys: frozenset[str] = frozenset()
) -> dict[str, int]:
    """Column name -> index, of the columns that have a name."""
    places: dict[str, int] = {}
    for place, cell in enumerate(header):
        name = cell.lower() if cell.lower() in keys else cell
        if name in places:
            raise UserError(f"{path} has the column {name:.{SHOWN}} twice")
        if name:
            places[name] = place
    return places


_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the wide signs count, too
_END = "\r\n"
_literal: ContextVar[bool] = ContextVar("literal", default=False)


@contextmanager
def literal_names(literal: bool = True) -> Iterator[None]:
    """Within the block, names are written as they are."""
    token = _literal.set(literal)
    try:
        yield
    finally:
        _literal.reset(token)


def written(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV: commas, numbers in full, None an empty cell, lines ended by \\n."""
    lines = _Lines()
    writer = csv.writer(lines, lineterminator=_END)
    writer.writerow([_guarded(cell) for cell in header])
    writer.writerows([_guarded(cell) for cell in row] for row in rows)
    return "".join(lines)


class _Lines(list[str]):
    """Rows as csv gives them, but ended by \\n: csv quotes only such line ends as end its rows."""

    def write(self, row: str) -> None:
        self.append(f"{row.removesuffix(_END)}\n")


def unguarded(cell: str) -> str:
    """A cell as it was before it was written."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _guarded(cell: Any) -> Any:
    if not isinstance(cell, str) or _literal.get() or not _FORMULA.match(cell) or cell == "-":
        return cell
    try:
        float(cell)
        number = cell == cell.strip()
    except ValueError:
        number = False
    return cell if number else f"'{cell}"
