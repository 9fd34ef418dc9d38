"""A model made smaller on one's own texts: blocks taken out, chosen by a rule or by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from lrd_harness.blocks import Later, block_profiles, candidates, checked, count, name_of, written
from lrd_harness.board.pruning_truth import spread_row, spread_table
from lrd_harness.capture.ablation import Ablation
from lrd_harness.capture.embeddings import Progress
from lrd_harness.capture.evidence import ModelEvidence
from lrd_harness.capture.halves import choices, half
from lrd_harness.capture.layers import planes
from lrd_harness.capture.samples import drawn
from lrd_harness.contracts import Checkpoint, ModelOptions, Pruner, Text
from lrd_harness.errors import PluginFault, UserError, unknown
from lrd_harness.models import quantised, save
from lrd_harness.models.cut import parameters, parse_blocks, remove
from lrd_harness.models.find import known_as, of_modules
from lrd_harness.models.opened import OpenedModel
from lrd_harness.models.peft_adapters import base_of
from lrd_harness.models.readout import left_out
from lrd_harness.models.save import Pruned
from lrd_harness.models.sentence_modules import Measured, Tower
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.settings import Pruning
from lrd_harness.planning.suite import READING
from lrd_harness.progress import Display
from lrd_harness.report import Report, Table, worded
from lrd_harness.results import database
from lrd_harness.results.journal import read_run
from lrd_harness.scores import Scores, split_scores
from lrd_harness.store.files import write_text
from lrd_harness.studies import fidelity
from lrd_harness.studies.fidelity import Fidelity, Outputs
from lrd_harness.studies.values import Design, Sample, fault, opened

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A model of a run.json."""

    name: str
    path: str
    revision: str
    adapter: str
    options: ModelOptions


ENTRIES = TypeAdapter(list[Entry])


def as_scored(planned: PlannedModel, run: Path) -> PlannedModel:
    """The model under the name and with the options that it has in a run; both as run.json says.

    Options that were chosen for it pick one of several ways in which the run has read it. Raises
    UserError where the run has not read the model, not so, or in several ways.
    """
    try:
        entries = ENTRIES.validate_json(json.dumps(read_run(run).get("models")), strict=True)
    except ValidationError:
        raise UserError(f"{run / 'run.json'}: its models are not those of a run") from None
    checkpoint = planned.checkpoint
    path = Path(checkpoint.path)  # where it lies may be written in several ways
    names = {path.name, path.resolve().name}
    read = [e for e in entries if e.revision == checkpoint.revision and Path(e.path).name in names]
    if not read:
        raise UserError(f"{run} holds no scores of {planned.name} at this revision")
    fit = [entry for entry in read if not _other(entry, planned)]
    if not fit:
        raise UserError(
            f"{run} holds {planned.name} read with {_other(read[0], planned)}: "
            "its scores are not those of the model that is saved"
        )
    fit = [entry for entry in fit if entry.name == planned.name] or fit
    if len(fit) > 1:
        ways = ", ".join(entry.name for entry in fit)
        raise UserError(f"{run} has read {planned.name} in several ways: {ways}; choose one")
    (entry,) = fit
    where = {name: getattr(planned.options, name) for name in ("device", "device_map", "head")}
    return replace(planned, name=entry.name, options=replace(entry.options, **where))


def _other(entry: Entry, planned: PlannedModel) -> str:
    """What the run has read otherwise than was chosen; "" if nothing."""
    if entry.adapter != planned.adapter.name:
        return f"the adapter {entry.adapter}, not {planned.adapter.name}"
    for name in READING:
        before, chosen = getattr(entry.options, name), getattr(planned.options, name)
        if chosen is not None and before != chosen:
            return f"{name} {before or 'by default'}, not {chosen}"
    return ""


@dataclass(frozen=True)
class Wish:
    """Which blocks are to go: by a rule at a budget, chosen on texts.

    design: the texts and the metrics that the rule needs, None without texts; seed: of a seeded
    rule; pruning: protection, sample size.
    """

    rule: Pruner
    budget: float
    design: Design | None
    seed: int
    pruning: Pruning


class Shrinking:
    """An opened model, and what it is without some blocks.

    Raises UserError for a model whose adapter shows no blocks.
    """

    def __init__(self, planned: PlannedModel, display: Display) -> None:
        self.planned, self.display = planned, display
        model = opened(planned, display)
        if not isinstance(model, OpenedModel):
            raise UserError(f"{planned.name}: its adapter shows no blocks that could be taken out")
        self.model, self.blocks = model, model.info.blocks
        self.read = False  # whether a rule has read texts
        self._known: tuple[ModelEvidence, Sample, int] | None = None

    def choose(self, wish: Wish) -> tuple[int, ...]:
        """The blocks that the rule removes. Raises UserError as budgets and rules do."""
        later = Later(lambda: self._evidence(wish)[0])

        def choose(allowed: Sequence[int], m: int) -> tuple[int, ...]:
            answer = wish.rule.choose(later, list(allowed), m, wish.seed)
            return checked(wish.rule.name, answer, allowed, m)

        return self._by_rule(wish, choose)

    def spread(self, wish: Wish) -> dict[str, Any] | None:
        """What the rule chooses on random halves of the texts, as `spread_row`; None for 1 of them.

        Metrics are measured on each half; what is read of a text is read once.
        """
        draws = wish.pruning.text_samples
        if draws == 1:
            return None

        def parts() -> Iterator[ModelEvidence]:
            evidence, sample, few = self._evidence(wish)
            items = wish.design.items if wish.design else ()
            measures = {item.metric.name: sample.statistic(item) for item in items}
            for draw in range(draws):
                profiles: dict[str, list[float | None]] = {}
                for name, measure in measures.items():
                    with suppress(Exception):  # the rule will say which profile it lacks
                        scores, _ = measure(half(len(sample.texts), draw, wish.seed))
                        profiles |= self._profiles(name, scores)
                yield evidence.part(half(few, draw, wish.seed).tolist(), profiles)

        def choose(allowed: Sequence[int], m: int) -> list[tuple[int, ...]]:
            with self.display.stage(f"{self.planned.name}: choosing on halves of the texts"):
                return choices(wish.rule, parts(), allowed, m)

        removed = self._by_rule(wish, choose)
        return spread_row(removed, candidates(self.blocks, wish.pruning.protect), draws)

    def _by_rule(self, wish: Wish, choose: Callable[[Sequence[int], int], T]) -> T:
        """`choose(candidates, m)`. Raises UserError as budgets and rules do."""
        allowed = candidates(self.blocks, wish.pruning.protect)
        m = count(wish.budget, allowed)
        try:
            return choose(allowed, m)
        except Exception as error:  # a rule, or a metric that it needs
            if isinstance(error, UserError) and not isinstance(error, PluginFault):
                raise
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise UserError(f"the rule {wish.rule.name} cannot choose: {reason}") from error

    def _evidence(self, wish: Wish) -> tuple[ModelEvidence, Sample, int]:
        """The evidence, the sample that metrics are measured on, and how many texts rules see.

        It is the same each time: a model is opened for one wish.
        """
        if self._known is not None:
            return self._known
        if wish.design is None:
            given = worded("texts: give --texts FILE", self.planned.modality)
            raise UserError(f"the rule {wish.rule.name} chooses on {given}")
        self.read = True
        sample = Sample(self.planned.name, self.model, wish.design, self.display)
        profiles: dict[str, list[float | None]] = {}
        for item in wish.design.items:
            profiles |= self._profiles(item.metric.name, sample.measure(item)[0])
        few = drawn(sample.texts, wish.pruning.texts)
        evidence = ModelEvidence(
            self.model, few, profiles, wish.design.batch_tokens, self._with_progress
        )
        self._known = evidence, sample, len(few)
        return self._known

    def _with_progress(self, compute: Callable[[Progress], Ablation]) -> Ablation:
        with self.display.stage(f"{self.planned.name}: taking out each block", "texts") as advance:
            return compute(advance)

    def _profiles(self, metric: str, scores: Scores) -> dict[str, list[float | None]]:
        by_score = split_scores(scores).profiles
        return block_profiles(metric, by_score, self.blocks, scores.start)

    def measured(self, removed: Sequence[int]) -> Measured:
        """How the model is read, and what it gives without the blocks: they are taken out of it."""
        checkpoint, parts = self.planned.checkpoint, self.model.parts
        tower = None
        if self.planned.modality == "image":
            names = {id(module): name for name, module in parts.module.named_modules()}
            tower = Tower(type(parts.module).__name__, names[id(self.model.blocks)])
        if removed:
            remove(parts.module, self.model.blocks, removed)
            kind: Any = type(self.model)
            self.model = kind(self.model.checkpoint, self.model.options, parts)
        model, last = self.model, planes(self.model, "final")[-1]

        def embed(texts: Sequence[Text]) -> np.ndarray:
            """The model's outputs (n, d) float32, each text run alone."""
            pooled = [model.states(model.tokenize([text]))[last] for text in texts]
            return model.embed(torch.cat(pooled)).numpy()

        return Measured(
            name=known_as(checkpoint),
            plain=parts.adapter in ("encoder", "decoder", "image") or not of_modules(checkpoint),
            beside=parts.beside,
            pooling=model.info.pooling,
            max_length=model.info.max_length,
            options=model.options,
            poolers=left_out(parts.module),
            embed=embed,
            alone=model.padding == "none",
            own_code=bool(checkpoint.code),
            tower=tower,
        )

    def report(
        self, removed: Sequence[int], wish: Wish | None, texts: str | None, run: Path | None
    ) -> Pruned:
        """What a model card says; scores out of a run that has evaluated the same variant."""
        checkpoint, module = self.planned.checkpoint, self.model.parts.module
        whole = quantised.parameters(module)
        left = parameters(module, self.model.blocks, removed) if removed else (whole, whole)
        return Pruned(
            model=checkpoint.path if checkpoint.hub and not checkpoint.peft else checkpoint.name,
            revision=checkpoint.revision,
            blocks=self.blocks,
            removed=removed,
            parameters=left,
            hub=checkpoint.hub and not checkpoint.peft,
            rule=wish.rule.name if wish else None,
            budget=wish.budget if wish else None,
            seed=wish.seed if wish and wish.rule.seeded else None,
            protect=wish.pruning.protect if wish else None,
            texts=texts if self.read else None,
            unit=f"{self.planned.modality}s",
            scores=_scores(run, self.planned.name, removed) if run else {},
            library="sentence-transformers" if of_modules(checkpoint) else "transformers",
        )

    def shrink(self, pruned: Pruned, design: Design | None, output: Path | None) -> Shrunk:
        """Take the blocks out, compare what is left on the texts of a design, save it to a folder.

        design: None to compare nothing; output: None to save nothing. A comparison that fails is
        left out, which a note says. Raises UserError as `measured` and `save.save` do.
        """
        notes: list[str] = []
        original = self._outputs(design, notes) if design and pruned.removed else None
        measured = self.measured(pruned.removed)
        changed = self._outputs(design, notes, changed=True) if design and original else None
        found = Fidelity(original, changed) if original and changed else None
        if output is not None:
            if design and found:
                name = design.task.name.removeprefix(f"{design.unit}:")
                on = f"{len(found.original.vectors):,} {design.unit} of {name}"
                modality = self.planned.modality
                rows = [{**row, "label": worded(row["label"], modality)} for row in found.rows]
                pruned = replace(pruned, compared=on, fidelity=rows)
            card, checkpoint = save.card(pruned), self.planned.checkpoint
            with self.display.stage("saving"):
                save.save(checkpoint, pruned.removed, output, card, measured, notes.append)
            if found:
                weights = output.rglob("*.safetensors")
                found.changed.size["disk"] = sum(path.stat().st_size for path in weights) / 1e6
        return Shrunk(pruned, found, notes)

    def _outputs(self, design: Design, notes: list[str], changed: bool = False) -> Outputs | None:
        try:
            return fidelity.outputs(self.planned, self.model, design, self.display, changed)
        except Exception as error:  # whatever a text, a model or a lack of memory raises
            notes.append(f"it is not compared with the original: {fault(error)}")
            return None


@dataclass(frozen=True)
class Shrunk:
    """A model without some blocks. fidelity: to the whole one, None where nothing was compared."""

    pruned: Pruned
    fidelity: Fidelity | None
    notes: Sequence[str]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The notes, as a Report has them."""
        return tuple(f"{note[:1].upper()}{note[1:]}." for note in self.notes)


def prune(
    planned: PlannedModel,
    which: Wish | str,
    design: Design | None,
    display: Display,
    *,
    output: Path | None = None,
    texts: str | None = None,
    run: Path | None = None,
) -> Report:
    """Take blocks out of a model; what that costs and saves, and, if there is a folder, keep it.

    which: a rule's, or numbers as 7,12-14; design: the texts on which the model is compared with
    what is left of it, None to compare nothing; output: a folder that is new or empty; texts: their
    name, for the model card; run: of the same model without these blocks, whose scores go into the
    card. The report's title says what was removed; table "prune" has the figures of `Fidelity`,
    `facts` the rest; notes are of how a saved model is read. Raises UserError for blocks that
    cannot go, and as `Shrinking` does.
    """
    if run is not None and (run / "run.json").exists():
        planned = as_scored(planned, run)
    opened = Shrinking(fidelity.with_head(planned), display)
    wish = which if isinstance(which, Wish) else None
    removed = opened.choose(wish) if wish else parse_blocks(str(which), opened.blocks)
    spread = opened.spread(wish) if wish else None
    shrunk = opened.shrink(opened.report(removed, wish, texts, run), design, output)
    pruned, found = shrunk.pruned, shrunk.fidelity
    before, after = pruned.parameters
    how = f"{wish.rule.name} at {wish.budget:g}: " if wish else ""
    title = (
        f"{how}blocks {written(removed)} of 1-{opened.blocks} removed, "
        f"{before / 1e6:,.1f} to {after / 1e6:,.1f} million parameters ({after / before - 1:+.1%})"
    )
    same = ["The rule chose on these very texts: on others it may look worse."] * opened.read
    table = found.table("prune", *same) if found else Table("prune", "", fidelity.COLUMNS, [])
    return Report(
        title,
        (table, *([spread_table("spread", [spread])] if spread else [])),
        answer=found.answer if found else (),
        notes=shrunk.sentences,
        facts={
            **(design.facts if design else {}),
            "model": planned.name,
            "revision": planned.checkpoint.revision,
            "blocks": opened.blocks,
            "removed": list(removed),
            "rule": pruned.rule,
            "budget": pruned.budget,
            "seed": pruned.seed,
            "parameters": list(pruned.parameters),
            "fidelity": found.figures if found else {},
            **({"spread": spread} if spread else {}),
        },
    ).of(planned.modality, planned.name)


def check_new(file: Path, output: Path | None) -> None:
    """Raise UserError unless the file can be written beside a folder for the model."""
    if file.exists():
        raise UserError(f"{file} is there already")
    if not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file}: its folder is not there, or cannot be written to")
    if output is not None and output.absolute() in (file.absolute(), *file.absolute().parents):
        raise UserError(f"{file} and --save {output} are in each other's way")


def write_mergekit(file: Path, checkpoint: Checkpoint, report: Report) -> None:
    """Write what `prune` has removed as mergekit's configuration."""
    if len(checkpoint.peft) > 1:
        raise UserError(f"{file}: mergekit takes one adapter, and {checkpoint.name} has several")
    origin = "+".join(
        f"{part.path}@{part.revision}" if part.hub else part.path
        for part in (base_of(checkpoint), *checkpoint.peft)
    )
    config, facts = checkpoint.config, report.facts
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    write_text(file, save.mergekit(origin, facts["blocks"], facts["removed"], dtype))


def _scores(run: Path, model: str, removed: Sequence[int]) -> Mapping[str, tuple[float, float]]:
    """Task -> the original's score and the pruned model's, out of a run's results."""
    scores = database.load(run).scores
    rows = [row for row in scores if row.model == model and row.last]
    full = {row.task: row.score for row in rows if row.variant == "full"}
    left = {row.task: row.score for row in rows if row.variant == name_of(removed)}
    if not left:
        has = sorted({f"{row.model} {row.variant}" for row in scores if row.variant != "full"})
        raise unknown(f"scores in {run}", f"{model} {name_of(removed)}", has)
    return {task: (full[task], score) for task, score in left.items() if task in full}
