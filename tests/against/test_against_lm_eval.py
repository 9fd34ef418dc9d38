"""Every layer's log-likelihoods equal stock lm-eval's for a model truncated there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import running
import stock
import tiny
from stock import ANATOMY, ENDINGS, LAST_WORD

pytestmark = pytest.mark.slow

TASKS = [ANATOMY, ENDINGS, LAST_WORD]
FAMILIES: dict[str, dict[str, Any]] = {
    "GPTNeoX": {},
    "GPT2": {"n_positions": 1024},
    "Llama": {"max_position_embeddings": 1024},
    "Gemma2": {"final_logit_softcapping": 2.0, "sliding_window": 16},
    "Qwen3": {},
    "Mamba": {},
    "OPT": {"max_position_embeddings": 1024},
    "Cohere": {"logit_scale": 0.3},
    "Granite": {"logits_scaling": 5.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
}
SAME = 1e-4  # nats, in float32


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of one's own, local MMLU, and the same MMLU for lm-eval itself."""
    return stock.place(tmp_path_factory.getbasetemp())


def harness(out: Path, model: Path, own: Path, *more: str) -> int:
    given = ("--include-path", str(own / "own"), "--log-samples", "--plugins", "nrs")
    tasks = [f"lm-eval:{name}" for name in TASKS]
    return running.run(out, [model], own / "data", *given, *more, tasks=tasks)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer(family: str, tmp_path: Path, own: Path, record_property: Any) -> None:
    uneven = family != "Mamba"  # which is ill-conditioned then
    changes = FAMILIES[family]
    model = tiny.save(family, tmp_path / "model", causal=True, uneven=uneven, **changes)
    out = tmp_path / "out"
    assert harness(out, model, own, "--num-fewshot", "2", "--layers", "all") == 0
    scores = {(r["task"], r["layer"]): r for r in running.records(out, "score")}
    assert len(scores) == len(TASKS) * 4

    whole = stock.load(model)
    folders = [own / "own", own / "mmlu"]
    told = {}
    for layer in (1, 2, 3):
        cut = whole if layer == 3 else stock.truncated(whole, layer)
        expected = stock.evaluate(cut, model, TASKS, folders, num_fewshot=2)
        for name in TASKS:
            theirs = stock.answers(expected["samples"][name])
            mine = stock.harness_answers(out, layer, name)
            told[layer, name] = stock.difference(mine, theirs)
            score = scores[f"lm-eval:{name}", layer]
            assert score["score"] == expected["results"][name]["acc,none"], (layer, name)
            if layer == 3:
                assert stock.harness_answers(out, "model", name) == mine
    record_property("difference", max(told.values()))
    assert max(told.values()) < SAME, told
    assert max(len(a.context) for a in theirs) > 10


@pytest.mark.usefixtures("own_cache")
def test_a_real_model_on_real_questions(
    smollm2_folder: Path, tmp_path: Path, record_property: Any
) -> None:
    """SmolLM2 on a sample of the offline MMLU: the whole model, and its first 20 blocks."""
    out = tmp_path / "out"
    given = ("--limit", "8", "--log-samples", "--plugins", "nrs", "--layers", "20,30")
    assert running.run(out, [smollm2_folder], tmp_path, *given, tasks=["MMLU"]) == 0
    scores = {r["layer"]: r for r in running.records(out, "score")}

    names = [name for name in stock.results(out, 30, "mmlu")["results"] if _single(out, name)]
    assert len(names) == 8
    for name in names:
        docs = [sample["doc"] for sample in stock.samples(out, 30, name)]
        stock.mmlu_task(tmp_path / "mmlu", name.removeprefix("mmlu_"), {"test": docs, "dev": docs})
    whole = stock.load(smollm2_folder)
    told = {}
    for layer in (30, 20):
        cut = whole if layer == 30 else stock.truncated(whole, layer)
        expected = stock.evaluate(cut, smollm2_folder, names, [tmp_path / "mmlu"])
        for name in names:
            theirs = stock.answers(expected["samples"][name])
            told[layer, name] = stock.difference(stock.harness_answers(out, layer, name), theirs)
        mean = sum(expected["results"][name]["acc,none"] for name in names) / len(names)
        assert scores[layer]["score"] == pytest.approx(mean)
    record_property("difference", max(told.values()))
    assert max(told.values()) < SAME, told


def _single(out: Path, name: str) -> bool:
    return bool(list(stock.layer_files(out, 30).glob(f"samples_{name}_2*.jsonl")))
