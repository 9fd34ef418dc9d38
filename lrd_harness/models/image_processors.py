"""How an image becomes what a model reads: transformers' own processor, on PIL alone."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError, first_line, short
from lrd_harness.models.find import read_json
from lrd_harness.models.loading import origin
from lrd_harness.models.modality import PROCESSORS

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MOST_PIXELS = 2**25
_DINOV3 = "DINOv3ViTImageProcessor"  # which transformers has for torchvision alone
_UNKNOWN = ("image_processor_type", "processor_class", "auto_map")  # settings that change no pixel


def load_processor(checkpoint: Checkpoint) -> Any:
    """The image processor of a checkpoint. Raises UserError where it cannot be used here."""
    from transformers import AutoImageProcessor, ViTImageProcessorPil

    where, auto = origin(checkpoint), cast(Any, AutoImageProcessor)
    try:
        settings = read_json(checkpoint, PROCESSORS[0]) if PROCESSORS[0] in checkpoint.files else {}
        if str(settings.get("image_processor_type")).removesuffix("Fast") == _DINOV3:
            usual = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
            processor: Any = ViTImageProcessorPil.from_dict(usual | dict(settings))
        else:
            processor = auto.from_pretrained(checkpoint.path, backend="pil", **where)
        _check_sizes(processor.to_dict())
        return processor
    except UserError:
        raise
    except Exception as error:  # whatever a file that is damaged or foreign raises
        reason = short(first_line(error), 160)
        raise UserError(
            f"{checkpoint.name}: its image processor cannot be used: {reason}"
        ) from error


def _check_sizes(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for sizes at which one image would fill the memory."""
    for name in ("size", "crop_size", "pad_size"):
        size = settings.get(name)
        size = size if isinstance(size, Mapping) else {"shortest_edge": size}
        edge = size.get("shortest_edge")
        height, width = (size.get(side) or edge or 0 for side in ("height", "width"))
        if height * width > MOST_PIXELS:
            raise ValueError(f"{name} is {height:,} x {width:,} pixels")


def settings_of(processor: Any) -> dict[str, str]:
    """What of a processor changes the states."""
    numbers = {k: v for k, v in processor.to_dict().items() if k not in _UNKNOWN and v is not None}
    return {
        "processor": f"{type(processor).__name__} ({getattr(processor, 'backend', 'own')})",
        "processor_settings": json.dumps(numbers, sort_keys=True, default=str),
    }


def pixels(processor: Any, pictures: Sequence[Picture], module: Any) -> dict[str, Tensor]:
    """What a module reads of RGB images, by the names that it takes it under, (b, ...) each.

    Each goes through the processor alone, since some are padded to the largest beside them. Raises
    UserError for a processor that does not bring all to one size, whose settings are wrong, or that
    makes nothing that the module takes.
    """
    import torch

    try:
        read = [processor(images=[picture], return_tensors="pt") for picture in pictures]
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{type(processor).__name__} makes no pixels of an image: {first_line(error):.160}"
        ) from error
    shapes = {name: dict.fromkeys(tuple(one[name].shape[1:]) for one in read) for name in read[0]}
    several = next((sizes for sizes in shapes.values() if len(sizes) > 1), None)
    if several:
        sizes = " and ".join("x".join(map(str, size)) for size in [*several][:2])
        raise UserError(
            f"{type(processor).__name__} makes {sizes} of images of different shapes: only what "
            f"brings all to one size can be read (size and crop_size in {PROCESSORS[0]})"
        )
    takes = inspect.signature(module.forward).parameters
    joined = {name: torch.cat([one[name] for one in read]) for name in shapes if name in takes}
    if not joined:
        what = f"{type(module).__name__} takes {next(iter(takes), 'nothing')}"
        raise UserError(f"{what}, and {type(processor).__name__} makes {', '.join(shapes)}")
    dtype = next(p.dtype for p in module.parameters())
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in joined.items()}


def check_shape(processor: Any, name: str, width: int, height: int) -> None:
    """Raise UserError for an image of which the processor would make a giant before it crops it."""
    edge = getattr(getattr(processor, "size", None), "shortest_edge", None)
    if edge and edge**2 * max(width, height) > MOST_PIXELS * min(width, height):
        long = edge * max(width, height) // min(width, height)
        raise UserError(
            f"{name}: {width}x{height} pixels, of which {type(processor).__name__} would make an "
            f"image of {edge}x{long} before it crops it: too long for its width"
        )


def noise() -> list[Picture]:
    """Images that differ everywhere, of several shapes: what is alike in their states is no patch.

    Each is of another brightness, in which they still differ when they are made small.
    """
    from PIL import Image as pil

    drawn, pictures = random.Random(0), []
    for light, (width, height) in enumerate([(96, 64), (64, 96), (80, 80), (72, 80)]):
        values = drawn.randbytes(3 * width * height)
        dim = bytes(64 * light + value // 4 for value in values)
        pictures.append(pil.frombytes("RGB", (width, height), dim))
    return pictures
