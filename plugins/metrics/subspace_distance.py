"""Distances between the dominant subspaces of all pairs of layers: the map of frenet's path."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt
from typing import TYPE_CHECKING

from lrd_harness.contracts import Metric
from lrd_harness.hookspecs import hookimpl
from lrd_harness.scores import Profile

from ._directions import LAWS
from .frenet import Space, grassmann, leading_bases

if TYPE_CHECKING:
    import torch

# Radians. An arccos is off by rounding / angle: by 1e-12 from here on, by 1e-8 near 0, where sines
# are needed as well, which cost several times as much.
NEAR = 1e-3


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [Metric("subspace_distance", subspace_distance, invariances=LAWS, of="states")]


def subspace_distance(
    states: Sequence[torch.Tensor],
    variance: float = 0.95,
    rank: int | None = None,
    space: Space = "feature",
) -> dict[str, float | list[float] | list[list[float]]]:
    """Grassmann distance of every pair of layers, as a share of the largest there can be.

    Source: Layer-wise Representation Dynamics, arXiv 2605.12714.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts. All S bases are held at once, (S, d, r) float64.
    variance, rank, space
        As in `frenet`.

    Returns
    -------
    dict
        ``distance``, a row per state: entry j of row i is the distance / (sqrt(r) pi/2), 0 for the
        same subspace, 1 for orthogonal ones; ``to_last``, its last row; ``mean_distance`` over the
        pairs; ``rank`` as in `frenet`.

    Raises
    ------
    UnitError, DegenerateState, UserError
        As `frenet`.

    Examples
    --------
    >>> import torch
    >>> turn = torch.arange(8) * torch.pi / 4
    >>> plane = torch.stack([turn.cos(), turn.sin()], dim=1).double()
    >>> zeros = torch.zeros(8, 2)
    >>> states = [torch.hstack([plane, zeros]), torch.hstack([zeros, plane])]
    >>> [[round(cell, 6) for cell in row] for row in subspace_distance(states)["distance"]]
    [[0.0, 1.0], [1.0, 0.0]]
    """
    import torch

    r, each = leading_bases("subspace_distance", states, variance, rank, space)
    bases = torch.stack(list(each))
    distance = torch.zeros(len(bases), len(bases), dtype=torch.float64)
    for i in range(len(bases) - 1):
        cosines = torch.linalg.svdvals(bases[i].T @ bases[i + 1 :])  # (S - i - 1, r)
        row = cosines.clamp(max=1).arccos().norm(dim=1)
        for j in (row < NEAR).nonzero().flatten().tolist():
            row[j] = grassmann(bases[i], bases[i + 1 + j])
        distance[i, i + 1 :] = row
    distance /= sqrt(r) * pi / 2
    pairs, start = len(bases) * (len(bases) - 1) / 2, len(states) - len(bases)
    return {
        "distance": Profile("states", start, (distance + distance.T).tolist()),
        "to_last": Profile("states", start, distance[:, -1].tolist()),
        "mean_distance": float(distance.sum()) / pairs,
        "rank": r,
    }
