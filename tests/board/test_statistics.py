"""Rank statistics against scipy, dcor and plain reimplementations."""

from __future__ import annotations

import math
import warnings
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lrd_harness.board import statistics

VALUES = st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
PAIRS = st.lists(st.tuples(VALUES, VALUES), max_size=12)


def naive_rho(x: list[float], y: list[float]) -> float:
    """Pearson's correlation of average ranks, from the definition."""

    def ranked(v: list[float]) -> list[float]:
        return [sum(w < a for w in v) + (sum(w == a for w in v) + 1) / 2 for a in v]

    a, b = ranked(x), ranked(y)
    mean = (len(x) + 1) / 2
    top = sum((p - mean) * (q - mean) for p, q in zip(a, b, strict=True))
    return top / math.sqrt(sum((p - mean) ** 2 for p in a) * sum((q - mean) ** 2 for q in b))


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
        assert found == pytest.approx(naive_rho(a, b), abs=1e-9)


def test_spearman_refuses_lengths_that_differ() -> None:
    with pytest.raises(ValueError, match="different lengths: 3, 2"):
        statistics.spearman([1, 2, 3], [1, 2])


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
    observed = abs(naive_rho(x, y))
    orders = list(permutations(y))
    count = sum(abs(naive_rho(x, list(order))) >= observed - 1e-9 for order in orders)
    assert statistics.permutation_p(x, y) == pytest.approx(count / len(orders), abs=1e-12)


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


def test_drawn_p_is_never_zero() -> None:
    x = list(map(float, range(40)))
    assert statistics.permutation_p(x, x) == pytest.approx(1 / 10_000)
    assert statistics.permutation_p(x, x, draws=99) == pytest.approx(1 / 120)  # 3 orders, rotated


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


def test_very_many_models_agree_with_students_t_without_ties() -> None:
    generator = np.random.default_rng(5)
    x = generator.standard_normal(501)
    for slope in (0.02, 0.06, 0.1):
        y = slope * x + generator.standard_normal(501)
        expected = scipy_stats.spearmanr(x, y).pvalue
        assert statistics.permutation_p(x, y) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("ones", [1, 6, 12])
def test_p_of_very_many_models_with_heavy_ties_is_fishers(ones: int) -> None:
    """Of two sides of ones and zeros, those where so many or more ones meet (hypergeometric)."""
    x, y = np.zeros((2, 501))
    x[:ones] = y[ones - 1 : 2 * ones - 1] = 1  # one meets
    expected = scipy_stats.hypergeom.sf(0, 501, ones, ones)  # t: .0007 for 6 of 501
    assert statistics.permutation_p(x, y) == pytest.approx(expected, abs=0.01, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("ones", [6, 250])
def test_under_the_null_p_holds_above_500_models_with_ties(ones: int) -> None:
    generator = np.random.default_rng(ones)
    x = np.zeros(501)
    x[:ones] = 1
    found = [statistics.permutation_p(x, generator.permutation(x)) or 0.0 for _ in range(400)]
    for a in (0.001, 0.01, 0.05, 0.25):
        share = sum(p <= a for p in found) / len(found)
        assert share <= a + 3 * math.sqrt(a * (1 - a) / len(found)), a


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
    for a in (0.01, 0.05, 0.1, 0.25, 0.5):
        share = sum(p <= a for p in found) / len(found)
        assert share <= a + 3 * math.sqrt(a * (1 - a) / len(found))


@given(st.lists(VALUES, max_size=15), st.booleans())
def test_ranks_are_scipys_with_holes(values: list[float | None], higher: bool) -> None:
    found = statistics.ranks(values, higher)
    there = [v for v in values if v is not None]
    expected = scipy_stats.rankdata([-v if higher else v for v in there])
    assert [r for r in found if r is not None] == expected.tolist()
    assert [r is None for r in found] == [v is None for v in values]


def test_ranks_by_hand() -> None:
    assert statistics.ranks([0.1, 0.9, None, 0.5, 0.5], True) == [4, 1, None, 2.5, 2.5]
    assert statistics.ranks([0.1, 0.9, math.nan, 0.5, 0.5], False) == [1, 4, None, 2.5, 2.5]
    assert statistics.ranks([None, None]) == [None, None]
    assert statistics.places([0.1, 0.9, None, 0.5, 0.5]) == [4, 1, None, 2, 2]


def test_means_over_tasks_need_every_value() -> None:
    assert statistics.mean_of_all([0.25, 0.5]) == 0.375
    assert statistics.mean_stderr([0.03, 0.04]) == pytest.approx(0.025)
    for f in (statistics.mean_of_all, statistics.mean_stderr):
        assert f([0.1, None]) is None
        assert f([0.1, math.nan]) is None
        assert f([]) is None


@pytest.fixture(scope="module")
def dcor() -> Any:
    """Imported here only: it compiles as it is imported, and two processes at once can crash."""
    import dcor

    return dcor


def u_centred(dcor: Any, values: np.ndarray) -> np.ndarray:
    centred: np.ndarray = dcor.u_centered(np.abs(values[:, None] - values))
    return centred


@pytest.mark.slow
@given(PAIRS)
def test_distance_correlation_is_dcors_with_ties_and_holes(
    dcor: Any, pairs: list[tuple[float, float]]
) -> None:
    found = statistics.distance_correlation([p[0] for p in pairs], [p[1] for p in pairs])
    whole = np.array([p for p in pairs if None not in p], dtype=float).reshape(-1, 2)
    if len(whole) < 4:
        assert found is None
        return
    # In units of the spread: dcor's own sums lose small differences beside large ones.
    x, y = (whole - whole.min(axis=0)).T / np.maximum(np.ptp(whole, axis=0), 1e-300)[:, None]
    u, v = u_centred(dcor, x), u_centred(dcor, y)
    if found is None:
        assert min(np.abs(u).max(), np.abs(v).max()) < 1e-9
    else:
        variances = dcor.u_product(u, u), dcor.u_product(v, v)
        expected = dcor.u_product(u, v) / math.sqrt(variances[0] * variances[1])
        assert found == pytest.approx(expected, abs=1e-15 / math.sqrt(min(variances)) + 1e-9)


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


def test_distance_correlation_by_hand_and_where_it_has_none() -> None:
    line = [1.0, 2, 3, 4, 5, 6]
    assert statistics.distance_correlation(line, [9 - 2 * v for v in line]) == pytest.approx(1)
    assert statistics.distance_correlation(line, [1.0] * 6) is None
    assert (
        statistics.distance_correlation(line, [0.0, 0, 0, 7, 0, 0]) is None
    )  # one value apart: var 0
    assert statistics.distance_correlation(line[:3], line[:3]) is None
    # a parabola: no order, but no independence either
    line = list(map(float, range(-20, 21)))
    parabola = [v**2 for v in line]
    assert statistics.spearman(line, parabola) == pytest.approx(0)
    assert (statistics.distance_correlation(line, parabola) or 0) > 0.1
    with pytest.raises(ValueError, match="needs 4 values"):
        statistics.distance_correlation_rows(np.zeros((2, 3)), np.zeros((2, 3)))


def test_rows_in_parts_and_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 30, 7))
    whole = statistics.distance_correlation_rows(x, y)
    monkeypatch.setattr(statistics, "_CHUNK", 150)
    assert statistics.distance_correlation_rows(x, y).tolist() == whole.tolist()
    assert statistics.distance_correlation_rows(x[:0], y[:0]).shape == (0,)


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
