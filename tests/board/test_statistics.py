"""Rank statistics against scipy, dcor's numbers and plain reimplementations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lrd_harness.board import size_controls, statistics

VALUES = st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
TRIPLES = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=14)
Triples = list[tuple[float, float, float]]


def whole(*sides: list[float | None]) -> list[np.ndarray]:
    """The cases without a hole."""
    kept = [case for case in zip(*sides, strict=True) if None not in case]
    return [np.array([case[i] for case in kept], dtype=float) for i in range(len(sides))]


@given(st.lists(st.tuples(VALUES, VALUES), max_size=12), st.booleans())
def test_correlations_and_places_are_scipys_with_ties_and_holes(pairs: Any, higher: bool) -> None:
    x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    a, b = whole(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rho, tau = statistics.spearman(x, y), statistics.kendall(x, y)
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        assert rho is tau is statistics.permutation_p(x, y, draws=9) is None
    else:
        assert rho == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-12)
        assert tau == pytest.approx(scipy_stats.kendalltau(a, b).statistic, abs=1e-12)
    places = statistics.places(x, higher)
    there = [-v if higher else v for v in x if v is not None]
    expected = scipy_stats.rankdata(there, method="min").tolist()
    assert [place for place in places if place is not None] == expected
    assert [place is None for place in places] == [v is None for v in x]


def test_what_is_missing() -> None:
    """NaN is; a mean over tasks needs every value."""
    assert statistics.spearman([1, 2, math.nan, 3], [1, 2, 9, 3]) == pytest.approx(1)
    for mean in (statistics.mean_of_all, statistics.mean_stderr):
        assert mean([0.1, None]) is mean([0.1, math.nan]) is mean([]) is None
    with pytest.raises(ValueError, match="different lengths"):
        size_controls.partial_rho([1.0, 2], [1.0, 2], [1.0])
    assert statistics.interval(np.full(10, np.nan)) == (None, None)
    assert statistics.interval(np.array([1.0] + [np.nan] * 9)) == (None, None)
    # resamples in which a side is constant are dropped, the others are +1
    side = np.array([0.0] * 4 + [1.0])
    drawn = statistics.Resampled(side, statistics.resamples(5)).rho(side)
    assert statistics.interval(drawn) == pytest.approx((1, 1))


@pytest.mark.parametrize("ones", [1, 6, 12])
def test_p_of_very_many_models_with_heavy_ties_is_fishers(ones: int) -> None:
    """Of two sides of ones and zeros, those where so many or more ones meet (hypergeometric)."""
    x, y = np.zeros((2, 501))
    x[:ones] = y[ones - 1 : 2 * ones - 1] = 1  # one meets
    expected = scipy_stats.hypergeom.sf(0, 501, ones, ones)  # t: .0007 for 6 of 501
    assert statistics.permutation_p(x, y) == pytest.approx(expected, abs=0.01, rel=0.2)


def residual_rho(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float | None:
    """Pearson's correlation of what a line through the control's ranks leaves of the ranks."""
    u, v, w = (scipy_stats.rankdata(side) for side in (x, y, z))
    line = np.column_stack([np.ones(len(w)), w])
    left = [side - line @ np.linalg.lstsq(line, side, rcond=None)[0] for side in (u, v)]
    if len(x) < 4 or min(np.abs(side).max() for side in left) < 1e-9 or np.ptp(w) == 0:
        return None
    return float(np.corrcoef(*left)[0, 1])


@given(TRIPLES)
def test_partial_rho_is_the_correlation_of_residuals(cases: Triples) -> None:
    x, y, z = ([case[i] for case in cases] for i in range(3))
    a, b, c = whole(x, y, z)
    expected = residual_rho(a, b, c) if len(a) >= 4 else None
    rho = size_controls.partial_rho(x, y, z)
    assert rho == (None if expected is None else pytest.approx(expected, abs=1e-8))
    if rho is None:
        assert size_controls.partial_p(x, y, z, draws=9) is None


def test_nothing_is_left_where_a_side_is_the_control() -> None:
    x, y = [1.0, 2, 3, 5, 4], [2.0, 1, 3, 4, 5]
    assert size_controls.partial_rho(x, y, x) is None
    assert size_controls.partial_rho(x, y, [-v for v in y]) is None
    assert size_controls.partial_rho(x, y, [1.0] * 5) is None  # a constant controls nothing
    assert size_controls.partial_rho(x[:3], y[:3], [3.0, 1, 2]) is None


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=4, max_size=5))
def test_exact_p_is_the_share_of_all_orders(cases: Triples) -> None:
    x, y, z = (np.array([case[i] for case in cases], dtype=float) for i in range(3))
    observed = residual_rho(x, y, z)
    assume(observed is not None)
    orders = [np.array(order) for order in permutations(x)]
    partial = [residual_rho(order, y, z) for order in orders]
    defined = [abs(rho) for rho in partial if rho is not None]
    share = sum(rho >= abs(observed or 0.0) - 1e-7 for rho in defined) / len(defined)
    assert size_controls.partial_p(x, y, z) == pytest.approx(share, abs=1e-12)
    u, v = map(scipy_stats.rankdata, (x, y))
    rhos = np.corrcoef([v, *map(scipy_stats.rankdata, orders)])[0, 1:]
    share = np.mean(np.abs(rhos) >= abs(np.corrcoef(u, v)[0, 1]) - 1e-9)
    assert statistics.permutation_p(x, y) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("p_value", [statistics.permutation_p, size_controls.partial_p])
@pytest.mark.parametrize(("n", "levels"), [(4, 3), (7, 7), (9, 3), (12, 12)])
def test_under_the_null_p_is_below_a_at_most_a_of_the_time(
    p_value: Callable[..., float | None], n: int, levels: int
) -> None:
    """Up to three standard errors of the share."""
    generator = np.random.default_rng(n)
    ps = []
    for seed in range(400):
        x, y = generator.integers(0, levels, (2, n)).astype(float)
        z = y + generator.integers(0, 2, n)  # the control goes with the score, x with neither
        control = (z,) if p_value is size_controls.partial_p else ()
        ps.append(p_value(x, y, *control, draws=99, seed=seed))
    defined = [p for p in ps if p is not None]
    assert len(defined) > 120
    for a in (0.01, 0.05, 0.1, 0.25, 0.5):
        share = sum(p <= a for p in defined) / len(defined)
        assert share <= a + 3 * math.sqrt(a * (1 - a) / len(defined)), a


@given(st.lists(st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.01, 0.02])), max_size=12))
def test_holm_is_the_step_down_rule(ps: list[float | None]) -> None:
    adjusted = statistics.holm(ps)
    assert [p is None for p in adjusted] == [p is None for p in ps]
    # rejected at .05: those before the first (in order) that is above .05 / (how many are left)
    ordered = sorted(p for p in ps if p is not None)
    stop = (k for k, p in enumerate(ordered) if (len(ordered) - k) * p >= 0.05)
    assert sum(p is not None and p < 0.05 for p in adjusted) == next(stop, len(ordered))


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-5, 5)), min_size=5, max_size=9),
    st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_resampled_rho_is_that_of_the_repeated_pairs(
    pairs: list[tuple[int, float]], seed: int
) -> None:
    x, y = np.array(pairs, dtype=float).T
    counts = statistics.resamples(len(x), 40, seed)
    assert np.all(counts.sum(axis=1) == len(x))
    drawn = statistics.Resampled(y, counts).rho(x)
    for row, rho in zip(counts.astype(int), drawn, strict=True):
        a, b = np.repeat(x, row), np.repeat(y, row)
        if np.ptp(a) == 0 or np.ptp(b) == 0 or np.count_nonzero(row) < 3:
            assert math.isnan(rho)
        else:
            assert rho == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-9)


@pytest.mark.parametrize(
    ("predicted", "regret"),
    [
        ([3.0, 1, 9, 2], 0.4),
        ([1.0, 3, 9, 2], 0),
        ([3.0, None, 9, 3], 0.1),  # the best of what is left
        ([0.0] * 4, 0.2),  # a random choice
        ([None] * 4, None),
        ([-math.inf, -math.inf, 9, 1.0], 0.2),
    ],
)
def test_regret_by_hand(predicted: list[float | None], regret: float | None) -> None:
    found = statistics.regret(predicted, [0.5, 0.9, None, 0.7])
    assert found == (None if regret is None else pytest.approx(regret))


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (5, (-0.408248290463862, 0.017988147146992275, 0.7035264706814515)),
        (8, (0.042023855308753855, 0.021242694520903098, -0.1776201932185613)),
        (33, (-0.06023563127870902, -0.05019007015064803, -0.05631088676880779)),
    ],
)
def test_distance_correlations_of_many_rows_are_dcors(n: int, expected: tuple[float, ...]) -> None:
    """dcor 0.7, u_distance_correlation_sqr."""
    i = np.arange(float(n))
    squares, threes, waves = i**2 % 7, i * 3 % 5, np.sin(i)
    x, y = np.array([squares, waves, squares]), np.array([threes, i**2 / 10, i**2 / 10])
    assert statistics.distance_correlation_rows(x, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (range(6), range(9, -3, -2), 1),
        (range(6), [1] * 6, math.nan),
        (range(6), [0, 0, 0, 7, 0, 0], math.nan),  # one value apart: no distance variance
        (range(-20, 21), [v**2 for v in range(-20, 21)], 0.1498),  # no order, yet not independent
    ],
)
def test_distance_correlation_by_hand(x: Any, y: Any, expected: float) -> None:
    sides = (np.array([list(side)] * 2, dtype=float) for side in (x, y))
    found = statistics.distance_correlation_rows(*sides)
    assert found == pytest.approx([expected] * 2, abs=0.05, nan_ok=True)


def test_a_distance_correlation_needs_four_values() -> None:
    with pytest.raises(ValueError, match="needs 4 values"):
        statistics.distance_correlation_rows(np.zeros((2, 3)), np.zeros((2, 3)))
    assert statistics.distance_correlation_rows(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


@given(st.lists(st.lists(st.integers(0, 4).map(float), min_size=6, max_size=6), min_size=2))
def test_spearman_of_many_rows_is_that_of_each(rows: list[list[float]]) -> None:
    x, y = np.array(rows), np.array(rows[::-1])
    for found, a, b in zip(statistics.spearman_rows(x, y), rows, rows[::-1], strict=True):
        expected = statistics.spearman(a, b)
        assert np.isnan(found) if expected is None else found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "distance"),
    [(4, 0.11199999995415437), (7, 0.1731993969868169), (31, 0.24869554670041386)],
)
def test_random_walks_correlate_though_they_are_independent(n: int, distance: float) -> None:
    """distance: of dcor 0.7."""
    steps = np.random.default_rng(42).standard_normal((2, 1000, n))
    x, y = steps.cumsum(axis=2)
    rho = np.array([scipy_stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])
    level = statistics.random_walk_level(n)
    assert level.absolute == pytest.approx(np.mean(np.abs(rho)))
    assert level.absolute > 0.35  # that of 31 independent values without order is about .15
    assert level.spearman == pytest.approx(np.mean(rho), abs=1e-12)
    assert level.positive == np.mean(rho > 0)
    assert level.distance == pytest.approx(distance)
    assert abs(level.spearman) < 0.07  # independent
