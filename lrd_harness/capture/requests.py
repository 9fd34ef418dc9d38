"""What tasks ask of a model, found once a run: their requests, and their texts for metrics.

Which texts a task will ask for, found by evaluating it on an encoder that only listens.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from lrd_harness.contracts import PromptType, Request, Task, Text

WIDTH = 8


class Listener:
    """A ModelView that notes what it is asked and answers with seeded noise."""

    name = "lrd-harness/dry-run"
    revision = "none"
    similarity = "cosine"
    experiments: Sequence[Mapping[str, Any]] = ({},)

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def encode(
        self, texts: Sequence[str], task: Task, prompt_type: PromptType | None = None
    ) -> np.ndarray:
        """Noise that depends on the text alone: (len(texts), 8) float32."""
        self.requests += [Request(text, prompt_type) for text in texts]
        noise = np.empty((len(texts), WIDTH), np.float32)
        for i, text in enumerate(texts):
            noise[i] = np.random.default_rng(zlib.crc32(text.encode())).normal(size=WIDTH)
        return noise


def requests_of(task: Task) -> Sequence[Any]:
    """All texts that the task's evaluation asks for, as often as it does, in order."""
    if task.requests is not None:
        return task.requests()
    if task.evaluate is None:
        return task.texts()
    listener = Listener()
    task.evaluate(listener)
    return listener.requests


SAMPLE_SEED = 42  # metrics.md, Texts


class Questions:
    """The requests and texts of tasks; neither depends on a model.

    requests(task): all that its evaluation will ask for, as often as it does, in order;
    texts(task): its texts without labels, in order. Both are found at the first call.
    """

    def __init__(self, max_texts: int) -> None:
        self.max_texts = max_texts
        self.requests: Callable[[Task], Sequence[Any]] = cache(requests_of)
        self.texts = cache(_texts)

    def sample(self, task: Task) -> Sequence[Request]:
        """The distinct texts of a task for metrics, `max_texts` of them at most (metrics.md)."""
        first: dict[str, Request] = {}
        for request in self.texts(task):
            first.setdefault(request.text, request)
        distinct = list(first.values())
        if len(distinct) <= self.max_texts:
            return distinct
        draw = np.random.RandomState(SAMPLE_SEED)
        chosen = draw.choice(len(distinct), self.max_texts, replace=False)
        return [distinct[i] for i in sorted(chosen)]


def sampled(texts: Sequence[Text], most: int) -> list[Text]:
    """A seeded sample of at most so many texts, in order."""
    draw = np.random.RandomState(SAMPLE_SEED)
    return [texts[i] for i in sorted(draw.permutation(len(texts))[:most])]


def _texts(task: Task) -> Sequence[Any]:
    return list(task.texts())
