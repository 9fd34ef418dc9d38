"""Where in a batch of passages something is read: what predicts continuations, and the contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lrd_harness.likelihoods import Passage


class Spots:
    """The positions of a batch that predict continuations.

    rows, columns: (P,) of the batch; tokens: (P, K), the tokens whose probability is wanted there.
    """

    def __init__(
        self, batch: Sequence[Passage], starts: Sequence[int], device: torch.device
    ) -> None:
        rows: list[int] = []
        columns: list[int] = []
        tokens: list[list[int]] = []
        self._of: list[tuple[int, int, int]] = []  # position, which of its tokens, request
        self._requests = 0
        for row, (passage, start) in enumerate(zip(batch, starts, strict=True)):
            length = len(passage.tokens)
            most = max(len(continuation) for _, continuation in passage.reads)
            first = len(rows) + most  # one behind the last position of this passage
            rows += [row] * most
            columns += range(start + length - most, start + length)
            tokens += [[] for _ in range(most)]
            for _, continuation in passage.reads:
                for spot, token in enumerate(continuation, first - len(continuation)):
                    if token not in tokens[spot]:
                        tokens[spot].append(token)
                    self._of.append((spot, tokens[spot].index(token), self._requests))
                self._requests += 1
        widest = max(map(len, tokens))
        padded = [found + [0] * (widest - len(found)) for found in tokens]
        self.tokens = torch.tensor(padded, device=device)
        self.rows = torch.tensor(rows, device=device)
        self.columns = torch.tensor(columns, device=device)

    def summed(self, values: Tensor) -> Tensor:
        """(layers, P, K) of the tokens -> (layers, n), summed over each request's tokens."""
        spot, which, request = (torch.tensor(part) for part in zip(*self._of, strict=True))
        found = torch.zeros(len(values), self._requests, dtype=torch.float64)
        return found.index_add_(1, request, values[:, spot, which].double())


def context_mask(
    batch: Sequence[Passage], starts: Sequence[int], longest: int, device: torch.device
) -> tuple[Tensor, list[int]]:
    """Of the contexts to be pooled, which tokens are theirs (c, T), and the rows they are in."""
    spans = [
        (row, start, start + length)
        for row, (passage, start) in enumerate(zip(batch, starts, strict=True))
        for _, length in passage.contexts
    ]
    mask = torch.zeros(len(spans), longest, dtype=torch.long, device=device)
    for i, (_, begin, end) in enumerate(spans):
        mask[i, begin:end] = 1
    return mask, [row for row, _, _ in spans]
