"""Scores and profiles over layers of several models, with ties and holes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrd_harness.results.rows import MetricRow, ModelRow, Profile, Results, ScoreRow

# model -> blocks, family, adapter
MODELS = {
    "a": (4, "bert", "encoder"),
    "b": (8, "bert", "sentence-transformers"),
    "c": (6, "llama", "decoder"),
    "d": (12, "qwen3", "sentence-transformers"),
}
TASKS = {"t1": "STS", "t2": "STS", "t3": "Clustering"}
Cells = Sequence[float | None]


def scored(model: str, task: str, values: Cells, **more: Any) -> list[ScoreRow]:
    kind: dict[str, Any] = {"task_type": TASKS.get(task, ""), "layers": len(values) - 1} | more
    return [
        ScoreRow(model=model, task=task, layer=layer, score=value, **kind)
        for layer, value in enumerate(values)
        if value is not None
    ]


def measured(
    metric: str, model: str, task: str, profiles: Mapping[str, Profile], **more: Any
) -> MetricRow:
    kind: dict[str, Any] = {"n": 20, "task_type": TASKS.get(task, "")} | more
    return MetricRow(model=model, task=task, metric=metric, profiles=profiles, **kind)


def profile(values: Cells, start: int = 0) -> Profile:
    return Profile(tuple(range(start, start + len(values))), tuple(values))


def random_results(seed: int = 0) -> Results:
    """Ties and holes: values of a few levels, some missing, a task that a model lacks."""
    generator = np.random.default_rng(seed)

    def curve(n: int) -> list[float | None]:
        return [None if v < 1 else float(v) / 8 for v in generator.integers(0, 7, n)]

    scores: list[ScoreRow] = []
    metrics: list[MetricRow] = []
    for model, (blocks, _, _) in MODELS.items():
        for task in TASKS:
            if (model, task) == ("b", "t3"):
                continue
            scores += scored(model, task, curve(blocks + 1))
            state = {"m": profile(curve(blocks), start=1), "w": profile(curve(blocks + 1))}
            metrics.append(measured("m", model, task, state, layer_choice=("m", "min")))
            metrics.append(
                measured("s", model, task, {"step": profile(curve(blocks))}, selection=("v", "max"))
            )
    rows = tuple(
        ModelRow(model=m, blocks=b, family=f, adapter=a) for m, (b, f, a) in MODELS.items()
    )
    return Results(models=rows, scores=tuple(scores), metrics=tuple(metrics))


def plain_lines(results: Results, source: str) -> dict[tuple[str, str], tuple[Any, Any, Any]]:
    """Of (model, task): layers, values and depths, NaN for holes; where two are there."""
    lines = {}
    if source == "score":
        for model, (blocks, _, _) in MODELS.items():
            for task in TASKS:
                scores = {
                    s.layer: s.score for s in results.scores if (s.model, s.task) == (model, task)
                }
                values = np.array([scores.get(layer, np.nan) for layer in range(blocks + 1)])
                lines[model, task] = np.arange(blocks + 1), values
    else:
        metric, name = source.split(".")
        for m in results.metrics:
            if m.metric == metric:
                layers, numbers, _ = m.profiles[name]
                lines[m.model, m.task] = np.array(layers), np.array(numbers, dtype=float)
    return {
        place: (layers, values, np.linspace(0, 1, len(layers)))
        for place, (layers, values) in lines.items()
        if np.sum(~np.isnan(values)) > 1
    }
