"""Views of images: each different, the same on every machine, of the image's size."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import PIL.Image as pil
import PIL.ImageEnhance as enhance
import pytest
import tiny
import tiny_images
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from lrd_harness.plugins.metrics.views import lrd_metrics

import lrd_harness
from lrd_harness.capture import image_views
from lrd_harness.capture.augment import SEED, views
from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.contracts import Request, Task
from lrd_harness.images import Image
from lrd_harness.measuring import PlannedMetric

RAMPS = np.zeros((90, 120, 3), np.uint8)  # red and green say where a pixel was
RAMPS[..., 0], RAMPS[..., 1], RAMPS[..., 2] = np.arange(120) * 2, np.arange(90)[:, None] * 2, 90
SMALL = array_shapes(min_dims=2, max_dims=2, max_side=8).map(lambda shape: (*shape, 3))


def image(values: np.ndarray, name: str = "drawing") -> Image:
    return Image.of(pil.fromarray(values), name)


def flat(value: int, height: int = 3, width: int = 4) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def pixels(made: list[str]) -> list[bytes]:
    assert all(isinstance(view, Image) for view in made)
    return [view.open().tobytes() for view in made]  # type: ignore[attr-defined]


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint8, SMALL, elements=st.sampled_from([0, 9, 255])), st.integers(0, 9))
@example(flat(0), 0)
@example(flat(255), 0)
@example(flat(128), 0)
@example(flat(0, 1, 1), 0)
@example(np.eye(8, dtype=np.uint8)[..., None].repeat(3, 2) * 255, 0)
@example(np.zeros((1, 3000, 3), np.uint8), 0)
def test_no_view_is_another_or_the_image(values: np.ndarray, seed: int) -> None:
    drawing = image(values)
    made = views(drawing, 16, seed)
    assert len({drawing.open().tobytes(), *pixels(made)}) == 17
    assert len({drawing, *made}) == 17
    assert views(drawing, 4, seed) == made[:4]  # fewer are the first of more


def test_they_depend_on_pixels_seed_and_number_alone() -> None:
    made = views(image(RAMPS), 6)
    expected = pixels(made)
    image_views._views.cache_clear()
    assert pixels(made[::-1]) == expected[::-1]  # in whatever order they are opened
    image_views._views.cache_clear()
    assert pixels(pickle.loads(pickle.dumps(made[3:]))) == expected[3:]  # as in another process
    assert pixels(views(image(RAMPS, "other"), 6)) == expected
    assert made == views(image(RAMPS), 6, SEED) != views(image(RAMPS), 6, 1)
    assert not set(expected) & set(pixels(views(image(RAMPS), 6, 1)))
    assert not set(expected) & set(pixels(views(image(RAMPS[::-1].copy()), 6)))
    assert [view.name for view in made[:2]] == ["drawing, view 1", "drawing, view 2"]


def test_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"".join(pixels(views(image(RAMPS), 16)))).hexdigest()
    assert digest[:16] == "6d58fa45f25fa0b7"


@pytest.mark.parametrize(
    ("size", "expected"),
    [((7, 3), (7, 3)), ((1024, 9), (1024, 9)), ((3000, 1000), (1024, 341)), ((1, 2500), (1, 1024))],
)
def test_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    for view in views(Image.of(pil.new("RGB", size, "teal")), 2):
        assert view.size == view.open().size == expected


def test_parts_are_as_large_and_as_stretched_as_they_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(image_views, "RECOLOURED", 0)
    monkeypatch.setattr(image_views, "GREY", 0)
    shares, stretches, flips = [], [], 0
    for view in views(image(RAMPS), 300):
        shown = np.asarray(view.open()).astype(float)
        inner = shown[10:-10, 10:-10]  # away from the edges of the resized part
        across = np.diff(inner[..., 0]).mean() / 2
        down = np.diff(inner[..., 1], axis=0).mean() / 2
        flips += across < 0
        shares.append(abs(across) * down)
        stretches.append(abs(across) / down)
    assert 0.07 < min(shares) < 0.12
    assert 0.9 < max(shares) <= 1.01
    assert 0.7 < min(stretches) < 0.8
    assert 1.25 < max(stretches) < 1.4
    assert 120 < flips < 180


@pytest.mark.parametrize("share", [-205, -100, 3, 100, 205])
def test_colours_change_as_pil_changes_them(share: int) -> None:
    drawing = pil.fromarray(np.random.default_rng(3).integers(0, 256, (20, 20, 3), np.uint8))
    factor = 1 + share / 256
    white = pil.new("RGB", drawing.size, "white" if share > 0 else "black")
    for changes, expected in (
        ((share, 0, 0), pil.blend(drawing, white, abs(share) / 256)),
        ((0, share, 0), enhance.Contrast(drawing).enhance(factor)),
        ((0, 0, share), enhance.Color(drawing).enhance(factor)),
    ):
        found = np.asarray(image_views.recolour(drawing, *changes), int)
        assert np.abs(found - np.asarray(expected)).max() <= 2  # PIL cuts off, and rounds the mean
    grey = np.asarray(image_views.recolour(drawing, 0, 0, -256))
    assert (grey == np.asarray(drawing.convert("L"))[..., None]).all()
    assert image_views.recolour(drawing, 0, 0, 0).tobytes() == drawing.tobytes()


def test_some_views_are_grey_and_some_keep_their_colours() -> None:
    shown = [np.asarray(view.open()) for view in views(image(RAMPS), 100)]
    grey = sum(bool((pixels == pixels[..., :1]).all()) for pixels in shown)
    kept = sum(bool((pixels[20:-20, 20:-20, 2] == 90).all()) for pixels in shown)
    assert 10 < grey < 32
    assert 8 < kept < 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dinov2")
    tiny_images.save("Dinov2Model", place)
    return place


@pytest.mark.slow
def test_metrics_of_views_are_those_of_views_read_by_transformers(
    folder: Path, tmp_path: Path
) -> None:
    drawn = np.random.default_rng(1).integers(0, 256, (12, 9, 14, 3), np.uint8)
    images = [image(values) for values in drawn]
    task = Task("Own", lambda: [Request(i) for i in images], None, modality="image")
    planned = [PlannedMetric(metric, {}) for metric in lrd_metrics()]
    sampling = Sampling(view_texts=9)
    opened = tiny.open_model(folder)
    reader = Embeddings(opened, Questions(100), 64, sampling, root=tmp_path)
    reader.capture({task: reader.ask(task, False, True)}, lambda *_: None, {task: planned})
    assert (reader.captured.texts, reader.captured.forwarded) == (12 + 9 * 16,) * 2
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    rows = []
    for one in images[:9]:
        inputs = processor([view.open() for view in views(one, 16)], return_tensors="pt")
        with torch.no_grad():
            found = plain(**inputs, output_hidden_states=True)
        rows.append(torch.stack([*found.hidden_states[:-1], found.last_hidden_state])[:, :, 0])
    states = torch.stack(rows, 1).numpy()
    for item in planned:
        scores, n = reader.samples.measure(item, reader.sample(task))
        expected = lrd_harness.measure(item.metric.name, states[:, :, : item.metric.views])
        assert n == 9
        for name, values in expected.items():
            np.testing.assert_allclose(scores[name], values, rtol=1e-3, atol=1e-4)
