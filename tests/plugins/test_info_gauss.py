"""info_gauss: expected values, refits by scikit-learn, laws, known answers, what it refuses."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from test_similarity import normal, panel

from lrd_harness.contracts import PanelMetric
from lrd_harness.errors import DegenerateState, NotEnoughTexts, UserError
from lrd_harness.panels import PanelScores, measure_panel

GAUSS: PanelMetric
(GAUSS,) = importlib.import_module("lrd_harness.plugins.metrics.info_gauss").lrd_panel_metrics()


def rows(scores: PanelScores, name: str) -> np.ndarray:
    return np.array([list(row.values()) for row in scores.pairs[name].values()])


def test_the_golden_panel() -> None:
    found = measure_panel(GAUSS, panel(), k=4)
    gain = [
        [1.5141351104883838, 2.868593400227581, 1.0756685331030198],
        [1.140635503606472, 1.1512495658174435, 0.745576983423301],
        [0.6722113903522593, 0.4822712789333997, 0.5159303245142436],
        [0.5457982765323001, 0.5505220519912323, 0.6387775906764775],
    ]
    r2 = [
        [0.9437978922720871, 0.9966322251001267, 0.8630067246206582],
        [0.8945304075082837, 0.8947087324765468, 0.7576460152267602],
        [0.6058895441703891, 0.6065585679483247, 0.5807508256441593],
        [0.6594442122035861, 0.6244283441194307, 0.7126887610206203],
    ]
    assert np.allclose(rows(found, "gain"), gain, rtol=1e-9)
    assert np.allclose(rows(found, "r2"), r2, rtol=1e-9)
    sees = [1.5141351104883838, 1.140635503606472, 0.5159303245142436, 0.5505220519912323]
    seen = [0.6722113903522593, 0.5505220519912323, 1.1512495658174435, 0.745576983423301]
    assert list(found.by_model["is_gauss"].values()) == pytest.approx(sees, rel=1e-9)
    assert list(found.by_model["received"].values()) == pytest.approx(seen, rel=1e-9)
    assert found.numbers == {"k": 4, "n": 120}


def test_without_the_own_family() -> None:
    families = {"m0": "x", "m1": "x", "m2": "y", "m3": "z"}
    found = measure_panel(GAUSS, panel(), families, k=4)
    gain = found.pairs["gain"]
    assert found.by_model["is_gauss_other_families"] == pytest.approx(
        {
            "m0": (gain["m0"]["m2"] + gain["m0"]["m3"]) / 2,
            "m1": (gain["m1"]["m2"] + gain["m1"]["m3"]) / 2,
            "m2": np.median(list(gain["m2"].values())),
            "m3": np.median(list(gain["m3"].values())),
        }
    )
    assert found.by_model["received_other_families"]["m0"] == pytest.approx(
        (gain["m2"]["m0"] + gain["m3"]["m0"]) / 2
    )
    for unknown in ({**families, "m3": None}, dict.fromkeys(families, "x"), {}):
        scores = measure_panel(GAUSS, panel(), unknown, k=4)
        assert scores.by_model.keys() == {"is_gauss", "received"}
    two = measure_panel(GAUSS, {m: panel()[m] for m in ("m0", "m1")}, families, k=4)
    assert (two.by_model, two.pairs.keys()) == ({}, {"gain", "r2"})


def by_refits(u: np.ndarray, v: np.ndarray, k: int, folds: int, floor: float) -> tuple[float, Any]:
    """gain and r2 by ridge regressions that are fitted anew without each text."""
    n, gains, error, total = len(u), 0.0, 0.0, 0.0
    for held in np.array_split(np.random.RandomState(0).permutation(n), folds):
        kept = np.setdiff1d(np.arange(n), held)
        t, mean = len(kept), v[kept].mean(axis=0)
        left, scale, right = np.linalg.svd(v[kept] - mean, full_matrices=False)
        goal = left[:, :k] * np.sqrt(t)
        unseen = (v[held] - mean) @ right[:k].T * np.sqrt(t) / scale[:k]
        values = np.linalg.svd(u[kept] - u[kept].mean(axis=0), compute_uv=False)
        strength = np.mean(values[values > 1e-6 * values[0]] ** 2)
        best: Any = (np.inf,)
        for share in 10.0 ** np.arange(2, -5, -1):
            out = np.empty_like(goal)
            for a in range(t):
                others = np.arange(t) != a
                ridge = Ridge(alpha=share * strength).fit(u[kept][others], goal[others])
                out[a] = goal[a] - ridge.predict(u[kept][a : a + 1])[0]
            if np.mean(out**2) < best[0]:
                best = np.mean(out**2), np.maximum(floor, np.mean(out**2, axis=0)), share
        ridge = Ridge(alpha=best[2] * strength).fit(u[kept], goal)
        rest = (unseen - ridge.predict(u[held])) ** 2
        gains += np.sum(unseen**2 - rest / best[1] - np.log(best[1])) / (2 * k)
        error, total = error + rest.sum(), total + np.sum(unseen**2)
    return gains / n, 1 - error / total


@pytest.mark.parametrize("floor", [1e-4, 0.3])
def test_as_refits_without_each_text(floor: float) -> None:
    """More texts than dimensions, fewer, and a rank below the width."""
    seen = normal(1, 101, 4)
    states = {
        "narrow": seen @ normal(2, 4, 6) + 0.3 * normal(3, 101, 6),
        "wide": seen @ normal(4, 4, 70) + normal(5, 101, 70),
        "flat": seen @ normal(6, 4, 9),
    }
    found = measure_panel(GAUSS, states, folds=2, floor=floor)
    assert found.numbers["k"] == 4  # the rank of "flat"; t / 8 is 6
    pairs = [("wide", "narrow"), ("flat", "wide")] if floor < 0.1 else [("narrow", "flat")]
    for u, v in pairs:
        gain, r2 = by_refits(states[u], states[v], 4, 2, floor)
        assert found.pairs["gain"][u][v] == pytest.approx(gain, rel=1e-6)
        assert found.pairs["r2"][u][v] == pytest.approx(r2, rel=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.floats(1e-3, 1e3), st.integers(4, 160))
def test_laws(seed: int, factor: float, width: int) -> None:
    """Unchanged where a model is turned, scaled, moved, and by the order of the models."""
    seen = normal(seed, 120, 4)
    states = {f"m{i}": seen @ normal(seed + i, 4, width) + normal(i, 120, width) for i in (1, 2)}
    found = measure_panel(GAUSS, states)
    turn = np.linalg.qr(normal(seed, width, width))[0]
    changed = measure_panel(GAUSS, {"m2": states["m2"], "m1": factor * states["m1"] @ turn + 7})
    for name in ("gain", "r2"):
        for u, v in (("m1", "m2"), ("m2", "m1")):
            assert changed.pairs[name][u][v] == pytest.approx(found.pairs[name][u][v], abs=1e-6)


def test_known_answers() -> None:
    state = normal(1, 1000, 8)
    states = {"all": state, "part": state[:, :2], "copy": -2 * state, "other": normal(2, 1000, 8)}
    found = measure_panel(GAUSS, states)
    gain = found.pairs["gain"]
    assert found.numbers["k"] == 2
    assert gain["all"]["part"] > 4 > 1 > gain["part"]["all"]
    assert gain["all"]["copy"] > 4
    assert gain["all"]["copy"] <= -np.log(1e-4) / 2 + 0.6
    assert found.pairs["r2"]["all"]["copy"] == pytest.approx(1, abs=1e-4)
    for other in ("all", "part", "copy"):
        assert gain["other"][other] == pytest.approx(0, abs=0.02)
        assert gain[other]["other"] == pytest.approx(0, abs=0.02)
    again = measure_panel(GAUSS, states, seed=1).pairs["gain"]
    assert again["part"]["other"] != gain["part"]["other"]  # other folds
    assert again["part"]["other"] == pytest.approx(gain["part"]["other"], abs=0.02)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "k": ({"k": 0}, UserError, "k must be at least 1"),
    "folds": ({"folds": 1}, UserError, "folds must be at least 2"),
    "more folds than texts": ({"folds": 121}, NotEnoughTexts, "at least 121 texts, got 120"),
    "no grid": ({"grid": []}, UserError, "grid must be strengths of 1e-9 or more"),
    "grid": ({"grid": [0.0]}, UserError, "grid must be strengths of 1e-9 or more"),
    "no number": ({"grid": [1, np.nan]}, UserError, "grid must be strengths of 1e-9 or more"),
    "floor": ({"floor": 0.0}, UserError, "floor must be above 0"),
    "seed": ({"seed": -1}, UserError, "seed must be 0 or more"),
}


@pytest.mark.parametrize(("more", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_parameters_it_refuses(more: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=f"info_gauss.*{said}"):
        measure_panel(GAUSS, panel(), **more)


def test_states_it_refuses() -> None:
    few = {model: state[:99] for model, state in panel().items()}
    with pytest.raises(NotEnoughTexts, match="info_gauss needs at least 100 texts, got 99"):
        measure_panel(GAUSS, few)
    half = np.zeros((100, 3))
    half[np.array_split(np.random.RandomState(0).permutation(100), 2)[0]] = normal(1, 50, 3)
    states = {"a": normal(1, 100, 3), "half": half}
    with pytest.raises(DegenerateState, match="half has one state for all texts of a fold"):
        measure_panel(GAUSS, states, folds=2)


def test_the_whole_grid_is_tried() -> None:
    """In whatever order."""
    grid = (1e-4, 1e-3, 0.01, 0.1, 1, 10, 100)
    found, mixed = (measure_panel(GAUSS, panel(), grid=g) for g in (grid, (*grid[::-1], 0.1)))
    assert mixed == found
    alone = measure_panel(GAUSS, panel(), grid=(100,))
    assert (rows(alone, "gain") < rows(found, "gain")).all()
