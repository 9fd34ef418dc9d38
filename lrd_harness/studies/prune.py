"""A model made smaller without a run: blocks chosen by one rule on one's own texts, and saved.

A model as a run has read it: what is saved beside its scores is what they were measured of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrd_harness import measuring
from lrd_harness.blocks import Later, block_profiles, candidates, checked, count, name_of
from lrd_harness.capture.evidence import ModelEvidence
from lrd_harness.capture.layers import StoredStates, planes
from lrd_harness.capture.requests import Questions, sampled
from lrd_harness.capture.states import Embeddings
from lrd_harness.contracts import Pruner, Task, Text
from lrd_harness.errors import PluginFault, UserError, unknown
from lrd_harness.measuring import PlannedMetric, split_scores
from lrd_harness.models.cut import parameters, remove
from lrd_harness.models.mergekit import Pruned
from lrd_harness.models.pooling import left_out
from lrd_harness.models.save import known_as, of_modules
from lrd_harness.models.sentence_modules import Measured
from lrd_harness.models.text_model import TextModel
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.planning.suite import Pruning, Settings
from lrd_harness.progress import Display
from lrd_harness.results import database
from lrd_harness.results.journal import read_run

# options that change a state, and what kinds they are of in run.json
READING: dict[str, type] = {
    "pooling": str,
    "max_length": int,
    "dtype": str,
    "attention": str,
    "padding": str,
    "prompts": dict,
}


def as_scored(planned: PlannedModel, run: Path) -> PlannedModel:
    """The model under the name and with the options that it has in a run; both as run.json says.

    Options that were chosen for it pick one of several readings. Raises UserError where the run has
    not read the model, not so, or in several ways.
    """
    read = [entry for entry in _entries(run) if _is(entry, planned)]
    if not read:
        raise UserError(f"{run} holds no scores of {planned.name} at this revision")
    fit = [entry for entry in read if not _other(entry, planned)]
    if not fit:
        raise UserError(
            f"{run} holds {planned.name} read with {_other(read[0], planned)}: "
            "its scores are not those of the model that is saved"
        )
    named = [entry for entry in fit if entry["name"] == planned.name]
    if len(fit) > 1 and len(named) != 1:
        names = ", ".join(str(entry["name"]) for entry in fit)
        raise UserError(f"{run} holds several readings of {planned.name}: {names}; choose one")
    (entry, *_) = named or fit
    held = {name: entry["options"].get(name) for name in READING}
    options = replace(planned.options, **{n: v for n, v in held.items() if v is not None})
    return replace(planned, name=entry["name"], options=options)


def _entries(run: Path) -> list[Mapping[str, Any]]:
    """The models of run.json. Raises UserError for entries that are none."""
    found = read_run(run).get("models")
    if not isinstance(found, list) or not all(map(_sound, found)):
        raise UserError(f"{run / 'run.json'}: its models are not those of a run")
    return found


def _sound(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("options"), dict):
        return False
    held = {name: entry["options"].get(name) for name in READING}
    return all(
        value is None or isinstance(value, READING[name]) for name, value in held.items()
    ) and all(isinstance(entry.get(n), str) for n in ("name", "path", "revision", "adapter"))


def _is(entry: Mapping[str, Any], planned: PlannedModel) -> bool:
    """Whether that is the model; where it lies may be written in several ways."""
    found = planned.checkpoint
    names = {Path(found.path).name, Path(found.path).resolve().name}
    return bool(entry["revision"] == found.revision and Path(entry["path"]).name in names)


def _other(entry: Mapping[str, Any], planned: PlannedModel) -> str:
    """What the run has read otherwise than was chosen; "" if nothing."""
    if entry["adapter"] != planned.adapter.name:
        return f"the adapter {entry['adapter']}, not {planned.adapter.name}"
    for name in ("pooling", "max_length"):
        held, chosen = entry["options"].get(name), getattr(planned.options, name)
        if chosen is not None and held != chosen:
            return f"{name} {held or 'by default'}, not {chosen}"
    return ""


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
    found = database.load(run).scores
    rows = [row for row in found if row.model == model and row.last]
    full = {row.task: row.score for row in rows if row.variant == "full"}
    left = {row.task: row.score for row in rows if row.variant == name_of(removed)}
    if not left:
        has = sorted({f"{row.model} {row.variant}" for row in found if row.variant != "full"})
        raise unknown(f"scores in {run}", f"{model} {name_of(removed)}", has)
    return {task: (full[task], score) for task, score in left.items() if task in full}
