"""Half-samples: intervals against the textbook, how often they hold the truth, differences."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_harness.contracts import Metric
from lrd_harness.errors import StorageFull, UnitError, UserError
from lrd_harness.scores import Profile, Scores
from lrd_harness.studies.compare import differences
from lrd_harness.studies.values import (
    LayerScore,
    Measurement,
    halves,
    interval,
    layer_score,
    on_halves,
)


@given(n=st.integers(16, 70), draws=st.integers(2, 9), seed=st.integers(0, 2**40))
def test_halves(n: int, draws: int, seed: int) -> None:
    drawn = halves(n, draws, seed)
    assert len(drawn) == draws
    for half in drawn:
        assert len(half) == n // 2
        assert (np.diff(half) > 0).all()
        assert 0 <= half[0] <= half[-1] < n
    again = halves(n, 2, seed)
    assert all(np.array_equal(x, y) for x, y in zip(drawn, again, strict=False))


@pytest.mark.parametrize(
    ("n", "draws", "said"),
    [
        (15, 10, "intervals need at least 16 texts, got 15"),
        (30, 1, "intervals need at least 2"),
        (30, -1, "--draws -1: "),
    ],
)
def test_halves_that_cannot_be(n: int, draws: int, said: str) -> None:
    assert halves(3, 0) == []
    with pytest.raises(UserError, match=said):
        halves(n, draws)


@pytest.mark.parametrize("n", [17, 200, 501])
def test_of_a_mean_it_is_the_interval_of_the_textbook(n: int) -> None:
    x = np.random.default_rng(n).exponential(size=n)
    low, high = interval(x.mean(), [x[half].mean() for half in halves(n, 4000)], n)  # type: ignore[misc]
    assert (low + high) / 2 == pytest.approx(x.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * x.std(ddof=1) / np.sqrt(n), rel=0.05)


@pytest.mark.slow
def test_coverage_of_a_paired_difference() -> None:
    """The truth lies in about 95 of 100 intervals, as drawn by default: from 100 halves."""
    rng = np.random.default_rng(0)
    drawn, hits, runs, n = halves(60, 100), 0, 600, 60
    for _ in range(runs):
        base, tuned = 5 * rng.normal(size=n) + rng.normal(size=(2, n))  # texts differ by far more
        x = tuned - base + 0.3
        low, high = interval(x.mean(), [x[half].mean() for half in drawn], n)  # type: ignore[misc]
        hits += low <= 0.3 <= high
    assert 0.92 <= hits / runs <= 0.97


def test_halves_without_a_value() -> None:
    known = [1.0, 2.0, 3.0, 4.0]
    assert interval(0, [*known, np.nan, np.nan], 40) == interval(0, known, 40)
    assert interval(0, [*known, *[np.nan] * 5], 40) is None
    assert interval(0, [], 40) is None


def test_only_layers_that_both_models_have() -> None:
    def side(values: dict[int, float | None]) -> Measurement[LayerScore]:
        score = LayerScore("mine", "s", None, values)
        return Measurement(score, 20, [score, score, None])

    base, tuned = side({0: None, 1: 1.0, 2: 2.0}), side({1: 1.5, 2: 2.0, 3: 4.0})
    rows = differences(base, tuned, (4, 4), 20)
    columns = ("layer", "depth", "difference", "low", "high", "apart", "draws")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        (1, 0.25, 0.5, 0.5, 0.5, True, 2),
        (2, 0.5, 0, 0, 0, False, 2),
    ]


def test_faults_on_halves_are_no_values_and_a_fault_on_all_is_raised() -> None:
    def statistic(rows: Sequence[int] | None) -> tuple[Scores, int]:
        if rows is not None and rows[0] == 1:
            raise UnitError("not here")
        if rows is not None and rows[0] == 2:
            raise UnitError("lost") from OSError(errno.ENOSPC, "full")
        return Scores({"s": Profile("states", 0, [1.0, 2.0])}, 2), 9

    def take(scores: Scores) -> LayerScore:
        return layer_score(Metric("mine", dict), scores)

    measured = on_halves(statistic, take, [np.array([i]) for i in (0, 1, 0)])
    whole = take(statistic(None)[0])
    assert (measured.whole, measured.n, measured.halves) == (whole, 9, [whole, None, whole])
    with pytest.raises(UnitError, match="has no score for single layers"):
        on_halves(lambda rows: (Scores({"s": 1.0}, 2), 9), take, [])
    with pytest.raises(StorageFull):  # not a half without a value
        on_halves(statistic, take, [np.array([2])])
