"""S_alpha of a spectrum: numpy's eigenvalues, known spectra, orders near 1, small eigenvalues."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness.errors import UserError

entropy = importlib.import_module("lrd_harness.plugins.metrics._entropy")
few = settings(max_examples=30, deadline=None, derandomize=True)
ORDERS = (0.1, 0.5, 0.95, 1.0, 1.05, 2.0, 5.0, 300.0, math.inf)
SHAPES = ((3, 9), (9, 3), (1, 5), (5, 1), (7, 7))


def plain(rows, alpha):
    """The definition, from the singular values of the rows."""
    shares = np.linalg.svd(rows, compute_uv=False) ** 2
    shares = shares[shares > 1e-25 * shares[0]] / shares.sum()
    if alpha == 1:
        return -(shares * np.log(shares)).sum()
    if alpha == math.inf:
        return -np.log(shares[0])
    top = shares[0]  # taken out of the sum, as large orders leave nothing of it
    return (np.log(((shares / top) ** alpha).sum()) + alpha * np.log(top)) / (1 - alpha)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", ORDERS)
def test_as_numpy_has_it(alpha, shape):
    rows = np.random.RandomState(0).randn(4, *shape)
    found = entropy.entropy_of_rows(torch.tensor(rows), alpha)
    np.testing.assert_allclose(found, [plain(r, alpha) for r in rows], rtol=1e-9, atol=1e-12)
    gram = rows @ rows.swapaxes(1, 2)
    found = entropy.entropy_of_gram(torch.tensor(gram), alpha)
    expected = [plain(r, alpha) for r in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-6 if alpha < 0.5 else 1e-9, atol=1e-12)


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_equal_eigenvalues_have_the_entropy_log_k(alpha, k):
    """Of rank k in larger matrices, whose zeros come out as rounding."""
    rng = np.random.RandomState(k)
    turn, _ = np.linalg.qr(rng.randn(12, 12))
    rows = torch.tensor(np.repeat(turn[:k], 4, axis=0))
    assert float(entropy.entropy_of_rows(rows, alpha)) == pytest.approx(math.log(k), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("least", [1e-3, 1e-6, 1e-9])
def test_small_eigenvalues_count_below_order_1(alpha, least):
    """1e-9 in length is 1e-18 squared: below what a product of rows would hold."""
    rng = np.random.RandomState(0)
    left, right = (np.linalg.qr(rng.randn(n, 4))[0] for n in (20, 9))
    lengths = np.array([1, 0.5, 0.1, least])
    shares = lengths**2 / (lengths**2).sum()
    expected = math.log((shares**alpha).sum()) / (1 - alpha)
    found = float(entropy.entropy_of_rows(torch.tensor((left * lengths) @ right.T), alpha))
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6, 1e-8, 1e-12, -1e-12, -1e-8, -1e-6, -1e-4])
def test_orders_near_1_keep_their_digits(step):
    """S_alpha ~ S_1 - (alpha - 1)/2 · variance of -log λ, to first order."""
    shares = np.random.RandomState(0).dirichlet(np.ones(6))
    information = -np.log(shares)
    mean = shares @ information
    variance = shares @ (information - mean) ** 2
    found = float(entropy.entropy(torch.tensor(shares), 1 + step))
    assert found == pytest.approx(mean - step / 2 * variance, rel=2 * step**2 + 1e-9)


@few
@given(
    st.integers(0, 10_000),
    st.sampled_from(SHAPES),
    st.floats(0.05, 20),
    st.floats(0.05, 20),
    st.booleans(),
)
def test_within_bounds_and_falling_with_the_order(seed, shape, one, other, deficient):
    rows = np.random.RandomState(seed).randn(*shape)
    if deficient:
        rows = rows[:, :1] * rows[:1]
    lower, higher = sorted((one, other))
    at = [float(entropy.entropy_of_rows(torch.tensor(rows), a)) for a in (lower, higher)]
    assert 0 <= at[1] <= at[0] + 1e-9
    assert at[0] <= math.log(min(shape))


def test_no_rows_but_zeros_have_no_entropy():
    rows = torch.zeros(2, 3, 4, dtype=torch.float64)
    rows[1, 0, 0] = 2
    for alpha in ORDERS:
        found = entropy.entropy_of_rows(rows, alpha).tolist()
        assert math.isnan(found[0])
        assert found[1] == 0


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (1, 1)])
def test_nothing_is_written_as_0_and_not_as_minus_0(alpha, shape):
    """Two tokens, or texts, centred are one direction."""
    rows = torch.ones(*shape, dtype=torch.float64)
    rows[::2] *= -1
    for found in (entropy.entropy_of_rows(rows, alpha), entropy.entropy_of_gram(rows @ rows.mT)):
        assert str(float(found)) == "0.0"
    assert str(float(entropy.entropy(torch.tensor([1.0, 0.0]), alpha))) == "0.0"


@pytest.mark.parametrize("alpha", [0, -1, math.nan])
def test_orders_out_of_range(alpha):
    with pytest.raises(UserError, match="m: alpha must be above 0"):
        entropy.check_order("m", alpha)
    entropy.check_order("m", 1e-3)
