"""LiDAR: how many dimensions tell texts apart beyond the noise of their views, layer by layer."""

from __future__ import annotations

from math import exp, inf, log
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl

from ._entropy import entropy_of_rows
from ._layerwise import defined, first_views, with_normalised

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


VIEWS = 16
LOST = 1e10  # scatter / delta above which the squares have too few digits left for delta


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric; `delta` has the states' own scale, so "scaling" is no law of it."""
    return [
        Metric(
            name="lidar",
            measure=lidar,
            needs="views",
            views=VIEWS,
            layer_choice=Choice("lidar", "max"),
            invariances=frozenset({"rotation", "permutation"}),
        )
    ]


def lidar(states: Sequence[torch.Tensor], delta: float = 1e-4) -> dict[str, float | list[float]]:
    """Entropy of the linear discriminants between texts (LiDAR, arXiv 2312.04000).

    states: S tensors (n, q, d_l), of which the first 16 views, at least 2, are read as they are.
    delta: what is added to the diagonal of the scatter within texts, above 0 and finite.

    Returns `lidar` (S values, nats): S_1 of the eigenvalues of W^-1/2 B W^-1/2, B the covariance
    of the texts' means, W that of all rows around them; `rank` = exp(lidar); `normalised` =
    lidar / log min(n - 1, d), absent where a bound is 0; `views`: how many were read.
    Raises UserError for a delta out of range, UnitError below 2 views or texts, DegenerateState
    where all texts have the same mean.
    """
    if not 0 < delta < inf:
        raise UserError(f"lidar: delta must be above 0 and finite, not {delta}")
    found, bounds, views = [], [], 0
    for layer, state in enumerate(states):
        rows = first_views("lidar", layer, state, 2, VIEWS)
        value = float(entropy_of_rows(discriminants(rows, delta)))
        found.append(defined("lidar", layer, value))
        bounds.append(log(min(len(state) - 1, state.shape[-1])))
        views = rows.shape[1]
    scores = with_normalised("lidar", found, bounds)
    return {**scores, "rank": [exp(value) for value in scores["lidar"]], "views": views}


def discriminants(rows: torch.Tensor, delta: float) -> torch.Tensor:
    """Texts' means, whitened by the scatter within texts: (n, q, d) to (n, d).

    Their Gram matrix has n times the eigenvalues of W^-1/2 B W^-1/2, or d - n zeros less.
    """
    import torch

    means = rows.mean(dim=1)
    within = (rows - means[:, None]).flatten(0, 1) / (len(rows) * rows.shape[1]) ** 0.5
    ridge = delta * torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    scatter = within.T @ within
    factor, fault = torch.linalg.cholesky_ex(scatter + ridge)
    if int(fault) or float(scatter.trace()) > LOST * delta:  # the same without squares
        factor = torch.linalg.qr(torch.cat([within, ridge.sqrt()]), mode="r").R.T
    centred = means - means.mean(dim=0)
    whitened: torch.Tensor = torch.linalg.solve_triangular(factor, centred.T, upper=False)
    return whitened.T
