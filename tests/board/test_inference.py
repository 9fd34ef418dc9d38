"""Tau, Holm, partial rho, bootstrap and regret against scipy and plain reimplementations."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lrd_harness.board import inference, statistics

VALUES = st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))
PAIRS = st.lists(st.tuples(VALUES, VALUES), max_size=14)
TRIPLES = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=14)
Row = list[float]


def whole(*sides: list[float | None]) -> list[np.ndarray]:
    kept = [case for case in zip(*sides, strict=True) if None not in case]
    return [np.array([case[i] for case in kept], dtype=float) for i in range(len(sides))]


@given(PAIRS)
def test_tau_is_scipys_with_ties_and_holes(pairs: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in pairs], [p[1] for p in pairs]
    a, b = whole(x, y)
    found = inference.kendall(x, y)
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        assert found is None
        return
    assert found == pytest.approx(scipy_stats.kendalltau(a, b).statistic, abs=1e-12)
    signs = [  # from the definition of tau-b
        (np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i in range(len(a)) for j in range(i)
    ]
    both = sum(p * q for p, q in signs)
    lengths = sum(p != 0 for p, _ in signs) * sum(q != 0 for _, q in signs)
    assert found == pytest.approx(both / math.sqrt(lengths), abs=1e-9)


def plain_holm(ps: list[float | None]) -> list[float | None]:
    """max over the tests with a p no larger of (how many are left) * p: from the definition."""
    held = sorted(p for p in ps if p is not None)
    adjusted: dict[float, float] = {}
    for p in held:
        steps = [(len(held) - k) * q for k, q in enumerate(held) if q <= p]
        # of equal p-values the first has the largest factor, and no later one is below it
        adjusted[p] = min(1.0, max(steps))
    return [None if p is None else adjusted[p] for p in ps]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.01, 0.02])), max_size=12))
def test_holm_is_the_step_down_rule(ps: list[float | None]) -> None:
    found = inference.holm(ps)
    assert found == pytest.approx(plain_holm(ps))
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
    found = inference.partial_rho(x, y, z)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-8))
    if found is None:
        assert inference.partial_p(x, y, z, draws=9) is None
        return
    r = {pair: scipy_stats.spearmanr(*pair_of).statistic for pair, pair_of in (
        ("xy", (a, b)), ("xz", (a, c)), ("yz", (b, c)),
    )}  # fmt: skip
    formula = (r["xy"] - r["xz"] * r["yz"]) / math.sqrt((1 - r["xz"] ** 2) * (1 - r["yz"] ** 2))
    assert found == pytest.approx(formula, abs=1e-6)


def test_nothing_is_left_where_a_side_is_the_control() -> None:
    x, y = [1.0, 2, 3, 5, 4], [2.0, 1, 3, 4, 5]
    assert inference.partial_rho(x, y, x) is None
    assert inference.partial_rho(x, y, [-v for v in y]) is None
    assert inference.partial_rho(x, y, [1.0] * 5) is None  # a constant controls nothing
    assert inference.partial_rho(x[:3], y[:3], [3.0, 1, 2]) is None
    with pytest.raises(ValueError, match="different lengths"):
        inference.partial_rho(x, y, [1.0])


def test_partial_rho_and_p_of_very_many() -> None:
    generator = np.random.default_rng(2)
    x, y, z = generator.standard_normal((3, 3_000))
    y = y + 0.05 * x + z
    assert inference.partial_rho(x, y, z) == pytest.approx(residual_rho(x, y, z), abs=1e-9)
    some = [side[:500] for side in (x, y, z)]
    for sides in (some, [x, y, z]):  # without ties Student's t is right
        rho, free = inference.partial_rho(*sides) or 0.0, len(sides[0]) - 3
        t = rho * math.sqrt(free / (1 - rho**2))
        student = 2 * scipy_stats.t.sf(abs(t), free)
        assert inference.partial_p(*sides) == pytest.approx(student, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("ones", [6, 12])
def test_under_the_null_partial_p_holds_above_500_cases_with_ties(ones: int) -> None:
    generator = np.random.default_rng(ones)
    y = np.zeros(501)
    y[:ones] = 1
    z = generator.integers(0, 3, 501) + y  # the control goes with the score, x with neither
    found = [inference.partial_p(generator.permutation(y), y, z) or 0.0 for _ in range(400)]
    shares([p for p in found if p < 0.5] + [1.0] * sum(p >= 0.5 for p in found))
    assert sum(p <= 0.001 for p in found) <= 4


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=4, max_size=6))
def test_exact_partial_p_is_the_share_of_all_orders(cases: list[tuple[int, int, int]]) -> None:
    x, y, z = (np.array([case[i] for case in cases], dtype=float) for i in range(3))
    observed = residual_rho(x, y, z)
    assume(observed is not None)
    orders = [residual_rho(np.array(order), y, z) for order in permutations(x)]
    held = [abs(rho) for rho in orders if rho is not None]
    share = sum(rho >= abs(observed or 0.0) - 1e-7 for rho in held) / len(held)
    assert inference.partial_p(x, y, z) == pytest.approx(share, abs=1e-12)


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
        p = inference.partial_p(x, y, z, draws=99, seed=seed)
        found += [] if p is None else [p]
    assert len(found) > 150
    shares(found)


@pytest.mark.parametrize("n", [10, 25])
def test_partial_p_holds_where_the_predictor_goes_with_the_control(n: int) -> None:
    generator = np.random.default_rng(n)
    found = []
    for seed in range(400):
        z = generator.standard_normal(n)
        x, y = z + generator.standard_normal((2, n))
        found.append(inference.partial_p(x, y, z, draws=99, seed=seed) or 0.0)
    shares([1.15 * p for p in found])  # about: the drawn orders do not go with the control
    assert sum(p <= 0.5 for p in found) > 0.4 * len(found)  # and is not careful beyond need


def test_partial_p_sees_what_the_control_does_not_say() -> None:
    generator = np.random.default_rng(0)
    z = generator.standard_normal(25)
    x = generator.standard_normal(25)
    y = z + x + 0.3 * generator.standard_normal(25)
    assert inference.partial_p(x, y, z) == pytest.approx(1e-4)
    assert (inference.partial_p(z + 0.1 * x, z + 1e-9 * x, z) or 0.0) < 0.05


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(-5, 5)), min_size=5, max_size=9),
    st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_resampled_rho_is_that_of_the_repeated_pairs(
    pairs: list[tuple[int, float]], seed: int
) -> None:
    x, y = np.array(pairs, dtype=float).T
    counts = inference.resamples(len(x), 40, seed)
    assert np.all(counts.sum(axis=1) == len(x))
    drawn = inference.Resampled(y, counts).rho(x)
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
    drawn = inference.Resampled(y, inference.resamples(25)).rho(x)
    found, wider = inference.interval(drawn), inference.interval(drawn, 0.99)
    expected = scipy_stats.bootstrap(
        (x, y),
        lambda a, b: scipy_stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found is not None
    assert wider is not None
    assert found == pytest.approx((expected.low, expected.high), abs=0.06)
    assert wider.low < found.low < (statistics.spearman(x, y) or 0.0) < found.high < wider.high


def test_no_interval_of_too_few_or_what_is_mostly_undefined() -> None:
    assert inference.bootstrap_median([1.0, 2, 3, 4, None]) is None
    assert inference.interval(np.full(10, np.nan)) is None
    assert inference.interval(np.array([1.0] + [np.nan] * 9)) is None
    # resamples in which a side is constant are dropped, the others are +1
    side = np.array([0.0] * 4 + [1.0])
    drawn = inference.Resampled(side, inference.resamples(5)).rho(side)
    assert inference.interval(drawn) == pytest.approx((1, 1))


def test_bootstrap_of_a_median_agrees_with_scipys() -> None:
    values = np.random.default_rng(4).standard_normal(30)
    found = inference.bootstrap_median([*values, None])
    expected = scipy_stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=5_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.1)
    assert found == inference.bootstrap_median(values)


def test_regret_by_hand() -> None:
    actual = [0.5, 0.9, None, 0.7]
    assert inference.regret([3.0, 1, 9, 2], actual) == pytest.approx(0.4)
    assert inference.regret([1.0, 3, 9, 2], actual) == 0
    assert inference.regret([3.0, None, 9, 3], actual) == pytest.approx(0.1)  # best of what is left
    assert inference.regret([0.0] * 4, actual) == pytest.approx(0.2)  # a random choice
    assert inference.regret([None], [1.0]) is None
    assert inference.regret([-math.inf, 2.0, 1.0], [0.9, 0.5, 0.7]) == pytest.approx(0.4)


def test_resamples_are_uniform() -> None:
    counts = inference.resamples(7)
    assert counts.shape == (2_000, 7)
    assert np.all(counts.sum(axis=1) == 7)
    assert counts.mean(axis=0) == pytest.approx(1, abs=0.08)
    assert counts.var() == pytest.approx(6 / 7, abs=0.05)  # binomial
