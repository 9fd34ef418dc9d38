"""Units of work: their names, the record of each in the journal, what is still to be done."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

from lrd_harness.contracts import Task
from lrd_harness.errors import Elsewhere, described
from lrd_harness.measuring import PlannedMetric
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.processes import Ranks
from lrd_harness.progress import Display
from lrd_harness.results import database, journal
from lrd_harness.store import location
from lrd_harness.store.files import full

LONGEST_TRACE = 50_000  # characters: a message may hold all that was read
ODD = ("asked", "duplicates", "empty", "truncated")


class Ledger:
    """The finished units of a run: those of its folder's journals, and those recorded now.

    failed: the units that failed since this ledger was opened.
    """

    def __init__(self, out: Path, display: Display) -> None:
        database.restore(out)
        self._out, self._display = out, display
        self._journal = journal.Journal(out)
        self.failed: set[str] = set()
        self.refresh()

    @property
    def errors(self) -> int:
        """How many units failed since this ledger was opened."""
        return len(self.failed)

    def refresh(self) -> None:
        """Take note of what other processes have recorded."""
        self._records = {r["unit"]: r for r in journal.latest(journal.read(self._out))}

    def meet(self, ranks: Ranks) -> None:
        """Wait for the other processes, and take note of what they have recorded.

        None goes on before all have: they decide alike.
        """
        if ranks.world > 1:
            ranks.wait()
            self.refresh()
            ranks.wait()

    def undone(self, key: str) -> bool:
        """Whether a unit is not recorded yet, or only as an error, which is tried again."""
        held = self._records.get(key)
        return held is None or held["kind"] == "error"

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a unit that was finished without an error."""
        return None if self.undone(key) else self._records[key]

    def record(self, kind: str, key: str, planned: PlannedModel, **fields: Any) -> None:
        """Keep a finished unit; when this returns, it is on disk."""
        record = {
            "kind": kind,
            "unit": key,
            "model": planned.name,
            "revision": planned.checkpoint.revision,
            "variant": "full",
            **fields,
        }
        self._journal.append(record)
        self._records[key] = record

    def fail(
        self, key: str, planned: PlannedModel, error: Exception, **where: str | int | None
    ) -> None:
        """Keep a unit's error (task, layer, metric say where) and show it; the run goes on.

        Raises StorageFull instead where a full disk is behind it, which is no fault of the unit.
        """
        no_space = full(error)
        if no_space is not None:
            raise no_space from error
        if isinstance(error, Elsewhere):  # no fault of this unit: the run is at its end
            raise error
        self.failed.add(key)
        text = location.text(described(error))
        place = ", ".join(f"{k} {v}" for k, v in where.items() if v is not None)
        line = text or type(error).__name__
        self._display.line(f"error: {planned.name}{': ' if place else ''}{place}: {line}")
        trace = location.text("".join(traceback.format_exception(error)))[-LONGEST_TRACE:]
        nowhere: dict[str, Any] = {"task": None, "layer": None, "metric": None}
        self.record("error", key, planned, **{**nowhere, **where}, error=text, traceback=trace)

    def mend(self, key: str, planned: PlannedModel) -> None:
        """Note that what failed in an earlier call has now succeeded, if it had failed."""
        if key in self._records and self.undone(key):
            self.record("mended", key, planned)

    def met(self) -> dict[str, dict[str, dict[str, int]]]:
        """By model and task: texts asked for, duplicates, empty and truncated ones among them."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for record in self._records.values():
            if record["kind"] == "texts":
                counts = {name: record[name] for name in ODD}
                found.setdefault(record["model"], {})[record["task"]] = counts
        return found

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def unit(planned: PlannedModel, *parts: object) -> str:
    """The name under which a finished piece of work is known; settings are fixed for a folder."""
    return "|".join([f"{planned.name}@{planned.checkpoint.revision}", *map(str, parts)])


def metric_unit(planned: PlannedModel, task: Task, item: PlannedMetric) -> str:
    """A metric's unit: other parameters or another version of it are other units."""
    parameters = json.dumps(dict(item.parameters), sort_keys=True, default=str)
    return unit(planned, task.name, "metric", item.metric.name, item.metric.version, parameters)
