"""How many tokens there may be in a batch: what suits the device, and what its memory bears."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from lrd_harness.errors import UserError
from lrd_harness.store.documents import memo, remember, remembered

Result = TypeVar("Result")

BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 8_192}


class Budget:
    """The tokens of a batch, padding included.

    file: where a smaller budget that was found is kept, for this model on this kind of device.
    """

    def __init__(self, tokens: int, file: Path | None = None) -> None:
        self._file = file
        found = remembered(file).get("tokens") if file else None
        self.tokens = min(tokens, found) if isinstance(found, int) and found > 0 else tokens

    def attempt(self, do: Callable[[int], Result]) -> Result:
        """`do(tokens)`, again with half the tokens as long as memory does not suffice for it.

        Raises UserError where it does not for a single token, and whatever else `do` raises.
        """
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        tokens = self.tokens
        while True:
            try:
                result = do(tokens)
                break
            except Exception as error:
                if not should_reduce_batch_size(error):
                    raise
                if tokens == 1:
                    raise UserError("memory does not suffice for a single text") from error
            tokens //= 2
            clear_device_cache(garbage_collection=True)
        if tokens < self.tokens:
            self.tokens = tokens
            if self._file is not None:
                remember(self._file, {"tokens": tokens})
        return result


def as_budget(tokens: int | Budget) -> Budget:
    """A budget as it is, or one of so many tokens that is not remembered."""
    return tokens if isinstance(tokens, Budget) else Budget(tokens)


def batch_size(device: str, wanted: int = 0) -> int:
    """The tokens of a batch, padding included: so many, or what suits the device."""
    return wanted or BATCH_TOKENS.get(device.split(":")[0], 4096)


def found_before(folder: Path, identity: Mapping[str, str], device: str, tokens: int) -> Budget:
    """The budget of a model on a kind of device; for another number of tokens it begins anew."""
    if device.startswith("cuda"):  # what has as much memory is of one kind
        properties = torch.cuda.get_device_properties(torch.device(device))
        device = f"{properties.name} {properties.total_memory}"
    return Budget(tokens, memo(folder, dict(identity), device, tokens))
