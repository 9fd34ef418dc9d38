"""Metrics of noisy copies of the texts, their views: InfoNCE, LiDAR, DiME and alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, inf, log
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DRAWS, DegenerateState, NotEnoughTexts, UnitError, UserError
from lrd_harness.hookspecs import hookimpl

from ._directions import LAWS, directions
from .entropy import bounded, check_order, entropy_of_gram, entropy_of_rows
from .geometry import uniformity

if TYPE_CHECKING:
    import torch

    from lrd_harness.contracts import Values


PAIR = 2
LIDAR_VIEWS = 16
LOST = 1e10  # scatter / delta above which the squares have too few digits left for delta


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metrics.

    lidar's `delta` has the states' own scale, so "scaling" is no law of it; dime's permutations are
    drawn by number, so the order of texts matters.
    """
    rows: list[tuple[Callable[..., Values], int, Choice, frozenset[str]]] = [
        (infonce, PAIR, Choice("mi", "max"), LAWS),
        (lidar, LIDAR_VIEWS, Choice("lidar", "max"), LAWS - {"scaling"}),
        (dime, PAIR, Choice("dime", "min"), LAWS - {"permutation"}),
        (alignment, PAIR, Choice("alignment", "min"), LAWS),
    ]
    metrics = [
        Metric(
            measure.__name__, measure, "views", None, choice, views, invariances=laws, of="states"
        )
        for measure, views, choice, laws in rows
    ]
    return [*metrics[:-1], replace(metrics[-1], group="geometry")]


def infonce(states: Sequence[torch.Tensor], temperature: float = 0.1) -> dict[str, list[float]]:
    """Cross-entropy of finding a text's second view by its first among all texts' second views.

    Source: Contrastive Predictive Coding, arXiv 1807.03748; Layer by Layer, arXiv 2502.02013.

    Parameters
    ----------
    states : sequence of S tensors (n, q, d_l)
        Views of the texts, of which the first 2 are read and scaled to unit length.
    temperature : float > 0, default 0.1
        What cosines are divided by.

    Returns
    -------
    dict
        ``loss``, S values in nats; ``mi``, 1 - loss / log n: at most 1, about 0 by chance.

    Raises
    ------
    UnitError
        Below 2 views or texts.

    Examples
    --------
    Both views alike and all texts different, then all texts the same:

    >>> import torch
    >>> different = torch.eye(4)[:, None].repeat(1, 2, 1)
    >>> same = torch.ones(4, 2, 4)
    >>> [abs(round(value, 2)) for value in infonce([different, same])["mi"]]
    [1.0, 0.0]
    """
    if not temperature > 0:
        raise UserError(f"infonce: temperature must be above 0, not {temperature}")
    loss, mi = [], []
    for state in states:
        first, second = directions(first_views("infonce", state, PAIR, PAIR)).unbind(1)
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


def lidar(states: Sequence[torch.Tensor], delta: float = 1e-4) -> dict[str, float | list[float]]:
    """Entropy of the linear discriminants that tell texts apart beyond the noise of their views.

    Source: LiDAR, arXiv 2312.04000; Layer by Layer, arXiv 2502.02013.

    Parameters
    ----------
    states : sequence of S tensors (n, q, d_l)
        Views of the texts, of which the first 16, at least 2, are read as they are.
    delta : float > 0, default 1e-4
        Added to the diagonal of the scatter within texts.

    Returns
    -------
    dict
        ``lidar``, S values in nats: S_1 of the eigenvalues of W^-1/2 B W^-1/2, B the covariance of
        the texts' means, W that of all rows around them; ``rank``, exp(lidar); ``normalised``,
        lidar / log min(n - 1, d), absent where a bound is 0; ``views``, how many were read.

    Raises
    ------
    UnitError
        Below 2 views or texts.
    DegenerateState
        Where all texts have the same mean.

    Examples
    --------
    Four texts in opposite pairs along two of three dimensions, without noise:

    >>> import torch
    >>> means = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).double()
    >>> scores = lidar([means[:, None].repeat(1, 16, 1)])
    >>> round(scores["rank"][0], 6), scores["views"]
    (2.0, 16)
    """
    if not 0 < delta < inf:
        raise UserError(f"lidar: delta must be above 0 and finite, not {delta}")

    def value(state: torch.Tensor) -> torch.Tensor:
        rows = first_views("lidar", state, 2, LIDAR_VIEWS)
        return entropy_of_rows(discriminants(rows, delta))

    scores = bounded("lidar", states, value, lambda n, d: log(min(n - 1, d)))
    rank = [exp(value) for value in scores["lidar"]]
    return {**scores, "rank": rank, "views": min(LIDAR_VIEWS, states[0].shape[1])}


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


def dime(
    states: Sequence[torch.Tensor], alpha: float = 1.0, permutations: int = 10
) -> dict[str, list[float]]:
    """Difference of matrix-based entropies: how much better views match by text than shuffled.

    Source: DiME, arXiv 2301.08164; Layer by Layer, arXiv 2502.02013.

    Parameters
    ----------
    states : sequence of S tensors (n, q, d_l)
        Views of the texts, of which the first 2 are read and scaled to unit length.
    alpha : float > 0, default 1
        Order of the entropy.
    permutations : int >= 1, default 10
        Number of shufflings; the i-th is that of `numpy.random.default_rng(i)`.

    Returns
    -------
    dict
        S values each, in nats: ``matched``, S_alpha of the product, entry by entry, of the two
        views' Gram matrices (n, n); ``permuted``, its mean with the second view shuffled; ``dime``,
        permuted - matched; ``normalised``, dime / log n.

    Raises
    ------
    UnitError
        Below 2 views or texts.
    DegenerateState
        For a state of zeros.

    Examples
    --------
    Views of two groups of texts match better by text than shuffled; those of equal texts do not:

    >>> import torch
    >>> groups = torch.eye(2).repeat(4, 1)[:, None].repeat(1, 2, 1).double()
    >>> equal = torch.ones(8, 2, 2).double()
    >>> [value > 0.01 for value in dime([groups, equal])["dime"]]
    [True, False]
    """
    check_order("dime", alpha)
    if not 1 <= permutations <= DRAWS:
        raise UserError(
            f"dime: permutations must be at least 1 and at most {DRAWS:,}, not {permutations}"
        )
    matched, permuted, normalised = [], [], []
    for layer, state in enumerate(states):
        views = directions(first_views("dime", state, PAIR, PAIR))
        first, second = (view @ view.T for view in views.unbind(1))
        matched.append(float(entropy_of_gram(first * second, alpha)))
        if matched[-1] != matched[-1]:
            raise DegenerateState(f"dime: layer {layer} is the same for all texts")
        permuted.append(shuffled(first, second, alpha, permutations))
        normalised.append((permuted[-1] - matched[-1]) / log(len(state)))
    gain = [p - m for p, m in zip(permuted, matched, strict=True)]
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


def alignment(states: Sequence[torch.Tensor], alpha: float = 2.0) -> dict[str, list[float]]:
    """How far apart the two views of a text are; beside it uniformity, as it is 0 if all are one.

    Source: Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere, arXiv 2005.10242.

    Parameters
    ----------
    states : sequence of S tensors (n, q, d_l)
        Views of the texts, of which the first 2 are read and scaled to unit length.
    alpha : float > 0, default 2
        The power of the distances.

    Returns
    -------
    dict
        ``alignment``, S values in 0..2^alpha: the mean over texts of the distance to that power;
        ``uniformity``, of the first views, as of the metric of that name.

    Raises
    ------
    UnitError
        Below 2 views or texts.

    Examples
    --------
    Views that are alike, and opposite ones:

    >>> import torch
    >>> view = torch.eye(4).double()
    >>> alignment([torch.stack([view, view], 1), torch.stack([view, -view], 1)])["alignment"]
    [0.0, 4.0]
    """
    if not 0 < alpha < inf:
        raise UserError(f"alignment: alpha must be above 0 and finite, not {alpha}")
    means, spread = [], []
    for state in states:
        first, second = directions(first_views("alignment", state, PAIR, PAIR)).unbind(1)
        means.append(float((first - second).norm(dim=1).pow(alpha).mean()))
        spread += uniformity([first])["uniformity"]
    return {"alignment": means, "uniformity": spread}


def first_views(name: str, state: torch.Tensor, least: int, most: int) -> torch.Tensor:
    """The first `most` views of (n, q, d), or all of fewer.

    Raises UnitError below `least` views, NotEnoughTexts for a single text, which has no others to
    be told from.
    """
    n, q, _ = state.shape
    if q < least:
        raise UnitError(f"{name} needs {least} views of a text, got {q}")
    if n < 2:
        raise NotEnoughTexts(f"{name} needs at least 2 texts, got {n}")
    return state[:, :most]
