"""Poolers that a checkpoint has no weights for: transformers makes random ones, which nobody reads.

They are left out, so that they are neither counted nor saved.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn


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
        own = [f"{name}.{parameter}" for parameter, _ in child.named_parameters()]
        if "pooler" in name.rpartition(".")[2] and own and all(one in holes for one in own):
            module.set_submodule(name, NoPooler())


def left_out(module: nn.Module) -> list[str]:
    """The names of the poolers that were taken out of the model."""
    return [name for name, child in module.named_modules() if isinstance(child, NoPooler)]
