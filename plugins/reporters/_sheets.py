"""Tables as columns of text, made to fit a width, and the form for a terminal, without colours.

"-" stands for what is not there. What cannot be printed in a name is shown as an escape.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from rich.cells import cell_len, chop_cells

from lrd_harness.errors import plain
from lrd_harness.report import Column, Report, Table

from ._data import valued

NONE = "-"
ERRORS = 10  # shown in a terminal
GAP = 2  # blanks between columns
WORD = 20  # cells of a word of a heading that is kept whole
HEADING = 12  # cells; longer headings are broken into lines where the cells are no longer
LEAST = 20  # cells that a model's name keeps, if it has as many
# Where a long name may be broken: after a separator, or where a word begins within it.
_BREAK = re.compile(r"(?<=[/\-_@: ])|(?<==)(?!=)|(?<=[a-z0-9])(?=[A-Z])")
# A text that is a number or begins with one, as "28/30" and "+0.1 to +0.2": it is set as numbers.
_AMOUNT = re.compile(r"[+\-−–]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?=?( ?%)?([ /:(±].*)?")
_ZERO = re.compile(r"-(0(\.0*)?( ?%)?)")  # what rounds to nothing has no sign of its own


@dataclass(frozen=True, eq=False)  # a column is itself: two may look alike
class TextColumn:
    """A column of text: heading in lines, one cell a row; the rest as in report.Column."""

    heading: tuple[str, ...]
    cells: tuple[str, ...]
    left: bool = False
    key: bool = False
    rest: int = 0
    tied: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table for people. families: of each row its model's family, where rows are models."""

    name: str
    title: str
    columns: tuple[TextColumn, ...]
    caption: tuple[str, ...] = ()
    families: tuple[str, ...] | None = None


def sheets(report: Report) -> list[Sheet]:
    """The tables that people see."""
    models = report.get("model_info")
    families = {row["model"]: row["family"] for row in models.rows} if models else {}
    return [_sheet(table, families) for table in report.shown if table.columns]


def _sheet(table: Table, families: Mapping[str, str | None]) -> Sheet:
    """A table as text. Columns without any cell are left out; one of them is always a key.

    families: of models, by which rows that have a model as their key can be filtered.
    """
    errors = {column.error for column in table.columns}
    kept = [c for c in table.columns if c.shown and c.name not in errors]
    columns = [_column(column, table) for column in kept]
    columns = [c for c in columns if c.key or set(c.cells) - {"", NONE}] or columns[:1]
    if columns and not any(column.key for column in columns):
        columns[0] = replace(columns[0], key=True)
    held = None
    if any(c.name == "model" and c.key for c in table.columns) and any(families.values()):
        held = tuple(plain(families.get(row["model"]) or "unknown") for row in table.rows)
    caption = tuple(map(plain, table.caption))
    return Sheet(table.name, plain(table.title), tuple(columns), caption, held)


def _column(column: Column, table: Table) -> TextColumn:
    values = [valued(value) for value in table.column(column.name)]
    ranks = column.form == "place"
    cells = places(values) if ranks else [text(value, column.form) for value in values]
    if column.error:
        stderrs = (valued(row.get(column.error)) for row in table.rows)
        pairs = zip(cells, values, stderrs, strict=True)
        cells = [c if None in (v, e) else f"{c} ± {text(e, column.form)}" for c, v, e in pairs]
    heading = [plain(line) for line in column.heading.split("\n")]
    if column.unit:
        heading.append(f"({plain(column.unit)})")
    words = [v for v in values if isinstance(v, (str, bool, list)) and v not in ("", NONE)]
    left = column.key and not any(value is not None for value in values)
    left = left or any(type(word) is not str or not _AMOUNT.fullmatch(word) for word in words)
    return TextColumn(tuple(heading), tuple(cells), left, column.key, column.rest, column.tied)


def places(ranks: Sequence[Any]) -> list[str]:
    """Ranks as text, with "=" behind those that several share."""
    shared = Counter(ranks)
    return [text(r) + "=" * (r is not None and shared[r] > 1) for r in ranks]


def text(value: Any, form: str = "") -> str:
    """A cell as people see it: numbers in that format, names as far as they can be printed."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(text(one, "" if form == "list" else form) for one in value) or NONE
    if isinstance(value, str):
        return plain(value)
    if form in ("", "place", "list"):
        return str(value) if isinstance(value, int) else f"{value:.10g}"
    if form.endswith("d"):
        return format(round(value), form)
    found = format(value, form if form != "%" else ".0%").replace("%", " %")
    zero = _ZERO.fullmatch(found)
    return ("+" if "+" in form else "") + zero[1] if zero else found


def wrap(name: str, width: int) -> list[str]:
    """A name in lines of at most `width` cells, broken where it reads well, if it can be."""
    if cell_len(name) <= width:
        return [name]
    lines = [""]
    for piece in _BREAK.split(name):
        if cell_len(lines[-1] + piece) <= width:
            lines[-1] += piece
        else:
            lines += chop_cells(piece, width) if piece else []
    return [line for line in lines if line] or [""]


def wrap_heading(text: str, width: int) -> list[str]:
    """A heading in lines of at most `width` cells, its words whole where they fit; an arrow stays
    with its word."""
    lines = [""]
    for word in re.split(r" (?![↑↓])", text):
        longer = f"{lines[-1]} {word}".lstrip()
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines += wrap(word, width)
    return [line for line in lines if line] or [""]


def pack(columns: Sequence[TextColumn], width: int) -> list[tuple[list[TextColumn], int]]:
    """Columns in as few tables as fit, each with the keys; and the width of the first key.

    Where one table is not enough, columns of a higher `rest` go into tables of their own at the
    end: first the highest, and where that is not enough all that have one.
    """
    keys = [column for column in columns if column.key]
    key, others = keys[0], keys[1:]
    widths = {id(column): column_width(column) for column in columns}
    if sum(widths[id(c)] + GAP for c in others) > width // 3:  # too wide to stand in each table
        others = []
    width -= sum(widths[id(c)] + GAP for c in others)
    most = min(widths[id(key)], max(LEAST, width // 2))
    rooms = range(most, min(LEAST, most) - 1, -1)
    repeated = [key, *others]
    tables, room = [[*repeated]], most
    behind: list[TextColumn] = []
    for level in sorted({column.rest for column in columns}, reverse=True):
        main = [column for column in columns if column.rest <= level]
        behind = [column for column in columns if column.rest > level]
        tried = [(_split(main, repeated, widths, width - room), room) for room in rooms]
        # The fullest first table, then the widest key: what is read first is whole.
        tables, room = min(tried, key=lambda found: (len(found[0]), -len(found[0][0])))
        if len(tables) == 1:
            break
    tables += _split([*repeated, *behind], repeated, widths, width - room) if behind else []
    free = [
        width - sum(widths[id(c)] + GAP for c in table if c not in repeated) for table in tables
    ]
    wide = widths[id(key)]
    return [(t, max(room, min(wide, left))) for t, left in zip(tables, free, strict=True)]


def _split(
    columns: Sequence[TextColumn],
    keys: Sequence[TextColumn],
    widths: Mapping[int, int],
    width: int,
) -> list[list[TextColumn]]:
    """Fill tables from the left, each with the keys; `width` cells for the others."""
    tables: list[list[TextColumn]] = [[]]
    used = 0
    for i, column in enumerate(columns):
        if column in keys:
            tables[-1] += [] if column in tables[-1] else [column]
            continue
        own = widths[id(column)] + GAP
        tied = takewhile(lambda behind: behind.tied, columns[i + 1 :])
        together = own + sum(widths[id(one)] + GAP for one in tied)
        if used and used + (together if together <= width else own) > width:
            tables.append([*keys])
            used = 0
        tables[-1].append(column)
        used += own
    return [[*(k for k in keys if k not in table), *table] for table in tables]


def column_width(column: TextColumn) -> int:
    """The cells that a column takes with its heading in lines."""
    cells = max(map(cell_len, set(column.cells)), default=0)
    words = [word for part in column.heading for word in re.split(r" (?![↑↓])", part)]
    longest = min(max(map(cell_len, words)), WORD)
    room = max(cells, HEADING, longest)
    lines = [line for part in column.heading for line in wrap_heading(part, room)]
    return max(cells, *map(cell_len, lines))


def widths_of(columns: Sequence[TextColumn], room: int, most: int) -> list[int]:
    """The widths of the columns of one table: `room` for the first key, no other beyond `most`."""
    first = next(column for column in columns if column.key)
    return [
        room if column is first else min(column_width(column), max(1, most - room - GAP))
        for column in columns
    ]


def sentences(report: Report) -> list[tuple[str, list[str]]]:
    """Notes and errors, each with its title; what there is any of."""
    parts = [("Notes", report.notes), ("Errors", report.errors)]
    return [(title, list(map(plain, lines))) for title, lines in parts if lines]


def terminal(report: Report, width: int | None = None) -> str:
    """The whole report. width: in cells; that of the terminal, 80 where there is none, if None."""
    width = width or shutil.get_terminal_size().columns
    lines: list[str] = [] if report.shown or not report.title else [report.title, ""]
    for sheet in sheets(report):
        lines += _shown(sheet, width)
    for title, held in sentences(report):
        more = len(held) - ERRORS
        if title == "Errors":
            title = f"Errors: {len(held)}"
            if more > 0:
                rest = f"and {more} more: see the json format, or table errors of results.sqlite"
                held = [*held[:ERRORS], rest]
        lines += [title, *_list(held, width), ""]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _shown(sheet: Sheet, width: int) -> list[str]:
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


def _padded(lines: Iterable[str], width: int, left: bool) -> list[str]:
    padded = ((line, " " * (width - cell_len(line))) for line in map(str.rstrip, lines))
    return [line + blank if left else blank + line for line, blank in padded]


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
