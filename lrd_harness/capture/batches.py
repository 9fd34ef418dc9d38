"""How many tokens a batch may have: halved where memory does not suffice, and remembered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from lrd_harness.errors import StorageFull, UserError
from lrd_harness.store.documents import json_value
from lrd_harness.store.files import write_text

Found = TypeVar("Found")


class Budget:
    """The tokens of a batch, padding included.

    file: where a smaller budget that was found is kept, for this model on this kind of device.
    """

    def __init__(self, tokens: int, file: Path | None = None) -> None:
        self._file = file
        self.tokens = min(tokens, self._remembered() or tokens)

    def attempt(self, do: Callable[[int], Found]) -> Found:
        """`do(tokens)`, again with half the tokens as long as memory does not suffice for it.

        Raises UserError where it does not for a single token, and whatever else `do` raises.
        """
        from accelerate.utils import find_executable_batch_size
        from accelerate.utils.memory import should_reduce_batch_size

        try:  # accelerate's utility sweeps up before each attempt, which takes half a second
            return do(self.tokens)
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
        asked = self.tokens
        self.tokens //= 2

        def halved() -> int:
            self.tokens //= 2
            return self.tokens

        try:
            found: Found = find_executable_batch_size(
                lambda tokens: do(tokens), self.tokens, reduce_batch_size_fn=halved
            )()
        except RuntimeError as error:
            if self.tokens:
                raise
            self.tokens = asked
            raise UserError("memory does not suffice for a single text") from error
        if self.tokens < asked:
            self._keep()
        return found

    def _remembered(self) -> int | None:
        try:
            found = int(json_value(self._file.read_bytes())["tokens"]) if self._file else 0
        except (OSError, ValueError, KeyError, TypeError):
            return None  # there is none, or one that was damaged: found again
        return found if found > 0 else None

    def _keep(self) -> None:
        if self._file is None:
            return
        with suppress(OSError, StorageFull):  # what was read is worth more than what is remembered
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, json.dumps({"tokens": self.tokens}))


def as_budget(tokens: int | Budget) -> Budget:
    """A budget as it is, or one of so many tokens that is not remembered."""
    return tokens if isinstance(tokens, Budget) else Budget(tokens)


def remembered(root: Path, identity: Mapping[str, str], device: str, tokens: int) -> Budget:
    """The budget of a model on a device; another budget that is asked for begins anew."""
    described = json.dumps([dict(sorted(identity.items())), named(device), tokens])
    digest = hashlib.sha256(described.encode()).hexdigest()[:24]
    return Budget(tokens, root / f"{digest}.json")


def named(device: str) -> str:
    """The kind of a device: what has as much memory is called alike."""
    if not device.startswith("cuda"):
        return device
    import torch

    properties = torch.cuda.get_device_properties(torch.device(device))
    return f"{properties.name} {properties.total_memory}"
