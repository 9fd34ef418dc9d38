"""The combined predictor against plain scikit-learn, under the null, and its verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from combined_rows import judged, made, signal
from scipy import stats as scipy_stats
from selection_panels import by
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lrd_harness.board import panel, unseen
from lrd_harness.board.leaderboard import report
from lrd_harness.board.unseen import (
    COMBINED,
    GUESS,
    SIZE,
    Combined,
    build_combined,
    combined_cautions,
)
from lrd_harness.results.rows import ModelRow, Results


def plain(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, dict[int, float]]:
    """scikit-learn: a pipeline a fold, alpha by grouped cross-validation inside the training."""
    predicted, alphas = np.empty_like(y), {}
    for train, test in LeaveOneGroupOut().split(x, y, groups):
        errors = []
        for alpha in unseen.ALPHAS:
            model = make_pipeline(StandardScaler(), Ridge(alpha=alpha))
            folds = LeaveOneGroupOut().split(x[train], y[train], groups[train])
            lost = [
                model.fit(x[train][a], y[train][a]).predict(x[train][b]) - y[train][b]
                for a, b in folds
            ]
            errors.append(np.sum(np.concatenate(lost) ** 2))
        alpha = alphas[int(groups[test][0])] = float(unseen.ALPHAS[int(np.argmin(errors))])
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
    predicted, means, alphas = unseen.held_out(x, ys, groups)
    for k in range(2):
        expected, chosen = plain(x, ys[:, k], groups)
        np.testing.assert_allclose(predicted[:, k], expected, rtol=1e-9)
        assert dict(enumerate(alphas[:, k])) == pytest.approx(chosen)
    assert means[groups == 1, 0] == pytest.approx(y[groups != 1].mean())


def test_held_out_numbers_are_those_of_plain_code() -> None:
    results = signal()
    found = report(results)
    rows = by(found, "combined")
    assert list(rows) == [COMBINED, SIZE, GUESS]
    size = ["log parameters", "log width", "depth"]
    assert rows[COMBINED]["features"] == ["good.up", "noise.up", *size]
    assert rows[SIZE]["features"] == size
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
        expected, alphas = plain(features, y, groups)
        predicted = found.table("combined_models").column(f"predicted.{name}")
        assert predicted == pytest.approx(expected.tolist())
        assert rows[name]["rho"] == pytest.approx(scipy_stats.spearmanr(expected, y).statistic)
        assert rows[name]["rmse"] == pytest.approx(np.sqrt(np.mean((expected - y) ** 2)))
        if name == COMBINED:
            strengths = by(found, "combined_strengths", "family")
            assert {f"f{group}": pytest.approx(a) for group, a in alphas.items()} == {
                family: row["alpha"] for family, row in strengths.items()
            }
    means = np.array([y[groups != group].mean() for group in groups])
    guess = rows[GUESS]
    assert guess["rho"] is guess["p"] is None
    assert guess["rmse"] == pytest.approx(np.sqrt(np.mean((means - y) ** 2)))
    assert guess["lead"] == pytest.approx(guess["rmse"] - rows[COMBINED]["rmse"])
    assert rows[COMBINED]["p"] == 0.001
    assert rows[SIZE]["lead_low"] > 0
    assert found.facts["combined"] == {
        "lacking": "", "families": 6, "models_left_out": 0, "features_left_out": [], "n": 24,
    }  # fmt: skip


def test_a_family_s_own_numbers_change_nothing_of_what_it_is_told() -> None:
    """No leak: its scores, and how they spread, are not in its predictions."""
    results = signal()
    own = {row.model for row in results.models if row.family == "f0"}
    changed = replace(
        results,
        scores=tuple(replace(r, score=r.score**3) if r.model in own else r for r in results.scores),
    )
    before, after = (judged(one) for one in (results, changed))
    of = np.array(before.of) == "f0"
    for name, predicted in before.predicted.items():
        assert after.predicted[name][of] == pytest.approx(predicted[of])


@pytest.mark.slow
def test_noise_predicts_nothing() -> None:
    """P(p <= a) <= a, and a mean rho that is the one by chance: below 0."""
    rhos, chances, ps = [], [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unseen, "DRAWS", 99)
        for seed in range(60):
            generator = np.random.default_rng(seed)
            values = {f"x{k}": generator.normal(size=15).tolist() for k in range(3)}
            scores = generator.uniform(size=15).tolist()
            row = judged(made([*"abcde"] * 3, scores, values, sizes=False)).rows[0]
            rhos.append(row["rho"] or 0.0)
            chances.append(row["chance"] or 0.0)
            ps.append(row["p"] or 1.0)
    assert np.mean(chances) < -0.1
    assert np.mean(rhos) == pytest.approx(np.mean(chances), abs=4 * np.std(rhos) / np.sqrt(60))
    for a in (0.05, 0.2):
        assert np.mean(np.array(ps) <= a) <= a + 3 * np.sqrt(a * (1 - a) / 60)


def test_what_is_left_out_is_counted_and_named() -> None:
    results = signal()
    models = (replace(results.models[0], family=None), *results.models[1:])
    rare = [replace(m, metric="rare") for m in results.metrics if m.model in ("m2", "m3")]
    lost = [m for m in results.metrics if (m.model, m.metric) != ("m1", "noise")]
    found = judged(replace(results, models=models, metrics=(*lost, *rare)))
    left_out = found.models_left_out, found.features_left_out
    assert (len(found.models), *left_out) == (22, 2, ["rare.up"])
    assert {0, 1}.isdisjoint(found.models)
    parts = (
        "2 models whose family, or one of the scores it is made of, are not known; rare.up, which "
        "most models lack"
    )
    assert dict(combined_cautions(found))["combined_left_out"] == {"parts": parts}


@pytest.mark.parametrize(
    ("of", "models", "families"),
    [([*"abc"] * 3, 9, "3 families"), ([*"ab"] * 6, 12, "2 families"),
     ([None] * 12, 0, "0 families"), (["a"] + [None] * 11, 1, "1 family")],
)  # fmt: skip
def test_too_little_is_said(of: list[str | None], models: int, families: str) -> None:
    scores = [0.1 + i / 20 for i in range(len(of))]
    found = report(made(of, scores, {"x": scores}))
    assert found.get("combined") is None
    lacking = found.facts["combined"]["lacking"]
    assert f"{models} model" in lacking
    assert families in lacking
    assert any("it needs 10 of 3" in note for note in found.notes)


def test_equal_scores_and_no_features() -> None:
    alike = judged(made([*"abcd"] * 3, [0.5] * 12, {}))
    assert alike.lacking == "all mean scores are the same"
    bare = judged(made([*"abcd"] * 3, np.linspace(0, 1, 12).tolist(), {}, sizes=False))
    assert bare.lacking == "neither metrics nor sizes are known"
    assert build_combined(panel.make(Results(models=(ModelRow(model="a"),)))) is None


def said(results: Results) -> tuple[str, str]:
    """The first caution's code, and all that it says."""
    caution = next(combined_cautions(judged(results)))
    return caution.code, str(caution)


def test_with_and_without_metrics_and_sizes() -> None:
    code, text = said(signal(families=8))
    assert code == "combined"
    assert "combining is better than the mean of the others, by " in text  # size is worse
    assert said(signal(families=7))[1].endswith("but a verdict needs 8 families.")
    scores = [0.5 + 0.01 * ((7 * i) % 11) for i in range(24)]  # goes with the parameters
    assert said(made([*"abcdef"] * 4, scores, {}))[0] == "combined_size"
    bare = said(made([*"abcdef"] * 4, scores, {"x": scores}, sizes=False))[1]
    assert "all metrics (no size is known)" in bare
    assert "ahead of the mean of the others" in bare


def row(name: str, rmse: float, p: float | None = None) -> dict[str, Any]:
    lead = None if name == COMBINED else rmse - 0.1
    low, high = (None, None) if lead is None else (lead - 0.01, lead + 0.01)
    numbers = {"rho": None if name == GUESS else 0.5, "p": p, "rmse": rmse}
    interval = f"{low:+.3f} to {high:+.3f}" if low else None
    return {"predictor": name, **numbers, "lead": lead, "lead_low": low, "lead_interval": interval}


@pytest.mark.parametrize(
    ("size", "guess", "p", "families", "verdict"),
    [
        (0.2, 0.3, 0.01, 8, "combining is better than size alone, by 0.100"),
        (0.3, 0.2, 0.01, 8, "combining is better than the mean of the others, by 0.100"),
        (0.3, 0.09, 0.01, 8, "combining is no better than the mean of the others."),
        (0.09, 0.3, 0.01, 8, "combining is no better than size alone."),
        (0.2, 0.3, 0.05, 8, "+0.090 to +0.110), but its order of the models may be chance."),
        (0.2, 0.3, None, 8, "but its order of the models may be chance."),
        (0.2, 0.105, 0.01, 8, "0.005 (95 %: -0.005 to +0.015), but other families might undo"),
        (0.2, 0.3, 0.01, 7, "combining is ahead of size alone, by 0.100"),
    ],
)
def test_combining_must_beat_the_best_of_the_others(
    size: float, guess: float, p: float | None, families: int, verdict: str
) -> None:
    rows = [row(COMBINED, 0.1, p), row(SIZE, size, 0.5), row(GUESS, guess)]
    of = [f"f{i}" for i in range(families)]
    (caution,) = combined_cautions(Combined("", range(24), of, 0, (), rows=rows))
    assert verdict in str(caution)
    assert ("is better" in str(caution)) is ("is better" in verdict)
