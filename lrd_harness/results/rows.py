"""What a run's folder may hold: the kinds of values in journals and run.json, checked on reading.

A journal's record is of the form of its row class in rows.py, and run.json of `Run`. What is not
known here is let through: it is of a later version.

The rows of the results: what journals record, typed. See results.py, which reads them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Required,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

Depth = Annotated[int, range(100_001)]  # a number of layers or blocks; no model has more
Value = Annotated[float, list]  # a stranger's metric may keep a list (a histogram) beside numbers


class Key(NamedTuple):
    """What tells one model from another in the results."""

    model: str
    revision: str
    variant: str


class Profile(NamedTuple):
    """A score per layer: values[i] belongs to state (or block, or step) layers[i]."""

    layers: tuple[int, ...]
    values: tuple[float | None, ...]


class Table(NamedTuple):
    """Several numbers a layer: rows[i] belongs to state layers[i]."""

    layers: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What every record says: of which model it is."""

    model: str
    revision: str = ""
    variant: str = "full"

    @property
    def key(self) -> Key:
        return Key(self.model, self.revision, self.variant)


@dataclass(frozen=True, kw_only=True)
class ModelRow(Row):
    """A model; all None where it appears in other records only (it could not be opened).

    released: when, as in releases.py; None where not known, and in records that were made before
    it was recorded.
    """

    parameters: int | None = None
    blocks: Depth | None = None
    width: int | None = None
    pooling: str | None = None
    max_length: int | None = None
    family: str | None = None
    adapter: str | None = None
    released: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRow(Row):
    """A task's score at one layer, 0..layers (L); layer L is the model itself.

    stderr: the score's standard error over the task's documents; chance: what guessing gets; None
    where the task has none.
    """

    task: str
    task_type: str = ""
    layer: Depth
    layers: Depth
    score_name: str = ""
    score: float
    stderr: float | None = None
    chance: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def last(self) -> bool:
        return self.layer == self.layers


@dataclass(frozen=True, kw_only=True)
class MetricRow(Row):
    """A metric's values on n texts of one task; states before `start` were degenerate.

    task_type: "" in records that were made before metrics said it. layer_choice: the profile that
    chooses a layer, and which of its values does. tables: several numbers a layer, as a histogram.
    """

    task: str
    task_type: str = ""
    metric: str
    version: str = "1"
    n: int
    start: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    selection: tuple[str, Literal["max", "min"]] | None = None
    layer_choice: tuple[str, Literal["max", "min"]] | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ErrorRow(Row):
    """What went wrong with one unit: "NotFinite: state 3 holds NaN".

    task, layer, metric, rule: where it happened, None where the error is of something wider; rule:
    of a pruning rule that chose no blocks.
    """

    task: str | None = None
    layer: int | None = None
    metric: str | None = None
    rule: str | None = None
    error: str


@dataclass(frozen=True, kw_only=True)
class UndefinedRow(Row):
    """A layer at which a task has no score, though nothing failed: its states are all the same."""

    task: str
    layer: int
    error: str


@dataclass(frozen=True, kw_only=True)
class CaptureRow(Row):
    """Counters of a model's forward pass, in texts; seconds of wall time."""

    texts: int
    forwarded: int
    tokens: int
    truncated: int
    empty: int
    duplicates: int
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TextsRow(Row):
    """What a task's texts are like: how many it asks for, and how many of these are odd."""

    task: str
    asked: int
    duplicates: int
    empty: int
    truncated: int


@dataclass(frozen=True, kw_only=True)
class PruningRow(Row):
    """A rule's choice at one budget: the blocks that go, 1-based, and the variant without them.

    variant: rules that choose the same blocks share one, and its scores; seed: None of a rule that
    draws nothing; budget: a share of `candidates`, the blocks that could go; blocks: L; n: how many
    texts the choice was made on; version: the rule's.
    """

    rule: str
    seed: int | None = None
    budget: float
    removed: tuple[int, ...]
    candidates: tuple[int, ...] = ()
    blocks: Depth
    n: int | None = None
    version: str = "1"
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepRow(Row):
    """What was asked for last of a model's sweep: the units of its choices, and its tasks."""

    choices: tuple[str, ...]
    tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VariantRow(Row):
    """A pruned model: what is left of its parameters and of its time.

    removed: 1-based; latency: seconds of one forward pass, latency_full: of the whole model's on
    the same texts; None where not measured.
    """

    removed: tuple[int, ...]
    parameters: int | None = None
    parameters_full: int | None = None
    latency: float | None = None
    latency_full: float | None = None


@dataclass(frozen=True)
class Results:
    """All that is recorded of a run, one row a unit; models in order of first appearance."""

    models: tuple[ModelRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    errors: tuple[ErrorRow, ...] = ()
    captures: tuple[CaptureRow, ...] = ()
    undefined: tuple[UndefinedRow, ...] = ()
    prunings: tuple[PruningRow, ...] = ()
    variants: tuple[VariantRow, ...] = ()
    sweeps: tuple[SweepRow, ...] = ()


KINDS = {
    "capture": CaptureRow,
    "error": ErrorRow,
    "metric": MetricRow,
    "model": ModelRow,
    "pruning": PruningRow,
    "score": ScoreRow,
    "sweep": SweepRow,
    "texts": TextsRow,
    "undefined": UndefinedRow,
    "variant": VariantRow,
}
LACKS = "lacks"
Slice = Annotated[str, re.compile(r"[1-9][0-9]{0,5}/[1-9][0-9]{0,5}")]
PLAIN: dict[Any, set[type]] = {
    int: {int},
    float: {float},
    float | None: {float, types.NoneType},
}
Fault = Callable[[Any, str], str]  # of a value and what it is called: "", or what is wrong


class Named(TypedDict, total=False):
    """A task of a run."""

    name: Required[str]


class Model(Named, total=False):
    """A model of a run."""

    path: Required[str]
    revision: Required[str]
    label: Required[str]


class Measured(Named, total=False):
    """A metric of a run."""

    version: Required[str]
    parameters: Required[Mapping[str, Any]]


class Counters(TypedDict, total=False):
    """What was read, in all and by model, and by task what its texts are like."""

    total: Mapping[str, float]
    models: Mapping[str, Mapping[str, float]]
    met: Mapping[str, Mapping[str, Mapping[str, float]]]


class Part(TypedDict, total=False):
    """What a run says of itself; in a merge, of each of its parts."""

    command: tuple[str, ...]
    begun: str | None
    finished: str | None
    errors: int
    shards: tuple[Slice, ...]
    counters: Counters
    versions: Mapping[str, str]
    environment: Mapping[str, Any]


class Order(TypedDict, total=False):
    """Of the whole of which this is a slice."""

    models: tuple[str, ...]
    tasks: tuple[str, ...]


class Run(Part, total=False):
    """run.json."""

    suite: str | None
    settings: Mapping[str, Any]
    models: tuple[Model, ...]
    tasks: tuple[Named, ...]
    metrics: tuple[Measured, ...]
    data: Mapping[str, str]
    pruning: Mapping[str, Any] | None
    merged: Mapping[str, Part]
    order: Order


def record_fault(record: Any) -> str:
    """What is wrong with a record of a journal; "" for nothing."""
    if not isinstance(record, dict):
        return f"not a journal record: it is {_kind(record)}, not a mapping"
    for name in ("unit", "kind"):
        if not isinstance(record.get(name), str):
            what = f"'{name}' is no text" if name in record else f"it has no {name}"
            return f"not a journal record: {what}"
    cls = KINDS.get(record["kind"])
    fault = _fault_of(cls)(record, "") if cls is not None else ""
    if not fault:
        return ""
    mark = "" if fault.startswith(LACKS) else ":"
    return f"the {record['kind']} record of unit '{record['unit']}'{mark} {fault}"


def run_fault(held: Any) -> str:
    """What is wrong with what run.json holds; "" for nothing."""
    return _fault_of(Run)(held, "")


WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
WORDS |= {types.NoneType: "null", list: "a list", dict: "a mapping"}


def _kind(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 63:
        return "beyond 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    return WORDS.get(type(value), type(value).__name__)


def _called(above: str, name: object) -> str:
    return f"{above}.{name}" if above else str(name)


@functools.cache
def _fault_of(hint: Any) -> Fault:
    """The check of a type: JSON's own, a choice of them, lists, mappings, and forms of fields."""
    if hint is Any:
        return lambda value, name: ""
    if dataclasses.is_dataclass(hint) or is_typeddict(hint) or hasattr(hint, "_fields"):
        return _fields(hint)
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated and isinstance(inside[1], range):
        return _within(inside[1])
    if origin is Annotated and isinstance(inside[1], re.Pattern):
        held: re.Pattern[str] = inside[1]
        return _test(lambda value: isinstance(value, str) and held.fullmatch(value), "I/N")
    if origin is Annotated:
        return _either([_fault_of(inside[0]), _list((inside[0], ...))])
    if origin is Literal:
        return _test(lambda value: value in inside, " or ".join(map(repr, inside)))
    if origin in (Union, types.UnionType):
        return _either([_fault_of(one) for one in inside])
    if origin is tuple:
        return _list(inside)
    if origin is not None:
        return _mapping(_fault_of(inside[1]))
    if hint is float:
        return _test(_is_number, WORDS[float])
    if hint is int:
        return _within(range(-(2**63), 2**63))
    return _test(lambda value: type(value) is hint, WORDS[hint])


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float and math.isfinite(value)


def _test(holds: Callable[[Any], object], what: str) -> Fault:
    def fault(value: Any, name: str) -> str:
        return "" if holds(value) else f"{name} is {_kind(value)}, not {what}"

    return fault


def _within(numbers: range) -> Fault:
    def fault(value: Any, name: str) -> str:
        if type(value) is not int or value.bit_length() > 63:
            return f"{name} is {_kind(value)}, not a whole number"
        span = f"{numbers.start} to {numbers.stop - 1}"
        return "" if value in numbers else f"{name} is {value}, not one of {span}"

    return fault


def _either(faults: list[Fault]) -> Fault:
    def fault(value: Any, name: str) -> str:
        if all(one(value, "") for one in faults):
            return faults[0](value, name)
        return ""

    return fault


def _list(inside: tuple[Any, ...]) -> Fault:
    """The check of lists of one type, `tuple[int, ...]`, or of one type a place."""
    each = [_fault_of(one) for one in inside if one is not ...]
    any_length = ... in inside
    kinds: set[type] = PLAIN.get(inside[0], set())

    def fault(value: Any, name: str) -> str:
        if not isinstance(value, list):
            return f"{name} is {_kind(value)}, not a list"
        if not any_length and len(value) != len(each):
            return f"{name} has {len(value)} values, not {len(each)}"
        if any_length and _are_plain(value, kinds):
            return ""
        faults = each * len(value) if any_length else each
        names = (f"{name}[{place}]" for place in range(len(value)))
        found = (one(v, n) for one, v, n in zip(faults, value, names, strict=True))
        return next(filter(None, found), "")

    return fault


def _are_plain(value: list[Any], kinds: set[type]) -> bool:
    """Whether all are of these types and usual, found out without a call a value."""
    if not set(map(type, value)) <= kinds:
        return False
    if int in kinds:
        return not value or (min(value) >= -(2**63) and max(value) < 2**63)
    return math.isfinite(sum(filter(None, value)))


def _mapping(each: Fault) -> Fault:
    def fault(value: Any, name: str) -> str:
        if not isinstance(value, dict):
            return f"{name} is {_kind(value)}, not a mapping"
        found = (each(inner, _called(name, key)) for key, inner in value.items())
        return next(filter(None, found), "")

    return fault


def _fields(cls: Any) -> Fault:
    """The check of a mapping with known fields; the lists of a named tuple are equally long."""
    hints = get_type_hints(cls, include_extras=True)
    needed: list[str] = list(getattr(cls, "_fields", ()))
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        needed = [
            f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is missing
        ]
    needed = [k for k, v in hints.items() if k in needed or get_origin(v) is Required]
    bare = {k: get_args(v)[0] if get_origin(v) is Required else v for k, v in hints.items()}
    faults = {name: _fault_of(hint) for name, hint in bare.items()}

    def fault(value: Any, name: str) -> str:
        if not isinstance(value, dict):
            return f"{name or 'it'} is {_kind(value)}, not a mapping"
        lacking = [part for part in needed if part not in value]
        if lacking:
            return f"{name} {LACKS} {', '.join(lacking)}".lstrip()
        for part, check in faults.items():
            found = check(value[part], _called(name, part)) if part in value else ""
            if found:
                return found
        if hasattr(cls, "_fields") and len({len(value[part]) for part in needed}) > 1:
            return f"{name} has lists of unequal length"
        return ""

    return fault
