"""Find, load and look up plugins. A fresh manager a call, no global state."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from lrd_harness import hookspecs, versions
from lrd_harness.contracts import (
    Adapter,
    Command,
    Metric,
    PanelMetric,
    Pruner,
    Reporter,
    Task,
    TaskFamily,
)
from lrd_harness.errors import PluginFault, UserError, named, plain, say, unknown
from lrd_harness.guard import Owner, guard
from lrd_harness.registration import registered

GROUP = "lrd_harness"

# One literal list, as in pytest and datasette: built-ins use the same hooks as strangers.
BUILT_IN = (
    "lrd_harness.plugins.metrics.frenet",
    "lrd_harness.plugins.metrics.nrs",
    "lrd_harness.plugins.metrics.gfmi",
    "lrd_harness.plugins.metrics.entropy",
    "lrd_harness.plugins.metrics.curvature",
    "lrd_harness.plugins.metrics.views",
    "lrd_harness.plugins.metrics.split_text",
    "lrd_harness.plugins.metrics.cosine",
    "lrd_harness.plugins.metrics.subspace_distance",
    "lrd_harness.plugins.metrics.geometry",
    "lrd_harness.plugins.metrics.cka",
    "lrd_harness.plugins.metrics.sinks",
    "lrd_harness.plugins.metrics.labels",
    "lrd_harness.plugins.metrics.similarity",
    "lrd_harness.plugins.metrics.info_gauss",
    "lrd_harness.plugins.adapters.llm2vec",
    "lrd_harness.plugins.adapters.sentence_transformers",
    "lrd_harness.plugins.adapters.plain",
    "lrd_harness.plugins.adapters.image",
    "lrd_harness.plugins.pruners",
    "lrd_harness.plugins.reporters.forms",
    "lrd_harness.tasks.embedding.mteb_tasks",
    "lrd_harness.tasks.offline.tasks",
    "lrd_harness.tasks.likelihood.lm_eval_tasks",
    "lrd_harness.tasks.own_images",
    "lrd_harness.tasks.own_texts",
)

# Of lrd-harness itself, which no plugin can take.
COMMANDS = (
    "run capture plan merge select prune layer states probe compare lm-eval leaderboard "
    "evaluate-rule plugins suites tasks models cache"
).split()

KINDS: dict[str, tuple[str, Any]] = {
    "metric": ("lrd_metrics", Metric),
    "panel metric": ("lrd_panel_metrics", PanelMetric),
    "adapter": ("lrd_adapters", Adapter),
    "task": ("lrd_tasks", (Task, TaskFamily)),
    "pruning rule": ("lrd_pruners", Pruner),
    "reporter": ("lrd_reporters", Reporter),
    "command": ("lrd_commands", Command),
}


@dataclass(frozen=True)
class Entry:
    """A registered record and who provides it."""

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
    """All records by kind and name, the strangers among their plugins, and what was left out.

    contested: by kind and name, why no plugin bears it, as two of them would.
    """

    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    contested: dict[tuple[str, str], str] = field(default_factory=dict)
    strangers: list[Source] = field(default_factory=list)

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
        self.check_borne(kind, name)
        raise unknown(kind, name, known, "`lrd-harness plugins` lists them all.")

    def add(self, kind: str, provider: str, records: Iterable[Any]) -> None:
        """Register the records of one kind that one plugin provides."""
        entries = {record.name: Entry(record, provider) for record in records}
        self.entries.setdefault(kind, {}).update(entries)

    def check_borne(self, kind: str, name: str) -> None:
        """Raise UserError for a name that a plugin would bear, had it not been left out."""
        reason = self.contested.get((kind.removeprefix("panel "), name))
        if name not in self.names(kind) and reason is not None:
            raise UserError(reason)
        for bad in self.broken:
            if name == bad.name:
                raise UserError(f"plugin '{name}' of {bad.provider} is broken: {bad.reason}")

    def tell(self) -> None:
        """Say which plugins are left out, and why: one line each."""
        for bad in self.broken:
            say(plain(f"plugin '{bad.name}' of {bad.provider} is left out: {bad.reason}"))


def names_of(family: TaskFamily) -> Mapping[str, str]:
    """The names that a family of tasks knows; none, and that is said, where it fails."""
    try:
        return family.names()
    except PluginFault as fault:
        say(f"the tasks of {family.name} are not known: {fault}")
        return {}


KEPT = "report"  # the kind, in messages, of the files that a run keeps of reporters


@dataclass(eq=False)
class Source:
    """A plugin, what its hooks give by kind, and what was wrong with them.

    named: whether the user has named it for this command; version: of a stranger's code.
    """

    name: str
    owner: Owner
    named: bool = False
    version: str = ""
    records: dict[str, list[Any]] = field(default_factory=dict)
    fault: PluginFault | None = None

    def names(self) -> list[tuple[str, str]]:
        """Kind and name of each of its records, and of the files that a run keeps."""
        # metrics and panel metrics are named alike in --plugins
        kinds = {kind: kind.removeprefix("panel ") for kind in self.records}
        names = [(kinds[k], r.name) for k, records in self.records.items() for r in records]
        suffixes = [r.suffix for r in self.records.get("reporter", ()) if r.suffix]
        return [*names, *((KEPT, f"leaderboard{suffix}") for suffix in suffixes)]


def load(extra: tuple[object, ...] = ()) -> Plugins:
    """All built-in and installed plugins, and `extra` ones (modules or objects with hooks).

    Those that the command's user has named (`naming`) are there as well.

    A plugin that cannot be loaded, or gives a record that is none, is listed as broken; so is one
    with a name that another of the same kind has: a built-in one then bears it, of two others none.
    Raises UserError where such a plugin is one of `extra`.

    Examples
    --------
    >>> load().names("metric")[:2]
    ['frenet', 'nrs']
    """
    plugins = Plugins()
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    sources: dict[int, Source] = {}
    for name in BUILT_IN:
        module = importlib.import_module(name)
        manager.register(module, name)
        sources[id(module)] = Source(name, Owner.of(module, name, built_in=True))
    for number, plugin in enumerate((*_named.get()(), *extra)):
        if not manager.is_registered(plugin):
            # not pluggy's default for an object, which is a number: it stands in error messages
            name = str(getattr(plugin, "__name__", None) or repr(plugin))
            manager.register(plugin, f"{name} {number}")
            try:
                versions.check_interface(plugin)
            except PluginFault as fault:
                raise UserError(f"plugin {name} cannot be used: {fault}") from None
            owner = Owner.of(plugin, name)
            sources[id(plugin)] = Source(name, owner, True, versions.version_of(plugin, owner))
    _register_entry_points(plugins, manager, sources)
    for kind, (hook, types) in KINDS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            source = sources[id(implementation.plugin)]
            _collect(source, kind, hook, types, implementation.function)
    kept = _uncontested(plugins, sources.values())
    for kind in KINDS:
        for source in kept:
            plugins.add(kind, source.owner.provider, source.records.get(kind, ()))
    plugins.strangers = [source for source in kept if not source.owner.built_in]
    return plugins


def load_named(names: Iterable[str]) -> Plugins:
    """`load`, with plugins that a user names. Raises UserError as `from_name` does."""
    with naming(names):
        return load()


Modules = tuple[ModuleType, ...]
_named: ContextVar[Callable[[], Modules]] = ContextVar("named", default=tuple)


@contextmanager
def naming(names: Iterable[str]) -> Iterator[None]:
    """Within the block `load` brings these too, imported once, when it is first called."""
    before = _named.get()
    token = _named.set(cache(lambda: _modules(names, before())))
    try:
        yield
    finally:
        _named.reset(token)


def _modules(names: Iterable[str], before: Modules) -> Modules:
    """These modules, and those that are named already; each file once."""
    modules = {Path(str(module.__file__)).resolve(): module for module in before}
    for name in names:
        if not name.endswith(".py") or named(name).resolve() not in modules:
            module = from_name(name)
            modules.setdefault(Path(str(module.__file__)).resolve(), module)
    return tuple(modules.values())


def _collect(source: Source, kind: str, hook: str, types: Any, function: Callable[[], Any]) -> None:
    """Call one hook of a plugin, and check and guard what it gives; the first fault is kept."""
    records = source.records.setdefault(kind, [])
    try:
        with guard(source.owner, hook, function):
            answer = function()
            if answer is None or isinstance(answer, types):
                raise TypeError(f"{hook} returned {type(answer).__name__}, not a list of records")
            for record in answer:
                if not isinstance(record, types):
                    raise TypeError(f"{hook} returned {type(record).__name__}, not a {kind}")
                if (kind.removeprefix("panel "), record.name) in source.names():
                    raise ValueError(f"{hook} returned two of the name '{record.name}'")
                records.append(registered(record, kind, source.owner, source.version))
    except PluginFault as fault:
        source.fault = source.fault or fault


def _uncontested(plugins: Plugins, sources: Iterable[Source]) -> list[Source]:
    """The plugins that can be used; the others are listed as broken.

    Raises UserError for one that cannot, where the user has named it.
    """
    kept = []
    for source in sources:
        if source.fault is None:
            kept.append(source)
        else:
            _leave_out(plugins, source, str(source.fault))
    # those that clash with built-in ones first: they are then in no other's way
    for built_in in (True, False):
        bearers: dict[tuple[str, str], list[Owner]] = defaultdict(list)
        ours = Owner("lrd-harness", built_in=True)
        bearers |= {("command", name): [ours] for name in COMMANDS}
        for source in kept:
            for key in dict.fromkeys(source.names()):
                bearers[key].append(source.owner)
        for source in [source for source in kept if not source.owner.built_in]:
            for kind, name in source.names():
                owners = bearers[kind, name]
                if len(owners) > 1 and (not built_in or any(owner.built_in for owner in owners)):
                    pair = f"{owners[0].provider} and {owners[1].provider}"
                    kept.remove(source)
                    reason = f"two plugins provide a {kind} named '{name}': {pair}"
                    _leave_out(plugins, source, reason)
                    break
    return kept


def _leave_out(plugins: Plugins, source: Source, reason: str) -> None:
    if source.named:
        raise UserError(f"plugin {source.name} cannot be used: {reason}")
    plugins.broken.append(Broken(source.name, source.owner.provider, reason))
    for key in source.names():
        plugins.contested.setdefault(key, reason)


def from_name(name: str) -> ModuleType:
    """A plugin that a user names: a file FILE.py, or a module that can be imported.

    Raises UserError where there is none, it fails to import, or it implements no hook.
    """
    path = named(name).absolute()
    try:
        is_file = path.suffix == ".py"
        if is_file and path.exists() and not path.is_file():
            raise UserError(f"plugin {name} cannot be loaded: it is no file")
        owner = Owner(name, file=path, root=path) if is_file else _owner(name, name)
        with guard(owner, "plugin"):
            load = partial(_module, path) if is_file else partial(importlib.import_module, name)
            module: ModuleType = versions.imported(load)
            manager = pluggy.PluginManager(GROUP)
            manager.add_hookspecs(hookspecs)
            manager.register(module, name)
            _check_hooks(manager, module)
            if is_file:
                versions.check_beside(path)
    except PluginFault as error:
        raise UserError(f"plugin {name} cannot be loaded: {error}") from None
    return module


def _module(path: Path) -> ModuleType:
    """A file, run as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert isinstance(spec.loader, SourceLoader)
    module = importlib.util.module_from_spec(spec)
    # not from bytecode, which is kept for a file that was edited within the second
    exec(spec.loader.source_to_code(path.read_bytes(), str(path)), vars(module))
    return module


def _owner(module: str, provider: str) -> Owner:
    """Whose code a module (also as "module:object") is, before it is imported."""
    try:
        spec = importlib.util.find_spec(re.split("[.:]", module)[0].strip())
        origin = Path(spec.origin) if spec is not None and spec.origin is not None else None
    except (ImportError, ValueError):
        return Owner(provider)
    packaged = origin is not None and origin.name == "__init__.py"
    return Owner(provider, file=origin, root=origin.parent if origin and packaged else origin)


def _file(module: str) -> Path | None:
    """The file of a module (also as "module:object"), as far as can be told without an import."""
    top, *rest = module.partition(":")[0].strip().split(".")
    file = _owner(top, top).file
    if file is not None and rest:
        file = file.parent.joinpath(*rest)
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    return file and file.resolve()


def _register_entry_points(
    plugins: Plugins, manager: pluggy.PluginManager, sources: dict[int, Source]
) -> None:
    """Load third parties' plugins; those that fail are listed as broken.

    One whose file the user has named for this command, as while it is written, is that file's.
    """
    named_files = [s.owner.file.resolve() for s in sources.values() if s.named and s.owner.file]
    providers: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        provider = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        unique = f"{point.name} of {provider}"
        if _file(point.value) in named_files:
            continue
        try:
            with guard(_owner(point.value, provider), "plugin"):
                if point.name in providers:
                    taken = providers[point.name]
                    raise ValueError(f"{taken} has an entry point of the same name")
                module = versions.imported(point.load)
                if manager.is_registered(module) and id(module) in sources:
                    continue  # the user has named it for this command
                manager.register(module, unique)
                _check_hooks(manager, module)
        except PluginFault as fault:  # whatever a stranger's import raises must not stop the others
            plugins.broken.append(Broken(point.name, provider, str(fault)))
            if manager.has_plugin(unique):
                manager.unregister(name=unique)
        else:
            providers[point.name] = provider
            owner, released = Owner.of(module, provider), point.dist.version if point.dist else ""
            version = versions.version_of(module, owner, released)
            sources[id(module)] = Source(point.name, owner, version=version)


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Raise AttributeError for a hook that there is not, as a misspelt one, and for none at all."""
    callers = manager.get_hookcallers(plugin) or []
    unknown_hooks = [caller.name for caller in callers if not caller.has_spec()]
    if unknown_hooks or not callers:
        hook = unknown_hooks[0] if unknown_hooks else "no hook at all"
        hooks = ", ".join(hook for hook, _ in KINDS.values())
        raise AttributeError(f"implements {hook}; the hooks are {hooks}")
