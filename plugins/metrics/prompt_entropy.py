"""Prompt entropy: how many directions the tokens of a text spread over, layer by layer."""

from __future__ import annotations

from math import log, nan
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric
from lrd_harness.hookspecs import hookimpl

from ._directions import centred_directions, pieces
from ._entropy import check_order, entropy_of_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

    from lrd_harness.contracts import Values


BINS = 50
ROUNDING = 1e-12  # values as close as this are equal
DIP_TEXTS = 4  # the dip of fewer values says nothing


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metric."""
    return [
        Metric(
            name="prompt_entropy",
            measure=prompt_entropy,
            needs="tokens",
            layer_choice=Choice("prompt_entropy", "min"),
            finish=finish,
            invariances=frozenset({"rotation", "scaling", "permutation"}),
        )
    ]


def prompt_entropy(
    states: Sequence[torch.Tensor], alpha: float = 1.0, skip: int = 0
) -> dict[str, list[float]]:
    """Entropy of the Gram matrix of a text's tokens (Layer by Layer, arXiv 2502.02013).

    states: one text's, (S, T, d) or S tensors (T, d_l). Tokens are centred over the text and scaled
    to unit length. alpha: the order, above 0. skip: leading tokens left out, as a decoder's sink.

    Returns `prompt_entropy` (S values, nats): S_alpha; `normalised`: that / log min(T, d), NaN
    where the bound is 0; NaN where all tokens have the same state.
    Raises NotEnoughTokens below 2 tokens, UserError for parameters out of range.
    """
    check_order("prompt_entropy", alpha)
    found: list[float] = []
    normalised: list[float] = []
    for piece in pieces("prompt_entropy", states, 2, skip):
        values = entropy_of_rows(centred_directions(piece), alpha).tolist()
        bound = log(min(piece.shape[-2:]))
        found += values
        normalised += [value / bound if bound else nan for value in values]
    return {"prompt_entropy": found, "normalised": normalised}


def finish(texts: Sequence[Values]) -> Values:
    """From the values of all texts to one result; each layer over the texts with a value there.

    Returns the means of `prompt_entropy` and `normalised`; `dip`, Hartigan's statistic of the
    texts' entropies, and `dip_p`, its p-value for one peak (Does Representation Matter?, arXiv
    2412.09563, finds two); NaN below 4 texts; `histogram`: counts of `normalised` in 50 equal bins
    of 0..1, a row a layer.
    """
    import numpy as np

    entropies, shares = (
        [known(layer) for layer in np.array([text[name] for text in texts], dtype=np.float64).T]
        for name in ("prompt_entropy", "normalised")
    )
    dips = [dip(values) for values in entropies]
    return {
        "prompt_entropy": [mean(values) for values in entropies],
        "normalised": [mean(values) for values in shares],
        "dip": [statistic for statistic, _ in dips],
        "dip_p": [p for _, p in dips],
        "histogram": [np.histogram(x, bins=BINS, range=(0, 1))[0].tolist() for x in shares],
    }


def known(values: np.ndarray) -> np.ndarray:
    """The values (n,) that are not NaN."""
    kept: np.ndarray = values[values == values]
    return kept


def mean(values: np.ndarray) -> float:
    """The mean, NaN of no values."""
    return float(values.mean()) if len(values) else nan


def dip(values: np.ndarray) -> tuple[float, float]:
    """Hartigan's dip of values (n,) and its p-value; NaN below 4 values."""
    import diptest
    import numpy as np

    if len(values) < DIP_TEXTS:
        return nan, nan
    if np.ptp(values) <= ROUNDING:  # or it would find peaks in rounding
        values = np.zeros(len(values))
    statistic, p = diptest.diptest(values)
    return float(statistic), float(p)
