"""Choosing between models without labels: places, intervals, costs and what is said of them."""

from __future__ import annotations

import errno
from math import nan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrd_harness.contracts import Choice, Text
from lrd_harness.errors import StorageFull, UnitError, UserError
from lrd_harness.studies.select import (
    Candidate,
    Chosen,
    Cost,
    Drawn,
    check,
    cost,
    measured,
    ranked,
    remarks,
    size_ranks,
)


def candidate(name: str, value: float, halves: Any, size: int = 10, width: int = 4) -> Candidate:
    made = Candidate(name, "1", "mean", Cost(size, 2, width, 5000.0, 1.5))
    made.drawn["m"] = Drawn(value, 20, tuple(halves))
    return made


def chosen(
    *candidates: Candidate, best: Any = "max", metrics: str = "m", texts: int = 20
) -> Chosen:
    choice = Choice("s", best)
    places = {name: ranked(candidates, name, choice, 20) for name in metrics.split()}
    draws = max(len(one.drawn["m"].halves) for one in candidates if one.drawn)
    return Chosen(candidates, {k: own for k, own in places.items() if own}, texts, draws)


values = st.lists(st.floats(-5, 5).map(lambda x: round(x, 2)), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(values=values, seed=st.integers(0, 99), up=st.booleans())
def test_places_and_intervals_are_those_of_plain_means(
    values: list[float], seed: int, up: bool
) -> None:
    drawn = np.random.default_rng(seed).normal(size=(40, len(values)))
    models = [candidate(str(i), v, drawn[:, i]) for i, v in enumerate(values)]
    rows = {row.model: row for row in ranked(models, "m", Choice("s", "max" if up else "min"), 20)}
    sign = -1 if up else 1
    ranks = stats.rankdata(sign * np.array(values), "min")
    again = stats.rankdata(sign * (drawn - drawn.mean(0) + values), "min", axis=1)
    for i, value in enumerate(values):
        row = rows[str(i)]
        assert (row.value, row.rank, row.n, row.draws) == (value, ranks[i], 20, 40)
        assert row.first == pytest.approx(np.mean(again[:, i] == 1))
        own = np.sort(again[:, i])
        assert (row.rank_low, row.rank_high) == (own[0], own[39])  # 40 * .025 = 1: the outermost
        assert row.low is not None
        assert row.low == pytest.approx(value - 1.96 * drawn[:, i].std())
        assert row.halved == pytest.approx(drawn[:, i].mean())
    assert [row.rank for row in rows.values()] == sorted(ranks)


def test_scores_that_fall_with_the_number_of_texts_do_not_change_the_first() -> None:
    """One model loses 10 on any half, so that raw halves would never put it first."""
    noise = np.random.default_rng(0).normal(size=50) / 100
    one, two = candidate("one", 5.0, -5 + noise), candidate("two", 4.0, 4 + noise)
    found = chosen(one, two)
    first, second = found.places["m"]
    assert (first.model, first.first, first.rank_high) == ("one", 1.0, 1)
    assert (first.overtakes, second.overtakes) == (False, True)
    assert (second.first, second.rank_low) == (0.0, 2)
    assert "On half as many texts m would put two first" in " ".join(remarks(found))


def test_plain_means_do_not_seem_to_depend_on_the_number_of_texts() -> None:
    """Means of halves differ by chance from those of all: the order of their means says nothing."""
    noticed = crossed = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=(20, 2))
        halves = np.random.default_rng([seed, 1]).permuted(np.tile(np.arange(20), (30, 1)), axis=1)
        drawn = values[halves[:, :10]].mean(1)  # (30, 2)
        both = [candidate(n, values[:, i].mean(), drawn[:, i]) for i, n in enumerate("ab")]
        first, second = ranked(both, "m", Choice("s"), 20)
        assert first.halved is not None
        assert second.halved is not None
        crossed += second.halved > first.halved
        noticed += second.overtakes
    assert crossed >= 8  # it does happen
    assert noticed <= 1


def test_by_a_score_that_is_better_lower_a_lower_one_overtakes() -> None:
    halves = np.random.default_rng(0).normal(size=50) / 100
    rows = chosen(candidate("a", 1, 5 + halves), candidate("b", 2, 3 - halves), best="min").places[
        "m"
    ]
    assert [(row.model, row.overtakes) for row in rows] == [("a", False), ("b", True)]


def test_halves_without_a_score_count_for_no_model() -> None:
    good = [1.0, 2.0, 1.0, 2.0]
    rows = chosen(candidate("a", 1.5, good), candidate("b", 0.0, [0.0, nan, 0.0, 0.0])).places["m"]
    assert {row.draws for row in rows} == {3}
    few = chosen(candidate("a", 1.5, good), candidate("b", 0.0, [0.0, nan, nan, nan])).places["m"]
    assert {(row.rank_low, row.first, row.halved) for row in few} == {(None, None, None)}
    assert few[0].low is not None  # a's own halves are all there
    none = chosen(candidate("a", 1.5, ()), candidate("b", 0.0, ())).places["m"]
    assert [(row.rank, row.first, row.low) for row in none] == [(1, None, None), (2, None, None)]


def test_level_models_share_the_better_place() -> None:
    rows = chosen(*(candidate(name, 1.0, [1.0, 1.0]) for name in "abc")).places["m"]
    assert {(row.rank, row.rank_low, row.rank_high, row.first) for row in rows} == {(1, 1, 1, 1.0)}
    assert not any(row.overtakes for row in rows)


def test_a_model_that_alone_has_a_score_is_not_ranked() -> None:
    lost = Candidate("lost", "1", faults={"": "OSError"})
    found = chosen(candidate("a", 1.0, [1.0, 2.0]), lost)
    (row,) = found.places["m"]
    assert (row.model, row.rank, row.rank_low, row.first, row.halved) == ("a", *[None] * 4)
    assert row.low is not None  # of its score
    assert (found.rankings, found.ranked) == ({}, [])
    assert remarks(found) == ["Only a has a score by m: nothing is ranked by it."]
    assert ranked([lost], "m", Choice("s"), 20) == ()
    assert size_ranks([candidate("a", 1, ()), lost])["width"] == {"a": 1, "lost": None}
    assert remarks(Chosen((lost,), {}, 20, 0)) == ["No model could be ranked."]


def test_one_metric_may_rank_models_and_another_one_not() -> None:
    models = [candidate(name, i, [0.0, 1.0]) for i, name in enumerate("ab")]
    for metric in ("other", "third"):
        models[0].drawn[metric] = models[0].drawn["m"]
    lines = remarks(chosen(*models, metrics="m other third"))
    assert lines[0] == "m puts b first; no other metric has ranked them."
    assert lines[1] == "Only a has a score by other and third: nothing is ranked by them."


def test_a_fault_on_all_is_raised_and_on_a_half_is_none() -> None:
    def statistic(rows: Any) -> Any:
        if rows is not None and rows[0]:
            raise UnitError("not here")
        return {"s": 3.0, "list": [1.0], "odd": nan}, 9

    found = measured(statistic, "s", [np.array([0]), np.array([1])])
    assert found.halves[0] == 3.0
    assert np.isnan(found.halves[1])
    assert (found.value, found.n) == (3.0, 9)

    def on_a_full_disk(rows: Any) -> Any:
        if rows is not None:
            raise UnitError("lost") from OSError(errno.ENOSPC, "full")
        return {"s": 3.0}, 9

    with pytest.raises(StorageFull):  # not a half without a value
        measured(on_a_full_disk, "s", [np.array([0])])
    for score in ("odd", "list", "none"):
        with pytest.raises(UnitError, match=f"gave no finite score {score}"):
            measured(statistic, score, [])


def said(*candidates: Candidate) -> str:
    return " ".join(remarks(chosen(*candidates)))


def test_what_is_said_of_size() -> None:
    same = [0.0, 0.0]
    big, small = candidate("big", 2, same, 100, 8), candidate("small", 1, same)
    assert "Size alone would choose the same (most parameters, and widest: big)" in said(big, small)
    other = candidate("small", 3, same)
    assert "Size alone would choose otherwise" in said(big, other)
    twin = candidate("twin", 1, same, 100, 8)
    assert "choice is among the largest (most parameters, and widest: big and twin)" in said(
        big, twin, small
    )
    wide = candidate("wide", 1, same, 5, 99)
    assert "most parameters: big; widest: wide" in said(big, wide)


def test_a_size_in_which_models_do_not_differ_says_nothing() -> None:
    same = [0.0, 0.0]
    a, b = candidate("a", 2, same, 7, 8), candidate("b", 1, same, 7, 8)
    assert "Size cannot tell these models apart" in said(a, b)
    large = candidate("large", 1, same, 9, 8)
    assert "Size alone would choose otherwise (most parameters: large)." in said(a, large)
    unranked = Candidate("unranked", "1", "mean", Cost(99, 2, 99))
    assert "(most parameters: large)" in said(a, large, unranked)


def test_size_chooses_as_some_of_three_metrics_do() -> None:
    models = [candidate(name, i, [0.0, 1.0], 10 + i) for i, name in enumerate("ab")]
    for model, value in zip(models, (1, 0), strict=True):
        model.drawn |= {"n": model.drawn["m"], "o": Drawn(value, 20, (0.0, 1.0))}
    lines = " ".join(remarks(chosen(*models, metrics="m n o")))
    assert "Size alone would choose as m and n do (most parameters: b)." in lines


def test_what_is_said_of_texts_and_labels() -> None:
    steady = said(candidate("a", 9, [9.0, 9.1, 8.9]), candidate("b", 1, [1.0, 1.1, 0.9]))
    assert "each moved to its score on all texts, the first model is first again: a in 100 %" in (
        steady
    )
    assert "would very likely put the same models first" in steady
    noise = [-5.0, 5.0] * 10
    shaky = said(candidate("a", 1.1, noise), candidate("b", 1, noise[::-1]))
    assert "a in 50 % (m)" in shaky
    assert "By m another model may well be first" in shaky
    for text in (steady, shaky):
        assert "median rho of .70" in text
        assert "With 2 models, guessing finds the best one in 1 of 2 cases" in text
        assert "20 texts are few: scores, ranks and intervals are rough below 200." in text
    many = said(*(candidate(str(i), i, [0.0, 1.0]) for i in range(9)))
    assert "guessing" not in many


def test_without_half_samples_nothing_is_said_to_hold_on_other_texts() -> None:
    models = candidate("a", 9, ()), candidate("b", 1, ())
    lines = remarks(chosen(*models, texts=9))
    assert any("(--draws 0): nothing is known of how other texts would" in line for line in lines)
    assert "9 texts are few: scores and ranks are rough below 200." in lines
    assert not any("first again" in line for line in lines)
    assert not any("are few" in line for line in remarks(chosen(*models, texts=200)))
    gaps = said(candidate("a", 9, [nan, 1.0, nan]), candidate("b", 1, [1.0, 1.0, 1.0]))
    assert "Too few half-samples gave all models a score by m" in gaps


def test_what_is_said_of_metrics_that_disagree() -> None:
    models = [candidate(name, i, [0.0, 1.0]) for i, name in enumerate("abcd")]
    for model, value in zip(models, (4.0, 1.0, 2.0, 3.0), strict=True):
        model.drawn["other"] = Drawn(value, 20, (0.0, 1.0))
    tau = stats.kendalltau([0, 1, 2, 3], [4, 1, 2, 3]).statistic
    text = " ".join(remarks(chosen(*models, metrics="m other")))
    assert "The metrics choose different models (m: d; other: a)" in text
    assert f"m and other {tau:+.2f}" in text
    for model in models:
        model.drawn["other"] = model.drawn["m"]
    alike = " ".join(remarks(chosen(*models, metrics="m other")))
    assert "Both metrics put d first (Kendall's tau of their orders: m and other +1.00)" in alike


def test_models_that_are_there_twice() -> None:
    def planned(name: str, path: str) -> Any:
        checkpoint = SimpleNamespace(path=path, revision="1")
        return SimpleNamespace(name=name, checkpoint=checkpoint, label="")

    check([planned("a", "x"), planned("b", "y")], [])
    with pytest.raises(UserError, match=r"^a is named twice$"):
        check([planned("a", "x"), planned("a", "y")], [])
    with pytest.raises(UserError, match=r"^a and a@main are the same model$"):
        check([planned("a", "x"), planned("a@main", "x")], [])


class Words:
    """A model whose tokens are words, and whose pass takes as long as the clock says."""

    has_final_norm = False

    class info:
        parameters, blocks, width = 70, 2, 12

    def __init__(self) -> None:
        self.passes: list[int] = []

    def tokenize(self, texts: Any) -> Any:
        return [{"input_ids": text.text.split()} for text in texts]

    def truncated(self, texts: Any, encoded: Any) -> list[bool]:
        return [False for _ in texts]

    def states(self, batch: Any) -> Any:
        import torch

        self.passes.append(len(batch))
        return {("raw", 0): torch.zeros(len(batch), 12)}


def test_costs_are_scaled_from_the_sample_to_1000_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 3.0, 5.0])  # 3 seconds, then 2: no third one beyond 4
    monkeypatch.setattr("lrd_harness.studies.select.time.perf_counter", lambda: next(clock))
    texts = [Text("a b c"), Text("d"), Text("e f g h"), Text("i j")]
    model: Any = Words()
    found = cost(model, texts, 100)
    assert found == Cost(70, 2, 12, tokens=2500.0, seconds=500.0)
    assert found.stored == 48
    assert model.passes == [1, 4, 4]
