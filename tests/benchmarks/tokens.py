"""What token metrics add to the forward pass: a capture with them beside one without.

    python tests/benchmarks/tokens.py

The first 1,000 distinct texts of the quickstart go through SmolLM2 (30 blocks); the two ways take
turns, and the medians are compared. `added` is the time that the token metrics add, as a share of
the time without them (aim: 0.5 at most). The last columns are the largest memory that Python and
torch held of token states, for a quarter of the texts and for all of them: it must not grow.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _setting import arguments, distinct_texts, open_model, plan

from lrd_harness import manager
from lrd_harness.capture.embeddings import capture
from lrd_harness.capture.samples import Samples, Sampling
from lrd_harness.contracts import Model, Text
from lrd_harness.planning.suite import Suite
from lrd_harness.runner.loop import BATCH_TOKENS
from lrd_harness.store.store import Store


def timed(model: Model, texts: list[Text], names: tuple[str, ...]) -> float:
    """Seconds of one capture into an empty store, with these token metrics."""
    from lrd_harness.planning.parameters import resolve_metrics

    items = resolve_metrics(Suite("tokens", plugins=names), manager.load())
    with tempfile.TemporaryDirectory() as empty:
        os.environ["LRD_HARNESS_CACHE"] = empty
        store = Store(Path(empty), model.identity)
        samples = Samples(model, store, store, model.identity, Sampling())
        watched = samples.watched(texts, items)
        begun = time.perf_counter()
        capture(model, texts, store, batch_tokens=BATCH_TOKENS["cpu"], watched=watched)
        return time.perf_counter() - begun


def peak(name: str, count: int, metrics: str, max_length: int) -> float:
    """The largest memory, in MiB, of a process that does one capture of so many texts."""
    more = ["--models", name, "--texts", str(count), "--max-length", str(max_length)]
    command = [sys.executable, __file__, "--peak", "--metrics", metrics, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print a row a model."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(models=["SmolLM2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--metrics", default="prompt_entropy,curvature,block_influence")
    parser.add_argument("--peak", action="store_true", help="one capture; print its memory")
    chosen = parser.parse_args()
    names = tuple(chosen.metrics.split(","))
    tasks = plan().tasks
    for name in chosen.models:
        model = open_model(name, chosen.max_length)
        texts = distinct_texts(model, tasks)[: chosen.texts]
        if chosen.peak:
            timed(model, texts, names)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            continue
        timed(model, texts[:64], names)
        times: dict[tuple[str, ...], list[float]] = {(): [], names: []}
        for _ in range(chosen.rounds):
            for way, held in times.items():
                held.append(timed(model, texts, way))
        without, with_them = (statistics.median(held) for held in times.values())
        tokens = sum(len(e["input_ids"]) for e in model.tokenize(texts))
        print(
            f"{'model':8} {'texts':>6} {'tokens':>7} {'states':>6} {'without':>8} {'with':>8} added"
        )
        print(
            f"{name:8} {len(texts):6} {tokens:7} {model.info.blocks + 1:6} {without:7.2f}s "
            f"{with_them:7.2f}s {with_them / without - 1:5.2f}"
        )
        few = peak(name, len(texts) // 4, chosen.metrics, chosen.max_length)
        every = peak(name, len(texts), chosen.metrics, chosen.max_length)
        print(
            f"memory: {few:,.0f} MiB with {len(texts) // 4} texts, {every:,.0f} with {len(texts)}"
        )


if __name__ == "__main__":
    main()
