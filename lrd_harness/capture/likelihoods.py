"""Requests in, log-likelihoods of every layer on disk, one forward pass a context.

A request asks for log P(continuation | context). Requests whose tokens differ in the last one only,
as the choices of a question do, share a pass. Of each state only the positions that predict a
continuation go through the final norm and the head; in the same pass the states of the contexts
are pooled for the metrics.

Where in a batch of passages something is read: what predicts continuations, and the contexts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrd_harness.capture.batches import Budget, as_budget
from lrd_harness.capture.embeddings import Captured, batches, shards, texts_at_once
from lrd_harness.contracts import Continuation, Encoded, LanguageModel, Observe, Text, TokenPairs
from lrd_harness.models.backbone import Watch
from lrd_harness.store.store import Plane, Store

if TYPE_CHECKING:
    from lrd_harness.capture.token_metrics import Watched


class Spots:
    """The positions of a batch that predict continuations.

    rows, columns: (P,) of the batch; tokens: (P, K), the tokens whose probability is wanted there.
    """

    def __init__(
        self, batch: Sequence[Passage], starts: Sequence[int], device: torch.device
    ) -> None:
        rows: list[int] = []
        columns: list[int] = []
        tokens: list[list[int]] = []
        self._of: list[tuple[int, int, int]] = []  # position, which of its tokens, request
        self._requests = 0
        for row, (passage, start) in enumerate(zip(batch, starts, strict=True)):
            length = len(passage.tokens)
            most = max(len(continuation) for _, continuation in passage.reads)
            first = len(rows) + most  # one behind the last position of this passage
            rows += [row] * most
            columns += range(start + length - most, start + length)
            tokens += [[] for _ in range(most)]
            for _, continuation in passage.reads:
                for spot, token in enumerate(continuation, first - len(continuation)):
                    if token not in tokens[spot]:
                        tokens[spot].append(token)
                    self._of.append((spot, tokens[spot].index(token), self._requests))
                self._requests += 1
        widest = max(map(len, tokens))
        padded = [found + [0] * (widest - len(found)) for found in tokens]
        self.tokens = torch.tensor(padded, device=device)
        self.rows = torch.tensor(rows, device=device)
        self.columns = torch.tensor(columns, device=device)

    def summed(self, values: Tensor) -> Tensor:
        """(layers, P, K) of the tokens -> (layers, n), summed over each request's tokens."""
        spot, which, request = (torch.tensor(part) for part in zip(*self._of, strict=True))
        found = torch.zeros(len(values), self._requests, dtype=torch.float64)
        return found.index_add_(1, request, values[:, spot, which].double())


def context_mask(
    batch: Sequence[Passage], starts: Sequence[int], longest: int, device: torch.device
) -> tuple[Tensor, list[int]]:
    """Of the contexts to be pooled, which tokens are theirs (c, T), and the rows they are in."""
    spans = [
        (row, start, start + length)
        for row, (passage, start) in enumerate(zip(batch, starts, strict=True))
        for _, length in passage.contexts
    ]
    mask = torch.zeros(len(spans), longest, dtype=torch.long, device=device)
    for i, (_, begin, end) in enumerate(spans):
        mask[i, begin:end] = 1
    return mask, [row for row, _, _ in spans]


Tokenize = Callable[[LanguageModel, Sequence[Continuation]], TokenPairs]
LOGLIKELIHOOD: Plane = ("loglikelihood", 0)  # (n, L + 1), nats, a column a layer
GREEDY: Plane = ("greedy", 0)  # (n, L + 1), 1 where each token is the likeliest


def key(request: Continuation) -> Text:
    """A request as the store's text; the mark keeps it apart from a context's own states."""
    return Text(request.continuation, f"\0{request.context}")


def identity(model: LanguageModel) -> dict[str, str]:
    """What changes a log-likelihood; a store of its own, since a context is cut from the left."""
    length = {"context": str(model.options.max_length)}  # None: as lm-eval finds it
    return {**model.identity, **length, "reading": "likelihoods"}


@dataclass
class Passage:
    """One text to be run, and what is read of it.

    tokens: (T,), the last token of each continuation being left out, since nothing follows it;
    reads: (index of a request, tokens of its continuation), the m tokens being predicted at the
    last m positions; contexts: (context, how many of the tokens are it).
    """

    tokens: tuple[int, ...]
    reads: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    contexts: list[tuple[str, int]] = field(default_factory=list)


def capture(
    model: LanguageModel,
    requests: Sequence[Continuation],
    contexts: Sequence[str],
    tokenize: Tokenize,
    store: Store,
    *,
    batch_tokens: int | Budget,
    progress: Callable[[int, int], None] = lambda done, total: None,
    watched: Watched | None = None,
) -> Captured:
    """Run what the store lacks: the log-likelihoods of requests, and pooled states of contexts.

    contexts: those of the requests' whose states are wanted. `progress(done, total)` counts passes.
    watched: token metrics that see the contexts in the same pass.
    In the counters `forwarded` are passes, `truncated` contexts that were cut from the left.
    """
    begun = time.perf_counter()
    distinct = list(dict.fromkeys(requests))
    missing = set(store.missing([key(r) for r in distinct]))
    lacking = store.missing([Text(c) for c in contexts])
    unread = {t.text for t in [*lacking, *(watched.missing() if watched else ())]}
    run = [r for r in distinct if key(r) in missing]
    unread_only = unread - {r.context for r in run}
    run += {r.context: r for r in reversed(distinct) if r.context in unread_only}.values()

    done = forward(
        model,
        run,
        unread,
        tokenize,
        model.watch,
        lambda shard: _keep(store, shard, watched),
        batch_tokens=batch_tokens,
        progress=progress,
        observe=watched,
    )
    counts = counted(requests) + done
    counts.truncated = len(truncated(store, requests))
    counts.seconds = time.perf_counter() - begun
    return counts


def counted(requests: Sequence[Continuation]) -> Captured:
    """The counters that are known beforehand."""
    empty = {r.context for r in requests if not r.context.strip()}
    return Captured(asked=len(requests), texts=len(set(requests)), empty=len(empty))


def forward(
    model: LanguageModel,
    requests: Sequence[Continuation],
    contexts: set[str],
    tokenize: Tokenize,
    watch: Callable[[Sequence[Encoded], Watch], None],
    keep: Callable[[Answers], None],
    *,
    batch_tokens: int | Budget,
    progress: Callable[[int, int], None],
    observe: Observe | None = None,
) -> Captured:
    """Run distinct requests in batches, longest first; returns how many passes, and their tokens.

    contexts: those of the requests' whose pooled states are wanted; watch: runs a batch and shows
    k numbered states of it; keep: is given the answers of each shard; observe: adds planes made of
    the contexts' token states.
    """
    pairs = tokenize(model, requests) if requests else TokenPairs([], 1)
    passages, cut = _passages(requests, pairs, contexts)
    passages.sort(key=lambda p: -len(p.tokens))
    progress(0, len(passages))
    done = 0
    lengths = [len(p.tokens) for p in passages]
    budget = as_budget(batch_tokens)
    for shard in shards(lengths, texts_at_once(model)):
        here = lengths[shard.start : shard.stop]
        parts: list[Answers] = []

        def tried(
            tokens: int,
            at: int = done,
            shard: range = shard,
            here: list[int] = here,
            parts: Any = parts,
        ) -> None:
            parts.clear()
            for batch in batches(here, tokens, alike=model.padding == "none"):
                parts.append(_read(model, [passages[shard[i]] for i in batch], watch, observe))
                at += len(batch)
                progress(at, len(passages))

        budget.attempt(tried)
        done += len(shard)
        indices = [i for at in shard for i, _ in passages[at].reads]
        answers = _joined(parts)
        answers.requests = [key(requests[i]) for i in indices]
        answers.cut = [cut[i] for i in indices]
        answers.contexts = [Text(text) for at in shard for text, _ in passages[at].contexts]
        keep(answers)
    return Captured(forwarded=len(passages), tokens=sum(lengths))


def truncated(store: Store, requests: Sequence[Continuation]) -> set[str]:
    """The contexts that were longer than the model takes, and so cut from the left."""
    return {r.context for r in set(requests) if store.truncated([key(r)])}


def _passages(
    requests: Sequence[Continuation], tokens: TokenPairs, wanted: set[str]
) -> tuple[list[Passage], list[bool]]:
    """The texts to be run for these requests, and of each request, whether its context was cut.

    As in lm-eval, context and continuation are cut from the left to `max_length` + 1 tokens. A
    wanted context is read with the shortest of its continuations, which leaves most of it.
    """
    most = tokens.max_length + 1
    passages: dict[tuple[int, ...], Passage] = {}
    cut: list[bool] = []
    best: dict[str, tuple[int, Passage, int]] = {}
    for i, (request, (context, continuation)) in enumerate(
        zip(requests, tokens.pairs, strict=True)
    ):
        both = (*context, *continuation)
        cut.append(len(both) > most)
        kept = both[-most:][:-1]
        passage = passages.setdefault(kept, Passage(kept))
        passage.reads.append((i, continuation))
        m = len(continuation)
        if request.context in wanted and m < best.get(request.context, (m + 1,))[0]:
            best[request.context] = (m, passage, len(kept) - m + 1)
    for text, (_, passage, length) in best.items():
        passage.contexts.append((text, length))
    return list(passages.values()), cut


@dataclass
class Answers:
    """What was read of the k states of some passages.

    loglikelihood, greedy: (n, k) of the requests; pooled: (contexts, d) by plane; requests,
    contexts: what these are of, as the store knows them; cut: whether a request's context was.
    """

    loglikelihood: np.ndarray
    greedy: np.ndarray
    pooled: Mapping[Plane, np.ndarray]
    requests: list[Text] = field(default_factory=list)
    contexts: list[Text] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)


def _joined(parts: Sequence[Answers]) -> Answers:
    """The numbers of several batches."""
    pooled = [part.pooled for part in parts if part.pooled]
    return Answers(
        np.concatenate([part.loglikelihood for part in parts]),
        np.concatenate([part.greedy for part in parts]),
        {plane: np.concatenate([p[plane] for p in pooled]) for plane in (pooled or [{}])[0]},
    )


def _read(
    model: LanguageModel,
    batch: Sequence[Passage],
    run: Callable[[Sequence[Encoded], Watch], None],
    observe: Observe | None = None,
) -> Answers:
    """Run a batch; requests and contexts in the order in which its passages list them."""
    longest = max(len(p.tokens) for p in batch)
    starts = [longest - len(p.tokens) if model.padding == "left" else 0 for p in batch]
    spots = Spots(batch, starts, model.device)
    mask, rows = context_mask(batch, starts, longest, model.device)
    whole = rows == list(range(len(batch)))
    normed: dict[int, Tensor] = {}
    pooled: dict[Plane, np.ndarray] = {}
    tokens: list[Tensor] = []

    def watch(layer: int, state: Tensor) -> None:
        normed[layer] = model.normed(state[spots.rows, spots.columns])
        if rows:
            here = state if whole else state[rows]
            found = model.pooled(here, {"attention_mask": mask})
            pooled.update({(kind, layer): s.cpu().numpy() for kind, s in found.items()})
            if observe is not None:
                tokens.append(here.clone())

    run([{"input_ids": list(p.tokens)} for p in batch], watch)
    if tokens and observe is not None:
        with torch.inference_mode():
            pooled.update({k: v.cpu().numpy() for k, v in observe(tokens, mask).items()})
    layers = len(normed)
    assert model.head is not None
    chosen, likeliest = model.head.log_probabilities(
        torch.cat([normed[layer] for layer in range(layers)]), spots.tokens.repeat(layers, 1)
    )
    hit = (likeliest.unsqueeze(1) == spots.tokens.repeat(layers, 1)).cpu()
    shape = (layers, *spots.tokens.shape)
    values, misses = spots.summed(chosen.cpu().view(shape)), spots.summed(~hit.view(shape))
    return Answers(values.T.numpy(), (misses.T == 0).numpy(), pooled)


def _keep(store: Store, shard: Answers, watched: Watched | None) -> None:
    """Write a shard's contexts, then its requests, whose presence says that both are there."""
    if shard.contexts:
        kept = watched.keep(shard.contexts, shard.pooled) if watched else shard.pooled
        store.write(shard.contexts, kept)
    keep_requests(store, shard, slice(None))


def keep_requests(store: Store, shard: Answers, states: slice) -> None:
    """Write a shard's requests, of some of the states that were read."""
    values = {LOGLIKELIHOOD: shard.loglikelihood, GREEDY: shard.greedy}
    planes = {plane: array[:, states].astype(np.float32) for plane, array in values.items()}
    store.write(shard.requests, planes, shard.cut)
