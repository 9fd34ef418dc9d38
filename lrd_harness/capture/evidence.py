"""What pruning rules know of a model, computed on a sample of inputs, and how long a pass takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, pairwise
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor

from lrd_harness.capture.embeddings import Progress, batches
from lrd_harness.capture.samples import drawn
from lrd_harness.capture.walk import Removed, Walk
from lrd_harness.contracts import BlockValues, Encoded, Text
from lrd_harness.errors import UnitError
from lrd_harness.measuring import float64
from lrd_harness.models.opened import OpenedModel, token_count
from lrd_harness.models.readout import last

similarity = partial(torch.nn.functional.cosine_similarity, dim=-1)
GREEDY_TEXTS = 32  # each is run through a variant for every candidate, again and again
ROUNDS = 5  # passes that are timed
TIMED_TEXTS = 8  # one batch of them
PERPLEXITY_TEXTS, PERPLEXITY_TOKENS = 64, 2048  # at most; each goes through every variant's head


class ModelEvidence:
    """contracts.Evidence of an opened model, each part computed when it is first asked for.

    texts: the sample on which tokens and outputs are compared; profiles: what metrics have
    recorded, as values of blocks.
    """

    def __init__(
        self,
        model: OpenedModel,
        texts: Sequence[Text],
        profiles: Mapping[str, BlockValues],
        batch_tokens: int,
    ) -> None:
        self.model, self.batch_tokens = model, batch_tokens
        self.blocks = model.info.blocks
        self._texts = list(texts)
        self._agreements: dict[Removed, float] = {(): 1.0}
        self.profiles: Mapping[str, BlockValues] = _Profiles(profiles, self)

    @cached_property
    def influence(self) -> list[float | None]:
        """1 - the mean cosine over all tokens before and after each block."""
        return list(self._tokens[0])

    def angle(self, first: int, last: int) -> float:
        """Mean arccos(cosine) / pi, what enters `first` to what `last` writes, at the last token.

        Tokens of images have no such order: there it is that of pooled states.
        """
        return float(self._tokens[1][first - 1, last])

    @cached_property
    def _tokens(self) -> tuple[list[float], Tensor]:
        """Block influences, and the angles between all pairs of states (L + 1, L + 1)."""
        cosines, angles, tokens = torch.zeros(()), torch.zeros(()), 0
        for batch in _batches(self.model, self._texts, self.batch_tokens):
            more_cosines, more_angles, more_tokens = self._compared(batch)
            cosines, angles = cosines + more_cosines, angles + more_angles
            tokens += more_tokens
        return (1 - cosines / tokens).tolist(), angles / len(self._texts)

    def _compared(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor, int]:
        """Sums over a batch: each block's cosines (L,), angles (L + 1, L + 1); and its tokens."""
        features = self.model.features(batch)
        mask, of_texts = float64(features["attention_mask"]), "input_ids" in features
        cosines = torch.zeros(self.blocks, dtype=torch.float64)
        before: list[Tensor] = []
        ends: list[Tensor] = []

        def seen(layer: int, state: Tensor) -> None:
            end = last(state, mask) if of_texts else self.model.pooled(state, features)["raw"]
            ends.append(torch.nn.functional.normalize(float64(end), dim=-1).cpu())
            state = float64(state)  # in float32 what an idle block changes is lost
            if layer:
                cosines[layer - 1] = float((similarity(before.pop(), state) * mask).sum())
            before.append(state)

        self.model.watch(batch, seen)
        stacked = torch.stack(ends)  # (L + 1, b, d)
        # by the chord, since an arccos near 1 is off by the root of its rounding
        chords = [torch.linalg.vector_norm(stacked - end, dim=-1) for end in stacked]
        angles = 2 * (torch.stack(chords) / 2).clamp(max=1).arcsin().sum(-1) / torch.pi
        return cosines, angles, int(mask.sum())

    def agreements(self, sets: Sequence[Sequence[int]]) -> list[float]:
        """Of each set of removed blocks, the mean cosine of pooled last states with the full model.

        On at most GREEDY_TEXTS of the texts; the sets share the blocks that they share.
        """
        chosen = [tuple(sorted(removed)) for removed in sets]
        new = list(dict.fromkeys(c for c in chosen if c not in self._agreements))
        sums = dict.fromkeys(new, 0.0)
        texts = drawn(self._texts, GREEDY_TEXTS)
        walk = Walk(self.model.backbone)
        for batch in _batches(self.model, texts, self.batch_tokens) if new else ():
            pooled = self._pooled(walk, batch, [(), *new])
            for removed in new:
                sums[removed] += float(similarity(pooled[()], pooled[removed]).double().sum())
        self._agreements.update({removed: value / len(texts) for removed, value in sums.items()})
        return [self._agreements[c] for c in chosen]

    def _pooled(
        self, walk: Walk, batch: Sequence[Encoded], variants: Sequence[Removed]
    ) -> dict[Removed, Tensor]:
        """The pooled last states (b, d) of a batch in each variant."""
        features, pooled = self.model.features(batch), {}

        def seen(removed: Removed, state: Tensor) -> None:
            kinds = self.model.pooled(state, features)
            pooled[removed] = kinds.get("final", kinds["raw"])

        walk.run(self.model.inputs(features), variants, seen)
        return pooled


class _Profiles(Mapping[str, BlockValues]):
    """Recorded profiles and block influence, which costs a pass and so is made when it is read."""

    def __init__(self, recorded: Mapping[str, BlockValues], evidence: ModelEvidence) -> None:
        self._recorded, self._evidence = recorded, evidence

    def __getitem__(self, name: str) -> BlockValues:
        if name not in list(self):
            metric = name.partition(".")[0]
            known = ", ".join(other for other in self if other.startswith(f"{metric}."))
            lacks = f"there are {known}" if known else f"Pruner(metrics=...) does not name {metric}"
            raise KeyError(f"no profile {name}: {lacks}")
        values = self._evidence.influence if name == "block_influence" else self._recorded[name]
        return list(values)  # a copy, since other rules read it as well

    def __iter__(self) -> Iterator[str]:
        return iter([*self._recorded, "block_influence"])

    def __len__(self) -> int:
        return len(self._recorded) + 1


@dataclass(frozen=True)
class Latency:
    """Seconds of one pass of a batch, and of each block in it: medians over some passes."""

    full: float
    blocks: tuple[float, ...]

    def without(self, removed: Sequence[int]) -> float:
        """Seconds without these blocks (1..L): their own times taken from the whole."""
        return max(0.0, self.full - sum(self.blocks[block - 1] for block in removed))


def pass_latency(model: OpenedModel, texts: Sequence[Text]) -> Latency:
    """The latency on texts of middling length; the first pass, which warms up, is left out."""
    ordered = sorted(model.tokenize(texts), key=token_count)
    first = max(0, (len(ordered) - TIMED_TEXTS) // 2)
    batch = ordered[first : first + TIMED_TEXTS]
    if model.padding == "none":
        batch = [e for e in batch if token_count(e) == token_count(batch[0])]
    inputs = model.inputs(model.features(batch))
    whole: list[float] = []
    marks: list[list[float]] = []
    for _ in range(ROUNDS + 1):
        marks.append([])
        begun = _now(model.device)
        model.backbone.run(inputs, lambda layer, state: marks[-1].append(_now(model.device)))
        whole.append(_now(model.device) - begun)
    spans = [[b - a for a, b in pairwise(m)] for m in marks[1:]]
    blocks = tuple(statistics.median(times) for times in zip(*spans, strict=True))
    return Latency(statistics.median(whole[1:]), blocks)


def perplexities(
    model: OpenedModel,
    texts: Sequence[Text],
    variants: Sequence[Removed],
    batch_tokens: int,
    progress: Progress = lambda done, total: None,
) -> dict[Removed, float | None]:
    """The perplexity of each variant, () being the whole model, on some of the texts.

    exp of the mean of -log P(token | those before it) over all tokens but the first of a text; the
    same texts for all. {} for a model without a language-model head; None where it is not finite.
    Raises UnitError where no text has two tokens.
    """
    head = model.head
    if head is None:
        return {}
    some = drawn(texts, PERPLEXITY_TEXTS)
    read = list(_batches(model, some, batch_tokens, PERPLEXITY_TOKENS))
    walk, surprise, tokens, done = Walk(model.backbone), dict.fromkeys(variants, 0.0), 0, 0
    for batch in read:
        features = model.features(batch)
        mask = features["attention_mask"].bool()
        before = mask[:, :-1] & mask[:, 1:]  # the positions that another token of the text follows
        after = features["input_ids"][:, 1:][before].unsqueeze(1)

        def seen(
            removed: Removed, state: Tensor, before: Tensor = before, after: Tensor = after
        ) -> None:
            normed = model.normed(state[:, : before.shape[1]][before])
            surprise[removed] -= float(head.log_probabilities(normed, after)[0].double().sum())

        if len(after):
            walk.run(model.inputs(features), variants, seen)
        tokens, done = tokens + len(after), done + len(batch)
        progress(done, sum(map(len, read)))
    if not tokens:
        raise UnitError("no text has a second token to be predicted")
    with np.errstate(over="ignore"):
        values = {removed: float(np.exp(nats / tokens)) for removed, nats in surprise.items()}
    return {removed: value if isfinite(value) else None for removed, value in values.items()}


def _batches(
    model: OpenedModel, texts: Sequence[Text], batch_tokens: int, most: float = inf
) -> Iterator[list[Encoded]]:
    """The texts, longest first; most: tokens of all, the first text being taken in any case."""
    encoded = list(model.tokenize(texts))
    ends = accumulate(token_count(e) for e in encoded)
    within = max(1, sum(end <= most for end in ends))
    ordered = sorted(encoded[:within], key=lambda e: -token_count(e))
    lengths = [token_count(e) for e in ordered]
    for run in batches(lengths, batch_tokens, alike=model.padding == "none"):
        yield ordered[run.start : run.stop]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
