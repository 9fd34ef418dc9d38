"""Images in, pooled states of all layers out: what is not as it is with texts.

Which tokens are patches is tried: those of state 0 that differ between images. The others are CLS,
registers, and tokens of distillation and detection.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrd_harness.contracts import Checkpoint, Encoded, ModelOptions, Text
from lrd_harness.errors import UserError, short, unknown
from lrd_harness.images import RULE, Image
from lrd_harness.models.backbone import check_stack
from lrd_harness.models.image_processors import check_shape, noise, pixels, settings_of
from lrd_harness.models.opened import ModelParts, OpenedModel
from lrd_harness.models.readout import Pooler, mean

HEADLESS = "it reads images, and compares no continuations"
_MASK = "pixel_attention_mask"  # of patches that are padding


@dataclass(kw_only=True)
class ImageParts(ModelParts):
    """What adapters of images differ in.

    processor: transformers', or one that is called as those are, (images=[...],
        return_tensors="pt"), and says its settings (`to_dict`).
    """

    processor: Any


class ImageModel(OpenedModel):
    """An opened model of images (contracts.BlockModel).

    size: of what its processor makes of an image; patches: (T,), which tokens are patches.

    Raises UserError from Backbone where the module is no transformer that can be read by layer, for
    a processor that does not suit it, and for a pooling that it has not got.
    """

    parts: ImageParts

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions, parts: ImageParts) -> None:
        super().__init__(checkpoint, options, parts)
        self.processor, self.tokenizer = parts.processor, None
        if not options.weights:
            return
        self.headless, self.padding = HEADLESS, "right"
        module: Any = parts.module
        check_stack(module, images=True)  # whatever its processor does
        self._masks = "noise" in inspect.signature(module.forward).parameters
        if self._masks:  # behind its training a masked autoencoder sees all patches
            module.config.mask_ratio = 0.0
        inputs = self._pixels(noise())
        self.size = tuple(next(iter(inputs.values())).shape[1:])
        first = {name: values[:2] for name, values in inputs.items()}
        self.look(first)
        self.patches = self._patches(inputs)
        self.parts = replace(parts, **self._pooling(inputs))
        read = {**settings_of(self.processor), "colours": RULE}
        self.describe(self.forward(self._features(first), first), len(self.patches), read)

    def tokenize(self, texts: Sequence[Text]) -> list[Encoded]:
        """Of each image itself, and how many tokens it has: pixels of a batch are enough."""
        for text in texts:
            if not isinstance(text.text, Image):
                raise UserError(
                    f"{self.checkpoint.name} reads images: {short(text.text, 60)!r} is none"
                )
            check_shape(self.processor, text.text.name, *text.text.size)
        return [{"image": text.text, "tokens": len(self.patches)} for text in texts]

    def features(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        """A batch's "pixels", and which of its tokens (b, T) there are, and are patches."""
        return self._features(self._pixels([encoded["image"].open() for encoded in batch]))

    def _features(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        rows = len(next(iter(inputs.values())))
        mask = inputs.get(_MASK, torch.ones(rows, len(self.patches), device=self.device)).long()
        return {"pixels": inputs, "attention_mask": mask, "patches": mask * self.patches}

    def inputs(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the backbone takes of a batch."""
        return dict(features["pixels"])

    def _pixels(self, pictures: Sequence[Any]) -> dict[str, Tensor]:
        module: Any = self.parts.module
        made = pixels(self.processor, pictures, module)
        inputs = {name: values.to(self.device) for name, values in made.items()}
        if self._masks:  # noise puts patches in order
            n = module.embeddings.patch_embeddings.num_patches
            inputs["noise"] = torch.arange(n, device=self.device).repeat(len(pictures), 1).float()
        return inputs

    def _patches(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Which tokens of state 0 differ between images, (T,); all where a mask tells of others."""
        first: list[Tensor] = []
        self.backbone.run(
            inputs, lambda layer, state: None if layer else first.append(state.float().clone())
        )
        spread = (first[0] - first[0].mean(0)).norm(dim=-1).amax(0)
        differ: Tensor = spread > 1e-4 * first[0].norm(dim=-1).amax(0)
        patches = torch.ones_like(differ) if _MASK in inputs else differ
        if not patches.any():
            raise UserError(f"{self.checkpoint.name}: its first state is the same for all images")
        return patches.to(self.device)

    def _pooling(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """How states are pooled, by what it is called, and why."""
        if self.parts.pool and not self.options.pooling:
            return {"pooling": self.parts.pooling or "own"}
        name, why = self.options.pooling or self.parts.pooling, self.parts.pooling_from
        has_cls, name_of = not self.patches[0], self.checkpoint.name
        pools: dict[str, Any] = {"mean": _mean}
        if has_cls:
            pools |= {"cls": lambda state, _: state[:, 0], "cls-mean": _cls_mean}
        try:
            pooler = Pooler(self.backbone, inputs)
            pools["pooler"] = lambda state, features: pooler(state, features["pixels"])
        except UserError as error:
            if name == "pooler":
                raise UserError(f"{error} (--pooling chooses: {', '.join(pools)})") from None
        if not name:
            config = getattr(self.parts.module, "config", None)
            if "pooler" in pools and not (has_cls and self.has_final_norm):
                name, why = "pooler", "its own pooler"
            elif has_cls and not getattr(config, "use_mean_pooling", False):
                name, why = "cls", "its CLS token"
            else:
                name, why = "mean", "its patches, without a pooler"
        if name not in pools:
            raise unknown("pooling", name, pools, f"{name_of} has: {', '.join(pools)}.")
        embed = self.parts.embed if name == "pooler" else ModelParts.embed
        return {"pooling": name, "pool": pools[name], "pooling_from": why, "embed": embed}


def _mean(state: Tensor, features: Mapping[str, Any]) -> Tensor:
    return mean(state, features["patches"])


def _cls_mean(state: Tensor, features: Mapping[str, Any]) -> Tensor:
    return torch.cat([state[:, 0].float(), _mean(state, features).float()], 1)
