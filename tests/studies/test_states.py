"""`lrd-harness states`: the vectors in files, equal to `open(...).encode`, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
import tiny
from safetensors import safe_open

import lrd_harness
from lrd_harness.cli import main

pytestmark = pytest.mark.usefixtures("own_cache")
TEXTS = [*tiny.sentences(5), "", tiny.sentences(5)[0]]


def states(place: Path, file: Path, *more: object) -> int:
    texts = file.parent / "texts.jsonl"
    tiny.write_rows(texts, [{"text": text} for text in TEXTS])
    typed = ("--texts", texts, "--output", file, "--quiet", *more)
    return main(["states", str(place / "gpt"), *map(str, typed)])


def read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata, as a stranger reads them."""
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            found = {name: arrays[name] for name in arrays.files if name != "metadata"}
            return found, json.loads(str(arrays["metadata"]))
    if file.suffix == ".safetensors":
        with safe_open(file, "numpy") as opened:
            facts = {"layers": json.loads(opened.metadata()["layers"])}
            return {n: opened.get_tensor(n) for n in opened.keys()}, opened.metadata() | facts  # noqa: SIM118
    import pyarrow.parquet as pq

    frame = pd.read_parquet(file)
    assert list(frame.text) == TEXTS
    facts = json.loads(pq.read_schema(file).metadata[b"lrd_harness"])
    return {name: np.stack(list(frame[name])) for name in frame.columns[1:]}, facts


@pytest.mark.parametrize("form", ["safetensors", "npz", "parquet"])
def test_a_file_holds_what_encode_gives(
    form: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / f"states.{form}"
    assert states(place, file, "--layers", "3,1", "--norm", "final") == 0
    assert "States of 7 texts at 2 layers" in capsys.readouterr().out
    arrays, facts = read(file)
    model = lrd_harness.open(str(place / "gpt"), norm="final", quiet=True)
    expected = model.encode(TEXTS)
    assert sorted(arrays) == ["layer_1", "layer_3"]
    for name, array in arrays.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[int(name[-1])])
    said = {name: facts[name] for name in ("model", "norm", "pooling", "layers")}
    assert said == {"model": "local/gpt", "norm": "final", "pooling": "last", "layers": [1, 3]}
    assert facts["revision"] == model.revision
    assert states(place, file) == 0  # its own file is written over
    assert sorted(read(file)[0]) == [f"layer_{i}" for i in range(4)]


REFUSED = {
    "states.txt": "no form ends so (there are .safetensors, .npz, .parquet)",
    "no/states.npz": "its folder is not there",
    "strange.npz": "is there already and was not made by lrd-harness states",
    "strange.parquet": "is there already and was not made by lrd-harness states",
    "states.npz --layers 4": "local/gpt has layers 0 to 3, no layer 4",
    "states.npz --layers x": "is not all, last, or numbers",
    "states.npz --max-texts 3": "not a whole number of at least 8",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_opens_no_model(
    typed: str, place: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lrd_harness.planning.models.PlannedModel.open", lambda self: pytest.fail("opened")
    )
    np.savez(tmp_path / "strange.npz", a=np.ones(2))
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "strange.parquet")
    name, *more = typed.split()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    if "/" in name:
        (tmp_path / "texts.jsonl").touch()
        assert main(["states", str(place / "gpt"), "--output", str(tmp_path / name)]) == 2
    else:
        assert states(place, tmp_path / name, *more) == 2
    assert REFUSED[typed] in running.one_line(capsys)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name in before} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "blocks"), [("Bert", "encoder.layer"), ("ModernBert", "layers")]
)
def test_layer_n_is_the_model_that_adaptive_layer_loss_means(
    family: str, blocks: str, tmp_path: Path
) -> None:
    """Its recipe keeps the first n blocks, and the final norm where there is one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    tiny.save(family, tmp_path / "plain", num_hidden_layers=3)
    inner = Transformer(str(tmp_path / "plain"))
    pooling = Pooling(inner.get_word_embedding_dimension())
    SentenceTransformer(modules=[inner, pooling], device="cpu").save(str(tmp_path / "st"))
    mine = lrd_harness.open(str(tmp_path / "st"), quiet=True).encode(TEXTS, norm="final")
    for n in (1, 2):
        cut = SentenceTransformer(str(tmp_path / "st"), device="cpu")
        holder, _, name = f"auto_model.{blocks}".rpartition(".")
        module = cut[0].get_submodule(holder)
        setattr(module, name, getattr(module, name)[:n])
        np.testing.assert_allclose(cut.encode(TEXTS), mine[n], rtol=1e-5, atol=1e-5)
