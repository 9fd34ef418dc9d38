"""GFMI: expected values, laws, ties, and scikit-learn's and scipy's parts."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information
from sklearn.neighbors import NearestNeighbors
from states import agree, signs, walk

from lrd_harness import measure

GFMI = importlib.import_module("lrd_harness.plugins.metrics.gfmi").lrd_metrics()[0]
gfmi = importlib.import_module("lrd_harness.plugins.metrics.gfmi")
few = settings(max_examples=6, deadline=None, derandomize=True)


def graph_by_sort(h, k):
    """Stable sort, ties by lower index; exact for `signs`."""
    away = 1 - h @ h.T / h.shape[1]
    others = np.where(np.eye(len(h), dtype=bool), np.inf, away)
    nearest = others.argsort(axis=1, kind="stable")[:, :k]
    return nearest, np.take_along_axis(away, nearest, 1)


def graph_by_sklearn(h, k):
    search = NearestNeighbors(n_neighbors=k, metric="cosine", algorithm="brute").fit(h)
    distances, nearest = search.kneighbors()
    return nearest, distances


def naive(states, k, graph, grid=None):
    """The definition, read off line by line."""
    grid = np.linspace(5, 95, 20) if grid is None else np.asarray(grid)
    low = np.linspace(0.5, 20, 40)

    def labels(h):
        nearest, away = graph(h, k)
        made = []
        for t in np.percentile(away, [*grid, *low]):
            i, j = np.nonzero(away <= t)
            edges = coo_array((np.ones(len(i)), (i, nearest[i, j])), shape=(len(h), len(h)))
            made.append(connected_components(edges, directed=False)[1])
        return made

    last, auc, adjusted = labels(states[-1]), [], []
    m = len(grid)
    kept = [p for p in range(m, m + 40) if 1 < len(set(last[p])) < len(last[p])]
    for h in states:
        own = labels(h)
        information = [mutual_info_score(own[p], last[p]) for p in range(m)]
        auc.append(np.trapezoid(information, grid))
        adjusted.append([adjusted_mutual_info_score(own[p], last[p]) for p in kept])
    scores = {"auc": auc, "mean_auc": np.mean(auc[:-1]), "first_auc": auc[0]}
    if kept:
        scores["auc_adjusted"] = np.mean(adjusted, axis=1)
    return {**scores, "adjusted_percentiles": len(kept)}


NEAR = 1e-2 * np.random.RandomState(0).randn(3, 60, 10).cumsum(0) + 3  # a mean beyond the spread


@pytest.mark.parametrize(
    ("x", "k", "grid", "rtol"),
    [
        (walk(1, 4), 1, None, 1e-8),
        (walk(14, 4), 14, None, 1e-8),
        (walk(), 5, (10, 50), 1e-8),
        (walk(), 5, [0, 1, 5, 30, 100], 1e-8),
        (NEAR, 5, None, 1e-6),
    ],
    ids=["one", "many", "two percentiles", "ends", "near"],
)
def test_against_sklearn_and_scipy(x, k, grid, rtol):
    more = {} if grid is None else {"percentiles": grid}
    agree(measure(GFMI, x, k=k, **more), naive(x, k, graph_by_sklearn, grid), rtol, 1e-10)


@pytest.mark.parametrize(("distinct", "k"), [(None, 5), (35, 2), (35, 14)])
def test_against_the_definition_with_ties_and_duplicates(distinct, k):
    x = signs(k, 3, d=16, distinct=distinct)
    agree(measure(GFMI, x, k=k), naive(x, k, graph_by_sort), 1e-8, 1e-10)


def test_ties_survive_rounding():
    turn = np.linalg.qr(np.random.RandomState(0).randn(16, 16))[0]
    for seed in range(3):
        x = signs(seed, d=16, distinct=40)
        agree(measure(GFMI, x @ turn, k=4), measure(GFMI, x, k=4), rtol=1e-12)


def test_a_state_equal_to_the_last():
    x = walk()
    scores = measure(GFMI, [x[0], x[4], x[2], 3 * x[4]], k=5)
    assert scores["auc_adjusted"][1] == pytest.approx(1)
    assert scores["auc_adjusted"][3] == pytest.approx(1)
    assert scores["auc"][1] == pytest.approx(scores["auc"][3])
    assert scores["auc_adjusted"][0] < 0.5


def test_summaries_leave_out_the_last_states_own_value():
    scores = measure(GFMI, walk(), k=5)
    for name in ("auc", "auc_adjusted"):
        inner = scores[name][:-1]
        assert scores[f"mean_{name}"] == pytest.approx(np.mean(inner))
        assert scores[f"max_{name}"] == max(inner) < scores[name][-1]
        assert scores[f"late_{name}"] == inner[-1]
        slope = np.polyfit(np.linspace(0, 1, 4), inner, 1)[0]
        assert scores[f"slope_{name}"] == pytest.approx(slope)
    scores = measure("gfmi", np.random.RandomState(0).randn(2, 60, 8))
    assert scores["mean_auc"] == scores["auc"][0]  # one value is left: it has no slope
    assert not {"slope_auc", "slope_auc_adjusted"} & scores.keys()


def test_independent_layers_agree_by_chance():
    scores = measure(GFMI, np.random.RandomState(0).randn(6, 300, 10))
    assert np.abs(scores["auc_adjusted"][:-1]).max() < 0.03
    assert abs(scores["mean_auc_adjusted"]) < 0.01
    assert scores["mean_auc"] > 1  # which is why there is the other


def test_auc_adjusted_is_absent_where_the_last_layer_is_dust_or_whole():
    """All rows at one distance: every threshold takes all edges, and the graph is whole."""
    simplex = np.eye(16)
    scores = measure(GFMI, [walk(0, 1, 16, 16)[0], simplex], k=3)
    assert scores["adjusted_percentiles"] == 0
    assert "auc_adjusted" not in scores
    assert "mean_auc_adjusted" not in scores
    assert scores["auc"][-1] == 0


@few
@given(st.integers(0, 10_000), st.integers(2, 200), st.integers(1, 40), st.integers(1, 40))
def test_adjusted_mutual_information_is_scikit_learns(seed, n, classes, clusters):
    rng = np.random.RandomState(seed)
    a, b = rng.randint(classes, size=n), rng.zipf(1.5, n) % clusters
    a, b = (np.unique(labels, return_inverse=True)[1] for labels in (a, b))
    for x, y in ((a, b), (b, a), (a, a), (b, (b + a % 2) // 2)):
        y = np.unique(y, return_inverse=True)[1]
        expected = adjusted_mutual_info_score(x, y)
        assert gfmi.adjusted_mutual_information(x, y) == pytest.approx(expected, abs=1e-10)
        assert gfmi.mutual_information(x, y) == pytest.approx(mutual_info_score(x, y), abs=1e-12)


def test_expected_mutual_information_is_scikit_learns():
    rng = np.random.RandomState(0)
    a = np.sort(rng.zipf(1.3, 2000) % 300)
    b = np.r_[np.zeros(1200, int), np.arange(800) // 2 + 1]
    a = np.unique(a, return_inverse=True)[1]
    mine = gfmi.expected_mutual_information(np.bincount(a), np.bincount(b))
    table = contingency_matrix(a, b, sparse=True).astype(np.int64)
    assert mine == pytest.approx(expected_mutual_information(table, 2000), abs=1e-10)

    one, each, two = np.zeros(6, int), np.arange(6), np.arange(6) // 3
    assert gfmi.adjusted_mutual_information(one, one) == 1
    assert gfmi.adjusted_mutual_information(each, each) == 1
    for a, b in ((one, two), (two, one), (one, each), (each, two)):
        assert gfmi.adjusted_mutual_information(a, b) == pytest.approx(0, abs=1e-12)


def test_components_are_those_of_the_cut_graph():
    h = walk(2, 1, 80, 4)[0]
    nearest, away = graph_by_sklearn(h, 3)
    percentiles = [0, 3, 20, 50, 77, 100]
    made = gfmi.components(torch.tensor(h), 3, percentiles)
    for labels, t in zip(made, np.percentile(away, percentiles), strict=True):
        i, j = np.nonzero(away <= t)
        edges = coo_array((np.ones(len(i)), (i, nearest[i, j])), shape=(80, 80))
        expected = connected_components(edges, directed=False)[1]
        assert adjusted_mutual_info_score(labels, expected) == pytest.approx(1)
        assert labels.max() == expected.max()
