"""Texts in, pooled states of all layers on disk, one forward pass a distinct text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lrd_harness.contracts import Text
from lrd_harness.protocols import Encoded, Model
from lrd_harness.store import Plane, Store

# What is lost when a run is killed, and the size of a file in the store.
SHARD_TOKENS = 32_768
SHARD_TEXTS = 4_096


@dataclass
class Captured:
    """What one capture did; the counters of run.json.

    asked: texts asked for; texts: distinct ones; forwarded: those that were run now; tokens: in
    those; truncated, empty: of the distinct ones, how many the model saw only the beginning of,
    and how many have no character but white space; seconds: of the whole capture.
    """

    asked: int = 0
    texts: int = 0
    forwarded: int = 0
    tokens: int = 0
    truncated: int = 0
    empty: int = 0
    seconds: float = 0.0

    def __add__(self, other: Captured) -> Captured:
        """The counters of both."""
        return Captured(**{k: v + getattr(other, k) for k, v in asdict(self).items()})

    def record(self) -> dict[str, float]:
        """The counters as a journal record's fields."""
        return {**asdict(self), "duplicates": self.asked - self.texts}


def capture(
    model: Model,
    texts: Sequence[Text],
    store: Store,
    *,
    batch_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Captured:
    """Run those of the texts through the model that the store lacks, and store their states.

    Texts are deduplicated, sorted by length and packed into batches of at most `batch_tokens`
    tokens, padding included; each shard is kept before the next is begun. `progress(done, total)`
    counts the texts to be forwarded.
    """
    begun = time.perf_counter()
    missing = store.missing(texts)
    distinct = set(texts)
    counts = Captured(asked=len(texts), texts=len(distinct), forwarded=len(missing))
    counts.empty = sum(not t.text.strip() for t in distinct)
    # sorted by characters first: tokenisers pad what they are given together
    missing.sort(key=lambda t: -len(t.prompt) - len(t.text))
    encoded: list[Encoded] = []
    cut: list[bool] = []
    for start in range(0, len(missing), 512):
        part = missing[start : start + 512]
        encoded += model.tokenize(part)
        cut += model.truncated(part, encoded[start:])
    lengths = [len(e["input_ids"]) for e in encoded]
    counts.tokens = sum(lengths)
    order = sorted(range(len(missing)), key=lambda i: -lengths[i])
    done = 0
    progress(0, len(missing))
    for shard in shards([lengths[i] for i in order]):
        chosen = order[shard.start : shard.stop]
        parts: list[dict[Plane, np.ndarray]] = []
        for batch in batches([lengths[i] for i in chosen], batch_tokens):
            states = model.states([encoded[i] for i in chosen[batch.start : batch.stop]])
            parts.append({plane: state.cpu().numpy() for plane, state in states.items()})
            done += len(batch)
            progress(done, len(missing))
        planes = {p: np.concatenate([part[p] for part in parts]) for p in parts[0]}
        store.write([missing[i] for i in chosen], planes, [cut[i] for i in chosen])
    counts.truncated = store.truncated(texts)
    counts.seconds = time.perf_counter() - begun
    return counts


def shards(lengths: Sequence[int]) -> Iterator[range]:
    """Runs of texts, of so many tokens each, that are kept together in one file."""
    start = tokens = 0
    for i, length in enumerate(lengths):
        tokens += length
        if (tokens > SHARD_TOKENS and i > start) or i - start >= SHARD_TEXTS:
            yield range(start, i)
            start, tokens = i, length
    if start < len(lengths):
        yield range(start, len(lengths))


def batches(lengths: Sequence[int], budget: int, alike: bool = False) -> Iterator[range]:
    """Runs of texts, longest first, whose padded size is within the budget; alike: no padding."""
    start = 0
    for i, length in enumerate(lengths):
        full = (i + 1 - start) * lengths[start] > budget
        if i > start and (full or (alike and length != lengths[start])):
            yield range(start, i)
            start = i
    if start < len(lengths):
        yield range(start, len(lengths))
