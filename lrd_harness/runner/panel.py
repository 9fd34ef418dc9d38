"""The panel metrics of a run: what models make of the same texts, compared when all are read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lrd_harness.capture.layers import StoredStates, planes
from lrd_harness.capture.likelihoods import Reader
from lrd_harness.capture.samples import Questions, drawn
from lrd_harness.contracts import Task, Text
from lrd_harness.errors import layer_number
from lrd_harness.measuring import PlannedPanel
from lrd_harness.panels import ByModel, check_state, given, measure_sound
from lrd_harness.planning.resolve import Plan
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.progress import Display
from lrd_harness.runner.profile import Profile
from lrd_harness.runner.units import Context, Ledger

MOST = 2000  # texts


class Panel:
    """The panel metrics of a run."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        out: Path,
        display: Display,
        ranks: Ranks = ALONE,
        profile: Profile | None = None,
        questions: Questions | None = None,
    ) -> None:
        self.plan, self.ledger, self.ranks, self.display = plan, ledger, ranks, display
        at = partial(Context, plan, ledger=ledger, out=out, display=display, ranks=ranks)
        self._context = partial(at, profile=profile or Profile(), questions=questions)
        self._states: dict[tuple[str, str], StoredStates] = {}  # by model and task
        # each kept once, however many models read it alike
        self._samples: dict[tuple[Text, ...], tuple[Text, ...]] = {}

    def contexts(self) -> list[Context]:
        """The work on each model; first on those that could not be read in an earlier call.

        Whether they are of the panel has then been found out when the others' turn comes.
        """
        models = self.plan.models
        every = [
            self._context(planned, place=f"[{number}/{len(models)}] {planned.name}")
            for number, planned in enumerate(models, 1)
        ]
        return sorted(every, key=self._sound) if self.plan.panel else every

    def _sound(self, context: Context) -> bool:
        tasks = filter(context.planned.takes, self.plan.tasks)
        return all(map(context.readable, tasks))

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
            lacking = any((of.planned.name, task.name) not in self._states for of in panel)
            items = context.uncompared(task)
            if items and lacking:  # one has failed that did not before
                self.display.line(f"{task.name}: the same command compares its models")
                continue
            work += [partial(self._measure, task, item, panel) for item in items]
        if alone:
            names = ", ".join(item.metric.name for item in self.plan.panel)
            self.display.line(f"{names}: fewer than two models to compare on {', '.join(alone)}")
        if self.ranks.first(len(work)):
            context.work_through("panel metrics", work)
        self.ledger.meet(self.ranks)

    def _measure(self, task: Task, item: PlannedPanel, panel: Sequence[Context]) -> None:
        """A panel metric on the texts of a task. A model with unsound states is left out."""
        begun, metric = time.perf_counter(), item.metric
        contexts = {context.planned.name: context for context in panel}
        stored = {model: self._states[model, task.name] for model in contexts}
        units = {model: of.panel_unit(task, item, panel) for model, of in contexts.items()}
        where: dict[str, Any] = {"task": task.name, "metric": metric.name}
        state, arguments = given(item)
        families: dict[str, str | None] = {}  # of the models with sound states

        def read(model: str) -> Any:
            """From the store, each time."""
            states, last = stored[model], len(stored[model]) - 1
            chosen = last if isinstance(state, str) else layer_number(state, model, last)
            return states if state == "all" else states[chosen]

        for model, context in contexts.items():
            with context.attempt(units[model], **where):
                check_state(metric, model, read(model))
                record = self.ledger.get(context.unit("model")) or {}
                families[model] = record.get("family") or None
        if not families:
            return
        try:
            scores = measure_sound(metric, ByModel(families, read), families, **arguments)
        except Exception as error:  # that of all models: recorded for each, told once
            display = self.display
            for model in families:
                replace(contexts[model], display=display).fail(units[model], error, **where)
                display = Display(quiet=True)
            return
        names = [contexts[model].named for model in families]
        fields = {
            **where,
            "task_type": task.type,
            "version": metric.version,
            "n": len(stored[next(iter(families))].texts),
            "parameters": {**item.written, "norm": self.plan.settings.norm, "panel": names},
            "selection": metric.selection,
            "summaries": dict(metric.summaries),
            "seconds": (time.perf_counter() - begun) / len(families),
        }
        for model in families:
            values = scores.values(model)
            pairs = {score: rows[model] for score, rows in scores.pairs.items()}
            contexts[model].record("metric", units[model], **fields, values=values, pairs=pairs)

    def recorded(self) -> dict[str, dict[str, list[str]]]:
        """By panel metric and task, the models that were compared, as NAME@REVISION."""
        panels: dict[str, dict[str, list[str]]] = {item.metric.name: {} for item in self.plan.panel}
        for task in self.plan.tasks if panels else ():
            panel = self._context(self.plan.models[0]).panel(task)
            for item in self.plan.panel:
                for context in panel:
                    if record := self.ledger.get(context.panel_unit(task, item, panel)):
                        panels[item.metric.name][task.name] = record["parameters"]["panel"]
        return panels
