"""What of a plan is still to be done: what the ledger does not hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lrd_harness.contracts import Task
from lrd_harness.parameters import PlannedMetric
from lrd_harness.plan import Plan, PlannedModel
from lrd_harness.units import Ledger, metric_unit, unit


class Todo:
    """The units of a plan that are not recorded yet."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.plan, self.ledger = plan, ledger

    def pending(self, planned: PlannedModel, blocks: int, tasks: Sequence[Task]) -> bool:
        """Whether any unit of these tasks is not recorded, or only as an error."""
        own = [t for t in tasks if planned.takes(t)]
        keys = [unit(planned, t.name, layer) for t in own for layer in self.layers(t, blocks)]
        keys += [metric_unit(planned, t, item) for t in own for item in self.plan.metrics]
        return any(map(self.ledger.undone, keys))

    def layers(self, task: Task, blocks: int) -> Sequence[int]:
        """The layers that a task is evaluated at: 0..L, L alone, or chosen ones."""
        chosen = self.plan.settings.layers
        if task.evaluate is None:
            return []
        if chosen == "last":
            return [blocks]
        if isinstance(chosen, str):
            return range(blocks + 1)
        pruned = self.plan.pruning is not None and task in self.plan.pruning.tasks
        return sorted({*chosen, blocks}) if pruned else chosen  # what is left is compared with L

    def unmeasured(
        self, planned: PlannedModel, tasks: Iterable[Task]
    ) -> dict[Task, list[PlannedMetric]]:
        """The metrics that are still to be measured on each task."""
        return {
            task: [
                m for m in self.plan.metrics if self.ledger.undone(metric_unit(planned, task, m))
            ]
            for task in tasks
        }
