"""The conformance kit: what must hold of a plugin's record, and what to do where it does not."""

from __future__ import annotations

from typing import Any

from lrd_harness.contracts import Adapter, Command, Metric, PanelMetric, Pruner, Task, TaskFamily
from lrd_harness.kit.checking import Checks
from lrd_harness.kit.choices import CommandChecks, PrunerChecks, ReporterChecks
from lrd_harness.kit.metrics import MetricChecks, PanelChecks
from lrd_harness.kit.models import AdapterChecks
from lrd_harness.kit.tasks import FamilyChecks, TaskChecks


def checks_of(record: Any, *given: str) -> Checks:
    """The checks of a record of any kind.

    given: of an adapter a checkpoint, of a family of tasks names, of a command words to run it by.
    Raises TypeError for what is no record.
    """
    match record:
        case Metric():
            return MetricChecks(record, {})
        case PanelMetric():
            return PanelChecks(record, {})
        case Adapter():
            return AdapterChecks(record, given[0] if given else None)
        case Task():
            return TaskChecks(record)
        case TaskFamily():
            return FamilyChecks(record, given)
        case Pruner():
            return PrunerChecks(record)
        case Command():
            return CommandChecks(record, given or None)
    return ReporterChecks(record)
