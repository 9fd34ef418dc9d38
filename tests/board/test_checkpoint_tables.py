"""Checkpoints of one training run: trajectories and tables; and a run of three folders."""

from __future__ import annotations

import csv
import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lrd_harness.board.leaderboard import build
from lrd_harness.board.training import trajectories
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.database import MetricRow, ModelRow, Profile, Results, ScoreRow

_checkpoints, _markdown, _terminal, reporters = (
    importlib.import_module(f"lrd_harness.plugins.reporters.{name}")
    for name in ("_checkpoints", "_markdown", "_terminal", "forms")
)


def rows(name: str, scores: Any, values: Any, task: str = "X", kind: str = "STS") -> Results:
    """A model of four blocks with a score and a value of the metric m a layer; None: absent."""
    layers = tuple(range(5))
    given = [(n, s) for n, s in zip(layers, scores, strict=True) if s is not None]
    return Results(
        models=(ModelRow(model=name, blocks=4, width=8),),
        scores=tuple(
            ScoreRow(model=name, task=task, task_type=kind, layer=n, layers=4, score=s)
            for n, s in given
        ),
        metrics=(
            MetricRow(
                model=name,
                task=task,
                task_type=kind,
                metric="m",
                n=20,
                selection=("total", "max"),
                layer_choice=("at", "min"),
                values={"total": sum(v for v in values if v is not None)},
                profiles={"other": Profile((0,), (9.0,)), "at": Profile(layers, tuple(values))},
            ),
        ),
    )


def joined(*parts: Results) -> Results:
    models = {row.key: row for part in parts for row in part.models}
    return Results(
        models=tuple(models.values()),
        scores=tuple(row for part in parts for row in part.scores),
        metrics=tuple(row for part in parts for row in part.metrics),
    )


EARLY = rows("m@step10", (0.1, 0.3, 0.2, 0.2, 0.15), (5.0, 4, 3, 2, 1))
LATE = rows("m@step200", (0.1, 0.4, 0.6, 0.5, 0.5), (None, 1.0, 8, 1, 9))
FULL = joined(
    LATE,
    EARLY,
    rows("m@step10", (0.3, 0.5, 0.4, 0.4, 0.35), (7.0, 6, 5, 4, 5), "Y"),
    rows("m@step200", (0.3, 0.6, 0.8, 0.7, 0.9), (None, 3.0, 8, 1, 9), "Y"),
    rows("m@step10", (0.9,) * 5, (0.0,) * 5, "only one has it"),
    rows("unlike", (0.9,) * 5, (0.0,) * 5),
)


def test_means_are_over_the_tasks_that_all_checkpoints_have() -> None:
    (one,) = trajectories(FULL)
    assert [member.step for member in one.family.members] == [10, 200]
    assert one.scores.tasks == ("X", "Y")
    scores = np.array([[0.1, 0.3, 0.2, 0.2, 0.15], [0.3, 0.5, 0.4, 0.4, 0.35]]).mean(axis=0)
    assert one.scores.profiles[0].values == pytest.approx(scores)
    assert one.last == pytest.approx((0.25, 0.7))
    assert one.best() == ((1, pytest.approx(0.4)), (2, pytest.approx(0.7)))  # a tie: the lower
    (selected,) = one.selected
    assert (selected.metric, selected.score, selected.best) == ("m", "total", "max")
    assert selected.values == pytest.approx(((15 + 27) / 2, (19 + 21) / 2))
    (curve,) = one.curves
    assert (curve.name, curve.choose, curve.tasks) == ("m.at", "min", ("X", "Y"))
    assert curve.profiles[0] == ((0, 1, 2, 3, 4), pytest.approx((6, 5, 4, 3, 3)))
    assert curve.profiles[1] == ((1, 2, 3, 4), pytest.approx((2, 8, 1, 9)))
    assert curve.chosen() == (3, 3)
    assert one.depths == (4, 4)


def test_a_metric_without_a_layer_choice_shows_its_first_profile_and_chooses_none() -> None:
    bare = {"layer_choice": None, "selection": None}
    held = joined(EARLY, LATE)
    metrics = tuple(MetricRow(**{**vars(row), **bare}) for row in held.metrics)
    (one,) = trajectories(Results(models=held.models, scores=held.scores, metrics=metrics))
    assert one.selected == ()
    assert (one.curves[0].name, one.curves[0].choose) == ("m.other", None)
    assert one.curves[0].chosen() == (None, None)


def test_a_checkpoint_without_anything_takes_nothing_from_the_others() -> None:
    (one,) = trajectories(joined(FULL, Results(models=(ModelRow(model="m@step3000"),))))
    assert len(one.family.members) == 2  # its shape is not known: it could not be opened
    failed = Results(models=(ModelRow(model="m@step3000", blocks=4, width=8),))
    (one,) = trajectories(joined(FULL, failed))
    assert one.last == (pytest.approx(0.25), pytest.approx(0.7), None)
    assert one.best()[2] is None
    assert one.curves[0].chosen() == (3, 3, None)
    names = (ModelRow(model="m@step1"), ModelRow(model="m@step2"))
    assert trajectories(Results(models=names)) == ()


def test_the_sheets_of_a_family() -> None:
    summary, scores, metric = _checkpoints.checkpoint_sheets(build(FULL))
    assert summary.title == "Checkpoints of m"
    lines = {" ".join(column.heading): column.cells for column in summary.columns}
    assert lines == {
        "training step": ("10", "200"),
        "score ↑ last": ("0.2500", "0.7000"),
        "best layer": ("1/4", "2/4"),
        "score ↑ best": ("0.4000", "0.7000"),
        "m total ↑": ("21.00", "20.00"),
        "layer by m min. at": ("3/4", "3/4"),
    }
    assert scores.title == "score by training step and depth"
    assert [c.heading for c in scores.columns][1:4] == [
        ("depth 0", "layer 0"),
        ("depth 1/4", "layer 1"),
        ("depth 1/2", "layer 2"),
    ]
    assert scores.columns[5].cells == ("0.2500", "0.7000")
    # from 0.2 to 0.7: 0.2 .4 .3 .3 .25 and 0.2 .5 .7 .6 .7, in sevenths
    assert scores.columns[6].cells == ("▁▄▂▂▂", "▁▅█▇█")
    assert metric.title == "m.at by training step and depth"
    assert metric.columns[1].heading == ("depth 0",)  # layer 0 of one, layer 1 of the other
    assert metric.columns[1].cells == ("6.000", "2.000")
    assert [cell[0] for cell in metric.columns[6].cells] == ["▅", "·"]


def test_without_a_family_there_is_nothing() -> None:
    board = build(rows("m@step10", (0.1,) * 5, (1.0,) * 5))
    assert _checkpoints.checkpoint_sheets(board) == []
    assert _checkpoints.checkpoints_csv(board) == ""
    assert json.loads(reporters.as_json(board))["checkpoints"] == []


def test_where_only_the_last_layer_was_scored_no_score_is_drawn() -> None:
    parts = [rows(f"m@step{i}", (*[None] * 4, i / 10), (1.0, 2, 3, 4, 5)) for i in (1, 2)]
    titles = [sheet.title for sheet in _checkpoints.checkpoint_sheets(build(joined(*parts)))]
    assert titles == ["Checkpoints of m", "m.at by training step and depth"]


def test_likelihood_tasks_are_apart() -> None:
    likely = [
        rows(f"m@step{n}", (s,) * 5, (s,) * 5, "arc", LIKELIHOOD) for n, s in ((10, 0.3), (200, 1))
    ]
    board = build(joined(FULL, *likely))
    assert board.base is not None
    main, base = (_checkpoints.checkpoint_sheets(b) for b in (board, board.base))
    assert main[0].title == "Checkpoints of m"
    assert base[0].title == "Base models: checkpoints of m"
    assert base[0].columns[1].cells == ("0.3000", "1.0000")
    assert main[0].columns[1].cells == ("0.2500", "0.7000")  # as without them
    document = json.loads(reporters.as_json(board))["checkpoints"]
    assert [(one["kind"], one["tasks"]) for one in document] == [
        ("embedding", ["X", "Y"]),
        ("base", ["arc"]),
    ]
    tasks = {line["task"] for line in table(_checkpoints.checkpoints_csv(board))}
    assert tasks == {"X", "Y", "only one has it", "arc"}


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_has_every_number_once() -> None:
    newer = rows("m@step10", (0.77, *[None] * 4), (5.5, None, None, None, None))
    lines = table(_checkpoints.checkpoints_csv(build(joined(FULL, newer))))
    assert list(lines[0]) == list(_checkpoints.FIELDS)
    places = [(line["model"], line["task"], line["layer"], line["name"]) for line in lines]
    assert len(set(places)) == len(places)
    one = dict(zip(places, lines, strict=True))
    assert float(one["m@step10", "X", "0", "score"]["value"]) == 0.77
    late = one["m@step200", "Y", "1", "m.at"]
    assert (late["family"], late["step"], late["depth"]) == ("m", "200", "0.25")
    assert float(late["value"]) == 3
    assert ("m@step200", "Y", "0", "m.at") not in one  # absent
    assert ("m@step10", "X", "3", "m.at") not in one  # the newer measurement counts
    assert not any(model == "unlike" for model, *_ in places)


def test_the_json_of_a_family() -> None:
    (one,) = json.loads(reporters.as_json(build(FULL)))["checkpoints"]
    assert (one["stem"], one["unit"]) == ("m", "step")
    last = one["members"][1]
    assert (last["label"], last["step"], last["model"]) == ("step200", 200, "m@step200")
    assert (last["best_layer"], last["layers"]) == (2, {"m": 3})
    assert last["values"] == {"m": pytest.approx(20)}
    assert [curve["name"] for curve in one["curves"]] == ["score", "m.at"]
    assert one["curves"][1]["profiles"][1]["layers"] == [1, 2, 3, 4]


def test_the_terminal_says_what_it_leaves_out_and_fits() -> None:
    base = joined(EARLY, LATE)
    metrics = tuple(
        MetricRow(**{**vars(row), "metric": f"metric{i}"}) for row in base.metrics for i in range(6)
    )
    board = build(Results(models=base.models, scores=base.scores, metrics=metrics))
    text = _terminal.text(_terminal.renderable(board, 80), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("training step and depth") == 1 + _terminal.CURVES
    assert "checkpoints (a CSV): metric4.at, metric5.at." in " ".join(text.split())
    markdown = _markdown.markdown(board)
    assert markdown.count("training step and depth") == 1 + 6
    assert "## Checkpoints of m\n" in markdown
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    assert sum(token.type == "table_open" for token in tokens) >= 1 + 1 + 6


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=100),
)
def test_marks_keep_the_order_of_the_values(values: list[float | None]) -> None:
    there = [v for v in values if v is not None]
    marks = _checkpoints.spark(values, min(there, default=0), max(there, default=0))
    assert len(marks) == min(len(values), _checkpoints.LONGEST)
    if len(values) <= _checkpoints.LONGEST:
        assert [mark == "·" for mark in marks] == [value is None for value in values]
        shown = [mark for mark in marks if mark != "·"]
        ranked = [shown[i] for i in np.argsort(there, kind="stable")]
        assert ranked == sorted(ranked)  # the marks are in order of their code points


def test_marks_reach_from_lowest_to_highest() -> None:
    assert _checkpoints.spark(list(range(8)), 0, 7) == "▁▂▃▄▅▆▇█"
    assert _checkpoints.spark([0.5, 0.5, None], 0.5, 0.5) == "▄▄·"
    assert _checkpoints.spark(list(range(81)), 0, 80)[:: _checkpoints.LONGEST - 1] == "▁█"


def test_the_nearest_layer_is_near() -> None:
    values = dict.fromkeys(range(5), 0.0)
    nearest = [_checkpoints.nearest(values, 4, f) for f in _checkpoints.FRACTIONS.values()]
    assert nearest == [0, 1, 2, 3, 4]
    assert _checkpoints.nearest({32: 0.0}, 32, 0.75) is None
    assert _checkpoints.nearest({28: 0.0}, 32, 1.0) == 28
    assert _checkpoints.nearest({2: 0.0}, 3, 1.0) == 2  # a step below the last layer
    assert _checkpoints.nearest({0: 0.0, 1: 0.0}, 1, 0.5) == 0
    assert _checkpoints.nearest({}, 4, 0.5) is None


# ---------------------------------------------------------------- a run


def test_a_run_of_three_folders(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, step in enumerate((100, 10, 20)):
        tiny.save("Bert", tmp_path / f"checkpoint-{step}", seed=seed, max_position_embeddings=64)
    out = tmp_path / "out"
    models = [tmp_path / "checkpoint-{100,10,20}"]
    assert running.run(out, models, place / "data", tasks=["STSBenchmark"]) == 0
    shown = capsys.readouterr().out
    assert "Checkpoints of local/checkpoint" in shown
    assert "score by training step and depth" in shown
    lines = table((out / "leaderboard-checkpoints.csv").read_text())
    assert list(dict.fromkeys(line["step"] for line in lines)) == ["10", "20", "100"]
    recorded = {
        (f"local/checkpoint-{line['step']}", int(line["layer"])): float(line["value"])
        for line in lines
        if line["name"] == "score"
    }
    scores = running.records(out, "score")
    assert recorded == {(r["model"], r["layer"]): pytest.approx(r["score"]) for r in scores}
    assert len(recorded) == 3 * 4
    names = {line["name"] for line in lines}
    assert {name.partition(".")[0] for name in names} == {"score", "frenet", "nrs"}
    (one,) = json.loads((out / "leaderboard.json").read_text())["checkpoints"]
    assert [member["step"] for member in one["members"]] == [10, 20, 100]
    assert "Checkpoints of local/checkpoint" in (out / "leaderboard.md").read_text()
