"""What tasks ask of a model, found once a run: their requests, and their texts for metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from lrd_harness.contracts import Request, Task, Text
from lrd_harness.dry_run import requests_of

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
