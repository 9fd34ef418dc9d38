"""The papers' claims on a run's data: verdicts, numbers and controls against plain formulas."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from choice_rows import likelihood
from rich.cells import cell_len
from scipy import stats

from lrd_harness.board.claims import Claim, layer_claims, mean, middle_gains
from lrd_harness.board.layer_choice import Cell
from lrd_harness.board.leaderboard import build
from lrd_harness.results.database import Key, MetricRow, ModelRow, Profile, Results, ScoreRow

terminal: Any = importlib.import_module("lrd_harness.plugins.reporters._terminal")
plugin: Any = importlib.import_module("lrd_harness.plugins.reporters._claims")
reporters: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
MOST, ALL = "d0L agrees on most tasks", "all three scores agree"
MIDDLE, CHOSEN = "middle layers beat the last", "a label-free layer gains 3 %"
SELECTED = (("frenet", "d0L"), ("nrs", "mean_jaccard"), ("gfmi", "mean_auc"))


def named(claims: Sequence[Claim], name: str) -> Claim:
    (found,) = [claim for claim in claims if claim.name == name]
    return found


# --- selection


def selected(models: int, tasks: int, signs: Mapping[str, float], noise: float = 0.3) -> Results:
    """Models whose metrics go with the score (sign 1), against it (-1) or are noise (0)."""
    generator = np.random.default_rng(3)
    scores, metrics = [], []
    for t in range(tasks):
        good = generator.normal(size=models)
        for i in range(models):
            at: dict[str, Any] = {"model": f"m{i}", "task": f"T{t}", "task_type": "STS"}
            scores.append(ScoreRow(**at, layer=4, layers=4, score=0.5 + good[i] / 20))
            for metric, name in SELECTED:
                if metric not in signs:
                    continue
                value = float(signs[metric] * good[i] + noise * generator.normal())
                own: dict[str, Any] = {"selection": (name, "max"), "values": {name: value}}
                metrics.append(MetricRow(**at, metric=metric, n=20, **own))
    widths = generator.permutation(models)
    rows = [ModelRow(model=f"m{i}", width=64 * (1 + int(w))) for i, w in enumerate(widths)]
    return Results(models=tuple(rows), scores=tuple(scores), metrics=tuple(metrics))


AGREE = {"frenet": 1.0, "nrs": 1.0, "gfmi": 1.0}


def test_scores_that_agree_hold_beside_their_control() -> None:
    board = build(selected(12, 6, AGREE))
    assert board.selection
    rows = {row.name: row for row in board.selection.rows}
    most, together = named(board.claims, MOST), named(board.claims, ALL)
    rho = [task.rho or 0.0 for task in rows["frenet.d0L"].tasks]
    width = [task.rho or 0.0 for task in rows["log width"].tasks]
    assert most.verdict == together.verdict == "holds"
    assert most.value == 100 * sum(r > 0 for r in rho) / 6
    assert (most.n, most.unit) == (6, "% of tasks")
    assert most.p == stats.binomtest(6, 6, 0.5, alternative="greater").pvalue
    assert most.control == "log width"
    assert most.control_value == pytest.approx(100 * sum(r > 0 for r in width) / 6)
    least = min((rows[f"{m}.{s}"] for m, s in SELECTED), key=lambda row: row.rho or 0.0)
    assert (together.value, together.low, together.high) == (
        least.rho,
        least.models_low,
        least.models_high,
    )
    assert together.control_value == rows["log width"].rho
    assert most.ahead is together.ahead is True
    assert "log width" in most.reason


def test_a_score_that_does_not_agree_is_named_so() -> None:
    board = build(selected(12, 6, {**AGREE, "nrs": -1.0}))
    together = named(board.claims, ALL)
    assert named(board.claims, MOST).verdict == "holds"
    assert (together.verdict, together.ahead) == ("does not hold", False)
    assert together.value is not None
    assert together.value < 0
    noise = named(build(selected(12, 6, {**AGREE, "frenet": 0.0})).claims, MOST)
    assert noise.verdict == "does not hold"


@pytest.mark.parametrize(
    ("models", "tasks", "signs", "name", "reason"),
    [
        (9, 6, AGREE, MOST, "9 models a task, a verdict needs 10"),
        (9, 6, AGREE, ALL, "9 models a task, a verdict needs 10"),
        (12, 4, AGREE, MOST, "4 tasks, a verdict needs 5"),
        (12, 1, AGREE, ALL, "1 task, a verdict needs 5"),
        (12, 4, AGREE, ALL, "4 tasks, a verdict needs 5"),
        (12, 6, {"frenet": 1.0, "gfmi": 1.0}, ALL, "nrs.mean_jaccard: not measured on a task"),
        (3, 6, AGREE, MOST, "frenet.d0L: not measured on a task with the scores of 4 models"),
    ],
)
def test_too_little_for_a_verdict_on_selection(
    models: int, tasks: int, signs: Mapping[str, float], name: str, reason: str
) -> None:
    found = named(build(selected(models, tasks, signs)).claims, name)
    assert found.verdict == "not enough data"
    assert reason in found.reason


@pytest.mark.parametrize(
    ("runs", "verdict", "reason"),
    [
        (1, "not enough data", "12 models a task from 1 training run, a verdict needs 10 of these"),
        (9, "not enough data", "12 models a task from 9 training runs, a verdict needs 10 of"),
        (11, "holds", "12 models a task from 11 training runs, all taken as independent"),
        (12, "holds", ""),
    ],
)
def test_checkpoints_of_a_run_are_no_models_of_their_own(
    runs: int, verdict: str, reason: str
) -> None:
    results = selected(12, 6, AGREE)
    name = {f"m{i}": f"m{i}" if i < runs - 1 else f"m{runs}@step{i}" for i in range(12)}
    claims = build(
        Results(
            models=tuple(replace(row, model=name[row.model], width=64) for row in results.models),
            scores=tuple(replace(row, model=name[row.model]) for row in results.scores),
            metrics=tuple(replace(row, model=name[row.model]) for row in results.metrics),
        )
    ).claims
    for claim in (MOST, ALL):
        found = named(claims, claim)
        assert found.verdict == verdict
        assert reason in found.reason
        assert ("training run" in found.reason) is (runs < 12)


def test_an_interval_over_tasks_does_not_stand_for_one_over_models() -> None:
    """Where one task has 4 models, no interval over models can be drawn of all."""
    results = selected(12, 6, AGREE)
    few = tuple(s for s in results.scores if s.task != "T5" or int(s.model[1:]) < 4)
    board = build(replace(results, scores=few))
    assert board.selection
    (row,) = [row for row in board.selection.rows if row.name == "frenet.d0L"]
    assert row.low is not None
    assert row.models_low is None
    found = named(board.claims, MOST)
    assert found.verdict == "not enough data"
    assert found.reason.endswith("no interval can be drawn")
    assert "over tasks" not in found.reason


# --- layers


def curves(models: int, tasks: int, bump: float, seed: int = 0, blocks: int = 8) -> Results:
    """Scores that are `bump` higher at layer 4 than at the last; a metric is lowest there."""
    generator = np.random.default_rng(seed)
    scores, metrics = [], []
    for i in range(models):
        for t in range(tasks):
            at: dict[str, Any] = {"model": f"m{i}", "task": f"T{t}", "task_type": "STS"}
            values = 0.4 + 0.02 * generator.normal(size=blocks + 1)
            values[4] = values[blocks] + bump + 0.01 * generator.normal()
            scores += [
                ScoreRow(**at, layer=layer, layers=blocks, score=float(v))
                for layer, v in enumerate(values)
            ]
            held = Profile(tuple(range(blocks + 1)), tuple(abs(k - 4.0) for k in range(blocks + 1)))
            own: dict[str, Any] = {"profiles": {"m": held}, "layer_choice": ("m", "min")}
            metrics.append(MetricRow(**at, metric="m", n=20, **own))
    rows = tuple(ModelRow(model=f"m{i}", blocks=blocks) for i in range(models))
    return Results(models=rows, scores=tuple(scores), metrics=tuple(metrics))


@pytest.mark.parametrize(
    ("bump", "middle", "chosen"),
    [
        (0.013, "holds", "holds"),  # 3.25 % of .4
        (0.1, "holds", "holds"),
        (0.006, "does not hold", "does not hold"),  # a gain, but less than 3 %
        (-0.1, "does not hold", "does not hold"),
    ],
)
def test_gains_that_hold_and_gains_that_do_not(bump: float, middle: str, chosen: str) -> None:
    results = curves(6, 20, bump)
    claims = build(results).claims
    found = named(claims, CHOSEN)
    score = {(s.model, s.task, s.layer): s.score for s in results.scores}
    pairs = list(dict.fromkeys((s.model, s.task) for s in results.scores))
    gains = np.array([score[(*pair, 4)] - score[(*pair, 8)] for pair in pairs])
    last = np.array([score[(*pair, 8)] for pair in pairs])
    ratio = gains.sum() / last.sum()
    rest = (gains - ratio * last).reshape(6, 20).sum(axis=1)  # by model
    error = np.sqrt(6 / 5 * np.sum(rest**2)) / 120 / last.mean()
    reach = stats.t.ppf(0.975, 5) * error
    assert found.value == pytest.approx(100 * ratio)
    assert (found.low, found.high) == pytest.approx((100 * (ratio - reach), 100 * (ratio + reach)))
    assert (found.verdict, found.n) == (chosen, 120)
    assert named(claims, MIDDLE).verdict == middle
    if bump == 0.1:
        assert (found.control, found.ahead) == ("depth 0.5", False)  # which is layer 4 as well
        assert found.control_value == pytest.approx(found.value)
        assert found.reason.endswith("; but depth 0.5 may do as well")
        assert named(claims, MIDDLE).ahead is True


def test_the_middle_layer_is_chosen_on_the_other_tasks() -> None:
    generator = np.random.default_rng(1)
    table = generator.integers(0, 4, size=(5, 9)) / 8  # with ties
    cells = [
        Cell(Key("a", "", "full"), f"T{t}", 8, dict(enumerate(map(float, line))))
        for t, line in enumerate(table)
    ]
    for t, (cell, honest, oracle) in enumerate(middle_gains(cells)):
        others = np.delete(table, t, axis=0).sum(axis=0)[2:7]  # depths .25 to .75
        layer = 2 + int(np.argmax(others))  # the lower of ties
        assert cell is cells[t]
        assert honest == pytest.approx(table[t, layer] - table[t, 8])
        assert oracle == pytest.approx(table[t, 2:7].max() - table[t, 8])
    assert middle_gains(cells[:1]) == []
    ends = [replace(cell, scores={0: 0.1, 8: 0.2}) for cell in cells]
    assert middle_gains(ends) == []


def test_checkpoints_of_one_run_are_one_in_an_interval() -> None:
    key = Key("run", "", "full")
    cells = [Cell(Key(f"s{i}", "", "full"), "t", 2, {1: 0.1, 2: 0.1}, key) for i in range(4)]
    assert mean(cells, [1.0, 2, 3, 4]) == (2.5, None, None, 4, 1)
    free = [replace(cell, checkpoint_of=None) for cell in cells]
    held = mean(free, [1.0, 2, 3, 4])
    interval = stats.t.interval(0.95, 3, loc=2.5, scale=stats.sem([1, 2, 3, 4]))
    assert (held.low, held.high) == pytest.approx(interval)
    together = mean(free, [1.0, 2, 3, 4], tests=4)
    reach = stats.t.ppf(1 - 0.05 / 8, 3) * stats.sem([1, 2, 3, 4])
    assert (together.low, together.high) == pytest.approx((2.5 - reach, 2.5 + reach))


@pytest.mark.parametrize(
    ("results", "name", "reason"),
    [
        (curves(4, 20, 0.1), MIDDLE, "of 4 training runs, a verdict needs 30 of 5"),
        (curves(6, 4, 0.1), CHOSEN, "24 model-task pairs of 6 training runs"),
        (curves(6, 1, 0.1), MIDDLE, "no model has two tasks"),
        (replace(curves(6, 6, 0.1), metrics=()), CHOSEN, "no metric that chooses a layer"),
        (selected(12, 6, AGREE), MIDDLE, "only last layers were scored"),
        (selected(12, 6, AGREE), CHOSEN, "only last layers were scored"),
    ],
)
def test_too_little_for_a_verdict_on_layers(results: Results, name: str, reason: str) -> None:
    found = named(build(results).claims, name)
    assert (found.verdict, found.ahead) == ("not enough data", None)
    assert reason in found.reason


def test_no_choice_is_no_data() -> None:
    assert [claim.value for claim in layer_claims(None, Results())] == [None, None]


# --- what is shown


def test_a_table_of_80_columns_and_json_show_every_claim() -> None:
    board = build(curves(6, 6, 0.1))
    lines = terminal.text(terminal.renderable(board, 80), 80).splitlines()
    assert max(map(cell_len, lines)) <= 80
    at = lines.index("The papers' claims on this run")
    shown = "\n".join(lines[at:])
    assert len(board.claims) == 7
    for claim in board.claims:
        assert claim.name.split(",")[0].split()[0] in shown
        assert claim.verdict in shown
    document = json.loads(reporters.as_json(board))["claims"]
    assert [Claim(**one) for one in document] == list(board.claims)


@pytest.mark.parametrize(
    ("n", "of", "cell"),
    [(1, "tasks", "1 task"), (1, "pairs", "1 pair"), (2, "models", "2 models"), (0, "tasks", "-")],
)
def test_how_many_cases_is_said_in_words(n: int, of: str, cell: str) -> None:
    claim = replace(build(selected(12, 6, AGREE)).claims[0], n=n, of=of)
    (sheet,) = plugin.claim_sheets(replace(build(Results()), claims=(claim,)))
    (column,) = [column for column in sheet.columns if column.heading == ("n",)]
    assert column.cells == (cell,)


def test_a_board_without_a_number_has_no_sheet() -> None:
    held = likelihood()
    last = replace(held, scores=tuple(s for s in held.scores if s.last), metrics=())
    board = build(last)
    assert all(claim.value is None and claim.reason for claim in board.claims)
    assert "papers' claims" not in terminal.text(terminal.renderable(board, 80), 80)
