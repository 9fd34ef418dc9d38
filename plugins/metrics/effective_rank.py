"""Effective rank: how many dimensions the texts fill, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.hookspecs import hookimpl

from ._entropy import entropy
from ._layerwise import defined, with_normalised

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


PRECISION = 1e-9  # relative, of the sum of the singular values


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="effective_rank",
            measure=effective_rank,
            layer_choice=Choice("effective_rank", "max"),
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def effective_rank(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """RankMe (arXiv 2210.02885), as Layer by Layer (arXiv 2502.02013) has it.

    states: S tensors (n, d_l), neither centred nor scaled.

    Returns `effective_rank` (S values, 1..min(n, d)): the exponential of the entropy of the
    singular values, scaled to sum 1; `normalised`: that / min(n, d).
    Raises DegenerateState for a state of zeros.
    """
    found = [
        defined("effective_rank", layer, float(entropy(singular_values(state)).exp()))
        for layer, state in enumerate(states)
    ]
    bounds = [float(min(state.shape)) for state in states]
    return with_normalised("effective_rank", found, bounds)


def singular_values(state: torch.Tensor) -> torch.Tensor:
    """Singular values (min(n, d),) of (n, d), in no order.

    From the smaller Gram matrix where squaring keeps enough digits of the small ones, as it does
    for most states and at a fraction of the time.
    """
    import torch

    state = state if len(state) >= state.shape[1] else state.T
    squares = torch.linalg.eigvalsh(state.T @ state)
    values: torch.Tensor = squares.clamp(min=0).sqrt()
    # An eigenvalue is off by some rounding e of the largest one, its root s by e / 2s.
    rounding = 16 * torch.finfo(state.dtype).eps * squares[-1]
    if float((rounding / (2 * values)).sum()) < PRECISION * float(values.sum()):
        return values
    exact: torch.Tensor = torch.linalg.svdvals(state)
    return exact
