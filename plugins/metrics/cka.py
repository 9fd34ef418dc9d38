"""Linear CKA of layers, debiased: how far the texts vary alike in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrd_harness import summaries
from lrd_harness.capture.covariance import CKA_TEXTS, cka_matrix
from lrd_harness.contracts import Metric
from lrd_harness.hookspecs import hookimpl

from ._directions import LAWS

if TYPE_CHECKING:
    import torch

    from lrd_harness.scores import Of

LISTS: Mapping[str, Of] = {"cka_last": "states", "cka_next": "steps"}


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metrics."""
    table: Mapping[str, Of] = {"cka_matrix": "states", **LISTS}
    fields: Any = {"group": "geometry", "invariances": LAWS, "texts": CKA_TEXTS}
    return [
        Metric("cka_last", cka_last, of=LISTS, **fields),
        Metric("cka", cka, of=table, default=False, **fields),
    ]


def cka_last(states: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Linear CKA of each state with the last one and with the next, debiased.

    Sources: Kornblith et al., arXiv 1905.00414; without the bias that takes it to 1 for anything
    where there are fewer texts than dimensions, as of Song et al. 2012.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts, at least 20. Compares each text with each, in pieces of 2**25 numbers in all,
        256 MiB, for each of which the states are read once.

    Returns
    -------
    dict
        ``cka_last``, S values in -1..1, 1 at the last, which is in no summary, about 0 if
        independent; ``cka_next``, S - 1 values, named by the earlier state.

    Raises
    ------
    NotEnoughTexts
        Below 20 texts.
    DegenerateState
        Where all texts have the same state, or are equally far from each other.

    Examples
    --------
    Scaling and turning change nothing, and noise is like nothing, also in more dimensions:

    >>> import torch
    >>> noise, last = torch.randn(2, 400, 500, generator=torch.Generator().manual_seed(0)).double()
    >>> [round(value, 1) + 0 for value in cka_last([noise, 2 * last.flip(1), last])["cka_last"]]
    [0.0, 1.0, 1.0]
    """
    return _lists(cka_matrix(states))


def cka(states: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Linear CKA of each two states, debiased: a map, beside which `top_share` belongs.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        As of `cka_last`.

    Returns
    -------
    dict
        ``cka_matrix``, a row per state; ``cka_last`` and ``cka_next`` as of `cka_last`.

    Raises
    ------
    NotEnoughTexts, DegenerateState
        As `cka_last`.

    Examples
    --------
    >>> import torch
    >>> noise, last = torch.randn(2, 400, 500, generator=torch.Generator().manual_seed(0)).double()
    >>> [[round(cell, 1) + 0 for cell in row] for row in cka([noise, last])["cka_matrix"]]
    [[1.0, 0.0], [0.0, 1.0]]
    """
    matrix = cka_matrix(states)
    return {"cka_matrix": matrix.tolist(), **_lists(matrix)}


def _lists(matrix: torch.Tensor) -> dict[str, Any]:
    last, after = matrix[:, -1].tolist(), matrix.diagonal(1).tolist()
    return {"cka_last": last, **summaries(last[:-1], "cka_last"), "cka_next": after}
