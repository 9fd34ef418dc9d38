"""Nearest neighbours by cosine, shared by the metrics that compare neighbourhoods."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lrd_harness.errors import UserError

from ._subspace import unit_rows

if TYPE_CHECKING:
    import torch


CHUNK = 2**23  # distances held at once: 64 MiB


class Neighbours(NamedTuple):
    """The k nearest others of each asked row; distances closer than `tie` count as equal."""

    indices: torch.Tensor  # (rows, k), in no order
    distances: torch.Tensor  # (rows, k) cosine distances
    tie: float


def lowered(k: int, n: int) -> int:
    """The neighbour count used on n texts: at most floor((n - 1) / 4)."""
    if k < 1:
        raise UserError(f"k must be at least 1, not {k}")
    return min(k, (n - 1) // 4)


def cosine_neighbours(state: torch.Tensor, k: int, rows: torch.Tensor) -> Neighbours:
    """The k nearest rows of (n, d) for each row of `rows`, itself left out, ties to the lower."""
    import torch

    unit = unit_rows(state)
    centred = unit - unit.mean(dim=0)
    # 1 - cos = |x - y|²/2 for unit rows. On centred rows that keeps its digits where all texts
    # point nearly one way; a row of zeros lacks the half that a unit row brings with it.
    half = (centred.square().sum(dim=1) + (1 - unit.square().sum(dim=1).round())) / 2
    # Equal rows differ by some 1e-15 once rotated or multiplied in blocks; ties must survive that.
    tie = 1e-13 * float(centred.norm(dim=1).max())
    indices, distances = [], []
    for part in torch.split(rows, max(1, CHUNK // len(state))):
        away = half[part, None] + half - centred[part] @ centred.T
        away[torch.arange(len(part), device=part.device), part] = torch.inf
        values, order = away.topk(k + 1, largest=False)
        tied = (values[:, k] - values[:, k - 1] <= tie).nonzero()[:, 0]
        if len(tied):
            chosen = _lowest(away[tied], values[tied, k - 1 : k], k, tie)
            order[tied, :k] = chosen.nonzero()[:, 1].view(-1, k)
            values[tied, :k] = away[tied][chosen].view(-1, k)
        indices.append(order[:, :k])
        distances.append(values[:, :k])
    return Neighbours(torch.cat(indices), torch.cat(distances), tie)


def _lowest(away: torch.Tensor, last: torch.Tensor, k: int, tie: float) -> torch.Tensor:
    """k columns a row: all nearer than `last`, then those equal to it from the lowest index on."""
    inside = away < last - tie
    edge = (away - last).abs() <= tie
    room = k - inside.sum(dim=1, keepdim=True)
    return inside | (edge & (edge.cumsum(dim=1) <= room))
