"""The combined predictor against plain scikit-learn, under the null, and its verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from selection_panels import by, in_families
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


def judged(results: Results) -> Combined:
    combined = build_combined(panel.build_panel(results))
    assert combined is not None
    return combined


def signal(families: int = 6) -> Results:
    """A metric that goes with the scores in every family; sizes do not."""
    generator = np.random.default_rng(1)
    scores = generator.uniform(0.4, 0.8, 24)
    values = {"good": (3 * scores + 0.01 * generator.normal(size=24)).tolist()}
    values["noise"] = generator.normal(size=24).tolist()
    return in_families([f"f{i % families}" for i in range(24)], scores.tolist(), values)


def plain(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
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
        alpha = alphas[f"f{groups[test][0]}"] = float(unseen.ALPHAS[int(np.argmin(errors))])
        model = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(x[train], y[train])
        predicted[test] = model.predict(x[test])
    return predicted, alphas


@pytest.mark.slow
def test_numbers_are_those_of_plain_code() -> None:
    """With a metric on another scale that is the same for all without the family f0."""
    results = signal()
    noise = (m for m in results.metrics if m.metric == "noise")
    same = (replace(m, metric="same", values={"s": 1e4 + (m.model in "m0 m6")}) for m in noise)
    results = replace(results, metrics=(*results.metrics, *same))
    board = report(results)
    rows_of = by(board, "combined")
    assert list(rows_of) == [COMBINED, SIZE, GUESS]
    names = ["good", "noise", "same"]
    size = ["log parameters", "log width", "depth"]
    assert rows_of[COMBINED]["features"] == [*(f"{name}.s" for name in names), *size]
    assert rows_of[SIZE]["features"] == size
    y = np.array([row.score for row in results.scores])
    groups = np.array([int((row.family or "")[1:]) for row in results.models])
    columns = [[m.values["s"] for m in results.metrics if m.metric == name] for name in names]
    columns += [
        [np.log(row.parameters or 0) for row in results.models],
        [np.log(row.width or 0) for row in results.models],
        [float(row.blocks or 0) for row in results.models],
    ]
    x = np.array(columns).T
    for name, features in ((COMBINED, x), (SIZE, x[:, -3:])):
        expected, alphas = plain(features, y, groups)
        predicted = board.table("combined_models").column(f"predicted.{name}")
        assert predicted == pytest.approx(expected.tolist())
        row = rows_of[name]
        assert row["rho"] == pytest.approx(scipy_stats.spearmanr(expected, y).statistic)
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean((expected - y) ** 2)))
        if name == COMBINED:
            strengths = by(board, "combined_strengths", "family")
            assert {f: row["alpha"] for f, row in strengths.items()} == pytest.approx(alphas)
    means = np.array([y[groups != group].mean() for group in groups])
    guess = rows_of[GUESS]
    assert guess["rho"] is guess["p"] is None
    assert guess["rmse"] == pytest.approx(np.sqrt(np.mean((means - y) ** 2)))
    assert guess["lead"] == pytest.approx(guess["rmse"] - rows_of[COMBINED]["rmse"])
    assert rows_of[COMBINED]["p"] == 0.001
    assert rows_of[SIZE]["lead_low"] > 0
    assert board.facts["combined"] == {
        "lacking": "", "families": 6, "models_left_out": 0, "features_left_out": [], "n": 24,
    }  # fmt: skip


def test_a_family_s_own_numbers_change_nothing_of_what_it_is_told() -> None:
    """No leak: its scores, and how they spread, are not in its predictions."""
    results = signal()
    family = {row.model for row in results.models if row.family == "f0"}
    scores = (replace(r, score=r.score ** (3 if r.model in family else 1)) for r in results.scores)
    before, after = judged(results), judged(replace(results, scores=tuple(scores)))
    of_family = np.array(before.family_of) == "f0"
    for name, predicted in before.predicted.items():
        assert after.predicted[name][of_family] == pytest.approx(predicted[of_family])


@pytest.mark.slow
def test_noise_predicts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """P(p <= a) <= a, and a mean rho that is the one by chance: below 0."""
    monkeypatch.setattr(unseen, "DRAWS", 99)
    rows = []
    for seed in range(30):
        generator = np.random.default_rng(seed)
        values = {f"x{k}": generator.normal(size=15).tolist() for k in range(3)}
        scores = generator.uniform(size=15).tolist()
        rows.append(judged(in_families([*"abcde"] * 3, scores, values, sizes=False)).rows[0])
    rhos, chances = ([row[name] or 0.0 for row in rows] for name in ("rho", "chance"))
    assert np.mean(chances) < -0.1
    assert np.mean(rhos) == pytest.approx(np.mean(chances), abs=4 * np.std(rhos) / np.sqrt(30))
    for a in (0.05, 0.2):
        share = np.mean([(row["p"] or 1.0) <= a for row in rows])
        assert share <= a + 3 * np.sqrt(a * (1 - a) / 30)


def test_what_is_left_out_is_counted_and_named() -> None:
    results = signal()
    models = (replace(results.models[0], family=None), *results.models[1:])
    rare = [replace(m, metric="rare") for m in results.metrics if m.model in ("m2", "m3")]
    lost = [m for m in results.metrics if (m.model, m.metric) != ("m1", "noise")]
    combined = judged(replace(results, models=models, metrics=(*lost, *rare)))
    assert (combined.models_left_out, combined.features_left_out) == (2, ["rare.s"])
    assert list(combined.models) == list(range(2, 24))
    parts = (
        "2 models whose family, or one of the scores it is made of, are not known; rare.s, which "
        "most models lack"
    )
    assert dict(combined_cautions(combined))["combined_left_out"] == {"parts": parts}


@pytest.mark.parametrize(
    ("families", "scores", "lacking"),
    [
        ([*"abc"] * 3, None, "9 models of 3 families"),
        ([*"ab"] * 6, None, "12 models of 2 families"),
        ([None] * 12, None, "0 models of 0 families"),
        (["a"] + [None] * 11, None, "1 model of 1 family"),
        ([*"abcd"] * 3, [0.5] * 12, "all mean scores are the same"),
        ([*"abcd"] * 3, range(12), "neither metrics nor sizes are known"),
    ],
)
def test_too_little_is_said(families: list[str | None], scores: Any, lacking: str) -> None:
    given = scores or [0.1 + i / 20 for i in range(len(families))]
    values = {} if scores else {"x": given}
    board = report(in_families(families, given, values, sizes=not isinstance(scores, range)))
    assert board.get("combined") is None
    assert board.facts["combined"]["lacking"].startswith(lacking)
    assert any(lacking in note for note in board.notes)


def test_no_scores_at_all() -> None:
    assert build_combined(panel.build_panel(Results(models=(ModelRow(model="a"),)))) is None


def test_with_and_without_metrics_and_sizes() -> None:
    def first(results: Results) -> tuple[str, str]:
        caution = next(combined_cautions(judged(results)))
        return caution.code, str(caution)

    code, text = first(signal(families=8))
    assert code == "combined"
    assert "combining is better than the mean of the others, by " in text  # size is worse
    assert first(signal(families=7))[1].endswith("but a verdict needs 8 families.")
    scores = [0.5 + 0.01 * ((7 * i) % 11) for i in range(24)]  # goes with the parameters
    assert first(in_families([*"abcdef"] * 4, scores, {}))[0] == "combined_size"
    _, text = first(in_families([*"abcdef"] * 4, scores, {"x": scores}, sizes=False))
    assert "all metrics (no size is known)" in text
    assert "ahead of the mean of the others" in text


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
    family_of = [f"f{i}" for i in range(families)]
    (caution,) = combined_cautions(Combined("", range(24), family_of, 0, (), rows=rows))
    assert verdict in str(caution)
    assert ("is better" in str(caution)) is ("is better" in verdict)
