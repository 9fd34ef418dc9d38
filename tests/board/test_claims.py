"""The papers' claims on a run's data: verdicts, numbers and controls against plain formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from choice_rows import likelihood, metric
from pruning_rows import SWEEP, both_sides
from scipy import stats

from lrd_harness.board.claims import claim_table, layer_claims, middle_gains, pruning_claims
from lrd_harness.board.layers import Row
from lrd_harness.board.leaderboard import report
from lrd_harness.board.pruned import PrunedRow, Run
from lrd_harness.board.random_removal import contest
from lrd_harness.results.rows import Key, MetricRow, ModelRow, Results, ScoreRow

MOST, ALL = "d0L agrees on most tasks", "all three scores agree"
MIDDLE, CHOSEN = "middle layers beat the last", "a label-free layer gains 3 %"
HEAVY, LIGHT = "gfmi beats random, 15 %", "frenet beats random only lightly"
SELECTED = (("frenet", "d0L"), ("nrs", "mean_jaccard"), ("gfmi", "mean_auc"))


def named(claims: Sequence[Row], name: str) -> Any:
    (claim,) = [claim for claim in claims if claim["predictor"] == name]
    return claim


def claim(results: Results, name: str) -> Any:
    return named(report(results).table("claim").rows, name)


def selected(models: int, tasks: int, signs: Mapping[str, float], noise: float = 0.3) -> Results:
    """Models whose metrics go with the score (sign 1), against it (-1) or are noise (0)."""
    generator = np.random.default_rng(3)
    scores, metrics = [], []
    for t in range(tasks):
        good = generator.normal(size=models)
        for i in range(models):
            at: dict[str, Any] = {"model": f"m{i}", "task": f"T{t}", "task_type": "STS"}
            scores.append(ScoreRow(**at, layer=4, layers=4, score=0.5 + good[i] / 20))
            for name, score in SELECTED:
                if name in signs:
                    value = float(signs[name] * good[i] + noise * generator.normal())
                    of: dict[str, Any] = {"selection": (score, "max"), "values": {score: value}}
                    metrics.append(MetricRow(**at, metric=name, n=20, **of))
    widths = generator.permutation(models)
    rows = [ModelRow(model=f"m{i}", width=64 * (1 + int(w))) for i, w in enumerate(widths)]
    return Results(models=tuple(rows), scores=tuple(scores), metrics=tuple(metrics))


AGREE = {"frenet": 1.0, "nrs": 1.0, "gfmi": 1.0}


def test_scores_that_agree_hold_beside_their_control() -> None:
    board = report(selected(12, 6, AGREE))
    rows = {row["predictor"]: row for row in board.table("agreement").rows}
    claims, tasks = board.table("claim").rows, board.table("agreement_tasks").rows
    most, together = named(claims, MOST), named(claims, ALL)
    rho = [row["rho"] for row in tasks if row["predictor"] == "frenet.d0L"]
    width = [row["rho"] for row in tasks if row["predictor"] == "log width"]
    assert most["verdict"] == together["verdict"] == "holds"
    assert most["value"] == 100 * sum(r > 0 for r in rho) / 6
    assert (most["n"], most["cases"], most["unit"]) == (6, "6 tasks", "% of tasks")
    assert most["p"] == stats.binomtest(6, 6, 0.5, alternative="greater").pvalue
    assert most["control"] == "log width"
    assert most["control_value"] == pytest.approx(100 * sum(r > 0 for r in width) / 6)
    least = min((rows[f"{m}.{s}"] for m, s in SELECTED), key=lambda row: row["rho"])
    assert [together[n] for n in ("value", "low", "high")] == [
        least[n] for n in ("rho", "models_low", "models_high")
    ]
    assert together["control_value"] == rows["log width"]["rho"]
    assert most["ahead"] is together["ahead"] is True
    assert "log width" in most["reason"]


@pytest.mark.parametrize(
    ("models", "tasks", "signs", "name", "reason"),
    [
        (9, 6, AGREE, ALL, "9 models per task, a verdict needs 10"),
        (12, 1, AGREE, ALL, "1 task, a verdict needs 5"),
        (12, 4, AGREE, MOST, "4 tasks, a verdict needs 5"),
        (12, 6, {"frenet": 1.0, "gfmi": 1.0}, ALL, "nrs.mean_jaccard: not measured on a task"),
        (3, 6, AGREE, MOST, "frenet.d0L: not measured on a task with the scores of 4 models"),
    ],
)
def test_too_little_for_a_verdict_on_selection(
    models: int, tasks: int, signs: Mapping[str, float], name: str, reason: str
) -> None:
    row = claim(selected(models, tasks, signs), name)
    assert row["verdict"] == "not enough data"
    assert reason in row["reason"]


@pytest.mark.parametrize(
    ("runs", "verdict", "reason"),
    [
        (1, "not enough data", "12 models per task from 1 training run, a verdict needs 10 of"),
        (9, "not enough data", "12 models per task from 9 training runs, a verdict needs 10 of"),
        (11, "holds", "12 models per task from 11 training runs, all taken as independent"),
    ],
)
def test_checkpoints_of_a_run_are_no_models_of_their_own(
    runs: int, verdict: str, reason: str
) -> None:
    results = selected(12, 6, AGREE)
    name = {f"m{i}": f"m{i}" if i < runs - 1 else f"m{runs}@step{i}" for i in range(12)}
    renamed = Results(
        models=tuple(replace(row, model=name[row.model], width=64) for row in results.models),
        scores=tuple(replace(row, model=name[row.model]) for row in results.scores),
        metrics=tuple(replace(row, model=name[row.model]) for row in results.metrics),
    )
    claims = report(renamed).table("claim").rows
    for row in (named(claims, MOST), named(claims, ALL)):
        assert row["verdict"] == verdict
        assert reason in row["reason"]


def test_an_interval_over_tasks_does_not_stand_for_one_over_models() -> None:
    """Where one task has 4 models, no interval over models can be drawn of all."""
    results = selected(12, 6, AGREE)
    few = tuple(s for s in results.scores if s.task != "T5" or int(s.model[1:]) < 4)
    row = claim(replace(results, scores=few), MOST)
    assert row["verdict"] == "not enough data"
    assert row["reason"].endswith("no interval can be drawn")


def curves(models: int, tasks: int, bump: float, blocks: int = 8) -> Results:
    """Scores that are `bump` higher at layer 4 than at the last; a metric is lowest there."""
    generator = np.random.default_rng(0)
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
            profile = [abs(k - 4.0) for k in range(blocks + 1)]
            metrics.append(metric("m", f"T{t}", profile, f"m{i}", layer_choice=("m", "min")))
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
    claims = report(results).table("claim").rows
    row = named(claims, CHOSEN)
    scores = np.array([s.score for s in results.scores]).reshape(-1, 9)  # (models x tasks, layers)
    gains, last = scores[:, 4] - scores[:, 8], scores[:, 8]
    ratio = gains.sum() / last.sum()
    rest = (gains - ratio * last).reshape(6, 20).sum(axis=1)  # by model
    reach = stats.t.ppf(0.975, 5) * np.sqrt(6 / 5 * np.sum(rest**2)) / 120 / last.mean()
    expected = 100 * ratio, 100 * (ratio - reach), 100 * (ratio + reach)
    assert (row["value"], row["low"], row["high"]) == pytest.approx(expected)
    assert (row["verdict"], row["n"]) == (chosen, 120)
    assert named(claims, MIDDLE)["verdict"] == middle
    if bump == 0.1:
        assert (row["control"], row["ahead"]) == ("depth 0.5", False)  # which is layer 4 as well
        assert row["control_value"] == pytest.approx(row["value"])
        assert row["reason"].endswith("; but depth 0.5 may do as well")
        assert named(claims, MIDDLE)["ahead"] is True


def test_the_middle_layer_is_chosen_on_the_other_tasks() -> None:
    table = np.random.default_rng(1).integers(0, 4, size=(9, 5)) / 8  # layers x tasks, with ties
    gains = middle_gains(pd.DataFrame(table))
    for t in range(5):
        others = np.delete(table, t, axis=1).sum(axis=1)[2:7]  # depths .25 to .75
        layer = 2 + int(np.argmax(others))  # the lower of ties
        assert gains.honest[t] == pytest.approx(table[layer, t] - table[8, t])
        assert gains.oracle[t] == pytest.approx(table[2:7, t].max() - table[8, t])
    assert middle_gains(pd.DataFrame(table).loc[[0, 8]]).empty


@pytest.mark.parametrize(
    ("results", "name", "reason"),
    [
        (curves(4, 20, 0.1), MIDDLE, "of 4 training runs, a verdict needs 30 of 5"),
        (curves(6, 4, 0.1), CHOSEN, "24 model-task pairs of 6 training runs"),
        (curves(6, 1, 0.1), MIDDLE, "no model has two tasks"),
        (replace(curves(6, 6, 0.1), metrics=()), CHOSEN, "no metric that chooses a layer"),
        (selected(12, 6, AGREE), MIDDLE, "only last layers were scored"),
    ],
    ids=range(5),
)
def test_too_little_for_a_verdict_on_layers(results: Results, name: str, reason: str) -> None:
    row = claim(results, name)
    assert (row["verdict"], row["ahead"]) == ("not enough data", None)
    assert reason in row["reason"]


def pruned(
    rule: str, changes: Sequence[float], model: str, blocks: int = 24, budget: float = 0.15,
    removed: int = 3,
) -> PrunedRow:  # fmt: skip
    """A rule, or random with a change per seed, on one task."""
    seeds = range(len(changes)) if rule == "random" else [None]
    pairs = zip(seeds, changes, strict=True)
    runs = [Run(seed, f"{rule} {seed}", (1,), change, None, None) for seed, change in pairs]
    line = {"model": model, "revision": "", "kind": "embedding", "rule": rule, "budget": budget}
    line |= {"blocks": blocks, "removed": removed, "change": float(np.median(changes))}
    return PrunedRow(model, line, tuple(runs), ("t",), (), {})


def sweep(rule: str, change: float, models: int = 6, depths: int = 3, **at: Any) -> list[PrunedRow]:
    """Models of several depths; random loses 10, 12 and 14 % of each."""
    rows = []
    for i in range(models):
        where = {"model": f"m{i}", "blocks": 12 * (1 + i % depths), **at}
        rows += [pruned("random", [-10.0, -12.0, -14.0], **where), pruned(rule, [change], **where)]
    return rows


def test_the_rank_among_random_seeds_is_counted_exactly() -> None:
    rows = [
        *(pruned("random", [-5.0, -1.0, -3.0], m, b) for m, b in (("a", 6), ("b", 6), ("c", 12))),
        pruned("gfmi", [-2.0], "a", 6),
        pruned("gfmi", [-3.0], "b", 6),  # with a -2.5: better than two seeds
        pruned("gfmi", [-3.0], "c", 12),  # better than one, level with another
    ]
    ranked = contest(rows, "gfmi", 0.15, {})
    assert ranked
    assert (ranked.change, ranked.random) == pytest.approx((-8 / 3, -3))
    assert (ranked.low, ranked.high, ranked.seeds, ranked.models, ranked.runs) == (-5, -1, 3, 3, 3)
    sums = np.array([sum(draw) for draw in product(range(4), repeat=2)])
    assert (ranked.p, ranked.least) == pytest.approx((np.mean(sums >= 2 + 1), 1 / 16))
    of_one = {Key(model, "", "full"): Key("a", "", "full") for model in "bc"}
    together = contest(rows, "gfmi", 0.15, of_one)
    assert together is not None
    assert together.runs == 1

    # what is not on the same tasks, or not there, is not compared; seeds are those of all models
    row, drawn = rows[3], rows[0]
    assert contest([row, drawn], "gfmi", 0.15, {})
    assert contest([row, drawn._replace(tasks=("t", "u"))], "gfmi", 0.15, {}) is None
    assert contest([row], "gfmi", 0.15, {}) is None
    assert contest([row, drawn], "gfmi", 0.20, {}) is None
    other = [pruned("random", [-2.0], "b"), pruned("gfmi", [-1.0], "b")]
    both = contest([row, drawn, *other], "gfmi", 0.15, {})
    assert both
    assert both.seeds == 1


def budgets(light: float, heavy: float, removed: int = 4, **more: Any) -> list[PrunedRow]:
    return [
        *sweep("frenet", light, budget=0.10, removed=2, **more),
        *sweep("frenet", heavy, budget=0.15, removed=removed, **more),
    ]


@pytest.mark.parametrize(
    ("name", "rows", "verdict", "reason"),
    [
        (HEAVY, sweep("gfmi", -5.0), "holds", "-5.0 % against random's -12.0 %"),
        (HEAVY, sweep("gfmi", -11.0), "does not hold", "p ="),
        (HEAVY, sweep("gfmi", -20.0), "does not hold", "p = 1"),
        (HEAVY, sweep("gfmi", -5.0, models=4), "not enough data", "4 training runs"),
        (HEAVY, sweep("gfmi", -5.0, depths=1), "not enough data", "3 random seeds cannot give"),
        (HEAVY, [], "not enough data", "no model was pruned by gfmi and at random at 15 %"),
        (LIGHT, budgets(-5, -20), "holds", "15 %: -20.0 % against random's -12.0 %"),
        (LIGHT, budgets(-5, -5), "does not hold", "10 %: -5.0 %"),
        (LIGHT, budgets(-20, -20), "does not hold", "10 %: -20.0 %"),
        (LIGHT, budgets(-5, -20, removed=2), "not enough data", "no heavier budget that removes"),
        (LIGHT, budgets(-5, -20)[:12], "not enough data", "no heavier budget that removes more"),
        (LIGHT, budgets(-5, -20, models=4), "not enough data", "a verdict needs 5"),
        (LIGHT, [], "not enough data", "no model was pruned by frenet"),
    ],
    ids=range(13),
)
def test_rules_against_random(name: str, rows: list[PrunedRow], verdict: str, reason: str) -> None:
    row = named(pruning_claims(rows, {}), name)
    assert row["verdict"] == verdict
    assert reason in row["reason"]
    assert row["control_value"] == (pytest.approx(-12) if rows else None)


def test_each_board_has_the_pruning_of_its_own_tasks() -> None:
    board = report(both_sides())
    assert named(board.table("claim").rows, LIGHT)["value"] == pytest.approx(-25)
    assert named(board.table("base.claim").rows, LIGHT)["value"] is None  # random has none there
    assert claim(SWEEP, LIGHT)["reason"].endswith("is there to compare")


def test_every_claim_says_why_and_a_table_without_a_verdict_is_not_shown() -> None:
    board = report(curves(6, 6, 0.1)).table("claim")
    assert (len(board.rows), board.shown) == (7, True)
    with_number = [row for row in board.rows if row["value"] is not None]
    assert 0 < len(with_number) < len(board.rows)
    for row, sentence in zip(with_number, board.caption[2:], strict=True):
        assert row["reason"] in sentence
    empty = layer_claims(None)
    assert [row["value"] for row in empty] == [None, None]
    assert not claim_table(empty).shown
    last = tuple(s for s in likelihood().scores if s.last)
    assert not report(replace(likelihood(), scores=last, metrics=())).table("claim").shown
    without_verdict = [{**empty[0], "value": 1.0}]
    assert not claim_table(without_verdict).shown
    assert claim_table([*empty, {**without_verdict[0], "verdict": "holds"}]).shown
