"""Predictors judged task by task: numbers against scipy, verdicts on metrics."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from selection_panels import WIDTHS, Metrics, Values, by, grid, of_size, panel

from lrd_harness.board import panel as panels
from lrd_harness.board import statistics
from lrd_harness.board.agreement import (
    Agreement,
    Rival,
    Selection,
    agreement_cautions,
    build_selection,
    verdict,
)
from lrd_harness.board.leaderboard import report
from lrd_harness.results.rows import ModelRow, Results


def selected(results: Results) -> Selection:
    found = build_selection(panels.make(results))
    assert found is not None
    return found


def rows(results: Results) -> dict[str, Agreement]:
    return {row.name: row for row in selected(results).rows}


def said(results: Results) -> dict[str, Any]:
    """Metric -> code and numbers of its verdict; the other cautions by their code."""
    found = {}
    for code, numbers in agreement_cautions(selected(results)):
        found[numbers.get("name", code)] = (code, numbers)
    return found


def one(values: Values) -> Metrics:
    return {("my", "s", "max"): values}


def plain_tests(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> tuple[float, float, float]:
    """p, partial rho given size, and its p: by 3,000 orders drawn one by one."""
    u, v, w = map(scipy_stats.rankdata, (x, y, size))
    generator = np.random.default_rng(3)
    orders = np.array([u, *(generator.permutation(u) for _ in range(3_000))])
    r = np.corrcoef(np.vstack([orders, v, w]))
    own, given = r[:-2, -2], r[:-2, -1]
    partial = (own - given * r[-2, -1]) / np.sqrt((1 - given**2) * (1 - r[-2, -1] ** 2))
    p, partial_p = (np.mean(np.abs(a) >= abs(a[0]) - 1e-9) for a in (own, partial))
    return float(p), float(partial[0]), float(partial_p)


@pytest.mark.parametrize("seed", range(2))
def test_every_number_against_scipy_with_ties_and_holes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    kept = generator.random((12, 6)) < 0.8
    scores = {at: v for at, v in of_size(12, 6, 2, seed).items() if kept[at]}
    values = {at: float(generator.integers(0, 6)) for at in scores if generator.random() < 0.9}
    report_ = report(panel(12, scores, {("my", "s", "min"): values}))
    found = by(report_, "agreement")["my.s"]
    tasks = [row for row in report_.table("agreement_tasks").rows if row["predictor"] == "my.s"]
    assert (found["kind"], found["best"]) == ("metric", "min")
    for task in tasks:
        t = int(task["task"][1:])
        both = [i for i in range(12) if (i, t) in values]
        x, y = ([-values[i, t] for i in both], [scores[i, t] for i in both])
        size = [(7 * i) % 12 for i in both]
        assert task["n"] == len(both) >= 4
        assert task["rho"] == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
        assert task["tau"] == pytest.approx(scipy_stats.kendalltau(x, y).statistic)
        p, partial, partial_p = plain_tests(np.array(x), np.array(y), np.array(size))
        assert task["p"] == pytest.approx(p, abs=0.03)
        assert task["partial.log parameters"] == pytest.approx(partial)
        assert task["partial_p.log parameters"] == pytest.approx(partial_p, abs=0.03)
        top = [b for a, b in zip(x, y, strict=True) if a == max(x)]
        assert task["regret"] == pytest.approx(max(y) - np.mean(top))
        assert task["regret_random"] == pytest.approx(max(y) - np.mean(y))
        assert task["regret_largest"] == pytest.approx(max(y) - y[int(np.argmax(size))])
    ps = sorted(task["p"] for task in tasks)
    adjusted = np.maximum.accumulate([min(1, (len(ps) - k) * p) for k, p in enumerate(ps)])
    assert sorted(task["p_holm"] for task in tasks) == pytest.approx(adjusted.tolist())
    for name in ("rho", "tau", "partial.log parameters"):
        assert found[name] == np.median([task[name] for task in tasks])
    assert found["significant"] == sum(task["p"] < 0.05 for task in tasks)
    assert found["significant_share"] == f"{found['significant']}/{len(tasks)}"
    assert found["holm"] == sum(task["p_holm"] < 0.05 for task in tasks)
    assert found["regret"] == pytest.approx(np.mean([task["regret"] for task in tasks]))
    interval = statistics.bootstrap_median([task["rho"] for task in tasks])
    assert (found["low"], found["high"]) == interval


def rho_of(x: list[float], y: list[float]) -> float:
    if len(set(zip(x, y, strict=True))) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return math.nan
    return float(np.corrcoef(scipy_stats.rankdata(x), scipy_stats.rankdata(y))[0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("holes", [False, True])
def test_intervals_over_models_resample_whole_models(holes: bool) -> None:
    """Of the median the models of the panel, of one task those that it has."""
    there = {(i, t) for i in range(12) for t in range(5) if not holes or (3 * i + t) % 5}
    scores = {at: v for at, v in of_size(12, 5, 2).items() if at in there}
    values = {at: float((at[0] * 5 + at[1]) % 12) for at in there}
    found = rows(panel(12, scores, one(values)))["my.s"]

    def rhos(t: int, counts: np.ndarray, models: list[int]) -> list[float]:
        drawn = ([i for i in np.repeat(models, row) if (i, t) in there] for row in counts)
        return [rho_of([values[i, t] for i in d], [scores[i, t] for i in d]) for d in drawn]

    counts = statistics.resamples(12).astype(int)
    by_task = [rhos(t, counts, list(range(12))) for t in range(5)]
    expected = np.nanpercentile(np.nanmedian(by_task, axis=0), [2.5, 97.5])
    assert (found.models_low, found.models_high) == pytest.approx(tuple(expected))
    first = next(task for task in found.tasks if task["task"] == "T0")
    own = [i for i in range(12) if (i, 0) in there]
    counts = statistics.resamples(len(own)).astype(int)
    expected = np.nanpercentile(rhos(0, counts, own), [2.5, 97.5])
    assert (first["low"], first["high"]) == pytest.approx(tuple(expected))


def test_too_few_models_for_a_task_and_for_the_table() -> None:
    values = grid(4, 2, lambda i, t: i)
    three = report(panel(3, of_size(3, 2, 1), one(values)))
    assert three.get("agreement") is None
    four = panel(4, of_size(4, 2, 1), one(values))
    assert rows(four)["my.s"].n == 4  # counted, but p < .05 is out of reach: not shown
    assert not report(four).table("agreement").shown
    assert not said(four)
    scores = {**of_size(12, 1, 1), **{(i, 1): 0.1 * i for i in range(3)}}
    found = rows(panel(12, scores, one(grid(12, 2, lambda i, t: i))))["my.s"]
    assert [(task["task"], task["n"]) for task in found.tasks] == [("T0", 12)]
    assert found.low is None  # no interval over a single task


def test_a_verdict_on_each_metric() -> None:
    scores = grid(25, 9, lambda i, t: 0.3 + ((i * 11 + t) % 25) / 50)
    turned = {at: -value for at, value in scores.items()}
    metrics: Metrics = {
        ("right", "s", "max"): scores,
        ("turned", "s", "min"): turned,
        ("wrong", "s", "max"): turned,
        ("size", "s", "max"): grid(25, 9, lambda i, t: WIDTHS[i // 5]),
        ("flat", "s", "max"): grid(25, 9, lambda i, t: 1),
    }
    results = panel(25, scores, metrics)
    found = said(results)
    codes = {name: code for name, (code, _) in found.items()}
    assert codes == {
        "bar": "bar",
        "right.s": "better",
        "turned.s": "better",
        "wrong.s": "not_better",
        "size.s": "not_better",
        "flat.s": "no_task",
    }
    assert found["wrong.s"][1]["rho"] == pytest.approx(-1)
    assert "log width, median rho" in found["bar"][1]["sizes"]
    assert set(map(str, agreement_cautions(selected(results)))) <= set(report(results).notes)


def test_a_lead_that_other_models_might_undo_is_called_so() -> None:
    scores = of_size(12, 6, 1.5)
    generator = np.random.default_rng(1)
    values = {at: v + 0.011 * generator.normal() for at, v in scores.items()}
    code, numbers = said(panel(12, scores, one(values)))["my.s"]
    assert (code, numbers["other"], numbers["over"]) == ("may_be_chance", "log width", "models")
    assert numbers["lead"] > 0
    few = {at: v for at, v in scores.items() if at[0] < 7}
    code, numbers = said(panel(7, few, one(few)))["my.s"]
    assert (code, numbers["n"], numbers["least"]) == ("few_models", 7, 10)


def test_a_metric_is_held_against_the_baselines_on_its_own_models_and_tasks() -> None:
    scores = of_size(20, 8, 0.3)
    values = {at: -v for at, v in scores.items() if at[0] < 12 and at[1] < 5}
    found = report(panel(20, scores, one(values)))
    rival = by(found, "rivals", "other")["log width"]
    expected = []
    for t in range(5):
        width = [WIDTHS[i * 5 // 20] for i in range(12)]
        expected.append(scipy_stats.spearmanr(width, [scores[i, t] for i in range(12)]).statistic)
    assert rival["rho"] == pytest.approx(np.median(expected))
    assert (rival["own"], rival["n"], rival["tasks"]) == (-1, 12, 5)
    assert rival["low"] <= -1 - rival["rho"] + 1e-9


def test_nothing_of_size_is_known() -> None:
    scores = of_size(12, 3, 1)
    results = panel(12, scores, one(scores))
    bare = tuple(ModelRow(model=m.model) for m in results.models)
    unknown = dataclasses.replace(results, models=bare)
    assert rows(unknown)["my.s"].regrets["regret_largest"] is None
    some = dataclasses.replace(results, models=results.models[:5] + bare[5:])
    assert said(some)["my.s"][0] == "no_size"
    assert [code for code, _ in said(unknown).values()] == ["no_size"]


def test_an_interval_is_of_the_same_tasks_as_its_median() -> None:
    """Tasks of 4 models count in a median, but cannot be drawn: no interval beside it."""
    generator = np.random.default_rng(0)
    scores, values = {}, {}
    for t in range(11):
        chosen = generator.choice(30, 4, replace=False).tolist() if t < 6 else range(30)
        for i in chosen:
            scores[i, t] = generator.normal()
            values[i, t] = -scores[i, t] if t < 6 else scores[i, t] + 0.1 * generator.normal()
    found = rows(panel(30, scores, one(values)))["my.s"]
    assert found.rho == pytest.approx(-1)
    assert (found.models_low, found.models_high) == (None, None)
    assert {(rival.low, rival.high) for rival in found.rivals} == {(None, None)}
    whole = {at: v for at, v in scores.items() if at[1] >= 6}
    assert (rows(panel(30, whole, one(values)))["my.s"].models_low or 0.0) > 0.9


def test_a_model_of_unknown_size_may_be_the_best() -> None:
    scores = grid(6, 2, lambda i, t: i / 10)
    results = panel(6, scores, one(scores))
    best = dataclasses.replace(results.models[5], parameters=None)
    models = (*results.models[:5], best)
    found = rows(dataclasses.replace(results, models=models))["my.s"]
    largest = max(models, key=lambda m: m.parameters or 0).model
    assert found.regrets["regret"] == 0
    assert found.regrets["regret_largest"] == pytest.approx(0.5 - int(largest[1]) / 10)
    assert found.regrets["regret_random"] == pytest.approx(0.25)


def test_checkpoints_of_one_run_are_few_models() -> None:
    scores = of_size(12, 6, 1)
    results = panel(12, scores, one(scores))

    def named(row: Any, **more: Any) -> Any:
        return dataclasses.replace(row, model=f"org/one@step{1000 * int(row.model[1:])}", **more)

    steps = Results(
        tuple(named(m, blocks=4, width=128) for m in results.models),
        tuple(map(named, results.scores)),
        tuple(map(named, results.metrics)),
    )
    assert selected(steps)[1:3] == (12, 1)  # models, runs
    found = said(steps)
    assert found["runs"][1] == {"models": 12, "runs": "1 training run"}
    code, numbers = found["my.s"]
    assert (code, numbers["runs"], numbers["n"]) == ("few_runs", 1, 12)
    assert selected(results).runs == 12
    assert "runs" not in said(results)


def test_a_lead_that_rounds_to_nothing_is_none() -> None:
    rival = Rival("log width", True, 0.7041, 0.7, 0.001, 0.01, 12, 12, 6, "models")
    found = rows(panel(12, of_size(12, 6, 1), one(of_size(12, 6, 2))))["my.s"]
    assert verdict(dataclasses.replace(found, rivals=(rival,))).code == "not_better"
    seen = dataclasses.replace(rival, own=0.706)
    assert verdict(dataclasses.replace(found, rivals=(seen,))).code == "better"
    other = dataclasses.replace(rival, name="frenet.rank", size=False)
    beside = verdict(dataclasses.replace(found, rivals=(seen, other)))
    assert beside.numbers["also"] == "; no better than frenet.rank (+0.70 against +0.70)"


def test_above_500_models_intervals_are_over_tasks() -> None:
    scores = of_size(510, 6, 9)
    noise = np.random.default_rng(2)
    values = {at: v + noise.normal() / 100 for at, v in scores.items()}
    results = panel(510, scores, one(values))
    models = tuple(dataclasses.replace(m, family=f"f{i % 2}") for i, m in enumerate(results.models))
    results = dataclasses.replace(results, models=models)
    found = report(results)
    assert {row["over"] for row in found.table("rivals").rows} == {"tasks"}
    row = by(found, "agreement")["my.s"]
    assert row["interval_models"] is row["models_low"] is None
    assert row["interval"]
    assert "above 500 models" in found.table("agreement").caption[0]
    code, numbers = said(results)["my.s"]
    assert (code, numbers["over"]) == ("better", "over tasks, not models; ")
    assert set(found.table("families").column("p")) == {None}  # above 5,000 pairs none is drawn
