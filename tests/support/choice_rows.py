"""Scores and profiles over layers as rows, small enough to be reckoned by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.rows import MetricRow, ModelRow, Profile, Results, ScoreRow

BLOCKS = 4
# Best at 2, 3 and 1; over the last layer: +.10, +.10, +.20
SCORES = {
    "t1": (0.30, 0.45, 0.60, 0.55, 0.50),
    "t2": (0.20, 0.30, 0.40, 0.60, 0.50),
    "t3": (0.10, 0.60, 0.50, 0.50, 0.40),
}
# "good" is lowest at the best layer of t1 and t2, and at 2 on t3; "bad" has no direction.
GOOD = {"t1": (5.0, 4.0, 1.0, 2.0, 3.0), "t2": (5.0, 4.0, 3.0, 1.0, 2.0), "t3": (9.0, 3, 1, 1, 4)}
BAD = dict.fromkeys(SCORES, (3.0, 2.0, 1.5, 1.0))  # a value a step: none at layer 4


def scores(task: str, values: Sequence[float | None], model: str = "a", **more: Any) -> list[Any]:
    fields = {"layers": BLOCKS} | more
    return [
        ScoreRow(model=model, task=task, layer=layer, score=value, **fields)
        for layer, value in enumerate(values)
        if value is not None
    ]


def metric(
    name: str, task: str, values: Sequence[float | None], model: str = "a", **more: Any
) -> MetricRow:
    profile = Profile(tuple(range(len(values))), tuple(values))
    fields: dict[str, Any] = {"n": 20, "profiles": {name: profile, "other": profile}} | more
    return MetricRow(model=model, task=task, metric=name, **fields)


def results(tasks: Mapping[str, Sequence[float | None]] = SCORES, **parts: Any) -> Results:
    """One model "a", metrics good (argmin) and bad (nothing published)."""
    fields: dict[str, Any] = {
        "models": (ModelRow(model="a", blocks=BLOCKS),),
        "scores": tuple(row for task, values in tasks.items() for row in scores(task, values)),
        "metrics": tuple(
            row
            for task in tasks
            if task in GOOD
            for row in (
                metric("good", task, GOOD[task], layer_choice=("good", "min")),
                metric("bad", task, BAD[task]),
            )
        ),
    }
    return Results(**(fields | parts))


def likelihood() -> Results:
    """The same with a likelihood task, on which the metric chooses badly."""
    embedding = results()
    kind: dict[str, Any] = {"task_type": LIKELIHOOD}
    lm = scores("lm", (0.25, 0.25, 0.3, 0.5, 0.4), **kind)
    worst = metric("good", "lm", (1.0, 2, 3, 4, 5), layer_choice=("good", "min"), **kind)
    return Results(embedding.models, (*embedding.scores, *lm), (*embedding.metrics, worst))
