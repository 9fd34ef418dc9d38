"""mutual_knn, panel_cka: how alike two models arrange the same texts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from lrd_harness.capture.covariance import CKA_TEXTS, cka_matrix
from lrd_harness.contracts import PanelMetric, PanelValues, Summary
from lrd_harness.hookspecs import hookimpl

from .nrs import cosine_neighbours, lowered

if TYPE_CHECKING:
    import torch


@hookimpl
def lrd_panel_metrics() -> list[PanelMetric]:
    """Register the metrics."""
    fields: Any = {"summaries": {"consensus": Summary("pairs")}, "group": "panel"}
    return [
        PanelMetric("mutual_knn", mutual_knn, **fields),
        PanelMetric("panel_cka", panel_cka, texts=CKA_TEXTS, **fields),
    ]


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
        either model; ``chance``, k / (n - 1), of independent models; ``k``, as used. Of three
        models or more the harness adds ``consensus``, a model's mean over the others. No better
        end is published.

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
    return {"pairs": pairs, "chance": k / (n - 1), "k": k}


def panel_cka(
    states: Mapping[str, torch.Tensor], families: Mapping[str, str | None]
) -> PanelValues:
    """Linear CKA of the final states of two models, debiased as of `cka`.

    Source: Kornblith et al., arXiv 1905.00414; debiased as of Song et al. 2012. One large direction
    decides it: see `top_share`.

    Parameters
    ----------
    states : mapping from model to tensor (n, d)
        Pooled texts, at least 20. Compares each text with each, in pieces of 2**25 numbers in all,
        256 MiB, for each of which every model is read once.
    families : not used.

    Returns
    -------
    dict
        ``pairs``, model by model, -1..1, about 0 if independent. Of three models or more the
        harness adds ``consensus``, a model's mean over the others. No better end is published.

    Raises
    ------
    NotEnoughTexts
        Below 20 texts.
    DegenerateState
        Where all texts of a model are equally far from each other.

    Examples
    --------
    A turned and scaled copy is the same:

    >>> import torch
    >>> state = torch.randn(20, 48, generator=torch.Generator().manual_seed(0)).double()
    >>> round(panel_cka({"a": state, "b": 3 - state.flip(1)}, {})["pairs"]["a"]["b"], 9)
    1.0
    """
    return {"pairs": by_model(list(states), cka_matrix(states))}


def by_model(models: list[str], matrix: torch.Tensor) -> dict[str, dict[str, float]]:
    """A matrix without its diagonal, by names of rows and columns."""
    rows = zip(models, matrix.tolist(), strict=True)
    return {u: {v: x for v, x in zip(models, row, strict=True) if v != u} for u, row in rows}
