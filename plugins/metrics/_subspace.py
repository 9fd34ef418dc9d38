"""Dominant subspaces of states and the distance between them."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Literal

from lrd_harness.errors import UnitError, UserError

if TYPE_CHECKING:
    import torch


Space = Literal["feature", "sample"]
ROUNDING = 1e-7  # of a row's length: what float32 cannot hold


def check_subspace(metric: str, variance: float, rank: int | None, space: str) -> None:
    """Raise UserError, in the metric's name, for parameters out of range."""
    if not 0 < variance <= 1:
        raise UserError(f"{metric}: variance must lie in (0, 1], not {variance}")
    if rank is not None and rank < 1:
        raise UserError(f"{metric}: rank must be at least 1, not {rank}")
    if space not in ("feature", "sample"):
        raise UserError(f"{metric}: space must be 'feature' or 'sample', not '{space}'")


def unit_rows(state: torch.Tensor) -> torch.Tensor:
    """Rows of (n, d) scaled to length 1; a row of zeros stays."""
    norms = state.norm(dim=1, keepdim=True)
    lengths: torch.Tensor = norms.where(norms > 0, 1.0)
    return state / lengths


def least_rank(state: torch.Tensor, variance: float) -> int:
    """The least rank, but at least 2, that holds this share of the squared singular values."""
    import torch

    z = _centred(state)
    tall = z if len(z) >= z.shape[1] else z.T
    squares = torch.linalg.eigvalsh(tall.T @ tall).flip(0).clamp(min=0)
    r = _holding(squares, variance)
    if float(squares[r - 1]) <= 1e-10 * float(squares[0]):  # near what squaring loses
        squares = torch.linalg.svdvals(tall).square()
        r = _holding(squares, variance)
    # Asked for all variance, it must not count directions that hold only rounding.
    return max(2, min(r, int((squares.sqrt() > _noise(*state.shape)).sum())))


def _holding(squares: torch.Tensor, variance: float) -> int:
    held = squares.cumsum(0)
    return 1 + int((held[:-1] < variance * held[-1]).sum())


def _centred(state: torch.Tensor) -> torch.Tensor:
    unit = unit_rows(state)
    return unit - unit.mean(dim=0)


def _noise(n: int, d: int) -> float:
    """The largest singular value of float32 rounding on n unit rows: no signal is below it."""
    return ROUNDING * (1 + sqrt(n / d))


def leading_basis(state: torch.Tensor, r: int, space: Space) -> torch.Tensor | None:
    """Orthonormal top-r singular vectors, (d, r) or (n, r); None if the rank is below r."""
    import torch

    z = _centred(state)
    n, d = z.shape
    if r > min(n, d):
        return None
    tall = z if n >= d else z.T
    found = _by_gram(tall, r)
    if found is None:
        _, values, right = torch.linalg.svd(tall, full_matrices=False)
        found = float(values[r - 1]), right[:r].T
    least, narrow = found
    if least <= _noise(n, d):
        return None
    wanted = narrow if (n >= d) == (space == "feature") else tall @ narrow
    basis: torch.Tensor = torch.linalg.qr(wanted).Q
    return basis


def _by_gram(tall: torch.Tensor, r: int) -> tuple[float, torch.Tensor] | None:
    """The r-th singular value and top-r right singular vectors; None where only an SVD will do.

    A Gram matrix costs a third of an SVD or less but squares the condition number. One step of
    first-order perturbation gives the digits back: the images of its eigenvectors are taken from
    the matrix itself, and what mixing of the first r with the rest they show is undone. What
    remains is of the order of the mixing squared, so it must have been small.
    """
    import torch

    vectors = torch.linalg.eigh(tall.T @ tall).eigenvectors.flip(1)
    image = tall @ vectors
    squares = image.square().sum(dim=0)
    least = float(squares[:r].min())
    following = float(squares[r:].max()) if r < len(squares) else 0.0
    if least <= max(following, 1e-12 * float(squares[0])):
        return None
    mixing = image[:, r:].T @ image[:, :r] / (squares[:r] - squares[r:, None])
    if float(mixing.norm()) > 1e-6:
        return None
    return sqrt(least), vectors[:, :r] + vectors[:, r:] @ mixing


def grassmann(a: torch.Tensor, b: torch.Tensor) -> float:
    """Grassmann distance sqrt(Σ θ²), in radians, of the spans of orthonormal a and b (d, r).

    Principal angles from sines and cosines, so that none loses digits near 0 or π/2 (Björck and
    Golub 1973; as scipy.linalg.subspace_angles). Raises UnitError for unequal widths.
    """
    import torch

    if len(a) != len(b):
        raise UnitError(f"frenet: widths {len(a)} and {len(b)} differ; use space='sample'")
    if torch.equal(a, b):
        return 0.0
    cross = a.T @ b
    cosines = torch.linalg.svdvals(cross)
    sines = torch.linalg.svdvals(b - a @ cross).flip(0)  # ascending, as cosines descend
    return float(torch.atan2(sines, cosines).norm())
