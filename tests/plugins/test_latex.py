"""The leaderboard in LaTeX: all of it, in tables that TeX can read, whatever the names."""

from __future__ import annotations

import importlib
import re
from typing import Any

from export_rows import HOSTILE, results
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness import manager
from lrd_harness.board.leaderboard import build

cells: Any = importlib.import_module("lrd_harness.plugins.reporters._cells")
latex: Any = importlib.import_module("lrd_harness.plugins.reporters._latex")

COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
KNOWN = set(
    "begin end centering footnotesize setlength tabcolsep caption toprule midrule bottomrule par "
    "smallskip raggedright paragraph item textbackslash textasciitilde textasciicircum textless "
    "textgreater textbar textasciigrave uparrow downarrow rightarrow pm times cdot leq geq approx "
    "rho tau Delta textendash textemdash dots circ char clearpage".split()
)


def checked(text: str) -> list[tuple[str, list[list[str]]]]:
    """The tables of a LaTeX text, (column form, rows of cells), read as TeX would."""
    body = re.sub(r"(?<!\\)%.*", "", text)
    assert all(c == "\n" or (c.isascii() and c.isprintable()) or c in latex.LATIN for c in body)
    for command in COMMAND.findall(body):
        assert command in KNOWN or command in "\\{}$&#%_", command
    plain = COMMAND.sub(lambda m: m[0] if m[1] in ("begin", "end") else " ", body)
    plain = re.sub(r"\$\^[ 2]\s?\$", "", plain)  # of a degree, a square
    depth = 0
    for char in plain:
        depth += (char == "{") - (char == "}")
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    assert not set(plain) & set('#~^<>|`"')
    assert "_" not in plain
    names = re.findall(r"\\(begin|end){(\w+)}", body)
    open_ = [name for kind, name in names if kind == "begin"]
    assert sorted(open_) == sorted(name for kind, name in names if kind == "end")
    tables = re.findall(r"\\begin{tabular}{@{}([lr]+)@{}}\n(.*?)\\end{tabular}", body, re.DOTALL)
    assert len(tables) == open_.count("tabular") > 0
    found = []
    for form, inner in tables:
        lines = [line for line in inner.splitlines() if line and not line.endswith("rule")]
        assert all(line.endswith(r" \\") for line in lines)
        rows = [re.split(r"(?<!\\)&", line[:-3]) for line in lines]
        assert {len(row) for row in rows} == {len(form)}
        assert not any(line.lstrip().startswith(("[", "*")) for line in lines)
        found.append((form, [[cell.strip() for cell in row] for row in rows]))
    return found


def test_latex_has_all_sheets_and_every_row() -> None:
    board = build(results())
    text = latex.latex(board)
    tables = checked(text)
    rows = [row for _, table in tables for row in table]
    for model in ("a/one", "b", "c", "d", "e"):
        assert any(model in row for row in rows)
    for row in board.rows:
        assert any(f"{row.score:.4f}" in cells for cells in rows)
    markdown = manager.load().get("reporter", "md").write(board)
    titles = [line.lstrip("# ") for line in markdown.splitlines() if line.startswith("#")]
    for title in titles:
        plain = title.replace("\\", "")
        assert any(
            f"{start}{{{latex.escape(plain)}" in text for start in ("\\caption", "\\paragraph")
        )
    assert r"$\uparrow$" in text


def test_latex_shows_hostile_names_as_text() -> None:
    tables = checked(latex.latex(build(results(HOSTILE))))
    words = "".join(cell for _, rows in tables for row in rows for cell in row)
    assert "x" * 20 in words
    assert r"org/model\_50\%" in words


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_latex_escapes_anything(text: str) -> None:
    cell = latex.escape(text)
    form = "\\begin{tabular}{@{}ll@{}}\n" + f"{cell} & x \\\\\n" + "\\end{tabular}\n"
    ((_, rows),) = checked(form)
    assert rows[0][1] == "x"


def test_latex_escapes_by_example() -> None:
    for text, expected in (
        ("a_b 5% & {x}", r"a\_b 5\% \& \{x\}"),
        ("-0.25 to -.5, a-1", "$-$0.25 to $-$.5, a-1"),
        ("a--b ,, ''", "a-{}-b ,{}, '{}'"),
        ("[x]", "{}[x]"),
        ("↑ ± é", r"$\uparrow$ $\pm$ é"),
        ("模", r"\textbackslash{}u6a21"),
    ):
        assert latex.escape(text) == expected


def test_long_tables_go_on_in_others_that_fit_a_page() -> None:
    names = tuple(f"model {i}" for i in range(2000))
    long = cells.Column(("name",), names, "left", key=True)
    wide = cells.Column(("note",), ("word " * 30,) * 2000, "left")
    for columns, legend in (((long,), ()), ((long, wide), ("x" * 90, "short") * 6)):
        tables = latex._sheet(cells.Sheet("All of them", columns, legend))
        found = checked("\n".join(tables))
        assert len(found) == len(tables) > 45
        lines = [len(rows) for _, rows in found]
        assert max(lines) <= latex.LINES
        assert lines[-1] + sum(1 + len(line) // latex.WIDTH for line in legend) <= latex.LINES
        assert [table.count("short") for table in tables] == [0] * (len(tables) - 1) + [
            legend.count("short")
        ]
        assert r"\caption{All of them}" in tables[0]
        assert all(r"\caption{All of them, continued}" in table for table in tables[1:])
        told = [row[0] for _, rows in found for row in rows if row[0].startswith("model")]
        assert told == list(names)


def test_tables_are_set_before_latex_holds_too_many() -> None:
    text = latex.latex(build(results(tuple(f"m{i}" for i in range(150)))))
    checked(text)
    between = [part.count(r"\begin{table}") for part in text.split(r"\clearpage")]
    assert len(between) > 1
    assert max(between) <= 15
