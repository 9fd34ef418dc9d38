"""Predictors judged task by task: numbers against scipy, verdicts on metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from selection_panels import WIDTHS, Metrics, Values, by, grid, of_size, panel

from lrd_harness.board import cautions as wording
from lrd_harness.board import panel as panels
from lrd_harness.board import statistics
from lrd_harness.board.agreement import (
    Agreement,
    Rival,
    Selection,
    build_selection,
)
from lrd_harness.board.leaderboard import report
from lrd_harness.board.size_controls import partial_p, partial_rho
from lrd_harness.board.verdicts import agreement_cautions, verdict
from lrd_harness.results.rows import ModelRow, Results


def selected(results: Results) -> Selection:
    selection = build_selection(panels.build_panel(results))
    assert selection is not None
    return selection


def of_my(results: Results) -> Agreement:
    return next(row for row in selected(results).rows if row.name == "my.s")


def cautions(results: Results) -> dict[str, Any]:
    """Metric -> code and numbers of its verdict; the other cautions by their code."""
    return {
        numbers.get("name", code): (code, numbers)
        for code, numbers in agreement_cautions(selected(results))
    }


def my(values: Values) -> Metrics:
    return {("my", "s", "max"): values}


def test_every_number_against_scipy_with_ties_and_holes() -> None:
    generator = np.random.default_rng(1)
    kept = generator.random((12, 6)) < 0.8
    scores = {at: v for at, v in of_size(12, 6, 2, 1).items() if kept[at]}
    values = {at: float(generator.integers(0, 6)) for at in scores if generator.random() < 0.9}
    board = report(panel(12, scores, {("my", "s", "min"): values}))
    row = by(board, "agreement")["my.s"]
    tasks = [task for task in board.table("agreement_tasks").rows if task["predictor"] == "my.s"]
    assert (row["kind"], row["best"]) == ("metric", "min")
    for task in tasks:
        t = int(task["task"][1:])
        both = [i for i in range(12) if (i, t) in values]
        x, y = ([-values[i, t] for i in both], [scores[i, t] for i in both])
        size = [(7 * i) % 12 for i in both]
        top = [b for a, b in zip(x, y, strict=True) if a == max(x)]
        expected = {
            "n": len(both),
            "rho": scipy_stats.spearmanr(x, y).statistic,
            "tau": scipy_stats.kendalltau(x, y).statistic,
            "p": statistics.permutation_p(x, y),
            "partial.log parameters": partial_rho(x, y, size),
            "partial_p.log parameters": partial_p(x, y, size),
            "regret": max(y) - np.mean(top),
            "regret_random": max(y) - np.mean(y),
            "regret_largest": max(y) - y[int(np.argmax(size))],
        }
        assert {name: task[name] for name in expected} == pytest.approx(expected)
    ps = sorted(task["p"] for task in tasks)
    adjusted = np.maximum.accumulate([min(1, (len(ps) - k) * p) for k, p in enumerate(ps)])
    assert sorted(task["p_holm"] for task in tasks) == pytest.approx(adjusted.tolist())
    for name in ("rho", "tau", "partial.log parameters"):
        assert row[name] == np.median([task[name] for task in tasks])
    assert row["significant"] == sum(task["p"] < 0.05 for task in tasks)
    assert row["significant_share"] == f"{row['significant']}/{len(tasks)}"
    assert row["holm"] == sum(task["p_holm"] < 0.05 for task in tasks)
    assert row["regret"] == pytest.approx(np.mean([task["regret"] for task in tasks]))
    rhos = np.array([task["rho"] for task in tasks])
    chosen = np.random.default_rng(42).integers(0, len(rhos), (2_000, len(rhos)))
    medians = np.median(rhos[chosen], axis=1)
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.percentile(medians, [2.5, 97.5])))


def test_intervals_over_models_resample_whole_models() -> None:
    """Of the median the models of the panel, of one task those that it has."""
    there = np.array([[(3 * i + t) % 5 > 0 for t in range(3)] for i in range(12)])
    scores = {at: v for at, v in of_size(12, 3, 2).items() if there[at]}
    values = {(i, t): float((i * 5 + t) % 12) for i, t in scores}
    row = of_my(panel(12, scores, my(values)))
    counts = statistics.resamples(12)
    drawn = []
    for task in row.tasks:
        t = int(task["task"][1:])
        models = np.flatnonzero(there[:, t])
        x, y = (np.array([side[i, t] for i in models]) for side in (values, scores))
        drawn.append(statistics.Resampled(y, counts[:, models]).rho(x))
        alone = statistics.Resampled(y, statistics.resamples(len(models))).rho(x)
        assert (task["low"], task["high"]) == statistics.interval(alone)
    expected = statistics.interval(np.nanmedian(drawn, axis=0))
    assert (row.models_low, row.models_high) == expected


def test_too_few_models_for_a_task_and_for_the_table() -> None:
    values = grid(4, 2, lambda i, t: i)
    three = report(panel(3, of_size(3, 2, 1), my(values)))
    assert three.get("agreement") is None
    four = panel(4, of_size(4, 2, 1), my(values))
    assert of_my(four).n == 4  # counted, but p < .05 is out of reach: not shown
    assert not report(four).table("agreement").shown
    assert not cautions(four)
    scores = {**of_size(12, 1, 1), **{(i, 1): 0.1 * i for i in range(3)}}
    row = of_my(panel(12, scores, my(grid(12, 2, lambda i, t: i))))
    assert [(task["task"], task["n"]) for task in row.tasks] == [("T0", 12)]
    assert row.low is None  # no interval over a single task


def test_a_verdict_on_each_metric() -> None:
    scores = grid(25, 6, lambda i, t: 0.3 + ((i * 11 + t) % 25) / 50)
    turned = {at: -value for at, value in scores.items()}
    metrics: Metrics = {
        ("right", "s", "max"): scores,
        ("turned", "s", "min"): turned,
        ("wrong", "s", "max"): turned,
        ("size", "s", "max"): grid(25, 6, lambda i, t: WIDTHS[i // 5]),
        ("flat", "s", "max"): grid(25, 6, lambda i, t: 1),
    }
    results = panel(25, scores, metrics)
    found = cautions(results)
    assert {name: code for name, (code, _) in found.items()} == {
        "bar": "bar",
        "right.s": "better",
        "turned.s": "better",
        "wrong.s": "not_better",
        "size.s": "not_better",
        "flat.s": "no_task",
    }
    assert found["wrong.s"][1]["rho"] == pytest.approx(-1)
    assert "log width, median rho" in found["bar"][1]["sizes"]
    notes = set(report(results).notes)
    assert {str(wording.Caution(*caution)) for caution in found.values()} <= notes


def test_a_lead_that_other_models_might_undo_is_called_so() -> None:
    scores = of_size(12, 6, 1.5)
    generator = np.random.default_rng(1)
    values = {at: v + 0.011 * generator.normal() for at, v in scores.items()}
    code, numbers = cautions(panel(12, scores, my(values)))["my.s"]
    assert (code, numbers["other"], numbers["over"]) == ("may_be_chance", "log width", "models")
    assert numbers["lead"] > 0
    few = {at: v for at, v in scores.items() if at[0] < 7}
    code, numbers = cautions(panel(7, few, my(few)))["my.s"]
    assert (code, numbers["n"], numbers["least"]) == ("few_models", 7, 10)


def test_a_metric_is_beside_the_baselines_on_its_own_models_and_tasks() -> None:
    scores = of_size(20, 8, 0.3)
    values = {at: -v for at, v in scores.items() if at[0] < 12 and at[1] < 5}
    rival = by(report(panel(20, scores, my(values))), "rivals", "other")["log width"]
    width = [WIDTHS[i * 5 // 20] for i in range(12)]
    rhos = [scipy_stats.spearmanr(width, [scores[i, t] for i in range(12)])[0] for t in range(5)]
    assert rival["rho"] == pytest.approx(np.median(rhos))
    assert (rival["own"], rival["n"], rival["tasks"]) == (-1, 12, 5)
    assert rival["low"] <= -1 - rival["rho"] + 1e-9


def test_sizes_that_are_not_known() -> None:
    scores = of_size(12, 3, 1)
    results = panel(12, scores, my(scores))
    bare = tuple(ModelRow(model=m.model) for m in results.models)
    unknown = replace(results, models=bare)
    assert of_my(unknown).more["regret_largest"] is None
    some = replace(results, models=results.models[:5] + bare[5:])
    assert cautions(some)["my.s"][0] == "no_size"
    assert [code for code, _ in cautions(unknown).values()] == ["no_size"]
    # the best model may be one of unknown size
    scores = grid(6, 2, lambda i, t: i / 10)
    results = panel(6, scores, my(scores))
    models = (*results.models[:5], replace(results.models[5], parameters=None))
    largest = max(models, key=lambda m: m.parameters or 0).model
    more = of_my(replace(results, models=models)).more
    expected = [0, 0.5 - int(largest[1]) / 10, 0.25]
    names = ("regret", "regret_largest", "regret_random")
    assert [more[name] for name in names] == pytest.approx(expected)


def test_an_interval_is_of_the_same_tasks_as_its_median() -> None:
    """Tasks of 4 models count in a median, but cannot be drawn: no interval beside it."""
    generator = np.random.default_rng(0)
    scores, values = {}, {}
    for t in range(11):
        chosen = generator.choice(30, 4, replace=False).tolist() if t < 6 else range(30)
        for i in chosen:
            scores[i, t] = generator.normal()
            values[i, t] = -scores[i, t] if t < 6 else scores[i, t] + 0.1 * generator.normal()
    row = of_my(panel(30, scores, my(values)))
    assert row.rho == pytest.approx(-1)
    assert (row.models_low, row.models_high) == (None, None)
    assert {(rival.low, rival.high) for rival in row.rivals} == {(None, None)}
    whole = {at: v for at, v in scores.items() if at[1] >= 6}
    assert (of_my(panel(30, whole, my(values))).models_low or 0.0) > 0.9


def test_checkpoints_of_one_run_are_few_models() -> None:
    scores = of_size(12, 6, 1)
    results = panel(12, scores, my(scores))

    def named(row: Any, **more: Any) -> Any:
        return replace(row, model=f"org/one@step{1000 * int(row.model[1:])}", **more)

    steps = Results(
        tuple(named(m, blocks=4, width=128) for m in results.models),
        tuple(map(named, results.scores)),
        tuple(map(named, results.metrics)),
    )
    assert selected(steps)[1:3] == (12, 1)  # models, runs
    found = cautions(steps)
    assert found["runs"][1] == {"models": 12, "runs": "1 training run"}
    code, numbers = found["my.s"]
    assert (code, numbers["runs"], numbers["n"]) == ("few_runs", 1, 12)
    assert "runs" not in cautions(results)


def test_a_lead_that_rounds_to_nothing_is_none() -> None:
    rival = Rival("log width", True, 0.7041, 0.7, 0.001, 0.01, 12, 12, 6, "models")
    row = of_my(panel(12, of_size(12, 6, 1), my(of_size(12, 6, 2))))
    assert verdict(replace(row, rivals=(rival,))).code == "not_better"
    seen = rival._replace(metric_rho=0.706)
    assert verdict(replace(row, rivals=(seen,))).code == "better"
    other = rival._replace(name="frenet.rank", size=False)
    beside = verdict(replace(row, rivals=(seen, other)))
    assert beside.numbers["also"] == "; no better than frenet.rank (+0.70 against +0.70)"


@pytest.mark.slow
def test_above_500_models_intervals_are_over_tasks() -> None:
    scores = of_size(510, 6, 9)
    noise = np.random.default_rng(2)
    values = {at: v + noise.normal() / 100 for at, v in scores.items()}
    results = panel(510, scores, my(values))
    models = tuple(replace(m, family=f"f{i % 2}") for i, m in enumerate(results.models))
    board = report(replace(results, models=models))
    assert {row["over"] for row in board.table("rivals").rows} == {"tasks"}
    row = by(board, "agreement")["my.s"]
    assert row["interval_models"] is row["models_low"] is None
    assert row["interval"]
    assert "above 500 models" in board.table("agreement").caption[0]
    assert any("better than every size baseline (over tasks, not models" in n for n in board.notes)
    assert set(board.table("families").column("p")) == {None}  # above 5,000 pairs none is drawn
