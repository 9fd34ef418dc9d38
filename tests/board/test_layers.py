"""Curves over layers: newer rows, absent values, and the tables of one model and of all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from choice_rows import BLOCKS, SCORES, likelihood, metric, results, scores

from lrd_harness.board.layer_choice import build_choice
from lrd_harness.board.layers import curves, layer_table, layers_table, records, roles
from lrd_harness.errors import UserError
from lrd_harness.results.kinds import split
from lrd_harness.results.rows import Results


def test_of_a_unit_that_is_there_twice_the_newer_counts() -> None:
    new = metric("m", "t1", (None, 1.0, float("nan"), 3.0))
    rows = (metric("m", "t1", (9.0, 9.0)), new)
    again = (*scores("t1", (0.1, 0.2)), *scores("t1", (0.3,)))
    lines = curves(Results(scores=tuple(again), metrics=rows))
    columns = ["model", "task", "layer", "value", "along"]
    score, profile = (lines.loc[lines.source == source, columns] for source in ("score", "m.m"))
    assert records(score) == [
        {"model": "a", "task": "t1", "layer": layer, "value": value, "along": layer / BLOCKS}
        for layer, value in enumerate((0.3, 0.2))
    ]
    assert [row["value"] for row in records(profile)] == [None, 1, None, 3]  # absent, no number
    assert list(profile.along) == [0, 1 / 3, 2 / 3, 1]


def test_what_stands_for_a_metric() -> None:
    first = metric("m", "t1", (1.0, 2.0))
    chosen = replace(first, layer_choice=("other", "min"), selection=("v", "max"))
    assert roles([first])["m"][:5] == ("m", "m", "max", False, False)
    assert roles([first, chosen, first])["m"][:5] == ("m", "other", "min", True, True)
    assert roles([replace(first, variant="without 3"), replace(first, profiles={})]) == {}


def test_one_model_layer_by_layer() -> None:
    run = results()
    table = layer_table(run, "a")
    assert table.column("layer") == [0, 1, 2, 3, 4]
    assert table.column("score.t2") == list(SCORES["t2"])
    means = [sum(SCORES[t][layer] for t in SCORES) / 3 for layer in range(5)]
    assert table.column("score") == pytest.approx(means)
    assert table.column("good.good")[0] == pytest.approx((5 + 5 + 9) / 3)
    assert table.column("bad.bad") == [3, 2, 1.5, 1, None]  # a value per step
    with pytest.raises(UserError, match="unknown model 'aa'"):
        layer_table(run, "aa")
    with pytest.raises(UserError, match="revision x"):
        layer_table(run, "a", "x")
    newer = replace(run.models[0], revision="new")
    rows = scores("t1", (0.7, 0.8), revision="new")
    run = replace(run, models=(*run.models, newer), scores=(*run.scores, *rows))
    assert layer_table(run, "a").column("score") == [0.7, 0.8]
    assert layer_table(run, "a", "").column("score.t1") == list(SCORES["t1"])


def test_means_of_a_model_are_over_its_embedding_tasks() -> None:
    table, plain = layer_table(likelihood(), "a"), layer_table(results(), "a")
    for name in ("score", "good.good", "bad.bad"):
        assert table.column(name) == plain.column(name)
    assert table.column("score.lm") == [0.25, 0.25, 0.3, 0.5, 0.4]
    assert "lm" in table.caption[-1]
    lm = tuple(row for row in likelihood().scores if row.task == "lm")
    alone = layer_table(Results(likelihood().models, lm), "a")
    assert alone.column("score") == [0.25, 0.25, 0.3, 0.5, 0.4]


def test_programs_get_one_row_per_model_task_and_layer() -> None:
    both = list(split(likelihood()).values())
    chosen = [choice for side in both if (choice := build_choice(side))]
    picks = [row for choice in chosen for row in choice.picks]
    table = layers_table(both, picks)
    names = "model revision task layer depth score good.good good.other bad.bad bad.other"
    assert [column.name for column in table.columns] == [
        *names.split(),
        *("picked.good", "picked.bad"),
    ]
    assert len(table.rows) == 4 * (BLOCKS + 1)
    rows = {(row["task"], row["layer"]): row for row in table.rows}
    assert rows["t1", 2]["depth"] == 0.5
    assert [rows["t1", n].get("picked.good") for n in range(5)] == [None, None, 1, None, None]
    assert rows["lm", 0]["picked.good"] == 1
    assert rows["t1", 4].get("bad.bad") is None
    assert list(dict.fromkeys(table.column("task"))) == ["t1", "t2", "t3", "lm"]
    last = tuple(row for row in results().scores if row.last)
    assert layers_table([replace(results(), scores=last, metrics=())]).rows == []
