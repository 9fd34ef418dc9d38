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
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the registry. Returns the exit code."""
    from lrd_harness import manager
    from lrd_harness.cli._tables import show

    plugins = manager.load()
    rows = []
    for kind, entries in plugins.entries.items():
        for entry in entries.values():
            rows.append((entry.record.name, kind, entry.provider, _about(kind, entry.record)))
    show("Plugins", ("name", "kind", "provided by", ""), rows)
    if plugins.broken:
        broken = [(bad.name, bad.provider, bad.reason) for bad in plugins.broken]
        show("Broken", ("entry point", "distribution", "reason"), broken)
    return 0


def _about(kind: str, record: Any) -> str:
    if kind == "metric" and record.selection is not None:
        better = "higher" if record.selection.best == "max" else "lower"
        return f"ranks models by {record.selection.score}, {better} is better"
    return str(getattr(record, "description", "") or getattr(record, "suffix", ""))
