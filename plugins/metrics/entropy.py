"""Entropy of a spectrum, of a text's tokens and of pooled texts; effective rank.

S_alpha of the eigenvalues of a Gram matrix, scaled to sum 1: log(sum of λ^alpha) / (1 - alpha), in
nats; S_1, its limit, is -sum of λ log λ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, isnan, log, nan
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DegenerateState, UserError
from lrd_harness.hookspecs import hookimpl

from ._directions import LAWS, centred_directions, pieces

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lrd_harness.contracts import Values


LIMIT = 1e-9  # an order this close to 1 is 1
NEAR = 0.1  # orders this close to 1 lose digits in log(sum) / (1 - alpha)
PRECISION = 1e-9  # of the sum of the singular values, relative
BINS = 50
EQUAL = 1e-12  # entropies as close as this are equal
DIP_TEXTS = 4  # the dip of fewer values says nothing


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metrics."""
    metrics = [
        Metric("prompt_entropy", prompt_entropy, "tokens", finish=over_texts),
        Metric("dataset_entropy", dataset_entropy),
        Metric("effective_rank", effective_rank),
    ]
    choices = [Choice(m.name, "max" if m.name == "effective_rank" else "min") for m in metrics]
    pairs = zip(metrics, choices, strict=True)
    return [replace(m, layer_choice=c, invariances=LAWS, of="states") for m, c in pairs]


def prompt_entropy(
    states: Sequence[torch.Tensor], alpha: float = 1.0, skip: int = 0
) -> dict[str, list[float]]:
    """Entropy of the Gram matrix of a text's tokens, centred and scaled to unit length.

    Sources: Layer by Layer, arXiv 2502.02013, and Does Representation Matter?, arXiv 2412.09563,
    which finds two groups of texts.

    Parameters
    ----------
    states : tensor (S, T, d), or S tensors (T, d_l)
        The token states of one text.
    alpha : float > 0, default 1
        Order of the entropy.
    skip : int, default 0
        Leading tokens left out, as a decoder's attention sink.

    Returns
    -------
    dict
        ``prompt_entropy``, S values in nats, NaN where all tokens have the same state;
        ``normalised``, that / log min(T, d), NaN where the bound is 0. Over several texts, beside
        the means: ``dip`` and ``dip_p``, Hartigan's statistic of the texts' entropies and its
        p-value for a single peak (NaN below 4 texts), and ``histogram`` of ``normalised``.

    Raises
    ------
    NotEnoughTokens
        Below 2 tokens.

    Examples
    --------
    Three tokens in a plane, at equal angles, spread over both directions alike:

    >>> import torch
    >>> tokens = torch.tensor([[[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]]).double()
    >>> round(prompt_entropy(tokens)["normalised"][0], 6)
    1.0
    """
    check_order("prompt_entropy", alpha)
    entropies: list[float] = []
    normalised: list[float] = []
    for piece in pieces("prompt_entropy", states, 2, skip):
        values = entropy_of_rows(centred_directions(piece), alpha).tolist()
        bound = log(min(piece.shape[-2:]))
        entropies += values
        normalised += [value / bound if bound else nan for value in values]
    return {"prompt_entropy": entropies, "normalised": normalised}


def over_texts(texts: Sequence[Values]) -> Values:
    """From the values of all texts to one result; each layer over the texts with a value there."""
    import numpy as np

    entropies, shares = (
        [layer[~np.isnan(layer)] for layer in np.array([text[name] for text in texts], float).T]
        for name in ("prompt_entropy", "normalised")
    )
    dips = [dip(values) for values in entropies]
    return {
        "prompt_entropy": [float(x.mean()) if len(x) else nan for x in entropies],
        "normalised": [float(x.mean()) if len(x) else nan for x in shares],
        "dip": [statistic for statistic, _ in dips],
        "dip_p": [p for _, p in dips],
        "histogram": [np.histogram(x, bins=BINS, range=(0, 1))[0].tolist() for x in shares],
    }


def dip(values: np.ndarray) -> tuple[float, float]:
    """Hartigan's dip of values (n,) and its p-value; NaN below 4 values."""
    import diptest
    import numpy as np

    if len(values) < DIP_TEXTS:
        return nan, nan
    if np.ptp(values) <= EQUAL:  # or it would find peaks in rounding
        values = np.zeros(len(values))
    statistic, p = diptest.diptest(values)
    return float(statistic), float(p)


def dataset_entropy(states: Sequence[torch.Tensor], alpha: float = 1.0) -> dict[str, list[float]]:
    """Entropy of the Gram matrix of the pooled texts, centred and scaled to unit length.

    Source: Layer by Layer, arXiv 2502.02013.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.
    alpha : float > 0, default 1
        Order of the entropy.

    Returns
    -------
    dict
        ``dataset_entropy``, S values in nats; ``normalised``, that / log min(n, d), absent where a
        bound is 0.

    Raises
    ------
    DegenerateState
        Where all texts have the same state.

    Examples
    --------
    Texts along one line, and texts along two:

    >>> import torch
    >>> line = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]).double()
    >>> cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
    >>> [round(value, 6) for value in dataset_entropy([line, cross])["normalised"]]
    [0.0, 1.0]
    """
    check_order("dataset_entropy", alpha)
    return bounded(
        "dataset_entropy",
        states,
        lambda state: entropy_of_rows(centred_directions(state), alpha),
        lambda n, d: log(min(n, d)),
    )


def effective_rank(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """Number of dimensions that the pooled texts fill: RankMe.

    Source: RankMe, arXiv 2210.02885, as Layer by Layer, arXiv 2502.02013, has it.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts, neither centred nor scaled.

    Returns
    -------
    dict
        ``effective_rank``, S values in 1..min(n, d): the exponential of the entropy of the singular
        values, scaled to sum 1; ``normalised``, that / min(n, d).

    Raises
    ------
    DegenerateState
        For a state of zeros.

    Examples
    --------
    >>> import torch
    >>> [round(value, 6) for value in effective_rank([torch.eye(4).double()])["effective_rank"]]
    [4.0]
    """
    return bounded(
        "effective_rank",
        states,
        lambda state: entropy(singular_values(state)).exp(),
        lambda n, d: float(min(n, d)),
    )


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


def bounded(
    name: str,
    states: Sequence[torch.Tensor],
    value: Callable[[torch.Tensor], torch.Tensor],
    bound: Callable[[int, int], float],
) -> dict[str, list[float]]:
    """A score per layer, at most its bound(n, d), and `normalised` = score / bound.

    `normalised` is absent where a bound is 0. Raises DegenerateState where a score is NaN.
    """
    scores, bounds = [], []
    for layer, state in enumerate(states):
        score = float(value(state))
        if isnan(score):
            raise DegenerateState(f"{name}: layer {layer} is the same for all texts")
        bounds.append(bound(len(state), state.shape[-1]))
        scores.append(min(score, bounds[-1]))
    if not all(bounds):
        return {name: scores}
    return {name: scores, "normalised": [s / b for s, b in zip(scores, bounds, strict=True)]}


def check_order(name: str, alpha: float) -> None:
    """Raise UserError for an order that is not above 0."""
    if not alpha > 0:
        raise UserError(f"{name}: alpha must be above 0, not {alpha}")


def entropy_of_rows(rows: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """S_alpha of the Gram matrix of each (m, d) in (..., m, d); NaN where all rows are 0.

    Of the two Gram matrices, m x m and d x d, the smaller one is used: they share their eigenvalues
    other than 0. Below order 1 small eigenvalues count for much, and forming a product of rows
    would lose them: there they are squares of singular values.
    """
    import torch

    m, d = rows.shape[-2:]
    if alpha < 1 - LIMIT:
        values = torch.linalg.svdvals(rows)
        rounding = torch.finfo(rows.dtype).eps * max(m, d) * values[..., :1]
        return entropy(values.where(values > rounding, 0.0).square(), alpha)
    return entropy_of_gram(rows @ rows.mT if m <= d else rows.mT @ rows, alpha)


def entropy_of_gram(gram: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """S_alpha of positive semi-definite matrices (..., m, m); NaN where one is 0.

    Order 2 needs no eigenvalues: the sum of their squares is the squared Frobenius norm.
    """
    import torch

    m = gram.shape[-1]
    if alpha == 2:
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        squares = torch.linalg.matrix_norm(gram).square()
        order2: torch.Tensor = -(squares / trace.square()).log()
        return order2.clamp(0, log(m)) + 0.0  # -0.0 is 0
    values = torch.linalg.eigvalsh(gram)
    rounding = torch.finfo(gram.dtype).eps * m * values[..., -1:]
    return entropy(values.where(values > rounding, 0.0), alpha)


def entropy(weights: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """S_alpha (...) of weights (..., m), none negative, scaled to sum 1; NaN where all are 0.

    Kept within 0..log m, which rounding may leave.
    """
    import torch

    shares = weights / weights.sum(dim=-1, keepdim=True)
    if alpha == inf:
        value = -shares.amax(dim=-1).log()
    elif abs(alpha - 1) <= LIMIT:
        value = -torch.special.xlogy(shares, shares).sum(dim=-1)
    elif abs(alpha - 1) < NEAR:
        # sum of λ^a = 1 + sum of λ (λ^(a - 1) - 1), without the 1 that drowns the rest near order 1
        powers = shares.where(shares > 0, 1.0).log().mul(alpha - 1).expm1()
        value = (shares * powers).sum(dim=-1).log1p() / (1 - alpha)
    else:
        value = (alpha * shares.log()).logsumexp(dim=-1) / (1 - alpha)
    return value.clamp(0, log(weights.shape[-1])) + 0.0  # -0.0 is 0
