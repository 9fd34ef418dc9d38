"""DiME: how much better two views match text by text than shuffled, layer by layer."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DRAWS, UserError
from lrd_harness.hookspecs import hookimpl

from ._directions import directions
from ._entropy import check_order, entropy_of_gram
from ._layerwise import defined, first_views

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


VIEWS = 2


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric; the permutations are drawn by number, so the order of texts matters."""
    return [
        Metric(
            name="dime",
            measure=dime,
            needs="views",
            views=VIEWS,
            layer_choice=Choice("dime", "min"),
            invariances=frozenset({"rotation", "scaling"}),
        )
    ]


def dime(
    states: Sequence[torch.Tensor], alpha: float = 1.0, permutations: int = 10
) -> dict[str, list[float]]:
    """Difference of matrix-based entropies (arXiv 2301.08164; Layer by Layer, arXiv 2502.02013).

    states: S tensors (n, q, d_l), of which the first 2 views are read and scaled to unit length.
    alpha: the order of the entropy, above 0. permutations: how many shufflings, at least 1; the
    i-th is that of numpy's default_rng(i).

    Returns S values each, in nats: `matched`: S_alpha of the product, entry by entry, of the two
    views' Gram matrices (n, n); `permuted`: the mean of that with the second view shuffled; `dime`
    = permuted - matched; `normalised` = dime / log n.
    Raises UserError for parameters out of range, UnitError below 2 views or texts, DegenerateState
    for a state of zeros.
    """
    check_order("dime", alpha)
    if not 1 <= permutations <= DRAWS:
        raise UserError(
            f"dime: permutations must be at least 1 and at most {DRAWS:,}, not {permutations}"
        )
    matched, permuted = [], []
    n = 0
    for layer, state in enumerate(states):
        views = directions(first_views("dime", layer, state, VIEWS, VIEWS))
        first, second = (view @ view.T for view in views.unbind(1))
        n = len(state)
        matched.append(defined("dime", layer, float(entropy_of_gram(first * second, alpha))))
        permuted.append(shuffled(first, second, alpha, permutations))
    gain = [p - m for p, m in zip(permuted, matched, strict=True)]
    normalised = [value / log(n) for value in gain]
    return {"matched": matched, "permuted": permuted, "dime": gain, "normalised": normalised}


def shuffled(first: torch.Tensor, second: torch.Tensor, alpha: float, draws: int) -> float:
    """The mean entropy of the product of two Gram matrices (n, n), the second one shuffled."""
    import numpy as np
    import torch

    total = 0.0
    for seed in range(draws):
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(second)))
        order = order.to(second.device)
        total += float(entropy_of_gram(first * second[order][:, order], alpha))
    return total / draws
