"""What to run: suites, and the names in them resolved before anything is loaded.

What a pruning sweep is asked for: rules, budgets, seeds, tasks; read, checked and resolved.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from lrd_harness import errors
from lrd_harness.blocks import BUDGETS, Indexing, candidates, count
from lrd_harness.contracts import Norm, Pruner, Task
from lrd_harness.errors import UserError, named, unknown
from lrd_harness.manager import Plugins
from lrd_harness.models.find import expand
from lrd_harness.store.documents import yaml_value

NUMBERS = {  # least and most
    "random_seeds": (1, errors.DRAWS),
    "protect": (0, errors.BLOCKS),
    "texts": (8, errors.COUNT),
}


@dataclass(frozen=True)
class Pruning:
    """The `pruning` part of a suite.

    rules: names, None for all whose metrics are measured; budgets: shares of the candidates;
    random_seeds: how many of a seeded rule; protect: blocks kept at either end, None: min(3, L//4);
    tasks: names of the run's tasks that pruned models are scored on, None for all; texts: on how
    many texts, drawn by a seed, tokens and outputs are compared (block_influence, angular, greedy);
    indexing: how profiles become values of blocks (evidence.block_profiles), "block" or "paper".
    """

    rules: tuple[str, ...] | None = None
    budgets: tuple[float, ...] = BUDGETS
    random_seeds: int = 3
    protect: int | None = None
    tasks: tuple[str, ...] | None = None
    texts: int = 256
    indexing: str = "block"


@dataclass(frozen=True)
class PlannedPruning:
    """A sweep, resolved: every rule as it will be asked, and the tasks for what is left."""

    rules: tuple[Pruner, ...]
    tasks: tuple[Task, ...]
    asked: Pruning

    def seeds(self, rule: Pruner) -> Sequence[int | None]:
        """The seeds that a rule is asked with; None for one that needs none."""
        return range(self.asked.random_seeds) if rule.seeded else [None]


def parse(given: Any, where: str, base: Pruning | None = None) -> Pruning:
    """A Pruning from a mapping, on top of `base`. Raises UserError for unknown or wrong values."""
    if not isinstance(given, dict):
        raise UserError(f"{where}: 'pruning' is not a mapping")
    known = [f.name for f in fields(Pruning)]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise unknown(f"key of pruning in {where}", str(key), known)
        values[key] = _value(key, value, where)
    return replace(base or Pruning(), **values)


def _value(key: str, value: Any, where: str) -> Any:
    if value is None and key in ("rules", "protect", "tasks"):
        return None
    if key in ("rules", "tasks"):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise UserError(f"{where}: {key} of pruning is not a list of names")
        return tuple(dict.fromkeys(value))
    if key == "indexing":
        if value not in get_args(Indexing):
            raise unknown(f"indexing in {where}", str(value), get_args(Indexing))
        return value
    if key == "budgets":
        items = value if isinstance(value, list) else [value]
        if len(items) > errors.STEPS:
            raise UserError(f"{where}: {len(items):,} budgets: at most {errors.STEPS:,} are tried")
        numbers = [v for v in items if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if not items or len(numbers) < len(items):
            raise UserError(f"{where}: budgets are {value}, not shares such as 0.15")
        for budget in numbers:
            count(budget, range(10**6))  # what is no share of any model
        return tuple(sorted(set(map(float, numbers))))
    errors.check_whole(value, f"{where}: {key} is", *NUMBERS[key])
    return value


def resolve(
    asked: Pruning, tasks: Sequence[Task], metrics: Sequence[str], plugins: Plugins
) -> PlannedPruning:
    """The sweep of a run with these tasks and metrics.

    Raises UserError for a rule or task that there is not, a rule without its metrics, and a run
    without scored tasks.
    """
    scored = {task.name: task for task in tasks if task.evaluate is not None}
    if not scored:
        raise UserError("pruned models are scored on tasks: none of this run's has scores")
    for name in asked.tasks or ():
        if name not in scored:
            raise unknown("task to score pruned models on", name, scored)
    chosen = [scored[name] for name in asked.tasks] if asked.tasks else list(scored.values())
    names = plugins.names("pruning rule")
    rules = [plugins.get("pruning rule", name) for name in asked.rules or names]
    for rule in rules:
        lacking = [name for name in rule.metrics if name not in metrics]
        if lacking and asked.rules is not None:
            raise UserError(
                f"the pruning rule {rule.name} needs the metric {lacking[0]}: name it in --plugins"
            )
    rules = [rule for rule in rules if not set(rule.metrics) - set(metrics)]
    return PlannedPruning(tuple(rules), tuple(chosen), asked)


def check_depths(asked: Pruning, depths: Mapping[str, int | None]) -> None:
    """Raise UserError where a budget or the protection does not fit a model's known depth."""
    for name, depth in depths.items():
        if depth is None:
            continue
        try:
            for budget in asked.budgets:
                count(budget, candidates(depth, asked.protect))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None


@dataclass(frozen=True)
class ModelEntry:
    """A model of a suite: the name a user types, and how it is read where not by default."""

    model: str
    adapter: str | None = None
    pooling: str | None = None
    max_length: int | None = None
    prompts: Mapping[str, str] | None = None

    @property
    def label(self) -> str:
        """What tells this reading of the model from its default one; empty for the default."""
        chosen = {"adapter": self.adapter, "pooling": self.pooling, "max_length": self.max_length}
        parts = [str(value) for value in chosen.values() if value is not None]
        if self.prompts is not None:  # other prompts are another reading, with results of its own
            text = json.dumps(sorted(self.prompts.items()))
            parts.append(f"prompts {hashlib.sha256(text.encode()).hexdigest()[:8]}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Settings:
    """What holds for the whole of a run.

    layers: "all", "last" or numbers 0..L; max_texts: texts a metric is measured on at most;
    view_texts: of these, how many get augmented views;
    norm: which states metrics see (metrics.md, Norm); task_data: folder of local data;
    batch_tokens: tokens a batch, padding included (0: by device); num_fewshot, limit, include_path,
    log_samples: for language-model tasks, as TaskOptions; text_column: of tables of own texts; the
    rest as ModelOptions.
    """

    layers: str | tuple[int, ...] = "all"
    max_texts: int = 5000
    view_texts: int = 1000
    norm: Norm = "hf"
    task_data: str | None = None
    pooling: str | None = None
    max_length: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: str | None = None
    padding: Literal["right", "left"] = "right"
    device: str = "auto"
    device_map: str | None = None
    batch_tokens: int = 0
    num_fewshot: int | None = None
    limit: float | None = None
    include_path: str | None = None
    log_samples: bool = False
    text_column: str = "text"

    def results(self) -> dict[str, Any]:
        """The settings that change a result, as opposed to speed or extent.

        task_data is not among them: run.json keeps what lies there, not where it lies.
        """
        free = ("layers", "device", "device_map", "batch_tokens", "task_data", "include_path")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}


@dataclass(frozen=True)
class Suite:
    """A named choice of models, tasks, metric plugins and settings. plugins None: all metrics."""

    name: str
    models: tuple[ModelEntry, ...] = ()
    tasks: tuple[str, ...] = ()
    plugins: tuple[str, ...] | None = None
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Settings = Settings()
    pruning: Pruning = field(default_factory=Pruning)
    description: str = ""
    source: str = ""


def shipped() -> list[str]:
    """The names of the suites that come with the harness."""
    folder = importlib.resources.files("lrd_harness.tasks.suites")
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


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
    text = (importlib.resources.files("lrd_harness.tasks.suites") / f"{name}.yaml").read_text(
        "utf-8"
    )
    return parse_suite(text, name, f"suite {name}")


def parse_suite(text: str, name: str, where: str) -> Suite:
    """A suite from YAML text; `where` stands in error messages."""
    given = yaml_value(text, where)
    if not isinstance(given, dict):
        raise UserError(f"{where}: not a mapping of models, tasks, plugins and settings")
    known = {f.name for f in fields(Suite)} - {"parameters"}
    for key in given:
        if key not in known:
            raise unknown(f"key in {where}", str(key), known)
    plugins, parameters = _plugins(given.get("plugins"), where)
    name = str(given.get("name", name))
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UserError(f"{where}: name '{name}' is not of letters, digits, '-', '_' and '.' alone")
    return Suite(
        name=name,
        models=entries(_list(given, "models", where), where),
        tasks=tuple(_text(t, "tasks", where) for t in _list(given, "tasks", where)),
        plugins=plugins,
        parameters=parameters,
        settings=settings(given.get("settings") or {}, where),
        pruning=parse(given.get("pruning") or {}, where),
        description=str(given.get("description", "")).strip(),
        source=str(given.get("source", "")).strip(),
    )


def _list(given: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    value = given.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise UserError(f"{where}: '{key}' is not a list")
    return value


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: '{value}' in '{key}' is not a name")
    if not value.strip():
        raise UserError(f"{where}: a name in '{key}' is empty")
    return value


def entries(values: Iterable[Any], where: str) -> tuple[ModelEntry, ...]:
    """Models from names and mappings, several of a name with braces. Raises UserError."""
    return tuple(entry for value in values for entry in _entries(value, where))


def _entries(value: Any, where: str) -> list[ModelEntry]:
    if isinstance(value, str):
        return [ModelEntry(name) for name in expand(_text(value, "models", where), where)]
    if not isinstance(value, dict) or not isinstance(value.get("model"), str):
        raise UserError(f"{where}: '{value}' in 'models' is neither a name nor has a 'model'")
    known = [f.name for f in fields(ModelEntry)]
    for key in value:
        if key not in known:
            raise unknown(f"key for model {value['model']} in {where}", str(key), known)
    place = f"{where}: model {value['model']}"
    for key in ("adapter", "pooling", "max_length"):
        _check_value(key, value.get(key), place)
    prompts = value.get("prompts")
    if prompts is not None and not (
        isinstance(prompts, dict) and all(isinstance(v, str) for v in prompts.values())
    ):
        raise UserError(f"{place}: prompts is not a mapping from names to texts")
    entry = ModelEntry(**value)
    return [replace(entry, model=name) for name in expand(entry.model, where)]


def _plugins(value: Any, where: str) -> tuple[tuple[str, ...] | None, dict[str, dict[str, Any]]]:
    """A list of names, in which a mapping gives a plugin's parameters: `- nrs: {k: 10}`."""
    if value is None:
        return None, {}
    if not isinstance(value, list):
        raise UserError(f"{where}: 'plugins' is not a list")
    names, parameters = [], {}
    for item in value:
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, dict) and all(map(_are_parameters, item, item.values())):
            names += item
            parameters.update(item)
        else:
            raise UserError(
                f"{where}: '{item}' in 'plugins' is neither a name nor name: parameters"
            )
    return tuple(names), parameters


def _are_parameters(name: Any, values: Any) -> bool:
    named = isinstance(name, str) and isinstance(values, dict)
    return named and all(isinstance(key, str) for key in values)


def settings(given: Any, where: str, base: Settings | None = None) -> Settings:
    """Settings from a mapping, on top of `base`. Raises UserError for unknown or wrong values."""
    if not isinstance(given, dict):
        raise UserError(f"{where}: 'settings' is not a mapping")
    known = [f.name for f in fields(Settings)]
    for key, value in given.items():
        if key not in known:
            raise unknown(f"setting in {where}", str(key), known)
        _check_value(key, value, where)
    chosen: dict[str, Any] = {k: layers(v, where) if k == "layers" else v for k, v in given.items()}
    return replace(base or Settings(), **chosen)


CHOICES = {
    "norm": get_args(Norm),
    "dtype": ("float32", "bfloat16", "float16"),
    "padding": ("right", "left"),
    "device_map": ("auto", "balanced", "balanced_low_0", "sequential"),
}
NUMBERS_SUITE = {  # least and most
    "max_texts": (8, errors.COUNT),
    "view_texts": (8, errors.COUNT),
    "max_length": (1, errors.COUNT),
    "batch_tokens": (0, errors.COUNT),
    "num_fewshot": (0, errors.EXAMPLES),
}
NULLABLE = (
    *("task_data", "pooling", "max_length", "attention", "adapter", "device_map"),
    *("num_fewshot", "limit", "include_path"),
)


def _check_value(key: str, value: Any, where: str) -> None:
    """Raise UserError for a setting's value of a wrong kind; layers are read by `layers`."""
    if value is None and key in NULLABLE:
        return
    if key in CHOICES and value not in CHOICES[key]:
        raise unknown(f"{key} in {where}", str(value), CHOICES[key], _all(CHOICES[key]))
    if key in NUMBERS_SUITE:
        errors.check_whole(value, f"{where}: {key} is", *NUMBERS_SUITE[key])
    elif key == "limit":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise UserError(f"{where}: limit is {errors.shown(value)}, not a number above 0")
        if value > errors.COUNT:
            most = f"at most {errors.COUNT:,} is possible"
            raise UserError(f"{where}: limit is {errors.shown(value)}: {most}")
        if value >= 1 and value != int(value):
            raise UserError(
                f"{where}: limit is {value}: neither a whole number nor a share below 1"
            )
    elif key == "log_samples":
        if not isinstance(value, bool):
            raise UserError(f"{where}: log_samples is {value}, not true or false")
    elif key != "layers" and not isinstance(value, str):
        raise UserError(f"{where}: {key} is {value}, not a text")
    elif key != "layers" and not value.strip():
        raise UserError(f"{where}: {key} is empty")


def _all(names: Iterable[str]) -> str:
    return f"Choose from {', '.join(names)}."


def layers(value: Any, where: str) -> str | tuple[int, ...]:
    """ "all", "last" or layer numbers, as `0,3,6` or a list. Raises UserError for anything else."""
    if value in ("all", "last"):
        return str(value)
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    items = items if isinstance(items, (list, tuple)) else [items]
    written = [str(item) for item in items]  # so that neither 1.5 nor true is taken for a number
    if not written or not all(w.isascii() and w.isdigit() for w in written):
        raise UserError(
            f"{where}: layers '{value!s:.60}' is not all, last, or numbers such as 0,3,6"
        )
    if any(len(w.lstrip("0")) > len(str(errors.BLOCKS)) for w in written):
        raise UserError(f"{where}: layers: at most {errors.BLOCKS:,} is possible")
    return tuple(sorted({int(w) for w in written}))
