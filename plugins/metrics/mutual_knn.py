"""mutual_knn: how far two models agree on which texts are near each other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING

from lrd_harness.contracts import PanelMetric, PanelValues
from lrd_harness.hookspecs import hookimpl

from .nrs import cosine_neighbours, lowered

if TYPE_CHECKING:
    import torch


@hookimpl
def lrd_panel_metrics() -> list[PanelMetric]:
    """Register the metric."""
    return [PanelMetric("mutual_knn", mutual_knn)]


def mutual_knn(
    states: Mapping[str, torch.Tensor], families: Mapping[str, str | None], k: int = 10
) -> PanelValues:
    """Mutual nearest neighbours: the share of a text's k neighbours that two models have in common.

    Source: The Platonic Representation Hypothesis, arXiv 2405.07987; its release clips entries and
    takes the best pair of layers, which is not done here.

    Parameters
    ----------
    states : mapping from model to tensor (n, d)
        Pooled texts.
    families : not used.
    k : int, default 10
        Neighbours by cosine, the text itself left out; lowered to floor((n - 1) / 4).

    Returns
    -------
    dict
        ``pairs``, model by model: mean over texts of |A and B| / k, 0..1, A and B the neighbours in
        either model; of three models or more ``consensus``, a model's mean over the others;
        ``chance``, k / (n - 1), of independent models; ``k``, as used. No better end is published.

    Examples
    --------
    A rotation keeps all neighbours:

    >>> import torch
    >>> state = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double()
    >>> mutual_knn({"a": state, "b": state.flip(1)}, {})["pairs"]["a"]
    {'b': 1.0}
    """
    import torch

    n = len(next(iter(states.values())))
    k = lowered(k, n)
    near = {}  # by model, n k numbers: the pairs of a text and a neighbour of it
    for model, state in states.items():
        texts = torch.arange(n, device=state.device)
        near[model] = (texts[:, None] * n + cosine_neighbours(state, k, texts).indices).flatten()
    pairs: dict[str, dict[str, float]] = {model: {} for model in states}
    for a, b in combinations(states, 2):
        shared = torch.isin(near[a], near[b].to(near[a].device), assume_unique=True)
        pairs[a][b] = pairs[b][a] = float(shared.double().mean())
    means = {model: sum(row.values()) / len(row) for model, row in pairs.items()}
    consensus = {"consensus": means} if len(states) > 2 else {}
    return {**consensus, "pairs": pairs, "chance": k / (n - 1), "k": k}
