"""The language-model head: from normed states to log-probabilities, as the model itself makes them.

Families scale their logits, cap them, or scale the states before the head. None of that is looked
up: the whole model's own code is run, with the state that it would have computed put in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lrd_harness.errors import UserError
from lrd_harness.models.backbone import hooked

LOGIT_BYTES = 64 * 2**20  # float32 logits in memory at once: 64 rows of a vocabulary of 256k


class Head:
    """The head of a causal language model.

    whole: the model with its head; probe: features of one short text, (1, T) tensors;
    normed: the state after the final norm that the probe gives, (1, T, d).

    Raises UserError where the model's logits do not follow from that state alone.
    """

    def __init__(self, whole: nn.Module, probe: Mapping[str, Tensor], normed: Tensor) -> None:
        self.whole = whole
        self._inside, self._answer = _reader(whole, probe, normed)
        with torch.inference_mode():
            logits = whole(**probe, use_cache=False).logits[0].float()
        self.vocabulary = logits.shape[-1]
        again = self.logits(normed[0]).float()
        if not torch.allclose(again, logits, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise UserError(
                f"{type(whole).__name__}: its logits do not follow from its last state by its head"
            )

    def logits(self, normed: Tensor) -> Tensor:
        """Logits (m, V) of normed states (m, d), scaled and capped as the model does."""
        ids = torch.zeros(1, len(normed), dtype=torch.long, device=normed.device)
        with torch.inference_mode(), self._put(normed.unsqueeze(0)):
            logits: Tensor = self.whole(input_ids=ids, use_cache=False).logits
        return logits[0]

    def log_probabilities(self, normed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of states (m, d), log P of K tokens each (m, K) in nats, float32; and the likeliest (m,).

        The states go through the head in parts, so that memory is bounded whatever the vocabulary.
        """
        rows = max(1, LOGIT_BYTES // (4 * self.vocabulary))
        chosen, likeliest = [], []
        for start in range(0, len(normed), rows):
            logits = self.logits(normed[start : start + rows]).float()
            likeliest.append(logits.argmax(-1))
            picked = logits.gather(1, tokens[start : start + rows])
            chosen.append(picked - logits.logsumexp(-1, keepdim=True))
        return torch.cat(chosen), torch.cat(likeliest)

    @contextmanager
    def _put(self, state: Tensor) -> Iterator[None]:
        """Let the part of the model below the head answer with this state (1, m, d)."""
        answer = self._answer(last_hidden_state=state)
        before = vars(self._inside).get("forward")
        self._inside.forward = lambda *args, **kwargs: answer
        try:
            yield
        finally:
            if before is None:
                del self._inside.forward
            else:
                self._inside.forward = before


def _reader(
    whole: nn.Module, probe: Mapping[str, Tensor], normed: Tensor
) -> tuple[nn.Module, Callable[..., Any]]:
    """The outermost module within the model that hands the head its state; its kind of output."""
    outputs: dict[int, Any] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        state = getattr(output, "last_hidden_state", None)
        if isinstance(state, Tensor) and state.shape == normed.shape:
            outputs[id(module)] = output

    inner = [m for m in whole.modules() if m is not whole]
    with torch.inference_mode(), hooked(inner, note):
        whole(**probe, use_cache=False)
    for module in whole.modules():  # from the outside in
        if id(module) in outputs:
            return module, type(outputs[id(module)])
    raise UserError(f"{type(whole).__name__}: what its head reads cannot be told from its output")
