"""Entropy of a spectrum: S_alpha of the eigenvalues of a Gram matrix, scaled to sum 1.

S_alpha = log(sum of λ^alpha) / (1 - alpha), in nats; S_1, its limit, is -sum of λ log λ. Sources:
Layer by Layer (arXiv 2502.02013), Does Representation Matter? (arXiv 2412.09563).
"""

from __future__ import annotations

from math import inf, log
from typing import TYPE_CHECKING

from lrd_harness.errors import UserError

if TYPE_CHECKING:
    import torch


LIMIT = 1e-9  # an order this close to 1 is 1
NEAR = 0.1  # orders this close to 1 lose digits in log(sum) / (1 - alpha)


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
        found: torch.Tensor = -(squares / trace.square()).log()
        return found.clamp(0, log(m)) + 0.0  # -0.0 is 0
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
        found = -shares.amax(dim=-1).log()
    elif abs(alpha - 1) <= LIMIT:
        found = -torch.special.xlogy(shares, shares).sum(dim=-1)
    elif abs(alpha - 1) < NEAR:
        # sum of λ^a = 1 + sum of λ (λ^(a - 1) - 1), without the 1 that drowns the rest near order 1
        powers = shares.where(shares > 0, 1.0).log().mul(alpha - 1).expm1()
        found = (shares * powers).sum(dim=-1).log1p() / (1 - alpha)
    else:
        found = (alpha * shares.log()).logsumexp(dim=-1) / (1 - alpha)
    return found.clamp(0, log(weights.shape[-1])) + 0.0  # -0.0 is 0
