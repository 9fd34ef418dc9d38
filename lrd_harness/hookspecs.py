"""Every extension point. A plugin implements any of them with `lrd_harness.hookimpl`.

Each hook takes no argument and returns frozen records with a `.name`; see contracts.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from lrd_harness.contracts import (
    Adapter,
    Command,
    Metric,
    PanelMetric,
    Pruner,
    Reporter,
    Task,
    TaskFamily,
)

hookspec = pluggy.HookspecMarker("lrd_harness")
hookimpl = pluggy.HookimplMarker("lrd_harness")


@hookspec
def lrd_metrics() -> Sequence[Metric]:
    """Metrics: label-free measures of a model's states."""
    raise NotImplementedError


@hookspec
def lrd_panel_metrics() -> Sequence[PanelMetric]:
    """Panel metrics: label-free measures of several models on the same texts."""
    raise NotImplementedError


@hookspec
def lrd_adapters() -> Sequence[Adapter]:
    """Adapters: ways to open models."""
    raise NotImplementedError


@hookspec
def lrd_tasks() -> Sequence[Task | TaskFamily]:
    """Tasks, or families of tasks that are made from a name."""
    raise NotImplementedError


@hookspec
def lrd_pruners() -> Sequence[Pruner]:
    """Pruning rules."""
    raise NotImplementedError


@hookspec
def lrd_reporters() -> Sequence[Reporter]:
    """Forms of the leaderboard: texts, or folders of files."""
    raise NotImplementedError


@hookspec
def lrd_commands() -> Sequence[Command]:
    """Sub-commands of `lrd-harness`."""
    raise NotImplementedError
