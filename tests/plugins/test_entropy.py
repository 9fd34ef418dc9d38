"""Entropy of a spectrum and of pooled texts, effective rank and cosine, by numpy and by hand."""

from __future__ import annotations

import importlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine as cosine_distance

from lrd_harness import measure
from lrd_harness.errors import DegenerateState, UnitError

entropy = importlib.import_module("lrd_harness.plugins.metrics.entropy")
_, ENTROPY, RANK = entropy.lrd_metrics()
COSINE = importlib.import_module("lrd_harness.plugins.metrics.cosine").lrd_metrics()[1]
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


@pytest.mark.parametrize("alpha", ORDERS)
def test_as_numpy_has_it(alpha):
    for shape in SHAPES:
        rows = np.random.RandomState(0).randn(4, *shape)
        expected = [plain(r, alpha) for r in rows]
        values = entropy.entropy_of_rows(torch.tensor(rows), alpha)
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)
        values = entropy.entropy_of_gram(torch.tensor(rows @ rows.swapaxes(1, 2)), alpha)
        rtol = 1e-6 if alpha < 0.5 else 1e-9
        np.testing.assert_allclose(values, expected, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("alpha", ORDERS)
def test_special_spectra(alpha):
    """k equal eigenvalues have the entropy log k, and their zeros come out as rounding; nothing is
    0 and not -0; no rows but zeros have none."""
    for k in (1, 2, 5):
        turn, _ = np.linalg.qr(np.random.RandomState(k).randn(12, 12))
        rows = torch.tensor(np.repeat(turn[:k], 4, axis=0))
        assert float(entropy.entropy_of_rows(rows, alpha)) == pytest.approx(math.log(k), abs=1e-12)
    for shape in ((2, 5), (5, 2), (1, 1)):  # two tokens, or texts, centred are one direction
        rows = torch.ones(*shape, dtype=torch.float64)
        rows[::2] *= -1
        assert str(float(entropy.entropy_of_rows(rows, alpha))) == "0.0"
        assert str(float(entropy.entropy_of_gram(rows @ rows.mT, alpha))) == "0.0"
    assert str(float(entropy.entropy(torch.tensor([1.0, 0.0]), alpha))) == "0.0"
    rows = torch.zeros(2, 3, 4, dtype=torch.float64)
    rows[1, 0, 0] = 2
    nothing, single = entropy.entropy_of_rows(rows, alpha).tolist()
    assert math.isnan(nothing)
    assert single == 0


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("least", [1e-3, 1e-6, 1e-9])
def test_small_eigenvalues_count_below_order_1(alpha, least):
    """1e-9 in length is 1e-18 squared: below what a product of rows would hold."""
    rng = np.random.RandomState(0)
    left, right = (np.linalg.qr(rng.randn(n, 4))[0] for n in (20, 9))
    lengths = np.array([1, 0.5, 0.1, least])
    shares = lengths**2 / (lengths**2).sum()
    expected = math.log((shares**alpha).sum()) / (1 - alpha)
    value = float(entropy.entropy_of_rows(torch.tensor((left * lengths) @ right.T), alpha))
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6, 1e-8, 1e-12, -1e-12, -1e-8, -1e-6, -1e-4])
def test_orders_near_1_keep_their_digits(step):
    """S_alpha ~ S_1 - (alpha - 1)/2 · variance of -log λ, to first order."""
    shares = np.random.RandomState(0).dirichlet(np.ones(6))
    information = -np.log(shares)
    mean = shares @ information
    variance = shares @ (information - mean) ** 2
    value = float(entropy.entropy(torch.tensor(shares), 1 + step))
    assert value == pytest.approx(mean - step / 2 * variance, rel=2 * step**2 + 1e-9)


orders = st.floats(0.05, 20)


@few
@given(st.integers(0, 10_000), st.sampled_from(SHAPES), orders, orders, st.booleans())
def test_within_bounds_and_falling_with_the_order(seed, shape, order, other, deficient):
    rows = np.random.RandomState(seed).randn(*shape)
    if deficient:
        rows = rows[:, :1] * rows[:1]
    at = [float(entropy.entropy_of_rows(torch.tensor(rows), a)) for a in sorted((order, other))]
    assert 0 <= at[1] <= at[0] + 1e-9
    assert at[0] <= math.log(min(shape))


def states(seed=0, layers=3, n=20, d=6):
    return np.random.RandomState(seed).randn(layers, n, d)


@few
@given(st.integers(0, 9999), st.integers(8, 30), st.integers(1, 40), st.sampled_from([0.5, 1, 2]))
def test_bounds_hold_on_pooled_texts(seed, n, d, alpha):
    x = states(seed, n=n, d=d) * 10.0 ** np.random.RandomState(seed).randint(-5, 5)
    spread = measure(ENTROPY, x, alpha=alpha)
    assert all(0 <= v <= math.log(min(n, d)) for v in spread["dataset_entropy"])
    assert ("normalised" in spread) == (d > 1)
    assert all(0 <= v <= 1 for v in spread.get("normalised", []))
    rank = measure(RANK, x)
    assert all(1 <= v <= min(n, d) for v in rank["effective_rank"])
    assert all(0 < v <= 1 for v in rank["normalised"])
    assert all(-1 <= v <= 1 for v in measure(COSINE, x)["cosine"])


def rank_me(h):
    s = np.linalg.svd(h, compute_uv=False)
    p = s[s > 0] / s.sum()
    return math.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("least", [1, 1e-4, 1e-8, 1e-30])
def test_effective_rank_of_any_spectrum(shape, least):
    """Small singular values drown in a squared matrix; many of them together count."""
    rng = np.random.RandomState(0)
    left, right = (np.linalg.qr(rng.randn(m, 12))[0] for m in shape)
    x = (left * np.array([1.0] + [least] * 11)) @ right.T
    value = RANK.measure([torch.tensor(x)])["effective_rank"][0]
    assert value == pytest.approx(rank_me(x), rel=1e-9)
    assert value == pytest.approx(rank_me(np.diag([1.0] + [least] * 11)), rel=1e-9)


def test_cosine_as_scipy_has_it():
    x = states(layers=4)
    expected = [
        np.mean([1 - cosine_distance(a, b) for a, b in zip(h, g, strict=True)])
        for h, g in pairwise(x)
    ]
    scores = measure(COSINE, x)
    np.testing.assert_allclose(scores["cosine"], expected, rtol=1e-9)
    assert scores["mean_cosine"] == pytest.approx(np.mean(expected))


def test_widths_and_states_of_zeros():
    x = states()
    with pytest.raises(UnitError, match="layer 1 has 5, layer 0 has 6"):
        measure(COSINE, [x[0], x[1][:, :5]])
    assert measure(RANK, [x[0], x[1][:, :5]]).start == 0  # widths may differ
    for metric in (ENTROPY, RANK):
        with pytest.raises(DegenerateState, match="layer 1"):
            metric.measure([torch.tensor(x[0]), torch.zeros(20, 6, dtype=torch.float64)])
