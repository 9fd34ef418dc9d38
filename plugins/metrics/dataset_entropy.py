"""Dataset entropy: how many directions the texts spread over, layer by layer."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.hookspecs import hookimpl

from ._directions import centred_directions
from ._entropy import check_order, entropy_of_rows
from ._layerwise import defined, with_normalised

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="dataset_entropy",
            measure=dataset_entropy,
            layer_choice=Choice("dataset_entropy", "min"),
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def dataset_entropy(states: Sequence[torch.Tensor], alpha: float = 1.0) -> dict[str, list[float]]:
    """Entropy of the Gram matrix of the pooled texts (Layer by Layer, arXiv 2502.02013).

    states: S tensors (n, d_l), pooled first. Texts are centred and scaled to unit length. alpha:
    the order, above 0.

    Returns `dataset_entropy` (S values, nats): S_alpha; `normalised`: that / log min(n, d), absent
    where a bound is 0.
    Raises UserError for alpha out of range, DegenerateState where all texts have the same state.
    """
    check_order("dataset_entropy", alpha)
    found, bounds = [], []
    for layer, state in enumerate(states):
        value = float(entropy_of_rows(centred_directions(state), alpha))
        found.append(defined("dataset_entropy", layer, value))
        bounds.append(log(min(state.shape)))
    return with_normalised("dataset_entropy", found, bounds)
