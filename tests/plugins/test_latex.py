"""The leaderboard in LaTeX: all of it, in tables that TeX can read, whatever the names."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
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
    "rho tau Delta textendash textemdash dots circ char clearpage label resizebox ifdim width "
    "linewidth else fi textbf rotatebox shortstack textquotedblleft textquotedblright".split()
)
BOLD = re.compile(r"\\textbf{(.*)}")


def checked(text: str) -> list[tuple[str, list[list[str]]]]:
    """The tables of a LaTeX text, (column form, rows of cells), read as TeX would."""
    body = re.sub(r"(?<!\\)%.*", "", text.replace(latex.FIT, "{"))
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
        tabulars.append((form, [[BOLD.sub(r"\1", cell.strip()) for cell in row] for row in rows]))
    labels = re.findall(r"\\label{(.*)}", body)
    assert len(set(labels)) == len(labels) == open_.count("table")
    assert all(re.fullmatch(r"tab:[A-Za-z0-9.-]+", name) for name in labels)
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


@pytest.mark.parametrize(
    ("best", "cells", "bold"),
    [
        ("max", [0.5, 0.62, 0.6201, None], ["0.62", "0.62"]),  # as shown, they are level
        ("min", [0.5, 0.62, None, 0.7], ["0.50"]),
        ("max", [-1.0, -0.0, 0.001, -2.0], ["0.00", "0.00"]),
        ("max", [0.5, 0.5, 0.5001, 0.5], []),  # all alike
        ("", [0.5, 0.62, 0.6, None], []),  # no end is the better one
        ("max", [None, None, 0.1, None], []),
    ],
)
def test_the_best_of_a_column_is_bold(best: Any, cells: Any, bold: list[str]) -> None:
    columns = (Column("name", key=True), Column("value", best=best, form=".2f"))
    rows = [{"name": f"m{i}", "value": value} for i, value in enumerate(cells)]
    text = latex.latex(Report("", (Table("a_b.c d", "T", columns, rows),)))
    assert BOLD.findall(text) == bold
    assert "\\label{tab:a-b.c-d}" in text


def test_thirty_tasks_are_set_under_upright_names_as_wide_as_their_numbers() -> None:
    names = [f"AmazonCounterfactual{i:02}Classification" for i in range(30)]
    columns = [Column("model", key=True)]
    columns += [
        Column(f"s{i}", f"{name} accuracy", "n = 25", "max", ".4f") for i, name in enumerate(names)
    ]
    rows = [{"model": f"m{m}", **{f"s{i}": m / 10 + i for i in range(30)}} for m in range(3)]
    text = latex.latex(Report("", (Table("scores", "Scores", tuple(columns), rows),)))
    tables = checked(text)
    assert len(tables) == 4
    assert all(len(form) * 8 <= latex.WIDTH for form, _ in tables)
    heads = re.findall(r"\\rotatebox\{90\}\{\\shortstack\[l\]\{(.*?) \\\\", text)
    assert heads == names
    assert text.count(r"\resizebox{") == 4


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="left out: no pdflatex here")
def test_latex_itself_sets_it_within_the_page(tmp_path: Path) -> None:
    board = report()
    (tmp_path / "board.tex").write_text(latex.latex(board), encoding="utf-8")
    packages = "\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\usepackage{graphicx}"
    document = f"\\documentclass{{article}}{packages}\\begin{{document}}\\input{{board}}"
    (tmp_path / "paper.tex").write_text(document + "\\end{document}", encoding="utf-8")
    for _ in range(2):  # the second time labels are known
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    log = (tmp_path / "paper.log").read_text(encoding="latin-1")
    assert "LaTeX Warning" not in log
    assert "Overfull" not in log


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
    text = latex.latex(Report("", tuple(replace(table, name=f"t{i}") for i in range(40))))
    checked(text)
    between = [part.count(r"\begin{table}") for part in text.split(r"\clearpage")]
    assert len(between) > 2
    assert max(between) <= 15
    assert all(name in text for name in NAMES)
