"""The way from states to scores: conversion, checks, degenerate states, summaries."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch

from lrd_harness import measure
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DegenerateState, NotEnoughTexts, UnitError, UserError
from lrd_harness.manager import Plugins
from lrd_harness.measuring import distinct_rows, summaries


def total(states, scale=1.0, shift=0.0):
    """A metric that is easy to reckon: the sum of each state."""
    return {"total": [scale * float(s.sum()) + shift for s in states], "seen": len(states)}


TOTAL = Metric("total", total)


def gaussian(seed=0, states=4, n=20, d=6):
    return np.random.RandomState(seed).randn(states, n, d)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_float_type_is_measured_in_float64(dtype):
    states = [torch.tensor(s).to(dtype) for s in gaussian()]
    wide = [s.double() for s in states]
    assert measure(TOTAL, states) == measure(TOTAL, wide)
    if dtype != torch.bfloat16:
        assert measure(TOTAL, [s.numpy() for s in states]) == measure(TOTAL, wide)

    def check(states):
        assert all(s.dtype == torch.float64 for s in states)
        return {}

    measure(Metric("check", check), states)


def test_layers_are_not_held_in_memory():
    alive, most = weakref.WeakSet(), []

    class Lazy:
        def __len__(self):
            return 12

        def __getitem__(self, layer):
            state = torch.tensor(gaussian(layer)[0])
            alive.add(state)
            most.append(len(alive))
            return state

    measure(TOTAL, Lazy())
    assert max(most) <= 2


def constant(x):
    return np.ones_like(x)


def noisy(x):
    return 1 + 1e-8 * x


def half(x):
    """n/2 + 2 equal rows: n/2 - 1 distinct ones."""
    return np.where(np.arange(len(x))[:, None] < len(x) // 2 + 2, x[:1], x)


def threefold(x):
    return x[np.arange(len(x)) // 3]


def test_values_are_of_the_states_and_lists_get_summaries(recwarn):
    x = gaussian()
    x.flags.writeable = False
    scores = measure(TOTAL, x)
    np.testing.assert_allclose(scores["total"], x.sum((1, 2)))
    assert (scores["seen"], scores.start, scores["max_total"]) == (4, 0, max(scores["total"]))
    assert measure(TOTAL, [torch.tensor(s, requires_grad=True) for s in x]) == scores
    assert not recwarn
    inner = Metric("inner", lambda states: {"last": float(states[1:-1][-1].sum())})
    assert measure(inner, x)["last"] == pytest.approx(x[2].sum())
    given = {"a": (1.0, 2.0), "mean_a": 7.0, "b": np.float32(0.5), "c": np.array([1.0, 2.0])}
    scores = measure(Metric("own", lambda states: given), x)
    assert (scores["mean_a"], scores["b"], scores["c"], scores["max_c"]) == (7, 0.5, [1, 2], 2)
    assert not {"max_a", "slope_a", "mean_b"} & scores.keys()


def fails(states):
    raise UnitError("layer 1 is odd")


HOLES = [
    Metric("m", lambda s, g=g: g, selection=Choice("mean_a"))
    for g in ({"b": 1.0}, {"mean_a": [1.0] * 4})
]


def changed(*places):
    """The states of 40 texts, these layers the same for all."""
    x = gaussian(n=40)
    x[list(places)] = 1
    return x


@pytest.mark.parametrize(
    ("metric", "states", "error", "says"),
    [
        (TOTAL, gaussian(n=7), NotEnoughTexts, "at least 8 texts, got 7"),
        (TOTAL, changed(0, 2), DegenerateState, "layer 2 is the same for most texts$"),
        (TOTAL, changed(0, 1, 2), DegenerateState, "needs 2 states"),
        (TOTAL, np.ones((3, 10, 4)), DegenerateState, "needs 2 states"),
        (TOTAL, [*gaussian()[:2], gaussian()[2][1:]], UnitError, "2 has 19 rows, others have 20"),
        (TOTAL, [gaussian()[0], gaussian()[1][:, 0]], UnitError, r"layer 1 has shape \(20,\)"),
        (Metric("fails", fails), gaussian(), UnitError, "^layer 1 is odd$"),
        (Metric("fails", fails), changed(0), UnitError, "counted from layer 1"),
        *((metric, gaussian(), UnitError, "m gave no score mean_a") for metric in HOLES),
    ],
)
def test_what_cannot_be_measured_is_named(metric, states, error, says):
    with pytest.raises(error, match=says):
        measure(metric, states)


def test_what_is_measured_all_the_same():
    x = gaussian(n=40)
    x[0] = x[0][np.arange(40) // 2]  # exactly half are distinct
    assert (distinct_rows(torch.tensor(x[0])), distinct_rows(torch.tensor(0 * x[0]))) == (20, 1)
    assert measure(TOTAL, x).start == 0
    measure(TOTAL, [x[0][:, :3], *x[1:]])  # widths are the metric's own business
    assert measure(Metric("later", lambda states: {"start": 1}), changed(0)).start == 2
    few = np.ones((3, 5, 4))  # of tokens: fewer than 8, all the same, and none is left out
    assert measure(Metric("tokens", total, needs="tokens"), few) == {"total": [20.0] * 3, "seen": 3}
    x = np.random.RandomState(0).randn(3, 9, 2, 4)
    views = Metric("views", total, needs="views", views=2)
    np.testing.assert_allclose(measure(views, x)["total"], x.sum((1, 2, 3)))
    with pytest.raises(NotEnoughTexts):
        measure(views, x[:, :7])


DEGENERATE = [constant, noisy, half, threefold]


@pytest.mark.parametrize("make", DEGENERATE)
def test_leading_degenerate_states_are_left_out(make):
    x = gaussian(n=40)
    x[0], x[1] = make(x[0]), make(x[1])
    scores = measure(TOTAL, x)
    assert scores.start == 2
    rest = measure(TOTAL, x[2:])
    assert rest.start == 0
    assert scores == rest


@pytest.mark.parametrize("make", DEGENERATE)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_degenerate_state_further_up_is_named(make, layer):
    x = gaussian(n=40)
    x[layer] = make(x[layer])
    with pytest.raises(DegenerateState, match=f"layer {layer}"):
        measure(TOTAL, x)


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("d", [3, 64, 768])
def test_a_small_spread_around_a_large_mean_is_not_degenerate(spread, d):
    rng = np.random.RandomState(1)
    mean = 50 * rng.randn(d)
    x = mean + spread * np.linalg.norm(mean) / np.sqrt(d) * rng.randn(200, d)
    assert distinct_rows(torch.tensor(x)) > 190
    if spread > 1e-5:
        assert distinct_rows(torch.tensor(x, dtype=torch.float32).double()) > 190


@pytest.mark.parametrize("groups", [1, 2, 7, 50])
def test_distinct_rows_counts_groups_in_noise_and_any_order(groups):
    rng = np.random.RandomState(groups)
    x = rng.randn(groups, 30)[rng.randint(groups, size=400)]
    known = len(np.unique(x, axis=0))
    noise = 1e-8 * rng.randn(400, 30)
    assert distinct_rows(torch.tensor(x)) == known
    assert distinct_rows(torch.tensor(x + noise)) == known
    assert distinct_rows(torch.tensor(1e-6 * (x + noise))) == known


def test_parameters_reach_the_metric_and_unknown_ones_are_named():
    x = gaussian()
    np.testing.assert_allclose(measure(TOTAL, x, scale=2)["total"], 2 * x.sum((1, 2)))
    with pytest.raises(UserError, match=r"'scael'.*Did you mean scale.*It has: scale, shift"):
        measure(TOTAL, x, scael=2)
    with pytest.raises(UserError, match=r"of metric bare 'k'.*has none"):
        measure(Metric("bare", lambda states: {}), x, k=2)
    measure(Metric("open", lambda states, **rest: {}), x, k=2)


def test_a_name_is_looked_up_among_the_plugins(monkeypatch):
    plugins = Plugins()
    plugins.add("metric", "test", [TOTAL])
    monkeypatch.setattr("lrd_harness.manager.load", lambda: plugins)
    x = gaussian()
    assert measure("total", x) == measure(TOTAL, x)
    with pytest.raises(UserError, match="Did you mean total"):
        measure("totl", x)


def test_summaries_follow_their_definitions():
    values = np.random.RandomState(3).randn(11)
    made = summaries(list(values), "x")
    assert made["mean_x"] == pytest.approx(values.mean())
    assert made["std_x"] == pytest.approx(np.sqrt(((values - values.mean()) ** 2).mean()))
    assert (made["min_x"], made["max_x"]) == (values.min(), values.max())
    assert made["early_x"] == pytest.approx(values[:3].mean())
    assert made["late_x"] == pytest.approx(values[-3:].mean())
    assert made["trend_x"] == pytest.approx(made["late_x"] - made["early_x"])
    assert made["slope_x"] == pytest.approx(np.polyfit(np.linspace(0, 1, 11), values, 1)[0])
    assert summaries([], "x") == {}
    assert "slope_x" not in summaries([2.0], "x")
    pair = summaries([1.0, 4.0], "x")
    assert (pair["early_x"], pair["late_x"], pair["slope_x"]) == (1, 4, pytest.approx(3))
