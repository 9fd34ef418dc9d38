"""Prompt entropy, curvature and block influence: expected values, bounds, texts' edge cases."""

from __future__ import annotations

import importlib
import math
from itertools import pairwise

import diptest
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness import manager, measure
from lrd_harness.errors import NotEnoughTokens, UnitError, UserError
from lrd_harness.measuring import Scores, finish

PROMPT, CURVATURE, INFLUENCE = (
    manager.load().get("metric", name)
    for name in ("prompt_entropy", "curvature", "block_influence")
)
directions = importlib.import_module("lrd_harness.plugins.metrics._directions")
few = settings(max_examples=25, deadline=None, derandomize=True)


def tokens(seed=1, states=3, T=6, d=16):
    return np.random.RandomState(seed).randn(states, T, d)


def angles(x):
    """Curvature's definition for one layer (T, d)."""
    v = np.diff(x, axis=0)
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return np.mean([math.acos(np.clip(a @ b, -1, 1)) for a, b in pairwise(v)])


@few
@given(st.integers(0, 9999), st.integers(2, 12), st.integers(1, 12), st.sampled_from([0.5, 1, 2]))
def test_bounds_hold_on_every_value(seed, T, d, alpha):
    x = tokens(seed, T=T, d=d) * 10.0 ** np.random.RandomState(seed).randint(-5, 5)
    prompt = measure(PROMPT, x, alpha=alpha)
    assert all(0 <= v <= math.log(min(T, d)) for v in prompt["prompt_entropy"])
    assert all(0 <= v <= 1 for v in prompt["normalised"]) or d == 1
    influence = measure(INFLUENCE, x)
    assert all(0 <= v <= 2 for v in influence["block_influence"])
    assert all(-1 <= v <= 1 for v in influence["cosine"])
    if T >= 3:
        curvature = measure(CURVATURE, x)
        assert all(0 <= v <= math.pi for v in curvature["curvature"])
        np.testing.assert_allclose(curvature["curvature"], [angles(s) for s in x], rtol=1e-6)


@pytest.mark.parametrize("metric", [PROMPT, CURVATURE, INFLUENCE], ids=lambda m: m.name)
def test_pieces_and_widths_make_no_difference(metric, monkeypatch):
    """A text's layers in one piece, two at a time, and one by one as layers of any width come."""
    x = tokens(states=5)
    whole = measure(metric, x)
    monkeypatch.setattr(directions, "PIECE", 2 * 6 * 16)
    for other in (measure(metric, x), dict(metric.measure([torch.tensor(s) for s in x]))):
        assert other.keys() == whole.keys()
        for name, value in whole.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-13)


def test_layers_of_other_widths():
    x = tokens()
    narrow = [x[0], x[1][:, :5], x[2]]
    for metric in (PROMPT, CURVATURE):
        alone = [measure(metric, s[None])[metric.name][0] for s in narrow]
        np.testing.assert_allclose(measure(metric, narrow)[metric.name], alone, rtol=1e-13)
    with pytest.raises(UnitError, match="layer 1 has 5, layer 0 has 16"):
        measure(INFLUENCE, narrow)


def test_leading_tokens_can_be_skipped():
    x = tokens()
    for metric in (PROMPT, CURVATURE):
        assert measure(metric, x, skip=2) == measure(metric, x[:, 2:])
        with pytest.raises(UserError, match="skip must not be negative"):
            measure(metric, x, skip=-1)
        with pytest.raises(NotEnoughTokens, match="got 6, 1 without the first 5"):
            measure(metric, x, skip=5)


def test_short_texts():
    two = tokens(T=2)
    assert measure(PROMPT, two)["prompt_entropy"] == pytest.approx([0, 0, 0], abs=1e-12)
    with pytest.raises(NotEnoughTokens, match="at least 2 tokens, got 1"):
        measure(PROMPT, two[:, :1])
    with pytest.raises(NotEnoughTokens, match="at least 3 tokens, got 2"):
        measure(CURVATURE, two)
    assert len(measure(INFLUENCE, two[:, :1])["cosine"]) == 2
    with pytest.raises(NotEnoughTokens):
        measure(INFLUENCE, two[:, :0])


def test_tokens_that_say_nothing():
    """All the same but for rounding, in one dimension, which has no bound, or at the mean."""
    x = tokens()
    x[1] = x[1, :1] + 1e-15 * x[1]
    for metric in (PROMPT, CURVATURE):
        scores = measure(metric, x)
        for value in (scores[metric.name], scores["normalised"]):
            assert [math.isnan(v) for v in value] == [False, True, False]
    flat = measure(PROMPT, tokens(d=1))
    assert flat["prompt_entropy"] == [0, 0, 0]
    assert all(map(math.isnan, flat["normalised"]))
    x = np.array([[[1.0, 2], [-1, -2], [3, 1], [-3, -1], [0, 0]]]) + 7
    expected = measure(PROMPT, x[:, :4])["prompt_entropy"]
    assert measure(PROMPT, x)["prompt_entropy"] == pytest.approx(expected, rel=1e-12)


def test_steps_of_length_zero_are_left_out():
    x = tokens(T=7)
    x[1, 3] = x[1, 2]  # the third step: pairs 2-3 and 3-4 are gone
    v = np.diff(x[1], axis=0)
    v = v[[0, 1, 3, 4, 5]]
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    kept = [math.acos(v[i] @ v[i + 1]) for i in (0, 2, 3)]
    assert measure(CURVATURE, x)["curvature"][1] == pytest.approx(np.mean(kept), rel=1e-9)


def test_curvature_of_known_paths():
    turn = 1e-6  # lost by an arccos, which sees 1 - 5e-13
    path = np.cumsum([[math.cos(turn * i), math.sin(turn * i)] for i in range(9)], axis=0)
    there_and_back = np.array([[0.0, 0], [1, 2], [0, 0], [1, 2]])
    assert measure(CURVATURE, path[None])["curvature"][0] == pytest.approx(turn, rel=1e-6)
    assert measure(CURVATURE, there_and_back[None])["normalised"][0] == pytest.approx(1, abs=1e-7)
    corners = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    assert measure(CURVATURE, corners[None])["curvature"][0] == pytest.approx(math.pi / 2)


def test_prompt_entropy_over_texts():
    rng = np.random.RandomState(0)
    texts = [measure(PROMPT, rng.randn(3, T, 8)) for T in rng.randint(3, 20, size=40)]
    texts += [measure(PROMPT, np.ones((3, 4, 8)))]  # a text without values
    whole = finish(PROMPT, texts)
    table = np.array([t["prompt_entropy"] for t in texts])[:-1]
    np.testing.assert_allclose(whole["prompt_entropy"], table.mean(0), rtol=1e-12)
    assert whole["mean_prompt_entropy"] == pytest.approx(table.mean())
    for layer in range(3):
        statistic, p = diptest.diptest(table[:, layer])
        assert whole["dip"][layer] == pytest.approx(statistic)
        assert whole["dip_p"][layer] == pytest.approx(p)
    shares = np.array([t["normalised"] for t in texts])[:-1]
    assert np.shape(whole["histogram"]) == (3, 50)
    assert np.sum(whole["histogram"], axis=1).tolist() == [40, 40, 40]
    counts = np.bincount(np.minimum((shares[:, 1] * 50).astype(int), 49), minlength=50)
    assert whole["histogram"][1] == counts.tolist()
    assert "mean_histogram" not in whole


def test_the_dip_of_few_texts_and_of_equal_ones():
    text = Scores({"prompt_entropy": [1.0, math.nan], "normalised": [0.5, math.nan]}, states=2)
    three = finish(PROMPT, [text] * 3)
    assert all(map(math.isnan, [*three["dip"], *three["dip_p"]]))
    assert three["prompt_entropy"][0] == 1
    assert math.isnan(three["prompt_entropy"][1])
    assert three["histogram"][1] == [0] * 50
    rounding = [[1 + 1e-16 * (-1) ** i, 0.0] for i in range(20)]
    equal = finish(PROMPT, [Scores({**text, "prompt_entropy": v}, states=2) for v in rounding])
    assert (equal["dip"], equal["dip_p"]) == ([0, 0], [1, 1])


def test_block_influence_is_over_all_tokens_of_all_texts():
    texts = [tokens(seed, T=T) for seed, T in enumerate((3, 1, 9))]
    whole = finish(INFLUENCE, [measure(INFLUENCE, x) for x in texts])
    every = np.concatenate(texts, axis=1)
    every /= np.linalg.norm(every, axis=2, keepdims=True)
    cosine = (every[:-1] * every[1:]).sum(-1).mean(-1)
    np.testing.assert_allclose(whole["cosine"], cosine, rtol=1e-9)
    np.testing.assert_allclose(whole["block_influence"], 1 - cosine, rtol=1e-12)
    assert whole["tokens"] == 13
    assert whole["mean_cosine"] == pytest.approx(cosine.mean())


def test_what_an_idle_block_changes_is_not_lost_and_zeros_are_at_right_angles():
    x = tokens(T=4)
    x[1] = 3 * x[0]
    x[2] = x[1] + 1e-10 * tokens(2, T=4)[0]
    w, v = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in x[1:])
    idle, small = measure(INFLUENCE, x)["block_influence"]
    assert idle == pytest.approx(0, abs=1e-30)
    assert small == pytest.approx(np.mean(np.sum((v - w) ** 2, axis=1)) / 2, rel=1e-4)
    x[1] = 0
    assert measure(INFLUENCE, x)["block_influence"] == [1, 1]
