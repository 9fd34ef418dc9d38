"""Image models that mteb wraps itself: the last layer's score is that of mteb's own wrapper.

Small random models, with their norms set to random weights, on local images.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny_images
from mteb.models.model_implementations.clip_models import CLIPModel as ClipOfMteb
from mteb.models.model_implementations.dino_models import DINOModel
from mteb.models.model_implementations.siglip_models import SiglipModelWrapper
from mteb.models.model_meta import ModelMeta
from PIL import Image
from test_against_mteb import by_mteb, scores

import lrd_harness

pytestmark = pytest.mark.slow
NUMBERS = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
TASKS = ("ImageClassification:Drawn", "ImageClustering:Drawn", "DigitsImageClustering")


def vocabulary() -> Any:
    """A tokenizer that mteb's wrappers open beside the images' processor, and do not ask."""
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefgh", *(f"{c}</w>" for c in "abcdefgh")]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def dino() -> tuple[Any, Any]:
    from transformers import BitImageProcessorPil

    return tiny_images.built("Dinov2Model"), BitImageProcessorPil(**NUMBERS)


def clip() -> tuple[Any, Any]:
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    model = tiny_images.built("CLIPModel", **tiny_images.TOWERS, projection_dim=12)
    return model, CLIPProcessor(CLIPImageProcessorPil(**NUMBERS), vocabulary())


def siglip() -> tuple[Any, Any]:
    from transformers import SiglipImageProcessorPil, SiglipProcessor

    images = SiglipImageProcessorPil(size=NUMBERS["size"])
    model = tiny_images.built("SiglipModel", **tiny_images.TOWERS)
    return model, SiglipProcessor(images, vocabulary())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of each of four classes, of sizes that differ, opaque: mteb keeps no alpha."""
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(8)
    for label in range(4):
        (folder / "Drawn" / f"class {label}").mkdir(parents=True)
        for i in range(10):
            tall, wide = draw.integers(20, 44, 2)
            waves = np.sin(np.arange(wide) * (0.2 + 0.2 * label))[None, :, None]
            picture = 128 + 60 * waves + draw.normal(0, 60, (tall, wide, 3))
            drawn = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
            drawn.save(folder / "Drawn" / f"class {label}" / f"{i}.png")
    return folder


def of_mteb(name: str, data: Path) -> Any:
    """The task as mteb evaluates it, with images in the columns."""
    if ":" not in name:
        task = importlib.import_module("lrd_harness.tasks.offline.tasks").mteb_task(name)
        task.load_data()
        return task
    tasks = importlib.import_module("lrd_harness.tasks.embedding.mteb_tasks")
    kind = name.partition(":")[0]
    task = tasks.define("Drawn", kind, {"path": "x", "revision": "x"}, {}, description="x")()
    tasks.local_data.load(task, data / "Drawn")
    return task


@pytest.mark.parametrize(
    ("make", "wrapper"), [(dino, DINOModel), (clip, ClipOfMteb), (siglip, SiglipModelWrapper)]
)
def test_the_last_layer_is_scored_as_mteb_scores_it(
    make: Callable[[], tuple[Any, Any]], wrapper: Any, data: Path, tmp_path: Path, own_cache: Path
) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    for part in make():
        part.save_pretrained(folder)
    assert (
        running.run(out, [folder], data, "--plugins", "frenet", "--layers", "1,4", tasks=TASKS) == 0
    )
    mine = scores(out)
    assert {layer for _, layer in mine} == {1, 4}
    stock = wrapper(str(folder), None)
    meta = {"name": "a/b", "revision": "1", "modalities": ["image"]}
    stock.mteb_model_meta = ModelMeta.create_empty(overwrites=meta)
    whole = lrd_harness.mteb_model(str(folder))
    for name in TASKS:
        expected = by_mteb(stock, of_mteb(name, data))
        assert mine[name, 4] == pytest.approx(expected, abs=1e-6), name
        assert by_mteb(whole, of_mteb(name, data)) == pytest.approx(expected, abs=1e-6), name
    assert len({round(score, 6) for score in mine.values()}) > len(TASKS)  # the layers do differ
