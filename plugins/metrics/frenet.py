"""Frenet: the path of a model's dominant subspace through its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import pi, sqrt
from typing import TYPE_CHECKING, Literal

from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DegenerateState, UnitError, UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.scores import Of, Profile

from ._directions import LAWS, centred

if TYPE_CHECKING:
    import torch


Space = Literal["feature", "sample"]
ROUNDING = 1e-7  # of a row's length: what float32 cannot hold
STILL = 1e-12  # a step as short as this, on average, is rounding


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    selection = Choice("d0L", "max")
    of: dict[str, Of] = {"speed": "steps", "curvature": "inner states"}
    return [Metric("frenet", frenet, selection=selection, unit="radians", invariances=LAWS, of=of)]


def frenet(
    states: Sequence[torch.Tensor],
    variance: float = 0.95,
    rank: int | None = None,
    space: Space = "feature",
) -> dict[str, float | list[float]]:
    """Speed and curvature of the path of the texts' top-r subspaces, by Grassmann distance.

    Source: Layer-wise Representation Dynamics, arXiv 2605.12714.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts; rows are scaled to unit length and centred.
    variance : float in (0, 1], default 0.95
        Share of the last state's squared singular values that r must hold (r >= 2).
    rank : int, optional
        A fixed r instead.
    space : {"feature", "sample"}, default "feature"
        Spans of right singular vectors (equal widths), or of left ones (any widths).

    Returns
    -------
    dict
        In radians: ``speed`` (S - 1 values), ``curvature`` (Menger's, S - 2 values), ``d0L``
        between first and last state, the selection score, ``arc_length``; ``straightness``,
        d0L / arc_length (absent where steps are rounding); ``d0L_normalised``,
        d0L / (sqrt(r) pi/2); ``rank``, r. Leading states are left out while their rank is below r.

    Raises
    ------
    UnitError
        For an r that n or d cannot hold, and for unequal widths.
    DegenerateState
        For a rank below r further up.

    Examples
    --------
    A plane that turns by 0.1 radians in both its directions at each layer:

    >>> import torch
    >>> turn = torch.arange(8) * torch.pi / 4
    >>> plane = torch.stack([turn.cos(), turn.sin()], dim=1).double()
    >>> angles = torch.tensor([0.0, 0.1, 0.2])
    >>> states = [torch.hstack([plane * a.cos(), plane * a.sin()]) for a in angles]
    >>> scores = frenet(states)
    >>> [round(speed, 4) for speed in scores["speed"]], round(scores["d0L"], 4), scores["rank"]
    ([0.1414, 0.1414], 0.2828, 2)
    """
    r, bases = leading_bases("frenet", states, variance, rank, space)
    first = next(bases)
    speed, curvature, window = [], [], [first]
    for basis in bases:  # three of them at a time, however many layers there are
        speed.append(grassmann(window[-1], basis))
        if len(window) > 1:
            curvature.append(menger(speed[-2], speed[-1], grassmann(window[0], basis)))
        window = [window[-1], basis]
    d0L, arc_length = grassmann(first, window[-1]), sum(speed)
    start = len(states) - len(speed) - 1
    return {
        "speed": Profile("steps", start, speed),
        "curvature": Profile("inner states", start, curvature),
        "d0L": d0L,
        "arc_length": arc_length,
        **({"straightness": d0L / arc_length} if arc_length > STILL * len(speed) else {}),
        "d0L_normalised": d0L / (sqrt(r) * pi / 2),
        "rank": r,
    }


def menger(a: float, b: float, c: float) -> float:
    """Menger curvature of three points from their distances; 0 for a degenerate triple."""
    p = (a + b + c) / 2
    radicand = p * (p - a) * (p - b) * (p - c)
    if a * b * c < 1e-15 or radicand <= 0:
        return 0.0
    return 4 * sqrt(radicand) / (a * b * c)


def leading_bases(
    metric: str, states: Sequence[torch.Tensor], variance: float, rank: int | None, space: Space
) -> tuple[int, Iterator[torch.Tensor]]:
    """r, and the bases (d, r) or (n, r) of all states from the first of rank r on, two or more.

    Raises UserError, UnitError and DegenerateState as `frenet` says, in the metric's name.
    """
    if not 0 < variance <= 1:
        raise UserError(f"{metric}: variance must lie in (0, 1], not {variance}")
    if rank is not None and rank < 1:
        raise UserError(f"{metric}: rank must be at least 1, not {rank}")
    if space not in ("feature", "sample"):
        raise UserError(f"{metric}: space must be 'feature' or 'sample', not '{space}'")
    n, d = states[-1].shape
    r = least_rank(states[-1], variance) if rank is None else rank
    if r > min(n - 1, d):
        raise UnitError(f"{metric}: {n} texts of width {d} hold no subspace of rank {r}")

    def bases() -> Iterator[torch.Tensor]:
        widths: list[int] = []
        for layer in range(len(states)):
            basis = leading_basis(states[layer], r, space)
            if basis is None:
                if widths or layer == len(states) - 1:
                    raise DegenerateState(
                        f"{metric}: layer {layer} has numerical rank below r = {r}"
                    )
                continue
            widths.append(len(basis))
            if widths[-1] != widths[0]:
                raise UnitError(
                    f"{metric}: widths {widths[0]} and {widths[-1]} differ; use space='sample'"
                )
            yield basis
        if len(widths) < 2:
            raise DegenerateState(f"{metric}: no layer but the last has numerical rank r = {r}")

    return r, bases()


def least_rank(state: torch.Tensor, variance: float) -> int:
    """The least rank, but at least 2, that holds this share of the squared singular values."""
    import torch

    def holding(squares: torch.Tensor) -> int:
        sums = squares.cumsum(0)
        return 1 + int((sums[:-1] < variance * sums[-1]).sum())

    z = centred(state)
    tall = z if len(z) >= z.shape[1] else z.T
    squares = torch.linalg.eigvalsh(tall.T @ tall).flip(0).clamp(min=0)
    r = holding(squares)
    if float(squares[r - 1]) <= 1e-10 * float(squares[0]):  # near what squaring loses
        squares = torch.linalg.svdvals(tall).square()
        r = holding(squares)
    # Directions that hold only rounding do not count, even where all variance must be held.
    return max(2, min(r, int((squares.sqrt() > _noise(*state.shape)).sum())))


def _noise(n: int, d: int) -> float:
    """The largest singular value of float32 rounding on n unit rows: no signal is below it."""
    return ROUNDING * (1 + sqrt(n / d))


def leading_basis(state: torch.Tensor, r: int, space: Space) -> torch.Tensor | None:
    """Orthonormal top-r singular vectors, (d, r) or (n, r); None if the rank is below r."""
    import torch

    z = centred(state)
    n, d = z.shape
    if r > min(n, d):
        return None
    tall = z if n >= d else z.T
    leading = _by_gram(tall, r)
    if leading is None:
        _, values, right = torch.linalg.svd(tall, full_matrices=False)
        leading = float(values[r - 1]), right[:r].T
    least, narrow = leading
    if least <= _noise(n, d):
        return None
    vectors = narrow if (n >= d) == (space == "feature") else tall @ narrow
    basis: torch.Tensor = torch.linalg.qr(vectors).Q
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
    Golub 1973; as scipy.linalg.subspace_angles).
    """
    import torch

    if torch.equal(a, b):
        return 0.0
    cross = a.T @ b
    cosines = torch.linalg.svdvals(cross)
    sines = torch.linalg.svdvals(b - a @ cross).flip(0)  # ascending, as cosines descend
    return float(torch.atan2(sines, cosines).norm())
