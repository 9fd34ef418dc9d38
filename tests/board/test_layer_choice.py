"""Choosing a layer without labels: gains, controls, correlations, cautions, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
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
)
from lrd_harness.board.layers import Cell, Row, stderr_over_runs
from lrd_harness.board.leaderboard import report
from lrd_harness.results.rows import Key, ModelRow, Profile, Results

CURVES = st.lists(
    st.lists(st.integers(0, 8).map(lambda v: v / 8), min_size=5, max_size=5), min_size=1, max_size=5
)


def made(held: Results) -> LayerChoice:
    found = build_choice(held)
    assert found is not None
    return found


def gain(choice: LayerChoice, rule: str, first: bool = True) -> Row:
    (found,) = [g for g in choice.gains if g["rule"] == rule and g.get("first", True) == first]
    return found


def of(row: Row, *names: str) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in names)


def correlation(choice: LayerChoice, name: str) -> Row:
    (found,) = [row for row in choice.correlations if row["predictor"] == name]
    return found


def test_a_metric_gains_what_its_layers_score_above_the_last() -> None:
    choice = made(results())
    good = gain(choice, "good")
    # picks 2, 3, 2: +.10, +.10, +.10
    assert of(good, "best", "published", "predictor") == ("min", True, "good.good")
    assert of(good, "n", "models", "gained") == (3, 1, 1)
    assert good["gain"] == pytest.approx(0.10)
    assert good["depth"] == pytest.approx((2 + 3 + 2) / 3 / BLOCKS)
    reverse = gain(choice, "good", first=False)  # layer 0 on every task
    assert of(reverse, "best", "depth", "gained") == ("max", 0, 0)
    assert reverse["gain"] == pytest.approx((-0.2 - 0.3 - 0.3) / 3)


def test_a_metric_without_a_direction_is_judged_by_the_highest_of_its_first_profile() -> None:
    choice = made(results())
    bad, reverse = gain(choice, "bad"), gain(choice, "bad", first=False)
    assert of(bad, "predictor", "best", "published", "depth") == ("bad.bad", "max", False, 0)
    assert of(reverse, "best", "published", "depth") == ("min", False, 3 / BLOCKS)
    assert reverse["gain"] == pytest.approx((0.05 + 0.10 + 0.10) / 3)
    assert [g["rule"] for g in choice.gains][:4] == ["good", "good", "bad", "bad"]


def test_controls_by_hand() -> None:
    choice = made(results())
    last = np.array([SCORES[t][-1] for t in SCORES])
    table = np.array(list(SCORES.values())) - last[:, None]
    expected = {
        "first layer": (0, table[:, 0]),
        "random layer": (0.5, table.mean(axis=1)),
        "depth 0.5": (0.5, table[:, 2]),
        "depth 0.7": (0.75, table[:, 3]),  # 2.8 of 4
        "depth 0.8": (0.75, table[:, 3]),
        "oracle": ((2 + 3 + 1) / 3 / 4, table.max(axis=1)),
    }
    for rule, (depth, gains) in expected.items():
        found = gain(choice, rule)
        assert found["kind"] == "control"
        assert (found["depth"], found["gain"]) == (
            pytest.approx(depth),
            pytest.approx(gains.mean()),
        )
        assert (found["n"], found["models"]) == (3, 1)
    # .05 and .10 above the last layer on t1, .10 on t2, .20, .10 and .10 on t3, of 5 layers each
    assert gain(choice, "random layer")["gained"] == pytest.approx((2 + 1 + 3) / 15)
    assert [g["rule"] for g in choice.gains if g["kind"] == "control"] == [
        "first layer",
        "random layer",
        "depth 0.5",
        "depth 0.7",
        "depth 0.8",
        "honest choice",
        "oracle",
    ]


@pytest.mark.parametrize(("layers", "at"), [(5, 3), (7, 5), (15, 10), (35, 24), (45, 31), (3, 2)])
def test_a_tie_between_two_layers_goes_to_the_lower(layers: int, at: int) -> None:
    """Depth .7 of 5 is 3.5, of 35 is 24.5: halves, which floating point would tip either way."""
    held = results({})
    rows = scores("t", [0.5] * (layers + 1), layers=layers)
    choice = made(replace(held, scores=tuple(rows)))
    assert gain(choice, "depth 0.7")["depth"] == at / layers
    assert gain(choice, "oracle")["depth"] == 0


def halves(k: int) -> list[tuple[int, ...]]:
    return list(combinations(range(k), k // 2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_honest_choice_is_about_that_over_all_halves(k: int, seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 100, (k, 5)) / 100
    held = {f"t{i}": tuple(map(float, row)) for i, row in enumerate(table)}
    gains, depths, gained = [], [], []
    for half in halves(k):
        rest = [i for i in range(k) if i not in half]
        layer = int(np.argmax(np.round(table[list(half)].mean(axis=0), 9)))
        own = table[rest, layer] - table[rest, -1]
        gains.append(own.mean())
        gained.append((own > 0).mean())
        depths.append(layer / 4)
    found = gain(made(results(held, metrics=())), "honest choice")
    assert (found["n"], found["models"]) == (k, 1)
    error = 4 / 500**0.5  # four standard errors of 500 draws
    assert found["gain"] == pytest.approx(np.mean(gains), abs=error * np.std(gains) + 1e-9)
    assert found["depth"] == pytest.approx(np.mean(depths), abs=error * np.std(depths) + 1e-9)
    assert found["gained"] == pytest.approx(np.mean(gained), abs=error * np.std(gained) + 1e-9)


def test_the_honest_choice_needs_two_tasks_and_weighs_models_by_theirs() -> None:
    alone = gain(made(results({"t1": SCORES["t1"]})), "honest choice")
    assert of(alone, "n", "models", "gain", "depth") == (0, 0, None, None)
    same = (0.1, 0.4, 0.2, 0.2, 0.2)  # layer 1 on every task: +.2, whatever the half
    own = {"u1": same, "u2": same, "u3": same}
    rows = [r for t, v in own.items() for r in scores(t, v, model="b")]
    rows += [r for t in ("u1", "u2") for r in scores(t, (0.9, 0.8, 0.8, 0.8, 0.8))]
    rows += scores("u1", (0.9, 0.1, 0.1, 0.1, 0.1), model="c")
    found = gain(made(results({}, scores=tuple(rows), metrics=())), "honest choice")
    assert (found["n"], found["models"]) == (5, 2)
    assert found["gain"] == pytest.approx((3 * 0.2 + 2 * 0.1) / 5)
    assert found["depth"] == pytest.approx((3 * 0.25 + 2 * 0) / 5)
    assert found["gained"] == 1


@settings(max_examples=40, deadline=None)
@given(CURVES, CURVES)
def test_no_rule_gains_more_than_the_oracle(curves: list[Any], profiles: list[Any]) -> None:
    held = {f"t{i}": curve for i, curve in enumerate(curves)}
    rows = [metric("m", f"t{i}", values) for i, values in enumerate(profiles)]
    choice = made(results(held, metrics=tuple(rows)))
    oracle = gain(choice, "oracle")
    assert oracle["gain"] is not None
    assert oracle["gain"] >= 0
    for row in choice.gains:
        assert (row["gain"] is None) == (row["n"] == 0)
        if row["n"] == oracle["n"] and row["gain"] is not None:
            assert row["gain"] <= oracle["gain"] + 1e-12
            assert 0 <= (row["gained"] or 0) <= 1
            assert 0 <= (row["depth"] or 0) <= 1
    # the metric that is the score itself is the oracle, and its reverse loses the most
    truth = [metric("m", t, v, layer_choice=("m", "max")) for t, v in held.items()]
    choice = made(results(held, metrics=tuple(truth)))
    assert gain(choice, "m")["gain"] == oracle["gain"]
    assert gain(choice, "m", first=False)["gain"] == pytest.approx(
        np.mean([min(v) - v[-1] for v in held.values()])
    )


def test_what_has_no_choice_is_left_out_and_said_by_n() -> None:
    held = {**SCORES, "t2": (None, None, None, None, 0.5), "t3": (0.1, 0.2, 0.3, 0.4, None)}
    choice = made(results(held))
    assert [(p["metric"], p["task"]) for p in choice.picks if p["metric"] == "good"] == [
        ("good", "t1"),
        ("good", "t3"),
    ]
    of_t3 = next(p for p in choice.picks if p["task"] == "t3")
    assert (of_t3["layer"], of_t3["gain"], of_t3["reverse_gain"]) == (2, None, None)
    assert gain(choice, "good")["n"] == gain(choice, "oracle")["n"] == 1
    # a value that is absent is no candidate, nor is a layer without a score
    rows = (metric("good", "t1", (None, 1.0, None, 2.0, None), layer_choice=("good", "min")),)
    (pick,) = made(results(metrics=rows)).picks
    assert (pick["layer"], pick["reverse"]) == (1, 3)
    one = (metric("good", "t1", (None, 1.0, None, None, None)),)
    choice = made(results(metrics=one))
    assert choice.picks == []
    assert (gain(choice, "good")["n"], gain(choice, "good")["gain"]) == (0, None)


@pytest.mark.parametrize(
    "held",
    [
        Results(),
        results({}),
        results({"t1": (None, None, None, None, 0.5)}),
        results(scores=()),
        results(scores=tuple(replace(r, variant="without 3") for r in results().scores)),
    ],
)
def test_without_a_second_layer_there_is_nothing_to_choose(held: Results) -> None:
    assert build_choice(held) is None
    assert choice_tables(None) == []
    assert report(held).get("layer_gain") is None
    assert list(choice_cautions(None)) == []


def test_correlations_over_layers_by_hand() -> None:
    choice = made(results())
    good = correlation(choice, "good.good")
    rho = [scipy_stats.spearmanr(GOOD[t], SCORES[t]).statistic for t in SCORES]
    assert of(good, "kind", "n") == ("metric", 3)
    assert good["spearman"] == pytest.approx(np.mean(rho))
    assert good["absolute"] == pytest.approx(np.mean(np.abs(rho)))
    assert good["positive"] == 0
    sides = (np.array([of[t] for t in SCORES]) for of in (GOOD, SCORES))
    far = statistics.distance_correlation_rows(*sides)
    assert good["distance"] == pytest.approx(np.mean(far))
    bad = correlation(choice, "bad.bad")  # at the four layers that have a value
    rho = [scipy_stats.spearmanr(BAD[t], SCORES[t][:4]).statistic for t in SCORES]
    assert bad["spearman"] == pytest.approx(np.mean(rho))
    depth = correlation(choice, "depth alone")
    rho = [scipy_stats.spearmanr(range(5), SCORES[t]).statistic for t in SCORES]
    assert depth["spearman"] == pytest.approx(np.mean(rho))
    assert (depth["positive"], depth["n"]) == (np.mean(np.array(rho) > 0), 3)
    walks = correlation(choice, "random walks")
    level = statistics.random_walk_level(5)
    assert (walks["absolute"], walks["distance"], walks["n"]) == (
        pytest.approx(level.absolute),
        pytest.approx(level.distance),
        3,
    )


# ---------------------------------------------------------------- is some metric's choice better


def panel(models: int, profile: Callable[[np.ndarray], np.ndarray], names: str = "m") -> Results:
    """`models` with 6 tasks each, best somewhere in the middle; a metric that sees the scores."""
    generator = np.random.default_rng(1)
    rows, metrics = [], []
    for i in range(models):
        for t in range(6):
            curve = generator.uniform(0, 0.5, 5)
            curve[[0, 4]] = 0.1, 0.2
            rows += scores(f"t{t}", curve.tolist(), model=f"m{i}")
            metrics += [
                metric(n, f"t{t}", profile(curve).tolist(), f"m{i}", layer_choice=(n, "max"))
                for n in names
            ]
    return Results(
        tuple(ModelRow(model=f"m{i}", blocks=4) for i in range(models)), tuple(rows), tuple(metrics)
    )


def verdict(held: Results) -> dict[str, Any]:
    """Code -> its numbers."""
    found = list(choice_cautions(build_choice(held)))
    assert [str(one) for one in found] == [n for n in report(held).notes if n in map(str, found)]
    return {one.code: one.numbers for one in found}


def test_a_metric_that_knows_wins() -> None:
    few, many = verdict(panel(3, np.array)), verdict(panel(12, np.array))
    assert few.keys() == {"choice_won", "choice_few"}
    assert few["choice_won"]["metric"] == "m"
    assert few["choice_won"]["rival"].startswith("depth 0.")
    assert few["choice_few"]["pairs"] == "18 model-task pairs"
    assert many.keys() == {"choice_won"}


def test_metrics_that_know_nothing_lose() -> None:
    held = panel(12, lambda curve: -curve)
    lost = verdict(held)
    assert lost.keys() == {"choice_lost"}
    fixed = max((g for g in made(held).gains if g["rule"].startswith("depth")), key=_gain)
    assert lost["choice_lost"]["rival"] == fixed["rule"]
    assert lost["choice_lost"]["rival_points"] == pytest.approx(100 * fixed["gain"])
    flat = verdict(results({"t1": (0.1, 0.2, 0.3, 0.4, 0.5)}))
    assert flat["choice_lost"]["rival"] == "last layer"
    assert flat["choice_few"]["pairs"] == "1 model-task pair"
    assert verdict(results(metrics=())) == {}


def _gain(row: Row) -> float:
    return float(row["gain"])


def test_of_metrics_that_are_noise_the_best_is_said_to_be_luck() -> None:
    said = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        noise = panel(6, lambda curve, g=generator: g.uniform(size=5), names="mnopqrst")
        drawn = tuple(replace(r, score=generator.uniform()) for r in noise.scores)
        found = choice_cautions(build_choice(replace(noise, scores=drawn)))
        said.append({one.code: one.numbers for one in found})
    won = [found for found in said if "choice_won" in found]
    assert len(won) > 5
    assert all(found["choice_best_of"]["metrics"] == 8 for found in won)
    assert sum("choice_luck" in found for found in won) >= len(won) - 1


def test_metrics_are_compared_on_the_same_pairs_and_with_the_honest_choice() -> None:
    held = results()
    worse = [
        replace(r, profiles={"good": Profile((0, 4), (0.0, 1.0))})
        if r.metric == "good"
        else replace(r, layer_choice=("bad", "max"))
        for r in held.metrics
        if (r.metric, r.task) != ("bad", "t3")
    ]
    assert "choice_lost_several" in verdict(replace(held, metrics=tuple(worse)))
    # every layer 1 is best, and the tasks of a model tell it; the metric finds it on one of two
    curves = {"t1": (0.0, 0.9, 0.1, 0.1, 0.5), "t2": (0.0, 0.9, 0.1, 0.1, 0.5)}
    values = {"t1": (0.0, 1, 0, 0, 0), "t2": (0.0, 0, 0, 0, 1)}
    rows = [metric("m", task, own, layer_choice=("m", "max")) for task, own in values.items()]
    found = verdict(results(curves, metrics=tuple(rows)))
    assert found["choice_won"]["points"] == pytest.approx(20)
    assert found["choice_won"]["rival"] == "last layer"
    assert found["choice_honest"]["points"] == pytest.approx(40)


def test_a_metric_without_a_published_direction_takes_no_part() -> None:
    held = panel(12, np.array, "mn")
    bare = tuple(replace(r, layer_choice=None) if r.metric == "n" else r for r in held.metrics)
    found = verdict(replace(held, metrics=bare))
    assert found == verdict(panel(12, np.array, "m"))
    assert verdict(held)["choice_best_of"]["metrics"] == 2
    assert {g["rule"] for g in made(replace(held, metrics=bare)).gains} > {"m", "n"}
    # nor as what lost: here it always picks the last layer, as the definition of some profiles has
    losing = panel(12, lambda curve: -curve, "m").metrics
    last = {"layer_choice": None, "profiles": {"n": Profile((0, 4), (0.0, 1.0))}}
    other = tuple(replace(r, **last) for r in bare if r.metric == "n")
    assert verdict(replace(held, metrics=(*other, *losing))) == verdict(
        replace(held, metrics=losing)
    )
    assert verdict(replace(held, metrics=other)) == {}


def renamed(held: Results, names: dict[str, str]) -> Results:
    parts = (held.models, held.scores, held.metrics)
    return Results(
        *(tuple(replace(r, model=names.get(r.model, r.model)) for r in p) for p in parts)
    )  # type: ignore[arg-type]


def test_checkpoints_of_one_run_count_once() -> None:
    held = panel(12, np.array)
    steps = renamed(held, {f"m{i}": f"org/m@step{i}" for i in range(9)})
    found, apart = made(steps).gains[0], made(held).gains[0]
    assert of(found, "n", "models", "runs") == (72, 12, 4)
    assert of(apart, "models", "runs", "gain") == (12, 12, pytest.approx(found["gain"]))
    assert {of(g, "models", "runs") for g in made(steps).gains} == {(12, 4)}  # controls too
    assert verdict(steps)["choice_few"]["runs"] == "4 training runs"
    assert found["lead_stderr"] != pytest.approx(apart["lead_stderr"])
    one = renamed(held, {f"m{i}": f"org/m@step{i}" for i in range(12)})
    assert of(made(one).gains[0], "models", "runs", "lead_stderr") == (12, 1, None)


def test_the_error_of_a_lead_is_that_over_models() -> None:
    def cells(*models: str) -> list[Cell]:
        return [Cell(Key(m, "", "full"), f"t{i}", 4, {}) for i, m in enumerate(models)]

    values = [0.1, 0.4, 0.2, 0.9]
    apart = stderr_over_runs(cells(*"abcd"), values)
    assert apart == pytest.approx(scipy_stats.sem(values))
    twice = stderr_over_runs(cells(*"abcdabcd"), values * 2)  # the same again tells nothing new
    assert twice == pytest.approx(apart)
    assert stderr_over_runs(cells("a", "a"), [1, 2]) is None
    run = Key("a", "", "full")
    of_one_run = [replace(cell, checkpoint_of=run) for cell in cells("a", "b")]
    assert stderr_over_runs(of_one_run, [1, 2]) is None
    pairs = [*of_one_run, *cells("c", "c", "d", "d")]
    means_of_runs = scipy_stats.sem([1.5, 3.5, 5.5])
    assert stderr_over_runs(pairs, [1, 2, 3, 4, 5, 6]) == pytest.approx(means_of_runs)
    assert stderr_over_runs([], []) is None
