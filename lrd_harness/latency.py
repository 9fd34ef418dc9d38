"""How long a pass takes, and how long without some blocks, measured block by block."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from lrd_harness.contracts import Text
from lrd_harness.text_model import TextModel

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
