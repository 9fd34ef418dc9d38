"""Which models of sentence-transformers are read, and by which name the others are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from odd_checkpoints import TEXTS, change, fault, packed, pickled, with_head
from sentence_transformers import (
    CrossEncoder,
    MultiVectorEncoder,
    SentenceTransformer,
    SparseEncoder,
)
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.sentence_transformer import modules as sentence

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("kinds") / "plain")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))


ENCODERS = [
    (SparseEncoder, transformers.AutoModelForMaskedLM, "a SparseEncoder of sentence-transformers"),
    (CrossEncoder, transformers.AutoModelForSequenceClassification, "a CrossEncoder of sentence"),
    (MultiVectorEncoder, transformers.AutoModel, "a MultiVectorEncoder of sentence-transformers"),
]


@pytest.mark.parametrize(("kind", "head", "named"), ENCODERS)
def test_encoders_that_make_no_dense_embedding(
    kind: Any, head: Any, named: str, plain: Path, tmp_path: Path
) -> None:
    inner = with_head(plain, head, tmp_path / "inner")
    folder = tmp_path / "model"
    kind(str(inner), device="cpu").save_pretrained(str(folder))
    line = fault(folder)
    assert named in line
    assert "encoder:NAME reads the layers" in line
    with pytest.raises(UserError, match=named):
        tiny.open_model(folder, "sentence-transformers")
    # as the line says: its transformer, as any other
    asked = [Text(text) for text in TEXTS]
    one, two = tiny.open_model(folder, "encoder"), tiny.open_model(inner, "encoder")
    torch.testing.assert_close(one.states(one.tokenize(asked)), two.states(two.tokenize(asked)))
    # the settings lost, the modules still tell, but for a CrossEncoder, which has one alone
    (folder / "config_sentence_transformers.json").unlink()
    assert ("no pooling after" if kind is CrossEncoder else named.split()[1]) in fault(folder)


def test_encoders_of_others_and_of_old_versions(folder: Path, plain: Path, tmp_path: Path) -> None:
    config = folder / "config.json"
    for key, said in (
        ("sentence_transformers", {"activation_fn": "torch.nn.modules.linear.Identity"}),
        ("sbert_ce_default_activation_function", "torch.nn.modules.linear.Identity"),
    ):
        change(config, **{key: said})
        assert "is a CrossEncoder of sentence-transformers, which scores pairs" in fault(folder)
        change(config, **{key: None})
    change(config, architectures=["HF_ColBERT"])
    assert "is a ColBERT" in fault(folder)
    # a head of its own is no fault: the states are what it sees, and a name in the weights
    for head in (
        transformers.AutoModelForMaskedLM,
        transformers.AutoModelForSequenceClassification,
    ):
        made = with_head(plain, head, tmp_path / head.__name__)
        assert tiny.open_model(made).identity["adapter"] == "encoder"
    (made / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    assert "is a SparseEncoder" in fault(made)
    (made / "config_sentence_transformers.json").write_text('{"model_type": "Strange"}')
    assert "is a Strange" in fault(made)


def test_models_that_do_not_begin_with_a_transformer(plain: Path, tmp_path: Path) -> None:
    mean = sentence.Pooling(32)
    towers = [Transformer(str(plain)), mean]
    made = {
        "static": [sentence.StaticEmbedding(tiny.tokenizer(), embedding_dim=16)],
        "bow": [sentence.BoW(["a", "b"])],
        "router": [Router.for_query_document(towers, towers)],
    }
    lines = {}
    for name, modules in made.items():
        SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / name))
        lines[name] = fault(tmp_path / name)
    assert "but a static embedding: a vector a token, and no layers to read" in lines["static"]
    assert "but a bag of words, without layers to read" in lines["bow"]
    assert "but a Router: it sends queries and documents through different" in lines["router"]
    # a config.json beside it changes nothing
    shutil.copy(plain / "config.json", tmp_path / "static")
    assert "but a static embedding" in fault(tmp_path / "static")


def test_modules_that_are_read_and_those_that_are_not(plain: Path, tmp_path: Path) -> None:
    mean = sentence.Pooling(32)
    read = [mean, sentence.LayerNorm(32), sentence.Dropout(0.5), Dense(32, 8)]
    folder = packed(tmp_path / "read", *read, plain=plain)
    model, own = tiny.open_model(folder), SentenceTransformer(str(folder), device="cpu")
    pooled = model.states(model.tokenize([Text(text) for text in TEXTS]))["raw", 3]
    np.testing.assert_allclose(model.embed(pooled).numpy(), own.encode(TEXTS), atol=1e-6)

    between = {
        "WeightedLayerPooling": sentence.WeightedLayerPooling(32, 3, 1),
        "WordWeights": sentence.WordWeights(list(tiny.VOCAB), {}),
        "CNN": sentence.CNN(32, 32, [1]),
        "LSTM": sentence.LSTM(32, 16),
        "Dense": Dense(32, 32, module_input_name="token_embeddings"),
    }
    for name, module in between.items():
        folder = packed(tmp_path / name, module, mean, plain=plain)
        line = fault(folder)
        assert (
            f"no pooling after the transformer (Transformer, {name}, Pooling): its {name}" in line
        )
    second = packed(tmp_path / "second", mean, sentence.Pooling(32), plain=plain)
    assert "its module Pooling behind the pooling is not read" in fault(second)


def test_states_that_are_not_the_last_ones(plain: Path, tmp_path: Path) -> None:
    folder = packed(tmp_path / "model", sentence.Pooling(32), plain=plain)
    said = folder / "sentence_bert_config.json"
    read = {"text": {"method": "forward", "method_output_name": ["hidden_states", "-2"]}}
    change(said, modality_config=read)
    with pytest.raises(UserError, match="pools something else than its last state"):
        tiny.open_model(folder)
    change(said, transformer_task="fill-mask")
    assert "pools no hidden states but what its head makes (fill-mask)" in fault(folder)


def test_pickled_weights_of_a_module(plain: Path, tmp_path: Path) -> None:
    mean, norm = sentence.Pooling(32), sentence.LayerNorm(32)
    router = Router.for_query_document([Dense(32, 8)], [Dense(32, 8)])
    folder = packed(tmp_path / "model", mean, norm, Dense(32, 32), router, plain=plain)
    tiny.open_model(folder)
    for path in ("2_LayerNorm", "3_Dense", "4_Router/document_0_Dense"):
        copy = Path(shutil.copytree(folder, tmp_path / path.replace("/", "-")))
        pickled(copy / path)
        assert f"its module {path} has its weights as pytorch_model.bin alone" in fault(copy)
        with pytest.raises(UserError, match=r"pytorch_model.bin alone"):
            tiny.open_model(copy)
        (copy / path / "pytorch_model.bin").unlink()
        assert f"its module {path} has its weights nowhere" in fault(copy)
    # beside safetensors, which are taken, a pickle does no harm
    (folder / "3_Dense" / "pytorch_model.bin").write_bytes(b"not even a pickle")
    tiny.open_model(folder)


def test_functions_that_would_be_replaced(plain: Path, tmp_path: Path) -> None:
    """sentence-transformers takes Tanh for an activation that it does not trust."""
    folder = packed(tmp_path / "model", sentence.Pooling(32), Dense(32, 8), plain=plain)
    change(folder / "2_Dense" / "config.json", activation_function="own.Act")
    assert "names code of its own in 2_Dense/config.json (own.Act)" in fault(folder)


ODD = [
    ([], "not a list of modules"),
    ({}, "not a model's configuration"),
    ([1], "its module 1 has no type or no path"),
    ([{"path": ""}], "its module 1 has no type or no path"),
    ([{"type": 5, "path": ""}], "its module 1 has no type or no path"),
    ([{"type": "sentence_transformers.models.Transformer", "path": ""}], "no pooling after"),
    ([{"type": "sentence_transformers.models.BERT", "path": ""}], "models.BERT, which is not read"),
    ([{"type": "pylate.models.Transformer", "path": ""}], "names code of its own in modules.json"),
]


@pytest.mark.parametrize(("content", "line"), ODD)
def test_odd_lists_of_modules(content: Any, line: str, folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps(content))
    assert line in fault(folder)


@pytest.mark.parametrize("path", ["../other", "x" * 5000, "a/../../b"])
def test_modules_that_lie_nowhere(path: str, folder: Path) -> None:
    kind = "sentence_transformers.models.Transformer"
    (folder / "modules.json").write_text(json.dumps([{"type": kind, "path": path}]))
    assert "its module 1 has a path that is none of its folders" in fault(folder)
