"""How sure ranks are: intervals and levels against scipy, missing and outlying scores, answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from textwrap import wrap

import numpy as np
import pytest
from pruning_rows import BLOCKS, SWEEP
from scipy import stats

from lrd_harness import UserError
from lrd_harness.board import answers, standing
from lrd_harness.board.leaderboard import Board, report
from lrd_harness.board.panel import build_panel
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.report import Report
from lrd_harness.results.rows import ErrorRow, MetricRow, ModelRow, Results, ScoreRow


def of(scores: np.ndarray, name: str = "m{}", **more: float | str | None) -> Results:
    """Results of scores (tasks, models); NaN: none."""
    names = [name.format(m) for m in range(scores.shape[1])]
    rows = [
        ScoreRow(model=names[m], task=f"t{t}", layer=1, layers=1, score=float(score), **more)  # type: ignore[arg-type]
        for t, of_task in enumerate(scores)
        for m, score in enumerate(of_task)
        if not np.isnan(score)
    ]
    models = [ModelRow(model=n, blocks=1, parameters=10 + m) for m, n in enumerate(names)]
    return Results(tuple(models), tuple(rows))


def made(tasks: int, models: int, seed: int = 0, noise: float = 0.03) -> np.ndarray:
    """Model plus task plus noise; the lower its number the better a model."""
    draw = np.random.default_rng(seed).normal
    of_task = 0.55 + 0.15 * draw(size=(tasks, 1))
    return np.asarray(of_task - 0.02 * np.arange(models) + noise * draw(size=(tasks, models)))


@pytest.mark.parametrize("tasks", [5, 8, 30])
def test_intervals_of_ranks_hold_the_true_rank(tasks: int) -> None:
    held = []
    for seed in range(80):
        intervals = standing.rank_intervals(made(tasks, 6, seed))
        assert intervals is not None
        low, high = intervals
        held += ((low <= range(1, 7)) & (range(1, 7) <= high)).tolist()
    assert np.mean(held) >= 0.95
    assert standing.rank_intervals(made(4, 6)) is None


def test_the_top_of_two_is_open_where_the_paired_interval_holds_zero() -> None:
    """Of two models rank and difference say the same: within the noise of 2,000 draws."""
    for seed in range(40):
        scores = made(12, 2, seed)
        p = stats.ttest_rel(scores[:, 0], scores[:, 1]).pvalue
        intervals = standing.rank_intervals(scores)
        assert intervals is not None
        if not 0.03 < p < 0.08:
            assert (intervals[0] != intervals[1]).all() == (p > 0.05), (seed, p)


def test_neighbours_are_level_as_a_paired_t_test_says() -> None:
    panel = build_panel(of(made(7, 9, seed=3)))
    order = np.argsort(-panel.actual)
    ranked = panel.scores.last[:, order]
    p = stats.ttest_rel(ranked[:, :-1], ranked[:, 1:]).pvalue
    board = standing.Standing(panel)
    assert board.level_with_next() == (p >= 0.05).tolist()
    first = stats.ttest_rel(ranked[:, :1], ranked[:, 1:]).pvalue
    by_p = np.argsort(first)  # Holm steps down until one is not below .05 over those left
    kept = first[by_p] * np.arange(len(first), 0, -1) >= 0.05
    level = by_p[kept.argmax() :] + 1 if kept.any() else by_p[:0]
    assert board.level_with_first() == sorted(level.tolist())


def test_equal_scores_are_level_and_constant_differences_are_not() -> None:
    column = made(6, 1)
    table = report(of(np.hstack([column, column, column - 0.1]))).table("ranking")
    assert table.column("level_with_next") == [True, False, None]
    assert table.column("rank_interval") == ["1 to 1", "1 to 1", "3 to 3"]


@pytest.mark.parametrize(("gap", "level"), [(0.01, True), (0.2, False)])
@pytest.mark.parametrize("tasks", [1, 6])
def test_standard_errors_over_questions_count_too(gap: float, level: bool, tasks: int) -> None:
    scores = np.tile([0.5, 0.5 - gap], (tasks, 1))
    run = of(scores, task_type=LIKELIHOOD, stderr=0.02 * tasks**0.5)
    board = Board(run, "base", {row.key: row.model for row in run.models})
    assert board.rows[0]["level_with_next"] is level
    assert ("level" in {caution.code for caution in board.all_cautions}) is level


def test_missing_scores_are_said_and_common_tasks_rank_all() -> None:
    scores = np.array([[0.9, 0.5, 0.7], [0.8, 0.85, 0.9], [0.1, 0.6, np.nan]])
    board = report(of(scores))
    assert board.table("ranking").column("rank") == [1, 2, None]  # m1, m0
    (said,) = [note for note in board.notes if "--common" in note]
    assert said.endswith("ranks would be: m2 none → 2, m0 2 → 1, m1 1 → 3.")
    common = report(of(scores), common=True)
    ranked = dict(zip(*map(common.table("ranking").column, ("model", "rank")), strict=True))
    assert ranked == {"m0": 1, "m2": 2, "m1": 3}
    assert common.title.endswith("3 models, 2 tasks")
    assert "left out: t2" in common.answer[1]
    assert not any("--common" in note for note in common.notes)
    beside = of(scores[:, :2] + 0.01, task_type=LIKELIHOOD)
    likely = [replace(row, task=f"likely-{row.task}") for row in beside.scores]
    both = replace(of(scores), scores=(*of(scores).scores, *likely))
    kept = {row.task for row in standing.on_common_tasks(both)[0].scores}
    assert kept == {"t0", "t1", "likely-t0", "likely-t1", "likely-t2"}


def test_pruned_models_are_compared_on_all_of_their_tasks() -> None:
    """Each with its own whole model, whatever tasks others lack."""
    last = {"layer": BLOCKS, "layers": BLOCKS, "task": "t3"}
    more = (ScoreRow(model="a", score=0.5, **last), ScoreRow(model="b", score=0.6, **last))
    models = (*SWEEP.models, ModelRow(model="b", blocks=BLOCKS))
    run = replace(SWEEP, models=models, scores=(*SWEEP.scores, *more))
    every, common = report(run), report(run, common=True)
    assert common.table("ranking").column("rank") == [1, 2]
    for name in ("pruning_summary", "pruning", "pruning_runs"):
        assert common.table(name) == every.table(name)
    assert not any("has no scores" in note for note in common.notes)


def test_without_a_common_task_one_line_says_so() -> None:
    scores = np.array([[0.9, np.nan, 0.7], [np.nan, 0.85, 0.9]])
    with pytest.raises(UserError, match="--common: No task was scored for all of the 3 models"):
        report(of(scores), common=True)
    assert any("No task was scored for all" in note for note in report(of(scores)).notes)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda s: s.__setitem__((3, 4), 0.079), [("m4", "t3")]),
        (lambda s: s.__setitem__((3, 4), np.nan), []),
        (lambda s: s.__setitem__((slice(None), 4), 0.4 * s[:, 4]), []),  # a weak model
        (lambda s: s.__setitem__((3, slice(None)), 0.2 * s[3]), []),  # a hard task
        (lambda s: s.__setitem__((slice(None), 4), 0.25), []),  # one that guesses
    ],
)
def test_a_score_far_off_is_found_and_a_weak_model_is_not(
    spoil: Callable[[np.ndarray], None], found: list[object]
) -> None:
    scores = made(10, 9)
    scores[3] += 0.79 - scores[3, 4]
    spoil(scores)
    rows = standing.outlying(build_panel(of(scores)))
    assert [(row["model"], row["task"]) for row in rows] == found
    for row in rows:
        assert row["expected"] == pytest.approx(0.79, abs=0.08)
        assert "m4 on t3, 0.0790" in "".join(report(of(scores)).answer)


def test_few_false_alarms() -> None:
    assert sum(len(standing.outlying(build_panel(of(made(30, 25, s))))) for s in range(20)) <= 2
    assert not standing.outlying(build_panel(of(made(4, 25) * np.array([[1], [1], [1], [9]]))))


def measured(scores: np.ndarray, sign: int, name: str = "m{}") -> Results:
    run = of(scores, name)
    metrics = [
        MetricRow(model=row.model, task=f"t{t}", metric="frenet", n=9)
        for row in run.models
        for t in range(len(scores))
    ]
    values = np.random.default_rng(1).normal(scale=0.01, size=len(metrics))
    rows = [
        replace(row, values={"d0L": sign * (m // len(scores)) + v}, selection=("d0L", "min"))
        for m, (row, v) in enumerate(zip(metrics, values, strict=True))
    ]
    return replace(run, metrics=tuple(rows))


UNSCORED = replace(measured(made(2, 3), 1), scores=())


def codes(run: Results) -> list[str]:
    return [
        caution.code
        for caution in Board(run, "embedding", {r.key: r.model for r in run.models}).answer
    ]


@pytest.mark.parametrize(
    ("run", "expected", "words"),
    [
        (Results(), ["empty"], "Nothing is recorded yet"),
        (of(made(6, 1)), ["first_alone"], "no other model has an actual rank"),
        (
            of(made(3, 2, noise=0)),
            ["first", "two_models"],
            "3 tasks are too few to tell them apart",
        ),
        (of(made(9, 12, noise=0.001)), ["first", "predicted_size"], "can be told from m1 ("),
        (of(made(9, 12, noise=0.1)), ["first", "predicted_size"], "but cannot be told from"),
        (measured(made(9, 12), 1), ["first", "predicted"], "better than size"),
        (measured(made(9, 12), -1), ["first", "predicted_not"], "No metric predicts the order"),
        (measured(made(9, 3), 1), ["first", "predicted", "under_five"], "of so few models"),
        (measured(made(9, 3), -1), ["first", "predicted_not", "under_five"], "frenet, has rho -"),
        (of(np.full((6, 3), 0.5)), ["first", "under_five"], "level with m1 and 1 other."),
        (UNSCORED, ["first_predicted", "no_scores"], "m0 is predicted to be best"),
        (replace(UNSCORED, metrics=()), ["no_scores"], "No task was scored"),
    ],
)
def test_the_answer_says_who_is_best_and_what_predicted_it(
    run: Results, expected: list[str], words: str
) -> None:
    assert codes(run) == expected
    assert words in " ".join(report(run).answer)


@pytest.mark.parametrize("name", ["m{}", "a-publisher/a-model-with-quite-a-long-name-{}-v2.1"])
def test_in_brief_it_takes_ten_lines_and_says_where_the_rest_is(name: str) -> None:
    scores = made(9, 12, noise=0.1)
    scores[0, 0], scores[3, 4] = np.nan, 0.01
    run = measured(scores, 1, name)
    likely = [replace(row, task=f"l{row.task}", task_type=LIKELIHOOD) for row in run.scores]
    errors = (ErrorRow(model=name.format(0), task="t0", error="NotFinite: state 3 holds NaN"),)
    whole = report(replace(run, scores=(*run.scores, *likely), errors=errors))
    board = answers.brief(whole, "the same with --full")
    assert sum(len(wrap(f"• {line}", 80)) for line in (board.title, *board.answer)) <= 10
    assert "is best of" in board.answer[0]
    assert board.answer[1].startswith("Base models: ")
    assert board.answer[-1].endswith(f"and {len(whole.notes)} notes: the same with --full")
    assert [table.name for table in board.tables] == ["ranking", "base.ranking"]
    assert board.errors == whole.errors
    assert not board.notes


def test_in_brief_what_has_nothing_more_says_nothing_of_it() -> None:
    assert answers.brief(Report("Nothing"), "again") == Report("Nothing")
