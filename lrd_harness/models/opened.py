"""What every opened model does: a batch in, pooled states of all layers out, in one forward pass.

What of texts and of images is different is how they become the first state, and how a state is
pooled: text_model.py and image_model.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from lrd_harness.contracts import (
    Checkpoint,
    Encoded,
    Model,
    ModelInfo,
    ModelOptions,
    Observe,
    PromptType,
    Task,
    Text,
)
from lrd_harness.errors import UserError
from lrd_harness.models import quantised
from lrd_harness.models.attention import attention_maps, check_eager
from lrd_harness.models.backbone import Backbone, Watch
from lrd_harness.models.own_code import digest
from lrd_harness.models.peft_adapters import recorded
from lrd_harness.models.readout import ONE_TOKEN, Head, embedded

Planes = dict[tuple[str, int], Tensor]  # by "raw" or "final", and layer
FRAME = ("identity", "has_final_norm", "headless", "padding")  # what a frame says as it is
UNREAD = object()  # stands for a head among weights that were not read


@dataclass(kw_only=True)
class ModelParts:
    """What adapters differ in, of texts and of images.

    adapter: its name, as in the record; module: the model without a head;
    pool: (state (b, T, d), features) -> (b, d), of the adapter's own; None: that named `pooling`;
    pooling: what it is called, one of our own without `pool`; "" is what suits the model. One that
        the user chooses goes before both;
    embed: pooled -> the model's output, which may take a `prompt_type`, "query" or "document", and
        a `task`;
    similarity: how outputs are compared, "cosine", "dot", "euclidean" or "manhattan";
    pooling_from: what says how it is pooled;
    whole: the model with its language-model head, around `module`, where that is wanted;
    beside: by file name, what goes into a JSON file of a folder that the model is saved to.
    """

    adapter: str
    module: torch.nn.Module
    pool: Any = None
    pooling: str = ""
    embed: Callable[..., Tensor] = lambda pooled: pooled
    similarity: str = "cosine"
    whole: torch.nn.Module | None = None
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pooling_from: str = ""


def to_device(module: torch.nn.Module, options: ModelOptions) -> torch.device:
    """Bring a model to its device, in evaluation mode; the device that its inputs go to.

    One that was spread over several devices when it was loaded stays where it is.
    """
    module.eval()
    if options.device_map is None:
        module.to(options.device)
        return torch.device(options.device)
    devices = (p.device for p in module.parameters() if p.device.type != "meta")  # meta: offloaded
    return next(devices, torch.device(options.device))


def exact() -> None:
    """No TF32: on a GPU it would keep ten bits of a float32's digits in metrics and states.

    torch has it on for convolutions, such as those that cut an image into patches.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def token_count(encoded: Encoded) -> int:
    """The tokens of a text or an image, without padding."""
    return len(encoded["input_ids"]) if "input_ids" in encoded else int(encoded["tokens"])


class OpenedModel(ABC):
    """An opened model (contracts.BlockModel) around a transformers backbone.

    A kind of input says how a batch becomes `features`, among them the attention_mask (b, T) of
    the tokens that there are, and which of these the backbone takes.

    Made without weights (ModelOptions.weights) it is what its frame says, see frame.py, and becomes
    the whole model, in place, when something is wanted that the frame has not got.
    """

    parts: ModelParts
    backbone: Backbone
    padding: str
    info: ModelInfo
    head: Head | None = None
    _eager_checked = False  # whether the pass that shows its attention gives the same states

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions, parts: ModelParts) -> None:
        self.checkpoint, self.options = checkpoint, options
        self.device = to_device(parts.whole or parts.module, options)
        self.similarity, self.whole = parts.similarity, parts.whole
        self.parts = parts

    def frame(self) -> dict[str, Any]:
        """What `restore` needs of this model, as JSON has it."""
        return {
            "info": asdict(self.info),
            "plain": {name: getattr(self, name) for name in FRAME},
            "head": self.head is not None,
            "embeds": self.parts.embed is not ModelParts.embed,
        }

    def restore(self, frame: Mapping[str, Any], opening: Callable[[], Model]) -> None:
        """Be what a frame says; opening: opens the whole model, for what it does not say."""
        vars(self).update({name: frame["plain"][name] for name in FRAME})
        self.info = ModelInfo(**frame["info"])
        self.head = cast(Head, UNREAD) if frame["head"] else None
        if not frame["embeds"]:
            self.parts = replace(self.parts, embed=ModelParts.embed)
        self._opening = opening

    def fill(self) -> None:
        """Be the whole model from now on. Raises UserError where it cannot be opened."""
        if "_opening" in vars(self):
            whole = self._opening()
            if whole.identity != self.identity:  # nothing of the one may be taken for the other
                raise UserError(
                    f"{self.checkpoint.name} is now read in another way than when its states were "
                    "stored: the same command reads it anew"
                )
            vars(self).clear()
            vars(self).update(vars(whole))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What a frame has not got is the whole model's."""
            if name.startswith("__") or "_opening" not in vars(self):
                raise AttributeError(f"{type(self).__name__} has no attribute {name}")
            self.fill()
            return getattr(self, name)

    @abstractmethod
    def tokenize(self, texts: Sequence[Text]) -> list[Encoded]:
        """What stands for each text or image until it is read; see `token_count`."""

    @abstractmethod
    def features(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        """A batch as tensors, padded where that is needed."""

    @abstractmethod
    def inputs(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Those of the features that the backbone itself takes."""

    def truncated(self, texts: Sequence[Text], encoded: Sequence[Encoded]) -> list[bool]:
        """Of each, whether the model sees a part of it only: of no image."""
        return [False] * len(texts)

    def prompt(self, task: Task, prompt_type: str | None) -> str:
        """The prompt that goes before a text of this task; none before an image."""
        return ""

    def kind(self, encoded: Encoded) -> object:
        """Those that share it can be read in one pass."""
        return None

    def look(self, inputs: Mapping[str, Tensor]) -> None:
        """Find the blocks and the final norm. Raises UserError as Backbone does."""
        self.backbone = Backbone(self.parts.module, inputs)
        self.blocks, self.final_norm = self.backbone.blocks, self.backbone.final_norm
        self.has_final_norm = self.final_norm is not None

    def describe(self, states: Planes, max_length: int, read: Mapping[str, str]) -> None:
        """Set info and identity, when inputs can be read; read: what else changes a state."""
        checkpoint, module = self.checkpoint, self.parts.module
        self.info = ModelInfo(
            parameters=quantised.parameters(module),
            blocks=self.backbone.calls,
            width=states["raw", self.backbone.calls].shape[1],
            pooling=self.parts.pooling,
            max_length=max_length,
            family=str(checkpoint.config.get("model_type", type(module).__name__)),
        )
        attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
        self.identity = {
            "model": checkpoint.path if checkpoint.hub else checkpoint.name,
            "revision": checkpoint.revision,
            "adapter": self.parts.adapter,
            "pooling": self.parts.pooling,
            "dtype": self.options.dtype,
            "attention": str(attention),
            **({"content": checkpoint.content} if checkpoint.content else {}),
            **({"peft": " + ".join(recorded(checkpoint))} if checkpoint.peft else {}),
            **({"code": digest(checkpoint.code)} if checkpoint.code else {}),
            **({"attention_mask": mask} if (mask := self.options.attention_mask) else {}),
            **read,
        }

    def states(self, batch: Sequence[Encoded], observe: Observe | None = None) -> Planes:
        """One forward pass: pooled states (b, d_l) float32 by ("raw" | "final", layer 0..L).

        In "final" planes, of models that have one, the final norm is applied to the token states,
        before they are pooled. observe: adds planes of its own, made of the token states.
        """
        kinds: dict[object, list[int]] = {}
        for row, encoded in enumerate(batch):
            kinds.setdefault(self.kind(encoded), []).append(row)
        parts = []
        for rows in kinds.values():
            features = self.features([batch[row] for row in rows])
            parts.append(self.forward(features, self.inputs(features), observe))
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([row for rows in kinds.values() for row in rows]).argsort()
        joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return {key: states[order.to(states.device)] for key, states in joined.items()}

    def forward(
        self,
        features: Mapping[str, Any],
        inputs: Mapping[str, Tensor],
        observe: Observe | None = None,
    ) -> Planes:
        """The planes of one batch of one kind; see `states`."""
        planes: Planes = {}
        tokens: list[Tensor] = []

        def watch(layer: int, state: Tensor) -> None:
            state = _of_tokens(state.to(self.device), features)
            planes.update({(k, layer): v for k, v in self.pooled(state, features).items()})
            if observe is not None:
                tokens.append(state.clone())  # some families write over it in the next block

        self.backbone.run(inputs, watch)
        if observe is not None:
            with torch.inference_mode():
                planes.update(observe(tokens, features["attention_mask"]))
        return planes

    def pooled(self, state: Tensor, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of a state (b, T, d), "raw" and, where there is a final norm, "final", (b, d) float32."""
        state = _of_tokens(state, features)
        raw = self.parts.pool(state, features)
        planes = {"raw": raw.float()}
        if self.final_norm is not None:
            # a pooling that takes one token and a norm of single tokens can change places
            if self.parts.pooling in ONE_TOKEN:
                normed = self.normed(raw.to(state.dtype))
            else:
                normed = self.parts.pool(self.final_norm(state).to(self.device), features)
            planes["final"] = normed.float()
        return planes

    def normed(self, state: Tensor) -> Tensor:
        """The final norm of single tokens' states (m, d); without one, the states as they are."""
        if self.final_norm is None:
            return state
        normed: Tensor = self.final_norm(state.unsqueeze(1)).squeeze(1).to(self.device)
        return normed

    def watch(self, batch: Sequence[Encoded], seen: Watch) -> None:
        """One forward pass without pooling: `seen(l, state)` of state 0..L, (b, T, d_l), as it is.

        The batch is padded as `features` does.
        """
        features = self.features(batch)

        def watch(layer: int, state: Tensor) -> None:
            seen(layer, _of_tokens(state.to(self.device), features))

        self.backbone.run(self.inputs(features), watch)

    def attention(self, encoded: Encoded) -> list[Tensor]:
        """One text's attention maps of block 1..L, (h, T, T) each, from a pass of its own.

        Raises UnitError where the model shows none, UserError where they are too large.
        """
        features = self.features([encoded])
        inputs = self.inputs(features)
        if not self._eager_checked:
            check_eager(self.backbone, inputs, self.options.dtype)
            self._eager_checked = True
        return attention_maps(self.backbone, inputs, features["attention_mask"][0].bool())

    def embed(
        self, pooled: Tensor, prompt_type: PromptType | None = None, task: Task | None = None
    ) -> Tensor:
        """From pooled states (n, d) to the model's output: Dense, Normalize and the like."""
        with torch.inference_mode():
            output = embedded(self.parts.embed, pooled.to(self.device), prompt_type, task)
            return output.float().cpu()


def _of_tokens(state: Tensor, features: Mapping[str, Any]) -> Tensor:
    """The state without what a model adds behind the tokens (BigBird fills its last block)."""
    return state[:, : features["attention_mask"].shape[1]]
