"""Intervals from half-samples: against the textbook, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_harness import measure
from lrd_harness.errors import UserError
from lrd_harness.studies.values import halves, interval


@given(n=st.integers(16, 70), draws=st.integers(2, 9), seed=st.integers(0, 2**40))
def test_halves(n: int, draws: int, seed: int) -> None:
    found = halves(n, draws, seed)
    assert len(found) == draws
    for half in found:
        assert len(set(half.tolist())) == n // 2
        assert (np.diff(half) > 0).all()
        assert 0 <= half[0] <= half[-1] < n
    again = halves(n, 2, seed)
    assert all(np.array_equal(x, y) for x, y in zip(found, again, strict=False))


def test_halves_that_cannot_be() -> None:
    assert halves(3, 0) == []
    with pytest.raises(UserError, match="intervals need at least 16 texts, got 15"):
        halves(15, 10)
    for draws in (1, -1):
        with pytest.raises(UserError, match="intervals need at least 2"):
            halves(30, draws)


@pytest.mark.parametrize("n", [17, 200, 501])
def test_of_a_mean_it_is_the_interval_of_the_textbook(n: int) -> None:
    x = np.random.default_rng(n).exponential(size=n)
    low, high = interval(x.mean(), [x[half].mean() for half in halves(n, 4000)], n)  # type: ignore[misc]
    assert (low + high) / 2 == pytest.approx(x.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * x.std(ddof=1) / np.sqrt(n), rel=0.05)


def test_coverage_of_a_paired_difference() -> None:
    """The truth lies in about 95 of 100 intervals, as drawn by default: from 100 halves."""
    rng = np.random.default_rng(0)
    drawn, hits, runs, n = halves(60, 100), 0, 600, 60
    for _ in range(runs):
        one, other = 5 * rng.normal(size=n) + rng.normal(size=(2, n))  # texts differ by far more
        x = other - one + 0.3
        low, high = interval(x.mean(), [x[half].mean() for half in drawn], n)  # type: ignore[misc]
        hits += low <= 0.3 <= high
    assert 0.92 <= hits / runs <= 0.97


def test_coverage_of_the_length_of_a_mean_vector() -> None:
    """Of a statistic that is no mean, but nearly one."""
    rng = np.random.default_rng(1)
    drawn, hits, runs, n = halves(80, 100), 0, 400, 80
    truth = np.array([1.0, 2.0, 2.0])
    for _ in range(runs):
        x = truth + rng.normal(size=(n, 3))
        norms = [float(np.linalg.norm(x[half].mean(0))) for half in drawn]
        low, high = interval(float(np.linalg.norm(x.mean(0))), norms, n)  # type: ignore[misc]
        hits += low <= 3 <= high
    assert 0.92 <= hits / runs <= 0.98


def test_of_a_metric_of_all_texts_together_it_is_about_right() -> None:
    """The spread on halves of one sample against that of 100 fresh samples, 200 texts each."""
    size = np.arange(1, 25) ** -0.7

    def entropy(x: np.ndarray) -> float:
        found = measure("dataset_entropy", [x, x])["dataset_entropy"]
        assert isinstance(found, list)
        return found[0]

    samples = [np.random.default_rng(i).normal(size=(200, 24)) * size for i in range(100)]
    fresh = np.std([entropy(x) for x in samples])
    spreads = [np.std([entropy(x[half]) for half in halves(200, 60)]) for x in samples[:4]]
    assert np.mean(spreads) == pytest.approx(fresh, rel=0.3)


def test_halves_without_a_value() -> None:
    known = [1.0, 2.0, 3.0, 4.0]
    assert interval(0, [*known, np.nan, np.nan], 40) == interval(0, known, 40)
    assert interval(0, [*known, *[np.nan] * 5], 40) is None
    assert interval(0, [], 40) is None
