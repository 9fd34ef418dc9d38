"""Parameters of metrics as they are typed or stand in YAML, and the numbers that they become."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import yaml

from lrd_harness import manager
from lrd_harness.contracts import Metric
from lrd_harness.errors import UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.suite import Suite
from lrd_harness.studies.values import fault


def resolved(metric: str, **parameters: Any) -> PlannedMetric:
    suite = Suite("x", plugins=(metric,), parameters={metric: parameters})
    (item,) = resolve_metrics(suite, manager.load())
    return item


@pytest.mark.parametrize(
    ("metric", "name", "typed", "number"),
    [
        ("lidar", "delta", "1e-4", 1e-4),
        ("lidar", "delta", "1e4", 1e4),
        ("lidar", "delta", "2", 2),
        ("dime", "alpha", "inf", math.inf),
        ("dime", "alpha", ".inf", math.inf),
    ],
)
def test_numbers_that_yaml_takes_for_texts(
    metric: str, name: str, typed: str, number: float
) -> None:
    assert resolved(metric, **{name: yaml.safe_load(typed)}).parameters[name] == number


@pytest.mark.parametrize(
    ("metric", "name", "value", "message"),
    [
        (
            "dime",
            "alpha",
            "one",
            "parameter alpha of metric dime is 'one', not a number; by default it is 1.0",
        ),
        (
            "dime",
            "alpha",
            "nan",
            "parameter alpha of metric dime is nan, not a number; by default it is 1.0",
        ),
        ("dime", "alpha", -1, "^metric dime: alpha must be above 0, not -1"),
        ("lidar", "delta", "inf", "^metric lidar: delta must be above 0 and finite"),
        ("frenet", "variance", math.inf, "^metric frenet: variance must lie in"),
        ("nrs", "k", "1e1", "parameter k of metric nrs is '1e1'"),
    ],
)
def test_values_that_are_refused(metric: str, name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(metric, **{name: value})


def test_a_metric_that_is_not_measured_takes_no_parameter() -> None:
    suite = Suite("x", plugins=("dime",), parameters={"lidar": {"delta": 1}})
    with pytest.raises(UserError, match=r"^lidar is not measured here, so it takes no parameter$"):
        resolve_metrics(suite, manager.load())


def test_infinite_ones_are_texts_in_json() -> None:
    item = PlannedMetric(Metric("m", dict), {"a": math.inf, "b": -math.inf, "c": 1e308, "d": None})
    written = {"a": "inf", "b": "-inf", "c": 1e308, "d": None}
    assert json.loads(json.dumps(item.written, allow_nan=False)) == written


@pytest.mark.usefixtures("own_cache")
@pytest.mark.slow
def test_a_run_with_an_infinite_one(tmp_path: Path) -> None:
    """S_inf is -log of the largest share of the spectrum: below all others; reported once."""
    data, model = tiny.task_data(tmp_path / "data"), tiny.save("Bert", tmp_path / "bert")
    more = ("--plugins", "dataset_entropy", "--set", "dataset_entropy.alpha=inf")
    for _ in range(2):
        assert running.run(tmp_path / "out", [model], data, *more, tasks=["STSBenchmark"]) == 0
    assert running.run(tmp_path / "two", [model], data, *more[:2], tasks=["STSBenchmark"]) == 0
    (row,) = running.records(tmp_path / "out", "metric")
    assert row["parameters"]["alpha"] == "inf"
    (other,) = running.records(tmp_path / "two", "metric")
    pairs = zip(*(r["profiles"]["dataset_entropy"]["values"] for r in (row, other)), strict=True)
    assert all(least < usual for least, usual in pairs)


def test_an_error_behind_the_metrics_name() -> None:
    assert fault(ValueError("lidar: too few\nof them"), "lidar") == "ValueError: too few"
    assert fault(ValueError("lidar needs 8 texts"), "lidar") == "ValueError: needs 8 texts"
    assert fault(UserError("gave no x"), "lidar") == "gave no x"
    assert fault(ValueError("lidar needs 8 texts")) == "ValueError: lidar needs 8 texts"
