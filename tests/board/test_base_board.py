"""The board of likelihood tasks, and that they do not touch the embedding board."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from selection_panels import by

from lrd_harness.board.leaderboard import Board, report
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.rows import (
    ErrorRow,
    MetricRow,
    ModelRow,
    Results,
    ScoreRow,
    UndefinedRow,
)


def score(
    model: str,
    task: str,
    *by_layer: float,
    stderr: float | None = 0.01,
    chance: float | None = 0.25,
    kind: str = LIKELIHOOD,
) -> list[ScoreRow]:
    """A score a layer; the standard error grows by layer: stderr, 2 stderr, ..."""
    return [
        ScoreRow(
            model=model,
            task=task,
            task_type=kind,
            layer=layer,
            layers=len(by_layer) - 1,
            score_name="acc",
            score=value,
            stderr=None if stderr is None else stderr * (layer + 1),
            chance=chance,
        )
        for layer, value in enumerate(by_layer)
    ]


def metric(model: str, task: str, value: float, kind: str = LIKELIHOOD, **f: Any) -> MetricRow:
    given: dict[str, Any] = {"metric": "frenet", "n": 20, "selection": ("d0L", "max")} | f
    return MetricRow(model=model, task=task, task_type=kind, values={"d0L": value}, **given)


def sts(model: str, value: float) -> list[ScoreRow]:
    return score(model, "sts", value, stderr=None, chance=None, kind="STS")


EMBEDDING = Results(
    models=tuple(ModelRow(model=m, parameters=10, blocks=2, width=4) for m in "abcd"),
    scores=tuple(s for i, m in enumerate("abcd") for s in sts(m, 0.8 - i / 10)),
    metrics=tuple(metric(m, "sts", i, kind="STS") for i, m in enumerate("abcd")),
)
# Of a, b and c; means of the last layer: a .3, b .5, c .4.
LIKELY = Results(
    models=EMBEDDING.models[:3],
    scores=(
        *score("a", "mmlu", 0.26, 0.40, 0.30),
        *score("b", "mmlu", 0.25, 0.35, 0.60),
        *score("c", "mmlu", 0.20, 0.30, 0.35),
        *score("a", "arc", 0.20, 0.40, 0.30, stderr=0.02, chance=0.5),
        *score("b", "arc", 0.25, 0.35, 0.40, stderr=0.02, chance=0.5),
        *score("c", "arc", 0.20, 0.30, 0.45, stderr=0.02, chance=0.5),
    ),
    metrics=tuple(
        metric(m, task, value)
        # ranks on mmlu: a 1, b 2, c 3, on arc: a 3, b 1, c 2; means a 2, b 1.5, c 2.5
        for task, values in {"mmlu": (90.0, 2, 1), "arc": (1.0, 3, 2)}.items()
        for m, value in zip("abc", values, strict=True)
    ),
)


def joined(*parts: Results) -> Results:
    return Results(
        models=tuple({row.key: row for part in parts for row in part.models}.values()),
        scores=tuple(row for part in parts for row in part.scores),
        metrics=tuple(row for part in parts for row in part.metrics),
        errors=tuple(row for part in parts for row in part.errors),
        undefined=tuple(row for part in parts for row in part.undefined),
    )


def codes(results: Results) -> dict[str, Any]:
    """Code -> numbers of the last such caution on a board of likelihood tasks."""
    return dict(Board(results, "base", Counter()).all_cautions)


def lines(results: Results, name: str = "ranking") -> dict[Any, Any]:
    return by(report(results), name, "model")


BOTH = joined(EMBEDDING, LIKELY)


def test_likelihood_tasks_leave_the_embedding_board_as_it_is() -> None:
    both, embedding, likely = report(BOTH), report(EMBEDDING), report(LIKELY)
    once = ("models", "layers", "checkpoints", "values", "errors", "model_info")
    for alone, prefix in ((embedding, ""), (likely, "base.")):
        for table in alone.tables:
            if table.name not in once and not table.name.startswith("pruning"):
                found = both.table(f"{prefix}{table.name}")
                assert list(found.rows) == list(table.rows), table.name
    assert both.facts["base"]["combined"] == likely.facts["combined"]
    assert set(embedding.notes) <= set(both.notes)
    assert {f"Base models: {note}" for note in likely.notes} <= set(both.notes)


def test_the_base_board_ranks_the_models_that_have_such_a_task() -> None:
    found = report(BOTH)
    rows = found.table("base.ranking").rows
    assert [(r["model"], r["rank"]) for r in rows] == [("b", 1), ("c", 2), ("a", 3)]
    assert [r["score"] for r in rows] == pytest.approx([0.5, 0.4, 0.3])
    assert {r["model"]: r["predicted.frenet"] for r in rows} == {"b": 1, "a": 2, "c": 3}
    assert by(found, "base.ranking", "model")["a"]["frenet.d0L"] == pytest.approx(45.5)
    # actual order b c a, predicted b a c: rho = 1 - 6 * 2 / (3 * 8) = .5
    rho = by(found, "base.correlations")["frenet"]
    assert (rho["rho"], rho["n"]) == (pytest.approx(0.5), 3)
    tasks = found.table("base.tasks").rows
    assert [(t["task"], t["chance"], t["models"]) for t in tasks] == [
        ("mmlu", 0.25, 3),
        ("arc", 0.5, 3),
    ]
    assert found.table("models").column("notes") == [""] * 4


def test_the_wide_table_has_both_boards() -> None:
    found = lines(BOTH, "models")
    assert found["a"]["rank"] == 1
    assert (found["b"]["base.rank"], found["b"]["base.best_layer"]) == (1, 2)
    assert found["b"]["base.stderr"] == pytest.approx(math.sqrt(0.03**2 + 0.06**2) / 2)
    assert found["c"]["score.arc"] == 0.45
    assert found["d"].get("base.rank") is None  # without such a task
    columns = [column.name for column in report(BOTH).table("models").columns]
    assert columns.index("notes") < columns.index("base.rank")
    assert columns[-1] == "base.notes"
    assert "stderr.sts" not in columns


def test_standard_errors_and_chance_by_hand() -> None:
    line, task = lines(LIKELY)["a"], lines(LIKELY, "scores")["a"]
    assert (line["best_layer"], line["best_score"]) == (1, pytest.approx(0.4))
    # the last layer's are three times, the middle layer's twice .01 and .02
    assert line["stderr"] == pytest.approx(math.sqrt(0.03**2 + 0.06**2) / 2)
    assert line["best_stderr"] == pytest.approx(math.sqrt(0.02**2 + 0.04**2) / 2)
    assert line["chance"] == pytest.approx(0.375)
    best = task["score.mmlu"], task["best_layer.mmlu"], task["best_score.mmlu"]
    assert best == (0.30, 1, 0.40)
    assert (task["stderr.mmlu"], task["chance.mmlu"]) == (pytest.approx(0.03), 0.25)


@pytest.mark.parametrize("missing", ["stderr", "chance"])
def test_what_one_task_lacks_the_mean_lacks(missing: str) -> None:
    scores = tuple(replace(s, **{missing: None}) if s.task == "arc" else s for s in LIKELY.scores)
    results = replace(LIKELY, scores=scores)
    line = lines(results)["b"]
    assert line[missing] is None
    assert lines(results, "scores")["b"][f"{missing}.mmlu"] is not None
    assert line["score"] == pytest.approx(0.5)


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


def test_a_model_that_lacks_a_likelihood_task_is_unranked_there_alone() -> None:
    scores = tuple(s for s in LIKELY.scores if (s.model, s.task) != ("a", "arc"))
    results = replace(LIKELY, scores=scores)
    found = report(joined(EMBEDDING, results))
    assert by(found, "ranking", "model")["a"]["rank"] == 1
    line = by(found, "base.ranking", "model")["a"]
    assert (line["rank"], line["tasks"], line["score"]) == (None, 1, 0.30)
    assert line["chance"] == 0.25  # of the task that it has
    assert codes(results)["lacks_tasks"]["tasks"] == "arc"


def test_undefined_rows_go_with_their_task() -> None:
    places = (("a", "unknown"), ("d", "mmlu"))
    gaps = tuple(UndefinedRow(model=m, task=t, layer=0, error="same") for m, t in places)
    found = report(joined(EMBEDDING, LIKELY, Results(undefined=gaps)))
    assert [note for note in found.notes if "no score at" in note] == [
        "a has no score at layer 0 on unknown: same.",
        "Base models: d has no score at layer 0 on mmlu: same.",
    ]
    assert by(found, "base.ranking", "model")["d"]["rank"] is None
    alone = report(replace(EMBEDDING, undefined=gaps))  # of unknown type
    assert "base" not in alone.facts


def _one(model: str, last: float) -> tuple[ScoreRow, ...]:
    return tuple(score(model, "mmlu", 0.2, last, stderr=0.0175))  # 2 x .0175 at the last layer


@pytest.mark.parametrize(
    ("last", "guessed"), [(0.25, True), (0.31, True), (0.33, False), (0.19, True), (0.17, False)]
)
def test_a_score_near_chance_is_said_to_be_like_guessing(last: float, guessed: bool) -> None:
    found = codes(Results(models=(ModelRow(model="a"),), scores=_one("a", last)))
    assert ("guessing" in found) is guessed


def test_neighbours_that_are_too_close_are_named_and_level_ones_are_not() -> None:
    # 2 standard errors of a difference: 2 * sqrt(2) * .035 = .099
    lasts = {"a": 0.9, "b": 0.82, "c": 0.7, "d": 0.7, "e": 0.62, "f": 0.55, "g": 0.5}
    models = tuple(ModelRow(model=m) for m in lasts)
    scores = tuple(s for m, last in lasts.items() for s in _one(m, last))
    found = codes(Results(models=models, scores=scores))
    assert found["level"]["pairs"] == "a and b; d and e; e and f; and 1 more pair"
    far = tuple(s for m, last in (("a", 0.9), ("b", 0.8)) for s in _one(m, last))
    assert "level" not in codes(Results(models=models, scores=far))


def test_the_best_of_many_layers_is_said_to_exceed_chance_by_luck() -> None:
    assert codes(LIKELY)["many_layers"] == {"layers": "3"}
    longer = (s for task in ("mmlu", "arc") for s in score("a", task, *[0.2] * 9))
    others = (s for s in LIKELY.scores if s.model != "a")
    found = codes(replace(LIKELY, scores=(*longer, *others)))
    assert found["many_layers"] == {"layers": "up to 9"}
    last = tuple(s for s in LIKELY.scores if s.last)
    assert "many_layers" not in codes(replace(LIKELY, scores=last))
