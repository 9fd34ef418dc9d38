"""Halves of texts: expected values, ranks by scipy, laws, ties."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group, rankdata

from lrd_harness import measure
from lrd_harness.errors import NotEnoughTexts, UnitError
from lrd_harness.testing import check_metric

(METRIC,) = importlib.import_module("lrd_harness.plugins.metrics.split_text").lrd_metrics()


def R(seed, *shape):
    return np.random.RandomState(seed).randn(*shape)


def halves(n=40, d=10, noise=(2, 0.5, 0.55, 0.7)):
    """The made halves of golden-more.json: what a text's share, and noise by layer."""
    scale = np.reshape(noise, (-1, 1, 1, 1))
    return R(8, len(noise), n, 1, d) + scale * R(9, len(noise), n, 2, d)


def test_expected_values():
    scores = measure("split_text", halves())
    expected = {
        "mrr": [0.10227328057069354, 0.9135416666666666, 0.8531075808249721, 0.7873022290209789],
        "top1": [0.0125, 0.8375, 0.7625, 0.7125],
        "infonce": [-0.7631379714334383, 0.8435028751557021, 0.770815168153635, 0.6382104736054242],
    }
    for name, values in expected.items():
        assert scores[name] == pytest.approx(values, rel=1e-9), name
    assert scores["lead_se"][1] == pytest.approx(0.06425348448518112, rel=1e-9)
    assert scores["lead_se"][3] == 0
    assert scores["chance"] == pytest.approx(np.mean(1 / np.arange(1, 41)))


@pytest.mark.parametrize("side", [0, 1])
def test_a_collapsed_side_gets_what_a_guess_of_the_middle_gets(side):
    """And not 1, as ties in the partner's favour would have it."""
    made = halves()
    made[1:, :, side] = 0.3
    scores = METRIC.measure(torch.from_numpy(made).unbind())  # a run leaves such a layer out
    assert scores["mrr"][1:] == pytest.approx([2 / 41] * 3)
    assert scores["top1"][1:] == [0, 0, 0]
    assert scores["infonce"][1:] == pytest.approx([0, 0, 0])


def by_scipy(pair):
    """The reciprocal ranks of (n, 2, d), the mean of both sides, by average ranks."""
    a, b = np.swapaxes(pair - pair.mean(0), 0, 1)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosines = np.round(a @ b.T, 9)
    sides = (np.diag(rankdata(-c, axis=1)) for c in (cosines, cosines.T))
    return sum(1 / side for side in sides) / 2


@pytest.mark.parametrize("ties", [False, True])
def test_ranks_are_scipys(ties):
    """Of ties the average one; the error is that of a paired test."""
    made = halves(n=30, noise=(1, 2, 0.8))
    if ties:  # equal texts, on both sides
        made = made[:, np.r_[0:22, 0:8]]
    scores = measure(METRIC, made)
    q = np.array([by_scipy(pair) for pair in made])
    assert scores["mrr"] == pytest.approx(q.mean(axis=1))
    errors = (q - q[-1]).std(axis=1, ddof=1) / np.sqrt(30)
    assert scores["lead_se"] == pytest.approx(errors, abs=1e-12)


def test_infonce_is_the_metric_of_that_name_on_the_centred_rows():
    made = halves()
    centred = made - made.mean(axis=1, keepdims=True)
    assert measure(METRIC, made)["infonce"] == pytest.approx(measure("infonce", centred)["mi"])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**20), st.integers(8, 24), st.integers(2, 9), st.floats(1e-3, 1e3))
def test_rotation_scaling_translation_and_order_change_nothing(seed, n, d, scale):
    draw = np.random.RandomState(seed)
    made = draw.randn(3, n, 1, d) + draw.randn(3, n, 2, d)
    turn = ortho_group.rvs(d, random_state=draw)
    changed = scale * (made[:, draw.permutation(n)] @ turn + draw.randn(d))
    before, after = (measure(METRIC, states) for states in (made, changed))
    for name in ("mrr", "top1", "infonce", "lead_se"):
        assert after[name] == pytest.approx(before[name], abs=1e-9), name
    for name, low in (("mrr", 0), ("top1", 0), ("infonce", -np.inf)):
        assert all(low <= value <= 1 + 1e-12 for value in before[name])


def test_a_row_at_the_mean_is_no_direction():
    """What is left of it beside the others' length is rounding: it ties with all."""
    made = halves(n=20, noise=(0.01, 0.01))
    made[0, 0] = (made[0, 1:].mean(axis=0)) + 1e-9
    scores = measure(METRIC, made)
    assert scores["mrr"][1] == pytest.approx(1)
    assert scores["mrr"][0] == pytest.approx((19 + 1 / 10.5) / 20)


def test_it_passes_the_kit_and_names_its_faults():
    check_metric(METRIC)
    with pytest.raises(NotEnoughTexts, match="at least 8 texts, got 7"):
        measure(METRIC, halves(n=7))
    with pytest.raises(UnitError, match="needs 2 views of a text, got 1"):
        METRIC.measure([torch.zeros(9, 1, 3).double()])
