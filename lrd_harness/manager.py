"""Find, load and look up plugins. A fresh manager a call, no global state."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from lrd_harness import hookspecs
from lrd_harness.contracts import Adapter, Metric, Pruner, Reporter, Task, TaskFamily
from lrd_harness.errors import UserError, unknown

GROUP = "lrd_harness"

# One literal list, as in pytest and datasette: built-ins use the same hooks as strangers.
BUILT_IN = (
    "lrd_harness.plugins.frenet",
    "lrd_harness.plugins.nrs",
    "lrd_harness.plugins.gfmi",
    "lrd_harness.plugins.prompt_entropy",
    "lrd_harness.plugins.dataset_entropy",
    "lrd_harness.plugins.effective_rank",
    "lrd_harness.plugins.curvature",
    "lrd_harness.plugins.infonce",
    "lrd_harness.plugins.lidar",
    "lrd_harness.plugins.dime",
    "lrd_harness.plugins.block_influence",
    "lrd_harness.plugins.cosine",
    "lrd_harness.plugins.subspace_distance",
    "lrd_harness.plugins.sentence_transformers",
    "lrd_harness.plugins.encoder",
    "lrd_harness.plugins.decoder",
    "lrd_harness.plugins.pruners",
    "lrd_harness.plugins.reporters",
    "lrd_harness.plugins.exports",
    "lrd_harness.plugins.page",
    "lrd_harness.tasks.mteb_tasks",
    "lrd_harness.tasks.offline",
    "lrd_harness.tasks.lm_eval_tasks",
    "lrd_harness.tasks.own_texts",
)

KINDS: dict[str, tuple[str, Any]] = {
    "metric": ("lrd_metrics", Metric),
    "adapter": ("lrd_adapters", Adapter),
    "task": ("lrd_tasks", (Task, TaskFamily)),
    "pruning rule": ("lrd_pruners", Pruner),
    "reporter": ("lrd_reporters", Reporter),
}

FAULTS = (Exception, SystemExit)  # what running a stranger's code may raise


@dataclass(frozen=True)
class Entry:
    """A registered record and who provides it."""

    kind: str
    record: Any
    provider: str


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded: its entry point's name, distribution and the reason."""

    name: str
    provider: str
    reason: str


@dataclass
class Plugins:
    """All records by kind and name, and what could not be loaded."""

    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    def names(self, kind: str) -> list[str]:
        """The registered names of one kind, in order of registration."""
        return list(self.entries.get(kind, {}))

    def all(self, kind: str) -> list[Any]:
        """The records of one kind, in order of registration."""
        return [entry.record for entry in self.entries.get(kind, {}).values()]

    def get(self, kind: str, name: str) -> Any:
        """The record of that name.

        Raises UserError, with "did you mean", or with the reason if its plugin is broken.
        """
        known = self.entries.get(kind, {})
        if name in known:
            return known[name].record
        for bad in self.broken:
            if name == bad.name:
                raise UserError(f"plugin '{name}' of {bad.provider} is broken: {bad.reason}")
        raise unknown(kind, name, known, "`lrd-harness plugins` lists them all.")

    def add(self, kind: str, provider: str, records: Sequence[Any]) -> None:
        """Register the records of one kind that one plugin provides.

        Raises UserError for a name that is taken.
        """
        held = self.entries.setdefault(kind, {})
        for record in records:
            if record.name in held:
                raise UserError(
                    f"two plugins provide a {kind} named '{record.name}': "
                    f"{held[record.name].provider} and {provider}"
                )
            held[record.name] = Entry(kind, record, provider)


def load(extra: tuple[object, ...] = ()) -> Plugins:
    """All built-in and installed plugins, and `extra` ones (modules or objects with hooks).

    Raises UserError where two plugins provide the same name of one kind. A third party's plugin
    that fails to import or to register is listed as broken.
    """
    plugins = Plugins()
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for name in BUILT_IN:
        manager.register(importlib.import_module(name), name)
    for plugin in extra:
        # not pluggy's default for an object, which is a number: it stands in error messages
        manager.register(plugin, getattr(plugin, "__name__", None) or repr(plugin))
    providers = _register_entry_points(plugins, manager)
    for kind, (hook, types) in KINDS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            name = implementation.plugin_name
            try:
                records = list(implementation.function())
                for record in records:
                    if not isinstance(record, types):
                        raise TypeError(f"{hook} returned {type(record).__name__}, not a {kind}")
            except FAULTS as error:
                if name not in providers:
                    raise
                plugins.broken.append(Broken(name, providers[name], _reason(error)))
            else:
                source = getattr(implementation.plugin, "__source__", None)
                if source and kind in ("metric", "pruning rule"):
                    records = [replace(r, version=f"{r.version}+{source}") for r in records]
                plugins.add(kind, providers.get(name, name), records)
    return plugins


def from_name(name: str) -> ModuleType:
    """A plugin that a user names: a file FILE.py, or a module that can be imported.

    Raises UserError where there is none, it fails to import, or it implements no hook.
    """
    path = Path(name).expanduser()
    try:
        if path.suffix == ".py":
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            # an edited file is another version of its metrics, whose old values must not be shown
            module.__source__ = hashlib.sha256(path.read_bytes()).hexdigest()[:8]  # type: ignore[attr-defined]
        else:
            module = importlib.import_module(name)
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(module, name)
        _check_hooks(manager, module)
    except FAULTS as error:
        raise UserError(f"plugin {name} cannot be loaded: {_reason(error)}") from None
    return module


def _register_entry_points(plugins: Plugins, manager: pluggy.PluginManager) -> dict[str, str]:
    """Load third parties' plugins; those that fail are listed as broken. Name -> distribution."""
    providers: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        provider = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        try:
            if point.name in providers:
                raise ValueError(f"{providers[point.name]} has an entry point of the same name")
            module = point.load()
            manager.register(module, point.name)
            _check_hooks(manager, module)
        except FAULTS as error:  # whatever a stranger's import raises must not stop the others
            plugins.broken.append(Broken(point.name, provider, _reason(error)))
            if point.name not in providers and manager.has_plugin(point.name):
                manager.unregister(name=point.name)
        else:
            providers[point.name] = provider
    return providers


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Raise AttributeError for a hook that there is not, as a misspelt one, and for none at all."""
    callers = manager.get_hookcallers(plugin) or []
    unknown_hooks = [caller.name for caller in callers if not caller.has_spec()]
    if unknown_hooks or not callers:
        found = unknown_hooks[0] if unknown_hooks else "no hook at all"
        hooks = ", ".join(hook for hook, _ in KINDS.values())
        raise AttributeError(f"implements {found}; the hooks are {hooks}")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
