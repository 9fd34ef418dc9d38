"""Cosines of successive states: block influence, of each token, and cosine, of pooled texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from lrd_harness.contracts import Metric
from lrd_harness.hookspecs import hookimpl

from ._directions import LAWS, directions, equal_widths, one_minus_cosine, pieces

if TYPE_CHECKING:
    import torch

    from lrd_harness.contracts import Values


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metrics."""
    tokens = Metric("block_influence", block_influence, "tokens", finish=over_tokens)
    every = tokens, Metric("cosine", cosine)
    return [replace(metric, invariances=LAWS, of="steps") for metric in every]


def block_influence(states: Sequence[torch.Tensor]) -> dict[str, float | list[float]]:
    """1 - the cosine of a token's states before and after each block.

    Source: ShortGPT, arXiv 2403.03853.

    Parameters
    ----------
    states : tensor (S, T, d)
        The token states of one text, all of one width.

    Returns
    -------
    dict
        ``block_influence``, S - 1 values in 0..2, named by the state before the block: mean over
        the tokens of 1 - cosine, 1 for a state of zeros; ``cosine``, the mean cosine; ``tokens``.
        Over several texts the means are over all tokens of all texts.

    Raises
    ------
    NotEnoughTokens
        Without tokens.
    UnitError
        If widths differ.

    Examples
    --------
    Block 1 doubles the states, block 2 turns them by a right angle:

    >>> import torch
    >>> before = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> after = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> block_influence([before, 2 * before, after])["block_influence"]
    [0.0, 1.0]
    """
    # State by state, which stay in the processor's cache.
    single = pieces("block_influence", list(equal_widths("block_influence", states)), 1)
    influence = _between(map(directions, single))
    return {
        "block_influence": influence,
        "cosine": [1 - value for value in influence],
        "tokens": len(states[0]),
    }


def over_tokens(texts: Sequence[Values]) -> Values:
    """The means over all tokens of all texts, and how many `tokens` there were."""
    import numpy as np

    tokens = np.array([text["tokens"] for text in texts], dtype=np.float64)
    shares = tokens / tokens.sum()
    means = {
        name: (shares @ np.array([text[name] for text in texts])).tolist()
        for name in ("block_influence", "cosine")
    }
    return {**means, "tokens": int(tokens.sum())}


def cosine(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """Mean cosine of a text's state and its next one.

    Parameters
    ----------
    states : sequence of S tensors (n, d)
        Pooled texts, all of one width.

    Returns
    -------
    dict
        ``cosine``, S - 1 values in -1..1: the mean over the texts; 0 for a state of zeros.

    Raises
    ------
    UnitError
        If widths differ.

    Examples
    --------
    >>> import torch
    >>> state = torch.eye(3)
    >>> cosine([state, 2 * state, -state])["cosine"]
    [1.0, -1.0]
    """
    turned = _between(map(directions, equal_widths("cosine", states)))
    return {"cosine": [1 - value for value in turned]}


def _between(units: Iterable[torch.Tensor]) -> list[float]:
    """1 - the mean cosine of each state of directions and the next."""
    return [float(one_minus_cosine(a, b).mean()) for a, b in pairwise(units)]
