"""The leaderboard in LaTeX: all of it, in tables that TeX can read, whatever the names."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_rows import HOSTILE, NAMES, report

from lrd_harness.report import Column, Report, Table

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
    tabulars = []
    for form, inner in tables:
        lines = [line for line in inner.splitlines() if line and not line.endswith("rule")]
        assert all(line.endswith(r" \\") for line in lines)
        rows = [re.split(r"(?<!\\)&", line[:-3]) for line in lines]
        assert {len(row) for row in rows} == {len(form)}
        assert not any(line.lstrip().startswith(("[", "*")) for line in lines)
        tabulars.append((form, [[cell.strip() for cell in row] for row in rows]))
    return tabulars


def test_latex_has_all_tables_and_every_row() -> None:
    board = report()
    text = latex.latex(board)
    rows = [row for _, table in checked(text) for row in table]
    for model in board.table("models").rows:
        assert any(model["model"] in row for row in rows)
        assert any(f"{model['score']:.4f}" in row for row in rows)
    titles = [f"\\caption{{{latex.escape(table.title)}" for table in board.shown]
    assert all(title in text for title in [*titles, "\\paragraph{Notes}", "\\paragraph{Errors}"])
    assert r"$\uparrow$" in text


def test_latex_shows_hostile_names_as_text() -> None:
    tables = checked(latex.latex(report(HOSTILE)))
    words = "".join(cell for _, rows in tables for row in rows for cell in row)
    assert "x" * 20 in words
    assert r"a\_b 50\%" in words


@given(st.text(max_size=60))
@settings(max_examples=50, deadline=None)
def test_latex_escapes_anything(text: str) -> None:
    row = f"{latex.escape(text)} & x \\\\\n"
    ((_, rows),) = checked("\\begin{tabular}{@{}ll@{}}\n" + row + "\\end{tabular}\n")
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


@pytest.mark.parametrize("caption", [(), ("x" * 90, "short") * 6])
@pytest.mark.parametrize("note", ["", "word " * 30])
def test_long_tables_go_on_in_others_that_fit_a_page(caption: Any, note: str) -> None:
    names = [f"model {i}" for i in range(500)]
    columns = (Column("name", key=True), Column("note"))
    rows = [{"name": name, "note": note} for name in names]
    text = latex.latex(Report("", (Table("t", "All of them", columns, rows, caption),)))
    tables = text.split(r"\begin{table}")[1:]
    tabulars = checked(text)
    assert len(tabulars) == len(tables) > 12
    lines = [len(rows) for _, rows in tabulars]
    assert max(lines) <= latex.LINES
    assert lines[-1] + sum(1 + len(line) // latex.WIDTH for line in caption) <= latex.LINES
    last = [0] * (len(tables) - 1) + [caption.count("short")]
    assert [table.count("short") for table in tables] == last
    assert r"\caption{All of them}" in tables[0]
    assert all(r"\caption{All of them, continued}" in table for table in tables[1:])
    words = [row[0] for _, rows in tabulars for row in rows]
    assert [word for word in words if word.startswith("model")] == names


def test_tables_are_set_before_latex_holds_too_many() -> None:
    table = report().table("ranking")
    text = latex.latex(Report("", tuple(table for _ in range(40))))
    checked(text)
    between = [part.count(r"\begin{table}") for part in text.split(r"\clearpage")]
    assert len(between) > 2
    assert max(between) <= 15
    assert all(name in text for name in NAMES)
