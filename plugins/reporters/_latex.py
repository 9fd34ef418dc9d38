r"""A report as LaTeX tables with booktabs, to be \input into any document.

Every character outside ASCII that plain LaTeX may not have is shown as an escape, as a missing
glyph would be left out without a word by engines that take all of Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from lrd_harness.report import Report

from ._sheets import Sheet, TextColumn, pack, sentences, sheets, widths_of, wrap

LINES = 42  # of a table of \footnotesize, what is under it too, that a page has room for
FLOATS = 15  # tables in a row, which LaTeX may have to hold back: it takes 18 at least
WIDTH = 80  # characters of \footnotesize on a line of LaTeX's article class, 345 pt
TABLE = r"\begin{table}"
HEAD = r"""% Made by lrd-harness. In the preamble: \usepackage{booktabs}; then \input this file.
"""
ESCAPES = {
    **{char: f"\\{char}" for char in "{}$&#%_"},
    '"': r"\char34{}",  # babel gives the sign itself a meaning in some languages
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "−": r"$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "ρ": r"$\rho$",
    "τ": r"$\tau$",
    "Δ": r"$\Delta$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\dots{}",
    "²": r"$^2$",
    "°": r"$^\circ$",
}
LIGATURE = re.compile(r"([-,'])(?=\1)")
MINUS = re.compile(r"(?<![\w.-])-(?=\.?\d)")  # of a number
LATIN = {chr(code) for code in range(0xC0, 0x100)} - set("×÷ÐðÞþ")  # in the usual fonts


def latex(report: Report) -> str:
    """The whole report: a table environment for each table, then notes and errors."""
    parts = [HEAD]
    for sheet in sheets(report):
        parts += _sheet(sheet)
    parts += [_list(title, lines) for title, lines in sentences(report)]
    # all tables are set after every so many of them: held back, they would be too many
    places = [i for i, part in enumerate(parts) if part.startswith(TABLE)][FLOATS - 1 :: FLOATS]
    for place in reversed(places):
        parts.insert(place + 1, "\\clearpage\n")
    return "\n".join(parts)


def escape(text: str) -> str:
    """Text so that LaTeX sets it as it is; what may lack a glyph as an escape such as \\u6a21."""
    found = LIGATURE.sub(r"\1{}", "".join(map(_escaped, text)))
    found = MINUS.sub("$-$", found)
    # behind the end of a row or an \item it would be read as its option
    return f"{{}}{found}" if found.startswith(("[", "*")) else found


def _escaped(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    if (char.isascii() and char.isprintable()) or char in LATIN:
        return char
    code = char.encode("unicode_escape", "replace").decode()
    return "".join(ESCAPES.get(c, c) for c in code)


def _sheet(sheet: Sheet) -> list[str]:
    """As many tables as fit on a page's width and height, the caption under the last one."""
    tables = pack(sheet.columns, WIDTH)
    legend = "".join(f"{escape(line)}\\par\n" for line in sheet.caption)
    below = sum(1 + len(line) // WIDTH for line in sheet.caption)
    made = []
    for number, (columns, room) in enumerate(tables, start=1):
        which = f" ({number} of {len(tables)})" if len(tables) > 1 else ""
        for tabular in _tabulars(columns, room, below if number == len(tables) else 0):
            made.append(
                f"{TABLE}[htbp]\n\\centering\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n"
                f"\\caption{{{escape(sheet.title + which)}}}\n{tabular}"
            )
            which = which.removesuffix(", continued") + ", continued"
    made[-1] += f"\\par\\smallskip\\raggedright\n{legend}"
    return [f"{table}\\end{{table}}\n" for table in made]


def _tabulars(columns: Sequence[TextColumn], room: int, below: int) -> list[str]:
    """The rows on as many pages as they take.

    room: characters for the key; what is longer goes on in lines of its own. below: lines of text
    under the last one.
    """
    rooms = widths_of(columns, room, WIDTH)
    widths = [
        max(min(max(map(len, c.cells), default=0), r), 12)
        for c, r in zip(columns, rooms, strict=True)
    ]
    heads = [
        [line for part in column.heading for line in wrap(part, width)]
        for column, width in zip(columns, widths, strict=True)
    ]
    form = "".join("l" if column.left else "r" for column in columns)
    head = [f"\\begin{{tabular}}{{@{{}}{form}@{{}}}}", "\\toprule", *_rows(heads), "\\midrule"]
    rows = [
        _rows([wrap(cell, width) for cell, width in zip(row, rooms, strict=True)])
        for row in zip(*(column.cells for column in columns), strict=True)
    ]
    return [
        "\n".join([*head, *lines, "\\bottomrule", "\\end{tabular}", ""])
        for lines in _pages(rows, max(1, LINES - len(head)), below)
    ]


def _pages(rows: Sequence[list[str]], most: int, below: int) -> list[list[str]]:
    """The lines of the rows, at most so many a page, the last with room for those below it."""
    pages: list[list[list[str]]] = [[]]
    used = 0
    for row in rows:
        if used and used + len(row) > most:
            pages.append([])
            used = 0
        pages[-1].append(row)
        used += len(row)
    if used + below > most and len(pages[-1]) > 1:
        last: list[list[str]] = []
        while len(pages[-1]) > 1 and (not last or sum(map(len, last)) + below < most):
            last.insert(0, pages[-1].pop())
        pages.append(last)
    return [[line for row in page for line in row] for page in pages]


def _rows(cells: Sequence[Sequence[str]]) -> list[str]:
    """Cells of several lines as rows of the table."""
    rows = zip_longest(*cells, fillvalue="")
    return [" & ".join(map(escape, row)) + " \\\\" for row in rows]


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"\\item {escape(line)}\n" for line in lines)
    return f"\\paragraph{{{escape(title)}}}\n\\begin{{itemize}}\n{items}\\end{{itemize}}\n"
