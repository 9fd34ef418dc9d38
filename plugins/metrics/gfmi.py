"""GFMI: how much the neighbourhood graph of a layer says about the last layer's, at all scales."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lrd_harness import summaries
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl

from ._directions import LAWS
from .nrs import cosine_neighbours, lowered

if TYPE_CHECKING:
    import numpy as np
    import torch

    Labels = np.ndarray[Any, np.dtype[np.int64]]
    Floats = np.ndarray[Any, np.dtype[np.float64]]


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    selection = Choice("mean_auc", "max")
    unit = "nats x %"
    return [Metric("gfmi", gfmi, "pooled", selection, unit=unit, invariances=LAWS, of="states")]


def gfmi(
    states: Sequence[torch.Tensor], k: int = 30, percentiles: Sequence[float] | None = None
) -> dict[str, float | list[float]]:
    """Graph filtration mutual information of each state with the last one.

    Source: Layer-wise Representation Dynamics, arXiv 2605.12714.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.
    k : int, default 30
        Neighbours by cosine; lowered to floor((n - 1) / 4).
    percentiles : rising numbers in 0..100, default linspace(5, 95, 20)
        Each layer's graph is cut at these of its own n·k distances.

    Returns
    -------
    dict
        ``auc``, S values: trapezoid over the percentiles of the mutual information, in nats, of
        connected components here and in the last state; ``auc_adjusted``, S values, at most 1: mean
        adjusted mutual information over those of linspace(0.5, 20, 40) at which the last state is
        neither one component nor n, ``adjusted_percentiles`` of them, absent at 0; summaries of
        both without the last state's own value, of which ``mean_auc`` is the selection score;
        ``first_auc``; ``k``, as used.

    Examples
    --------
    A state that has the last one's neighbours, and one that has nothing to do with it:

    >>> import torch
    >>> seeded = torch.Generator().manual_seed(0)
    >>> other, last = torch.randn(2, 100, 8, generator=seeded).double()
    >>> [round(value, 1) + 0 for value in gfmi([other, 2 * last, last])["auc_adjusted"]]
    [0.0, 1.0, 1.0]
    """
    k = lowered(k, len(states[0]))
    auc, adjusted, kept = _profiles(states, k, _grid(percentiles))
    scores: dict[str, float | list[float]] = {"adjusted_percentiles": kept, "k": k}
    scores |= {"auc": auc, "first_auc": auc[0], **summaries(auc[:-1], "auc")}
    if kept:
        scores |= {"auc_adjusted": adjusted, **summaries(adjusted[:-1], "auc_adjusted")}
    return scores


def _profiles(
    states: Sequence[torch.Tensor], k: int, grid: Floats
) -> tuple[list[float], list[float], int]:
    """auc and auc_adjusted of every state, and how many percentiles the latter stands on."""
    import numpy as np

    low = np.linspace(0.5, 20, 40)
    last = components(states[-1], k, [*grid, *low])
    kept = [p for p, labels in enumerate(last[len(grid) :]) if 0 < labels.max() < len(labels) - 1]
    last = [*last[: len(grid)], *(last[len(grid) + p] for p in kept)]
    auc, adjusted = [], []
    for layer in range(len(states)):
        final = layer == len(states) - 1
        labels = last if final else components(states[layer], k, [*grid, *low[kept]])
        pairs = list(zip(labels, last, strict=True))
        shared = [mutual_information(a, b) for a, b in pairs[: len(grid)]]
        auc.append(float(np.trapezoid(shared, grid)))
        over_chance = [adjusted_mutual_information(a, b) for a, b in pairs[len(grid) :]]
        adjusted.append(sum(over_chance) / max(1, len(kept)))
    return auc, adjusted, len(kept)


def _grid(percentiles: Sequence[float] | None) -> Floats:
    import numpy as np

    if percentiles is None:
        return np.linspace(5, 95, 20)
    grid = np.asarray(percentiles, dtype=np.float64)
    # In the positive, so that NaN fails as well.
    rises = grid.ndim == 1 and len(grid) > 1 and (np.diff(grid) > 0).all()
    if not (rises and grid[0] >= 0 and grid[-1] <= 100):
        raise UserError("gfmi: percentiles must be two or more that rise within 0..100")
    return grid


def components(state: torch.Tensor, k: int, percentiles: Sequence[float]) -> list[Labels]:
    """Connected components of the k-NN graph of (n, d), cut at percentiles of its distances."""
    import numpy as np
    import torch
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    n = len(state)
    graph = cosine_neighbours(state, k, torch.arange(n, device=state.device))
    away = graph.distances.cpu().numpy().ravel()
    ends = graph.indices.cpu().numpy().ravel().astype(np.int32)
    # A minimum spanning forest has the graph's components at every threshold, in n - 1 edges. It
    # is grown on ranks, since scipy takes a distance of 0 for no edge.
    order = away.argsort(kind="stable")
    ranks = np.empty(n * k)
    ranks[order] = np.arange(1, n * k + 1)
    begins = np.arange(0, n * k + 1, k, dtype=np.int32)
    forest = minimum_spanning_tree(csr_array((ranks, ends, begins), shape=(n, n))).tocoo()
    by_length = forest.data.argsort()
    length = away[order[forest.data[by_length].astype(np.int64) - 1]]
    joins = list(zip(forest.row[by_length].tolist(), forest.col[by_length].tolist(), strict=True))
    limits = np.percentile(away, percentiles) + graph.tie
    reach = np.searchsorted(length, limits, side="right").tolist()  # of the edges within each
    component, labels = np.arange(n), {0: np.arange(n)}  # each text's, by its lowest number
    for begin, end in pairwise(sorted({0, *reach})):
        for a, b in joins[begin:end]:
            low, high = sorted((component[a], component[b]))
            component[component == high] = low
        labels[end] = np.unique(component, return_inverse=True)[1]
    return [labels[end] for end in reach]


def mutual_information(a: Labels, b: Labels) -> float:
    """Mutual information, in nats, of two labellings (n,) by 0, 1, 2, ..."""
    import numpy as np

    width = int(b.max()) + 1
    cells, counts = np.unique(a * width + b, return_counts=True)
    chance = np.bincount(a)[cells // width] * np.bincount(b)[cells % width] / len(a)
    return max(0.0, float(counts @ np.log(counts / chance)) / len(a))


def adjusted_mutual_information(a: Labels, b: Labels) -> float:
    """Adjusted for chance, arithmetic mean (Vinh, Epps and Bailey 2010); 1 where equal.

    As sklearn.metrics.adjusted_mutual_info_score, at the cost of the distinct component sizes.
    """
    import numpy as np

    sizes_a, sizes_b = np.bincount(a), np.bincount(b)
    if len(sizes_a) == 1 or len(sizes_b) == 1:
        return float(len(sizes_a) == len(sizes_b))
    expected = expected_mutual_information(sizes_a, sizes_b)
    entropies = [float(np.log(len(a) / s) @ s) / len(a) for s in (sizes_a, sizes_b)]
    room = sum(entropies) / 2 - expected
    if room < 1e-14:  # no labelling of these sizes can do better than chance: only equal ones
        return 1.0
    return (mutual_information(a, b) - expected) / room


def expected_mutual_information(sizes_a: Labels, sizes_b: Labels) -> float:
    """Mean mutual information, in nats, of random labellings with these component sizes.

    Depends on the sizes alone, so every pair of distinct sizes is reckoned once, with its overlap
    hypergeometric: most components of a neighbour graph have one of a few small sizes.
    """
    import numpy as np
    from scipy.special import gammaln

    n = int(sizes_a.sum())
    (a, times_a), (b, times_b) = (np.unique(s, return_counts=True) for s in (sizes_a, sizes_b))
    weight = np.outer(times_a, times_b).ravel()
    a, b = np.repeat(a, len(b)), np.tile(b, len(a))
    least = np.maximum(1, a + b - n)
    spans = np.minimum(a, b) - least + 1
    # One flat row of overlaps x = least..min(a, b) for each pair of sizes.
    pair = np.repeat(np.arange(len(a)), spans)
    x = least[pair] + np.arange(len(pair)) - (np.cumsum(spans) - spans)[pair]
    log_factorial = gammaln(np.arange(1, n + 2))
    fixed = sum(log_factorial[s] for s in (a, b, n - a, n - b)) - log_factorial[n]
    a, b, fixed = a[pair], b[pair], fixed[pair]
    free = sum(log_factorial[s] for s in (x, a - x, b - x, n - a - b + x))
    information = x / n * np.log(n * x / (a * b))
    return float(weight[pair] @ (information * np.exp(fixed - free)))
