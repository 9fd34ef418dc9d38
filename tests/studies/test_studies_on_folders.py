"""Images of one's own in studies, runs and Python: the states that transformers gives of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
import tiny_images
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import lrd_harness
from lrd_harness import measure
from lrd_harness.cli import main
from lrd_harness.errors import NotEnoughTexts, UserError
from lrd_harness.report import worded
from lrd_harness.runner.units import Context

pytestmark = pytest.mark.usefixtures("own_cache")
PICTURES = tiny_images.pictures(24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, and pictures of which one is there twice."""
    place = tmp_path_factory.mktemp("own-images")
    tiny_images.save("Dinov2Model", place / "one")
    tiny_images.save("ViTMSNModel", place / "two", seed=1)
    tiny_images.write(place / "photos", [*PICTURES, PICTURES[3]])
    return place


def in_order(folder: Path) -> list[Path]:
    return sorted((folder / "photos").rglob("*.png"))


def expected(model: Path, pictures: list[Image.Image]) -> np.ndarray:
    """CLS of all states (L + 1, n, d), the last one normed, by transformers alone."""
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    network = transformers.AutoModel.from_pretrained(model, attn_implementation="eager").eval()
    with torch.inference_mode():
        pixels = processor(pictures, return_tensors="pt")
        output = network(**pixels, output_hidden_states=True)
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    return np.stack([state[:, 0].numpy() for state in states])


@pytest.mark.parametrize(("name", "tokens"), [("one", 0), ("two", 1)])  # 1: each image alone
def test_paths_and_pil_images_are_encoded(name: str, tokens: int, folder: Path) -> None:
    model = lrd_harness.open(folder / name, batch_tokens=tokens, quiet=True)
    files = in_order(folder)
    shade = Image.new("LA", (9, 30), (0, 51))  # a black that a fifth is left of
    pictures = [Image.open(file).convert("RGB") for file in files[:3]]
    inputs = [files[0], str(files[1]), Image.open(files[2]), shade, files[0]]
    grey = Image.new("RGB", shade.size, (204, 204, 204))
    found = model.encode(inputs)
    right = expected(folder / name, [*pictures, grey, pictures[0]])
    np.testing.assert_allclose(found, right, atol=1e-4)
    for wrong, said in {
        "photos": "images are a list of paths or PIL images",
        (): "no images: the list is empty",
        (3,): "image 1 is no path and no PIL image: its type is int",
        (files[0], folder / "none.png"): "none.png",
        (folder / "one" / "config.json",): "config.json: no image that can be read",
    }.items():
        with pytest.raises(UserError, match=said):
            model.encode(wrong)


@pytest.mark.parametrize("form", ["parquet", "npz"])
def test_states_of_a_folder_are_those_of_its_images(
    form: str, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / f"states.{form}"
    typed = ["--images", str(folder / "photos"), "--layers", "1,3", "--quiet"]
    assert main(["states", str(folder / "one"), *typed, "--output", str(file)]) == 0
    assert "States of 25 images at 2 layers" in capsys.readouterr().out
    files = in_order(folder)
    right = lrd_harness.open(folder / "one", quiet=True).encode(files)
    if form == "npz":
        with np.load(file) as arrays:
            np.testing.assert_array_equal(arrays["layer_3"], right[3])
        return
    frame = pd.read_parquet(file)
    assert list(frame.columns) == ["image", "layer_1", "layer_3"]
    assert list(frame.image) == list(map(str, files))  # copies too
    np.testing.assert_array_equal(np.stack(list(frame.layer_1)), right[1])


def test_a_list_and_a_folder_give_the_same(folder: Path) -> None:
    """And that is the metric of transformers' states."""
    one, two = folder / "one", folder / "two"
    in_folder: dict[str, Any] = {"images": folder / "photos", "quiet": True}
    listed: dict[str, Any] = {"images": in_order(folder), "quiet": True}
    how = {"metrics": "effective_rank", "draws": 0}
    first, second = (
        lrd_harness.compare(one, two, **inputs, **how).table("compare").frame
        for inputs in (in_folder, listed)
    )
    pd.testing.assert_frame_equal(first, second)
    pictures = [Image.open(file).convert("RGB") for file in dict.fromkeys(in_order(folder))]
    distinct = list({image.tobytes(): image for image in pictures}.values())
    right = measure("effective_rank", expected(one, distinct))["effective_rank"]
    rows = first[first.score == "effective_rank"]
    assert len(distinct) == 24
    np.testing.assert_allclose(rows.a.to_numpy()[-3:], right[-3:], rtol=1e-4)
    ranked = lrd_harness.select([one, two], **listed, metrics="frenet", draws=0)
    assert ranked.title == "Models for your images"
    assert {row["n"] for row in ranked.table("select").rows} == {24}


def test_images_that_nobody_named_are_digits(folder: Path) -> None:
    chosen = lrd_harness.layer(folder / "one", by="effective_rank", quiet=True)
    assert chosen.facts["task"] == "DigitsImageClustering"
    assert chosen.facts["texts"] == 200
    more = lrd_harness.layer(folder / "one", by="effective_rank", max_texts=300, quiet=True)
    assert more.facts["texts"] == 300


def test_a_run_counts_images_and_measures_them(folder: Path, tmp_path: Path) -> None:
    results = lrd_harness.run(
        [folder / "one"],
        metrics="effective_rank",
        images=folder / "photos",
        output=tmp_path / "out",
        quiet=True,
    )
    (met,) = running.records(tmp_path / "out", "texts")
    counts = {name: met[name] for name in ("asked", "duplicates", "empty", "truncated")}
    assert counts == {"asked": 25, "duplicates": 1, "empty": 0, "truncated": 0}
    profile = results.values.query("kind == 'profile' and name == 'effective_rank'")
    files = [file for file in in_order(folder) if file.name != "024.png"]  # the copy
    right = measure("effective_rank", lrd_harness.open(folder / "one", quiet=True).encode(files))
    np.testing.assert_allclose(profile.value.iloc[-3:], right["effective_rank"][-3:], rtol=1e-9)


def test_lines_of_faults_say_images_but_not_in_names_of_files() -> None:
    lines: list[str] = []
    context: Any = SimpleNamespace(
        planned=SimpleNamespace(modality="image", name="m"),
        ledger=SimpleNamespace(failed=set()),
        display=SimpleNamespace(line=lines.append),
        record=lambda *_, **__: None,
    )
    for error in (NotEnoughTexts("dime needs 2 texts"), UserError("pages of text /a.png: changed")):
        Context.fail(context, "unit", error)
    expected = ["NotEnoughTexts: dime needs 2 images", "pages of text /a.png: changed"]
    assert [line.removeprefix("error: m: ") for line in lines] == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["text", "texts", "a", " ", "/", ".", ":", "-", "x"]), min_size=1))
def test_no_name_is_worded_for_images(parts: list[str]) -> None:
    name = "".join(parts)
    said = worded(f"Of {name}, 5 texts; {name} is first", "image", name)
    assert said.startswith(f"Of {name}, 5 ")
    assert said.endswith(f"; {name} is first")


def test_one_state_of_all_images_is_said_of_images(folder: Path, tmp_path: Path) -> None:
    """State 0 under CLS, on a task whose score is not defined there."""
    pairs = [{"image1": f"{i:03}.png", "image2": f"a/{i + 1:03}.png"} for i in range(0, 24, 2)]
    rows = [json.dumps({**pair, "score": i % 5}) for i, pair in enumerate(pairs)]
    (folder / "photos" / "test.jsonl").write_text("\n".join(rows))
    out, task = tmp_path / "out", "VisualSTS:photos"
    metrics = ("--plugins", "frenet")
    assert running.run(out, [folder / "one"], folder, *metrics, tasks=[task]) == 0
    (undefined,) = running.records(out, "undefined")
    assert (undefined["layer"], undefined["error"]) == (0, "every image has the same state there")
