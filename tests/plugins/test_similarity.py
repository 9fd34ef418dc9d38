"""mutual_knn, panel_cka: expected values, independent ones, laws; what a panel metric may give."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from lrd_harness.contracts import Choice, PanelMetric, Summary
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UnitError
from lrd_harness.panels import measure_panel

KNN, CKA = importlib.import_module("lrd_harness.plugins.metrics.similarity").lrd_panel_metrics()


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randn(*shape)


def panel() -> dict[str, np.ndarray]:
    """Four models of 120 texts that see more or less of the same six directions, and noise."""
    seen = normal(11, 120, 6)
    shapes = [(6, 10, 0.1), (6, 8, 0.5), (4, 12, 0.1), (6, 7, 1)]
    return {
        f"m{i}": seen[:, :r] @ normal(30 + i, r, d) + s * normal(40 + i, 120, d)
        for i, (r, d, s) in enumerate(shapes)
    }


def by_sklearn(states: dict[str, np.ndarray], k: int) -> dict[str, dict[str, float]]:
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute")
    near = {m: search.fit(h).kneighbors(return_distance=False) for m, h in states.items()}

    def shared(a: str, b: str) -> float:
        return (
            sum(len(set(i) & set(j)) for i, j in zip(near[a], near[b], strict=True)) / near[a].size
        )

    return {a: {b: shared(a, b) for b in states if b != a} for a in states}


def test_the_golden_panel() -> None:
    found = measure_panel(KNN, panel())
    rows = [list(row.values()) for row in found.pairs["pairs"].values()]
    assert np.allclose(
        rows,
        [
            [0.33666666666666667, 0.36583333333333334, 0.3025],
            [0.33666666666666667, 0.3633333333333334, 0.3225],
            [0.36583333333333334, 0.3633333333333334, 0.2758333333333333],
            [0.3025, 0.3225, 0.2758333333333333],
        ],
        rtol=1e-9,
    )
    consensus = [0.33499999999999996, 0.3408333333333333, 0.335, 0.3002777777777778]
    assert np.allclose(list(found.by_model["consensus"].values()), consensus, rtol=1e-9)
    assert found.numbers == {"chance": pytest.approx(0.08403361344537816), "k": 10}


@pytest.mark.parametrize(("n", "k", "used"), [(120, 3, 3), (120, 500, 29), (8, 10, 1), (21, 10, 5)])
def test_as_scikit_learn_finds_neighbours(n: int, k: int, used: int) -> None:
    states = {model: state[:n] for model, state in panel().items()}
    found = measure_panel(KNN, states, k=k)
    expected = by_sklearn(states, used)
    assert found.numbers == {"chance": pytest.approx(used / (n - 1)), "k": used}
    for model, row in expected.items():
        assert found.pairs["pairs"][model] == pytest.approx(row)
        assert found.values(model)["consensus"] == pytest.approx(np.mean(list(row.values())))


def test_laws() -> None:
    """Copies, turned or scaled, agree in all; independent ones by chance; order changes nothing."""
    state = normal(1, 200, 16)
    turned = np.linalg.qr(normal(2, 16, 16))[0]
    states = {"a": state, "turned": 3 * state @ turned, "other": normal(3, 200, 9)}
    found = measure_panel(KNN, states)
    assert found.pairs["pairs"]["a"]["turned"] == 1
    assert found.pairs["pairs"]["a"]["other"] == pytest.approx(found.numbers["chance"], abs=0.02)
    order = np.random.RandomState(0).permutation(200)
    mixed = measure_panel(KNN, {m: states[m][order] for m in reversed(states)})
    assert mixed.pairs["pairs"]["other"] == pytest.approx(found.pairs["pairs"]["other"])
    two = measure_panel(KNN, {m: states[m] for m in ("a", "other")})
    assert (two.by_model, two.pairs["pairs"]["a"].keys()) == ({}, {"other"})


def test_ties_go_to_the_lower_index() -> None:
    """Signs have cosines with exact ties, broken here by a stable sort."""
    states = {m: np.sign(normal(i, 60, 8)) for i, m in enumerate("ab")}
    near = {}
    for model, h in states.items():
        away = np.where(np.eye(60, dtype=bool), np.inf, 8 - h @ h.T)
        near[model] = away.argsort(axis=1, kind="stable")[:, :10]
    pairs = zip(near["a"], near["b"], strict=True)
    shared = sum(len(set(a) & set(b)) for a, b in pairs) / 600
    assert measure_panel(KNN, states).pairs["pairs"]["a"]["b"] == pytest.approx(shared)


def test_the_golden_cka() -> None:
    found = measure_panel(CKA, panel())
    rows = [list(row.values()) for row in found.pairs["pairs"].values()]
    expected = [
        [0.3407368922557309, 0.4743923306748345, 0.4333450313111478],
        [0.3407368922557309, 0.6590585598615054, 0.5472099774144794],
        [0.4743923306748345, 0.6590585598615054, 0.47381118360024616],
        [0.4333450313111478, 0.5472099774144794, 0.47381118360024616],
    ]
    assert np.allclose(rows, expected, rtol=1e-9)
    consensus = [0.4161580847472377, 0.5156684765105719, 0.5357540247121954, 0.4847887307752911]
    assert list(found.by_model["consensus"].values()) == pytest.approx(consensus, rel=1e-9)


def test_cka_by_its_definition() -> None:
    """Also of fewer texts than dimensions; a copy has 1, what is independent about 0."""
    states = {"a": normal(1, 60, 90), "b": normal(2, 60, 5)}
    states["c"] = states["b"] @ normal(3, 5, 90) + 3 * states["a"]

    def alike(x: np.ndarray, y: np.ndarray) -> float:
        """Song et al.: the unbiased estimate of HSIC, up to a factor."""
        n = len(x)
        k, m = ((s @ s.T) * (1 - np.eye(n)) for s in (x, y))
        both = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return float((k * m).sum() + both - 2 * k.sum(axis=1) @ m.sum(axis=1) / (n - 2))

    found = measure_panel(CKA, {**states, "copy": 7 - 2 * states["a"]}).pairs["pairs"]
    for a, b in (("a", "b"), ("a", "c"), ("b", "c")):
        x, y = states[a], states[b]
        expected = alike(x, y) / np.sqrt(alike(x, x) * alike(y, y))
        assert found[a][b] == pytest.approx(expected, abs=1e-10)
        assert found[b][a] == pytest.approx(expected, abs=1e-10)
    assert found["a"]["copy"] == pytest.approx(1)
    assert abs(found["a"]["b"]) < 0.2


def test_what_cka_refuses() -> None:
    with pytest.raises(NotEnoughTexts, match="at least 20 texts, got 19"):
        measure_panel(CKA, {m: normal(i, 19, 4) for i, m in enumerate("ab")})
    with pytest.raises(DegenerateState, match="in b all texts are equally alike"):
        measure_panel(CKA, {"a": normal(1, 24, 4), "b": np.eye(24)})


def test_scores_that_the_harness_makes_of_a_matrix() -> None:
    matrix = {
        a: {b: i + 10 * j for j, b in enumerate("abcd") if b != a} for i, a in enumerate("abcd")
    }
    ways = {
        "row": Summary("x"),
        "column": Summary("x", along="column"),
        "middle": Summary("x", "median", "column"),
    }
    states = {m: np.eye(8) for m in "abcd"}
    own = gives({"x": matrix}, summaries=ways, selection=Choice("row"))
    found = measure_panel(own, states, {"a": "f", "b": "f", "c": "g", "d": "h"}).by_model
    assert found["row"] == {"a": 20, "b": 1 + 50 / 3, "c": 2 + 40 / 3, "d": 3 + 10}
    assert found["column"] == {"a": 2, "b": 10 + 5 / 3, "c": 20 + 4 / 3, "d": 30 + 1}
    assert found["middle"] == {"a": 2, "b": 12, "c": 21, "d": 31}
    assert found["row_other_families"] == {"a": 25, "b": 26, "c": 2 + 40 / 3, "d": 13}
    assert found["middle_other_families"] == {"a": 2.5, "b": 12.5, "c": 21, "d": 31}
    with pytest.raises(UnitError, match="own gave no matrix y, of which row is made"):
        measure_panel(gives({"x": matrix}, summaries={"row": Summary("y")}), states)
    for given in (1, dict.fromkeys("abcd", 1)):  # of the panel, and by model
        with pytest.raises(UnitError, match="own gave a score row, which its summaries make"):
            measure_panel(gives({"x": matrix, "row": given}, summaries=ways), states)
    two = gives({"x": {"a": {"b": 1}, "b": {"a": 1}}}, summaries=ways, selection=Choice("row"))
    with pytest.raises(UnitError, match="own ranks 3 models or more, and has the states of 2"):
        measure_panel(two, {m: states[m] for m in "ab"})


def gives(answer: Any, **fields: Any) -> PanelMetric:
    return PanelMetric("own", lambda states, families: answer, **fields)


GOOD = {"x": {"a": 1, "b": 2}}
ODD: dict[str, tuple[Any, type[Exception], str]] = {
    "no mapping": ([1], TypeError, "own gave list, not a mapping"),
    "no score": ({}, UnitError, "own gave no score"),
    "a name that is none": ({"": 1}, TypeError, "which is no name"),
    "a model short": ({"x": {"a": 1}}, UnitError, "own.x has no value for b"),
    "a model too many": ({"x": {"a": 1, "b": 2, "c": 3}}, UnitError, "own.x has a value for c"),
    "not finite": ({"x": {"a": 1, "b": np.nan}}, NotFinite, "own.x of b is nan"),
    "a number not finite": ({**GOOD, "y": np.inf}, NotFinite, "own.y is inf"),
    "a text": ({"x": {"a": 1, "b": "2"}}, TypeError, "own.x of b is a str"),
    "an array": ({"x": np.eye(2)}, TypeError, "own.x is a list"),
    "both kinds": ({"x": {"a": 1, "b": {"a": 1}}}, TypeError, "numbers and mappings side by side"),
    "a diagonal": (
        {"x": {"a": {"a": 1, "b": 1}, "b": {"a": 1}}},
        UnitError,
        "own.x of a has a value",
    ),
    "a row short": ({"x": {"a": {"b": 1}}}, UnitError, "own.x has no value for b"),
    "a gap": ({"x": {"a": {"b": 1}, "b": {}}}, UnitError, "side by side|own.x of b has no value"),
    "three deep": ({"x": {"a": {"b": {}}, "b": {"a": {}}}}, TypeError, "own.x of a of b is a dict"),
}


@pytest.mark.parametrize(("answer", "error", "said"), ODD.values(), ids=ODD)
def test_what_a_metric_may_not_give(answer: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        measure_panel(gives(answer), {"a": np.eye(8), "b": np.eye(8)})


def test_the_score_that_ranks_is_by_model() -> None:
    states = {"a": np.eye(8), "b": np.eye(8)}
    assert measure_panel(gives(GOOD, selection=Choice("x")), states).values("b") == {"x": 2}
    for answer in ({"x": 1}, {"x": {"a": {"b": 1}, "b": {"a": 1}}}, {"y": {"a": 1, "b": 2}}):
        with pytest.raises(UnitError, match="own gave no score x by model"):
            measure_panel(gives(answer, selection=Choice("x")), states)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "one model": ({"a": np.eye(8)}, UnitError, "compares models, and has the states of 1"),
    "few texts": ({m: np.eye(7) for m in "ab"}, NotEnoughTexts, "at least 8 texts, got 7"),
    "other texts": ({"a": np.eye(8), "b": np.eye(9)}, UnitError, "the same texts of all models"),
    "nan": ({"a": np.eye(8), "b": np.eye(8) * np.nan}, NotFinite, "in the states of b"),
    "all alike": ({"a": np.eye(8), "b": np.ones((8, 3))}, DegenerateState, "the state of b"),
    "one row": ({"a": np.eye(8), "b": np.ones(8)}, UnitError, r"a state of b has shape \(8,\)"),
}


@pytest.mark.parametrize(("states", "error", "said"), BAD.values(), ids=BAD)
def test_states_that_cannot_be_compared(
    states: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        measure_panel(KNN, states)


def test_all_states_and_families() -> None:
    """Float64 whatever it was, of each model all that it has; an unknown family is None."""

    def depth(states: Any, families: Any) -> Any:
        assert families == {"a": "bert", "b": None}
        assert {s.dtype for m in states for s in states[m]} == {torch.float64}
        return {"depth": {m: len(states[m]) for m in states}}

    of_all = PanelMetric("depth", depth, states="all")
    states = {"a": [np.eye(8, dtype=np.float16)] * 3, "b": [np.eye(8)] * 4}
    assert measure_panel(of_all, states, {"a": "bert"}).by_model == {"depth": {"a": 3, "b": 4}}
    with pytest.raises(UnitError, match="the states of b are of 2 numbers of texts"):
        measure_panel(of_all, {"a": [np.eye(8)], "b": [np.eye(8), np.eye(9)]})
