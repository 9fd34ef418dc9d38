"""Studies of models of images, against transformers: what is saved, compared, chosen and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from PIL import Image as pil
from torch import Tensor, nn

from lrd_harness.blocks import runs
from lrd_harness.capture.fidelity import alike
from lrd_harness.errors import UserError
from lrd_harness.manager import load
from lrd_harness.models.find import FILE, find
from lrd_harness.progress import Display
from lrd_harness.studies.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")
L, SIDE = 4, 16
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": L, "image_size": SIDE}
SMALL |= {"num_attention_heads": 2, "patch_size": 4}
TEXTS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": L, "projection_dim": 8}
TEXTS |= {"num_attention_heads": 2, "vocab_size": 50, "eos_token_id": 2, "bos_token_id": 1}
TOWERS = {"vision_config": {**SMALL, "projection_dim": 8}, "text_config": TEXTS}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": L,
    "decoder_intermediate_size": 8,
}
# with what they were trained for; that is kept, too
FAMILIES: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {},
    "Dinov2ForImageClassification": {"out_indices": [2, 4]},
    "DINOv3ViTModel": {"num_register_tokens": 2},
    "BeitForImageClassification": {"use_relative_position_bias": True},
    "BeitModel": {"use_mean_pooling": False},
    "DeiTForImageClassificationWithTeacher": {},
    "ViTMAEForPreTraining": {**DECODER, "decoder_num_attention_heads": 2},
    "IJepaModel": {},
    "Aimv2VisionModel": {"use_head": True},
    "CLIPVisionModelWithProjection": {"projection_dim": 8},
    "CLIPModel": {**TOWERS, "projection_dim": 8},
    "SiglipModel": TOWERS,
}
PROCESSOR = {"do_resize": True, "do_normalize": True, "image_mean": [0.4] * 3, "do_rescale": True}
PROCESSOR |= {"image_std": [0.3] * 3, "size": {"height": SIDE, "width": SIDE}}
PROCESSOR |= {"image_processor_type": "ViTImageProcessor"}


def pictures(n: int, seed: int = 0) -> list[pil.Image]:
    """Coloured squares on noise, of several sizes."""
    draw, made = np.random.default_rng(seed), []
    for _ in range(n):
        pixels = draw.integers(0, 256, (*draw.integers(12, 24, 2), 3), dtype=np.uint8)
        pixels[2:9, 3:11] = draw.integers(0, 256, 3)
        made.append(pil.fromarray(pixels))
    return made


IMAGES = pictures(56)


def made(family: str, folder: Path, **more: Any) -> Path:
    """A model of that class, whose norms do something, with its processor."""
    kind = getattr(transformers, family)
    torch.manual_seed(0)
    model = kind(
        kind.config_class(
            **({} if "vision_config" in FAMILIES[family] else SMALL), **FAMILIES[family], **more
        )
    )
    for name, weight in model.named_parameters():
        if "norm" in name.lower():
            nn.init.uniform_(weight, 0.5, 1.5)
        elif weight.dim() > 1:
            nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    if "vision_config" in FAMILIES[family]:
        tiny.tokenizer().save_pretrained(folder)
    return folder


def opened(folder: Path, kind: Any = None) -> Any:
    """By transformers: a class, else what AutoModel makes of the folder."""
    auto: Any = kind or transformers.AutoModel
    model, loading = auto.from_pretrained(folder, output_loading_info=True)
    assert not [key for key in loading["missing_keys"] if "pooler" not in key]
    return model.eval()


def body(model: Any) -> Any:
    """What gives a state for each patch."""
    if hasattr(model, "vision_model"):
        return model.vision_model
    return model if type(model).__name__ == "DINOv3ViTModel" else model.base_model


def states(model: Any, folder: Path) -> tuple[Tensor, ...]:
    """hidden_states, and the last state as the model gives it, in the folder's own pixels."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = dict(processor([im.convert("RGB") for im in IMAGES[:3]], return_tensors="pt"))
    inner = body(model)
    if "MAE" in type(inner).__name__:
        inner.config.mask_ratio = 0.0
        inputs["noise"] = torch.arange(16).repeat(3, 1).float()
    with torch.inference_mode():
        output = inner(**inputs, output_hidden_states=True)
    return (*output.hidden_states, output.last_hidden_state)


def without(model: Any, removed: tuple[int, ...]) -> Any:
    """The model, blocks taken out of its list by hand."""
    lists = [m for m in body(model).modules() if isinstance(m, nn.ModuleList) and len(m) == L]
    for block in sorted(removed, reverse=True):
        del lists[0][block - 1]
    return model


def study(kind: str, *, images: Any = IMAGES, **more: Any) -> Study:
    return Study(kind, load(), images=images, display=Display(quiet=True), **more)


@pytest.mark.parametrize("family", tiny.rest_slow(list(FAMILIES), "Dinov2ForImageClassification"))
def test_the_saved_model_is_the_pruned_one(family: str, tmp_path: Path) -> None:
    """To transformers, with its head, its other tower and its pixels, and to the harness."""
    full = made(family, tmp_path / "full")
    for removed in ((1,), (2, 4)):
        folder = tmp_path / f"without-{removed[0]}"
        blocks = ",".join(map(str, removed))
        report = study("prune").prune(str(full), blocks=blocks, save_to=folder)
        assert report.facts["fidelity"]["cosine"] < 0.999
        expected = states(without(opened(full), removed), full)
        given = states(opened(folder), folder)
        assert len(given) == L - len(removed) + 2
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)
        kind = getattr(transformers, family)
        first, second = (opened(path, kind).state_dict() for path in (full, folder))
        beside = [name for name in second if ".layer" not in name or "text_model" in name]
        assert all(torch.equal(first[name], second[name]) for name in beside)
        assert find(str(folder)).config["architectures"] == [family]
        card = (folder / "README.md").read_text()
        assert "On 56 images of 56 images, without labels." in card
        assert "10 nearest images in common" in card
        assert "text" not in card.replace("context", "")
        read = study("states").opened(str(folder)).encode(IMAGES[:5])
        whole = study("states").opened(str(full))
        assert read.shape[:2] == (L - len(removed) + 1, 5)
        np.testing.assert_allclose(read[0], whole.encode(IMAGES[:5])[0], rtol=1e-4, atol=1e-5)
        parent = json.loads((folder / FILE).read_text())["parent"]
        assert parent["removed"] == list(removed)
        assert runs(removed)
