"""What the geometry of layers costs beside the forward pass that reads the states, in CPU seconds.

    python tests/benchmarks/geometry.py

Texts of the quickstart's tasks, filled up with parts of them to 2,000 that all differ, go through
SmolLM2 (30 blocks) into an empty store; the metrics then measure the stored states, as in a run.
`share` is that of the metrics of the aim, together at most 0.10; the others are measured where they
are named, and are printed beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from _setting import arguments, distinct_texts, empty_store, open_model, tasks

from lrd_harness import manager
from lrd_harness.capture.embeddings import capture
from lrd_harness.capture.samples import Samples, Sampling
from lrd_harness.capture.token_budget import BATCH_TOKENS
from lrd_harness.contracts import Text
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.suite import Suite

AIM = "participation_ratio top_share mean_cosine uniformity alpha_req cka_last".split()
BESIDE = ("cka", "twonn")


def cpu_seconds(work: Callable[..., Any], *given: Any, **more: Any) -> float:
    """Of all threads of this process."""
    begin = time.process_time()
    work(*given, **more)
    return time.process_time() - begin


def filled(texts: list[Text], count: int) -> list[Text]:
    """So many texts: these, then their second and their first halves."""
    words = [(text, text.text.split()) for text in texts]
    second = [text._replace(text=" ".join(w[len(w) // 2 :])) for text, w in words if len(w) > 3]
    first = [text._replace(text=" ".join(w[: len(w) // 2])) for text, w in words if len(w) > 3]
    return list(islice(dict.fromkeys([*texts, *second, *first]), count))


def main() -> None:
    """Print a row a model, and below it one a metric."""
    parser = arguments(__doc__)
    parser.set_defaults(models=["SmolLM2"])
    parser.add_argument("--texts", type=int, default=2000)
    options = parser.parse_args()
    print(f"{'model':8} {'texts':>6} {'states':>6} {'forward':>8} {'metrics':>8} share")
    for name in options.models:
        model = open_model(name, options.max_length)
        texts = filled(distinct_texts(model, tasks()), options.texts)
        with empty_store(model) as store:
            capture(model, texts[:64], store, batch_tokens=BATCH_TOKENS["cpu"])  # warms up
        with empty_store(model) as store:
            forward = cpu_seconds(capture, model, texts, store, batch_tokens=BATCH_TOKENS["cpu"])
            samples = Samples(model, store, store, model.identity, Sampling(), store.folder)
            items = resolve_metrics(Suite("geometry", plugins=(*AIM, *BESIDE)), manager.load())
            spent = {i.metric.name: cpu_seconds(samples.measure, i, texts) for i in items}
        together = sum(spent[metric] for metric in AIM)
        row = f"{name:8} {len(texts):6} {model.info.blocks + 1:6} {forward:7.1f}s {together:7.1f}s"
        print(f"{row} {together / forward:5.2f}")
        for metric, seconds in spent.items():
            print(f"  {metric:20} {seconds:7.1f}s {seconds / forward:6.1%}")


if __name__ == "__main__":
    main()
