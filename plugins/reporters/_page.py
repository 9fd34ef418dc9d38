"""The page: one HTML file that needs no network, made of the board's sheets and figures.

What is read first stands first: what a metric has to beat, then the verdicts, the ranking, the
figures. The page says by its Content-Security-Policy that nothing may be loaded, and that only its
own scripts run, named by their hashes; Vega's expressions are interpreted, not compiled, so that
'unsafe-eval' is not needed. Styles may be inline, since Vega writes some.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import lrd_harness

from ._cells import Column, Sheet, plain
from ._checkpoints import checkpoint_sheets
from ._page_parts import Ids, escape, figure_part, heading, ids, listed, packed, sheet_part
from ._pruned import pruning_notes, pruning_sheets
from ._sheets import boards, error_line, errors, sheets

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard

    from ._figures import Figure


ASSETS = Path(__file__).parent / "assets"
CELLS = 200_000  # models x tasks; beyond, the JSON and CSV forms are too large to be carried
THEME = (
    "document.documentElement.dataset.theme = "
    'matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";'
)
Section = tuple[str, str, str]  # id, title, contents
Download = tuple[str, str, str, Callable[["Leaderboard"], str]]  # name, type, label, what writes it


def page(
    board: Leaderboard,
    figures: Sequence[Figure],
    library: Callable[[], str],
    downloads: Sequence[Download],
) -> str:
    """The whole file. library: gives the script that draws figures, asked for if there are any."""
    numbers = ids()
    every = sheets(board)
    held = [section for section in _sections(board, every, figures, numbers) if section[2]]
    held.append(("downloads", "Downloads", _downloads(board, downloads)))
    scripts = [_asset("tables.js"), _asset("page.js"), *([library()] if figures else [])]
    parts = [
        _head(every[0].title, [THEME, *scripts]),
        '<body><a class="skip" href="#main">Skip to the results</a>',
        _header(board, every[0].title, held),
        '<main id="main">',
        *(_section(*section) for section in held),
        "</main>",
        *(f"<script>{script}</script>" for script in scripts),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _head(title: str, scripts: Sequence[str]) -> str:
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{_asset('page.css')}</style>\n"
        f"<script>{THEME}</script></head>"
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _header(board: Leaderboard, title: str, sections: Sequence[Section]) -> str:
    links = "".join(
        f'<li><a href="#{ident}">{escape(name)}</a></li>' for ident, name, _ in sections
    )
    said = f"Made by lrd-harness {lrd_harness.__version__}"
    if board.base:
        said += "; base models stand apart"
    return (
        f"<header><div><h1>{escape(title)}</h1><p>{escape(said)}.</p></div>"
        '<button type="button" id="theme" aria-pressed="false">Dark mode</button></header>'
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>'
        "<noscript><p>The tables and figures are drawn by the script in this file; without it, see "
        "leaderboard.md, which says the same.</p></noscript>"
    )


def _section(ident: str, title: str, contents: str) -> str:
    return (
        f'<section id="{ident}" aria-labelledby="{ident}-title">'
        f"{heading(2, title, f'{ident}-title')}\n{contents}</section>"
    )


def _sections(
    board: Leaderboard, every: Sequence[Sheet], figures: Sequence[Figure], numbers: Ids
) -> list[Section]:
    """In the order in which they are shown; those without contents are left out."""
    first = [f for f in figures if f.name == "predictors"]
    pruned = [f for f in figures if f.name == "pruning"]
    of_base = [f for f in figures if f.name.startswith("base-")]
    drawn = [f for f in figures if f not in (*first, *pruned, *of_base)]
    families = _families(board)
    ranking = sheet_part(replace(every[0], title="Models"), numbers, families=families)
    found = [
        ("verdict", "What the numbers say", _verdict(board) + _drawn(first, numbers)),
        ("ranking", "Ranking", ranking + _remarks(board, numbers)),
        ("figures", "Figures", _drawn(drawn, numbers)),
        ("tables", "More tables", _tables(every[1:], board, numbers)),
    ]
    if board.base:
        contents = _verdict(board.base) + _tables(sheets(board.base), board.base, numbers)
        contents += _remarks(board.base, numbers) + _drawn(of_base, numbers)
        found.append(("base", "Base models", contents))
    if board.pruned:
        contents = listed(pruning_notes(board.pruned)) + _drawn(pruned, numbers)
        contents += "".join(sheet_part(s, numbers) for s in pruning_sheets(board.pruned))
        found.append(("pruning", "Pruned models", contents))
    training = [sheet for side, _ in boards(board) for sheet in checkpoint_sheets(side)]
    found.append(("training", "Training runs", "".join(sheet_part(s, numbers) for s in training)))
    found.append(("errors", "Errors", _errors(board, numbers)))
    return found


def _verdict(board: Leaderboard) -> str:
    """What a metric has to beat in a box, where that can be said; then all else."""
    bar = next((note for note in board.notes if "to beat, task by task" in note), None)
    lead = bar or (board.notes[0] if board.notes else None)
    rest = [note for note in board.notes if note != lead]
    box = f'<div class="bar"><p>{escape(lead)}</p></div>' if lead else ""
    return box + listed(rest)


def _families(board: Leaderboard) -> list[str] | None:
    held = [row.info.family for row in board.rows]
    return [plain(family or "unknown") for family in held] if any(held) else None


def _tables(held: Sequence[Sheet], board: Leaderboard, numbers: Ids) -> str:
    """Sheets; those with a row a model can be filtered by family."""
    labels = tuple(plain(row.label) for row in board.rows)
    families = _families(board)
    parts = []
    for sheet in held:
        models = any(column.key and column.cells == labels for column in sheet.columns)
        parts.append(sheet_part(sheet, numbers, families=families if models else None))
    return "".join(parts)


def _drawn(held: Sequence[Figure], numbers: Ids) -> str:
    return "".join(figure_part(figure, numbers) for figure in held)


def _remarks(board: Leaderboard, numbers: Ids) -> str:
    """What must be known of single models, a row a remark: there may be thousands."""
    held = [(plain(row.label), plain(note)) for row in board.rows for note in row.notes]
    if not held:
        return ""
    columns = (
        Column(("model",), tuple(label for label, _ in held), "left", key=True),
        Column(("remark",), tuple(note for _, note in held), "left"),
    )
    title = "Remarks on single models"
    return sheet_part(Sheet(title, columns), numbers)


def _errors(board: Leaderboard, numbers: Ids) -> str:
    lines = tuple(error_line(error) for error in errors(board))
    if not lines:
        return ""
    columns = (Column(("where and what",), lines, "left", key=True),)
    return sheet_part(Sheet("What could not be measured", columns), numbers)


def _downloads(board: Leaderboard, downloads: Sequence[Download]) -> str:
    """Buttons for the forms that are carried; of a very large board they are not."""
    said = "Every table and figure above has its own download: CSV of the rows shown, SVG."
    if len(board.rows) * max(1, len(board.tasks)) > CELLS:
        names = " and ".join(label for _, _, label, _ in downloads)
        said += (
            f" {names} of this many models and tasks are too large to be carried along: "
            "lrd-harness leaderboard with --format json or csv writes them."
        )
        return f"<p>{escape(said)}</p>"
    buttons, blocks = [], []
    for i, (name, kind, label, write) in enumerate(downloads, start=1):
        buttons.append(
            f'<button type="button" data-from="download-{i}" data-download="{escape(name)}" '
            f'data-type="{escape(kind)}">{escape(label)}</button>'
        )
        blocks.append(packed(f"download-{i}", write(board)))
    row = f'<div class="controls">{"".join(buttons)}</div>'
    return f"<p>{escape(said)}</p>{row}{''.join(blocks)}"
