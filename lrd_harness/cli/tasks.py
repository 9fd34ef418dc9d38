"""`lrd-harness tasks`: which tasks there are."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

FAMILIES = """\
Other tasks go by one of these names:
  STSBenchmark, mteb:STSBenchmark  any text task of mteb, its data from the hub
                                   or from --task-data DIR/STSBenchmark/
  lm-eval:mmlu                     any task or group of lm-eval that compares
                                   continuations (mmlu, hellaswag, arc_easy ...)
  texts:FILE.jsonl                 own texts without labels, for metrics alone
`lrd-harness tasks WORD` searches them, as `tasks sts` or `tasks banking`."""


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "tasks",
        help="list tasks",
        description="List the tasks that need no hub; with a word, all tasks, mteb's too, of that "
        "type, or with that word in the name (`lrd-harness tasks sts`).",
    )
    sub.add_argument("word", nargs="?", help="a type, or part of a name")
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tasks. Returns the exit code."""
    from lrd_harness import manager
    from lrd_harness.cli.tables import show
    from lrd_harness.contracts import Task, TaskOptions
    from lrd_harness.errors import PluginFault

    plugins = manager.load()
    plugins.tell()
    records = plugins.all("task")
    ready = [r for r in records if isinstance(r, Task)]
    families = [r for r in records if not isinstance(r, Task)]
    for family in families:
        if family.offline:
            with suppress(PluginFault):  # of a stranger's, which says so where it is asked for
                opened = [family.open(name, TaskOptions()) for name in manager.names_of(family)]
                ready += [task for task in opened if isinstance(task, Task)]
    families = [family for family in families if not family.offline]
    names = {family.name: manager.names_of(family) for family in families if arguments.word}
    if not arguments.word:
        rows = [(r.name, f"{r.type}. {r.description}") for r in ready]
        show("Tasks that need no hub", ("name", "what it is"), rows)
        print(FAMILIES)
        return 0
    word = arguments.word.lower()
    kinds = [r.type for r in ready] + [kind for known in names.values() for kind in known.values()]
    by_type = word in map(str.lower, kinds)

    def wanted(name: str, kind: str) -> bool:
        return word == kind.lower() if by_type else word in name.lower()

    found = 0
    tables = [("Tasks that need no hub", [(r.name, r.type) for r in ready])]
    tables += [(f"Tasks of {name}", sorted(known.items())) for name, known in names.items()]
    for title, named in tables:
        rows = [(name, kind) for name, kind in named if wanted(name, kind)]
        found += len(rows)
        if rows:
            show(title, ("name", "type"), rows)
    if not found:
        print(f"No task's name contains '{word}', and no type of task is called so.")
    return 0
