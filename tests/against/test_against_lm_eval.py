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
EXPERTS = {"num_experts": 2, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "GPTNeoX": {},
    "GPT2": {"n_positions": 1024, "n_layer": 2},
    "Llama": {"max_position_embeddings": 1024},
    "Gemma2": {"final_logit_softcapping": 2.0, "sliding_window": 16},
    "Qwen3": {},
    "Mamba": {},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 4},
    "Rwkv": {"attention_hidden_size": 32, "context_length": 1024},
    "Jamba": {"attn_layer_period": 2, "attn_layer_offset": 0, **EXPERTS},
    "OPT": {"max_position_embeddings": 1024},
    "Cohere": {"logit_scale": 0.3},
    "Granite": {"logits_scaling": 5.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
}
SAME = 1e-4  # nats, in float32


@pytest.fixture(autouse=True)
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index of some families of lm-eval's tasks; of all, it takes many seconds."""
    monkeypatch.setattr("lrd_harness.tasks.likelihood.lm_eval_tasks.index", stock.index)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of one's own, local MMLU, and the same MMLU for lm-eval itself."""
    return stock.place(tmp_path_factory.getbasetemp())


def compared(
    out: Path,
    model: Path,
    layers: tuple[int, ...],
    names: list[str],
    include: list[Path],
    **more: Any,
) -> dict[tuple[str, int], float]:
    """The accuracies by stock lm-eval of the model truncated at each layer, whose answers must be
    those of the harness's run."""
    whole = stock.load(model)
    accuracies, differences = {}, {}
    for layer in layers:
        cut = whole if layer == layers[-1] else stock.truncated(whole, layer)
        expected = stock.evaluate(cut, model, names, include, **more)
        for name in names:
            theirs = stock.answers(expected["samples"][name])
            mine = stock.harness_answers(out, layer, name)
            differences[name, layer] = stock.difference(mine, theirs)
            accuracies[name, layer] = expected["results"][name]["acc,none"]
    assert max(differences.values()) < SAME, differences
    return accuracies


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer(family: str, tmp_path: Path, place: Path) -> None:
    uneven = family not in ("Mamba", "Mamba2")  # which is ill-conditioned then
    changes = ({} if family == "GPT2" else {"num_hidden_layers": 2}) | FAMILIES[family]
    model = tiny.save(family, tmp_path / "model", causal=True, uneven=uneven, **changes)
    out = tmp_path / "out"
    more = ("--include-path", str(place / "own"), "--log-samples", "--plugins", "nrs")
    tasks = [f"lm-eval:{name}" for name in TASKS]
    command = ("--num-fewshot", "2", "--layers", "all", *more)
    assert running.run(out, [model], place / "data", *command, tasks=tasks) == 0
    scores = {(r["task"], r["layer"]): r["score"] for r in running.records(out, "score")}
    assert len(scores) == len(TASKS) * 3
    include = [place / "own", place / "mmlu"]
    accuracies = compared(out, model, (1, 2), TASKS, include, num_fewshot=2)
    for (name, layer), accuracy in accuracies.items():
        assert scores[f"lm-eval:{name}", layer] == accuracy, (layer, name)
    for name in TASKS:
        assert stock.harness_answers(out, "model", name) == stock.harness_answers(out, 2, name)
    assert max(len(answer.context) for answer in stock.harness_answers(out, 2, TASKS[-1])) > 10


@pytest.mark.usefixtures("own_cache")
def test_a_real_model_on_real_questions(smollm2_folder: Path, tmp_path: Path) -> None:
    """SmolLM2 on a sample of the offline MMLU: the whole model, and its first 3 blocks."""
    out = tmp_path / "out"
    more = ("--max-questions", "2", "--log-samples", "--plugins", "nrs", "--layers", "3,30")
    assert running.run(out, [smollm2_folder], tmp_path, *more, tasks=["MMLU"]) == 1
    (error,) = running.records(out, "error")  # texts too few for a metric, not for a score
    assert error["error"].startswith("NotEnoughTexts")
    scores = {r["layer"]: r["score"] for r in running.records(out, "score")}
    files = stock.layer_files(out, 30)
    names = [
        name
        for name in stock.results(out, 30, "mmlu")["results"]
        if list(files.glob(f"samples_{name}_2*.jsonl"))
    ]
    assert len(names) == 2
    for name in names:
        docs = [sample["doc"] for sample in stock.samples(out, 30, name)]
        stock.mmlu_task(tmp_path / "mmlu", name.removeprefix("mmlu_"), {"test": docs, "dev": docs})
    accuracies = compared(out, smollm2_folder, (3, 30), names, [tmp_path / "mmlu"])
    for layer, score in scores.items():
        mean = sum(accuracies[name, layer] for name in names) / len(names)
        assert score == pytest.approx(mean)
