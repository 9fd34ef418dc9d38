"""All states of a model against its last layer alone: one capture beside one plain encode.

    python tests/benchmarks/forward.py

On the quickstart's distinct texts, the two ways take turns, and the medians are compared. The
plain way is SentenceTransformer.encode of the same model with the same length limit; ours pools all
L + 1 states (and, for a model with a final norm, each also normed) and writes them to disk.
"""

from __future__ import annotations

from statistics import median

from _setting import arguments, distinct_texts, empty_store, folder, open_model, tasks, timed

from lrd_harness.capture.embeddings import capture
from lrd_harness.capture.token_budget import BATCH_TOKENS


def main() -> None:
    """Print a row a model."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32, help="of the plain encode")
    options = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    print(f"{'model':8} {'texts':>6} {'states':>6} {'plain':>8} {'all':>8} {'ratio':>6}")
    for name in options.models:
        model = open_model(name, options.max_length)
        plain = SentenceTransformer(str(folder(name)), device="cpu")
        plain.max_seq_length = options.max_length
        texts = distinct_texts(model, tasks())
        strings = [text.prompt + text.text for text in texts]
        plain.encode(strings[:64])
        last, every = [], []
        for _ in range(options.rounds):
            seconds, _ = timed(plain.encode, strings, batch_size=options.batch_size)
            last.append(seconds)
            with empty_store(model) as store:
                seconds, _ = timed(capture, model, texts, store, batch_tokens=BATCH_TOKENS["cpu"])
                every.append(seconds)
        states, plainly, whole = model.info.blocks + 1, median(last), median(every)
        row = f"{name:8} {len(texts):6} {states:6} {plainly:7.2f}s {whole:7.2f}s "
        print(f"{row}{whole / plainly:6.2f}", flush=True)


if __name__ == "__main__":
    main()
