"""Panels that tests of the selection table share, and what is found of them by name."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from lrd_harness.board.agreement import Agreement, of_selection
from lrd_harness.board.leaderboard import Leaderboard
from lrd_harness.results.database import MetricRow, ModelRow, Results, ScoreRow

Best = Literal["max", "min"]
Values = dict[tuple[int, int], float]  # (model, task) -> value
WIDTHS = (128, 256, 384, 768, 1024)


def panel(
    models: int,
    scores: Values,
    metrics: dict[tuple[str, str, Best], Values],
    task_type: str = "STS",
) -> Results:
    """Models of five widths, m0 the narrowest; parameters and depth in another order."""
    rows = [
        ModelRow(
            model=f"m{i}",
            parameters=10**6 * (1 + (7 * i) % models),
            width=WIDTHS[i * len(WIDTHS) // models],
            blocks=4 + (3 * i) % 5,
        )
        for i in range(models)
    ]
    blocks = {f"m{i}": row.blocks or 0 for i, row in enumerate(rows)}
    return Results(
        models=tuple(rows),
        scores=tuple(
            ScoreRow(
                model=f"m{i}", task=f"T{t}", task_type=task_type,
                layer=blocks[f"m{i}"], layers=blocks[f"m{i}"], score=value,
            )
            for (i, t), value in scores.items()
        ),
        metrics=tuple(
            MetricRow(
                model=f"m{i}", task=f"T{t}", task_type=task_type, metric=name, n=9,
                selection=(score, best), values={score: value, "rank": float((i * i) % 7)},
            )
            for (name, score, best), values in metrics.items()
            for (i, t), value in values.items()
        ),
    )  # fmt: skip


def grid(models: int, tasks: int, of: Any) -> Values:
    return {(i, t): float(of(i, t)) for i in range(models) for t in range(tasks)}


def of_size(models: int, tasks: int, noise: float, seed: int = 0) -> Values:
    """Scores that go with the width."""
    generator = np.random.default_rng(seed)
    steps = [i * len(WIDTHS) // models for i in range(models)]
    return grid(models, tasks, lambda i, t: 0.5 + (steps[i] + noise * generator.normal()) / 100)


def rows(board: Leaderboard) -> dict[str, Agreement]:
    assert board.selection is not None
    return {row.name: row for row in board.selection.rows}


def verdicts(board: Leaderboard) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in of_selection(board.selection)[1:])
