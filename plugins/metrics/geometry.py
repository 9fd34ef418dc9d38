"""Geometry of pooled texts in each layer: their spectrum, their directions, their dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf, log
from typing import TYPE_CHECKING

from lrd_harness.capture.covariance import (
    centred,
    eigenvalues,
    participation,
    pieces_of_pairs,
    scaled,
)
from lrd_harness.capture.covariance import top_share as share_of_largest
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DegenerateState, NotEnoughTexts, UnitError, UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.measuring import SAME_ROW

from ._directions import LAWS, directions

if TYPE_CHECKING:
    import torch

CHUNK = 2**22  # numbers of a piece of an n x n matrix: 32 MiB
FITTED = range(11, 101)  # eigenvalues, from 1: the range of the authors' library
LEAST_POINTS = 10
ZERO = 1e-12  # of the largest eigenvalue
BLURRED = 1e-8  # of it: smaller ones lose digits in a matrix of squares
ALPHA_TEXTS, TWONN_TEXTS = 200, 100
BLUR = 1e-14  # of two squared lengths: what a squared distance made from them may be off by
NEAREST = 4  # others of which distances are taken from differences, to find two of them
NEAR = 3e-4  # of a length: distances below may be off by more than 1e-7 in squares


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metrics."""
    every = [
        Metric("participation_ratio", participation_ratio),
        Metric("top_share", top_share),
        Metric("mean_cosine", mean_cosine),
        Metric("uniformity", uniformity, layer_choice=Choice("uniformity", "min")),
        Metric(
            "alpha_req",
            alpha_req,
            layer_choice=Choice("distance", "min"),
            default=False,
            texts=ALPHA_TEXTS,
        ),
        Metric("twonn", twonn, default=False, texts=TWONN_TEXTS),
    ]
    return [replace(m, group="geometry", invariances=LAWS, of="states") for m in every]


def participation_ratio(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """How many directions the variance of the texts spreads over, as if equally.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.

    Returns
    -------
    dict
        ``participation_ratio``, S values in 1..min(n - 1, d): the squared sum of the eigenvalues of
        the covariance by the sum of their squares. It grows with n while n is not far above d.

    Raises
    ------
    DegenerateState
        Where all texts have the same state.

    Examples
    --------
    As much variance in one direction as in the other:

    >>> import torch
    >>> square = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).double()
    >>> participation_ratio([square])["participation_ratio"]
    [2.0]
    """
    return by_layer("participation_ratio", states, participation)


def top_share(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """The share of the variance that lies in one direction.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.

    Returns
    -------
    dict
        ``top_share``, S values in 1/min(n - 1, d)..1: the largest eigenvalue of the covariance by
        the sum of all. Near 1, cosines and CKA see one direction only.

    Raises
    ------
    DegenerateState
        Where all texts have the same state.

    Examples
    --------
    >>> import torch
    >>> cross = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]]).double()
    >>> [round(value, 9) for value in top_share([cross])["top_share"]]
    [0.9]
    """
    return by_layer("top_share", states, share_of_largest)


def mean_cosine(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """Mean cosine of two different texts (anisotropy).

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.

    Returns
    -------
    dict
        ``mean_cosine``, S values in -1/(n - 1)..1: the mean over all pairs; a row of zeros has the
        cosine 0 with all others. One dimension of large numbers makes it near 1.

    Examples
    --------
    >>> import torch
    >>> mean_cosine([torch.tensor([[2.0, 0], [1, 0], [0, 3]]).double()])["mean_cosine"]
    [0.3333333333333333]
    """

    def value(state: torch.Tensor) -> float:
        unit, n = _unit(state), len(state)
        return float(unit.sum(dim=0).square().sum() - unit.square().sum()) / (n * (n - 1))

    return by_layer("mean_cosine", states, value)


def uniformity(states: Sequence[torch.Tensor], t: float = 2.0) -> dict[str, list[float]]:
    """How evenly the directions of the texts cover the sphere, lower if more.

    Source: Wang and Isola, arXiv 2005.10242.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts, which are scaled to unit length; a row of zeros stays.
    t : float > 0, default 2
        How near texts must be to count.

    Returns
    -------
    dict
        ``uniformity``, S values in -2tn/(n - 1)..0: the log of the mean over all pairs of
        exp(-t times their squared distance). Copies of a text raise it.

    Raises
    ------
    UserError
        For another t.

    Examples
    --------
    Opposite texts, and texts all alike:

    >>> import torch
    >>> line = torch.tensor([[1.0, 0], [-1, 0]]).double()
    >>> [round(value, 9) for value in uniformity([line, line.abs()])["uniformity"]]
    [-8.0, 0.0]
    """
    import torch

    if not 0 < t < inf:
        raise UserError(f"uniformity: t must be above 0 and finite, not {t}")

    def value(state: torch.Tensor) -> float:
        unit, n = _unit(state), len(state)
        squares = -t * unit.square().sum(dim=1)
        sums = []
        for start, stop in pieces_of_pairs(n, CHUNK // 16):  # small: little of the lower half
            near = squares[start:stop, None] + squares[start:]
            near.addmm_(unit[start:stop], unit[start:].T, alpha=2 * t)
            square = near[:, : stop - start]
            square.masked_fill_(torch.ones_like(square, dtype=torch.bool).tril(), -inf)
            # the plain sum is quicker, and loses nothing while exp(-4t) is far from 0
            sums.append(near.exp_().sum().log() if t <= 100 else near.logsumexp(dim=(0, 1)))
        return min(0.0, float(torch.stack(sums).logsumexp(dim=0)) - log(n * (n - 1) / 2))

    return by_layer("uniformity", states, value)


def alpha_req(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """How fast the eigenvalues of the covariance decay: as a power, whose exponent is alpha.

    Source: Agrawal et al. 2022; range and weights of the fit are those of the authors' library.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts, n >= 200. Values of different n are not to be compared: where the rank is not
        far above 100, alpha says n.

    Returns
    -------
    dict
        S values each: ``alpha``, minus the slope of log eigenvalue on log i, i = 11..``last``, at
        most 100, in least squares with weights 1/i; ``fit_r2`` of that line, unweighted;
        ``distance`` of alpha from 1, lower is better.

    Raises
    ------
    NotEnoughTexts
        Below 200 texts.
    DegenerateState
        Below 20 eigenvalues above 0, or where all texts have the same state.

    Examples
    --------
    >>> import torch
    >>> noise = torch.randn(4000, 50, generator=torch.Generator().manual_seed(0)).double()
    >>> state = noise * torch.arange(1, 51) ** -0.5
    >>> [round(value, 1) for value in alpha_req([state])["alpha"]]
    [1.0]
    """
    if len(states[0]) < ALPHA_TEXTS:
        raise NotEnoughTexts(f"alpha_req needs {ALPHA_TEXTS} texts, got {len(states[0])}")
    return by_layer("alpha_req", states, decay)


def decay(state: torch.Tensor) -> dict[str, float]:
    """The scores of `alpha_req` of one state (n, d), of any n."""
    import torch

    values = eigenvalues(state)
    if values[: FITTED[-1]][-1] < BLURRED * values[0]:
        values = torch.linalg.svdvals(centred(state)).square()
    last = min(FITTED[-1], int((values > ZERO * values[0]).sum()))
    if last - FITTED[0] + 1 < LEAST_POINTS:
        least = FITTED[0] + LEAST_POINTS - 1
        raise DegenerateState(f"{last} eigenvalues above 0, where {least} are needed")
    i = torch.arange(FITTED[0], last + 1, dtype=torch.float64, device=values.device)
    x, y, weights = i.log(), values[FITTED[0] - 1 : last].log(), 1 / (i * (1 / i).sum())
    away, height = x - weights @ x, y - weights @ y
    slope = float((weights * away) @ height / ((weights * away) @ away))
    left = (height - slope * away).square().sum() / (y - y.mean()).square().sum()
    scores = {"alpha": -slope, "fit_r2": 1 - float(left), "distance": abs(1 + slope)}
    return {**scores, "last": last}


def twonn(states: Sequence[torch.Tensor], discard: float = 0.1) -> dict[str, list[float]]:
    """Intrinsic dimension, from how much farther a text's second neighbour is than its first.

    Source: Facco et al. 2017, Scientific Reports 7.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts. It compares each with each, in pieces of 2**22 numbers.
    discard : float, default 0.1
        The share of the texts, those with the largest ratios, that the line is not fitted to.

    Returns
    -------
    dict
        S values each: ``twonn``, the slope of the line; ``twonn_mle``, the likeliest dimension, by
        all texts; ``distinct``, how many texts were left without copies of others, which are
        nearer than 1e-6 of their length. Above some 20 dimensions both are too low at any number of
        texts that there is; rounding to float16 raises them.

    Raises
    ------
    NotEnoughTexts
        Below 100 distinct texts.
    DegenerateState
        Where all first and second neighbours are equally far.
    UserError
        For a share outside 0..1.

    Examples
    --------
    A plane in space:

    >>> import torch
    >>> plane = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)).double()
    >>> [round(value) for value in twonn([plane @ torch.ones(2, 3).triu().double()])["twonn"]]
    [2]
    """
    if not 0 < discard < 1:
        raise UserError(f"twonn: discard must lie between 0 and 1, not {discard}")

    def value(state: torch.Tensor) -> dict[str, float]:
        scores = two_neighbours(state, discard)
        if scores["distinct"] < TWONN_TEXTS:
            few = f"{TWONN_TEXTS} distinct texts, got {scores['distinct']:.0f}"
            raise NotEnoughTexts(f"it needs {few} of {len(state)}")
        return scores

    return by_layer("twonn", states, value)


def two_neighbours(state: torch.Tensor, discard: float = 0.1) -> dict[str, float]:
    """The scores of `twonn` of one state (n, d), of any n from 3."""
    import torch

    rows = _distinct(scaled(state))
    n = len(rows)
    if n <= 2:
        raise NotEnoughTexts(f"{n} distinct texts of {len(state)}")
    first, second = _nearest(rows)
    x = (second / first).log().sort().values
    kept = x[: min(n - 1, int((1 - discard) * n))]  # the largest would have no height
    y = -torch.log1p(-torch.arange(1, len(kept) + 1, device=x.device).double() / n)
    if not kept.square().sum() > 0:
        raise DegenerateState("a text's first and second neighbour are equally far")
    slope = float(kept @ y / kept.square().sum())
    return {"twonn": slope, "twonn_mle": (n - 1) / float(x.sum()), "distinct": n}


def _distinct(rows: torch.Tensor) -> torch.Tensor:
    """The rows that are no copy of one before them that is kept."""
    import torch

    lengths = torch.linalg.vector_norm(rows, dim=1)
    middle = rows - rows.mean(dim=0)
    squares = middle.square().sum(dim=1)
    kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    for start, stop in pieces_of_pairs(len(rows), CHUNK):
        # a first look, since squares lose digits: what may be a copy is measured by differences
        both = squares[start:stop, None] + squares[start:]
        away = torch.addmm(both, middle[start:stop], middle[start:].T, alpha=-2)
        near = away <= (2 * SAME_ROW * lengths[start:stop, None]).square() + BLUR * both
        near = near.triu(1)
        for i in near.any(dim=1).nonzero().flatten().tolist():
            if kept[start + i]:
                later = near[i].nonzero().flatten() + start
                apart = torch.linalg.vector_norm(rows[later] - rows[start + i], dim=1)
                kept[later[apart <= SAME_ROW * lengths[start + i]]] = False
    return rows[kept]


def _nearest(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of (n, d) the distances to its nearest other row and to the next one."""
    import torch

    middle = rows - rows.mean(dim=0)
    squares = middle.square().sum(dim=1)
    texts, found = torch.arange(len(rows), device=rows.device), []
    for part in torch.split(texts, max(1, CHUNK // len(rows))):
        away = torch.addmm(squares.expand(len(part), -1), middle[part], middle.T, alpha=-2)
        away[torch.arange(len(part), device=part.device), part] = inf
        others = away.topk(min(NEAREST, len(rows) - 1), largest=False).indices
        apart = torch.linalg.vector_norm(rows[others] - rows[part, None], dim=2)
        apart = apart.sort(dim=1).values[:, :2]
        # among rows much nearer than their lengths, squares may have missed nearer ones
        for i in (apart[:, 1] <= NEAR * squares[part].sqrt()).nonzero().flatten().tolist():
            every = torch.linalg.vector_norm(rows - rows[part[i]], dim=1)
            every[part[i]] = inf
            apart[i] = every.topk(2, largest=False).values
        found.append(apart)
    first, second = torch.cat(found).unbind(dim=1)
    return first, second


def by_layer(
    name: str,
    states: Sequence[torch.Tensor],
    value: Callable[[torch.Tensor], float | Mapping[str, float]],
) -> dict[str, list[float]]:
    """Scores per layer, of the metric's name or by theirs; what is raised says of which layer."""
    rows = []
    for layer, state in enumerate(states):
        try:
            scores = value(state)
        except UnitError as error:
            raise type(error)(f"{name}: layer {layer}: {error}") from None
        rows.append(scores if isinstance(scores, Mapping) else {name: scores})
    return {score: [row[score] for row in rows] for score in rows[0]}


def _unit(state: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, whatever their scale; those of zeros stay."""
    return directions(scaled(state))
