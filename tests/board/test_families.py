"""Predictors within families: shares, ranks and rhos against plain counting and scipy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from selection_panels import in_families

from lrd_harness.board import panel
from lrd_harness.board.families import family_tables
from lrd_harness.report import Table

Pairs = Sequence[tuple[int, int]]


def tables_of(
    families: Sequence[str | None], scores: Sequence[float], values: Sequence[float | None]
) -> tuple[dict[str, Table], int]:
    """Tables of models in these families, with a metric of which the lowest value is the best."""
    found = panel.build_panel(in_families(families, scores, {"my": values}, "min"))
    tables, left_out = family_tables(found)
    return {table.name: table for table in tables}, left_out


def row_of(tables: dict[str, Table]) -> Any:
    return next(row for row in tables["families"].rows if row["predictor"] == "my")


def counted(x: Sequence[float], y: Sequence[float], pairs: Pairs) -> tuple[float | None, int]:
    """Plain counting: right, level as half, of those with unlike y."""
    unlike = [(i, j) for i, j in pairs if y[i] != y[j]]
    right = [(x[i] > x[j]) == (y[i] > y[j]) if x[i] != x[j] else 0.5 for i, j in unlike]
    return sum(right) / len(unlike) if unlike else None, len(unlike)


@pytest.mark.parametrize("seed", range(4))
def test_numbers_against_counting_and_scipy_with_ties_and_holes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    families = [*"aaaaaabbbbcc", "d", None]
    scores = (generator.integers(0, 8, len(families)) / 10).tolist()
    values = generator.integers(0, 6, len(families)).astype(float).tolist()
    values[1] = None
    tables, left_out = tables_of(families, scores, values)
    row = row_of(tables)
    there = [i for i, name in enumerate(families) if name and values[i] is not None]
    pairs = list(itertools.combinations(there, 2))
    within = [(i, j) for i, j in pairs if families[i] == families[j]]
    turned = [-value if value is not None else 0.0 for value in values]  # the lowest is the best
    assert (row["share"], row["pairs"]) == pytest.approx(counted(turned, scores, within))
    between = counted(turned, scores, [pair for pair in pairs if pair not in within])
    assert (row["between"], row["between_pairs"]) == pytest.approx(between)
    rhos = {name: rho for name, rho in row.items() if name.startswith("by_family.")}
    assert set(rhos) == {"by_family.a", "by_family.b"}  # c has two
    for name in "ab":
        members = [i for i in there if families[i] == name]
        x, y = [turned[i] for i in members], [scores[i] for i in members]
        assert rhos[f"by_family.{name}"] == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert row["rho"] == pytest.approx(np.median(list(rhos.values())))
    beside = {rival["other"]: rival for rival in tables["family_rivals"].rows}
    share, _ = counted([(5 * i) % 4 for i in range(len(families))], scores, within)
    assert beside["log width"] == {
        "predictor": "my", "other": "log width", "own": row["share"],
        "share": pytest.approx(share), "pairs": row["pairs"],
    }  # fmt: skip
    best = max(beside.values(), key=lambda rival: rival["share"])
    assert row["best_size"] == f"{best['share']:.2f} {best['other']}"
    assert left_out == 2


def test_p_is_that_of_all_orders_within_the_families() -> None:
    families, scores = "aaabbb", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    values = [3.0, 2.0, 1.0, 6.0, 4.0, 5.0]
    orders = list(itertools.permutations(range(3)))
    turned = [-value for value in values]
    within = [(i, j) for i, j in itertools.combinations(range(6), 2) if families[i] == families[j]]

    def away(y: Sequence[float]) -> float:
        return abs((counted(turned, y, within)[0] or 0.0) - 0.5)

    drawn = [
        away([scores[i] for i in first] + [scores[3 + i] for i in second])
        for first, second in itertools.product(orders, orders)
    ]
    exact = np.mean([value >= away(scores) - 1e-12 for value in drawn])
    p = row_of(tables_of([*families], scores, values)[0])["p"]
    assert p == pytest.approx(exact, abs=0.03)  # 4 standard errors of the draws


def test_a_metric_that_only_tells_families_apart() -> None:
    """High over all models, chance within."""
    generator = np.random.default_rng(0)
    families = [*"abcdef"] * 6
    scores = [0.1 * "abcdef".index(name) + 0.01 * generator.normal() for name in families]
    values = [-float("abcdef".index(name)) for name in families]
    row = row_of(tables_of(families, scores, values)[0])
    assert row["between"] == 1.0
    assert (row["share"], row["p"], row["rho"]) == (0.5, None, None)


@pytest.mark.parametrize("families", [[None] * 4, [*"abcd"]])
def test_without_two_of_a_family_there_is_nothing(families: list[str | None]) -> None:
    assert tables_of(families, [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]) == ({}, 4)


def test_few_pairs_are_not_shown() -> None:
    scores = [0.1, 0.2, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8]
    tables, left_out = tables_of([*"aaaabbb", "<b>"], scores, [4, 3, 2, 1, 3, 2, 1, 0])
    row = row_of(tables)
    assert (row["pairs"], row["share"], left_out) == (8, 1.0, 1)
    assert tables["families"].shown
    assert tables["family_ranks"].shown
    tables, _ = tables_of([*"aabb"], [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4])  # two pairs say nothing
    assert tables["families"].rows
    assert not tables["families"].shown


def test_a_metric_that_bears_a_baselines_name_has_no_row_of_its_own() -> None:
    results = in_families([*"aaabbb"], [1, 2, 3, 3, 2, 1], {"depth": [1, 2, 3, 1, 2, 3]})
    rows = {table.name: table for table in family_tables(panel.build_panel(results))[0]}
    kinds = [row["kind"] for row in rows["families"].rows if row["predictor"] == "depth"]
    assert kinds in ([], ["baseline"])
    assert "depth" not in {row["predictor"] for row in rows["family_rivals"].rows}
