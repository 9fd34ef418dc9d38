"""The conformance kit passes what is sound and names what is not."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from lrd_harness.contracts import Choice, Metric
from lrd_harness.testing import check_metric

BUILT_IN = [
    record
    for name in ("frenet", "nrs", "gfmi")
    for record in importlib.import_module(f"lrd_harness.plugins.{name}").lrd_metrics()
]


@pytest.mark.parametrize("metric", BUILT_IN, ids=lambda m: m.name)
def test_built_in_metrics_conform(metric: Metric) -> None:
    scores = check_metric(metric)
    assert metric.invariances == {"rotation", "scaling", "permutation"}
    assert metric.selection is not None
    assert metric.selection.score in scores


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
    "a second call": Metric("m", lambda states: {"x": float(torch.rand(()))}),
    "pooled metrics only": Metric("m", spread, needs="tokens"),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_faults_are_named(reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_metric(FAULTS[reason])


def test_a_list_that_belongs_to_no_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="values"):
        check_metric(Metric("m", lambda states: {"x": [1.0]}))


def test_a_sound_stranger_passes() -> None:
    metric = Metric(
        "spread", spread, selection=Choice("mean_spread"), invariances=frozenset({"permutation"})
    )
    assert len(check_metric(metric)["spread"]) == 5  # type: ignore[arg-type]
