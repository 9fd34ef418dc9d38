"""What a forward pass may change in a model besides its output, and how it is put back.

Some families change themselves as they run: BigBird turns to full attention for good once it has
seen a short text, and rotary frequencies that follow the longest text (longrope, dynamic NTK) stay
as the last text left them. A text's states would then depend on what was read before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LARGE = 16 * 2**20  # bytes; packed weights may be buffers
_Copies = list[tuple[dict[Any, Any], dict[Any, Any]]]
_PLAIN = (bool, int, float, str, bytes)


class Snapshot:
    """A module and all within it as they are now: parts, buffers and attributes; not weights.

    Buffers are copied, but for those as large as weights; all else is held by reference.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._take()

    def _take(self) -> None:
        module = self._module
        self._versions = _versions(module)
        self._held = [(owner, dict(vars(owner))) for owner in _owners(module)]
        self._dicts, self._hooks = _Copies(), _Copies()
        for _, attributes in self._held:
            for name, value in attributes.items():
                if isinstance(value, dict):
                    (self._hooks if "_hooks" in name else self._dicts).append((value, dict(value)))
        buffers = {id(b): b for m in module.modules() for b in m._buffers.values() if b is not None}
        small = [b for b in buffers.values() if not b.is_meta and b.nbytes <= LARGE]
        self._buffers = [(b, b.detach().clone()) for b in small]

    def restore(self, hooks: bool = False) -> bool:
        """Put everything back; returns whether a pass would not have been the same without that.

        hooks: whether those that were registered meanwhile go, too.

        That is so where a part, a buffer or a plain value is another than before. What was made
        and kept for later, as tables that grow with the texts, changes no pass. A model that has
        changed its weights (RWKV scales them before its first pass) has done so for good, and is
        left like that.
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
        dicts = [*self._dicts, *(self._hooks if hooks else [])]
        for now, before in [*dicts, *((vars(owner), b) for owner, b in self._held)]:
            if now.keys() != before.keys() or any(now[key] is not before[key] for key in before):
                changed |= any(_differs(now.get(key), value) for key, value in before.items())
                now.clear()  # in place, since a module holds on to its own dictionaries
                now.update(before)
        return changed


def _owners(module: nn.Module) -> list[Any]:
    """The modules, and the configurations that they read."""
    found: dict[int, Any] = {}
    for owner in module.modules():
        found[id(owner)] = owner
        config = getattr(owner, "config", None)
        if hasattr(config, "__dict__"):
            found[id(config)] = config
    return list(found.values())


def _versions(module: nn.Module) -> dict[int, int]:
    """How often each weight was written to, by its identity; meta weights are elsewhere."""
    held = (p for p in module.parameters() if not p.is_meta and not p.is_inference())
    return {id(p): p._version for p in held}


def _differs(now: Any, before: Any) -> bool:
    if isinstance(before, nn.Module):
        return now is not before
    return isinstance(before, _PLAIN) and (type(now) is not type(before) or now != before)


def follows_length(module: nn.Module) -> bool:
    """Whether rotary frequencies depend on the longest text of a batch."""
    kinds = [
        kind
        for part in module.modules()
        for value in [getattr(part, "rope_type", None)]
        for kind in (value.values() if isinstance(value, dict) else [value])
    ]
    return any(isinstance(k, str) and ("dynamic" in k or k == "longrope") for k in kinds)
