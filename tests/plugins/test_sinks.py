"""sink_norm and sink_rate: golden values, plain numpy, laws, and texts that are too short."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from lrd_harness import measure
from lrd_harness.errors import NotEnoughTokens, UserError
from lrd_harness.measuring import finish

SINKS = importlib.import_module("lrd_harness.plugins.metrics.sinks")
NORM, RATE = SINKS.lrd_metrics()


def R(seed: int, *shape: int) -> Any:
    return np.random.RandomState(seed).randn(*shape)


def tokens() -> Any:
    """Three states of six tokens, of which the first is longer from layer to layer."""
    x = R(1, 3, 6, 16)
    x[:, 0] *= 10.0 ** np.arange(3)[:, None]
    return x


def maps(seed: int, blocks: int, heads: int, length: int) -> Any:
    weights = np.exp(R(seed, blocks, heads, length, length)) * np.tril(np.ones((length, length)))
    return weights / weights.sum(-1, keepdims=True)


def test_golden_values() -> None:
    expected = [0.5438371612732905, 1.9988666549206242, 4.720102616335315]
    assert measure(NORM, tokens())["sink_norm"] == pytest.approx(expected, rel=1e-9)
    raw = R(7, 2, 4, 12, 12)  # of fewer tokens than the metric takes: what is behind it
    raw[..., 0] += np.array([[0, 1, 2, 3], [-2, -1, 0, 2]])[..., None]
    weights = np.exp(raw) * np.tril(np.ones((12, 12)))
    weights /= weights.sum(-1, keepdims=True)
    shares = [(SINKS.on_first(torch.tensor(block)) > 0.3).double().mean() for block in weights]
    assert [float(share) for share in shares] == [0.75, 0.25]


@pytest.mark.parametrize("length", [2, 3, 6, 9])
def test_norm_is_of_the_median(length: int) -> None:
    """Of an even number of others that between the two in the middle; of widths that differ too."""
    x = R(length, 3, length, 5)
    lengths = np.linalg.norm(x, axis=-1)
    expected = np.log(lengths[:, 0] / np.median(lengths[:, 1:], axis=1))
    assert measure(NORM, x)["sink_norm"] == pytest.approx(expected.tolist())
    ragged = [x[0], np.concatenate([x[1], 0 * x[1]], axis=1), x[2]]
    assert measure(NORM, ragged)["sink_norm"] == pytest.approx(expected.tolist())
    turned = 3 * x @ np.linalg.qr(R(0, 5, 5))[0]
    assert measure(NORM, turned)["sink_norm"] == pytest.approx(expected.tolist())


def test_a_state_of_zeros_has_no_value_and_does_not_spoil_the_mean() -> None:
    x, y = tokens(), tokens()
    y[1, 0] = 0
    values = [measure(NORM, state) for state in (x, y)]
    assert np.isnan(values[1]["sink_norm"][1])
    whole = finish(NORM, values)
    assert whole["sink_norm"] == pytest.approx(values[0]["sink_norm"])
    assert whole["sink_norm"].of == "states"


@pytest.mark.parametrize("length", [16, 40, 64, 90])
def test_rate_is_of_the_first_64_tokens(length: int) -> None:
    weights = maps(length, 3, 5, length)
    weights[1, :2] = np.eye(length)  # heads that look at themselves alone
    weights[2, :3] = np.eye(length)[0]  # and at the first token
    first = weights[:, :, :64, 0].mean(axis=-1)
    for eps in (0.1, 0.3):
        expected = (first > eps).mean(axis=1)
        found = measure(RATE, weights, eps=eps)["sink_rate"]
        assert found == pytest.approx(expected.tolist())
    assert found[2] >= 0.6
    short = measure(RATE, weights[:, :, :64, :64], eps=0.1)  # causal: the same
    assert short["sink_rate"] == pytest.approx((first > 0.1).mean(axis=1).tolist())


def test_uniform_attention_is_no_sink() -> None:
    uniform = np.tril(np.ones((16, 16)))
    uniform /= uniform.sum(-1, keepdims=True)
    scores = finish(RATE, [measure(RATE, [uniform[None]] * 2)])
    assert (scores["sink_rate"], scores["sink_rate"].of) == ([0.0, 0.0], "blocks")
    assert scores["sink_rate"].layers == [1, 2]


def test_too_few_tokens() -> None:
    with pytest.raises(NotEnoughTokens, match="sink_norm needs at least 2"):
        measure(NORM, tokens()[:, :1])
    with pytest.raises(UserError, match="eps must be at least 0"):
        measure(RATE, np.full((2, 1, 16, 16), 1 / 16), eps=float("nan"))
    with pytest.raises(NotEnoughTokens, match="sink_rate needs at least 16 tokens, got 15"):
        measure(RATE, maps(0, 2, 2, 15))


def test_what_they_are() -> None:
    assert (NORM.norm, NORM.group, NORM.by_default) == ("raw", "geometry", False)
    assert (RATE.needs, RATE.group, RATE.by_default) == ("attention", "geometry", False)
    assert {m.selection or m.layer_choice for m in (NORM, RATE)} == {None}
