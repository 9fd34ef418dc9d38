"""What to run: a suite of models, tasks, metrics and settings, from YAML and the command line.

Settings and Pruning say of each field what it is, its bounds and its default. The options of the
command line and the messages for wrong values are made from that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.dataclasses import dataclass

from lrd_harness import errors
from lrd_harness.blocks import BUDGETS, Indexing, count
from lrd_harness.contracts import Norm
from lrd_harness.errors import UserError, named, unknown
from lrd_harness.store.documents import yaml_value

WHAT = "what to run"
HOW = "how models are read (default: as each was made to be)"
COMPARED = "texts on which tokens and outputs are compared"
BLOCKS = "pruning (with --prune: blocks removed by rules, and scores)"
STRICT = ConfigDict(strict=True)
STUDY_TASK = "LeeDocumentSTS"  # texts that need no hub, for studies without texts of one's own
# at most, by study
STUDY_TEXTS = {"select": 500, "compare": 500, "probe": 200, "layer": 5000, "prune": 5000}
STUDY_TEXTS |= {"states": errors.COUNT}
Record = TypeVar("Record")


def _option(
    default: Any, help: str, metavar: str = "NAME", group: str = HOW, flag: str = "", **bounds: Any
) -> Any:
    """A field that is an option of `run`, by default of its own name."""
    extra: Any = {"metavar": metavar, "group": group, "flag": flag}
    return Field(default=default, description=help, json_schema_extra=extra, **bounds)


def _count(
    default: int | None, help: str, least: int, most: int = errors.COUNT, group: str = HOW
) -> Any:
    """An option that takes a whole number."""
    return _option(default, help, "N", group, ge=least, le=most)


def _layers(value: Any) -> str | tuple[int, ...]:
    """ "all", "last" or layer numbers, as `0,3,6` or a list."""
    if value in ("all", "last"):
        return str(value)
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    items = items if isinstance(items, (list, tuple)) else [items]
    written = [str(item) for item in items]  # so that neither 1.5 nor true is taken for a number
    if not written or not all(w.isascii() and w.isdigit() for w in written):
        raise ValueError(f"layers '{value!s:.60}' is not all, last, or numbers such as 0,3,6")
    if any(len(w.lstrip("0")) > len(str(errors.BLOCKS)) for w in written):
        raise ValueError(f"layers: at most {errors.BLOCKS:,} is possible")
    return tuple(sorted({int(w) for w in written}))


def _limit(value: Any, info: ValidationInfo) -> Any:
    """As lm-eval's limit: a number of documents, or a share of them below 1."""
    if value is None:
        return None
    name, shown = info.field_name, errors.shown(value)
    if not _is_number(value) or not value > 0:
        raise ValueError(f"{name} is {shown}, not a number above 0")
    if value > errors.COUNT:
        raise ValueError(f"{name} is {shown}: at most {errors.COUNT:,} is possible")
    if value >= 1 and value != int(value):
        raise ValueError(f"{name} is {value}: neither a whole number nor a share below 1")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _prompts(value: Any) -> Any:
    if value is None or (
        isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())
    ):
        return value
    raise ValueError("prompts is not a mapping from names to texts")


def _names(value: Any, info: ValidationInfo) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{info.field_name} of pruning is not a list of names")
    return tuple(dict.fromkeys(value))


def _budgets(value: Any) -> tuple[float, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    if len(items) > errors.STEPS:
        raise ValueError(f"{len(items):,} budgets: at most {errors.STEPS:,} are tried")
    if not items or not all(map(_is_number, items)):
        raise ValueError(f"budgets are {value}, not shares such as 0.15")
    for budget in items:
        count(budget, range(10**6))  # refuses what is a share of no model
    return tuple(sorted(set(map(float, items))))


Word = Annotated[str, Field(pattern=r"\S")]
Limit = Annotated[int | float | None, BeforeValidator(_limit)]
Names = Annotated[tuple[str, ...] | None, BeforeValidator(_names)]


@dataclass(frozen=True, config=STRICT)
class Settings:
    """What holds for the whole of a run; each field says what it is."""

    layers: Annotated[str | tuple[int, ...], BeforeValidator(_layers)] = _option(
        "all", "layers to evaluate: all, last, or numbers 0,3,6", "LAYER", WHAT
    )
    max_texts: int = _count(5000, "texts a metric is measured on at most", 8)
    view_texts: int = _count(1000, "of these, texts that get augmented views", 8)
    norm: Norm = _option("hf", "states for metrics")
    task_data: Word | None = _option(None, "local data: DIR/TASK/SPLIT.jsonl", "DIR", WHAT)
    pooling: Word | None = _option(
        None, "cls, mean, last, or mean-no-sink (mean without position 0)"
    )
    max_length: int | None = _count(None, "tokens that a text is cut to", 1)
    dtype: Literal["float32", "bfloat16", "float16"] = _option("float32", "precision")
    attention: Word | None = _option(None, "attention implementation, as eager or sdpa")
    padding: Literal["right", "left"] = _option("right", "side of padding")
    device: Word = _option("auto", "cpu, cuda, cuda:1, mps, or auto: what is there")
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = _option(
        None, "spread a model over the GPUs of a process", "HOW"
    )
    batch_tokens: int = _count(0, "tokens per batch, padding included; 0: by device", 0)
    num_fewshot: int | None = _count(
        None, "lm-eval tasks: examples in each prompt", 0, errors.EXAMPLES, WHAT
    )
    limit: Limit = _option(
        None,
        "lm-eval tasks and MMLU: documents of each task (subject), below 1 a share of them",
        "N",
        WHAT,
    )
    max_questions: Limit = _option(
        None,
        "lm-eval tasks and MMLU: documents of a group in all, drawn from its tasks (subjects) in "
        "proportion to their sizes; below 1 a share",
        "N",
        WHAT,
    )
    include_path: Word | None = _option(
        None, "lm-eval tasks of your own, before its own", "DIR", WHAT
    )
    log_samples: bool = _option(
        False, "lm-eval tasks: also write each document's log-likelihoods, layer by layer"
    )
    text_column: Word = _option("text", "texts:FILE: the column of a table", group=WHAT)

    def results(self) -> dict[str, Any]:
        """The settings that change a result, as opposed to speed or extent.

        task_data is not among them: run.json keeps what lies there, not where it lies.
        """
        free = ("layers", "device", "device_map", "batch_tokens", "task_data", "include_path")
        return {name: value for name, value in vars(self).items() if name not in free}


@dataclass(frozen=True, config=STRICT)
class Pruning:
    """The `pruning` part of a suite; each field says what it is."""

    rules: Names = _option(
        None, "rules, as gfmi,random (default: all whose metrics run)", "RULE", BLOCKS, "--prune"
    )
    budgets: Annotated[tuple[float, ...], BeforeValidator(_budgets)] = _option(
        BUDGETS, "shares of the candidate blocks", "SHARE", BLOCKS
    )
    random_seeds: int = _count(3, "how often a seeded rule chooses", 1, errors.DRAWS, BLOCKS)
    protect: int | None = _count(
        None, "blocks kept at either end (3, or fewer)", 0, errors.BLOCKS, BLOCKS
    )
    tasks: Names = _option(
        None, "tasks for pruned models (default: all)", "TASK", BLOCKS, "--prune-tasks"
    )
    texts: int = Field(default=256, ge=8, le=errors.COUNT, description=COMPARED)
    indexing: Indexing = Field(default="block", description="how profiles become values of blocks")


@dataclass(frozen=True, config=STRICT)
class ModelEntry:
    """A model of a suite: the name a user types, and how it is read where not by default."""

    model: Word
    adapter: Word | None = None
    pooling: Word | None = None
    max_length: int | None = Field(default=None, ge=1, le=errors.COUNT)
    prompts: Annotated[Mapping[str, str] | None, BeforeValidator(_prompts)] = None

    @property
    def label(self) -> str:
        """What tells this way of reading the model from its default; empty for the default."""
        chosen = {"adapter": self.adapter, "pooling": self.pooling, "max_length": self.max_length}
        parts = [str(value) for value in chosen.values() if value is not None]
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


def settings_of(record: type) -> dict[str, dict[str, Any]]:
    """The fields of Settings or of Pruning: what JSON schema says of each.

    Of interest are text (the description with its choices), default, type ("array" where it takes a
    list, then of `items`), enum, minimum, maximum; of options also flag, metavar and group.
    """
    fields = {}
    for name, schema in TypeAdapter(record).json_schema()["properties"].items():
        for part in schema.pop("anyOf", ()):
            schema |= part if part["type"] != "null" else {}
        if "flag" in schema:
            schema["flag"] = schema["flag"] or f"--{name.replace('_', '-')}"
        parts = schema.get("description"), ", ".join(schema.get("enum", ()))
        schema["text"] = ": ".join(filter(None, parts))
        fields[name] = schema
    return fields


def _read(
    kind: type[Record], fields: Any, key: str, where: str, base: Record | None = None
) -> Record:
    """A record from a mapping, on top of `base`.

    Raises UserError for an unknown key (`key` says of what) and for a wrong value, `where` named.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{where}: '{kind.__name__.lower()}' is not a mapping")
    _check_keys(kind, fields, key)
    try:
        return kind(**{**(vars(base) if base is not None else {}), **fields})
    except ValidationError as error:
        raise _message(kind, error.errors(include_url=False)[0], where) from None


def _check_keys(kind: Any, fields: Mapping[Any, Any], key: str, *others: str) -> None:
    """Raise UserError for a key that is no field of a record, or one of the others."""
    known = [f.name for f in dataclasses.fields(kind) if f.name not in others]
    for name in fields:
        if name not in known:
            raise unknown(key, str(name), known)


def _message(kind: type, fault: Mapping[str, Any], where: str) -> UserError:
    """One line for the first fault that pydantic has found."""
    name, value = str(fault["loc"][0]), fault["input"]
    field = settings_of(kind)[name]
    if fault["type"] == "value_error":
        return UserError(f"{where}: {fault['ctx']['error']}")
    if fault["type"] == "literal_error":
        hint = f"Choose from {', '.join(field['enum'])}."
        return unknown(f"{name} in {where}", str(value), field["enum"], hint)
    if fault["type"] == "string_pattern_mismatch":
        return UserError(f"{where}: {name} is empty")
    if "minimum" in field:
        try:
            errors.check_whole(value, f"{where}: {name} is", field["minimum"], field["maximum"])
        except UserError as error:
            return error
    should = "true or false" if field["type"] == "boolean" else "a text"
    return UserError(f"{where}: {name} is {errors.shown(value)}, not {should}")


def settings(fields: Any, where: str, base: Settings | None = None) -> Settings:
    """Settings from a mapping, on top of `base`. Raises UserError for unknown or wrong values."""
    return _read(Settings, fields, f"setting in {where}", where, base)


def pruning(fields: Any, where: str, base: Pruning | None = None) -> Pruning:
    """A Pruning from a mapping, on top of `base`. Raises UserError for unknown or wrong values."""
    return _read(Pruning, fields, f"key of pruning in {where}", where, base)


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
    _check_keys(Suite, parts, f"key in {where}", "parameters")
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
    for part in ("pooling", "max_length"):  # what is typed replaces what the suite's models say
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
        entry = _read(ModelEntry, fields, f"key for {of} in {where}", f"{where}: {of}")
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
