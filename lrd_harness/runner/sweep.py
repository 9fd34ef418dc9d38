"""The pruning sweep of one model: choose blocks by every rule, score what is left on the tasks.

Every choice, every pruned model's size and every score is a unit of the run, kept when finished.
Choices that remove the same blocks share one pruned model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property, lru_cache, partial
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from lrd_harness import blocks
from lrd_harness.capture import halves
from lrd_harness.capture.ablation import Ablation
from lrd_harness.capture.embeddings import Captured, Progress
from lrd_harness.capture.evidence import (
    PERPLEXITY_TEXTS,
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
            before = context.ledger.get(key) or {}
            now = {"choices": choices, "tasks": tasks, **more}
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
                    how = model.info.blocks, record["start"], self.pruning.settings.indexing
                    by_metric |= blocks.block_profiles(item.metric.name, record["profiles"], *how)
            profiles += [by_metric] if by_metric else []
        averaged = blocks.averaged(profiles)
        return ModelEvidence(model, texts, averaged, batch_tokens, self._remembered)

    def _remembered(self, compute: Callable[[Progress], Ablation]) -> Ablation:
        """The losses without single blocks, which are recorded as soon as they are known."""
        context, key = self.context, self._ablation
        if (record := context.ledger.get(key)) is None:
            stage = context.display.stage(f"{context.place}: taking out each block", "texts")
            with stage as advance:
                found = compute(advance)
            n, effects = np.count_nonzero(found.weights), found.effects
            rows = [[x if isfinite(x) else None for x in row] for row in found.losses.tolist()]
            of_texts = {"losses": rows, "weights": found.weights.tolist()}
            context.record("ablation", key, effects=effects, n=int(n), **of_texts)
            return found
        effects = record["effects"]
        losses, weights = (np.array(record[name], float) for name in ("losses", "weights"))
        return Ablation(next(iter(effects)), losses, weights, effects.get("rsa_loss"))

    def _each(
        self,
        what: str,
        kind: str,
        choices: Mapping[str, RuleChoice],
        found: Callable[[RuleChoice], Mapping[str, Any]],
    ) -> None:
        """Record of each choice, by its unit, what is found; what: is done, as people see it."""
        context, todo = self.context, [k for k in choices if self.context.ledger.undone(k)]
        with context.display.stage(f"{context.place}: {what}", "choices") as advance:
            for done, key in enumerate(todo):
                advance(done, len(todo))
                rule, seed, _ = choices[key]
                named = {"rule": rule.name, "version": rule.version, "seed": seed}
                with context.attempt(key, metric=None, rule=rule.name):
                    context.record(kind, key, **named, **found(choices[key]))
            advance(len(todo), len(todo))

    def _choose(
        self, model: OpenedModel, texts: list[Text], allowed: list[int], readers: Sequence[Reader]
    ) -> None:
        """Record which blocks the rules remove, in which order, and on halves of the texts."""
        tokens, n = readers[0].budget.tokens, len(texts)
        evidence = blocks.Later(lambda: self._evidence(model, texts, tokens))
        parts = cache(lambda: list(self._parts(evidence, n, readers)))

        def removed(choice: RuleChoice, m: int) -> tuple[int, ...]:
            answer = choice.rule.choose(evidence, list(allowed), m, choice.seed or 0)
            return blocks.checked(choice.rule.name, answer, allowed, m)

        def chosen(choice: RuleChoice) -> dict[str, Any]:
            gone = removed(choice, blocks.count(choice.budget, allowed))
            # fails here, not in every variant, where just these blocks cannot go
            cut.parameters(model.parts.module, model.blocks, gone)
            of_model = {"candidates": allowed, "blocks": model.info.blocks, "n": n or None}
            variant = {"variant": blocks.name_of(gone), "removed": list(gone)}
            return {"budget": choice.budget, **variant, **of_model}

        def ordered(choice: RuleChoice) -> dict[str, Any]:
            times: list[int] = []
            with suppress(Exception):  # its own choices say what it fails at
                sets = [removed(choice, m) for m in range(1, len(allowed))]
                times = [sum(block in gone for gone in sets) for block in allowed]
            return {"candidates": allowed, "chosen": times}

        def again(choice: RuleChoice) -> dict[str, Any]:
            m, draws = blocks.count(choice.budget, allowed), self.pruning.settings.text_samples
            sets = halves.choices(choice.rule, parts(), allowed, m)
            named = {"budget": choice.budget, "candidates": allowed}
            return {**named, "removed": sets, "draws": draws}

        of_choices = {self.key(choice): choice for choice in self.choices}
        self._each("choosing blocks to remove", "pruning", of_choices, chosen)
        self._each("orders of removal", "order", self._orders(), ordered)
        self._each("choosing on halves of the texts", "redraw", self._redraws(), again)

    def _parts(self, evidence: Any, n: int, readers: Sequence[Reader]) -> Iterator[ModelEvidence]:
        """The evidence of random halves of n texts, and of those that metrics are measured on."""
        wanted = {name for choice in self._redraws().values() for name in choice.rule.metrics}
        items = [item for item in self.context.plan.metrics if item.metric.name in wanted]
        held = lru_cache(maxsize=2)(halves.in_memory)
        found: list[list[Profiles]] = [[] for _ in range(self.pruning.settings.text_samples)]
        for reader in readers if items else ():
            for task in (t for t in self.tasks() if t.likelihood == reader.likelihood):
                texts = reader.sample(task)
                labels = partial(reader.questions.labels, task)
                of_draws: list[Profiles] = [{} for _ in found]
                for item in items:
                    with suppress(Exception):  # as on the whole task, where it is told
                        measure = halves.statistic(reader.samples, item, texts, labels, held)
                        for draw, profiles in enumerate(of_draws):
                            with suppress(Exception):
                                scores, _ = measure(halves.half(len(texts), draw))
                                profiles |= self._profiles(item, scores, evidence.blocks)
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
        keys = (context.unit("variant", blocks.name_of(v)) for v in variants)
        read_before = [r for r in map(context.ledger.get, keys) if r and r["perplexity"]]
        # a rule may have looked for a low one on `texts`; all variants are read on the same
        apart = len(others) >= PERPLEXITY_TEXTS and all(r.get("others") for r in read_before)
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
