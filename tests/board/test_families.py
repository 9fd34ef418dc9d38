"""Predictors within families: shares, ranks and rhos against plain counting and scipy."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lrd_harness.board import families
from lrd_harness.board.families import Families, KinAgreement, concordance
from lrd_harness.board.leaderboard import Leaderboard, build
from lrd_harness.results.database import MetricRow, ModelRow, Results, ScoreRow

LEVELS = st.integers(0, 4).map(float)


def made(
    of: Sequence[str | None], scores: Sequence[float | None], values: Sequence[float | None]
) -> Leaderboard:
    """Models m0, m1, ... of these families, with a mean score and the value of one metric."""
    rows = [
        ModelRow(model=f"m{i}", family=name, width=2 ** (i % 3 + 6)) for i, name in enumerate(of)
    ]
    return build(
        Results(
            models=tuple(rows),
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
        )
    )  # fmt: skip


def held(board: Leaderboard) -> tuple[Families, dict[str, KinAgreement]]:
    assert board.families is not None
    return board.families, {row.name: row for row in board.families.rows}


def counted(x: Sequence[float], y: Sequence[float], pairs: Sequence[tuple[int, int]]) -> Any:
    """Plain counting: right, level as half, of those with unlike y."""
    unlike = [(i, j) for i, j in pairs if y[i] != y[j]]
    right = [(x[i] > x[j]) == (y[i] > y[j]) if x[i] != x[j] else 0.5 for i, j in unlike]
    return sum(right) / len(unlike) if unlike else None, len(unlike)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=0, max_size=12), st.booleans())
def test_pairs_are_those_that_counting_finds(pairs: list[tuple[float, float]], many: bool) -> None:
    x, y = (np.array(side) for side in zip(*pairs, strict=True)) if pairs else (np.empty(0),) * 2
    with pytest.MonkeyPatch.context() as patch:
        if many:  # the way for large families
            patch.setattr(families, "_DENSE", 2)
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
    board = made(of, scores, values)
    found, rows = held(board)
    there = [
        i
        for i, (name, value) in enumerate(zip(of, values, strict=True))
        if name and value is not None
    ]
    pairs = list(itertools.combinations(there, 2))
    kin = [(i, j) for i, j in pairs if of[i] == of[j]]
    turned = [-value if value is not None else 0.0 for value in values]  # the lowest is the best
    row = rows["made"]
    assert (row.share, row.pairs) == pytest.approx(counted(turned, scores, kin))
    others = [pair for pair in pairs if pair not in kin]
    assert (row.between, row.between_pairs) == pytest.approx(counted(turned, scores, others))
    for name in "ab":
        own = [i for i in there if of[i] == name]
        x, y = [turned[i] for i in own], [scores[i] for i in own]
        assert row.by_family[name] == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert set(row.by_family) == {"a", "b"}  # c has two
    assert row.rho == pytest.approx(
        np.median([rho for rho in row.by_family.values() if rho is not None])
    )
    (beside,) = row.beside
    assert (beside.name, beside.own, beside.pairs) == ("log width", row.share, row.pairs)
    widths = [float(i % 3) for i in range(len(of))]
    assert beside.share == pytest.approx(counted(widths, scores, kin)[0])
    assert found.left_out == 2


def test_ranks_within_a_family() -> None:
    board = made([*"aaab", None], [0.5, 0.7, 0.5, 0.9, 1.0], [3, 1, None, 2, 0])
    found, _ = held(board)
    (kin,) = found.families
    ranks = [(m.model, m.rank, m.predicted["made"]) for m in kin.models]
    assert ranks == [("m1", 1, 1), ("m0", 2, 2), ("m2", 2, None)]
    assert found.left_out == 2


def test_p_is_that_of_all_orders_within_the_families() -> None:
    of, scores = "aaabbb", [0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    values = [3.0, 2.0, 1.0, 6.0, 4.0, 5.0]
    _, rows = held(made([*of], scores, values))
    orders = list(itertools.permutations(range(3)))
    turned = [-value for value in values]
    kin = [(i, j) for i, j in itertools.combinations(range(6), 2) if of[i] == of[j]]

    def away(y: Sequence[float]) -> float:
        share: float = counted(turned, y, kin)[0]
        return abs(share - 0.5)

    drawn = [
        away([scores[i] for i in one] + [scores[3 + i] for i in two])
        for one, two in itertools.product(orders, orders)
    ]
    exact = np.mean([value >= away(scores) - 1e-12 for value in drawn])
    assert rows["made"].p == pytest.approx(exact, abs=0.03)  # 4 standard errors of the draws


def test_p_holds_under_the_null() -> None:
    """P(p <= a) <= a, families of unlike level and predictors with ties."""
    generator = np.random.default_rng(5)
    of = [*"aaaabbbbbcc"]
    level = np.array([0.1 if name == "a" else 0.5 for name in of])
    ps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "DRAWS", 199)
        for _ in range(300):
            setting = families._Setting(
                keys=(),
                scores=level + generator.integers(0, 5, len(of)) / 100,
                kin={name: np.flatnonzero(np.array(of) == name) for name in "abc"},
                baselines={},
            )
            values = 10 * level + generator.integers(0, 4, len(of))
            p = families._p(values, families._within(values, setting), setting)
            ps.append(1.0 if p is None else p)
    for a in (0.05, 0.2, 0.5):
        assert np.mean(np.array(ps) <= a) <= a + 3 * np.sqrt(a * (1 - a) / len(ps))


def test_a_metric_that_only_tells_families_apart() -> None:
    """High over all models, chance within."""
    generator = np.random.default_rng(0)
    of = [*"abcdef"] * 6
    scores = [0.1 * "abcdef".index(name) + 0.01 * generator.normal() for name in of]
    values = [-float("abcdef".index(name)) for name in of]
    board = made(of, scores, values)
    _, rows = held(board)
    assert rows["made"].between == 1.0
    assert (rows["made"].share, rows["made"].p, rows["made"].rho) == (0.5, None, None)


@pytest.mark.parametrize("of", [[None] * 4, [*"abcd"]])
def test_without_kin_there_is_nothing(of: list[str | None]) -> None:
    assert made(of, [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]).families is None


def test_sheets_and_json() -> None:
    reporters: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
    of = [*"aaaabbb", "<b>"]
    board = made(of, [0.1, 0.2, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8], [4, 3, 2, 1, 3, 2, 1, 0])
    shown = reporters.table(board)
    assert max(map(len, shown.splitlines())) <= 80
    lines = shown.splitlines()
    assert "Within families: how well each predictor orders models that are kin" in lines
    start = lines.index("Ranks of models within their families")
    cells = [line.split() for line in lines[start + 4 : start + 12]]
    assert ["m1", "a", "0.2000", "2=", "3"] in cells
    assert ["m6", "b", "0.7000", "1", "1"] in cells
    document = json.loads(reporters.as_json(board))["families"]
    (row,) = [row for row in document["rows"] if row["name"] == "made"]
    assert (row["pairs"], row["share"], document["left_out"]) == (8, 1.0, 1)
    few = made([*"aabb"], [0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4])  # two pairs say nothing
    assert "Within families" not in reporters.table(few)
    assert json.loads(reporters.as_json(few))["families"]["rows"]
