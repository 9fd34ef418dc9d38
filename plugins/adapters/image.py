"""Adapter: transformers' models of images, and the vision towers of CLIP, SigLIP and the like."""

from __future__ import annotations

import inspect
from typing import Any

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.images import pillow
from lrd_harness.models.find import as_saved
from lrd_harness.models.modality import reads_images, two_towers, vision_class
from lrd_harness.models.recognition import check_readable


def _claims(checkpoint: Checkpoint) -> bool:
    return reads_images(checkpoint.config, checkpoint.files)


def check_images(checkpoint: Checkpoint) -> None:
    """Raise UserError for what is no model of images, and see check_readable."""
    if not _claims(checkpoint):
        raise UserError(f"{checkpoint.name} is no model of images alone, nor a pair of towers")
    pillow()
    check_readable(checkpoint)


def open_images(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open a model of images; of two towers that of images, with its projection.

    It has its pooler, where the weights do.
    """
    from transformers import AutoModel

    from lrd_harness.models.frame import read_part
    from lrd_harness.models.image_model import ImageModel, ImageParts
    from lrd_harness.models.image_processors import load_processor
    from lrd_harness.models.loading import whole_model

    options, processor = as_saved(checkpoint, options), load_processor(checkpoint)
    kind, how = vision_class(checkpoint.config), dict[str, Any]()
    if "Projection" in getattr(kind, "__name__", "") and "projection_dim" in checkpoint.config:
        how["projection_dim"] = checkpoint.config["projection_dim"]
    if checkpoint.code or kind is None:
        kind = AutoModel
    elif "add_pooling_layer" in inspect.signature(kind).parameters:
        how["add_pooling_layer"] = True
    module = whole_model(kind, checkpoint, options, **how)
    more: dict[str, Any] = {}
    if two_towers(checkpoint.config):
        more |= {"pooling": "pooler", "pooling_from": "get_image_features, as in mteb"}
    projection = getattr(module, "visual_projection", None)
    if projection is not None:
        if not options.weights:
            read_part(projection, "visual_projection", checkpoint, options)
        more["whole"], module = module, module.vision_model
        more["embed"] = lambda pooled: projection(pooled.to(projection.weight.dtype))
    parts = ImageParts(adapter="image", module=module, processor=processor, **more)
    return ImageModel(checkpoint, options, parts)


@hookimpl
def lrd_adapters() -> list[Adapter]:
    """The adapter for models of images."""
    return [
        Adapter(
            "image",
            _claims,
            open_images,
            priority=15,
            description="models of images, CLIP's and SigLIP's vision towers too",
            check=check_images,
            modality="image",
        )
    ]
