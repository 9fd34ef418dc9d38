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

from lrd_harness.board.leaderboard import report
from lrd_harness.board.pruned import build_pruned, percent, pruning_tables, spread, summary
from lrd_harness.report import Table
from lrd_harness.results.rows import ErrorRow, PruningRow, Results, ScoreRow, UndefinedRow


def tables(run: Results) -> dict[str, Table]:
    return {table.name: table for table in pruning_tables(build_pruned(run))}


def of(row: Any, *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def with_choices(*choices: PruningRow) -> Results:
    return replace(SWEEP, prunings=(*SWEEP.prunings, *choices))


def with_scores(*scores: ScoreRow, **more: Any) -> Results:
    return replace(SWEEP, scores=(*SWEEP.scores, *scores), **more)


RANDOM = ("random_seeds", "random_low", "random_median", "random_high", "random_interval")


@pytest.mark.parametrize("run", [Results(), replace(SWEEP, prunings=())])
def test_without_choices_there_is_no_table(run: Results) -> None:
    assert build_pruned(run) == pruning_tables([]) == []
    assert told(run) == {}
    assert report(run).get("pruning") is None


def test_a_row_has_means_changes_and_what_is_saved() -> None:
    frenet = line(SWEEP, "frenet")
    assert of(frenet, "model", "kind", "blocks", "removed") == ("a", "embedding", 10, 1)
    assert of(frenet, "tasks", "missing", "seeds", "stderr") == (2, "", None, None)
    assert of(frenet, "full", "score", "change") == pytest.approx((0.6, 0.45, -25))
    assert of(frenet, "parameters_saved", "latency_saved") == pytest.approx((10, 15))  # 1 - .85
    (run,) = row(SWEEP, "frenet").runs
    assert (run.seed, run.variant, run.removed) == (None, "without 5", (5,))
    assert line(SWEEP, "gfmi")["parameters_saved"] is None  # its variant has no record
    by_task = row(SWEEP, "frenet").by_task
    assert {t: on["change"] for t, on in by_task.items()} == pytest.approx({"t1": -25, "t2": -25})


def test_random_is_one_row_with_medians_over_its_seeds() -> None:
    random = row(SWEEP, "random")
    assert [(run.seed, run.removed) for run in random.runs] == [(0, (4,)), (1, (6,)), (2, (7,))]
    assert [run.change for run in random.runs] == pytest.approx([-50, -5, -20])
    assert of(random.line, "change", "score", "latency_saved") == pytest.approx((-20, 0.48, 14))
    assert of(random.line, "difference", "beats_random", "seeds") == (None, None, 3)
    assert of(random.line, *RANDOM[1:4]) == pytest.approx((-50, -20, -5))
    assert of(random.line, "random_seeds", "random_interval") == (3, "min-max")
    assert random.line["removed_blocks"] == "4; 6; 7"
    assert [on["change"] for on in random.by_task.values()] == pytest.approx([-25, -15])


def test_a_rule_must_be_strictly_better_than_the_median_and_clearly_than_all() -> None:
    lines = [line(SWEEP, rule) for rule in ("frenet", "nrs", "gfmi")]
    assert [r["beats_random"] for r in lines] == ["no", "yes", "clearly"]
    assert [r["difference"] for r in lines] == pytest.approx([-5, 15, 20])
    assert {of(r, *RANDOM) for r in lines} == {of(line(SWEEP, "random"), *RANDOM)}
    level = with_choices(choice("last", 7))
    assert of(line(level, "last"), "difference", "beats_random") == (0, "no")
    single = replace(SWEEP, prunings=(*drawn(4), choice("gfmi", 8)))  # above one seed is not clear
    assert line(single, "gfmi")["beats_random"] == "yes"
    assert told(single)["pruning_random_few"] == [{"seeds": "1 seed", "cases": 2}]


def test_the_interval_is_of_quantiles_from_20_seeds_on() -> None:
    changes = [-float(k) for k in range(1, 21)]
    # positions .025 x 19 = .475 and .975 x 19 = 18.525 of the ascending changes
    assert of(spread(changes), *RANDOM[:4]) == pytest.approx((20, -19.525, -10.5, -1.475))
    assert spread(changes)["random_interval"] == "2.5-97.5 %"
    assert of(spread(changes[:19]), *RANDOM) == (19, -19, -10, -1, "min-max")
    assert of(spread([]), *RANDOM) == (None,) * 5
    blocks = [(4, 5, 6, 7)[seed % 4] for seed in range(20)]
    many = replace(SWEEP, prunings=(*drawn(*blocks), choice("gfmi", 8)))
    assert line(many, "gfmi")["beats_random"] == "clearly"
    assert line(many, "random")["change"] == pytest.approx(-22.5)
    assert "pruning_random_few" not in told(many)


def test_the_summary_is_of_medians_over_models_and_tasks() -> None:
    rules = [r["rule"] for r in summary(build_pruned(SWEEP))]
    assert rules == ["gfmi", "nrs", "random", "frenet"]
    frenet, nrs, random = (summed(SWEEP, rule) for rule in ("frenet", "nrs", "random"))
    # random's medians by task are -25 and -15; frenet -25, -25; nrs 0, -15
    assert of(frenet, "change", "difference") == pytest.approx((-25, -5))
    assert of(frenet, "pairs", "compared", "beats", "verdict") == (2, 2, 0, "no")
    assert of(nrs, "change", "difference", "beats") == pytest.approx((-7.5, 12.5, 1))
    assert nrs["verdict"] == "yes"
    assert random["change"] == pytest.approx(-20)
    assert of(random, "compared", "difference", "verdict") == (0, None, None)


def test_the_summary_over_two_models() -> None:
    of_b = pruned([5], {"t1": 0.6}, "b") + pruned([3], {"t1": 0.4}, "b")
    both = with_scores(*whole("b", {"t1": 0.5}), *of_b)
    chosen = (choice("frenet", 5, model="b"), *drawn(3, model="b"))
    both = replace(both, prunings=(*SWEEP.prunings, *chosen))
    frenet = summed(both, "frenet")  # changes -25, -25, +20; to random 0, -10, +40
    assert of(frenet, "models", "pairs", "beats", "verdict") == (2, 3, 1, "no")
    assert of(frenet, "change", "difference") == pytest.approx((-25, 0))
    assert summed(both, "gfmi")["models"] == 1
    assert told(both)["pruning_few"] == [{"models": "2 models"}]
    assert ("pruning_uneven" in told(both), "pruning_uneven" in told(SWEEP)) == (True, False)
    assert told(SWEEP)["pruning_random_few"] == [{"seeds": "3 seeds", "cases": 4}]


def test_shared_blocks_and_choices_made_twice() -> None:
    nrs, random = row(SWEEP, "nrs"), row(SWEEP, "random")
    assert nrs.runs[0].variant == random.runs[1].variant
    assert nrs.line["change"] == random.runs[1].change
    sets = [{"model": "a", "sets": "6 by nrs, random (seed 1)"}]
    assert told(SWEEP)["pruning_same_blocks"] == sets
    again = with_choices(choice("frenet", 5, budget=0.15))
    assert line(again, "frenet", 0.15)["change"] == line(again, "frenet")["change"]
    (same,) = told(again)["pruning_same_count"]
    assert of(same, "budgets", "blocks") == ("10 %, 15 %", "1 block")
    twice = with_choices(choice("frenet", 8, version="2"))  # the newer counts
    assert line(twice, "frenet")["change"] == 0
    assert told(twice)["pruning_versions"] == [{"rule": "frenet", "versions": "1, 2"}]
    other = with_choices(choice("last", 8, candidates=(7, 8)))
    assert told(other)["pruning_protection"] == [{"model": "a"}]


def test_tables_for_people_and_programs() -> None:
    by_name = tables(both_sides())
    shown = [name for name, table in by_name.items() if table.shown]
    assert shown == ["pruning_summary", "pruning.1", "pruning.2"]
    of_model = by_name["pruning.1"]
    assert of_model.title == "Pruning: a, embedding tasks"
    assert of_model.column("rule") == ["gfmi", "nrs", "random", "frenet"]
    assert of_model.column("cut") == ["8", "6", "1 (3 seeds)", "5"]
    assert of_model.column("interval") == ["-50.00 to -5.00"] * 4
    assert of_model.column("verdict") == ["clearly", "yes", None, "no"]
    assert of_model.column("change.t2") == pytest.approx([0, -15, -15, -25])
    assert of_model.column("full") == pytest.approx([0.6] * 4)
    base = {column.name for column in by_name["pruning.2"].columns}
    assert {"interval", "difference", "verdict", "change.mmlu"}.isdisjoint(base)  # nothing in them
    lines = by_name["pruning"].rows
    assert [r["kind"] for r in lines] == ["embedding"] * 4 + ["base"] * 4
    assert of(lines[3], "rule", "change.t1", "change.mmlu") == ("frenet", pytest.approx(-25), None)
    runs = [r for r in by_name["pruning_runs"].rows if r["rule"] == "random"]
    assert [of(r, "seed", "removed") for r in runs[:3]] == [(0, (4,)), (1, (6,)), (2, (7,))]
    assert of(by_name["pruning_tasks"].rows[0], "task", "full", "change") == ("t1", 0.8, 0)


def test_perplexity_stands_beside_the_whole_models_where_it_was_read() -> None:
    assert "pruning_generation" not in told(SWEEP)  # as of a run of before
    assert "perplexity" not in {c.name for c in tables(SWEEP)["pruning.1"].columns if c.shown}
    variants = tuple(
        replace(v, perplexity=10.0 * v.removed[0], perplexity_full=30.0) for v in SWEEP.variants
    )
    read = replace(SWEEP, variants=variants)  # of 8, which gfmi removes, nothing is recorded
    table = tables(read)["pruning.1"]
    assert table.column("rule") == ["gfmi", "nrs", "random", "frenet"]
    assert table.column("perplexity") == [None, 60, 60, 50]  # of random: 40, 60, 70
    assert table.column("perplexity_full") == [None, 30, 30, 30]
    assert any("sample of the tasks' texts" in sentence for sentence in table.caption)
    (caution,) = told(read)["pruning_generation"]
    assert caution == {"model": "a", "perplexity": 70, "perplexity_full": 30}


def test_a_missing_score_leaves_the_tasks_that_both_have() -> None:
    run = without(SWEEP, "without 5", "t2")
    frenet = row(run, "frenet")
    assert (frenet.tasks, frenet.missing) == (("t1",), ("t2",))
    assert of(frenet.line, "full", "score", "beats_random") == (0.8, 0.6, "no")
    # random's on the same task: -50, 0, -25
    assert of(frenet.line, "change", "random_median") == pytest.approx((-25, -25))
    assert row(run, "nrs") == row(SWEEP, "nrs")
    (missing,) = told(run)["pruning_missing"]
    assert of(missing, "tasks", "who") == ("t2", "frenet at 10 %")
    assert "1/2" in tables(run)["pruning.1"].column("scored")


def test_a_seed_without_all_tasks_is_left_out() -> None:
    run = without(SWEEP, "without 7", "t2")
    random = row(run, "random")
    assert [of_seed.change for of_seed in random.runs] == pytest.approx([-50, -5, None])
    assert of(random.line, "change", "random_seeds") == (pytest.approx(-27.5), 2)
    (missing,) = told(run)["pruning_seeds_missing"]
    assert of(missing, "who", "seeds") == ("random at 10 %", "2")


def test_a_choice_that_is_not_scored_yet_is_shown() -> None:
    run = without(SWEEP, "without 5", "t1", "t2")
    frenet = row(run, "frenet")
    assert (frenet.tasks, frenet.missing) == ((), ("t1", "t2"))
    assert of(frenet.line, "full", "score", "change", "beats_random") == (None,) * 4
    assert frenet.line["parameters_saved"] == pytest.approx(10)
    assert of(summed(run, "frenet"), "pairs", "change") == (0, None)
    bare = replace(SWEEP, scores=())
    assert [r.line["rule"] for r in build_pruned(bare)] == ["frenet", "random", "nrs", "gfmi"]
    assert {"pruning_whole_unscored", "pruning_random_unscored"} <= told(bare).keys()


def test_what_the_whole_model_lacks_is_said() -> None:
    kept = [r for r in SWEEP.scores if r.variant != "full" or r.task != "t2" or not r.last]
    run = replace(SWEEP, scores=tuple(kept))
    assert row(run, "frenet").tasks == ("t1",)
    assert told(run)["pruning_whole_missing"] == [{"model": "a", "tasks": "t2"}]


def test_tasks_that_the_sweep_was_asked_for_are_missing_where_they_failed() -> None:
    unasked = with_scores(*whole(tasks={"t3": 0.1}))
    assert build_pruned(unasked) == build_pruned(SWEEP)
    error = ErrorRow(model="a", variant="without 5", task="t3", error="E")
    failed = replace(unasked, errors=(error,))
    assert row(failed, "frenet").missing == ("t3",)
    assert any("without 5" in text for text in report(failed).errors)
    gap = UndefinedRow(model="a", variant="without 5", task="t3", layer=9, error="all the same")
    undefined = replace(unasked, undefined=(gap,))
    assert row(undefined, "frenet").missing == ("t3",)
    (numbers,) = told(undefined)["pruning_undefined"]
    assert of(numbers, "variants", "task", "reason") == ("without 5", "t3", "all the same")


def test_without_random_nothing_is_compared() -> None:
    run = replace(SWEEP, prunings=tuple(r for r in SWEEP.prunings if r.rule != "random"))
    lines = [r.line for r in build_pruned(run)]
    assert {of(r, "random_seeds", "beats_random") for r in lines} == {(None, None)}
    assert summed(run, "gfmi")["verdict"] is None
    assert "pruning_random_absent" in told(run)
    assert "interval" not in {column.name for column in tables(run)["pruning.1"].columns}


def test_a_score_at_or_below_zero_has_no_change_in_percent() -> None:
    assert (percent(0.3, 0.4), percent(0.4, 0.4)) == pytest.approx((-25, 0))
    assert percent(0.1, 0.0) is percent(0.1, -0.2) is None
    kept = [replace(r, score=-0.4) if r.task == "t2" and r.last else r for r in SWEEP.scores]
    run = replace(SWEEP, scores=tuple(kept))
    assert row(run, "frenet").by_task["t2"]["change"] is None
    assert summed(run, "frenet")["pairs"] == 1
    assert told(run)["pruning_not_positive"] == [{"model": "a", "tasks": "t2"}]


def test_likelihood_tasks_are_apart_and_a_model_that_guesses_is_remarked_on() -> None:
    run = both_sides()
    assert row(run, "frenet") == row(SWEEP, "frenet")
    sides = [r for r in summary(build_pruned(run)) if r["kind"] == "embedding"]
    assert sides == summary(build_pruned(SWEEP))
    base = line(run, "frenet", kind="base")
    assert of(base, "tasks", "score", "stderr", "random_seeds") == (1, 0.4, 0.03, None)
    assert base["change"] == pytest.approx(-20)
    assert summed(run, "frenet", kind="base")["pairs"] == 1
    alone = replace(run, scores=tuple(r for r in run.scores if r.task_type))
    assert {r.line["kind"] for r in build_pruned(alone)} == {"base"}
    assert "pruning_guess" not in told(run)
    for guessing in (both_sides(stderr=0.2), both_sides(full=0.28)):
        (numbers,) = told(guessing)["pruning_guess"]
        assert of(numbers, "model", "task", "chance") == ("a", "mmlu", 0.25)
