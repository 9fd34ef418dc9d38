"""The metrics of a run with all their parameters, resolved and tried before anything is opened."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrd_harness import errors
from lrd_harness.contracts import Metric
from lrd_harness.errors import UnitError, UserError, described, unknown
from lrd_harness.manager import Plugins
from lrd_harness.measuring import PlannedMetric, check_parameters, measure
from lrd_harness.planning.suite import Suite

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
        names = [name for part in parts for name in part]
    planned = []
    for name in dict.fromkeys(names):
        metric = plugins.get("metric", name)
        given = suite.parameters.get(name, {})
        check_parameters(metric, given)
        planned.append(PlannedMetric(metric, _resolved(metric, given)))
    for name in suite.parameters:
        if name not in names:
            if name in plugins.names("metric"):
                raise UserError(f"{name} is not measured here, so it takes no parameter")
            raise unknown("metric to set a parameter of", name, names)
    return planned


def _resolved(metric: Metric, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a metric: the given ones over its defaults.

    Raises UserError for a value that is not of its default's kind, or that the metric refuses.
    """
    known = inspect.signature(metric.measure).parameters.values()
    defaults = {p.name: p.default for p in known if p.default is not p.empty}
    given = {name: _number(value, defaults.get(name)) for name, value in given.items()}
    for name, value in given.items():
        if not _fits(value, defaults.get(name)):
            raise UserError(
                f"parameter {name} of metric {metric.name} is {value!r}, not "
                f"{KINDS[type(defaults.get(name))]}; by default it is {defaults.get(name)}"
            )
        _check_size(value, f"parameter {name} of metric {metric.name}")
    whole = {name: int(v) for name, v in given.items() if type(defaults.get(name)) is int}
    resolved = {**defaults, **given, **whole}
    if given:
        _try(metric, resolved)
    return resolved


def _check_size(value: Any, what: str) -> None:
    """Raise UserError for a number or a list that is absurdly large."""
    if isinstance(value, int) and abs(value) > errors.COUNT:
        raise UserError(f"{what} is {errors.shown(value)}: at most {errors.COUNT:,} is possible")
    if isinstance(value, list) and len(value) > errors.STEPS:
        raise UserError(f"{what} is too long: at most {errors.STEPS:,} items are possible")


def _number(value: Any, default: Any) -> Any:
    """The number that a text is, where one is asked for: YAML 1.1 takes 1e-4 and inf for texts."""
    if isinstance(default, float) and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _fits(value: Any, default: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        bool: isinstance(value, bool),
        int: number and math.isfinite(value) and value == int(value),
        float: number and not math.isnan(value),
        str: isinstance(value, str),
    }
    return fits.get(type(default), True)


def _try(metric: Metric, parameters: Mapping[str, Any]) -> None:
    """Call the metric on a small sample, so that values it cannot take show at once."""
    try:
        measure(metric, random_sample(metric), **parameters)
    except UnitError:
        return  # the sample is too small for these values, which says nothing against them
    except UserError as error:
        reason = str(error).removeprefix(f"{metric.name}: ")
        raise UserError(f"metric {metric.name}: {reason}") from None
    except Exception as error:
        reason = described(error)
        raise UserError(
            f"metric {metric.name} does not take {dict(parameters)}: {reason}"
        ) from None


LENGTHS = (12, 5, 9, 5, 7, 12)  # tokens of the texts that a token metric is tried on


def random_states(n: int = 48, layers: int = 5, width: int = 12, seed: int = 0) -> list[np.ndarray]:
    """`layers` states (n, width) float64 that drift from layer to layer, as a model's do."""
    steps = np.random.default_rng(seed).normal(size=(layers, n, width))
    return list(steps.cumsum(0))


def random_views(
    n: int = 48, views: int = 2, layers: int = 5, width: int = 12, seed: int = 0
) -> list[np.ndarray]:
    """`layers` states (n, views, width) float64, the views of a text near each other."""
    noise = np.random.default_rng(seed + 1).normal(size=(layers, n, views, width))
    return [
        state[:, None] + 0.3 * some
        for state, some in zip(random_states(n, layers, width, seed), noise, strict=True)
    ]


def random_sample(metric: Metric) -> list[np.ndarray]:
    """Random states of 5 layers that the metric can be measured on.

    Pooled (48, 12), one text's (12, 12), or views (48, q, 12), q as many as it asks for.
    """
    if metric.needs == "views":
        return random_views(views=max(2, metric.views))
    return random_states(LENGTHS[0] if metric.needs == "tokens" else 48)
