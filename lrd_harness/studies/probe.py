"""Probes: the same texts changed step by step, and what the metrics say at every layer.

As in "Does Representation Matter?" (arXiv 2412.09563), but with exact and nested shares in place of
probabilities. Nothing of what is read is kept: the states of a step lie in a scratch folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, cycle, islice, takewhile
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrd_harness.capture.embeddings import AS_IT_IS, capture
from lrd_harness.capture.samples import Samples, Sampling
from lrd_harness.contracts import Encoded, Model, Text
from lrd_harness.errors import UserError, unknown
from lrd_harness.measuring import MIN_TEXTS, PER_TEXT, PlannedMetric
from lrd_harness.planning.models import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.report import Cell, Column, Report, Table
from lrd_harness.scores import Scores, split_scores
from lrd_harness.store import files
from lrd_harness.store.store import Store
from lrd_harness.studies.values import (
    DIRECTIONS,
    Design,
    LayerScore,
    captioned,
    fault,
    layer_score,
    opened,
    spaced,
)

PART = 512  # texts that are tokenised together
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = (8, 16, 32, 64, 128)
USUAL = ("prompt_entropy", "dataset_entropy", "curvature", "effective_rank")
LACKING = {
    "views": "compares augmented views",
    "halves": "compares the halves of texts",
    "labels": "needs labels",
}
STEP = {"repetition": "share repeated", "random": "share random", "length": "tokens"}
COLUMNS = "model revision kind step metric score layer depth value n".split()
Draw = Callable[[np.random.Generator, Sequence[int]], Sequence[int]]


class Marked(NamedTuple):
    """A text's token features. number: of the text.

    ordinary: the places of the tokens that may be changed; inside: those of the text itself, which
    chains are made of: the ordinary ones and those [UNK] that stand for words of it.
    """

    number: int
    features: Encoded
    ordinary: list[int]
    inside: list[int]


class Tokens:
    """The tokens of texts, to be changed.

    What is changed at a share is also changed at a larger one; what is drawn depends on (seed,
    number of the text) only. Special tokens, [UNK] among them, and those of a prompt stay. Texts
    without an ordinary token are left out; len() counts the others. Raises UserError where none is
    left.
    """

    def __init__(self, model: Model, texts: Sequence[Text], seed: int = 0) -> None:
        self._model, self._seed = model, seed
        special = special_tokens(model.tokenizer)
        frame = special - _unknown(model.tokenizer)
        parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
        encoded = chain.from_iterable(model.tokenize(part) for part in parts)
        prompts = {
            prompt: list(model.tokenize([Text("", prompt)])[0]["input_ids"]) if prompt else []
            for prompt in {text.prompt for text in texts}
        }
        self.texts: list[Marked] = []
        for number, (text, features) in enumerate(zip(texts, encoded, strict=True)):
            ids = features["input_ids"]
            alike = takewhile(lambda p: p[0] == p[1], zip(prompts[text.prompt], ids, strict=False))
            first = max(int(features.get("prompt_length", 0)), len(list(alike)))
            ordinary = [i for i in range(first, len(ids)) if ids[i] not in special]
            if ordinary:
                inside = [i for i in range(first, len(ids)) if ids[i] not in frame]
                self.texts.append(Marked(number, features, ordinary, inside))
        if not self.texts:
            raise UserError("no text has a token that could be changed")

    def __len__(self) -> int:
        return len(self.texts)

    def repeated(self, share: float) -> list[Encoded]:
        """The texts, round(share * m) of the m ordinary tokens of each being one token of it.

        The token is the same at every share. A share of 0 gives the texts themselves.
        """
        return self.replaced(
            share, lambda draw, ids: [ids[int(draw.integers(len(ids)))]] * len(ids)
        )

    def randomised(self, share: float) -> list[Encoded]:
        """The texts, the same tokens as in `repeated` being random ones of the vocabulary."""
        words = vocabulary(self._model)
        return self.replaced(
            share, lambda draw, ids: [words[i] for i in draw.integers(len(words), size=len(ids))]
        )

    def replaced(self, share: float, others: Draw) -> list[Encoded]:
        """others: from a text's ordinary tokens to what may stand in their place, in that order."""
        changed: list[Encoded] = []
        for number, features, places, _ in self.texts:
            draw = np.random.default_rng([self._seed, number])
            order = draw.permutation(len(places))
            ids = list(features["input_ids"])
            new = others(draw, [ids[i] for i in places])
            for which in order[: round(share * len(places))]:
                ids[places[which]] = new[which]
            changed.append({**features, "input_ids": ids})
        return changed

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
        words = [[text.features["input_ids"][i] for i in text.inside] for text in self.texts]
        chains: list[Encoded] = []
        for start, (_, features, _, places) in enumerate(self.texts):
            tokens = islice(chain.from_iterable(islice(cycle(words), start, None)), length)
            rows: dict[str, Any] = {"input_ids": list(tokens)}
            if "token_type_ids" in features:
                rows["token_type_ids"] = [features["token_type_ids"][places[0]]] * length
            for name, row in rows.items():
                around = list(features[name])
                rows[name] = [*around[: places[0]], *row, *around[places[-1] + 1 :]]
            chains.append({**features, **rows})
        return chains

    @property
    def total(self) -> int:
        """How many tokens chains can take of the texts in all: longer ones repeat themselves."""
        return sum(len(text.inside) for text in self.texts)

    @property
    def room(self) -> int:
        """How many tokens of texts the model takes beside the special ones and the prompt's."""
        frames = [
            len(text.features["input_ids"]) - (text.inside[-1] - text.inside[0] + 1)
            for text in self.texts
        ]
        return self._model.info.max_length - max(frames)


def special_tokens(tokenizer: Any) -> set[int]:
    """The ids of all tokens that stand for no text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {int(i) for i, token in added.items() if getattr(token, "special", False)}
    return special | set(map(int, tokenizer.all_special_ids))


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
    words = sorted(i for i in known - special_tokens(model.tokenizer) if i < rows)
    if not words:
        raise UserError("the model's tokenizer shows no vocabulary to draw random tokens from")
    return words


KINDS: dict[str, Callable[[Tokens, float], list[Encoded]]] = {
    "repetition": Tokens.repeated,
    "random": Tokens.randomised,
    "length": lambda tokens, length: tokens.chained(int(length)),
}


class Changed:
    """A model that is given numbers for texts, and takes changed tokens for them."""

    def __init__(self, model: Model, encoded: Sequence[Encoded]) -> None:
        self._model, self._encoded = model, encoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def tokenize(self, texts: Sequence[Text]) -> list[Encoded]:
        """The changed tokens of the texts that are so numbered."""
        return [self._encoded[int(text.text)] for text in texts]

    def truncated(self, texts: Sequence[Text], encoded: Sequence[Encoded]) -> list[bool]:
        """None is: they were cut before they were changed."""
        return [False] * len(texts)


@dataclass
class ProbeResult:
    """What a probe found, of n texts and a model of so many blocks.

    values: one row per number: step (a share or a length), metric, score, layer ("model" for one of
    the model), depth (layer / L), value (None where a layer has none), n;
    curves: metric -> step -> the score by which it is shown; remarks: what one should know;
    faults: step, metric (None: the model) and error of what went wrong.
    """

    steps: Sequence[float]
    n: int
    blocks: int
    remarks: list[str] = field(default_factory=list)
    values: list[dict[str, Cell]] = field(default_factory=list)
    curves: dict[str, dict[float, LayerScore]] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: float, item: PlannedMetric, scores: Scores, n: int) -> None:
        """Take a metric's scores at a step, of n texts. Raises UnitError for none by layer."""
        name, split = item.metric.name, split_scores(scores)
        self.curves.setdefault(name, {})[step] = layer_score(item.metric, scores)
        whole = dict(split.values)
        if item.metric.needs not in PER_TEXT:
            whole["start"] = scores.start
        row: dict[str, Cell] = {"step": step, "metric": name, "depth": None, "n": n}
        for score, value in whole.items():
            self.values.append({**row, "score": score, "layer": "model", "value": value})
        for score, profile in split.profiles.items():
            for layer, value in zip(profile["layers"], profile["values"], strict=True):
                depth = layer / self.blocks
                at = {**row, "score": score, "layer": layer, "depth": depth, "value": value}
                self.values.append(at)


def check(kind: str, items: Sequence[PlannedMetric]) -> None:
    """Raise UserError for an unknown kind of probe, and for metrics that need more than texts."""
    if kind not in KINDS:
        raise unknown("kind of probe", kind, KINDS, f"There are: {', '.join(KINDS)}.")
    for item in items:
        if lacking := LACKING.get(item.metric.needs):
            raise UserError(f"{item.metric.name} {lacking}, and a probe has none")


def study(
    planned: PlannedModel,
    design: Design,
    kind: str,
    steps: Sequence[float] | None,
    display: Display,
) -> Report:
    """Probe a model: by metric a row per layer, a column per step, the change from first to last.

    Table "probe" has all values. Raises UserError as `probe` does.
    """
    model = opened(planned, display)
    sample = design.questions.sample(design.task)
    texts = [Text(r.text, model.prompt(design.task, r.prompt_type)) for r in sample]
    with display.stage(f"{planned.name}: reading all layers", "texts") as advance:
        how = design.seed, design.sampling, design.batch_tokens, advance
        result = probe(model, texts, design.items, kind, steps, *how)
    for remark in result.remarks:
        display.line(remark)
    by, first, last = STEP[kind], result.steps[0], result.steps[-1]
    change = f"{planned.name} on {result.n} texts; change: from {by} {first:g} to {last:g}."
    curves = [_table(metric, curves, by) for metric, curves in result.curves.items()]
    whose = {"model": planned.name, "revision": planned.checkpoint.revision, "kind": kind}
    rows = [{**whose, **row} for row in result.values]
    table = Table("probe", "Values", tuple(map(Column, COLUMNS)), rows, shown=False)
    tables = (*captioned(curves, [change, DIRECTIONS]), table)
    errors = (
        f"{by} {f['step']:g}{', ' + f['metric'] if f['metric'] else ''}: {f['error']}"
        for f in result.faults
    )
    read = {"pooling": model.info.pooling, "max_length": model.info.max_length}
    measured = {name: fact for name, fact in design.facts.items() if name not in ("texts", "draws")}
    facts = {**whose, "steps": list(result.steps), "texts": result.n, **measured, **read}
    facts["errors"] = result.faults
    return Report(f"{planned.name} by {by}", tables, (), tuple(errors), facts)


def probe(
    model: Model,
    texts: Sequence[Text],
    items: Sequence[PlannedMetric],
    kind: str,
    steps: Sequence[float] | None = None,
    seed: int = 0,
    sampling: Sampling = AS_IT_IS,
    batch_tokens: int = 1024,
    progress: Callable[[int, int], None] = lambda done, total: None,
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
    result = _begun(kind, steps, tokens, len(texts), model.info.blocks)
    n, identity = result.n, dict(model.identity)
    numbered = [Text(str(number)) for number in range(n)]  # of changed tokens there is no text
    for number, step in enumerate(result.steps):

        def advance(done: int, total: int, before: int = number * n) -> None:
            progress(before + done, n * len(result.steps))

        changed: Any = Changed(model, KINDS[kind](tokens, step))
        with files.scratch() as folder:
            store = Store(folder, identity)
            samples = Samples(changed, store, store, identity, sampling, folder)
            watched = samples.watched(numbered, items)
            read = partial(capture, batch_tokens=batch_tokens, progress=advance, watched=watched)
            try:
                read(changed, numbered, store)
            except Exception as error:  # as memory that does not suffice
                result.faults.append({"step": step, "metric": None, "error": fault(error)})
                continue
            for item in items:
                try:
                    result.add(step, item, *samples.measure(item, numbered))
                except Exception as error:
                    name = item.metric.name
                    result.faults.append({"step": step, "metric": name, "error": fault(error)})
    return result


def _begun(
    kind: str, steps: Sequence[float] | None, tokens: Tokens, texts: int, blocks: int
) -> ProbeResult:
    """The steps, checked before anything is run, and what is to be said beforehand."""
    n, long = len(tokens), kind == "length"
    if n < MIN_TEXTS:
        raise UserError(f"a probe needs at least {MIN_TEXTS} texts with words, got {n}")
    if steps is None:
        fit = [length for length in LENGTHS if length <= tokens.room] or LENGTHS[:1]
        steps = fit if long else SHARES
    for step in steps:
        if long and (step != int(step) or step < 1):
            raise UserError(f"length {step:g}: not a whole number of tokens of at least 1")
        if not long and not 0 <= step <= 1:
            raise UserError(f"share {step:g}: not between 0 and 1")
    result = ProbeResult(steps, n, blocks)
    if n < texts:
        result.remarks.append(f"{texts - n} of {texts} texts have no token that could be changed")
    if long:
        tokens.chained(int(max(steps)))
        if max(steps) > tokens.total:
            result.remarks.append(
                f"the texts have {tokens.total} tokens in all, which longer chains repeat"
            )
    return result


def _table(metric: str, curves: Mapping[float, LayerScore], by: str) -> Table:
    """curves: in the order of the steps."""
    values = {f"{step:g}": dict(curve.values) for step, curve in curves.items()}
    frame = pd.DataFrame(values, dtype=float).sort_index()
    frame["change"] = frame.iloc[:, -1] - frame.iloc[:, 0] if len(curves) > 1 else np.nan
    frame = frame.loc[spaced(list(frame.index))].rename_axis("layer").reset_index()
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    steps = (Column(step, form="#.4g") for step in values)
    columns = (Column("layer", key=True), *steps, Column("change", form="+#.3g"))
    title = next(iter(curves.values())).title
    return Table(metric, f"{title} by {by}", columns, rows)
