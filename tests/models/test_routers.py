"""Models that send queries and documents through modules of their own, behind the pooling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import test_against_mteb as stock
import tiny
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from lrd_harness.capture.layers import LayerView
from lrd_harness.cli import main
from lrd_harness.contracts import Task, Text
from lrd_harness.errors import UserError

TEXTS = ["a cat", "the dog ran to the park", "x y z"]
ALL = [Text(text) for text in TEXTS]


def save(folder: Path, *after: Any, family: str = "Bert") -> Path:
    """A sentence-transformers model with these modules behind the pooling."""
    inner = tiny.save(family, folder.with_name(folder.name + "-inner"))
    pooling = Pooling(32, pooling_mode="mean")
    model = SentenceTransformer(modules=[Transformer(str(inner)), pooling, *after], device="cpu")
    model.save(str(folder))
    return folder


def dense(seed: int, width: int = 8) -> Dense:
    torch.manual_seed(seed)
    return Dense(32, width)


def legacy(folder: Path) -> Path:
    """The router as sentence-transformers before version 5 saved it, an Asym."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[2]["type"] = "sentence_transformers.models.Asym"
    path.write_text(json.dumps(modules))
    own = folder / modules[2]["path"] / "router_config.json"
    said = json.loads(own.read_text())
    said["types"] = dict.fromkeys(said["types"], "sentence_transformers.models.Dense")
    said["parameters"] = {"allow_empty_key": True}
    (own.parent / "config.json").write_text(json.dumps(said))
    own.unlink()
    return folder


def routers() -> dict[str, list[Any]]:
    """What may stand behind the pooling; made anew, as modules belong to one model."""
    both = Router.for_query_document
    by_modality = {("query", "text"): "a", (None, "text"): "b"}
    return {
        "document": [both([dense(1)], [dense(2)])],
        "query": [both([dense(1)], [dense(2)], default_route="query"), Normalize()],
        "normalised": [both([dense(1)], [dense(2), Normalize()])],
        "nested": [both([both([dense(1)], [Normalize()])], [dense(2, 32)])],
        "modality": [Router({"a": [dense(1)], "b": [dense(2)]}, route_mappings=by_modality)],
        "asym": [Router({"query": [dense(1)], "document": [dense(2)]})],
        "none": [dense(1, 32), LayerNorm(32)],
    }


@pytest.mark.parametrize("shape", list(routers()))
def test_each_kind_of_text_takes_its_route(shape: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", *routers()[shape])
    folder = legacy(folder) if shape == "asym" else folder
    model, own = tiny.open_model(folder), SentenceTransformer(str(folder), device="cpu")
    pooled = model.states(model.tokenize(ALL))["raw", 3]
    routed = {
        None: own.encode(TEXTS),
        "query": own.encode_query(TEXTS),
        "document": own.encode_document(TEXTS),
    }
    for prompt_type, expected in routed.items():
        found = model.embed(pooled, prompt_type).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    alike = routed["query"].shape == routed["document"].shape and np.allclose(
        routed["query"], routed["document"]
    )
    assert alike == (shape == "none")


@pytest.mark.parametrize("shape", ["query", "asym"])
def test_every_layer_scores_as_mteb_has_it(shape: str, tmp_path: Path, own_cache: Path) -> None:
    """Retrieval and reranking ask for queries and documents, STS for neither."""
    folder = save(tmp_path / "model", *routers()[shape])
    folder = legacy(folder) if shape == "asym" else folder
    data, out = tiny.task_data(tmp_path / "data"), tmp_path / "out"
    tasks = ("SciFact", "SciDocsRR", "STSBenchmark", "SummEvalSummarization.v2")
    assert running.run(out, [folder], data, tasks=tasks) == 0
    found = stock.scores(out)
    model = SentenceTransformer(str(folder), device="cpu")
    for layer in range(4):
        cut = stock.truncated(model, layer)
        for name in tasks:
            expected = stock.by_mteb(cut, name, data)
            assert found[name, layer] == pytest.approx(expected, abs=1e-6), (name, layer)


def test_pruned_variants_take_their_routes(tmp_path: Path, own_cache: Path) -> None:
    folder = save(tmp_path / "model", *routers()["document"])
    data, out = tiny.task_data(tmp_path / "data"), tmp_path / "out"
    pruning = ["--prune", "random", "--budgets", "0.3", "--random-seeds", "1"]
    assert running.run(out, [folder], data, "--layers", "last", *pruning, tasks=("SciFact",)) == 0
    found = {r["variant"]: r["score"] for r in running.records(out, "score")}
    (variant,) = found.keys() - {"full"}
    cut = SentenceTransformer(str(folder), device="cpu")
    encoder: Any = cut[0].auto_model.encoder
    gone = int("".join(c for c in variant if c.isdigit()))
    encoder.layer = torch.nn.ModuleList(b for i, b in enumerate(encoder.layer, 1) if i != gone)
    expected = stock.by_mteb(cut, "SciFact", data)
    assert found[variant] == pytest.approx(expected, abs=1e-6)


def test_a_plan_for_a_model_without_a_default_route(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its output is known for queries and for documents alone."""
    router = Router({"query": [dense(1)], "document": [dense(2)]}, allow_empty_key=False)
    folder = save(tmp_path / "model", router)
    data = tiny.task_data(tmp_path / "data")
    command = ["plan", "--models", str(folder), "--task-data", str(data), "--plugins", "nrs"]
    assert main([*command, "--tasks", "SciFact", "--layers", "last"]) == 0
    assert "local/model" in capsys.readouterr().out


def test_a_model_of_others_need_not_know_of_prompt_types() -> None:
    """embed(pooled) alone was what a model had to offer."""

    class Model:
        similarity = "cosine"
        has_final_norm = False
        info = type("Info", (), {"blocks": 1})

        def prompt(self, task: Any, prompt_type: Any) -> str:
            return ""

        def embed(self, pooled: torch.Tensor) -> torch.Tensor:
            return pooled * 2

    class Store:
        def missing(self, asked: Any) -> list[Text]:
            return []

        def read(self, asked: Any, plane: Any) -> np.ndarray:
            return np.ones((len(asked), 2), dtype=np.float32)

    model: Any = Model()
    store: Any = Store()
    view = LayerView(
        model, store, 1, name="m", revision="0", experiments=[{}], fetch=lambda texts: None
    )
    task = Task("t", texts=list, evaluate=None)
    assert view.encode(["a"], task, "query").tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("key", ["query_length", "document_length"])
def test_lengths_for_each_side_are_refused(key: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: 8}))
    with pytest.raises(UserError, match=f"queries and documents in different ways .{key} in"):
        tiny.open_model(folder)


def test_a_chat_template_that_asks_for_the_side_is_refused(tmp_path: Path) -> None:
    """One that does not is read as sentence-transformers reads it."""
    templates = {
        "plain": "{% for m in messages %}<s> {{ m['content'] }} </s>{% endfor %}",
        "sided": "{% for m in messages %}{{ task }} {{ m['content'] }}{% endfor %}",
    }
    for name, template in templates.items():
        inner = tiny.save("Llama", tmp_path / f"{name}-inner")
        path = inner / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
        modules = [Transformer(str(inner)), Pooling(32, pooling_mode="lasttoken")]
        SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / name))
    model = tiny.open_model(tmp_path / "plain")
    own = SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    pooled = model.states(model.tokenize(ALL))["final", 3]
    np.testing.assert_allclose(model.embed(pooled).numpy(), own.encode_query(TEXTS), atol=1e-5)
    with pytest.raises(UserError, match="chat template writes queries and documents"):
        tiny.open_model(tmp_path / "sided")
