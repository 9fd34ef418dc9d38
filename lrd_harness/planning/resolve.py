"""A suite made concrete: every name resolved and checked before any model is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrd_harness import isolation
from lrd_harness.blocks import candidates, count
from lrd_harness.contracts import Pruner, Task, TaskFamily, TaskOptions
from lrd_harness.errors import PluginFault, UserError, layer_number, named, unknown
from lrd_harness.manager import Plugins, names_of
from lrd_harness.measuring import PlannedMetric, PlannedPanel
from lrd_harness.models.wheels import shown_by
from lrd_harness.panels import given
from lrd_harness.planning.models import (
    PlannedModel,
    Stage,
    check_settings,
    check_trusted,
    distinct,
    resolve_model,
    tails_apart,
)
from lrd_harness.planning.parameters import resolve_measures
from lrd_harness.planning.settings import Pruning, Settings
from lrd_harness.planning.suite import Suite


@dataclass(frozen=True)
class PlannedPruning:
    """A sweep, resolved: the rules, the tasks on which pruned models are scored, the settings."""

    rules: tuple[Pruner, ...]
    tasks: tuple[Task, ...]
    settings: Pruning

    def seeds(self, rule: Pruner) -> Sequence[int | None]:
        """The seeds that a rule is run with; [None] for one that needs none."""
        return range(self.settings.random_seeds) if rule.seeded else [None]


@dataclass(frozen=True)
class Plan:
    """All that a run will do; plugins: third parties', with provider and version."""

    suite: Suite
    settings: Settings
    models: tuple[PlannedModel, ...]
    tasks: tuple[Task, ...]
    metrics: tuple[PlannedMetric, ...]
    pruning: PlannedPruning | None = None
    panel: tuple[PlannedPanel, ...] = ()
    plugins: tuple[Mapping[str, str], ...] = ()

    @property
    def measures(self) -> tuple[PlannedMetric | PlannedPanel, ...]:
        """All metrics, in the order of their names in tables."""
        return *self.metrics, *self.panel


def make_plan(suite: Suite, plugins: Plugins, stage: Stage, prune: bool = False) -> Plan:
    """Resolve a suite, with its pruning sweep if `prune`.

    `stage(text)` gives a progress callback for each longer step.

    Raises UserError for anything that is unknown, out of reach, malformed or named twice.
    """
    for what in ("models", "tasks"):
        if not getattr(suite, what):
            raise UserError(f"suite {suite.name} has no {what}: give them with --{what}")
    settings = suite.settings
    isolation.limit(settings.plugin_timeout)
    check_settings(settings)
    metrics, panel = resolve_measures(suite, plugins)
    with stage("tasks"):  # lm-eval's index takes some seconds
        tasks = resolve_tasks(suite, plugins)
    pruning = None
    if prune:
        pruning = resolve_pruning(suite.pruning, tasks, [m.metric.name for m in metrics], plugins)
    with stage("models"):
        models = distinct(
            [resolve_model(entry, settings, plugins, stage) for entry in suite.models]
        )
    check_trusted(models, settings, plugins)
    for model in models:
        if model.depth is not None:
            check_depth(model.name, model.depth, settings, pruning)
            for item in panel:
                if not isinstance(layer := given(item)[0], str):
                    layer_number(layer, model.name, model.depth)
    compared = [task.name for task in tasks if task.likelihood]
    if compared and not any(model.likelihoods for model in models):
        for model in (model for model in models if model.adapter.likelihoods):
            raise UserError(f"{compared[0]} cannot be run on {model.name}: {model.headless}")
        raise UserError(
            f"{compared[0]} needs a language model: none of the models is read as one "
            "(decoder:MODEL reads a causal language model so, --tasks names other tasks)"
        )
    for task in tasks:
        if all(model.modality != task.modality for model in models):
            raise UserError(f"{task.name} is of {task.modality}s: none of the models reads these")
    for model in models:
        if all(model.modality != task.modality for task in tasks):
            raise UserError(f"{model.name} reads {model.modality}s: none of the tasks is of these")
    for name in (item.metric.name for item in panel):
        if all(sum(model.takes(task) for model in models) < 2 for task in tasks):
            raise UserError(f"{name} compares models: no task here is read by two of them")
    tasks = [checked_task(task, stage) for task in tasks]
    if compared or prune:  # of a pruned language model the perplexity is read as well
        models = [
            replace(model, options=replace(model.options, head=model.likelihoods))
            for model in models
        ]
    plugins.tell()
    strangers = tuple(
        {"name": each.name, "provider": each.owner.provider, "version": each.version}
        for each in plugins.strangers
    )
    work = tuple(models), tuple(tasks), tuple(metrics), pruning, tuple(panel)
    return Plan(suite, settings, *work, strangers)


def check_depth(
    name: str, depth: int, settings: Settings, pruning: PlannedPruning | None = None
) -> None:
    """Raise UserError where layers, budgets or the protection do not fit a model."""
    layers = () if isinstance(settings.layers, str) else settings.layers
    for number in layers:
        layer_number(number, name, depth)
    if pruning is not None:
        try:
            for budget in pruning.settings.budgets:
                count(budget, candidates(depth, pruning.settings.protect))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None


def checked_task(task: Task, stage: Stage) -> Task:
    """The task, its data within reach; what its check downloads on the way is shown.

    Where its code for that is at fault, the task is one that has that fault at every model.
    """
    try:
        with stage(f"data of {task.name}") as progress, shown_by(lambda _: progress):
            for look in filter(None, (task.check, task.fingerprint)):
                look()
        return task
    except PluginFault as error:
        fault = error

        def fail() -> Sequence[Any]:
            raise fault

        return replace(task, texts=fail, requests=fail, check=None, fingerprint=None)


def resolve_tasks(suite: Suite, plugins: Plugins) -> list[Task]:
    """The tasks of a suite, by name. Raises UserError for unknown ones and for repeats."""
    settings = suite.settings
    options = TaskOptions(
        data=_folder(settings.task_data, "task data"),
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        max_questions=settings.max_questions,
        include_path=_folder(settings.include_path, "lm-eval tasks"),
        log_samples=settings.log_samples,
        text_column=settings.text_column,
    )
    tasks: list[Task] = []
    for name in suite.tasks:
        opened = _open_task(name, plugins, options)
        tasks += [opened] if isinstance(opened, Task) else opened
    apart: dict[str, Task] = {}
    for task in tasks:
        places = dict.fromkeys(other.place for other in tasks if other.name == task.name)
        if task.place and len(places) > 1:  # files that are called alike get their folders' names
            prefix, _, path = task.place.partition(":")
            depth = tails_apart([place.partition(":")[2] for place in places])
            task = replace(task, name=f"{prefix}:{'/'.join(Path(path).parts[-depth:])}")
        if task.name in apart:
            raise UserError(f"task {task.name} is named twice")
        apart[task.name] = task
    return list(apart.values())


def _folder(name: str | None, what: str) -> Path | None:
    path = named(name) if name else None
    if path is not None and not path.is_dir():
        raise UserError(f"{path}: no such folder of {what}")
    return path


def _open_task(name: str, plugins: Plugins, options: TaskOptions) -> Task | Sequence[Task]:
    records = {record.name: record for record in plugins.all("task")}
    families = {n: record for n, record in records.items() if isinstance(record, TaskFamily)}
    if name in records and name not in families:
        return records[name]  # type: ignore[no-any-return]
    prefix, colon, rest = name.partition(":")
    if colon and prefix in families:
        try:
            return families[prefix].open(rest, options)
        except KeyError:
            raise unknown(f"{prefix} task", rest, names_of(families[prefix])) from None
    if colon:
        plugins.check_borne("task", prefix)
        raise unknown("kind of task", prefix, families)
    known = set(records) - set(families)
    bare = [family for family in families.values() if family.bare]
    for family in bare:
        if name in (names := names_of(family)):
            return family.open(name, options)
        known.update(names)
    plugins.check_borne("task", name)
    if name in families:
        example = "".join(f", as {name}:{known}" for known in list(names_of(families[name]))[:1])
        raise UserError(f"{name} is a family of tasks: give {name}:NAME{example}")
    for family in bare:
        with suppress(KeyError):  # one that it knows and refuses, with the reason
            return family.open(name, options)
    raise unknown("task", name, known, "`lrd-harness tasks` lists them.")


def resolve_pruning(
    pruning: Pruning, tasks: Sequence[Task], metrics: Sequence[str], plugins: Plugins
) -> PlannedPruning:
    """The sweep of a run with these tasks and metrics.

    Raises UserError for an unknown rule or task, a rule without its metrics, and a run without
    scored tasks.
    """
    scored = {task.name: task for task in tasks if task.evaluate is not None}
    if not scored:
        raise UserError("pruned models are scored on tasks: none of this run's has scores")
    for name in pruning.tasks or ():
        if name not in scored:
            raise unknown("task to score pruned models on", name, scored)
    rules = []
    every = [rule.name for rule in plugins.all("pruning rule") if rule.default]
    for name in pruning.rules or every:
        rule = plugins.get("pruning rule", name)
        lacking = [metric for metric in rule.metrics if metric not in metrics]
        if not lacking:
            rules.append(rule)
        elif pruning.rules is not None:
            raise UserError(
                f"the pruning rule {rule.name} needs the metric {lacking[0]}: name it in --plugins"
            )
    return PlannedPruning(tuple(rules), tuple(scored[n] for n in pruning.tasks or scored), pruning)
