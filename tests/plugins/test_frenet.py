"""Frenet and the map of its path: known angles, known curves, scipy's subspace angles."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from states import agree, walk

from lrd_harness import measure
from lrd_harness.errors import DegenerateState, UnitError

frenet = importlib.import_module("lrd_harness.plugins.metrics.frenet")
FRENET, MAP = (
    importlib.import_module(f"lrd_harness.plugins.metrics.{name}").lrd_metrics()[0]
    for name in ("frenet", "subspace_distance")
)


def bases_of(states, rank, space="feature", variance=0.95):
    """The rank, and the states' top-r subspaces by a plain SVD of unit rows."""
    parts = []
    for h in states:
        h = h / np.linalg.norm(h, axis=1, keepdims=True)
        parts.append(np.linalg.svd(h - h.mean(0), full_matrices=False))
    shares = np.cumsum(parts[-1][1] ** 2) / (parts[-1][1] ** 2).sum()
    r = rank or max(2, int(np.argmax(shares >= variance)) + 1)
    return r, [vt[:r].T if space == "feature" else u[:, :r] for u, _, vt in parts]


def naive(states, variance=0.95, rank=None, space="feature"):
    """The definition, read off line by line."""
    r, q = bases_of(states, rank, space, variance)

    def far(a, b):
        return np.linalg.norm(subspace_angles(q[a], q[b]))

    speed = [far(i, i + 1) for i in range(len(q) - 1)]
    curvature = []
    for i in range(1, len(q) - 1):
        a, b, c = speed[i - 1], speed[i], far(i - 1, i + 1)
        p = (a + b + c) / 2
        curvature.append(4 * np.sqrt(p * (p - a) * (p - b) * (p - c)) / (a * b * c))
    d0L, length = far(0, -1), sum(speed)
    shares = {"straightness": d0L / length, "d0L_normalised": d0L / (np.sqrt(r) * np.pi / 2)}
    path = {"speed": speed, "curvature": curvature, "d0L": d0L, "arc_length": length}
    return {"rank": r, **path, **shares}


@pytest.mark.parametrize("space", ["feature", "sample"])
@pytest.mark.parametrize("shape", [(60, 12), (20, 40), (150, 150)])
def test_against_scipy(space, shape):
    x = walk(7, 6, *shape)
    agree(measure(FRENET, x, space=space), naive(x, space=space), rtol=1e-9)
    for settings in ({"rank": 3}, {"variance": 0.6}):
        settings["space"] = space
        agree(measure(FRENET, x, **settings), naive(x, **settings), rtol=1e-8)


def test_against_scipy_on_a_decaying_spectrum():
    """As real states have: a large mean, a few strong directions, a long weak tail."""
    rng = np.random.RandomState(0)
    scale = np.arange(1, 81) ** -1.5
    x = (rng.randn(5, 200, 80) * scale).cumsum(0) + 0.5
    agree(measure(FRENET, x, rank=40), naive(x, rank=40))
    agree(measure(FRENET, x, variance=0.9999), naive(x, variance=0.9999))
    near = 1e-4 * np.random.RandomState(0).randn(4, 60, 10).cumsum(0) + 3
    agree(measure(FRENET, near), naive(near))


def planted(*angles, seed=0, n=50, extra=0):
    """A state whose centred rows span exactly the planes e_i turned by angle i towards e_(r+i)."""
    r = len(angles)
    basis = np.zeros((r, 2 * r + extra))
    basis[np.arange(r), np.arange(r)] = np.cos(angles)
    basis[np.arange(r), r + np.arange(r)] = np.sin(angles)
    return np.random.RandomState(seed).randn(n, r) @ basis


@pytest.mark.parametrize("n", [8, 50])
@pytest.mark.parametrize("scale", [1.5, 0.7, 1e-3, 1e-6, 1e-8, 1e-10])
def test_planted_principal_angles(scale, n):
    angles = scale * np.array([1, 0.5, 0.2])
    states = [planted(0, 0, 0, n=n), planted(*angles, n=n), planted(0, 0, 0, n=n)]
    scores = measure(FRENET, states, rank=3)
    # Data in float64 hold an angle to some 1e-16, whatever its size.
    expected = pytest.approx(np.linalg.norm(angles), rel=1e-6, abs=2e-15)
    assert scores["speed"] == [expected, expected]
    assert scores["d0L"] == pytest.approx(0, abs=1e-14)


def test_right_angles():
    angles = (np.pi / 2, np.pi / 2 - 1e-9, 0.3)
    scores = measure(FRENET, [planted(0, 0, 0), planted(*angles)], rank=3)
    assert scores["d0L"] == pytest.approx(np.linalg.norm(angles), rel=1e-12)
    assert scores["curvature"] == []
    assert "mean_curvature" not in scores
    assert scores["straightness"] == pytest.approx(1)


@pytest.mark.parametrize("radius", [0.1, 0.3, 0.6])
def test_a_circle_of_known_curvature(radius):
    """Two planes that turn independently are a flat torus: there circles are circles."""
    turns = np.linspace(0, 2, 7)
    states = [
        planted(0.7 + radius * np.cos(t), 0.7 + radius * np.sin(t), seed=i)
        for i, t in enumerate(turns)
    ]
    scores = measure(FRENET, states, rank=2)
    np.testing.assert_allclose(scores["curvature"], 1 / radius, rtol=1e-9)
    np.testing.assert_allclose(scores["speed"], 2 * radius * np.sin(1 / 6), rtol=1e-9)


def test_equal_states_do_not_move_and_rounding_has_no_direction():
    x = walk()
    scores = measure(FRENET, [x[0], x[1], x[1], x[2]])
    assert scores["speed"][1] == 0
    assert scores["speed"][0] > 0.1
    still = measure(FRENET, [x[0]] * 4)
    assert still["speed"] == [0, 0, 0]
    assert still["curvature"] == [0, 0]
    assert still["d0L"] == still["arc_length"] == 0
    # a subspace of full rank cannot move; how straight its rounding is says nothing
    rounding = measure("frenet", np.random.RandomState(0).randn(6, 60, 8), rank=8)
    assert rounding["arc_length"] < 1e-12
    assert not {"straightness"} & (still.keys() | rounding.keys())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_first_state_of_too_low_rank_is_left_out(dtype):
    x = walk().astype(dtype)
    rng = np.random.RandomState(1)
    flat = (rng.randn(2, 60, 3) @ rng.randn(2, 3, 12)).astype(dtype)
    both = measure(FRENET, [*flat, *x])
    alone = measure(FRENET, x)
    assert (both.start, alone.start) == (2, 0)
    assert both == alone
    constant = measure(FRENET, [np.ones_like(x[0]), *flat, *x])
    assert constant.start == 3
    assert measure(FRENET, [*flat, *x], rank=3).start == 0
    distance = measure(MAP, [*flat, *x])
    assert (distance.start, np.shape(distance["distance"])) == (2, (5, 5))


def test_too_low_a_rank_further_up_is_named():
    x = list(walk())
    rng = np.random.RandomState(1)
    flat = rng.randn(60, 3) @ rng.randn(3, 12)
    with pytest.raises(DegenerateState, match="layer 2 has numerical rank below r = 11"):
        measure(FRENET, [*x[:2], flat, *x[3:]])
    with pytest.raises(DegenerateState, match=r"layer 2.*counted from layer 1"):
        measure(FRENET, [np.ones_like(flat), *x[:2], flat, *x[3:]])
    with pytest.raises(DegenerateState, match="layer 4 has"):
        measure(FRENET, [*x[:4], flat], rank=4)
    with pytest.raises(DegenerateState, match="no layer but the last"):
        measure(FRENET, [flat, flat, x[4]])


@pytest.mark.parametrize("metric", [FRENET, MAP], ids=lambda metric: metric.name)
def test_ranks_and_widths_that_do_not_fit(metric):
    with pytest.raises(UnitError, match="60 texts of width 12 hold no subspace of rank 13"):
        measure(metric, walk(), rank=13)
    with pytest.raises(UnitError, match="10 texts of width 30"):
        measure(metric, walk(n=10, d=30), rank=10)
    for setting in ({"rank": 9}, {"variance": 1.0}):  # rounding is no variance
        assert measure(metric, walk(n=10, d=30), **setting)["rank"] == 9
    with pytest.raises(UnitError):
        measure(metric, np.random.RandomState(0).rand(3, 20, 1))
    x = walk()
    states = [walk(1, 1, d=20)[0], *x]
    with pytest.raises(UnitError, match="widths 20 and 12 differ; use space='sample'"):
        measure(metric, states, rank=5)
    expected = naive(states, rank=5, space="sample") if metric is FRENET else {"rank": 5}
    agree(measure(metric, states, rank=5, space="sample"), expected)
    x[-1] *= 1e-2
    x[-1, :, 0] += np.random.RandomState(0).choice([-1, 1], 60)
    assert [measure(metric, x, rank=rank)["rank"] for rank in (None, 1)] == [2, 1]


@pytest.mark.parametrize(
    ("seed", "r", "space"), [(0, 2, "feature"), (1, 6, "sample"), (2, 4, "feature")]
)
def test_every_pair_is_scipys_and_the_steps_are_frenets(seed, r, space):
    states = np.random.RandomState(seed).randn(5, 60, 12).cumsum(0)
    scores = measure(MAP, states, rank=r, space=space)
    _, bases = bases_of(states, r, space)
    most = np.sqrt(r) * np.pi / 2
    expected = [[np.linalg.norm(subspace_angles(a, b)) / most for b in bases] for a in bases]
    distance = np.array(scores["distance"])
    np.testing.assert_allclose(distance, expected, atol=1e-10)
    assert (distance == distance.T).all()
    assert (np.diag(distance) == 0).all()
    assert scores["to_last"] == scores["distance"][-1]
    assert scores["mean_distance"] == pytest.approx(np.mean(distance[np.triu_indices(5, 1)]))
    path = measure(FRENET, states, rank=r, space=space)
    np.testing.assert_allclose(np.diag(distance, 1) * most, path["speed"], atol=1e-10)
    assert distance[0, -1] == pytest.approx(path["d0L_normalised"], abs=1e-10)


def test_orthogonal_subspaces_are_1_apart_and_equal_ones_0():
    corner = np.random.RandomState(1).randn(40, 3)
    first, other = np.zeros((2, 40, 6))
    first[:, :3], other[:, 3:] = corner, corner
    distance = measure(MAP, [first, 2 * first, other, other], rank=2)["distance"]
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    np.testing.assert_allclose(distance, expected, atol=1e-12)
    nearly = [first, first + 1e-6 * np.random.RandomState(2).randn(40, 6)]
    distance = measure(MAP, nearly, rank=2)["distance"][0][1]
    path = measure(FRENET, nearly, rank=2)
    assert 0 < distance < 1e-5
    assert distance == pytest.approx(path["d0L_normalised"], rel=1e-9)
