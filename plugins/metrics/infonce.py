"""InfoNCE: how surely two views of a text find each other among all texts, layer by layer."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl

from ._directions import directions
from ._layerwise import first_views

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


VIEWS = 2


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="infonce",
            measure=infonce,
            needs="views",
            views=VIEWS,
            layer_choice=Choice("mi", "max"),
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def infonce(states: Sequence[torch.Tensor], temperature: float = 0.1) -> dict[str, list[float]]:
    """Cross-entropy of finding a text's second view by its first (arXiv 1807.03748).

    states: S tensors (n, q, d_l), of which the first 2 views are read and scaled to unit length.
    temperature: what cosines are divided by, above 0.

    Returns `loss` (S values, nats): the mean over texts of -log of the softmax, over all texts'
    second views, at the text's own; `mi` = 1 - loss / log n, at most 1, 0 by chance.
    Raises UserError for a temperature out of range, UnitError below 2 views or texts.
    """
    if not temperature > 0:
        raise UserError(f"infonce: temperature must be above 0, not {temperature}")
    loss, mi = [], []
    for layer, state in enumerate(states):
        first, second = directions(first_views("infonce", layer, state, VIEWS, VIEWS)).unbind(1)
        loss.append(cross_entropy(first @ second.T / temperature))
        mi.append(1 - loss[-1] / log(len(state)))
    return {"loss": loss, "mi": mi}


def cross_entropy(logits: torch.Tensor) -> float:
    """The mean over rows of log sum exp less the diagonal of (n, n).

    As log(1 + the others' share), which keeps the digits of a loss near 0.
    """
    import torch

    others = (logits - logits.diagonal()[:, None]).fill_diagonal_(-torch.inf)
    return float(torch.nn.functional.softplus(others.logsumexp(dim=1), threshold=40).mean())
