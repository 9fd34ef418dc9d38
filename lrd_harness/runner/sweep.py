"""The pruning sweep of one model: choose blocks by every rule, score what is left on the tasks.

Every choice, every pruned model's size and every score is a unit of the run, kept when finished.
Choices that remove the same blocks share one pruned model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, NamedTuple

from lrd_harness import blocks
from lrd_harness.capture.embeddings import Captured
from lrd_harness.capture.evidence import Latency, ModelEvidence, pass_latency, perplexities
from lrd_harness.capture.likelihoods import Reader
from lrd_harness.capture.pruned import Variants
from lrd_harness.capture.samples import drawn
from lrd_harness.capture.walk import Removed
from lrd_harness.contracts import Model, Pruner, Task, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.models import cut
from lrd_harness.models.opened import OpenedModel
from lrd_harness.runner import units
from lrd_harness.runner.units import Context


class RuleChoice(NamedTuple):
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
    def choices(self) -> list[RuleChoice]:
        """Every rule, seed and budget; a rule's smaller budgets first."""
        return [
            RuleChoice(rule, seed, budget)
            for rule in self.pruning.rules
            for seed in self.pruning.seeds(rule)
            for budget in self.pruning.settings.budgets
        ]

    def tasks(self) -> list[Task]:
        """The tasks that this model's variants are scored on."""
        return [task for task in self.pruning.tasks if self.context.planned.takes(task)]

    def key(self, choice: RuleChoice) -> str:
        """The unit of a choice: what changes it is in its name.

        That is also which profiles there are, since a metric that failed may be measured later.
        """
        settings, rule, context = self.pruning.settings, choice.rule, self.context
        used = [
            context.metric_unit(task, item)
            for task in self.tasks()
            for item in context.plan.metrics
            if item.metric.name in rule.metrics
        ]
        recorded = [key for key in used if not context.ledger.undone(key)]
        names = [task.name for task in self.tasks()]
        tied = json.dumps([names, recorded, settings.texts, settings.indexing])
        digest = hashlib.sha256(tied.encode()).hexdigest()[:12]
        named = (rule.name, rule.version, choice.seed, choice.budget, settings.protect, digest)
        return context.unit("prune", *named)

    def note(self) -> None:
        """Record what was asked for last, which is what tables show of all that is recorded."""
        context, key = self.context, self.context.unit("sweep")
        if context.ranks.main:
            choices, tasks = list(map(self.key, self.choices)), [t.name for t in self.tasks()]
            before = context.ledger.get(key) or {}
            if (before.get("choices"), before.get("tasks")) != (choices, tasks):
                context.record("sweep", key, choices=choices, tasks=tasks)

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
        return None in records or any(
            undone("variant", variant) or any(undone(variant, t.name) for t in self.tasks())
            for variant in variants
        )

    def execute(self, model: Model, readers: Sequence[Reader]) -> None:
        """Do all that is not done yet. readers: of the kinds of tasks that are scored."""
        context = self.context
        allowed = self._allowed(model)
        if not allowed or not isinstance(model, OpenedModel):
            return
        texts = self._texts(readers) if context.ranks.main else []
        if context.ranks.main:
            self._choose(model, texts, allowed, readers[0].budget.tokens)
            self.note()
        context.ledger.meet(context.ranks)
        variants = list(dict.fromkeys(tuple(r["removed"]) for r in self.recorded() if r))
        if context.ranks.main:
            self._sizes(model, texts, variants, readers[0].budget.tokens)
        for reader in readers:
            tasks = [task for task in self.tasks() if task.likelihood == reader.likelihood]
            self._score(model, reader, tasks, variants)

    def _allowed(self, model: Model) -> list[int]:
        """The blocks that may go; [] where none may, which is recorded once for the model."""
        context, settings = self.context, self.pruning.settings
        with context.attempt(context.unit("prune")):
            if not isinstance(model, OpenedModel):
                raise UserError("its adapter shows no blocks that could be taken out")
            model.fill()  # where all else was in the store
            allowed = blocks.candidates(model.info.blocks, settings.protect)
            for budget in settings.budgets:
                blocks.count(budget, allowed)
            cut.parameters(model.parts.module, model.blocks, allowed[:1])
            context.mend(context.unit("prune"))
            return allowed
        return []

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
                return drawn(list(every), self.pruning.settings.texts)
        return []

    def _evidence(self, model: OpenedModel, texts: list[Text], batch_tokens: int) -> ModelEvidence:
        """Recorded profiles, averaged over the tasks, and what is computed on the texts."""
        if not texts:
            raise UnitError("there are no texts to choose blocks on")
        profiles = []
        for task in self.tasks():
            by_metric: dict[str, list[float | None]] = {}
            for item in self.context.plan.metrics:
                record = self.context.ledger.get(self.context.metric_unit(task, item))
                if record is not None:
                    by_metric |= blocks.block_profiles(
                        item.metric.name,
                        record["profiles"],
                        model.info.blocks,
                        record["start"],
                        self.pruning.settings.indexing,
                    )
            profiles += [by_metric] if by_metric else []
        return ModelEvidence(model, texts, blocks.averaged(profiles), batch_tokens)

    def _choose(
        self, model: OpenedModel, texts: list[Text], allowed: list[int], batch_tokens: int
    ) -> None:
        """Have the rules choose which blocks to remove, and record each choice."""
        context = self.context
        evidence = blocks.Later(lambda: self._evidence(model, texts, batch_tokens))
        stage = f"{context.place}: choosing blocks to remove"
        with context.display.stage(stage, "choices") as advance:
            for done, choice in enumerate(self.choices):
                advance(done, len(self.choices))
                key, rule = self.key(choice), choice.rule
                if not context.ledger.undone(key):
                    continue
                with context.attempt(key, metric=None, rule=rule.name):
                    m = blocks.count(choice.budget, allowed)
                    answer = rule.choose(evidence, list(allowed), m, choice.seed or 0)
                    removed = blocks.checked(rule.name, answer, allowed, m)
                    # fails here, not in every variant, where just these blocks cannot go
                    cut.parameters(model.parts.module, model.blocks, removed)
                    context.record(
                        "pruning",
                        key,
                        variant=blocks.name_of(removed),
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

    def _sizes(
        self, model: OpenedModel, texts: list[Text], variants: Sequence[Removed], batch_tokens: int
    ) -> None:
        """Record of each variant how many parameters it has, how long a pass takes, and, of a
        language model, its perplexity.
        """
        context = self.context
        undone = [v for v in variants if context.undone("variant", blocks.name_of(v))]
        latency: Latency | None = None
        read: dict[Removed, float | None] = {}
        if undone:
            with context.attempt(context.unit("latency")):  # memory may not suffice
                latency = pass_latency(model, texts)
                context.mend(context.unit("latency"))
            stage = f"{context.place}: perplexity of {len(undone)} pruned models"
            with context.attempt(context.unit("perplexity")):
                with context.display.stage(stage, "texts") as advance:
                    read = perplexities(model, texts, [(), *undone], batch_tokens, advance)
                context.mend(context.unit("perplexity"))
        for removed in undone:
            before, after = cut.parameters(model.parts.module, model.blocks, removed)
            context.record(
                "variant",
                context.unit("variant", blocks.name_of(removed)),
                variant=blocks.name_of(removed),
                removed=list(removed),
                parameters=after,
                parameters_full=before,
                latency=latency.without(removed) if latency else None,
                latency_full=latency.full if latency else None,
                perplexity=read.get(removed),
                perplexity_full=read.get(()),
            )

    def _score(
        self, model: OpenedModel, reader: Reader, tasks: Sequence[Task], variants: Sequence[Removed]
    ) -> None:
        """Capture what the variants lack, then evaluate each of them on each task."""
        context = self.context
        undone = [
            (v, t) for v in variants for t in tasks if context.undone(blocks.name_of(v), t.name)
        ]
        if not undone:
            return
        chosen = list(dict.fromkeys(removed for removed, _ in undone))
        make = partial(Variants, reader, chosen)
        pruned = context.everywhere(context.unit("forward", "variants"), make, OSError)
        if pruned is None:
            return
        requests = context.ask(reader, tasks, measured=False)
        # texts of several tasks make one pass; each likelihood task has passes of its own
        groups = [[task] for task in requests] if reader.likelihood else [list(requests)]
        for group in groups:
            if not self._forward(pruned, {task: requests[task] for task in group}, len(chosen)):
                requests = {t: texts for t, texts in requests.items() if t not in group}
        work = [
            partial(self._evaluate, pruned, model.info.blocks - len(removed), removed, task)
            for removed, task in undone
            if task in requests
        ]
        context.work_through("tasks × pruned models", work)

    def _forward(self, pruned: Variants, requests: dict[Task, list[Any]], variants: int) -> bool:
        """Have the variants' stores hold what tasks ask; False if the model fails on it."""
        context, names = self.context, [task.name for task in requests]
        key = context.unit("forward", "variants", *names)

        def capture() -> bool:
            stage = f"{context.place}: {variants} pruned models"
            with context.display.stage(stage, context.inputs) as advance:
                self.captured += pruned.capture(requests, context.ranks.adding(advance))
            return True

        if not context.everywhere(key, capture, task=", ".join(names)):
            return False
        pruned.refresh()
        context.mend(key)
        return True

    def _evaluate(self, pruned: Variants, left: int, removed: Removed, task: Task) -> None:
        context, variant = self.context, blocks.name_of(removed)
        experiment = {"removed": blocks.written(removed), **context.label}
        checkpoint = context.planned.checkpoint
        view = pruned.view(removed, checkpoint.name, checkpoint.revision, [experiment])
        key = context.unit(variant, task.name)
        units.evaluate(context, task, view, key, left, left, variant)
