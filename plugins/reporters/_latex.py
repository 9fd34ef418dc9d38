r"""A report as LaTeX tables with booktabs, to be \input into any document.

Every character outside ASCII that plain LaTeX may not have is shown as an escape, as a missing
glyph would be left out without a word by engines that take all of Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from lrd_harness.report import Report

from ._sheets import Block, Sheet, pack, sentences, sheets, wrap

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
    text = MINUS.sub("$-$", LIGATURE.sub(r"\1{}", "".join(map(_escaped, text))))
    # behind the end of a row or an \item it would be read as its option
    return f"{{}}{text}" if text.startswith(("[", "*")) else text


def _escaped(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    if (char.isascii() and char.isprintable()) or char in LATIN:
        return char
    code = char.encode("unicode_escape", "replace").decode()
    return "".join(ESCAPES.get(c, c) for c in code)


def _sheet(sheet: Sheet) -> list[str]:
    """As many tables as fit on a page's width and height, the caption under the last one."""
    blocks = pack(sheet.columns, WIDTH)
    below = sum(1 + len(line) // WIDTH for line in sheet.caption)
    tables = []
    for number, block in enumerate(blocks, start=1):
        which = f" ({number} of {len(blocks)})" if len(blocks) > 1 else ""
        for tabular in _tabulars(block, below if number == len(blocks) else 0):
            tables.append(
                f"{TABLE}[htbp]\n\\centering\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n"
                f"\\caption{{{escape(sheet.title + which)}}}\n{tabular}"
            )
            which = which.removesuffix(", continued") + ", continued"
    legend = "".join(f"{escape(line)}\\par\n" for line in sheet.caption)
    tables[-1] += f"\\par\\smallskip\\raggedright\n{legend}"
    return [f"{table}\\end{{table}}\n" for table in tables]


def _tabulars(block: Block, below: int) -> list[str]:
    """The rows on as many pages as they take; cells that are too long go on in lines of their own.

    below: lines of text under the last one.
    """
    pairs = list(zip(*block, strict=True))
    heads = [column.heading_lines(width) for column, width in pairs]
    form = "".join("l" if column.left else "r" for column in block.columns)
    head = [f"\\begin{{tabular}}{{@{{}}{form}@{{}}}}", "\\toprule", *_rows(heads), "\\midrule"]
    cells = [[wrap(cell, width) for cell in column.cells] for column, width in pairs]
    rows = [_rows(row) for row in zip(*cells, strict=True)]
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
