"""Tables as columns of text, made to fit a width, and the form for a terminal, without colours.

"-" stands for what is not there. What cannot be printed in a name is shown as an escape.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, takewhile
from typing import Any, NamedTuple

from rich.cells import cell_len, chop_cells

from lrd_harness.errors import plain
from lrd_harness.report import Column, Report, Table

from ._data import valued

NONE = "-"
ERRORS = 10  # shown in a terminal
GAP = 2  # blanks between columns
WORD = 20  # cells of a word of a heading that is kept whole
HEADING = 12  # cells of a heading that stays on one line where there is room
LEAST = 40  # cells that a model's name keeps, if it has as many, and half of the width
# Where a long name may be broken: after a separator; no word is.
_BREAK = re.compile(r"(?<=[/_@: ])|(?<==)(?!=)")
_BLANK = re.compile(r" (?![↑↓])")  # where a heading is broken: an arrow stays with its word
# A text that is a number or begins with one, as "28/30" and "+0.1 to +0.2": it is set as numbers.
_AMOUNT = re.compile(r"[+\-−–]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?=?( ?%)?([ /:(±].*)?")
_ZERO = re.compile(r"-(0(\.0*)?( ?%)?)")  # what rounds to nothing has no sign of its own


@dataclass(frozen=True, eq=False)  # a column is itself: two may look alike
class TextColumn:
    """A column of text: heading in lines, one cell a row; the rest as in report.Column.

    top: the cells of the best value, where the column has a better end and its rows differ.
    """

    heading: tuple[str, ...]
    cells: tuple[str, ...]
    left: bool = False
    key: bool = False
    rest: int = 0
    tied: bool = False
    top: frozenset[str] = frozenset()

    @cached_property
    def widest(self) -> int:
        """The width of its widest cell."""
        return max(map(cell_len, set(self.cells)), default=0)

    def width(self, heading: int = HEADING) -> int:
        """The width that it takes with a heading in lines of at least `heading`."""
        words = [word for part in self.heading for word in _BLANK.split(part)]
        longest = min(max(map(cell_len, words)), WORD)
        lines = self.heading_lines(max(self.widest, heading, longest))
        return max(self.widest, *map(cell_len, lines))

    def heading_lines(self, width: int) -> list[str]:
        """The heading in lines of at most that width."""
        return [line for part in self.heading for line in wrap_heading(part, width)]


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
    """A table as text. Columns and rows without any cell are left out; one column is a key.

    families: of models, by which rows that have a model as their key can be filtered.
    """
    errors = {column.error for column in table.columns}
    columns = [_column(c, table) for c in table.columns if c.shown and c.name not in errors]
    columns = [c for c in columns if c.key or set(c.cells) - {"", NONE}] or columns[:1]
    if columns and not any(column.key for column in columns):
        columns[0] = replace(columns[0], key=True)
    of_rows = None
    if any(c.name == "model" and c.key for c in table.columns) and any(families.values()):
        of_rows = tuple(plain(families.get(row["model"]) or "unknown") for row in table.rows)
    if not all(told := _told(columns)):
        columns = [replace(c, cells=tuple(compress(c.cells, told))) for c in columns]
        of_rows = of_rows and tuple(compress(of_rows, told))
    caption = tuple(map(plain, table.caption))
    return Sheet(table.name, plain(table.title), tuple(columns), caption, of_rows)


def _told(columns: Sequence[TextColumn]) -> list[bool]:
    """Of each row, whether it has a cell beside its keys; where all columns are keys, it has."""
    others = [c.cells for c in columns if not c.key] or [c.cells for c in columns]
    return [bool({*row} - {"", NONE}) for row in zip(*others, strict=True)]


def _column(column: Column, table: Table) -> TextColumn:
    values = [valued(value) for value in table.column(column.name)]
    if column.form == "place":
        cells = places(values)
    else:
        cells = [text(value, column.form) for value in values]
    if column.error:
        stderrs = (valued(row.get(column.error)) for row in table.rows)
        triples = zip(cells, values, stderrs, strict=True)
        cells = [c if None in (v, e) else f"{c} ± {text(e, column.form)}" for c, v, e in triples]
    heading = [plain(line) for line in column.heading.split("\n")]
    if column.unit:
        heading.append(f"({plain(column.unit)})")
    words = [v for v in values if isinstance(v, (str, bool, list)) and v not in ("", NONE)]
    left = column.key and not any(value is not None for value in values)
    left = left or any(type(word) is not str or not _AMOUNT.fullmatch(word) for word in words)
    rest = column.key, column.rest, column.tied, _top(column, values, cells)
    return TextColumn(tuple(heading), tuple(cells), left, *rest)


def _top(column: Column, values: Sequence[Any], cells: Sequence[str]) -> frozenset[str]:
    """The cells of the values that are shown as the best one is; none where all are alike."""
    numbers = [v for v in values if isinstance(v, (int, float))]
    if not column.best or not numbers:
        return frozenset()
    best = text(max(numbers) if column.best == "max" else min(numbers), column.form)
    shown = [text(value, column.form) for value in values]
    top = {cell for cell, of in zip(cells, shown, strict=True) if of == best}
    return frozenset(top if any(of not in (best, NONE) for of in shown) else ())


def places(ranks: Sequence[Any]) -> list[str]:
    """Ranks as text, with "=" behind those that several share."""
    shared = Counter(ranks)
    return [text(rank) + "=" * (rank is not None and shared[rank] > 1) for rank in ranks]


def text(value: Any, form: str = "") -> str:
    """A cell as people see it: numbers in that format, names as far as they can be printed."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(text(item, "" if form == "list" else form) for item in value) or NONE
    if isinstance(value, str):
        return plain(value)
    if form in ("", "place", "list"):
        return str(value) if isinstance(value, int) else f"{value:.10g}"
    if form.endswith("d"):
        return format(round(value), form)
    number = format(value, form if form != "%" else ".0%").replace("%", " %")
    zero = _ZERO.fullmatch(number)
    return ("+" if "+" in form else "") + zero[1] if zero else number


def wrap(name: str, width: int) -> list[str]:
    """A name in lines of at most `width` cells, broken at separators; longer words lose a middle.

    >>> wrap("owner/model", 8), wrap("AmazonCounterfactualClassification", 20)
    (['owner/', 'model'], ['AmazonCoun…ification'])
    """
    if cell_len(name) <= width:
        return [name]
    lines = [""]
    for piece in _BREAK.split(name):
        if cell_len(lines[-1] + piece) <= width:
            lines[-1] += piece
        else:
            lines.append(shorten(piece, width))
    return [line for line in lines if line.strip()] or [""]


def shorten(word: str, width: int) -> str:
    """A word in at most that many cells, "…" for its middle."""
    if cell_len(word) <= width:
        return word
    start = chop_cells(word, max(1, width // 2))[0]
    end = chop_cells(word[::-1], max(1, width - 1 - cell_len(start)))[0][::-1]
    return f"{start}…{end}" if width > 2 else start


def wrap_heading(text: str, width: int) -> list[str]:
    """A heading in lines of at most `width` cells, its words whole where they fit."""
    lines = [""]
    for word in _BLANK.split(text):
        longer = f"{lines[-1]} {word}".lstrip()
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines += wrap(word, width)
    return [line for line in lines if line] or [""]


class Block(NamedTuple):
    """Columns of a table that stand side by side, and the width of each."""

    columns: list[TextColumn]
    widths: list[int]


def pack(columns: Sequence[TextColumn], width: int) -> list[Block]:
    """Columns in as few blocks as fit a width, each with the keys.

    Headings take more lines where that makes fewer blocks. Where one block is not enough, columns
    of a higher `rest` go into blocks of their own at the end: first the highest, and where that is
    not enough all that have one.
    """
    blocks = _blocks(columns, width, HEADING)
    return blocks if len(blocks) == 1 else min(blocks, _blocks(columns, width, 0), key=len)


def _blocks(columns: Sequence[TextColumn], width: int, heading: int) -> list[Block]:
    widths = {column: column.width(heading) for column in columns}
    key, *others = (column for column in columns if column.key)
    if sum(widths[column] + GAP for column in others) > width // 3:
        others = []  # too wide to stand in each block
    keys = [key, *others]
    room = width - sum(widths[column] + GAP for column in others)  # for the key and the rest
    least = min(LEAST, width // 2)
    most = min(widths[key], max(least, room // 2))
    tables, narrow = [keys], most
    behind: list[TextColumn] = []
    for level in sorted({column.rest for column in columns}, reverse=True):
        main = [column for column in columns if column.rest <= level]
        behind = [column for column in columns if column.rest > level]
        options = [
            (_split(main, keys, widths, room - cells), cells)
            for cells in range(most, min(least, most) - 1, -1)
        ]
        # The fullest first table, then the widest key: what is read first is whole.
        tables, narrow = min(options, key=lambda option: (len(option[0]), -len(option[0][0])))
        if len(tables) == 1:
            break
    tables += _split([*keys, *behind], keys, widths, room - narrow) if behind else []
    blocks = []
    for table in tables:
        left = room - sum(widths[column] + GAP for column in table if column not in keys)
        first = max(narrow, min(widths[key], left))
        beside = max(1, width - first - GAP)
        blocks.append(Block(table, [first if c is key else min(widths[c], beside) for c in table]))
    return blocks


def _split(
    columns: Sequence[TextColumn],
    keys: Sequence[TextColumn],
    widths: Mapping[TextColumn, int],
    width: int,
) -> list[list[TextColumn]]:
    """Fill tables from the left, each with the keys; `width` cells for the others."""
    tables: list[list[TextColumn]] = [[]]
    used = 0
    for i, column in enumerate(columns):
        if column in keys:
            tables[-1] += [] if column in tables[-1] else [column]
            continue
        alone = widths[column] + GAP
        tied = takewhile(lambda behind: behind.tied, columns[i + 1 :])
        together = alone + sum(widths[other] + GAP for other in tied)
        if used and used + (together if together <= width else alone) > width:
            tables.append([*keys])
            used = 0
        tables[-1].append(column)
        used += alone
    return [[*(k for k in keys if k not in table), *table] for table in tables]


def sentences(report: Report) -> list[tuple[str, list[str]]]:
    """Notes and errors, each with its title; what there is any of."""
    parts = [("Notes", report.notes), ("Errors", report.errors)]
    return [(title, list(map(plain, lines))) for title, lines in parts if lines]


def terminal(report: Report, width: int | None = None) -> str:
    """The whole report. width: in cells; that of the terminal, 80 where there is none, if None."""
    width = width or shutil.get_terminal_size().columns
    lines: list[str] = []
    if report.title and (report.answer or not report.shown):
        lines = [report.title, *_list(list(map(plain, report.answer)), width), ""]
    for sheet in sheets(report):
        if sheet.title != report.title or not report.answer:
            lines += [*wrap(sheet.title, width), ""]
        for block in pack(sheet.columns, width):
            lines += [*_rendered(block), ""]
        lines += [*_list(sheet.caption, width), ""] if sheet.caption else []
    for title, items in sentences(report):
        if title == "Errors":
            title = f"Errors: {len(items)}"
            more = len(items) - ERRORS
            if more > 0:
                rest = f"and {more} more: see the json format, or table errors of results.sqlite"
                items = [*items[:ERRORS], rest]
        lines += [title, *_list(items, width), ""]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _rendered(block: Block) -> list[str]:
    pairs = list(zip(*block, strict=True))
    heads = [column.heading_lines(width) for column, width in pairs]
    top = max(map(len, heads))
    heads = [[""] * (top - len(lines)) + lines for lines in heads]  # level at the bottom
    heading = _beside([_padded(h, w, c.left) for h, (c, w) in zip(heads, pairs, strict=True)])
    bodies = []
    for column, width in pairs:  # many cells are alike
        parts = wrapped(column, width)
        shown = {cell: _padded(part, width, column.left) for cell, part in parts.items()}
        bodies.append([shown[cell] for cell in column.cells])
    told = compress(zip(*bodies, strict=True), _told(block.columns))
    rows = [line for row in told for line in _beside(row)]
    return [*heading, "─" * (sum(block.widths) + GAP * (len(pairs) - 1)), *rows]


def wrapped(column: TextColumn, width: int) -> dict[str, list[str]]:
    """The lines of each different cell; whole where some would be shortened alike."""
    parts = {cell: wrap(cell, width) for cell in set(column.cells)}
    if len(set(map(tuple, parts.values()))) < len(parts):
        parts = {cell: chop_cells(cell, width) or [""] for cell in parts}
    return parts


def _padded(lines: Iterable[str], width: int, left: bool) -> list[str]:
    padded = ((line, " " * (width - cell_len(line))) for line in map(str.rstrip, lines))
    return [line + blank if left else blank + line for line, blank in padded]


def _beside(cells: Sequence[Sequence[str]]) -> list[str]:
    """Cells of one row, each in padded lines: as many lines as the highest has."""
    height = max(map(len, cells))
    full = [[*c, *[" " * cell_len(c[0])] * (height - len(c))] for c in cells]
    return [(" " * GAP).join(line) for line in zip(*full, strict=True)]


def _list(sentences: Sequence[str], width: int) -> list[str]:
    """Sentences with a bullet, broken at blanks."""
    lines = []
    for sentence in sentences:
        line = "•"
        for word in sentence.split():
            if line.strip("• ") and cell_len(line) + 1 + cell_len(word) > width:
                lines.append(line)
                line = " "
            first, *rest = wrap(word, max(1, width - 2))
            line += f" {first}"
            for piece in rest:
                lines.append(line)
                line = f"  {piece}"
        lines.append(line)
    return lines
