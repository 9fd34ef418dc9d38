"""Attention sinks: how far the first token's state stands out, and how many heads look at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lrd_harness.contracts import Metric
from lrd_harness.errors import NotEnoughTokens, UserError
from lrd_harness.hookspecs import hookimpl

from ._directions import LAWS, pieces

if TYPE_CHECKING:
    import torch


LEAST, MOST = 16, 64  # tokens that sink_rate reads; even uniform attention is above 0.3 up to 9


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metrics."""
    norm = Metric("sink_norm", sink_norm, "tokens", norm="raw", of="states")
    every = norm, Metric("sink_rate", sink_rate, "attention", of="blocks")
    return [replace(m, invariances=LAWS, group="geometry", default=False) for m in every]


def sink_norm(states: Sequence[torch.Tensor]) -> dict[str, list[float]]:
    """By how much the first token's state is longer than the others, as a logarithm.

    Of the states as the blocks wrote them: a final norm makes all tokens alike. It says something
    of causal models, whose first token sees itself alone.

    Parameters
    ----------
    states : tensor (S, T, d), or S tensors (T, d_l)
        The token states of one text.

    Returns
    -------
    dict
        ``sink_norm``, S values in nats: log of the first token's length over the median of the
        others'; 0 where it does not stand out, NaN where one of these lengths is 0.

    Raises
    ------
    NotEnoughTokens
        Below 2 tokens.

    Examples
    --------
    >>> import torch
    >>> sink_norm(torch.tensor([[[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]).double())["sink_norm"]
    [0.6931471805599453]
    """
    import torch

    found: list[float] = []
    for piece in pieces("sink_norm", states, 2):
        lengths = torch.linalg.vector_norm(piece, dim=-1)  # (s, T)
        ordered = lengths[:, 1:].sort(dim=1).values
        middle = ordered.shape[1] // 2  # of an even number the median is the mean of two
        others = (ordered[:, middle] + ordered[:, -1 - middle]) / 2
        ratios = (lengths[:, 0] / others).log()
        found += ratios.where((lengths[:, 0] > 0) & (others > 0), torch.nan).tolist()
    return {"sink_norm": found}


def sink_rate(maps: Sequence[torch.Tensor], eps: float = 0.3) -> dict[str, list[float]]:
    """The share of a block's heads that give the first token much of their attention.

    Source: Gu et al. 2025, When Attention Sink Emerges in Language Models (arXiv 2410.10781).

    Parameters
    ----------
    maps : sequence of L tensors (h, T, T)
        One text's attention in each block, each row the weights of one token; of at least 16
        tokens, of which the first 64 are read.
    eps : float, default 0.3
        The mean weight on the first token above which a head counts.

    Returns
    -------
    dict
        ``sink_rate``, L values in 0..1, one a block.

    Raises
    ------
    NotEnoughTokens
        Below 16 tokens.
    UserError
        For an eps that no mean weight, or each, is above.

    Examples
    --------
    One head looks at the first token alone, the other at each token itself:

    >>> import torch
    >>> first = torch.eye(16)[:1].repeat(16, 1)
    >>> sink_rate([torch.stack([first, torch.eye(16)]).double()])["sink_rate"]
    [0.5]
    """
    if not 0 <= eps < 1:
        raise UserError(f"sink_rate: eps must be at least 0 and below 1, not {eps}")
    tokens = maps[0].shape[-1]
    if tokens < LEAST:
        raise NotEnoughTokens(f"sink_rate needs at least {LEAST} tokens, got {tokens}")
    return {"sink_rate": [float(on_first(block).gt(eps).double().mean()) for block in maps]}


def on_first(block: torch.Tensor) -> torch.Tensor:
    """Of maps (h, T, T) each head's mean weight on the first token, over 64 rows at most: (h,)."""
    return block[:, :MOST, 0].mean(dim=1)
