"""Rank statistics against scipy, dcor and plain reimplementations."""

from __future__ import annotations

import math
import warnings
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lrd_harness.board import statistics

VALUES = st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
PAIRS = st.lists(st.tuples(VALUES, VALUES), max_size=12)


@given(PAIRS)
def test_spearman_is_scipys_with_ties_and_holes(pairs: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in pairs], [p[1] for p in pairs]
    found = statistics.spearman(x, y)
    whole = [(a, b) for a, b in pairs if a is not None and b is not None]
    a, b = [p[0] for p in whole], [p[1] for p in whole]
    if len(whole) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        assert found is None
        assert statistics.permutation_p(x, y, draws=9) is None
    else:
        assert found == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-12)


def test_nan_counts_as_missing_and_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert statistics.spearman([1, 2, math.nan, 3], [1, 2, 9, 3]) == pytest.approx(1)
        assert statistics.spearman([1, 1, 1], [1, 2, 3]) is None
        assert statistics.spearman([], []) is None
        assert statistics.spearman([1, 2], [1, 2]) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=6))
def test_exact_p_is_the_share_of_all_orders(pairs: list[tuple[int, int]]) -> None:
    x, y = [float(p[0]) for p in pairs], [float(p[1]) for p in pairs]
    if len(set(x)) == 1 or len(set(y)) == 1:
        return
    u, v = map(scipy_stats.rankdata, (x, y))
    rhos = np.corrcoef([u, *(list(order) for order in permutations(v))])[0, 1:]
    share = np.mean(np.abs(rhos) >= abs(np.corrcoef(u, v)[0, 1]) - 1e-9)
    assert statistics.permutation_p(x, y) == pytest.approx(share, abs=1e-12)


def test_drawn_p_agrees_with_scipys_and_with_its_own_seed() -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, 6, 15).astype(float).tolist()
    y = (np.array(x) + 3 * generator.standard_normal(15)).round().tolist()
    found = statistics.permutation_p(x, y)
    assert found is not None
    assert found == statistics.permutation_p(x, y)
    expected = scipy_stats.permutation_test(
        (x,),
        lambda a: scipy_stats.spearmanr(a, y).statistic,
        permutation_type="pairings",
        n_resamples=1_000,
        rng=np.random.default_rng(1),
    ).pvalue
    assert found == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("n", [9, 20, 97])
def test_products_are_of_orders_of_the_same_values(n: int) -> None:
    generator = np.random.default_rng(n)
    u, v, w = (statistics.doubled_ranks(generator.integers(0, n, n)) for _ in range(3))
    found, other = statistics.products(u, v, w, draws=300)
    orders = statistics.drawn_orders(n, 300 // n + 1, 42)
    assert np.sort(orders, axis=1).tolist() == [list(range(n))] * len(orders)
    for values, side in ((found, v), (other, w)):  # each order, rotated by every number of places
        expected = [np.roll(u[order], -k) @ side[orders[0]] for order in orders for k in range(n)]
        assert values.tolist() == expected
        assert values[0] == u @ side
    assert len(found) > 300


@pytest.mark.parametrize("ones", [1, 6, 12])
def test_p_of_very_many_models_with_heavy_ties_is_fishers(ones: int) -> None:
    """Of two sides of ones and zeros, those where so many or more ones meet (hypergeometric)."""
    x, y = np.zeros((2, 501))
    x[:ones] = y[ones - 1 : 2 * ones - 1] = 1  # one meets
    expected = scipy_stats.hypergeom.sf(0, 501, ones, ones)  # t: .0007 for 6 of 501
    assert statistics.permutation_p(x, y) == pytest.approx(expected, abs=0.01, rel=0.2)


@pytest.mark.parametrize(("n", "levels"), [(4, 2), (7, 7), (9, 3), (12, 12)])
def test_under_the_null_p_is_below_a_at_most_a_of_the_time(n: int, levels: int) -> None:
    generator = np.random.default_rng(n)
    found = []
    for seed in range(600):
        x = generator.integers(0, levels, n).astype(float).tolist()
        y = generator.integers(0, levels, n).astype(float).tolist()
        p = statistics.permutation_p(x, y, draws=99, seed=seed)
        if p is not None:
            found.append(p)
    shares(found)


@given(st.lists(VALUES, max_size=15), st.booleans())
def test_ranks_are_scipys_with_holes(values: list[float | None], higher: bool) -> None:
    found = statistics.ranks(values, higher)
    there = [v for v in values if v is not None]
    expected = scipy_stats.rankdata([-v if higher else v for v in there])
    assert [r for r in found if r is not None] == expected.tolist()
    assert [r is None for r in found] == [v is None for v in values]


def test_means_over_tasks_need_every_value() -> None:
    assert statistics.mean_of_all([0.25, 0.5]) == 0.375
    assert statistics.mean_stderr([0.03, 0.04]) == pytest.approx(0.025)
    for f in (statistics.mean_of_all, statistics.mean_stderr):
        assert f([0.1, None]) is None
        assert f([0.1, math.nan]) is None
        assert f([]) is None


# ---------------------------------------------------------------- beside a correlation


TRIPLES = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=14)


def whole(*sides: list[float | None]) -> list[np.ndarray]:
    kept = [case for case in zip(*sides, strict=True) if None not in case]
    return [np.array([case[i] for case in kept], dtype=float) for i in range(len(sides))]


@given(PAIRS)
def test_tau_is_scipys_with_ties_and_holes(pairs: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in pairs], [p[1] for p in pairs]
    a, b = whole(x, y)
    found = statistics.kendall(x, y)
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        assert found is None
        return
    assert found == pytest.approx(scipy_stats.kendalltau(a, b).statistic, abs=1e-12)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.01, 0.02])), max_size=12))
def test_holm_is_the_step_down_rule(ps: list[float | None]) -> None:
    found = statistics.holm(ps)
    assert [p is None for p in found] == [p is None for p in ps]
    # rejected at .05: those before the first (in order) that is above .05 / (how many are left)
    held = sorted(p for p in ps if p is not None)
    stop = next((k for k, p in enumerate(held) if (len(held) - k) * p >= 0.05), len(held))
    assert sum(p is not None and p < 0.05 for p in found) == stop


def residual_rho(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float | None:
    """Pearson's correlation of what a line through the control's ranks leaves of the ranks."""
    u, v, w = (scipy_stats.rankdata(side) for side in (x, y, z))
    line = np.column_stack([np.ones(len(w)), w])
    left = [side - line @ np.linalg.lstsq(line, side, rcond=None)[0] for side in (u, v)]
    if len(x) < 4 or min(np.abs(side).max() for side in left) < 1e-9 or np.ptp(w) == 0:
        return None
    return float(np.corrcoef(*left)[0, 1])


@given(TRIPLES)
def test_partial_rho_is_the_correlation_of_residuals(
    cases: list[tuple[float, float, float]],
) -> None:
    x, y, z = ([case[i] for case in cases] for i in range(3))
    a, b, c = whole(x, y, z)
    expected = residual_rho(a, b, c) if len(a) >= 4 else None
    found = statistics.partial_rho(x, y, z)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-8))
    if found is None:
        assert statistics.partial_p(x, y, z, draws=9) is None
        return
    r = {pair: scipy_stats.spearmanr(*pair_of).statistic for pair, pair_of in (
        ("xy", (a, b)), ("xz", (a, c)), ("yz", (b, c)),
    )}  # fmt: skip
    formula = (r["xy"] - r["xz"] * r["yz"]) / math.sqrt((1 - r["xz"] ** 2) * (1 - r["yz"] ** 2))
    assert found == pytest.approx(formula, abs=1e-6)


def test_nothing_is_left_where_a_side_is_the_control() -> None:
    x, y = [1.0, 2, 3, 5, 4], [2.0, 1, 3, 4, 5]
    assert statistics.partial_rho(x, y, x) is None
    assert statistics.partial_rho(x, y, [-v for v in y]) is None
    assert statistics.partial_rho(x, y, [1.0] * 5) is None  # a constant controls nothing
    assert statistics.partial_rho(x[:3], y[:3], [3.0, 1, 2]) is None
    with pytest.raises(ValueError, match="different lengths"):
        statistics.partial_rho(x, y, [1.0])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=4, max_size=6))
def test_exact_partial_p_is_the_share_of_all_orders(cases: list[tuple[int, int, int]]) -> None:
    x, y, z = (np.array([case[i] for case in cases], dtype=float) for i in range(3))
    observed = residual_rho(x, y, z)
    assume(observed is not None)
    orders = [residual_rho(np.array(order), y, z) for order in permutations(x)]
    held = [abs(rho) for rho in orders if rho is not None]
    share = sum(rho >= abs(observed or 0.0) - 1e-7 for rho in held) / len(held)
    assert statistics.partial_p(x, y, z) == pytest.approx(share, abs=1e-12)


def shares(found: list[float]) -> None:
    """P(p <= a) <= a, up to three standard errors of the share."""
    for a in (0.01, 0.05, 0.1, 0.25, 0.5):
        share = sum(p <= a for p in found) / len(found)
        assert share <= a + 3 * math.sqrt(a * (1 - a) / len(found)), a


@pytest.mark.parametrize(("n", "levels"), [(4, 3), (7, 7), (9, 3), (12, 12)])
def test_under_the_null_partial_p_is_below_a_at_most_a_of_the_time(n: int, levels: int) -> None:
    generator = np.random.default_rng(n)
    found = []
    for seed in range(500):
        x, y = generator.integers(0, levels, (2, n)).astype(float)
        z = y + generator.integers(0, 2, n)  # the control goes with the score, x with neither
        p = statistics.partial_p(x, y, z, draws=99, seed=seed)
        found += [] if p is None else [p]
    assert len(found) > 150
    shares(found)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-5, 5)), min_size=5, max_size=9),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_resampled_rho_is_that_of_the_repeated_pairs(
    pairs: list[tuple[int, float]], seed: int
) -> None:
    x, y = np.array(pairs, dtype=float).T
    counts = statistics.resamples(len(x), 40, seed)
    assert np.all(counts.sum(axis=1) == len(x))
    drawn = statistics.Resampled(y, counts).rho(x)
    for row, found in zip(counts.astype(int), drawn, strict=True):
        a, b = np.repeat(x, row), np.repeat(y, row)
        if np.ptp(a) == 0 or np.ptp(b) == 0 or np.count_nonzero(row) < 3:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-9)


def test_intervals_of_rho_agree_with_scipys() -> None:
    generator = np.random.default_rng(7)
    x = generator.integers(0, 8, 25).astype(float)
    y = x + 2 * generator.standard_normal(25)
    drawn = statistics.Resampled(y, statistics.resamples(25)).rho(x)
    found, wider = statistics.interval(drawn), statistics.interval(drawn, 0.99)
    expected = scipy_stats.bootstrap(
        (x, y),
        lambda a, b: scipy_stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.06)
    ends = (wider[0], found[0], statistics.spearman(x, y), found[1], wider[1])
    assert list(ends) == sorted(ends)


def test_no_interval_of_too_few_or_what_is_mostly_undefined() -> None:
    assert statistics.bootstrap_median([1.0, 2, 3, 4, None]) == (None, None)
    assert statistics.interval(np.full(10, np.nan)) == (None, None)
    assert statistics.interval(np.array([1.0] + [np.nan] * 9)) == (None, None)
    # resamples in which a side is constant are dropped, the others are +1
    side = np.array([0.0] * 4 + [1.0])
    drawn = statistics.Resampled(side, statistics.resamples(5)).rho(side)
    assert statistics.interval(drawn) == pytest.approx((1, 1))


def test_bootstrap_of_a_median_agrees_with_scipys() -> None:
    values = np.random.default_rng(4).standard_normal(30)
    found = statistics.bootstrap_median([*values, None])
    expected = scipy_stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=5_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.1)
    assert found == statistics.bootstrap_median(values)


def test_regret_by_hand() -> None:
    actual = [0.5, 0.9, None, 0.7]
    assert statistics.regret([3.0, 1, 9, 2], actual) == pytest.approx(0.4)
    assert statistics.regret([1.0, 3, 9, 2], actual) == 0
    assert statistics.regret([3.0, None, 9, 3], actual) == pytest.approx(
        0.1
    )  # best of what is left
    assert statistics.regret([0.0] * 4, actual) == pytest.approx(0.2)  # a random choice
    assert statistics.regret([None], [1.0]) is None
    assert statistics.regret([-math.inf, 2.0, 1.0], [0.9, 0.5, 0.7]) == pytest.approx(0.4)


# ---------------------------------------------------------------- curves over layers


@pytest.fixture(scope="module")
def dcor() -> Any:
    """Imported here only: it compiles as it is imported, and two processes at once can crash."""
    import dcor

    return dcor


def u_centred(dcor: Any, values: np.ndarray) -> np.ndarray:
    centred: np.ndarray = dcor.u_centered(np.abs(values[:, None] - values))
    return centred


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 5, 8, 33])
@pytest.mark.parametrize("levels", [3, 100_000])
def test_distance_correlations_of_many_rows_are_dcors(dcor: Any, n: int, levels: int) -> None:
    generator = np.random.default_rng(n)
    x = generator.integers(0, levels, (40, n)).astype(float)
    y = (x + generator.integers(0, levels, (40, n))) ** 2.0
    found = statistics.distance_correlation_rows(x, y)
    for row, a, b in zip(found, x, y, strict=True):
        if np.isnan(row):
            assert min(np.abs(u_centred(dcor, v)).max() for v in (a, b)) < 1e-12 * levels**2
        else:
            assert row == pytest.approx(dcor.u_distance_correlation_sqr(a, b), abs=1e-9)
    assert np.isfinite(found).any()


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


@pytest.mark.slow
def test_random_walks_correlate_though_they_are_independent(dcor: Any) -> None:
    for n in (4, 7, 31):
        steps = np.random.default_rng(42).standard_normal((2, 1000, n))
        x, y = steps.cumsum(axis=2)
        rho = [scipy_stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
        distance = [dcor.u_distance_correlation_sqr(a, b) for a, b in zip(x, y, strict=True)]
        level = statistics.random_walk_level(n)
        assert level.absolute == pytest.approx(np.mean(np.abs(rho)))
        assert level.spearman == pytest.approx(np.mean(rho), abs=1e-12)
        assert level.positive == np.mean(np.array(rho) > 0)
        assert level.distance == pytest.approx(np.mean(distance))
        assert abs(level.spearman) < 0.07  # independent
    level = statistics.random_walk_level(31)
    assert level.absolute > 0.35  # that of independent values without order is about .15
    assert level.distance > 0.2
    assert statistics.random_walk_level(31) is level
