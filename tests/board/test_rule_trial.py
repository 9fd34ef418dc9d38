"""Trials of rules on results: what is chosen against what, and what the verdict is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import choice_rows
import numpy as np
import pytest
import selection_panels

from lrd_harness.board import rule_trial, statistics
from lrd_harness.board.layer_choice import RULE
from lrd_harness.board.rule_trial import BEST, Terms
from lrd_harness.errors import UserError
from lrd_harness.report import Report
from lrd_harness.results.rows import ModelRow, Results

TASKS = 6


def layers(models: int, edge: float, families: int | None = None, seed: int = 0) -> Results:
    """Decoders of 10 blocks; metric "good" finds a layer that is `edge` better than layer 8.

    "noise" chooses at random, and of neither is it published which end is better.
    """
    generator = np.random.default_rng(seed)
    rows, scores, metrics = [], [], []
    for i in range(models):
        name = f"m{i}"
        family = f"qwen{i % (families or models)}"
        rows.append(ModelRow(model=name, blocks=10, family=family, adapter="decoder"))
        for t in range(TASKS):
            best = int(generator.integers(1, 8))
            values = 0.5 + 0.02 * generator.standard_normal(11)
            values[best] = values[8] + edge + 0.02 * generator.standard_normal()
            scores += choice_rows.scores(f"t{t}", values.tolist(), name, layers=10)
            low = [float(layer != best) for layer in range(11)]
            metrics.append(choice_rows.metric("good", f"t{t}", low, name, profiles=profile(low)))
            drawn = generator.standard_normal(11).tolist()
            metrics.append(
                choice_rows.metric("noise", f"t{t}", drawn, name, profiles=profile(drawn))
            )
    return Results(models=tuple(rows), scores=tuple(scores), metrics=tuple(metrics))


def profile(values: list[float]) -> dict[str, Any]:
    return {"score": choice_rows.Profile(tuple(range(len(values))), tuple(values))}


def terms(of: str = "layers", **more: Any) -> Terms:
    usual = {"layers": (RULE, 0.5), "models": ("size", 0.05)}[of]
    fields = {"primary": BEST, "control": usual[0], "smallest": usual[1], "resamples": 500}
    return Terms(**(fields | more))


def report(results: Results, of: str = "layers", **more: Any) -> Report:
    return rule_trial.report(of, results, terms(of, **more), "stated here")


def row(shown: Report, rule: str) -> Any:
    (found,) = (row for row in shown.table("rules").rows if row["rule"] == rule)
    return found


def test_a_rule_that_works_is_found_and_its_direction_with_it() -> None:
    shown = report(layers(12, 0.05), primary="good")
    good, best, noise = (row(shown, rule) for rule in ("good", BEST, "noise"))
    assert (good["role"], good["verdict"], good["p_holm"]) == ("primary", "better", None)
    assert good["effect"] == pytest.approx(5, abs=1)  # points
    assert good["low"] < 5 < good["high"]
    assert (good["models"], good["families"], good["tasks"], good["pairs"]) == (12, 12, 6, 72)
    assert best["verdict"] == "better"
    assert noise["verdict"] in ("not shown", "worse")
    assert noise["p_holm"] >= noise["p"]
    assert {row["chosen"] for row in shown.table("left_out").rows} == {"good argmin"}
    assert shown.answer[0].startswith("Better: good beats ")


def test_a_rule_that_does_not_is_not_called_better() -> None:
    verdicts = [row(report(layers(8, -0.02, seed=seed)), BEST)["verdict"] for seed in range(8)]
    assert "better" not in verdicts
    shown = report(layers(8, -0.05), primary="good", secondary=["noise", "last layer"])
    assert shown.table("rules").column("rule")[0] == "good"
    assert {each["rule"] for each in shown.table("rules").rows} == {
        *("good", BEST, "noise", "last layer")
    }


def test_the_gain_is_that_over_the_control() -> None:
    """By hand: of choice_rows, "good" gains .10 over the last layer on all three tasks."""
    shown = report(choice_rows.results(), primary="good", control="last layer")
    good = row(shown, "good")
    assert good["effect"] == pytest.approx(10)
    assert good["alone"] == pytest.approx(good["effect"])
    assert good["control_alone"] == 0
    assert (good["verdict"], good["p"], good["interval"]) == ("too few", None, None)
    over_first = row(report(choice_rows.results(), primary="good", control="first layer"), "good")
    first = np.mean([0.3 - 0.5, 0.2 - 0.5, 0.1 - 0.4])
    assert over_first["effect"] == pytest.approx(good["effect"] - 100 * first)


def test_what_uses_labels_is_tried_where_it_is_named_and_marked() -> None:
    rows = layers(6, 0.05)
    metrics = tuple(replace(m, control=m.metric == "good") for m in rows.metrics)
    labelled = replace(rows, metrics=metrics)
    usual = {each["rule"]: each["picks"] for each in report(labelled).table("rules").rows}
    assert not any("good" in name or "in-sample" in picks for name, picks in usual.items())
    named = row(report(labelled, primary="good"), "good (uses labels)")
    assert named["picks"].endswith(", in-sample")
    values = {(i, t): float(i) for i in range(12) for t in range(TASKS)}
    panel = selection_panels.panel(12, values, {("mine", "mine", "max"): values})
    panel = replace(panel, metrics=tuple(replace(m, control=True) for m in panel.metrics))
    assert "mine.rank (uses labels)" in [
        each["rule"] for each in report(panel, "models", primary="mine.rank").table("rules").rows
    ]


def test_models_of_which_nobody_knows_whether_they_are_decoders_are_named() -> None:
    plain = layers(5, 0.0)
    models = tuple(replace(m, adapter=None, family=f"odd {m.model}") for m in plain.models)
    said = report(replace(plain, models=models), primary="good").answer
    assert any("m0" in line and "decoders" in line for line in said)


def test_models_of_one_family_go_as_one() -> None:
    alone, sisters = (report(layers(12, 0.05, families=n), primary="good") for n in (12, 3))
    assert row(alone, "good")["families"] == 12
    assert row(sisters, "good")["families"] == 3
    assert row(sisters, "good")["verdict"] == "too few"
    by_model = report(layers(12, 0.05, families=3), primary="good", held_out="model")
    assert row(by_model, "good")["p"] == row(alone, "good")["p"]


def ordered(noise: float, models: int = 24, seed: int = 3) -> Results:
    """Models whose scores go with "mine" as far as noise leaves it, and not with size."""
    generator = np.random.default_rng(seed)
    skill = generator.standard_normal(models)
    cells = [(i, t) for i in range(models) for t in range(TASKS)]
    scores = {c: 0.5 + 0.05 * (skill[c[0]] + generator.standard_normal() / 2) for c in cells}
    values = {c: float(skill[c[0]] + noise * generator.standard_normal()) for c in cells}
    return selection_panels.panel(models, scores, {("mine", "mine", "max"): values})


def test_an_order_that_works_is_found() -> None:
    results = ordered(0.5)
    shown = report(results, "models", primary="mine")
    mine = row(shown, "mine")
    assert (mine["verdict"], mine["families"], mine["models"]) == ("better", 24, 24)
    scores = np.array(
        [[r.score for r in results.scores if r.task == f"T{t}"] for t in range(TASKS)]
    )
    values = [
        [r.values["mine"] for r in results.metrics if r.task == f"T{t}"] for t in range(TASKS)
    ]
    sizes = [float(r.parameters or 0) for r in results.models]
    rho = [statistics.spearman(x, y) for x, y in zip(values, scores, strict=True)]
    of_size = [statistics.spearman(sizes, y) for y in scores]
    assert mine["alone"] == pytest.approx(np.mean(rho))
    assert mine["control_alone"] == pytest.approx(np.mean(of_size))
    assert mine["effect"] == pytest.approx(mine["alone"] - mine["control_alone"])
    # a score of a metric that says nothing of it: either end, by other families
    rank = row(report(results, "models", primary="mine.rank"), "mine.rank")
    assert rank["picks"].startswith("either end")
    assert rank["verdict"] == "not shown"


def test_noise_orders_no_better_than_size() -> None:
    verdicts = [
        row(report(ordered(1e6, seed=seed), "models", primary="mine"), "mine")["verdict"]
        for seed in range(10)
    ]
    assert verdicts.count("better") <= 1
    shown = report(ordered(0.1, models=9), "models", primary="mine")
    assert row(shown, "mine")["verdict"] == "too few"
    assert not any("Holm" in line for line in shown.answer)  # nothing was tested


def test_sizes_alone_are_judged_by_one_another() -> None:
    results = ordered(1)
    shown = report(Results(models=results.models, scores=results.scores), "models")
    assert {each["rule"] for each in shown.table("rules").rows} == {BEST, "log width", "depth"}
    assert shown.facts["trial"]["control"] == "log parameters"
    dated = [replace(m, released=f"20{10 + i % 9}") for i, m in enumerate(results.models)]
    for models, control in ((dated, "size and date"), (dated[1:], "log parameters")):
        known = {m.model: m for m in models}
        rows = tuple(known.get(m.model, m) for m in results.models)
        shown = report(Results(models=rows, scores=results.scores), "models")
        assert shown.facts["trial"]["control"] == control


def test_the_plan_says_what_would_tell() -> None:
    shown = report(layers(10, 0.0), primary="good")
    plan = [each for each in shown.table("plan").rows if each["lead"] == "smallest"]
    assert [each["families"] for each in plan] == list(rule_trial.FAMILIES)
    for tasks in rule_trial.MANY:
        powers = [each[f"power.{tasks}"] for each in plan]
        assert powers == sorted(powers)
        assert 0 <= powers[0] <= powers[-1] <= 1


@pytest.mark.parametrize(
    ("of", "more", "said"),
    [
        ("layers", {"primary": "god"}, "unknown rule 'god'. Did you mean good"),
        ("layers", {"control": "depth"}, "unknown control 'depth'"),
        ("layers", {"primary": "last layer", "control": "last layer"}, "is the control"),
        ("layers", {"control": "bad"}, "either end"),
        ("layers", {"kind": "image"}, "kind image"),
        ("models", {}, "no task has scores of 4 models"),
    ],
)
def test_what_cannot_be_tried_is_said(of: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        report(choice_rows.results(), of, **more)


def test_nothing_to_choose_from() -> None:
    with pytest.raises(UserError, match="nothing to choose from"):
        report(Results())
    rows = choice_rows.results()
    kept = tuple(score for score in rows.scores if score.layer == score.layers)
    with pytest.raises(UserError, match="last and another layer"):
        report(Results(models=rows.models, scores=kept))
    plain = ordered(1)
    bare = Results(
        tuple(ModelRow(model=m.model) for m in plain.models), plain.scores, plain.metrics
    )
    with pytest.raises(UserError, match="no model's size is known"):
        report(bare, "models")
