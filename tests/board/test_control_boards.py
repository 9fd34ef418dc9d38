"""Metrics that use labels: apart as controls in every table and form; and profiles of blocks."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import choice_rows
import pytest
from choice_rows import BLOCKS, GOOD
from selection_panels import by, panel

from lrd_harness import Choice, Metric
from lrd_harness.board import interchange
from lrd_harness.board.layer_choice import build_choice, choice_tables
from lrd_harness.board.layers import LABELS, layer_table
from lrd_harness.board.leaderboard import report
from lrd_harness.manager import load
from lrd_harness.report import Report
from lrd_harness.results.rows import Profile, Results

M = 8
SCORES = {(m, t): 0.3 + 0.05 * ((3 * m + t) % M) for m in range(M) for t in range(5)}
NOISE = {(m, t): float((5 * m + 3 * t) % M) for m, t in SCORES}
# "seen" orders the models as the scores do, as it sees the labels
RANKING = panel(M, SCORES, {("own", "v", "max"): NOISE, ("seen", "s", "max"): SCORES})
ALONE = panel(M, SCORES, {("own", "v", "max"): NOISE})
CURVES = choice_rows.results()


def with_control(results: Results, name: str) -> Results:
    rows = (replace(row, control=row.metric == name) for row in results.metrics)
    return replace(results, metrics=tuple(rows))


CONTROLLED = with_control(RANKING, "seen")


def test_a_control_is_no_predictor_without_labels() -> None:
    board, alone = report(CONTROLLED), report(ALONE)
    assert by(board, "correlations", "predictor")["own"]["kind"] == "metric"
    of_control = by(board, "correlations", "predictor")[f"seen{LABELS}"]
    assert (of_control["kind"], of_control["rho"]) == ("control", pytest.approx(1.0))
    assert board.table("correlations").rows[-1] is not None
    assert board.table("correlations").column("kind")[-1] == "control"  # apart, the last
    assert by(board, "agreement", "predictor")[f"seen.s{LABELS}"]["kind"] == "control"
    # every other row and all that is said are as without it
    assert (board.notes, board.answer) == (alone.notes, alone.answer)
    for table in alone.tables:
        if table.name not in ("values", "correlations", "agreement", "agreement_tasks"):
            assert list(board.table(table.name).rows) == list(table.rows), table.name
    for name in ("correlations", "agreement", "agreement_tasks"):
        rows = [row for row in board.table(name).rows if "seen" not in row["predictor"]]
        assert rows == list(alone.table(name).rows)


def test_controls_have_a_table_of_their_own() -> None:
    board = report(CONTROLLED)
    table = board.table("controls")
    assert table.column("rank.seen") == board.table("ranking").column("rank")
    assert table.column(f"seen.s{LABELS}") == pytest.approx(board.table("ranking").column("score"))
    assert report(ALONE).get("controls") is None
    for name in ("ranking", "metrics", "models", "family_ranks"):
        found = board.get(name)
        assert not found or not any("seen" in column.name for column in found.columns), name


def test_in_families_the_name_says_what_it_is() -> None:
    families = ["bert"] * 4 + ["gpt"] * 4
    models = [replace(m, family=f) for m, f in zip(CONTROLLED.models, families, strict=True)]
    board = report(replace(CONTROLLED, models=tuple(models)))
    assert f"seen{LABELS}" in board.table("families").column("predictor")
    shown = [c.name for c in board.table("family_ranks").columns if c.shown]
    assert "predicted.own" in shown
    assert f"predicted.seen{LABELS}" not in shown


def test_a_choice_of_layers_by_labels_is_no_choice_without_them() -> None:
    free, choice = build_choice(CURVES), build_choice(with_control(CURVES, "good"))
    assert free is not None
    assert choice is not None
    assert [gain["rule"] for gain in free.judged] == ["good"]
    assert choice.judged == []
    tables = {table.name: table for table in choice_tables(choice)}
    gains = tables["layer_gain"].rows
    good, _ = (row for row in gains if row["rule"] == "good")
    before, _ = (row for row in free.gains if row["rule"] == "good")
    assert (good["kind"], good["label"]) == ("control", f"good.good{LABELS}")
    assert good["picks"] == "argmin, in-sample"
    assert (good["gain"], good["n"]) == (before["gain"], before["n"])
    kinds = [row["kind"] for row in gains]
    assert kinds == sorted(kinds, reverse=True)  # metrics, then controls
    assert {r["metric"] for r in tables["layer_picks"].rows} == {"bad", f"good{LABELS}"}
    of = {row["predictor"]: row["kind"] for row in tables["layer_correlation"].rows}
    assert of[f"good.good{LABELS}"] == "control"
    said = " ".join(report(with_control(CURVES, "good")).notes)
    assert "good" not in said


def test_its_curves_say_so_in_every_form() -> None:
    board = report(with_control(CURVES, "good"))
    name = f"good.good{LABELS}"
    columns = [column.name for column in board.table("layers").columns]
    assert {name, f"picked.good{LABELS}", "bad.bad"} <= {*columns}
    assert not {"good.good", "picked.good"} & {*columns}
    assert name in [c.name for c in layer_table(with_control(CURVES, "good"), "a").columns]
    sources = {row["source"]: row for row in board.table("profiles").rows}
    assert not sources[name]["ranks"]
    for form in ("table", "md", "latex", "html", "json", "fragment"):
        text = load().get("reporter", form).write(board)
        assert "(uses labels)" in text, form
    drawn = dict(load().get("reporter", "figures").files(board))
    assert b"(uses labels)" in drawn["curves.svg"]


def tidy(board: Report) -> dict[str, list[dict[str, str]]]:
    files = dict(load().get("reporter", "tidy").files(board))
    return {
        name.removesuffix(".csv"): [*csv.DictReader(io.StringIO(text.decode()))]
        for name, text in files.items()
        if name.endswith(".csv")
    }


def test_programs_find_controls_under_kinds_of_their_own() -> None:
    made = with_control(RANKING, "seen")
    frame = made.frame
    kinds = {source: set(of.kind) for source, of in frame.groupby("source")}
    assert kinds["seen"] == {"control value"}
    assert kinds["own"] == {"value"}
    files = tidy(report(made))
    of_values = {(line["source"], line["kind"]) for line in files["values"]}
    assert {("own", "metric"), ("seen", "control metric")} <= of_values
    assert {line["name"].partition(".")[0] for line in files["metrics"]} == {"own"}
    curves = with_control(CURVES, "good").frame
    assert set(curves[curves.source == "good"].kind) == {"control profile"}


def test_values_from_a_file_of_a_metric_with_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_of(kind: str) -> list[Any]:
        metric = Metric("seen", lambda h, y: {}, needs="labels", selection=Choice("s"))
        return [metric] if kind == "metric" else []

    monkeypatch.setattr(type(load()), "all", lambda _, kind: all_of(kind))
    file = tmp_path / "values.csv"
    file.write_text("model,layer,task,name,value\na,model,X,seen.s,1\nb,model,X,seen.s,2\n")
    rows = interchange.read(None, file).metrics
    assert [(row.control, row.selection) for row in rows] == [(True, ("s", "max"))] * 2


def test_a_block_s_value_stands_with_the_state_that_it_writes() -> None:
    values = {task: tuple(float(v) for v in GOOD[task][1:]) for task in GOOD}
    blocks = tuple(range(1, BLOCKS + 1))
    rows = [
        choice_rows.metric(
            "sink", task, (), layer_choice=("rate", "min"),
            profiles={"rate": Profile(blocks, values[task], "blocks")},
        )
        for task in GOOD
    ]  # fmt: skip
    made = replace(CURVES, metrics=tuple(rows))
    table = layer_table(made, "a")
    means = [None, *(sum(values[t][b] for t in GOOD) / 3 for b in range(BLOCKS))]
    assert table.column("sink.rate") == pytest.approx(means)
    board = report(made)
    picks = {row["task"]: row["layer"] for row in board.table("layer_picks").rows}
    free = build_choice(CURVES)
    assert free is not None
    usual = {row["task"]: row["layer"] for row in free.picks if row["metric"] == "good"}
    assert picks == usual
    lines = [line for line in tidy(board)["values"] if line["kind"] == "profile"]
    lines = [line for line in lines if line["task"] == "t1"]
    of_t1 = [(int(line["layer"]), float(line["depth"]), line["of"]) for line in lines]
    assert of_t1 == [(b, b / BLOCKS, "blocks") for b in blocks]
