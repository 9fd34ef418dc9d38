"""Commands on texts without labels: select, layer, compare and probe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from . import made, reading
from .commands import done
from .conftest import METRICS, Place
from .frozen import expect

FEW = ("--draws", 6)
SURE = ("--draws", 40)  # from which on `select` gives intervals


def test_select(place: Place, tmp_path: Path) -> None:
    models = place.models("bert-one", "bert-two", "gpt", "sentence")
    asked = ("--texts", place.texts, "--plugins", "frenet,nrs,gfmi", *SURE, "--quiet")
    printed = done(place.cache, "select", "--models", *models, *asked, "--output", tmp_path)
    rows = reading.table(tmp_path / "select.csv")
    expect("select", reading.columns(rows, "seconds_1000"))
    for row in rows:
        assert row["model"] in printed
        assert f"{row['value']:#.4g}" in printed
    assert reading.document_values(tmp_path, "select")["models"] == [
        f"local/{model.name}" for model in models
    ]


def test_select_with_another_seed_moves_intervals_alone(place: Place, tmp_path: Path) -> None:
    models = place.models("bert-one", "gpt")
    asked = ("--models", *models, "--texts", place.texts, "--plugins", "nrs", *SURE, "--quiet")
    found = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        done(place.cache, "select", *asked, "--seed", seed, "--output", folder)
        found.append(reading.columns(reading.table(folder / "select.csv")))
    assert found[0]["value"] == found[1]["value"]
    assert found[0]["low"] != found[1]["low"]


def test_layer_chooses_and_saves(place: Place, tmp_path: Path) -> None:
    """The saved model's states are those of the whole one at that layer."""
    model, cut = place.folder / "gpt", tmp_path / "cut"
    asked = ("--texts", place.texts, "--by", "effective_rank,dime,prompt_entropy", "--quiet")
    printed = done(
        place.cache, "layer", model, *asked, "--view-texts", 20, "--save", cut, "--pooling", "mean"
    )
    held = json.loads((cut / "config.json").read_text())
    found = {"blocks": held["n_layer"], "table": reading.starred(printed)}
    expect("layer", found)
    assert 1 <= held["n_layer"] < 6
    expect("layer-states", _mean_states(cut, [held["n_layer"]]))
    whole, short = (_mean_states(folder, [held["n_layer"] - 1]) for folder in (model, cut))
    np.testing.assert_allclose(short, whole, rtol=1e-5, atol=1e-6)


def test_layer_that_is_the_last_one(place: Place, tmp_path: Path) -> None:
    asked = ("--texts", place.texts, "--by", "dataset_entropy", "--quiet")
    printed = done(
        place.cache, "layer", place.folder / "bert-one", *asked, "--save", tmp_path / "cut"
    )
    assert printed.startswith("The last layer")
    assert "Nothing was saved" in printed
    assert not (tmp_path / "cut").exists()


def _mean_states(folder: Path, layers: list[int]) -> list[list[float]]:
    """Mean state over texts and tokens at some of transformers' hidden states."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (
        AutoModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    sums = [np.zeros(model.config.hidden_size) for _ in layers]
    texts = made.sentences(5, 3, most=6)
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
        for place, layer in enumerate(layers):
            sums[place] += states[layer][0].double().mean(0).numpy()
    return [(one / len(texts)).tolist() for one in sums]


@pytest.fixture(scope="module")
def tuned(place: Place) -> Path:
    """A model as deep as bert-one."""
    return made.bert(place.folder / "tuned", 31)


def test_compare(place: Place, tuned: Path, tmp_path: Path) -> None:
    models = (place.folder / "bert-one", tuned)
    pooled = ",".join(metric for metric in METRICS if metric not in ("infonce", "lidar", "dime"))
    asked = ("--texts", place.texts, "--plugins", pooled, *FEW, "--output", tmp_path, "--quiet")
    printed = done(place.cache, "compare", *models, *asked)
    rows = reading.table(tmp_path / "compare.csv")
    expect("compare", reading.columns(rows, "layer_b"))
    for metric in {row["metric"] for row in rows}:
        assert metric in printed


def test_a_model_does_not_differ_from_itself(place: Place, tmp_path: Path) -> None:
    model = place.folder / "bert-one"
    asked = ("--texts", place.texts, "--plugins", "nrs,curvature", *FEW, "--output", tmp_path)
    done(place.cache, "compare", model, model, *asked, "--quiet")
    rows = reading.table(tmp_path / "compare.csv")
    assert {(row["difference"], row["low"], row["high"]) for row in rows} == {(0, 0, 0)}


def test_models_of_other_depth_are_compared(place: Place, tmp_path: Path) -> None:
    """A layer stands beside the one that is nearest in relative depth."""
    models = place.models("bert-one", "bert-two")
    asked = ("--texts", place.texts, "--plugins", "curvature", *FEW, "--output", tmp_path)
    done(place.cache, "compare", *models, *asked, "--quiet")
    rows = reading.table(tmp_path / "compare.csv")
    depth_a, depth_b = (
        json.loads((model / "config.json").read_text())["num_hidden_layers"] for model in models
    )
    assert depth_a != depth_b
    for row in rows:
        assert abs(row["layer"] / depth_a - row["layer_b"] / depth_b) <= 0.5 / depth_b


@pytest.mark.parametrize(
    ("kind", "model", "steps"),
    [
        ("repetition", "bert-one", ("--shares", "0,0.5,1")),
        ("random", "gpt", ("--shares", "0,0.25")),
        ("length", "llama", ("--lengths", "8,32")),
    ],
)
def test_probe(kind: str, model: str, steps: tuple[str, str], place: Place, tmp_path: Path) -> None:
    asked = ("--kind", kind, *steps, "--texts", place.texts, "--output", tmp_path, "--quiet")
    printed = done(place.cache, "probe", place.folder / model, *asked)
    rows = reading.table(tmp_path / "probe.csv")
    expect(f"probe-{kind}", reading.probed(rows))
    shown = [r for r in rows if r["score"] == "effective_rank" and isinstance(r["layer"], int)]
    assert shown
    for row in shown:
        assert f"{row['value']:#.4g}" in printed
