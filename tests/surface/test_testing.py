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
    scores = check_metric(metric)
    assert metric.name == name
    assert metric.invariances == FEWER_LAWS.get(name, {"rotation", "scaling", "permutation"})
    if metric.selection is not None:
        assert metric.selection.score in scores
    assert set(BUILT_IN) == set(NAMES)


def test_which_metrics_rank_models_and_which_choose_layers() -> None:
    assert {name for name in NAMES if BUILT_IN[name].selection} == {"frenet", "nrs", "gfmi"}
    chosen = {name: metric.layer_choice for name, metric in BUILT_IN.items() if metric.layer_choice}
    lowest = ("prompt_entropy", "dataset_entropy", "curvature", "dime")
    highest = {"effective_rank": "effective_rank", "infonce": "mi", "lidar": "lidar"}
    expected = {name: (name, "min") for name in lowest}
    assert chosen == expected | {name: (score, "max") for name, score in highest.items()}


def spread(states: Any) -> dict[str, Any]:
    return {"spread": [float(state.std()) for state in states]}


def changes_input(states: Any) -> dict[str, Any]:
    states[0].mul_(2)
    return {"x": 1.0}


FAULTS = {
    "scaling changes": Metric("m", spread, invariances=frozenset({"scaling"})),
    "unknown laws": Metric("m", spread, invariances=frozenset({"magic"})),
    "no score missing": Metric("m", spread, selection=Choice("missing")),
    "no score spread": Metric("m", spread, selection=Choice("spread")),
    "no list": Metric("m", lambda states: {"x": 1.0}, layer_choice=Choice("x")),
    "not finite": Metric("m", lambda states: {"x": float("nan")}),
    "values": Metric("m", lambda states: {"x": [1.0]}),  # they belong to no layers
    "a second call": Metric("m", lambda states: {"x": float(torch.rand(()))}),
}


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


TOKEN_FAULTS = {
    "a rotation changes": Metric(
        "m",
        lambda states: {"x": float(states.sum())},
        needs="tokens",
        invariances=frozenset({"rotation"}),
    ),
    "a permutation changes": Metric(
        "m", mean_norm, needs="tokens", finish=first_text, invariances=frozenset({"permutation"})
    ),
    "other lengths": Metric("m", by_length, needs="tokens"),
    "changes the states": Metric(
        "m", lambda states: {"x": float(states.mul_(2).sum())}, needs="tokens"
    ),
    "no list": Metric("m", mean_norm, needs="tokens", layer_choice=Choice("length")),
    "gave no score mean_size": Metric(
        "m", mean_norm, needs="tokens", finish=longest, selection=Choice("mean_size")
    ),
}


EVERY = [*FAULTS.items(), *TOKEN_FAULTS.items()]


@pytest.mark.parametrize(("reason", "metric"), EVERY, ids=range(len(EVERY)))
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
