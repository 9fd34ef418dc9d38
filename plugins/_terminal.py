"""Sheets for a terminal, with rich: as wide as it is, split where a sheet is wider."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from ._checkpoints import checkpoint_sheets
from ._pruned import pruning_notes, pruning_sheets
from ._sheets import Column, Sheet, boards, error_line, errors, layer_sheet, notes, sheets

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

    from lrd_harness.leaderboard import LayerTable, Leaderboard

GAP = 2  # blanks between columns
HEADING = 12  # cells; longer headings are broken into lines where the cells are no longer
LEAST = 20  # cells that a model's name keeps, if it has as many
ERRORS = 10  # errors shown
CURVES = 4  # metrics shown by training step and depth
# Where a long name may be broken: after a separator, or where a word begins within it.
_BREAK = re.compile(r"(?<=[/\-_@: ])|(?<==)(?!=)|(?<=[a-z0-9])(?=[A-Z])")


def renderable(board: Leaderboard, width: int) -> Group:
    """The leaderboard for a rich console of that width: print it as it is."""
    from rich.console import Group

    parts: list[RenderableType] = []
    for part, title in boards(board):
        for sheet in [*sheets(part), *checkpoint_sheets(part, CURVES)]:
            parts += _sheet(sheet, width)
        parts += _lines(title, notes(part), "yellow")
    if board.pruned:
        for sheet in pruning_sheets(board.pruned, by_task=False):
            parts += _sheet(sheet, width)
        parts += _lines("Notes on pruning", pruning_notes(board.pruned), "yellow")
    failed = errors(board)
    shown = [error_line(error) for error in failed[:ERRORS]]
    more = len(failed) - len(shown)
    if more:
        shown.append(f"and {more} more: see the json format, or table errors of results.sqlite")
    parts += _lines(f"Errors: {len(failed)}", shown, "red")
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

    Where one table is not enough, columns of a higher `rest` go into tables of their own at the
    end: first the highest, and where that is not enough all that have one.
    """
    key = next(column for column in columns if column.key)
    widths = {id(column): _width(column) for column in columns}
    most = min(widths[id(key)], max(LEAST, width * 2 // 5))
    rooms = range(most, min(LEAST, most) - 1, -1)
    for level in sorted({column.rest for column in columns}, reverse=True):
        main = [column for column in columns if column.rest <= level]
        behind = [column for column in columns if column.rest > level]
        tried = [(_split(main, key, widths, width - room), room) for room in rooms]
        # The fullest first table, then the widest key: what is read first is whole.
        tables, room = min(tried, key=lambda found: (len(found[0]), -len(found[0][0])))
        if len(tables) == 1:
            break
    tables += _split([key, *behind], key, widths, width - room) if behind else []
    used = [sum(widths[id(c)] + GAP for c in table if c is not key) for table in tables]
    return [(t, max(room, min(most, width - u))) for t, u in zip(tables, used, strict=True)]


def _split(
    columns: Sequence[Column], key: Column, widths: Mapping[int, int], width: int
) -> list[list[Column]]:
    """Fill tables from the left, each with the key column; `width` cells for the others."""
    tables: list[list[Column]] = [[]]
    used = 0
    for i, column in enumerate(columns):
        if column is key:
            tables[-1] += [] if key in tables[-1] else [key]
            continue
        own = widths[id(column)] + GAP
        tied = takewhile(lambda behind: behind.tied, columns[i + 1 :])
        together = own + sum(widths[id(one)] + GAP for one in tied)
        if used and used + (together if together <= width else own) > width:
            tables.append([key])
            used = 0
        tables[-1].append(column)
        used += own
    return [table if key in table else [*table, key] for table in tables]


def _width(column: Column) -> int:
    from rich.cells import cell_len

    cells = max(map(cell_len, column.cells), default=0)
    lines = [line for part in column.heading for line in wrap(part, max(cells, HEADING))]
    return max(cells, *map(cell_len, lines))


def _sheet(sheet: Sheet, width: int) -> list[RenderableType]:
    from rich.text import Text

    parts: list[RenderableType] = [Text(sheet.title, "bold cyan"), Text()]
    for columns, room in pack(sheet.columns, width):
        parts += [_table(columns, room, width), Text()]
    return [*parts, *_lines("", sheet.legend, "dim")]


def _table(columns: Sequence[Column], room: int, most: int) -> Table:
    """room: cells for the key; where one column is too wide beside it for `most`, it is broken."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    texts = []
    for column in columns:
        width = room if column.key else min(_width(column), max(1, most - room - GAP))
        heading = [line for part in column.heading for line in wrap(part, width)]
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
