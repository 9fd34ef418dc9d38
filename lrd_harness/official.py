"""The tasks of mteb, with the subsets and splits that they are scored on here."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any


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
