"""What a run will cost: texts, passes, disk and time, of each model, from a short calibration.

Every model is opened and reads some of its texts, every metric is measured on random states, and
every task is evaluated once on a stand-in for a layer. What is recorded or stored is not counted.
"""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

from lrd_harness import temporary
from lrd_harness.cache import cache_dir
from lrd_harness.calibration import Growth, Span, StandIn, metric_growth, timed
from lrd_harness.contracts import Request, Task
from lrd_harness.costs import READ, RECORD, Estimate, ModelCost, line
from lrd_harness.memory import remembered
from lrd_harness.parameters import PlannedMetric
from lrd_harness.plan import Plan, PlannedModel
from lrd_harness.progress import Display
from lrd_harness.prompts import embedded
from lrd_harness.protocols import Model
from lrd_harness.reading import Embeddings, Likelihoods
from lrd_harness.reckoning import Reckoning
from lrd_harness.run import BATCH_TOKENS, Kind, Run
from lrd_harness.samples import Sampling
from lrd_harness.sweep import Sweep
from lrd_harness.units import metric_unit, unit

KINDS: tuple[Kind, Kind] = (Embeddings, Likelihoods)


class Estimator:
    """Estimates a plan into an output folder, whose records are not counted again.

    begun: seconds that it took to resolve the plan, which the run will take too.
    """

    def __init__(self, plan: Plan, out: Path, display: Display, begun: float) -> None:
        self.plan, self.display = plan, display
        self.run = Run(plan, out, Display(quiet=True))
        self.common = Span.about(begun)
        self._growths: dict[str, Growth] = {}
        self._evaluations: dict[tuple[str, int], Span] = {}

    def estimate(self) -> Estimate:
        """All models, one after the other."""
        models = []
        for number, planned in enumerate(self.plan.models, 1):
            with self.display.stage(f"[{number}/{len(self.plan.models)}] {planned.name}"):
                models.append(self._model(planned))
            gc.collect()
        return Estimate(models, self.common)

    def _model(self, planned: PlannedModel) -> ModelCost:
        cost = ModelCost(planned.name)
        opened: list[Model] = []
        try:
            seconds = timed(lambda: opened.append(planned.open()))
        except Exception as error:
            cost.faults.append(line(planned.name, error))
            return cost
        model = opened[0]
        own = [task for task in self.plan.tasks if planned.takes(task)]
        tasks = [task for task in own if self._left(planned, task, model)]
        kinds = ([t for t in tasks if not t.likelihood], [t for t in tasks if t.likelihood])
        if kinds[1] and model.head is None:
            cost.faults.append(f"{planned.name}: {model.headless}")
            kinds = (kinds[0], [])
        for kind, some in zip(KINDS, kinds, strict=True):
            if some:
                reading = kind(model, *self._how(planned, model))
                Reckoning(self, planned, reading, cost).add(some)
        if any(kinds):
            cost.add("opening", Span.about(seconds))
        return cost

    def _how(self, planned: PlannedModel, model: Model) -> tuple[Any, Any, Sampling]:
        """How a run reads a model."""
        settings, device = self.plan.settings, planned.options.device
        tokens = settings.batch_tokens or BATCH_TOKENS.get(device.split(":")[0], 4096)
        budget = remembered(cache_dir() / "budgets", model.identity, device, tokens)
        return self.run.questions, budget, Sampling(settings.norm, settings.view_texts, device)

    def _left(self, planned: PlannedModel, task: Task, model: Model) -> bool:
        """Whether anything is left to do for a task."""
        if self.layers(planned, task, model) or self.metrics(planned, task):
            return True
        pruning = self.plan.pruning
        return pruning is not None and task in pruning.tasks and self.sweep(planned).pending()

    def sweep(self, planned: PlannedModel) -> Sweep:
        """The sweep of a model, which knows what of it is recorded."""
        return Sweep(planned, self.plan, self.run.ledger, self.run.display, self.run.out)

    def layers(self, planned: PlannedModel, task: Task, model: Model) -> int:
        """How many layers of a task are still to be evaluated."""
        every = self.run.todo.layers(task, model.info.blocks)
        return sum(self.run.ledger.undone(unit(planned, task.name, layer)) for layer in every)

    def metrics(self, planned: PlannedModel, task: Task) -> list[PlannedMetric]:
        """The metrics still to be measured on a task."""
        undone = self.run.ledger.undone
        return [m for m in self.plan.metrics if undone(metric_unit(planned, task, m))]

    def growth(self, item: PlannedMetric, model: Model, device: str) -> Growth:
        """How a pooled or view metric's time grows with texts, for models of this shape."""
        states, width = model.info.blocks + 1, model.info.width
        name = json.dumps([item.metric.name, dict(item.parameters), states, width], default=str)
        if name not in self._growths:
            self._growths[name] = metric_growth(item, states, width, device)
        return self._growths[name]

    def evaluation(self, task: Task, model: Model) -> Span:
        """One evaluation of a task, result files included; for models of this width."""
        width = 1 if task.likelihood else self._width(task, model)
        if (task.name, width) not in self._evaluations:
            self._evaluations[task.name, width] = evaluated(task, width, model.similarity)
        return self._evaluations[task.name, width]

    def _width(self, task: Task, model: Model) -> int:
        """The width of what a model makes of a task's texts."""
        import torch

        first = next(iter(self.run.questions.requests(task)), Request(""))
        pooled = torch.zeros(1, model.info.width)
        return embedded(model.embed, pooled, first.prompt_type).shape[1]


def evaluated(task: Task, width: int, similarity: str) -> Span:
    """The seconds of one evaluation of a task on a stand-in."""
    assert task.evaluate is not None
    evaluate = task.evaluate
    times: list[float] = []
    while len(times) < 3 and sum(times) < 1:
        view = StandIn(width, similarity)
        with temporary.scratch() as folder:

            def do(view: StandIn = view, folder: Path = folder) -> None:
                score = evaluate(view)
                if task.save is not None:
                    task.save(score, view, folder)

            times.append(timed(do) - view.seconds + view.texts * READ)
    return Span.about(sorted(times)[len(times) // 2]).plus(Span.about(RECORD))
