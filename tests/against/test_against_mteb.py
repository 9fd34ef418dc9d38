"""Every layer's score equals what mteb itself gives for a model truncated there."""

from __future__ import annotations

import copy
import functools
import importlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import mteb
import pytest
import running
import tiny
import torch
from sentence_transformers import SentenceTransformer

import lrd_harness
from lrd_harness.cli import main

pytestmark = pytest.mark.slow
ENCODING = importlib.import_module("lrd_harness.tasks.embedding.mteb_tasks").ENCODING

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


def by_mteb(model: Any, task: Any) -> float:
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


def test_mteb_files_what_a_run_files(data: Path, tmp_path: Path, own_cache: Path) -> None:
    """Of `mteb_model`, in the same folders under the same names; but for dates and durations."""
    folder = tiny.save_st(tmp_path / "model", **SHAPES["prompted-dot"])
    run, mine, how = tmp_path / "out" / "mteb", tmp_path / "mine", dict(ENCODING)
    tasks = ["STSBenchmark", "SciFact", "SciDocsRR", "EmotionClassification"]
    assert running.run(tmp_path / "out", [folder], data, "--plugins", "frenet", tasks=tasks) == 0
    model = lrd_harness.mteb_model(str(folder))
    for layer in (*model.layers, None):
        for name in tasks:
            task = local(name, data)
            mteb.evaluate(model.at(layer), task, cache=mteb.ResultCache(mine), encode_kwargs=how)

    files = {file.relative_to(run) for file in run.rglob("*") if file.is_file()}
    assert files == {file.relative_to(mine) for file in mine.rglob("*") if file.is_file()}
    assert sum(file.stem == "STSBenchmark" for file in files) == 5
    for file in files:
        assert content(mine / file) == content(run / file), file

    shutil.rmtree(own_cache / "states")  # now the texts are read anew, in other batches
    model, recorded = lrd_harness.mteb_model(str(folder), layer=1), scores(tmp_path / "out")
    for name in set(tasks) - FITTED:
        score = by_mteb(model, local(name, data))
        assert score == pytest.approx(recorded[name, 1], abs=1e-6), name


def content(file: Path) -> Any:
    """What mteb wrote, but for dates and durations."""
    if file.suffix == ".jsonl":
        return sorted(file.read_text().splitlines())
    measured = {"evaluation_time", "date", "evaluation_phases"}
    return {k: v for k, v in json.loads(file.read_text()).items() if k not in measured}


def test_each_part_of_a_task_has_prompts_of_its_own(
    data: Path, tmp_path: Path, own_cache: Path
) -> None:
    prompts = {"CQADupstackGamingRetrieval-query": "play: ", "CQADupstackWebmastersRetrieval": "w "}
    folder = tiny.save_st(tmp_path / "model", prompts=prompts)
    place = data / "CQADupstackRetrieval"
    shutil.copytree(data / "SciFact", place, dirs_exist_ok=True)
    out = tmp_path / "out"
    tasks = ["CQADupstackRetrieval"]
    assert (
        running.run(out, [folder], data, "--plugins", "frenet", "--layers", "2", tasks=tasks) == 0
    )

    task = mteb.get_task("CQADupstackRetrieval")
    for part in task.tasks:
        importlib.import_module("lrd_harness.tasks.embedding.local_data").load(part, place)
    model = SentenceTransformer(str(folder))
    expected = by_mteb(truncated(model, 2), task)
    assert scores(out)["CQADupstackRetrieval", 2] == pytest.approx(expected, abs=1e-6)
    model.prompts = {}
    assert abs(by_mteb(truncated(model, 2), task) - expected) > 1e-4
