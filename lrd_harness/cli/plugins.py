"""`lrd-harness plugins`: what is registered, by whom, and what is broken."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "plugins",
        help="list metrics, adapters, tasks, rules and reporters",
        description="List every registered plugin, and those that could not be loaded.",
    )
    sub.add_argument(
        "--load", nargs="+", default=[], metavar="FILE.py", help="list plugins of your own too"
    )
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the registry. Returns the exit code."""
    from lrd_harness import manager
    from lrd_harness.cli.tables import show

    plugins = manager.load(tuple(map(manager.from_name, arguments.load)))
    for kind, entries in plugins.entries.items():
        rows = [(e.record.name, _about(kind, e.record), _by(e.provider)) for e in entries.values()]
        if rows:
            show(f"{kind.capitalize()}s", ("name", "what it is", "from"), rows)
    if plugins.broken:
        broken = [(bad.name, bad.reason, bad.provider) for bad in plugins.broken]
        show("Broken plugins", ("entry point", "why", "from"), broken)
    return 0


def _by(provider: str) -> str:
    return "built in" if provider.startswith("lrd_harness.") else provider


def _about(kind: str, record: Any) -> str:
    from lrd_harness.contracts import TaskFamily

    if isinstance(record, TaskFamily):
        return f"a family of tasks, {record.name}:NAME"
    if kind == "metric":
        if record.selection is None and record.layer_choice is not None:
            least = "lowest" if record.layer_choice.best == "min" else "highest"
            return f"chooses a layer, where {record.layer_choice.score} is {least}"
        if record.selection is None:
            return "ranks no models, chooses no layer"
        better = "higher" if record.selection.best == "max" else "lower"
        return f"ranks models by {record.selection.score}, {better} is better"
    if kind == "reporter":
        kept = f"kept as leaderboard{record.suffix}" if record.suffix else "printed"
        where = kept if record.files is None else "a folder, --output DIR"
        return f"{record.description}; {where}" if record.description else where
    return str(getattr(record, "description", ""))
