"""Texts in, pooled states of all layers on disk, one forward pass a distinct text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from lrd_harness.capture.batches import Budget, as_budget
from lrd_harness.contracts import Encoded, Model, Text
from lrd_harness.store.store import Plane, Store

if TYPE_CHECKING:
    from lrd_harness.capture.token_metrics import Watched


Name = TypeVar("Name")

# What is lost when a run is killed, and the size of a file in the store.
SHARD_TOKENS = 32_768
SHARD_TEXTS = 4_096
SHARD_BYTES = 64 * 2**20  # of pooled states in memory at once, however many layers there are


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

    def __add__(self, other: Self) -> Self:
        """The counters of both."""
        return type(self)(**{k: v + getattr(other, k) for k, v in asdict(self).items()})

    def record(self) -> dict[str, float]:
        """The counters as a journal record's fields."""
        return {**asdict(self), "duplicates": self.asked - self.texts}


def capture(
    model: Model,
    texts: Sequence[Text],
    store: Store,
    *,
    batch_tokens: int | Budget,
    progress: Callable[[int, int], None] = lambda done, total: None,
    watched: Watched | None = None,
) -> Captured:
    """Run those of the texts through the model that the store lacks, and store their states.

    Texts are deduplicated, sorted by length and packed into batches of at most `batch_tokens`
    tokens, padding included; each shard is kept before the next is begun. `progress(done, total)`
    counts the texts to be forwarded. watched: token metrics, and the texts that they are to see in
    the same pass; those whose states are there but whose values are not are run again.
    """
    begun = time.perf_counter()
    missing = dict.fromkeys(store.missing(texts))
    seen = dict.fromkeys(watched.missing()) if watched else {}
    counts = counted(texts)
    counts.forwarded = len(missing | seen)

    def keep_seen(
        here: Sequence[Text], found: Mapping[Plane, np.ndarray], cut: Sequence[bool]
    ) -> None:
        pooled = watched.keep(here, found) if watched else found
        new = [i for i, text in enumerate(here) if text in missing]
        if new:
            planes = {plane: rows[new] for plane, rows in pooled.items()}
            store.write([here[i] for i in new], planes, [cut[i] for i in new])

    def run_seen(batch: Sequence[Encoded]) -> Mapping[Plane, Tensor]:
        return model.states(batch, watched)

    forwarded = partial(forward, batch_tokens=batch_tokens)
    rest = [text for text in missing if text not in seen]
    one, two = more(progress, len(rest)), behind(progress, len(seen))
    if seen:
        counts.tokens = forwarded(model, list(seen), run_seen, keep_seen, progress=one)
    if rest or not seen:
        counts.tokens += forwarded(model, rest, model.states, store.write, progress=two)
    counts.truncated = store.truncated(texts)
    counts.seconds = time.perf_counter() - begun
    return counts


def counted(texts: Sequence[Text]) -> Captured:
    """The counters that are known beforehand."""
    distinct = set(texts)
    empty = sum(not t.text.strip() for t in distinct)
    return Captured(asked=len(texts), texts=len(distinct), empty=empty)


def behind(progress: Callable[[int, int], None], before: int) -> Callable[[int, int], None]:
    """Progress that goes on where `before` passes were done."""
    return lambda done, total: progress(before + done, before + total)


def more(progress: Callable[[int, int], None], after: int) -> Callable[[int, int], None]:
    """Progress behind which so many passes are still to come."""
    return lambda done, total: progress(done, total + after)


def forward(
    model: Model,
    texts: Sequence[Text],
    run: Callable[[Sequence[Encoded]], Mapping[Name, Tensor]],
    keep: Callable[[Sequence[Text], Mapping[Name, np.ndarray], Sequence[bool]], None],
    *,
    batch_tokens: int | Budget,
    progress: Callable[[int, int], None],
    alike: bool = False,
) -> int:
    """Run distinct texts in batches, longest first; returns how many tokens they had.

    Where memory does not suffice, a shard is tried again with half the tokens a batch.

    run: one batch -> (b, d) by name; keep: a shard's texts, (n, d) by the same names, and whether
    each was truncated; alike: whether the texts of a batch must be of equal length.
    """
    # sorted by characters first: tokenisers pad what they are given together
    texts = sorted(texts, key=lambda t: -len(t.prompt) - len(t.text))
    encoded: list[Encoded] = []
    cut: list[bool] = []
    for start in range(0, len(texts), 512):
        part = texts[start : start + 512]
        encoded += model.tokenize(part)
        cut += model.truncated(part, encoded[start:])
    budget = as_budget(batch_tokens)
    lengths = [len(e["input_ids"]) for e in encoded]
    order = sorted(range(len(texts)), key=lambda i: -lengths[i])
    done = 0
    progress(0, len(texts))
    for shard in shards([lengths[i] for i in order], texts_at_once(model)):
        chosen = order[shard.start : shard.stop]
        parts: list[dict[Name, Tensor]] = []

        def tried(
            tokens: int, at: int = done, chosen: list[int] = chosen, parts: Any = parts
        ) -> None:
            parts.clear()
            gpus: set[torch.device] = set()
            for batch in batches([lengths[i] for i in chosen], tokens, alike):
                found = run([encoded[i] for i in chosen[batch.start : batch.stop]])
                gpus |= {state.device for state in found.values() if state.is_cuda}
                parts.append({name: _to_cpu(state) for name, state in found.items()})
                at += len(batch)
                progress(at, len(texts))
            for gpu in gpus:
                torch.cuda.synchronize(gpu)  # what is under way is not to be read before

        budget.attempt(tried)
        done += len(chosen)
        joined = {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}
        keep([texts[i] for i in chosen], joined, [cut[i] for i in chosen])
    return sum(lengths)


def _to_cpu(state: Tensor) -> Tensor:
    """In main memory; from a CUDA device it is on its way until that is synchronised."""
    return state.to("cpu", non_blocking=True) if state.is_cuda else state.cpu()


def texts_at_once(model: Model) -> int:
    """Of how many texts the pooled states, of all layers, take SHARD_BYTES."""
    states = (model.info.blocks + 1) * (1 + model.has_final_norm)
    return max(1, SHARD_BYTES // (4 * states * model.info.width))


def shards(lengths: Sequence[int], most: int = SHARD_TEXTS) -> Iterator[range]:
    """Runs of texts, of so many tokens each, that are kept together in one file.

    most: how many texts; SHARD_TEXTS at most.
    """
    start = tokens = 0
    for i, length in enumerate(lengths):
        tokens += length
        if (tokens > SHARD_TOKENS and i > start) or i - start >= min(most, SHARD_TEXTS):
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
