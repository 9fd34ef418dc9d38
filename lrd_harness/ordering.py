"""The order of results: that of the run's models and tasks, whichever was finished first.

Several processes, and slices that ran beside each other, finish units in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lrd_harness.rows import Results

Place = Callable[[str | None], int]


def ordered(results: Results, held: Mapping[str, Any]) -> Results:
    """The rows by model, task, metric and layer, as run.json (`held`) lists these.

    What it does not list comes last, in the order in which it was finished.
    """
    model, task, metric = (_places(held.get(kind)) for kind in ("models", "tasks", "metrics"))
    return replace(
        results,
        models=tuple(sorted(results.models, key=lambda r: model(r.model))),
        scores=tuple(sorted(results.scores, key=lambda r: (model(r.model), task(r.task), r.layer))),
        metrics=tuple(
            sorted(results.metrics, key=lambda r: (model(r.model), task(r.task), metric(r.metric)))
        ),
        errors=tuple(sorted(results.errors, key=lambda r: (model(r.model), task(r.task)))),
        undefined=tuple(
            sorted(results.undefined, key=lambda r: (model(r.model), task(r.task), r.layer))
        ),
        prunings=tuple(sorted(results.prunings, key=lambda r: model(r.model))),
        variants=tuple(sorted(results.variants, key=lambda r: model(r.model))),
        sweeps=tuple(sorted(results.sweeps, key=lambda r: model(r.model))),
    )


def _places(entries: Sequence[Mapping[str, Any]] | None) -> Place:
    """Of a name, its place in a list of run.json."""
    listed = {entry.get("name"): i for i, entry in enumerate(entries or ())}
    return lambda name: listed.get(name, len(listed))
