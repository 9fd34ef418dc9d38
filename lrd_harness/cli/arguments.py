"""What commands share: settings as options, the suite that these make, names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from lrd_harness import manager
from lrd_harness.errors import UserError, named, tell
from lrd_harness.manager import Plugins
from lrd_harness.planning import suite as suites
from lrd_harness.planning.suite import Pruning, Settings, Suite, settings_of
from lrd_harness.store.documents import yaml_value

if TYPE_CHECKING:
    from lrd_harness.report import Report

path = named  # the type of options that are paths


def add_many(group: Any, option: str, metavar: str, help: str) -> None:
    """Declare an option that takes several words, none by default."""
    group.add_argument(option, nargs="+", default=[], metavar=metavar, help=help)


def add_literal_names(sub: Any) -> None:
    """Declare how names are written in CSV."""
    sub.add_argument(
        "--literal-names",
        action="store_true",
        help="in CSV, write names as they are (else ' stands before one that begins with = + - @, "
        "so that no spreadsheet takes it for a formula)",
    )


def add_settings(sub: Any, only: Sequence[str] = (), **defaults: Any) -> None:
    """Declare fields of Settings and Pruning as options, in their groups.

    only: fields of Settings, no Pruning; defaults: what help says where a command has its own.
    """
    groups = {group.title: group for group in sub._action_groups}
    kinds = {"integer": int, "number": number}
    for prefix, record in (("", Settings),) if only else (("", Settings), ("prune_", Pruning)):
        for name, field in settings_of(record).items():
            if "flag" not in field or (only and name not in only):
                continue
            default = defaults.get(name, field["default"])
            text = field["description"]
            if "enum" in field:
                text += f": {', '.join(field['enum'])}"
            if isinstance(default, list):
                text += f" ({', '.join(map(str, default))})"
            elif default is not None and default is not False:
                text += f" ({default})"
            named: dict[str, Any] = {"metavar": field["metavar"], "type": kinds.get(field["type"])}
            if field["type"] == "boolean":
                named = {"action": "store_true", "default": None}
            elif field["type"] == "array":
                named["nargs"] = "*" if name == "rules" else "+"
            if field["group"] not in groups:
                groups[field["group"]] = sub.add_argument_group(field["group"])
            named |= {"dest": f"{prefix}{name}", "help": text}
            groups[field["group"]].add_argument(field["flag"], **named)


def settings_given(arguments: argparse.Namespace, **usual: Any) -> dict[str, Any]:
    """The settings that were typed, over a command's usual ones."""
    typed = {name: getattr(arguments, name, None) for name in settings_of(Settings)}
    given = {**usual, **{name: value for name, value in typed.items() if value is not None}}
    if isinstance(typed["layers"], list):
        given["layers"] = " ".join(typed["layers"])
    return given


def suite_of(arguments: argparse.Namespace) -> Suite:
    """The suite of `run`, with the parts that the command line replaces."""
    if arguments.suite is None and arguments.models and arguments.tasks:
        suite = suites.Suite("custom")
    else:
        suite = suites.load(arguments.suite or "quickstart")
    if arguments.models:
        suite = replace(suite, models=suites.entries(arguments.models, "command line"))
    given = settings_given(arguments)
    for part in ("pooling", "max_length"):  # what is typed replaces what the suite's models say
        if part in given:
            models = tuple(replace(m, **{part: None}) for m in suite.models)  # type: ignore[arg-type]
            suite = replace(suite, models=models)
    if arguments.tasks:  # what the suite says of its own language-model tasks goes with them
        usual = replace(suite.settings, limit=None, num_fewshot=None)
        suite = replace(suite, tasks=tuple(arguments.tasks), settings=usual)
    if arguments.plugins:
        suite = replace(suite, plugins=tuple(names(arguments.plugins)))
    kept, chosen = suite.parameters.items(), suite.plugins
    parameters = {name: dict(v) for name, v in kept if chosen is None or name in chosen}
    for metric, values in parameters_of(arguments.set).items():
        parameters.setdefault(metric, {}).update(values)
    return replace(
        suite,
        parameters=parameters,
        settings=suites.settings(given, "command line", suite.settings),
        pruning=suites.pruning(_pruning(arguments), "command line", suite.pruning),
    )


def _pruning(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of pruning. Raises UserError for options without --prune."""
    given: dict[str, Any] = {}
    for name, field in settings_of(Pruning).items():
        value = getattr(arguments, f"prune_{name}", None)
        if value is None or value == []:
            continue
        if arguments.prune_rules is None:
            raise UserError(f"{field['flag']} needs --prune")
        given[name] = names(value) if field["type"] == "array" else value
    if "budgets" in given:
        given["budgets"] = [_share(item) for item in given["budgets"]]
    return given


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--budgets {text}: not a share such as 0.15") from None


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
        left, equals, text = item.partition("=")
        metric, dot, name = left.partition(".")
        if not (equals and dot and metric and name):
            raise UserError(f"--set {item}: not METRIC.NAME=VALUE, as in nrs.k=10")
        try:
            value = yaml_value(text, item)
        except UserError:  # no YAML, and so the text itself
            value = text
        found.setdefault(metric, {})[name] = value
    return found


def load(arguments: argparse.Namespace) -> Plugins:
    """The plugins, those of --load with them."""
    return manager.load(tuple(map(manager.from_name, getattr(arguments, "load", ()))))


def show(report: Report, plugins: Plugins, faults: Sequence[str] = ()) -> None:
    """Print a report, as the reporter `table` writes it; and faults on standard error."""
    print(plugins.get("reporter", "table").write(report), end="")
    for fault in faults:
        tell(f"error: {fault}")
