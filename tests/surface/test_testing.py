"""The conformance kit passes what is sound and names what is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lrd_harness import manager
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import NotEnoughTokens
from lrd_harness.testing import check_metric

NAMES = (
    "frenet nrs gfmi prompt_entropy dataset_entropy effective_rank curvature infonce lidar dime "
    "block_influence cosine subspace_distance"
).split()
BUILT_IN = {metric.name: metric for metric in manager.load().all("metric")}
# lidar's delta is absolute; dime's shufflings are drawn by the texts' numbers.
FEWER_LAWS = {"lidar": {"rotation", "permutation"}, "dime": {"rotation", "scaling"}}


@pytest.mark.parametrize("name", NAMES)
def test_built_in_metrics_conform(name: str) -> None:
    metric = BUILT_IN[name]
    check_metric(metric)
    assert metric.invariances == FEWER_LAWS.get(name, {"rotation", "scaling", "permutation"})
    assert set(BUILT_IN) == set(NAMES)


def test_which_metrics_rank_models_and_which_choose_layers() -> None:
    assert {name for name in NAMES if BUILT_IN[name].selection} == {"frenet", "nrs", "gfmi"}
    choices = {name: metric.layer_choice for name, metric in BUILT_IN.items()}
    lowest = ("prompt_entropy", "dataset_entropy", "curvature", "dime")
    highest = {"effective_rank": "effective_rank", "infonce": "mi", "lidar": "lidar"}
    expected = {name: (name, "min") for name in lowest}
    expected |= {name: (score, "max") for name, score in highest.items()}
    assert {name: choice for name, choice in choices.items() if choice} == expected


def spread(states: Any) -> dict[str, Any]:
    return {"spread": [float(state.std()) for state in states]}


def mean_norm(states: Any) -> dict[str, Any]:
    if states.shape[-2] < 6:
        raise NotEnoughTokens("too short")
    return {"size": states.norm(dim=-1).mean(-1), "length": states.shape[-2]}


def longest(texts: Any) -> dict[str, Any]:
    return {"length": max(text["length"] for text in texts)}


def first_text(texts: Any) -> dict[str, Any]:
    return {"size": texts[0]["size"]}


def by_length(states: Any) -> dict[str, Any]:
    return {"x": [1.0] * states.shape[-2]}


def size(states: Any) -> dict[str, Any]:
    return {"x": float(states.sum())}


def doubled(states: Any) -> dict[str, Any]:
    return {"x": float(states.mul_(2).sum())}


def random(states: Any) -> dict[str, Any]:
    return {"x": float(torch.rand(()))}


def constant(value: Any) -> Any:
    return lambda states: {"x": value}


LAW = frozenset
TOKENS: Any = {"needs": "tokens"}
FAULTS = [
    ("scaling changes", Metric("m", spread, invariances=LAW({"scaling"}))),
    ("unknown laws", Metric("m", spread, invariances=LAW({"magic"}))),
    ("no score missing", Metric("m", spread, selection=Choice("missing"))),
    ("no score spread", Metric("m", spread, selection=Choice("spread"))),
    ("no list", Metric("m", constant(1.0), layer_choice=Choice("x"))),
    ("not finite", Metric("m", constant(float("nan")))),
    ("values", Metric("m", constant([1.0]))),  # they belong to no layers
    ("a second call", Metric("m", random)),
    ("a rotation changes", Metric("m", size, invariances=LAW({"rotation"}), **TOKENS)),
    (
        "a permutation changes",
        Metric("m", mean_norm, finish=first_text, invariances=LAW({"permutation"}), **TOKENS),
    ),
    ("other lengths", Metric("m", by_length, **TOKENS)),
    ("changes the states", Metric("m", doubled, **TOKENS)),
    ("no list", Metric("m", mean_norm, layer_choice=Choice("length"), **TOKENS)),
    (
        "gave no score mean_size",
        Metric("m", mean_norm, finish=longest, selection=Choice("mean_size"), **TOKENS),
    ),
]


@pytest.mark.parametrize(("reason", "metric"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_named(reason: str, metric: Metric) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_metric(metric)


def test_a_token_metric_may_refuse_some_texts_and_not_all() -> None:
    laws = frozenset({"rotation", "permutation"})
    scores = check_metric(Metric("m", mean_norm, needs="tokens", invariances=laws))
    assert scores["length"] == pytest.approx((12 + 9 + 7 + 12) / 4)
    assert len(scores["size"]) == 5  # type: ignore[arg-type]

    def refuse(states: Any) -> dict[str, float]:
        raise NotEnoughTokens("never enough")

    with pytest.raises(AssertionError, match="never enough"):
        check_metric(Metric("m", refuse, needs="tokens"))


def test_view_metrics_are_tried_on_as_many_views_as_they_ask_for() -> None:
    def count(states: Any) -> dict[str, Any]:
        return {
            "q": [float(s.shape[1]) for s in states],
            "first": [float(s[0, 0].norm()) for s in states],
        }

    metric = Metric("m", count, needs="views", views=7, invariances=frozenset({"rotation"}))
    assert check_metric(metric)["q"] == [7.0] * 5
    sensitive = Metric("m", count, needs="views", invariances=frozenset({"permutation"}))
    with pytest.raises(AssertionError, match="a permutation changes"):
        check_metric(sensitive)
