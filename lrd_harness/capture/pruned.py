"""Variants of a model without some of its blocks: a store of each, filled by one walk per batch.

A store holds what a view of the variant needs and no more: its last state, pooled, under the plane
of the model's own last layer, or its log-likelihoods in a single column.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from torch import Tensor

from lrd_harness.blocks import written
from lrd_harness.capture import embeddings, likelihoods
from lrd_harness.capture.embeddings import Captured, Progress, behind, size
from lrd_harness.capture.layers import LayerView, LikelihoodLayer, StoredLikelihoods, key, planes
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
from lrd_harness.store.store import Store

Forward = Callable[[Walk, Sequence[Removed], list[Text], Progress], Captured]


class Variants:
    """The variants of a model as one kind of task reads it: their stores, and views of them.

    Raises UserError where a store cannot be written.
    """

    def __init__(self, reader: Reader, variants: Sequence[Removed]) -> None:
        self._reader, self._model = reader, cast("BlockModel", reader.model)
        root, identity = reader.samples.root, reader.store.identity
        self.stores = {v: Store(root, {**identity, "removed": written(v)}) for v in variants}

    def capture(self, asked: Mapping[Task, Sequence[Any]], progress: Progress) -> Captured:
        """Run what the variants lack of what tasks ask (see Embeddings.ask), all together.

        In the counters `forwarded` are passes of texts or of contexts, each through the variants
        that lack it; `progress(done, total)` counts them.
        Raises UserError as Walk does, and whatever tokenising or running raises.
        """
        ranks = self._reader.ranks
        if not self._reader.likelihood:
            every = [text for texts in asked.values() for text in texts]
            mine = set(ranks.share(dict.fromkeys(every), size))
            return self._embeddings(self.stores, [text for text in every if text in mine], progress)
        counts = Captured()
        for task, requests in asked.items():
            assert task.tokenize is not None
            counts += self._likelihoods(
                shared_out(ranks, requests), task.tokenize, behind(progress, counts.forwarded)
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
        model, store = self._model, self.stores[removed]
        if self._reader.likelihood:
            return LikelihoodLayer(StoredLikelihoods(store), 0, name, revision, experiments)
        fetch = partial(self._embeddings, {removed: store})
        return LayerView(model, store, model.info.blocks, name, revision, experiments, fetch)

    def _embeddings(
        self,
        stores: Mapping[Removed, Store],
        texts: Sequence[Text],
        progress: Progress = lambda done, total: None,
    ) -> Captured:
        """Run what stores of variants lack of these texts, and keep the variants' pooled states."""
        model = self._model
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

            tokens = embeddings.forward(
                model,
                missing,
                run,
                keep,
                batch_tokens=self._reader.budget,
                progress=progress,
                alike=model.padding == "none",
            )
            return Captured(forwarded=len(missing), tokens=tokens)

        counts = embeddings.counted(texts) + self._walked(stores, texts, forward, progress)
        for store in list(stores.values())[:1]:  # the same texts are cut for every variant
            counts.truncated = store.truncated(texts)
        return counts

    def _likelihoods(
        self, requests: Sequence[Continuation], tokenize: Tokenize, progress: Progress
    ) -> Captured:
        """As _embeddings, of the log-likelihoods of requests."""
        model, by_key = cast("LanguageModel", self._model), {key(r): r for r in requests}

        def forward(
            walk: Walk, variants: Sequence[Removed], missing: list[Text], progress: Progress
        ) -> Captured:
            def watch(batch: Sequence[Encoded], seen: Watch) -> None:
                def number(removed: Removed, state: Tensor) -> None:
                    seen(variants.index(removed), state)

                walk.run(model.inputs(model.features(batch)), variants, number)

            def keep(answers: Answers) -> None:
                for i, removed in enumerate(variants):
                    answers.keep(self.stores[removed], slice(i, i + 1))

            return likelihoods.forward(
                model,
                [by_key[text] for text in missing],
                set(),
                tokenize,
                watch,
                keep,
                batch_tokens=self._reader.budget,
                progress=progress,
            )

        counts = likelihoods.counted(requests)
        counts += self._walked(self.stores, list(by_key), forward, progress)
        for store in list(self.stores.values())[:1]:  # the same contexts are cut for every variant
            counts.truncated = len(likelihoods.truncated(store, requests))
        return counts

    def _walked(
        self,
        stores: Mapping[Removed, Store],
        texts: Sequence[Text],
        forward: Forward,
        progress: Progress,
    ) -> Captured:
        """Run what stores lack, each text through the variants whose stores lack it."""
        begun, walk, counts = time.perf_counter(), Walk(self._model.backbone), Captured()
        lacking: defaultdict[Text, list[Removed]] = defaultdict(list)
        for removed, store in stores.items():
            for text in store.missing(texts):
                lacking[text].append(removed)
        groups: defaultdict[tuple[Removed, ...], list[Text]] = defaultdict(list)
        for text, variants in lacking.items():
            groups[tuple(variants)].append(text)
        for group, missing in groups.items():
            counts += forward(walk, group, missing, behind(progress, counts.forwarded))
        counts.seconds = time.perf_counter() - begun
        return counts
