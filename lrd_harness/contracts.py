"""The records through which plugins and the core meet, and what an opened model offers.

Letters in shapes: n texts, b of a batch, T tokens, d width, q views, L blocks, L + 1 states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from lrd_harness.measures import BlockValues as BlockValues
from lrd_harness.measures import Choice as Choice
from lrd_harness.measures import Evidence as Evidence
from lrd_harness.measures import Metric as Metric
from lrd_harness.measures import Norm as Norm
from lrd_harness.measures import PanelMetric as PanelMetric
from lrd_harness.measures import PanelValues as PanelValues
from lrd_harness.measures import Pruner as Pruner
from lrd_harness.measures import Summary as Summary
from lrd_harness.measures import Values as Values
from lrd_harness.report import Report

if TYPE_CHECKING:
    import argparse

    import numpy as np
    import torch

Experiments = Sequence[Mapping[str, Any]]  # names a result is kept under; {}: the model's own


class ModelView(Protocol):
    """What a task evaluates: one layer of a model (or a pruned variant) as an encoder."""

    name: str
    revision: str
    similarity: str
    experiments: Experiments

    def encode(
        self, texts: Sequence[str], task: Task, prompt_type: PromptType | None = None
    ) -> np.ndarray:
        """Embeddings, (len(texts), width) float32, in the order of the texts."""


class LikelihoodView(Protocol):
    """What a likelihood task evaluates: one layer of a language model, read through its head."""

    name: str
    revision: str
    experiments: Experiments

    def loglikelihoods(self, requests: Sequence[Continuation]) -> Sequence[tuple[float, bool]]:
        """Of each request, log P(continuation | context) in nats; whether it is the likeliest."""


@dataclass(frozen=True)
class ModelInfo:
    """What the leaderboard says of a model."""

    parameters: int
    blocks: int
    width: int
    pooling: str
    max_length: int
    family: str


# one text's token features, {"input_ids": [...], ...}, or {"image": Image, "tokens": T}
Encoded = Mapping[str, Any]
# States 0..L of a batch, (b, T, d_l) each as written, and its mask (b, T) -> planes (b, m) to keep
Observe = Callable[
    ["Sequence[torch.Tensor]", "torch.Tensor"], "Mapping[tuple[str, int], torch.Tensor]"
]


class Model(Protocol):
    """An opened model (made by an adapter; models/opened.py does most of the work).

    identity: all that changes a state, but prompt and text; similarity: of its outputs ("cosine",
    "dot", "euclidean", "manhattan"); head: None without one; headless: then why.
    """

    info: ModelInfo
    identity: dict[str, str]
    has_final_norm: bool
    blocks: torch.nn.ModuleList
    final_norm: torch.nn.Module | None
    tokenizer: Any
    similarity: str
    head: Any
    headless: str

    def prompt(self, task: Task, prompt_type: str | None) -> str:
        """The prompt that goes before a text of this task."""

    def tokenize(self, texts: Sequence[Text]) -> list[Encoded]:
        """Token features of each text, cut to the model's length."""

    def truncated(self, texts: Sequence[Text], encoded: Sequence[Encoded]) -> list[bool]:
        """Of each text, whether it was cut."""

    def states(
        self, batch: Sequence[Encoded], observe: Observe | None = None
    ) -> Mapping[tuple[str, int], torch.Tensor]:
        """One forward pass: ("raw" or "final", layer) -> pooled states (b, d_l) float32.

        observe: is given the pass's token states, and what it returns is added; for token metrics.
        """

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """From pooled states (n, d) to the model's output; see models/readout.embedded."""


class AttentiveModel(Model, Protocol):
    """An opened model that shows its attention, for metrics of it; others go without these."""

    def attention(self, encoded: Encoded) -> Sequence[torch.Tensor]:
        """One text's maps of block 1..L, (h, T, T) each, row t being what token t attends to.

        The tokens are the text's own, without padding. Raises UnitError where there are none.
        """


class BlockModel(Model, Protocol):
    """An opened model whose blocks can be run by themselves, for variants without some of them.

    padding: the side of shorter texts that is padded, "none" for texts of equal length only.
    """

    backbone: Any
    padding: str

    def features(self, batch: Sequence[Encoded]) -> Mapping[str, Any]:
        """A batch padded on the side `padding`, (b, T)."""

    def inputs(self, features: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        """Those of the features that the backbone itself takes."""

    def pooled(
        self, state: torch.Tensor, features: Mapping[str, Any]
    ) -> Mapping[str, torch.Tensor]:
        """Of a state (b, T, d), "raw" and, where there is a final norm, "final", (b, d) float32."""


class LanguageModel(BlockModel, Protocol):
    """An opened model with a head, for likelihood tasks; whole: as transformers has it."""

    whole: torch.nn.Module | None
    device: torch.device
    options: ModelOptions

    def watch(self, batch: Sequence[Encoded], seen: Callable[[int, torch.Tensor], None]) -> None:
        """One forward pass: `seen(l, state)` of state 0..L, (b, T, d_l), as written."""

    def length_limit(self, wanted: int) -> int:
        """The most tokens that a pass takes: as many as wanted, if the blocks bear so many."""

    def check_tokens(self, tokens: Sequence[int], text: str) -> None:
        """Raise UserError for a token that the model has no embedding of, naming the text."""

    def normed(self, state: torch.Tensor) -> torch.Tensor:
        """The final norm of single tokens' states (m, d), if there is one."""


PromptType = Literal["query", "document"]
Mask = Literal["causal", "bidirectional"]
Modality = Literal["text", "image"]
LIKELIHOOD = "LogLikelihood"  # the type of tasks that compare continuations by their probability


class Text(NamedTuple):
    """A text as a model reads it, under its prompt; or an images.Image, which has none."""

    text: str
    prompt: str = ""


class Request(NamedTuple):
    """A text or image, without prompt, that a task or one of its parts asks an encoder for.

    text: the text, or an images.Image; prompt_type: which of a task's prompts it is read with.
    part: of a task that stands for several, the one that asks; its prompt is that of the text.
    """

    text: str
    prompt_type: PromptType | None = None
    part: Task | None = None


@dataclass(frozen=True)
class Score:
    """A task's result at one layer.

    main: the task's main score, 0..1 for mteb's; name: what that score is called;
    stderr: over the task's documents; chance: what guessing gets; scores: further ones by name;
    native: the evaluating library's own result object.
    """

    main: float
    name: str
    stderr: float | None = None
    chance: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    native: Any = None


class Continuation(NamedTuple):
    """A request of a likelihood task: how probable is the continuation after the context?"""

    context: str
    continuation: str


class TokenPairs(NamedTuple):
    """Requests as (context, continuation) tokens; max_length: tokens that a pass takes."""

    pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
    max_length: int


@dataclass(frozen=True, eq=False)  # hashed by identity: a task is one object throughout a run
class Task:
    """A labelled task, or texts alone (hook `lrd_tasks`).

    texts: the texts without labels, for metrics; of a likelihood task its contexts.
    evaluate: the real score of a model view; None for texts without labels.
    requests: all texts that `evaluate` will ask for, by default found by a dry run; of a likelihood
        task all Continuations.
    type: the kind of task, in mteb's words ("STS", ...), or LIKELIHOOD; prompt: mteb's instruction.
    tokenize: of a likelihood task, its requests as a model's tokens; the same for all such tasks.
    check: raises UserError, cheaply and before any model is opened, if the data are out of reach.
    fingerprint: a hash of data that are the user's own and may change between runs; save: writes a
        score's native result file for this view under the run's output folder.
    place: of a task called after a file, where that lies: what tells it from others of its name.
    modality: what its texts are; where "image", each is an images.Image, the type one of images.
    labels: the class of each of `texts`, in their order, for metrics that need labels.
    version: raise it when texts or scores change.
    """

    name: str
    texts: Callable[[], Sequence[Request]]
    evaluate: Callable[[Any], Score] | None  # of a ModelView or a LikelihoodView
    type: str = "Texts"
    prompt: str | Mapping[str, str] | None = None
    requests: Callable[[], Sequence[Any]] | None = None  # Requests or Continuations
    description: str = ""
    check: Callable[[], None] | None = None
    save: Callable[[Score, Any, Path], None] | None = None
    fingerprint: Callable[[], str] | None = None
    tokenize: Callable[[LanguageModel, Sequence[Continuation]], TokenPairs] | None = None
    place: str = ""
    modality: Modality = "text"
    labels: Callable[[], Sequence[Any]] | None = None
    version: str = "1"

    @property
    def likelihood(self) -> bool:
        """Whether it needs a model with a language-model head."""
        return self.type == LIKELIHOOD


@dataclass(frozen=True)
class TaskOptions:
    """What a run tells every task.

    data: local data, DIR/TASK/SPLIT.jsonl. text_column: of a table of own texts. For lm-eval: the
    settings of these names (None: the task's own; limits below 1 are shares of the documents).
    """

    data: Path | None = None
    num_fewshot: int | None = None
    limit: float | None = None
    max_questions: float | None = None
    include_path: Path | None = None
    log_samples: bool = False
    text_column: str = "text"


@dataclass(frozen=True)
class TaskFamily:
    """Tasks that are made on demand from a name (hook `lrd_tasks`): `mteb:STSBenchmark`.

    names: those known without network. open: a task from its name, or the several tasks that it
        stands for; raises KeyError for a name that the family does not know.
    bare: whether names may be typed without the family's prefix; offline: whether no hub is needed.
    """

    name: str
    names: Callable[[], Mapping[str, str]]  # name -> type
    open: Callable[[str, TaskOptions], Task | Sequence[Task]]
    bare: bool = False
    offline: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A model found, before it is opened.

    name: as results call it; path: a local folder or hub id that transformers can load;
    revision: commit, version or content hash; content: a checksum beside a mere version;
    hub: whether path is a hub id; base: what adapters of weights go onto.
    config: its config.json; files: file names in it; code: sha256 by file of own code;
    peft: adapters of weights that go onto `base` in this order, config their adapter_config.json.
    """

    name: str
    path: str
    revision: str
    config: Mapping[str, Any]
    files: frozenset[str]
    hub: bool = False
    content: str = ""
    peft: tuple[Checkpoint, ...] = ()
    base: Checkpoint | None = None
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def architectures(self) -> list[str]:
        """The classes that its config.json names."""
        listed = self.config.get("architectures")
        return [str(name) for name in listed] if isinstance(listed, list) else []


@dataclass(frozen=True)
class ModelOptions:
    """How a model is opened and read. None: as the model was made to be used.

    pooling: one of our own by name; max_length: tokens of a text, at most.
    dtype: torch's name of the precision; device: torch's name of it.
    attention: transformers' name of an implementation; prompts: by task, type or "query".
    padding: the side to pad, where both will do.
    device_map: how accelerate spreads the model over devices ("auto"); None: all on `device`;
    attention_mask: what a decoder's tokens see; head: whether one is wanted, for likelihood tasks;
    weights: False where all states are in the store: what tells of the model, and the modules
    behind its pooling, are enough. An adapter that knows no such way opens the model whole.
    """

    pooling: str | None = None
    max_length: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    device_map: str | Mapping[str, Any] | None = None
    attention: str | None = None
    attention_mask: Mask | None = None
    padding: Literal["right", "left"] = "right"
    prompts: Mapping[str, str] | None = None
    head: bool = False
    weights: bool = True


@dataclass(frozen=True)
class Adapter:
    """A way to open models (hook `lrd_adapters`).

    claims: whether it can open this checkpoint; adapters are asked in order of `priority`,
        highest first, and the first that claims it opens it, unless the user names one.
    open: the opened model, as the options say; models/text_model.py and image_model.py have some.
    priority: those that are shipped have 0 to 30, and of the same one are asked first.
    likelihoods: whether the models that it opens can have a language-model head.
    check: raises UserError, before anything is loaded, for a checkpoint that it cannot read.
    modality: what its models read; version: raise it when states change.
    """

    name: str
    claims: Callable[[Checkpoint], bool]
    open: Callable[[Checkpoint, ModelOptions], Model]
    priority: int = 0
    description: str = ""
    likelihoods: bool = False
    check: Callable[[Checkpoint], None] | None = None
    modality: Modality = "text"
    version: str = "1"


@dataclass(frozen=True)
class Reporter:
    """A form of a report (hook `lrd_reporters`): a text, or a folder of files.

    write: a Report as text in this form; "" where it has nothing to show, since a report may have
        any tables: a form that needs one asks `report.get(name)`.
    suffix: of the file that a run keeps the text in, as ".md"; description: one line for listings.
    files: a Report as files (path, contents), the path with / below the folder that the user names
        (`lrd-harness leaderboard OUT --format NAME --output DIR`).

    Raises ValueError unless exactly one of write and files is given; a folder has no suffix.
    """

    name: str
    write: Callable[[Report], str] | None = None
    suffix: str = ""
    files: Callable[[Report], Iterable[tuple[str, bytes]]] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        if (self.write is None) == (self.files is None):
            raise ValueError(f"reporter '{self.name}' needs either write or files, and not both")
        if self.files is not None and self.suffix:
            raise ValueError(f"reporter '{self.name}' makes a folder, which has no suffix")


@dataclass(frozen=True)
class Command:
    """A sub-command of `lrd-harness` (hook `lrd_commands`).

    run: is given what was parsed, and returns the exit code, None for 0; it prints to standard
        output what its user asked for. UserError ends it with one line and exit code 2.
    arguments: declares its arguments, on an argparse parser; --load is there already.
    description: one line for the help.
    """

    name: str
    run: Callable[[argparse.Namespace], int | None]
    arguments: Callable[[argparse.ArgumentParser], object] | None = None
    description: str = ""
