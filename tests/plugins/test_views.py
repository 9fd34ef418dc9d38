"""InfoNCE, LiDAR and DiME: expected values, plain formulas, bounds, faults."""

from __future__ import annotations

import importlib
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from states import views

from lrd_harness import measure
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UnitError, UserError

METRICS = importlib.import_module("lrd_harness.plugins.metrics.views").lrd_metrics()
INFONCE, LIDAR, DIME, ALIGNMENT = METRICS
few = settings(max_examples=12, deadline=None, derandomize=True)


def R(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


def test_more_views_than_asked_for_change_nothing():
    many = views(q=20, unit=False)
    assert measure(INFONCE, many) == measure(INFONCE, many[:, :, :2])
    assert measure(DIME, many) == measure(DIME, many[:, :, :2])
    assert measure(LIDAR, many) == measure(LIDAR, many[:, :, :16])
    assert measure(LIDAR, many)["views"] == 16
    assert [m.views for m in METRICS] == [2, 16, 2, 2]


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1, 7])
def test_infonce_is_a_cross_entropy(temperature):
    x = R(0, 2, 30, 2, 9)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    for layer, loss in enumerate(measure(INFONCE, x, temperature=temperature)["loss"]):
        logits = unit[layer, :, 0] @ unit[layer, :, 1].T / temperature
        assert loss == pytest.approx(-log_softmax(logits, axis=1).diagonal().mean(), rel=1e-9)


def test_infonce_of_equal_and_of_unrelated_views():
    x = R(0, 1, 200, 1, 50)
    same = measure(INFONCE, np.tile(x, (2, 1, 2, 1)), temperature=0.02)
    assert same["mi"] == pytest.approx([1, 1], abs=1e-9)
    assert all(loss > 0 for loss in same["loss"])  # small, and not rounded to 0
    unrelated = measure(INFONCE, R(1, 2, 200, 2, 50), temperature=1)
    assert unrelated["mi"] == pytest.approx([0, 0], abs=0.01)


def exact_lidar(h, delta=1e-4):
    """The definition, in fifty digits."""
    n, q, d = h.shape
    with mpmath.workdps(50):
        texts = [[[mpmath.mpf(v) for v in view] for view in text] for text in h.tolist()]
        means = [[sum(column) / q for column in zip(*text, strict=True)] for text in texts]
        rest = mpmath.matrix(
            [
                [v - m for v, m in zip(view, mean, strict=True)]
                for text, mean in zip(texts, means, strict=True)
                for view in text
            ]
        )
        scatter = rest.T * rest / (n * q) + mpmath.mpf(delta) * mpmath.eye(d)
        centre = [sum(column) / n for column in zip(*means, strict=True)]
        rows = mpmath.matrix([[v - c for v, c in zip(m, centre, strict=True)] for m in means])
        values = mpmath.eigsy(rows * mpmath.inverse(scatter) * rows.T, eigvals_only=True)
        p = [v / sum(values) for v in values if v > 1e-40 * max(values)]
        return float(-sum(v * mpmath.log(v) for v in p))


@pytest.mark.parametrize("scale", [1, 1e2, 1e4, 3e5, 1e7])
@pytest.mark.parametrize(("n", "q", "d"), [(8, 2, 17), (9, 3, 12)])
def test_lidar_of_large_states_in_fifty_digits(scale, n, q, d):
    """Between, a Cholesky factor is found though the squares have lost delta: 1 % off at 3e5."""
    x = scale * (R(0, 2, n, 1, d) + R(100, 2, n, q, d))
    expected = [exact_lidar(h) for h in x]
    np.testing.assert_allclose(measure(LIDAR, x)["lidar"], expected, rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_views_that_are_alike_are_no_fault_of_the_texts(metric):
    """As of single letters, which no augmentation can change."""
    alike = np.repeat(R(0, 3, 20, 1, 6), 16, axis=2)
    scores = measure(metric, alike)
    assert scores.start == 0
    assert np.isfinite(scores[metric.layer_choice.score]).all()


def plain_dime(h, alpha, draws=10):
    def entropy(k):
        values = np.linalg.eigvalsh(k / np.trace(k)).clip(0)
        values = values[values > 1e-13]
        if alpha == 1:
            return -(values * np.log(values)).sum()
        return np.log((values**alpha).sum()) / (1 - alpha)

    h = h / np.linalg.norm(h, axis=-1, keepdims=True)
    a, b = (h[:, i] @ h[:, i].T for i in range(2))
    orders = [np.random.default_rng(i).permutation(len(h)) for i in range(draws)]
    return entropy(a * b), np.mean([entropy(a * b[o][:, o]) for o in orders])


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 3])
@pytest.mark.parametrize(("n", "d"), [(12, 40), (40, 12), (20, 1)])
def test_dime_by_its_definition(alpha, n, d):
    x = R(0, 2, n, 1, d) + 0.5 * R(1, 2, n, 2, d)
    for draws in (10, 3):
        scores = measure(DIME, x, alpha=alpha, permutations=draws)
        expected = np.array([plain_dime(h, alpha, draws) for h in x]).T
        np.testing.assert_allclose(scores["matched"], expected[0], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(scores["permuted"], expected[1], rtol=1e-6, atol=1e-9)


@few
@given(st.integers(0, 9999), st.integers(8, 20), st.integers(1, 30), st.floats(0, 3))
def test_bounds_hold_on_every_value(seed, n, d, noise):
    x = R(seed, 2, n, 1, d) + (noise + 1e-3) * R(seed + 1, 2, n, 2, d)
    dime = measure(DIME, x)
    for name in ("matched", "permuted"):
        assert all(0 <= v <= math.log(n) for v in dime[name])
    assert all(-1 <= v <= 1 for v in dime["normalised"])
    infonce = measure(INFONCE, x)
    assert all(v >= 0 for v in infonce["loss"])
    assert all(v <= 1 for v in infonce["mi"])
    lidar = measure(LIDAR, x)
    assert all(0 <= v <= math.log(min(n - 1, d)) for v in lidar["lidar"])
    assert all(0 <= v <= 1 for v in lidar.get("normalised", []))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_faults_are_named(metric):
    x = views()
    with pytest.raises(UnitError, match="needs 2 views of a text, got 1"):
        measure(metric, x[:, :, :1])
    with pytest.raises(NotEnoughTexts, match="at least 8 texts, got 7"):
        measure(metric, x[:, :7])
    with pytest.raises(NotEnoughTexts, match="at least 2 texts, got 1"):
        metric.measure([torch.tensor(s[:1]) for s in x])
    x[1] = x[1, :1]
    with pytest.raises(DegenerateState, match="layer 1"):
        measure(metric, x)
    x[1, 2, 1, 3] = np.inf
    with pytest.raises(NotFinite, match="layer 1"):
        measure(metric, x)
    noise = torch.tensor(R(0, 9, 1, 5))
    alike = torch.cat([noise, -noise], dim=1)  # texts that their means do not tell apart
    for state in {"lidar": [alike], "dime": [0 * alike]}.get(metric.name, ()):
        with pytest.raises(DegenerateState, match=f"{metric.name}: layer 0"):
            metric.measure([state])


def test_alignment():
    """Golden values, any power, and what a collapsed state has."""
    x = R(2, 2, 24, 1, 8) + 0.3 * R(3, 2, 24, 2, 8)
    found = measure(ALIGNMENT, x)["alignment"]
    assert found == pytest.approx([0.17448001885076392, 0.2182927507836454], rel=1e-9)
    spread = measure(ALIGNMENT, x)["uniformity"]
    assert spread == pytest.approx([-3.089716990627513, -3.143436656482824], rel=1e-9)
    a, b = np.moveaxis(x / np.linalg.norm(x, axis=-1, keepdims=True), 2, 0)
    for alpha in (0.5, 1, 3):
        expected = (np.linalg.norm(a - b, axis=-1) ** alpha).mean(axis=1)
        assert measure(ALIGNMENT, x, alpha=alpha)["alignment"] == pytest.approx(expected.tolist())
    one = ALIGNMENT.measure([torch.ones(8, 2, 3).double()])
    assert (one["alignment"], one["uniformity"]) == ([0], [pytest.approx(0, abs=1e-12)])
    for alpha in (0, -1, math.inf, math.nan):
        with pytest.raises(UserError, match="alpha must be above 0"):
            measure(ALIGNMENT, x, alpha=alpha)
    assert (ALIGNMENT.layer_choice, ALIGNMENT.group) == (("alignment", "min"), "geometry")
