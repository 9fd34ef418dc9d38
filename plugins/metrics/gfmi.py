"""GFMI: how much the neighbourhood graph of a layer says about the last layer's, at all scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrd_harness import summaries
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl

from ._knn import cosine_neighbours, lowered
from ._mutual_information import adjusted_mutual_information, mutual_information

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from ._mutual_information import Labels

    Floats = np.ndarray[Any, np.dtype[np.float64]]


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="gfmi",
            measure=gfmi,
            selection=Choice("mean_auc", "max"),
            unit="nats x %",
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def gfmi(
    states: Sequence[torch.Tensor], k: int = 30, percentiles: Sequence[float] | None = None
) -> dict[str, float | list[float]]:
    """Graph filtration mutual information with the last state (LRD, arXiv 2605.12714).

    states: S tensors (n, d_l). k: neighbours by cosine, lowered to floor((n - 1) / 4).
    percentiles: rising, 0..100; each layer's graph is cut at these of its own n·k distances, by
    default linspace(5, 95, 20).

    Returns `auc` (S values): trapezoid over the percentiles of the mutual information, in nats, of
    connected components here and in the last state; `auc_adjusted` (S values, at most 1): mean
    adjusted mutual information over those of linspace(0.5, 20, 40) at which the last state is
    neither whole nor dust, `adjusted_percentiles` of them, absent at 0; `mean_auc`, the selection
    score, and the other summaries leave out the last state's own value; `first_auc`; `k` as used.
    Raises UserError for k below 1 and for percentiles that do not rise within 0..100.
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
    # Asked in the positive, so that NaN fails as well.
    rises = grid.ndim == 1 and len(grid) > 1 and (np.diff(grid) > 0).all()
    if not (rises and grid[0] >= 0 and grid[-1] <= 100):
        raise UserError("gfmi: percentiles must be two or more that rise within 0..100")
    return grid


def components(state: torch.Tensor, k: int, percentiles: Sequence[float]) -> list[Labels]:
    """Connected components of the k-NN graph of (n, d), cut at percentiles of its distances."""
    import numpy as np
    import torch
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    n = len(state)
    found = cosine_neighbours(state, k, torch.arange(n, device=state.device))
    away = found.distances.cpu().numpy().ravel()
    ends = found.indices.cpu().numpy().ravel().astype(np.int32)
    # A minimum spanning forest has the graph's components at every threshold, in n - 1 edges. It
    # is grown on ranks, since scipy takes a distance of 0 for no edge.
    order = away.argsort(kind="stable")
    ranks = np.empty(n * k)
    ranks[order] = np.arange(1, n * k + 1)
    begins = np.arange(0, n * k + 1, k, dtype=np.int32)
    forest = minimum_spanning_tree(csr_array((ranks, ends, begins), shape=(n, n))).tocoo()
    by_length = forest.data.argsort()
    length = away[order[forest.data[by_length].astype(np.int64) - 1]]
    row, column = forest.row[by_length], forest.col[by_length]
    labels = []
    for threshold in np.percentile(away, percentiles):
        m = int(np.searchsorted(length, threshold + found.tie, side="right"))
        cut = coo_array((np.ones(m), (row[:m], column[:m])), shape=(n, n))
        labels.append(connected_components(cut, directed=False)[1].astype(np.int64))
    return labels
