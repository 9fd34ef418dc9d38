"""Checkpoints of one training run: means over the tasks that all have, tables by step and depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_harness.board.leaderboard import report
from lrd_harness.board.training import (
    FIELDS,
    FRACTIONS,
    LONGEST,
    checkpoint_tables,
    checkpoints_table,
    nearest,
    spark,
)
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.report import Table
from lrd_harness.results.rows import MetricRow, ModelRow, Profile, Results, ScoreRow


def measured(name: str, scores: Any, values: Any, task: str = "X", kind: str = "STS") -> Results:
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


EARLY = measured("m@step10", (0.1, 0.3, 0.2, 0.2, 0.15), (5.0, 4, 3, 2, 1))
LATE = measured("m@step200", (0.1, 0.4, 0.6, 0.5, 0.5), (None, 1.0, 8, 1, 9))
FULL = joined(
    LATE,
    EARLY,
    measured("m@step10", (0.3, 0.5, 0.4, 0.4, 0.35), (7.0, 6, 5, 4, 5), "Y"),
    measured("m@step200", (0.3, 0.6, 0.8, 0.7, 0.9), (None, 3.0, 8, 1, 9), "Y"),
    measured("m@step10", (0.9,) * 5, (0.0,) * 5, "only one has it"),
    measured("unlike", (0.9,) * 5, (0.0,) * 5),
)


def tables(held: Results) -> dict[str, Table]:
    return {table.name: table for table in checkpoint_tables(held)}


def test_means_are_over_the_tasks_that_all_checkpoints_have() -> None:
    found = tables(FULL)
    one = found["checkpoints.1"]
    assert one.column("step") == [10, 200]
    assert one.column("score") == pytest.approx([0.25, 0.7])
    assert one.column("best_layer") == [1, 2]  # a tie: the lower
    assert one.column("best_score") == pytest.approx([0.4, 0.7])
    assert one.column("m.total") == pytest.approx([(15 + 27) / 2, (19 + 21) / 2])
    assert one.column("layer.m") == [3, 3]
    assert one.column("depth") == [4, 4]
    assert next(c.best for c in one.columns if c.name == "m.total") == "max"
    curves = found["checkpoint_curves"]
    assert curves.column("curve") == ["score"] * 2 + ["m.at"] * 2
    assert all(tasks == ["X", "Y"] for tasks in curves.column("tasks"))
    scores = np.array([[0.1, 0.3, 0.2, 0.2, 0.15], [0.3, 0.5, 0.4, 0.4, 0.35]]).mean(axis=0)
    assert curves.rows[0]["values"] == pytest.approx(scores)
    assert [row["layers"] for row in curves.rows[2:]] == [[0, 1, 2, 3, 4], [1, 2, 3, 4]]
    assert curves.rows[2]["values"] == pytest.approx([6, 5, 4, 3, 3])
    assert curves.rows[3]["values"] == pytest.approx([2, 8, 1, 9])
    assert curves.rows[3]["choose"] == "min"


def test_values_by_step_and_depth() -> None:
    by_depth = tables(FULL)["checkpoints.1.depth"]
    score, late, metric, _ = by_depth.rows
    assert [score[f"depth.{share}"] for share in FRACTIONS] == pytest.approx(
        [0.2, 0.4, 0.3, 0.3, 0.25]
    )
    # from 0.2 to 0.7: 0.2 .4 .3 .3 .25 and 0.2 .5 .7 .6 .7, in sevenths
    assert [score["layers"], late["layers"]] == ["▁▄▂▂▂", "▁▅█▇█"]
    assert (metric["curve"], metric["step"]) == ("m.at", 10)
    assert by_depth.column("depth.0")[2:] == [6, 2]  # layer 0 of one, layer 1 of the other
    assert [row["layers"][0] for row in by_depth.rows[2:]] == ["▅", "·"]


def test_a_metric_without_a_layer_choice_shows_its_first_profile_and_chooses_none() -> None:
    held = joined(EARLY, LATE)
    bare = [replace(row, layer_choice=None, selection=None) for row in held.metrics]
    found = tables(replace(held, metrics=tuple(bare)))
    assert {"m.total", "layer.m"}.isdisjoint(c.name for c in found["checkpoints.1"].columns)
    assert found["checkpoint_curves"].column("curve") == ["score"] * 2 + ["m.other"] * 2
    assert found["checkpoint_curves"].column("choose")[2:] == [None, None]


def test_a_checkpoint_without_anything_takes_nothing_from_the_others() -> None:
    found = tables(joined(FULL, Results(models=(ModelRow(model="m@step3000"),))))
    assert found["checkpoints.1"].column("step") == [10, 200]  # its shape is not known
    failed = Results(models=(ModelRow(model="m@step3000", blocks=4, width=8),))
    one = tables(joined(FULL, failed))["checkpoints.1"]
    assert one.column("score") == [pytest.approx(0.25), pytest.approx(0.7), None]
    assert (one.rows[2]["best_layer"], one.rows[2]["layer.m"]) == (None, None)
    names = (ModelRow(model="m@step1"), ModelRow(model="m@step2"))
    assert checkpoint_tables(Results(models=names)) == []


def test_where_only_the_last_layer_was_scored_no_score_is_drawn() -> None:
    parts = [measured(f"m@step{i}", (*[None] * 4, i / 10), (1.0, 2, 3, 4, 5)) for i in (1, 2)]
    found = tables(joined(*parts))
    assert set(found["checkpoints.1.depth"].column("curve")) == {"m.at"}
    assert "best_layer" not in {column.name for column in found["checkpoints.1"].columns}


def test_likelihood_tasks_are_apart() -> None:
    likely = [
        measured(f"m@step{n}", (s,) * 5, (s,) * 5, "arc", LIKELIHOOD)
        for n, s in ((10, 0.3), (200, 1))
    ]
    board = report(joined(FULL, *likely))
    assert board.table("base.checkpoints.1").column("score") == [0.3, 1]
    assert board.table("checkpoints.1").column("score") == pytest.approx([0.25, 0.7])
    assert set(board.table("checkpoints").column("task")) == {"X", "Y", "only one has it", "arc"}


def test_programs_get_every_number_once() -> None:
    newer = measured("m@step10", (0.77, *[None] * 4), (5.5, None, None, None, None))
    table = checkpoints_table([joined(FULL, newer)])
    assert tuple(column.name for column in table.columns) == FIELDS
    one = {(r["model"], r["task"], r["layer"], r["name"]): r for r in table.rows}
    assert len(one) == len(table.rows)
    assert one["m@step10", "X", 0, "score"]["value"] == 0.77
    late = one["m@step200", "Y", 1, "m.at"]
    assert [late[n] for n in ("family", "step", "depth", "value")] == ["m", 200, 0.25, 3]
    assert ("m@step200", "Y", 0, "m.at") not in one  # absent
    assert ("m@step10", "X", 3, "m.at") not in one  # the newer measurement counts
    assert "unlike" not in table.column("model")


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=100),
)
def test_marks_keep_the_order_of_the_values(values: list[float | None]) -> None:
    there = [v for v in values if v is not None]
    marks = spark(values, min(there, default=0), max(there, default=0))
    assert len(marks) == min(len(values), LONGEST)
    if len(values) <= LONGEST:
        assert [mark == "·" for mark in marks] == [value is None for value in values]
        shown = [mark for mark in marks if mark != "·"]
        ranked = [shown[i] for i in np.argsort(there, kind="stable")]
        assert ranked == sorted(ranked)  # the marks are in order of their code points


def test_the_nearest_layer_is_near() -> None:
    values = dict.fromkeys(range(5), 0.0)
    found = [nearest(values, 4, f) for f in FRACTIONS.values()]
    assert found == [0, 1, 2, 3, 4]
    assert nearest({32: 0.0}, 32, 0.75) is None
    assert nearest({28: 0.0}, 32, 1.0) == 28
    assert nearest({2: 0.0}, 3, 1.0) == 2  # a step below the last layer
    assert nearest({0: 0.0, 1: 0.0}, 1, 0.5) == 0
    assert nearest({}, 4, 0.5) is None
