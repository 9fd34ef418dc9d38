"""Image models of many families, each against transformers itself: states, norm, pooling, pruning.

What a model without some blocks gives is compared with one that is built without them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_images
import torch
import transformers
from PIL import Image as pil
from tiny_images import BLOCKS, PATCH, PATCHES, SIDE, SMALL
from torch import Tensor, nn

from lrd_harness.capture.walk import Walk
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.images import Image
from lrd_harness.models.backbone import Backbone
from lrd_harness.models.cut import parameters, remove

L, PIXELS = BLOCKS, SIDE
SQUARES = {"image_size": [PIXELS, PIXELS], "patch_size": [PATCH, PATCH]}
VIDEO = {
    "crop_size": PIXELS,
    "frames_per_clip": 2,
    "pred_hidden_size": 8,
    "pred_num_hidden_layers": 2,
    "pred_num_attention_heads": 2,
}
YOLOS = {
    "num_detection_tokens": 3,
    "image_size": [PIXELS, PIXELS],
    "use_mid_position_embeddings": False,
}
RELATIVE = {"use_relative_position_bias": True}
SHARED = {"use_shared_relative_position_bias": True}
# class of the model, and what its configuration has besides; "+..." tells two of a class apart
FAMILIES: dict[str, dict[str, Any]] = {
    "AltCLIPVisionModel": {},
    "Aimv2VisionModel": {"use_head": False},
    "Aimv2VisionModel+head": {"use_head": True},
    "BeitModel": {"use_absolute_position_embeddings": True, **RELATIVE},
    "BeitModel+cls": {"use_mean_pooling": False, **SHARED},
    "Blip2VisionModel": {},
    "BlipVisionModel": {},
    "CLIPSegVisionModel": {},
    "CLIPVisionModel": {},
    "CLIPVisionModelWithProjection": {"projection_dim": 8},
    "ChineseCLIPVisionModel": {},
    "DINOv3ViTModel": {"num_register_tokens": 4},
    "DPTModel": {},
    "Data2VecVisionModel": {},
    "DeiTModel": {},
    "Dinov2Model": {},
    "Dinov2WithRegistersModel": {},
    "FlavaImageModel": {},
    "GitVisionModel": {},
    "IJepaModel": {},
    "Idefics3VisionTransformer": {},
    "ImageGPTModel": {"vocab_size": 9, "n_positions": PATCHES},
    "InternVLVisionModel": SQUARES,
    "MLCDVisionModel": {},
    "MetaClip2VisionModel": {},
    "OwlViTVisionModel": {},
    "PixioModel": {},
    "Sapiens2Model": {},
    "Siglip2VisionModel": {"num_patches": PATCHES},
    "SiglipVisionModel": {},
    "Tipsv2VisionModel": {},
    "VJEPA2Model": VIDEO,
    "ViTMAEModel": {"mask_ratio": 0.0},
    "ViTMSNModel": {},
    "ViTModel": {},
    "YolosModel": YOLOS,
    "YolosModel+between": {**YOLOS, "use_mid_position_embeddings": True},
}


QUICK = (
    *("Aimv2VisionModel+head", "BeitModel", "CLIPVisionModelWithProjection", "Dinov2Model"),
    *("Siglip2VisionModel", "ViTMAEModel", "ViTModel", "YolosModel"),
)


def names(families: Iterable[str]) -> list[Any]:
    return tiny.rest_slow(families, *QUICK)


def built(family: str, blocks: int = L) -> Any:
    settings = {**FAMILIES[family], "num_hidden_layers": blocks}
    return tiny_images.built(family.partition("+")[0], **settings)


def inputs(family: str, images: Tensor) -> dict[str, Any]:
    """Pixels (b, 3, 32, 32) as the family takes them."""
    if family == "VJEPA2Model":
        frames = images.unsqueeze(1).repeat(1, 2, 1, 1, 1)
        return {"pixel_values_videos": frames, "skip_predictor": True}
    if family == "Siglip2VisionModel":
        rows = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        rows = rows.permute(0, 2, 3, 4, 5, 1).reshape(len(images), PATCHES, -1)
        seen = torch.ones(len(images), PATCHES, dtype=torch.long)
        shapes = torch.tensor([[PIXELS // PATCH] * 2] * len(images))
        return {"pixel_values": rows, "pixel_attention_mask": seen, "spatial_shapes": shapes}
    if family == "ImageGPTModel":  # a colour a pixel
        return {"input_ids": (4 * images[:, 0, :4, :4].flatten(1)).long().clamp(-4, 3) + 4}
    noise = {"noise": torch.arange(PATCHES).repeat(len(images), 1).float()}
    return {"pixel_values": images, **(noise if family == "ViTMAEModel" else {})}


def drawn(images: int = 3) -> Tensor:
    return torch.randn(images, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))


def states(backbone: Backbone, features: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    found: list[Tensor] = []
    last = backbone.run(features, lambda layer, state: found.append(state.clone()))
    return found, last


def theirs(model: Any, features: dict[str, Any]) -> Any:
    with torch.inference_mode():
        return model(**features, output_hidden_states=True)


def normed(backbone: Backbone, state: Tensor) -> Tensor:
    with torch.inference_mode():
        return state if backbone.final_norm is None else backbone.final_norm(state)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))


def without(family: str, removed: Sequence[int]) -> Any:
    """transformers' model built anew of the blocks that are left, with their weights."""
    kept = [number for number in range(1, L + 1) if number not in removed]
    model, weights = built(family, len(kept)), {}
    whole = built(family)
    blocks = Backbone(whole, inputs(family, drawn(1))).blocks
    (place,) = [name for name, part in whole.named_modules() if part is blocks]
    for name, weight in whole.state_dict().items():
        number = re.match(rf"{re.escape(place)}\.(\d+)\.", name)
        if number is None:
            weights[name] = weight
        elif int(number[1]) + 1 in kept:
            new = f"{place}.{kept.index(int(number[1]) + 1)}."
            weights[new + name[number.end() :]] = weight
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_states(family: str) -> None:
    """L + 1 states, as transformers gives them, of an image alone and beside others."""
    model, images = built(family), drawn()
    backbone = Backbone(model, inputs(family, images[:1]))
    assert backbone.calls == len(backbone.blocks) == L
    found, last = states(backbone, inputs(family, images))
    output = theirs(model, inputs(family, images))
    assert len(output.hidden_states) == L + 1
    tied = [*found[:L], last if family == "ImageGPTModel" else found[L]]
    for state, hidden in zip(tied, output.hidden_states, strict=True):
        close(state, hidden)
    close(last, output.last_hidden_state)
    close(normed(backbone, found[L]), last)
    if backbone.final_norm is not None:
        assert not torch.allclose(found[L], last, rtol=1e-2, atol=1e-3)
    for row in range(len(images)):
        alone, _ = states(backbone, inputs(family, images[[row]]))
        for state, expected in zip(found, alone, strict=True):
            close(state[row], expected[0])


@pytest.mark.parametrize("family", names(f for f in FAMILIES if f != "YolosModel+between"))
def test_truncated_and_pruned(family: str, tmp_path: Path) -> None:
    """State 2 is the last one of the first two blocks, and blocks are taken out, and saved."""
    model, features = built(family), inputs(family, drawn())
    backbone = Backbone(model, features)
    found, _ = states(backbone, features)
    short = theirs(without(family, (3, 4)), features)
    close(normed(backbone, found[2]), short.last_hidden_state)
    gone = (2,), (1, 4)
    walked: dict[Any, Tensor] = {}
    Walk(backbone).run(features, gone, lambda out, state: walked.update({out: state.clone()}))
    for out in gone:
        expected = theirs(without(family, out), features)
        state = walked[out]
        close(normed(backbone, state), expected.last_hidden_state)
        cut = copy.deepcopy(model)
        left = parameters(cut, Backbone(cut, features).blocks, out)[1]
        remove(cut, Backbone(cut, features).blocks, out)
        assert left == sum(p.numel() for p in cut.parameters())
        output = theirs(cut, features)
        close(output.last_hidden_state, expected.last_hidden_state)
        assert len(output.hidden_states) == L + 1 - len(out)
        cut.save_pretrained(tmp_path)
        again = theirs(type(cut).from_pretrained(tmp_path), features)
        close(again.last_hidden_state, expected.last_hidden_state)


def images_of(sizes: Sequence[tuple[int, int]] = ((40, 30), (32, 32), (20, 50))) -> list[Image]:
    draw = np.random.default_rng(0)
    arrays = [draw.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in sizes]
    return [Image.of(pil.fromarray(array)) for array in arrays]


def folder_of(family: str, folder: Path) -> Path:
    settings = {k: v for k, v in FAMILIES[family].items() if k != "mask_ratio"}  # as it comes
    tiny_images.save(family.partition("+")[0], folder, **settings)
    return folder


AROUND = {  # tokens before the patches and behind them, where these are not CLS alone
    **dict.fromkeys(("Aimv2VisionModel", "Aimv2VisionModel+head", "IJepaModel"), (0, 0)),
    **dict.fromkeys(("Idefics3VisionTransformer", "ImageGPTModel"), (0, 0)),
    **dict.fromkeys(("Siglip2VisionModel", "SiglipVisionModel"), (0, 0)),
    "DeiTModel": (2, 0),
    **dict.fromkeys(("DINOv3ViTModel", "Dinov2WithRegistersModel"), (5, 0)),
    "PixioModel": (8, 0),
    "Sapiens2Model": (9, 0),
    "Tipsv2VisionModel": (2, 0),
    "YolosModel": (1, 3),
}
WITHOUT_POOLER = (
    *("Aimv2VisionModel", "Data2VecVisionModel", "GitVisionModel", "IJepaModel", "ImageGPTModel"),
    *("Idefics3VisionTransformer", "InternVLVisionModel", "ViTMAEModel", "ViTMSNModel"),
)
# without what is made for videos, and what cannot be built of fewer blocks
ADAPTED = [f for f in FAMILIES if f not in ("VJEPA2Model", "YolosModel+between")]


@pytest.mark.parametrize("family", names(ADAPTED))
def test_poolings(family: str, tmp_path: Path) -> None:
    """CLS, patches without other tokens, and the model's own pooler, of every state."""
    folder, images = folder_of(family, tmp_path), images_of()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    features = dict(processor([image.open() for image in images], return_tensors="pt"))
    if family == "ViTMAEModel":
        features["noise"] = torch.arange(PATCHES).repeat(len(images), 1).float()
    output, short = theirs(built(family), features), theirs(without(family, (3, 4)), features)
    before, behind = AROUND.get(family, (1, 0))
    seen = features.get("pixel_attention_mask", torch.ones(len(images), PATCHES)).unsqueeze(2)
    assert bool((seen == 0).any()) == (family == "Siglip2VisionModel")

    def patches(state: Tensor) -> Tensor:
        part = state[:, before : before + PATCHES]
        assert part.shape[1] == state.shape[1] - before - behind
        return (part * seen).sum(1) / seen.sum(1)

    pools: dict[str, Any] = {"mean": patches}
    if before:
        pools["cls"] = lambda state: state[:, 0]
        pools["cls-mean"] = lambda state: torch.cat([state[:, 0], patches(state)], 1)
    for name, pool in pools.items():
        model = tiny.open_model(folder, pooling=name)
        encoded = model.tokenize([Text(image) for image in images])
        planes, end = model.states(encoded), "final" if model.has_final_norm else "raw"
        for layer in range(L):
            close(planes["raw", layer], pool(output.hidden_states[layer]))
        close(planes[end, 2], pool(short.last_hidden_state))
        close(planes[end, L], pool(output.last_hidden_state))
    for rows in ([1], [2, 0]):
        again = model.states([encoded[row] for row in rows])
        for plane, states_of_all in planes.items():
            close(again[plane], states_of_all[rows])
    if family in WITHOUT_POOLER:
        with pytest.raises(UserError, match="no pooler"):
            tiny.open_model(folder, pooling="pooler")
        return
    model = tiny.open_model(folder, pooling="pooler")
    planes = model.states(encoded)
    place = "image_embeds" if family.endswith("WithProjection") else "pooler_output"
    close(model.embed(planes[end, L]), output[place])
    close(model.embed(planes[end, 2]), short[place])


def test_a_masked_autoencoder_gives_the_same_again(tmp_path: Path) -> None:
    """Its patches are dropped and put in another order by chance, unless that is prevented."""
    folder, planes = folder_of("ViTMAEModel", tmp_path), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = tiny.open_model(folder, pooling="cls")
        planes.append(model.states(model.tokenize([Text(image) for image in images_of()])))
    for plane, state in planes[0].items():
        assert torch.equal(state, planes[1][plane])


STAGES = """Bit ConvNext ConvNextV2 Cvt DINOv3ConvNext DonutSwin FocalNet GLPN GroupViTVision Hiera
Levit PoolFormer Pvt PvtV2 RegNet ResNet Segformer SwiftFormer Swin Swin2SR Swinv2""".split()


@pytest.mark.parametrize("family", STAGES)
def test_models_of_stages_are_refused_by_name(family: str) -> None:
    """Also those that could be read in part (PVT), or group by group (Swin)."""
    config = getattr(transformers, f"{family}Config")()
    with torch.device("meta"):
        model = getattr(transformers, f"{family}Model")._from_config(config)
    with pytest.raises(UserError, match=rf"{family}Model is made of \d stages .* of equal blocks"):
        Backbone(model, {"pixel_values": drawn(1)})


def test_a_decoder_of_objects_is_not_read_for_the_model() -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4}
    convolutions = transformers.ResNetConfig(**sizes, out_features=["stage4"])
    config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=convolutions)
    with torch.device("meta"):
        model = transformers.DetrModel(config)
    with pytest.raises(UserError, match="DetrModel is made of an encoder of images and a decoder"):
        Backbone(model, {"pixel_values": drawn(2)})


class Config(SimpleNamespace):
    def get_text_config(self) -> Config:
        return self


class Merging(nn.Linear):
    def __init__(self, step: int) -> None:
        super().__init__(8, 8)
        self.step = step

    def forward(self, state: Tensor) -> Tensor:
        return super().forward(state[:, :: self.step])


class Stack(nn.Module):
    """A model by hand of lists of blocks, each of which keeps every `step`-th token."""

    def __init__(self, lists: Sequence[int] = (3,), step: int = 1, config: Any = None) -> None:
        super().__init__()
        self.embed, self.config = nn.Linear(3 * PIXELS, 8), config
        self.parts = nn.ModuleList(
            nn.ModuleList(Merging(step) for _ in range(blocks)) for blocks in lists
        )

    def forward(self, pixel_values: Tensor) -> Any:
        state = self.embed(pixel_values.movedim(1, 2).flatten(2))
        for part in self.parts:
            for block in part:
                state = block(state)
        return SimpleNamespace(last_hidden_state=state)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Stack(), ""),
        (Stack(config=Config(num_hidden_layers=3)), ""),
        (Stack([2, 3]), "2 more Merging are run than the 3 that were taken for its blocks"),
        (Stack(config=Config(num_hidden_layers=5)), "tells of 5 blocks, and 3 Merging are run"),
        (Stack(step=2), "its blocks make 4 tokens of 32"),
        (Stack([1], step=2), "its blocks make 16 tokens of 32"),
    ],
)
def test_blocks_that_are_not_all(model: nn.Module, complaint: str) -> None:
    """A list that is a part of the blocks, or whose states are of other tokens, is not read."""
    probe = {"pixel_values": drawn(2)}
    if not complaint:
        assert Backbone(model, probe).calls == 3
        return
    with pytest.raises(UserError, match=f"Stack: .*{complaint}, so its layers cannot be read"):
        Backbone(model, probe)


@pytest.mark.parametrize(
    ("family", "settings", "complaint"),
    [
        ("MobileViT", {}, r"no state for each token, \(2, T, d\), but \(2, 640, 1, 1\)"),
        ("VitDet", SMALL, r"no state for each token, \(2, T, d\), but \(2, 16, 4, 4\)"),
        ("PixtralVision", SMALL, r"\(2, T, d\), but \(1, 32, 16\)"),  # all images as one row
        ("VideoPrismVision", SMALL, "cannot be run on images: You have to specify pixel_values_v"),
    ],
)
def test_other_models_are_refused(family: str, settings: dict[str, Any], complaint: str) -> None:
    kind = getattr(transformers, f"{family}Model")
    model = kind._from_config(kind.config_class(**settings)).eval()
    with pytest.raises(UserError, match=f"{family}Model .*{complaint}"):
        Backbone(model, {"pixel_values": drawn(2)})
