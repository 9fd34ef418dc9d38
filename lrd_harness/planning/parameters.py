"""The metrics of a run with all their parameters, resolved and tried before anything is opened."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from lrd_harness import errors
from lrd_harness.contracts import Metric
from lrd_harness.errors import UnitError, UserError, described, unknown
from lrd_harness.manager import Plugins
from lrd_harness.measuring import PlannedMetric, check_parameters, measure
from lrd_harness.planning.suite import Suite

LENGTHS = (12, 5, 9, 5, 7, 12)  # tokens of the texts that a token metric is tried on
KINDS: Mapping[type, str] = {  # what a parameter has to be, by its default
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def resolve_metrics(suite: Suite, plugins: Plugins) -> list[PlannedMetric]:
    """The metric plugins of a suite; where it names none, all that need no augmented views.

    "all" stands for all of them.
    """
    every = plugins.all("metric")
    if suite.plugins is None:
        names = [metric.name for metric in every if metric.needs != "views"]
    else:
        parts = ([m.name for m in every] if n == "all" else [n] for n in suite.plugins)
        names = list(dict.fromkeys(name for part in parts for name in part))
    planned = []
    for name in names:
        metric, typed = plugins.get("metric", name), suite.parameters.get(name, {})
        check_parameters(metric, typed)
        parameters = _parameters(metric, typed)
        if typed:
            _try(metric, parameters)
        planned.append(PlannedMetric(metric, parameters))
    for name in suite.parameters:
        if name not in names and name in plugins.names("metric"):
            raise UserError(f"{name} is not measured here, so it takes no parameter")
        if name not in names:
            raise unknown("metric to set a parameter of", name, names)
    return planned


def _parameters(metric: Metric, typed: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a metric: those that were typed over its defaults.

    Raises UserError for a value that is not of its default's kind.
    """
    known = inspect.signature(metric.measure).parameters.values()
    parameters = {p.name: p.default for p in known if p.default is not p.empty}
    for name, value in typed.items():
        what, default = f"parameter {name} of metric {metric.name}", parameters.get(name)
        if isinstance(default, float) and isinstance(value, str):
            with suppress(ValueError):  # YAML 1.1 takes 1e-4 and inf for texts
                value = float(value)
        kind = KINDS.get(type(default), "")
        if kind and not _fits(value, default):
            raise UserError(f"{what} is {value!r}, not {kind}; by default it is {default}")
        if isinstance(value, int) and abs(value) > errors.COUNT:
            most = f"at most {errors.COUNT:,} is possible"
            raise UserError(f"{what} is {errors.shown(value)}: {most}")
        if isinstance(value, list) and len(value) > errors.STEPS:
            raise UserError(f"{what} is too long: at most {errors.STEPS:,} items are possible")
        parameters[name] = int(value) if type(default) is int else value
    return parameters


def _fits(value: Any, default: Any) -> bool:
    """Whether it is of the default's kind, which is one of KINDS."""
    if isinstance(default, (bool, str)):
        return isinstance(value, type(default))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and (value == value if isinstance(default, float) else value % 1 == 0)


def _try(metric: Metric, parameters: Mapping[str, Any]) -> None:
    """Measure a small sample, so that values that the metric refuses show at once, as UserError."""
    try:
        measure(metric, random_sample(metric), **parameters)
    except UnitError:
        return  # the sample is too small for these values, which says nothing against them
    except UserError as error:
        reason = str(error).removeprefix(f"{metric.name}: ")
        raise UserError(f"metric {metric.name}: {reason}") from None
    except Exception as error:
        said = f"metric {metric.name} does not take {dict(parameters)}: {described(error)}"
        raise UserError(said) from None


def random_states(n: int = 48, layers: int = 5, width: int = 12, seed: int = 0) -> list[np.ndarray]:
    """`layers` states (n, width) float64 that drift from layer to layer, as a model's do."""
    steps = np.random.default_rng(seed).normal(size=(layers, n, width))
    return list(steps.cumsum(0))


def random_sample(metric: Metric) -> list[np.ndarray]:
    """Random states of 5 layers that the metric can be measured on.

    Pooled (48, 12), one text's (12, 12), or views (48, q, 12), q as many as it asks for, the views
    of a text near each other.
    """
    states = random_states(LENGTHS[0] if metric.needs == "tokens" else 48)
    if metric.needs != "views":
        return states
    shape = len(states), 48, max(2, metric.views), 12
    noise = np.random.default_rng(1).normal(size=shape)
    return [s[:, None] + 0.3 * some for s, some in zip(states, noise, strict=True)]
