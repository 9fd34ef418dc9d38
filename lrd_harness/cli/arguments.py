"""What a command line asks for: the suite of `run`, and lists and parameters as they are typed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError

SETTINGS = (
    "task_data layers pooling norm max_texts view_texts max_length dtype attention padding device "
    "device_map "
    "batch_tokens num_fewshot limit include_path log_samples text_column"
)


def add_literal_names(sub: Any) -> None:
    """Declare how names are written in CSV; csv_cells.py says what is done otherwise."""
    sub.add_argument(
        "--literal-names",
        action="store_true",
        help="in CSV, write names as they are (else ' stands before one that begins with = + - @, "
        "so that no spreadsheet takes it for a formula)",
    )


def asked(arguments: argparse.Namespace) -> Any:
    """The suite with the parts that the command line replaces."""
    from lrd_harness.planning import suite as suites

    if arguments.suite is None and arguments.models and arguments.tasks:
        suite = suites.Suite("custom")
    else:
        suite = suites.load(arguments.suite or "quickstart")
    if arguments.models:
        suite = replace(suite, models=suites.entries(arguments.models, "command line"))
    for part in ("pooling", "max_length"):  # what is typed replaces what the suite's models say
        if getattr(arguments, part) is not None:
            models = tuple(replace(m, **{part: None}) for m in suite.models)  # type: ignore[arg-type]
            suite = replace(suite, models=models)
    if arguments.tasks:  # what the suite says of its own language-model tasks goes with them
        usual = replace(suite.settings, limit=None, num_fewshot=None)
        suite = replace(suite, tasks=tuple(arguments.tasks), settings=usual)
    if arguments.plugins:
        suite = replace(suite, plugins=tuple(names(arguments.plugins)))
    chosen = suite.plugins
    parameters = {
        name: dict(values)
        for name, values in suite.parameters.items()
        if chosen is None or name in chosen
    }
    for metric, values in parameters_of(arguments.set).items():
        parameters.setdefault(metric, {}).update(values)
    given = {
        k: getattr(arguments, k) for k in SETTINGS.split() if getattr(arguments, k) is not None
    }
    if "layers" in given:
        given["layers"] = " ".join(given["layers"])
    settings = suites.settings(given, "command line", suite.settings)
    pruning = _pruning(arguments, suite.pruning)
    return replace(suite, settings=settings, parameters=parameters, pruning=pruning)


def _pruning(arguments: argparse.Namespace, base: Any) -> Any:
    """The suite's pruning with what the command line replaces of it."""
    from lrd_harness.planning import suite as pruning

    given: dict[str, Any] = {}
    if arguments.prune:
        given["rules"] = names(arguments.prune)
    if arguments.budgets:
        given["budgets"] = [_share(item) for item in names(arguments.budgets)]
    if arguments.prune_tasks:
        given["tasks"] = names(arguments.prune_tasks)
    for name in ("random_seeds", "protect"):
        if getattr(arguments, name) is not None:
            given[name] = getattr(arguments, name)
    if given and arguments.prune is None:
        option = next(iter(given)).replace("tasks", "prune-tasks").replace("_", "-")
        raise UserError(f"--{option} is of no use without --prune")
    return pruning.parse(given, "command line", base)


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--budgets {text}: not a share such as 0.15") from None


def path(text: str) -> Path:
    """A path as it is typed, its ~ expanded. Raises UserError for a name that no path can have."""
    from lrd_harness.errors import named

    return named(text)


def number(text: str) -> float:
    """A whole number, or one with a point."""
    if "." not in text:
        return int(text)
    found = float(text)
    if not isfinite(found):
        raise ValueError(text)
    return found


def names(items: list[str]) -> list[str]:
    """Names given apart, or with commas between them."""
    return [name for item in items for name in item.split(",") if name]


def parameters_of(items: list[str]) -> dict[str, dict[str, Any]]:
    """Parameters by metric, from METRIC.NAME=VALUE. Raises UserError for any other form."""
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        metric, name, value = _parameter(item)
        found.setdefault(metric, {})[name] = value
    return found


def _parameter(item: str) -> tuple[str, str, Any]:
    from lrd_harness.store.documents import yaml_value

    left, equals, value = item.partition("=")
    metric, dot, name = left.partition(".")
    if not (equals and dot and metric and name):
        raise UserError(f"--set {item}: not METRIC.NAME=VALUE, as in nrs.k=10")
    try:
        return metric, name, yaml_value(value, item)
    except UserError:  # no YAML, and so the text itself
        return metric, name, value
