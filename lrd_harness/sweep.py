"""The pruning sweep of one model: choose blocks by every rule, score what is left on the tasks.

Every choice, every pruned model's size and every score is a unit of the run, kept when finished.
Choices that remove the same blocks share one pruned model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lrd_harness import evidence, prune, steps
from lrd_harness.budgets import candidates, count, written
from lrd_harness.capture import Captured
from lrd_harness.contracts import Pruner, Task, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.latency import Latency, measured
from lrd_harness.model_evidence import ModelEvidence
from lrd_harness.plan import Plan, PlannedModel
from lrd_harness.progress import Display
from lrd_harness.protocols import Model
from lrd_harness.pruning import PlannedPruning
from lrd_harness.questions import SAMPLE_SEED
from lrd_harness.reading import Reading
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

    def unit(self, planned: PlannedModel, pruning: PlannedPruning) -> str:
        """The unit of this choice: what changes it is in its name."""
        asked = replace(pruning.asked, rules=None, budgets=(), random_seeds=0)
        names = ",".join(task.name for task in pruning.tasks)
        tied = (self.rule.name, self.rule.version, self.seed, self.budget, asked.protect)
        return unit(planned, "prune", *tied, asked.texts, names)


class Sweep:
    """The sweep of one model. `readings` are those of the kinds of tasks that it was scored on."""

    def __init__(
        self,
        planned: PlannedModel,
        plan: Plan,
        pruning: PlannedPruning,
        ledger: Ledger,
        display: Display,
        out: Path,
    ) -> None:
        self.planned, self.pruning, self.metrics = planned, pruning, plan.metrics
        self.ledger, self.display, self.out = ledger, display, out
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

    def pending(self) -> bool:
        """Whether any choice, or any score of a variant that was chosen, is not recorded yet."""
        held = [self.ledger.get(c.unit(self.planned, self.pruning)) for c in self.choices]
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
        with self.display.stage(f"{place}: choosing blocks to remove", "choices") as advance:
            removed = self._choose(model, readings, advance)
        if not removed:
            return
        self._sizes(model, readings, removed)
        for reading in readings:
            own = [t for t in self.tasks() if t.likelihood == reading.likelihood]
            if own:
                self._score(model, reading, own, removed, place)

    def _choose(
        self, model: TextModel, readings: Sequence[Reading], advance: Callable[[int, int], None]
    ) -> list[Removed]:
        """The distinct sets of blocks that the rules remove, each choice being recorded."""
        blocks = model.info.blocks
        found = _Evidence(self, model, readings)
        chosen: dict[Removed, None] = {}
        for done, choice in enumerate(self.choices):
            advance(done, len(self.choices))
            key = choice.unit(self.planned, self.pruning)
            record = self.ledger.get(key)
            if record is None:
                rule, where = choice.rule.name, {"metric": None, "rule": choice.rule.name}
                try:
                    allowed = candidates(blocks, self.pruning.asked.protect)
                    m = count(choice.budget, allowed)
                    answer = choice.rule.choose(found.evidence, allowed, m, choice.seed or 0)
                    removed = checked(rule, answer, allowed, m)
                    # fails here, not in every variant, for models that cannot be pruned
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
                    "n": len(found.texts),
                }
                self.ledger.record("pruning", key, self.planned, **record)
            chosen[tuple(record["removed"])] = None
        advance(len(self.choices), len(self.choices))
        return list(chosen)

    def _sizes(
        self, model: TextModel, readings: Sequence[Reading], variants: Sequence[Removed]
    ) -> None:
        """Record how many parameters each variant has, and how long a pass takes."""
        keys = {removed: unit(self.planned, "variant", name_of(removed)) for removed in variants}
        undone = [removed for removed in variants if self.ledger.undone(keys[removed])]
        latency: Latency | None = None
        for removed in undone:
            latency = latency or measured(model, _Evidence(self, model, readings).texts)
            before, after = prune.parameters(model.parts.module, model.blocks, removed)
            self.ledger.record(
                "variant",
                keys[removed],
                self.planned,
                variant=name_of(removed),
                removed=list(removed),
                parameters=after,
                parameters_full=before,
                latency=latency.without(removed),
                latency_full=latency.full,
            )

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
        failed = unit(self.planned, "forward", "variants", reading.likelihood)
        try:
            pruned = Variants(reading, list(undone))
            asked = {task: reading.ask(task, True, False) for task in tasks}
            with self.display.stage(f"{place}: {len(undone)} pruned models", "texts") as advance:
                self.captured += pruned.capture(asked, advance)
        except Exception as error:
            self.ledger.fail(failed, self.planned, error)
            return
        self.ledger.mend(failed, self.planned)
        work = [(removed, task) for removed, left in undone.items() for task in left]
        with self.display.stage(f"{place}: tasks × pruned models", "units") as advance:
            for done, (removed, task) in enumerate(work):
                advance(done, len(work))
                self._evaluate(pruned, model, removed, task)
            advance(len(work), len(work))

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


class _Evidence:
    """The evidence for one model's choices, made when the first rule asks for it."""

    def __init__(self, sweep: Sweep, model: TextModel, readings: Sequence[Reading]) -> None:
        self._sweep, self._model, self._readings = sweep, model, readings

    @cached_property
    def texts(self) -> list[Text]:
        """A seeded sample of the distinct texts of the tasks, in order.

        Of the embedding tasks where there are any: prompts of the others are many times as long.
        """
        most = self._sweep.pruning.asked.texts
        for reading in self._readings:
            tasks = [t for t in self._sweep.tasks() if t.likelihood == reading.likelihood]
            every = list(dict.fromkeys(text for t in tasks for text in reading.sample(t)))
            if every:
                return sampled(every, most)
        raise UnitError("there are no texts to choose blocks on")

    @cached_property
    def evidence(self) -> ModelEvidence:
        """Recorded profiles, averaged over the tasks, and what is computed on the texts."""
        sweep = self._sweep
        tasks = [
            profiles for task in sweep.tasks() for profiles in [self._profiles(task)] if profiles
        ]
        return ModelEvidence(
            self._model, self.texts, evidence.averaged(tasks), self._readings[0].batch_tokens
        )

    def _profiles(self, task: Task) -> dict[str, list[float | None]]:
        sweep = self._sweep
        found: dict[str, list[float | None]] = {}
        for item in sweep.metrics:
            record = sweep.ledger.get(metric_unit(sweep.planned, task, item))
            if record is not None:
                found |= evidence.block_profiles(
                    item.metric.name,
                    record["profiles"],
                    self._model.info.blocks,
                    record["start"],
                )
        return found


def name_of(removed: Sequence[int]) -> str:
    """A variant's name in the results."""
    return f"without {written(removed)}"


def sampled(texts: Sequence[Text], most: int) -> list[Text]:
    """A seeded sample of at most so many texts, in order."""
    draw = np.random.RandomState(SAMPLE_SEED)
    return [texts[i] for i in sorted(draw.permutation(len(texts))[:most])]


def checked(rule: str, answer: Any, allowed: Sequence[int], m: int) -> Removed:
    """A rule's answer, ascending. Raises UnitError unless it is m of the candidates."""
    removed = tuple(sorted(int(block) for block in answer))
    if len(set(removed)) != m or not set(removed) <= set(allowed):
        raise UnitError(f"the rule {rule} gave blocks {removed}, not {m} of the candidates")
    return removed
