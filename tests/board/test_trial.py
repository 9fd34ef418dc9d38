"""The statistics of a trial: on planted data, against the analysis of variance and scipy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrd_harness.board.statistics import Resampled
from lrd_harness.board.trial import GROUPS, Groups, Layout, Trial, best_of

PANELS, ALPHA = 300, 0.05
# Of 300 tests at 5 % two-sided, half of those that err call a rule better: 2.5 %. More than 15
# (5 %) have a probability of 0.4 % then.
MOST = 15


def gains(
    sizes: Sequence[int], tasks: int, layout: Layout, seed: int, effect: float = 0.0
) -> np.ndarray:
    """Planted gains (panels, models, tasks): families of these sizes, tasks, and the rest."""
    generator = np.random.default_rng(seed)
    family = np.repeat(np.arange(len(sizes)), sizes)
    draws = generator.standard_normal((PANELS, len(sizes), 1))[:, family]
    values = effect + layout.families**0.5 * draws
    values = values + layout.tasks**0.5 * generator.standard_normal((PANELS, 1, tasks))
    shape = PANELS, len(family), tasks
    return np.asarray(values + layout.rest**0.5 * generator.standard_normal(shape))


def named(sizes: Sequence[int]) -> list[str]:
    return [f"f{i}" for i, size in enumerate(sizes) for _ in range(size)]


def trial(groups: Groups, values: np.ndarray) -> Trial:
    return groups.trial(groups.means(values), ~np.isnan(values))


def called(trials: Sequence[Trial]) -> tuple[int, int]:
    """How many are called worse, and better."""
    tests = [each.test(ALPHA, 500, 42) for each in trials]
    below = [test.p is not None and test.p < ALPHA for test in tests]
    signs = [each.effect > 0 for each in trials]
    pairs = list(zip(below, signs, strict=True))
    return pairs.count((True, False)), pairs.count((True, True))


@pytest.mark.parametrize("layout", [Layout(1, 0, 0.1), Layout(0, 1, 0.1), Layout(0, 0, 1)])
@pytest.mark.parametrize(
    ("sizes", "tasks"), [([1] * 4, 3), ([8, 1, 1, 1], 4), ([3, 2, 2, 1, 1, 1], 8)]
)
def test_a_rule_that_is_worth_nothing_is_not_called_better(
    sizes: list[int], tasks: int, layout: Layout
) -> None:
    groups = Groups(named(sizes))
    found = called([trial(groups, panel) for panel in gains(sizes, tasks, layout, 7)])
    assert max(found) <= MOST


@pytest.mark.parametrize(("sizes", "tasks"), [([3] * 4, 3), ([1] * 10, 4)])
def test_an_order_that_is_worth_nothing_is_not_called_better(sizes: list[int], tasks: int) -> None:
    """Of rank correlations, which are no means: of two orders, neither of them of the scores."""
    groups = Groups(named(sizes))
    one, other, scores = (gains(sizes, tasks, Layout(1, 0, 0.3), seed) for seed in (1, 2, 3))
    trials = []
    for x, y, z in zip(one, other, scores, strict=True):
        sides = [Resampled(z[:, t], groups.weights) for t in range(tasks)]
        rho = [side.rho(x[:, 0]) - side.rho(y[:, 0]) for side in sides]
        trials.append(groups.trial(np.array(rho).T, np.ones(z.shape, dtype=bool)))
    assert max(called(trials)) <= MOST


@pytest.mark.parametrize(
    ("layout", "families", "tasks", "effect"),
    [
        (Layout(1, 0.1, 1), 12, 10, 0.9),
        (Layout(0.2, 1, 1), 10, 12, 0.8),
        (Layout(1, 0, 2), 6, 6, 1.4),
    ],
)
def test_a_rule_that_works_is_found_as_often_as_is_said(
    layout: Layout, families: int, tasks: int, effect: float
) -> None:
    groups = Groups(named([1] * families))
    panels = gains([1] * families, tasks, layout, 11, effect)
    worse, better = called([trial(groups, panel) for panel in panels])
    said = layout.power(families, tasks, effect, ALPHA)
    assert 0.4 < said < 0.95
    assert better / PANELS == pytest.approx(said, abs=0.1)
    assert worse == 0
    opposite = [trial(groups, -panel) for panel in panels]
    assert called(opposite) == (better, 0)


def test_as_many_are_needed_as_have_the_power() -> None:
    layout = Layout(1.0, 0.2, 2.0)
    least = layout.least(20, 0.5, ALPHA, 0.8)
    assert least is not None
    assert layout.power(least, 20, 0.5, ALPHA) >= 0.8 > layout.power(least - 1, 20, 0.5, ALPHA)
    # families cannot make up for too few tasks, nor tasks for too few families
    assert Layout(0.1, 4.0, 1.0).least(10, 0.5, ALPHA, 0.8) is None
    assert Layout(4.0, 0.1, 1.0).power(5, 1e9, 0.5, ALPHA) < 0.2
    assert Layout(0, 0, 0).power(4, 3, 0.1, ALPHA) == 1


def anova(cells: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of families, tasks and the rest."""
    f, t = cells.shape
    rows, columns, mean = cells.mean(axis=1), cells.mean(axis=0), cells.mean()
    rest = cells - rows[:, None] - columns + mean
    return (
        t * np.var(rows, ddof=1),
        f * np.var(columns, ddof=1),
        np.sum(rest**2) / (f - 1) / (t - 1),
    )


def test_variances_are_those_of_the_analysis_of_variance() -> None:
    cells = gains([1] * 9, 7, Layout(2, 1, 0.5), 3)[0]
    of_families, of_tasks, rest = anova(cells)
    judged = trial(Groups(named([1] * 9)), cells)
    layout = judged.layout()
    assert layout == pytest.approx([(of_families - rest) / 7, (of_tasks - rest) / 9, rest])
    error = ((of_families + of_tasks - rest) / 63) ** 0.5
    test = judged.test(ALPHA, 10_000, 1)
    assert test.stderr == pytest.approx(error, rel=0.03)
    assert (test.low + test.high) / 2 == pytest.approx(judged.effect)


def test_variances_where_cells_are_missing() -> None:
    truth = Layout(2.0, 1.0, 0.5)
    found = []
    for i, cells in enumerate(gains([1] * 20, 15, truth, 5)[:60]):
        cells[np.random.default_rng(i).random(cells.shape) < 0.3] = np.nan
        found.append(trial(Groups(named([1] * 20)), cells).layout())
    assert np.mean(found, axis=0) == pytest.approx(truth, rel=0.15)


def test_without_tasks_that_differ_it_is_students_test() -> None:
    values = np.random.default_rng(2).standard_normal((12, 1)) + 0.4
    test = trial(Groups(named([1] * 12)), np.repeat(values, 5, axis=1)).test(ALPHA, 10_000, 3)
    usual = stats.ttest_1samp(values[:, 0], 0)
    assert test.p == pytest.approx(usual.pvalue, rel=0.1)
    assert (test.low, test.high) == pytest.approx(usual.confidence_interval(0.95), rel=0.05)


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_of_a_mean_over_single_models_the_cells_are_the_gains(
    models: int, tasks: int, seed: int
) -> None:
    values = np.random.default_rng(seed).standard_normal((models, tasks))
    values[0, 0] = np.nan
    judged = trial(Groups([str(i) for i in range(models)]), values)
    there = ~np.isnan(values) & ((~np.isnan(values)).sum(axis=0) > 1)
    assert judged.cells[there] == pytest.approx(values[there])
    assert np.isnan(judged.cells[0, 0])


def test_sisters_say_no_more_than_one_of_them() -> None:
    """Copies of each model change neither interval nor p."""
    values = gains([1] * 6, 5, Layout(1, 0.2, 1), 9)[0]
    alone = trial(Groups(named([1] * 6)), values).test(ALPHA, 1000, 4)
    copies = trial(Groups(named([3] * 6)), np.repeat(values, 3, axis=0)).test(ALPHA, 1000, 4)
    assert copies == pytest.approx(alone)


@pytest.mark.parametrize("layout", [Layout(0.5, 0.2, 1), Layout(1, 0, 0.1), Layout(0, 1, 0.1)])
@pytest.mark.parametrize(("sizes", "tasks"), [([1] * 4, 3), ([1] * 8, 6)])
def test_the_best_of_rules_that_are_worth_nothing_is_not_called_better(
    sizes: list[int], tasks: int, layout: Layout
) -> None:
    groups = Groups(named(sizes))
    rules = [gains(sizes, tasks, layout, seed) for seed in range(20, 26)]
    panels = [[trial(groups, rule[i]) for rule in rules] for i in range(PANELS)]
    worse, better = called([best_of(of_panel)[0] for of_panel in panels])
    assert (worse, better <= MOST) == (0, True)
    ends = [best_of([panel[0], trial(groups, -rules[0][i])])[0] for i, panel in enumerate(panels)]
    assert called(ends)[1] <= MOST
    # the best of six, seen as if it were the only one, is called better far more often
    seen = [max(of_panel, key=lambda each: each.effect) for of_panel in panels]
    assert called(seen)[1] > 2 * called([best_of(of_panel)[0] for of_panel in panels])[1]


def test_the_best_rule_is_chosen_on_other_families_and_tasks() -> None:
    groups = Groups(named([1] * 8))
    rules = [gains([1] * 8, 6, Layout(0.5, 0.2, 1), seed)[0] for seed in range(20, 26)]
    other = [rule.copy() for rule in rules]
    other[3][2] += 100  # what a family scores has no part in what is chosen for it
    before, after = (best_of([trial(groups, rule) for rule in of])[1] for of in (rules, other))
    assert before[2] == after[2]
    assert {chosen for i, chosen in enumerate(after) if i != 2} == {3}
    other = [rule.copy() for rule in rules]
    other[3][:, 1] += 100  # nor what a task scores
    first, second = (best_of([trial(groups, rule) for rule in of])[0] for of in (rules, other))
    gained = second.cells[:, 1] - first.cells[:, 1]  # where rule 3 was chosen before as well
    assert set(np.round(gained, 6)) == {0, 100}
    assert second.cells[:, 0] == pytest.approx(rules[3][:, 0])
    good = [trial(groups, rule + 5 * (i == 4)) for i, rule in enumerate(rules)]
    best, chosen = best_of(good)
    assert chosen == [4] * 8
    assert best.effect == pytest.approx(good[4].effect)
    test = best.test(ALPHA, 500, 42)
    assert test.p is not None
    assert test.p < 0.01
    one = [trial(Groups(["a"]), np.full((1, 4), value)) for value in (1.0, 2.0)]
    assert np.isnan(best_of(one)[0].effect)  # no other family to choose it on


def test_too_few_are_not_tested() -> None:
    for sizes, tasks in (([2] * 3, 5), ([1] * 9, 2), ([1], 1)):
        judged = trial(Groups(named(sizes)), np.ones((sum(sizes), tasks)))
        assert judged.test(ALPHA, 100, 0) == (None, None, None, None)
    assert judged.layout() is None
    constant = trial(Groups(named([1] * 5)), np.full((5, 4), 0.25))
    assert constant.test(ALPHA, 100, 0) == (0, 0.25, 0.25, 0)
    assert trial(Groups(named([1] * 5)), np.zeros((5, 4))).test(ALPHA, 100, 0).p == 1


def test_many_families_are_dealt_into_groups() -> None:
    names = named([2] * 150)
    groups = Groups(names)
    assert len(groups.names) == GROUPS
    assert groups.member.sum(axis=0).tolist() == [1.0] * 300
    for family in range(150):  # sisters stay together
        assert np.array_equal(groups.member[:, 2 * family], groups.member[:, 2 * family + 1])
    truth = Layout(1, 0.25, 1)  # of a family, whatever the groups
    single = Groups(named([1] * 300))
    planted = [trial(single, panel).layout() for panel in gains([1] * 300, 20, truth, 1)[:10]]
    assert np.mean(planted, axis=0) == pytest.approx(truth, rel=0.2)
    judged = trial(groups, np.ones((300, 3)))
    assert judged.counts == {"families": 150, "models": 300, "tasks": 3, "pairs": 900}
