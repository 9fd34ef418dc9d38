"""Predictors within families: shares, ranks and rhos against plain counting and scipy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lrd_harness.board import panel
from lrd_harness.board.families import concordance, family_tables
from lrd_harness.report import Table
from lrd_harness.results.rows import MetricRow, ModelRow, Results, ScoreRow

LEVELS = st.integers(0, 4).map(float)


def made(
    of: Sequence[str | None], scores: Sequence[float | None], values: Sequence[float | None]
) -> tuple[dict[str, Table], int]:
    """Tables of models m0, m1, ... of these families, with a mean score and one metric's value."""
    results = Results(
        models=tuple(
            ModelRow(model=f"m{i}", family=name, width=2 ** (i % 3 + 6))
            for i, name in enumerate(of)
        ),
        scores=tuple(
            ScoreRow(model=f"m{i}", task="T", layer=1, layers=1, score=score)
            for i, score in enumerate(scores)
            if score is not None
        ),
        metrics=tuple(
            MetricRow(
                model=f"m{i}", task="T", metric="made", n=9, selection=("low", "min"),
                values={"low": value},
            )
            for i, value in enumerate(values)
            if value is not None
        ),
    )  # fmt: skip
    found = panel.make(results)
    tables, left_out = family_tables(found, [row.model for row in found.models])
    return {table.name: table for table in tables}, left_out


def row_of(tables: dict[str, Table], name: str = "made") -> Any:
    return next(row for row in tables["families"].rows if row["predictor"] == name)


def counted(x: Sequence[float], y: Sequence[float], pairs: Sequence[tuple[int, int]]) -> Any:
    """Plain counting: right, level as half, of those with unlike y."""
    unlike = [(i, j) for i, j in pairs if y[i] != y[j]]
    right = [(x[i] > x[j]) == (y[i] > y[j]) if x[i] != x[j] else 0.5 for i, j in unlike]
    return sum(right) / len(unlike) if unlike else None, len(unlike)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=0, max_size=12))
def test_pairs_are_those_that_counting_finds(pairs: list[tuple[float, float]]) -> None:
    x, y = (np.array(side) for side in zip(*pairs, strict=True)) if pairs else (np.empty(0),) * 2
    found = concordance(x, y)
    places = list(itertools.combinations(range(len(x)), 2))
    assert (found.share, found.n) == counted(x.tolist(), y.tolist(), places)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_against_counting_and_scipy_with_ties_and_holes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    of = [*"aaaaaabbbbcc", "d", None]
    scores = (generator.integers(0, 8, len(of)) / 10).tolist()
    values = generator.integers(0, 6, len(of)).astype(float).tolist()
    values[1] = None
    tables, left_out = made(of, scores, values)
    row = row_of(tables)
    there = [i for i, name in enumerate(of) if name and values[i] is not None]
    pairs = list(itertools.combinations(there, 2))
    within = [(i, j) for i, j in pairs if of[i] == of[j]]
    turned = [-value if value is not None else 0.0 for value in values]  # the lowest is the best
    assert (row["share"], row["pairs"]) == pytest.approx(counted(turned, scores, within))
    others = [pair for pair in pairs if pair not in within]
    found = row["between"], row["between_pairs"]
    assert found == pytest.approx(counted(turned, scores, others))
    rhos = {name: rho for name, rho in row.items() if name.startswith("by_family.")}
    assert set(rhos) == {"by_family.a", "by_family.b"}  # c has two
    for name in "ab":
        own = [i for i in there if of[i] == name]
        x, y = [turned[i] for i in own], [scores[i] for i in own]
        assert rhos[f"by_family.{name}"] == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert row["rho"] == pytest.approx(np.median(list(rhos.values())))
    (beside,) = tables["family_rivals"].rows
    widths = [float(i % 3) for i in range(len(of))]
    share = counted(widths, scores, within)[0]
    assert beside == {
        "predictor": "made", "other": "log width", "own": row["share"],
        "share": pytest.approx(share), "pairs": row["pairs"],
    }  # fmt: skip
    assert row["best_size"] == f"{share:.2f} log width"
    assert left_out == 2


def test_p_is_that_of_all_orders_within_the_families() -> None:
    of, scores = "aaabbb", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    values = [3.0, 2.0, 1.0, 6.0, 4.0, 5.0]
    orders = list(itertools.permutations(range(3)))
    turned = [-value for value in values]
    within = [(i, j) for i, j in itertools.combinations(range(6), 2) if of[i] == of[j]]

    def away(y: Sequence[float]) -> float:
        share: float = counted(turned, y, within)[0]
        return abs(share - 0.5)

    drawn = [
        away([scores[i] for i in one] + [scores[3 + i] for i in two])
        for one, two in itertools.product(orders, orders)
    ]
    exact = np.mean([value >= away(scores) - 1e-12 for value in drawn])
    p = row_of(made([*of], scores, values)[0])["p"]
    assert p == pytest.approx(exact, abs=0.03)  # 4 standard errors of the draws


def test_a_metric_that_only_tells_families_apart() -> None:
    """High over all models, chance within."""
    generator = np.random.default_rng(0)
    of = [*"abcdef"] * 6
    scores = [0.1 * "abcdef".index(name) + 0.01 * generator.normal() for name in of]
    row = row_of(made(of, scores, [-float("abcdef".index(name)) for name in of])[0])
    assert row["between"] == 1.0
    assert (row["share"], row["p"], row["rho"]) == (0.5, None, None)


@pytest.mark.parametrize("of", [[None] * 4, [*"abcd"]])
def test_without_two_of_a_family_there_is_nothing(of: list[str | None]) -> None:
    assert made(of, [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]) == ({}, 4)


def test_few_pairs_are_not_shown() -> None:
    scores = [0.1, 0.2, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8]
    tables, left_out = made([*"aaaabbb", "<b>"], scores, [4, 3, 2, 1, 3, 2, 1, 0])
    row = row_of(tables)
    assert (row["pairs"], row["share"], left_out) == (8, 1.0, 1)
    assert tables["families"].shown
    assert tables["family_ranks"].shown
    tables, _ = made([*"aabb"], [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4])  # two pairs say nothing
    assert tables["families"].rows
    assert not tables["families"].shown
