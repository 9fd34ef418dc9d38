"""The combined predictor against scikit-learn, under the null, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from combined_rows import judged, made, signal
from scipy import stats as scipy_stats
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lrd_harness.board import inference, unseen
from lrd_harness.board.leaderboard import build
from lrd_harness.board.unseen import COMBINED, GUESS, SIZE
from lrd_harness.results.database import ModelRow, Results


def plain(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, dict[int, float]]:
    """scikit-learn: a pipeline a fold, alpha by grouped cross-validation inside the training."""
    predicted, alphas = np.empty_like(y), {}
    for train, test in LeaveOneGroupOut().split(x, y, groups):
        errors = []
        for alpha in inference.ALPHAS:
            model = make_pipeline(StandardScaler(), Ridge(alpha=alpha))
            folds = LeaveOneGroupOut().split(x[train], y[train], groups[train])
            lost = [
                model.fit(x[train][a], y[train][a]).predict(x[train][b]) - y[train][b]
                for a, b in folds
            ]
            errors.append(np.sum(np.concatenate(lost) ** 2))
        alpha = alphas[int(groups[test][0])] = float(inference.ALPHAS[int(np.argmin(errors))])
        model = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x[train], y[train])
        predicted[test] = model.predict(x[test])
    return predicted, alphas


@pytest.mark.parametrize("seed", range(3))
def test_the_ridge_is_scikit_learns(seed: int) -> None:
    """Features of unlike scale, and one that is constant without group 0."""
    generator = np.random.default_rng(seed)
    groups = generator.permutation(np.r_[np.arange(4), generator.integers(0, 4, 12)])
    x = generator.normal(size=(16, 4)) * [1, 1e3, 1e-3, 1] + [0, 1e4, 5, 0]
    x[:, 3] = np.where(groups == 0, 1.0, 3.0)
    y = 0.5 + 0.1 * x[:, 0] + 0.05 * generator.normal(size=16)
    ys = np.stack([y, generator.permutation(y)], axis=1)
    predicted, means, alphas = inference.held_out(x, ys, groups)
    for k in range(2):
        expected, chosen = plain(x, ys[:, k], groups)
        np.testing.assert_allclose(predicted[:, k], expected, rtol=1e-9)
        assert dict(enumerate(alphas[:, k])) == pytest.approx(chosen)
    assert means[groups == 1, 0] == pytest.approx(y[groups != 1].mean())


def test_more_groups_than_inner_folds() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(14), 2)
    x = generator.normal(size=(28, 3))
    y = x @ np.array([[1.0], [0.5], [0.0]]) + 0.1 * generator.normal(size=(28, 1))
    predicted, _, _ = inference.held_out(x, y, groups)
    assert scipy_stats.pearsonr(predicted[:, 0], y[:, 0]).statistic > 0.95


def test_held_out_numbers_are_those_of_plain_code() -> None:
    results = signal()
    found = judged(results)
    by_name = {row.name: row for row in found.rows}
    assert list(by_name) == [COMBINED, SIZE, GUESS]
    size = ("log parameters", "log width", "depth")
    assert by_name[COMBINED].features == ("good.up", "noise.up", *size)
    assert by_name[SIZE].features == size
    y = np.array([row.score for row in results.scores])
    groups = np.array([int((row.family or "")[1:]) for row in results.models])
    columns = [
        [m.values["up"] for m in results.metrics if m.metric == n] for n in ("good", "noise")
    ]
    columns += [
        [np.log(row.parameters or 0) for row in results.models],
        [np.log(row.width or 0) for row in results.models],
        [float(row.blocks or 0) for row in results.models],
    ]
    x = np.array(columns).T
    for name, features in ((COMBINED, x), (SIZE, x[:, 2:])):
        expected, _ = plain(features, y, groups)
        assert [m.predicted[name] for m in found.models] == pytest.approx(expected.tolist())
        row = by_name[name]
        assert row.rho == pytest.approx(scipy_stats.spearmanr(expected, y).statistic)
        assert row.rmse == pytest.approx(np.sqrt(np.mean((expected - y) ** 2)))
    means = np.array([y[groups != group].mean() for group in groups])
    guess = by_name[GUESS]
    assert guess.rho is guess.p is None
    assert guess.rmse == pytest.approx(np.sqrt(np.mean((means - y) ** 2)))
    assert guess.lead == pytest.approx(guess.rmse - by_name[COMBINED].rmse)
    assert by_name[COMBINED].p == 0.001
    assert (by_name[SIZE].lead_low or 0) > 0


def test_a_family_s_own_numbers_change_nothing_of_what_it_is_told() -> None:
    """No leak: its scores, and how they spread, are not in its predictions."""
    results = signal()
    own = {row.model for row in results.models if row.family == "f0"}
    changed = replace(
        results,
        scores=tuple(replace(r, score=r.score**3) if r.model in own else r for r in results.scores),
    )
    before, after = (
        [m.predicted for m in judged(one).models if m.family == "f0"] for one in (results, changed)
    )
    assert before == [pytest.approx(predicted) for predicted in after]


def test_noise_predicts_nothing() -> None:
    """P(p <= a) <= a, and a mean rho that is the one by chance: below 0, see Judged."""
    rhos, chances, ps = [], [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unseen, "DRAWS", 99)
        for seed in range(150):
            generator = np.random.default_rng(seed)
            values = {f"x{k}": generator.normal(size=15).tolist() for k in range(3)}
            scores = generator.uniform(size=15).tolist()
            row = judged(made([*"abcde"] * 3, scores, values, sizes=False)).rows[0]
            rhos.append(row.rho or 0.0)
            chances.append(row.chance or 0.0)
            ps.append(row.p or 1.0)
    assert np.mean(chances) < -0.1
    assert np.mean(rhos) == pytest.approx(np.mean(chances), abs=4 * np.std(rhos) / np.sqrt(150))
    for a in (0.05, 0.2):
        assert np.mean(np.array(ps) <= a) <= a + 3 * np.sqrt(a * (1 - a) / 150)


def test_what_is_left_out_is_counted_and_named() -> None:
    results = signal()
    models = (replace(results.models[0], family=None), *results.models[1:])
    rare = [replace(m, metric="rare") for m in results.metrics if m.model in ("m2", "m3")]
    lost = [m for m in results.metrics if (m.model, m.metric) != ("m1", "noise")]
    found = judged(replace(results, models=models, metrics=(*lost, *rare)))
    assert (found.n, found.models_left_out, found.features_left_out) == (22, 2, ("rare.up",))
    assert {"m0", "m1"}.isdisjoint(model.model for model in found.models)
    board = build(replace(results, models=models, metrics=(*lost, *rare)))
    assert (
        "Combined predictor: left out: 2 models whose family, or one of the scores it is made of, "
        "are not known; rare.up, which most models lack."
    ) in board.notes


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (
            [*"abc"] * 3,
            "not enough data: 9 models of 3 families with all scores, metrics and sizes",
        ),
        ([*"ab"] * 6, "not enough data: 12 models of 2 families"),
        ([None] * 12, "not enough data: 0 models of 0 families"),
        (["a"] + [None] * 11, "not enough data: 1 model of 1 family"),
    ],
)
def test_too_little_is_said_in_words(of: list[str | None], said: str) -> None:
    scores = [0.1 + i / 20 for i in range(len(of))]
    board = build(made(of, scores, {"x": scores}))
    assert board.combined is not None
    assert board.combined.rows == ()
    (note,) = [note for note in board.notes if note.startswith("Combined predictor")]
    assert said in note
    assert "it needs 10 of 3" in note


def test_equal_scores_and_no_features() -> None:
    alike = judged(made([*"abcd"] * 3, [0.5] * 12, {}))
    assert alike.lacking == "all mean scores are the same"
    bare = judged(made([*"abcd"] * 3, np.linspace(0, 1, 12).tolist(), {}, sizes=False))
    assert bare.lacking == "neither metrics nor sizes are known"
    assert build(Results(models=(ModelRow(model="a"),))).combined is None
