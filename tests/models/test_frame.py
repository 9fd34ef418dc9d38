"""A model's frame: its states are used without its weights, which are read where needed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import wraps
from inspect import unwrap
from pathlib import Path
from typing import Any

import loading_weights
import psutil
import pytest
import tiny
import tiny_images
import torch
from odd_checkpoints import change

from lrd_harness.contracts import Task, Text
from lrd_harness.errors import UserError
from lrd_harness.images import Image
from lrd_harness.models.frame import file_of

pytestmark = pytest.mark.usefixtures("own_cache")
MADE: dict[str, Any] = {
    "bert": lambda folder: tiny.save("Bert", folder),
    "llama": lambda folder: tiny.save("Llama", folder, causal=True),
    "t5": lambda folder: tiny.save("T5", folder),
    "cls": lambda folder: tiny.save_st(folder, dense=7),
    "dense": lambda folder: tiny.save_st(folder, dense=7, prompts={"query": "ask: "}),
    "vit": lambda folder: tiny_images.save("ViTModel", folder),
    "clip": lambda folder: tiny_images.save(
        "CLIPModel", folder, **tiny_images.TOWERS, projection_dim=6
    ),
}


@pytest.fixture(name="loaded")
def _loaded() -> Iterator[list[str]]:
    with loading_weights.loaded() as kinds:
        yield kinds


@pytest.mark.parametrize("kind", MADE)
def test_a_frame_is_the_model_without_its_weights(
    kind: str, tmp_path: Path, loaded: list[str]
) -> None:
    MADE[kind](tmp_path / kind)
    planned = tiny.planned(tmp_path / kind)
    chosen = {"head": kind == "llama", "pooling": "cls" if kind == "cls" else None}
    planned = replace(planned, options=replace(planned.options, **chosen))
    whole = planned.open(weights=False)  # was never opened: there is no frame
    assert loaded
    loaded.clear()
    frame = planned.open(weights=False)
    pooled, task = torch.randn(3, whole.info.width), Task("t", list, "STS")
    for name in ("info", "identity", "has_final_norm", "similarity", "headless", "padding"):
        assert getattr(frame, name) == getattr(whole, name), name
    assert (frame.head is None) == (whole.head is None) == (kind != "llama")
    for side in (None, "query", "document"):
        assert frame.prompt(task, side) == whole.prompt(task, side)
        assert torch.equal(frame.embed(pooled, side), whole.embed(pooled, side))
    assert loaded == []
    texts = [Text("a cat"), Text("the dog ran on " * 3, "ask: ")]
    if planned.modality == "image":
        texts = [Text(Image.of(picture)) for picture in tiny_images.pictures(2)]
    for states in zip(
        *(model.states(model.tokenize(texts)).values() for model in (frame, whole)), strict=True
    ):  # which a frame has not got
        assert torch.equal(*states)
    assert loaded
    assert frame.head is None or frame.head.vocabulary == whole.head.vocabulary


def test_a_frame_that_is_damaged_or_of_another_reading_is_not_believed(
    tmp_path: Path, own_cache: Path, loaded: list[str]
) -> None:
    planned = tiny.planned(tiny.save("Bert", tmp_path / "bert"))
    planned.open()
    (file,) = (own_cache / "frames").iterdir()
    good = file.read_text()
    for wrong in ("", "[]", "{}", good[:-9], good.replace('"blocks"', '"others"')):
        file.write_text(wrong)
        loaded.clear()
        planned.open(weights=False)
        assert loaded, wrong
        assert file.read_text() == good
    for options in ({"pooling": "cls"}, {"dtype": "bfloat16"}, {"max_length": 9}, {"prompts": {}}):
        loaded.clear()
        replace(planned, options=replace(planned.options, **options)).open(weights=False)
        assert loaded, options
    other = json.loads(good)
    other["plain"]["identity"]["max_length"] = "1"
    file.write_text(json.dumps(other))
    frame = planned.open(weights=False)
    with pytest.raises(UserError, match="read in another way"):
        frame.tokenize([Text("a cat")])
    assert file.read_text() == good


def test_what_cannot_do_without_its_weights_is_opened_whole(
    tmp_path: Path, own_cache: Path
) -> None:
    folder = tmp_path / "own"
    tiny_images.save_own_code(folder, tmp_path / "mark")
    tiny.planned(folder, folder).open()
    planned = tiny.planned(tiny.save("Bert", tmp_path / "bert"))
    shipped = planned.adapter.open

    @wraps(unwrap(shipped))
    def changed(*how: Any) -> Any:
        return shipped(*how)  # and whatever it makes of it

    replace(planned, adapter=replace(planned.adapter, open=changed)).open()
    assert not (own_cache / "frames").exists()


def test_eight_billion_parameters_open_in_seconds(tmp_path: Path, own_cache: Path) -> None:
    """As large as Llama-3.1-8B by its configuration; a file of weights that is empty."""
    folder = tiny.save("Llama", tmp_path / "llama")
    tiny.planned(folder).open()
    (file,) = (own_cache / "frames").iterdir()
    large = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    change(folder / "config.json", **large, num_attention_heads=32, num_key_value_heads=8)
    planned = tiny.planned(folder)
    where = file_of(planned.checkpoint, planned.adapter, planned.options)
    file.rename(where)
    begun, before = time.perf_counter(), psutil.Process().memory_info().rss
    frame = planned.open(weights=False)
    assert "_opening" in vars(frame)
    assert time.perf_counter() - begun < 30
    assert psutil.Process().memory_info().rss - before < 2**30
