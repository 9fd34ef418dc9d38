"""One layer of a model, read from the store: what tasks evaluate and metrics measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from lrd_harness.contracts import Continuation, Experiments, Model, Norm, PromptType, Task, Text
from lrd_harness.errors import NotFinite
from lrd_harness.models.readout import embedded
from lrd_harness.store.store import Plane, Store

SAME = 1e-6  # relative, as for degenerate states
LOGLIKELIHOOD: Plane = ("loglikelihood", 0)  # (n, L + 1), nats, a column per layer
GREEDY: Plane = ("greedy", 0)  # (n, L + 1), 1 where each token is the likeliest


def planes(model: Model, norm: Norm) -> list[Plane]:
    """The L + 1 planes of the store that a choice of norm means.

    "raw" states are as the blocks write them, "final" ones went through the final norm; "hf" are
    raw but for the last one, as transformers returns hidden states.
    """
    blocks = model.info.blocks
    kinds = ["final" if norm == "final" else "raw"] * (blocks + 1)
    if norm == "hf":
        kinds[blocks] = "final"
    if not model.has_final_norm:
        kinds = ["raw"] * (blocks + 1)
    return [(kind, layer) for layer, kind in enumerate(kinds)]


def key(request: Continuation) -> Text:
    """A request as the store's text; the mark keeps it apart from a context's own states."""
    return Text(request.continuation, f"\0{request.context}")


class LayerView:
    """A contracts.ModelView: the model truncated at a layer, its final norm and output kept.

    fetch: forwards texts that the store lacks, for evaluators whose questions depend on answers.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        layer: int,
        *,
        name: str,
        revision: str,
        experiments: Experiments,
        fetch: Callable[[Sequence[Text]], None],
    ) -> None:
        self.name, self.revision, self.experiments = name, revision, experiments
        self.similarity = model.similarity
        self.layer = layer
        self._same = True
        self._first: torch.Tensor | None = None
        self._model, self._store, self._fetch = model, store, fetch
        self._plane = planes(model, "final")[layer]

    @property
    def constant(self) -> bool:
        """Whether texts were encoded and all had one state, as state 0 pooled at one token is."""
        return self._same and self._first is not None

    def encode(
        self, texts: Sequence[str], task: Task, prompt_type: PromptType | None = None
    ) -> np.ndarray:
        """Embeddings (len(texts), width) float32, in order.

        Raises NotFinite for NaN or infinity in the states.
        """
        prompt = self._model.prompt(task, prompt_type)
        prompted = [Text(text, prompt) for text in texts]
        if self._store.missing(prompted):
            self._fetch(prompted)
        pooled = torch.from_numpy(self._store.read(prompted, self._plane))
        if not torch.isfinite(pooled).all():
            raise NotFinite(f"NaN or infinity in the states of layer {self.layer}")
        if len(pooled):
            self._first = pooled[:1] if self._first is None else self._first
            spread = (pooled - self._first).abs().amax()
            self._same &= bool(spread <= SAME * pooled.abs().amax())
        return embedded(self._model.embed, pooled, prompt_type).numpy()


class StoredLikelihoods:
    """What the store holds of requests, all layers; read once for all layers of a task."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._latest: tuple[list[Continuation], np.ndarray, np.ndarray] | None = None

    def of(self, requests: Sequence[Continuation]) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihoods and whether they are greedy, (n, L + 1) each, in the order of requests.

        Raises KeyError for a request that is not stored.
        """
        if self._latest is None or self._latest[0] != requests:
            keys = [key(request) for request in requests]
            values = self._store.read(keys, LOGLIKELIHOOD)
            self._latest = list(requests), values, self._store.read(keys, GREEDY)
        return self._latest[1:]


class LikelihoodLayer:
    """A contracts.LikelihoodView: the log-likelihoods of one layer, read from the store."""

    constant = False  # a layer gives one state to all texts, but asks the head at several

    def __init__(
        self,
        likelihoods: StoredLikelihoods | Store,
        layer: int,
        name: str,
        revision: str,
        experiments: Experiments,
    ) -> None:
        self.layer, self.name, self.revision, self.experiments = layer, name, revision, experiments
        self._stored = (
            StoredLikelihoods(likelihoods) if isinstance(likelihoods, Store) else likelihoods
        )

    def loglikelihoods(self, requests: Sequence[Continuation]) -> list[tuple[float, bool]]:
        """Of each request, log P(continuation | context) in nats, and whether it is the greedy one.

        Raises NotFinite for NaN or infinity.
        """
        values, greedy = (columns[:, self.layer] for columns in self._stored.of(requests))
        if not np.isfinite(values).all():
            raise NotFinite(f"NaN or infinity in the log-likelihoods of layer {self.layer}")
        return list(zip(values.tolist(), (greedy > 0).tolist(), strict=True))


class StoredStates(Sequence[Any]):
    """The states of a sample for metrics: L + 1 tensors (n, d_l) float64, read one at a time.

    views: of texts that are q views of each of n texts, those of a text together, q; the tensors
    are (n, q, d_l) then. A slice is a shorter sequence.
    """

    def __init__(
        self,
        store: Store,
        texts: Sequence[Text],
        chosen: Sequence[Plane],
        device: str = "cpu",
        views: int = 0,
    ) -> None:
        self._store, self._texts, self._planes, self._views = store, texts, chosen, views
        self._device = "cpu" if device.startswith("mps") else device  # Apple's GPU has no float64

    def __len__(self) -> int:
        return len(self._planes)

    def __getitem__(self, index: Any) -> Any:
        """One state, or a shorter sequence of them."""
        if isinstance(index, slice):
            part = self._planes[index]
            return StoredStates(self._store, self._texts, part, self._device, self._views)
        rows = self._store.read(self._texts, self._planes[index])
        state = torch.from_numpy(rows).to(self._device, torch.float64)
        return state.view(-1, self._views, state.shape[-1]) if self._views else state
