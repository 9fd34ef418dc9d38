"""Panels of models in families, for the combined predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lrd_harness.board import panel
from lrd_harness.board.unseen import Combined, build_combined
from lrd_harness.results.rows import MetricRow, ModelRow, Results, ScoreRow

Values = Mapping[str, Sequence[float | None]]


def made(
    of: Sequence[str | None], scores: Sequence[float], values: Values, sizes: bool = True
) -> Results:
    """Models m0, m1, ... of these families, a score each, and values of metrics."""
    return Results(
        models=tuple(
            ModelRow(
                model=f"m{i}", family=name,
                parameters=10**7 * (1 + (7 * i) % 11) if sizes else None,
                width=128 * (1 + (5 * i) % 4) if sizes else None,
                blocks=4 + (3 * i) % 5 if sizes else None,
            )
            for i, name in enumerate(of)
        ),
        scores=tuple(
            ScoreRow(model=f"m{i}", task="T", layer=1, layers=1, score=float(score))
            for i, score in enumerate(scores)
        ),
        metrics=tuple(
            MetricRow(
                model=f"m{i}", task="T", metric=name, n=9, selection=("up", "max"),
                values={"up": float(value)},
            )
            for name, column in values.items()
            for i, value in enumerate(column)
            if value is not None
        ),
    )  # fmt: skip


def judged(results: Results) -> Combined:
    found = build_combined(panel.make(results))
    assert found is not None
    return found


def signal(models: int = 24, families: int = 6, noise: float = 0.01) -> Results:
    """A metric that goes with the scores in every family; sizes do not."""
    generator = np.random.default_rng(1)
    scores = generator.uniform(0.4, 0.8, models)
    values = {"good": (3 * scores + noise * generator.normal(size=models)).tolist()}
    values["noise"] = generator.normal(size=models).tolist()
    return made([f"f{i % families}" for i in range(models)], scores.tolist(), values)
