"""What token metrics add to the forward pass: a capture with them beside one without.

    python tests/benchmarks/tokens.py

The first 1,000 distinct texts of the quickstart go through SmolLM2 (30 blocks); the two ways take
turns, and the medians are compared. `added` is the time that the token metrics add, as a share of
the time without them (aim: 0.5 at most). The last columns are the largest memory that Python and
torch held of token states, for a quarter of the texts and for all of them: it must not grow.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

from _setting import arguments, distinct_texts, empty_store, open_model, tasks, timed

from lrd_harness import manager
from lrd_harness.capture.embeddings import capture
from lrd_harness.capture.samples import Samples, Sampling
from lrd_harness.capture.token_budget import BATCH_TOKENS
from lrd_harness.contracts import Model, Text
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.suite import Suite


def seconds(model: Model, texts: list[Text], metrics: tuple[str, ...]) -> float:
    """Seconds of one capture into an empty store, with these token metrics."""
    items = resolve_metrics(Suite("tokens", plugins=metrics), manager.load())
    with empty_store(model) as store:
        samples = Samples(model, store, store, model.identity, Sampling(), store.folder)
        more = {"batch_tokens": BATCH_TOKENS["cpu"], "watched": samples.watched(texts, items)}
        return timed(capture, model, texts, store, **more)[0]


def peak(name: str, count: int, metrics: str, max_length: int) -> float:
    """The largest memory, in MiB, of a process that does one capture of so many texts."""
    more = ["--models", name, "--texts", str(count), "--max-length", str(max_length)]
    command = [sys.executable, __file__, "--peak", "--metrics", metrics, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print a row a model."""
    parser = arguments(__doc__)
    parser.set_defaults(models=["SmolLM2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--metrics", default="prompt_entropy,curvature,block_influence")
    parser.add_argument("--peak", action="store_true", help="one capture; print its memory")
    options = parser.parse_args()
    metrics = tuple(options.metrics.split(","))
    for name in options.models:
        model = open_model(name, options.max_length)
        texts = distinct_texts(model, tasks())[: options.texts]
        if options.peak:
            seconds(model, texts, metrics)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            continue
        seconds(model, texts[:64], metrics)
        rounds = [
            (seconds(model, texts, ()), seconds(model, texts, metrics))
            for _ in range(options.rounds)
        ]
        without, added = map(median, zip(*rounds, strict=True))
        tokens = sum(len(encoded["input_ids"]) for encoded in model.tokenize(texts))
        states = model.info.blocks + 1
        columns = f"{'model':8} {'texts':>6} {'tokens':>7} {'states':>6} {'without':>8} {'with':>8}"
        row = f"{name:8} {len(texts):6} {tokens:7} {states:6} {without:7.2f}s {added:7.2f}s"
        print(f"{columns} added\n{row} {added / without - 1:5.2f}")
        few, every = (
            peak(name, count, options.metrics, options.max_length)
            for count in (len(texts) // 4, len(texts))
        )
        print(
            f"memory: {few:,.0f} MiB with {len(texts) // 4} texts, {every:,.0f} with {len(texts)}"
        )


if __name__ == "__main__":
    main()
