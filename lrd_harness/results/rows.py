"""The rows of the results: what journals record, typed, and all their numbers as one frame.

A journal's record is of the form of its row class, and run.json of `journal.Run`; both are checked
on reading. What is not known here is let through: it is of a later version. The tables of the
SQLite file are made of the same classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, WrapValidator

from lrd_harness import images
from lrd_harness.contracts import LIKELIHOOD, Summary

if TYPE_CHECKING:
    import pandas as pd


def _number_or_list(value: Any, number: Callable[[Any], float]) -> Any:
    return value if isinstance(value, list) else number(value)


# JSON's own numbers: no texts that could be read as one, no true and false
Whole = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Depth = Annotated[int, Field(strict=True, ge=0, le=100_000)]  # of layers or blocks
# a metric of another author may keep a list (a histogram) beside numbers
Value = Annotated[Number, WrapValidator(_number_or_list)]
Score = str  # the name of one
Best = tuple[Score, Literal["max", "min"]]  # the name of a score, and which of its values is better
Kind = Literal["embedding", "base", "image"]  # of tasks: each has a board of its own


def kind_of(task_type: str) -> Kind:
    """The kind of the tasks of a type.

    >>> [kind_of(of) for of in ("STS", "LogLikelihood", "ImageClassification", "VisualSTS(eng)")]
    ['embedding', 'base', 'image', 'image']
    """
    if task_type == LIKELIHOOD:
        return "base"
    return "image" if images.on_images(task_type) else "embedding"


class Key(NamedTuple):
    """What tells one model from another in the results."""

    model: str
    revision: str
    variant: str


class Profile(NamedTuple):
    """A score per layer: values[i] belongs to state (or step) layers[i].

    of: "blocks" where that is a block, told by the state that it writes; "" where it is not said.
    """

    layers: tuple[Whole, ...]
    values: tuple[Number | None, ...]
    of: str = ""


class Table(NamedTuple):
    """Several numbers per layer: rows[i] belongs to state layers[i]."""

    layers: tuple[Whole, ...]
    rows: tuple[tuple[Number, ...], ...]


def _even(value: Any, check: Callable[[Any], Any]) -> Any:
    if not isinstance(value, dict):
        raise ValueError("is no mapping")
    layers, values, *_ = by_layer = check(value)
    if len(layers) != len(values):
        raise ValueError("has lists of unequal length")
    return by_layer


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

    released: an ISO date as exact as it is known, YYYY-MM-DD, YYYY-MM or YYYY; None where it is
    not known, and in records that were made before it was recorded.
    """

    parameters: Whole | None = None
    blocks: Depth | None = None
    width: Whole | None = None
    pooling: str | None = None
    max_length: Whole | None = None
    family: str | None = None
    adapter: str | None = None
    released: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRow(Row):
    """A task's score at one layer, 0..layers (L); layer L is the model itself.

    stderr: the score's standard error over the task's documents; chance: what guessing gets; None
    where the task has none. scores: every score of the task's own library.
    """

    task: str
    task_type: str = ""
    layer: Depth
    layers: Depth
    score_name: str = ""
    score: Number
    scores: Mapping[str, Number] = field(default_factory=dict)
    seconds: Number = 0.0
    stderr: Number | None = None
    chance: Number | None = None

    @property
    def last(self) -> bool:
        return self.layer == self.layers


@dataclass(frozen=True, kw_only=True)
class MetricRow(Row):
    """A metric's values on n texts of one task; states before `start` were degenerate.

    task_type: "" in records that were made before metrics said it. layer_choice: the profile that
    chooses a layer, and which of its values does; margin: the profile that says how sure its lead
    is. tables: several numbers per layer, as a histogram. control: whether it uses the task's
    labels. pairs: of a panel metric, by name of score this model's value with each other model of
    the panel, which parameters["panel"] lists as NAME@REVISION; {} where it gives none, None of a
    metric of one model. summaries: which of its values come from which pairs.
    """

    task: str
    metric: str
    version: str = "1"
    n: Whole
    start: Whole = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    selection: Best | None = None
    layer_choice: Best | None = None
    margin: Score = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    profiles: Mapping[str, Annotated[Profile, WrapValidator(_even)]] = field(default_factory=dict)
    tables: Mapping[str, Annotated[Table, WrapValidator(_even)]] = field(default_factory=dict)
    seconds: Number = 0.0
    task_type: str = ""
    control: bool = False
    pairs: Mapping[str, Mapping[str, Number]] | None = None
    summaries: Mapping[str, Summary] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ErrorRow(Row):
    """What went wrong with one unit: "NotFinite: state 3 holds NaN".

    task, layer, metric, rule: where it happened, None where the error is of something wider; rule:
    of a pruning rule that chose no blocks.
    """

    task: str | None = None
    layer: Whole | None = None
    metric: str | None = None
    rule: str | None = None
    error: str


@dataclass(frozen=True, kw_only=True)
class UndefinedRow(Row):
    """A layer at which a task has no score, though nothing failed: its states are all the same."""

    task: str
    layer: Whole
    error: str


@dataclass(frozen=True, kw_only=True)
class CaptureRow(Row):
    """Counters of a model's forward pass, in texts; seconds of wall time."""

    texts: Whole
    forwarded: Whole
    tokens: Whole
    truncated: Whole
    empty: Whole
    duplicates: Whole
    seconds: Number = 0.0


@dataclass(frozen=True, kw_only=True)
class TextsRow(Row):
    """What a task's texts are like: how many it asks for, and how many of these are odd.

    length: mean over the different ones, in characters; None of images, and in older records.
    """

    task: str
    asked: Whole
    duplicates: Whole
    empty: Whole
    truncated: Whole
    length: Number | None = None


@dataclass(frozen=True, kw_only=True)
class PruningRow(Row):
    """A rule's choice at one budget: the blocks that go, 1-based, and the variant without them.

    variant: rules that choose the same blocks share one, and its scores; seed: None of a rule that
    draws nothing; budget: a share of `candidates`, the blocks that could go; blocks: L; n: how many
    texts the choice was made on; version: the rule's.
    """

    rule: str
    seed: Whole | None = None
    budget: Number
    removed: tuple[Whole, ...]
    candidates: tuple[Whole, ...] = ()
    blocks: Depth
    n: Whole | None = None
    version: str = "1"
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class SweepRow(Row):
    """What was asked for last of a model's sweep: the units of its choices, and its tasks.

    beside: the units of what is told of the rules beside their scores.
    """

    choices: tuple[str, ...]
    tasks: tuple[str, ...]
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AblationRow(Row):
    """What a model's output loses without each of its blocks alone, on n texts.

    effects: by name of the loss ("kl", "cosine_loss", "rsa_loss") a value per block 1..L, None
    where it is not finite; the first one is what rules look at. The record also has what each text
    loses, for halves of the texts.
    """

    effects: Mapping[str, tuple[Number | None, ...]]
    n: Whole
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class OrderRow(Row):
    """In which order a rule removes the candidates: the earlier, the more often one is chosen.

    chosen: of each candidate, at how many of the numbers m = 1 .. candidates - 1 of blocks to
    remove it is among them; () where the rule cannot choose at all of them.
    """

    rule: str
    seed: Whole | None = None
    candidates: tuple[Whole, ...]
    chosen: tuple[Whole, ...]
    version: str = "1"
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class RedrawRow(Row):
    """What a rule chooses on random halves of the texts.

    removed: of each half on which it can choose; draws: how many halves there were.
    """

    rule: str
    budget: Number
    removed: tuple[tuple[Whole, ...], ...]
    draws: Whole
    candidates: tuple[Whole, ...] = ()
    version: str = "1"
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class VariantRow(Row):
    """A pruned model: what is left of its parameters and of its time.

    removed: 1-based; latency: seconds of one forward pass, latency_full: of the whole model's on
    the same texts; perplexity, perplexity_full alike, on some of the tasks' texts; None where not
    measured, as of a model without a language-model head. others: whether these are other texts
    than those that blocks are chosen on.
    """

    removed: tuple[Whole, ...]
    parameters: Whole | None = None
    parameters_full: Whole | None = None
    latency: Number | None = None
    latency_full: Number | None = None
    perplexity: Number | None = None
    perplexity_full: Number | None = None
    others: bool = False


COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("model", "revision", "variant", "side", "task", "task_type"), "str"),
    **dict.fromkeys(("kind", "source", "name"), "str"),
    **dict.fromkeys(("layer", "layers"), "Int64"),
    **dict.fromkeys(("value", "stderr", "chance"), "float64"),
    **dict.fromkeys(("n", "start"), "Int64"),
}  # of Results.frame: name -> pandas type


@dataclass(frozen=True)
class Results:
    """All that is recorded of a run, one row per unit; models in order of first appearance.

    What has a number per model, task and layer is in `frame` as well; the rest is rows only.
    """

    models: tuple[ModelRow, ...] = ()
    scores: tuple[ScoreRow, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    errors: tuple[ErrorRow, ...] = ()
    captures: tuple[CaptureRow, ...] = ()
    undefined: tuple[UndefinedRow, ...] = ()
    prunings: tuple[PruningRow, ...] = ()
    variants: tuple[VariantRow, ...] = ()
    sweeps: tuple[SweepRow, ...] = ()
    texts: tuple[TextsRow, ...] = ()
    ablations: tuple[AblationRow, ...] = ()
    orders: tuple[OrderRow, ...] = ()
    redraws: tuple[RedrawRow, ...] = ()

    @functools.cached_property
    def frame(self) -> pd.DataFrame:
        """All scores and values of metrics, one per row; of a unit that was done twice the newer.

        Columns, all there also where there are no rows:

        model, revision, variant: the key of a model; variant "full", or a pruned one.
        side: "base" for likelihood tasks, "image" for tasks on images, else "embedding"; they are
            never averaged.
        task, task_type: "" where the type is not recorded.
        kind: "score" (a task's main score), "subscore" (a further one), "value" (a metric's value
            of the whole model), "profile" (its value of a layer); of a metric that uses labels
            "control value" and "control profile".
        source: "score" for both kinds of score, else the metric's name. name: the score's name.
        layer: 0..L, nullable, of a block that of the state it writes; NA for values of the model.
            layers: L, NA where it is not known.
        value: the number; NaN where a profile has none. stderr, chance: of main scores, or NaN.
        n: the texts that a metric was measured on. start: its first sound state. NA for scores.

        Lists of numbers (histograms) are in the rows of `metrics` alone.
        """
        import pandas as pd

        rows = [*self._of_scores(), *self._of_metrics()]
        return pd.DataFrame.from_records(rows, columns=[*COLUMNS]).astype(dict(COLUMNS))

    def kind(self, row: ScoreRow | MetricRow | UndefinedRow) -> Kind:
        """The kind of a row's task; where nothing tells, that of a model of images alone."""
        if task_type := getattr(row, "task_type", ""):
            return kind_of(task_type)
        unknown: Kind = "image" if row.key[:2] in self._of_images else "embedding"
        return self.kinds.get(row.task, unknown)

    @functools.cached_property
    def _of_images(self) -> set[tuple[str, str]]:
        """Model and revision of those whose tasks of known type are all on images."""
        rows: list[MetricRow | ScoreRow] = [*self.metrics, *self.scores]
        kinds = {(row.key[:2], self.kinds.get(row.task)) for row in rows}
        others = {key for key, kind in kinds if kind not in ("image", None)}
        return {key for key, kind in kinds if kind == "image"} - others

    @functools.cached_property
    def kinds(self) -> Mapping[str, Kind]:
        """Task -> its kind, where scores or metrics know its type; a score has the last word.

        Metrics recorded before they said their task's type leave it to the scores.
        """
        types = {row.task: row.task_type for row in self.metrics if row.task_type}
        types |= {row.task: row.task_type for row in self.scores if row.task_type}
        return {task: kind_of(task_type) for task, task_type in types.items()}

    def _of_scores(self) -> Iterator[tuple[Any, ...]]:
        """The rows of the frame that are made of scores."""
        for row in {(row.key, row.task, row.layer): row for row in self.scores}.values():
            of = *row.key, self.kind(row), row.task, row.task_type
            scores = [("score", row.score_name, row.score)]
            scores += [("subscore", name, score) for name, score in row.scores.items()]
            about = row.stderr, row.chance, None, None
            for kind, name, score in scores:
                yield *of, kind, "score", name, row.layer, row.layers, score, *about

    def _of_metrics(self) -> Iterator[tuple[Any, ...]]:
        """The rows of the frame that are made of metrics."""
        depths = {row.key: row.blocks for row in self.models}
        depths |= {row.key: row.layers for row in self.scores}  # a pruned model has fewer
        for row in {(row.key, row.task, row.metric): row for row in self.metrics}.values():
            of = *row.key, self.kind(row), row.task, row.task_type
            values: list[tuple[str, str, int | None, float | None]] = [
                ("value", name, None, value)
                for name, value in row.values.items()
                if isinstance(value, int | float)
            ]
            for name, profile in row.profiles.items():
                by_layer = zip(profile.layers, profile.values, strict=True)
                values += [("profile", name, layer, value) for layer, value in by_layer]
            about = None, None, row.n, row.start
            for kind, name, layer, value in values:
                kind = f"control {kind}" if row.control else kind
                yield *of, kind, row.metric, name, layer, depths.get(row.key), value, *about


# by the kind that a record says it is of: ScoreRow is "score"
KINDS: Mapping[str, Any] = {
    row.__name__.removesuffix("Row").lower(): row for row in Row.__subclasses__()
}
