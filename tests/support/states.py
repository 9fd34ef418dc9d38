"""Made states of texts, layer by layer, for the tests of metrics."""

from __future__ import annotations

from typing import Any

import numpy as np


def walk(seed: int = 5, states: int = 5, n: int = 60, d: int = 12) -> Any:
    """States (states, n, d) that move a step of noise each; rows of unit length."""
    x = np.random.RandomState(seed).randn(states, n, d).cumsum(0)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def signs(seed: int, states: int = 4, n: int = 60, d: int = 8, distinct: int | None = None) -> Any:
    """Rows of ±1 with many ties: their cosines are exact, whoever computes them.

    distinct: how many rows differ; the others are equal to one of these.
    """
    rng = np.random.RandomState(seed)
    x = rng.choice([-1.0, 1.0], (states, n, d))
    if distinct is None:
        return x
    again = np.r_[np.arange(distinct), rng.randint(distinct, size=n - distinct)]
    return x[:, rng.permutation(again)]


def agree(scores: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-12) -> None:
    """That the expected scores, and lists of them, are as close as that."""
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, rtol=rtol, atol=atol, err_msg=name)


def views(n: int = 10, d: int = 16, seed: int = 3, q: int = 2, unit: bool = True) -> Any:
    """Two states (n, q, d) of texts with q noisy views each."""
    texts, noise = np.random.RandomState(2), np.random.RandomState(seed)
    x = texts.randn(2, n, 1, d) + 0.3 * noise.randn(2, n, q, d)
    return x / np.linalg.norm(x, axis=-1, keepdims=True) if unit else x
