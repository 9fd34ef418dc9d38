"""A model made smaller without a run: blocks chosen by one rule on one's own texts, and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lrd_harness import measuring, results
from lrd_harness.budgets import candidates, checked, count, name_of
from lrd_harness.contracts import Pruner, Task, Text
from lrd_harness.errors import PluginFault, UserError, unknown
from lrd_harness.evidence import Later, block_profiles
from lrd_harness.loading import known_as, of_modules
from lrd_harness.mergekit import Pruned
from lrd_harness.model_evidence import ModelEvidence
from lrd_harness.modules import Measured
from lrd_harness.parameters import PlannedMetric
from lrd_harness.plan import PlannedModel
from lrd_harness.poolers import left_out
from lrd_harness.progress import Display
from lrd_harness.prune import parameters, remove
from lrd_harness.pruning import Pruning
from lrd_harness.questions import Questions, sampled
from lrd_harness.reading import Embeddings
from lrd_harness.suite import Settings
from lrd_harness.text_model import TextModel
from lrd_harness.units import split_scores
from lrd_harness.view import StoredStates, planes


@dataclass(frozen=True)
class Wish:
    """Which blocks are to go: by a rule at a budget, chosen on texts.

    metrics: those that the rule needs; seed: of a seeded rule; asked: protection and sample size.
    """

    rule: Pruner
    budget: float
    metrics: Sequence[PlannedMetric]
    texts: Task | None
    seed: int
    asked: Pruning


class Shrinking:
    """An opened model, and what is to be said of it without some blocks.

    Raises UserError for a model whose adapter shows no blocks.
    """

    def __init__(self, planned: PlannedModel, display: Display, batch_tokens: int) -> None:
        self.planned, self.display, self.batch_tokens = planned, display, batch_tokens
        with display.stage(f"{planned.name}: opening"):
            model = planned.open()
        if not isinstance(model, TextModel):
            raise UserError(f"{planned.name}: its adapter shows no blocks that could be taken out")
        self.model = model
        self.blocks = model.info.blocks
        self.read = False  # whether a rule has read texts

    def choose(self, wish: Wish) -> tuple[int, ...]:
        """The blocks that the rule removes. Raises UserError as budgets and rules do."""
        allowed = candidates(self.blocks, wish.asked.protect)
        m = count(wish.budget, allowed)
        later = Later(lambda: self._evidence(wish))
        try:
            answer = wish.rule.choose(later, allowed, m, wish.seed)
            return checked(wish.rule.name, answer, allowed, m)
        except PluginFault as fault:
            raise UserError(f"the rule {wish.rule.name} cannot choose: {fault}") from fault
        except UserError:
            raise
        except Exception as error:  # a rule, or a metric that it needs
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(f"the rule {wish.rule.name} cannot choose: {reason}") from error

    def _evidence(self, wish: Wish) -> ModelEvidence:
        if wish.texts is None:
            raise UserError(f"the rule {wish.rule.name} chooses on texts: give --texts FILE")
        self.read = True
        reading = Embeddings(self.model, Questions(Settings().max_texts), self.batch_tokens)
        texts = reading.sample(wish.texts)
        profiles = self._profiles(wish, reading, texts) if wish.metrics else {}
        few = sampled(texts, wish.asked.texts)
        return ModelEvidence(self.model, few, profiles, self.batch_tokens)

    def _profiles(
        self, wish: Wish, reading: Embeddings, texts: list[Text]
    ) -> dict[str, list[float | None]]:
        """The metrics that the rule needs, measured on the texts, as values of blocks."""
        assert wish.texts is not None
        with self.display.stage(f"{self.planned.name}: reading all layers", "texts") as advance:
            reading.capture({wish.texts: texts}, advance)
        profiles: dict[str, list[float | None]] = {}
        states = StoredStates(
            reading.store, texts, planes(self.model, "hf"), self.planned.options.device
        )
        for item in wish.metrics:
            with self.display.stage(f"{self.planned.name}: {item.metric.name}"):
                scores = measuring.measure(item.metric, states, **item.parameters)
            found = split_scores(scores, len(states))
            start = int(found.values.get("start", 0))
            profiles |= block_profiles(item.metric.name, found.profiles, self.blocks, start)
        return profiles

    def measured(self, removed: Sequence[int]) -> Measured:
        """How the model is read, and what it gives without the blocks: they are taken out of it."""
        checkpoint, parts = self.planned.checkpoint, self.model.parts
        if removed:
            remove(parts.module, self.model.blocks, removed)
            self.model = TextModel(self.model.checkpoint, self.model.options, parts)
        model = self.model
        return Measured(
            name=known_as(checkpoint),
            plain=parts.adapter in ("encoder", "decoder") or not of_modules(checkpoint),
            pooling=model.info.pooling,
            max_length=model.info.max_length,
            options=model.options,
            poolers=left_out(parts.module),
            embed=lambda texts: _embeddings(model, texts),
            alone=model.padding == "none",
        )

    def report(
        self, removed: Sequence[int], wish: Wish | None, texts: str | None, run: Path | None
    ) -> Pruned:
        """What a model card says; scores out of a run that has evaluated the same variant."""
        found, module = self.planned.checkpoint, self.model.parts.module
        whole = sum(p.numel() for p in module.parameters())
        return Pruned(
            model=found.path if found.hub else found.name,
            revision=found.revision,
            blocks=self.blocks,
            removed=removed,
            parameters=(
                parameters(module, self.model.blocks, removed) if removed else (whole, whole)
            ),
            hub=found.hub,
            rule=wish.rule.name if wish else None,
            budget=wish.budget if wish else None,
            seed=wish.seed if wish and wish.rule.seeded else None,
            protect=wish.asked.protect if wish else None,
            texts=texts if self.read else None,
            scores=_scores(run, self.planned.name, removed) if run else {},
            library="sentence-transformers" if of_modules(found) else "transformers",
        )


def _embeddings(model: TextModel, texts: Sequence[Text]) -> np.ndarray:
    """The model's outputs (n, d) float32, each text run alone."""
    last = planes(model, "final")[-1]
    pooled = [model.states(model.tokenize([text]))[last] for text in texts]
    found: np.ndarray = model.embed(torch.cat(pooled)).numpy()
    return found


def _scores(run: Path, model: str, removed: Sequence[int]) -> Mapping[str, tuple[float, float]]:
    """Task -> the original's score and the pruned model's, out of a run's results."""
    found = results.load(run).scores
    rows = [row for row in found if row.model == model and row.last]
    full = {row.task: row.score for row in rows if row.variant == "full"}
    left = {row.task: row.score for row in rows if row.variant == name_of(removed)}
    if not left:
        has = sorted({f"{row.model} {row.variant}" for row in found if row.variant != "full"})
        raise unknown(f"scores in {run}", f"{model} {name_of(removed)}", has)
    return {task: (full[task], score) for task, score in left.items() if task in full}
