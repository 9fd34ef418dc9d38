"""Choosing between models without labels: ranks, intervals, costs and the cautions with them."""

from __future__ import annotations

from math import nan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrd_harness import manager
from lrd_harness.contracts import Choice, Metric, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.scores import Scores
from lrd_harness.studies.select import (
    affordable,
    check_models,
    cost,
    report,
    selection_score,
    share,
)
from lrd_harness.studies.study import Study
from lrd_harness.studies.values import Design, Measurement
from lrd_harness.studies.verdict import Candidate, Origin, cautions, ranked, size_ranks


def metric(name: str = "m", best: Any = "max") -> Metric:
    return Metric(name, dict, selection=Choice("s", best))


def candidate(name: str, value: float, halves: Any, size: int = 10, width: int = 4) -> Candidate:
    spent = {"tokens_1000": 5000.0, "seconds_1000": 1.5}
    cost = {"parameters": size, "blocks": 2, "width": width, "bytes": 4 * width, **spent}
    return Candidate(name, "1", "mean", cost, {"m": Measurement(value, 20, tuple(halves))})


def design(draws: int, texts: int = 20, names: Any = ("m",)) -> Design:
    items = [PlannedMetric(metric(name), {}) for name in names]
    questions: Any = SimpleNamespace(sample=lambda task: [""] * texts)
    sampling: Any = SimpleNamespace(norm="hf", device="cpu")
    task: Any = SimpleNamespace(name="t", modality="text")
    return Design(task, items, questions, sampling, draws, 0, 100)


def rows_of(*candidates: Candidate, best: Any = "max") -> list[dict[str, Any]]:
    return ranked(candidates, metric("m", best), 20)


def codes(*candidates: Candidate, names: Any = ("m",), texts: int = 20) -> dict[str, Any]:
    """The cautions by code."""
    every = {name: ranked(candidates, metric(name), 20) for name in names}
    draws = max(len(score.halves) for model in candidates for score in model.scores.values())
    ranking = any(len(rows) > 1 for rows in every.values())
    placed = [model for model in candidates if ranking and model.scores]
    return dict(cautions(every, placed, design(draws, texts, names)))


values = st.lists(st.floats(-5, 5).map(lambda x: round(x, 2)), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(values=values, seed=st.integers(0, 99), up=st.booleans())
def test_ranks_and_intervals_are_those_of_plain_means(
    values: list[float], seed: int, up: bool
) -> None:
    drawn = np.random.default_rng(seed).normal(size=(40, len(values)))
    models = [candidate(str(i), v, drawn[:, i]) for i, v in enumerate(values)]
    ordered = rows_of(*models, best="max" if up else "min")
    rows = {row["model"]: row for row in ordered}
    sign = -1 if up else 1
    ranks = stats.rankdata(sign * np.array(values), "min")
    again = stats.rankdata(sign * (drawn - drawn.mean(0) + values), "min", axis=1)
    for i, value in enumerate(values):
        row = rows[str(i)]
        assert (row["value"], row["rank"], row["n"], row["draws"]) == (value, ranks[i], 20, 40)
        assert row["first"] == pytest.approx(np.mean(again[:, i] == 1))
        drawn_ranks = np.sort(again[:, i])
        assert (row["rank_low"], row["rank_high"]) == (
            drawn_ranks[0],
            drawn_ranks[39],
        )  # 40 * .025 = 1
        assert row["low"] == pytest.approx(value - 1.96 * drawn[:, i].std())
        assert row["halved"] == pytest.approx(drawn[:, i].mean())
    assert [row["rank"] for row in ordered] == sorted(ranks)


def test_scores_that_fall_with_the_number_of_texts_do_not_change_the_first() -> None:
    """One model loses 10 on any half, so that raw halves would never put it first."""
    noise = np.random.default_rng(0).normal(size=50) / 100
    models = candidate("one", 5.0, -5 + noise), candidate("two", 4.0, 4 + noise)
    first, second = rows_of(*models)
    assert (first["model"], first["first"], first["rank_high"]) == ("one", 1.0, 1)
    assert (first["overtakes"], second["overtakes"]) == (False, True)
    assert (second["first"], second["rank_low"]) == (0.0, 2)
    assert codes(*models)["overtaken"] == {"metric": "m", "model": "two"}


def test_plain_means_do_not_seem_to_depend_on_the_number_of_texts() -> None:
    """Means of halves differ by chance from those of all: the order of their means says nothing."""
    noticed = crossed = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=(20, 2))
        halves = np.random.default_rng([seed, 1]).permuted(np.tile(np.arange(20), (30, 1)), axis=1)
        drawn = values[halves[:, :10]].mean(1)  # (30, 2)
        both = [candidate(n, values[:, i].mean(), drawn[:, i]) for i, n in enumerate("ab")]
        first, second = rows_of(*both)
        crossed += second["halved"] > first["halved"]
        noticed += second["overtakes"]
    assert crossed >= 8  # it does happen
    assert noticed <= 1


def test_halves_without_a_score_count_for_no_model() -> None:
    good = [1.0, 2.0] * 21
    rows = rows_of(candidate("a", 1.5, good), candidate("b", 0.0, [0.0] * 41 + [None]))
    assert {(row["draws"], row["rank_low"] is None) for row in rows} == {(41, False)}
    gaps = candidate("b", 0.0, [nan] * 30 + [0.0] * 12)
    few = rows_of(candidate("a", 1.5, good), gaps)
    assert {(row["rank_low"], row["first"], row["halved"]) for row in few} == {(None, None, None)}
    assert [row["low"] is None for row in few] == [False, True]  # a's own halves are all there
    none = rows_of(candidate("a", 1.5, ()), candidate("b", 0.0, ()))
    assert [(r["rank"], r["first"], r["low"]) for r in none] == [(1, None, None), (2, None, None)]


@pytest.mark.parametrize("draws", [2, 39, 40])
def test_intervals_take_as_many_halves_as_hold_95_per_cent(draws: int) -> None:
    """Least and greatest of n values hold (n - 1) / (n + 1) of what they are drawn from."""
    halves = [0.0, 1.0] * draws
    rows = rows_of(candidate("a", 1.0, halves[:draws]), candidate("b", 0.0, halves[:draws]))
    names = ("low", "high", "rank_low", "rank_high")
    assert {row[name] is not None for row in rows for name in names} == {draws >= 40}
    least, greatest = stats.beta(1, draws), stats.beta(draws, 1)
    assert (greatest.mean() - least.mean() >= 0.95 - 1e-9) == (draws >= 39)
    assert rows[0]["first"] == 1.0


@pytest.mark.parametrize(
    ("first", "draws", "shown"),
    [
        (1.0, 100, "97 % or more"),
        (1.0, 60, "95 % or more"),
        (1.0, 40, "92 % or more"),
        (0.0, 100, "3 % or less"),
        (0.999, 1000, "99 %"),
        (0.001, 1000, "1 %"),
        (0.7, 60, "70 %"),
        (1.0, 20, "20 of 20"),
        (None, 100, None),
    ],
)
def test_a_share_says_no_more_than_the_halves_do(
    first: float | None, draws: int, shown: str | None
) -> None:
    assert share(first, draws) == shown
    if first == 1.0 and draws >= 40:  # the exact bound (Clopper and Pearson) is no lower
        assert stats.beta(draws, 1).ppf(0.05) >= int((shown or "").split()[0]) / 100


@pytest.mark.parametrize(
    ("models", "draws", "cell"), [(3, 100, "1"), (8, 40, "1"), (8, 60, "1 (1-1)")]
)
def test_a_rank_looks_certain_only_where_it_is(models: int, draws: int, cell: str) -> None:
    noise = np.random.default_rng(0).normal(size=(models, draws)) / 1000
    every = [candidate(str(i), -i, -i + noise[i]) for i in range(models)]
    assert report(every, design(draws)).table("ranks").column("rank.m")[0] == cell


@pytest.mark.parametrize(
    ("seconds", "draws"), [(0.0, 100), (0.6, 100), (0.61, 60), (1.5, 40), (5.9, 10), (6.1, 0)]
)
def test_the_number_of_halves_keeps_within_a_minute(seconds: float, draws: int) -> None:
    assert affordable(seconds) == draws


def test_level_models_share_the_better_rank() -> None:
    rows = rows_of(*(candidate(name, 1.0, [1.0] * 40) for name in "abc"))
    spans = {(row["rank"], row["rank_low"], row["rank_high"], row["first"]) for row in rows}
    assert spans == {(1, 1, 1, 1.0)}
    assert not any(row["overtakes"] for row in rows)


def test_a_model_that_alone_has_a_score_is_not_ranked() -> None:
    lost = Candidate("lost", "1", faults={"": "OSError"})
    alone = candidate("a", 1.0, [1.0, 2.0] * 20)
    (row,) = rows_of(alone, lost)
    names = ("rank", "rank_low", "first", "halved")
    assert [row[name] for name in names] == [None] * 4
    assert row["low"] is not None  # of its score
    assert codes(alone, lost) == {"alone": {"metrics": "m"}}
    assert rows_of(lost) == []
    assert size_ranks([alone, lost])["width"] == {"a": 1, "lost": None}
    assert list(cautions({}, [], design(0))) == [("none", {})]


def test_one_metric_may_rank_models_and_another_one_not() -> None:
    models = [candidate(name, i, [0.0, 1.0]) for i, name in enumerate("ab")]
    for name in ("other", "third"):
        models[0].scores[name] = models[0].scores["m"]
    cautioned = codes(*models, names=("m", "other", "third"))
    assert "differ" not in cautioned
    assert cautioned["alone"] == {"metrics": "other and third"}


@pytest.mark.parametrize("score", ["odd", "list", "none"])
def test_a_score_that_is_no_number(score: str) -> None:
    scores = Scores({"s": 3.0, "list": [1.0], "odd": nan}, 2)
    assert selection_score(metric(), scores) == 3.0
    with pytest.raises(UnitError, match=f"gave no finite score {score}"):
        selection_score(Metric("m", dict, selection=Choice(score)), scores)


SAME = [0.0, 0.0]
BIG = candidate("big", 2, SAME, 100, 8)
BOTH = "most parameters: {}; widest: {}"


@pytest.mark.parametrize(
    ("others", "code", "sizes"),
    [
        ([candidate("small", 1, SAME)], "size agrees", BOTH.format("big", "big")),
        ([candidate("small", 3, SAME)], "size differs", BOTH.format("big", "big")),
        (
            [candidate("twin", 1, SAME, 100, 8), candidate("small", 1, SAME)],
            "among the largest",
            BOTH.format("big and twin", "big and twin"),
        ),
        ([candidate("wide", 1, SAME, 5, 99)], "among the largest", BOTH.format("big", "wide")),
        ([candidate("twin", 1, SAME, 100, 8)], "size level", None),
        ([candidate("b", 1, SAME, 200, 8)], "size differs", "most parameters: b"),
    ],
)
def test_size(others: list[Candidate], code: str, sizes: str | None) -> None:
    """Sizes in which the models do not differ say nothing."""
    cautioned = codes(BIG, *others)
    assert cautioned[code].get("sizes") == sizes


def test_cautions_on_texts_and_labels() -> None:
    steady = codes(candidate("a", 9, [9.0, 9.1] * 20), candidate("b", 1, [1.0, 1.1] * 20))
    noise = [-5.0, 5.0] * 20
    shaky = codes(candidate("a", 1.1, noise), candidate("b", 1, noise[::-1]))
    assert steady["steady"]["shares"] == "40 of 40 by m"
    assert shaky["unsteady"] == {"metrics": "m", "shares": "20 of 40 by m"}
    assert steady["chosen"]["models"] == "a is"
    for cautioned in (steady, shaky):
        assert (cautioned["labels"], cautioned["few"]) == ({}, {"n": 2})
        assert cautioned["rough"] == {"texts": 20, "many": 200}
    assert "few" not in codes(*(candidate(str(i), i, [0.0, 1.0]) for i in range(9)))


def test_without_half_samples_nothing_is_said_to_hold_on_other_texts() -> None:
    models = candidate("a", 9, ()), candidate("b", 1, ())
    assert {"undrawn", "rough"} <= set(codes(*models))
    assert "rough" not in codes(*models, texts=200)
    some = [candidate(name, value, [value] * 20) for name, value in (("a", 9.0), ("b", 1.0))]
    assert codes(*some)["few draws"] == {"draws": 20, "least": 40, "time": ""}
    hurried = dict(cautions({"m": rows_of(*models)}, list(models), design(0), half=9.0))
    assert hurried["few draws"] == {"draws": 0, "least": 40, "time": ", about 6 min"}
    for said in (codes(*models), codes(*some), hurried):
        assert not {"steady", "unsteady"} & set(said)
    gaps = codes(candidate("a", 9, [nan] * 39 + [1.0]), candidate("b", 1, [1.0] * 40))
    assert gaps["lost"] == {"metrics": "m"}


def test_a_model_that_lost_blocks_is_not_first_without_a_word() -> None:
    models = [
        candidate(name, value, [value] * 40) for name, value in (("a", 9), ("b", 5), ("c", 1))
    ]
    figures = {"knn_overlap": 0.31, "chance": 0.04, "cosine": 0.5, "unpaired": 0.25}
    models[0].origin = Origin("whole", [5, 3, 4], figures)
    models[1].origin = Origin("other", [2], reason="it is gone.")
    models[2].origin = Origin("other", [])  # kept whole
    board = report(models, design(40))
    assert board.answer[0] == "a is first for these 20 texts by m."
    assert board.answer[1] == (
        "a was made from whole without blocks 3-5: of each text's 10 nearest texts 31 % are still "
        "the same (chance: 4 %), its vectors have a cosine of 0.50 with the parent's (two "
        "different texts: 0.25). These metrics do not see such damage."
    )
    assert board.answer[2].endswith("How much there is could not be measured: it is gone.")
    assert len([line for line in board.answer if "was made from" in line]) == 2
    assert board.table("origins").column("parent") == ["whole", "other", "other"]


def test_a_first_model_that_is_slow() -> None:
    models = [candidate(name, value, ()) for name, value in (("a", 9), ("b", 1))]
    assert "slow" not in codes(*models)
    models[0].cost["seconds_1000"] *= 20
    assert codes(*models)["slow"] == {"model": "a", "seconds": 30.0, "times": "20", "fastest": "b"}


def test_orders_of_metrics_and_the_tables() -> None:
    models = [candidate(name, i, [0.0, 1.0]) for i, name in enumerate("abcd")]
    for model, value in zip(models, (4.0, 1.0, 2.0, 3.0), strict=True):
        model.scores["other"] = Measurement(value, 20, (0.0, 1.0))
    board = report(models, design(2, names=("m", "other")))
    tau = stats.kendalltau([0, 1, 2, 3], [4, 1, 2, 3]).statistic
    expected = {"metric": "m", "other": "other", "tau": pytest.approx(tau), "n": 4}
    assert board.table("orders").rows == [expected]
    assert board.table("ranks").column("model") == ["d", "a", "c", "b"]  # by mean rank
    assert len(board.table("select").rows) == 8
    assert (board.notes, board.answer) == (board.facts["remarks"], board.facts["answer"])
    assert board.answer[0].startswith("d is first by m; a by other: the metrics measure")


def test_scores_that_differ_in_the_seventh_digit_do_not_look_level() -> None:
    values = {"a": 0.12345678, "b": 0.12345670}
    models = [candidate(name, value, [0.0, 1.0]) for name, value in values.items()]
    board = report(models, design(2))
    assert board.table("scores.m").columns[1].form == "#.7g"


def test_all_stands_for_the_metrics_that_rank_models() -> None:
    study = Study("select", manager.load(), texts=["a", "b"], metrics=("all",))
    with pytest.raises(UserError, match="no such folder"):  # and none for a metric
        study.select(["./no", "./none"])


def test_models_that_are_there_twice() -> None:
    def planned(name: str, path: str) -> Any:
        checkpoint = SimpleNamespace(path=path, revision="1")
        return SimpleNamespace(name=name, checkpoint=checkpoint, label="")

    check_models([planned("a", "x"), planned("b", "y")])
    with pytest.raises(UserError, match=r"^a and a@main are the same model$"):
        check_models([planned("a", "x"), planned("a@main", "x")])


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


@pytest.mark.parametrize(
    ("clock", "passes"),
    [
        ([0.0, 0.1, 1.0, 4.0, 4.0, 6.0], [4, 4, 4]),  # 3 seconds, then 2: no third one beyond 4
        ([0.0, 9.0, 9.0, 11.0, 11.0, 13.0], [8, 8, 8]),  # a slow first pass: few texts
    ],
)
def test_costs_are_scaled_from_the_sample_to_1000_texts(
    clock: list[float], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(clock)
    monkeypatch.setattr("lrd_harness.studies.select.time.perf_counter", lambda: next(times))
    texts = [Text("a b c"), Text("d"), Text("e f g h"), Text("i j")] * (1 if passes[0] < 8 else 9)
    model: Any = Words()
    found = cost(model, texts, 1000)
    assert found["tokens_1000"] == 2500.0
    if passes[0] == 4:
        assert found["seconds_1000"] == 500.0
    assert model.passes == passes
