"""Records of what is measured and chosen: metrics of a model, of a panel of models, pruning rules.

Letters in shapes: n texts, T tokens, d width, q views, h heads, L blocks, L + 1 states, M models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from lrd_harness.scores import Of

Values = Mapping[str, "float | Sequence[float] | Sequence[Sequence[float]]"]
Norm = Literal["raw", "final", "hf"]
Needs = Literal["pooled", "tokens", "views", "halves", "attention", "labels"]


class Choice(NamedTuple):
    """A score and which of its values is the better one."""

    score: str
    best: Literal["max", "min"] = "max"


@dataclass(frozen=True)
class Metric:
    """A label-free measure of a model's states (hook `lrd_metrics`).

    measure: `measure(states, **parameters)` gets what it needs of one sample, and returns a mapping
        from score name to a float (model level) or a list. Keywords with defaults are the metric's
        settings. A list of lists is kept as it is, one row per state. A metric that leaves out
        states at the beginning gives its lists as Profile(of, start, values).
    needs: what `measure` is called on, in float64 and finite, n >= 8, leading degenerate states
        left out: "pooled", a sequence of states (n, d_l); "tokens", one text's (T, d_l); "views",
        (n, q, d_l), noisy copies of the texts; "halves", (n, 2, d_l), the two halves of each text;
        "attention", one text's maps (h, T, T), block by block; "labels", pooled states, and as
        second argument the classes of the texts (n,), whole numbers from 0: only on tasks that have
        labels, and shown as a control. Where it sees one text at a time (tokens of S states of
        equal width as one tensor (S, T, d)), it gives the same scores in the same lengths for all,
        NaN where a layer has no value; UnitError leaves a text out.
    of: what its lists belong to, all of them or by name of score: "states" (S values where S are
        given), "steps" between them (S - 1, named by the earlier state), "inner states" (S - 2),
        "blocks" (S - 1: block l writes state l). By default the length tells, blocks apart; lists
        of an attention metric, which is given L maps, are of blocks.
    selection: the model-level score that ranks models.
    layer_choice: the per-layer score that chooses a layer; views: how many a "views" metric needs.
    margin: the per-layer score that says by how much a layer has to be ahead of the last one to be
        chosen in its place: the standard error, over the n texts (n - 1), of how much the
        mean that `layer_choice` names is above the last layer's.
    finish: for metrics that see one text at a time, from all texts' values to one result; by
        default each layer's mean.
    invariances: laws the conformance kit checks: "rotation", "scaling", "permutation".
    version: raise it when values change; unit: of the selection score ("radians"), "" for none.
    norm: which states it sees whatever the run's `norm` is: "raw", as the blocks write them;
        "final", all through the final norm; None: as the run says.
    group: a name that stands in `--plugins` for all metrics that bear it ("geometry").
    default: whether it is measured where no metric is named; None: where it needs pooled texts or
        tokens. For metrics that cost much: False.
    experimental: whether what speaks for it is not settled yet, which is said beside its name.
    evidence: what speaks for an experimental one so far, a sentence without its full stop.
    texts: how many distinct texts it needs at least. On fewer it is left out, which a run says in
        one line; where it was named itself, that is an error.
    """

    name: str
    measure: Callable[..., Values]
    needs: Needs = "pooled"
    selection: Choice | None = None
    layer_choice: Choice | None = None
    views: int = 0
    finish: Callable[[Sequence[Values]], Values] | None = None
    invariances: frozenset[str] = frozenset()
    version: str = "1"
    unit: str = ""
    of: Of | Mapping[str, Of] | None = None
    group: str = ""
    default: bool | None = None
    experimental: bool = False
    evidence: str = ""
    norm: Norm | None = None
    margin: str = ""
    texts: int = 8

    @property
    def by_default(self) -> bool:
        """Whether a run that names no metric measures it."""
        return self.needs in ("pooled", "tokens") if self.default is None else self.default


PanelValues = Mapping[str, "float | Mapping[str, float] | Mapping[str, Mapping[str, float]]"]


OTHER_FAMILIES = "_other_families"  # behind the name of a summary


class Summary(NamedTuple):
    """How a score by model comes from a matrix: the mean or median of its row, or of its column.

    best: which end of the score is published as the better one, "" for neither.
    """

    matrix: str
    of: Literal["mean", "median"] = "mean"
    along: Literal["row", "column"] = "row"
    best: Literal["max", "min", ""] = ""


@dataclass(frozen=True)
class PanelMetric:
    """A label-free measure of several models on the same texts (hook `lrd_panel_metrics`).

    measure: `measure(states, families, **parameters)` gets, by name of model, its state (n, d) in
        float64, row i of all models of the same text, and the family that it is of (None where
        that is not known). Returns a mapping from score name to a number (of the panel), numbers by
        model, or such mappings by model (a matrix, without its diagonal). It may raise UnitError,
        as where there are too few models. Keywords with defaults are its settings.
    states: which of a model's states it is given: "last", or what the user sets as its `layer`; or
        "all", then a sequence of L + 1.
    summaries: scores by model that the harness makes of its matrices, by name: Summary("pairs") is
        the mean of a row. Of three models or more; where families are known and some have several
        models, also NAME_other_families, without those of the model's own. A board shows their
        order with each model and each family left out.
    selection: the score by model that ranks models; unit: of that score, "" for none.
    version: raise it when values change.
    group: a name that stands in `--plugins` for all metrics that bear it ("panel").
    experimental: whether what speaks for it is not settled yet; evidence: what does so far, as a
        sentence without its full stop, which is said below its scores.
    texts: how many distinct texts it needs at least, as of `Metric`.
    """

    name: str
    measure: Callable[..., PanelValues]
    states: Literal["last", "all"] = "last"
    summaries: Mapping[str, Summary] = field(default_factory=dict)
    selection: Choice | None = None
    version: str = "1"
    unit: str = ""
    group: str = ""
    experimental: bool = False
    evidence: str = ""
    texts: int = 8


BlockValues = Sequence["float | None"]


class Evidence(Protocol):
    """What is known of one model, computed when it is first asked for; n texts, L blocks.

    In a run `profiles` are means over the tasks' samples; the rest is of a part of these texts.
    """

    @property
    def blocks(self) -> int:
        """L."""

    @property
    def profiles(self) -> Mapping[str, BlockValues]:
        """Values of all L blocks by METRIC.SCORE ("frenet.speed"); "block_influence": 1 - the mean
        cosine over tokens of the states before and after the block (arXiv 2403.03853); "ablation":
        what the output loses without that block alone, 0 or more: of a language model the KL
        divergence of the next token, nats, else 1 - the mean cosine of outputs over texts."""

    def angle(self, first: int, last: int) -> float:
        """Mean over the texts of arccos(cosine) / pi, 0..1, between what enters block `first` and
        what block `last` writes, at the last token (arXiv 2403.17887), of images as pooled."""

    def agreements(self, sets: Sequence[Sequence[int]]) -> Sequence[float]:
        """Of each set of blocks, the mean over texts of the cosine, -1..1, between the pooled last
        states of the model without them and of the full model."""


@dataclass(frozen=True)
class Pruner:
    """A rule that chooses blocks to remove (hook `lrd_pruners`).

    choose: `choose(evidence, candidates, m, seed)` returns m of the candidate blocks, given in
        ascending order and numbered from 1; ties go to the deeper block.
    metrics: whose profiles it reads; seeded: whether `seed` changes the choice.
    nested: whether the blocks chosen for a smaller m are always among those for a larger one.
    default: whether it chooses where no rule is named; False for rules that cost much.
    version: raise it when choices change.
    """

    name: str
    choose: Callable[[Evidence, Sequence[int], int, int], Sequence[int]]
    metrics: tuple[str, ...] = ()
    seeded: bool = False
    nested: bool = True
    description: str = ""
    version: str = "1"
    default: bool = True
