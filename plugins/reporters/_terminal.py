"""Sheets for a terminal, with rich: as wide as it is, split where a sheet is wider."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from ._checkpoints import checkpoint_sheets
from ._pruned import pruning_notes, pruning_sheets
from ._sheets import Column, Sheet, boards, error_line, errors, layer_sheet, notes, sheets

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderableType
    from rich.segment import Segment

    from lrd_harness.board.leaderboard import LayerTable, Leaderboard


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

    if cell_len(name) <= width:
        return [name]
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

    cells = max(map(cell_len, set(column.cells)), default=0)
    lines = [line for part in column.heading for line in wrap(part, max(cells, HEADING))]
    return max(cells, *map(cell_len, lines))


def _sheet(sheet: Sheet, width: int) -> list[RenderableType]:
    from rich.text import Text

    parts: list[RenderableType] = [Text(sheet.title, "bold cyan"), Text()]
    for columns, room in pack(sheet.columns, width):
        parts += [_table(columns, room, width), Text()]
    return [*parts, *_lines("", sheet.legend, "dim")]


@dataclass(frozen=True)
class _Table:
    """Lines of one width, a heading over them.

    rich's own table takes minutes where there are 10,000 models and 100 tasks.
    """

    heading: Sequence[str]
    lines: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment
        from rich.style import Style

        bold, rule = Style(bold=True), "─" * max(map(len, self.heading))
        for line in self.heading:
            yield from (Segment(line, bold), Segment.line())
        for line in (rule, *self.lines):  # a Segment is shown as it is: no name is read as markup
            yield from (Segment(line), Segment.line())


def _table(columns: Sequence[Column], room: int, most: int) -> _Table:
    """room: cells for the key; where one column is too wide beside it for `most`, it is broken."""
    widths = [
        room if column.key else min(_width(column), max(1, most - room - GAP)) for column in columns
    ]
    heads = [
        [line for part in column.heading for line in wrap(part, width)]
        for column, width in zip(columns, widths, strict=True)
    ]
    top = max(map(len, heads))
    heads = [[""] * (top - len(lines)) + lines for lines in heads]  # level at the bottom
    sides = [column.align for column in columns]
    heads = [_padded(*one) for one in zip(heads, widths, sides, strict=True)]
    bodies = []
    for column, width in zip(columns, widths, strict=True):  # many cells are alike
        shown = {c: _padded(wrap(c, width), width, column.align) for c in set(column.cells)}
        bodies.append([shown[cell] for cell in column.cells])
    rows = zip(*bodies, strict=True)
    return _Table(_side_by_side(heads), [line for row in rows for line in _side_by_side(row)])


def _padded(lines: Sequence[str], width: int, align: str) -> list[str]:
    from rich.cells import cell_len

    held = [line.rstrip() for line in lines]
    blanks = [" " * (width - cell_len(line)) for line in held]
    pairs = zip(held, blanks, strict=True)
    return [line + blank if align == "left" else blank + line for line, blank in pairs]


def _side_by_side(cells: Sequence[Sequence[str]]) -> list[str]:
    """Cells of one row, each in padded lines: as many lines as the highest has."""
    from rich.cells import cell_len

    gap = " " * GAP
    if all(len(lines) == 1 for lines in cells):
        return [gap.join(lines[0] for lines in cells)]
    height = max(map(len, cells))
    blanks = (" " * max(map(cell_len, lines)) for lines in cells)
    full = [
        [*own, *[blank] * (height - len(own))] for own, blank in zip(cells, blanks, strict=True)
    ]
    return [gap.join(line) for line in zip(*full, strict=True)]


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
