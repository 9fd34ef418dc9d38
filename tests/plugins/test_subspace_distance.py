"""Layer-to-layer distances: scipy's subspace angles, frenet's own steps, laws, faults."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from lrd_harness.errors import DegenerateState, UnitError, UserError
from lrd_harness.measuring import measure

METRIC = importlib.import_module("lrd_harness.plugins.metrics.subspace_distance").lrd_metrics()[0]
FRENET = importlib.import_module("lrd_harness.plugins.metrics.frenet").lrd_metrics()[0]
few = settings(max_examples=10, deadline=None, derandomize=True)


def walk(seed=0, states=5, n=60, d=12):
    return np.random.RandomState(seed).randn(states, n, d).cumsum(0)


@few
@given(st.integers(0, 1000), st.integers(2, 6), st.sampled_from(["feature", "sample"]))
def test_every_pair_is_scipys_and_the_steps_are_frenets(seed, r, space):
    states = walk(seed)
    found = measure(METRIC, states, rank=r, space=space)
    bases = []
    for state in states:
        unit = state / np.linalg.norm(state, axis=1, keepdims=True)
        u, _, vt = np.linalg.svd(unit - unit.mean(0), full_matrices=False)
        bases.append(vt[:r].T if space == "feature" else u[:, :r])
    most = np.sqrt(r) * np.pi / 2
    expected = [[np.linalg.norm(subspace_angles(a, b)) / most for b in bases] for a in bases]
    distance = np.array(found["distance"])
    np.testing.assert_allclose(distance, expected, atol=1e-10)
    assert (distance == distance.T).all()
    assert (np.diag(distance) == 0).all()
    assert found["to_last"] == found["distance"][-1]
    assert found["mean_distance"] == pytest.approx(np.mean(distance[np.triu_indices(5, 1)]))
    path = measure(FRENET, states, rank=r, space=space)
    np.testing.assert_allclose(np.diag(distance, 1) * most, path["speed"], atol=1e-10)
    assert distance[0, -1] == pytest.approx(path["d0L_normalised"], abs=1e-10)


@few
@given(st.integers(0, 1000))
def test_a_share_between_0_and_1_and_a_triangle(seed):
    found = measure(METRIC, walk(seed, states=4))
    distance = np.array(found["distance"])
    assert ((distance >= 0) & (distance <= 1)).all()
    for i, j, k in np.ndindex(4, 4, 4):
        assert distance[i, j] <= distance[i, k] + distance[k, j] + 1e-7
    assert found["rank"] == measure(FRENET, walk(seed, states=4))["rank"]


def test_orthogonal_subspaces_are_1_apart_and_equal_ones_0():
    corner = np.random.RandomState(1).randn(40, 3)
    first, other = np.zeros((2, 40, 6))
    first[:, :3], other[:, 3:] = corner, corner
    distance = measure(METRIC, [first, 2 * first, other, other], rank=2)["distance"]
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    np.testing.assert_allclose(distance, expected, atol=1e-12)
    nearly = [first, first + 1e-6 * np.random.RandomState(2).randn(40, 6)]
    distance = measure(METRIC, nearly, rank=2)["distance"][0][1]
    path = measure(FRENET, nearly, rank=2)
    assert 0 < distance < 1e-5
    assert distance == pytest.approx(path["d0L_normalised"], rel=1e-9)


def test_leading_states_of_too_low_a_rank_are_left_out():
    states = list(walk())
    line = np.outer(np.arange(1.0, 61.0), np.ones(12)) + 1e-3 * np.eye(60, 12)[:, :1]
    found = measure(METRIC, [line, *states[1:]], rank=6)
    assert found["start"] == 1
    assert np.shape(found["distance"]) == (4, 4)
    with pytest.raises(DegenerateState, match="layer 2"):
        measure(METRIC, [states[0], states[1], line, states[3]], rank=6)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"variance": 0.0}, "subspace_distance: variance must lie in"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"space": "both"}, "space must be"),
    ],
)
def test_parameters_out_of_range(given, says):
    with pytest.raises(UserError, match=says):
        measure(METRIC, walk(), **given)


def test_what_holds_no_subspace():
    with pytest.raises(UnitError, match="hold no subspace of rank 13"):
        measure(METRIC, walk(), rank=13)
    uneven = [np.random.RandomState(i).randn(30, d) for i, d in enumerate((8, 9))]
    with pytest.raises(UnitError, match="widths 8 and 9 differ; use space='sample'"):
        measure(METRIC, uneven, rank=2)
    assert measure(METRIC, uneven, rank=2, space="sample")["mean_distance"] > 0
