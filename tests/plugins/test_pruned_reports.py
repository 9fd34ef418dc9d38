"""The pruning table in every form: all that is in it is shown, as it is, and fits."""

from __future__ import annotations

import csv
import importlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from pruning_rows import SWEEP, both_sides, choice, drawn, pruned, table, whole, without
from rich.cells import cell_len

from lrd_harness.board.leaderboard import build
from lrd_harness.manager import load
from lrd_harness.results.database import ErrorRow, ModelRow, Results
from lrd_harness.results.journal import Journal
from lrd_harness.runner import folder

reporters: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
terminal: Any = importlib.import_module("lrd_harness.plugins.reporters._terminal")
sheets: Any = importlib.import_module("lrd_harness.plugins.reporters._sheets")

LONG = "sentence-transformers/all-mpnet-base-v2"
HOSTILE = ("[red]a[/red]", "pipe|b", "two\nlines\x1b[31m", "=1+1", "<b>&amp;", "模型" * 9)


def renamed(held: Results, name: str, rule: str = "frenet") -> Results:
    """The model and one rule under other names."""
    return replace(
        held,
        models=tuple(replace(r, model=name) for r in held.models),
        scores=tuple(replace(r, model=name) for r in held.scores),
        variants=tuple(replace(r, model=name) for r in held.variants),
        prunings=tuple(
            replace(r, model=name, rule=rule if r.rule == "frenet" else r.rule)
            for r in held.prunings
        ),
    )


def shown(held: Results, width: int = 80) -> str:
    text: str = terminal.text(terminal.renderable(build(held), width), width)
    return text


def part(held: Results, title: str, width: int = 80) -> list[list[str]]:
    """The words of each line of one sheet, and of all after it."""
    lines = shown(held, width).splitlines()
    return [line.split() for line in lines[lines.index(title) :]]


def test_at_80_columns_the_summary_comes_first_and_says_who_does_not_beat_random() -> None:
    text = shown(SWEEP)
    assert text.index("Pruning: summary\n") < text.index("Pruning: a\n")
    lines = part(SWEEP, "Pruning: summary")
    assert lines[2] == "change ↑ vs random ↑ beats better in".split()
    assert lines[3] == "rule, budget (%) (points) random (pairs) pairs models".split()
    assert lines[5:9] == [
        "gfmi 10 % +0.00 +20.00 yes 2 of 2 2 1".split(),
        "nrs 10 % -7.50 +12.50 yes 1 of 2 2 1".split(),
        "random 10 % -20.00 - - - 2 1".split(),
        "frenet 10 % -25.00 -5.00 no 0 of 2 2 1".split(),
    ]


def test_at_80_columns_a_models_sheet_has_what_matters_in_one_table() -> None:
    lines = part(SWEEP, "Pruning: a")
    assert lines[2] == "blocks score ↑ change ↑ vs random ↑ beats".split()
    assert lines[3] == "rule, budget removed mean (%) (points) random".split()
    assert lines[5:10] == [
        "whole model - 0.6000 - - -".split(),
        "gfmi 10 % 8 0.6000 +0.00 +20.00 clearly".split(),
        "nrs 10 % 6 0.5700 -5.00 +15.00 yes".split(),
        "random 10 % 1 (3 seeds) 0.4800 -20.00 - -".split(),
        "frenet 10 % 5 0.4500 -25.00 -5.00 no".split(),
    ]
    assert "frenet 10 % -50.00 to -5.00 10.0 15.0".split() in lines
    assert "gfmi 10 % -50.00 to -5.00 - -".split() in lines
    text = " ".join(" ".join(line) for line in lines)
    for words in (
        "random's change params ↑ latency ↑",
        "(%, interval) (% saved) (% saved)",
        "interval of random's change over its seeds: lowest to highest",
        "Blocks are numbered 1 to 10.",
        "Notes on pruning",
        "in up to 1 of 4 cases",
    ):
        assert words in text.replace("rule, budget ", "")


def test_the_interval_of_many_seeds_is_named() -> None:
    many = replace(SWEEP, prunings=(choice("gfmi", 8), *drawn(*[4, 6] * 10)))
    assert "its seeds: 2.5 % to 97.5 % quantile" in " ".join(shown(many).split())
    lines = list(csv.DictReader(io.StringIO(reporters.pruning_csv(build(many)))))
    assert {line["random_interval"] for line in lines} == {"2.5-97.5 %"}


def test_rows_that_differ_in_the_budget_alone_are_one() -> None:
    more = [choice(r.rule, *r.removed, seed=r.seed, budget=0.15) for r in SWEEP.prunings]
    both = replace(SWEEP, prunings=(*SWEEP.prunings, *more))
    lines = part(both, "Pruning: a")
    assert "nrs 10, 15 % 6 0.5700 -5.00 +15.00 yes".split() in lines
    assert sum(line[:1] == ["nrs"] for line in lines) == 2  # in two tables
    other = replace(both, prunings=(*SWEEP.prunings, *more[:-1], choice("gfmi", 4, budget=0.15)))
    lines = part(other, "Pruning: a")
    assert [" ".join(line[:3]) for line in lines if line[:1] == ["gfmi"]][:2] == [
        "gfmi 10 %",
        "gfmi 15 %",
    ]


def test_both_kinds_of_task_have_sheets_of_their_own() -> None:
    text = shown(both_sides(stderr=0.2))
    titles = [line for line in text.splitlines() if line.startswith("Pruning: ")]
    assert titles == [
        "Pruning: summary, embedding tasks",
        "Pruning: summary, likelihood tasks",
        "Pruning: a, embedding tasks",
        "Pruning: a, likelihood tasks",
    ]
    line = next(line for line in text.splitlines() if "0.4000 ± 0.0300" in line)
    assert line.split() == "frenet 10 % 5 0.4000 ± 0.0300 -20.00".split()
    assert "within 2 standard errors of chance" in " ".join(text.split())


def test_what_is_missing_is_shown() -> None:
    held = without(SWEEP, "without 5", "t2")
    text = " ".join(shown(held).split())
    assert "1/2" in text
    assert "no score on t2 of frenet at 10 %" in text
    none = without(SWEEP, "without 5", "t1", "t2")
    assert "frenet 10 % 5 - - - -".split() in part(none, "Pruning: a")


def test_without_random_the_columns_of_it_are_left_out() -> None:
    held = replace(SWEEP, prunings=tuple(r for r in SWEEP.prunings if r.rule != "random"))
    text = shown(held)
    assert "vs random" not in text
    assert "Random removal was not asked for" in text


def test_errors_of_rules_and_of_pruned_models_are_listed() -> None:
    errors = (
        ErrorRow(model="a", variant="without 5", task="t2", error="NotFinite: state 3"),
        ErrorRow(model="a", rule="angular", error="ValueError: no"),
    )
    held = replace(SWEEP, errors=errors)
    assert sheets.error_line(errors[0]) == "a · without 5 · t2: NotFinite: state 3"
    assert sheets.error_line(errors[1]) == "a · rule angular: ValueError: no"
    for text in (shown(held), reporters.markdown(build(held))):
        assert "a · without 5 · t2: NotFinite: state 3" in text
        assert "a · rule angular: ValueError: no" in text
    assert "Errors: 2" in shown(held)
    document = json.loads(reporters.as_json(build(held)))
    assert [e["rule"] for e in document["errors"]] == ["angular"]
    assert [e["variant"] for e in document["pruning"]["errors"]] == ["without 5"]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160, 240])
@pytest.mark.parametrize("name", [LONG, *HOSTILE])
def test_no_sheet_is_wider_than_the_terminal(width: int, name: str) -> None:
    text = shown(renamed(both_sides(), name, rule=f"rule {name}"), width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "…" not in text


def test_markdown_has_sheets_with_a_column_a_task() -> None:
    held = renamed(SWEEP, "[x](y)|<b>", rule="*a*|b")
    text = reporters.markdown(build(held))
    assert "# Pruning: summary\n" in text
    assert "## Notes on pruning\n" in text
    rows: list[list[str]] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for i, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("td_open", "th_open"):
            children = tokens[i + 1].children or []
            assert {child.type for child in children} <= {"text", "text_special"}, children
            rows[-1].append("".join(child.content for child in children))
    head = next(row for row in rows if "blocks removed" in row)
    assert head[-2:] == ["t1 change ↑ (%)", "t2 change ↑ (%)"]
    assert "vs random ↑ (points)" in head
    line = next(row for row in rows if row[0] == "*a*|b 10 %" and len(row) == len(head))
    assert line[-2:] == ["-25.00", "-25.00"]
    assert line[head.index("beats random")] == "no"


def test_csv_is_one_line_a_rule_and_budget() -> None:
    board = build(SWEEP)
    lines = list(csv.DictReader(io.StringIO(reporters.pruning_csv(board))))
    assert [line["rule"] for line in lines] == ["gfmi", "nrs", "random", "frenet"]
    assert all(None not in line and None not in line.values() for line in lines)
    random, frenet = lines[2], lines[3]
    assert (random["removed"], random["removed_blocks"], random["seeds"]) == ("1", "4; 6; 7", "3")
    assert (frenet["seeds"], frenet["beats_random"], frenet["random_interval"]) == (
        "",
        "no",
        "min-max",
    )
    numbers = {name: float(frenet[name]) for name in ("change", "difference", "random_low")}
    assert numbers == pytest.approx({"change": -25, "difference": -5, "random_low": -50})
    assert float(frenet["change.t2"]) == pytest.approx(-25)
    assert float(frenet["parameters_saved"]) == pytest.approx(10)
    assert lines[0]["parameters_saved"] == ""
    assert lines[0]["kind"] == "embedding"


def test_csv_and_rows_of_a_scoreless_sweep() -> None:
    bare = replace(SWEEP, scores=())
    for reporter in reporters.lrd_reporters():
        text = reporter.write(build(bare))
        assert "None" not in text
        assert "nan" not in text.lower()
    assert len(reporters.pruning_csv(build(bare)).splitlines()) == 5


def test_json_holds_all_of_the_table() -> None:
    document = json.loads(reporters.as_json(build(SWEEP)))["pruning"]
    found = table(SWEEP)
    assert [r["rule"] for r in document["summary"]] == [r.rule for r in found.summary]
    frenet = document["rows"][-1]
    assert (frenet["rule"], frenet["verdict"], frenet["tasks"]) == ("frenet", "no", ["t1", "t2"])
    assert frenet["by_task"]["t2"]["change"] == pytest.approx(-25)
    assert frenet["random"]["quantiles"] is False
    assert document["rows"][2]["runs"][1]["removed"] == [6]
    assert document["notes"] == list(found.notes)
    assert json.loads(reporters.as_json(build(Results())))["pruning"] is None


def test_no_empty_file_is_left_where_nothing_is_pruned(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append({"kind": "model", "unit": "a", "model": "a", "blocks": 10})
    extra = tmp_path / "leaderboard-pruning.csv"
    _, faults = folder.write_views(tmp_path, load())
    assert faults == []
    assert (tmp_path / "leaderboard.csv").is_file()
    assert not extra.exists()
    choice = {"rule": "frenet", "budget": 0.1, "removed": [5], "blocks": 10}
    journal.append({"kind": "pruning", "unit": "p", "model": "a", "variant": "without 5", **choice})
    board, _ = folder.write_views(tmp_path, load())
    assert board.pruned is not None
    assert extra.read_text().startswith("model,revision,kind,rule,budget,")
    assert all(path.stat().st_size for path in tmp_path.glob("leaderboard*"))


def test_a_models_row_of_the_leaderboard_is_untouched_by_its_pruned_ones() -> None:
    held = replace(
        SWEEP,
        models=(*SWEEP.models, ModelRow(model="a", variant="without 5")),
        scores=(*SWEEP.scores, *pruned([5], {"t9": 0.1}), *whole("b")),
    )
    lines = list(csv.DictReader(io.StringIO(reporters.as_csv(build(held)))))
    assert [line["model"] for line in lines] == ["a"]
    assert "score.t9" not in lines[0]
