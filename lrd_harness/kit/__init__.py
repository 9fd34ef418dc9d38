"""The conformance kit: what must hold of a plugin's record, and what to do where it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrd_harness import contracts
from lrd_harness.kit.checking import Checks
from lrd_harness.kit.choices import CommandChecks, PrunerChecks, ReporterChecks
from lrd_harness.kit.metrics import MetricChecks, PanelChecks
from lrd_harness.kit.models import AdapterChecks
from lrd_harness.kit.tasks import FamilyChecks, TaskChecks

CHECKS: Mapping[type, type[Checks]] = {
    contracts.Metric: MetricChecks,
    contracts.PanelMetric: PanelChecks,
    contracts.Adapter: AdapterChecks,
    contracts.Task: TaskChecks,
    contracts.TaskFamily: FamilyChecks,
    contracts.Pruner: PrunerChecks,
    contracts.Reporter: ReporterChecks,
    contracts.Command: CommandChecks,
}


def checks_of(record: Any, given: Any = None) -> Checks:
    """The checks of a record of any kind; given: see the class. Raises TypeError for no record."""
    kinds = (checks for kind, checks in CHECKS.items() if isinstance(record, kind))
    return next(kinds, Checks)(record, given)
