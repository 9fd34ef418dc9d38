"""NRS: how far each text keeps its nearest neighbours from layer to layer."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from lrd_harness import summaries
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl

from ._knn import cosine_neighbours, lowered

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="nrs",
            measure=nrs,
            selection=Choice("mean_jaccard", "max"),
            unit="0-1",
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def nrs(
    states: Sequence[torch.Tensor], k: int = 20, anchors: int = 500
) -> dict[str, float | list[float]]:
    """Neighbourhood retention: Jaccard overlap of k nearest neighbours (LRD, arXiv 2605.12714).

    states: S tensors (n, d_l). k: neighbours by cosine among all n texts, lowered to
    floor((n - 1) / 4). anchors: texts whose neighbours are compared, a fixed draw of them where
    there are more (then a permutation of the texts changes which).

    Returns `jaccard` (S - 1 values, 0..1): mean over anchors of |A and B| / |A or B|, A and B the
    neighbours in a state and in the next; `mean_jaccard`, the selection score; `first_last`,
    between the first and the last state; `chance`, of independent neighbours; `k`, as used.
    Raises UserError for k or anchors below 1.
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
