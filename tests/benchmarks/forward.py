"""All states of a model against its last layer alone: one capture beside one plain encode.

    python tests/benchmarks/forward.py

On the quickstart's distinct texts, the two ways take turns, and the medians are compared. The
plain way is SentenceTransformer.encode of the same model with the same length limit; ours pools all
L + 1 states (and, for a model with a final norm, each also normed) and writes them to disk.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from _setting import arguments, distinct_texts, folder, open_model, plan

from lrd_harness.capture.embeddings import capture
from lrd_harness.runner.loop import BATCH_TOKENS
from lrd_harness.store.store import Store


def main() -> None:
    """Print a row a model."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="of the plain encode")
    chosen = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    tasks = plan().tasks
    print(f"{'model':8} {'texts':>6} {'states':>6} {'plain':>8} {'all':>8} {'ratio':>6}")
    for name in chosen.models:
        model = open_model(name, chosen.max_length)
        plain = SentenceTransformer(str(folder(name)), device="cpu")
        plain.max_seq_length = chosen.max_length
        texts = distinct_texts(model, tasks)
        strings = [t.prompt + t.text for t in texts]
        plain.encode(strings[:64])
        times: dict[str, list[float]] = {"plain": [], "all": []}
        for _ in range(chosen.rounds):
            begun = time.perf_counter()
            plain.encode(strings, batch_size=chosen.batch_size)
            times["plain"].append(time.perf_counter() - begun)
            with tempfile.TemporaryDirectory() as empty:
                begun = time.perf_counter()
                store = Store(Path(empty), model.identity)
                capture(model, texts, store, batch_tokens=BATCH_TOKENS["cpu"])
                times["all"].append(time.perf_counter() - begun)
        one, every = (statistics.median(times[way]) for way in ("plain", "all"))
        states = model.info.blocks + 1
        print(
            f"{name:8} {len(texts):6} {states:6} {one:7.2f}s {every:7.2f}s {every / one:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
