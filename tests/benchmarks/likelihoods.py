"""MMLU at every layer of a model: the harness against stock lm-eval on the last layer alone.

    python tests/benchmarks/likelihoods.py

Both get the same prompts, made beforehand, and the same loaded weights; both tokenize, run and
score. Stock is lm-eval's `hf`, timed with the batch size that suits it best. Ours reads all layers
from an empty store, writes them to disk, pools the prompts' states for the metrics besides, and has
lm-eval score each layer.
"""

from __future__ import annotations

import importlib
from typing import Any

import lm_eval
from _setting import MODELS, arguments, empty_store, timed
from lm_eval.models.huggingface import HFLM

from lrd_harness.capture import likelihoods
from lrd_harness.capture.layers import LikelihoodLayer, StoredLikelihoods
from lrd_harness.capture.token_budget import BATCH_TOKENS
from lrd_harness.contracts import ModelOptions, Task, TaskOptions
from lrd_harness.models.find import find


def stock(loaded: Any, model: Any, batch_size: int) -> float:
    """The accuracy by lm-eval's own way for the last layer."""
    options = {"tokenizer": model.tokenizer, "batch_size": batch_size, "backend": "causal"}
    lm = HFLM(pretrained=model.whole, **options)
    results: Any = lm_eval.evaluate(
        lm=lm, task_dict=loaded.record, bootstrap_iters=1000, log_samples=False
    )
    return float(results["results"]["mmlu"]["acc,none"])


def ours(task: Task, model: Any) -> float:
    """The accuracy of the last layer, after those of all others."""
    assert task.requests is not None
    assert task.tokenize is not None
    assert task.evaluate is not None
    with empty_store(model) as store:
        contexts = [request.text for request in task.texts()]
        likelihoods.capture(
            model, task.requests(), contexts, task.tokenize, store, batch_tokens=BATCH_TOKENS["cpu"]
        )
        for layer in range(model.info.blocks + 1):
            score = task.evaluate(
                LikelihoodLayer(StoredLikelihoods(store), layer, "x/y", "z", [{}])
            )
    return score.main


def main() -> None:
    """Print a row a number of examples in the prompts."""
    parser = arguments(__doc__, embeddings=False)
    parser.add_argument("--questions", type=int, default=114)
    parser.add_argument("--fewshot", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    tasks = importlib.import_module("lrd_harness.tasks.likelihood.lm_eval_tasks")
    plain = importlib.import_module("lrd_harness.plugins.adapters.plain")
    model = plain.open_decoder(find(MODELS["SmolLM2"]), ModelOptions(head=True))
    layers = model.info.blocks + 1
    print(f"{'examples':>8} {'questions':>9} {'layers':>6} {'stock':>8} {'all':>8} {'ratio':>6}")
    for number in options.fewshot:
        loaded = tasks.load_offline(TaskOptions(None, number, max_questions=options.questions))
        task = tasks.wrap("MMLU", "", lambda loaded=loaded: loaded)
        task.requests()  # the prompts are made here, for both
        every, accuracy = timed(ours, task, model)
        times = []
        for size in options.batch_sizes:
            seconds, same = timed(stock, loaded, model, size)
            times.append(seconds)
            if same != accuracy:
                raise SystemExit(f"stock gives {same}, the harness {accuracy}")
        best = min(times)
        row = f"{number:8} {options.questions:9} {layers:6} {best:7.1f}s {every:7.1f}s "
        print(f"{row}{every / best:6.2f}", flush=True)


if __name__ == "__main__":
    main()
