"""The pruning sweep of one model: choose blocks by every rule, score what is left on the tasks.

Every choice, every pruned model's size and every score is a unit of the run, kept when finished.
Choices that remove the same blocks share one pruned model.

What rules are told of a model in a run: values recorded there, and a sample of its texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lrd_harness import blocks
from lrd_harness.blocks import candidates, checked, count, name_of, written
from lrd_harness.capture.embeddings import Captured
from lrd_harness.capture.evidence import ModelEvidence
from lrd_harness.capture.pruned import Latency, Variants, measured
from lrd_harness.capture.requests import sampled
from lrd_harness.capture.states import Reading
from lrd_harness.capture.walk import Removed
from lrd_harness.contracts import Model, Pruner, Task, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models import cut
from lrd_harness.models.text_model import TextModel
from lrd_harness.planning.resolve import Plan, PlannedModel
from lrd_harness.planning.suite import Pruning
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.progress import Display
from lrd_harness.runner import steps
from lrd_harness.runner.ledger import Ledger, metric_unit, unit


class SweepEvidence:
    """The evidence for one model's choices, made when the first rule asks for it.

    metrics: whose recorded values are read; tasks: whose texts, and values on them.
    """

    def __init__(
        self,
        planned: PlannedModel,
        pruning: Pruning,
        metrics: Sequence[PlannedMetric],
        tasks: Sequence[Task],
        ledger: Ledger,
        model: TextModel,
        readings: Sequence[Reading],
    ) -> None:
        self._planned, self._asked, self._metrics = planned, pruning, metrics
        self._tasks, self._ledger, self._model = tasks, ledger, model
        self._readings = readings

    @cached_property
    def texts(self) -> list[Text]:
        """A seeded sample of the distinct texts of the tasks, in order.

        Of the embedding tasks where there are any: prompts of the others are many times as long.
        """
        for reading in self._readings:
            tasks = [t for t in self._tasks if t.likelihood == reading.likelihood]
            every = list(dict.fromkeys(text for t in tasks for text in self._of(reading, t)))
            if every:
                return sampled(every, self._asked.texts)
        return []

    @staticmethod
    def _of(reading: Reading, task: Task) -> list[Text]:
        """A task's texts; none where they fail, which is recorded where they are scored."""
        try:
            return reading.sample(task)
        except Exception:
            return []

    @cached_property
    def later(self) -> blocks.Later:
        """The evidence, to be made when a rule asks for it."""
        return blocks.Later(self._make)

    def _make(self) -> ModelEvidence:
        """Recorded profiles, averaged over the tasks, and what is computed on the texts."""
        if not self.texts:
            raise UnitError("there are no texts to choose blocks on")
        tasks = [
            profiles for task in self._tasks for profiles in [self._profiles(task)] if profiles
        ]
        return ModelEvidence(
            self._model, self.texts, blocks.averaged(tasks), self._readings[0].budget.tokens
        )

    def _profiles(self, task: Task) -> dict[str, list[float | None]]:
        found: dict[str, list[float | None]] = {}
        for item in self._metrics:
            record = self._ledger.get(metric_unit(self._planned, task, item))
            if record is not None:
                found |= blocks.block_profiles(
                    item.metric.name,
                    record["profiles"],
                    self._model.info.blocks,
                    record["start"],
                    self._asked.indexing,
                )
        return found


@dataclass(frozen=True)
class Choice:
    """A rule at a budget, and with a seed where it takes one."""

    rule: Pruner
    seed: int | None
    budget: float


class Sweep:
    """The sweep of one model. `readings` are those of the kinds of tasks that it was scored on."""

    def __init__(
        self,
        planned: PlannedModel,
        plan: Plan,
        ledger: Ledger,
        display: Display,
        out: Path,
        ranks: Ranks = ALONE,
    ) -> None:
        assert plan.pruning is not None
        self.planned, self.pruning, self.metrics = planned, plan.pruning, plan.metrics
        self.ledger, self.display, self.out, self.ranks = ledger, display, out, ranks
        self.captured = Captured()

    @cached_property
    def choices(self) -> list[Choice]:
        """Every rule, seed and budget; a rule's smaller budgets first."""
        return [
            Choice(rule, seed, budget)
            for rule in self.pruning.rules
            for seed in self.pruning.seeds(rule)
            for budget in self.pruning.asked.budgets
        ]

    def tasks(self) -> list[Task]:
        """The tasks that this model's variants are scored on."""
        return [task for task in self.pruning.tasks if self.planned.takes(task)]

    def key(self, choice: Choice) -> str:
        """The unit of a choice: what changes it is in its name.

        That is also which profiles there are, since a metric that failed may be measured later.
        """
        asked, rule = self.pruning.asked, choice.rule
        used = [
            metric_unit(self.planned, task, item)
            for task in self.tasks()
            for item in self.metrics
            if item.metric.name in rule.metrics
        ]
        held = [key for key in used if not self.ledger.undone(key)]
        names = [task.name for task in self.tasks()]
        tied = json.dumps([names, held, asked.texts, asked.indexing])
        digest = hashlib.sha256(tied.encode()).hexdigest()[:12]
        named = (rule.name, rule.version, choice.seed, choice.budget, asked.protect, digest)
        return unit(self.planned, "prune", *named)

    def note(self) -> None:
        """Record what was asked for last, which is what tables show of all that is recorded."""
        keys = [self.key(choice) for choice in self.choices]
        asked = {"choices": keys, "tasks": [task.name for task in self.tasks()]}
        key = unit(self.planned, "sweep")
        held = self.ledger.get(key) or {}
        if self.ranks.main and any(held.get(name) != value for name, value in asked.items()):
            self.ledger.record("sweep", key, self.planned, **asked)

    def pending(self) -> bool:
        """Whether any choice, or any score of a variant that was chosen, is not recorded yet."""
        held = [self.ledger.get(self.key(choice)) for choice in self.choices]
        if not self.tasks():
            return False
        if any(record is None for record in held):
            return True
        variants = {record["variant"] for record in held if record}
        keys = [unit(self.planned, v, task.name) for v in variants for task in self.tasks()]
        keys += [unit(self.planned, "variant", v) for v in variants]
        return any(map(self.ledger.undone, keys))

    def execute(self, model: Model, readings: Sequence[Reading], place: str) -> None:
        """Do all that is not done yet."""
        if not isinstance(model, TextModel):
            fault = UserError("its adapter shows no blocks that could be taken out")
            self.ledger.fail(unit(self.planned, "prune"), self.planned, fault)
            return
        failed = unit(self.planned, "prune")
        try:
            allowed = candidates(model.info.blocks, self.pruning.asked.protect)
            for budget in self.pruning.asked.budgets:
                count(budget, allowed)
            cut.parameters(model.parts.module, model.blocks, allowed[:1])
        except Exception as error:  # once for the model, and not for every choice
            self.ledger.fail(failed, self.planned, error)
            return
        self.ledger.mend(failed, self.planned)
        found = SweepEvidence(
            self.planned,
            self.pruning.asked,
            self.metrics,
            self.tasks(),
            self.ledger,
            model,
            readings,
        )
        if self.ranks.main:
            with self.display.stage(f"{place}: choosing blocks to remove", "choices") as advance:
                self._choose(model, found, advance)
            self.note()
        self.ledger.meet(self.ranks)
        held = [self.ledger.get(self.key(choice)) for choice in self.choices]
        removed = list(dict.fromkeys(tuple(record["removed"]) for record in held if record))
        if not removed:
            return
        if self.ranks.main:
            self._sizes(model, found, removed)
        for reading in readings:
            own = [t for t in self.tasks() if t.likelihood == reading.likelihood]
            if own:
                self._score(model, reading, own, removed, place)

    def _choose(
        self, model: TextModel, found: SweepEvidence, advance: Callable[[int, int], None]
    ) -> None:
        """Have the rules choose which blocks to remove, and record each choice."""
        blocks = model.info.blocks
        for done, choice in enumerate(self.choices):
            advance(done, len(self.choices))
            key = self.key(choice)
            record = self.ledger.get(key)
            if record is None:
                rule, where = choice.rule.name, {"metric": None, "rule": choice.rule.name}
                try:
                    allowed = candidates(blocks, self.pruning.asked.protect)
                    m = count(choice.budget, allowed)
                    answer = choice.rule.choose(found.later, allowed, m, choice.seed or 0)
                    removed = checked(rule, answer, allowed, m)
                    # fails here, not in every variant, where just these blocks cannot go
                    cut.parameters(model.parts.module, model.blocks, removed)
                except Exception as error:
                    self.ledger.fail(key, self.planned, error, **where)
                    continue
                record = {
                    "variant": name_of(removed),
                    "rule": rule,
                    "version": choice.rule.version,
                    "seed": choice.seed,
                    "budget": choice.budget,
                    "removed": list(removed),
                    "candidates": allowed,
                    "blocks": blocks,
                    "n": len(found.texts) or None,
                }
                self.ledger.record("pruning", key, self.planned, **record)
        advance(len(self.choices), len(self.choices))

    def _sizes(self, model: TextModel, found: SweepEvidence, variants: Sequence[Removed]) -> None:
        """Record how many parameters each variant has, and how long a pass takes."""
        keys = {removed: unit(self.planned, "variant", name_of(removed)) for removed in variants}
        undone = [removed for removed in variants if self.ledger.undone(keys[removed])]
        latency = self._latency(model, found.texts) if undone else None
        for removed in undone:
            before, after = cut.parameters(model.parts.module, model.blocks, removed)
            self.ledger.record(
                "variant",
                keys[removed],
                self.planned,
                variant=name_of(removed),
                removed=list(removed),
                parameters=after,
                parameters_full=before,
                latency=latency.without(removed) if latency else None,
                latency_full=latency.full if latency else None,
            )

    def _latency(self, model: TextModel, texts: Sequence[Text]) -> Latency | None:
        failed = unit(self.planned, "latency")
        try:
            found = measured(model, texts)
        except Exception as error:  # memory that does not suffice, no texts
            self.ledger.fail(failed, self.planned, error)
            return None
        self.ledger.mend(failed, self.planned)
        return found

    def _score(
        self,
        model: TextModel,
        reading: Reading,
        tasks: Sequence[Task],
        variants: Sequence[Removed],
        place: str,
    ) -> None:
        """Capture what the variants lack, then evaluate each of them on each task."""
        undone = {
            removed: [t for t in tasks if self.ledger.undone(self._score_unit(removed, t))]
            for removed in variants
        }
        undone = {removed: left for removed, left in undone.items() if left}
        if not undone:
            return
        pruned: Variants | None = None
        try:
            pruned = Variants(reading, list(undone))
        except OSError as error:  # a store that cannot be written
            self.ledger.fail(unit(self.planned, "forward", "variants"), self.planned, error)
        if not self.ranks.agree(pruned is not None) or pruned is None:
            return
        asked = self._ask(reading, tasks)
        # texts of several tasks make one pass; each likelihood task has passes of its own
        for group in [[t] for t in asked] if reading.likelihood else [list(asked)]:
            failed = unit(self.planned, "forward", "variants", *(task.name for task in group))
            done = False
            try:
                stage = f"{place}: {len(undone)} pruned models"
                with self.display.stage(stage, "texts") as advance:
                    told = self.ranks.adding(advance)
                    self.captured += pruned.capture({t: asked[t] for t in group}, told)
                done = True
            except Exception as error:
                self.ledger.fail(
                    failed, self.planned, error, task=", ".join(task.name for task in group)
                )
            if not self.ranks.agree(done):
                asked = {t: wanted for t, wanted in asked.items() if t not in group}
                continue
            pruned.refresh()
            self.ledger.mend(failed, self.planned)
        work = [(removed, t) for removed, left in undone.items() for t in left if t in asked]
        with self.display.stage(f"{place}: tasks × pruned models", "units") as advance:
            for number, (removed, task) in self.ranks.deal(work):
                advance(number, len(work))
                self._evaluate(pruned, model, removed, task)
            advance(len(work), len(work))

    def _ask(self, reading: Reading, tasks: Sequence[Task]) -> dict[Task, list[Any]]:
        """What the tasks ask for; those that fail are out, and said to have failed."""
        asked: dict[Task, list[Any]] = {}
        for task in tasks:
            try:
                asked[task] = list(reading.ask(task, True, False))
            except Exception as error:
                key = unit(self.planned, task.name, "texts")
                self.ledger.fail(key, self.planned, error, task=task.name)
        common = self.ranks.common(task.name for task in asked)
        return {task: wanted for task, wanted in asked.items() if task.name in common}

    def _evaluate(self, pruned: Variants, model: TextModel, removed: Removed, task: Task) -> None:
        left = model.info.blocks - len(removed)
        experiment: dict[str, Any] = {"removed": written(removed)}
        if self.planned.label:
            experiment["reading"] = self.planned.label
        found = self.planned.checkpoint
        view = pruned.view(removed, found.name, found.revision, [experiment])
        where = steps.Where(self._score_unit(removed, task), left, left, name_of(removed))
        steps.evaluate(self.ledger, self.planned, task, view, where, self.out)

    def _score_unit(self, removed: Removed, task: Task) -> str:
        return unit(self.planned, name_of(removed), task.name)
