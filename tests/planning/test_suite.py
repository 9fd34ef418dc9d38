"""Suites and settings from YAML and the command line, and the suites that are shipped."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrd_harness.errors import UserError
from lrd_harness.models.wheels import KNOWN
from lrd_harness.planning import suite
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import ModelEntry

FULL = """
name: mine
description: two models
source: a paper
models:
  - org/one
  - {model: ./two, pooling: cls, max_length: 64, adapter: encoder, prompts: {query: "q: "}}
tasks: [STSBenchmark, "texts:own.jsonl"]
plugins: [frenet, {nrs: {k: 10}}]
settings: {layers: [3, 0], max_texts: 500, norm: raw, dtype: bfloat16, padding: left, device: cpu}
"""


def test_a_whole_suite() -> None:
    read = suite.parse_suite(FULL, "file", "FILE")
    two = ModelEntry("./two", "encoder", "cls", 64, {"query": "q: "})
    assert read.models == (ModelEntry("org/one"), two)
    assert (read.name, read.description, read.source) == ("mine", "two models", "a paper")
    assert read.tasks == ("STSBenchmark", "texts:own.jsonl")
    assert read.plugins == ("frenet", "nrs")
    assert read.parameters == {"nrs": {"k": 10}}
    assert read.settings == Settings(
        layers=(0, 3), max_texts=500, norm="raw", dtype="bfloat16", padding="left", device="cpu"
    )
    assert two.label == "encoder, cls, 64, prompts 039bfd65"


def test_a_file_gives_its_name_and_what_is_left_out_is_usual(tmp_path: Path) -> None:
    (tmp_path / "panel.yaml").write_text("tasks: [SICK-R]\nmodels:\nsettings: []\n")
    read = suite.load(str(tmp_path / "panel.yaml"))
    assert (read.name, read.models, read.plugins) == ("panel", (), None)
    assert read.settings == Settings()


WRONG = {
    "models: [a\ntasks: []": "FILE, line 2: not YAML",
    "a: b: c": "FILE, line 1: not YAML",
    "[models, tasks]": "FILE: not a mapping",
    "": "FILE: not a mapping",
    "model: [a]": "unknown key in FILE 'model'. Did you mean models",
    "parameters: {}": "unknown key in FILE 'parameters'",
    "models: a": "FILE: 'models' is not a list",
    "tasks: {a: b}": "FILE: 'tasks' is not a list",
    "tasks: [3]": "FILE: '3' in 'tasks' is not a name",
    "models: [3]": "FILE: '3' in 'models' is neither a name nor has a 'model'",
    "models: [{pooling: cls}]": "neither a name nor has a 'model'",
    "models: [{model: a, poling: cls}]": "unknown key for model a in FILE 'poling'. Did you mean",
    "models: [{model: a, pooling: 3}]": "FILE: model a: pooling is 3, not a text",
    "models: [{model: a, max_length: long}]": "FILE: model a: max_length is long, not a whole numb",
    "models: [{model: a, max_length: 0}]": "max_length is 0, not a whole number of at least 1",
    "models: [{model: a, prompts: [b]}]": "FILE: model a: prompts is not a mapping",
    "plugins: frenet": "FILE: 'plugins' is not a list",
    "plugins: [{nrs: 3}]": "neither a name nor name: parameters",
    "plugins: [3]": "FILE: '3' in 'plugins'",
    "settings: [a]": "FILE: 'settings' is not a mapping",
    "settings: {layer: all}": "unknown setting in FILE 'layer'. Did you mean layers",
    "settings: {dtype: float23}": "unknown dtype in FILE 'float23'. Did you mean float32",
    "settings: {norm: fianl}": "unknown norm in FILE 'fianl'. Did you mean final",
    "settings: {padding: middle}": "Choose from right, left",
    "settings: {max_texts: 7}": "FILE: max_texts is 7, not a whole number of at least 8",
    "settings: {max_texts: true}": "max_texts is True",
    "settings: {max_texts: 9.5}": "max_texts is 9.5",
    "settings: {max_texts: }": "max_texts is None",
    "settings: {device: 0}": "FILE: device is 0, not a text",
    "settings: {task_data: [a]}": "task_data is ['a'], not a text",
    "settings: {dtype: [float32]}": "unknown dtype",
    "settings: {layers: fist}": "FILE: layers 'fist' is not all, last, or numbers",
    "settings: {layers: []}": "layers '[]' is not",
    "settings: {layers: -1}": "layers '-1' is not",
    "settings: {layers: 1.5}": "layers '1.5' is not",
    "settings: {layers: true}": "layers 'True' is not",
    "settings: {layers: [1, all]}": "is not all, last, or numbers",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named(text: str) -> None:
    with pytest.raises(UserError) as error:
        suite.parse_suite(text, "x", "FILE")
    assert WRONG[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.yaml: no such suite file"):
        suite.load(str(tmp_path / "no.yaml"))
    (tmp_path / "latin.yaml").write_bytes("description: Zürich".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml: cannot be read"):
        suite.load(str(tmp_path / "latin.yaml"))
    with pytest.raises(UserError, match=r"unknown suite 'quikstart'. Did you mean quickstart"):
        suite.load("quikstart")


@given(st.sets(st.integers(0, 200), min_size=1))
def test_layers_read_back_as_they_were_chosen(numbers: set[int]) -> None:
    expected = tuple(sorted(numbers))
    texts = list(map(str, numbers))
    for written in (",".join(texts), " ".join(texts), ", ".join(texts), list(numbers), expected):
        assert suite.settings({"layers": written}, "x").layers == expected
    assert suite.settings({"layers": expected[0]}, "x").layers == expected[:1]


@pytest.mark.slow
@given(st.text() | st.floats() | st.none() | st.lists(st.text()))
def test_layers_are_numbers_a_word_or_an_error(value: Any) -> None:
    try:
        read = suite.settings({"layers": value}, "x").layers
    except UserError:
        return
    assert read in ("all", "last") or all(isinstance(n, int) and n >= 0 for n in read)


def test_the_command_line_is_laid_on_top_of_a_suite() -> None:
    base = Settings(max_texts=100, pooling="cls")
    read = suite.settings({"layers": "last", "norm": "final"}, "command line", base)
    assert read == Settings(layers="last", norm="final", max_texts=100, pooling="cls")
    assert {"layers", "device", "batch_tokens"}.isdisjoint(read.results())
    assert {"max_texts", "norm", "pooling", "dtype", "max_length"} <= set(read.results())


def test_shipped_suites_that_need_no_hub() -> None:
    offline = importlib.import_module("lrd_harness.tasks.offline.tasks")
    quick, mmlu = suite.load("quickstart"), suite.load("mmlu")
    assert quick.tasks == (*offline.QUICKSTART, "MMLU")
    assert (quick.settings, len(quick.models)) == (Settings(max_questions=114), 4)
    assert quick.models[3].pooling == "mean-no-sink"
    assert (mmlu.tasks, mmlu.settings) == (("MMLU",), Settings(num_fewshot=5))
    for entry in (*quick.models, *mmlu.models):
        assert KNOWN[entry.model.removeprefix("pypi:")].model


LRD = {"Classification": 13, "PairClassification": 2, "Reranking": 2, "Retrieval": 11, "STS": 2}
MTEB = {"Classification": 10, "Clustering": 6, "PairClassification": 3, "Reranking": 4, "STS": 9}


@pytest.mark.parametrize(
    ("name", "paper", "models", "types"),
    [
        ("lrd-30", "arXiv 2605.12714", 25, LRD),
        ("mteb-32", "arXiv 2502.02013", 0, MTEB),
        ("lrd-mmlu", "arXiv 2605.12714", 6, None),
    ],
)
def test_shipped_suites_of_papers(
    name: str, paper: str, models: int, types: dict[str, int] | None
) -> None:
    """Every name in them resolves without network."""
    read = suite.load(name)
    assert read.description
    assert read.source == paper
    assert len(set(read.models)) == len(read.models) == models
    assert len(set(read.tasks)) == len(read.tasks)
    if types is None:
        assert (read.tasks, read.settings.num_fewshot) == (("lm-eval:mmlu",), 5)
    else:
        import mteb

        known = [mteb.get_task(name).metadata.type for name in read.tasks]  # fails for others
        assert Counter(known) == types
