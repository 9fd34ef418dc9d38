"""A sample of MMLU in proportion to its subjects."""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrd_harness.errors import UserError

mmlu: Any = importlib.import_module("lrd_harness.tasks.likelihood.mmlu")

sizes_of_subjects = st.dictionaries(st.text(max_size=3), st.integers(0, 60), min_size=1, max_size=9)
totals = st.one_of(st.integers(1, 600), st.floats(1, 600))
Taken = Mapping[str, list[int]]


def counts(taken: Taken, sizes: Mapping[str, int]) -> dict[str, int]:
    return {subject: len(taken.get(subject, [])) for subject in sizes}


@given(sizes_of_subjects, totals, st.integers(0, 9))
@settings(deadline=None)
def test_a_total_is_shared(sizes: dict[str, int], total: float, seed: int) -> None:
    taken = mmlu.stratified(sizes, total, seed)
    assert taken == mmlu.stratified(sizes, total, seed)
    assert taken == mmlu.stratified(dict(reversed(sizes.items())), total, seed)
    assert list(taken) == [subject for subject in sizes if subject in taken]
    for subject, rows in taken.items():
        assert rows
        assert rows == sorted(set(rows))
        assert 0 <= rows[0] <= rows[-1] < sizes[subject]
    wanted, held = min(round(total), sum(sizes.values())), counts(taken, sizes)
    assert sum(held.values()) == wanted
    filled = [subject for subject, size in sizes.items() if size]
    if wanted >= len(filled):
        assert set(taken) == set(filled)
    exact = {s: wanted * size / max(sum(sizes.values()), 1) for s, size in sizes.items()}
    # Where nobody is due less than one, the rule of at least one does not bind.
    if wanted < len(filled) or all(exact[subject] >= 1 for subject in filled):
        assert all(abs(held[s] - exact[s]) < 1 for s in sizes)
    for s, t in ((s, t) for s in sizes for t in sizes if sizes[s] > sizes[t]):
        assert held[s] >= held[t]


@given(sizes_of_subjects, st.floats(0, 1, exclude_min=True, exclude_max=True))
@example({"a": 100}, 0.07)  # 100 * 0.07 is just above 7: 8 in lm-eval too
@settings(deadline=None)
def test_a_share_is_of_each_subject(sizes: dict[str, int], share: float) -> None:
    taken = mmlu.stratified(sizes, share)
    assert counts(taken, sizes) == {s: math.ceil(size * share) for s, size in sizes.items()}
    assert taken == mmlu.stratified(sizes, share)


@given(sizes_of_subjects, totals, totals)
@settings(deadline=None)
def test_subjects_are_chosen_from_independently(
    sizes: dict[str, int], one: float, other: float
) -> None:
    """What is taken of a subject hangs on the number alone, and more rows hold the fewer."""
    first, second = mmlu.stratified(sizes, one), mmlu.stratified(sizes, other)
    for subject in first.keys() & second.keys():
        few, many = sorted((first[subject], second[subject]), key=len)
        assert set(few) <= set(many)
        alone = mmlu.stratified({subject: sizes[subject]}, len(few))
        assert alone == {subject: few}


@pytest.mark.parametrize(
    ("sizes", "total", "held"),
    [
        ({"a": 10, "b": 10, "c": 10}, 2, {"a": 1, "b": 1}),  # ties: by name
        ({"c": 10, "b": 10, "a": 30}, 2, {"a": 1, "b": 1}),
        ({"a": 1, "b": 99}, 1, {"b": 1}),
        ({"a": 1, "b": 99}, 10, {"a": 1, "b": 9}),  # .1 and 9.9: largest remainder gives a none
        ({"a": 1, "b": 1, "c": 58, "d": 40}, 12, {"a": 1, "b": 1, "c": 6, "d": 4}),
        ({"a": 4, "b": 0}, 1000, {"a": 4}),
        ({"a": 4, "b": 3}, math.inf, {"a": 4, "b": 3}),
        ({"a": 0}, 3, {}),
        ({}, 3, {}),
        ({"a": 100, "b": 1}, 0.01, {"a": 1, "b": 1}),
    ],
)
def test_shares_by_hand(sizes: dict[str, int], total: float, held: dict[str, int]) -> None:
    taken = mmlu.stratified(sizes, total)
    assert {subject: len(rows) for subject, rows in taken.items()} == held


def test_the_choice_is_random_and_the_same_everywhere() -> None:
    sizes = dict.fromkeys("abcdef", 100)
    taken = mmlu.stratified(sizes, 60)
    assert len({tuple(rows) for rows in taken.values()}) == 6
    assert taken != mmlu.stratified(sizes, 60, seed=43)
    assert taken["a"] == [2, 12, 15, 31, 39, 49, 58, 73, 81, 84]  # and in every process
    drawn = Counter(row for seed in range(200) for row in mmlu.stratified({"a": 10}, 5, seed)["a"])
    assert all(70 <= drawn[row] <= 130 for row in range(10))  # 100 expected, deviation 7


@pytest.mark.parametrize("total", [0, -1, math.nan])
def test_no_total(total: float) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        mmlu.stratified({"a": 3}, total)


def test_lm_eval_takes_as_many_of_a_share() -> None:
    """Its own rule, called."""
    size: Callable[..., Any] = importlib.import_module("lm_eval.evaluator_utils").get_sample_size

    class Documents:
        def __init__(self, number: int) -> None:
            self.eval_docs = range(number)

    for number in (1, 7, 100, 1534):
        for share in (0.001, 0.07, 0.1, 1 / 3, 0.5, 0.999):
            taken = mmlu.stratified({"a": number}, share)["a"]
            assert len(taken) == size(Documents(number), share)
