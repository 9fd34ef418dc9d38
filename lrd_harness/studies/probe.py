"""Probes: the same texts changed step by step, and what the metrics say at every layer.

As in "Does Representation Matter?" (arXiv 2412.09563), but with exact and nested shares in place of
probabilities. The states of one step are held in memory, and nothing of them is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from lrd_harness import measuring
from lrd_harness.capture.batches import batches
from lrd_harness.capture.layers import planes
from lrd_harness.capture.token_metrics import POOLED, TokenValues, Watched
from lrd_harness.contracts import Encoded, Model, Norm, Text
from lrd_harness.errors import UserError, unknown
from lrd_harness.measuring import PlannedMetric
from lrd_harness.report import Column, Report, Table
from lrd_harness.scores import Scores, split_scores
from lrd_harness.store import files
from lrd_harness.store.store import Plane
from lrd_harness.studies.values import DIRECTIONS, LayerScore, captioned, fault, layer_score, spaced

PART = 512  # texts that are tokenised together


class Tokens:
    """The token features of texts; which of their tokens are ordinary, and so may be changed.

    What is changed at a share is also changed at a larger one; what is drawn depends on (seed,
    number of the text) only.
    Special tokens, [UNK] among them, and the tokens of a prompt are not. `inside` are the places of
    the text itself, which chains are made of: the ordinary tokens and those [UNK] that stand for
    words of it. Texts without an ordinary token are left out; len() counts the others. Raises
    UserError where none is left.
    """

    def __init__(self, model: Model, texts: Sequence[Text], seed: int = 0) -> None:
        self._model, self._seed = model, seed
        self._special = special(model.tokenizer)
        frame = self._special - _unknown(model.tokenizer)
        parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
        encoded = [features for part in parts for features in model.tokenize(part)]
        prompts = {
            prompt: list(model.tokenize([Text("", prompt)])[0]["input_ids"]) if prompt else []
            for prompt in {text.prompt for text in texts}
        }
        self.encoded: list[Encoded] = []
        self.ordinary: list[list[int]] = []  # positions, as are the next
        self.inside: list[list[int]] = []
        self._numbers: list[int] = []
        for number, (text, features) in enumerate(zip(texts, encoded, strict=True)):
            ids = features["input_ids"]
            alike = takewhile(lambda p: p[0] == p[1], zip(prompts[text.prompt], ids, strict=False))
            first = max(int(features.get("prompt_length", 0)), len(list(alike)))
            places = [i for i in range(first, len(ids)) if ids[i] not in self._special]
            if places:
                self.encoded.append(features)
                self.ordinary.append(places)
                self.inside.append([i for i in range(first, len(ids)) if ids[i] not in frame])
                self._numbers.append(number)
        if not self.encoded:
            raise UserError("no text has a token that could be changed")

    def __len__(self) -> int:
        return len(self.encoded)

    def repeated(self, share: float) -> list[Encoded]:
        """The texts, round(share * m) of the m ordinary tokens of each being one token of it.

        The token is the same at every share. A share of 0 gives the texts themselves.
        """

        def one_of_its_own(draw: np.random.Generator, ids: Sequence[int]) -> Sequence[int]:
            return [ids[int(draw.integers(len(ids)))]] * len(ids)

        return self._replaced(share, one_of_its_own)

    def randomised(self, share: float) -> list[Encoded]:
        """The texts, the same tokens as in `repeated` being random ones of the vocabulary."""
        words = vocabulary(self._model)

        def anything(draw: np.random.Generator, ids: Sequence[int]) -> Sequence[int]:
            return [words[i] for i in draw.integers(len(words), size=len(ids))]

        return self._replaced(share, anything)

    def chained(self, length: int) -> list[Encoded]:
        """A chain for each text, with exactly `length` tokens of texts: it, the next, and so on.

        After the last text comes the first. A shorter chain is the beginning of a longer one. Each
        stands between the prompt and the special tokens of the text that it begins with. [UNK] in
        a text is a token of it. Raises UserError where the model takes no text so long.
        """
        if length > self.room:
            most = self._model.info.max_length
            raise UserError(
                f"length {length}: the model takes {most} tokens, of which up to "
                f"{most - self.room} are special ones or the prompt's"
            )
        pairs = list(zip(self.encoded, self.inside, strict=True))
        words = [[features["input_ids"][i] for i in places] for features, places in pairs]
        made: list[Encoded] = []
        for start, (features, places) in enumerate(pairs):
            tokens = islice(chain.from_iterable(islice(cycle(words), start, None)), length)
            rows: dict[str, Any] = {"input_ids": list(tokens)}
            if "token_type_ids" in features:
                rows["token_type_ids"] = [features["token_type_ids"][places[0]]] * length
            for name, row in rows.items():
                around = list(features[name])
                rows[name] = [*around[: places[0]], *row, *around[places[-1] + 1 :]]
            made.append({**features, **rows})
        return made

    @property
    def total(self) -> int:
        """How many tokens chains can take of the texts in all: longer ones repeat themselves."""
        return sum(map(len, self.inside))

    @property
    def room(self) -> int:
        """How many tokens of texts the model takes beside the special ones and the prompt's."""
        pairs = zip(self.encoded, self.inside, strict=True)
        frames = [len(f["input_ids"]) - (p[-1] - p[0] + 1) for f, p in pairs]
        return self._model.info.max_length - max(frames)

    def _replaced(
        self, share: float, others: Callable[[np.random.Generator, Sequence[int]], Sequence[int]]
    ) -> list[Encoded]:
        """others: from a text's ordinary tokens to what may stand in their place, in that order."""
        made: list[Encoded] = []
        for number, features, places in zip(
            self._numbers, self.encoded, self.ordinary, strict=True
        ):
            draw = np.random.default_rng([self._seed, number])
            order = draw.permutation(len(places))
            ids = list(features["input_ids"])
            new = others(draw, [ids[i] for i in places])
            for which in order[: round(share * len(places))]:
                ids[places[which]] = new[which]
            made.append({**features, "input_ids": ids})
        return made


def special(tokenizer: Any) -> set[int]:
    """The ids of all tokens that stand for no text."""
    found = {int(i) for i in tokenizer.all_special_ids}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return found | {int(i) for i, token in added.items() if getattr(token, "special", False)}


def _unknown(tokenizer: Any) -> set[int]:
    """The id of [UNK], where it is not also a token that frames texts, as GPT-2's is."""
    roles = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    unknown = getattr(tokenizer, "unk_token_id", None)
    frame = {getattr(tokenizer, role, None) for role in roles}
    return set() if unknown is None or unknown in frame else {int(unknown)}


def vocabulary(model: Model) -> list[int]:
    """The ids of all ordinary tokens that the model has a vector for, in ascending order.

    Raises UserError where the tokenizer shows none.
    """
    known = set(map(int, getattr(model.tokenizer, "get_vocab", dict)().values()))
    module: Any = getattr(getattr(model, "backbone", None), "module", None)
    table = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    rows = getattr(table, "num_embeddings", None) or max(known, default=0) + 1
    words = sorted(i for i in known - special(model.tokenizer) if i < rows)
    if not words:
        raise UserError("the model's tokenizer shows no vocabulary to draw random tokens from")
    return words


SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = (8, 16, 32, 64, 128)
USUAL = ("prompt_entropy", "dataset_entropy", "curvature", "effective_rank")
STEP = {"repetition": "share repeated", "random": "share random", "length": "tokens"}
COLUMNS = "model revision kind step metric score layer depth value n".split()
KINDS: dict[str, Callable[[Tokens, float], list[Encoded]]] = {
    "repetition": Tokens.repeated,
    "random": Tokens.randomised,
    "length": lambda tokens, length: tokens.chained(int(length)),
}
Progress = Callable[[int, int], None]


@dataclass
class ProbeResult:
    """What a probe found, of n texts.

    values: one row per number: step (a share or a length), metric, score, layer ("model" for one of
    the model), depth (layer / L), value (None where a layer has none), n;
    curves: metric -> step -> the score by which it is shown; remarks: what one should know;
    faults: step, metric (None: the model) and error of what went wrong.
    """

    steps: Sequence[float] = ()
    n: int = 0
    remarks: list[str] = field(default_factory=list)
    values: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, dict[float, LayerScore]] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)


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
    norm: Norm = "hf",
    batch_tokens: int = 1024,
    progress: Progress = lambda done, total: None,
) -> ProbeResult:
    """Measure the texts, changed in one way, at several steps.

    kind: "repetition" or "random", steps being shares 0..1, or "length", steps being tokens; by
    default SHARES, or those of LENGTHS that the model takes; batch_tokens: padding included;
    progress: called with (done, total) texts. A metric's fault at a step costs its values there,
    and a fault of the model those of the step.
    Raises UserError as `check` does, for a share out of 0..1, a length below 1 or beyond what the
    model takes, and where no text has a token that could be changed.
    """
    check(kind, items)
    tokens = Tokens(model, texts, seed)
    result = _begun(kind, steps, tokens, len(texts))
    total = result.n * len(result.steps)
    for number, step in enumerate(result.steps):
        changed = KINDS[kind](tokens, step)
        with files.scratch() as folder:
            states = _Step(model, items, norm, folder, result.n)
            try:
                for done in states.read(changed, batch_tokens):
                    progress(number * result.n + done, total)
            except Exception as error:  # memory that does not suffice
                result.faults.append({"step": step, "metric": None, "error": fault(error)})
                continue
            for item in items:
                _measure(result, states, item, step)
    return result


def _begun(kind: str, steps: Sequence[float] | None, tokens: Tokens, texts: int) -> ProbeResult:
    """The steps, checked before anything is run, and what is to be said beforehand."""
    n, room = len(tokens), tokens.room
    if n < measuring.MIN_TEXTS:
        raise UserError(f"a probe needs at least {measuring.MIN_TEXTS} texts with words, got {n}")
    if steps is None:
        usual = LENGTHS if kind == "length" else SHARES
        steps = [step for step in usual if kind != "length" or step <= room] or usual[:1]
    for step in steps:
        if kind == "length" and (step != int(step) or step < 1):
            raise UserError(f"length {step:g}: not a whole number of tokens of at least 1")
        if kind != "length" and not 0 <= step <= 1:
            raise UserError(f"share {step:g}: not between 0 and 1")
    result = ProbeResult(steps, n)
    if n < texts:
        result.remarks.append(f"{texts - n} of {texts} texts have no token that could be changed")
    if kind == "length":
        tokens.chained(int(max(steps)))
        if max(steps) > tokens.total:
            result.remarks.append(
                f"the texts have {tokens.total} tokens in all, which longer chains repeat"
            )
    return result


def _measure(result: ProbeResult, states: _Step, item: PlannedMetric, step: float) -> None:
    """A metric at a step: its values, or its fault."""
    name, blocks = item.metric.name, states.blocks
    try:
        scores, n = states.scores(item)
        split = split_scores(scores)
        curve = layer_score(item.metric, scores)
    except Exception as error:
        result.faults.append({"step": step, "metric": name, "error": fault(error)})
        return
    result.curves.setdefault(name, {})[step] = curve
    numbers: list[tuple[str, Any, float | None, float | None]] = []
    numbers += [(score, "model", None, value) for score, value in split.values.items()]
    if item.metric.needs != "tokens":
        numbers.append(("start", "model", None, scores.start))
    for score, profile in split.profiles.items():
        pairs = zip(profile["layers"], profile["values"], strict=True)
        numbers += [(score, layer, layer / blocks, value) for layer, value in pairs]
    for score, layer, depth, value in numbers:
        row = {"step": step, "metric": name, "score": score, "layer": layer}
        result.values.append({**row, "depth": depth, "value": value, "n": n})


def report(
    result: ProbeResult, kind: str, name: str, revision: str, facts: Mapping[str, Any]
) -> Report:
    """A table per metric: one row per layer, one column per step, the change from first to last.

    Table "probe" has all values; facts: what the JSON file says beside what was found.
    """
    first, last = result.steps[0], result.steps[-1]
    change = f"{name} on {result.n} texts; change: from {STEP[kind]} {first:g} to {last:g}."
    curves = [_table(metric, result, kind) for metric in result.curves]
    tables = captioned(curves, [change, DIRECTIONS])
    whose = {"model": name, "revision": revision, "kind": kind}
    rows = [{**whose, **row} for row in result.values]
    tables.append(Table("probe", "Values", tuple(map(Column, COLUMNS)), rows, shown=False))
    errors = []
    for one in result.faults:
        metric = f", {one['metric']}" if one["metric"] else ""
        errors.append(f"{STEP[kind]} {one['step']:g}{metric}: {one['error']}")
    said = {**whose, "steps": list(result.steps), "texts": result.n, **facts}
    said["errors"] = result.faults
    return Report(f"{name} by {STEP[kind]}", tuple(tables), (), tuple(errors), said)


def _table(metric: str, result: ProbeResult, kind: str) -> Table:
    curves = result.curves[metric]  # in the order of the steps
    first, *_, last = (*curves, *curves)
    rows = []
    for layer in spaced(sorted({layer for curve in curves.values() for layer in curve.values})):
        cells = {f"{step:g}": curve.values.get(layer) for step, curve in curves.items()}
        ends = [curves[step].values.get(layer) for step in (first, last)]
        change = None if None in ends or len(curves) < 2 else ends[1] - ends[0]  # type: ignore[operator]
        rows.append({"layer": layer, **cells, "change": change})
    columns = (
        Column("layer", key=True),
        *(Column(f"{step:g}", form="#.4g") for step in curves),
        Column("change", form="+#.3g"),
    )
    return Table(metric, f"{curves[first].title} by {STEP[kind]}", columns, rows)


class _Step:
    """The states of the texts at one step: pooled ones, and what token metrics made of theirs."""

    def __init__(
        self, model: Model, items: Sequence[PlannedMetric], norm: Norm, root: Path, n: int
    ) -> None:
        self.blocks = model.info.blocks
        self._model, self._norm = model, norm
        self._keys = [Text(str(number)) for number in range(n)]  # of changed texts there is no text
        self._planes = planes(model, norm)
        self._kept: dict[Plane, np.ndarray] = {}
        self._pooled = any(item.metric.needs == "pooled" for item in items)
        identity = dict(model.identity)
        self._tokens = {
            id(item): TokenValues(item, root, identity, norm, self.blocks + 1)
            for item in items
            if item.metric.needs == "tokens"
        }

    def read(self, encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[int]:
        """Run the texts, longest first, and keep of their states what the metrics need.

        Says how many are done.
        """
        tokens = list(self._tokens.values())
        watched = Watched(self._model, self._norm, tokens, self._keys) if tokens else None
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]["input_ids"]))
        lengths = [len(encoded[i]["input_ids"]) for i in order]
        yield 0
        alike = getattr(self._model, "padding", "") == "none"
        for batch in batches(lengths, batch_tokens, alike):
            chosen = order[batch.start : batch.stop]
            given = [encoded[i] for i in chosen]
            found = self._model.states(given, watched) if watched else self._model.states(given)
            planes = [*self._planes, *(p for p in found if p[0] not in POOLED)]
            for plane in planes if self._pooled else planes[len(self._planes) :]:
                array = found[plane].cpu().numpy()
                if plane not in self._kept:
                    self._kept[plane] = np.empty((len(self._keys), array.shape[1]), array.dtype)
                self._kept[plane][chosen] = array
            yield batch.stop
        if watched:
            watched.keep(self._keys, {p: a for p, a in self._kept.items() if p[0] not in POOLED})

    def scores(self, item: PlannedMetric) -> tuple[Scores, int]:
        """A metric's scores, and of how many texts they are. Raises what the metric raises."""
        if item.metric.needs == "tokens":
            return self._tokens[id(item)].finished(self._keys)
        states = [self._kept[plane] for plane in self._planes]
        return measuring.measure(item.metric, states, **item.parameters), len(self._keys)
