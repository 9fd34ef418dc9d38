"""A module as it is before a pass, to be put back behind it: no pass builds on another."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LARGE = 16 * 2**20  # bytes; packed weights may be buffers
_PLAIN = (bool, int, float, str, bytes)


class Snapshot:
    """A module and all within it as they are now: parts, buffers and attributes; not weights.

    Some families change as they run, so that a text's states would depend on those read before it:
    BigBird turns to full attention for good once it has seen a short text, and rotary frequencies
    of longrope and dynamic NTK stay as the longest text left them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._take()

    def _take(self) -> None:
        module = self._module
        self._versions = _versions(module)
        attributes = [(vars(owner), dict(vars(owner))) for owner in _owners(module)]
        self._hooks: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        for name, value in (item for _, copy in attributes for item in copy.items()):
            if isinstance(value, dict):
                kept = self._hooks if "_hooks" in name else self._dicts
                kept.append((value, dict(value)))
        self._dicts += attributes
        buffers = {id(b): b for m in module.modules() for b in m._buffers.values() if b is not None}
        self._buffers = [
            (b, b.detach().clone()) for b in buffers.values() if not b.is_meta and b.nbytes <= LARGE
        ]

    def restore(self, hooks: bool = False) -> bool:
        """Put everything back; returns whether a pass would not have been the same without that.

        hooks: whether those that were registered meanwhile go, too. What was made and kept for
        later, as tables that grow with the texts, changes no pass. A model that has changed its
        weights (RWKV scales them before its first pass) has done so for good, and is left so.
        """
        written = _versions(self._module)
        if any(written.get(weight, n) != n for weight, n in self._versions.items()):
            self._take()
            return False
        changed = False
        for buffer, values in self._buffers:
            if not torch.allclose(buffer, values, rtol=0, atol=0, equal_nan=True):
                changed = True
                with torch.inference_mode(buffer.is_inference()):
                    buffer.copy_(values)
        for now, before in [*(self._hooks if hooks else []), *self._dicts]:
            if now.keys() != before.keys() or any(now[key] is not before[key] for key in before):
                changed |= any(_differs(now.get(key), value) for key, value in before.items())
                now.clear()  # in place, since a module holds on to its own dictionaries
                now.update(before)
        return changed


def _owners(module: nn.Module) -> list[Any]:
    """The modules, and the configurations that they read."""
    owners: dict[int, Any] = {}
    for owner in module.modules():
        config = getattr(owner, "config", None)
        owners |= {id(o): o for o in (owner, config) if hasattr(o, "__dict__")}
    return list(owners.values())


def _versions(module: nn.Module) -> dict[int, int]:
    """How often each weight was written to, by its identity; meta weights are elsewhere."""
    weights = (p for p in module.parameters() if not p.is_meta and not p.is_inference())
    return {id(p): p._version for p in weights}


def _differs(now: Any, before: Any) -> bool:
    if isinstance(before, nn.Module):
        return now is not before
    return isinstance(before, _PLAIN) and (type(now) is not type(before) or now != before)
