"""CSV as it is written here: names cannot become formulas where a spreadsheet opens them.

A text that begins with = + - @, a tab or a line end gets an apostrophe before it, which
spreadsheets take for "this is text"; one that has apostrophes before such a sign gets one more, so
that what is read back (csv_tables.py) is what was written. Numbers are written as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the wide signs count, too
_END = "\r\n"
_literal: ContextVar[bool] = ContextVar("literal", default=False)


@contextmanager
def literal_names(wanted: bool = True) -> Iterator[None]:
    """Within the block, names are written as they are."""
    token = _literal.set(wanted)
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


def written_rows(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows by column name as CSV; a column that a row lacks is empty."""
    return written(header, ([row.get(name) for name in header] for row in rows))


def unguarded(cell: str) -> str:
    """A cell as it was before it was written."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _guarded(cell: Any) -> Any:
    if not isinstance(cell, str) or _literal.get() or not _FORMULA.match(cell):
        return cell
    return cell if cell == "-" or _is_number(cell) else f"'{cell}"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell == cell.strip()
