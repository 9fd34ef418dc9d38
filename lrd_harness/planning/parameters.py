"""The metrics of a run with all their parameters, resolved and tried before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from lrd_harness import errors
from lrd_harness.contracts import Metric, PanelMetric
from lrd_harness.errors import UnitError, UserError, described, unknown
from lrd_harness.manager import Plugins
from lrd_harness.measuring import (
    PER_TEXT,
    Planned,
    PlannedMetric,
    PlannedPanel,
    check_parameters,
    copies,
    measure,
    settings_of,
)
from lrd_harness.panels import LAYER, has_layer, measure_panel
from lrd_harness.planning.suite import Suite

LENGTHS = (12, 5, 9, 5, 7, 12)  # tokens of the texts that a token metric is tried on
KINDS: Mapping[type, str] = {  # what a parameter has to be, by its default
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def resolve_metrics(suite: Suite, plugins: Plugins) -> list[PlannedMetric]:
    """As `resolve_measures`, without panel metrics. Raises UserError where one is named."""
    metrics, panel = resolve_measures(suite, plugins)
    for item in panel:
        raise UserError(
            f"{item.metric.name} compares several models: name it in --plugins of "
            "`lrd-harness run`, which takes texts:FILE for a task, too"
        )
    return metrics


def resolve_measures(
    suite: Suite, plugins: Plugins
) -> tuple[list[PlannedMetric], list[PlannedPanel]]:
    """The metrics of a suite, and its panel metrics.

    Where it names none, those measured by default; "all" stands for all metrics, a group's name for
    all that are in it. A panel metric, whose values hang on who else is there, is measured where it
    or its group is named.
    """
    every, panel = plugins.all("metric"), plugins.names("panel metric")
    if suite.plugins is None:
        names = [metric.name for metric in every if metric.by_default]
    else:
        groups = {"all": [metric.name for metric in every]}
        for metric in (*every, *plugins.all("panel metric")):
            groups.setdefault(metric.group, []).append(metric.name)
        known = {*groups["all"], *panel, ""}
        parts = ([n] if n in known else groups.get(n, [n]) for n in suite.plugins)
        names = list(dict.fromkeys(name for part in parts for name in part))
    planned = [
        replace(
            _planned(name, plugins, suite.parameters.get(name, {})),
            named=name in (suite.plugins or ()),
        )
        for name in names
    ]
    for name in suite.parameters:
        if name not in names and name in (*plugins.names("metric"), *panel):
            raise UserError(f"{name} is not measured here, so it takes no parameter")
        if name not in names:
            raise unknown("metric to set a parameter of", name, names)
    several = [item for item in planned if isinstance(item.metric, PanelMetric)]
    return [item for item in planned if item not in several], several


def _planned(name: str, plugins: Plugins, typed: Mapping[str, Any]) -> Any:
    """A metric or panel metric with its parameters, tried where some were typed."""
    panel, metrics = plugins.names("panel metric"), plugins.names("metric")
    if name not in (*metrics, *panel):
        plugins.check_borne("metric", name)
        groups = {m.group for m in (*plugins.all("metric"), *plugins.all("panel metric"))} - {""}
        known = [*metrics, *panel, "all", *sorted(groups)]
        raise unknown("metric", name, known, "`lrd-harness plugins` lists them all.")
    metric = plugins.get("panel metric" if name in panel else "metric", name)
    layer = {LAYER: "last"} if name in panel and has_layer(metric) else {}
    check_parameters(metric, typed, *layer)
    if LAYER in layer and (chosen := typed.get(LAYER, "last")) != "last":
        errors.check_whole(chosen, f"parameter {LAYER} of metric {name} is", 0, errors.BLOCKS)
        layer[LAYER] = chosen
    own = {key: value for key, value in typed.items() if key not in layer}
    parameters = _parameters(metric, own)
    if own:
        _try(metric, parameters)
    return Planned(metric, parameters | layer)


def _parameters(metric: Metric | PanelMetric, typed: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a metric: those that were typed over its defaults.

    Raises UserError for a value that is not of its default's kind.
    """
    parameters = {p.name: p.default for p in settings_of(metric) if p.default is not p.empty}
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


def _try(metric: Metric | PanelMetric, parameters: Mapping[str, Any]) -> None:
    """Measure a small sample, so that values that the metric refuses show at once, as UserError."""
    try:
        if isinstance(metric, PanelMetric):
            measure_panel(metric, random_panel(metric), **parameters)
        else:
            measure(metric, random_sample(metric), random_labels(metric), **parameters)
    except UnitError:
        return  # the sample is too small for these values, which says nothing against them
    except UserError as error:
        reason = str(error).removeprefix(f"{metric.name}: ")
        raise UserError(f"metric {metric.name}: {reason}") from None
    except Exception as error:
        said = f"metric {metric.name} does not take {dict(parameters)}: {described(error)}"
        raise UserError(said) from None


def sample_size(metric: Metric | PanelMetric) -> int:
    """How many texts a metric is tried on: 48, or as many as it needs."""
    return max(48, metric.texts)


def random_states(n: int = 48, width: int = 12, seed: int = 0) -> list[np.ndarray]:
    """5 states (n, width) float64 that drift from layer to layer, as a model's do."""
    steps = np.random.default_rng(seed).normal(size=(5, n, width))
    return list(steps.cumsum(0))


def random_sample(metric: Metric, times: int = 1) -> list[np.ndarray]:
    """Random states of 5 layers that the metric can be measured on.

    Of n texts, 48 or as many as it needs: pooled (n, 12), one text's (12, 12), or views (n, q, 12),
    q as many as it asks for, the views of a text near each other, as are its halves; of attention a
    text's maps in 4 blocks, (3, 12, 12), each row of which sums to 1. times: as many texts, or
    tokens; more than once with 24 dimensions.
    """
    count = times * (LENGTHS[0] if metric.needs in PER_TEXT else sample_size(metric))
    if metric.needs == "attention":
        return random_maps(count)
    states = random_states(count, 12 * min(times, 2))
    if metric.needs not in ("views", "halves"):
        return states
    shape = len(states), count, max(2, copies(metric)), states[0].shape[1]
    noise = np.random.default_rng(1).normal(size=shape)
    return [s[:, None] + 0.3 * some for s, some in zip(states, noise, strict=True)]


def random_panel(metric: PanelMetric, times: int = 1) -> dict[str, Any]:
    """Random states of four models of several widths on texts as many as of `random_sample`."""
    n = times * sample_size(metric)
    states = {f"model {i}": random_states(n, 8 + i, seed=i) for i in (1, 2, 3, 4)}
    return {m: s if metric.states == "all" else s[-1] for m, s in states.items()}


def random_maps(tokens: int, seed: int = 0) -> list[np.ndarray]:
    """4 attention maps (3, T, T) float64 of a text, in which a token sees those before it."""
    weights = np.tril(np.random.default_rng(seed).exponential(size=(4, 3, tokens, tokens)))
    return list(weights / weights.sum(-1, keepdims=True))


def random_labels(metric: Metric, times: int = 1) -> list[int] | None:
    """Labels of the texts of `random_sample`, 4 classes; None for a metric that needs none."""
    draw = np.random.default_rng(2).choice(4, times * sample_size(metric), p=(0.5, 0.2, 0.2, 0.1))
    return draw.tolist() if metric.needs == "labels" else None
