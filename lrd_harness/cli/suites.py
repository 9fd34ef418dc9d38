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
    from lrd_harness.cli.tables import names, show
    from lrd_harness.planning import suite
    from lrd_harness.planning import suite as pruning

    if arguments.suite is None:
        loaded = [suite.load(name) for name in suite.shipped()]
        rows = [(s.name, str(len(s.models)), str(len(s.tasks)), s.description) for s in loaded]
        show("Suites", ("name", "models", "tasks", "what it is"), rows)
        print("`lrd-harness suites NAME` shows what is in one.")
        return 0
    chosen = suite.load(arguments.suite)
    print("\n".join(line for line in (chosen.description, chosen.source) if line), end="\n\n")
    if chosen.models:
        models = [(m.model, m.label) for m in chosen.models]
        show(f"{len(models)} models", ("model", "read as"), models)
    else:
        print("No models: give them with --models.\n")
    names(f"{len(chosen.tasks)} tasks", chosen.tasks)
    print(f"Metrics: {'all' if chosen.plugins is None else ', '.join(chosen.plugins)}")
    for metric, parameters in chosen.parameters.items():
        print(f"  {metric}: {', '.join(f'{k} = {v}' for k, v in parameters.items())}")
    for name, value in vars(chosen.pruning).items():
        if value != getattr(pruning.Pruning(), name):
            print(f"Pruning: {name} = {value if isinstance(value, int) else ', '.join(value)}")
    usual = suite.Settings()
    for name, value in vars(chosen.settings).items():
        if value != getattr(usual, name):
            print(f"Setting: {name} = {value}")
    return 0
