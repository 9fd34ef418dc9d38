"""Layer-wise representation dynamics: every layer of a language model, measured and evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout `plugins/` and `tasks/` lie beside this package; installed, they lie within it.
if (Path(__file__).parent.parent / "setup.cfg").is_file():
    __path__.append(str(Path(__file__).parent.parent))

if TYPE_CHECKING:
    import pandas as pd

    from lrd_harness.api import Results as Results
    from lrd_harness.api import Shown
    from lrd_harness.api import compare as compare
    from lrd_harness.api import layer as layer
    from lrd_harness.api import open as open
    from lrd_harness.api import prune as prune
    from lrd_harness.api import run as run
    from lrd_harness.api import select as select
    from lrd_harness.contracts import Adapter as Adapter
    from lrd_harness.contracts import Choice as Choice
    from lrd_harness.contracts import Metric as Metric
    from lrd_harness.contracts import Task as Task
    from lrd_harness.hookspecs import hookimpl as hookimpl
    from lrd_harness.measuring import Arrays
    from lrd_harness.runner.encoder import mteb_model as mteb_model
    from lrd_harness.scores import Profile as Profile
    from lrd_harness.scores import Scores
    from lrd_harness.scores import summaries as summaries

_EXPORTS = {
    "hookimpl": "hookspecs",
    **dict.fromkeys(("Profile", "summaries"), "scores"),
    "mteb_model": "runner.encoder",
    **dict.fromkeys(
        (
            "Adapter Checkpoint Choice Command Metric ModelInfo ModelOptions ModelView PanelMetric "
            "Pruner Reporter Request Score Summary Task TaskFamily TaskOptions Text"
        ).split(),
        "contracts",
    ),
    **dict.fromkeys(
        ("UserError UnitError NotEnoughTexts NotEnoughTokens NotFinite DegenerateState").split(),
        "errors",
    ),
    **dict.fromkeys("Results compare layer open prune run select".split(), "api"),
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `lrd-harness --help` does not wait for torch."""
    import importlib
    import sys

    if name not in _EXPORTS:
        versions = importlib.import_module("lrd_harness.versions")
        if (old := f"lrd_harness.{name}") not in versions.DEPRECATED:
            raise AttributeError(f"module 'lrd_harness' has no attribute '{name}'")
        name = versions.deprecated(old, versions.caller(sys._getframe(1))).new
    return getattr(importlib.import_module(f"lrd_harness.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


def measure(
    metric: str | Metric, states: Arrays, labels: Sequence[Any] | None = None, /, **parameters: Any
) -> Scores:
    """The scores of one metric on one sample: `measuring.measure`, by the metric's name too.

    Raises UserError for an unknown metric, and what `measuring.measure` raises.

    Examples
    --------
    >>> import numpy as np
    >>> states = np.random.default_rng(0).normal(size=(5, 40, 16)).cumsum(0)  # L + 1 arrays (n, d)
    >>> round(measure("nrs", states, k=5)["chance"], 4)
    0.0751
    """
    from lrd_harness import manager, measuring

    if isinstance(metric, str):
        record: Metric = manager.load().get("metric", metric)
        return measuring.measure(record, states, labels, **parameters)
    return measuring.measure(metric, states, labels, **parameters)


def values(out: str | Path) -> pd.DataFrame:
    """Every value that a run recorded, one per row; of a metric measured anew, the last ones.

    Parameters
    ----------
    out : path
        The output folder of a run.

    Returns
    -------
    DataFrame
        model, revision, variant ("full", or "without 3,7-9"), side ("embedding", "base" or
        "image"), task, task_type, source ("score" or the name of a metric), name, layer (none for
        values of the whole model), layers, value, stderr, chance, n, start.

    Raises UserError where the folder is not a run's, or is damaged.

    Examples
    --------
    >>> values("no-such-folder")
    Traceback (most recent call last):
    lrd_harness.errors.UserError: no such folder: no-such-folder
    """
    from lrd_harness.runner import folder

    return folder.shown(Path(out)).frame


def leaderboard(out: str | Path) -> Shown:
    """The leaderboard of a run as tables, as `lrd-harness leaderboard OUT` prints them.

    Raises UserError where the folder is not a run's, or is damaged.

    Examples
    --------
    >>> leaderboard("no-such-folder").table("ranking").rows
    Traceback (most recent call last):
    lrd_harness.errors.UserError: no such folder: no-such-folder
    """
    from lrd_harness.api import Results

    return Results(out).leaderboard()
