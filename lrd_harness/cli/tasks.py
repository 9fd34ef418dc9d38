"""`lrd-harness tasks`: which tasks there are."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "tasks",
        help="list tasks",
        description="List the tasks that need no hub; with a word, also the tasks of mteb whose "
        "name or type contains it (`lrd-harness tasks sts`).",
    )
    sub.add_argument("word", nargs="?", help="part of a name or type")
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tasks. Returns the exit code."""
    from lrd_harness import manager
    from lrd_harness.cli._tables import show
    from lrd_harness.contracts import Task

    records = manager.load().all("task")
    word = (arguments.word or "").lower()
    rows = [
        (r.name, r.type, r.description)
        for r in records
        if isinstance(r, Task) and (word in r.name.lower() or word in r.type.lower())
    ]
    show("Offline tasks (real texts out of registry packages)", ("name", "type", ""), rows)
    families = [r for r in records if not isinstance(r, Task)]
    if not word:
        print("Families: " + ", ".join(f"{f.name}:NAME" for f in families))
        print(
            "`lrd-harness tasks WORD` also searches the tasks of mteb, whose data need the hub "
            "or --task-data."
        )
        return 0
    for family in families:
        found = [
            (name, kind)
            for name, kind in sorted(family.names().items())
            if word in name.lower() or word in kind.lower()
        ]
        if found:
            show(f"Tasks of {family.name}", ("name", "type"), found)
    return 0
