"""Fidelity of a changed model: expected values, scipy's and scikit-learn's parts, laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group, spearmanr
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors
from states import signs, walk

from lrd_harness.capture.covariance import debiased_cka
from lrd_harness.capture.fidelity import NextTokens, alike
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UnitError


def drawn(seed: int, *shape: int) -> Any:
    return np.random.RandomState(seed).randn(*shape)


LAST = walk()[-1]  # (60, 12)
CHANGED = LAST + 0.15 * drawn(19, 60, 12)
# computed once with numpy alone, sums written out
SAME_WIDTH = {
    "cosine": 0.8974149205452119,
    "rsa": 0.7887478636305669,
    "knn_overlap": 0.6333333333333333,
    "cka": 0.7931328855147936,
    "chance": 0.1694915254237288,
}
NARROWER = {"rsa": 0.5336423451542885, "knn_overlap": 0.445, "cka": 0.562777744652243}
TOKENS = {
    "kl": 0.11330393529286162,
    "perplexity_original": 162.7823388514933,
    "perplexity": 135.62486529403157,
    "same_top1": 0.7692307692307693,
    "tokens": 13,
}


@pytest.mark.parametrize(
    ("changed", "expected"), [(CHANGED, SAME_WIDTH), (CHANGED[:, :7], NARROWER)]
)
def test_expected_values(changed: Any, expected: dict[str, float]) -> None:
    figures = alike(LAST, changed)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert ("cosine" in figures) == ("unpaired" in figures) == (changed is CHANGED)
    single = alike(torch.tensor(LAST, dtype=torch.float32), changed.astype(np.float32))
    assert single == pytest.approx(figures, rel=1e-3)


def texts() -> list[tuple[Any, Any, Any]]:
    """Three texts: token ids, logits of the original and of the changed model."""
    every = []
    for i, length in enumerate((5, 8, 3)):
        logits = 3 * drawn(50 + i, length, 11)
        ids = np.random.RandomState(70 + i).randint(0, 11, length)
        every.append((ids, logits, logits + 0.7 * drawn(60 + i, length, 11)))
    return [tuple(map(torch.tensor, text)) for text in every]


def test_expected_next_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, only = NextTokens(), NextTokens()
    for ids, logits, changed in texts():
        pair.add(ids, logits, changed)
        only.add(ids, changed[:-1])  # the last row predicts nothing
    assert pair.figures == pytest.approx(TOKENS, rel=1e-12)
    assert only.figures == {"tokens": 13, "perplexity": pair.figures["perplexity"]}
    monkeypatch.setattr("lrd_harness.capture.fidelity.AT_ONCE", 22)  # two rows at a time
    parts = NextTokens()
    for text in texts():
        parts.add(*text)
    assert parts.figures == pytest.approx(pair.figures, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [lambda seed: drawn(seed, 2, 55, 9), lambda seed: signs(seed)[:2]])
def test_parts_are_those_of_others(make: Any, seed: int) -> None:
    a, b = make(seed)
    figures, pairs = alike(a, b), np.triu_indices(len(a), 1)
    both = [cosine_similarity(side).round(12)[pairs] for side in (a, b)]
    assert figures["rsa"] == pytest.approx(spearmanr(*both).statistic, rel=1e-9)
    if len(set(both[0])) > 1000:  # without ties, which scikit-learn breaks in its own way
        graphs = [
            NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(side)
            for side in (a, b)
        ]
        near = [graph.kneighbors(return_distance=False) for graph in graphs]
        shares = [len(set(x) & set(y)) / 10 for x, y in zip(*near, strict=True)]
        assert figures["knn_overlap"] == pytest.approx(np.mean(shares))
    variances = np.linalg.eigvalsh(np.cov(b.T))
    assert figures["top_share"] == pytest.approx(variances[-1] / variances.sum())


def test_what_differs_in_the_last_digits_of_cosines() -> None:
    """All texts within 1e-6 of one direction: the order of distances, not of rounded cosines."""
    x = 1e6 + drawn(5, 60, 7)
    y = x + 0.1 * drawn(6, 60, 7)
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y)]
    apart = [((unit[:, None] - unit) ** 2).sum(axis=2) for unit in units]
    pairs = np.triu_indices(60, 1)
    near = [np.argsort(side, axis=1)[:, 1:11].tolist() for side in apart]
    figures = alike(x, y)
    expected = spearmanr(*(side[pairs] for side in apart)).statistic
    assert figures["rsa"] == pytest.approx(expected, abs=1e-5)
    shared = [len({*a} & {*b}) / 10 for a, b in zip(*near, strict=True)]
    assert figures["knn_overlap"] == pytest.approx(np.mean(shared), abs=2e-3)


def test_laws() -> None:
    a = drawn(1, 80, 6)
    turned = 3 * a @ ortho_group.rvs(6, random_state=0)
    itself = {"rsa": 1, "knn_overlap": 1, "cka": 1}
    for same in (a, turned, np.pad(a, ((0, 0), (0, 3)))):
        figures = alike(a, same)
        assert {name: figures[name] for name in itself} == pytest.approx(itself, abs=1e-9)
    assert alike(a, a)["cosine"] == pytest.approx(1)
    apart = [alike(drawn(i, 80, 6), drawn(100 + i, 80, 30)) for i in range(40)]
    means = {name: np.mean([figures[name] for figures in apart]) for name in itself}
    chances = {"rsa": 0, "knn_overlap": 10 / 79, "cka": 0}
    assert means == pytest.approx(chances, abs=0.02)
    tokens = NextTokens()
    for ids, logits, _ in texts():
        tokens.add(ids, logits, logits.clone())
    assert (tokens.figures["kl"], tokens.figures["same_top1"]) == (0, 1)


def test_more_texts_than_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrd_harness.capture.fidelity.MOST", 200)
    a, b = drawn(3, 210, 2), drawn(4, 210, 3)
    rows = sorted(np.random.RandomState(42).choice(210, 200, replace=False))
    assert alike(a, b) == alike(a[rows], b[rows])
    assert alike(a, b)["texts"] == 200


def test_what_has_no_value() -> None:
    collapsed = np.ones((60, 12)) + 1e-9 * drawn(1, 60, 12)
    assert alike(LAST, collapsed).keys() == {"texts", "cosine", "unpaired"}
    line = np.abs(drawn(2, 60, 1))  # all of one direction: every cosine is 1
    assert alike(line, line).keys() == {
        *("texts", "cosine", "unpaired", "knn_overlap", "chance", "cka"),
        *("top_share", "top_share_original"),
    }
    with pytest.raises(DegenerateState):
        debiased_cka(torch.eye(60).double(), torch.tensor(LAST))
    zeros = np.vstack([np.zeros((1, 12)), LAST[1:]])
    assert alike(zeros, zeros)["cosine"] == pytest.approx(59 / 60)


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        (LAST[:49], LAST[:49], NotEnoughTexts),
        (LAST, LAST[:50], UnitError),
        (LAST, np.where(LAST[3, 3] == LAST, math.nan, LAST), NotFinite),
    ],
)
def test_refusals(a: Any, b: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        alike(a, b)


def test_refusals_of_tokens() -> None:
    tokens, (ids, logits, changed) = NextTokens(), texts()[0]
    with pytest.raises(UnitError, match="11 and 10 tokens"):
        tokens.add(ids, logits, changed[:, :-1])
    tokens.add(ids[:1], logits[:1])
    with pytest.raises(UnitError, match="no text has a second token"):
        _ = tokens.figures
    tokens.add(ids, logits)
    tokens.add(ids, logits, changed)
    with pytest.raises(UnitError, match="one model only"):
        _ = tokens.figures
    tokens = NextTokens()
    tokens.add(ids, torch.full_like(logits, math.nan))
    with pytest.raises(NotFinite):
        _ = tokens.figures
    tokens = NextTokens()  # a token that either rules out costs nothing, one that is true is lost
    logits[:, 0] = changed[:, 0] = -math.inf
    ids[1:] = 1
    tokens.add(ids, logits, changed)
    assert math.isfinite(tokens.figures["kl"])
    ids[1:] = 0
    tokens.add(ids, logits, changed)
    assert tokens.figures["perplexity"] == math.inf
