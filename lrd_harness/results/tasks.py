"""The tasks of mteb, with the subsets and splits that they are scored on here.

Embedding tasks and likelihood tasks kept apart: their scores and metrics are never averaged.

An embedding score asks of a layer's states how alike texts are, a likelihood score asks the
language-model head what comes next; means over both, or ranks from both, would mean nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.database import MetricRow, Results, ScoreRow

Kind = Literal["embedding", "base"]


@dataclass(frozen=True)
class Sides:
    """Results by kind of task.

    kind: of the rows in `main`: "base" where there are likelihood tasks only.
    main: all that is not in `base`: also errors, captures, and rows of tasks of unknown type.
    base: the rows of likelihood tasks, and the models that have any; None where there are none, or
        where they are in `main`.
    """

    kind: Kind
    main: Results
    base: Results | None = None


def likelihood_tasks(results: Results) -> frozenset[str]:
    """The names of the likelihood tasks, as scores and metrics have it; a score has the last word.

    Metrics recorded before they said their task's type leave it to the scores.
    """
    types = {row.task: row.task_type for row in results.metrics if row.task_type}
    types |= {row.task: row.task_type for row in results.scores if row.task_type}
    return frozenset(task for task, kind in types.items() if kind == LIKELIHOOD)


def split(results: Results) -> Sides:
    """The two sides. Without both kinds of task the results are `main` as they are."""
    likelihood = likelihood_tasks(results)

    def is_base(row: ScoreRow | MetricRow) -> bool:
        return row.task_type == LIKELIHOOD or (not row.task_type and row.task in likelihood)

    rows: list[ScoreRow | MetricRow] = [*results.scores, *results.metrics]
    found = {is_base(row) for row in rows if row.variant == "full"}
    if True not in found:
        return Sides("embedding", results)
    if False not in found:
        return Sides("base", results)
    undefined = tuple(row for row in results.undefined if row.task in likelihood)
    keys = {row.key for row in rows if is_base(row)} | {row.key for row in undefined}
    main = replace(
        results,
        scores=tuple(row for row in results.scores if not is_base(row)),
        metrics=tuple(row for row in results.metrics if not is_base(row)),
        undefined=tuple(row for row in results.undefined if row.task not in likelihood),
    )
    base = Results(
        models=tuple(row for row in results.models if row.key in keys),
        scores=tuple(row for row in results.scores if is_base(row)),
        metrics=tuple(row for row in results.metrics if is_base(row)),
        undefined=undefined,
    )
    return Sides("embedding", main, base)


@functools.cache
def _english() -> Mapping[str, Any]:
    """Subsets and splits of the tasks of mteb's English benchmark, whose scores are published."""
    import mteb

    return {
        task.metadata.name: {"hf_subsets": task.hf_subsets, "eval_splits": task.eval_splits}
        for task in mteb.get_benchmark("MTEB(eng, v1)").tasks
    }


def task(name: str) -> Any:
    """A new task object, as mteb's English benchmark has it; else English, and split test.

    Raises KeyError for a name that mteb does not know.
    """
    import mteb

    chosen = _english().get(name)
    if chosen is not None:
        return mteb.get_task(name, **chosen)
    try:
        found = mteb.get_task(name, languages=["eng"], exclusive_language_filter=True)
    except ValueError:  # a task of other languages only
        found = mteb.get_task(name)
    if "test" in found.eval_splits:
        found.filter_eval_splits(["test"])
    return found
