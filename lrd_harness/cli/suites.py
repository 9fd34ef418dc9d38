"""`lrd-harness suites`: the suites that are shipped, and what is in one."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "suites",
        help="list suites, or show one",
        description="List the shipped suites; with a name or a file, show what that suite runs.",
    )
    sub.add_argument("suite", nargs="?", metavar="NAME|FILE")
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the suites. Returns the exit code."""
    from lrd_harness import suite
    from lrd_harness.cli._tables import show

    if arguments.suite is None:
        loaded = [suite.load(name) for name in suite.shipped()]
        rows = [(s.name, str(len(s.models)), str(len(s.tasks)), s.description) for s in loaded]
        show("Suites", ("name", "models", "tasks", ""), rows)
        return 0
    chosen = suite.load(arguments.suite)
    show(
        f"Models of {chosen.name}",
        ("model", "read as"),
        [(m.model, m.label) for m in chosen.models],
    )
    show(f"Tasks of {chosen.name}", ("task",), [(t,) for t in chosen.tasks])
    plugins = "all metrics" if chosen.plugins is None else ", ".join(chosen.plugins)
    print(f"Plugins: {plugins}")
    if chosen.source:
        print(f"Source: {chosen.source}")
    return 0
