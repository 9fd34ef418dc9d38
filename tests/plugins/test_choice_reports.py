"""The layer-choice tables in every form: all that is in them is shown, as it is, and fits."""

from __future__ import annotations

import csv
import importlib
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from choice_rows import BLOCKS, SCORES, likelihood, metric, results, scores
from markdown_it import MarkdownIt
from rich.cells import cell_len

from lrd_harness.board.leaderboard import build
from lrd_harness.results.database import ModelRow, Results
from lrd_harness.store.files import unguarded

reporters: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
layers: Any = importlib.import_module("lrd_harness.plugins.reporters._layers")
terminal: Any = importlib.import_module("lrd_harness.plugins.reporters._terminal")

TITLES = ("Choosing a layer without labels", "Metrics and scores over layers")
HOSTILE = ("[red]a[/red]", "pipe|b", "two\nlines\x1b[31m", "=1+1", "模型" * 9)


def shown(held: Results, width: int = 80) -> str:
    text: str = terminal.text(terminal.renderable(build(held), width), width)
    return text


def part(held: Results, title: str, width: int = 80) -> list[str]:
    lines = shown(held, width).splitlines()
    return [" ".join(line.split()) for line in lines[lines.index(title) :]]


def test_at_80_columns_the_gains_are_one_table_with_the_controls_set_off() -> None:
    lines = part(results(), TITLES[0])
    assert lines[2:4] == [
        "mean gain ↑ gained ↑ n",
        "rule picks depth (points) (% of n) (pairs)",
    ]
    assert lines[5:17] == [
        "good argmin 0.58 +10.00 100 3",
        "good argmax, reverse 0.00 -26.67 0 3",
        "bad argmax* 0.00 -26.67 0 3",
        "bad argmin*, reverse 0.75 +8.33 100 3",
        "– controls –",
        "first layer - 0.00 -26.67 0 3",
        "random layer - 0.50 -3.33 40 3",
        "depth 0.5 - 0.50 +3.33 67 3",
        "depth 0.7 - 0.75 +8.33 100 3",
        "depth 0.8 - 0.75 +8.33 100 3",
        lines[15],
        "oracle - 0.50 +13.33 100 3",
    ]
    assert lines[15].startswith("honest choice - 0.")


def test_the_correlations_stand_beside_depth_and_random_walks() -> None:
    lines = part(results(), TITLES[1])
    assert lines[3] == "metric rho (mean) (mean) (% of n) correlation (pairs)"
    rows = [line.split() for line in lines[5:9]]
    assert [row[:-5] for row in rows] == [
        ["good"],
        ["bad"],
        ["depth", "alone"],
        ["random", "walks"],
    ]
    assert [row[-1] for row in rows] == ["3"] * 4
    assert rows[0][1:3] == ["-0.89", "0.89"]


def test_the_legends_say_how_to_read_it() -> None:
    text = " ".join(shown(results()).split())
    for words in (
        "The first of the two directions is the paper's; reverse: the other one",
        "Any scored layer may be picked here, layer 0 included; the command lrd-harness layer "
        "chooses among layers 1 to L.",
        "*: no direction is published for this metric; it is judged by the first, and not counted",
        "oracle: the best layer of each pair by its own score, the most that any choice can gain",
        "where it beats the fixed depths, the random layer and the honest choice",
        "exceed both lines",
        "• good's layer gained +10.0 points over the last layer, more than",
        "illustration, not evidence",
    ):
        assert words in text
    known = replace(results(), metrics=results().metrics[::2])
    assert "*" not in "".join(part(known, TITLES[0]))


def test_without_metrics_the_controls_stand_alone() -> None:
    text = shown(results(metrics=()))
    assert TITLES[0] in text
    assert "controls –" not in text
    assert "A metric picks" not in text
    assert "depth alone" in text
    last = dict.fromkeys(SCORES, (None, None, None, None, 0.5))
    for held in (results(last), Results()):
        assert not any(title in shown(held) for title in TITLES)


def test_two_or_three_layers_have_no_correlations() -> None:
    held = results({"t1": (0.1, 0.2, None, None, 0.3)})
    assert TITLES[0] in shown(held)
    assert TITLES[1] not in shown(held)
    # without a last layer there is no gain, but the layers can be compared
    held = results({"t1": (0.1, 0.3, 0.2, 0.3, None)})
    assert TITLES[0] not in shown(held)
    assert TITLES[1] in shown(held)


def test_likelihood_tasks_have_sheets_of_their_own() -> None:
    text = shown(likelihood())
    base = ["Base models: choosing a layer without labels", *TITLES[1:]]
    assert text.index(TITLES[0]) < text.index(TITLES[1]) < text.index(base[0])
    assert "Base models: metrics and scores over layers" in text
    assert "good argmin 0.58 +10.00 100 3" in part(likelihood(), TITLES[0])
    assert "good argmin 0.00 -15.00 0 1" in part(likelihood(), base[0])


def hostile(name: str) -> Results:
    return Results(
        (ModelRow(model=name, blocks=BLOCKS),),
        tuple(scores(name, SCORES["t1"], name)),
        (metric(name, name, (1.0, 2, 3, 5, 4), name),),
    )


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_strange_names_are_shown_as_they_are_and_fit(name: str, width: int) -> None:
    text = shown(hostile(name), width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    assert "\x1b" not in text
    line = lines_of(hostile(name))[0]
    assert (unguarded(line["model"]), unguarded(line["task"])) == (name, name)


def test_markdown_has_both_tables_with_their_columns() -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(reporters.markdown(build(results())))
    tables: dict[str, list[list[str]]] = {}
    title = ""
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            title = tokens[i + 1].content
            tables[title] = []
        elif token.type == "tr_open":
            tables[title].append([])
        elif token.type in ("td_open", "th_open"):
            children = tokens[i + 1].children or []
            tables[title][-1].append("".join(child.content for child in children))
    gains, correlations = (tables[name] for name in TITLES)
    assert {len(row) for row in gains} == {6}
    assert gains[3] == ["bad", "argmax*", "0.00", "-26.67", "0", "3"]
    assert gains[5] == ["– controls –", "", "", "", "", ""]
    assert [row[0] for row in correlations[1:]] == ["good", "bad", "depth alone", "random walks"]


def test_json_has_gains_correlations_and_picks() -> None:
    document = json.loads(reporters.as_json(build(likelihood())))
    choice, base = document["layer_choice"], document["base"]["layer_choice"]
    assert set(choice) == set(base) == {"gains", "correlations", "picks"}
    first = choice["gains"][0]
    assert (first["rule"], first["best"], first["published"], first["first"]) == (
        "good",
        "min",
        True,
        True,
    )
    assert first["gain"] == pytest.approx(0.1)
    assert (first["rival"], first["rival_gain"]) == ("depth 0.7", pytest.approx(0.25 / 3))
    assert {row["name"] for row in choice["correlations"]} > {"depth alone", "random walks"}
    assert [pick["layer"] for pick in choice["picks"] if pick["metric"] == "good"] == [2, 3, 2]
    assert [(pick["task"], pick["layer"], pick["reverse"]) for pick in base["picks"]] == [
        ("lm", 0, 4)
    ]
    assert document["version"] == 1
    assert json.loads(reporters.as_json(build(Results())))["layer_choice"] is None


def lines_of(held: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(reporters.layers_csv(build(held)), newline="")))


def test_csv_is_one_line_a_model_task_and_layer() -> None:
    lines = lines_of(likelihood())
    assert (
        list(lines[0])
        == (
            "model revision task layer depth score good.good good.other bad.bad bad.other "
            "picked.good picked.bad"
        ).split()
    )
    assert [(line["task"], line["layer"]) for line in lines] == [
        (task, str(layer)) for task in (*SCORES, "lm") for layer in range(BLOCKS + 1)
    ]
    assert [line["score"] for line in lines[:5]] == [str(score) for score in SCORES["t1"]]
    assert [line["depth"] for line in lines[:5]] == ["0.0", "0.25", "0.5", "0.75", "1.0"]
    assert [line["good.good"] for line in lines[:5]] == ["5.0", "4.0", "1.0", "2.0", "3.0"]
    assert [line["bad.bad"] for line in lines[:5]] == ["3.0", "2.0", "1.5", "1.0", ""]
    picked = [(line["task"], line["layer"]) for line in lines if line["picked.good"] == "1"]
    assert picked == [("t1", "2"), ("t2", "3"), ("t3", "2"), ("lm", "0")]
    assert {line["picked.good"] for line in lines} == {"1", ""}


def test_csv_of_profiles_or_of_scores_alone_and_of_nothing() -> None:
    lines = lines_of(results(scores=()))  # as of texts without labels: L is the model's own
    assert (lines[1]["depth"], lines[1]["score"], lines[1]["good.good"]) == ("0.25", "", "4.0")
    assert "picked.good" not in lines[0]
    unknown = results(scores=(), models=(ModelRow(model="a"),))
    assert lines_of(unknown)[1]["depth"] == ""
    assert len(lines_of(results(metrics=()))) == 15
    last = dict.fromkeys(SCORES, (None, None, None, None, 0.5))
    assert reporters.layers_csv(build(results(last, metrics=()))) == ""
    assert reporters.layers_csv(build(Results())) == ""
    pruned = replace(results(), scores=(), metrics=())
    assert reporters.layers_csv(build(pruned)) == ""
