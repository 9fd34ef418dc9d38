"""Variants of a model without some of its blocks: a store of each, filled by one walk per batch.

A store holds what a view of the variant needs and no more: its last state, pooled, under the plane
of the model's own last layer, or its log-likelihoods in a single column.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor

from lrd_harness.blocks import written
from lrd_harness.capture import embeddings, likelihoods
from lrd_harness.capture.batches import Budget, Progress
from lrd_harness.capture.embeddings import Captured, behind, size
from lrd_harness.capture.layers import LayerView, LikelihoodLayer, key, planes
from lrd_harness.capture.likelihoods import Answers, Reader, Tokenize, shared_out
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
from lrd_harness.store.location import cache_dir
from lrd_harness.store.store import Store

Stores = Mapping[Removed, Store]
Forward = Callable[[Walk, Sequence[Removed], list[Text], Progress], Captured]


def stores(identity: Mapping[str, str], variants: Sequence[Removed]) -> dict[Removed, Store]:
    """The store of each variant; identity: the reader's, for embeddings or for log-likelihoods.

    Raises UserError where a store cannot be written.
    """
    root = cache_dir() / "states"
    return {v: Store(root, {**identity, "removed": written(v)}) for v in variants}


class Variants:
    """The variants of a model as one kind of task reads it: their stores, and views of them.

    Raises UserError where a store cannot be written.
    """

    def __init__(self, reader: Reader, variants: Sequence[Removed]) -> None:
        self._reader, self._model = reader, cast("BlockModel", reader.model)
        self.stores = stores(reader.identity(reader.model), variants)

    def capture(self, asked: Mapping[Task, Sequence[Any]], progress: Progress) -> Captured:
        """Run what the variants lack of what tasks ask (see Embeddings.ask), all together.

        Raises UserError as Walk does, and whatever tokenising or running raises.
        """
        ranks, tokens = self._reader.ranks, self._reader.budget
        if not self._reader.likelihood:
            every = [text for texts in asked.values() for text in texts]
            mine = set(ranks.share(dict.fromkeys(every), size))
            texts = [text for text in every if text in mine]
            return capture_embeddings(
                self._model, texts, self.stores, batch_tokens=tokens, progress=progress
            )
        counts = Captured()
        for task, requests in asked.items():
            assert task.tokenize is not None
            counts += capture_likelihoods(
                cast("LanguageModel", self._model),
                shared_out(ranks, requests),
                task.tokenize,
                self.stores,
                batch_tokens=tokens,
                progress=behind(progress, counts.forwarded),
            )
        return counts

    def refresh(self) -> None:
        """Take note of what other processes have read."""
        for store in self.stores.values():
            store.refresh()

    def view(
        self, removed: Removed, name: str, revision: str, experiments: Experiments
    ) -> LayerView | LikelihoodLayer:
        """A variant, as tasks evaluate it."""
        model, store, tokens = self._model, self.stores[removed], self._reader.budget
        if self._reader.likelihood:
            return LikelihoodLayer(store, 0, name, revision, experiments)

        def fetch(texts: Sequence[Text]) -> None:
            capture_embeddings(model, texts, {removed: store}, batch_tokens=tokens)

        return LayerView(model, store, model.info.blocks, name, revision, experiments, fetch)


def capture_embeddings(
    model: BlockModel,
    texts: Sequence[Text],
    stores: Stores,
    *,
    batch_tokens: int | Budget,
    progress: Progress = lambda done, total: None,
) -> Captured:
    """Run what the stores of variants lack of these texts, and keep the variants' pooled states.

    In the counters `forwarded` are texts, each run through the variants that lack it.
    `progress(done, total)` counts them. Raises UserError as Walk does.
    """
    plane = planes(model, "final")[-1]

    def keep(
        here: Sequence[Text], states: Mapping[Removed, np.ndarray], cut: Sequence[bool]
    ) -> None:
        for removed, pooled in states.items():
            stores[removed].write(here, {plane: pooled}, cut)

    def forward(
        walk: Walk, variants: Sequence[Removed], missing: list[Text], progress: Progress
    ) -> Captured:
        def run(batch: Sequence[Encoded]) -> dict[Removed, Tensor]:
            features, pooled = model.features(batch), {}

            def seen(removed: Removed, state: Tensor) -> None:
                pooled[removed] = model.pooled(state, features)[plane[0]]

            walk.run(model.inputs(features), variants, seen)
            return pooled

        alike = model.padding == "none"
        tokens = embeddings.forward(
            model, missing, run, keep, batch_tokens=batch_tokens, progress=progress, alike=alike
        )
        return Captured(forwarded=len(missing), tokens=tokens)

    counts = embeddings.counted(texts) + _walked(model, stores, texts, forward, progress)
    for store in list(stores.values())[:1]:  # the same texts are cut for every variant
        counts.truncated = store.truncated(texts)
    return counts


def capture_likelihoods(
    model: LanguageModel,
    requests: Sequence[Continuation],
    tokenize: Tokenize,
    stores: Stores,
    *,
    batch_tokens: int | Budget,
    progress: Progress = lambda done, total: None,
) -> Captured:
    """As capture_embeddings, of the log-likelihoods of requests; `forwarded` are passes."""
    by_key = {key(request): request for request in requests}

    def forward(
        walk: Walk, variants: Sequence[Removed], missing: list[Text], progress: Progress
    ) -> Captured:
        def watch(batch: Sequence[Encoded], seen: Watch) -> None:
            def number(removed: Removed, state: Tensor) -> None:
                seen(variants.index(removed), state)

            walk.run(model.inputs(model.features(batch)), variants, number)

        def keep(answers: Answers) -> None:
            for i, removed in enumerate(variants):
                answers.keep(stores[removed], slice(i, i + 1))

        run = [by_key[text] for text in missing]
        return likelihoods.forward(
            model, run, set(), tokenize, watch, keep, batch_tokens=batch_tokens, progress=progress
        )

    counts = likelihoods.counted(requests) + _walked(model, stores, list(by_key), forward, progress)
    for store in list(stores.values())[:1]:  # the same contexts are cut for every variant
        counts.truncated = len(likelihoods.truncated(store, requests))
    return counts


def _walked(
    model: BlockModel, stores: Stores, texts: Sequence[Text], forward: Forward, progress: Progress
) -> Captured:
    """Run what stores lack, each text through the variants whose stores lack it."""
    begun, walk, counts = time.perf_counter(), Walk(model.backbone), Captured()
    lacking: dict[Text, tuple[Removed, ...]] = {}
    for removed, store in stores.items():
        for text in store.missing(texts):
            lacking[text] = (*lacking.get(text, ()), removed)
    groups: dict[tuple[Removed, ...], list[Text]] = {}
    for text, variants in lacking.items():
        groups.setdefault(variants, []).append(text)
    for variants, missing in groups.items():
        counts += forward(walk, variants, missing, behind(progress, counts.forwarded))
    counts.seconds = time.perf_counter() - begun
    return counts
