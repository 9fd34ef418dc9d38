"""Small random models of images with their processors, and folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

SIDE = 24


def save(family: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A model of 3 blocks, of width 16, whose norms do something, in a folder."""
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, **changes}
    sizes = {"intermediate_size": 32, "image_size": SIDE, "patch_size": 8}
    config = getattr(transformers, f"{family}Config")(**{**small, **sizes})
    model = getattr(transformers, f"{family}Model")(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
    model.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(folder)
    return folder


def pictures(n: int, seed: int = 0) -> list[Image.Image]:
    """Coloured squares on noise, no two alike, of several sizes."""
    draw, made = np.random.default_rng(seed), []
    for i in range(n):
        pixels = draw.integers(0, 256, (20 + i % 9, 30, 3), np.uint8)
        pixels[2:14, 3 : 6 + i % 20] = draw.integers(0, 256, 3)
        made.append(Image.fromarray(pixels))
    return made


def write(folder: Path, images: list[Image.Image]) -> Path:
    """These pictures as files, every other one in a folder below."""
    for i, image in enumerate(images):
        place = folder / ("a" if i % 2 else ".") / f"{i:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
    return folder
