"""What every adapter opens: texts in, pooled states of all layers out, in one forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrd_harness.backbone import Backbone
from lrd_harness.contracts import Checkpoint, Encoded, ModelInfo, ModelOptions, Task, Text
from lrd_harness.pooling import POOLINGS

PlaneKey = tuple[str, int]  # ("raw" or "final", layer)


@dataclass
class Parts:
    """What adapters differ in.

    encode: token features of texts as the model was made to read them, without padding;
    pool: (state (b, T, d), features) -> (b, d); embed: pooled -> the model's output;
    prompt: the prompt of a task's texts; similarity: how its outputs are compared.
    """

    adapter: str
    module: torch.nn.Module
    tokenizer: Any
    encode: Callable[[Sequence[Text]], list[dict[str, Any]]]
    pool: Callable[[Tensor, Mapping[str, Any]], Tensor]
    pooling: str
    max_length: int
    prompt: Callable[[Task, str | None], str]
    embed: Callable[[Tensor], Tensor] = lambda pooled: pooled
    similarity: str = "cosine"


def by_mask(name: str) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
    """One of our own poolings as an adapter's `pool`."""
    pool = POOLINGS[name]
    return lambda state, features: pool(state, features["attention_mask"])


class TextModel:
    """An opened model (contracts.Model) around a transformers backbone.

    Raises UserError from Backbone where the module is no transformer that can be read by layer.
    """

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions, parts: Parts) -> None:
        self.checkpoint, self.options, self.parts = checkpoint, options, parts
        self.tokenizer = parts.tokenizer
        self.similarity = parts.similarity
        self.device = torch.device(options.device)
        parts.module.to(self.device).eval()
        self._positions = _position_rule(parts.module)
        self._typed = "token_type_ids" in _forward_names(parts.module)
        probe = self._pad(parts.encode([Text("The quick brown fox jumps over the lazy dog.")]))
        self.backbone = Backbone(parts.module, self._inputs(probe))
        self.blocks, self.final_norm = self.backbone.blocks, self.backbone.final_norm
        self.has_final_norm = self.final_norm is not None
        states = self.states(parts.encode([Text("The quick brown fox.")]))
        self.info = ModelInfo(
            parameters=sum(p.numel() for p in parts.module.parameters()),
            blocks=self.backbone.calls,
            width=states["raw", self.backbone.calls].shape[1],
            pooling=parts.pooling,
            max_length=parts.max_length,
            family=str(checkpoint.config.get("model_type", type(parts.module).__name__)),
        )
        self.identity = self._identity()

    def _identity(self) -> dict[str, str]:
        config = getattr(self.parts.module, "config", None)
        return {
            "model": self.checkpoint.path if self.checkpoint.hub else self.checkpoint.name,
            "revision": self.checkpoint.revision,
            "adapter": self.parts.adapter,
            "pooling": self.parts.pooling,
            "max_length": str(self.parts.max_length),
            "dtype": self.options.dtype,
            "attention": str(getattr(config, "_attn_implementation", None)),
            "padding": self.options.padding,
        }

    def prompt(self, task: Task, prompt_type: str | None) -> str:
        """The prompt that goes before a text of this task."""
        return self.parts.prompt(task, prompt_type)

    def tokenize(self, texts: Sequence[Text]) -> list[Encoded]:
        """Token features of each text, cut to the model's length; no text is without a token."""
        encoded = self.parts.encode(texts)
        for features in encoded:
            if not features["input_ids"]:
                features["input_ids"] = [_filler(self.tokenizer)]
                if "token_type_ids" in features:
                    features["token_type_ids"] = [0]
        return list(encoded)

    def truncated(self, texts: Sequence[Text], encoded: Sequence[Encoded]) -> list[bool]:
        """Of each text, whether it was longer than the model takes."""
        at_limit = [
            i for i, e in enumerate(encoded) if len(e["input_ids"]) >= self.parts.max_length
        ]
        cut = [False] * len(encoded)
        if at_limit and callable(self.tokenizer):
            full = [texts[i].prompt + texts[i].text for i in at_limit]
            ids = self.tokenizer(full, verbose=False)["input_ids"]
            for i, found in zip(at_limit, ids, strict=True):
                cut[i] = len(found) > self.parts.max_length
        return cut

    def states(self, batch: Sequence[Encoded]) -> dict[PlaneKey, Tensor]:
        """One forward pass: pooled states (b, d_l) float32 by ("raw" | "final", layer 0..L).

        "final" planes are there only where the model has a final norm; it is applied to the token
        states, before they are pooled.
        """
        features = self._pad(batch)
        pooled: dict[PlaneKey, Tensor] = {}
        norm, pool = self.backbone.final_norm, self.parts.pool

        def watch(layer: int, state: Tensor) -> None:
            pooled["raw", layer] = pool(state, features).float()
            if norm is not None:
                pooled["final", layer] = pool(norm(state), features).float()

        self.backbone.run(self._inputs(features), watch)
        return pooled

    def embed(self, pooled: Tensor) -> Tensor:
        """From pooled states (n, d) to the model's output: Dense, Normalize and the like."""
        with torch.inference_mode():
            return self.parts.embed(pooled.to(self.device)).float().cpu()

    def _pad(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        """Pad token features to one (b, T) batch on the chosen side."""
        longest = max(len(e["input_ids"]) for e in batch)
        pads = {"input_ids": _filler(self.tokenizer), "token_type_ids": 0, "attention_mask": 0}
        left = self.options.padding == "left"
        features: dict[str, Any] = {}
        for name, pad in pads.items():
            if name != "attention_mask" and name not in batch[0]:
                continue
            rows = [list(e[name]) if name in e else [1] * len(e["input_ids"]) for e in batch]
            padded = [
                [pad] * (longest - len(r)) + r if left else r + [pad] * (longest - len(r))
                for r in rows
            ]
            features[name] = torch.tensor(padded, device=self.device)
        if "prompt_length" in batch[0]:
            features["prompt_length"] = batch[0]["prompt_length"]
        return features

    def _inputs(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """The features that the backbone itself takes."""
        names = ["input_ids", "attention_mask"] + ["token_type_ids"] * self._typed
        inputs = {name: features[name] for name in names if name in features}
        if self._positions and self.options.padding == "left":
            inputs["position_ids"] = (features["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return inputs


def _filler(tokenizer: Any) -> int:
    """A token for padding and for texts without any; it is masked, so any will do."""
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        if (value := getattr(tokenizer, name, None)) is not None:
            return int(value)
    return 0


def _forward_names(module: torch.nn.Module) -> set[str]:
    return set(inspect.signature(module.forward).parameters)


def _position_rule(module: torch.nn.Module) -> bool:
    """Whether positions must be given under left padding.

    RoBERTa and its kin derive them from the padding token themselves, from another origin.
    """
    embeddings = getattr(module, "embeddings", None)
    derived = getattr(embeddings, "padding_idx", None) is not None
    return "position_ids" in _forward_names(module) and not derived
