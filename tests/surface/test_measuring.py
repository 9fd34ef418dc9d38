"""The way from states to scores: conversion, checks, degenerate states, summaries."""

from __future__ import annotations

import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch

from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UnitError, UserError
from lrd_harness.manager import Plugins
from lrd_harness.measuring import distinct_rows, measure, profile_layers, summaries


def total(states, scale=1.0, shift=0.0):
    """A metric that is easy to reckon: the sum of each state."""
    return {"total": [scale * float(s.sum()) + shift for s in states], "seen": len(states)}


TOTAL = Metric("total", total)


def gaussian(seed=0, states=4, n=20, d=6):
    return np.random.RandomState(seed).randn(states, n, d)


def test_values_are_of_the_states_in_float64():
    x = gaussian()
    scores = measure(TOTAL, x)
    np.testing.assert_allclose(scores["total"], x.sum((1, 2)))
    assert scores["seen"] == 4
    assert scores["start"] == 0


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


def test_gradients_and_read_only_memory_are_no_obstacle(recwarn):
    x = gaussian()
    x.flags.writeable = False
    assert measure(TOTAL, [torch.tensor(s, requires_grad=True) for s in x]) == measure(TOTAL, x)
    assert not recwarn


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


def test_a_slice_of_the_states_is_lazy_and_counts_from_its_own_start():
    def inner(states):
        part = states[1:-1]
        return {"last": float(part[-1].sum()), "n": len(part)}

    x = gaussian()
    scores = measure(Metric("inner", inner), x)
    assert scores["n"] == 2
    assert scores["last"] == pytest.approx(x[2].sum())


def constant(x):
    return np.ones_like(x)


def noisy(x):
    return 1 + 1e-8 * x


def half(x):
    """n/2 + 2 equal rows: n/2 - 1 distinct ones."""
    return np.where(np.arange(len(x))[:, None] < len(x) // 2 + 2, x[:1], x)


def threefold(x):
    return x[np.arange(len(x)) // 3]


DEGENERATE = [constant, noisy, half, threefold]


@pytest.mark.parametrize("make", DEGENERATE)
def test_leading_degenerate_states_are_left_out(make):
    x = gaussian(n=40)
    x[0], x[1] = make(x[0]), make(x[1])
    scores = measure(TOTAL, x)
    assert scores.pop("start") == 2
    rest = measure(TOTAL, x[2:])
    assert rest.pop("start") == 0
    assert scores == rest


@pytest.mark.parametrize("make", DEGENERATE)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_degenerate_state_further_up_is_named(make, layer):
    x = gaussian(n=40)
    x[layer] = make(x[layer])
    with pytest.raises(DegenerateState, match=f"layer {layer}"):
        measure(TOTAL, x)


def test_its_number_counts_from_the_first_of_all_states():
    x = gaussian(n=40)
    x[0], x[2] = 1, 1
    with pytest.raises(DegenerateState, match="layer 2") as caught:
        measure(TOTAL, x)
    assert "counted from" not in str(caught.value)


def test_a_metric_that_counts_for_itself_gets_told_where_from():
    def fails(states):
        raise UnitError("layer 1 is odd")

    x = gaussian()
    with pytest.raises(UnitError, match=r"^layer 1 is odd$"):
        measure(Metric("fails", fails), x)
    x[0] = 1
    with pytest.raises(UnitError, match="counted from layer 1"):
        measure(Metric("fails", fails), x)


def test_too_few_sound_states():
    x = gaussian()
    x[:3] = 1
    with pytest.raises(DegenerateState, match="needs 2 states"):
        measure(TOTAL, x)
    with pytest.raises(DegenerateState):
        measure(TOTAL, np.ones((3, 10, 4)))


def test_exactly_half_distinct_is_sound():
    x = gaussian(n=40)
    x[0] = x[0][np.arange(40) // 2]
    assert distinct_rows(torch.tensor(x[0])) == 20
    assert distinct_rows(torch.tensor(0 * x[0])) == 1
    assert measure(TOTAL, x)["start"] == 0


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


def test_too_few_texts():
    with pytest.raises(NotEnoughTexts, match="at least 8 texts, got 7"):
        measure(TOTAL, gaussian(n=7))
    measure(TOTAL, gaussian(n=8))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_not_finite_names_the_layer(bad, layer):
    x = gaussian()
    x[layer, 3, 2] = bad
    with pytest.raises(NotFinite, match=f"layer {layer}"):
        measure(TOTAL, x)


def test_states_that_do_not_fit_together():
    x = list(gaussian())
    with pytest.raises(UnitError, match="layer 2 has 19 rows, others have 20"):
        measure(TOTAL, [*x[:2], x[2][1:], x[3]])
    with pytest.raises(UnitError, match=r"layer 1 has shape \(20,\)"):
        measure(TOTAL, [x[0], x[1][:, 0], *x[2:]])
    measure(TOTAL, [x[0][:, :3], *x[1:]])  # widths are the metric's own business


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


def test_summaries_of_few_values():
    assert summaries([], "x") == {}
    assert "slope_x" not in summaries([2.0], "x")
    assert summaries([2.0], "x")["early_x"] == 2
    pair = summaries([1.0, 4.0], "x")
    assert (pair["early_x"], pair["late_x"], pair["slope_x"]) == (1, 4, pytest.approx(3))


def test_every_list_gets_summaries_unless_the_metric_gave_its_own():
    given = {"a": [1.0, 2.0], "mean_a": 7.0, "b": 3.0, "c": [1.0, 2.0]}
    scores = measure(Metric("own", lambda states: given), gaussian())
    assert scores["mean_a"] == 7
    assert not {"max_a", "slope_a", "mean_b"} & scores.keys()
    assert scores["max_c"] == 2


@pytest.mark.parametrize("make", [np.array, torch.tensor, tuple])
def test_lists_of_any_kind(make):
    metric = Metric("kinds", lambda states: {"a": make([1.0, 2.0, 4.0]), "b": np.float32(0.5)})
    scores = measure(metric, gaussian())
    assert scores["a"] == [1.0, 2.0, 4.0]
    assert all(type(v) is float for v in scores["a"])
    assert (scores["max_a"], scores["b"]) == (4, 0.5)


def test_a_selection_score_that_is_not_given():
    chosen = Choice("mean_a", "max")
    assert (
        measure(Metric("whole", lambda states: {"a": [1.0, 3.0]}, selection=chosen), gaussian())[
            "mean_a"
        ]
        == 2
    )
    for given in ({"b": 1.0}, {"mean_a": [1.0]}):
        with pytest.raises(UnitError, match="holey gave no score mean_a"):
            measure(
                Metric("holey", lambda states, given=given: given, selection=chosen), gaussian()
            )


def test_a_start_of_the_metrics_own_is_added():
    x = gaussian()
    x[0] = 1
    assert measure(Metric("later", lambda states: {"start": 1}), x)["start"] == 2


def test_layers_of_a_list():
    assert profile_layers(5, 5, 0) == [0, 1, 2, 3, 4]
    assert profile_layers(5, 4, 0) == [0, 1, 2, 3]
    assert profile_layers(5, 3, 0) == [1, 2, 3]
    assert profile_layers(4, 3, 1) == [1, 2, 3]
    assert profile_layers(4, 2, 1) == [2, 3]
    assert profile_layers(2, 0, 0) == []
    for m in (2, 6):
        with pytest.raises(UnitError):
            profile_layers(5, m, 0)


def test_token_metrics_get_one_text_as_it_is():
    x = np.ones((3, 5, 4))  # fewer than 8 tokens, all the same: nothing is left out
    scores = measure(Metric("tokens", total, needs="tokens"), x)
    assert scores == {"total": [20.0, 20.0, 20.0], "seen": 3}


def test_view_metrics_get_views():
    x = np.random.RandomState(0).randn(3, 9, 2, 4)
    views = Metric("views", total, needs="views", views=2)
    scores = measure(views, x)
    np.testing.assert_allclose(scores["total"], x.sum((1, 2, 3)))
    assert scores["max_total"] == max(scores["total"])
    with pytest.raises(NotEnoughTexts):
        measure(views, x[:, :7])


def test_importing_the_metrics_does_not_wait_for_torch():
    modules = ", ".join(f"lrd_harness.plugins.metrics.{name}" for name in ("frenet", "nrs", "gfmi"))
    heavy = "{'numpy', 'torch', 'scipy', 'sklearn'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
