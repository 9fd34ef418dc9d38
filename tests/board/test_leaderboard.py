"""The leaderboard on small cases worked by hand: rows of its tables."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import pytest
from selection_panels import by

from lrd_harness.board import cautions
from lrd_harness.board.leaderboard import Board, report
from lrd_harness.report import Report
from lrd_harness.results.rows import (
    CaptureRow,
    ErrorRow,
    MetricRow,
    ModelRow,
    PruningRow,
    Results,
    ScoreRow,
    UndefinedRow,
)

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


def told(results: Results) -> dict[str, list[Any]]:
    """Code -> the numbers of the cautions on a board and its models."""
    found: dict[str, list[Any]] = {}
    for code, numbers in Board(results, "embedding", Counter()).all_cautions:
        found.setdefault(code, []).append(numbers)
    return found


def ranks(found: Report, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[n] for n in ("model", *names)) for row in found.table("ranking").rows]


def rho(found: Report, name: str) -> tuple[float | None, int]:
    row = by(found, "correlations")[name]
    return (None if row["rho"] is None else round(row["rho"], 9), row["n"])


def test_actual_rank_orders_the_mean_of_the_last_layer() -> None:
    found = report(panel("cab"))  # means: a .7, b .6, c .35
    assert ranks(found, "rank", "tasks") == [("a", 1, 2), ("b", 2, 2), ("c", 3, 2)]
    assert found.table("ranking").column("score") == pytest.approx([0.7, 0.6, 0.35])
    assert by(found, "scores", "model")["a"]["score.X"] == 0.9
    assert found.table("tasks").rows == [
        {"task": t, "type": "STS", "score_name": "spearman", "models": 3, "chance": None}
        for t in "XY"
    ]
    assert found.title == "Leaderboard: 3 models, 2 tasks"


def test_predicted_rank_orders_mean_ranks_not_mean_values() -> None:
    # ranks on X: a 1, b 2, c 3; on Y: a 3, b 1, c 2; means 2, 1.5, 2.5. Mean values: a, b, c.
    values = {"X": (90.0, 2, 1), "Y": (1.0, 3, 2)}
    metrics = [
        metric(m, t, v) for t, row in values.items() for m, v in zip("abc", row, strict=True)
    ]
    found = report(panel(metrics=tuple(metrics)))
    assert ranks(found, "predicted.frenet") == [("a", 2), ("b", 1), ("c", 3)]
    assert by(found, "ranking", "model")["a"]["frenet.d0L"] == pytest.approx(45.5)
    assert found.table("metrics").rows == [
        {"metric": "frenet", "score": "d0L", "best": "max", "tasks": ["X", "Y"], "unit": "radians"}
    ]
    # actual order a b c, predicted b a c: rho = 1 - 6 * 2 / (3 * 8) = .5
    assert rho(found, "frenet") == (0.5, 3)


def test_release_dates_are_a_baseline_where_four_are_known() -> None:
    """The middle of a month or year stands for it."""
    dates = {"a": "2024-02-08", "b": "2023", "c": "2022-05", "d": "2021"}
    scores = tuple(score(m, "X", 0.9 - i / 10) for i, m in enumerate("abcd"))
    models = tuple(model(m, released=date) for m, date in dates.items())
    assert rho(report(Results(models=models, scores=scores)), "released later") == (1.0, 4)
    few = Results(models=(*models[:3], model("d")), scores=scores)
    assert "released later" not in by(report(few), "correlations")


def test_equal_mean_scores_are_level() -> None:
    """0.1 + 0.5 and 0.2 + 0.4 differ by rounding; so do the means of layer 1 and of the last."""
    pairs = {"a": (0.1, 0.5), "b": (0.2, 0.4), "c": (0.1, 0.4)}
    rows = [score(m, t, v) for m, own in pairs.items() for t, v in zip("XY", own, strict=True)]
    swapped = [score("a", "X", 0.2, layer=1), score("a", "Y", 0.4, layer=1)]
    found = report(Results(models=tuple(map(model, "abc")), scores=(*rows, *swapped)))
    assert sorted(ranks(found, "rank")) == [("a", 1), ("b", 1), ("c", 3)]
    by_model = by(found, "ranking", "model")
    assert by_model["a"]["score"] == by_model["b"]["score"] == by_model["a"]["best_score"] == 0.3


def test_a_model_that_lacks_a_task_is_last_and_unranked() -> None:
    results = panel("dabc", scores=(*panel().scores, score("d", "X", 1.0)))
    found = report(results)
    assert ranks(found, "rank", "tasks", "score")[-1] == ("d", None, 1, 1.0)
    assert told(results)["lacks_tasks"] == [{"model": "d", "tasks": "Y", "held": 1, "all": 2}]
    assert by(found, "scores", "model")["d"]["score.Y"] is None
    assert rho(found, "log parameters") == (1.0, 3)  # d is not counted
    said = "lacks Y: its mean is over 1 of 2 tasks and not comparable, so it has no actual rank"
    assert found.table("models").column("notes") == ["", "", "", said]
    assert f"d: {said}." in found.notes


def test_a_model_that_lacks_a_metric_has_no_predicted_rank() -> None:
    metrics = [metric(m, t, ord(m)) for m in "abc" for t in "XY"]
    results = panel(metrics=tuple(metrics[:-1]))  # c lacks Y
    found = report(results)
    assert ranks(found, "rank", "predicted.frenet")[-1] == ("c", 3, None)
    lacks = {"model": "c", "metrics": "frenet", "tasks": "Y"}
    assert told(results)["lacks_metrics"] == [lacks]
    assert rho(found, "frenet") == (None, 2)


def test_the_best_layer_has_the_highest_mean_over_tasks() -> None:
    layers = {"X": (0.1, 0.9, 0.5), "Y": (0.6, 0.3, 0.5)}  # means .35, .6, .5
    scores = tuple(score("a", t, v, i) for t, held in layers.items() for i, v in enumerate(held))
    results = panel("a", scores=scores)
    (row,) = report(results).table("ranking").rows
    assert (row["best_layer"], row["best_score"]) == (1, pytest.approx(0.6))
    (row,) = report(results).table("scores").rows
    assert (row["best_layer.Y"], row["best_score.Y"], row["best.Y"]) == (0, 0.6, "0: 0.6000")
    assert "oracle" in told(results)


def test_the_best_layer_is_one_that_every_task_has_and_the_lower_of_two() -> None:
    scores = [score("a", "X", 0.99, 0)]  # layer 0 was not scored on Y
    scores += [score("a", t, 0.5, layer) for t in "XY" for layer in (1, 2)]
    found = report(panel("a", scores=tuple(scores)))
    assert ranks(found, "best_layer", "best_score") == [("a", 1, 0.5)]


def test_few_models_are_said_to_say_little() -> None:
    codes = [[code for code, _ in cautions.of_number(n)] for n in range(11)]
    few = ["none_ranked", "one_model", "two_models", *["under_five"] * 2, *["under_ten"] * 5]
    assert codes == [*([code] for code in few), []]
    assert "p = 0.083" in str(*cautions.of_number(4))


@pytest.mark.parametrize("n", [5, 6])
def test_the_critical_values_are_those_of_the_exact_distribution(n: int) -> None:
    squares = n * (n * n - 1)
    rhos = [
        1 - 6 * sum((i - v) ** 2 for i, v in enumerate(order)) / squares
        for order in permutations(range(n))
    ]
    least = min(r for r in rhos if sum(abs(s) >= r - 1e-9 for s in rhos) < 0.05 * len(rhos))
    assert cautions.CRITICAL[n] == pytest.approx(least, abs=5e-4)


def test_single_model_no_metrics_no_scores_nothing() -> None:
    assert "one_model" in told(panel("a"))
    assert "no_metrics" in told(panel("ab"))
    assert rho(report(panel("ab")), "log parameters") == (None, 2)
    empty = report(Results())
    assert (empty.notes, empty.shown) == (("Nothing is recorded yet.",), ())


def test_without_scores_the_first_metric_orders_the_rows() -> None:
    metrics = tuple(metric(m, "own", v) for m, v in zip("abc", (2.0, 3, 1), strict=True))
    results = panel(scores=(), metrics=metrics)
    assert ranks(report(results), "rank") == [("b", None), ("a", None), ("c", None)]
    assert [*told(results)] == ["no_scores"]
    assert "predicted rank of frenet" in report(results).notes[0]


def test_a_newer_measurement_counts_and_mixed_versions_are_said() -> None:
    results = panel(metrics=(metric("a", "X", 1.0), metric("a", "X", 5.0, version="2")))
    assert by(report(results), "ranking", "model")["a"]["frenet.d0L"] == 5.0
    assert told(results)["versions"] == [{"metric": "frenet", "versions": "1, 2"}]


def test_different_parameters_are_said_but_not_pooling() -> None:
    mixed = [metric("a", "X", 1.0, parameters={"norm": n}) for n in ("hf", "raw")]
    assert told(panel(metrics=tuple(mixed)))["parameters"] == [{"metric": "frenet"}]
    own = [metric("a", "X", 1.0, parameters={"pooling": p}) for p in ("cls", "mean")]
    assert "parameters" not in told(panel(metrics=tuple(own)))


def test_revisions_of_a_model_are_told_apart_and_variants_left_out() -> None:
    models = tuple(ModelRow(model="m", revision=r) for r in ("abc" * 10, "def"))
    pruned = ModelRow(model="m", revision="def", variant="pruned-1")
    scores = tuple(score("m", "X", 0.5, revision=r.revision) for r in models)
    error = ErrorRow(model="m", revision="def", variant="pruned-1", rule="random", error="x")
    found = report(Results(models=(*models, pruned), scores=scores, errors=(error,)))
    assert found.table("ranking").column("model") == ["m@abcabcabcabc", "m@def"]
    assert found.table("model_info").column("name") == ["m", "m"]
    assert found.errors == ("m · pruned-1 · rule random: x",)


def test_a_model_that_could_not_be_opened_is_listed() -> None:
    error = ErrorRow(model="bad", error="UserError: no such file")
    good = panel()
    models = (*good.models, ModelRow(model="bad"))
    found = report(Results(models=models, scores=good.scores, errors=(error,)))
    assert ranks(found, "rank", "score", "parameters_millions")[-1] == ("bad", None, None, None)
    assert found.errors == ("bad: UserError: no such file",)
    assert found.table("errors").column("error") == ["UserError: no such file"]


def test_every_value_has_a_row() -> None:
    where = {"model": "a", "task": "X"}
    found = report(
        Results(
            models=(model("a"),),
            scores=(score("a", "X", 0.5, 2, scores={"pearson": 0.4}),),
            metrics=(metric("a", "X", 3.0),),
            captures=(
                CaptureRow(
                    model="a", texts=9, forwarded=8, tokens=70, truncated=1, empty=0, duplicates=1
                ),
            ),
            prunings=(PruningRow(model="a", rule="gfmi", budget=0.1, removed=(2, 3), blocks=9),),
            undefined=(UndefinedRow(**where, layer=0, error="all the same"),),
            errors=(ErrorRow(**where, metric="nrs", error="Broken"),),
        )
    ).table("values")
    rows = {(r["kind"], r.get("name")): r for r in found.rows}
    assert rows["score", "spearman"]["value"] == 0.5
    assert rows["score", "spearman"]["depth"] == 1.0
    assert rows["subscore", "pearson"]["value"] == 0.4
    assert (
        rows["metric", "d0L"] | {"unit": "radians", "best": "max", "n": 20} == rows["metric", "d0L"]
    )
    assert rows["capture", "forwarded"]["value"] == 8
    assert rows["pruning", "budget"]["text"] == "2 3"
    assert rows["undefined", None]["text"] == "all the same"
    assert rows["error", None]["source"] == "nrs"
    assert {row["width"] for row in found.rows} == {4}
