"""Pooled states in half as many bytes: rounded as the types say, refused where they do not fit."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Shown
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.layers import planes
from lrd_harness.capture.likelihoods import Likelihoods
from lrd_harness.capture.pruned import Variants
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.cli import main
from lrd_harness.contracts import Continuation, Request, Task, Text
from lrd_harness.errors import NotInRange
from lrd_harness.store.store import Store, folder_name, narrowed, widened

NARROW = {"float16": ("F16", 2.0**-11), "bfloat16": ("BF16", 2.0**-8)}
IDENTITY = {"model": "org/one", "pooling": "mean"}
TEXTS = [Text(text) for text in tiny.sentences(24)]


def rounded(values: Any, name: str) -> Any:
    """The nearest numbers of a type, the even one of two: numpy's, and by whole numbers alone."""
    if name == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    low, kept = bits & 0xFFFF, bits >> 16
    up = (low > 0x8000) | ((low == 0x8000) & (kept & 1 == 1))
    return ((kept + up) << 16).astype(np.uint32).view(np.float32)


def stored(folder: Path, name: str) -> Store:
    return Store(folder, Sampling(store_dtype=name).kept(IDENTITY))


def back(block: Any, name: str) -> Any:
    """States as they come back; the tensor is taken apart as a file is."""
    kept = narrowed(np.asarray(block, np.float32), name, 3)
    bits = kept.view(torch.int16).numpy()
    return widened(bits.view(np.float16 if name == "float16" else np.uint16))


@pytest.mark.parametrize("name", NARROW)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.integers(-10, 12), spread=st.integers(0, 3))
def test_every_number_is_the_nearest_one(name: str, seed: int, scale: int, spread: int) -> None:
    draw = np.random.default_rng(seed)
    states = draw.normal(size=(5, 40)) * 2.0 ** (scale - spread * draw.random(size=(5, 40)))
    halfway = np.float32(1) + NARROW[name][1] * np.arange(1, 80, 2, dtype=np.float32)
    states = np.concatenate([states, halfway[None]]).astype(np.float32)
    found = back(states, name)
    np.testing.assert_array_equal(found, rounded(states, name))
    np.testing.assert_array_equal(back(found, name), found)
    usual = (np.abs(states) >= 2.0**-14) | (name != "float16")  # below, it is as coarse as there
    off = np.abs(found - states.astype(np.float64))
    assert (off <= NARROW[name][1] * np.abs(states))[usual].all()
    assert (off <= 2.0**-25)[~usual].all()


FITS = [
    ("float16", [65_504, 1], True), ("float16", [65_519, -1], True),
    ("float16", [65_520, 1], False), ("float16", [-1e30, 1], False), ("bfloat16", [-1e30, 1], True),
    ("float16", [0, 0], True), ("float16", [1, 1e-30], True), ("float16", [1e-7, 1e-7], False),
    ("float16", [1e-30, 0], False), ("bfloat16", [1e-30, 0], True), ("float16", [1e-4, 1e-6], True),
    ("float16", [1e-40, 0], False), ("bfloat16", [3.4e38, 0], False),
    # what the model itself has made is kept, and named where it is read
    ("float16", [np.nan, 1], True), ("float16", [np.inf, 1], True), ("bfloat16", [np.nan, 1], True),
    ("bfloat16", [-np.inf, 1], True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "state", "fits"), FITS)
def test_what_does_not_fit_is_refused(
    name: str, state: list[float], fits: bool, tmp_path: Path
) -> None:
    """Beside sound states, in a middle row; nothing of it is written then."""
    store, block = stored(tmp_path, name), np.ones((3, len(state)), np.float32)
    block[1] = state
    given_planes = {("raw", 7): block[:, ::-1], ("final", 8): np.ones((3, 2), np.float32)}
    if fits:
        store.write(TEXTS[:3], given_planes)
        found = store.read(TEXTS[1:2], ("raw", 7))[0]
        np.testing.assert_array_equal(found, rounded(block[1, ::-1].copy(), name))
        return
    other = {"float16": "bfloat16", "bfloat16": "float32"}[name]
    with pytest.raises(NotInRange, match=f"layer 7 .*{name}: try --store-dtype {other}$"):
        store.write(TEXTS[:3], given_planes)
    assert stored(tmp_path, name).missing(TEXTS[:3]) == TEXTS[:3]


@pytest.mark.parametrize("name", NARROW)
def test_a_file_has_the_type_and_a_store_is_of_one(name: str, tmp_path: Path) -> None:
    """Read by safetensors itself; planes of answers stay as they are."""
    states = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    store = stored(tmp_path, name)
    store.write(TEXTS, {("raw", 0): states, ("loglikelihood", 0): states})
    (path,) = store.folder.glob("*.safetensors")
    with safe_open(path, "pt") as file:
        whole, half = file.get_tensor("loglikelihood.0"), file.get_tensor("raw.0")
        assert file.get_slice("raw.0").get_dtype() == NARROW[name][0]
    np.testing.assert_array_equal(whole.numpy(), states)
    np.testing.assert_array_equal(half.float().numpy(), rounded(states, name))
    rows = [TEXTS[i] for i in (20, 3, 20)]
    found = stored(tmp_path, name).read(rows, ("raw", 0))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rounded(states, name)[[20, 3, 20]])
    for other in {"float32", *NARROW} - {name}:
        assert stored(tmp_path, other).missing(TEXTS) == TEXTS
    assert main(["cache", "verify"]) == 0


def test_states_of_before_are_those_of_float32() -> None:
    """The name of the folder is that which versions without the setting have given."""
    kept = Path(__file__).parents[1] / "end_to_end" / "kept" / "cache" / "states"
    folders = [path.parent for path in kept.glob("*/identity.json")]
    assert folders
    for folder in folders:
        identity = json.loads((folder / "identity.json").read_text())
        names = {
            name: folder_name(json.dumps(dict(sorted(described.items())), indent=1))
            for name in ("float32", *NARROW)
            for described in [Sampling(store_dtype=name).kept(identity)]
        }
        assert names["float32"] == folder.name
        assert len(set(names.values())) == 3


@pytest.mark.slow
def test_all_readers_round_pooled_states_and_nothing_else(tmp_path: Path) -> None:
    """Embeddings, likelihoods and pruned variants of a decoder with a final norm."""
    lm: Any = importlib.import_module("lrd_harness.tasks.likelihood.requests")
    tiny.save("Llama", tmp_path / "m", causal=True, uneven=True)
    model = tiny.open_model(tmp_path / "m", head=True)
    task = Task("Own", lambda: [Request(t.text) for t in TEXTS], None, tokenize=lm.tokenize)
    requests = [Continuation(text.text, f" {end}") for text in TEXTS[:9] for end in "ab"]

    def read(dtype: str) -> tuple[Any, ...]:
        how = Questions(100), 300, Sampling(store_dtype=dtype)
        texts = Embeddings(model, *how, root=tmp_path / "s")
        answers = Likelihoods(model, *how, root=tmp_path / "s")
        variants = Variants(texts, [(2,)])
        texts.read(TEXTS)
        answers.compare(task, requests, TEXTS[:9], ())
        assert variants.capture({task: TEXTS}, lambda *_: None).forwarded == len(TEXTS)
        assert (texts.captured.forwarded, answers.captured.forwarded) == (24, 9)
        places = {*planes(model, "raw"), *planes(model, "final")}
        pooled = [texts.store.read(TEXTS, plane) for plane in sorted(places)]
        pooled += [answers.store.read(TEXTS[:9], plane) for plane in sorted(places)]
        pooled.append(variants.stores[2,].read(TEXTS, planes(model, "final")[-1]))
        view = answers.view(2, "m", "r", [{}])
        return pooled, view.loglikelihoods(requests), texts.at(tmp_path / "other").store.identity

    whole, likelihoods, _ = read("float32")
    for name in NARROW:
        half, others, identity = read(name)
        assert (likelihoods, identity["store_dtype"]) == (others, name)
        for exact, found in zip(whole, half, strict=True):
            np.testing.assert_array_equal(found, rounded(exact, name))


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_run_says_what_does_not_fit_and_keeps_to_its_type(
    place: Path, tmp_path: Path, capsys: Shown
) -> None:
    """Two models, one of which has states beyond float16; float32's scores, nearly."""
    small, large = place / "bert", tiny.save("GPT2", tmp_path / "large")
    file = large / "model.safetensors"
    weights = load_file(file)
    for part in ("weight", "bias"):
        weights[next(n for n in weights if n.endswith(f"h.1.mlp.c_proj.{part}"))] *= 1e6
    save_file(weights, file, metadata={"format": "pt"})

    def run(name: str, out: str, *models: Path) -> int:
        how = ("--store-dtype", name, "--plugins", "frenet,nrs,curvature")
        return running.run(
            tmp_path / out, list(models), place / "data", *how, tasks=["STSBenchmark"]
        )

    assert run("float16", "half", small, large) == 1
    (error,) = running.records(tmp_path / "half", "error")
    assert error["model"].endswith("/large")
    assert error["error"].startswith("NotInRange: the states of layer 2 (up to ")
    assert error["error"].endswith("do not fit float16: try --store-dtype bfloat16")
    assert run("float32", "whole", small) == 0
    half, whole = (running.numbers(tmp_path / out) for out in ("half", "whole"))
    assert half.keys() == whole.keys()
    for unit, values in whole.items():
        found = half[unit]
        if "score" in values:
            assert found["score"] == pytest.approx(values["score"], abs=5e-3)
        else:  # curvature is of tokens, which are not rounded
            assert (found == values) == ("curvature" in unit)
            assert found["profiles"].keys() == values["profiles"].keys() != set()
            for name, profile in values["profiles"].items():
                exact, near = profile["values"], found["profiles"][name]["values"]
                assert np.abs(np.subtract(near, exact)).max() <= 1e-2 * np.abs(exact).max(), name
    assert running.counters(tmp_path / "whole")["forwarded"] > 0
    capsys.readouterr()
    assert run("float32", "half", small) == 2
    assert "a run with store_dtype float16, not float32" in running.one_line(capsys)
