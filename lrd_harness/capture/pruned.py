"""How long a pass takes, and how long without some blocks, measured block by block.

Variants of a model without some of its blocks: a store of each, filled by one walk a batch.

A store holds what a view of the variant needs and no more: its last state, pooled, under the plane
of the model's own last layer, or its log-likelihoods in a single column. So a variant is viewed as
LayerView(model, store, layer=L, ...) or LikelihoodLayer(store, 0, ...).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lrd_harness.blocks import written
from lrd_harness.capture import embeddings, likelihoods
from lrd_harness.capture.batches import Budget
from lrd_harness.capture.embeddings import Captured
from lrd_harness.capture.layers import LayerView, LikelihoodLayer, planes
from lrd_harness.capture.likelihoods import Answers, Tokenize, key
from lrd_harness.capture.states import Reading, View, shared_out, size
from lrd_harness.capture.walk import Removed, Walk
from lrd_harness.contracts import (
    BlockModel,
    Continuation,
    Encoded,
    Experiments,
    LanguageModel,
    Task,
    Text,
)
from lrd_harness.models.backbone import Watch
from lrd_harness.models.text_model import TextModel
from lrd_harness.store.location import cache_dir
from lrd_harness.store.store import Store

Progress = Callable[[int, int], None]


@dataclass
class CapturedVariants(Captured):
    """The counters of a capture for variants; executions: how many blocks were run on a batch."""

    executions: int = 0


def stores(identity: Mapping[str, str], variants: Sequence[Removed]) -> dict[Removed, Store]:
    """The store of each variant.

    identity: the model's, for embeddings; likelihoods.identity(model) for log-likelihoods.
    Raises UserError where a store cannot be written.
    """
    root = cache_dir() / "states"
    return {v: Store(root, {**identity, "removed": written(v)}) for v in variants}


class Variants:
    """The variants of a model as one kind of task reads it: their stores, and views of them.

    Raises UserError where a store cannot be written.
    """

    def __init__(self, reading: Reading, variants: Sequence[Removed]) -> None:
        self._reading = reading
        self._model = cast("BlockModel", reading.model)
        identity = reading.model.identity
        if reading.likelihood:
            identity = likelihoods.identity(cast("LanguageModel", reading.model))
        self.stores = stores(identity, variants)

    def capture(self, asked: Mapping[Task, Sequence[Any]], progress: Progress) -> CapturedVariants:
        """Run what the variants lack of what tasks ask (see Reading.ask), all variants together.

        Raises UserError as Walk does, and whatever tokenising or running raises.
        """
        ranks = self._reading.ranks
        if not self._reading.likelihood:
            every = [text for texts in asked.values() for text in texts]
            mine = set(ranks.share(dict.fromkeys(every), size))
            return self._embed([text for text in every if text in mine], progress)
        counts = CapturedVariants()
        for task, requests in asked.items():
            assert task.tokenize is not None
            counts += capture_likelihoods(
                cast("LanguageModel", self._model),
                shared_out(ranks, requests),
                task.tokenize,
                self.stores,
                batch_tokens=self._reading.budget,
                progress=embeddings.behind(progress, counts.forwarded),
            )
        return counts

    def refresh(self) -> None:
        """Take note of what other processes have read."""
        for store in self.stores.values():
            store.refresh()

    def _embed(
        self, texts: Sequence[Text], progress: Progress, only: Removed | None = None
    ) -> CapturedVariants:
        stores = self.stores if only is None else {only: self.stores[only]}
        tokens = self._reading.budget
        return capture_embeddings(
            self._model, texts, stores, batch_tokens=tokens, progress=progress
        )

    def view(self, removed: Removed, name: str, revision: str, experiments: Experiments) -> View:
        """A variant, as tasks evaluate it."""
        if self._reading.likelihood:
            return LikelihoodLayer(self.stores[removed], 0, name, revision, experiments)

        def fetch(texts: Sequence[Text]) -> None:
            self._embed(texts, lambda done, total: None, only=removed)

        return LayerView(
            self._model,
            self.stores[removed],
            self._model.info.blocks,
            name=name,
            revision=revision,
            experiments=experiments,
            fetch=fetch,
        )


def capture_embeddings(
    model: BlockModel,
    texts: Sequence[Text],
    stores: Mapping[Removed, Store],
    *,
    batch_tokens: int | Budget,
    progress: Progress = lambda done, total: None,
) -> CapturedVariants:
    """Run what the stores of variants lack of these texts, and keep the variants' pooled states.

    In the counters `forwarded` are texts, each run through the variants that lack it.
    `progress(done, total)` counts them. Raises UserError as Walk does.
    """
    begun = time.perf_counter()
    walk = Walk(model.backbone)
    plane = planes(model, "final")[-1]

    def keep(
        shard: Sequence[Text], found: Mapping[Removed, np.ndarray], cut: Sequence[bool]
    ) -> None:
        for removed, pooled in found.items():
            stores[removed].write(shard, {plane: pooled}, cut)

    counts = CapturedVariants(**asdict(embeddings.counted(texts)))
    for variants, missing in _lacking(stores, texts).items():
        counts.tokens += embeddings.forward(
            model,
            missing,
            _pooling(model, walk, variants, plane[0]),
            keep,
            batch_tokens=batch_tokens,
            progress=embeddings.behind(progress, counts.forwarded),
            alike=model.padding == "none",
        )
        counts.forwarded += len(missing)
    for store in islice(stores.values(), 1):  # the same texts are cut for every variant
        counts.truncated = store.truncated(texts)
    counts.executions = walk.executions
    counts.seconds = time.perf_counter() - begun
    return counts


def _pooling(
    model: BlockModel, walk: Walk, variants: Sequence[Removed], kind: str
) -> Callable[[Sequence[Encoded]], dict[Removed, Tensor]]:
    """One batch -> the variants' last states, pooled, (b, d); kind: "raw" or "final"."""

    def run(batch: Sequence[Encoded]) -> dict[Removed, Tensor]:
        features = model.features(batch)
        found: dict[Removed, Tensor] = {}

        def seen(removed: Removed, state: Tensor) -> None:
            found[removed] = model.pooled(state, features)[kind]

        walk.run(model.inputs(features), variants, seen)
        return found

    return run


def capture_likelihoods(
    model: LanguageModel,
    requests: Sequence[Continuation],
    tokenize: Tokenize,
    stores: Mapping[Removed, Store],
    *,
    batch_tokens: int | Budget,
    progress: Progress = lambda done, total: None,
) -> CapturedVariants:
    """Run what the stores of variants lack of these requests, and keep the log-likelihoods.

    In the counters `forwarded` are passes, each through the variants that lack its requests.
    `progress(done, total)` counts them. Raises UserError as Walk does.
    """
    begun = time.perf_counter()
    walk = Walk(model.backbone)
    by_key = {key(request): request for request in requests}
    counts = CapturedVariants(**asdict(likelihoods.counted(requests)))
    for variants, missing in _lacking(stores, list(by_key)).items():
        done = likelihoods.forward(
            model,
            [by_key[text] for text in missing],
            set(),
            tokenize,
            _watching(model, walk, variants),
            _keeping(stores, variants),
            batch_tokens=batch_tokens,
            progress=embeddings.behind(progress, counts.forwarded),
        )
        counts.forwarded += done.forwarded
        counts.tokens += done.tokens
    for store in islice(stores.values(), 1):  # the same contexts are cut for every variant
        counts.truncated = len(likelihoods.truncated(store, requests))
    counts.executions = walk.executions
    counts.seconds = time.perf_counter() - begun
    return counts


def _watching(
    model: BlockModel, walk: Walk, variants: Sequence[Removed]
) -> Callable[[Sequence[Encoded], Watch], None]:
    """Runs a batch and shows the variants' last states, numbered as the variants are."""
    number = {removed: i for i, removed in enumerate(variants)}

    def watch(batch: Sequence[Encoded], seen: Watch) -> None:
        inputs = model.inputs(model.features(batch))
        walk.run(inputs, variants, lambda removed, state: seen(number[removed], state))

    return watch


def _keeping(
    stores: Mapping[Removed, Store], variants: Sequence[Removed]
) -> Callable[[Answers], None]:
    """Keeps a shard's answers, of each variant in its own store."""

    def keep(shard: Answers) -> None:
        for i, removed in enumerate(variants):
            likelihoods.keep_requests(stores[removed], shard, slice(i, i + 1))

    return keep


def _lacking(
    stores: Mapping[Removed, Store], texts: Sequence[Text]
) -> dict[tuple[Removed, ...], list[Text]]:
    """The distinct texts that are missing somewhere, by the variants whose stores lack them."""
    lacking: dict[Text, list[Removed]] = {}
    for removed, store in stores.items():
        for text in store.missing(texts):
            lacking.setdefault(text, []).append(removed)
    groups: dict[tuple[Removed, ...], list[Text]] = {}
    for text, variants in lacking.items():
        groups.setdefault(tuple(variants), []).append(text)
    return groups


ROUNDS = 5
TEXTS = 8  # one batch of them


@dataclass(frozen=True)
class Latency:
    """Seconds of one pass of a batch, and of each block in it: medians over some passes."""

    full: float
    blocks: tuple[float, ...]

    def without(self, removed: Sequence[int]) -> float:
        """Seconds without these blocks (1..L): their own times taken from the whole."""
        return max(0.0, self.full - sum(self.blocks[block - 1] for block in removed))


def measured(model: TextModel, texts: Sequence[Text]) -> Latency:
    """The latency on texts of middling length; the first pass, which warms up, is left out."""
    ordered = sorted(model.tokenize(texts), key=lambda e: len(e["input_ids"]))
    first = max(0, (len(ordered) - TEXTS) // 2)
    batch = ordered[first : first + TEXTS]
    if model.padding == "none":
        batch = [e for e in batch if len(e["input_ids"]) == len(batch[0]["input_ids"])]
    inputs = model.inputs(model.features(batch))
    whole: list[float] = []
    marks: list[list[float]] = []
    for _ in range(ROUNDS + 1):
        marks.append([])
        begun = _now(model.device)
        model.backbone.run(inputs, lambda layer, state: marks[-1].append(_now(model.device)))
        whole.append(_now(model.device) - begun)
    spans = [[b - a for a, b in pairwise(m)] for m in marks[1:]]
    blocks = tuple(statistics.median(times) for times in zip(*spans, strict=True))
    return Latency(statistics.median(whole[1:]), blocks)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
