"""Covariance of states: its eigenvalues, and linear CKA, how far states vary alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrd_harness.errors import DegenerateState, NotEnoughTexts

if TYPE_CHECKING:
    import torch

CKA_TEXTS = 20
ROUNDING = 1e-12  # of the largest number: a spread as small as this is rounding
LOST = 1e-20  # (1e-10)²: below this share of the squared variance, CKA has not six digits left
PIECE = 2**25  # numbers of Gram matrices in memory at once: 256 MiB


def scaled(state: torch.Tensor) -> torch.Tensor:
    """(n, d) by its largest number, so that squares neither overflow nor vanish."""
    largest = state.abs().max()
    return state / largest if largest > 0 else state


def centred(state: torch.Tensor) -> torch.Tensor:
    """Rows (n, d) less their mean, scaled.

    Raises DegenerateState where all rows are the same.
    """
    rows = scaled(state)
    rows = rows - rows.mean(dim=0)
    if not rows.abs().max() > ROUNDING:
        raise DegenerateState("all texts have the same state")
    return scaled(rows)


def smaller_product(state: torch.Tensor) -> torch.Tensor:
    """The Gram matrix of (n, d) less its mean, or its covariance times n where that is smaller.

    Either has all eigenvalues of the covariance that are above 0, up to a factor.
    """
    rows = centred(state)
    return rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T


def eigenvalues(state: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of the covariance of (n, d), up to a factor: min(n, d), descending, 0 or more.

    What is left of the d are zeros. Raises DegenerateState where all rows are the same.

    Examples
    --------
    >>> import torch
    >>> eigenvalues(torch.tensor([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0]])).tolist()
    [2.0, 0.5, 0.0]
    """
    import torch

    ascending: torch.Tensor = torch.linalg.eigvalsh(smaller_product(state))
    return ascending.clamp(min=0).flip(0)


def top_share(state: torch.Tensor) -> float:
    """The largest eigenvalue of the covariance of (n, d) by the sum of all; raises as those."""
    values = eigenvalues(state)
    return float(values[0] / values.sum())


def participation(state: torch.Tensor) -> float:
    """The squared sum of the eigenvalues by the sum of their squares; raises as those."""
    product = smaller_product(state)
    return float(product.trace().square() / product.square().sum())


def pieces_of_pairs(n: int, numbers: int) -> Iterator[tuple[int, int]]:
    """Pieces of the upper half of an n x n matrix: rows start..stop of the columns from start on.

    numbers: at most in a piece, but for a single row.

    >>> list(pieces_of_pairs(5, 10))
    [(0, 2), (2, 5)]
    """
    start = 0
    while start < n:
        stop = min(n, start + max(1, numbers // (n - start)))
        yield start, stop
        start = stop


def cka_matrix(states: Sequence[torch.Tensor] | Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Linear CKA of each pair of states, debiased: (S, S) in -1..1, about 0 if independent.

    Sums over pairs of texts of products of the U-centred Gram matrices (Székely and Rizzo, 2014),
    made in pieces of 2**25 numbers, for each of which all states are read once.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l), float64, of layers; or such a mapping from names
        Of the same texts, at least 20.

    Raises
    ------
    NotEnoughTexts
        Below 20 texts, where the matrix says next to nothing.
    DegenerateState
        Where a state has no variance to compare: all texts are the same, or equally alike.

    Examples
    --------
    >>> import torch
    >>> state = torch.randn(20, 48, generator=torch.Generator().manual_seed(0)).double()
    >>> round(float(cka_matrix([state, 3 - state.flip(1)])[0, 1]), 9)
    1.0
    """
    import torch

    places: Sequence[Any] = [*states] if isinstance(states, Mapping) else range(len(states))
    names = places if isinstance(states, Mapping) else [f"layer {layer}" for layer in places]
    first = states[places[0]]
    n, device = len(first), first.device
    if n < CKA_TEXTS:
        raise NotEnoughTexts(f"CKA needs at least {CKA_TEXTS} texts, got {n}")
    products = torch.zeros(len(states), len(states), dtype=torch.float64, device=device)
    size = torch.ones(len(states), dtype=torch.float64, device=device)
    for start, stop in pieces_of_pairs(n, PIECE // len(states)):
        grams = products.new_empty(len(states), stop - start, n - start)
        for i, place in enumerate(places):
            state = states[place]  # reading it may raise too
            try:
                rows = centred(state)
            except DegenerateState:
                raise DegenerateState(f"CKA: {names[i]} is the same for all texts") from None
            squares = rows.square().sum(dim=1)
            sums = (rows @ rows.sum(dim=0) - squares) / (n - 2)  # of each text with all others
            gram = rows[start:stop] @ rows[start:].T - sums[start:stop, None] - sums[start:]
            grams[i] = (gram + sums.sum() / (n - 1)).triu(1)
            size[i] = squares.sum()
        flat = grams.flatten(1)
        products += flat @ flat.T
    alike = (products.diagonal() <= LOST * size.square()).nonzero().flatten().tolist()
    if alike:
        raise DegenerateState(f"CKA: in {names[alike[0]]} all texts are equally alike")
    norms = products.diagonal().sqrt()
    matrix: torch.Tensor = (products / norms[:, None] / norms).clamp(-1, 1).fill_diagonal_(1)
    return (matrix + matrix.T) / 2


def debiased_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Linear CKA of (n, d) and (n, d'), float64: that of `cka_matrix`.

    Raises NotEnoughTexts below 20 texts, DegenerateState where either has no variance to compare.
    """
    try:
        return float(cka_matrix([x, y])[0, 1])
    except DegenerateState:
        raise DegenerateState("CKA: all texts are the same, or equally alike") from None
