"""The leaderboards on small cases worked by hand: rows of their tables, and cautions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from selection_panels import by, joined

from lrd_harness.board import cautions
from lrd_harness.board.leaderboard import Board, report
from lrd_harness.contracts import LIKELIHOOD
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

LASTS = {"a": {"X": 0.9, "Y": 0.5}, "b": {"X": 0.6, "Y": 0.6}, "c": {"X": 0.3, "Y": 0.4}}
SIZES = {"a": (300, 4), "b": (200, 4), "c": (100, 4), "d": (50, 2)}


def model(name: str, **more: Any) -> ModelRow:
    parameters, width = SIZES.get(name, (10, 2))
    known: dict[str, Any] = {"parameters": parameters, "width": width, "blocks": 2} | more
    return ModelRow(model=name, **known)


def scores(name: str, task: str, *by_layer: float, **more: Any) -> list[ScoreRow]:
    """A score a layer, of an embedding task."""
    known = {"task_type": "STS", "score_name": "spearman", "layers": len(by_layer) - 1} | more
    return [
        ScoreRow(model=name, task=task, layer=layer, score=value, **known)
        for layer, value in enumerate(by_layer)
    ]


def likely(
    name: str, task: str, *by_layer: float, stderr: float = 0.01, chance: float = 0.25
) -> Any:
    """Of a likelihood task; the standard error grows by layer: stderr, 2 stderr, ..."""
    rows = scores(name, task, *by_layer, task_type=LIKELIHOOD, score_name="acc", chance=chance)
    return [replace(row, stderr=stderr * (row.layer + 1)) for row in rows]


def metric(name: str, task: str, value: float, **more: Any) -> MetricRow:
    known: dict[str, Any] = {"metric": "frenet", "selection": ("d0L", "max"), "n": 20}
    known |= {"task_type": "STS"} | more
    return MetricRow(model=name, task=task, values={"d0L": value, "rank": 7.0 + value}, **known)


def panel(models: str = "abc", **parts: Any) -> Results:
    known: dict[str, Any] = {
        "models": tuple(map(model, models)),
        "scores": tuple(
            row for m in models for t, v in LASTS.get(m, {}).items() for row in scores(m, t, v)
        ),
    }
    return Results(**(known | parts))


def said(results: Results, kind: Any = "embedding") -> dict[str, list[Any]]:
    """Code -> the numbers of the cautions on a board and its models."""
    found: dict[str, list[Any]] = {}
    for code, numbers in Board(results, kind, {}).all_cautions:
        found.setdefault(code, []).append(numbers)
    return found


def ranks(board: Report, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[n] for n in ("model", *names)) for row in board.table("ranking").rows]


def rho(board: Report, name: str) -> tuple[float | None, int]:
    row = by(board, "correlations")[name]
    return (None if row["rho"] is None else round(row["rho"], 9), row["n"])


def test_actual_rank_orders_the_mean_of_the_last_layer() -> None:
    board = report(panel("cab"))  # means: a .7, b .6, c .35
    assert ranks(board, "rank", "tasks") == [("a", 1, 2), ("b", 2, 2), ("c", 3, 2)]
    assert board.table("ranking").column("score") == pytest.approx([0.7, 0.6, 0.35])
    assert by(board, "scores", "model")["a"]["score.X"] == 0.9
    assert board.table("tasks").rows == [
        {"task": t, "type": "STS", "score_name": "spearman", "models": 3, "chance": None}
        for t in "XY"
    ]
    assert board.title == "Leaderboard: 3 models, 2 tasks"


def test_predicted_rank_orders_mean_ranks_not_mean_values() -> None:
    # ranks on X: a 1, b 2, c 3; on Y: a 3, b 1, c 2; means 2, 1.5, 2.5. Mean values: a, b, c.
    values = {"X": {"a": 90.0, "b": 2, "c": 1}, "Y": {"a": 1.0, "b": 3, "c": 2}}
    metrics = tuple(metric(m, t, v) for t, row in values.items() for m, v in row.items())
    board = report(panel(metrics=metrics))
    assert ranks(board, "predicted.frenet") == [("a", 2), ("b", 1), ("c", 3)]
    assert by(board, "ranking", "model")["a"]["frenet.d0L"] == pytest.approx(45.5)
    assert board.table("metrics").rows == [
        {"metric": "frenet", "score": "d0L", "best": "max", "tasks": ["X", "Y"], "unit": "radians"}
    ]
    # actual order a b c, predicted b a c: rho = 1 - 6 * 2 / (3 * 8) = .5
    assert rho(board, "frenet") == (0.5, 3)


def test_release_dates_are_a_baseline_where_four_are_known() -> None:
    """The middle of a month or year stands for it."""
    dates = {"a": "2024-02-08", "b": "2023", "c": "2022-05", "d": "2021"}
    rows = tuple(row for i, m in enumerate("abcd") for row in scores(m, "X", 0.9 - i / 10))
    models = tuple(model(m, released=date) for m, date in dates.items())
    assert rho(report(Results(models=models, scores=rows)), "released later") == (1.0, 4)
    few = Results(models=(*models[:3], model("d")), scores=rows)
    assert "released later" not in by(report(few), "correlations")


def test_equal_mean_scores_are_level() -> None:
    """0.1 + 0.5 and 0.2 + 0.4 differ by rounding; so do the means of layer 1 and of the last."""
    a = [*scores("a", "X", 0.2, 0.1), *scores("a", "Y", 0.4, 0.5)]
    b = [*scores("b", "X", 0.2), *scores("b", "Y", 0.4)]
    c = [*scores("c", "X", 0.1), *scores("c", "Y", 0.4)]
    board = report(panel(scores=(*a, *b, *c)))
    assert sorted(ranks(board, "rank")) == [("a", 1), ("b", 1), ("c", 3)]
    by_model = by(board, "ranking", "model")
    assert by_model["a"]["score"] == by_model["b"]["score"] == by_model["a"]["best_score"] == 0.3


def test_a_model_that_lacks_a_task_is_last_and_unranked() -> None:
    results = panel("dabc", scores=(*panel().scores, *scores("d", "X", 1.0)))
    board = report(results)
    assert ranks(board, "rank", "tasks", "score")[-1] == ("d", None, 1, 1.0)
    assert said(results)["lacks_tasks"] == [{"model": "d", "tasks": "Y", "held": 1, "all": 2}]
    assert by(board, "scores", "model")["d"]["score.Y"] is None
    assert rho(board, "log parameters") == (1.0, 3)  # d is not counted
    note = "lacks Y: its mean is over 1 of 2 tasks and not comparable, so it has no actual rank"
    assert board.table("models").column("notes") == ["", "", "", note]
    assert f"d: {note}." in board.notes


def test_a_model_that_lacks_a_metric_has_no_predicted_rank() -> None:
    metrics = [metric(m, t, ord(m)) for m in "abc" for t in "XY"]
    results = panel(metrics=tuple(metrics[:-1]))  # c lacks Y
    board = report(results)
    assert ranks(board, "rank", "predicted.frenet")[-1] == ("c", 3, None)
    lacks = {"model": "c", "metrics": "frenet", "tasks": "Y"}
    assert said(results)["lacks_metrics"] == [lacks]
    assert rho(board, "frenet") == (None, 2)


def test_the_best_layer_has_the_highest_mean_over_tasks() -> None:
    """Of the layers that every task has, and the lower of two."""
    rows = [*scores("a", "X", 0.1, 0.9, 0.5), *scores("a", "Y", 0.6, 0.3, 0.5)]  # .35, .6, .5
    results = panel("a", scores=tuple(rows))
    assert ranks(report(results), "best_layer", "best_score") == [("a", 1, pytest.approx(0.6))]
    (row,) = report(results).table("scores").rows
    assert (row["best_layer.Y"], row["best_score.Y"], row["best.Y"]) == (0, 0.6, "0: 0.6000")
    assert "oracle" in said(results)
    rows = [*scores("a", "X", 0.99, 0.5, 0.5), *scores("a", "Y", 0.99, 0.5, 0.5)[1:]]
    board = report(panel("a", scores=tuple(rows)))  # layer 0 was not scored on Y
    assert ranks(board, "best_layer", "best_score") == [("a", 1, 0.5)]


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
    assert "one_model" in said(panel("a"))
    assert "no_metrics" in said(panel("ab"))
    assert rho(report(panel("ab")), "log parameters") == (None, 2)
    empty = report(Results())
    assert (empty.notes, empty.shown) == (("Nothing is recorded yet.",), ())
    # without scores the first metric orders the rows
    metrics = tuple(metric(m, "T", v) for m, v in {"a": 2.0, "b": 3, "c": 1}.items())
    results = panel(scores=(), metrics=metrics)
    assert ranks(report(results), "rank") == [("b", None), ("a", None), ("c", None)]
    assert [*said(results)] == ["no_scores"]
    assert "predicted rank of frenet" in report(results).notes[0]


def test_a_newer_measurement_counts_and_mixed_ones_are_said() -> None:
    results = panel(metrics=(metric("a", "X", 1.0), metric("a", "X", 5.0, version="2")))
    assert by(report(results), "ranking", "model")["a"]["frenet.d0L"] == 5.0
    assert said(results)["versions"] == [{"metric": "frenet", "versions": "1, 2"}]
    mixed = [metric("a", "X", 1.0, parameters={"norm": n}) for n in ("hf", "raw")]
    assert said(panel(metrics=tuple(mixed)))["parameters"] == [{"metric": "frenet"}]
    pooled = [metric("a", "X", 1.0, parameters={"pooling": p}) for p in ("cls", "mean")]
    assert "parameters" not in said(panel(metrics=tuple(pooled)))  # a model's own


def test_revisions_are_told_apart_variants_left_out_and_failures_listed() -> None:
    models = tuple(ModelRow(model="m", revision=r) for r in ("abc" * 10, "def"))
    pruned = ModelRow(model="m", revision="def", variant="pruned-1")
    rows = tuple(r for m in models for r in scores("m", "X", 0.5, revision=m.revision))
    errors = (
        ErrorRow(model="m", revision="def", variant="pruned-1", rule="random", error="x"),
        ErrorRow(model="bad", error="UserError: no such file"),
    )
    bad = ModelRow(model="bad")  # could not be opened
    board = report(Results(models=(*models, pruned, bad), scores=rows, errors=errors))
    assert board.table("ranking").column("model") == ["m@abcabcabcabc", "m@def", "bad"]
    assert ranks(board, "rank", "score", "parameters_millions")[-1] == ("bad", None, None, None)
    assert board.table("model_info").column("name") == ["m", "m", "bad"]
    assert board.errors == ("bad: UserError: no such file", "m · pruned-1 · rule random: x")
    assert board.table("errors").column("error") == ["UserError: no such file", "x"]


def test_every_value_has_a_row() -> None:
    where = {"model": "a", "task": "X"}
    counts = {"texts": 9, "forwarded": 8, "tokens": 70, "truncated": 1, "empty": 0, "duplicates": 1}
    values = report(
        Results(
            models=(model("a"),),
            scores=tuple(scores("a", "X", 0.1, 0.5, scores={"pearson": 0.4})),
            metrics=(metric("a", "X", 3.0),),
            captures=(CaptureRow(model="a", **counts),),
            prunings=(PruningRow(model="a", rule="gfmi", budget=0.1, removed=(2, 3), blocks=9),),
            undefined=(UndefinedRow(**where, layer=0, error="all the same"),),
            errors=(ErrorRow(**where, metric="nrs", error="Broken"),),
        )
    ).table("values")
    rows = {(row["kind"], row.get("name")): row for row in values.rows}
    score = rows["score", "spearman"]
    assert (score["value"], score["depth"]) == (0.5, 1.0)
    assert rows["subscore", "pearson"]["value"] == 0.4
    d0l = {name: rows["metric", "d0L"][name] for name in ("unit", "best", "n")}
    assert d0l == {"unit": "radians", "best": "max", "n": 20}
    assert rows["capture", "forwarded"]["value"] == 8
    assert rows["pruning", "budget"]["text"] == "2 3"
    assert rows["undefined", None]["text"] == "all the same"
    assert rows["error", None]["source"] == "nrs"
    assert {row["width"] for row in values.rows} == {4}


EMBEDDING = Results(
    models=tuple(map(model, "abcd")),
    scores=tuple(row for i, m in enumerate("abcd") for row in scores(m, "sts", 0.8 - i / 10)),
    metrics=tuple(metric(m, "sts", i) for i, m in enumerate("abcd")),
)
# Of a, b and c; means of the last layer: a .3, b .5, c .4.
LIKELY = Results(
    models=EMBEDDING.models[:3],
    scores=(
        *likely("a", "mmlu", 0.26, 0.40, 0.30),
        *likely("b", "mmlu", 0.25, 0.35, 0.60),
        *likely("c", "mmlu", 0.20, 0.30, 0.35),
        *likely("a", "arc", 0.20, 0.40, 0.30, stderr=0.02, chance=0.5),
        *likely("b", "arc", 0.25, 0.35, 0.40, stderr=0.02, chance=0.5),
        *likely("c", "arc", 0.20, 0.30, 0.45, stderr=0.02, chance=0.5),
    ),
    metrics=tuple(
        metric(m, task, value, task_type=LIKELIHOOD)
        # ranks on mmlu: a 1, b 2, c 3, on arc: a 3, b 1, c 2; means a 2, b 1.5, c 2.5
        for task, values in {"mmlu": (90.0, 2, 1), "arc": (1.0, 3, 2)}.items()
        for m, value in zip("abc", values, strict=True)
    ),
)
BOTH = joined(EMBEDDING, LIKELY)


def test_likelihood_tasks_leave_the_embedding_board_as_it_is() -> None:
    both, embedding, alone = report(BOTH), report(EMBEDDING), report(LIKELY)
    once = ("models", "layers", "checkpoints", "values", "errors", "model_info")
    for board, prefix in ((embedding, ""), (alone, "base.")):
        for table in board.tables:
            if table.name not in once and not table.name.startswith("pruning"):
                assert list(both.table(f"{prefix}{table.name}").rows) == list(table.rows)
    assert both.facts["base"]["combined"] == alone.facts["combined"]
    assert set(embedding.notes) <= set(both.notes)
    assert {f"Base models: {note}" for note in alone.notes} <= set(both.notes)


def test_the_base_board_ranks_the_models_that_have_such_a_task() -> None:
    board = report(BOTH)
    rows = board.table("base.ranking").rows
    assert [(r["model"], r["rank"], r["predicted.frenet"]) for r in rows] == [
        ("b", 1, 1), ("c", 2, 3), ("a", 3, 2),
    ]  # fmt: skip
    assert [r["score"] for r in rows] == pytest.approx([0.5, 0.4, 0.3])
    # actual order b c a, predicted b a c: rho = 1 - 6 * 2 / (3 * 8) = .5
    assert by(board, "base.correlations")["frenet"]["rho"] == pytest.approx(0.5)
    tasks = board.table("base.tasks").rows
    assert [tuple(t[name] for name in ("task", "chance", "models")) for t in tasks] == [
        ("mmlu", 0.25, 3), ("arc", 0.5, 3),
    ]  # fmt: skip
    wide = by(board, "models", "model")
    assert wide["a"]["rank"] == 1
    assert (wide["b"]["base.rank"], wide["b"]["base.best_layer"]) == (1, 2)
    assert wide["c"]["score.arc"] == 0.45
    assert wide["d"].get("base.rank") is None  # without such a task
    columns = [column.name for column in board.table("models").columns]
    assert columns.index("notes") < columns.index("base.rank")
    assert columns[-1] == "base.notes"
    assert "stderr.sts" not in columns


def test_standard_errors_and_chance_by_hand() -> None:
    board = report(LIKELY)
    row, task = by(board, "ranking", "model")["a"], by(board, "scores", "model")["a"]
    assert (row["best_layer"], row["best_score"]) == (1, pytest.approx(0.4))
    # the last layer's are three times, the middle layer's twice .01 and .02
    assert row["stderr"] == pytest.approx(math.sqrt(0.03**2 + 0.06**2) / 2)
    assert row["best_stderr"] == pytest.approx(math.sqrt(0.02**2 + 0.04**2) / 2)
    assert row["chance"] == pytest.approx(0.375)
    names = ("score", "best_layer", "best_score", "stderr", "chance")
    assert [task[f"{name}.mmlu"] for name in names] == [0.30, 1, 0.40, pytest.approx(0.03), 0.25]
    for missing in ("stderr", "chance"):  # what one task lacks the mean lacks
        rows = (replace(s, **{missing: None}) if s.task == "arc" else s for s in LIKELY.scores)
        board = report(replace(LIKELY, scores=tuple(rows)))
        assert by(board, "ranking", "model")["b"][missing] is None
        assert by(board, "scores", "model")["b"][f"{missing}.mmlu"] is not None
        assert by(board, "ranking", "model")["b"]["score"] == pytest.approx(0.5)


def test_a_board_of_likelihood_tasks_alone_lists_every_model_and_error() -> None:
    bad, error = ModelRow(model="bad"), ErrorRow(model="bad", error="no such file")
    results = replace(LIKELY, models=(*LIKELY.models, bad), errors=(error,))
    alone, both = report(results), report(joined(EMBEDDING, results))
    assert alone.facts["kind"] == "base"
    assert alone.title == "Base models: 4 models, 2 tasks"
    assert alone.table("ranking").rows[-1]["model"] == "bad"
    assert alone.errors == both.errors == ("bad: no such file",)
    assert "bad" in both.table("ranking").column("model")
    assert "bad" not in both.table("base.ranking").column("model")


def test_what_lacks_on_one_board_lacks_there_alone() -> None:
    rows = tuple(s for s in LIKELY.scores if (s.model, s.task) != ("a", "arc"))
    places = (("a", "unknown"), ("d", "mmlu"))
    gaps = tuple(UndefinedRow(model=m, task=t, layer=0, error="same") for m, t in places)
    board = report(joined(EMBEDDING, replace(LIKELY, scores=rows), Results(undefined=gaps)))
    assert by(board, "ranking", "model")["a"]["rank"] == 1
    base = by(board, "base.ranking", "model")
    names = ("rank", "tasks", "score", "chance")  # of the task that it has
    assert [base["a"][name] for name in names] == [None, 1, 0.30, 0.25]
    assert base["d"]["rank"] is None
    assert said(replace(LIKELY, scores=rows), "base")["lacks_tasks"][0]["tasks"] == "arc"
    assert [note for note in board.notes if "no score at" in note] == [
        "a has no score at layer 0 on unknown: same.",
        "Base models: d has no score at layer 0 on mmlu: same.",
    ]
    assert "base" not in report(replace(EMBEDDING, undefined=gaps)).facts  # of unknown type


def of_lasts(**lasts: float) -> Results:
    """Models with one score, of a standard error of .035."""
    rows = (s for m, last in lasts.items() for s in likely(m, "mmlu", 0.2, last, stderr=0.0175))
    return Results(models=tuple(ModelRow(model=m) for m in lasts), scores=tuple(rows))


@pytest.mark.parametrize(
    ("last", "guessed"), [(0.25, True), (0.31, True), (0.33, False), (0.19, True), (0.17, False)]
)
def test_a_score_near_chance_is_said_to_be_like_guessing(last: float, guessed: bool) -> None:
    assert ("guessing" in said(of_lasts(a=last), "base")) is guessed


def test_neighbours_that_are_too_close_are_named_and_level_ones_are_not() -> None:
    # 2 standard errors of a difference: 2 * sqrt(2) * .035 = .099
    results = of_lasts(a=0.9, b=0.82, c=0.7, d=0.7, e=0.62, f=0.55, g=0.5)
    pairs = "a and b; d and e; e and f; and 1 more pair"
    assert said(results, "base")["level"] == [{"pairs": pairs}]
    assert "level" not in said(of_lasts(a=0.9, b=0.8), "base")


def test_the_best_of_many_layers_is_said_to_exceed_chance_by_luck() -> None:
    assert said(LIKELY, "base")["many_layers"] == [{"layers": "3"}]
    longer = (row for task in ("mmlu", "arc") for row in likely("a", task, *[0.2] * 9))
    others = (s for s in LIKELY.scores if s.model != "a")
    found = said(replace(LIKELY, scores=(*longer, *others)), "base")
    assert found["many_layers"] == [{"layers": "up to 9"}]
    last = tuple(s for s in LIKELY.scores if s.last)
    assert "many_layers" not in said(replace(LIKELY, scores=last), "base")
