"""The board of likelihood tasks, and that they do not touch the embedding board."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from lrd_harness.board import statistics
from lrd_harness.board.leaderboard import Leaderboard, Row, build, layer_table
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.database import (
    ErrorRow,
    MetricRow,
    ModelRow,
    Profile,
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


def base(results: Results) -> Leaderboard:
    board = build(results).base
    assert board is not None
    return board


def row(board: Leaderboard, model: str) -> Row:
    return next(row for row in board.rows if row.info.model == model)


def test_without_likelihood_tasks_there_is_no_board_of_them() -> None:
    board = build(EMBEDDING)
    assert (board.kind, board.base) == ("embedding", None)
    assert board.results is EMBEDDING


def test_likelihood_tasks_leave_the_embedding_board_as_it_is() -> None:
    alone, both = build(EMBEDDING), build(joined(EMBEDDING, LIKELY))
    assert replace(both, base=None) == alone
    assert base(joined(EMBEDDING, LIKELY)) == build(LIKELY)  # and the other way round


def test_the_base_board_ranks_the_models_that_have_such_a_task() -> None:
    board = base(joined(EMBEDDING, LIKELY))
    assert board.kind == "base"
    assert [(r.info.model, r.rank) for r in board.rows] == [("b", 1), ("c", 2), ("a", 3)]
    assert [r.score for r in board.rows] == pytest.approx([0.5, 0.4, 0.3])
    assert {r.info.model: r.predicted["frenet"] for r in board.rows} == {"b": 1, "a": 2, "c": 3}
    assert row(board, "a").values["frenet"] == pytest.approx(45.5)
    # actual order b c a, predicted b a c: rho = 1 - 6 * 2 / (3 * 8) = .5
    rho = next(c for c in board.correlations if c.name == "frenet")
    assert (rho.rho, rho.n) == (pytest.approx(0.5), 3)
    assert [(t.name, t.chance, t.models) for t in board.tasks] == [
        ("mmlu", 0.25, 3),
        ("arc", 0.5, 3),
    ]
    assert all(not r.notes for r in build(joined(EMBEDDING, LIKELY)).rows)


def test_standard_errors_and_chance_by_hand() -> None:
    line = row(build(LIKELY), "a")
    assert (line.best_layer, line.best_score) == (1, pytest.approx(0.4))
    # the last layer's are three times, the middle layer's twice .01 and .02
    assert line.stderr == pytest.approx(math.sqrt(0.03**2 + 0.06**2) / 2)
    assert line.best_stderr == pytest.approx(math.sqrt(0.02**2 + 0.04**2) / 2)
    assert line.chance == pytest.approx(0.375)
    task = line.scores["mmlu"]
    assert (task.last, task.best_layer, task.best) == (0.30, 1, 0.40)
    assert (task.stderr, task.best_stderr, task.chance) == (pytest.approx(0.03), 0.02, 0.25)


@pytest.mark.parametrize("missing", ["stderr", "chance"])
def test_what_one_task_lacks_the_mean_lacks(missing: str) -> None:
    scores = tuple(replace(s, **{missing: None}) if s.task == "arc" else s for s in LIKELY.scores)
    line = row(build(replace(LIKELY, scores=scores)), "b")
    assert getattr(line, missing) is None
    assert getattr(line.scores["mmlu"], missing) is not None
    assert line.score == pytest.approx(0.5)
    none = tuple(replace(s, stderr=None, chance=None) for s in LIKELY.scores)
    board = build(replace(LIKELY, scores=none))
    assert all((r.stderr, r.chance, r.best_stderr) == (None,) * 3 for r in board.rows)
    assert not any("standard error" in n or "by luck" in n for n in board.notes)
    assert not any(r.notes for r in board.rows)


def test_a_board_of_likelihood_tasks_alone_lists_every_model_and_error() -> None:
    bad = ModelRow(model="bad")
    error = ErrorRow(model="bad", error="no such file")
    held = replace(LIKELY, models=(*LIKELY.models, bad), errors=(error,))
    board = build(held)
    assert (board.kind, board.base, board.errors) == ("base", None, (error,))
    assert board.rows[-1].info == bad
    both = build(joined(EMBEDDING, held))
    assert both.base
    assert (both.errors, both.base.errors) == ((error,), ())
    assert bad in [r.info for r in both.rows]
    assert bad not in [r.info for r in both.base.rows]


def test_a_model_that_lacks_a_likelihood_task_is_unranked_there_alone() -> None:
    scores = tuple(s for s in LIKELY.scores if (s.model, s.task) != ("a", "arc"))
    both = build(joined(EMBEDDING, replace(LIKELY, scores=scores)))
    assert both.base
    assert row(both, "a").rank == 1
    line = row(both.base, "a")
    assert (line.rank, line.tasks, line.score) == (None, 1, 0.30)
    assert "lacks arc" in line.notes[0]
    assert line.chance == 0.25  # of the task that it has


def test_old_metrics_follow_the_type_of_their_task() -> None:
    likely = replace(LIKELY, metrics=tuple(replace(m, task_type="") for m in LIKELY.metrics))
    unknown = metric("a", "texts", 5.0, kind="")
    board = build(joined(EMBEDDING, likely, Results(metrics=(unknown,))))
    assert board.base
    assert board.metrics[0].tasks == ("sts", "texts")
    assert board.base.metrics[0].tasks == ("mmlu", "arc")


def test_a_metric_alone_puts_its_task_on_the_base_board() -> None:
    alone = replace(LIKELY, scores=())
    board = base(joined(EMBEDDING, alone))
    assert [r.info.model for r in board.rows] == ["b", "a", "c"]  # by predicted rank
    assert board.tasks == ()
    assert "No task was scored" in board.notes[0]


def test_undefined_rows_go_with_their_task() -> None:
    places = (("a", "unknown"), ("d", "mmlu"))
    lines = [UndefinedRow(model=m, task=t, layer=0, error="same") for m, t in places]
    board = build(joined(EMBEDDING, LIKELY, Results(undefined=tuple(lines))))
    assert board.base
    assert [n for n in board.notes if "no score at" in n] == [
        "a has no score at layer 0 on unknown: same."
    ]
    assert [n for n in board.base.notes if "no score at" in n] == [
        "d has no score at layer 0 on mmlu: same."
    ]
    assert row(board.base, "d").rank is None
    assert build(replace(EMBEDDING, undefined=tuple(lines))).base is None  # of unknown type


def test_only_whole_models_make_a_base_board() -> None:
    pruned = tuple(replace(s, variant="pruned-1") for s in LIKELY.scores)
    assert build(joined(EMBEDDING, Results(scores=pruned))).base is None


def test_labels_are_the_same_on_both_boards() -> None:
    two = [ModelRow(model="m", revision=r) for r in ("one", "two")]
    scores = [replace(s, revision=r) for r in ("one", "two") for s in sts("m", 0.5)]
    scores += [replace(s, revision="two") for s in score("m", "mmlu", 0.3, 0.4)]
    board = build(Results(models=tuple(two), scores=tuple(scores)))
    assert board.base
    assert [r.label for r in board.base.rows] == ["m@two"]


@pytest.mark.parametrize(
    ("last", "guessed"), [(0.25, True), (0.31, True), (0.33, False), (0.19, True), (0.17, False)]
)
def test_a_score_near_chance_is_said_to_be_like_guessing(last: float, guessed: bool) -> None:
    board = build(Results(models=(ModelRow(model="a"),), scores=_one("a", last)))
    assert any("cannot be told from guessing" in n for n in board.rows[0].notes) is guessed


def _one(model: str, last: float) -> tuple[ScoreRow, ...]:
    return tuple(score(model, "mmlu", 0.2, last, stderr=0.0175))  # 2 x .0175 at the last layer


def test_neighbours_that_are_too_close_are_named_and_level_ones_are_not() -> None:
    # 2 standard errors of a difference: 2 * sqrt(2) * .035 = .099
    lasts = {"a": 0.9, "b": 0.82, "c": 0.7, "d": 0.7, "e": 0.62, "f": 0.55, "g": 0.5}
    models = tuple(ModelRow(model=m) for m in lasts)
    scores = tuple(s for m, last in lasts.items() for s in _one(m, last))
    (note,) = [n for n in build(Results(models=models, scores=scores)).notes if "Neighbours" in n]
    assert note.endswith("may be chance: a and b; d and e; e and f; and 1 more pair.")
    far = tuple(s for m, last in (("a", 0.9), ("b", 0.8)) for s in _one(m, last))
    assert not any("Neighbours" in n for n in build(Results(models=models, scores=far)).notes)


def test_the_best_of_many_layers_is_said_to_exceed_chance_by_luck() -> None:
    (note,) = [n for n in build(LIKELY).notes if "by luck" in n]
    assert note.startswith("With 3 layers to choose from")
    longer = (s for task in ("mmlu", "arc") for s in score("a", task, *[0.2] * 9))
    others = (s for s in LIKELY.scores if s.model != "a")
    notes = build(replace(LIKELY, scores=(*longer, *others))).notes
    assert any(n.startswith("With up to 9 layers") for n in notes)
    last = tuple(s for s in LIKELY.scores if s.last)
    assert not any("by luck" in n for n in build(replace(LIKELY, scores=last)).notes)


def test_the_layer_table_averages_embedding_tasks_alone() -> None:
    profile = {"speed": Profile((0, 1), (1.0, 3.0))}
    other = {"speed": Profile((0, 1), (9.0, 9.0)), "bend": Profile((1,), (7.0,))}
    embedding = Results(
        models=EMBEDDING.models[:1],
        scores=tuple(score("a", "sts", 0.8, 0.6, 0.7, kind="STS")),
        metrics=(metric("a", "sts", 1.0, kind="STS", profiles=profile),),
    )
    likely = replace(LIKELY, metrics=(metric("a", "mmlu", 1.0, profiles=other),))
    table = layer_table(joined(embedding, likely), "a")
    assert table.tasks == ("sts", "mmlu", "arc")
    assert table.apart == ("mmlu", "arc")
    assert table.means == (0.8, 0.6, 0.7)
    assert table.scores[2] == (0.7, 0.30, 0.30)
    assert table.profiles["frenet.speed"] == (1.0, 3.0, None)
    assert table.profiles["frenet.bend"] == (None, 7.0, None)
    alone = layer_table(likely, "a")
    assert alone.apart == ()
    assert alone.means == pytest.approx((0.23, 0.40, 0.30))
    assert alone.profiles["frenet.speed"] == (9.0, 9.0, None)


def test_means_over_tasks_need_every_value() -> None:
    assert statistics.mean_of_all([0.25, 0.5]) == 0.375
    assert statistics.mean_stderr([0.03, 0.04]) == pytest.approx(0.025)
    for f in (statistics.mean_of_all, statistics.mean_stderr):
        assert f([0.1, None]) is None
        assert f([0.1, math.nan]) is None
        assert f([]) is None
