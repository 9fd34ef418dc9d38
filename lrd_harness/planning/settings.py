"""What holds for the whole of a run: records of settings and of pruning, field by field.

Each field says what it is, its bounds and its default. The options of the command line and the
messages for wrong values are made from that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
from lrd_harness.contracts import Mask, Norm
from lrd_harness.errors import UserError, unknown

WHAT = "what to run"
HOW = "how models are read (default: as each was made to be)"
COMPARED = "texts on which tokens and outputs are compared"
BLOCKS = "pruning (with --prune: blocks removed by rules, and scores)"
STRICT = ConfigDict(strict=True)
# what needs no hub, for studies without inputs of one's own, by what models read
STUDY_TASKS = {"text": "LeeDocumentSTS", "image": "DigitsImageClustering"}
STUDY_DIGITS = 200  # of these at most: an image takes as long as a long text
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


def prompt_table(value: Any) -> Any:
    if value is None or (
        isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())
    ):
        return value
    raise ValueError("prompts is not a mapping from names to texts")


def _names(value: Any, info: ValidationInfo) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"{info.field_name} is not a list of names")
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
Trusted = Annotated[tuple[str, ...], BeforeValidator(_names)]


@dataclass(frozen=True, config=STRICT)
class Settings:
    """What holds for the whole of a run; each field says what it is."""

    layers: Annotated[str | tuple[int, ...], BeforeValidator(_layers)] = _option(
        "all", "layers to evaluate: all, last, or numbers 0,3,6", "LAYER", WHAT
    )
    max_texts: int = _count(5000, "texts a metric is measured on at most", 8)
    view_texts: int = _count(1000, "of these, texts that get augmented views, or are halved", 8)
    norm: Norm = _option("hf", "states for metrics")
    task_data: Word | None = _option(
        None, "local data: DIR/TASK/SPLIT.jsonl, of images also DIR/NAME/CLASS/", "DIR", WHAT
    )
    pooling: Word | None = _option(
        None, "cls, mean, last, mean-no-sink (without position 0); of images cls-mean, pooler"
    )
    max_length: int | None = _count(None, "tokens that a text is cut to", 1)
    dtype: Literal["float32", "bfloat16", "float16"] = _option("float32", "precision")
    store_dtype: Literal["float32", "bfloat16", "float16"] = _option(
        "float32", "precision in which the store keeps pooled states"
    )
    attention: Word | None = _option(None, "attention implementation, as eager or sdpa")
    attention_mask: Mask | None = _option(None, "what a decoder's token sees", "MASK")
    padding: Literal["right", "left"] = _option("right", "side of padding")
    device: Word = _option("auto", "cpu, cuda, cuda:1, mps, or auto: what is there")
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = _option(
        None, "spread a model over the GPUs of a process", "HOW"
    )
    batch_tokens: int = _count(0, "tokens per batch, padding included; 0: by device", 0)
    trust_remote_code: Trusted = _option(
        (), "models, by the names given, whose own code is run (default: none)", "MODEL"
    )
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
    plugin_timeout: int | None = _count(
        None, "seconds that a call of a plugin not shipped may take", 1, errors.SECONDS, WHAT
    )

    def results(self) -> dict[str, Any]:
        """The settings that change a result, as opposed to speed or extent.

        task_data is not among them: run.json keeps what lies there, not where it lies.
        """
        free = (
            "layers device device_map batch_tokens task_data include_path trust_remote_code "
            "plugin_timeout"
        ).split()
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
    text_samples: int = _count(
        1,
        "random halves of the texts to choose on again, which shows a choice's spread (1: none)",
        1,
        errors.DRAWS,
        BLOCKS,
    )
    texts: int = Field(default=256, ge=8, le=errors.COUNT, description=COMPARED)
    indexing: Indexing = Field(default="block", description="how profiles become values of blocks")

    @property
    def written(self) -> dict[str, Any]:
        """As run.json has it: as earlier versions wrote it where no text samples are drawn."""
        more = {"text_samples"} if self.text_samples == 1 else set()
        return {name: value for name, value in vars(self).items() if name not in more}


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


def read_record(
    kind: type[Record], fields: Any, key: str, where: str, base: Record | None = None
) -> Record:
    """A record from a mapping, on top of `base`.

    Raises UserError for an unknown key (`key` says of what) and for a wrong value, `where` named.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{where}: '{kind.__name__.lower()}' is not a mapping")
    check_keys(kind, fields, key)
    try:
        return kind(**{**(vars(base) if base is not None else {}), **fields})
    except ValidationError as error:
        raise _message(kind, error.errors(include_url=False)[0], where) from None


def check_keys(kind: Any, fields: Mapping[Any, Any], key: str, *others: str) -> None:
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
    return read_record(Settings, fields, f"setting in {where}", where, base)


def pruning(fields: Any, where: str, base: Pruning | None = None) -> Pruning:
    """A Pruning from a mapping, on top of `base`. Raises UserError for unknown or wrong values."""
    return read_record(Pruning, fields, f"key of pruning in {where}", where, base)
