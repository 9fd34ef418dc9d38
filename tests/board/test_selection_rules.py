"""What an interval, a verdict and a column may say: few runs, holes, sizes unknown, many models."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import pytest
from selection_panels import grid, of_size, panel, rows, verdicts

from lrd_harness.board.agreement import Rival, of_selection, verdict
from lrd_harness.board.leaderboard import build
from lrd_harness.results.database import Results


def test_an_interval_is_of_the_same_tasks_as_its_median() -> None:
    """Tasks of 4 models count in a median, but cannot be drawn: no interval beside it."""
    generator = np.random.default_rng(0)
    scores, values = {}, {}
    for t in range(11):
        chosen = generator.choice(30, 4, replace=False).tolist() if t < 6 else range(30)
        for i in chosen:
            scores[i, t] = generator.normal()
            values[i, t] = -scores[i, t] if t < 6 else scores[i, t] + 0.1 * generator.normal()
    board = build(panel(30, scores, {("my", "s", "max"): values}))
    found = rows(board)["my.s"]
    assert found.rho == pytest.approx(-1)
    assert (found.models_low, found.models_high) == (None, None)
    assert {(rival.low, rival.high) for rival in found.rivals} == {(None, None)}
    whole = {at: v for at, v in scores.items() if at[1] >= 6}
    found = rows(build(panel(30, whole, {("my", "s", "max"): values})))["my.s"]
    assert (found.models_low or 0.0) > 0.9


def test_a_model_of_unknown_size_may_be_the_best() -> None:
    scores = grid(6, 2, lambda i, t: i / 10)
    held = panel(6, scores, {("my", "s", "max"): scores})
    models = tuple(dataclasses.replace(m, parameters=None) if m.model == "m5" else m
        for m in held.models)  # fmt: skip
    found = rows(build(dataclasses.replace(held, models=models)))["my.s"]
    largest = max(models, key=lambda m: m.parameters or 0).model
    assert found.regret == 0
    assert found.regret_largest == pytest.approx(0.5 - int(largest[1]) / 10)
    assert found.regret_random == pytest.approx(0.25)


def test_checkpoints_of_one_run_are_few_models() -> None:
    scores = of_size(12, 6, 1)
    held = panel(12, scores, {("my", "s", "max"): scores})

    def named(row: Any) -> Any:
        return dataclasses.replace(row, model=f"org/one@step{1000 * int(row.model[1:])}")

    same = dataclasses.replace(held.models[0], blocks=4, width=128)
    models = tuple(
        dataclasses.replace(named(m), blocks=same.blocks, width=same.width) for m in held.models
    )
    kin = Results(models, tuple(map(named, held.scores)), tuple(map(named, held.metrics)))
    board = build(kin)
    assert board.selection is not None
    assert (board.selection.models, board.selection.runs) == (12, 1)
    said = of_selection(board.selection)
    note = "12 models from 1 training run: p and intervals take them as independent."
    assert note in said
    assert note in board.notes
    assert any(
        line.startswith("my.s: too few training runs to say (1 of 12 models, the median over")
        for line in said
    )
    apart = build(held)
    assert apart.selection is not None
    assert apart.selection.runs == 12
    assert not any("training run" in line for line in of_selection(apart.selection))


def test_a_lead_that_rounds_to_nothing_is_none() -> None:
    rival = Rival("log width", True, 0.7041, 0.7, 0.001, 0.01, 12, 12, 6)
    one = rows(build(panel(12, of_size(12, 6, 1), {("my", "s", "max"): of_size(12, 6, 2)})))["my.s"]
    said = verdict(dataclasses.replace(one, rivals=(rival,)))
    assert said == "my.s: no better than log width (median rho +0.70 against +0.70)."
    seen = dataclasses.replace(rival, own=0.706)
    said = verdict(dataclasses.replace(one, rivals=(seen,)))
    assert said.startswith("my.s: better than every size baseline (closest: log width")


def test_above_500_models_the_tables_explain_themselves() -> None:
    sheets: Any = importlib.import_module("lrd_harness.plugins.reporters._selection")
    kin: Any = importlib.import_module("lrd_harness.plugins.reporters._families")
    scores = of_size(510, 6, 9)
    noise = np.random.default_rng(2)
    values = {at: v + noise.normal() / 100 for at, v in scores.items()}
    held = panel(510, scores, {("my", "s", "max"): values})
    models = tuple(dataclasses.replace(m, family=f"f{i % 2}") for i, m in enumerate(held.models))
    board = build(dataclasses.replace(held, models=models))
    assert board.selection is not None
    assert board.selection.large
    (sheet,) = sheets.selection_sheets(board)
    headings = [" ".join(column.heading) for column in sheet.columns]
    assert "95 % over tasks" in headings
    assert "95 % over models" not in headings
    assert "above 500 models none is drawn over models" in " ".join(sheet.legend)
    said = verdicts(board)["my.s"]
    assert "every size baseline (over tasks, not models; closest: " in said
    assert {rival.over for rival in rows(board)["my.s"].rivals} == {"tasks"}
    within, _ = kin.family_sheets(board)
    assert "p" not in [column.heading[0] for column in within.columns]
    assert "no p is drawn above 5,000 pairs of kin" in within.legend[0]
    few = build(panel(12, of_size(12, 6, 1), {("my", "s", "max"): of_size(12, 6, 2)}))
    (sheet,) = sheets.selection_sheets(few)
    headings = [" ".join(column.heading) for column in sheet.columns]
    assert {"95 % over models", "regret ↓ (largest)", "regret ↓ (random)"} <= set(headings)
    assert "500 models" not in " ".join(sheet.legend)
