"""What a model offers, to the core and to tasks: structural types, met by duck typing.

Letters in shapes: n texts, b texts of a batch, T tokens, d width, L blocks; L + 1 states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lrd_harness.backbone import Backbone
    from lrd_harness.contracts import Continuation, ModelOptions, PromptType, Task, Text
    from lrd_harness.head import Head

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
        ...


class LikelihoodView(Protocol):
    """What a likelihood task evaluates: one layer of a language model, read through its head."""

    name: str
    revision: str
    experiments: Experiments

    def loglikelihoods(self, requests: Sequence[Continuation]) -> Sequence[tuple[float, bool]]:
        """Of each request, log P(continuation | context) in nats; whether it is the likeliest."""
        ...


@dataclass(frozen=True)
class ModelInfo:
    """What the leaderboard says of a model."""

    parameters: int
    blocks: int
    width: int
    pooling: str
    max_length: int
    family: str


Encoded = Mapping[str, Any]  # one text's token features: {"input_ids": [...], ...}
# States 0..L of a batch, (b, T, d_l) each as written, and its mask (b, T) -> planes (b, m) to keep
Observe = Callable[
    ["Sequence[torch.Tensor]", "torch.Tensor"], "Mapping[tuple[str, int], torch.Tensor]"
]


class Model(Protocol):
    """An opened model (made by an adapter; text_model.TextModel does most of the work).

    identity: everything that changes a state, apart from prompt and text;
    similarity: how its outputs are compared ("cosine", "dot", "euclidean", "manhattan");
    head: None where none was wanted or there is none; headless: then why.
    """

    info: ModelInfo
    identity: dict[str, str]
    has_final_norm: bool
    blocks: torch.nn.ModuleList
    final_norm: torch.nn.Module | None
    tokenizer: Any
    similarity: str
    head: Head | None
    headless: str

    def prompt(self, task: Task, prompt_type: str | None) -> str:
        """The prompt that goes before a text of this task."""
        ...

    def tokenize(self, texts: Sequence[Text]) -> list[Encoded]:
        """Token features of each text, cut to the model's length."""
        ...

    def truncated(self, texts: Sequence[Text], encoded: Sequence[Encoded]) -> list[bool]:
        """Of each text, whether it was cut."""
        ...

    def states(
        self, batch: Sequence[Encoded], observe: Observe | None = None
    ) -> Mapping[tuple[str, int], torch.Tensor]:
        """One forward pass: ("raw" or "final", layer) -> pooled states (b, d_l) float32.

        observe: is given the token states of the same pass; what it returns is added. A model that
        does not take it can have no token metrics.
        """
        ...

    def embed(self, pooled: torch.Tensor) -> torch.Tensor:
        """From pooled states (n, d) to the model's output: Dense, Normalize and the like.

        A model whose output depends on it takes `prompt_type` as well, "query", "document" or None.
        """
        ...


class BlockModel(Model, Protocol):
    """An opened model whose blocks can be run by themselves, for variants without some of them.

    padding: the side on which shorter texts are padded, "none" for texts of equal length only.
    """

    backbone: Backbone
    padding: str

    def features(self, batch: Sequence[Encoded]) -> Mapping[str, Any]:
        """A batch padded on the side `padding`, (b, T)."""
        ...

    def inputs(self, features: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        """Those of the features that the backbone itself takes."""
        ...

    def pooled(
        self, state: torch.Tensor, features: Mapping[str, Any]
    ) -> Mapping[str, torch.Tensor]:
        """Of a state (b, T, d), "raw" and, where there is a final norm, "final", (b, d) float32."""
        ...


class LanguageModel(BlockModel, Protocol):
    """An opened model with a language-model head, for likelihood tasks.

    whole: the model with its head, as transformers has it; head: never None.
    """

    whole: torch.nn.Module | None
    device: torch.device
    options: ModelOptions

    def watch(self, batch: Sequence[Encoded], seen: Callable[[int, torch.Tensor], None]) -> None:
        """One forward pass: `seen(l, state)` of state 0..L, (b, T, d_l), as written."""
        ...

    def length_limit(self, wanted: int) -> int:
        """The most tokens that a pass takes: as many as wanted, if the blocks bear so many."""
        ...

    def check_tokens(self, tokens: Sequence[int], text: str) -> None:
        """Raise UserError for a token that the model has no embedding of, naming the text."""
        ...

    def normed(self, state: torch.Tensor) -> torch.Tensor:
        """The final norm of single tokens' states (m, d), if there is one."""
        ...
