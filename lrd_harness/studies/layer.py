"""A layer of a model, without labels: that of a rule or of a metric, and the model cut there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrd_harness.board.layers import OTHER, pick
from lrd_harness.board.one_layer import Curve, steady
from lrd_harness.contracts import Metric
from lrd_harness.errors import UserError
from lrd_harness.measuring import MIN_TEXTS, PlannedMetric
from lrd_harness.report import Column, Report, Table
from lrd_harness.results.kinds import DECODERS, model_kind, rule_layer
from lrd_harness.results.rows import ModelRow
from lrd_harness.scores import Scores, split_scores
from lrd_harness.studies.prune import Shrinking
from lrd_harness.studies.values import Design, LayerScore, Sample, fault, layer_score

COLUMNS = "model revision metric score best layer depth value chosen n".split()
RULE = "one-line rule"
DECODER = "of a decoder, the layer nearest to depth 0.8"
LABELLED = (
    "No label was seen: whether the layer suits a task shows where there are labels, as "
    "`lrd-harness run --models MODEL --tasks TASK` scores every layer, beside this rule's."
)


def check_choosing(items: Sequence[PlannedMetric]) -> None:
    """Raise UserError for a metric that chooses no layer."""
    for item in items:
        if item.metric.layer_choice is None:
            raise UserError(
                f"metric {item.metric.name} chooses no layer: it has no score that is known to be "
                "best at one"
            )
        if item.metric.needs == "labels":
            raise UserError(f"{item.metric.name} uses labels, and layers are chosen here without")


def check_texts(design: Design) -> None:
    """Raise UserError for too few texts to choose a layer on."""
    if design.texts < MIN_TEXTS:
        raise UserError(
            f"{design.task.name} has {design.texts} distinct {design.unit}; "
            f"to choose a layer takes at least {MIN_TEXTS}"
        )


@dataclass(frozen=True)
class Rule:
    """What the one-line rule takes of a model. text: the rule, for a model of its kind."""

    layer: int
    text: str


def rule(shrinking: Shrinking) -> Rule:
    """By the kind of the model, as boards have it: what adapter, pooling and family say of it."""
    planned, info = shrinking.planned, shrinking.model.info
    kind = model_kind(
        ModelRow(
            model=planned.name,
            revision=planned.checkpoint.revision,
            variant="full",
            family=info.family,
            pooling=info.pooling,
            # an adapter of one's own that gives likelihoods opens language models as well
            adapter="decoder" if planned.adapter.likelihoods else shrinking.model.parts.adapter,
        ),
        "image" if planned.modality == "image" else "embedding",
    )
    last = "of an encoder, the last layer"
    if kind is None:
        last = f"the last layer, as nothing says what kind of model the family {info.family} is"
    text = DECODER if kind in DECODERS else last
    return Rule(rule_layer(kind, shrinking.blocks), text)


def choose(shrinking: Shrinking, design: Design | None, by: bool, save: Path | None) -> Report:
    """The layer that the rule takes, and those that metrics choose, on a task's texts.

    Table "layers" has the values, "*" at the layer that is chosen; table "choices" has the choices,
    the one that counts first. Layer 0, the embeddings alone, is measured and not chosen: it is no
    model to be kept.

    Parameters
    ----------
    design : the texts and the metrics; None where none are to be read.
    by : whether the first of the metrics that chooses one decides, and not the rule.
    save : a new folder for the model cut at the layer; the last one is not saved, being the model.

    Raises UserError where a metric is to decide and none has chosen.
    """
    blocks, planned = shrinking.blocks, shrinking.planned
    usual = rule(shrinking)
    measured = _Measured(shrinking)
    if design is not None:
        measured.measure(design)
    if by and not measured.choices:
        end = ", so nothing was saved" if save else ""
        raise UserError(f"{'; '.join(measured.faults)}: no metric has chosen a layer{end}")
    of_rule = {"metric": RULE, "layer": usual.layer}
    metrics = measured.choices
    choices = [*metrics, of_rule] if by else [of_rule, *metrics]
    number, name = choices[0]["layer"], str(choices[0]["metric"])
    made, tables, notes = _cut(shrinking, design, number, name, save)
    why = f"The one-line rule: {usual.text}; no metric is known to choose better."
    if by:
        why = (
            f"{name} chooses it ({_reason(choices[0])}). The one-line rule "
            f"({usual.text}) takes layer {usual.layer}, and no metric is known to choose better."
        )
    what = f"Layer {number} of {blocks} of {planned.name}"
    if number == blocks:
        what = f"The last layer, {blocks} of {blocks}, of {planned.name}: the model as it is"
    facts = {
        "model": planned.name,
        "revision": planned.checkpoint.revision,
        "blocks": blocks,
        "layer": number,
        "chosen_by": name,
        "rule": usual.text,
        "rule_layer": usual.layer,
        **(design.facts if design else {}),
        "errors": measured.faults,
    }
    return Report(
        what,
        (*tables, *measured.tables(choices)),
        answer=(why, *made, LABELLED),
        notes=notes,
        errors=tuple(measured.faults),
        facts=facts,
    ).of(planned.modality, planned.name, planned.checkpoint.path, str(save or ""))


def _cut(
    shrinking: Shrinking, design: Design | None, number: int, by: str, save: Path | None
) -> tuple[list[str], list[Table], tuple[str, ...]]:
    """Save the model cut at a layer, where that is wanted: sentences, tables and notes on that."""
    blocks, checkpoint = shrinking.blocks, shrinking.planned.checkpoint
    if number == blocks:
        return [f"Nothing was saved: the whole model is {checkpoint.path}."] if save else [], [], ()
    pruned = shrinking.report(range(number + 1, blocks + 1), None, None, None)
    before, after = (count / 1e6 for count in pruned.parameters)
    what = f"blocks 1-{number} of {blocks}, {before:,.1f} to {after:,.1f} million parameters"
    if save is None:
        return [f"--save DIR keeps {what}."], [], ()
    if by == RULE:
        pruned = replace(pruned, rule=RULE)
    else:
        pruned = replace(pruned, metric=by, texts=design.task.name if design else None)
    shrunk = shrinking.shrink(pruned, design, save)
    made, found = [f"Saved to {save}: {what}."], shrunk.fidelity
    if found and found.answer:
        (said,) = found.answer
        made.append(f"Against the whole model: {said[0].lower()}{said[1:]}")
    tables = [found.table("fidelity")] if found else []
    return made, tables, shrunk.sentences


class _Measured:
    """What metrics say of the layers of a model. choices: of each that chooses one; faults."""

    def __init__(self, shrinking: Shrinking) -> None:
        self._shrinking, blocks = shrinking, shrinking.blocks
        self.choices: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self._every: list[dict[str, Any]] = []
        self._columns = [Column("layer", key=True), Column("depth", key=True, form=".2f")]
        self._rows: list[dict[str, Any]] = [
            {"layer": i, "depth": i / blocks} for i in range(blocks + 1)
        ]

    def measure(self, design: Design) -> None:
        """Measure the metrics of a design. One that fails costs itself only."""
        shrinking, planned = self._shrinking, self._shrinking.planned
        sample = Sample(planned.name, shrinking.model, design, shrinking.display)
        of = {"model": planned.name, "revision": planned.checkpoint.revision}
        for item in design.items:
            name = item.metric.name
            try:
                scores, n = sample.measure(item)
                score, choice = _chosen(item.metric, scores, n, self._shrinking.blocks)
            except Exception as error:  # a stranger's metric; the others go on
                self.faults.append(f"{name}: {fault(error, name)}")
                continue
            self.choices.append({**choice, "texts": n})
            self._columns.append(Column(score.title))
            for row in self._rows:
                value = score.values.get(row["layer"])
                mark = "*" * (row["layer"] == choice["layer"])
                row[score.title] = None if value is None else f"{value:#.4g}{mark}"
                by = {"metric": name, "score": score.name, "best": score.best}
                at = {"layer": row["layer"], "depth": row["depth"], "value": value}
                self._every.append({**of, **by, **at, "chosen": bool(mark), "n": n})

    def tables(self, choices: Sequence[dict[str, Any]]) -> list[Table]:
        """The values, what was chosen of them, and the values for programs."""
        caption = [
            "layer: the one of 1 to L with the best score, lowest (min) or highest (max); other: "
            "the one with the worst. Layer 0 is the embeddings alone and is not chosen.",
            f"{RULE}: {DECODER}, of an encoder the last; the control that metrics have to beat.",
        ]
        names = ("metric", "score", "best", "layer", "other", "texts")
        keyed = [Column(name, key=name == "metric") for name in names]
        if any("leads" in choice for choice in choices):
            keyed += [
                Column("leads"),
                Column("lead", form="+z.4f"),
                Column("error", "SE", form=".4f"),
            ]
            caption.append(
                "leads: the layer with the best score, taken where its lead over the last one "
                "exceeds SE, the standard error of that over texts; the last one elsewhere."
            )
        title = "Values by layer (*: chosen)"
        chosen = f"Layers chosen, of 1 to {self._shrinking.blocks}"
        return [
            Table("choices", chosen, tuple(keyed), choices, tuple(caption), bool(self.choices)),
            Table("layers", title, tuple(self._columns), self._rows if self.choices else []),
            Table("layer", "Values", tuple(map(Column, COLUMNS)), self._every, shown=False),
        ]


def _reason(choice: dict[str, Any]) -> str:
    """Why a metric chooses a layer."""
    best = f"{choice['best']} of {choice['score']}"
    if "leads" not in choice or choice["leads"] == choice["layer"]:
        return best
    lead = f"the lead of layer {choice['leads']}, with the {best}, is {choice['lead']:.4f}"
    return f"{lead}, not above its standard error of {choice['error']:.4f}"


def _chosen(metric: Metric, scores: Scores, n: int, last: int) -> tuple[LayerScore, dict[str, Any]]:
    score = layer_score(metric, scores)
    inner = {layer: v for layer, v in score.values.items() if layer and v is not None}
    if not inner:
        raise UserError("has no value at any layer above 0")
    assert score.best is not None
    ends: dict[str, Any] = {
        "layer": pick(inner, score.best),
        "other": pick(inner, OTHER[score.best]),
    }
    if metric.margin:
        of = split_scores(scores).profiles[metric.margin]
        errors = {i: v for i, v in zip(of["layers"], of["values"], strict=True) if v is not None}
        if (choice := steady([Curve(n, inner, errors)], last, score.best)) is None:
            raise UserError("has no value at the last layer")
        ends |= {"layer": choice.layer, "leads": choice.best}
        ends |= {"lead": choice.lead, "error": choice.error}
    return score, {"metric": metric.name, "score": score.name, "best": score.best, **ends}
