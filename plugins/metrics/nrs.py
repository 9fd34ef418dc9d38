"""NRS: how far each text keeps its nearest neighbours from layer to layer.

The neighbours are those that `gfmi` builds its graphs of as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from lrd_harness import summaries
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl

from ._directions import LAWS, directions

if TYPE_CHECKING:
    import torch


CHUNK = 2**23  # distances held at once: 64 MiB


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    selection = Choice("mean_jaccard", "max")
    return [Metric("nrs", nrs, selection=selection, unit="0-1", invariances=LAWS, of="steps")]


def nrs(
    states: Sequence[torch.Tensor], k: int = 20, anchors: int = 500
) -> dict[str, float | list[float]]:
    """Neighbourhood retention: Jaccard overlap of the k nearest neighbours in successive states.

    Source: Layer-wise Representation Dynamics, arXiv 2605.12714.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.
    k : int, default 20
        Neighbours by cosine among all n texts; lowered to floor((n - 1) / 4).
    anchors : int, default 500
        Texts whose neighbours are compared, a fixed draw of them where there are more (a
        permutation of the texts then changes which).

    Returns
    -------
    dict
        ``jaccard``, S - 1 values in 0..1: mean over anchors of |A and B| / |A or B|, A and B the
        neighbours in a state and in the next; its summaries, of which ``mean_jaccard`` is the
        selection score; ``first_last``, between first and last state; ``chance``, of independent
        neighbours; ``k``, as used.

    Examples
    --------
    Scaling keeps all neighbours:

    >>> import torch
    >>> state = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double()
    >>> scores = nrs([state, 2 * state])
    >>> scores["jaccard"], scores["k"]
    ([1.0], 12)
    """
    n = len(states[0])
    k = lowered(k, n)
    chosen = _anchors(n, anchors)
    kept = [cosine_neighbours(state, k, chosen.to(state.device)).indices for state in states]
    jaccard = [_jaccard(a, b, n) for a, b in pairwise(kept)]
    return {
        "jaccard": jaccard,
        **summaries(jaccard, "jaccard"),
        "first_last": _jaccard(kept[0], kept[-1], n),
        "chance": chance(n, k),
        "k": k,
    }


def _anchors(n: int, most: int) -> torch.Tensor:
    """All n indices, or the fixed sorted draw of `most`."""
    import numpy as np
    import torch

    if most < 1:
        raise UserError(f"anchors must be at least 1, not {most}")
    if n <= most:
        return torch.arange(n)
    return torch.from_numpy(np.sort(np.random.RandomState(42).choice(n, most, replace=False)))


def _jaccard(a: torch.Tensor, b: torch.Tensor, n: int) -> float:
    """Mean Jaccard index of the rows of two index tables (anchors, k) of n texts."""
    import torch

    member = torch.zeros(len(a), n, dtype=torch.bool, device=a.device).scatter_(1, a, True)
    shared = member.gather(1, b.to(a.device)).sum(dim=1).double()
    return float((shared / (2 * a.shape[1] - shared)).mean())


def chance(n: int, k: int) -> float:
    """The mean Jaccard index of two random sets of k of the other n - 1 texts.

    E[x / (2k - x)], x hypergeometric (n - 1, k, k).
    """
    import numpy as np
    from scipy.stats import hypergeom

    x = np.arange(k + 1)
    return float(hypergeom(n - 1, k, k).pmf(x) @ (x / (2 * k - x)))


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

    unit = directions(state)
    middle = unit - unit.mean(dim=0)
    # 1 - cos = |x - y|²/2 for unit rows. On centred rows that keeps its digits where all texts
    # point nearly one way; a row of zeros lacks the half that a unit row brings with it.
    half = (middle.square().sum(dim=1) + (1 - unit.square().sum(dim=1).round())) / 2
    # Equal rows differ by some 1e-15 once rotated or multiplied in blocks; ties must survive that.
    tie = 1e-13 * float(middle.norm(dim=1).max())
    indices, distances = [], []
    for part in torch.split(rows, max(1, CHUNK // len(state))):
        away = half[part, None] + half
        away -= middle[part] @ middle.T
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
