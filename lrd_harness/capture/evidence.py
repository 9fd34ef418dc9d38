"""What pruning rules know of a model, computed on a sample of inputs, and how long a pass takes."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, pairwise
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor

from lrd_harness.capture.ablation import Ablation, Rows, ablate, pooled_states
from lrd_harness.capture.embeddings import Progress, batches
from lrd_harness.capture.samples import SEED, drawn
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
ABLATION_TOKENS = 2**14  # of its texts together; each goes through every block about L/2 times
PERPLEXITY_TEXTS, PERPLEXITY_TOKENS = 64, 2048  # at most; each goes through every variant's head

Remember = Callable[[Callable[[Progress], Ablation]], Ablation]


def _silent(compute: Callable[[Progress], Ablation]) -> Ablation:
    return compute(lambda done, total: None)


class ModelEvidence:
    """contracts.Evidence of an opened model, each part computed when it is first asked for.

    texts: the sample on which tokens and outputs are compared; profiles: what metrics have
    recorded, as values of blocks. remember: is given what takes out each block, and gives what that
    gives, or has given before.
    """

    def __init__(
        self,
        model: OpenedModel,
        texts: Sequence[Text],
        profiles: Mapping[str, BlockValues],
        batch_tokens: int,
        remember: Remember = _silent,
    ) -> None:
        self.blocks = model.info.blocks
        self._read = _Read(model, texts, batch_tokens, remember)
        self._rows: Rows = range(len(texts))
        self.profiles: Mapping[str, BlockValues] = _Profiles(profiles, self)

    def part(self, rows: Rows, profiles: Mapping[str, BlockValues]) -> ModelEvidence:
        """What it would be of these of its texts alone; no text is read twice.

        Raises UnitError for none.
        """
        if not len(rows):
            raise UnitError(f"no text is left of {len(self._rows)}: give more")
        part = copy.copy(self)
        part._rows, part.profiles = list(rows), _Profiles(profiles, part)
        return part

    @property
    def influence(self) -> BlockValues:
        """1 - the mean cosine over all tokens before and after each block."""
        cosines, tokens, _ = self._read.tokens
        values = 1 - cosines[self._rows].sum(0) / tokens[self._rows].sum()
        return list(values.tolist())

    @property
    def effect(self) -> BlockValues:
        """What the output loses without each block alone, see `Ablation`."""
        return self._read.ablation.effect(self._rows)

    def angle(self, first: int, last: int) -> float:
        """Mean arccos(cosine) / pi, what enters `first` to what `last` writes, at the last token.

        Tokens of images have no such order: there it is that of pooled states.
        """
        return float(self._read.tokens[2][self._rows, first - 1, last].mean())

    def agreements(self, sets: Sequence[Sequence[int]]) -> list[float]:
        """Of each set of removed blocks, the mean cosine of pooled last states with the full model.

        On at most GREEDY_TEXTS of the texts; the sets share the blocks that they share.
        """
        return self._read.agreements([tuple(sorted(removed)) for removed in sets], self._rows)


class _Read:
    """What is read of each of some texts, at most once."""

    def __init__(
        self, model: OpenedModel, texts: Sequence[Text], batch_tokens: int, remember: Remember
    ) -> None:
        self.model, self.texts, self.batch_tokens = model, list(texts), batch_tokens
        self._agreements: dict[Removed, Tensor] = {}
        self._remember = remember

    @cached_property
    def tokens(self) -> tuple[Tensor, Tensor, Tensor]:
        """By text: cosines of each block summed over its tokens (n, L), how many these are (n,),
        and the angles between all pairs of states (n, L + 1, L + 1); float64."""
        n, states = len(self.texts), self.model.info.blocks + 1
        cosines, tokens = torch.zeros(n, states - 1).double(), torch.zeros(n).double()
        angles = torch.zeros(n, states, states).double()
        for rows, batch in _batches(self.model, self.texts, self.batch_tokens):
            cosines[rows], tokens[rows], angles[rows] = self._compared(batch)
        return cosines, tokens, angles

    def _compared(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
        """`tokens` of a batch."""
        features = self.model.features(batch)
        mask, of_texts = float64(features["attention_mask"]), "input_ids" in features
        cosines: list[Tensor] = []
        before: list[Tensor] = []
        ends: list[Tensor] = []

        def seen(layer: int, state: Tensor) -> None:
            end = last(state, mask) if of_texts else self.model.pooled(state, features)["raw"]
            ends.append(torch.nn.functional.normalize(float64(end), dim=-1).cpu())
            state = float64(state)  # in float32 what an idle block changes is lost
            if layer:
                cosines.append((similarity(before.pop(), state) * mask).sum(1).cpu())
            before.append(state)

        self.model.watch(batch, seen)
        stacked = torch.stack(ends)  # (L + 1, b, d)
        # by the chord, since an arccos near 1 is off by the root of its rounding
        chords = [torch.linalg.vector_norm(stacked - end, dim=-1) for end in stacked]
        angles = 2 * (torch.stack(chords) / 2).clamp(max=1).arcsin() / torch.pi
        return torch.stack(cosines, 1), mask.sum(1).cpu(), angles.permute(2, 0, 1)

    @cached_property
    def ablation(self) -> Ablation:
        """Of as many texts, drawn by a seed, as have ABLATION_TOKENS tokens, at least one."""
        order = np.random.RandomState(SEED).permutation(len(self.texts)).tolist()

        def compute(progress: Progress) -> Ablation:
            texts = [self.texts[i] for i in order]
            few = _batches(self.model, texts, self.batch_tokens, ABLATION_TOKENS)
            read = [([order[place] for place in places], batch) for places, batch in few]
            return ablate(self.model, read, len(order), progress)

        return self._remember(compute)

    def agreements(self, sets: Sequence[Removed], rows: Rows) -> list[float]:
        """Of each set the mean cosine over those of GREEDY_TEXTS that are among the rows."""
        some = drawn(range(len(self.texts)), GREEDY_TEXTS)
        new = list(dict.fromkeys(c for c in sets if c and c not in self._agreements))
        values = {removed: torch.zeros(len(self.texts)).double() for removed in new}
        walk = Walk(self.model.backbone)
        few = [self.texts[i] for i in some]
        for places, batch in _batches(self.model, few, self.batch_tokens) if new else ():
            pooled = pooled_states(self.model, walk, batch, [(), *new])
            for removed in new:
                cosines = similarity(pooled[()], pooled[removed]).double().cpu()
                values[removed][[some[place] for place in places]] = cosines
        self._agreements |= values
        counted = sorted(set(some) & set(rows))
        return [float(self._agreements[c][counted].mean()) if c else 1.0 for c in sets]


class _Profiles(Mapping[str, BlockValues]):
    """Recorded profiles, and those that cost passes and so are made when they are read."""

    def __init__(self, recorded: Mapping[str, BlockValues], evidence: ModelEvidence) -> None:
        self._recorded, self._evidence = recorded, evidence

    def __getitem__(self, name: str) -> BlockValues:
        if name not in list(self):
            metric = name.partition(".")[0]
            known = ", ".join(other for other in self if other.startswith(f"{metric}."))
            lacks = f"there are {known}" if known else f"Pruner(metrics=...) does not name {metric}"
            raise KeyError(f"no profile {name}: {lacks}")
        if name in self._recorded:
            return list(self._recorded[name])  # a copy, since other rules read it as well
        return self._evidence.effect if name == "ablation" else self._evidence.influence

    def __iter__(self) -> Iterator[str]:
        return iter([*self._recorded, "block_influence", "ablation"])

    def __len__(self) -> int:
        return len(self._recorded) + 2


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
    read = [batch for _, batch in _batches(model, some, batch_tokens, PERPLEXITY_TOKENS)]
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
) -> Iterator[tuple[list[int], list[Encoded]]]:
    """The texts, longest first, in batches: their numbers, and their tokens.

    most: tokens of all, the first text being taken in any case.
    """
    encoded = list(model.tokenize(texts))
    ends = accumulate(token_count(e) for e in encoded)
    within = max(1, sum(end <= most for end in ends))
    ordered = sorted(range(within), key=lambda i: -token_count(encoded[i]))
    lengths = [token_count(encoded[i]) for i in ordered]
    for run in batches(lengths, batch_tokens, alike=model.padding == "none"):
        rows = ordered[run.start : run.stop]
        yield rows, [encoded[i] for i in rows]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
