"""Small random models of images with their processors, and folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from odd_checkpoints import change
from PIL import Image
from safetensors.torch import save_file

SIDE, PATCH, PATCHES, BLOCKS, WIDTH = 32, 8, 16, 4, 16
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
WORDS = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
SMALL = {**WORDS, "intermediate_size": 24, "image_size": SIDE, "patch_size": PATCH}
WORDS |= {"intermediate_size": 8, "vocab_size": 50}
WORDS |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TOWERS = {"vision_config": SMALL, "text_config": WORDS}


def built(name: str, seed: int = 0, **changes: Any) -> Any:
    """A model of that class, whose norms and biases do something."""
    kind = getattr(transformers, name)
    settings = changes if "vision_config" in changes else {**SMALL, **changes}
    torch.manual_seed(seed)
    model = kind._from_config(kind.config_class(**settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
            else:
                weight.add_(torch.rand_like(weight) / 2)
    return model


def save(name: str, folder: Path, seed: int = 0, **changes: Any) -> Any:
    """Such a model in an ordinary folder, with a processor that suits it; returns the model."""
    model = built(name, seed, **changes)
    model.save_pretrained(folder)
    processor: Any = transformers.ViTImageProcessorPil(**SQUARE)
    if name == "Siglip2VisionModel":
        patches = {"patch_size": PATCH, "max_num_patches": PATCHES}
        processor = transformers.Siglip2ImageProcessorPil(**patches)
    if name == "ImageGPTModel":  # a colour a pixel, each a token
        size, colours = {"height": 4, "width": 4}, np.random.default_rng(1).uniform(-1, 1, (8, 3))
        processor = transformers.ImageGPTImageProcessorPil(clusters=colours.tolist(), size=size)
    processor.save_pretrained(folder)
    return model


_OWN = """
from pathlib import Path
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel
Path(MARK).touch()
class OwnConfig(ViTConfig):
    model_type = "own_eyes"
class OwnModel(ViTModel):
    config_class = OwnConfig
class OwnProcessor(ViTImageProcessorPil):
    def preprocess(self, images, *args, **kwargs):
        return super().preprocess([i.rotate(180) for i in images], *args, **kwargs)
"""


def save_own_code(folder: Path, mark: Path) -> Any:
    """A ViT with code of its own, which turns images and touches `mark`; returns transformers'."""
    whole = save("ViTModel", folder)
    (folder / "own.py").write_text(_OWN.replace("MARK", repr(str(mark))))
    save_file(whole.state_dict(), folder / "model.safetensors", {"format": "pt"})
    auto = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    change(folder / "config.json", model_type="own_eyes", auto_map=auto)
    processor = {"auto_map": {"AutoImageProcessor": "own.OwnProcessor"}}
    change(folder / "preprocessor_config.json", image_processor_type="OwnProcessor", **processor)
    return whole


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
