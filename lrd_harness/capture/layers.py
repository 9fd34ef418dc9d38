"""One layer of a model, read from the store: what tasks evaluate and metrics measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import torch

from lrd_harness.capture.likelihoods import GREEDY, LOGLIKELIHOOD, key
from lrd_harness.contracts import Continuation, Experiments, Model, Norm, PromptType, Task, Text
from lrd_harness.errors import NotFinite
from lrd_harness.models.prompts import embedded
from lrd_harness.store.store import Plane, Store

SAME = 1e-6  # relative, as for degenerate states


def planes(model: Model, norm: Norm) -> list[Plane]:
    """The L + 1 planes of the store that a choice of norm means (metrics.md, Norm)."""
    blocks = model.info.blocks
    kinds = ["final" if norm == "final" else "raw"] * (blocks + 1)
    if norm == "hf":
        kinds[blocks] = "final"
    if not model.has_final_norm:
        kinds = ["raw"] * (blocks + 1)
    return [(kind, layer) for layer, kind in enumerate(kinds)]


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
        asked = [Text(text, prompt) for text in texts]
        if self._store.missing(asked):
            self._fetch(asked)
        pooled = torch.from_numpy(self._store.read(asked, self._plane))
        if not torch.isfinite(pooled).all():
            raise NotFinite(f"NaN or infinity in the states of layer {self.layer}")
        if len(pooled):
            self._first = pooled[:1] if self._first is None else self._first
            spread = (pooled - self._first).abs().amax()
            self._same &= bool(spread <= SAME * pooled.abs().amax())
        return embedded(self._model.embed, pooled, prompt_type).numpy()


class Answers:
    """What the store holds of requests, all layers; read once for all layers of a task."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: tuple[list[Continuation], np.ndarray, np.ndarray] | None = None

    def of(self, requests: Sequence[Continuation]) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihoods and whether they are greedy, (n, L + 1) each, in the order of requests.

        Raises KeyError for a request that is not stored.
        """
        if self._held is None or self._held[0] != requests:
            asked = [key(request) for request in requests]
            values = self._store.read(asked, LOGLIKELIHOOD)
            self._held = list(requests), values, self._store.read(asked, GREEDY)
        return self._held[1], self._held[2]


class LikelihoodLayer:
    """A contracts.LikelihoodView: the log-likelihoods of one layer, read from the store."""

    constant = False  # a layer gives one state to all texts, but asks the head at several

    def __init__(
        self,
        answers: Answers | Store,
        layer: int,
        name: str,
        revision: str,
        experiments: Experiments,
    ) -> None:
        self.layer, self.name, self.revision, self.experiments = layer, name, revision, experiments
        self._answers = Answers(answers) if isinstance(answers, Store) else answers

    def loglikelihoods(self, requests: Sequence[Continuation]) -> list[tuple[float, bool]]:
        """Of each request, log P(continuation | context) in nats, and whether it is the greedy one.

        Raises NotFinite for NaN or infinity.
        """
        values, greedy = (found[:, self.layer] for found in self._answers.of(requests))
        if not np.isfinite(values).all():
            raise NotFinite(f"NaN or infinity in the log-likelihoods of layer {self.layer}")
        return list(zip(values.tolist(), (greedy > 0).tolist(), strict=True))


class StoredStates(Sequence[torch.Tensor]):
    """The states of a sample for metrics: L + 1 tensors (n, d_l) float64, read one at a time."""

    def __init__(
        self, store: Store, texts: Sequence[Text], chosen: Sequence[Plane], device: str = "cpu"
    ) -> None:
        self._store, self._texts, self._planes = store, texts, chosen
        self._device = "cpu" if device.startswith("mps") else device  # Apple's GPU has no float64

    def __len__(self) -> int:
        return len(self._planes)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> StoredStates: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | StoredStates:
        """One state, or a shorter sequence of them."""
        if isinstance(index, slice):
            return StoredStates(self._store, self._texts, self._planes[index], self._device)
        rows = self._store.read(self._texts, self._planes[index])
        return torch.from_numpy(rows).to(self._device, torch.float64)


class StoredViews(Sequence[torch.Tensor]):
    """The states of views for metrics: L + 1 tensors (n, q, d_l) float64, read one at a time.

    views: of each text as many, q.
    """

    def __init__(
        self,
        store: Store,
        views: Sequence[Sequence[Text]],
        chosen: Sequence[Plane],
        device: str = "cpu",
    ) -> None:
        self._shape = len(views), len(views[0]) if views else 0
        flat = [text for several in views for text in several]
        self._states = StoredStates(store, flat, chosen, device)

    def __len__(self) -> int:
        return len(self._states)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[torch.Tensor]: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | list[torch.Tensor]:
        """One state, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        state = self._states[index]
        return state.view(*self._shape, state.shape[-1])
