"""NRS: expected values, laws, ties, and scikit-learn's neighbours."""

from __future__ import annotations

import importlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom
from sklearn.neighbors import NearestNeighbors
from states import signs, walk

from lrd_harness import measure

NRS = importlib.import_module("lrd_harness.plugins.metrics.nrs").lrd_metrics()[0]
knn = importlib.import_module("lrd_harness.plugins.metrics.nrs")


def naive(states, k, anchors=None):
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
def test_against_the_definition_with_ties(k, anchors):
    rows = range(60)
    if anchors < 60:
        rows = np.sort(np.random.RandomState(42).choice(60, anchors, replace=False))
    for seed in range(4):
        x = signs(seed)
        scores = measure(NRS, x, k=k, anchors=anchors)
        jaccard, first_last = naive(x, k, rows)
        np.testing.assert_allclose(scores["jaccard"], jaccard, rtol=1e-12)
        assert scores["first_last"] == pytest.approx(first_last, rel=1e-12)


def test_against_scikit_learn():
    x = walk(3, 2, 90, 7)
    found = []
    for h in x:
        search = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(h)
        distances, nearest = search.kneighbors()
        mine = knn.cosine_neighbours(torch.tensor(h), 10, torch.arange(90))
        order = mine.distances.argsort(dim=1)
        np.testing.assert_array_equal(mine.indices.gather(1, order), nearest)
        np.testing.assert_allclose(mine.distances.gather(1, order), distances, atol=1e-14)
        found.append(nearest)
    shared = [len(set(a) & set(b)) for a, b in zip(*found, strict=True)]
    assert measure(NRS, x, k=10)["jaccard"][0] == pytest.approx(
        np.mean([s / (20 - s) for s in shared])
    )


def test_ties_survive_rounding():
    """A rotation in floating point leaves equal rows equal to some 1e-16 only."""
    turn = np.linalg.qr(np.random.RandomState(0).randn(8, 8))[0]
    for seed in range(4):
        x = signs(seed)
        assert measure(NRS, x @ turn, k=6)["jaccard"] == measure(NRS, x, k=6)["jaccard"]


def test_duplicates_are_neighbours_in_order():
    h = torch.tensor(walk(1, 1, 12, 5)[0][[0, 1, 0, 0, 2, 0, 3, 4, 5, 6, 7, 8]])
    found = knn.cosine_neighbours(h, 2, torch.tensor([0, 3, 5]))
    assert [sorted(row) for row in found.indices.tolist()] == [[2, 3], [0, 2], [0, 2]]
    np.testing.assert_allclose(found.distances, 0, atol=1e-15)


def test_close_directions_keep_their_order():
    """All rows within 1e-7 of one direction: 1 - cosine would be rounding alone."""
    angle = 1e-7 * np.random.RandomState(0).permutation(40) ** 1.1
    h = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    found = knn.cosine_neighbours(torch.tensor(h), 3, torch.arange(40))
    gaps = np.abs(angle[:, None] - angle[None])
    np.fill_diagonal(gaps, np.inf)
    expected = np.sort(gaps.argsort(axis=1)[:, :3], axis=1)
    np.testing.assert_array_equal(found.indices.sort(dim=1).values, expected)
    np.testing.assert_allclose(
        found.distances.sort(dim=1).values, np.sort(gaps, axis=1)[:, :3] ** 2 / 2, rtol=1e-5
    )


def test_a_row_of_zeros_is_at_right_angles_to_all():
    h = torch.tensor(walk(0, 1, 9, 4)[0])
    h[4] = 0
    h[7] = 0
    found = knn.cosine_neighbours(h, 8 // 4, torch.tensor([4, 7]))
    np.testing.assert_allclose(found.distances[1].sort().values, [1, 1], atol=1e-12)


def test_chunks_make_no_difference(monkeypatch):
    x = signs(1)
    whole = measure(NRS, x, k=5)
    monkeypatch.setattr(knn, "CHUNK", 60 * 7)
    assert measure(NRS, x, k=5) == whole


def test_equal_adjacent_states():
    x = walk()
    scores = measure(NRS, [x[0], x[0], x[1]])
    assert scores["jaccard"][0] == 1
    assert scores["jaccard"][1] < 1
    assert measure(NRS, [x[0]] * 3)["mean_jaccard"] == 1


@pytest.mark.parametrize(("n", "k"), [(60, 20), (200, 7), (9, 2)])
def test_chance_by_simulation_and_by_sum(n, k):
    k = min(k, (n - 1) // 4)
    scores = measure(NRS, walk(0, 2, n), k=k)
    by_sum = sum(hypergeom.pmf(x, n - 1, k, k) * x / (2 * k - x) for x in range(k + 1))
    assert scores["chance"] == pytest.approx(by_sum, rel=1e-12)
    x = np.random.default_rng(0).hypergeometric(k, n - 1 - k, k, 100_000)
    assert scores["chance"] == pytest.approx((x / (2 * k - x)).mean(), rel=0.02)


def test_independent_layers_overlap_by_chance():
    x = np.random.RandomState(0).randn(5, 400, 10)
    scores = measure(NRS, x)
    overlap = np.random.default_rng(0).hypergeometric(20, 379, 20, 100_000)
    error = (overlap / (40 - overlap)).std() / np.sqrt(400)
    np.testing.assert_allclose(scores["jaccard"], scores["chance"], atol=3 * error)
    assert abs(scores["first_last"] - scores["chance"]) < 3 * error


def test_anchors_are_a_fixed_draw():
    x = walk(2, 3, 80)
    assert measure(NRS, x, k=5, anchors=80) == measure(NRS, x, k=5)
    fewer = measure(NRS, x, k=5, anchors=20)
    assert fewer == measure(NRS, x, k=5, anchors=20)
    assert fewer["jaccard"] != measure(NRS, x, k=5)["jaccard"]
