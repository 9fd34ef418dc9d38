"""What a pruning sweep lacks, what it mixes, and that whole models stay apart from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pruning_rows import (
    BLOCKS,
    SWEEP,
    both_sides,
    choice,
    notes,
    row,
    summary,
    table,
    whole,
    without,
)

from lrd_harness.board.leaderboard import Leaderboard, build, layer_table
from lrd_harness.board.pruned import percent
from lrd_harness.errors import UserError
from lrd_harness.results.database import CaptureRow, ErrorRow, MetricRow, ModelRow, UndefinedRow


def test_a_missing_score_leaves_the_tasks_that_both_have() -> None:
    held = without(SWEEP, "without 5", "t2")
    found = row(held, "frenet")
    assert (found.tasks, found.missing) == (("t1",), ("t2",))
    assert (found.full, found.score) == (0.8, 0.6)
    assert found.change == pytest.approx(-25)
    assert found.random is not None
    assert found.random.median == pytest.approx(-25)  # on the same task: -50, 0, -25
    assert found.verdict == "no"
    assert row(held, "nrs") == row(SWEEP, "nrs")
    assert "a: no score on t2 of frenet at 10 %" in notes(held)


def test_a_seed_without_all_tasks_is_left_out() -> None:
    held = without(SWEEP, "without 7", "t2")
    found = row(held, "random")
    assert [run.change for run in found.runs] == pytest.approx([-50, -5, None])
    assert found.change == pytest.approx(-27.5)
    assert found.random is not None
    assert found.random.seeds == 2
    assert "a: random at 10 % is without seed 2, not scored on all of its tasks." in notes(held)


def test_a_choice_that_is_not_scored_yet_is_shown() -> None:
    held = without(SWEEP, "without 5", "t1", "t2")
    found = row(held, "frenet")
    assert (found.removed, found.tasks, found.missing) == (1, (), ("t1", "t2"))
    assert (found.full, found.score, found.change, found.verdict) == (None,) * 4
    assert found.parameters_saved == pytest.approx(10)
    assert (summary(held, "frenet").pairs, summary(held, "frenet").change) == (0, None)
    bare = replace(SWEEP, scores=())
    assert [r.rule for r in table(bare).rows] == ["frenet", "random", "nrs", "gfmi"]
    assert "a: no score of the whole model to compare pruned ones with." in notes(bare)
    assert "Random removal has no scores" in notes(bare)


def test_tasks_that_the_sweep_was_not_asked_for_are_not_missing() -> None:
    more = replace(SWEEP, scores=(*SWEEP.scores, *whole(tasks={"t3": 0.1})))
    assert table(more) == table(SWEEP)


def test_what_the_whole_model_lacks_is_said() -> None:
    kept = [r for r in SWEEP.scores if r.variant != "full" or r.task != "t2" or not r.last]
    held = replace(SWEEP, scores=tuple(kept))
    assert row(held, "frenet").tasks == ("t1",)
    assert "a: the whole model has no score on t2" in notes(held)


def test_an_error_of_a_pruned_model_makes_its_task_missing() -> None:
    error = ErrorRow(model="a", variant="without 5", task="t3", error="E")
    held = replace(SWEEP, scores=(*SWEEP.scores, *whole(tasks={"t3": 0.1})), errors=(error,))
    assert row(held, "frenet").missing == ("t3",)
    assert table(held).errors == (error,)
    gap = UndefinedRow(model="a", variant="without 5", task="t3", layer=9, error="all the same")
    held = replace(held, errors=(), undefined=(gap,))
    assert row(held, "frenet").missing == ("t3",)
    assert "a without 5 has no score on t3: all the same." in notes(held)


def test_without_random_nothing_is_compared() -> None:
    held = replace(SWEEP, prunings=tuple(r for r in SWEEP.prunings if r.rule != "random"))
    assert all(r.random is None and r.verdict is None for r in table(held).rows)
    assert summary(held, "gfmi").verdict is None
    assert "Random removal was not asked for" in notes(held)


def test_a_score_at_or_below_zero_has_no_change_in_percent() -> None:
    assert percent(0.3, 0.4) == pytest.approx(-25)
    assert percent(0.4, 0.4) == 0
    assert percent(0.1, 0.0) is percent(0.1, -0.2) is None
    kept = [replace(r, score=-0.4) if r.task == "t2" and r.last else r for r in SWEEP.scores]
    held = replace(SWEEP, scores=tuple(kept))
    assert row(held, "frenet").by_task["t2"].change is None
    assert summary(held, "frenet").pairs == 1
    assert "the whole model's score on t2 is not above 0" in notes(held)


def test_likelihood_tasks_are_apart() -> None:
    held = both_sides()
    assert row(held, "frenet", kind="embedding") == row(SWEEP, "frenet")
    assert [r for r in table(held).summary if r.kind == "embedding"] == list(table(SWEEP).summary)
    found = row(held, "frenet", kind="base")
    assert (found.tasks, found.score, found.stderr) == (("mmlu",), 0.4, 0.03)
    assert found.change == pytest.approx(-20)
    assert found.random is None
    assert summary(held, "frenet", kind="base").pairs == 1
    assert [r.kind for r in table(held).rows] == ["embedding"] * 4 + ["base"] * 4
    likelihood = [r for r in held.scores if r.task_type]
    alone = table(replace(held, scores=tuple(likelihood)))
    assert {r.kind for r in alone.rows} == {"base"}


def test_a_model_that_guesses_is_remarked_on() -> None:
    words = "on mmlu the whole model is within 2 standard errors of chance"
    assert words not in notes(both_sides())
    assert words in notes(both_sides(stderr=0.2))
    assert words in notes(both_sides(full=0.28))


def test_whole_models_stay_as_they_are() -> None:
    base = both_sides()
    plain = replace(
        base,
        scores=tuple(r for r in base.scores if r.variant == "full"),
        prunings=(),
        variants=(),
    )
    of: dict[str, Any] = {"model": "a", "variant": "without 5"}
    full = replace(
        base,
        models=(*base.models, ModelRow(**of)),
        errors=(ErrorRow(**of, error="E"),),
        metrics=(
            MetricRow(**of, task="t1", metric="m", n=3, selection=("s", "max"), values={"s": 1.0}),
        ),
        undefined=(UndefinedRow(**of, task="t1", layer=2, error="same"),),
        captures=(
            CaptureRow(**of, texts=1, forwarded=1, tokens=1, truncated=0, empty=0, duplicates=0),
        ),
    )

    def told(board: Leaderboard) -> Leaderboard:  # three of the claims are about pruning
        kept = tuple(claim for claim in board.claims if "random" not in claim.name)
        assert len(board.claims) - len(kept) == 3
        return replace(board, claims=kept, base=told(board.base) if board.base else None)

    before, after = told(build(plain)), told(build(full))
    assert before.base is not None
    assert after.base is not None
    assert replace(after, pruned=None, results=before.results, base=before.base) == before
    assert replace(after.base, results=before.base.results) == before.base
    assert layer_table(full, "a") == layer_table(plain, "a")
    with pytest.raises(UserError):
        layer_table(full, "a", variant="without 4")


def test_revisions_of_one_name_are_told_apart() -> None:
    held = replace(
        SWEEP,
        models=(*SWEEP.models, ModelRow(model="a", revision="abc", blocks=BLOCKS)),
        prunings=(*SWEEP.prunings, choice("frenet", 5, revision="abc")),
    )
    assert {r.label for r in table(held).rows} == {"a@", "a@abc"}
