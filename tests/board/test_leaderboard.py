"""The leaderboard on small cases worked by hand."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from lrd_harness import UserError
from lrd_harness.board import cautions
from lrd_harness.board.leaderboard import Leaderboard, Row, build, layer_table
from lrd_harness.results.database import ErrorRow, MetricRow, ModelRow, Profile, Results, ScoreRow

SCORES = {"a": (0.9, 0.5), "b": (0.6, 0.6), "c": (0.3, 0.4)}  # model -> (task X, task Y)


def model(name: str, **fields: Any) -> ModelRow:
    sizes = {"a": (300, 4), "b": (200, 4), "c": (100, 4), "d": (50, 2)}.get(name, (10, 2))
    given = {"parameters": sizes[0], "width": sizes[1], "blocks": 2, "pooling": "mean"} | fields
    return ModelRow(model=name, **given)


def score(name: str, task: str, value: float, layer: int = 2, **fields: Any) -> ScoreRow:
    return ScoreRow(
        model=name,
        task=task,
        task_type="STS",
        layer=layer,
        layers=2,
        score_name="spearman",
        score=value,
        **fields,
    )


def metric(name: str, task: str, value: float, **fields: Any) -> MetricRow:
    given: dict[str, Any] = {"metric": "frenet", "selection": ("d0L", "max"), "n": 20} | fields
    values = {} if given["selection"] is None else {given["selection"][0]: value}
    return MetricRow(model=name, task=task, values={**values, "rank": 7.0 + value}, **given)


def panel(models: str = "abc", **parts: Any) -> Results:
    scores = [
        score(m, task, SCORES[m][i])
        for m in models
        for i, task in enumerate("XY")
        if m in SCORES and len(task) == 1
    ]
    given: dict[str, Any] = {"models": tuple(map(model, models)), "scores": tuple(scores)}
    return Results(**(given | parts))


def row(board: Leaderboard, name: str) -> Row:
    return next(row for row in board.rows if row.info.model == name)


def rho(board: Leaderboard, name: str) -> tuple[float | None, int]:
    found = next(c for c in board.correlations if c.name == name)
    return (None if found.rho is None else round(found.rho, 9), found.n)


def test_actual_rank_orders_the_mean_of_the_last_layer() -> None:
    board = build(panel("cab"))  # means: a .7, b .6, c .35
    assert [(r.info.model, r.rank, r.tasks) for r in board.rows] == [
        ("a", 1, 2),
        ("b", 2, 2),
        ("c", 3, 2),
    ]
    assert [r.score for r in board.rows] == pytest.approx([0.7, 0.6, 0.35])
    assert row(board, "a").scores["X"].last == 0.9
    assert [(t.name, t.type, t.score_name, t.models) for t in board.tasks] == [
        ("X", "STS", "spearman", 3),
        ("Y", "STS", "spearman", 3),
    ]


def test_models_with_the_same_mean_share_the_better_rank() -> None:
    scores = tuple(score(m, "X", v) for m, v in zip("abc", (0.5, 0.8, 0.5), strict=True))
    board = build(panel(scores=scores))
    assert [(r.info.model, r.rank) for r in board.rows] == [("b", 1), ("a", 2), ("c", 2)]


def test_predicted_rank_orders_mean_ranks_not_mean_values() -> None:
    # ranks on X: a 1, b 2, c 3; on Y: a 3, b 1, c 2; means 2, 1.5, 2.5. Mean values: a, b, c.
    values = {"X": (90.0, 2, 1), "Y": (1.0, 3, 2)}
    metrics = [
        metric(m, t, v) for t, row in values.items() for m, v in zip("abc", row, strict=True)
    ]
    board = build(panel(metrics=tuple(metrics)))
    assert {r.info.model: r.predicted["frenet"] for r in board.rows} == {"a": 2, "b": 1, "c": 3}
    assert row(board, "a").values["frenet"] == pytest.approx(45.5)
    assert board.metrics[0].selection == ("d0L", "max")
    assert board.metrics[0].tasks == ("X", "Y")
    # actual order a b c, predicted b a c: rho = 1 - 6 * 2 / (3 * 8) = .5
    assert rho(board, "frenet") == (0.5, 3)


def test_a_metric_may_want_its_score_low() -> None:
    metrics = tuple(
        metric(m, "X", v, metric="low", selection=("s", "min"))
        for m, v in zip("abc", (1.0, 2, 3), strict=True)
    )
    board = build(panel(metrics=metrics))
    assert [r.predicted["low"] for r in board.rows] == [1, 2, 3]
    assert rho(board, "low") == (1.0, 3)


def test_baselines_stand_beside_the_metrics() -> None:
    board = build(panel(metrics=tuple(metric(m, "X", -ord(m)) for m in "abc")))
    assert [(c.name, c.kind) for c in board.correlations] == [
        ("frenet", "metric"),
        ("log parameters", "baseline"),
        ("log width", "baseline"),
        ("depth", "baseline"),
        ("frenet.rank", "baseline"),
    ]
    assert rho(board, "log parameters") == (1.0, 3)
    assert rho(board, "log width") == (None, 3)  # all alike
    assert rho(board, "frenet.rank") == (1.0, 3)
    parameters = next(c for c in board.correlations if c.name == "log parameters")
    assert parameters.p == pytest.approx(1 / 3)


def test_equal_mean_scores_are_level() -> None:
    """0.1 + 0.5 and 0.2 + 0.4 differ by rounding; so do the means of layer 1 and of the last."""
    pairs = {"a": (0.1, 0.5), "b": (0.2, 0.4), "c": (0.1, 0.4)}
    rows = [score(m, t, v) for m, own in pairs.items() for t, v in zip("XY", own, strict=True)]
    swapped = [score("a", "X", 0.2, layer=1), score("a", "Y", 0.4, layer=1)]
    board = build(Results(models=tuple(map(model, "abc")), scores=(*rows, *swapped)))
    assert [row(board, name).rank for name in "abc"] == [1, 1, 3]
    assert row(board, "a").score == row(board, "b").score == row(board, "a").best_score == 0.3


def test_a_model_that_lacks_a_task_is_last_and_unranked() -> None:
    scores = (*panel().scores, score("d", "X", 1.0))
    board = build(panel("dabc", scores=scores))
    last = board.rows[-1]
    assert (last.info.model, last.rank, last.tasks, last.score) == ("d", None, 1, 1.0)
    assert last.notes == (
        "lacks Y: its mean is over 1 of 2 tasks and not comparable, so it has no actual rank",
    )
    assert last.scores["Y"].last is None
    assert [r.rank for r in board.rows] == [1, 2, 3, None]
    assert rho(board, "log parameters") == (1.0, 3)  # d is not counted


def test_a_score_of_an_inner_layer_is_not_the_models_own() -> None:
    board = build(panel("ad", scores=(score("a", "X", 0.5), score("d", "X", 0.9, layer=1))))
    assert row(board, "d").rank is None
    assert row(board, "d").notes == ("no task scored: no actual rank",)


def test_a_model_that_lacks_a_metric_has_no_predicted_rank() -> None:
    metrics = [metric(m, t, ord(m)) for m in "abc" for t in "XY"]
    board = build(panel(metrics=tuple(metrics[:-1])))  # c lacks Y
    assert row(board, "c").predicted == {"frenet": None}
    assert row(board, "c").rank == 3
    assert row(board, "c").notes == ("lacks frenet on Y: no predicted rank by frenet",)
    assert rho(board, "frenet") == (None, 2)


def test_the_best_layer_has_the_highest_mean_over_tasks() -> None:
    layers = {"X": (0.1, 0.9, 0.5), "Y": (0.6, 0.3, 0.5)}  # means .35, .6, .5
    scores = tuple(score("a", t, v, i) for t, held in layers.items() for i, v in enumerate(held))
    board = build(panel("a", scores=scores))
    (line,) = board.rows
    assert (line.best_layer, line.best_score) == (1, pytest.approx(0.6))
    assert (line.scores["Y"].best_layer, line.scores["Y"].best) == (0, 0.6)
    assert any("oracle" in note for note in board.notes)


def test_the_best_layer_is_one_that_every_task_has_and_the_lower_of_two() -> None:
    scores = [score("a", "X", 0.99, 0)]  # layer 0 was not scored on Y
    scores += [score("a", t, 0.5, layer) for t in "XY" for layer in (1, 2)]
    (line,) = build(panel("a", scores=tuple(scores))).rows
    assert (line.best_layer, line.best_score) == (1, 0.5)


def test_one_layer_leaves_nothing_to_choose() -> None:
    board = build(panel())
    assert row(board, "a").best_layer is None
    assert not any("oracle" in note for note in board.notes)


@pytest.mark.parametrize(
    ("n", "said"),
    [(0, "none has"), (1, "nothing to rank"), (2, "too few"), (3, "p = 0.33"), (4, "p = 0.083")],
)
def test_few_models_are_said_to_say_little(n: int, said: str) -> None:
    assert said in cautions.few(n)
    assert cautions.few(10) == ""


@pytest.mark.parametrize("n", [5, 6, 7])
def test_the_critical_values_are_those_of_the_exact_distribution(n: int) -> None:
    squares = n * (n * n - 1)
    rhos = [
        1 - 6 * sum((i - v) ** 2 for i, v in enumerate(order)) / squares
        for order in permutations(range(n))
    ]
    least = min(r for r in rhos if sum(abs(s) >= r - 1e-9 for s in rhos) < 0.05 * len(rhos))
    assert cautions.CRITICAL[n] == pytest.approx(least, abs=5e-4)
    assert f"|rho| of {least:.3g}" in cautions.few(n)


def test_single_model_no_metrics_no_scores_nothing() -> None:
    assert "1 model" in build(panel("a")).notes[0]
    board = build(panel("ab"))
    assert any("No metric" in note for note in board.notes)
    assert rho(board, "log parameters") == (None, 2)
    board = build(Results())
    assert board.rows == ()
    assert board.notes == ("Nothing is recorded yet.",)


def test_without_scores_the_first_metric_orders_the_rows() -> None:
    metrics = tuple(metric(m, "own", v) for m, v in zip("abc", (2.0, 3, 1), strict=True))
    board = build(panel(scores=(), metrics=metrics))
    assert [r.info.model for r in board.rows] == ["b", "a", "c"]
    assert [r.rank for r in board.rows] == [None] * 3
    assert "ordered by the predicted rank of frenet" in board.notes[0]
    assert all(not r.notes for r in board.rows)


def test_a_metric_without_selection_is_no_column() -> None:
    board = build(panel(metrics=(metric("a", "X", 1.0, selection=None),)))
    assert board.metrics == ()


def test_a_newer_measurement_counts_and_mixed_versions_are_said() -> None:
    metrics = (metric("a", "X", 1.0), metric("a", "X", 5.0, version="2"))
    board = build(panel(metrics=metrics))
    assert row(board, "a").values["frenet"] == 5.0
    assert any("different versions (1, 2)" in note for note in board.notes)


def test_different_parameters_are_said_but_not_pooling() -> None:
    mixed = [metric("a", "X", 1.0, parameters={"norm": n}) for n in ("hf", "raw")]
    assert any("parameters" in n for n in build(panel(metrics=tuple(mixed))).notes)
    own = [metric("a", "X", 1.0, parameters={"pooling": p}) for p in ("cls", "mean")]
    assert not any("parameters" in n for n in build(panel(metrics=tuple(own))).notes)


def test_revisions_of_a_model_are_told_apart_and_variants_left_out() -> None:
    models = tuple(ModelRow(model="m", revision=r) for r in ("abc" * 10, "def"))
    pruned = ModelRow(model="m", revision="def", variant="pruned-1")
    scores = tuple(score("m", "X", 0.5, revision=r.revision) for r in models)
    error = ErrorRow(model="m", revision="def", variant="pruned-1", error="x")
    board = build(Results(models=(*models, pruned), scores=scores, errors=(error,)))
    assert [r.label for r in board.rows] == ["m@abcabcabcabc", "m@def"]
    assert board.errors == ()


def test_a_model_that_could_not_be_opened_is_listed() -> None:
    error = ErrorRow(model="bad", error="UserError: no such file")
    bad = ModelRow(model="bad")
    good = panel()
    board = build(Results(models=(*good.models, bad), scores=good.scores, errors=(error,)))
    assert board.rows[-1].info == bad
    assert board.rows[-1].score is None
    assert board.errors == (error,)


def test_the_layer_table_by_hand() -> None:
    scores = [score("a", "X", v, i) for i, v in enumerate((0.1, 0.2, 0.3))]
    scores += [score("a", "Y", 0.7, 2), score("b", "X", 0.0, 0)]
    profiles = [
        {"speed": Profile((0, 1), (1.0, 2.0))},
        {"speed": Profile((1,), (4.0,)), "curvature": Profile((1,), (9.0,))},
    ]
    metrics = [metric("a", t, 1.0, profiles=p) for t, p in zip("XY", profiles, strict=True)]
    table = layer_table(panel(scores=tuple(scores), metrics=tuple(metrics)), "a")
    assert table.layers == (0, 1, 2)
    assert table.tasks == ("X", "Y")
    assert table.scores == ((0.1, None), (0.2, None), (0.3, 0.7))
    assert table.means == (None, None, pytest.approx(0.5))
    assert table.profiles == {
        "frenet.speed": (None, 3.0, None),  # layer 0 was degenerate on Y
        "frenet.curvature": (None, 9.0, None),
    }


def test_the_layer_table_of_an_unknown_model_says_what_was_meant() -> None:
    with pytest.raises(UserError, match="Did you mean minilm"):
        layer_table(Results(models=(ModelRow(model="minilm"),)), "minilmm")
    with pytest.raises(UserError, match="revision 2"):
        layer_table(Results(models=(ModelRow(model="m", revision="1"),)), "m", revision="2")
