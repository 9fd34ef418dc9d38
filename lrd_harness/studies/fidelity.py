"""A changed model beside its original: how alike what they give for texts is, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrd_harness.capture.embeddings import Embeddings, Progress, forward
from lrd_harness.capture.evidence import pass_latency
from lrd_harness.capture.fidelity import MOST, NextTokens, alike, chosen
from lrd_harness.capture.layers import planes
from lrd_harness.capture.samples import SEED
from lrd_harness.contracts import Encoded, Model, Text
from lrd_harness.errors import NotFinite, UnitError, UserError, not_finite
from lrd_harness.models import peft_adapters
from lrd_harness.models.find import find, parent_of, weight_bytes
from lrd_harness.models.opened import OpenedModel
from lrd_harness.models.quantised import in_memory
from lrd_harness.models.readout import LOGIT_BYTES, Head
from lrd_harness.planning.models import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.report import Column, Row, Table
from lrd_harness.studies.values import Design, fault, opened

Ids = tuple[int, ...]  # a text's tokens
TOKENS = 2**15  # of next tokens: of texts with more, some are drawn
AGAIN = 2**10  # tokens that the original reads again, each text alone
COLUMNS = (
    Column("figure", shown=False),
    Column("label", " ", key=True),
    Column("original", form=".4g"),
    Column("changed", form=".4g"),
    Column("unrelated", form=".2g"),
)
LABELS = {
    "cosine": "cosine of a text's two vectors",
    "rsa": "rank correlation of similarities",
    "knn_overlap": "10 nearest texts in common",
    "cka": "CKA (debiased)",
    "top_share": "variance in one direction",
    "kl": "KL of the next token, nats",
    "same_top1": "same likeliest next token",
    "perplexity": "perplexity",
    "blocks": "blocks",
    "parameters": "parameters, millions",
    "memory": "weights in memory, MB",
    "disk": "weights on disk, MB",
    "latency": "pass of 8 texts, ms",
}
READ = (
    "original: against itself; changed: against the original. unrelated: two different texts, "
    "chance, or no relation."
)
COSINES = (
    "Cosines are high in many models whatever happens: read them against the unrelated one. Near 1 "
    "in one direction, that direction alone decides cosines and CKA."
)
AGAINST_ITSELF = (
    "KL of the original against itself: each text once more by itself, since batches and precision "
    "change digits."
)


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model gives for n texts, and what it takes; its blocks may be gone by now.

    vectors: (n, d); size: by figure, as LABELS has them; ids: of each text; states: of a language
    model, of texts by their tokens, (T, d) after the final norm; again: of some of them, read one
    by one; why: it has no head, where one was wanted.
    """

    name: str
    vectors: np.ndarray
    size: dict[str, float | None]
    ids: Sequence[Ids]
    states: Mapping[Ids, Tensor]
    again: Mapping[Ids, Tensor]
    head: Head | None
    why: str
    device: torch.device | str
    dtype: str = ""


def with_head(planned: PlannedModel) -> PlannedModel:
    """The model, to be opened with its language-model head if it has one."""
    return replace(planned, options=replace(planned.options, head=planned.likelihoods))


def outputs(
    planned: PlannedModel, model: Model, design: Design, display: Display, changed: bool = False
) -> Outputs:
    """What a model gives for the texts of a design; nothing is kept of what is read anew.

    changed: whether blocks were taken out of `model`, of which the store must not know.
    """
    requests = design.questions.sample(design.task)
    if (n := len(requests)) > MOST:
        requests = [requests[i] for i in chosen(n)]
    texts = [Text(r.text, model.prompt(design.task, r.prompt_type)) for r in requests]
    ids = [_ids(encoded) for encoded in model.tokenize(texts)] if model.head else []
    reader = _Reader(model, set(_drawn(ids, TOKENS) if model.head else ()))
    with display.stage(f"{planned.name}: reading its outputs", design.unit) as advance:
        if changed or model.head:
            pooled = reader.read(texts, design.batch_tokens, advance)
        else:
            stored = Embeddings(model, design.questions, design.batch_tokens)
            stored.read(texts, advance)
            pooled = stored.plain.read(texts, reader.last)
        more = [tokens for tokens in reader.states if len(tokens) > 1]
        alone = _Reader(model, set(_drawn(more, AGAIN)))
        for tokens in alone.wanted:
            alone.run([{"input_ids": list(tokens)}])
        latency = 1000 * pass_latency(model, texts).full if isinstance(model, OpenedModel) else None
    parts = getattr(model, "parts", None)
    size = {
        "blocks": model.info.blocks,
        "parameters": model.info.parameters / 1e6,
        "memory": in_memory(parts.module) / 1e6 if parts else None,
        "disk": None if changed else weight_bytes(planned.checkpoint) / 1e6 or None,
        "latency": latency,
    }
    vectors = model.embed(torch.from_numpy(pooled)).numpy()
    why, device = model.headless if planned.options.head else "", getattr(model, "device", "cpu")
    read = reader.states, alone.states
    dtype = planned.options.dtype
    return Outputs(planned.name, vectors, size, ids, *read, model.head, why, device, dtype)


def _ids(encoded: Encoded) -> Ids:
    return tuple(map(int, encoded["input_ids"]))


def _drawn(ids: Sequence[Ids], most: int) -> list[Ids]:
    """Texts of so many tokens together, all of them if they have no more; at least one."""
    if sum(map(len, ids)) <= most:
        return list(ids)
    order = [ids[i] for i in np.random.RandomState(SEED).permutation(len(ids))]
    fit = np.cumsum([len(tokens) for tokens in order]) <= most
    return order[: max(1, int(fit.sum()))]


class _Reader:
    """Reads batches: the pooled output of each text, and states of the tokens of some."""

    def __init__(self, model: Model, wanted: set[Ids]) -> None:
        self.model, self.wanted = model, wanted
        self.states: dict[Ids, Tensor] = {}
        self.last = planes(model, "final")[-1]

    def read(self, texts: Sequence[Text], batch_tokens: int, progress: Progress) -> np.ndarray:
        """Their pooled outputs (n, d), before what the model makes of these."""
        rows: dict[Text, np.ndarray] = {}

        def keep(here: Sequence[Text], read: Mapping[str, np.ndarray], cut: Sequence[bool]) -> None:
            rows.update(zip(here, read["vectors"], strict=True))

        alike = bool(self.model.head) and getattr(self.model, "padding", "") == "none"
        how: dict[str, Any] = {"batch_tokens": batch_tokens, "progress": progress, "alike": alike}
        forward(self.model, texts, self.run, keep, **how)
        return np.stack([rows[text] for text in texts])

    def run(self, batch: Sequence[Encoded]) -> dict[str, Tensor]:
        """One pass: "vectors" (b, d); states of tokens are kept."""
        model: Any = self.model
        if model.head is None:
            return {"vectors": model.states(batch)[self.last]}
        features, vectors = model.features(batch), {}

        def seen(layer: int, state: Tensor) -> None:
            if layer < model.info.blocks:
                return
            vectors["vectors"] = model.pooled(state, features)[self.last[0]]
            for encoded, row, mask in zip(batch, state, features["attention_mask"], strict=True):
                if (tokens := _ids(encoded)) in self.wanted:
                    self.states[tokens] = model.normed(row[mask.bool()]).cpu()

        model.watch(batch, seen)
        return vectors


def next_tokens(
    a: Outputs, b: Outputs, of_a: Mapping[Ids, Tensor], of_b: Mapping[Ids, Tensor]
) -> dict[str, float]:
    """The figures of language models, on the texts whose states both have."""
    assert a.head is not None
    assert b.head is not None
    figures = NextTokens()
    rows = max(1, LOGIT_BYTES // (4 * a.head.vocabulary))
    for tokens in filter(of_b.__contains__, a.ids):
        for start in range(0, len(tokens) - 1, rows):  # a row more than is predicted from
            here = slice(start, start + rows + 1)
            sides = ((a, of_a[tokens]), (b, of_b[tokens]))
            logits = [o.head.logits(state[here].to(o.device)) for o, state in sides if o.head]
            figures.add(torch.tensor(tokens[here]), *logits)
    return figures.figures


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How alike the outputs of two models are."""

    original: Outputs
    changed: Outputs

    @cached_property
    def _found(self) -> tuple[dict[str, float], list[str]]:
        a, b = self.original, self.changed
        figures: dict[str, float] = {}
        notes: list[str] = []
        try:
            for side in (a, b):
                if not np.isfinite(side.vectors).all():
                    wrong = not_finite(int(side.size["blocks"] or 0), side.dtype)
                    raise NotFinite(f"{side.name}: {wrong}")
            figures |= alike(a.vectors, b.vectors)
        except UnitError as error:
            notes.append(f"No figures of vectors: {error}.")
        try:
            if not (reason := self._apart()):
                figures |= next_tokens(a, b, a.states, b.states)
                itself = next_tokens(a, a, a.states, a.again)
                figures |= {f"{name}_itself": itself[name] for name in ("kl", "same_top1")}
            elif a.head or b.head or (a.why and b.why):
                raise UnitError(reason)
        except UnitError as error:
            notes.append(f"No figures of next tokens: {error}.")
        read = sum(map(a.states.__contains__, a.ids))  # several texts may be the same tokens
        if "tokens" in figures and read < len(a.ids):
            some = f"{read:,} of the {len(a.ids):,} texts, drawn by a seed"
            notes.append(f"Next tokens: {int(figures['tokens']):,}, of {some}.")
        return figures, notes

    def _apart(self) -> str:
        """Why the two cannot be compared as language models; "" if they can."""
        a, b = self.original, self.changed
        for side in (a, b):
            if side.head is None:
                return f"{side.name}: {side.why}" if side.why else f"{side.name} has no head"
        if a.head and b.head and a.head.vocabulary != b.head.vocabulary:
            return f"vocabularies of {a.head.vocabulary:,} and {b.head.vocabulary:,} tokens"
        return "" if list(a.ids) == list(b.ids) else "the two cut texts into other tokens"

    @property
    def figures(self) -> dict[str, float]:
        """What there is of `alike` and `NextTokens`; those of the original twice end in _itself."""
        return dict(self._found[0])

    @property
    def notes(self) -> list[str]:
        """What there is not, and why."""
        return list(self._found[1])

    @property
    def rows(self) -> list[Row]:
        """One per figure that there is: figure, label, original, changed, unrelated."""
        f = self.figures.get
        before, after = self.original.size, self.changed.size
        values = {
            "cosine": (1, f("cosine"), f("unpaired")),
            "rsa": (1, f("rsa"), 0),
            "knn_overlap": (1, f("knn_overlap"), f("chance")),
            "cka": (1, f("cka"), 0),
            "top_share": (f("top_share_original"), f("top_share"), None),
            "kl": (f("kl_itself"), f("kl"), None),
            "same_top1": (f("same_top1_itself"), f("same_top1"), None),
            "perplexity": (f("perplexity_original"), f("perplexity"), None),
            **{name: (before[name], size, None) for name, size in after.items()},
        }
        names = [column.name for column in COLUMNS]
        rows = ((name, label, *values[name]) for name, label in LABELS.items())
        return [dict(zip(names, row, strict=True)) for row in rows if row[3] is not None]

    @property
    def answer(self) -> tuple[str, ...]:
        """The figures in a sentence, if there are any."""
        f, parts = self.figures, []
        if "knn_overlap" in f:
            near, chance = f["knn_overlap"], f["chance"]
            parts.append(
                f"of each text's 10 nearest texts {near:.0%} are the same (chance: {chance:.0%})"
            )
        if "rsa" in f:
            parts.append(f"similarities rank alike at {f['rsa']:.2f} (1: the same, 0: no relation)")
        if "kl" in f:
            parts.append(
                f"perplexity {f['perplexity_original']:.4g} becomes {f['perplexity']:.4g}, the KL "
                f"of the next token is {f['kl']:.2g} nats"
            )
        text = "; ".join(parts).replace("%", " %")
        return (f"{text[0].upper()}{text[1:]}.",) if text else ()

    def table(self, name: str, *more: str) -> Table:
        """The figures; more: sentences for its caption."""
        title, f = f"Against the original, on {len(self.original.vectors):,} texts", self.figures
        said = {READ: bool(f), COSINES: "texts" in f, AGAINST_ITSELF: "kl" in f}
        caption = (*(text for text, fits in said.items() if fits), *self.notes, *more)
        return Table(name, title, COLUMNS, self.rows, caption)


def to_parent(
    planned: PlannedModel, design: Design, display: Display, model: Model | None = None
) -> Fidelity | str | None:
    """How alike a model that the harness saved is to the one it was made from.

    model: the opened one, if it is open already. Both read the texts of the design; as language
    models, too, where the options want a head (`with_head`). None for a model that names no parent;
    a reason where the parent cannot be read, or is another one by now.
    """
    parent = parent_of(planned.checkpoint)
    if parent is None:
        return None
    try:
        trusted = peft_adapters.parts(parent.name) if planned.checkpoint.code else []
        checkpoint = find(parent.name, trusted=trusted)
        known = set(planned.checkpoint.code.values())  # the same code is trusted as well
        if checkpoint.revision != parent.revision or not known.issuperset(checkpoint.code.values()):
            return f"its parent {parent.name} is no longer the one that it was made from"
        options = parent.fill(planned.options)
        original = replace(planned, name=checkpoint.name, checkpoint=checkpoint, options=options)
        before = outputs(original, opened(original, display), design, display)
    except UserError as error:
        return f"its parent {parent.name} cannot be read: {fault(error)}"
    return Fidelity(before, outputs(planned, model or opened(planned, display), design, display))
