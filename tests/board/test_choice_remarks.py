"""The sentence that says whether some metric's choice of a layer is worth anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from choice_rows import metric, results, scores
from scipy import stats as scipy_stats

from lrd_harness.board.layer_choice import Cell, Gain, build_choice, of_choice, stderr_over_runs
from lrd_harness.board.leaderboard import build
from lrd_harness.results.database import Key, ModelRow, Profile, Results


def gains(held: Results) -> tuple[Gain, ...]:
    choice = build_choice(held)
    assert choice is not None
    return choice.gains


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


def verdict(held: Results) -> str:
    (found,) = of_choice(build_choice(held))
    assert build(held).notes[-1] == found
    return found


def test_the_verdict_on_a_metric_that_knows() -> None:
    few, many = verdict(panel(3, np.array)), verdict(panel(12, np.array))
    assert few.startswith("m's layer gained +")
    assert "more than every choice that needs no metric (best: depth 0." in few
    assert few.endswith("n = 18 model-task pairs of 3 models: illustration, not evidence.")
    assert many.endswith("n = 72 model-task pairs of 12 models.")
    assert "luck" not in many
    assert "honest" not in many


def test_the_verdict_on_metrics_that_know_nothing() -> None:
    lost = verdict(panel(12, lambda curve: -curve))
    assert lost.startswith("No metric's layer gained more than depth 0.")
    fixed = max(
        (g for g in gains(panel(12, np.array)) if g.rule.startswith("depth")),
        key=lambda g: g.gain or 0,
    )
    assert f"{fixed.rule} ({100 * (fixed.gain or 0):+.1f} points)" in lost
    flat = {"t1": (0.1, 0.2, 0.3, 0.4, 0.5)}
    assert verdict(results(flat)) == (
        "No metric's layer gained anything over the last layer; "
        "n = 1 model-task pair of 1 model: illustration, not evidence."
    )
    assert of_choice(build_choice(results(metrics=()))) == ()


def test_of_metrics_that_are_noise_the_best_is_said_to_be_luck() -> None:
    said = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        noise = panel(6, lambda curve, g=generator: g.uniform(size=5), names="mnopqrst")
        drawn = tuple(replace(r, score=generator.uniform()) for r in noise.scores)
        said.append(verdict(replace(noise, scores=drawn)))
    won = [found for found in said if "gained +" in found]
    assert len(won) > 5
    assert all("the best of 8 metrics, picked by this very table" in found for found in won)
    assert sum("luck alone may give such a lead" in found for found in won) >= len(won) - 1


def test_the_verdict_compares_on_the_same_pairs_and_with_the_honest_choice() -> None:
    held = results()
    some = replace(
        held, metrics=tuple(r for r in held.metrics if (r.metric, r.task) != ("bad", "t3"))
    )
    worse = replace(
        some,
        metrics=tuple(
            replace(r, profiles={"good": Profile((0, 4), (0.0, 1.0))})
            if r.metric == "good"
            else replace(r, layer_choice=("bad", "max"))
            for r in some.metrics
        ),
    )
    assert "did on the same model-task pairs" in verdict(worse)
    # every layer 1 is best, and the tasks of a model tell it; the metric finds it on one of two
    curves = {"t1": (0.0, 0.9, 0.1, 0.1, 0.5), "t2": (0.0, 0.9, 0.1, 0.1, 0.5)}
    values = {"t1": (0.0, 1, 0, 0, 0), "t2": (0.0, 0, 0, 0, 1)}
    rows = [metric("m", task, own, layer_choice=("m", "max")) for task, own in values.items()]
    found = verdict(results(curves, metrics=tuple(rows)))
    assert "m's layer gained +20.0 points" in found
    assert "(best: the last layer itself)" in found
    assert "but not more than the honest choice, which needs the scores of other tasks" in found
    assert "(+40.0 points)" in found


def test_a_metric_without_a_published_direction_takes_no_part() -> None:
    held = panel(12, np.array, "mn")
    bare = tuple(replace(r, layer_choice=None) if r.metric == "n" else r for r in held.metrics)
    found = verdict(replace(held, metrics=bare))
    assert found == verdict(panel(12, np.array, "m"))
    assert "it is the best of 2 metrics" in verdict(held)
    assert {g.rule for g in gains(replace(held, metrics=bare))} > {"m", "n"}
    # nor as what lost: here it always picks the last layer, as the definition of some profiles has
    losing = panel(12, lambda curve: -curve, "m").metrics
    other = tuple(
        replace(r, layer_choice=None, profiles={"n": Profile((0, 4), (0.0, 1.0))})
        for r in bare
        if r.metric == "n"
    )
    found = verdict(replace(held, metrics=(*other, *losing)))
    assert found == verdict(replace(held, metrics=losing))
    assert of_choice(build_choice(replace(held, metrics=other))) == ()


def parts(held: Results) -> tuple[tuple[Any, ...], ...]:
    return held.models, held.scores, held.metrics


def test_checkpoints_of_one_run_count_once() -> None:
    held = panel(12, np.array)

    def named(base: str) -> Results:
        """Models 0 to 8 as checkpoints of one training run, 9 to 11 as they are."""
        names = {f"m{i}": f"{base}@step{i}" for i in range(9)}
        return Results(
            *(
                tuple(replace(r, model=names.get(r.model, r.model)) for r in part)
                for part in parts(held)
            )
        )

    found = gains(named("org/m"))[0]
    assert (found.n, found.models, found.runs) == (72, 12, 4)
    apart = gains(held)[0]
    assert (apart.models, apart.runs, apart.gain) == (12, 12, pytest.approx(found.gain))
    assert {(g.models, g.runs) for g in gains(named("org/m"))} == {(12, 4)}  # controls too
    assert verdict(named("org/m")).endswith(
        "n = 72 model-task pairs of 12 models from 4 training runs: illustration, not evidence."
    )
    assert found.lead_stderr != pytest.approx(apart.lead_stderr)
    alone = gains(Results(*([r for r in part if "@" in r.model] for part in parts(named("m")))))[0]
    assert (alone.models, alone.runs, alone.lead_stderr) == (9, 1, None)


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
