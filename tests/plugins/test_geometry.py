"""Geometry of layers: expected values, other libraries, known answers, laws, traps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import skdim
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lrd_harness.plugins.metrics import geometry
from lrd_harness.plugins.metrics.geometry import decay, two_neighbours
from scipy.stats import ortho_group
from sklearn.decomposition import PCA
from states import walk

from lrd_harness import measure
from lrd_harness.capture import covariance
from lrd_harness.capture.covariance import debiased_cka
from lrd_harness.errors import DegenerateState, NotEnoughTexts, UnitError, UserError


def cka_by_dcor(x: np.ndarray, y: np.ndarray) -> float:
    import dcor  # which is compiled when it is first imported, for some 15 seconds

    squares = [dcor.u_centered(dcor.distances.pairwise_distances(side) ** 2) for side in (x, y)]
    own = [dcor.u_product(square, square) for square in squares]
    return float(dcor.u_product(*squares) / math.sqrt(own[0] * own[1]))


def drawn(seed: int, *shape: int) -> Any:
    return np.random.RandomState(seed).randn(*shape)


def uncorrelated(n: int, d: int) -> Any:
    """States of equal variance along each axis."""
    noise = drawn(4, n, d)
    return np.linalg.qr(noise - noise.mean(0))[0]


NAMES = ("participation_ratio", "top_share", "mean_cosine", "uniformity", "cka_last")
LAST_CKA = [0.16036907992513702, 0.38624490770388825, 0.56806319272891, 0.7773813077312725, 1]
WIDE = drawn(5, 5, 20, 48).cumsum(0)  # fewer texts than dimensions
# of walk() and WIDE, computed once with numpy alone, sums written out
EXPECTED = {
    "walk": {
        "participation_ratio": [10.08125387851469, 10.179202499230875, 10.312666773027964],
        "top_share": [0.15901969146957512, 0.14774936537669642, 0.14820535799561707],
        "mean_cosine": [-0.007081337957406719, -0.00801200341403738, -0.006131312344611468],
        "uniformity": [-3.377655935145554, -3.3932926037490794, -3.3843987990052264],
        "cka_last": LAST_CKA,
    },
    "wide": {
        "participation_ratio": [13.52760137188738, 12.6916820303407, 13.07741958588334],
        "top_share": [0.11819579951325317, 0.13234409059290686, 0.12407171350440603],
        "mean_cosine": [0.01034888221460577, 0.005893314376453494, 0.000570728944904523],
        "uniformity": [-3.8044128130044417, -3.789487048347181, -3.7970485485700074],
        "cka_last": [0.30169092684568094, 0.48140518189519926, 0.6735264293570074],
    },
}
TWONN = [  # states, place, twonn, twonn_mle, distinct
    (walk()[0], 10.592940993724401, 10.416951561826226, 60),
    (walk()[4], 7.947264698064434, 7.609278518308229, 60),
    (WIDE[0], 27.317455591986096, 23.1750416969033, 20),
]


@pytest.mark.parametrize("scale", [1, 1e-150, 1e150])
@pytest.mark.parametrize("name", ["walk", "wide"])
def test_expected_values(name: str, scale: float) -> None:
    states = scale * (walk() if name == "walk" else WIDE)
    for metric, expected in EXPECTED[name].items():
        found = measure(metric, states)[metric][: len(expected)]
        np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=metric)


def test_expected_map() -> None:
    scores = measure("cka", walk())
    matrix = np.array(scores["cka_matrix"])
    np.testing.assert_allclose(matrix[0, 1:3], [0.43739622860116645, 0.2852080445492329])
    np.testing.assert_allclose(matrix[:, -1], LAST_CKA, rtol=1e-9)
    assert (matrix == matrix.T).all()
    assert (matrix.diagonal() == 1).all()
    alone = measure("cka_last", walk())
    assert {name: scores[name] for name in alone} == alone
    assert alone["cka_next"] == matrix.diagonal(1).tolist()
    assert alone["max_cka_last"] == pytest.approx(LAST_CKA[3])  # without the last with itself


def test_expected_dimension_and_decay() -> None:
    copied = drawn(17, 90, 4) @ drawn(18, 4, 9)
    copied[[20, 50]] = copied[10]
    of_copies = (copied, 4.2660506091191355, 4.3482622274491005, 88)
    for state, *expected in (*TWONN, of_copies):
        found = two_neighbours(torch.tensor(state))
        assert [*found.values()] == pytest.approx(expected, rel=1e-9)
    spectrum = torch.tensor(drawn(6, 80, 30) * np.arange(1, 31) ** -0.5)
    expected = {"alpha": 2.007005887612489, "fit_r2": 0.9484477804274072, "last": 30}
    found = decay(spectrum)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert found["distance"] == pytest.approx(found["alpha"] - 1)


@pytest.mark.parametrize(("n", "d"), [(150, 9), (60, 90)])
def test_values_are_those_of_other_libraries(n: int, d: int) -> None:
    x = drawn(1, 2, n, d) * np.geomspace(5, 0.1, d) + 2
    x[1] += x[0, :, ::-1]
    shares = [PCA().fit(state).explained_variance_ratio_ for state in x]
    assert measure("top_share", x)["top_share"] == pytest.approx([s[0] for s in shares])
    ratios = measure("participation_ratio", x)["participation_ratio"]
    assert ratios == pytest.approx([1 / (s**2).sum() for s in shares])
    units = torch.nn.functional.normalize(torch.tensor(x), dim=2)
    away = [torch.pdist(unit) for unit in units]
    for t in (2.0, 0.5, 1000.0):
        expected = [float((-t * a.square()).logsumexp(0) - math.log(len(a))) for a in away]
        assert measure("uniformity", x, t=t)["uniformity"] == pytest.approx(expected)
    cosines = [float((1 - a.square() / 2).mean()) for a in away]
    assert measure("mean_cosine", x)["mean_cosine"] == pytest.approx(cosines, abs=1e-12)
    assert debiased_cka(*torch.tensor(x)) == pytest.approx(cka_by_dcor(*x), rel=1e-9)
    for state in x:
        found = two_neighbours(torch.tensor(state))
        assert found["twonn"] == pytest.approx(skdim.id.TwoNN().fit(state).dimension_)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = drawn(3, 2, 105, 7)
    names = (*NAMES, "cka", "twonn")
    whole = {name: measure(name, x) for name in names}
    monkeypatch.setattr(geometry, "CHUNK", 2000)
    monkeypatch.setattr(covariance, "PIECE", 3000)
    for name in names:
        parts = measure(name, x)
        for score, value in whole[name].items():
            np.testing.assert_allclose(parts[score], value, rtol=1e-9, err_msg=score)


def test_known_answers() -> None:
    even = drawn(2, 1500, 5) @ ortho_group.rvs(40, random_state=0)[:5]  # 5 of 40 dimensions
    for name, near in (("twonn", 0.5), ("participation_ratio", 0.1)):
        assert measure(name, [even, even])[name] == pytest.approx([5, 5], abs=near)
    exact = uncorrelated(400, 120) * np.arange(1, 121) ** -0.5  # the i-th eigenvalue is 1/i
    scores = measure("alpha_req", [exact, 3 * exact])
    assert scores["alpha"] == pytest.approx([1, 1], rel=1e-6)
    assert scores["fit_r2"] == pytest.approx([1, 1])
    assert scores["distance"] == pytest.approx([0, 0], abs=1e-6)
    assert scores["last"] == [100, 100]
    apart = [debiased_cka(*torch.tensor(drawn(s, 2, 60, 200))) for s in range(20)]
    assert np.mean(apart) == pytest.approx(0, abs=0.02)
    assert max(apart) < 0.2


LAWS: dict[str, Callable[[Any], Any]] = {
    "rotation": lambda x: x @ ortho_group.rvs(x.shape[2], random_state=1),
    "scaling": lambda x: x * 0.003,
    "permutation": lambda x: x[:, np.random.RandomState(1).permutation(x.shape[1])],
    "translation": lambda x: x + 5,
}
MOVED = {"mean_cosine", "uniformity"}  # by a translation


DRIFT = drawn(7, 2, 200, 24).cumsum(0) * np.geomspace(1, 0.2, 24)


@cache
def of_drift(name: str) -> Any:
    return measure(name, DRIFT)


@pytest.mark.parametrize("law", LAWS)
def test_laws(law: str) -> None:
    for name in (*NAMES, "cka", "alpha_req", "twonn"):
        scores, changed = of_drift(name), measure(name, LAWS[law](DRIFT))
        same = [np.allclose(changed[s], v, rtol=1e-8, atol=1e-10) for s, v in scores.items()]
        assert all(same) == (law != "translation" or name not in MOVED), name


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 30), st.integers(1, 40), st.integers(0, 10**6), st.floats(-3, 3))
def test_bounds(n: int, d: int, seed: int, cone: float) -> None:
    x = drawn(seed, 2, n, d) * np.geomspace(1, 0.01, d) + cone
    most = min(n - 1, d) + 1e-9
    found = {name: measure(name, x) for name in NAMES[:4]}
    for name, values in found.items():
        low, high = {
            "participation_ratio": (1 - 1e-9, most),
            "top_share": (1 / most - 1e-9, 1 + 1e-9),
            "mean_cosine": (-1 / (n - 1) - 1e-9, 1 + 1e-9),
            "uniformity": (-4 * n / (n - 1) - 1e-9, 0),
        }[name]
        assert all(low <= value <= high for value in values[name]), name
    cka = debiased_cka(*torch.tensor(x))
    assert -1 <= cka <= 1
    assert cka == pytest.approx(debiased_cka(*torch.tensor(x[::-1].copy())))


def test_copies_of_texts() -> None:
    x = drawn(9, 2, 300, 6)
    doubled = np.concatenate([x, x[:, :120]], axis=1)
    doubled[1, 300:] *= 1 + 1e-9
    scores = measure("twonn", doubled)
    assert scores["distinct"] == [300, 300]
    assert scores["twonn"] == pytest.approx(measure("twonn", x)["twonn"])
    assert measure("uniformity", doubled)["uniformity"] > measure("uniformity", x)["uniformity"]
    # a chain of copies: a row near one that was dropped, and near none that is kept, stays
    chain = np.concatenate([x[0], x[0, :1] * (1 + np.array([[0.7e-6], [1.4e-6]]))])
    assert two_neighbours(torch.tensor(chain))["distinct"] == 301
    zeros = np.concatenate([x[0], np.zeros((2, 6))])
    assert two_neighbours(torch.tensor(zeros))["distinct"] == 301
    assert measure("uniformity", [zeros, zeros])["uniformity"][0] > -8
    assert abs(measure("mean_cosine", [zeros, zeros])["mean_cosine"][0]) < 0.1


def test_float16_rounding_is_survived() -> None:
    x = drawn(11, 2, 250, 30).cumsum(0)
    rounded = x.astype(np.float16)
    for name in NAMES:
        np.testing.assert_allclose(
            measure(name, rounded)[name], measure(name, x)[name], rtol=2e-3, atol=1e-3
        )


def test_small_eigenvalues_keep_their_digits() -> None:
    steep = uncorrelated(300, 100) * np.arange(1, 101) ** -2.6  # squares from 1 to 4e-11
    assert measure("alpha_req", [steep, steep])["alpha"] == pytest.approx([5.2] * 2, rel=1e-7)


def test_one_text_far_off_does_not_drown_the_others() -> None:
    x, y = drawn(12, 2, 40, 8)
    far = x.copy()
    far[0] = 1e4 * x[0]
    expected = cka_by_dcor(far, y)
    assert debiased_cka(torch.tensor(far), torch.tensor(y)) == pytest.approx(expected, rel=1e-6)


def test_neighbours_are_found_at_any_scale() -> None:
    """Each distance by a difference, where squares of the others have no digits left for it."""
    x = drawn(3, 120, 30) * 10.0 ** (np.arange(120) % 12 - 6)[:, None]
    apart = np.sort([[np.linalg.norm(a - b) for b in x] for a in x], axis=1)  # itself first
    expected = 119 / np.log(apart[:, 2] / apart[:, 1]).sum()
    assert measure("twonn", [x, x])["twonn_mle"][0] == pytest.approx(expected, rel=1e-6)
    assert math.isfinite(measure("twonn", [x, x], discard=1e-18)["twonn"][0])


SIMPLEX = np.eye(120)  # all texts equally far from each other


@pytest.mark.parametrize(
    ("name", "states", "error", "message"),
    [
        ("cka_last", drawn(1, 2, 19, 5), NotEnoughTexts, "at least 20 texts, got 19"),
        ("cka", [drawn(1, 120, 5), SIMPLEX], DegenerateState, "layer 1 all texts are equally"),
        ("alpha_req", drawn(1, 2, 199, 30), NotEnoughTexts, "at least 200 texts, got 199"),
        ("alpha_req", drawn(1, 2, 200, 19), DegenerateState, "layer 0: 19 eigenvalues"),
        ("twonn", drawn(1, 2, 99, 5), NotEnoughTexts, "at least 100 texts, got 99"),
        ("twonn", [SIMPLEX, SIMPLEX], DegenerateState, "layer 0: .* equally far"),
        ("uniformity", walk(), UserError, "t must be above 0"),
        ("twonn", drawn(1, 2, 100, 5), UserError, "discard must lie between 0 and 1"),
    ],
)
def test_refusals(name: str, states: Any, error: type[Exception], message: str) -> None:
    wrong = {"uniformity": {"t": 0.0}, "twonn": {"discard": 1.0}}
    given = wrong.get(name, {}) if error is UserError else {}
    with pytest.raises(error, match=message):
        measure(name, states, **given)


def test_states_without_variance_are_named() -> None:
    same = torch.ones(30, 4, dtype=torch.float64) * 0.3
    noise = torch.tensor(drawn(1, 30, 4))
    for state in (same, 0 * same, same * (1 + 1e-15 * noise)):
        for compute in (covariance.top_share, covariance.participation, decay, two_neighbours):
            with pytest.raises(UnitError):
                compute(state)
        with pytest.raises(DegenerateState, match="all texts are the same"):
            debiased_cka(state, noise)
