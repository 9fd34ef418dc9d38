"""Which texts a task will ask for, found by evaluating it on an encoder that only listens."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrd_harness.contracts import PromptType, Request, Task

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
