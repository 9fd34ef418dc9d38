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

from lrd_harness.contracts import Checkpoint, Encoded, ModelInfo, ModelOptions, Text
from lrd_harness.errors import UserError, short, unknown
from lrd_harness.images import RULE, Image
from lrd_harness.models import quantised
from lrd_harness.models.backbone import check_stack
from lrd_harness.models.image_processors import check_shape, noise, pixels, settings_of
from lrd_harness.models.opened import ModelParts, OpenedModel
from lrd_harness.models.readout import Pooler, mean

HEADLESS = "it reads images, and compares no continuations"
_MASK = "pixel_attention_mask"  # of patches that are padding


@dataclass(kw_only=True)
class ImageParts(ModelParts):
    """What adapters of images differ in.

    processor: transformers', which makes pixels of images; pooling: "" for what suits the model,
    which chooses how to `pool` when it is opened.
    """

    processor: Any
    pooling: str = ""
    pool: Any = None


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
        self.head, self.headless, self.padding = None, HEADLESS, "right"
        weights = (p.dtype for p in parts.module.parameters() if p.dtype.is_floating_point)
        self._dtype = next(weights, torch.float32)
        self._takes = inspect.signature(parts.module.forward).parameters
        check_stack(parts.module, images=True)  # whatever its processor does
        if "noise" in self._takes:  # a masked autoencoder sees all patches behind its training
            config: Any = parts.module.config
            config.mask_ratio = 0.0
        inputs = self._pixels(noise())
        self.size = tuple(next(iter(inputs.values())).shape[1:])
        first = {name: values[:2] for name, values in inputs.items()}
        self.look(first)
        self.patches = self._patches(inputs)
        self.parts = replace(parts, **self._pooling(inputs))
        width = self.forward(self._features(first), first)["raw", self.backbone.calls].shape[1]
        self.info = ModelInfo(
            parameters=quantised.parameters(parts.module),
            blocks=self.backbone.calls,
            width=width,
            pooling=self.parts.pooling,
            max_length=len(self.patches),
            family=str(checkpoint.config.get("model_type", type(parts.module).__name__)),
        )
        self.identity = self.described() | settings_of(self.processor) | {"colours": RULE}

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
        mask = torch.ones(rows, len(self.patches), dtype=torch.long, device=self.device)
        mask = inputs[_MASK].long() if _MASK in inputs else mask
        return {"pixels": inputs, "attention_mask": mask, "patches": mask * self.patches}

    def inputs(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the backbone takes of a batch."""
        return dict(features["pixels"])

    def _pixels(self, pictures: Sequence[Any]) -> dict[str, Tensor]:
        made = pixels(self.processor, pictures)
        inputs = {
            name: values.to(self.device, self._dtype if values.is_floating_point() else None)
            for name, values in made.items()
            if name in self._takes
        }
        if not inputs:
            takes, maker = next(iter(self._takes), "nothing"), type(self.processor).__name__
            what = f"{type(self.parts.module).__name__} takes {takes}"
            raise UserError(f"{self.checkpoint.name}: {what}, and {maker} makes {', '.join(made)}")
        if "noise" in self._takes:  # by which patches are put in order
            module: Any = self.parts.module
            n = module.embeddings.patch_embeddings.num_patches
            inputs["noise"] = torch.arange(n, device=self.device).repeat(len(pictures), 1).float()
        return inputs

    def _patches(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Which tokens of state 0 differ between images, (T,); all where a mask tells of others."""
        first: list[Tensor] = []
        self.backbone.run(
            inputs, lambda layer, state: None if layer else first.append(state.float())
        )
        spread = (first[0] - first[0].mean(0)).norm(dim=-1).amax(0)
        differ: Tensor = spread > 1e-4 * first[0].norm(dim=-1).amax(0)
        patches = torch.ones_like(differ) if _MASK in inputs else differ
        if not patches.any():
            raise UserError(f"{self.checkpoint.name}: its first state is the same for all images")
        return patches.to(self.device)

    def _pooling(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """How states are pooled, by what it is called, and why."""
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
            config = self.parts.module.config
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
