"""Block influence: how much each block turns the states of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrd_harness.contracts import Metric
from lrd_harness.hookspecs import hookimpl

from ._directions import directions, equal_widths, one_minus_cosine, pieces

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from lrd_harness.contracts import Values


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="block_influence",
            measure=block_influence,
            needs="tokens",
            finish=finish,
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def block_influence(states: Sequence[torch.Tensor]) -> dict[str, float | list[float]]:
    """1 - the cosine of a token before and after each block (ShortGPT, arXiv 2403.03853).

    states: one text's, (S, T, d).

    Returns, named by the state before the block, `block_influence` (S - 1 values, 0..2): the mean
    over the tokens of 1 - cosine; `cosine`: the mean cosine; `tokens`: T. A state of zeros is at
    right angles to all.
    Raises NotEnoughTokens without tokens, UnitError for widths that differ.
    """
    import torch

    parts, before = [], None
    # state by state, which stay in the processor's cache
    for piece in pieces("block_influence", list(equal_widths("block_influence", states)), 1):
        unit = directions(piece)
        if before is not None:
            parts.append(one_minus_cosine(before, unit).mean(dim=-1))
        before = unit
    influence = torch.cat(parts).tolist() if parts else []
    return {
        "block_influence": influence,
        "cosine": [1 - value for value in influence],
        "tokens": len(states[0]),
    }


def finish(texts: Sequence[Values]) -> Values:
    """The means over all tokens of all texts, and how many `tokens` there were."""
    import numpy as np

    tokens = np.array([text["tokens"] for text in texts], dtype=np.float64)
    shares = tokens / tokens.sum()
    return {
        "block_influence": (
            shares @ np.array([text["block_influence"] for text in texts])
        ).tolist(),
        "cosine": (shares @ np.array([text["cosine"] for text in texts])).tolist(),
        "tokens": int(tokens.sum()),
    }
