"""Panels of models by size or in families, and what the tables of a report say by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np

from lrd_harness.report import Report
from lrd_harness.results.rows import MetricRow, ModelRow, Results, ScoreRow

Best = Literal["max", "min"]
Values = dict[tuple[int, int], float]  # (model, task) -> value
Metrics = Mapping[tuple[str, str, Best], Values]  # name, score, best -> values
WIDTHS = (128, 256, 384, 768, 1024)


def panel(models: int, scores: Values, metrics: Metrics, task_type: str = "STS") -> Results:
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


def in_families(
    families: Sequence[str | None],
    scores: Sequence[float],
    values: Mapping[str, Sequence[float | None]],
    best: Best = "max",
    sizes: bool = True,
) -> Results:
    """Models m0, m1, ... of these families, a score each on one task, and values of metrics."""
    return Results(
        models=tuple(
            ModelRow(
                model=f"m{i}", family=family,
                parameters=10**7 * (1 + (7 * i) % 11) if sizes else None,
                width=128 * (1 + (5 * i) % 4) if sizes else None,
                blocks=4 + (3 * i) % 5 if sizes else None,
            )
            for i, family in enumerate(families)
        ),
        scores=tuple(
            ScoreRow(model=f"m{i}", task="T", layer=1, layers=1, score=float(score))
            for i, score in enumerate(scores)
        ),
        metrics=tuple(
            MetricRow(
                model=f"m{i}", task="T", metric=name, n=9, selection=("s", best),
                values={"s": float(value)},
            )
            for name, column in values.items()
            for i, value in enumerate(column)
            if value is not None
        ),
    )  # fmt: skip


def grid(models: int, tasks: int, of: Any) -> Values:
    return {(i, t): float(of(i, t)) for i in range(models) for t in range(tasks)}


def of_size(models: int, tasks: int, noise: float, seed: int = 0) -> Values:
    """Scores that go with the width."""
    generator = np.random.default_rng(seed)
    steps = [i * len(WIDTHS) // models for i in range(models)]
    return grid(models, tasks, lambda i, t: 0.5 + (steps[i] + noise * generator.normal()) / 100)


def by(report: Report, table: str, key: str = "predictor") -> dict[Any, Any]:
    """The rows of a table by one of its columns, the last where several have the same."""
    return {row[key]: row for row in report.table(table).rows}


def joined(*parts: Results) -> Results:
    """All rows; of a model that is there twice the last."""
    rows = {f.name: tuple(r for p in parts for r in getattr(p, f.name)) for f in fields(Results)}
    rows["models"] = tuple({row.key: row for row in rows["models"]}.values())
    return Results(**rows)
