"""From token states to one row per text, right for either padding side.

Also the poolers of transformers that a checkpoint has no weights for: random ones are made, which
nobody reads. They are left out, so that they are neither counted nor saved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from lrd_harness.errors import unknown

Pool = Callable[[Tensor, Tensor], Tensor]


def _average(state: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions of the mask, in float32 or better; pads may hold NaN."""
    state = state.masked_fill(~mask.bool().unsqueeze(-1), 0)
    if state.dtype in (torch.float16, torch.bfloat16):
        state = state.float()
    weights = mask.to(state.dtype)
    return torch.bmm((weights / weights.sum(1, keepdim=True)).unsqueeze(1), state).squeeze(1)


def mean(state: Tensor, mask: Tensor) -> Tensor:
    """Mean of the non-padding tokens: (b, T, d), (b, T) -> (b, d)."""
    return _average(state, mask)


def mean_no_sink(state: Tensor, mask: Tensor) -> Tensor:
    """Mean without position 0, the attention sink of decoders, unless that is all a text has."""
    rest = mask.clone().scatter_(1, mask.int().argmax(1, keepdim=True), 0)
    return _average(state, torch.where(rest.sum(1, keepdim=True) > 0, rest, mask))


def first(state: Tensor, mask: Tensor) -> Tensor:
    """The first non-padding token (CLS): (b, T, d), (b, T) -> (b, d)."""
    return state[torch.arange(len(state), device=state.device), mask.int().argmax(1)]


def last(state: Tensor, mask: Tensor) -> Tensor:
    """The last non-padding token: (b, T, d), (b, T) -> (b, d)."""
    position = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return state[torch.arange(len(state), device=state.device), position]


POOLINGS: dict[str, Pool] = {
    "mean": mean,
    "cls": first,
    "last": last,
    "mean-no-sink": mean_no_sink,
}
ONE_TOKEN = ("cls", "last")  # those that take a single token's state


def named(name: str) -> Pool:
    """The pooling of that name. Raises UserError for a name that there is not."""
    if name not in POOLINGS:
        raise unknown("pooling", name, POOLINGS, f"There are: {', '.join(POOLINGS)}.")
    return POOLINGS[name]


class NoPooler(nn.Module):
    """Stands where a pooler was; hands on what it is given."""

    def forward(self, state: Any, *_: Any, **__: Any) -> Any:
        """The state as it is."""
        return state


def leave_out(module: nn.Module, holes: Collection[str]) -> None:
    """Take the poolers out of a model, in place, of which all weights are among the holes.

    holes: names of the parameters that the checkpoint has not got, as transformers reports them.
    """
    for name, child in list(module.named_modules()):
        weights = {f"{name}.{parameter}" for parameter, _ in child.named_parameters()}
        if "pooler" in name.rpartition(".")[2] and weights and weights <= set(holes):
            module.set_submodule(name, NoPooler())


def left_out(module: nn.Module) -> list[str]:
    """The names of the poolers that were taken out of the model."""
    return [name for name, child in module.named_modules() if isinstance(child, NoPooler)]
