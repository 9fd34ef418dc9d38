"""Checkpoints of one training run: the families that names make, tables by step and depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from selection_panels import joined

from lrd_harness import cli
from lrd_harness.board.leaderboard import report
from lrd_harness.board.training import (
    FIELDS,
    FRACTIONS,
    LONGEST,
    checkpoint_tables,
    checkpoints_table,
    families,
    nearest,
    spark,
)
from lrd_harness.cli.arguments import suite_of
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.errors import UserError
from lrd_harness.models.find import expand
from lrd_harness.planning import suite
from lrd_harness.report import Table
from lrd_harness.results.rows import MetricRow, ModelRow, Profile, Results, ScoreRow


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("m@{a,b", "braces do not match; a name with blanks in the braces needs quotes"),
        ("m@}a{", "braces do not match"),
        ("m@{a, }", "an item in the braces is empty"),
        ("m@{}", "an item in the braces is empty"),
        ("{m,n}@{a,b}", "more than one group of braces"),
        ("m@{a,{b,c}}", "more than one group of braces"),
    ],
)
def test_braces_that_are_wrong(name: str, what: str) -> None:
    with pytest.raises(UserError) as raised:
        expand(name, "command line")
    assert str(raised.value) == f"command line: model '{name}': {what}"


def test_suites_and_the_command_line_expand_braces(tmp_path: Path) -> None:
    text = "models:\n- org/m@{step1,step2}\n- {model: 'o/p@{c, d}', pooling: mean}\n"
    models = suite.parse_suite(text, "mine", "mine.yaml").models
    assert [(entry.model, entry.pooling) for entry in models] == [
        *(("org/m@step1", None), ("org/m@step2", None)),
        *(("o/p@c", "mean"), ("o/p@d", "mean")),
    ]
    with pytest.raises(UserError, match=r"^mine\.yaml: model 'm@\{a': braces do not match"):
        suite.parse_suite("models: ['m@{a']", "mine", "mine.yaml")
    typed = cli.parser().parse_args(["run", "--models", "m@{x,y}", "z", "--tasks", "T"])
    assert [entry.model for entry in suite_of(typed).models] == ["m@x", "m@y", "z"]
    (tmp_path / "odd{a,b}").mkdir()  # a folder that is there stays as it is
    assert expand(str(tmp_path / "odd{a,b}"), "x") == [str(tmp_path / "odd{a,b}")]


def series(*names: str) -> list[tuple[str, str, list[tuple[int | None, str]]]]:
    """The families of models with these names: stem, unit, members' steps and labels."""
    of_names = families(tuple(ModelRow(model=name) for name in names))
    return [(f.stem, f.unit, [(m.step, m.label) for m in f.members]) for f in of_names]


def test_revisions_with_steps_are_sorted_and_the_plain_name_is_the_final_one() -> None:
    names = ("org/p", *(f"org/p@step{n}" for n in (128000, 1000)), "other/model")
    steps = [(1000, "step1000"), (128000, "step128000"), (None, "final")]
    assert series(*names) == [("org/p", "step", steps)]
    assert series("m@step1", "m@main")[0][2] == [(1, "step1"), (None, "final")]


@pytest.mark.parametrize(
    ("revision", "step"),
    [
        ("step1000-tokens4B", 1000),
        ("checkpoint-500", 500),
        ("ckpt_500", 500),
        ("global_step10", 10),
        ("iter_0001000", 1000),
        ("epoch=2-step=70", 70),
        ("step_200k", 200_000),
        ("STEP-5", 5),
        ("2000", 2000),
        *((name, None) for name in ("v2", "refs/pr/5", "seed3", "0a1b2c3", "step-3.5", "4step")),
    ],
)
def test_the_step_of_a_revision(revision: str, step: int | None) -> None:
    if step is None:
        loose = [(None, revision), (None, "zz"), (None, "final")]
        assert series(f"m@{revision}", "m@zz", "m") == [("m", "", loose)]
    else:
        both = sorted([(1, "step1"), (step, revision)])
        assert series("m@step1", f"m@{revision}") == [("m", "step", both)]


def test_units_and_stages_of_training_are_never_one_series() -> None:
    names = [f"m@{r}" for r in ("stage1-step10", "stage1-step20", "stage2-step5", "stage2-step7")]
    names += ["m@epoch1", "m@epoch2", "m@tokens4B", "m@tokens1B"]
    assert series(*names, "m") == [
        ("m@stage1", "step", [(10, "stage1-step10"), (20, "stage1-step20")]),
        ("m@stage2", "step", [(5, "stage2-step5"), (7, "stage2-step7")]),
        ("m", "epoch", [(1, "epoch1"), (2, "epoch2")]),
        ("m", "tokens", [(10**9, "tokens1B"), (4 * 10**9, "tokens4B")]),
    ]


def test_folders_that_end_in_a_step() -> None:
    assert series("local/checkpoint-100", "local/checkpoint-20", "local/bert") == [
        ("local/checkpoint", "step", [(20, "checkpoint-20"), (100, "checkpoint-100")])
    ]
    assert series("local/a/ckpt5", "local/b/ckpt5", "local/a/ckpt50") == [
        ("local/a", "step", [(5, "ckpt5"), (50, "ckpt50")])
    ]
    epochs = series("local/my-epoch_2", "local/my-epoch_1", "local/my")
    assert epochs[0][:2] == ("local/my", "epoch")
    assert series("local/step1-tuned", "local/step2-tuned") == []
    assert series("stepfun/step2", "stepfun/step3") == []  # names of models of their own
    assert series("org/bert-step_20k", "org/bert-step_40k")[0][0] == "org/bert"


def test_readings_unlike_models_and_rows_of_one_name() -> None:
    names = ["m@step1", "m@step2", "m@step1 [cls]", "m@step2 [cls]", "m@step3 [mean]"]
    assert [stem for stem, _, _ in series(*names)] == ["m", "m [cls]"]
    shapes = enumerate([(2, 8), (2, 8), (4, 8), (2, 16)])
    models = tuple(ModelRow(model=f"local/step{i}", blocks=b, width=w) for i, (b, w) in shapes)
    (alike,) = families(models)
    assert [member.step for member in alike.members] == [0, 1]
    (commits,) = families(tuple(ModelRow(model="m", revision=r * 40) for r in "ba"))
    assert [(m.step, m.label) for m in commits.members] == [(None, "b" * 12), (None, "a" * 12)]
    pruned = ModelRow(model="m@step2", variant="pruned")
    assert families((ModelRow(model="m@step1"), pruned)) == ()


def measured(name: str, scores: Any, values: Any, task: str = "X", kind: str = "STS") -> Results:
    """A model of four blocks with a score and a value of the metric m a layer; None: absent."""
    at: dict[str, Any] = {"model": name, "task": task, "task_type": kind}
    layers = tuple(range(5))
    metric = MetricRow(
        **at,
        metric="m",
        n=20,
        selection=("total", "max"),
        layer_choice=("at", "min"),
        values={"total": sum(v for v in values if v is not None)},
        profiles={"other": Profile((0,), (9.0,)), "at": Profile(layers, tuple(values))},
    )
    return Results(
        models=(ModelRow(model=name, blocks=4, width=8),),
        scores=tuple(
            ScoreRow(**at, layer=n, layers=4, score=s)
            for n, s in zip(layers, scores, strict=True)
            if s is not None
        ),
        metrics=(metric,),
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


def tables(results: Results) -> dict[str, Table]:
    return {table.name: table for table in checkpoint_tables(results)}


def test_means_are_over_the_tasks_that_all_checkpoints_have() -> None:
    summary, curves = tables(FULL)["checkpoints.1"], tables(FULL)["checkpoint_curves"]
    assert summary.column("step") == [10, 200]
    assert summary.column("score") == pytest.approx([0.25, 0.7])
    assert summary.column("best_layer") == [1, 2]  # a tie: the lower
    assert summary.column("best_score") == pytest.approx([0.4, 0.7])
    assert summary.column("m.total") == pytest.approx([(15 + 27) / 2, (19 + 21) / 2])
    assert summary.column("layer.m") == [3, 3]
    assert summary.column("depth") == [4, 4]
    assert next(c.best for c in summary.columns if c.name == "m.total") == "max"
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
    shares = [score[f"depth.{share}"] for share in FRACTIONS]
    assert shares == pytest.approx([0.2, 0.4, 0.3, 0.3, 0.25])
    # from 0.2 to 0.7: 0.2 .4 .3 .3 .25 and 0.2 .5 .7 .6 .7, in sevenths
    assert [score["layers"], late["layers"]] == ["▁▄▂▂▂", "▁▅█▇█"]
    assert (metric["curve"], metric["step"]) == ("m.at", 10)
    assert by_depth.column("depth.0")[2:] == [6, 2]  # layer 0 of one, layer 1 of the other
    assert [row["layers"][0] for row in by_depth.rows[2:]] == ["▅", "·"]


def test_a_metric_without_a_layer_choice_shows_its_first_profile_and_chooses_none() -> None:
    run = joined(EARLY, LATE)
    bare = [replace(row, layer_choice=None, selection=None) for row in run.metrics]
    by_name = tables(replace(run, metrics=tuple(bare)))
    assert {"m.total", "layer.m"}.isdisjoint(c.name for c in by_name["checkpoints.1"].columns)
    assert by_name["checkpoint_curves"].column("curve") == ["score"] * 2 + ["m.other"] * 2
    assert by_name["checkpoint_curves"].column("choose")[2:] == [None, None]


def test_checkpoints_that_lack_values() -> None:
    unknown = tables(joined(FULL, Results(models=(ModelRow(model="m@step3000"),))))
    assert unknown["checkpoints.1"].column("step") == [10, 200]  # its shape is not known
    failed = Results(models=(ModelRow(model="m@step3000", blocks=4, width=8),))
    summary = tables(joined(FULL, failed))["checkpoints.1"]
    assert summary.column("score") == [pytest.approx(0.25), pytest.approx(0.7), None]
    assert (summary.rows[2]["best_layer"], summary.rows[2]["layer.m"]) == (None, None)
    names = (ModelRow(model="m@step1"), ModelRow(model="m@step2"))
    assert checkpoint_tables(Results(models=names)) == []
    last = [measured(f"m@step{i}", (*[None] * 4, i / 10), (1.0, 2, 3, 4, 5)) for i in (1, 2)]
    by_name = tables(joined(*last))  # where only the last layer was scored no score is drawn
    assert set(by_name["checkpoints.1.depth"].column("curve")) == {"m.at"}
    assert "best_layer" not in {column.name for column in by_name["checkpoints.1"].columns}


def test_likelihood_tasks_are_apart() -> None:
    steps = ((10, 0.3), (200, 1))
    likely = [measured(f"m@step{n}", (s,) * 5, (s,) * 5, "arc", LIKELIHOOD) for n, s in steps]
    board = report(joined(FULL, *likely))
    assert board.table("base.checkpoints.1").column("score") == [0.3, 1]
    assert board.table("checkpoints.1").column("score") == pytest.approx([0.25, 0.7])
    assert set(board.table("checkpoints").column("task")) == {"X", "Y", "only one has it", "arc"}


def test_programs_get_every_number_once() -> None:
    newer = measured("m@step10", (0.77, *[None] * 4), (5.5, None, None, None, None))
    table = checkpoints_table([joined(FULL, newer)])
    assert tuple(column.name for column in table.columns) == FIELDS
    by_unit = {(r["model"], r["task"], r["layer"], r["name"]): r for r in table.rows}
    assert len(by_unit) == len(table.rows)
    assert by_unit["m@step10", "X", 0, "score"]["value"] == 0.77
    late = by_unit["m@step200", "Y", 1, "m.at"]
    assert [late[n] for n in ("family", "step", "depth", "value")] == ["m", 200, 0.25, 3]
    assert ("m@step200", "Y", 0, "m.at") not in by_unit  # absent
    assert ("m@step10", "X", 3, "m.at") not in by_unit  # the newer measurement counts
    assert "unlike" not in table.column("model")


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=100))
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
    assert [nearest(values, 4, share) for share in FRACTIONS.values()] == [0, 1, 2, 3, 4]
    assert nearest({32: 0.0}, 32, 0.75) is None
    assert nearest({28: 0.0}, 32, 1.0) == 28
    assert nearest({2: 0.0}, 3, 1.0) == 2  # a step below the last layer
    assert nearest({0: 0.0, 1: 0.0}, 1, 0.5) == 0
    assert nearest({}, 4, 0.5) is None
