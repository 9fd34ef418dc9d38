"""What was typed, made into settings, a suite and plugins; and how reports are printed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from shutil import get_terminal_size
from typing import Any

from lrd_harness.errors import UserError, tell
from lrd_harness.manager import Plugins
from lrd_harness.planning.settings import Pruning, Settings, settings_of
from lrd_harness.planning.suite import Suite, build_suite
from lrd_harness.report import Cell, Column, Report, Table
from lrd_harness.store.documents import yaml_value

COMMAND_LINE = "command line"  # where a setting stands, in messages


def typed_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were typed."""
    typed = {name: getattr(arguments, name, None) for name in settings_of(Settings)}
    if isinstance(typed["layers"], list):
        typed["layers"] = " ".join(typed["layers"])
    return {name: value for name, value in typed.items() if value is not None}


def suite_of(arguments: argparse.Namespace) -> Suite:
    """The suite of `run`, with the parts that the command line replaces."""
    own = {"texts": arguments.texts, "images": arguments.images}
    return build_suite(
        arguments.suite,
        arguments.models,
        (*arguments.tasks, *(f"{kind}:{place}" for kind, place in own.items() if place)),
        names(arguments.plugins),
        parameters_of(arguments.set),
        typed_settings(arguments),
        _pruning(arguments),
        COMMAND_LINE,
    )


def _pruning(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of pruning. Raises UserError for options without --prune."""
    typed: dict[str, Any] = {}
    for name, field in settings_of(Pruning).items():
        value = getattr(arguments, f"prune_{name}", None)
        if value is None or value == []:
            continue
        if arguments.prune_rules is None:
            raise UserError(f"{field['flag']} needs --prune")
        typed[name] = names(value) if field["type"] == "array" else value
    if "budgets" in typed:
        typed["budgets"] = [_share(item) for item in typed["budgets"]]
    return typed


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--budgets {text}: not a share such as 0.15") from None


def names(items: Sequence[str]) -> list[str]:
    """Names given apart, or with commas between them."""
    return [name for item in items for name in item.split(",") if name]


def parameters_of(items: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parameters by metric, from METRIC.NAME=VALUE. Raises UserError for any other form."""
    parameters: dict[str, dict[str, Any]] = {}
    for item in items:
        left, equals, text = item.partition("=")
        metric, dot, name = left.partition(".")
        if not (equals and dot and metric and name):
            raise UserError(f"--set {item}: not METRIC.NAME=VALUE, as in nrs.k=10")
        try:
            value = yaml_value(text, item)
        except UserError:  # no YAML, and so the text itself
            value = text
        parameters.setdefault(metric, {})[name] = value
    return parameters


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], form: str = ""
) -> Table:
    """A table whose first column names its rows; form: of its numbers."""
    cells = [dict(zip(columns, row, strict=True)) for row in rows]
    return Table(
        title, title, tuple(Column(c, key=c == columns[0], form=form) for c in columns), cells
    )


def show(
    report: Report,
    plugins: Plugins,
    faults: Sequence[str] = (),
    full: bool = True,
    again: str = "",
    form: str = "table",
) -> None:
    """Print a report, as the reporter of that form writes it; and faults on standard error.

    full: not only its answer and ranking; again: the command that prints all.
    """
    if not full:
        from lrd_harness.board.answers import brief  # brings scipy, which listings do without

        report = brief(report, again, get_terminal_size().columns)
    print(plugins.get("reporter", form).write(report), end="")
    for fault in faults:
        tell(f"error: {fault}")
