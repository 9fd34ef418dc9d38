"""Studies of models of images beside transformers: what is saved, compared, chosen, refused."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import tiny_images
import torch
import transformers
from tiny_images import BLOCKS as L
from tiny_images import TOWERS
from torch import Tensor, nn

from lrd_harness.blocks import candidates
from lrd_harness.capture.fidelity import alike
from lrd_harness.manager import load
from lrd_harness.models.find import FILE, find
from lrd_harness.progress import Display
from lrd_harness.studies.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": L}
DECODER |= {"decoder_intermediate_size": 8, "decoder_num_attention_heads": 2}
# with what they were trained for; that is kept, too
FAMILIES: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {},
    "Dinov2ForImageClassification": {"out_indices": [2, 4]},
    "DINOv3ViTModel": {"num_register_tokens": 2},
    "BeitForImageClassification": {"use_relative_position_bias": True},
    "BeitModel": {"use_mean_pooling": False},
    "DeiTForImageClassificationWithTeacher": {},
    "ViTMAEForPreTraining": DECODER,
    "IJepaModel": {},
    "Aimv2VisionModel": {"use_head": True},
    "CLIPVisionModelWithProjection": {"projection_dim": 8},
    "CLIPModel": {**TOWERS, "projection_dim": 8},
    "SiglipModel": TOWERS,
}
IMAGES = tiny_images.pictures(56)


def made(family: str, folder: Path) -> Path:
    """A model of that class with its processor, of two towers with a tokenizer too."""
    own = FAMILIES.get(family, {})
    tiny_images.save(family, folder, **own)
    if "vision_config" in own:
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
        beside = [n for n in second if not re.search(r"layers?\.\d", n) or "text_model" in n]
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


@pytest.mark.slow
def test_code_of_its_own_and_patches_of_any_number(tmp_path: Path) -> None:
    """Code goes with a model, its processor's too; padding among patches changes nothing."""
    own, cut = tmp_path / "own", tmp_path / "cut"
    tiny_images.save_own_code(own, tmp_path / "mark")
    study("prune", settings={"trust_remote_code": [str(own)]}).prune(
        str(own), blocks="2", save_to=cut
    )
    trusting: Any = {"trust_remote_code": True}
    sides = [
        (
            transformers.AutoModel.from_pretrained(folder, **trusting).eval(),
            transformers.AutoImageProcessor.from_pretrained(folder, **trusting),
        )
        for folder in (own, cut)
    ]
    (full, turning), (smaller, again) = sides
    inputs, same = (p(IMAGES[:3], return_tensors="pt") for p in (turning, again))
    assert torch.equal(inputs["pixel_values"], same["pixel_values"])
    with torch.inference_mode():
        expected = without(full, (2,))(**inputs).last_hidden_state
        torch.testing.assert_close(smaller(**inputs).last_hidden_state, expected)

    tiny_images.save("Siglip2VisionModel", tmp_path / "any", num_patches=16)
    study("prune").prune(str(tmp_path / "any"), blocks="1", save_to=tmp_path / "less")
    any_, less = (opened(tmp_path / n, transformers.Siglip2VisionModel) for n in ("any", "less"))
    del any_.encoder.layers[0]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "less", backend="pil")
    inputs = processor(IMAGES[:3], return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(any_(**inputs).last_hidden_state, less(**inputs).last_hidden_state)


@pytest.mark.parametrize(("pooling", "dtype"), [("cls-mean", "float32"), ("mean", "bfloat16")])
def test_it_is_pooled_as_before_in_its_own_precision(
    pooling: str, dtype: str, tmp_path: Path
) -> None:
    full = made("ViTForImageClassification", tmp_path / "full")
    kind = transformers.ViTForImageClassification
    kind.from_pretrained(full, dtype=getattr(torch, dtype)).save_pretrained(full)
    how = study("prune", settings={"pooling": pooling})
    how.prune(str(full), blocks="1", save_to=tmp_path / "cut")
    assert str(kind.from_pretrained(tmp_path / "cut", dtype="auto").dtype) == f"torch.{dtype}"
    assert study("states").opened(str(tmp_path / "cut")).model.info.pooling == pooling
    assert f"- pooling: `{pooling}`" in (tmp_path / "cut" / "README.md").read_text()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DINOv2, CLIP and ViT."""
    place = tmp_path_factory.mktemp("studies")
    for name, family in (("dino", "Dinov2Model"), ("clip", "CLIPModel"), ("vit", "ViTModel")):
        made(family, place / name)
    return place


def tokens(model: Any, folder: Path) -> tuple[Tensor, ...]:
    """hidden_states of all images, by transformers."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        output = model(**processor(IMAGES, return_tensors="pt"), output_hidden_states=True)
    return tuple(state.double() for state in output.hidden_states)


def vectors(folder: Path, layer: int, removed: tuple[int, ...] = ()) -> Tensor:
    """CLS of a layer of a model, blocks taken out, behind the final norm, of all images."""
    model = without(opened(folder), removed) if removed else opened(folder)
    state = tokens(model, folder)[layer]
    with torch.inference_mode():
        normed: Tensor = model.layernorm(state.float())[:, 0].double()
    return normed


def as_metrics_see(folder: Path) -> list[Tensor]:
    """CLS of every layer, the last one normed, which is how transformers' text models have it."""
    inner = [state[:, 0] for state in tokens(opened(folder), folder)[:L]]
    return [*inner, vectors(folder, L)]


@pytest.mark.slow
def test_a_layer_that_a_metric_chooses(models: Path, tmp_path: Path) -> None:
    """Values are those of the metric on transformers' states, and what is saved ends there."""
    full = models / "dino"
    report = study("layer").layer(str(full), ["effective_rank"], tmp_path / "a text cut")
    states = as_metrics_see(full)
    ranks = load().get("metric", "effective_rank").measure(states[1:])["effective_rank"]
    rows = [row for row in report.table("layer").rows if row["layer"] and row["value"] is not None]
    assert [row["value"] for row in rows] == pytest.approx(ranks, rel=1e-4)
    layer = int(np.argmax(ranks)) + 1
    assert report.facts["layer"] == layer < L
    assert any(line.startswith(f"Saved to {tmp_path}/a text cut: ") for line in report.answer)
    cut = vectors(tmp_path / "a text cut", layer)
    torch.testing.assert_close(cut, vectors(full, layer))
    expected = alike(states[L], cut)
    found = {row["figure"]: row for row in report.table("fidelity").rows}
    assert {name: found[name]["changed"] for name in ("cosine", "rsa", "cka")} == pytest.approx(
        {name: expected[name] for name in ("cosine", "rsa", "cka")}, rel=1e-3
    )
    assert found["knn_overlap"]["label"] == "10 nearest images in common"
    assert found["latency"]["changed"] > 0


@pytest.mark.slow
def test_two_models_of_images(models: Path) -> None:
    a, b = models / "dino", models / "vit"
    report = study("compare", metrics=["effective_rank"], draws=10).compare(str(a), str(b))
    sides = as_metrics_see(a), as_metrics_see(b)
    for row, *states in zip(report.table("alike").rows, *sides, strict=True):
        figures = alike(*states)
        assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-3, abs=1e-4)
    said = [*report.answer, *report.notes, report.title, *(t.title for t in report.shown)]
    said += [c.heading for t in report.shown for c in t.columns]
    said += [line for table in report.shown for line in table.caption]
    assert not [line for line in said if "text" in line]
    assert any("56 images" in line for line in said)


def scores(rule: str, folder: Path) -> list[float]:
    """Of blocks 1 to L, how little each changes, by transformers' states."""
    states, last = tokens(opened(folder), folder), vectors(folder, L)
    cosine = nn.functional.cosine_similarity
    if rule == "greedy":
        less = [vectors(folder, L - 1, (block,)) for block in range(1, L + 1)]
        return [float(cosine(last, left, dim=-1).mean()) for left in less]
    if rule == "angular":
        states = tuple(state[:, 0] for state in states)
    cosines = [cosine(*pair, dim=-1).clamp(-1, 1) for pair in itertools.pairwise(states)]
    return [-float((c.arccos() if rule == "angular" else -c).mean()) for c in cosines]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["angular", "block_influence", "greedy"])
def test_rules_that_look_into_the_model(rule: str, models: Path) -> None:
    """They look at the CLS token, at all tokens, and at what is left without a block."""
    report = study("prune").prune(str(models / "dino"), rule=rule, budget=0.5)
    least = max(candidates(L), key=lambda block: scores(rule, models / "dino")[block - 1])
    assert report.facts["removed"] == [least]


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["gfmi", "frenet", "nrs", "composite", "last", "random"])
def test_rules_choose_on_images(rule: str, models: Path) -> None:
    report = study("prune").prune(str(models / "clip"), rule=rule, budget=0.5)
    assert len(report.facts["removed"]) == 1
    chose = "The rule chose on these very images" in " ".join(report.table("prune").caption)
    assert chose == (rule not in ("last", "random"))


@pytest.mark.slow
def test_scores_of_pruned_models_are_those_of_saved_ones(models: Path, tmp_path: Path) -> None:
    """A variant of a run is the model that is saved without the same blocks, read in another."""

    def run(model: Path, out: Path, *more: str) -> None:
        typed = ("--layers", "last", "--plugins", "frenet", "--max-texts", "60", *more)
        assert running.run(out, [model], tmp_path, *typed, tasks=["DigitsImageClassification"]) == 0

    out, smaller = tmp_path / "out", tmp_path / "smaller"
    run(models / "clip", out, "--prune", "frenet", "--budgets", "0.5")
    (row,) = (r for r in running.records(out, "score") if r["variant"] != "full")
    (variant,) = running.records(out, "variant")
    assert variant["latency"] > 0
    more: dict[str, Any] = {"blocks": row["variant"].removeprefix("without "), "scores": out}
    report = study("prune").prune(str(models / "clip"), **more, save_to=smaller)
    assert report.facts["parameters"] == [variant["parameters_full"], variant["parameters"]]
    assert "| DigitsImageClassification | " in (smaller / "README.md").read_text()
    run(smaller, tmp_path / "again")
    (again,) = running.records(tmp_path / "again", "score")
    assert again["score"] == pytest.approx(row["score"], abs=1e-9)
