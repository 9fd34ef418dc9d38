"""logme, hscore and knn_accuracy: golden values, scikit-learn, plain numpy, laws and faults."""

from __future__ import annotations

import importlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from states import agree, signs
from test_needs import reader_of, task_of

from lrd_harness import measure
from lrd_harness.contracts import Text
from lrd_harness.errors import NotEnoughTexts, UnitError, UserError
from lrd_harness.measuring import PlannedMetric

METRICS = importlib.import_module("lrd_harness.plugins.metrics.labels").lrd_metrics()
LOGME, HSCORE, KNN = METRICS
NAMES = ("logme", "hscore", "knn_accuracy")
few = settings(max_examples=15, deadline=None, derandomize=True)


def R(seed: int, *shape: int) -> Any:
    return np.random.RandomState(seed).randn(*shape)


def labelled(n: int = 60) -> tuple[list[Any], Any]:
    """Two states of three classes, near each other and apart."""
    y = np.arange(60) % 3
    x = R(13, 2, 60, 12) + np.array([0.3, 1])[:, None, None] * R(14, 3, 12)[y]
    return [state[:n] for state in x], y[:n]


def drawn(seed: int, n: int, d: int, classes: int) -> tuple[list[Any], Any]:
    y = np.random.RandomState(seed).randint(0, classes, n)
    y[: 5 * classes] = np.arange(5 * classes) % classes
    return list(R(seed, 2, n, d) + R(seed + 1, classes, d)[y]), y


def plain_logme(x: Any, y: Any) -> float:
    """The definition, class by class."""
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    n, sigma, found = len(x), s**2, []
    for c in np.unique(y):
        column = (y == c).astype(float)
        x2 = (u.T @ column) ** 2
        rest = (column**2).sum() - x2.sum()
        alpha = beta = 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            m = (sigma * x2 / (t + sigma) ** 2).sum()
            e = (x2 / (1 + sigma / t) ** 2).sum() + rest
            alpha, beta = gamma / (m + 1e-5), (n - gamma) / (e + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        spread = np.log(1 + beta * sigma / alpha).sum() / 2
        fit = beta / 2 * e + alpha / 2 * m
        found.append((n / 2 * np.log(beta) - spread - fit - n / 2 * np.log(2 * np.pi)) / n)
    return float(np.mean(found))


def plain_hscore(x: Any, y: Any) -> float:
    n, d = x.shape
    x = x - x.mean(0)
    c, a = x.T @ x / n, ledoit_wolf_shrinkage(x, assume_centered=True)
    means = [((y == k).sum(), x[y == k].mean(0)) for k in np.unique(y)]
    between = sum(m * np.outer(mean, mean) for m, mean in means) / (n - 1)
    shrunk = (1 - a) * c + a * np.trace(c) / d * np.eye(d)
    return float((1 - a) * np.trace(np.linalg.solve(shrunk, between)))


def plain_knn(x: Any, y: Any, k: int) -> float:
    """Text by text; of ties among neighbours the lower index, among classes the nearest."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    right = 0
    for i, row in enumerate(np.round(unit @ unit.T, 12)):
        near = [j for j in np.argsort(-row, kind="stable") if j != i][:k]
        votes = Counter(y[near])
        right += next(y[j] for j in near if votes[y[j]] == max(votes.values())) == y[i]
    return right / len(x)


def test_golden_values() -> None:
    x, y = labelled()
    assert measure(LOGME, x, y)["logme"] == pytest.approx(
        [-0.8232546784902502, -0.3102609311725731], rel=1e-9
    )
    spread = measure(HSCORE, x, y)
    assert spread["hscore"] == pytest.approx([0.01574621215223495, 1.5014869306618033], rel=1e-9)
    assert spread["shrinkage"] == pytest.approx([0.9840595756312873, 0.24630072669193467])
    near = measure(KNN, x, y)
    assert near["knn_accuracy"] == pytest.approx([0.55, 0.9666666666666667])
    assert (near["majority"], near["k"]) == (pytest.approx(1 / 3), 10)


def test_golden_values_with_fewer_texts_than_dimensions() -> None:
    y = (np.arange(60) % 3)[:20]
    x = [R(13, 20, 48) + R(14, 3, 48)[y]] * 2
    assert measure(LOGME, x, y)["logme"][0] == pytest.approx(-0.045526943288976024, rel=1e-6)
    spread = measure(HSCORE, x, y)
    assert spread["hscore"][0] == pytest.approx(2.01319071967328, rel=1e-9)
    assert spread["shrinkage"][0] == pytest.approx(0.32109396843625027, rel=1e-9)
    near = measure(KNN, x, y)
    assert (near["knn_accuracy"][0], near["k"]) == (1.0, 4)


@few
@given(st.integers(0, 999), st.integers(20, 60), st.integers(1, 40), st.integers(2, 4))
def test_as_plain_numpy_and_scikit_learn_have_it(seed: int, n: int, d: int, classes: int) -> None:
    x, y = drawn(seed, n, d, classes)
    k = min(10, (n - 1) // 4)
    near, spread, evidence = (measure(metric, x, y) for metric in (KNN, HSCORE, LOGME))
    for layer, state in enumerate(x):
        assert evidence["logme"][layer] == pytest.approx(plain_logme(state, y), rel=1e-6, abs=1e-9)
        assert spread["hscore"][layer] == pytest.approx(plain_hscore(state, y), rel=1e-6, abs=1e-9)
        assert spread["shrinkage"][layer] == pytest.approx(ledoit_wolf_shrinkage(state), abs=1e-12)
        assert 0 <= spread["hscore"][layer] <= min(classes - 1, d) * n / (n - 1) + 1e-9
        assert near["knn_accuracy"][layer] == pytest.approx(plain_knn(state, y, k))


@pytest.mark.parametrize(("k", "classes"), [(1, 4), (5, 2)])
def test_leave_one_out_of_scikit_learn(k: int, classes: int) -> None:
    """One neighbour, or an odd number of two classes: no ties."""
    x, y = drawn(3, 50, 6, classes)
    by = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    for state, found in zip(x, measure(KNN, x, y, k=k)["knn_accuracy"], strict=True):
        assert found == pytest.approx(cross_val_score(by, state, y, cv=LeaveOneOut()).mean())


@pytest.mark.parametrize("seed", range(6))
def test_ties_of_distances_and_of_votes(seed: int) -> None:
    """Rows of ±1: many texts are as near as the tenth, and many classes have as many votes."""
    x = list(signs(seed, states=2, n=61, d=6))
    y = np.random.RandomState(seed).randint(0, 5, 61)
    found = measure(KNN, x, y)["knn_accuracy"]
    assert found == pytest.approx([plain_knn(state, y, 10) for state in x])


def test_laws() -> None:
    x, y = labelled()
    turned = np.linalg.qr(R(0, 12, 12))[0]
    order = np.random.RandomState(1).permutation(60)
    for metric in METRICS:
        whole = measure(metric, x, y)
        agree(measure(metric, [s @ turned for s in x], y), whole)
        agree(measure(metric, [s[order] for s in x], y[order]), whole)
        agree(measure(metric, x, [f"class {9 - c}" for c in y]), whole)
        agree(measure(metric, [7 * s for s in x], y), whole, rtol=1e-3 if metric is LOGME else 1e-6)
    agree(measure(HSCORE, [s + 5 for s in x], y), measure(HSCORE, x, y))
    assert measure(LOGME, [s + 5 for s in x], y)["logme"] != pytest.approx(
        measure(LOGME, x, y)["logme"], rel=0.01
    )


def test_logme_of_long_states() -> None:
    """n - gamma, of which subtraction would leave nothing, goes down with the square of scale."""
    x, y = drawn(7, 40, 100, 3)
    first, second = (measure(LOGME, [1e7 * x[0], scale * x[0]], y)["logme"] for scale in (1e8, 1e9))
    assert [first[1], second[1]] == pytest.approx([first[0] - np.log(10), first[0] - np.log(100)])


def test_labels_without_anything_to_do_with_the_texts() -> None:
    """H-score near its floor; leave-one-out of noise below chance."""
    x, y = list(R(0, 2, 400, 8)), np.arange(400) % 2
    assert max(measure(HSCORE, x, y)["hscore"]) < 0.1
    accuracy = [
        np.mean(measure(KNN, list(R(s, 2, 400, 8)), y, k=9)["knn_accuracy"]) for s in range(8)
    ]
    assert 0.4 < np.mean(accuracy) < 0.51


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_small_classes_are_left_out_and_counted(metric: Any) -> None:
    x, y = labelled()
    alone = measure(metric, x, y)
    more = [np.concatenate([s, 9 * R(5, 6, 12)]) for s in x]
    rare = [*y, "a", "a", "a", "a", "b", "c"]
    found = measure(metric, more, rare)
    assert found["left_out"] == 6
    assert "left_out" not in alone
    agree(found, {name: value for name, value in alone.items() if name != "left_out"})


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_labels_that_do_not_suit(metric: Any) -> None:
    x = list(R(0, 2, 12, 4))
    for y, said in (
        ([0] * 12, "needs 2 classes of at least 5 texts, got 1 of 1"),
        ([0] * 8 + [1] * 4, "got 1 of 2"),
        (list(range(12)), "got 0 of 12"),
    ):
        with pytest.raises(UnitError, match=f"{metric.name} .*{said}"):
            measure(metric, x, y)
    with pytest.raises(UserError, match="needs labels"):
        measure(metric, x)
    for none in (None, float("nan"), [1]):
        with pytest.raises(UserError, match="text 6 has no label"):
            measure(metric, x, [0] * 6 + [none] * 6)
    with pytest.raises(NotEnoughTexts):
        measure(metric, [s[:7] for s in x], [0] * 7)


def test_in_a_run_small_classes_and_texts_without_a_label_are_counted_together(
    tmp_path: Path,
) -> None:
    """On the states of the model ended at each layer, whatever the run's norm."""
    opened = tiny.open_model(tiny.save("GPT2", tmp_path / "m"))
    texts = tiny.sentences(26)
    labels = [*"ab" * 11, "c", "c", None, None]
    task = task_of(texts, lambda: labels)
    item = PlannedMetric(LOGME, {})
    reader = reader_of(opened, tmp_path / "store", task, item, norm="raw")
    of = partial(reader.questions.labels, task)
    scores, n = reader.samples.measure(item, reader.sample(task), of)
    assert (n, scores["left_out"]) == (22, 4)
    states = opened.states(opened.tokenize(list(map(Text, texts[:22]))))
    layers = range(opened.info.blocks + 1)
    final = [states["final", layer].double().numpy() for layer in layers]
    expected = [plain_logme(state, np.array(labels[:22])) for state in final]
    assert scores["logme"][-3:] == pytest.approx(expected[-3:], rel=1e-3)
    raw = [plain_logme(states["raw", n].double().numpy(), np.array(labels[:22])) for n in layers]
    assert scores["logme"][-3] != pytest.approx(raw[-3], rel=1e-3)


def test_what_they_are() -> None:
    for metric, name in zip(METRICS, NAMES, strict=True):
        assert (metric.needs, metric.group, metric.norm) == ("labels", "labels", "final")
        assert (metric.selection, metric.layer_choice) == (None, (name, "max"))
        assert not metric.by_default
