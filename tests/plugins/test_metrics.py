"""What holds of all built-in metrics: expected values, kinds of arrays, named faults, settings."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from states import agree, views, walk

from lrd_harness import manager, measure
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UserError

BUILT_IN = {metric.name: metric for metric in manager.load().all("metric")}
MORE_TEXTS = {"alpha_req", "twonn"}  # than these states have: see test_geometry.py
POOLED = [n for n, m in BUILT_IN.items() if m.needs == "pooled" and n not in MORE_TEXTS]


def drawn(n: int, d: int) -> Any:
    """Three states, of texts or of tokens."""
    return np.random.RandomState(1).randn(3, n, d)


FOUR = partial(views, seed=4, q=4, unit=False)
# metric, states, settings, score ("" for that of the metric's name) and its value, computed once
# with numpy and scipy alone; what other tests hold against a definition is not repeated
EXPECTED: list[tuple[str, Any, dict[str, Any], str, Any]] = [
    ("frenet", walk(), {}, "straightness", 0.3429205199186939),
    ("nrs", walk(), {"k": 5}, "mean_jaccard", 0.26772486772486764),
    ("gfmi", walk(), {"k": 5}, "mean_auc", 79.12642604160915),
    ("dataset_entropy", drawn(16, 6), {}, "", [1.61482418396, 1.65594590719, 1.60550802275]),
    ("effective_rank", drawn(16, 6), {}, "", [5.49937884616, 5.59958074429, 5.73782820662]),
    ("prompt_entropy", drawn(6, 16), {"alpha": 2}, "", [1.3924003251, 1.4781844532, 1.5133650058]),
    ("curvature", drawn(6, 16), {}, "", [2.00695837399, 2.14568533643, 2.18207063078]),
    ("infonce", views(24, 8), {}, "mi", [0.9291332292520247, 0.8846135904939271]),
    ("lidar", FOUR(10, 16), {}, "", [1.846131769086957, 1.5792426216364388]),
    ("lidar", FOUR(24, 8), {}, "", [1.8296565158555311, 1.9004629190552678]),
    ("dime", views(24, 8), {}, "", [0.16139045095786742, 0.1271707488455438]),
]


@pytest.mark.parametrize(
    ("name", "states", "settings", "score", "value"), EXPECTED, ids=range(len(EXPECTED))
)
def test_expected_values(name: str, states: Any, settings: Any, score: str, value: Any) -> None:
    scores = measure(name, states, **settings)
    np.testing.assert_allclose(scores[score or name], value, rtol=1e-9)


@pytest.mark.parametrize("name", POOLED)
def test_kinds_of_arrays(name: str) -> None:
    x = walk()
    expected = measure(name, x)
    assert measure(name, [torch.tensor(state) for state in x]) == expected
    single = measure(name, x.astype(np.float32))
    assert single.keys() == expected.keys()
    agree(single, expected, rtol=1e-3, atol=1e-6)
    for dtype in (torch.float16, torch.bfloat16):
        rough = measure(name, [torch.tensor(state).to(dtype) for state in x])
        if BUILT_IN[name].selection is not None:
            score = BUILT_IN[name].selection.score
            assert rough[score] == pytest.approx(expected[score], rel=0.1)


@pytest.mark.parametrize("name", POOLED)
def test_states_that_cannot_be_measured_are_left_out_at_the_start_and_named_above(
    name: str,
) -> None:
    for noise in (0, 1e-8):
        x = walk()
        x[0] = 1 + noise * x[0]
        scores, rest = measure(name, x), measure(name, x[1:])
        assert (scores.start, rest.start) == (1, 0)
        assert scores == rest
    x[3] = 1
    with pytest.raises(DegenerateState, match="layer 3"):
        measure(name, x)
    x[2, 0, 0] = np.nan
    with pytest.raises(NotFinite, match="layer 2"):
        measure(name, x)
    with pytest.raises(NotEnoughTexts, match=f"at least {BUILT_IN[name].texts} texts, got 7"):
        measure(name, walk(n=7))


OUT_OF_RANGE = [
    *(("frenet", "variance", value, "must lie in") for value in (0, 1.2, math.nan)),
    ("frenet", "rank", 0, "rank must be at least 1"),
    ("subspace_distance", "variance", 0.0, "subspace_distance: variance must lie in"),
    ("subspace_distance", "space", "both", "space must be"),
    ("nrs", "k", 0, "k must be at least 1"),
    ("nrs", "anchors", 0, "anchors must be at least 1"),
    ("gfmi", "k", 0, "k must be at least 1"),
    *(
        ("gfmi", "percentiles", value, "percentiles must")
        for value in ([50], [20, 10], [-1, 50], [50, 101], [5, 5], [math.nan, 5])
    ),
    *(("dataset_entropy", "alpha", value, "alpha must be above 0") for value in (0, math.nan)),
    *(
        (name, setting, value, f"{setting} must be above 0")
        for name, setting in (("infonce", "temperature"), ("lidar", "delta"), ("dime", "alpha"))
        for value in (0, -1, math.nan)
    ),
    ("lidar", "delta", math.inf, "delta must be above 0 and finite, not inf"),
    ("dime", "permutations", 0, "permutations must be at least 1"),
    ("effective_rank", "alpha", 2, "has none"),
    ("frenet", "k", 3, "It has: variance, rank, space"),
    ("nrs", "rank", 3, "It has: k, anchors"),
    ("gfmi", "anchors", 3, "It has: k, percentiles"),
]


def test_settings_out_of_range() -> None:
    for name, setting, value, message in OUT_OF_RANGE:
        states = views(10, 16) if BUILT_IN[name].needs == "views" else walk()
        with pytest.raises(UserError, match=message):
            measure(name, states, **{setting: value})


@pytest.mark.parametrize(
    ("name", "n", "k"),
    [("nrs", 8, 1), ("nrs", 60, 14), ("nrs", 81, 20), ("gfmi", 8, 1), ("gfmi", 150, 30)],
)
def test_k_is_lowered_and_recorded(name: str, n: int, k: int) -> None:
    x = walk(0, 2, n)
    scores = measure(name, x)
    assert scores["k"] == k
    assert scores == measure(name, x, k=k)
