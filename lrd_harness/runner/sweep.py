"""The pruning sweep of one model: choose blocks by every rule, score what is left on the tasks.

Every choice, every pruned model's size and every score is a unit of the run, kept when finished.
Choices that remove the same blocks share one pruned model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from lrd_harness.blocks import (
    Later,
    averaged,
    block_profiles,
    candidates,
    checked,
    count,
    name_of,
    written,
)
from lrd_harness.capture.embeddings import Captured
from lrd_harness.capture.evidence import Latency, ModelEvidence, measured
from lrd_harness.capture.likelihoods import Reader
from lrd_harness.capture.pruned import Variants
from lrd_harness.capture.samples import sampled
from lrd_harness.capture.walk import Removed
from lrd_harness.contracts import Model, Pruner, Task, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.models import cut
from lrd_harness.models.text_model import TextModel
from lrd_harness.runner import units
from lrd_harness.runner.units import Context


class Choice(NamedTuple):
    """A rule at a budget, and with a seed where it takes one."""

    rule: Pruner
    seed: int | None
    budget: float


class Sweep:
    """The sweep of one model; what was read for it is in `captured`."""

    def __init__(self, context: Context) -> None:
        assert context.plan.pruning is not None
        self.context, self.pruning = context, context.plan.pruning
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
        return [task for task in self.pruning.tasks if self.context.planned.takes(task)]

    def key(self, choice: Choice) -> str:
        """The unit of a choice: what changes it is in its name.

        That is also which profiles there are, since a metric that failed may be measured later.
        """
        asked, rule, context = self.pruning.asked, choice.rule, self.context
        used = [
            context.metric_unit(task, item)
            for task in self.tasks()
            for item in context.plan.metrics
            if item.metric.name in rule.metrics
        ]
        recorded = [key for key in used if not context.ledger.undone(key)]
        names = [task.name for task in self.tasks()]
        tied = json.dumps([names, recorded, asked.texts, asked.indexing])
        digest = hashlib.sha256(tied.encode()).hexdigest()[:12]
        named = (rule.name, rule.version, choice.seed, choice.budget, asked.protect, digest)
        return context.unit("prune", *named)

    def note(self) -> None:
        """Record what was asked for last, which is what tables show of all that is recorded."""
        context, key = self.context, self.context.unit("sweep")
        keys = [self.key(choice) for choice in self.choices]
        asked = {"choices": keys, "tasks": [task.name for task in self.tasks()]}
        before = context.ledger.get(key) or {}
        if context.ranks.main and any(before.get(name) != value for name, value in asked.items()):
            context.record("sweep", key, **asked)

    def recorded(self) -> list[dict[str, Any] | None]:
        """The record of each choice that was made."""
        return [self.context.ledger.get(self.key(choice)) for choice in self.choices]

    def pending(self) -> bool:
        """Whether any choice, or any score of a variant that was chosen, is not recorded yet."""
        if not self.tasks():
            return False
        records = self.recorded()
        variants = {record["variant"] for record in records if record}
        undone = self.context.undone
        return (
            None in records
            or any(undone(v, task.name) for v in variants for task in self.tasks())
            or any(undone("variant", v) for v in variants)
        )

    def execute(self, model: Model, readers: Sequence[Reader]) -> None:
        """Do all that is not done yet. readers: of the kinds of tasks that are scored."""
        context, failed = self.context, self.context.unit("prune")
        allowed: list[int] = []
        with context.attempt(failed):  # once for the model, and not for every choice
            if not isinstance(model, TextModel):
                raise UserError("its adapter shows no blocks that could be taken out")
            candidate = candidates(model.info.blocks, self.pruning.asked.protect)
            for budget in self.pruning.asked.budgets:
                count(budget, candidate)
            cut.parameters(model.parts.module, model.blocks, candidate[:1])
            allowed = candidate
        if not allowed or not isinstance(model, TextModel):
            return
        context.mend(failed)
        texts = self._texts(readers) if context.ranks.main else []
        if context.ranks.main:
            self._choose(model, texts, allowed, readers[0].budget.tokens)
            self.note()
        context.ledger.meet(context.ranks)
        records = self.recorded()
        variants = list(dict.fromkeys(tuple(record["removed"]) for record in records if record))
        if not variants:
            return
        if context.ranks.main:
            self._sizes(model, texts, variants)
        for reader in readers:
            tasks = [task for task in self.tasks() if task.likelihood == reader.likelihood]
            if tasks:
                self._score(model, reader, tasks, variants)

    def _texts(self, readers: Sequence[Reader]) -> list[Text]:
        """A seeded sample of the distinct texts of the tasks, in order, to choose blocks on.

        Of the embedding tasks where there are any: prompts of the others are many times as long.
        A task whose texts fail has none; that is recorded where it is scored.
        """
        for reader in readers:
            every: dict[Text, None] = {}
            for task in self.tasks():
                with suppress(Exception):
                    if task.likelihood == reader.likelihood:
                        every |= dict.fromkeys(reader.sample(task))
            if every:
                return sampled(list(every), self.pruning.asked.texts)
        return []

    def _evidence(self, model: TextModel, texts: list[Text], batch_tokens: int) -> ModelEvidence:
        """Recorded profiles, averaged over the tasks, and what is computed on the texts."""
        if not texts:
            raise UnitError("there are no texts to choose blocks on")
        profiles = []
        for task in self.tasks():
            own: dict[str, list[float | None]] = {}
            for item in self.context.plan.metrics:
                record = self.context.ledger.get(self.context.metric_unit(task, item))
                if record is not None:
                    own |= block_profiles(
                        item.metric.name,
                        record["profiles"],
                        model.info.blocks,
                        record["start"],
                        self.pruning.asked.indexing,
                    )
            profiles += [own] if own else []
        return ModelEvidence(model, texts, averaged(profiles), batch_tokens)

    def _choose(
        self, model: TextModel, texts: list[Text], allowed: list[int], batch_tokens: int
    ) -> None:
        """Have the rules choose which blocks to remove, and record each choice."""
        context = self.context
        evidence = Later(lambda: self._evidence(model, texts, batch_tokens))
        stage = f"{context.place}: choosing blocks to remove"
        with context.display.stage(stage, "choices") as advance:
            for done, choice in enumerate(self.choices):
                advance(done, len(self.choices))
                key, rule = self.key(choice), choice.rule
                if not context.ledger.undone(key):
                    continue
                with context.attempt(key, metric=None, rule=rule.name):
                    m = count(choice.budget, allowed)
                    answer = rule.choose(evidence, allowed, m, choice.seed or 0)
                    removed = checked(rule.name, answer, allowed, m)
                    # fails here, not in every variant, where just these blocks cannot go
                    cut.parameters(model.parts.module, model.blocks, removed)
                    context.record(
                        "pruning",
                        key,
                        variant=name_of(removed),
                        rule=rule.name,
                        version=rule.version,
                        seed=choice.seed,
                        budget=choice.budget,
                        removed=list(removed),
                        candidates=allowed,
                        blocks=model.info.blocks,
                        n=len(texts) or None,
                    )
            advance(len(self.choices), len(self.choices))

    def _sizes(self, model: TextModel, texts: list[Text], variants: Sequence[Removed]) -> None:
        """Record how many parameters each variant has, and how long a pass takes."""
        context = self.context
        undone = [v for v in variants if context.undone("variant", name_of(v))]
        latency: Latency | None = None
        if undone:
            with context.attempt(context.unit("latency")):  # memory may not suffice
                latency = measured(model, texts)
                context.mend(context.unit("latency"))
        for removed in undone:
            before, after = cut.parameters(model.parts.module, model.blocks, removed)
            context.record(
                "variant",
                context.unit("variant", name_of(removed)),
                variant=name_of(removed),
                removed=list(removed),
                parameters=after,
                parameters_full=before,
                latency=latency.without(removed) if latency else None,
                latency_full=latency.full if latency else None,
            )

    def _score(
        self, model: TextModel, reader: Reader, tasks: Sequence[Task], variants: Sequence[Removed]
    ) -> None:
        """Capture what the variants lack, then evaluate each of them on each task."""
        context = self.context
        undone = [(v, t) for v in variants for t in tasks if context.undone(name_of(v), t.name)]
        if not undone:
            return
        chosen = list(dict.fromkeys(removed for removed, _ in undone))
        pruned: Variants | None = None
        with context.attempt(context.unit("forward", "variants"), OSError):
            pruned = Variants(reader, chosen)
        if not context.ranks.agree(pruned is not None) or pruned is None:
            return
        asked = {task: context.ask(reader, task, True, False) for task in tasks}
        told = context.common({task: texts for task, texts in asked.items() if texts is not None})
        # texts of several tasks make one pass; each likelihood task has passes of its own
        for group in [[task] for task in told] if reader.likelihood else [list(told)]:
            if not self._forward(pruned, {task: told[task] for task in group}, len(chosen)):
                told = {task: texts for task, texts in told.items() if task not in group}
        work = [(removed, task) for removed, task in undone if task in told]
        stage = f"{context.place}: tasks × pruned models"
        with context.display.stage(stage, "units") as advance:
            for number, (removed, task) in context.ranks.deal(work):
                advance(number, len(work))
                self._evaluate(pruned, model.info.blocks - len(removed), removed, task)
            advance(len(work), len(work))

    def _forward(self, pruned: Variants, asked: dict[Task, list[Any]], variants: int) -> bool:
        """Have the variants' stores hold what tasks ask; False if the model fails on it."""
        context, names = self.context, [task.name for task in asked]
        failed, done = context.unit("forward", "variants", *names), False
        stage = context.display.stage(f"{context.place}: {variants} pruned models", "texts")
        with context.attempt(failed, task=", ".join(names)), stage as advance:
            self.captured += pruned.capture(asked, context.ranks.adding(advance))
            done = True
        if not context.ranks.agree(done):
            return False
        pruned.refresh()
        context.mend(failed)
        return True

    def _evaluate(self, pruned: Variants, left: int, removed: Removed, task: Task) -> None:
        context, variant = self.context, name_of(removed)
        experiment = {"removed": written(removed), **context.label}
        checkpoint = context.planned.checkpoint
        view = pruned.view(removed, checkpoint.name, checkpoint.revision, [experiment])
        key = context.unit(variant, task.name)
        units.evaluate(context, task, view, key, left, left, variant)
