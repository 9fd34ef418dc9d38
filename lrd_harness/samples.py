"""What metrics are measured on: pooled states, views and token values of a task's texts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from lrd_harness import augment, measuring
from lrd_harness.cache import cache_dir
from lrd_harness.contracts import Norm, Text
from lrd_harness.errors import UnitError
from lrd_harness.launch import ALONE, Ranks
from lrd_harness.parameters import PlannedMetric
from lrd_harness.protocols import Model
from lrd_harness.store import Store
from lrd_harness.token_values import TokenValues, Watched, share_faults
from lrd_harness.view import StoredStates, StoredViews, planes


@dataclass(frozen=True)
class Sampling:
    """How metrics see a model. norm: metrics.md, Norm; view_texts: texts that get views."""

    norm: Norm = "hf"
    view_texts: int = 1000
    device: str = "cpu"


class Samples:
    """The samples of one model for the metrics of a run.

    store: of the pooled states of the texts; plain: of texts read as they are, for the views.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        plain: Store,
        identity: dict[str, str],
        sampling: Sampling,
    ) -> None:
        self._model, self._store, self._plain = model, store, plain
        self._identity, self._sampling = identity, sampling
        self._tokens: dict[int, TokenValues] = {}

    def views(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> list[Text]:
        """The views of the texts that these metrics ask for, those of a text together."""
        count = max((i.metric.views for i in items if i.metric.needs == "views"), default=0)
        return [view for several in self._views(texts, count) for view in several]

    def watched(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> Watched | None:
        """What is to watch the forward pass of these texts; None where no metric needs it."""
        tokens = [self.tokens(item) for item in items if item.metric.needs == "tokens"]
        return Watched(self._model, self._sampling.norm, tokens, texts) if tokens else None

    def tokens(self, item: PlannedMetric) -> TokenValues:
        """The values of a token metric."""
        if id(item) not in self._tokens:
            root, states = cache_dir() / "states", self._model.info.blocks + 1
            made = TokenValues(item, root, self._identity, self._sampling.norm, states)
            if "observe" not in inspect.signature(self._model.states).parameters:
                made.fault = UnitError("the model's adapter shows no states of tokens")
            self._tokens[id(item)] = made
        return self._tokens[id(item)]

    def refresh(self, ranks: Ranks = ALONE) -> None:
        """Take note of what other processes have kept, and of token metrics that failed there.

        Each waits for all.
        """
        for values in self._tokens.values():
            values.store.refresh()
        share_faults(list(self._tokens.values()), ranks)

    def measure(self, item: PlannedMetric, texts: Sequence[Text]) -> tuple[measuring.Scores, int]:
        """A metric's scores on texts that were captured, and the number of texts they are of.

        Raises whatever the metric raises.
        """
        metric, device = item.metric, self._sampling.device
        if metric.needs == "tokens":
            return self.tokens(item).finished(texts)
        chosen = planes(self._model, self._sampling.norm)
        if metric.needs == "pooled":
            states = StoredStates(self._store, texts, chosen, device)
            return measuring.measure(metric, states, **item.parameters), len(texts)
        views = self._views(texts, metric.views)
        given = StoredViews(self._plain, views, chosen, device)
        return measuring.measure(metric, given, **item.parameters), len(views)

    def _views(self, texts: Sequence[Text], count: int) -> list[list[Text]]:
        """Of the first texts of the sample, `count` views each, under the text's own prompt."""
        if not count:
            return []
        return [
            [Text(view, text.prompt) for view in augment.views(text.text, count)]
            for text in texts[: self._sampling.view_texts]
        ]
