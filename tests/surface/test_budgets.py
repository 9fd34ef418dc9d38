"""Which blocks may be pruned, how many, and how recorded profiles become values of blocks."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness.blocks import averaged, block_profiles, candidates, count
from lrd_harness.errors import UnitError, UserError

few = settings(max_examples=60, deadline=None, derandomize=True)
SHALLOW = [(2, [1, 2]), (3, [1, 2, 3]), (4, [2, 3]), (5, [2, 3, 4]), (6, [2, 3, 4, 5])]


@pytest.mark.parametrize(
    ("L", "expected"), [*SHALLOW, (12, [4, 5, 6, 7, 8, 9]), (30, list(range(4, 28)))]
)
def test_candidates(L, expected):
    assert candidates(L) == expected


def test_protection_is_settable():
    assert candidates(6, 0) == [1, 2, 3, 4, 5, 6]
    assert candidates(6, protect=2) == [3, 4]
    for bad, says in ((3, "leaves none of 6"), (9, "leaves none of 6"), (-1, "at least 0")):
        with pytest.raises(UserError, match=says):
            candidates(6, bad)
    for L, protect in ((0, None), (1, None), (0, 0), (1, 0)):
        with pytest.raises(UserError, match=f"at least 2 blocks, this one has {L}"):
            candidates(L, protect)


@pytest.mark.parametrize(
    ("budget", "total", "m"),
    [
        *((0.55, 20, 11), (0.07, 100, 7), (0.1 + 0.2, 10, 3), (1 / 3, 3, 1), (2 / 3, 3, 2)),
        *((0.10, 2, 1), (0.10, 24, 3), (0.15, 24, 4), (0.20, 24, 5), (1e-12, 24, 1)),
    ],
)
def test_count(budget, total, m):
    assert count(budget, range(total)) == m


@few
@given(st.integers(1, 99), st.integers(2, 200))
def test_count_is_exact_for_whole_percentages(percent, total):
    exact = max(1, ceil(Fraction(percent, 100) * total))
    if exact < total:
        assert count(percent / 100, range(total)) == exact
    else:
        with pytest.raises(UserError, match="removes all"):
            count(percent / 100, range(total))


@pytest.mark.parametrize("budget", [0, 0.0, -0.1, 1, 1.5, 15, float("nan"), float("inf")])
def test_a_budget_is_a_share(budget):
    with pytest.raises(UserError, match="share between 0 and 1") as caught:
        count(budget, range(20))
    assert "\n" not in str(caught.value)
    assert ("15 % is 0.15" in str(caught.value)) == (budget == 15)
    with pytest.raises(UserError, match=r"0\.99 removes all candidate blocks \(20 of 20\)"):
        count(0.99, range(20))


def recorded(start, **profiles):
    """Profiles as the journal holds them, from (first layer, values)."""
    return {
        name: {"layers": list(range(first, first + len(values))), "values": values}
        for name, (first, values) in profiles.items()
    }


FRENET = recorded(0, speed=(0, [1.0, 2.0, 4.0, 8.0]), curvature=(1, [10.0, 30.0, 70.0]))
NRS = recorded(0, jaccard=(0, [0.1, 0.2, 0.3, 0.4]))
GFMI = recorded(0, auc=(0, [9.0, 1.0, 2.0, 3.0, 4.0]))
OF_BLOCKS = {"layers": [1, 2, 3, 4], "values": [5.0, None, 7.0, 8.0], "of": "blocks"}
OF_LATER_BLOCKS = {"layers": [3, 4], "values": [7.0, 8.0], "of": "blocks"}


@pytest.mark.parametrize(
    ("metric", "profiles", "more", "expected"),
    [
        ("frenet", FRENET, (), {"speed": [1, 2, 4, 8], "curvature": [10, 20, 50, 70]}),
        ("nrs", NRS, (), {"jaccard": [0.1, 0.2, 0.3, 0.4]}),
        ("gfmi", GFMI, (), {"auc": [1, 2, 3, 4]}),
        # states 0 and 1 left out: block 2 makes a step from nothing, its output is known
        ("frenet", recorded(2, speed=(2, [4.0, 8.0])), (2,), {"speed": [None, None, 4, 8]}),
        ("frenet", recorded(2, curvature=(3, [7.0])), (2,), {"curvature": [None, None, 7, 7]}),
        ("gfmi", recorded(2, auc=(2, [2.0, 3.0, 4.0])), (2,), {"auc": [None, 2, 3, 4]}),
        ("frenet", recorded(1, curvature=(2, [])), (1,), {"curvature": [None, None]}),
        # as the paper's release has them
        ("frenet", {"speed": FRENET["speed"]}, (0, "paper"), {"speed": [1.5, 3, 6, 8]}),
        (
            "frenet",
            {"curvature": FRENET["curvature"]},
            (0, "paper"),
            {"curvature": [10, 30, 70, None]},
        ),
        ("nrs", recorded(1, jaccard=(1, [2.0, 4.0, 8.0])), (1, "paper"), {"jaccard": [2, 3, 6, 8]}),
        ("gfmi", GFMI, (0, "paper"), {"auc": [1, 2, 3, 4]}),
        ("sink", {"rate": OF_LATER_BLOCKS}, (2,), {"rate": [None, None, 7, 8]}),
        *(
            ("sink", {"rate": OF_BLOCKS}, (0, indexing), {"rate": [5, None, 7, 8]})
            for indexing in ("block", "paper")
        ),
    ],
)
def test_values_of_blocks(metric, profiles, more, expected):
    blocks = len(next(iter(expected.values())))
    named = {f"{metric}.{name}": values for name, values in expected.items()}
    assert block_profiles(metric, profiles, blocks, *more) == named


def test_profiles_that_do_not_fit():
    speed = {"speed": FRENET["speed"]}
    with pytest.raises(UserError, match="'block' or 'paper', not 'state'"):
        block_profiles("frenet", speed, 4, indexing="state")
    with pytest.raises(UnitError):
        block_profiles("frenet", speed, 9)
    with pytest.raises(ValueError, match=r"frenet\.speed is not a profile of 4 blocks from 1 on"):
        block_profiles("frenet", speed, 4, start=1)
    few = {"layers": [1, 2, 3], "values": [5.0, 6.0, 7.0], "of": "blocks"}
    with pytest.raises(UnitError, match="3 values, declared as of blocks: 4 blocks are there"):
        block_profiles("sink", {"rate": few}, 4)


def test_averages_over_tasks():
    a = {"nrs.jaccard": [None, 0.25, 0.5], "gfmi.auc": [1.0, 2.0, 3.0]}
    b = {"nrs.jaccard": [None, None, 1.0]}
    assert averaged([a, b]) == {"nrs.jaccard": [None, 0.25, 0.75], "gfmi.auc": [1, 2, 3]}
    assert averaged([b, b]) == b
    assert averaged([]) == {}
    with pytest.raises(ValueError, match="zip"):
        averaged([b, {"nrs.jaccard": [1.0]}])
