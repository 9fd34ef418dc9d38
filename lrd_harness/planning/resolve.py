"""A suite made concrete: every name resolved and checked before any model is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrd_harness.contracts import (
    Adapter,
    Checkpoint,
    Model,
    ModelOptions,
    Task,
    TaskFamily,
    TaskOptions,
)
from lrd_harness.errors import PluginFault, UserError, described, named, say, there, unknown
from lrd_harness.guard import Owner, guard
from lrd_harness.manager import Plugins, names_of
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models.find import Progress, find
from lrd_harness.models.wheels import shown_by
from lrd_harness.planning import suite as pruned
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.suite import ModelEntry, PlannedPruning, Settings, Suite
from lrd_harness.store.files import full

Stage = Callable[[str], AbstractContextManager[Progress]]


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Whatever damaged files of a model raise in the libraries becomes a UserError.

    Raises StorageFull where a full disk is behind it.
    """
    try:
        with guard(Owner("lrd-harness", built_in=True), what):
            yield
    except PluginFault as fault:
        raise UserError(f"{what}: {fault}") from fault
    except UserError:
        raise
    except Exception as error:
        raise full(error) or UserError(f"{what}: {described(error)}") from error


@dataclass(frozen=True)
class PlannedModel:
    """A model that a run will open. name: as results call it; depth: L, if the config says it."""

    name: str
    checkpoint: Checkpoint
    adapter: Adapter
    options: ModelOptions
    label: str
    depth: int | None

    def open(self) -> Model:
        """The opened model, for every command. Raises UserError where it cannot be opened."""
        with in_one_line(f"{self.name} cannot be opened"):
            return self.adapter.open(self.checkpoint, self.options)

    def takes(self, task: Task) -> bool:
        """Whether this kind of model can do the task at all."""
        return self.adapter.likelihoods or not task.likelihood


@dataclass(frozen=True)
class Plan:
    """All that a run will do."""

    suite: Suite
    settings: Settings
    models: tuple[PlannedModel, ...]
    tasks: tuple[Task, ...]
    metrics: tuple[PlannedMetric, ...]
    pruning: PlannedPruning | None = None


def make_plan(suite: Suite, plugins: Plugins, stage: Stage, prune: bool = False) -> Plan:
    """Resolve a suite; with its pruning sweep where `prune` asks for it.

    `stage(text)` gives a progress callback for each longer step.

    Raises UserError for anything that is unknown, out of reach, malformed or asked for twice.
    """
    for what in ("models", "tasks"):
        if not getattr(suite, what):
            raise UserError(f"suite {suite.name} has no {what}: give them with --{what}")
    check_settings(suite)
    metrics = tuple(resolve_metrics(suite, plugins))
    with stage("tasks"):  # lm-eval's index takes some seconds
        tasks = resolve_tasks(suite, plugins)
    pruning = None
    if prune:
        names = [item.metric.name for item in metrics]
        pruning = pruned.resolve(suite.pruning, tasks, names, plugins)
    models = told_apart(
        [resolve_model(entry, suite.settings, plugins, stage) for entry in suite.models]
    )
    tasks = [_checked(task, stage) for task in tasks]
    _check_layers(suite.settings, models)
    models = _with_heads(models, tasks)
    if pruning is not None:
        pruned.check_depths(suite.pruning, {model.name: model.depth for model in models})
    plugins.tell()
    return Plan(suite, suite.settings, tuple(models), tuple(tasks), metrics, pruning)


def _with_heads(models: list[PlannedModel], tasks: Sequence[Task]) -> list[PlannedModel]:
    """The models, to be opened with their heads where a task compares continuations.

    Raises UserError for such a task if no model can have a head.
    """
    compared = [task for task in tasks if task.likelihood]
    if not compared:
        return models
    if not any(model.adapter.likelihoods for model in models):
        raise UserError(
            f"{compared[0].name} needs a language model: none of the models is read as one "
            "(decoder:MODEL reads a causal language model so)"
        )
    return [
        replace(m, options=replace(m.options, head=True)) if m.adapter.likelihoods else m
        for m in models
    ]


def _checked(task: Task, stage: Stage) -> Task:
    """The task, its data within reach; what its check downloads on the way is shown.

    Where its code for that is at fault, the task is one that has that fault at every model.
    """
    try:
        with stage(f"data of {task.name}") as progress, shown_by(lambda _: progress):
            if task.check is not None:
                task.check()
            if task.fingerprint is not None:
                task.fingerprint()
    except PluginFault as error:
        fault = error

        def fail() -> Sequence[Any]:
            raise fault

        return replace(task, texts=fail, requests=fail, check=None, fingerprint=None)
    return task


def resolve_tasks(suite: Suite, plugins: Plugins) -> list[Task]:
    """The tasks of a suite, by name. Raises UserError for unknown ones and for repeats."""
    data = named(suite.settings.task_data) if suite.settings.task_data else None
    if data is not None and not data.is_dir():
        raise UserError(f"{data}: no such folder of task data")
    options = _task_options(suite.settings, data)
    opened = [_open_task(name, plugins, options) for name in suite.tasks]
    tasks = [t for found in opened for t in ([found] if isinstance(found, Task) else found)]
    tasks = _tasks_apart(tasks)
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"task {name} is named twice")
    return tasks


def _tasks_apart(tasks: Sequence[Task]) -> list[Task]:
    """Tasks with distinct names: files that are called alike get their folders' names too."""
    told = []
    for task in tasks:
        alike = list(dict.fromkeys(other.place for other in tasks if other.name == task.name))
        if task.place and len(alike) > 1:
            prefix, _, path = task.place.partition(":")
            tail = Path(path).parts[-_depth([one.partition(":")[2] for one in alike]) :]
            task = replace(task, name=f"{prefix}:{'/'.join(tail)}")
        told.append(task)
    return told


def _task_options(settings: Settings, data: Path | None) -> TaskOptions:
    include = named(settings.include_path) if settings.include_path else None
    if include is not None and not include.is_dir():
        raise UserError(f"{include}: no such folder of lm-eval tasks")
    return TaskOptions(
        data=data,
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        include_path=include,
        log_samples=settings.log_samples,
        text_column=settings.text_column,
    )


def _open_task(name: str, plugins: Plugins, options: TaskOptions) -> Task | Sequence[Task]:
    records = {record.name: record for record in plugins.all("task")}
    if isinstance(records.get(name), Task):
        return records[name]  # type: ignore[no-any-return]
    families = [r for r in records.values() if isinstance(r, TaskFamily)]
    prefix, colon, rest = name.partition(":")
    if colon:
        families = [family for family in families if family.name == prefix]
        if not families:
            plugins.check_borne("task", prefix)
            prefixes = [r.name for r in records.values() if isinstance(r, TaskFamily)]
            raise unknown("kind of task", prefix, prefixes)
        return _open_member(families[0], rest, options)
    known = {n for n, record in records.items() if isinstance(record, Task)}
    for family in families:
        if family.bare:
            if name in (names := names_of(family)):
                return family.open(name, options)
            known.update(names)
    plugins.check_borne("task", name)
    raise unknown("task", name, known, "`lrd-harness tasks` lists them.")


def _open_member(family: TaskFamily, name: str, options: TaskOptions) -> Task | Sequence[Task]:
    try:
        return family.open(name, options)
    except KeyError:
        raise unknown(f"{family.name} task", name, names_of(family)) from None


def resolve_model(
    entry: ModelEntry, settings: Settings, plugins: Plugins, stage: Stage
) -> PlannedModel:
    """A model of a suite: found, and its adapter chosen. Raises UserError if there is none."""
    adapters: list[Adapter] = sorted(plugins.all("adapter"), key=lambda a: -a.priority)
    name, chosen = entry.model, entry.adapter
    prefix, colon, rest = name.partition(":")
    if colon and prefix in plugins.names("adapter"):
        name, chosen = rest, prefix
    elif colon and prefix != "pypi" and not there(name):
        plugins.check_borne("adapter", prefix)
        raise unknown(
            f"prefix of model '{entry.model}'", prefix, ["pypi", *plugins.names("adapter")]
        )
    adapter = None if chosen is None else plugins.get("adapter", chosen)
    _check_pooling(entry.pooling, entry.model)
    with stage(name) as progress, in_one_line(f"model {name} cannot be read"):
        checkpoint = find(name, progress)
    adapter = adapter or next((a for a in adapters if _claims(a, checkpoint)), None)
    if adapter is None:
        raise UserError(f"no adapter claims {name}: it is no model that any plugin can open")
    if adapter.check is not None:
        adapter.check(checkpoint)
    entry = replace(entry, model=name, adapter=chosen)
    options = _options(entry, settings)
    read = replace(entry, pooling=options.pooling, max_length=options.max_length)
    # as typed, where that names a revision: two of them may be in one run
    shown = name if name.partition("@")[0] == checkpoint.name else checkpoint.name
    return PlannedModel(
        name=f"{shown} [{entry.label}]" if entry.label else shown,
        checkpoint=checkpoint,
        adapter=adapter,
        options=options,
        label=", ".join(filter(None, [read.label, options.dtype.replace("float32", "")])),
        depth=depth_of(checkpoint.config),
    )


def _claims(adapter: Adapter, checkpoint: Checkpoint) -> bool:
    """Whether it does; one that cannot say is passed over, and that is said."""
    try:
        return adapter.claims(checkpoint)
    except PluginFault as fault:
        say(f"adapter {adapter.name} is not asked to open {checkpoint.name}: {fault}")
        return False


def told_apart(models: list[PlannedModel]) -> list[PlannedModel]:
    """Models with distinct names: folders that are called alike get their parents' names too.

    Raises UserError for a model that is named twice.
    """
    told = []
    for model in models:
        found, alike = model.checkpoint, [m.checkpoint for m in models if m.name == model.name]
        if [c.path for c in alike].count(found.path) > 1 and len({c.revision for c in alike}) == 1:
            raise UserError(f"model {model.name} is named twice")
        if len(alike) > 1:
            model = set_apart(model, _depth([c.path for c in alike]))
        told.append(model)
    return told


def set_apart(model: PlannedModel, depth: int) -> PlannedModel:
    """The model by so many names from the end of its path; by its revision if it is no folder."""
    found = model.checkpoint
    local = found.name.startswith("local/")
    tail = "/".join(Path(found.path).parts[-depth:])
    apart = f"local/{tail}" if local else f"{found.name}@{found.revision}"
    return replace(model, name=model.name.replace(found.name, apart, 1))


def _depth(paths: Sequence[str]) -> int:
    """How many names from the end of these paths tell them apart."""
    parts = [Path(path).parts for path in paths]
    longest = max(map(len, parts))
    return next(
        (n for n in range(2, longest) if len({p[-n:] for p in parts}) == len(parts)), longest
    )


def check_settings(suite: Suite) -> None:
    """What can be said of the settings before anything is looked for. Raises UserError."""
    _check_pooling(suite.settings.pooling, "settings")
    name = suite.settings.device
    if name == "auto":
        return
    import torch

    try:
        torch.empty(0, device=torch.device(name))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"device '{name}' cannot be used: {reason}") from None


def _check_pooling(name: str | None, where: str) -> None:
    from lrd_harness.models.pooling import POOLINGS

    if name is not None and name not in POOLINGS:
        raise unknown(f"pooling in {where}", name, POOLINGS, f"Choose from {', '.join(POOLINGS)}.")


def _options(entry: ModelEntry, settings: Settings) -> ModelOptions:
    return ModelOptions(
        pooling=entry.pooling or settings.pooling,
        max_length=entry.max_length or settings.max_length,
        dtype=settings.dtype,
        device=device(settings),
        device_map=settings.device_map,
        attention=settings.attention,
        padding=settings.padding,
        prompts=entry.prompts,
    )


def device(settings: Settings) -> str:
    """The device of a run: the chosen one, else the first accelerator, else the CPU."""
    if settings.device != "auto":
        return settings.device
    import torch

    if torch.cuda.is_available():
        # one of several processes on a machine takes a GPU of its own
        own = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        return f"cuda:{own}" if "LOCAL_RANK" in os.environ else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def depth_of(config: Mapping[str, Any]) -> int | None:
    """L as a config.json states it, by whichever of its names."""
    nested = config.get("text_config")
    for where in (config, nested if isinstance(nested, dict) else {}):
        for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
            if isinstance(where.get(key), int):
                return int(where[key])
    return None


def _check_layers(settings: Settings, models: list[PlannedModel]) -> None:
    if isinstance(settings.layers, str):
        return
    for model in models:
        beyond = [n for n in settings.layers if model.depth is not None and n > model.depth]
        if beyond:
            raise UserError(f"{model.name} has layers 0 to {model.depth}, no layer {beyond[0]}")
