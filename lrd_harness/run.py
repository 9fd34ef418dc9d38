"""The loop: open each model, read its states once, measure them, evaluate every layer."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lrd_harness import journal, measuring
from lrd_harness.cache import cache_dir
from lrd_harness.capture import Captured, capture
from lrd_harness.contracts import Model, Request, Task, Text
from lrd_harness.dry_run import requests_of
from lrd_harness.errors import UserError
from lrd_harness.parameters import PlannedMetric
from lrd_harness.plan import Plan, PlannedModel
from lrd_harness.progress import Display
from lrd_harness.store import Store
from lrd_harness.units import Ledger, metric_unit, split_scores, unit
from lrd_harness.view import LayerView, StoredStates, planes

SAMPLE_SEED = 42  # metrics.md, Texts
SAME_STATE = "every text has the same state there"
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 8_192}


class Run:
    """One run of a plan into an output folder; units that the folder's journals hold are skipped.

    counters: what was forwarded by this call, by model; ledger.errors: how many units failed in it.
    """

    def __init__(self, plan: Plan, out: Path, display: Display) -> None:
        self.plan, self.out, self.display = plan, out, display
        self.ledger = Ledger(out, display)
        self.counters: dict[str, Captured] = {}
        self.requests = cache(requests_of)
        self.texts = cache(lambda task: list(task.texts()))

    def execute(self) -> None:
        """Do all that is not done yet. A fault in a unit is recorded and does not end the run."""
        for number, planned in enumerate(self.plan.models, 1):
            place = f"[{number}/{len(self.plan.models)}] {planned.name}"
            known = self.ledger.get(unit(planned, "model"))
            if known is not None and not self._pending(planned, known["blocks"], self.plan.tasks):
                self.display.line(f"{place}: nothing left to do")
                continue
            self._model(planned, place)
            gc.collect()  # no two models in memory at once
        self.ledger.close()

    def _pending(self, planned: PlannedModel, blocks: int, tasks: Sequence[Task]) -> bool:
        """Whether any unit of these tasks is not recorded, or only as an error."""
        keys = [unit(planned, t.name, layer) for t in tasks for layer in self.layers(t, blocks)]
        keys += [metric_unit(planned, t, item) for t in tasks for item in self.plan.metrics]
        return any(map(self.ledger.undone, keys))

    def layers(self, task: Task, blocks: int) -> Sequence[int]:
        """The layers that a task is evaluated at: 0..L, L alone, or chosen ones."""
        chosen = self.plan.settings.layers
        if task.evaluate is None:
            return []
        if chosen == "last":
            return [blocks]
        return range(blocks + 1) if isinstance(chosen, str) else chosen

    def _open(self, planned: PlannedModel, place: str) -> Model | None:
        begun = time.perf_counter()
        with self.display.stage(f"{place}: opening"):
            try:
                model = planned.adapter.open(planned.checkpoint, planned.options)
                _check_layers(self.plan, planned, model)
            except Exception as error:  # one model of a panel that cannot be opened
                self.ledger.fail(unit(planned, "model"), planned, error)
                return None
        self.ledger.record(
            "model",
            unit(planned, "model"),
            planned,
            adapter=model.identity["adapter"],
            **asdict(model.info),
            seconds=time.perf_counter() - begun,
        )
        return model

    def _model(self, planned: PlannedModel, place: str) -> None:
        model = self._open(planned, place)
        if model is None:
            return
        blocks = model.info.blocks
        tasks = [t for t in self.plan.tasks if self._pending(planned, blocks, [t])]
        asked = self._ask(planned, model, tasks, place)
        every = [text for texts in asked.values() for text in texts]
        store = self._forward(planned, model, every, place)
        if store is None:
            return
        sound = list(asked)
        for task in sound:
            self._count(planned, task, asked[task], store)
        work: list[Callable[[], None]] = []
        for task in sound:
            for metric in self.plan.metrics:
                if self.ledger.undone(metric_unit(planned, task, metric)):
                    work.append(partial(self._measure, planned, model, store, task, metric))
            for layer in self.layers(task, blocks):
                if self.ledger.undone(unit(planned, task.name, layer)):
                    work.append(partial(self._evaluate, planned, model, store, task, layer))
        with self.display.stage(f"{place}: metrics, tasks × layers", "units") as advance:
            for done, step in enumerate(work):
                advance(done, len(work))
                step()
            advance(len(work), len(work))

    def _ask(
        self, planned: PlannedModel, model: Model, tasks: Sequence[Task], place: str
    ) -> dict[Task, list[Text]]:
        """The texts that each task, and metrics on it, will ask for; those that fail are out."""
        asked: dict[Task, list[Text]] = {}
        with self.display.stage(f"{place}: collecting texts", "tasks") as advance:
            for done, task in enumerate(tasks, 1):
                advance(done, len(tasks))
                key = unit(planned, task.name, "texts")
                try:
                    wanted: list[Text] = []
                    if len(self.layers(task, model.info.blocks)):
                        wanted += self._texts(model, task, self.requests(task))
                    if self.plan.metrics:
                        known = set(wanted)
                        sample = self._texts(model, task, self._sample(task))
                        wanted += [text for text in sample if text not in known]
                except Exception as error:
                    self.ledger.fail(key, planned, error, task=task.name)
                    continue
                self.ledger.mend(key, planned)
                asked[task] = wanted
        return asked

    def _count(
        self, planned: PlannedModel, task: Task, texts: Sequence[Text], store: Store
    ) -> None:
        """Record what the task's texts are like: repeated, empty, longer than the model takes."""
        if task.evaluate is None:
            asked, distinct = len(self.texts(task)), len(set(self.texts(task)))
        else:
            asked, distinct = len(texts), len(set(texts))
        self.ledger.record(
            "texts",
            unit(planned, task.name, "met"),
            planned,
            task=task.name,
            asked=asked,
            duplicates=asked - distinct,
            empty=sum(not text.text.strip() for text in set(texts)),
            truncated=store.truncated(texts),
        )

    @staticmethod
    def _texts(model: Model, task: Task, requests: Sequence[Request]) -> list[Text]:
        return [Text(r.text, model.prompt(task, r.prompt_type)) for r in requests]

    def _sample(self, task: Task) -> list[Request]:
        """The distinct texts of a task for metrics, `max_texts` of them at most (metrics.md)."""
        first: dict[str, Request] = {}
        for request in self.texts(task):
            first.setdefault(request.text, request)
        distinct = list(first.values())
        most = self.plan.settings.max_texts
        if len(distinct) <= most:
            return distinct
        chosen = np.random.RandomState(SAMPLE_SEED).choice(len(distinct), most, replace=False)
        return [distinct[i] for i in sorted(chosen)]

    def _forward(
        self, planned: PlannedModel, model: Model, texts: Sequence[Text], place: str
    ) -> Store | None:
        """The store with the states of all these texts; None if the model fails on them."""
        kind = planned.options.device.split(":")[0]
        budget = self.plan.settings.batch_tokens or BATCH_TOKENS.get(kind, 4096)
        failed = unit(planned, "forward")
        try:
            store = Store(cache_dir() / "states", model.identity)
            with self.display.stage(f"{place}: reading all layers", "texts") as advance:
                counted = capture(model, texts, store, batch_tokens=budget, progress=advance)
            for name in store.discarded:
                self.display.line(f"{place}: a damaged file of the store was discarded: {name}")
        except Exception as error:  # memory that does not suffice, a text it cannot take
            self.ledger.fail(failed, planned, error)
            return None
        self.ledger.mend(failed, planned)
        self.counters[planned.name] = counted
        key = unit(planned, "capture", time.time_ns())
        self.ledger.record("capture", key, planned, **counted.record())
        return store

    def _measure(
        self, planned: PlannedModel, model: Model, store: Store, task: Task, item: PlannedMetric
    ) -> None:
        begun = time.perf_counter()
        key = metric_unit(planned, task, item)
        where = {"task": task.name, "metric": item.metric.name}
        try:
            texts = self._texts(model, task, self._sample(task))
            norm = self.plan.settings.norm
            states = StoredStates(store, texts, planes(model, norm), planned.options.device)
            scores = measuring.measure(item.metric, states, **item.parameters)
            values, profiles = split_scores(scores, len(states))
        except Exception as error:
            self.ledger.fail(key, planned, error, **where)
            return
        selection = item.metric.selection
        self.ledger.record(
            "metric",
            key,
            planned,
            **where,
            version=item.metric.version,
            n=len(texts),
            start=int(values.get("start", 0)),
            parameters={**item.parameters, "norm": norm, "pooling": model.info.pooling},
            selection=list(selection) if selection else None,
            values=values,
            profiles=profiles,
            seconds=time.perf_counter() - begun,
        )

    def _evaluate(
        self, planned: PlannedModel, model: Model, store: Store, task: Task, layer: int
    ) -> None:
        assert task.evaluate is not None
        begun = time.perf_counter()
        key = unit(planned, task.name, layer)
        view = self._view(planned, model, store, layer)
        try:
            score = task.evaluate(view)
            if not np.isfinite(score.main) and view.constant:
                self.ledger.record(
                    "undefined", key, planned, task=task.name, layer=layer, error=SAME_STATE
                )
                return
            if not np.isfinite(score.main):
                raise ValueError(f"{task.name} gave {score.main} for its main score")
            if task.save is not None:
                task.save(score, view, self.out)
        except Exception as error:
            self.ledger.fail(key, planned, error, task=task.name, layer=layer)
            return
        self.ledger.record(
            "score",
            key,
            planned,
            task=task.name,
            task_type=task.type,
            layer=layer,
            layers=model.info.blocks,
            score_name=score.name,
            score=score.main,
            scores=journal.finite(score.scores),
            seconds=time.perf_counter() - begun,
        )

    def _view(self, planned: PlannedModel, model: Model, store: Store, layer: int) -> LayerView:
        reading = {"reading": planned.label} if planned.label else {}
        experiments: list[dict[str, Any]] = [{"layer": layer, **reading}]
        if layer == model.info.blocks:  # the model itself, beside its place among the layers
            experiments.append(reading)
        return LayerView(
            model,
            store,
            layer,
            name=planned.checkpoint.name,
            revision=planned.checkpoint.revision,
            experiments=experiments,
            fetch=lambda texts: self._late(planned, model, store, texts),
        )

    def _late(
        self, planned: PlannedModel, model: Model, store: Store, texts: Sequence[Text]
    ) -> None:
        """Texts that a task asked for although its dry run had not."""
        late = capture(model, texts, store, batch_tokens=BATCH_TOKENS["cpu"])
        counted = self.counters[planned.name]
        counted.forwarded += late.forwarded
        counted.tokens += late.tokens
        counted.seconds += late.seconds


def _check_layers(plan: Plan, planned: PlannedModel, model: Model) -> None:
    """Once more, for a model whose configuration did not say how deep it is."""
    chosen = plan.settings.layers
    if not isinstance(chosen, str) and max(chosen) > model.info.blocks:
        raise UserError(
            f"{planned.name} has layers 0 to {model.info.blocks}, no layer {max(chosen)}"
        )
