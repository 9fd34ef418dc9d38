"""The pruning sweep of one model: choose blocks by every rule, score what is left on the tasks.

Every choice, every pruned model's size and every score is a unit of the run, kept when finished.
Choices that remove the same blocks share one pruned model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lrd_harness import prune, steps
from lrd_harness.budgets import candidates, checked, count, name_of, written
from lrd_harness.capture import Captured
from lrd_harness.contracts import Pruner, Task, Text
from lrd_harness.errors import UserError
from lrd_harness.latency import Latency, measured
from lrd_harness.launch import ALONE, Ranks
from lrd_harness.plan import Plan, PlannedModel
from lrd_harness.progress import Display
from lrd_harness.protocols import Model
from lrd_harness.reading import Reading
from lrd_harness.sweep_evidence import SweepEvidence
from lrd_harness.text_model import TextModel
from lrd_harness.units import Ledger, metric_unit, unit
from lrd_harness.variants import Variants
from lrd_harness.walk import Removed


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
            prune.parameters(model.parts.module, model.blocks, allowed[:1])
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
                    prune.parameters(model.parts.module, model.blocks, removed)
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
            before, after = prune.parameters(model.parts.module, model.blocks, removed)
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
