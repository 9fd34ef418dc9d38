"""NRS and GFMI: definitions, ties, and scikit-learn's and scipy's parts."""

from __future__ import annotations

import importlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import hypergeom
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information
from sklearn.neighbors import NearestNeighbors
from states import agree, signs, walk

from lrd_harness import measure

gfmi = importlib.import_module("lrd_harness.plugins.metrics.gfmi")
nrs = importlib.import_module("lrd_harness.plugins.metrics.nrs")
(GFMI,), (NRS,) = gfmi.lrd_metrics(), nrs.lrd_metrics()
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
        every = []
        for t in np.percentile(away, [*grid, *low]):
            i, j = np.nonzero(away <= t)
            edges = coo_array((np.ones(len(i)), (i, nearest[i, j])), shape=(len(h), len(h)))
            every.append(connected_components(edges, directed=False)[1])
        return every

    last, auc, adjusted = labels(states[-1]), [], []
    m = len(grid)
    kept = [p for p in range(m, m + 40) if 1 < len(set(last[p])) < len(last[p])]
    for h in states:
        here = labels(h)
        information = [mutual_info_score(here[p], last[p]) for p in range(m)]
        auc.append(np.trapezoid(information, grid))
        adjusted.append([adjusted_mutual_info_score(here[p], last[p]) for p in kept])
    scores = {"auc": auc, "mean_auc": np.mean(auc[:-1]), "first_auc": auc[0]}
    if kept:
        scores["auc_adjusted"] = np.mean(adjusted, axis=1)
    return {**scores, "adjusted_percentiles": len(kept)}


NEAR = 1e-2 * np.random.RandomState(0).randn(3, 60, 10).cumsum(0) + 3  # a mean beyond the spread


@pytest.mark.slow
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


@pytest.mark.slow
def test_ties_survive_rounding():
    """A rotation in floating point leaves equal rows equal to some 1e-16 only."""
    for d, metric, k in ((16, GFMI, 4), (8, NRS, 6)):
        turn = np.linalg.qr(np.random.RandomState(0).randn(d, d))[0]
        for seed in range(3):
            x = signs(seed, d=d, distinct=40 if metric is GFMI else None)
            agree(measure(metric, x @ turn, k=k), measure(metric, x, k=k), rtol=1e-12)


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


def test_expected_mutual_information_of_many_components_is_scikit_learns():
    rng = np.random.RandomState(0)
    a = np.unique(np.sort(rng.zipf(1.3, 2000) % 300), return_inverse=True)[1]
    b = np.r_[np.zeros(1200, int), np.arange(800) // 2 + 1]
    mine = gfmi.expected_mutual_information(np.bincount(a), np.bincount(b))
    table = contingency_matrix(a, b, sparse=True).astype(np.int64)
    assert mine == pytest.approx(expected_mutual_information(table, 2000), abs=1e-10)

    whole, each, halves = np.zeros(6, int), np.arange(6), np.arange(6) // 3
    assert gfmi.adjusted_mutual_information(whole, whole) == 1
    assert gfmi.adjusted_mutual_information(each, each) == 1
    for a, b in ((whole, halves), (halves, whole), (whole, each), (each, halves)):
        assert gfmi.adjusted_mutual_information(a, b) == pytest.approx(0, abs=1e-12)


def overlaps(states, k, anchors=None):
    """The definition, for rows of one common length; a stable sort takes ties by lower index."""
    rows = range(len(states[0])) if anchors is None else anchors
    sets = []
    for h in states:
        away = -(h @ h.T)
        np.fill_diagonal(away, np.inf)
        nearest = away.argsort(axis=1, kind="stable")[:, :k]
        sets.append([set(nearest[i]) for i in rows])

    def overlap(a, b):
        return np.mean([len(s & t) / len(s | t) for s, t in zip(a, b, strict=True)])

    pairs = pairwise(sets)
    return [overlap(a, b) for a, b in pairs], overlap(sets[0], sets[-1])


@pytest.mark.parametrize("k", [1, 4, 12])
@pytest.mark.parametrize("anchors", [60, 17])
def test_overlaps_against_the_definition_with_ties(k, anchors):
    rows = range(60)
    if anchors < 60:
        rows = np.sort(np.random.RandomState(42).choice(60, anchors, replace=False))
    for seed in range(4):
        x = signs(seed)
        scores = measure(NRS, x, k=k, anchors=anchors)
        jaccard, first_last = overlaps(x, k, rows)
        np.testing.assert_allclose(scores["jaccard"], jaccard, rtol=1e-12)
        assert scores["first_last"] == pytest.approx(first_last, rel=1e-12)


def test_neighbours_are_scikit_learns():
    h = walk(3, 1, 90, 7)[0]
    nearest, distances = graph_by_sklearn(h, 10)
    mine = nrs.cosine_neighbours(torch.tensor(h), 10, torch.arange(90))
    order = mine.distances.argsort(dim=1)
    np.testing.assert_array_equal(mine.indices.gather(1, order), nearest)
    np.testing.assert_allclose(mine.distances.gather(1, order), distances, atol=1e-14)


def test_close_directions_keep_their_order():
    """All rows within 1e-7 of one direction: 1 - cosine would be rounding alone."""
    angle = 1e-7 * np.random.RandomState(0).permutation(40) ** 1.1
    h = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    mine = nrs.cosine_neighbours(torch.tensor(h), 3, torch.arange(40))
    gaps = np.abs(angle[:, None] - angle[None])
    np.fill_diagonal(gaps, np.inf)
    expected = np.sort(gaps.argsort(axis=1)[:, :3], axis=1)
    np.testing.assert_array_equal(mine.indices.sort(dim=1).values, expected)
    distances = np.sort(gaps, axis=1)[:, :3] ** 2 / 2
    np.testing.assert_allclose(mine.distances.sort(dim=1).values, distances, rtol=1e-5)


def test_a_row_of_zeros_is_at_right_angles_to_all():
    h = torch.tensor(walk(0, 1, 9, 4)[0])
    h[[4, 7]] = 0
    mine = nrs.cosine_neighbours(h, 2, torch.tensor([4, 7]))
    np.testing.assert_allclose(mine.distances[1].sort().values, [1, 1], atol=1e-12)


def test_chunks_make_no_difference(monkeypatch):
    x = signs(1)
    whole = measure(NRS, x, k=5)
    monkeypatch.setattr(nrs, "CHUNK", 60 * 7)
    assert measure(NRS, x, k=5) == whole


@pytest.mark.parametrize(("n", "k"), [(60, 20), (200, 7), (9, 2)])
def test_chance_by_simulation_and_by_sum(n, k):
    k = min(k, (n - 1) // 4)
    scores = measure(NRS, walk(0, 2, n), k=k)
    by_sum = sum(hypergeom.pmf(x, n - 1, k, k) * x / (2 * k - x) for x in range(k + 1))
    assert scores["chance"] == pytest.approx(by_sum, rel=1e-12)
    x = np.random.default_rng(0).hypergeometric(k, n - 1 - k, k, 100_000)
    assert scores["chance"] == pytest.approx((x / (2 * k - x)).mean(), rel=0.02)
