"""Distances between the dominant subspaces of all pairs of layers: the map of frenet's path."""

from __future__ import annotations

from math import pi, sqrt
from typing import TYPE_CHECKING

from lrd_harness.contracts import Metric
from lrd_harness.errors import DegenerateState, UnitError
from lrd_harness.hookspecs import hookimpl

from ._subspace import Space, check_subspace, grassmann, leading_basis, least_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


# Radians. An arccos is off by rounding / angle: by 1e-12 from here on, by 1e-8 near 0, where sines
# are needed as well, which cost several times as much.
NEAR = 1e-3


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="subspace_distance",
            measure=subspace_distance,
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def subspace_distance(
    states: Sequence[torch.Tensor],
    variance: float = 0.95,
    rank: int | None = None,
    space: Space = "feature",
) -> dict[str, float | list[float] | list[list[float]]]:
    """Grassmann distance of every pair of layers (LRD, arXiv 2605.12714), as a share of the most.

    states: S tensors (n, d_l). The subspaces, and variance, rank and space, are those of `frenet`.
    Holds all S bases at once, (S, d, r) float64.

    Returns `distance`, a row a state: entry j of row i is d_Gr / (sqrt(r)·pi/2), 0 the same
    subspace, 1 orthogonal ones; `to_last`, its last row (a value a state); `mean_distance`
    over the pairs; `rank` r; and `start`: how many leading states were left out since their rank is
    below r.
    Raises UnitError for an r that n or d cannot hold and for unequal widths, DegenerateState for a
    rank below r further up, UserError for parameters out of range.
    """
    import torch

    check_subspace("subspace_distance", variance, rank, space)
    r = least_rank(states[-1], variance) if rank is None else rank
    bases, start = _bases(states, r, space)
    distance = torch.zeros(len(bases), len(bases), dtype=torch.float64)
    for i in range(len(bases) - 1):
        cosines = torch.linalg.svdvals(bases[i].T @ bases[i + 1 :])  # (S - i - 1, r)
        row = cosines.clamp(max=1).arccos().norm(dim=1)
        for j in (row < NEAR).nonzero().flatten().tolist():
            row[j] = grassmann(bases[i], bases[i + 1 + j])
        distance[i, i + 1 :] = row
    distance /= sqrt(r) * pi / 2
    pairs = len(bases) * (len(bases) - 1) / 2
    return {
        "distance": (distance + distance.T).tolist(),
        "to_last": distance[:, -1].tolist(),
        "mean_distance": float(distance.sum()) / pairs,
        "rank": r,
        "start": start,
    }


def _bases(states: Sequence[torch.Tensor], r: int, space: Space) -> tuple[torch.Tensor, int]:
    """The bases (S, d, r) of all states but the first `start`, which have none."""
    import torch

    n, d = states[-1].shape
    if r > min(n - 1, d):
        raise UnitError(f"subspace_distance: {n} texts of width {d} hold no subspace of rank {r}")
    found: list[torch.Tensor] = []
    for layer in range(len(states)):
        basis = leading_basis(states[layer], r, space)
        if basis is None and found:
            raise DegenerateState(f"subspace_distance: layer {layer} has numerical rank below {r}")
        if basis is None:
            continue
        if found and len(basis) != len(found[0]):
            widths = f"widths {len(found[0])} and {len(basis)} differ"
            raise UnitError(f"subspace_distance: {widths}; use space='sample'")
        found.append(basis)
    if len(found) < 2:
        raise DegenerateState(f"subspace_distance: no two layers have numerical rank {r}")
    return torch.stack(found), len(states) - len(found)
