"""What tasks ask of a model, and what metrics are measured on: texts, their views, token values."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lrd_harness import measuring
from lrd_harness.capture.augment import views
from lrd_harness.capture.layers import StoredStates, planes
from lrd_harness.capture.token_metrics import TokenValues, Watched, share_faults
from lrd_harness.contracts import Model, Norm, PromptType, Request, Task, Text
from lrd_harness.errors import UnitError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.scores import Scores
from lrd_harness.store.store import Store

WIDTH = 8  # of the noise that a dry run answers with
SEED = 42


class Listener:
    """A ModelView that notes what it is asked and answers with seeded noise."""

    name = "lrd-harness/dry-run"
    revision = "none"
    similarity = "cosine"
    experiments: Sequence[Mapping[str, Any]] = ({},)

    def __init__(self, task: Task) -> None:
        self._task = task
        self.requests: list[Request] = []

    def encode(
        self, texts: Sequence[str], task: Task, prompt_type: PromptType | None = None
    ) -> np.ndarray:
        """Noise that depends on the text alone: (len(texts), 8) float32."""
        part = None if task is self._task else task
        self.requests += [Request(text, prompt_type, part) for text in texts]
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
    listener = Listener(task)
    task.evaluate(listener)
    return listener.requests


class Questions:
    """The requests and texts of tasks; neither depends on a model.

    requests(task): all that its evaluation will ask for, as often as it does, in order;
    texts(task): its texts without labels, in order. Both are found at the first call.
    """

    def __init__(self, max_texts: int) -> None:
        self.max_texts = max_texts
        self.requests: Callable[[Task], Sequence[Any]] = cache(requests_of)
        self.texts: Callable[[Task], Sequence[Any]] = cache(lambda task: list(task.texts()))

    def sample(self, task: Task) -> Sequence[Request]:
        """The distinct texts of a task for metrics, `max_texts` of them at most."""
        first: dict[str, Request] = {}
        for request in self.texts(task):
            first.setdefault(request.text, request)
        distinct = list(first.values())
        if len(distinct) <= self.max_texts:
            return distinct
        draw = np.random.RandomState(SEED)
        chosen = draw.choice(len(distinct), self.max_texts, replace=False)
        return [distinct[i] for i in sorted(chosen)]


def sampled(texts: Sequence[Text], most: int) -> list[Text]:
    """A seeded sample of at most so many texts, in order."""
    draw = np.random.RandomState(SEED)
    return [texts[i] for i in sorted(draw.permutation(len(texts))[:most])]


@dataclass(frozen=True)
class Sampling:
    """How metrics see a model. norm: see `planes`; view_texts: how many texts get views."""

    norm: Norm = "hf"
    view_texts: int = 1000
    device: str = "cpu"


@dataclass(eq=False)
class Samples:
    """The samples of one model for the metrics of a run.

    store: of the pooled states of the texts; plain: of texts read as they are, for the views;
    root: the folder of the stores of token values.
    """

    model: Model
    store: Store
    plain: Store
    identity: dict[str, str]
    sampling: Sampling
    root: Path
    _tokens: dict[int, TokenValues] = field(default_factory=dict, init=False)

    def views(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> list[Text]:
        """The views that these metrics ask for, those of a text together, under its own prompt."""
        count = max((i.metric.views for i in items if i.metric.needs == "views"), default=0)
        return [
            Text(view, text.prompt)
            for text in texts[: self.sampling.view_texts if count else 0]
            for view in views(text.text, count)
        ]

    def watched(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> Watched | None:
        """What is to watch the forward pass of these texts; None where no metric needs it."""
        tokens = [self.tokens(item) for item in items if item.metric.needs == "tokens"]
        return Watched(self.model, self.sampling.norm, tokens, texts) if tokens else None

    def tokens(self, item: PlannedMetric) -> TokenValues:
        """The values of a token metric."""
        if id(item) not in self._tokens:
            states = self.model.info.blocks + 1
            values = TokenValues(item, self.root, self.identity, self.sampling.norm, states)
            if "observe" not in inspect.signature(self.model.states).parameters:
                values.fault = UnitError("the model's adapter shows no states of tokens")
            self._tokens[id(item)] = values
        return self._tokens[id(item)]

    def refresh(self, ranks: Ranks = ALONE) -> None:
        """Take note of what other processes have kept, and of token metrics that failed there.

        Each waits for all.
        """
        for values in self._tokens.values():
            values.store.refresh()
        share_faults(list(self._tokens.values()), ranks)

    def measure(self, item: PlannedMetric, texts: Sequence[Text]) -> tuple[Scores, int]:
        """A metric's scores on texts that were captured, and the number of texts they are of.

        Raises whatever the metric raises.
        """
        metric, device = item.metric, self.sampling.device
        if metric.needs == "tokens":
            return self.tokens(item).finished(texts)
        chosen = planes(self.model, self.sampling.norm)
        store, n, count = self.store, len(texts), 0
        if metric.needs == "views":
            n, count = min(n, self.sampling.view_texts), metric.views
            texts, store = self.views(texts, [item]), self.plain
        states = StoredStates(store, texts, chosen, device, count)
        return measuring.measure(metric, states, **item.parameters), n
