"""The rows of the results: what journals record, typed. See results.py, which reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

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
