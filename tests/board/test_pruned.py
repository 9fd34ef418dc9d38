"""The pruning table: changes, medians and intervals, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pruning_rows import SWEEP, choice, drawn, notes, pruned, row, summary, table, whole

from lrd_harness.blocks import written
from lrd_harness.board.leaderboard import build
from lrd_harness.board.pruned import build_pruned, spread
from lrd_harness.results.database import Results


def test_without_choices_there_is_no_table() -> None:
    assert build_pruned(Results()) is None
    assert build_pruned(replace(SWEEP, prunings=())) is None
    assert build(replace(SWEEP, prunings=())).pruned is None
    assert build(SWEEP).pruned == table(SWEEP)


def test_a_row_has_means_changes_and_what_is_saved() -> None:
    found = row(SWEEP, "frenet")
    assert (found.model, found.kind, found.blocks, found.removed) == ("a", "embedding", 10, 1)
    assert (found.tasks, found.missing) == (("t1", "t2"), ())
    assert (found.full, found.score) == pytest.approx((0.6, 0.45))
    assert found.change == pytest.approx(-25)
    assert found.parameters_saved == pytest.approx(10)
    assert found.latency_saved == pytest.approx(15)  # 1 - .85
    (run,) = found.runs
    assert (run.seed, run.variant, run.removed) == (None, "without 5", (5,))
    assert found.stderr is None
    assert row(SWEEP, "gfmi").parameters_saved is None  # its variant has no record
    assert {t: c.change for t, c in found.by_task.items()} == pytest.approx({"t1": -25, "t2": -25})


def test_random_is_one_row_with_medians_over_its_seeds() -> None:
    found = row(SWEEP, "random")
    assert [(run.seed, run.removed) for run in found.runs] == [(0, (4,)), (1, (6,)), (2, (7,))]
    assert [run.change for run in found.runs] == pytest.approx([-50, -5, -20])
    assert (found.change, found.score) == pytest.approx((-20, 0.48))
    assert found.latency_saved == pytest.approx(14)  # of 16, 14, 13
    assert (found.difference, found.verdict) == (None, None)
    assert found.random is not None
    assert (found.random.seeds, found.random.quantiles) == (3, False)
    assert (found.random.low, found.random.median, found.random.high) == pytest.approx(
        (-50, -20, -5)
    )
    assert [c.change for c in found.by_task.values()] == pytest.approx([-25, -15])


def test_a_rule_must_be_strictly_better_than_the_median_and_clearly_than_all() -> None:
    held = {rule: row(SWEEP, rule) for rule in ("frenet", "nrs", "gfmi")}
    assert [r.verdict for r in held.values()] == ["no", "yes", "clearly"]
    assert [r.difference for r in held.values()] == pytest.approx([-5, 15, 20])
    assert all(r.random == row(SWEEP, "random").random for r in held.values())
    level = replace(SWEEP, prunings=(*SWEEP.prunings, choice("last", 7)))
    assert (row(level, "last").difference, row(level, "last").verdict) == (0, "no")


def test_above_a_single_seed_is_not_clearly_above() -> None:
    held = replace(SWEEP, prunings=(*drawn(4), choice("gfmi", 8)))
    assert row(held, "gfmi").verdict == "yes"
    assert "drawn with 1 seed: there is no interval" in notes(held)
    assert "lies above it in up to 1 of 2 cases" in notes(held)


def test_the_interval_is_of_quantiles_from_20_seeds_on() -> None:
    changes = [-float(k) for k in range(1, 21)]
    found = spread(changes)
    assert found is not None
    assert (found.seeds, found.quantiles) == (20, True)
    # positions .025 x 19 = .475 and .975 x 19 = 18.525 of the ascending changes
    assert (found.low, found.median, found.high) == pytest.approx((-19.525, -10.5, -1.475))
    fewer = spread(changes[:19])
    assert fewer is not None
    assert (fewer.low, fewer.median, fewer.high, fewer.quantiles) == (-19, -10, -1, False)
    assert spread([]) is None


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40))
def test_the_median_lies_within_the_interval(changes: list[float]) -> None:
    found = spread(changes)
    assert found is not None
    assert min(changes) - 1e-9 <= found.low <= found.median + 1e-9
    assert found.median - 1e-9 <= found.high <= max(changes) + 1e-9


def test_twenty_seeds_in_the_table() -> None:
    blocks = [(4, 5, 6, 7)[seed % 4] for seed in range(20)]
    held = replace(SWEEP, prunings=(*drawn(*blocks), choice("gfmi", 8)))
    assert row(held, "gfmi").verdict == "clearly"
    assert row(held, "random").change == pytest.approx(-22.5)
    assert "20 seeds: the interval holds the middle 95 %" in notes(held)
    assert "lowest" not in notes(held)


def test_the_summary_is_of_medians_over_models_and_tasks() -> None:
    assert [r.rule for r in table(SWEEP).summary] == ["gfmi", "nrs", "random", "frenet"]
    frenet, nrs, random = (summary(SWEEP, rule) for rule in ("frenet", "nrs", "random"))
    # random's medians by task are -25 and -15; frenet -25, -25; nrs 0, -15
    assert (frenet.change, frenet.difference) == pytest.approx((-25, -5))
    assert (frenet.pairs, frenet.compared, frenet.beats, frenet.verdict) == (2, 2, 0, "no")
    assert (nrs.change, nrs.difference, nrs.beats) == pytest.approx((-7.5, 12.5, 1))
    assert nrs.verdict == "yes"
    assert random.change == pytest.approx(-20)
    assert (random.compared, random.difference, random.verdict) == (0, None, None)


def test_the_summary_over_two_models() -> None:
    scores = [
        *whole("b", {"t1": 0.5}),
        *pruned([5], {"t1": 0.6}, "b"),
        *pruned([3], {"t1": 0.4}, "b"),
    ]
    both = replace(
        SWEEP,
        scores=(*SWEEP.scores, *scores),
        prunings=(
            *SWEEP.prunings,
            choice("frenet", 5, model="b"),
            *drawn(3, model="b"),
        ),
    )
    found = summary(both, "frenet")  # changes -25, -25, +20; to random 0, -10, +40
    assert (found.models, found.pairs, found.beats) == (2, 3, 1)
    assert (found.change, found.difference) == pytest.approx((-25, 0))
    assert found.verdict == "no"
    assert summary(both, "gfmi").models == 1
    assert "2 models: medians over so few" in notes(both)
    assert "not all scored on the same models and tasks" in notes(both)
    assert "drawn with 1 to 3 seeds: the interval goes" in notes(both)
    assert "drawn with 3 seeds" in notes(SWEEP)
    assert "in up to 1 of 4 cases" in notes(SWEEP)
    assert "1 model: medians are over its tasks alone" in notes(SWEEP)


def test_best_first_within_a_budget() -> None:
    more = replace(SWEEP, prunings=(choice("last", 8, budget=0.2), *SWEEP.prunings))
    assert [(r.budget, r.rule) for r in table(more).rows] == [
        (0.1, "gfmi"),
        (0.1, "nrs"),
        (0.1, "random"),
        (0.1, "frenet"),
        (0.2, "last"),
    ]
    assert row(more, "last", 0.2).random is None  # random was drawn at the other budget only


def test_shared_blocks_share_scores_and_are_said() -> None:
    nrs, random = row(SWEEP, "nrs"), row(SWEEP, "random")
    assert nrs.runs[0].variant == random.runs[1].variant
    assert nrs.change == random.runs[1].change
    assert (
        "a: the same blocks were chosen by several and scored once: 6 by nrs and "
        "random (seed 1) (at 10 %)." in notes(SWEEP)
    )
    again = replace(SWEEP, prunings=(*SWEEP.prunings, choice("frenet", 5, budget=0.15)))
    assert row(again, "frenet", 0.15).change == row(again, "frenet").change
    assert "a: 10 % and 15 % each come to 1 block." in notes(again)


def test_of_a_choice_made_twice_the_newer_counts() -> None:
    twice = replace(SWEEP, prunings=(*SWEEP.prunings, choice("frenet", 8, version="2")))
    assert row(twice, "frenet").change == 0
    assert "frenet was asked in different versions (1, 2)" in notes(twice)
    other = replace(SWEEP, prunings=(*SWEEP.prunings, choice("last", 8, candidates=(7, 8))))
    assert "not all choices were made among the same blocks" in notes(other)


@pytest.mark.parametrize(
    ("blocks", "text"),
    [((7, 12, 13, 14), "7,12-14"), ((1,), "1"), ((1, 2, 4), "1-2,4"), ((), "")],
)
def test_blocks_as_a_user_types_them(blocks: tuple[int, ...], text: str) -> None:
    assert written(blocks) == text
