"""A report for a terminal: as wide as it is, tables split where they are wider, no colours."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from rich.cells import cell_len

from lrd_harness.report import Report

from ._sheets import GAP, Sheet, TextColumn, pack, sentences, sheets, widths_of, wrap, wrap_heading

ERRORS = 10  # errors shown


def terminal(report: Report, width: int | None = None) -> str:
    """The whole report. width: in cells; that of the terminal, 80 where there is none, if None."""
    width = width or shutil.get_terminal_size().columns
    lines: list[str] = [] if report.shown or not report.title else [report.title, ""]
    for sheet in sheets(report):
        lines += _sheet(sheet, width)
    for title, held in sentences(report):
        more = len(held) - ERRORS
        if title == "Errors":
            title = f"Errors: {len(held)}"
            if more > 0:
                rest = f"and {more} more: see the json format, or table errors of results.sqlite"
                held = [*held[:ERRORS], rest]
        lines += [title, *_list(held, width), ""]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _sheet(sheet: Sheet, width: int) -> list[str]:
    lines = [*wrap(sheet.title, width), ""]
    for columns, room in pack(sheet.columns, width):
        lines += [*_table(columns, room, width), ""]
    return [*lines, *_list(sheet.caption, width), ""] if sheet.caption else lines


def _table(columns: Sequence[TextColumn], room: int, most: int) -> list[str]:
    """room: cells for the key; where one column is too wide beside it for `most`, it is broken."""
    widths = widths_of(columns, room, most)
    pairs = list(zip(columns, widths, strict=True))
    heads = [
        [line for part in c.heading for line in wrap_heading(part, width)] for c, width in pairs
    ]
    top = max(map(len, heads))
    heads = [[""] * (top - len(lines)) + lines for lines in heads]  # level at the bottom
    heading = _beside([_padded(h, w, c.left) for h, (c, w) in zip(heads, pairs, strict=True)])
    bodies = []
    for column, width in pairs:  # many cells are alike
        shown = {c: _padded(wrap(c, width), width, column.left) for c in set(column.cells)}
        bodies.append([shown[cell] for cell in column.cells])
    rows = [line for row in zip(*bodies, strict=True) for line in _beside(row)]
    return [*heading, "─" * (sum(widths) + GAP * (len(widths) - 1)), *rows]


def _padded(lines: Sequence[str], width: int, left: bool) -> list[str]:
    found = []
    for line in map(str.rstrip, lines):
        blank = " " * (width - cell_len(line))
        found.append(line + blank if left else blank + line)
    return found


def _beside(cells: Sequence[Sequence[str]]) -> list[str]:
    """Cells of one row, each in padded lines: as many lines as the highest has."""
    height = max(map(len, cells))
    full = [[*c, *[" " * cell_len(c[0])] * (height - len(c))] for c in cells]
    return [(" " * GAP).join(line) for line in zip(*full, strict=True)]


def _list(lines: Sequence[str], width: int) -> list[str]:
    """Sentences with a bullet, broken at blanks."""
    found = []
    for line in lines:
        row = "•"
        for word in line.split():
            if row.strip("• ") and cell_len(row) + 1 + cell_len(word) > width:
                found.append(row)
                row = " "
            first, *rest = wrap(word, max(1, width - 2))
            row += f" {first}"
            for piece in rest:
                found.append(row)
                row = f"  {piece}"
        found.append(row)
    return found
