"""The page: one HTML file that needs no network, made of a report's tables and figures.

What is read first stands first: the answer, the ranking, the figures, what to keep in mind. Figures
are drawn when the file is made, once for a wide page and once for a phone. The page says by its
Content-Security-Policy that nothing may be loaded, and that only its own scripts run, named by
their hashes. The same report gives the same file; the date in it is that of the run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import lrd_harness
from lrd_harness.errors import plain, say
from lrd_harness.report import BOARDS, Column, Report, Table, placed

from ._charts import Figure
from ._data import as_csv, as_json
from ._figures import NARROW, WIDE, figures, inline
from ._sheets import Sheet, TextColumn, sheets

ASSETS = Path(__file__).parent / "assets"
CARRIED = 50_000_000  # characters of the JSON form that a page carries along
THEME = (
    "document.documentElement.dataset.theme = "
    'matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";'
)
NEXT = "lrdTables.next();"  # behind each table, so that it is there before the first paint
LEAD = "has to beat"  # the note that is read first says so
FIRST = ("rank", "model", "score")  # columns of a ranking that a phone shows without scrolling
HELPERS = ("order", "label", "right")  # fields of figures that place marks, and tell nothing
SECTIONS = {
    "ranking": "Ranking",
    "figures": "Figures",
    "notes": "What to keep in mind",
    "tables": "More tables",
    **BOARDS,
    "pruning": "Pruned models",
    "training": "Training runs",
    "errors": "Errors",
}
MADE = {  # what a run's record says: key -> words
    "command": "Command",
    "files": "Files",
    "begun": "Begun",
    "finished": "Finished",
    "versions": "Versions",
}
TIMES = ("begun", "finished")  # of these, if they are recorded
ABOUT = (
    "Models ranked by their scores on tasks, beside the ranks that metrics of their layers predict "
    "without any labels."
)
Part = dict[str, Any]


def page(report: Report, drawn: Sequence[Figure] | None = None) -> str:
    """The whole file. drawn: its figures, by default all that there are tables for."""
    drawn = figures(report) if drawn is None else drawn
    scripts = [THEME, _asset("tables.js"), NEXT, _asset("page.js")]
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=lambda text: plain(text) if type(text) is str else text,
    )
    return environment.get_template("page.html.jinja").render(
        title=report.title or "Leaderboard",
        version=lrd_harness.__version__,
        hashes=Markup(" ".join(f"'sha256-{value}'" for value in hashes)),
        style=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        about=ABOUT if any("predicted." in c.name for c in _ranking(report)) else "",
        answer=_answer(report),
        sections=_sections(report, drawn),
        made=_made(report),
        downloads=_downloads(report),
        embedded=embedded,
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _sections(report: Report, drawn: Sequence[Figure]) -> list[Part]:
    """In the order in which they are shown, those that have anything."""
    names = ("notes", "figures", "sheets")
    parts: dict[str, Part] = {
        ident: {"id": ident, "title": title, **{name: [] for name in names}}
        for ident, title in SECTIONS.items()
    }
    ids = count(1)
    apart = (line for line in report.answer[1:] if _board(line))
    for note in dict.fromkeys((*apart, *report.notes)):
        parts[_board(note) or "notes"]["notes"].append(note)
    parts["notes"]["notes"].sort(key=lambda note: LEAD not in note)
    for figure in drawn:
        place = figure.name.partition("-")[0]  # a board, or "pruning"
        place = place if place in (*BOARDS, "pruning") else "figures"
        parts[place]["figures"].append(_drawing(figure, next(ids)))
    arranged = replace(report, tables=tuple(map(_arranged, report.tables)))
    for sheet in sheets(arranged):
        place = _table_place(sheet.name)
        if place == "tables" and not parts["ranking"]["sheets"]:
            place = "ranking"
        parts[place]["sheets"].append(_table(sheet, next(ids)))
    if report.errors:
        lines = TextColumn(("where and what",), tuple(map(plain, report.errors)), True, key=True)
        errors = Sheet("errors", "What failed", (lines,))
        parts["errors"]["sheets"].append(_table(errors, next(ids)))
    return [part for part in parts.values() if any(part[name] for name in names)]


def _board(line: str) -> str:
    """The board beside the main one that a sentence is on, or ""."""
    return next((board for board, of in BOARDS.items() if line.startswith(f"{of}: ")), "")


def _answer(report: Report) -> list[str]:
    """The answer without what the sections on notes and on other boards say."""
    below = {line for line in report.answer if line in report.notes or _board(line)}
    return [*report.answer[:1], *(line for line in report.answer[1:] if line not in below)]


def _ranking(report: Report) -> tuple[Column, ...]:
    """The columns of its ranking."""
    ranking = report.get("ranking")
    return ranking.columns if ranking else ()


def _arranged(table: Table) -> Table:
    """A ranking with the columns in front that say most; another table as it is."""
    board, name = placed(table.name)
    if name != "ranking":
        return table
    places = {name: place for place, name in enumerate(FIRST)}

    def place(column: Column) -> tuple[int, int]:
        return places.get(column.name.removeprefix(f"{board}."), len(FIRST)), column.rest

    return replace(table, columns=tuple(sorted(table.columns, key=place)))


def _table_place(name: str) -> str:
    """The section of a table; the first one of "tables" is the ranking."""
    board, table = placed(name)
    if table.startswith(("pruning", "checkpoints")):
        return "pruning" if table.startswith("pruning") else "training"
    return board or "tables"


def _table(sheet: Sheet, ident: int) -> Part:
    columns = [
        {"heading": c.heading, "cells": c.cells, "align": "left" if c.left else "right"}
        | {"key": c.key}
        for c in sheet.columns
    ]
    data: Part = {"title": sheet.title, "file": file_name(sheet.name), "columns": columns}
    data["families"] = sheet.families
    return {"id": ident, "title": sheet.title, "caption": sheet.caption, "data": data}


def _drawing(figure: Figure, ident: int) -> Part:
    """One that cannot be drawn is said to be so; its data are there all the same."""
    pictures = {}
    try:
        for name, width in (("wide", WIDE), ("narrow", NARROW)):
            pictures[name] = Markup(inline(figure, width))
    except ValueError as error:
        say(f"The figure {figure.name!r} could not be drawn: {plain(str(error))[:200]}")
    names = [name for name in figure.rows[0] if name not in HELPERS]
    rows = [[_short(row[name]) for name in names] for row in figure.rows]
    data = {"file": figure.name, "title": figure.title, "names": names, "rows": rows}
    return {"id": ident, "data": data, "pictures": pictures, **vars(figure)}


def _short(value: Any) -> Any:
    """A number of a figure in six digits."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _made(report: Report) -> list[tuple[str, str]]:
    """How the numbers were made, as far as it is recorded: what, and in words."""
    run = report.facts.get("run", {})
    versions = (f"{name} {number}" for name, number in run.get("versions", {}).items() if number)
    times = {key: (run.get(key) or "").replace("T", " ").replace("+00:00", " UTC") for key in TIMES}
    run = {**run, "versions": ", ".join(versions), **times}
    return [(words, plain(run[key])) for key, words in MADE.items() if run.get(key)]


def embedded(ident: str, value: Any) -> Markup:
    """A value as a data block, which nothing in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # "<" alone could end the block or open a comment; a lone surrogate could not be encoded
    text = text.replace("<", "\\u003c").encode("utf-8", "backslashreplace").decode("utf-8")
    return Markup(f'<script type="application/json" id="{ident}">{text}</script>')


def file_name(title: str) -> str:
    """A name as that of a file without its ending, at most 60 plain letters."""
    words = re.findall(r"[a-z0-9]+", title.lower())
    return "-".join(words)[:60].strip("-") or "table"


def _downloads(report: Report) -> list[dict[str, str]]:
    """The forms that the page carries, compressed; none where they are very large."""
    document, models = as_json(report), report.get("models")
    if len(document) > CARRIED:
        return []
    texts = [("leaderboard.json", "application/json", "JSON, everything", document)]
    if models is not None:
        texts.append(("leaderboard.csv", "text/csv", "CSV, one row per model", as_csv(models)))
    downloads = []
    for name, kind, label, text in texts:
        small = gzip.compress(text.encode("utf-8", "backslashreplace"), 6, mtime=0)
        packed = base64.b64encode(small).decode("ascii")
        downloads.append({"name": name, "type": kind, "label": label, "packed": packed})
    return downloads
