"""Sheets for a terminal, with rich: as wide as it is, split where a sheet is wider."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._sheets import Column, Sheet, error_line, layer_sheet, notes, sheets

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from lrd_harness.leaderboard import LayerTable, Leaderboard

GAP = 2  # blanks between columns
HEADING = 18  # cells; longer headings are broken into lines
LEAST = 20  # cells that a model's name keeps, if it has as many
ERRORS = 10  # errors shown
# Where a long name may be broken: after a separator, or where a word begins within it.
_BREAK = re.compile(r"(?<=[/\-_@:. ])|(?<=[a-z0-9])(?=[A-Z])")


def renderable(board: Leaderboard, width: int) -> Group:
    """The leaderboard for a rich console of that width: print it as it is."""
    from rich.console import Group

    parts: list[RenderableType] = []
    for sheet in sheets(board):
        parts += _sheet(sheet, width)
    parts += _lines("Notes", notes(board), "yellow")
    shown = [error_line(error) for error in board.errors[:ERRORS]]
    more = len(board.errors) - len(shown)
    if more:
        shown.append(f"and {more} more: see the json format, or table errors of results.sqlite")
    parts += _lines(f"Errors: {len(board.errors)}", shown, "red")
    return Group(*parts)


def layers_renderable(table: LayerTable, width: int) -> Group:
    """One model layer by layer, for a rich console of that width."""
    from rich.console import Group

    return Group(*_sheet(layer_sheet(table), width))


def text(content: Group, width: int) -> str:
    """What a console of that width would show, without colours."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, legacy_windows=False)
    console.print(content)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).rstrip() + "\n"


def wrap(name: str, width: int) -> list[str]:
    """A name in lines of at most `width` cells, broken where it reads well if that is possible."""
    from rich.cells import cell_len, chop_cells

    lines = [""]
    for piece in _BREAK.split(name):
        if cell_len(lines[-1] + piece) <= width:
            lines[-1] += piece
        else:
            lines += chop_cells(piece, width) if piece else []
    return [line for line in lines if line] or [""]


def pack(columns: Sequence[Column], width: int) -> list[tuple[list[Column], int]]:
    """Columns in as few tables as fit, each with the key column; and the width of that column.

    Where one table is not enough, columns marked `rest` go into tables of their own at the end.
    """
    key = next(column for column in columns if column.key)
    most = min(_width(key), max(LEAST, width * 2 // 5))
    rooms = range(most, min(LEAST, most) - 1, -1)
    wide = [room for room in rooms if len(_split(columns, key, width, room)) == 1]
    if wide:
        return [(list(columns), wide[0])]
    parts = [[c for c in columns if not c.rest], [key, *(c for c in columns if c.rest)]]
    parts = [part for part in parts if part != [key]]
    tried = [[t for part in parts for t in _split(part, key, width, room)] for room in rooms]
    fewest = min(map(len, tried))
    room, tables = next(pair for pair in zip(rooms, tried, strict=True) if len(pair[1]) == fewest)
    return [(table, room) for table in tables]


def _split(columns: Sequence[Column], key: Column, width: int, room: int) -> list[list[Column]]:
    """Fill tables from the left; `room` cells for the key column, which every table has."""
    tables: list[list[Column]] = []
    table: list[Column] = []
    used = room
    for column in columns:
        if column is key:
            table.append(column)
            continue
        needed = _width(column) + GAP
        if used + needed > width and used > room:
            tables.append(table if key in table else [key, *table])
            table, used = [key], room
        table.append(column)
        used += needed
    return [*tables, table if key in table else [*table, key]]


def _width(column: Column) -> int:
    from rich.cells import cell_len

    lines = [line for heading in column.heading for line in wrap(heading, HEADING)]
    return max(cell_len(line) for line in [*lines, *column.cells])


def _sheet(sheet: Sheet, width: int) -> list[RenderableType]:
    from rich.text import Text

    parts: list[RenderableType] = [Text(sheet.title, "bold cyan"), Text()]
    for columns, room in pack(sheet.columns, width):
        parts += [_table(columns, room), Text()]
    return [*parts, *_lines("", sheet.legend, "dim")]


def _table(columns: Sequence[Column], room: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    texts = []
    for column in columns:
        width = room if column.key else _width(column)
        heading = [line for part in column.heading for line in wrap(part, min(HEADING, width))]
        table.add_column(Text("\n".join(heading)), justify=column.align, width=width, no_wrap=True)
        # Text, not str: a name is never read as markup
        texts.append([Text("\n".join(wrap(cell, width))) for cell in column.cells])
    for row in zip(*texts, strict=True):
        table.add_row(*row)
    return table


def _lines(title: str, lines: Sequence[str], style: str) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    if not lines:
        return []
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column()
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(Text("•", style), Text(line, style if not title else "", overflow="fold"))
    return [*([Text(title, f"bold {style}")] if title else []), grid, Text()]
