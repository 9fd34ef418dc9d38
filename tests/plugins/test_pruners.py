"""The pruning rules against their definitions written out, ties and shallow models included."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrd_harness import manager
from lrd_harness.blocks import candidates
from lrd_harness.errors import UnitError, UserError

RULES = {
    rule.name: rule for rule in importlib.import_module("lrd_harness.plugins.pruners").lrd_pruners()
}
DEPTHS = [2, 3, 4, 5, 6, 12, 30]
NAMES = tuple("frenet.speed frenet.curvature nrs.jaccard gfmi.auc block_influence ablation".split())
# What they add up: the higher, the earlier removed.
SUMS = {
    "frenet": "-frenet.speed -frenet.curvature",
    "nrs": "+nrs.jaccard",
    "gfmi": "+gfmi.auc",
    "composite": "-frenet.speed -frenet.curvature +nrs.jaccard +gfmi.auc",
}
many = settings(max_examples=50, deadline=None, derandomize=True)


@dataclass
class Known:
    """Evidence by profiles; angles and agreements by a cost of each block."""

    profiles: dict[str, list[float | None]]
    cost: list[float] = field(default_factory=list)
    calls: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        return len(self.profiles["nrs.jaccard"])

    def angle(self, first: int, last: int) -> float:
        assert 1 <= first <= last <= self.blocks
        self.calls.append((first, last))
        return sum(self.cost[first - 1 : last])

    def agreements(self, sets) -> list[float]:
        return [self.agreement(removed) for removed in sets]

    def agreement(self, removed) -> float:
        """Dearer where neighbours go together, so that greedy is not a mere ranking."""
        self.calls.append(tuple(removed))
        together = sum(b - a == 1 for a, b in pairwise(removed))
        return 1 - sum(self.cost[b - 1] for b in removed) - 4 * together


def exact(x: float) -> Decimal:
    return Decimal(float(x))


def naive_z(values):
    """z-scores to fifty digits, where ties are ties; a block without a value is neutral."""
    known = [exact(v) for v in values if v is not None]
    if not known or len(set(known)) == 1:
        return [Decimal(0)] * len(values)
    mean = sum(known) / len(known)
    std = (sum((v - mean) ** 2 for v in known) / len(known)).sqrt()
    assume(std > Decimal("1e-9"))  # not rounding alone
    return [Decimal(0) if v is None else (exact(v) - mean) / std for v in values]


def naive(rule, profiles, allowed, m):
    """The m candidates of highest score, found by picking one after another."""
    with localcontext() as context:
        context.prec = 50
        columns = []
        for term in SUMS[rule].split():
            sign = 1 if term[0] == "+" else -1
            columns.append([sign * z for z in naive_z(profiles[term[1:]])])
        scores = [round(sum(column), 30) for column in zip(*columns, strict=True)]
    left, chosen = list(allowed), []
    for _ in range(m):
        best = max(scores[b - 1] for b in left)
        chosen.append(max(b for b in left if scores[b - 1] == best))
        left.remove(chosen[-1])
    gaps = sorted({scores[b - 1] for b in allowed})
    assume(all(b - a > Decimal("1e-9") for a, b in pairwise(gaps)))  # no near misses
    return sorted(chosen)


def choose(rule, evidence, m, allowed=None, seed=0):
    allowed = candidates(evidence.blocks) if allowed is None else allowed
    chosen = RULES[rule].choose(evidence, allowed, m, seed)
    assert list(chosen) == sorted(set(chosen))
    assert all(type(block) is int for block in chosen)
    assert len(chosen) == m
    assert set(chosen) <= set(allowed)
    return list(chosen)


def drawn(L, seed=0):
    rng = np.random.RandomState(seed)
    profiles = {name: rng.rand(L).tolist() for name in NAMES}
    return Known(profiles, rng.rand(L).tolist())


def columns(L):
    """A profile: random, or of few values, so with ties; some with leading gaps."""
    value = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.3, 0.7]))
    column = st.lists(value, min_size=L, max_size=L)
    gapped = st.tuples(column, st.integers(0, 2)).map(lambda c: [None] * c[1] + c[0][c[1] :])
    return st.one_of(column, gapped, value.map(lambda v: [v] * L))


@pytest.mark.slow
@pytest.mark.parametrize("rule", SUMS)
@many
@given(st.data())
def test_against_the_definition(rule, data):
    L = data.draw(st.sampled_from(DEPTHS))
    profiles = {name: data.draw(columns(L)) for name in NAMES}
    allowed = data.draw(st.sampled_from([candidates(L), candidates(L, 0)]))
    for m in range(1, len(allowed) + 1):
        expected = naive(rule, profiles, allowed, m)
        assert choose(rule, Known(profiles), m, allowed) == expected


@pytest.mark.parametrize("rule", [*SUMS, "last", "block_influence", "greedy", "angular"])
@pytest.mark.parametrize("L", DEPTHS)
def test_ties_go_to_the_deeper_block(rule, L):
    flat = Known({name: [0.1] * L for name in NAMES}, [0.0] * L)
    if rule == "greedy":
        flat.agreement = lambda removed: 0.5
    for m in range(1, len(candidates(L)) + 1):
        assert choose(rule, flat, m) == candidates(L)[-m:]


def test_rounding_makes_no_difference():
    """Values that are equal but for rounding, and sums of z-scores that are."""
    x = [0.1 + 0.2, 0.3, 0.9 - 0.6, 0.3]
    assert len(set(x)) > 1
    evidence = Known({**dict.fromkeys(NAMES, x), "nrs.jaccard": [0.1, 0.4, 0.2, 0.1]})
    assert choose("gfmi", evidence, 1, [1, 2, 3, 4]) == [4]
    assert choose("composite", evidence, 1, [1, 2, 3, 4]) == [2]
    speed = [0.1, 0.2, 0.5, 0.9, 1.1]  # every sum of z-scores is 0
    mirrored = {"frenet.speed": speed, "frenet.curvature": [7 - v / 3 for v in speed]}
    mirrored["nrs.jaccard"] = [0] * 5
    assert choose("frenet", Known(mirrored), 2, [1, 2, 3, 4, 5]) == [4, 5]


@pytest.mark.parametrize(
    ("rule", "values", "allowed", "m", "chosen"),
    [
        ("nrs", [None, 0.1, 0.2, 0.6], 3, 1, [1]),  # mean 0.3, which is z = 0
        ("nrs", [None, 0.1, 0.2, 0.6], 4, 2, [1, 4]),
        ("nrs", [None] * 4, 4, 2, [3, 4]),
        ("block_influence", [None, 0.5, None, 0.1], 4, 2, [2, 4]),
        ("block_influence", [None, 0.5, None, 0.1], 4, 3, [2, 3, 4]),
    ],
)
def test_a_block_without_a_value_is_neutral(rule, values, allowed, m, chosen):
    evidence = Known({"nrs.jaccard": values, "block_influence": values})
    assert choose(rule, evidence, m, list(range(1, allowed + 1))) == chosen


@many
@given(st.data())
def test_block_influence_takes_the_lowest(data):
    L = data.draw(st.sampled_from(DEPTHS))
    influence = [data.draw(st.sampled_from([0.0, 1e-7, 2e-7, 0.1, 0.5, 2.0])) for _ in range(L)]
    evidence = Known({"nrs.jaccard": [0] * L, "block_influence": influence})
    for m in range(1, len(candidates(L)) + 1):
        expected = sorted(candidates(L), key=lambda b: (influence[b - 1], -b))[:m]
        assert choose("block_influence", evidence, m) == sorted(expected)


def test_ablation_takes_the_least_effect():
    """The spec's own effects, of which blocks 3 and 5 are level, and 11 may not go."""
    effect = [0.9, 0.3, 0.1, 0.25, 0.1, 0.05, 0.4, 0.2, 0.15, 0.6, 0.02, 1.2]
    for m in range(1, 5):
        evidence = Known({"nrs.jaccard": [0] * 12, "ablation": effect})
        assert choose("ablation", evidence, m) == sorted([6, 5, 9, 8][:m])
    assert choose("ablation", evidence, 1, list(range(1, 11))) == [6]
    assert choose("ablation", evidence, 2, [3, 5, 7]) == [3, 5]
    assert choose("ablation", evidence, 1, [3, 5, 7]) == [5]  # ties to the deeper
    evidence.profiles["ablation"] = [None if x < 0.2 else x for x in effect]  # not finite
    assert choose("ablation", evidence, 3) == [4, 7, 8]


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("L", DEPTHS)
def test_nested_over_budgets(rule, L):
    for seed in range(3):
        evidence, allowed = drawn(L, seed), candidates(L)
        sets = [set(choose(rule, evidence, m, seed=seed)) for m in range(1, len(allowed) + 1)]
        if RULES[rule].nested:
            assert all(smaller < larger for smaller, larger in pairwise(sets))
    assert RULES[rule].nested == (rule != "angular")


@many
@given(st.data())
def test_angular_takes_the_run_of_the_least_angle(data):
    L = data.draw(st.sampled_from(DEPTHS))
    cost = [data.draw(st.sampled_from([0.25, 0.5, 1.0, 1.25])) for _ in range(L)]
    evidence = Known({"nrs.jaccard": [0] * L}, cost)
    allowed = candidates(L)
    for m in range(1, len(allowed) + 1):
        evidence.calls.clear()
        expected = min(
            (sum(cost[i] for i in range(b - 1, b - 1 + m)), -b)
            for b in allowed
            if b + m - 1 <= allowed[-1]
        )
        first = -expected[1]
        assert choose("angular", evidence, m) == list(range(first, first + m))
        assert len(evidence.calls) == len(set(evidence.calls)) == len(allowed) - m + 1


def test_angular_needs_adjacent_candidates():
    evidence = Known({"nrs.jaccard": [0] * 9}, [1, 0, 1, 0, 9, 9, 1, 1, 1])
    assert choose("angular", evidence, 2, [2, 4, 5, 6, 8]) == [4, 5]
    with pytest.raises(UnitError, match="no 4 of the candidate blocks follow one another"):
        choose("angular", evidence, 4, [2, 4, 5, 6, 8])


@pytest.mark.parametrize("L", DEPTHS)
def test_greedy_takes_the_best_step_each_time(L):
    for seed in range(3):
        evidence, allowed = drawn(L, seed), candidates(L)
        evidence.cost = np.random.RandomState(seed).randint(0, 3, L).tolist()  # many ties
        removed: set[int] = set()
        for m in range(1, len(allowed) + 1):
            left = [b for b in allowed if b not in removed]
            agreement = {b: evidence.agreement(sorted(removed | {b})) for b in left}
            removed.add(max(left, key=lambda b: (agreement[b], b)))
            evidence.calls.clear()
            assert choose("greedy", evidence, m) == sorted(removed)
            assert len(evidence.calls) == len(set(evidence.calls))
            assert all(list(call) == sorted(call) for call in evidence.calls)


def test_what_is_no_number_is_not_preferred():
    evidence = Known({"nrs.jaccard": [0] * 6})
    evidence.agreement = lambda removed: float("nan") if 5 in removed else 0.1
    assert choose("greedy", evidence, 2) == [3, 4]
    evidence.angle = lambda first, last: float("nan") if last == 5 else 0.9
    assert choose("angular", evidence, 2) == [3, 4]


def test_random_is_a_permutation_by_seed():
    evidence, allowed = drawn(30), candidates(30)
    for seed in (0, 1, 2, 12345):
        order = np.random.default_rng(seed).permutation(allowed)
        for m in (1, 3, 5, len(allowed)):
            assert choose("random", evidence, m, seed=seed) == sorted(order[:m])
    assert choose("random", evidence, 5, seed=0) == [8, 14, 15, 22, 25]  # on every machine
    assert choose("random", evidence, 3, seed=0) != choose("random", evidence, 3, seed=1)


def test_rules_ask_only_for_what_they_use():
    """Profiles, angles and agreements may be costly: a rule must not touch those of another."""

    @dataclass
    class Empty:
        blocks: int = 12
        profiles: dict[str, list[float]] = field(default_factory=dict)

    for rule in ("random", "last"):
        assert len(choose(rule, Empty(), 2)) == 2
    for rule, terms in SUMS.items():
        names = [term[1:] for term in terms.split()]
        assert set(RULES[rule].metrics) == {name.split(".")[0] for name in names}
        assert len(choose(rule, Empty(profiles=dict.fromkeys(names, [0.0] * 12)), 2)) == 2
        with pytest.raises(UnitError, match=f"needs the profile {names[0]}"):
            choose(rule, Empty(), 2)
    with pytest.raises(UnitError, match="needs the profile block_influence"):
        choose("block_influence", Empty(), 2)
    with pytest.raises(UnitError, match="needs the profile ablation"):
        choose("ablation", Empty(), 2)
    with pytest.raises(UnitError, match="3 values for 12 blocks"):
        choose("nrs", Empty(profiles={"nrs.jaccard": [0.0] * 3}), 2)


def test_registered():
    plugins = manager.load()
    assert plugins.names("pruning rule") == list(RULES)
    assert list(RULES) == (
        "frenet nrs gfmi composite random last block_influence angular greedy ablation".split()
    )
    assert [rule.name for rule in RULES.values() if not rule.default] == ["ablation"]
    assert [rule.name for rule in RULES.values() if rule.seeded] == ["random"]
    assert all(rule.description and len(rule.description) <= 72 for rule in RULES.values())
    known = set(plugins.names("metric"))
    assert all(set(rule.metrics) <= known for rule in RULES.values())
    with pytest.raises(UserError, match="Did you mean greedy"):
        plugins.get("pruning rule", "gredy")
