"""What mteb's package knows: tasks with the subsets scored in its English benchmark, and models."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

DATE = re.compile(r"\d{4}(-\d{2}){0,2}", re.ASCII)


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


def released(model: str) -> str | None:
    """The release date that mteb's registry has for a model, as exact as it is known.

    model: the name in results; a revision or pooling of the user's (`NAME@REVISION`, `NAME [cls]`)
    was released with NAME. None for a model that mteb does not know.
    """
    import mteb

    try:
        date = str(mteb.get_model_meta(hub_name(model), fetch_from_hf=False).release_date)
    except (KeyError, ValueError):
        return None
    return date if DATE.fullmatch(date) else None


def hub_name(model: str) -> str:
    """The name without revision and pooling: `NAME@REVISION [cls]` is NAME."""
    return model.partition(" [")[0].partition("@")[0]
