"""What to run: a suite of models, tasks, metrics and settings, from YAML and the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from lrd_harness import errors
from lrd_harness.contracts import Mask
from lrd_harness.errors import UserError, named, unknown
from lrd_harness.planning.settings import (
    STRICT,
    Pruning,
    Settings,
    Word,
    check_keys,
    prompt_table,
    pruning,
    read_record,
    settings,
)
from lrd_harness.store.documents import yaml_value

READING = ("pooling", "max_length", "attention_mask")  # settings that a model may have of its own


@dataclass(frozen=True, config=STRICT)
class ModelEntry:
    """A model of a suite: the name a user types, and how it is read where not by default."""

    model: Word
    adapter: Word | None = None
    pooling: Word | None = None
    max_length: int | None = Field(default=None, ge=1, le=errors.COUNT)
    prompts: Annotated[Mapping[str, str] | None, BeforeValidator(prompt_table)] = None
    attention_mask: Mask | None = None

    @property
    def label(self) -> str:
        """What tells this way of reading the model from its default; empty for the default."""
        chosen = (self.adapter, *(getattr(self, name) for name in READING))
        parts = [str(value) for value in chosen if value is not None]
        if self.prompts is not None:  # results with other prompts are kept apart
            text = json.dumps(sorted(self.prompts.items()))
            parts.append(f"prompts {hashlib.sha256(text.encode()).hexdigest()[:8]}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Suite:
    """A named choice of models, tasks, metric plugins and settings. plugins None: all metrics."""

    name: str
    models: tuple[ModelEntry, ...] = ()
    tasks: tuple[str, ...] = ()
    plugins: tuple[str, ...] | None = None
    parameters: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    settings: Settings = dataclasses.field(default_factory=Settings)
    pruning: Pruning = dataclasses.field(default_factory=Pruning)
    description: str = ""
    source: str = ""


def shipped() -> list[str]:
    """The names of the suites that come with the harness."""
    folder = importlib.resources.files("lrd_harness.tasks.suites")
    names = (path.name for path in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def known_models() -> set[str]:
    """The models that the shipped suites name."""
    return {entry.model for name in shipped() for entry in load(name).models}


def load(name: str) -> Suite:
    """A shipped suite by name, or a suite of one's own from a YAML file.

    Raises UserError for an unknown name and for a malformed file (file and key named).
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = named(name)
        if not path.is_file():
            raise UserError(f"{path}: no such suite file")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        return parse_suite(text, path.stem, str(path))
    if name not in shipped():
        hint = "`lrd-harness suites` lists them; a file's name ends in .yaml."
        raise unknown("suite", name, shipped(), hint)
    file = importlib.resources.files("lrd_harness.tasks.suites") / f"{name}.yaml"
    return parse_suite(file.read_text("utf-8"), name, f"suite {name}")


def parse_suite(text: str, name: str, where: str) -> Suite:
    """A suite from YAML text; `where` stands in error messages."""
    parts = yaml_value(text, where)
    if not isinstance(parts, dict):
        raise UserError(f"{where}: not a mapping of models, tasks, plugins and settings")
    check_keys(Suite, parts, f"key in {where}", "parameters")
    plugins, parameters = _plugins(parts.get("plugins"), where)
    name = str(parts.get("name", name))
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UserError(f"{where}: name '{name}' is not of letters, digits, '-', '_' and '.' alone")
    return Suite(
        name=name,
        models=entries(_list(parts, "models", where), where),
        tasks=tuple(checked_name(task, "tasks", where) for task in _list(parts, "tasks", where)),
        plugins=plugins,
        parameters=parameters,
        settings=settings(parts.get("settings") or {}, where),
        pruning=pruning(parts.get("pruning") or {}, where),
        description=str(parts.get("description", "")).strip(),
        source=str(parts.get("source", "")).strip(),
    )


def build_suite(
    name: str | None,
    models: Sequence[Any] = (),
    tasks: Sequence[str] = (),
    plugins: Sequence[str] = (),
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    typed: Mapping[str, Any] | None = None,
    pruned: Mapping[str, Any] | None = None,
    where: str = "command line",
) -> Suite:
    """A suite with the parts that a command line or a call replaces.

    name: None for the quickstart, or for no suite at all where there are models and tasks; typed:
    settings; pruned: what is said of pruning. Raises UserError as suites and settings do.
    """
    alone = name is None and models and tasks
    chosen = Suite("custom") if alone else load(name or "quickstart")
    kept, base, typed = chosen.models, chosen.settings, typed or {}
    if models:
        kept = entries(models, where)
    for part in READING:  # what is typed replaces what the suite's models say
        if part in typed:
            kept = tuple(dataclasses.replace(m, **{part: None}) for m in kept)  # type: ignore[arg-type]
    if tasks:  # what the suite says of its own language-model tasks goes with them
        base = dataclasses.replace(base, limit=None, max_questions=None, num_fewshot=None)
    metrics = tuple(plugins) or chosen.plugins
    of = {m: dict(v) for m, v in chosen.parameters.items() if metrics is None or m in metrics}
    for metric, values in (parameters or {}).items():
        of.setdefault(metric, {}).update(values)
    return dataclasses.replace(
        chosen,
        models=kept,
        tasks=tuple(checked_name(task, "tasks", where) for task in tasks) or chosen.tasks,
        plugins=metrics,
        parameters=of,
        settings=settings(typed, where, base),
        pruning=pruning(pruned or {}, where, chosen.pruning),
    )


def _list(parts: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    value = parts.get(key)
    if value is not None and not isinstance(value, list):
        raise UserError(f"{where}: '{key}' is not a list")
    return value or []


def checked_name(value: Any, key: str, where: str) -> str:
    """A name in a list. Raises UserError for what is none, and for an empty one."""
    if not isinstance(value, str):
        raise UserError(f"{where}: '{value}' in '{key}' is not a name")
    if not value.strip():
        raise UserError(f"{where}: a name in '{key}' is empty")
    return value


def entries(values: Iterable[Any], where: str) -> tuple[ModelEntry, ...]:
    """Models from names and mappings, several of a name with braces. Raises UserError."""
    from lrd_harness.models.find import expand  # of no use to help

    models: list[ModelEntry] = []
    for value in values:
        fields = {"model": value} if isinstance(value, str) else value
        if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
            raise UserError(f"{where}: '{value}' in 'models' is neither a name nor has a 'model'")
        of = f"model {checked_name(fields['model'], 'models', where)}"
        entry = read_record(ModelEntry, fields, f"key for {of} in {where}", f"{where}: {of}")
        models += [dataclasses.replace(entry, model=name) for name in expand(entry.model, where)]
    return tuple(models)


def _plugins(value: Any, where: str) -> tuple[tuple[str, ...] | None, dict[str, dict[str, Any]]]:
    """A list of names, in which a mapping gives a plugin's parameters: `- nrs: {k: 10}`."""
    if value is None:
        return None, {}
    parameters: dict[str, dict[str, Any]] = {}
    names: list[str] = []
    for item in _list({"plugins": value}, "plugins", where):
        chosen = {item: {}} if isinstance(item, str) else item
        parts = [chosen, *chosen.values()] if isinstance(chosen, dict) else [None]
        if not all(isinstance(p, dict) and all(isinstance(k, str) for k in p) for p in parts):
            what = f"'{item}' in 'plugins' is neither a name nor name: parameters"
            raise UserError(f"{where}: {what}")
        names += chosen
        parameters |= {} if isinstance(item, str) else chosen
    return tuple(names), parameters
