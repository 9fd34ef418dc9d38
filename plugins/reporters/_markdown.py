"""Sheets as GitHub's Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ._checkpoints import checkpoint_sheets
from ._pruned import pruning_notes, pruning_sheets
from ._sheets import Column, Sheet, boards, error_line, errors, notes, sheets

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


# What Markdown would read as markup. An underscore within a word is none and stays readable.
_MARKUP = re.compile(r"([\\`*\[\]{}|~#$!])|((?<![^\W_])_|_(?![^\W_]))")


def markdown(board: Leaderboard) -> str:
    """The whole leaderboard: tables, legends, notes, errors."""
    parts = []
    for level, (part, title) in enumerate(boards(board), start=1):
        for i, sheet in enumerate([*sheets(part), *checkpoint_sheets(part)]):
            parts.append(_sheet(sheet, "#" * (level + (i > 0))))
        parts.append(_list(title, notes(part), "#" * (level + 1)))
    if board.pruned:
        for i, sheet in enumerate(pruning_sheets(board.pruned)):
            parts.append(_sheet(sheet, "#" * (2 + (i > 0))))
        parts.append(_list("Notes on pruning", pruning_notes(board.pruned), "###"))
    parts.append(_list("Errors", [error_line(error) for error in errors(board)], "##"))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Printable text so that it is shown as it is, in a table's cell or in a line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", text)


def _sheet(sheet: Sheet, level: str) -> str:
    heads = [" ".join(escape(line) for line in column.heading) for column in sheet.columns]
    rules = ["---:" if column.align == "right" else ":---" for column in sheet.columns]
    rows = zip(*(_cells(column) for column in sheet.columns), strict=True)
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
    legend = "\n".join(f"* {escape(line)}" for line in sheet.legend)
    table = "\n".join(lines)
    return f"{level} {escape(sheet.title)}\n\n{table}" + (f"\n\n{legend}" if legend else "")


def _cells(column: Column) -> list[str]:
    shown = {cell: escape(cell) for cell in set(column.cells)}  # many are alike
    return [shown[cell] for cell in column.cells]


def _list(title: str, lines: list[str], level: str) -> str:
    if not lines:
        return ""
    return f"{level} {title}\n\n" + "\n".join(f"* {escape(line)}" for line in lines)
