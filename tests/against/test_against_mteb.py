"""Every layer's score equals what mteb itself gives for a model truncated there."""

from __future__ import annotations

import copy
import functools
import importlib
import json
import math
from pathlib import Path
from typing import Any

import mteb
import pytest
import running
import tiny
import torch
from sentence_transformers import SentenceTransformer

from lrd_harness.cli import main

pytestmark = pytest.mark.slow

# mteb fits something on top of these, which rounding can tip
FITTED = {"Banking77Classification", "EmotionClassification", "TwentyNewsgroupsClustering"}
TASKS = [
    "STSBenchmark",
    "SprintDuplicateQuestions",
    "Banking77Classification",
    "EmotionClassification",
    "TwentyNewsgroupsClustering",
    "SciFact",
    "SciDocsRR",
    "SummEvalSummarization.v2",
]


def scores(out: Path) -> dict[tuple[str, int], float]:
    """(task, layer) -> score of a run."""
    assert running.records(out, "error") == []
    return {(r["task"], r["layer"]): r["score"] for r in running.records(out, "score")}


def truncated(model: SentenceTransformer, layer: int) -> SentenceTransformer:
    """The model with its first blocks only."""
    cut = copy.deepcopy(model)
    encoder: Any = cut[0].auto_model.encoder
    encoder.layer = torch.nn.ModuleList(list(encoder.layer)[:layer])
    return cut


def by_mteb(model: SentenceTransformer, task: Any) -> float:
    """mteb's own score of a model."""
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return float(result.task_results[0].get_score())


@functools.cache
def local(name: str, data: Path) -> Any:
    """mteb's own task, with local data put into it by hand."""
    task = mteb.get_task(name, eval_splits=["test"])
    importlib.import_module("lrd_harness.tasks.embedding.local_data").load(task, data / name)
    return task


SHAPES: dict[str, dict[str, Any]] = {
    "mean-normalize": {},
    "cls-dense": {"pooling": "cls", "dense": 16, "normalize": False},
    "prompted-dot": {
        "pooling": ("mean", "max"),
        "normalize": False,
        "include_prompt": False,
        "prompts": {"query": "ask the: ", "document": "read on: ", "STS": "like: "},
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.task_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_layer_and_task_type(shape: str, data: Path, tmp_path: Path, own_cache: Path) -> None:
    folder = tiny.save_st(tmp_path / "model", **SHAPES[shape])
    if shape == "prompted-dot":
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "similarity_fn_name": "dot"}))
    out = tmp_path / "out"
    # what is fitted takes the longest, and reads vectors as all do: of one shape, at two layers
    tasks = [name for name in TASKS if shape == "mean-normalize" or name not in FITTED]
    assert running.run(out, [folder], data, "--plugins", "frenet", tasks=tasks) == 0

    mine = scores(out)
    model = SentenceTransformer(str(folder))
    assert {layer for _, layer in mine} == {0, 1, 2, 3}
    for layer in range(4):
        cut = truncated(model, layer)
        for name in tasks if layer in (1, 3) else set(tasks) - FITTED:
            expected = by_mteb(cut, local(name, data))
            if math.isnan(expected):  # CLS at layer 0: no order among equal similarities
                assert (shape, layer) == ("cls-dense", 0)
                assert (name, layer) not in mine
                continue
            tolerance = 0.002 if name in FITTED else 1e-5
            assert mine[name, layer] == pytest.approx(expected, abs=tolerance), (name, layer)
    # a check that could not fail would be no check: the layers do differ
    assert len({round(mine["STSBenchmark", layer], 6) for layer in (1, 2, 3)}) == 3


def test_a_real_model_on_real_texts(tmp_path: Path, own_cache: Path, minilm_folder: Path) -> None:
    """all-MiniLM-L6-v2 on texts out of registry packages, at the tolerances of real data."""
    offline = importlib.import_module("lrd_harness.tasks.offline.tasks")
    makers = {task.name: task.make for task in offline.OFFLINE}
    names = ["TrecQuestionClassification", "ChatterbotRetrieval"]
    out = tmp_path / "out"
    command = ["run", "--models", str(minilm_folder), "--tasks", *names, "--layers", "2"]
    assert main([*command, "--plugins", "nrs", "--output", str(out), "--quiet"]) == 0

    mine, cut = scores(out), truncated(SentenceTransformer(str(minilm_folder)), 2)
    for name in names:
        tolerance = 1e-5 if name == "ChatterbotRetrieval" else 0.002
        assert mine[name, 2] == pytest.approx(by_mteb(cut, makers[name]()), abs=tolerance), name
