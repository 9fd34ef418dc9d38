r"""A report as LaTeX tables with booktabs, to be \input into any document.

Every character outside ASCII that plain LaTeX may not have is shown as an escape, as a missing
glyph would be left out without a word by engines that take all of Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from itertools import zip_longest

from lrd_harness.report import Report

from ._sheets import HEADING, Block, Sheet, TextColumn, pack, sentences, sheets, wrapped

LINES = 42  # of a table of \footnotesize, what is under it too, that a page has room for
FLOATS = 15  # tables in a row, which LaTeX may have to hold back: it takes 18 at least
WIDTH = 100  # characters of a table: what is wider than the page is made to fit, to 80 % at most
TALL, LINE = 40, 3  # characters of a line of a heading set upright; those that a line is high
SPARE = 6  # characters that a heading may be wider than its cells, not to be set upright
TABLE = r"\begin{table}"
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
NO_LABEL = re.compile(r"[^A-Za-z0-9.-]+")
HEAD = r"""% Made by lrd-harness. In the preamble: \usepackage{booktabs} and \usepackage{graphicx};
% then \input this file. Bold: the best of a column that has a better end.
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
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
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
    blocks = pack([_upright(column) for column in sheet.columns], WIDTH)
    below = sum(1 + len(line) // WIDTH for line in sheet.caption)
    tables: list[str] = []
    for number, block in enumerate(blocks, start=1):
        which = f" ({number} of {len(blocks)})" if len(blocks) > 1 else ""
        for tabular in _tabulars(block, below if number == len(blocks) else 0):
            tables.append(
                f"{TABLE}[htbp]\n\\centering\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n"
                f"\\caption{{{escape(sheet.title + which)}}}\n"
                f"\\label{{{label(sheet.name, len(tables))}}}\n{tabular}"
            )
            which = which.removesuffix(", continued") + ", continued"
    legend = "".join(f"{escape(line)}\\par\n" for line in sheet.caption)
    tables[-1] += f"\\par\\smallskip\\raggedright\n{legend}"
    return [f"{table}\\end{{table}}\n" for table in tables]


def label(name: str, before: int = 0) -> str:
    """The label of a table: tab:ranking; of those that it goes on in tab:ranking-2, ..."""
    return f"tab:{NO_LABEL.sub('-', name)}" + (f"-{before + 1}" if before else "")


class Upright(TextColumn):
    """A column with a heading that is set from the bottom to the top."""

    def width(self, heading: int = HEADING) -> int:
        """That of its cells, or of the lines of the heading beside each other."""
        return max(self.widest, LINE * len(self.heading_lines(TALL)))


def _upright(column: TextColumn) -> TextColumn:
    """The column with its heading set upright where that is much wider than its cells."""
    if column.key or column.width(0) <= max(column.widest + SPARE, HEADING):
        return column
    return Upright(*(getattr(column, part.name) for part in fields(TextColumn)))


def _tabulars(block: Block, below: int) -> list[str]:
    """The rows on as many pages as they take; cells that are too long go on in lines of their own.

    below: lines of text under the last one.
    """
    pairs = list(zip(*block, strict=True))
    heads, heights = zip(*(_heading(column, width) for column, width in pairs), strict=True)
    form = "".join("l" if column.left else "r" for column in block.columns)
    head = [f"\\begin{{tabular}}{{@{{}}{form}@{{}}}}", "\\toprule", f"{' & '.join(heads)} \\\\"]
    head.append("\\midrule")
    bodies = []
    for column, width in pairs:
        shown = {
            cell: [_bold(line) if cell in column.top else escape(line) for line in lines]
            for cell, lines in wrapped(column, width).items()
        }
        bodies.append([shown[cell] for cell in column.cells])
    rows = [_rows(row) for row in zip(*bodies, strict=True)]
    return [
        "\n".join([FIT, *head, *lines, "\\bottomrule", "\\end{tabular}}", ""])
        for lines in _pages(rows, max(1, LINES - 3 - max(heights)), below)
    ]


def _heading(column: TextColumn, width: int) -> tuple[str, int]:
    """A heading as LaTeX, and how many lines it is high; its last line stands lowest."""
    upright = isinstance(column, Upright)
    lines = column.heading_lines(TALL if upright else width)
    side = "l" if column.left or upright else "r"
    text = " \\\\ ".join(map(escape, lines))
    if len(lines) > 1:
        text = f"\\shortstack[{side}]{{{text}}}"
    if upright:
        return f"\\rotatebox{{90}}{{{text}}}", 1 + max(map(len, lines)) // LINE
    return text, len(lines)


def _bold(text: str) -> str:
    return f"\\textbf{{{escape(text)}}}"


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
    return [" & ".join(row) + " \\\\" for row in zip_longest(*cells, fillvalue="")]


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"\\item {escape(line)}\n" for line in lines)
    return f"\\paragraph{{{escape(title)}}}\n\\begin{{itemize}}\n{items}\\end{{itemize}}\n"
