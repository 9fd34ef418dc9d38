"""Parts of the page as HTML: tables and figures with the data that its script fills them from.

    sheet_part(sheet, ids, 3)      # a section with an empty table, its legend and its cells
    figure_part(figure, ids, 3)    # a figure with its caption and its specification

All text goes through `escape`, all data through `embedded`; names come from strangers.
"""

from __future__ import annotations

import base64
import gzip
import html
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._cells import plain

if TYPE_CHECKING:
    from ._cells import Sheet
    from ._figures import Figure


Ids = Iterator[int]


def ids() -> Ids:
    """Numbers for the parts of one page."""
    return itertools.count(1)


def escape(text: str) -> str:
    """Text as HTML, in an element or an attribute; what cannot be printed is shown as an escape."""
    return html.escape(plain(text))


def embedded(ident: str, value: Any) -> str:
    """A value as a data block, which nothing in it can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    # "<" alone could end the block or open a comment; a lone surrogate could not be encoded
    text = text.replace("<", "\\u003c").encode("utf-8", "backslashreplace").decode("utf-8")
    return f'<script type="application/json" id="{ident}">{text}</script>'


def packed(ident: str, text: str) -> str:
    """A text as a compressed data block, for downloads; the same text gives the same block."""
    found = base64.b64encode(gzip.compress(text.encode("utf-8"), 6, mtime=0)).decode("ascii")
    return f'<script type="application/gzip" id="{ident}">{found}</script>'


def listed(lines: Sequence[str]) -> str:
    """Remarks as a list; "" for none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def heading(level: int, text: str, ident: str) -> str:
    """A heading that other parts refer to."""
    return f'<h{level} id="{ident}">{escape(text)}</h{level}>'


def sheet_part(
    sheet: Sheet, numbers: Ids, level: int = 3, families: Sequence[str] | None = None
) -> str:
    """A table. families: of each row its model's, where rows are models, to be filtered by."""
    number = next(numbers)
    title, source = f"title-{number}", f"data-{number}"
    columns = [
        {"heading": c.heading, "cells": c.cells, "align": c.align, "key": c.key}
        for c in sheet.columns
    ]
    held: dict[str, Any] = {"title": sheet.title, "file": file_name(sheet.title)}
    held |= {"columns": columns, "families": families}
    legend = "".join(f"<p>{escape(line)}</p>" for line in sheet.legend)
    return (
        f'<section class="sheet" data-from="{source}">'
        f"{heading(level, sheet.title, title)}"
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{title}">'
        f'<table><caption class="hidden">{escape(sheet.title)}</caption></table></div>'
        + (f'<div class="legend">{legend}</div>' if legend else "")
        + f"{embedded(source, held)}</section>"
    )


def figure_part(figure: Figure, numbers: Ids, level: int = 3) -> str:
    """A figure, drawn by the script; its caption says what to read off it."""
    number = next(numbers)
    title, source = f"title-{number}", f"data-{number}"
    held: dict[str, Any] = {
        "title": figure.title,
        "file": figure.name,
        "alt": figure.alt,
        "facets": facets(figure),
        "chart": figure.chart,
        "rows": figure.rows,
    }
    return (
        f'<figure id="figure-{figure.name}" data-from="{source}" aria-labelledby="{title}">'
        f"{heading(level, figure.title, title)}"
        f'<div class="plot" role="img" aria-label="{escape(figure.alt)}"></div>'
        f"<figcaption>{escape(figure.caption)}</figcaption>{embedded(source, held)}</figure>"
    )


def facets(figure: Figure) -> int:
    """How many panels a figure has; 0 where it is a single chart."""
    if not figure.facet:
        return 0
    field: Mapping[str, Any] = figure.chart["facet"]
    return len({row[field["field"]] for row in figure.rows})


def file_name(title: str) -> str:
    """A title as the name of a file without its ending, at most 60 plain letters."""
    words = re.findall(r"[a-z0-9]+", title.lower())
    return "-".join(words)[:60].strip("-") or "table"
