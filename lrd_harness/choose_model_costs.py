"""What a model takes to read texts like these: time, and the size of what it gives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lrd_harness.capture import forward
from lrd_harness.contracts import Text
from lrd_harness.protocols import Model
from lrd_harness.questions import sampled

TIMED = 64  # texts that a model's speed is measured on
ROUNDS, LONG = 5, 4.0  # passes of them at most, and seconds after which there is no other one
BYTES = 4  # of a number in float32


@dataclass(frozen=True)
class Cost:
    """What a model takes.

    width: numbers in a vector of a text; tokens: of 1,000 texts like these, prompts included;
    seconds: of their forward passes on this device, measured on a sample of the texts; None for
    these two where they could not be measured.
    """

    parameters: int
    blocks: int
    width: int
    tokens: float | None = None
    seconds: float | None = None

    @property
    def stored(self) -> int:
        """Bytes of one vector in float32."""
        return self.width * BYTES


def size(model: Model) -> Cost:
    """What is known without running it."""
    return Cost(model.info.parameters, model.info.blocks, model.info.width)


def cost(model: Model, texts: Sequence[Text], batch_tokens: int) -> Cost:
    """What 1,000 such texts cost, by the fastest of some passes of a sample of them.

    The fastest is the one that whatever else the machine does has disturbed least.
    """
    sample = sampled(texts, TIMED)
    _pass(model, sample[:1], batch_tokens)
    spent: list[float] = []
    while len(spent) < ROUNDS and sum(spent) < LONG:
        begun = time.perf_counter()
        tokens = _pass(model, sample, batch_tokens)
        spent.append(time.perf_counter() - begun)
    every = sum(len(encoded["input_ids"]) for encoded in model.tokenize(texts))
    per_text = every / len(texts)
    seconds = 1000 * per_text * min(spent) / max(tokens, 1)
    return replace(size(model), tokens=1000 * per_text, seconds=seconds)


def _pass(model: Model, texts: Sequence[Text], batch_tokens: int) -> int:
    """Run texts and keep nothing; returns how many tokens they had."""

    def keep(texts: Sequence[Text], found: object, cut: Sequence[bool]) -> None:
        return

    return forward(
        model,
        texts,
        model.states,
        keep,
        batch_tokens=batch_tokens,
        progress=lambda done, total: None,
    )
