"""Choosing a layer without labels: gains, controls, correlations, cautions, by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from choice_rows import BAD, BLOCKS, GOOD, SCORES, metric, results, scores
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lrd_harness.board import statistics
from lrd_harness.board.layer_choice import (
    LayerChoice,
    build_choice,
    choice_cautions,
    choice_tables,
    mean,
    stderr_over_runs,
)
from lrd_harness.board.layers import Row
from lrd_harness.board.leaderboard import report
from lrd_harness.results.kinds import model_kind, rule_layer
from lrd_harness.results.rows import Kind, ModelRow, Profile, Results

CURVES = st.lists(
    st.lists(st.integers(0, 8).map(lambda v: v / 8), min_size=5, max_size=5), min_size=1, max_size=5
)


def choice_of(run: Results) -> LayerChoice:
    choice = build_choice(run)
    assert choice is not None
    return choice


def gain(choice: LayerChoice, rule: str, first: bool = True) -> Row:
    (row,) = [g for g in choice.gains if g["rule"] == rule and g.get("first", True) == first]
    return row


def of(row: Row, *names: str) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in names)


def correlation(choice: LayerChoice, name: str) -> Row:
    (row,) = [row for row in choice.correlations if row["predictor"] == name]
    return row


def test_a_metric_gains_what_its_layers_score_above_the_last() -> None:
    choice = choice_of(results())
    good, reverse = gain(choice, "good"), gain(choice, "good", first=False)
    assert of(good, "best", "published", "predictor") == ("min", True, "good.good")
    assert of(good, "n", "models", "gained") == (3, 1, 1)
    assert of(good, "gain", "depth") == pytest.approx((0.10, (2 + 3 + 2) / 3 / BLOCKS))
    assert of(reverse, "best", "depth", "gained") == ("max", 0, 0)  # layer 0 on every task
    assert reverse["gain"] == pytest.approx((-0.2 - 0.3 - 0.3) / 3)
    # without a direction: the highest of the first profile
    bad, reverse = gain(choice, "bad"), gain(choice, "bad", first=False)
    assert of(bad, "predictor", "best", "published", "depth") == ("bad.bad", "max", False, 0)
    assert of(reverse, "best", "published", "depth") == ("min", False, 3 / BLOCKS)
    assert reverse["gain"] == pytest.approx((0.05 + 0.10 + 0.10) / 3)
    assert [g["rule"] for g in choice.gains][:4] == ["good", "good", "bad", "bad"]


def test_controls_by_hand() -> None:
    choice = choice_of(results())
    last = np.array([SCORES[t][-1] for t in SCORES])
    table = np.array(list(SCORES.values())) - last[:, None]
    expected = {
        "first layer": (0, table[:, 0].mean()),
        "random layer": (0.5, table.mean()),
        "depth 0.5": (0.5, table[:, 2].mean()),
        "depth 0.7": (0.75, table[:, 3].mean()),  # 2.8 of 4
        "depth 0.8": (0.75, table[:, 3].mean()),
        "depth 0.8 if decoder": (1, 0),  # which is not known
        "honest choice": of(gain(choice, "honest choice"), "depth", "gain"),
        "oracle": ((2 + 3 + 1) / 3 / 4, table.max(axis=1).mean()),
    }
    assert [g["rule"] for g in choice.gains if g["kind"] == "control"] == list(expected)
    for rule, outcome in expected.items():
        assert of(gain(choice, rule), "depth", "gain") == pytest.approx(outcome)
        assert of(gain(choice, rule), "kind", "n", "models") == ("control", 3, 1)
    # .05 and .10 above the last layer on t1, .10 on t2, .20, .10 and .10 on t3, of 5 layers each
    assert gain(choice, "random layer")["gained"] == pytest.approx((2 + 1 + 3) / 15)


@pytest.mark.parametrize(
    ("known", "kind", "depth"),
    [
        ({}, "embedding", 1),
        ({"adapter": "encoder"}, "embedding", 1),
        ({"adapter": "decoder"}, "embedding", 0.75),  # 3.2 of 4
        ({"pooling": "last"}, "embedding", 0.75),
        ({"family": "qwen3"}, "embedding", 0.75),
        ({}, "base", 0.75),
    ],
)
def test_the_one_line_rule_goes_by_the_kind_of_a_model(
    known: dict[str, str], kind: Kind, depth: float
) -> None:
    run = results()
    models = tuple(replace(row, **known) for row in run.models)  # type: ignore[arg-type]
    choice = build_choice(replace(run, models=models), kind)
    assert choice is not None
    row = gain(choice, "depth 0.8 if decoder")
    assert row["depth"] == depth
    (model,) = (row for row in models if row.variant == "full")
    assert rule_layer(model_kind(model, kind), BLOCKS) == depth * BLOCKS
    of_others = gain(choice, "depth 0.8")["gain"] if depth < 1 else 0
    assert row["gain"] == of_others
    said = [
        caution.numbers["models"]
        for caution in choice_cautions(choice)
        if caution.code == "choice_kind"
    ]
    assert said == ([model.model] if known == {} and kind == "embedding" else [])


@pytest.mark.parametrize(("layers", "at"), [(5, 3), (7, 5), (15, 10), (35, 24), (45, 31), (3, 2)])
def test_a_tie_between_two_layers_goes_to_the_lower(layers: int, at: int) -> None:
    """Depth .7 of 5 is 3.5, of 35 is 24.5: halves, which floating point would tip either way."""
    rows = scores("t", [0.5] * (layers + 1), layers=layers)
    choice = choice_of(replace(results({}), scores=tuple(rows)))
    assert gain(choice, "depth 0.7")["depth"] == at / layers
    assert gain(choice, "oracle")["depth"] == 0


@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_honest_choice_is_about_that_over_all_halves(k: int) -> None:
    table = np.random.default_rng(k).integers(0, 100, (k, 5)) / 100
    outcomes = []
    for half in combinations(range(k), k // 2):
        rest = [i for i in range(k) if i not in half]
        layer = int(np.argmax(np.round(table[list(half)].mean(axis=0), 9)))
        gains = table[rest, layer] - table[rest, -1]
        outcomes.append((layer / 4, gains.mean(), (gains > 0).mean()))
    curves = {f"t{i}": tuple(map(float, row)) for i, row in enumerate(table)}
    honest = gain(choice_of(results(curves, metrics=())), "honest choice")
    assert of(honest, "n", "models") == (k, 1)
    spread = 4 / 500**0.5 * np.std(outcomes, axis=0) + 1e-9  # four standard errors of 500 draws
    far = np.array(of(honest, "depth", "gain", "gained")) - np.mean(outcomes, axis=0)
    assert np.all(np.abs(far) <= spread)


def test_the_honest_choice_needs_two_tasks_and_weighs_models_by_theirs() -> None:
    alone = gain(choice_of(results({"t1": SCORES["t1"]})), "honest choice")
    assert of(alone, "n", "models", "gain", "depth") == (0, 0, None, None)
    same = (0.1, 0.4, 0.2, 0.2, 0.2)  # layer 1 on every task: +.2, whatever the half
    rows = [r for t in ("u1", "u2", "u3") for r in scores(t, same, model="b")]
    rows += [r for t in ("u1", "u2") for r in scores(t, (0.9, 0.8, 0.8, 0.8, 0.8))]
    rows += scores("u1", (0.9, 0.1, 0.1, 0.1, 0.1), model="c")
    honest = gain(choice_of(results({}, scores=tuple(rows), metrics=())), "honest choice")
    assert of(honest, "n", "models", "gained") == (5, 2, 1)
    assert honest["gain"] == pytest.approx((3 * 0.2 + 2 * 0.1) / 5)
    assert honest["depth"] == pytest.approx((3 * 0.25 + 2 * 0) / 5)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(CURVES, CURVES)
def test_no_rule_gains_more_than_the_oracle(curves: list[Any], profiles: list[Any]) -> None:
    by_task = {f"t{i}": curve for i, curve in enumerate(curves)}
    rows = [metric("m", f"t{i}", values) for i, values in enumerate(profiles)]
    # the metric that is the score itself is the oracle, and its reverse loses the most
    rows += [metric("truth", t, v, layer_choice=("truth", "max")) for t, v in by_task.items()]
    choice = choice_of(results(by_task, metrics=tuple(rows)))
    oracle = gain(choice, "oracle")
    assert oracle["gain"] >= 0
    for row in choice.gains:
        assert (row["gain"] is None) == (row["n"] == 0)
        if row["n"] == oracle["n"]:
            assert row["gain"] <= oracle["gain"] + 1e-12
            assert 0 <= row["gained"] <= 1
            assert 0 <= row["depth"] <= 1
    assert gain(choice, "truth")["gain"] == oracle["gain"]
    least = [min(v) - v[-1] for v in by_task.values()]
    assert gain(choice, "truth", first=False)["gain"] == pytest.approx(np.mean(least))


def test_what_has_no_choice_is_left_out_and_said_by_n() -> None:
    tasks = {**SCORES, "t2": (None, None, None, None, 0.5), "t3": (0.1, 0.2, 0.3, 0.4, None)}
    choice = choice_of(results(tasks))
    assert [p["task"] for p in choice.picks if p["metric"] == "good"] == ["t1", "t3"]
    of_t3 = next(p for p in choice.picks if p["task"] == "t3")
    assert of(of_t3, "layer", "gain", "reverse_gain") == (2, None, None)
    assert gain(choice, "good")["n"] == gain(choice, "oracle")["n"] == 1
    # a value that is absent is no candidate, nor is a layer without a score
    rows = (metric("good", "t1", (None, 1.0, None, 2.0, None), layer_choice=("good", "min")),)
    (pick,) = choice_of(results(metrics=rows)).picks
    assert of(pick, "layer", "reverse") == (1, 3)
    single = (metric("good", "t1", (None, 1.0, None, None, None)),)
    choice = choice_of(results(metrics=single))
    assert choice.picks == []
    assert of(gain(choice, "good"), "n", "gain") == (0, None)


@pytest.mark.parametrize(
    "run",
    [
        Results(),
        results({"t1": (None, None, None, None, 0.5)}),
        results(scores=()),
        results(scores=tuple(replace(r, variant="without 3") for r in results().scores)),
    ],
)
def test_without_a_second_layer_there_is_nothing_to_choose(run: Results) -> None:
    assert build_choice(run) is None
    assert choice_tables(None) == []
    assert report(run).get("layer_gain") is None
    assert list(choice_cautions(None)) == []


def test_correlations_over_layers_by_hand() -> None:
    choice = choice_of(results())
    expected = {
        "good.good": (GOOD, 5),
        "bad.bad": (BAD, 4),  # at the four layers that have a value
        "depth alone": (dict.fromkeys(SCORES, range(5)), 5),
    }
    for name, (values, layers) in expected.items():
        row = correlation(choice, name)
        sides = [(list(values[t])[:layers], SCORES[t][:layers]) for t in SCORES]
        rho = np.array([scipy_stats.spearmanr(x, y).statistic for x, y in sides])
        assert row["n"] == 3
        assert of(row, "spearman", "absolute", "positive") == pytest.approx(
            (np.mean(rho), np.mean(np.abs(rho)), np.mean(rho > 0))
        )
        x, y = np.array(sides, dtype=float).swapaxes(0, 1)
        far = statistics.distance_correlation_rows(x, y)
        assert row["distance"] == pytest.approx(np.mean(far[~np.isnan(far)]))
    level = statistics.random_walk_level(5)
    walks = of(correlation(choice, "random walks"), "absolute", "distance", "n")
    assert walks == pytest.approx((level.absolute, level.distance, 3))


def panel(models: int, profile: Callable[[np.ndarray], np.ndarray], names: str = "m") -> Results:
    """`models` with 6 tasks each, best somewhere in the middle; a metric that sees the scores."""
    generator = np.random.default_rng(1)
    rows, metrics = [], []
    for i in range(models):
        for task in range(6):
            curve = generator.uniform(0, 0.5, 5)
            curve[[0, 4]] = 0.1, 0.2
            rows += scores(f"t{task}", curve.tolist(), model=f"m{i}")
            metrics += [
                metric(n, f"t{task}", profile(curve).tolist(), f"m{i}", layer_choice=(n, "max"))
                for n in names
            ]
    known = tuple(ModelRow(model=f"m{i}", blocks=4, adapter="encoder") for i in range(models))
    return Results(known, tuple(rows), tuple(metrics))


def verdict(run: Results) -> dict[str, Mapping[str, Any]]:
    """Code -> its numbers."""
    return {caution.code: caution.numbers for caution in choice_cautions(build_choice(run))}


@pytest.mark.slow
def test_a_metric_that_knows_wins_and_one_that_knows_nothing_loses() -> None:
    few, many = verdict(panel(3, np.array)), verdict(panel(12, np.array))
    assert few.keys() == {"choice_won", "choice_few"}
    assert few["choice_won"]["metric"] == "m"
    assert few["choice_won"]["rival"].startswith("depth 0.")
    assert few["choice_few"]["pairs"] == "18 model-task pairs"
    assert many.keys() == {"choice_won"}
    run = panel(12, lambda curve: -curve)
    notes = [str(caution) for caution in choice_cautions(build_choice(run))]
    assert set(notes) <= set(report(run).notes)
    lost = verdict(run)
    assert lost.keys() == {"choice_lost"}
    fixed = [g for g in choice_of(run).gains if g["rule"].startswith("depth")]
    best = max(fixed, key=lambda row: row["gain"])
    assert lost["choice_lost"]["rival"] == best["rule"]
    assert lost["choice_lost"]["rival_points"] == pytest.approx(100 * best["gain"])
    flat = verdict(results({"t1": (0.1, 0.2, 0.3, 0.4, 0.5)}))
    assert flat["choice_lost"]["rival"] == "last layer"
    assert verdict(results(metrics=())) == {}


@pytest.mark.slow
def test_of_metrics_that_are_noise_the_best_is_said_to_be_luck() -> None:
    won = []
    for seed in range(5):
        generator = np.random.default_rng(seed)
        noise = panel(6, lambda curve, g=generator: g.uniform(size=5), names="mnopqrst")
        drawn = tuple(replace(r, score=generator.uniform()) for r in noise.scores)
        cautions = choice_cautions(build_choice(replace(noise, scores=drawn)))
        of_seed = {caution.code: caution.numbers for caution in cautions}
        won += [of_seed] if "choice_won" in of_seed else []
    assert len(won) > 1
    assert all(numbers["choice_best_of"]["metrics"] == 8 for numbers in won)
    assert sum("choice_luck" in numbers for numbers in won) >= len(won) - 1


def test_metrics_are_compared_on_the_same_pairs_and_with_the_honest_choice() -> None:
    worse = [
        replace(r, profiles={"good": Profile((0, 4), (0.0, 1.0))})
        if r.metric == "good"
        else replace(r, layer_choice=("bad", "max"))
        for r in results().metrics
        if (r.metric, r.task) != ("bad", "t3")
    ]
    assert "choice_lost_several" in verdict(replace(results(), metrics=tuple(worse)))
    # every layer 1 is best, and the tasks of a model tell it; the metric finds it on one of two
    curves = dict.fromkeys(("t1", "t2"), (0.0, 0.9, 0.1, 0.1, 0.5))
    values = {"t1": (0.0, 1, 0, 0, 0), "t2": (0.0, 0, 0, 0, 1)}
    rows = [metric("m", task, v, layer_choice=("m", "max")) for task, v in values.items()]
    cautions = verdict(results(curves, metrics=tuple(rows)))
    assert cautions["choice_won"]["points"] == pytest.approx(20)
    assert cautions["choice_won"]["rival"] == "last layer"
    assert cautions["choice_honest"]["points"] == pytest.approx(40)


@pytest.mark.slow
def test_a_metric_without_a_published_direction_takes_no_part() -> None:
    run = panel(12, np.array, "mn")
    bare = tuple(replace(r, layer_choice=None) if r.metric == "n" else r for r in run.metrics)
    assert verdict(replace(run, metrics=bare)) == verdict(panel(12, np.array, "m"))
    assert verdict(run)["choice_best_of"]["metrics"] == 2
    assert {g["rule"] for g in choice_of(replace(run, metrics=bare)).gains} > {"m", "n"}
    # nor as what lost: here it always picks the last layer, as the definition of some profiles has
    losing = panel(12, lambda curve: -curve, "m").metrics
    last: dict[str, Any] = {"layer_choice": None, "profiles": {"n": Profile((0, 4), (0.0, 1.0))}}
    other = tuple(replace(r, **last) for r in bare if r.metric == "n")
    lost = verdict(replace(run, metrics=losing))
    assert verdict(replace(run, metrics=(*other, *losing))) == lost
    assert verdict(replace(run, metrics=other)) == {}


def checkpoints(run: Results, n: int) -> Results:
    """The first n models as checkpoints of one training run."""
    names = {f"m{i}": f"org/m@step{i}" for i in range(n)}
    models, rows, metrics = (
        tuple(replace(row, model=names.get(row.model, row.model)) for row in part)
        for part in (run.models, run.scores, run.metrics)
    )
    return Results(models, rows, metrics)


def test_checkpoints_of_one_run_count_once() -> None:
    run = panel(12, np.array)
    steps = choice_of(checkpoints(run, 9)).gains
    apart = choice_of(run).gains[0]
    assert of(steps[0], "n", "models", "runs") == (72, 12, 4)
    assert of(apart, "models", "runs", "gain") == (12, 12, pytest.approx(steps[0]["gain"]))
    assert {of(g, "models", "runs") for g in steps} == {(12, 4)}  # controls too
    assert verdict(checkpoints(run, 9))["choice_few"]["runs"] == "4 training runs"
    assert steps[0]["lead_stderr"] != pytest.approx(apart["lead_stderr"])
    together = choice_of(checkpoints(run, 12)).gains[0]
    assert of(together, "models", "runs", "lead_stderr") == (12, 1, None)


def test_errors_and_intervals_are_over_training_runs() -> None:
    def error(runs: str, *values: float) -> float | None:
        return stderr_over_runs(pd.Series(list(runs)), pd.Series(values, dtype=float))

    apart = error("abcd", 0.1, 0.4, 0.2, 0.9)
    assert apart == pytest.approx(scipy_stats.sem([0.1, 0.4, 0.2, 0.9]))
    twice = error("abcdabcd", *[0.1, 0.4, 0.2, 0.9] * 2)  # the same again tells nothing new
    assert twice == pytest.approx(apart)
    assert error("aa", 1, 2) is None
    assert error("aabbcc", 1, 2, 3, 4, 5, 6) == pytest.approx(scipy_stats.sem([1.5, 3.5, 5.5]))
    values = pd.Series([1.0, 2, 3, 4])
    assert mean(pd.Series(list("aaaa")), values) == (2.5, None, None, 4, 1)
    for tests, level in ((1, 0.95), (4, 1 - 0.05 / 4)):
        of_runs = mean(pd.Series(list("abcd")), values, tests)
        interval = scipy_stats.t.interval(level, 3, loc=2.5, scale=scipy_stats.sem(values))
        assert (of_runs.low, of_runs.high) == pytest.approx(interval)
