"""Image models from folders on disk, against transformers' own model and image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_images
import torch
import transformers
from odd_checkpoints import change, fault
from PIL import Image as pil
from tiny_images import BLOCKS, SIDE, SQUARE, TOWERS, WIDTH
from torch import Tensor

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.images import Image
from lrd_harness.models.find import find

pytestmark = pytest.mark.usefixtures("own_cache")
# class, its configuration, its processor -> how it is pooled, and where its patches lie
FAMILIES: dict[str, tuple[dict[str, Any], str, slice]] = {
    "BeitModel": ({}, "pooler", slice(1, None)),
    "BlipVisionModel": ({}, "cls", slice(1, None)),
    "CLIPModel": ({**TOWERS, "projection_dim": 6}, "pooler", slice(1, None)),
    "CLIPForImageClassification": ({**TOWERS, "projection_dim": 6}, "pooler", slice(1, None)),
    "CLIPVisionModelWithProjection": ({"projection_dim": 6}, "pooler", slice(1, None)),
    "Data2VecVisionForImageClassification": ({}, "pooler", slice(1, None)),
    "DeiTModel": ({}, "cls", slice(2, None)),
    "Dinov2ForImageClassification": ({}, "cls", slice(1, None)),
    "DINOv3ViTModel": ({"num_register_tokens": 3}, "cls", slice(4, None)),
    "ImageGPTModel": ({"vocab_size": 9, "n_positions": 16}, "mean", slice(0, None)),
    "IJepaModel": ({}, "mean", slice(0, None)),
    "Siglip2VisionModel": ({"num_patches": 16}, "pooler", slice(0, None)),
    "SiglipModel": (TOWERS, "pooler", slice(0, None)),
    "ViTMAEModel": ({}, "cls", slice(1, None)),
    "YolosModel": ({"image_size": [SIDE, SIDE], "num_detection_tokens": 3}, "cls", slice(1, 17)),
}


def save(name: str, folder: Path) -> Any:
    return tiny_images.save(name, folder, **(FAMILIES[name][0] if name in FAMILIES else {}))


def picture(seed: int, width: int = 40, height: int = 30) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.of(pil.fromarray(pixels), f"picture {seed}")


IMAGES = [picture(0), picture(1, 30, 40), picture(2, 7, 7)]


def states(model: Any, images: list[Image]) -> dict[tuple[str, int], Tensor]:
    read: dict[tuple[str, int], Tensor] = model.states(model.tokenize([Text(i) for i in images]))
    return read


def output(model: Any, images: list[Image]) -> Tensor:
    last = ("final" if model.has_final_norm else "raw", model.info.blocks)
    embedded: Tensor = model.embed(states(model, images)[last])
    return embedded


def below_head(whole: Any) -> Any:
    if "CLIPForImage" in type(whole).__name__:
        return whole.vision_model
    return whole.base_model if "Classification" in type(whole).__name__ else whole


def read_by(whole: Any, folder: Path, **how: Any) -> Any:
    """What transformers' own model makes of what its own processor makes of the images."""
    processor: Any = transformers.AutoImageProcessor
    pixels = processor.from_pretrained(folder)([i.open() for i in IMAGES], return_tensors="pt")
    if "MAE" in type(whole).__name__:
        whole.config.mask_ratio, how["noise"] = 0.0, torch.arange(16).repeat(3, 1).float()
    with torch.no_grad():
        if hasattr(whole, "get_image_features"):
            return whole.get_image_features(**pixels, **how)
        return whole(**pixels, **how)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_model_was_made_for(name: str, tmp_path: Path) -> None:
    """The output of the last layer, and which tokens are patches."""
    whole, (_, pooling, patches) = save(name, tmp_path), FAMILIES[name]
    model = tiny.open_model(tmp_path)
    read = read_by(below_head(whole), tmp_path)
    if pooling == "pooler":
        expected = read.image_embeds if "Projection" in name else read.pooler_output
    elif pooling == "cls":
        expected = read.last_hidden_state[:, 0]
    else:
        expected = read.last_hidden_state.mean(1)
    assert model.info.pooling == pooling
    torch.testing.assert_close(output(model, IMAGES), expected)
    tokens = model.info.max_length
    assert model.patches.nonzero().flatten().tolist() == [*range(tokens)][patches]


def test_poolers_without_weights_are_never_read(tmp_path: Path) -> None:
    for kind, usual in [("BeitModel", "mean"), ("ViTModel", "cls")]:
        whole = save(kind, tmp_path)
        weights = {k: v for k, v in whole.state_dict().items() if "pooler" not in k}
        whole.save_pretrained(tmp_path, state_dict=weights)
        assert tiny.open_model(tmp_path).info.pooling == usual
        with pytest.raises(UserError, match="has no pooler, or its weights are not there"):
            tiny.open_model(tmp_path, pooling="pooler")
    save("SiglipModel", tmp_path)
    whole = transformers.SiglipModel.from_pretrained(tmp_path)
    del whole.vision_model.head
    whole.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"its weights lack \d+ tensors, as (vision_model\.)?head"):
        tiny.open_model(tmp_path)


def test_half_precision(tmp_path: Path) -> None:
    save("CLIPModel", tmp_path)
    whole, half = tiny.open_model(tmp_path), tiny.open_model(tmp_path, dtype="bfloat16")
    assert next(half.parts.module.parameters()).dtype == torch.bfloat16
    near = output(half, IMAGES) - output(whole, IMAGES)
    assert near.norm() < 0.05 * output(whole, IMAGES).norm()


def test_processors_that_torchvision_alone_has(tmp_path: Path) -> None:
    """DINOv3's: its numbers, with pillow's resizing."""
    save("DINOv3ViTModel", tmp_path)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    settings = {"image_processor_type": "DINOv3ViTImageProcessorFast", **SQUARE}
    settings |= {"image_mean": mean, "image_std": std, "resample": 2, "rescale_factor": 1 / 255}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    model = tiny.open_model(tmp_path)
    read = model.features(model.tokenize([Text(i) for i in IMAGES]))["pixels"]["pixel_values"]
    small = [np.asarray(i.open().resize((SIDE, SIDE), pil.Resampling.BILINEAR)) for i in IMAGES]
    expected = (np.stack(small) / 255 - mean) / std
    np.testing.assert_allclose(read.permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)
    del settings["image_mean"], settings["image_std"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert list(tiny.open_model(tmp_path).processor.image_mean) == [0.485, 0.456, 0.406]
    change(tmp_path / "preprocessor_config.json", image_processor_type="Sapiens2ImageProcessor")
    with pytest.raises(UserError, match="its image processor cannot be used: ") as caught:
        tiny.open_model(tmp_path)
    assert "\n" not in str(caught.value)


NOTHING = "ViTModel takes pixel_values, and ImageGPTImageProcessorPil makes input_ids"


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"do_resize": False}, "ViTImageProcessorPil makes 3x64x96 and 3x96x64 of images of diff"),
        ({"size": {"height": 16, "width": 16}}, r"Input image size (16*16) doesn't match model"),
        ({"image_processor_type": "None"}, "its image processor cannot be used: "),
        ({"image_mean": [0.5]}, "ViTImageProcessorPil makes no pixels of an image: mean must have"),
        ({"size": {"height": -1, "width": 5}}, "ViTImageProcessorPil makes no pixels of an image"),
        ({"size": {"height": 10**6, "width": 10**6}}, "size is 1,000,000 x 1,000,000 pixels"),
        ({"crop_size": 10**5}, "crop_size is 100,000 x 100,000 pixels"),
        ({"image_processor_type": "ImageGPTImageProcessor", "clusters": [[0, 0, 0]]}, NOTHING),
    ],
)
def test_processors_that_do_not_fit(settings: Any, line: str, tmp_path: Path) -> None:
    save("ViTModel", tmp_path)
    change(tmp_path / "preprocessor_config.json", **settings)
    with pytest.raises(UserError) as caught:
        tiny.planned(tmp_path).open()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_stack_whatever_its_processor_makes(tmp_path: Path) -> None:
    sizes: Any = {"image_size": [SIDE, SIDE], "embed_dim": 8, "num_heads": [1] * 4}
    hiera = transformers.HieraModel(transformers.HieraConfig(depths=[1] * 4, **sizes))
    hiera.save_pretrained(tmp_path)
    for settings in (SQUARE, {"size": {"shortest_edge": SIDE}}):
        transformers.ViTImageProcessorPil(**settings).save_pretrained(tmp_path)
        with pytest.raises(UserError, match="HieraModel is made of 4 stages"):
            tiny.open_model(tmp_path)


def test_what_is_told_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save("CLIPModel", tmp_path)
    assert main(["models", str(tmp_path), "--quiet", "--format", "json"]) == 0
    tables = json.loads(capsys.readouterr().out)["tables"]
    (row,) = tables.pop("models")["rows"]
    assert (row["images"], row["blocks"], row["context_limit"]) == (17, BLOCKS, None)
    ((_, table),) = tables.items()
    told = {fact["fact"]: fact["told"] for fact in table["rows"]}
    assert "would, too" not in told["adapter"]
    assert told["width"] == f"{WIDTH}; its output has 6"
    assert told["pooling"] == "pooler, by get_image_features, as in mteb"
    pixels = f"3x{SIDE}x{SIDE} by ViTImageProcessorPil (pil); 17 tokens, of which 16 are patches"
    assert told["images"] == pixels


def test_another_size_is_interpolated_where_the_model_does(tmp_path: Path) -> None:
    whole = save("Dinov2Model", tmp_path)
    before = tiny.open_model(tmp_path)
    change(tmp_path / "preprocessor_config.json", size={"height": 48, "width": 48})
    model = tiny.open_model(tmp_path)
    assert (before.info.max_length, model.info.max_length) == (17, 37)
    assert model.identity != before.identity
    expected = read_by(whole, tmp_path).last_hidden_state[:, 0]
    torch.testing.assert_close(output(model, IMAGES), expected)


def test_images_of_odd_shapes(tmp_path: Path) -> None:
    save("ViTModel", tmp_path)
    cropping = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE["size"]}
    transformers.CLIPImageProcessorPil(**cropping).save_pretrained(tmp_path)
    model = tiny.open_model(tmp_path)
    odd = [picture(0, 1, 1), picture(1, 3, 1), picture(2, 1, 3), picture(3, 3, 3), *IMAGES]
    together = output(model, odd)
    for image, row in zip(odd, together, strict=True):
        torch.testing.assert_close(output(model, [image])[0], row)
    with pytest.raises(UserError, match=r"picture 9: 1x40000 pixels, of which CLIPImageProc"):
        model.tokenize([Text(picture(9, 1, 40000))])
    with pytest.raises(UserError, match="reads images: 'a word' is none"):
        model.tokenize([Text("a word")])


def test_what_is_no_model_of_images(tmp_path: Path) -> None:
    save("IJepaModel", tmp_path / "ijepa")
    with pytest.raises(UserError, match=r"unknown pooling 'cls'.*has: mean\."):
        tiny.open_model(tmp_path / "ijepa", pooling="cls")
    for setting, chosen in [("max_length", 8), ("attention_mask", "causal"), ("pooling", "last")]:
        with pytest.raises(UserError, match=rf"(reads images: {setting}|'last'.*It reads images)"):
            tiny.planned(tmp_path / "ijepa", **{setting: chosen})
    tiny.save("Bert", tmp_path / "bert")
    with pytest.raises(UserError, match=r"unknown pooling of .*'pooler'.*It reads texts: choose"):
        tiny.planned(tmp_path / "bert", pooling="pooler")
    with pytest.raises(UserError, match="is no model of images alone"):
        tiny.ADAPTERS["image"]().check(find(str(tmp_path / "bert")))
    (tmp_path / "ijepa" / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json" in fault(tmp_path / "ijepa")


def test_a_tower_without_its_pooler(tmp_path: Path) -> None:
    seeing = {**TOWERS, "vision_config": {**tiny_images.SMALL, "vision_use_head": False}}
    whole = tiny_images.save("SiglipModel", tmp_path, **seeing)
    with pytest.raises(UserError, match=r"has no pooler.* \(--pooling chooses: mean\)"):
        tiny.open_model(tmp_path)
    read = read_by(whole.vision_model, tmp_path).last_hidden_state.mean(1)
    torch.testing.assert_close(output(tiny.open_model(tmp_path, pooling="mean"), IMAGES), read)


def test_code_of_its_own(tmp_path: Path) -> None:
    folder, mark = tmp_path / "own", tmp_path / "ran"
    whole = tiny_images.save_own_code(folder, mark)
    with pytest.raises(UserError, match="which is not run unless you trust it"):
        tiny.planned(folder)
    assert not mark.exists()
    model = tiny.planned(folder, folder).open()
    assert mark.exists()
    turned = [Image.of(i.open().rotate(180)) for i in IMAGES]
    transformers.ViTImageProcessorPil(**SQUARE).save_pretrained(tmp_path)
    whole.save_pretrained(tmp_path)
    torch.testing.assert_close(output(model, IMAGES), output(tiny.open_model(tmp_path), turned))
