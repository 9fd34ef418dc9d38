"""One layer of a model, read from the store: what tasks evaluate and metrics measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from lrd_harness.contracts import Continuation, Experiments, Model, Norm, PromptType, Task, Text
from lrd_harness.errors import not_finite
from lrd_harness.measuring import is_finite
from lrd_harness.models.readout import embedded
from lrd_harness.store.store import Plane, Store

SAME = 1e-6  # relative, as for degenerate states
# of requests, (n, L + 1): log-likelihoods in nats, and 1 where each token is the likeliest
ANSWER_PLANES: tuple[Plane, Plane] = ("loglikelihood", 0), ("greedy", 0)


def planes(model: Model, norm: Norm) -> list[Plane]:
    """The L + 1 planes of the store that a choice of norm means.

    "raw" states are as the blocks write them, "final" ones went through the final norm; "hf" are
    raw but for the last one, as transformers returns hidden states.
    """
    blocks = model.info.blocks
    first = {"final": 0, "hf": blocks}.get(norm if model.has_final_norm else "raw", blocks + 1)
    return [("final" if layer >= first else "raw", layer) for layer in range(blocks + 1)]


def key(request: Continuation) -> Text:
    """A request as the store's text; the mark keeps it apart from a context's own states."""
    return Text(request.continuation, f"\0{request.context}")


def check_finite(states: torch.Tensor, layer: int, store: Store) -> None:
    """Raise NotFinite for NaN or infinity in states of a layer that a store holds."""
    if not is_finite(states):
        raise not_finite(layer, store.identity.get("dtype", ""))


@dataclass(eq=False)
class LayerView:
    """A contracts.ModelView: the model truncated at a layer, its final norm and output kept.

    fetch: forwards texts that the store lacks, for evaluators whose questions depend on answers.
    """

    model: Model
    store: Store
    layer: int
    name: str
    revision: str
    experiments: Experiments
    fetch: Callable[[Sequence[Text]], object]
    _same: bool = True
    _first: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.similarity = self.model.similarity

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
        prompt = self.model.prompt(task, prompt_type)
        prompted = [Text(text, prompt) for text in texts]
        if self.store.missing(prompted):
            self.fetch(prompted)
        plane = planes(self.model, "final")[self.layer]
        pooled = torch.from_numpy(self.store.read(prompted, plane))
        check_finite(pooled, self.layer, self.store)
        if len(pooled):
            self._first = pooled[:1] if self._first is None else self._first
            spread = (pooled - self._first).abs().amax()
            self._same &= bool(spread <= SAME * pooled.abs().amax())
        return embedded(self.model.embed, pooled, prompt_type, task).numpy()


class StoredLikelihoods:
    """What the store holds of requests, all layers; read once for all layers of a task."""

    def __init__(self, store: Store) -> None:
        self._store, self.dtype = store, store.identity.get("dtype", "")
        self._latest: tuple[list[Continuation], np.ndarray, np.ndarray] | None = None

    def of(self, requests: Sequence[Continuation]) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihoods and whether they are greedy, (n, L + 1) each, in the order of requests.

        Raises KeyError for a request that is not stored.
        """
        if self._latest is None or self._latest[0] != requests:
            keys = [key(request) for request in requests]
            values, greedy = (self._store.read(keys, plane) for plane in ANSWER_PLANES)
            self._latest = list(requests), values, greedy
        return self._latest[1:]


@dataclass(eq=False)
class LikelihoodLayer:
    """A contracts.LikelihoodView: the log-likelihoods of one layer, read from the store."""

    stored: StoredLikelihoods
    layer: int
    name: str
    revision: str
    experiments: Experiments
    constant: ClassVar[bool] = False  # one state of all texts, but the head is asked at several

    def loglikelihoods(self, requests: Sequence[Continuation]) -> list[tuple[float, bool]]:
        """Of each request, log P(continuation | context) in nats, and whether it is the greedy one.

        Raises NotFinite for NaN or infinity.
        """
        values, greedy = (columns[:, self.layer] for columns in self.stored.of(requests))
        if not np.isfinite(values).all():
            raise not_finite(self.layer, self.stored.dtype, "the log-likelihoods")
        return list(zip(values.tolist(), (greedy > 0).tolist(), strict=True))


@dataclass(eq=False)
class StoredStates:
    """The states of a sample for metrics: L + 1 tensors (n, d_l) float64, read one at a time.

    views: of texts that are q views of each of n texts, those of a text together, q; the tensors
    are (n, q, d_l) then.
    """

    store: Store
    texts: Sequence[Text]
    chosen: Sequence[Plane]
    device: str = "cpu"
    views: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    def rows(self, layer: int) -> np.ndarray:
        """A layer as it is stored, (n, d_l) or (n q, d_l) float32. Raises NotFinite."""
        rows = self.store.read(self.texts, self.chosen[layer])
        check_finite(torch.from_numpy(rows), layer, self.store)
        return rows

    def __getitem__(self, layer: int) -> torch.Tensor:
        device = "cpu" if self.device.startswith("mps") else self.device  # which has no float64
        state = torch.from_numpy(self.rows(layer)).to(device, torch.float64)
        return state.view(-1, self.views, state.shape[-1]) if self.views else state
