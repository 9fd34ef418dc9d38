"""Dataset entropy, effective rank and cosine: expected values, bounds, faults."""

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

from lrd_harness.errors import DegenerateState, UnitError, UserError
from lrd_harness.measuring import measure

ENTROPY, RANK, COSINE = (
    importlib.import_module(f"lrd_harness.plugins.metrics.{name}").lrd_metrics()[0]
    for name in ("dataset_entropy", "effective_rank", "cosine")
)
PROMPT = importlib.import_module("lrd_harness.plugins.metrics.prompt_entropy").lrd_metrics()[0]
few = settings(max_examples=25, deadline=None, derandomize=True)


def tensors(T, d):
    return [torch.tensor(s) for s in np.random.RandomState(1).randn(3, T, d)]


def states(seed=0, layers=3, n=20, d=6):
    return np.random.RandomState(seed).randn(layers, n, d)


def test_expected_values():
    """golden.json's inputs have fewer texts than `measure` takes, so the functions are called."""
    wide, tall = tensors(6, 16), tensors(16, 6)
    np.testing.assert_allclose(
        RANK.measure(wide)["effective_rank"],
        [5.551158829543059, 5.591082209003906, 5.811095405458024],
        rtol=1e-12,
    )
    found = measure(RANK, tall)
    expected = [5.499378846163755, 5.599580744286477, 5.7378282066154425]
    np.testing.assert_allclose(found["effective_rank"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["normalised"], np.array(expected) / 6, rtol=1e-12)
    np.testing.assert_allclose(
        ENTROPY.measure(wide)["dataset_entropy"],
        [1.4920242391316128, 1.5340969926911678, 1.5539176630890092],
        rtol=1e-12,
    )
    found = measure(ENTROPY, tall)
    expected = [1.6148241839665827, 1.6559459071966622, 1.6055080227495144]
    np.testing.assert_allclose(found["dataset_entropy"], expected, rtol=1e-12)
    np.testing.assert_allclose(found["normalised"], np.array(expected) / math.log(6), rtol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 3])
def test_texts_are_to_a_data_set_what_tokens_are_to_a_text(alpha):
    x = states()
    found = measure(ENTROPY, x, alpha=alpha)["dataset_entropy"]
    np.testing.assert_allclose(found, measure(PROMPT, x, alpha=alpha)["prompt_entropy"])


@few
@given(st.integers(0, 9999), st.integers(8, 30), st.integers(1, 40), st.sampled_from([0.5, 1, 2]))
def test_bounds_hold_on_every_value(seed, n, d, alpha):
    x = states(seed, n=n, d=d) * 10.0 ** np.random.RandomState(seed).randint(-5, 5)
    entropy = measure(ENTROPY, x, alpha=alpha)
    assert all(0 <= v <= math.log(min(n, d)) for v in entropy["dataset_entropy"])
    assert ("normalised" in entropy) == (d > 1)
    assert all(0 <= v <= 1 for v in entropy.get("normalised", []))
    rank = measure(RANK, x)
    assert all(1 <= v <= min(n, d) for v in rank["effective_rank"])
    assert all(0 < v <= 1 for v in rank["normalised"])
    assert all(-1 <= v <= 1 for v in measure(COSINE, x)["cosine"])


def rank_me(h):
    s = np.linalg.svd(h, compute_uv=False)
    p = s[s > 0] / s.sum()
    return math.exp(-(p * np.log(p)).sum())


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("least", [1, 1e-4, 1e-8, 0])
def test_effective_rank_of_any_spectrum(shape, least):
    """Small singular values drown in a squared matrix; many of them together count."""
    rng = np.random.RandomState(0)
    left, right = (np.linalg.qr(rng.randn(m, 12))[0] for m in shape)
    x = (left * np.array([1.0] + [least or 1e-30] * 11)) @ right.T
    found = RANK.measure([torch.tensor(x)])["effective_rank"][0]
    assert found == pytest.approx(rank_me(x), rel=1e-9)
    assert found == pytest.approx(rank_me(np.diag([1.0] + [least or 1e-30] * 11)), rel=1e-9)


def test_equal_singular_values_fill_all_dimensions():
    turn, _ = np.linalg.qr(np.random.RandomState(0).randn(20, 5))
    assert measure(RANK, [turn, turn])["effective_rank"] == pytest.approx([5, 5], rel=1e-12)


def test_cosine_as_scipy_has_it():
    x = states(layers=4)
    expected = [
        np.mean([1 - cosine_distance(a, b) for a, b in zip(h, g, strict=True)])
        for h, g in pairwise(x)
    ]
    scores = measure(COSINE, x)
    np.testing.assert_allclose(scores["cosine"], expected, rtol=1e-9)
    assert scores["mean_cosine"] == pytest.approx(np.mean(expected))
    assert measure(COSINE, [x[0], 2 * x[0], -x[0]])["cosine"] == pytest.approx([1, -1])


def test_faults_are_named():
    x = states()
    with pytest.raises(UnitError, match="layer 1 has 5, layer 0 has 6"):
        measure(COSINE, [x[0], x[1][:, :5]])
    for metric in (ENTROPY, RANK):
        with pytest.raises(DegenerateState, match="layer 1"):
            metric.measure([torch.tensor(x[0]), torch.zeros(20, 6, dtype=torch.float64)])
    with pytest.raises(UserError, match="alpha must be above 0, not 0"):
        measure(ENTROPY, x, alpha=0)
    with pytest.raises(UserError, match="has none"):
        measure(RANK, x, alpha=2)
    assert measure(RANK, [x[0], x[1][:, :5]])["start"] == 0  # widths may differ


@pytest.mark.parametrize("metric", [ENTROPY, RANK, COSINE], ids=lambda m: m.name)
def test_a_first_state_without_texts_is_left_out(metric):
    x = states()
    x[0] = 1
    scores = measure(metric, x)
    assert scores.pop("start") == 1
    rest = measure(metric, x[1:])
    rest.pop("start")
    assert scores == rest
