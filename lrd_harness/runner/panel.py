"""The panel metrics of a run: what models make of the same texts, compared when all are read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lrd_harness.capture.layers import StoredStates, planes
from lrd_harness.capture.likelihoods import Reader
from lrd_harness.capture.samples import drawn
from lrd_harness.contracts import Task, Text
from lrd_harness.errors import layer_number
from lrd_harness.measuring import PlannedPanel
from lrd_harness.panels import ByModel, check_state, given, measure_panel
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.resolve import Plan
from lrd_harness.processes import Ranks
from lrd_harness.progress import Display
from lrd_harness.runner.units import Context, Ledger

MOST = 2000  # texts


class Panel:
    """The panel metrics of a run."""

    def __init__(
        self, plan: Plan, ledger: Ledger, out: Path, display: Display, ranks: Ranks
    ) -> None:
        self.plan, self.ledger, self.ranks, self.display = plan, ledger, ranks, display
        self._context = partial(Context, plan, ledger=ledger, out=out, display=display, ranks=ranks)
        self._states: dict[tuple[str, str], StoredStates] = {}  # by model and task
        # each kept once, however many models read it alike
        self._samples: dict[tuple[Text, ...], tuple[Text, ...]] = {}

    def order(self) -> list[tuple[int, PlannedModel]]:
        """The models, numbered from 1; first those that could not be read in an earlier call.

        Whether they are of the panel has then been found out when the others' turn comes.
        """
        numbered = list(enumerate(self.plan.models, 1))
        if not self.plan.panel:
            return numbered
        return sorted(numbered, key=lambda pair: self._sound(pair[1]))

    def _sound(self, planned: PlannedModel) -> bool:
        context = self._context(planned)
        return all(context.readable(task) for task in self.plan.tasks if planned.takes(task))

    def take(self, context: Context, reader: Reader, task: Task) -> None:
        """Note where the states of a model on a task's texts are, if there is something to compare.

        The texts are those of metrics, at most 2,000 of them; all models have the same.
        """
        if not self.plan.panel:
            return
        sample = tuple(drawn(reader.sample(task), MOST))
        sample = self._samples.setdefault(sample, sample)
        chosen = planes(reader.model, self.plan.settings.norm)
        states = StoredStates(reader.store, sample, chosen, context.planned.options.device)
        self._states[context.planned.name, task.name] = states

    def measure(self) -> None:
        """Measure what is not recorded yet; values are recorded model by model, or errors."""
        if not self.plan.panel:
            return
        self.ledger.meet(self.ranks)
        context = self._context(self.plan.models[0], place="all models")
        alone, work = [], []
        for task in self.plan.tasks:
            panel = context.panel(task)
            if len(panel) < 2:
                alone.append(task.name)
            lacking = [m.name for m in panel if (m.name, task.name) not in self._states]
            items = context.uncompared(task)
            if items and lacking:  # one has failed that did not before
                self.display.line(f"{task.name}: the same command compares its models")
                continue
            work += [partial(self._measure, context, task, item, panel) for item in items]
        if alone:
            names = ", ".join(item.metric.name for item in self.plan.panel)
            self.display.line(f"{names}: fewer than two models to compare on {', '.join(alone)}")
        if self.ranks.first(len(work)):
            context.work_through("panel metrics", work)
        self.ledger.meet(self.ranks)

    def _measure(
        self, context: Context, task: Task, item: PlannedPanel, panel: Sequence[PlannedModel]
    ) -> None:
        """A panel metric on the texts of a task. A model with unsound states is left out."""
        begun, metric = time.perf_counter(), item.metric
        stored = {model.name: self._states[model.name, task.name] for model in panel}
        units = {m.name: context.of(m).panel_unit(task, item, panel) for m in panel}
        where: dict[str, Any] = {"task": task.name, "metric": metric.name}
        state, arguments = given(item)
        sound: list[PlannedModel] = []

        def read(model: str) -> Any:
            """From the store, each time."""
            states, last = stored[model], len(stored[model]) - 1
            chosen = last if isinstance(state, str) else layer_number(state, model, last)
            return states if state == "all" else states[chosen]

        for model in panel:
            with context.of(model).attempt(units[model.name], **where):
                check_state(metric, model.name, read(model.name))
                sound.append(model)
        if not sound:
            return
        try:
            families = {model.name: self._family(context.of(model)) for model in sound}
            scores = measure_panel(metric, ByModel(families, read), families, **arguments)
        except Exception as error:  # that of all models: recorded for each, told once
            for model in sound:
                context.of(model).fail(units[model.name], error, **where)
                context = self._context(model, display=Display(quiet=True))
            return
        names = [f"{model.name}@{model.checkpoint.revision}" for model in sound]
        fields = {
            **where,
            "task_type": task.type,
            "version": metric.version,
            "n": len(stored[sound[0].name].texts),
            "parameters": {**item.written, "norm": self.plan.settings.norm, "panel": names},
            "selection": metric.selection,
            "seconds": (time.perf_counter() - begun) / len(sound),
        }
        for model in sound:
            values, name = scores.values(model.name), model.name
            pairs = {score: rows[name] for score, rows in scores.pairs.items()}
            context.of(model).record("metric", units[name], **fields, values=values, pairs=pairs)

    def _family(self, context: Context) -> str | None:
        return (self.ledger.get(context.unit("model")) or {}).get("family") or None

    def recorded(self) -> dict[str, dict[str, list[str]]]:
        """By panel metric and task, the models that were compared, as NAME@REVISION."""
        panels: dict[str, dict[str, list[str]]] = {item.metric.name: {} for item in self.plan.panel}
        for task in self.plan.tasks if panels else ():
            panel = self._context(self.plan.models[0]).panel(task)
            for item in self.plan.panel:
                for model in panel:
                    unit = self._context(model).panel_unit(task, item, panel)
                    if record := self.ledger.get(unit):
                        panels[item.metric.name][task.name] = record["parameters"]["panel"]
        return panels
