"""Batches of tokens and segments of texts: how many fit, and less where memory does not suffice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from lrd_harness.contracts import Model
from lrd_harness.errors import StorageFull, UserError
from lrd_harness.store.documents import json_value
from lrd_harness.store.files import write_text

Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # (done, total)

# A segment is a file of the store, and what is lost when a run is killed.
SEGMENT_TOKENS = 32_768
SEGMENT_TEXTS = 4_096
SEGMENT_BYTES = 64 * 2**20  # of pooled states in memory at once, however many layers there are


class Budget:
    """The tokens of a batch, padding included.

    file: where a smaller budget that was found is kept, for this model on this kind of device.
    """

    def __init__(self, tokens: int, file: Path | None = None) -> None:
        self._file = file
        self.tokens = min(tokens, self._remembered() or tokens)

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
            self._keep()
        return result

    def _remembered(self) -> int | None:
        try:
            tokens = int(json_value(self._file.read_bytes())["tokens"]) if self._file else 0
        except (OSError, ValueError, KeyError, TypeError):
            return None  # there is none, or one that was damaged: found again
        return tokens if tokens > 0 else None

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
    """The budget of a model on a kind of device; for another number of tokens it begins anew."""
    if device.startswith("cuda"):  # what has as much memory is of one kind
        import torch

        properties = torch.cuda.get_device_properties(torch.device(device))
        device = f"{properties.name} {properties.total_memory}"
    described = json.dumps([dict(sorted(identity.items())), device, tokens])
    digest = hashlib.sha256(described.encode()).hexdigest()[:24]
    return Budget(tokens, root / f"{digest}.json")


def in_batches(
    model: Model,
    lengths: Sequence[int],
    run: Callable[[range], Result],
    keep: Callable[[range, list[Result]], None],
    *,
    batch_tokens: int | Budget,
    alike: bool,
    progress: Progress,
) -> None:
    """Run items in batches, and keep each segment of them before the next is begun.

    Where memory does not suffice, a segment is tried again with half the tokens per batch.

    lengths: tokens of the items, in descending order; run: the numbers of a batch's items -> its
    result; keep: is given the numbers of a segment's items and the results of its batches;
    alike: whether the items of a batch must be of equal length.
    """
    budget = as_budget(batch_tokens)

    def attempt(segment: range, tokens: int) -> list[Result]:
        results: list[Result] = []
        done = segment.start
        for batch in batches([lengths[i] for i in segment], tokens, alike):
            results.append(run(segment[batch.start : batch.stop]))
            done += len(batch)
            progress(done, len(lengths))
        return results

    progress(0, len(lengths))
    states = (model.info.blocks + 1) * (1 + model.has_final_norm)
    for segment in segments(lengths, max(1, SEGMENT_BYTES // (4 * states * model.info.width))):
        keep(segment, budget.attempt(partial(attempt, segment)))


def segments(lengths: Sequence[int], most: int = SEGMENT_TEXTS) -> Iterator[range]:
    """Runs of texts, of so many tokens each, that are kept together in one file.

    most: how many texts; SEGMENT_TEXTS at most.
    """
    start = tokens = 0
    for i, length in enumerate(lengths):
        tokens += length
        if (tokens > SEGMENT_TOKENS and i > start) or i - start >= min(most, SEGMENT_TEXTS):
            yield range(start, i)
            start, tokens = i, length
    if start < len(lengths):
        yield range(start, len(lengths))


def batches(lengths: Sequence[int], budget: int, alike: bool = False) -> Iterator[range]:
    """Runs of texts, longest first, whose padded size is within the budget; alike: no padding."""
    start = 0
    for i, length in enumerate(lengths):
        full = (i + 1 - start) * lengths[start] > budget
        if i > start and (full or (alike and length != lengths[start])):
            yield range(start, i)
            start = i
    if start < len(lengths):
        yield range(start, len(lengths))
