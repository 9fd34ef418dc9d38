"""Pruned models beside whole ones: changes, medians, intervals, what a sweep lacks; by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pruning_rows import (
    SWEEP,
    both_sides,
    choice,
    drawn,
    line,
    pruned,
    row,
    summed,
    told,
    whole,
    without,
)

from lrd_harness.blocks import written
from lrd_harness.board.leaderboard import report
from lrd_harness.board.pruned import build_pruned, percent, pruning_tables, spread, summary
from lrd_harness.report import Table
from lrd_harness.results.rows import (
    ErrorRow,
    Results,
    UndefinedRow,
)


def tables(held: Results) -> dict[str, Table]:
    return {table.name: table for table in pruning_tables(build_pruned(held))}


def of(found: Any, *names: str) -> tuple[Any, ...]:
    return tuple(found[name] for name in names)


RANDOM = ("random_seeds", "random_low", "random_median", "random_high", "random_interval")


@pytest.mark.parametrize("held", [Results(), replace(SWEEP, prunings=())])
def test_without_choices_there_is_no_table(held: Results) -> None:
    assert build_pruned(held) == pruning_tables([]) == []
    assert told(held) == {}
    assert report(held).get("pruning") is None


def test_a_row_has_means_changes_and_what_is_saved() -> None:
    found = line(SWEEP, "frenet")
    assert of(found, "model", "kind", "blocks", "removed") == ("a", "embedding", 10, 1)
    assert of(found, "tasks", "missing", "seeds", "stderr") == (2, "", None, None)
    assert of(found, "full", "score", "change") == pytest.approx((0.6, 0.45, -25))
    assert of(found, "parameters_saved", "latency_saved") == pytest.approx((10, 15))  # 1 - .85
    (run,) = row(SWEEP, "frenet").runs
    assert (run.seed, run.variant, run.removed) == (None, "without 5", (5,))
    assert line(SWEEP, "gfmi")["parameters_saved"] is None  # its variant has no record
    by_task = row(SWEEP, "frenet").by_task
    assert {t: on["change"] for t, on in by_task.items()} == pytest.approx({"t1": -25, "t2": -25})


def test_random_is_one_row_with_medians_over_its_seeds() -> None:
    found = row(SWEEP, "random")
    assert [(run.seed, run.removed) for run in found.runs] == [(0, (4,)), (1, (6,)), (2, (7,))]
    assert [run.change for run in found.runs] == pytest.approx([-50, -5, -20])
    assert of(found.line, "change", "score") == pytest.approx((-20, 0.48))
    assert found.line["latency_saved"] == pytest.approx(14)  # of 16, 14, 13
    assert of(found.line, "difference", "beats_random", "seeds") == (None, None, 3)
    assert of(found.line, *RANDOM[1:4]) == pytest.approx((-50, -20, -5))
    assert of(found.line, "random_seeds", "random_interval") == (3, "min-max")
    assert found.line["removed_blocks"] == "4; 6; 7"
    assert [on["change"] for on in found.by_task.values()] == pytest.approx([-25, -15])


def test_a_rule_must_be_strictly_better_than_the_median_and_clearly_than_all() -> None:
    held = [line(SWEEP, rule) for rule in ("frenet", "nrs", "gfmi")]
    assert [r["beats_random"] for r in held] == ["no", "yes", "clearly"]
    assert [r["difference"] for r in held] == pytest.approx([-5, 15, 20])
    assert {of(r, *RANDOM) for r in held} == {of(line(SWEEP, "random"), *RANDOM)}
    level = replace(SWEEP, prunings=(*SWEEP.prunings, choice("last", 7)))
    assert of(line(level, "last"), "difference", "beats_random") == (0, "no")


def test_above_a_single_seed_is_not_clearly_above() -> None:
    held = replace(SWEEP, prunings=(*drawn(4), choice("gfmi", 8)))
    assert line(held, "gfmi")["beats_random"] == "yes"
    assert told(held)["pruning_random_few"] == [{"seeds": "1 seed", "cases": 2}]


def test_the_interval_is_of_quantiles_from_20_seeds_on() -> None:
    changes = [-float(k) for k in range(1, 21)]
    # positions .025 x 19 = .475 and .975 x 19 = 18.525 of the ascending changes
    assert of(spread(changes), *RANDOM[:4]) == pytest.approx((20, -19.525, -10.5, -1.475))
    assert spread(changes)["random_interval"] == "2.5-97.5 %"
    assert of(spread(changes[:19]), *RANDOM) == (19, -19, -10, -1, "min-max")
    assert of(spread([]), *RANDOM) == (None,) * 5
    blocks = [(4, 5, 6, 7)[seed % 4] for seed in range(20)]
    held = replace(SWEEP, prunings=(*drawn(*blocks), choice("gfmi", 8)))
    assert line(held, "gfmi")["beats_random"] == "clearly"
    assert line(held, "random")["change"] == pytest.approx(-22.5)
    assert "pruning_random_few" not in told(held)


def test_the_summary_is_of_medians_over_models_and_tasks() -> None:
    every = summary(build_pruned(SWEEP))
    assert [r["rule"] for r in every] == ["gfmi", "nrs", "random", "frenet"]
    frenet, nrs, random = (summed(SWEEP, rule) for rule in ("frenet", "nrs", "random"))
    # random's medians by task are -25 and -15; frenet -25, -25; nrs 0, -15
    assert of(frenet, "change", "difference") == pytest.approx((-25, -5))
    assert of(frenet, "pairs", "compared", "beats", "verdict") == (2, 2, 0, "no")
    assert of(nrs, "change", "difference", "beats") == pytest.approx((-7.5, 12.5, 1))
    assert nrs["verdict"] == "yes"
    assert random["change"] == pytest.approx(-20)
    assert of(random, "compared", "difference", "verdict") == (0, None, None)


def test_the_summary_over_two_models() -> None:
    scores = [
        *whole("b", {"t1": 0.5}),
        *pruned([5], {"t1": 0.6}, "b"),
        *pruned([3], {"t1": 0.4}, "b"),
    ]
    chosen = (choice("frenet", 5, model="b"), *drawn(3, model="b"))
    both = replace(SWEEP, scores=(*SWEEP.scores, *scores), prunings=(*SWEEP.prunings, *chosen))
    found = summed(both, "frenet")  # changes -25, -25, +20; to random 0, -10, +40
    assert of(found, "models", "pairs", "beats", "verdict") == (2, 3, 1, "no")
    assert of(found, "change", "difference") == pytest.approx((-25, 0))
    assert summed(both, "gfmi")["models"] == 1
    assert told(both)["pruning_few"] == [{"models": "2 models"}]
    assert "pruning_uneven" in told(both)
    assert "pruning_uneven" not in told(SWEEP)
    assert told(both)["pruning_random_few"] == [{"seeds": "1 seed", "cases": 2}]
    assert told(SWEEP)["pruning_random_few"] == [{"seeds": "3 seeds", "cases": 4}]


def test_shared_blocks_share_scores_and_are_said() -> None:
    nrs, random = row(SWEEP, "nrs"), row(SWEEP, "random")
    assert nrs.runs[0].variant == random.runs[1].variant
    assert nrs.line["change"] == random.runs[1].change
    assert told(SWEEP)["pruning_same_blocks"] == [
        {"model": "a", "sets": "6 by nrs, random (seed 1)"}
    ]
    again = replace(SWEEP, prunings=(*SWEEP.prunings, choice("frenet", 5, budget=0.15)))
    assert line(again, "frenet", 0.15)["change"] == line(again, "frenet")["change"]
    (same,) = told(again)["pruning_same_count"]
    assert (same["budgets"], same["blocks"]) == ("10 %, 15 %", "1 block")


def test_of_a_choice_made_twice_the_newer_counts() -> None:
    twice = replace(SWEEP, prunings=(*SWEEP.prunings, choice("frenet", 8, version="2")))
    assert line(twice, "frenet")["change"] == 0
    assert told(twice)["pruning_versions"] == [{"rule": "frenet", "versions": "1, 2"}]
    other = replace(SWEEP, prunings=(*SWEEP.prunings, choice("last", 8, candidates=(7, 8))))
    assert told(other)["pruning_protection"] == [{"model": "a"}]


@pytest.mark.parametrize(
    ("blocks", "text"),
    [((7, 12, 13, 14), "7,12-14"), ((1,), "1"), ((1, 2, 4), "1-2,4"), ((), "")],
)
def test_blocks_as_a_user_types_them(blocks: tuple[int, ...], text: str) -> None:
    assert written(blocks) == text


# ---------------------------------------------------------------- tables


def test_tables_for_people_and_programs() -> None:
    found = tables(both_sides())
    shown = [name for name, table in found.items() if table.shown]
    assert shown == ["pruning_summary", "pruning.1", "pruning.2"]
    assert found["pruning.1"].title == "Pruning: a, embedding tasks"
    own = found["pruning.1"]
    assert own.column("rule") == ["gfmi", "nrs", "random", "frenet"]
    assert own.column("cut") == ["8", "6", "1 (3 seeds)", "5"]
    assert own.column("interval") == ["-50.00 to -5.00"] * 4
    assert own.column("verdict") == ["clearly", "yes", None, "no"]
    assert own.column("change.t2") == pytest.approx([0, -15, -15, -25])
    assert own.column("full") == pytest.approx([0.6] * 4)
    base = {column.name for column in found["pruning.2"].columns}
    assert {"interval", "difference", "verdict", "change.mmlu"}.isdisjoint(base)  # nothing in them
    lines = found["pruning"].rows
    assert [r["kind"] for r in lines] == ["embedding"] * 4 + ["base"] * 4
    assert of(lines[3], "rule", "change.t1", "change.mmlu") == ("frenet", pytest.approx(-25), None)
    runs = [r for r in found["pruning_runs"].rows if r["rule"] == "random"]
    assert [of(r, "seed", "removed") for r in runs[:3]] == [(0, (4,)), (1, (6,)), (2, (7,))]
    on_task = found["pruning_tasks"].rows[0]
    assert of(on_task, "task", "full", "change") == ("t1", 0.8, 0)


# ---------------------------------------------------------------- what is missing


def test_a_missing_score_leaves_the_tasks_that_both_have() -> None:
    held = without(SWEEP, "without 5", "t2")
    found = row(held, "frenet")
    assert (found.tasks, found.missing) == (("t1",), ("t2",))
    assert of(found.line, "full", "score") == (0.8, 0.6)
    assert found.line["change"] == pytest.approx(-25)
    assert found.line["random_median"] == pytest.approx(-25)  # on the same task: -50, 0, -25
    assert found.line["beats_random"] == "no"
    assert row(held, "nrs") == row(SWEEP, "nrs")
    (missing,) = told(held)["pruning_missing"]
    assert (missing["tasks"], missing["who"]) == ("t2", "frenet at 10 %")
    assert "1/2" in tables(held)["pruning.1"].column("scored")


def test_a_seed_without_all_tasks_is_left_out() -> None:
    held = without(SWEEP, "without 7", "t2")
    found = row(held, "random")
    assert [run.change for run in found.runs] == pytest.approx([-50, -5, None])
    assert found.line["change"] == pytest.approx(-27.5)
    assert found.line["random_seeds"] == 2
    (missing,) = told(held)["pruning_seeds_missing"]
    assert (missing["who"], missing["seeds"]) == ("random at 10 %", "2")


def test_a_choice_that_is_not_scored_yet_is_shown() -> None:
    held = without(SWEEP, "without 5", "t1", "t2")
    found = row(held, "frenet")
    assert (found.tasks, found.missing) == ((), ("t1", "t2"))
    assert of(found.line, "full", "score", "change", "beats_random") == (None,) * 4
    assert found.line["parameters_saved"] == pytest.approx(10)
    assert of(summed(held, "frenet"), "pairs", "change") == (0, None)
    bare = replace(SWEEP, scores=())
    assert [r.line["rule"] for r in build_pruned(bare)] == ["frenet", "random", "nrs", "gfmi"]
    assert {"pruning_whole_unscored", "pruning_random_unscored"} <= told(bare).keys()


def test_tasks_that_the_sweep_was_not_asked_for_are_not_missing() -> None:
    more = replace(SWEEP, scores=(*SWEEP.scores, *whole(tasks={"t3": 0.1})))
    assert build_pruned(more) == build_pruned(SWEEP)


def test_what_the_whole_model_lacks_is_said() -> None:
    kept = [r for r in SWEEP.scores if r.variant != "full" or r.task != "t2" or not r.last]
    held = replace(SWEEP, scores=tuple(kept))
    assert row(held, "frenet").tasks == ("t1",)
    assert told(held)["pruning_whole_missing"] == [{"model": "a", "tasks": "t2"}]


def test_an_error_of_a_pruned_model_makes_its_task_missing() -> None:
    error = ErrorRow(model="a", variant="without 5", task="t3", error="E")
    held = replace(SWEEP, scores=(*SWEEP.scores, *whole(tasks={"t3": 0.1})), errors=(error,))
    assert row(held, "frenet").missing == ("t3",)
    assert any("without 5" in one for one in report(held).errors)
    gap = UndefinedRow(model="a", variant="without 5", task="t3", layer=9, error="all the same")
    held = replace(held, errors=(), undefined=(gap,))
    assert row(held, "frenet").missing == ("t3",)
    (undefined,) = told(held)["pruning_undefined"]
    assert of(undefined, "variants", "task", "reason") == ("without 5", "t3", "all the same")


def test_without_random_nothing_is_compared() -> None:
    held = replace(SWEEP, prunings=tuple(r for r in SWEEP.prunings if r.rule != "random"))
    lines = [r.line for r in build_pruned(held)]
    assert {of(r, "random_seeds", "beats_random") for r in lines} == {(None, None)}
    assert summed(held, "gfmi")["verdict"] is None
    assert "pruning_random_absent" in told(held)
    assert "interval" not in {column.name for column in tables(held)["pruning.1"].columns}


def test_a_score_at_or_below_zero_has_no_change_in_percent() -> None:
    assert percent(0.3, 0.4) == pytest.approx(-25)
    assert percent(0.4, 0.4) == 0
    assert percent(0.1, 0.0) is percent(0.1, -0.2) is None
    kept = [replace(r, score=-0.4) if r.task == "t2" and r.last else r for r in SWEEP.scores]
    held = replace(SWEEP, scores=tuple(kept))
    assert row(held, "frenet").by_task["t2"]["change"] is None
    assert summed(held, "frenet")["pairs"] == 1
    assert told(held)["pruning_not_positive"] == [{"model": "a", "tasks": "t2"}]


def test_likelihood_tasks_are_apart() -> None:
    held = both_sides()
    assert row(held, "frenet") == row(SWEEP, "frenet")
    sides = [r for r in summary(build_pruned(held)) if r["kind"] == "embedding"]
    assert sides == summary(build_pruned(SWEEP))
    found = line(held, "frenet", kind="base")
    assert of(found, "tasks", "score", "stderr", "random_seeds") == (1, 0.4, 0.03, None)
    assert found["change"] == pytest.approx(-20)
    assert summed(held, "frenet", kind="base")["pairs"] == 1
    alone = replace(held, scores=tuple(r for r in held.scores if r.task_type))
    assert {r.line["kind"] for r in build_pruned(alone)} == {"base"}


def test_a_model_that_guesses_is_remarked_on() -> None:
    assert "pruning_guess" not in told(both_sides())
    for guessing in (both_sides(stderr=0.2), both_sides(full=0.28)):
        (found,) = told(guessing)["pruning_guess"]
        assert of(found, "model", "task", "chance") == ("a", "mmlu", 0.25)
