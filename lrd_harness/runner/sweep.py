"""The pruning sweep of one model: choose blocks by every rule, score what is left on the tasks.

Every choice, every pruned model's size and every score is a unit of the run, kept when finished.
Choices that remove the same blocks share one pruned model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, cached_property, lru_cache, partial
from typing import Any, NamedTuple

from lrd_harness import blocks
from lrd_harness.capture import halves
from lrd_harness.capture.embeddings import Captured, Progress
from lrd_harness.capture.evidence import (
    PERPLEXITY_TEXTS,
    Effects,
    Latency,
    ModelEvidence,
    pass_latency,
    perplexities,
)
from lrd_harness.capture.likelihoods import Reader
from lrd_harness.capture.pruned import Variants
from lrd_harness.capture.samples import drawn
from lrd_harness.capture.walk import Removed
from lrd_harness.contracts import Model, Pruner, Task, Text
from lrd_harness.errors import UnitError, UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models import cut
from lrd_harness.models.opened import OpenedModel
from lrd_harness.runner import units
from lrd_harness.runner.units import Context
from lrd_harness.scores import Scores, split_scores

Profiles = dict[str, list[float | None]]  # values of blocks by METRIC.SCORE


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

    def key(self, choice: RuleChoice, of: str = "") -> str:
        """The unit of a choice: what changes it is in its name. of: what is told of it instead."""
        rule, protect = choice.rule, self.pruning.settings.protect
        named = (rule.name, rule.version, choice.seed, of or choice.budget, protect)
        return self.context.unit("prune", *named, self._tied(rule))

    def _tied(self, rule: Pruner | None = None) -> str:
        """A checksum of what evidence depends on: tasks, and the profiles that a rule reads.

        That is also which profiles there are, since a metric that failed may be measured later.
        """
        settings, context = self.pruning.settings, self.context
        used = [
            context.metric_unit(task, item)
            for task in self.tasks()
            for item in context.plan.metrics
            if rule and item.metric.name in rule.metrics
        ]
        recorded = [key for key in used if not context.ledger.undone(key)]
        names = [task.name for task in self.tasks()]
        tied = json.dumps([names, recorded, settings.texts, settings.indexing])
        return hashlib.sha256(tied.encode()).hexdigest()[:12]

    @property
    def _ablation(self) -> str:
        """The unit of the effects of single blocks."""
        return self.context.unit("ablation", self._tied())

    def _orders(self) -> dict[str, RuleChoice]:
        """By unit the orders of all rules; none unless the effects of blocks are recorded."""
        if self.context.ledger.undone(self._ablation):
            return {}
        budget = self.pruning.settings.budgets[0]
        choices = (choice for choice in self.choices if choice.budget == budget)
        return {self.key(c, "order"): c for c in choices}

    def _redraws(self) -> dict[str, RuleChoice]:
        """By unit what is chosen again on halves of the texts; by rules that see any, no seed."""
        if (draws := self.pruning.settings.text_samples) == 1:
            return {}
        chosen = (choice for choice in self.choices if not choice.rule.seeded)
        return {self.key(c, f"{c.budget} on {draws} halves"): c for c in chosen}

    def beside(self) -> list[str]:
        """The units of what is told of the rules beside their scores."""
        orders = self._orders()
        return [*([self._ablation] if orders else []), *orders, *self._redraws()]

    def note(self) -> None:
        """Record what was asked for last, which is what tables show of all that is recorded."""
        context, key = self.context, self.context.unit("sweep")
        if context.ranks.main:
            choices, tasks = list(map(self.key, self.choices)), [t.name for t in self.tasks()]
            more = {"beside": beside} if (beside := self.beside()) else {}
            before, now = (
                context.ledger.get(key) or {},
                {"choices": choices, "tasks": tasks, **more},
            )
            if {name: before[name] for name in [*now, "beside"] if name in before} != now:
                context.record("sweep", key, **now)

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
            or any(map(self.context.ledger.undone, self.beside()))
            or any(
                undone("variant", variant) or any(undone(variant, t.name) for t in self.tasks())
                for variant in variants
            )
        )

    def execute(self, model: Model, readers: Sequence[Reader]) -> None:
        """Do all that is not done yet. readers: of the kinds of tasks that are scored."""
        context = self.context
        allowed = self._allowed(model)
        if not allowed or not isinstance(model, OpenedModel):
            return
        texts, others = self._texts(readers) if context.ranks.main else ([], [])
        if context.ranks.main:
            self._choose(model, texts, allowed, readers)
            self.note()
        context.ledger.meet(context.ranks)
        variants = list(dict.fromkeys(tuple(r["removed"]) for r in self.recorded() if r))
        if context.ranks.main:
            self._sizes(model, texts, others, variants, readers[0].budget.tokens)
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

    def _texts(self, readers: Sequence[Reader]) -> tuple[list[Text], list[Text]]:
        """A seeded sample of the distinct texts of the tasks, in order, to choose blocks on; and
        the others.

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
                chosen = dict.fromkeys(drawn(list(every), self.pruning.settings.texts))
                return list(chosen), [text for text in every if text not in chosen]
        return [], []

    def _evidence(self, model: OpenedModel, texts: list[Text], batch_tokens: int) -> ModelEvidence:
        """Recorded profiles, averaged over the tasks, and what is computed on the texts."""
        if not texts:
            raise UnitError("there are no texts to choose blocks on")
        profiles = []
        for task in self.tasks():
            by_metric: Profiles = {}
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
        averaged = blocks.averaged(profiles)
        return ModelEvidence(
            model, texts, averaged, batch_tokens, partial(self._remembered, len(texts))
        )

    def _remembered(self, n: int, compute: Callable[[Progress], Effects]) -> Effects:
        """The effects of single blocks, which are recorded as soon as they are known."""
        context = self.context
        record = context.ledger.get(self._ablation)
        if record is not None:
            return dict(record["effects"])
        stage = context.display.stage(f"{context.place}: taking out each block", "texts")
        with stage as advance:
            effects = compute(advance)
        context.record("ablation", self._ablation, effects=effects, n=n)
        return effects

    def _choose(
        self,
        model: OpenedModel,
        texts: list[Text],
        allowed: list[int],
        readers: Sequence[Reader],
    ) -> None:
        """Have the rules choose which blocks to remove, and record each choice."""
        context, tokens = self.context, readers[0].budget.tokens
        evidence = blocks.Later(lambda: self._evidence(model, texts, tokens))
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
        self._order(evidence, allowed)
        self._redraw(evidence, allowed, len(texts), readers)

    def _order(self, evidence: Any, allowed: list[int]) -> None:
        """Record in which order each rule removes the candidates."""
        context = self.context
        orders = {key: c for key, c in self._orders().items() if context.ledger.undone(key)}
        stage = context.display.stage(f"{context.place}: orders of removal", "rules")
        with stage as advance:
            for done, (key, choice) in enumerate(orders.items()):
                advance(done, len(orders))
                rule = choice.rule
                chosen: list[int] = []
                with suppress(Exception):  # its own choices say what it fails at
                    answers = [
                        rule.choose(evidence, list(allowed), m, choice.seed or 0)
                        for m in range(1, len(allowed))
                    ]
                    checked = [blocks.checked(rule.name, a, allowed, len(a)) for a in answers]
                    chosen = [sum(block in removed for removed in checked) for block in allowed]
                named = {"rule": rule.name, "version": rule.version, "seed": choice.seed}
                context.record("order", key, **named, candidates=allowed, chosen=chosen)
            advance(len(orders), len(orders))

    def _redraw(self, evidence: Any, allowed: list[int], n: int, readers: Sequence[Reader]) -> None:
        """Record what the rules choose on random halves of the texts."""
        context = self.context
        undone = {key: c for key, c in self._redraws().items() if context.ledger.undone(key)}
        parts = cache(lambda: list(self._parts(evidence, n, readers)))
        stage = context.display.stage(
            f"{context.place}: choosing on halves of the texts", "choices"
        )
        with stage as advance:
            for done, (key, choice) in enumerate(undone.items()):
                advance(done, len(undone))
                rule, m = choice.rule, blocks.count(choice.budget, allowed)
                with context.attempt(key, metric=None, rule=rule.name):
                    context.record(
                        "redraw",
                        key,
                        rule=rule.name,
                        version=rule.version,
                        budget=choice.budget,
                        removed=halves.choices(rule, parts(), allowed, m),
                        draws=self.pruning.settings.text_samples,
                        candidates=allowed,
                    )
            advance(len(undone), len(undone))

    def _parts(self, evidence: Any, n: int, readers: Sequence[Reader]) -> Iterator[ModelEvidence]:
        """The evidence of random halves of n texts, and of those that metrics are measured on."""
        wanted = {name for choice in self._redraws().values() for name in choice.rule.metrics}
        items = [item for item in self.context.plan.metrics if item.metric.name in wanted]
        held = lru_cache(maxsize=2)(halves.in_memory)
        found: list[list[Profiles]] = [[] for _ in range(self.pruning.settings.text_samples)]
        for reader in readers if items else ():
            for task in (t for t in self.tasks() if t.likelihood == reader.likelihood):
                texts = reader.sample(task)
                drawn_halves = [halves.half(len(texts), draw) for draw in range(len(found))]
                of_draws: list[Profiles] = [{} for _ in found]
                for item in items:
                    labels = partial(reader.questions.labels, task)
                    with suppress(UnitError):  # as on the whole task
                        measure = halves.statistic(reader.samples, item, texts, labels, held)
                        for profiles, rows in zip(of_draws, drawn_halves, strict=True):
                            with suppress(UnitError):
                                profiles |= self._profiles(item, measure(rows)[0], evidence.blocks)
                for profiles, of_tasks in zip(of_draws, found, strict=True):
                    of_tasks += [profiles] if profiles else []
        for draw, of_tasks in enumerate(found):
            yield evidence.part(halves.half(n, draw).tolist(), blocks.averaged(of_tasks))

    def _profiles(self, item: PlannedMetric, scores: Scores, L: int) -> Profiles:
        profiles, indexing = split_scores(scores).profiles, self.pruning.settings.indexing
        return blocks.block_profiles(item.metric.name, profiles, L, scores.start, indexing)

    def _sizes(
        self,
        model: OpenedModel,
        texts: list[Text],
        others: list[Text],
        variants: Sequence[Removed],
        batch_tokens: int,
    ) -> None:
        """Record of each variant how many parameters it has, how long a pass takes, and, of a
        language model, its perplexity.
        """
        context = self.context
        undone = [v for v in variants if context.undone("variant", blocks.name_of(v))]
        latency: Latency | None = None
        read: dict[Removed, float | None] = {}
        apart = len(others) >= PERPLEXITY_TEXTS  # a rule may have looked for a low one on `texts`
        if undone:
            with context.attempt(context.unit("latency")):  # memory may not suffice
                latency = pass_latency(model, texts)
                context.mend(context.unit("latency"))
            stage = f"{context.place}: perplexity of {len(undone)} pruned models"
            with context.attempt(context.unit("perplexity")):
                with context.display.stage(stage, "texts") as advance:
                    seen = others if apart else texts
                    read = perplexities(model, seen, [(), *undone], batch_tokens, advance)
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
                others=apart,
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
