"""Probes: the same texts changed step by step, and what the metrics say at every layer.

The states of one step are held in memory and nothing of them is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from lrd_harness import measuring, temporary
from lrd_harness.capture import batches
from lrd_harness.contracts import Norm, Text
from lrd_harness.errors import UserError, unknown
from lrd_harness.layer_scores import LayerScore, fault, layer_score, split_of
from lrd_harness.parameters import PlannedMetric
from lrd_harness.perturb import Tokens
from lrd_harness.protocols import Encoded, Model
from lrd_harness.store import Plane
from lrd_harness.token_values import POOLED, TokenValues, Watched
from lrd_harness.view import planes

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = (8, 16, 32, 64, 128)
USUAL = ("prompt_entropy", "dataset_entropy", "curvature", "effective_rank")
KINDS: dict[str, Callable[[Tokens, float], list[Encoded]]] = {
    "repetition": Tokens.repeated,
    "random": Tokens.randomised,
    "length": lambda tokens, length: tokens.chained(int(length)),
}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Value:
    """One number: at which step (a share or a length), of what, of how many texts.

    layer: "model" for a model-level value; depth: layer / L; value: None where a layer has none.
    """

    step: float
    metric: str
    score: str
    layer: int | str
    depth: float | None
    value: float | None
    n: int


@dataclass(frozen=True)
class Fault:
    """What went wrong at a step, with one metric or (None) with the model."""

    step: float
    metric: str | None
    error: str


@dataclass
class Probed:
    """What a probe found, of n texts.

    curves: metric -> step -> the score by which it is shown; remarks: what one should know.
    """

    steps: Sequence[float] = ()
    n: int = 0
    remarks: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    curves: dict[str, dict[float, LayerScore]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class How:
    """How the model is read. norm: metrics.md, Norm; batch_tokens: padding included."""

    norm: Norm = "hf"
    batch_tokens: int = 1024


AS_USUAL = How()


def check(kind: str, items: Sequence[PlannedMetric]) -> None:
    """Raise UserError for an unknown kind of probe, and for metrics that need views."""
    if kind not in KINDS:
        raise unknown("kind of probe", kind, KINDS, f"There are: {', '.join(KINDS)}.")
    for item in items:
        if item.metric.needs == "views":
            raise UserError(f"{item.metric.name} compares augmented views, and a probe has none")


def probe(
    model: Model,
    texts: Sequence[Text],
    items: Sequence[PlannedMetric],
    kind: str,
    steps: Sequence[float] | None = None,
    seed: int = 0,
    how: How = AS_USUAL,
    progress: Progress = lambda done, total: None,
) -> Probed:
    """Measure the texts, changed in one way, at several steps.

    kind: "repetition" or "random", steps being shares 0..1, or "length", steps being tokens; by
    default SHARES, or those of LENGTHS that the model takes;
    progress: called with (done, total) texts. A metric's fault at a step costs its values there,
    and a fault of the model those of the step.
    Raises UserError as `check` does, for a share out of 0..1, a length below 1 or beyond what the
    model takes, and where no text has a token that could be changed.
    """
    check(kind, items)
    tokens = Tokens(model, texts, seed)
    found = _begun(kind, steps, tokens, len(texts))
    steps, n = found.steps, found.n
    for number, step in enumerate(steps):
        before = number * n
        changed = KINDS[kind](tokens, step)
        with temporary.scratch() as folder:
            one = _Step(model, items, how, folder, n)
            try:
                one.read(changed, partial(_advance, progress, before, n * len(steps)))
            except Exception as error:  # memory that does not suffice
                found.faults.append(Fault(step, None, fault(error)))
                continue
            for item in items:
                _measure(found, one, item, step)
    return found


def _advance(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _begun(kind: str, steps: Sequence[float] | None, tokens: Tokens, texts: int) -> Probed:
    """The steps, checked before anything is run, and what is to be said beforehand."""
    n, room = len(tokens), tokens.room
    if n < measuring.MIN_TEXTS:
        raise UserError(f"a probe needs at least {measuring.MIN_TEXTS} texts with words, got {n}")
    if steps is None:
        usual = LENGTHS if kind == "length" else SHARES
        steps = [step for step in usual if kind != "length" or step <= room] or usual[:1]
    _check_steps(kind, steps)
    found = Probed(steps, n)
    if n < texts:
        found.remarks.append(f"{texts - n} of {texts} texts have no token that could be changed")
    if kind == "length":
        tokens.chained(int(max(steps)))
        if max(steps) > tokens.total:
            found.remarks.append(
                f"the texts have {tokens.total} tokens in all, which longer chains repeat"
            )
    return found


def _check_steps(kind: str, steps: Sequence[float]) -> None:
    for step in steps:
        if kind == "length" and (step != int(step) or step < 1):
            raise UserError(f"length {step:g}: not a whole number of tokens of at least 1")
        if kind != "length" and not 0 <= step <= 1:
            raise UserError(f"share {step:g}: not between 0 and 1")


def _measure(found: Probed, one: _Step, item: PlannedMetric, step: float) -> None:
    """A metric at a step: its values, or its fault."""
    name, blocks = item.metric.name, one.blocks
    try:
        scores, n = one.scores(item)
        split = split_of(scores, blocks)
        shown = layer_score(item.metric, split)
    except Exception as error:
        found.faults.append(Fault(step, name, fault(error)))
        return
    found.curves.setdefault(name, {})[step] = shown
    for score, value in split.values.items():
        found.values.append(Value(step, name, score, "model", None, value, n))
    for score, profile in split.profiles.items():
        for layer, number in zip(profile["layers"], profile["values"], strict=True):
            found.values.append(Value(step, name, score, layer, layer / blocks, number, n))


class _Step:
    """The states of the texts at one step: pooled ones, and what token metrics made of theirs."""

    def __init__(
        self, model: Model, items: Sequence[PlannedMetric], how: How, root: Path, n: int
    ) -> None:
        self.blocks = model.info.blocks
        self._model, self._how = model, how
        self._keys = [Text(str(number)) for number in range(n)]  # of changed texts there is no text
        self._planes = planes(model, how.norm)
        self._kept: dict[Plane, np.ndarray] = {}
        self._pooled = any(item.metric.needs == "pooled" for item in items)
        identity = dict(model.identity)
        self._tokens = {
            id(item): TokenValues(item, root, identity, how.norm, self.blocks + 1)
            for item in items
            if item.metric.needs == "tokens"
        }

    def read(self, encoded: Sequence[Encoded], advance: Callable[[int], None]) -> None:
        """Run the texts, longest first, and keep of their states what the metrics need."""
        tokens = list(self._tokens.values())
        watched = Watched(self._model, self._how.norm, tokens, self._keys) if tokens else None
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]["input_ids"]))
        lengths = [len(encoded[i]["input_ids"]) for i in order]
        done = 0
        advance(0)
        for batch in batches(lengths, self._how.batch_tokens):
            chosen = order[batch.start : batch.stop]
            given = [encoded[i] for i in chosen]
            found = self._model.states(given, watched) if watched else self._model.states(given)
            self._keep(chosen, found)
            done += len(batch)
            advance(done)
        if watched:
            watched.keep(self._keys, {p: a for p, a in self._kept.items() if p[0] not in POOLED})

    def _keep(self, rows: Sequence[int], found: Mapping[Plane, Tensor]) -> None:
        wanted = self._planes if self._pooled else []
        for plane in [*wanted, *(p for p in found if p[0] not in POOLED)]:
            array = found[plane].cpu().numpy()
            if plane not in self._kept:
                self._kept[plane] = np.empty((len(self._keys), array.shape[1]), array.dtype)
            self._kept[plane][rows] = array

    def scores(self, item: PlannedMetric) -> tuple[measuring.Scores, int]:
        """A metric's scores, and of how many texts they are. Raises what the metric raises."""
        if item.metric.needs == "tokens":
            return self._tokens[id(item)].finished(self._keys)
        states = [self._kept[plane] for plane in self._planes]
        return measuring.measure(item.metric, states, **item.parameters), len(self._keys)
