"""The page: one HTML file that needs no network, made of a report's tables and figures.

What is read first stands first: the weightiest note, what a metric has to beat, the ranking, the
figures. The page says by its Content-Security-Policy that nothing may be loaded, and that only its
own scripts run, named by their hashes; Vega's expressions are interpreted, not compiled, so that
'unsafe-eval' is not needed. Styles may be inline, since Vega writes some. The same report gives the
same file; no date is in it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import lrd_harness
from lrd_harness.errors import UserError, plain
from lrd_harness.report import Report
from lrd_harness.store.files import write_text
from lrd_harness.store.location import cache_dir

from ._charts import VEGA_LITE, Figure
from ._data import as_csv, as_json
from ._figures import figures
from ._sheets import Sheet, TextColumn, sheets

ASSETS = Path(__file__).parent / "assets"
CARRIED = 50_000_000  # characters of the JSON form that a page carries along
THEME = (
    "document.documentElement.dataset.theme = "
    'matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";'
)
BASE = "Base models: "  # how notes on them begin
LEAD = "has to beat"  # the note that is read first says so
SECTIONS = {
    "verdict": "What the numbers say",
    "ranking": "Ranking",
    "figures": "Figures",
    "tables": "More tables",
    "base": "Base models",
    "pruning": "Pruned models",
    "training": "Training runs",
    "errors": "Errors",
}
Part = dict[str, Any]


def page(report: Report, drawn: Sequence[Figure] | None = None) -> str:
    """The whole file. drawn: its figures, by default all that there are tables for."""
    drawn = figures(report) if drawn is None else drawn
    scripts = [THEME, _asset("tables.js"), _asset("page.js"), *([library()] if drawn else [])]
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
        sections=_sections(report, drawn),
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
    for note in report.notes:
        parts["base" if note.startswith(BASE) else "verdict"]["notes"].append(note)
    parts["verdict"]["notes"].sort(key=lambda note: LEAD not in note)
    for figure in drawn:
        place = "base" if figure.name.startswith("base-") else "figures"
        place = {"predictors": "verdict", "pruning": "pruning"}.get(figure.name, place)
        parts[place]["figures"].append(_drawing(figure, next(ids)))
    for sheet in sheets(report):
        place = _table_place(sheet.name)
        if place == "tables" and not parts["ranking"]["sheets"]:
            place = "ranking"
        parts[place]["sheets"].append(_table(sheet, next(ids)))
    if report.errors:
        lines = TextColumn(("where and what",), tuple(map(plain, report.errors)), True, key=True)
        errors = Sheet("errors", "What failed", (lines,))
        parts["errors"]["sheets"].append(_table(errors, next(ids)))
    return [part for part in parts.values() if any(part[name] for name in names)]


def _table_place(name: str) -> str:
    """The section of a table; the first one of "tables" is the ranking."""
    table = name.removeprefix("base.")
    if table.startswith(("pruning", "checkpoints")):
        return "pruning" if table.startswith("pruning") else "training"
    return "tables" if table == name else "base"


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
    names = ("title", "alt", "chart", "rows")
    data = {"file": figure.name, **{name: getattr(figure, name) for name in names}}
    field = figure.chart["facet"]["field"] if figure.facet else ""
    data["facets"] = len({row[field] for row in figure.rows}) if field else 0
    return {"id": ident, "data": data, "caption": figure.caption, **vars(figure)}


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


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that may stand in a page.

    It comes with vl-convert, which takes a second or two to put it together: the result is kept in
    the cache folder, under the versions that it is of.
    """
    name = f"vl-convert-{version('vl-convert-python')}-{VEGA_LITE}.js"
    path = cache_dir() / "scripts" / name
    if path.exists():
        return path.read_text(encoding="utf-8")
    script: str = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
    # within a string or a pattern of JavaScript the same, but no longer the end of the element
    script = script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    with suppress(OSError, UserError):  # a disk that is full or read-only costs time alone
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, script)
    return script
