"""Rules against the effect of single blocks, and spreads of choices; by hand and by scipy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrd_harness.board.leaderboard import report
from lrd_harness.board.pruning_truth import (
    agreement,
    spread_row,
    truth_cautions,
    truth_tables,
)
from lrd_harness.results.rows import (
    AblationRow,
    ModelRow,
    OrderRow,
    RedrawRow,
    Results,
    SweepRow,
    VariantRow,
)

EFFECT = (0.9, 0.3, 0.1, 0.25, 0.1, 0.05, 0.4, 1.2)  # of blocks 1..8, candidates 3..6
UNITS = ("effects", "mine", "other", "0", "1", "angular", "none", "halves")


def order(rule: str, *chosen: int, seed: int | None = None, **more: Any) -> OrderRow:
    fields: dict[str, Any] = {"model": "a", "unit": rule if seed is None else str(seed), **more}
    return OrderRow(rule=rule, candidates=(3, 4, 5, 6), chosen=chosen, seed=seed, **fields)


RESULTS = Results(
    models=(ModelRow(model="a", blocks=8),),
    ablations=(
        AblationRow(model="a", effects={"kl": EFFECT}, n=100, unit="effects"),
        AblationRow(model="a", effects={"kl": EFFECT[::-1]}, n=9, unit="of an earlier sweep"),
    ),
    orders=(
        order("mine", 1, 0, 2, 3),
        order("other", 2, 3, 1, 0),
        order("random", 1, 0, 2, 3, seed=0),
        order("random", 2, 3, 1, 0, seed=1),
        order("angular", 1, 3, 2, 0),
        order("none"),
        order("gone", 0, 1, 2, 3),
    ),
    sweeps=(SweepRow(model="a", choices=(), tasks=(), beside=UNITS),),
)


def rows(results: Results, name: str) -> Sequence[Any]:
    return {table.name: table.rows for table in truth_tables(results)}.get(name, [])


def test_a_rule_is_right_where_the_least_needed_go_first() -> None:
    found = {row["rule"]: row for row in rows(RESULTS, "pruning_truth")}
    assert set(found) == {"mine", "other", "random", "angular", "none"}
    truth = EFFECT[2:6]
    for rule, chosen in (
        ("mine", [1, 0, 2, 3]),
        ("other", [2, 3, 1, 0]),
        ("angular", [1, 3, 2, 0]),
    ):
        rho = stats.spearmanr(np.negative(chosen), truth).statistic
        assert found[rule]["rho"] == pytest.approx(rho)
    assert found["mine"]["rho"] == pytest.approx(0.9486832980505138)  # 3 and 5 are level
    assert found["random"]["rho"] == pytest.approx(0)
    assert (found["random"]["seeds"], found["mine"]["seeds"]) == (2, None)
    assert found["none"]["rho"] is None
    assert {row["n"] for row in found.values()} == {4}
    effects = rows(RESULTS, "pruning_effects")
    assert [row["kl"] for row in effects] == list(EFFECT)
    assert [row["block"] for row in effects if row["candidate"] == "yes"] == [3, 4, 5, 6]
    assert report(RESULTS).table("pruning_truth").column("rule")[0] == "mine"


def test_a_second_model_and_what_there_is_not() -> None:
    second = {"model": "b"}
    effects = {"cosine_loss": (*EFFECT[:5], None, 1, 1)}
    both = replace(
        RESULTS,
        models=(*RESULTS.models, ModelRow(model="b")),
        ablations=(
            *RESULTS.ablations,
            AblationRow(effects=effects, n=1, unit="b", **second),
        ),
        orders=(*RESULTS.orders, order("mine", 1, 0, 2, 3, **(second | {"unit": "c"}))),
        sweeps=(*RESULTS.sweeps, SweepRow(choices=(), tasks=(), beside=("b", "c"), **second)),
    )
    (row,) = (row for row in rows(both, "pruning_truth") if row["model"] == "b")
    assert row["n"] == 3
    assert row["rho"] == pytest.approx(stats.spearmanr([-1, 0, -2], EFFECT[2:5]).statistic)
    assert truth_tables(replace(RESULTS, sweeps=())) == truth_tables(Results()) == []
    assert agreement(EFFECT, replace(order("mine", 0, 1), candidates=(3, 4))) is None


def test_the_same_texts_for_choice_and_outcome_are_told() -> None:
    read = VariantRow(model="a", removed=(3,), perplexity=9.0)
    (caution,) = truth_cautions(replace(RESULTS, variants=(read,)))
    assert (caution.code, caution.numbers) == ("pruning_same_texts", {"model": "a"})
    apart = replace(read, others=True)
    assert not list(truth_cautions(replace(RESULTS, variants=(apart,))))
    assert not list(truth_cautions(Results(models=RESULTS.models, variants=(read,))))


def test_a_spread_is_shown_by_model_rule_and_budget() -> None:
    redraw = RedrawRow(
        model="a",
        rule="mine",
        budget=0.5,
        removed=((3, 4), (3, 5), (3, 4)),
        draws=4,
        candidates=(3, 4, 5, 6),
        unit="halves",
    )
    (row,) = rows(replace(RESULTS, redraws=(redraw,)), "pruning_spread")
    assert (row["model"], row["rule"], row["budget"]) == ("a", "mine", 0.5)
    assert (row["draws"], row["chosen"]) == (4, 3)
    assert row["overlap"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert (row["modal"], row["share"]) == ("3-4", pytest.approx(2 / 3))
    assert row["blocks"] == "3 (3), 4 (2), 5 (1)"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_spreads_against_all_pairs(data: Any) -> None:
    K = data.draw(st.integers(2, 6))
    m = data.draw(st.integers(1, K - 1))
    sets = [set(c) for c in combinations(range(K), m)]
    drawn = data.draw(st.lists(st.sampled_from(sets), min_size=1, max_size=6))
    row = spread_row([sorted(blocks) for blocks in drawn], range(K), len(drawn))
    pairs = [len(a & b) / len(a | b) for a, b in combinations(drawn, 2)]
    assert row["overlap"] == (pytest.approx(np.mean(pairs)) if pairs else None)
    every = sum(len(a & b) / len(a | b) for a in sets for b in sets) / comb(K, m) ** 2
    assert row["chance"] == pytest.approx(every)
    assert row["share"] == max(drawn.count(blocks) for blocks in drawn) / len(drawn)
