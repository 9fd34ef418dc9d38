"""Requests in, log-likelihoods of every layer on disk, one forward pass per context.

A request asks for log P(continuation | context). Requests whose tokens differ in the last one only,
as the choices of a question do, share a pass. Of each state only the positions that predict a
continuation go through the final norm and the head; in the same pass the states of the contexts
are pooled for the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lrd_harness.capture import embeddings
from lrd_harness.capture.embeddings import Captured, Measured, Progress, StateReader, behind
from lrd_harness.capture.layers import ANSWER_PLANES, LikelihoodLayer, StoredLikelihoods, key
from lrd_harness.capture.token_budget import Budget
from lrd_harness.capture.token_metrics import Watched
from lrd_harness.contracts import (
    Continuation,
    Encoded,
    Experiments,
    LanguageModel,
    Observe,
    Task,
    Text,
    TokenPairs,
)
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models.backbone import Watch
from lrd_harness.processes import Ranks
from lrd_harness.store.store import Plane, Store

Tokenize = Callable[[LanguageModel, Sequence[Continuation]], TokenPairs]


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
        padded = [some + [0] * (widest - len(some)) for some in tokens]
        self.tokens = torch.tensor(padded, device=device)
        self.rows = torch.tensor(rows, device=device)
        self.columns = torch.tensor(columns, device=device)

    def summed(self, values: Tensor) -> Tensor:
        """(layers, P, K) of the tokens -> (layers, n), summed over each request's tokens."""
        spot, which, request = (torch.tensor(part) for part in zip(*self._of, strict=True))
        sums = torch.zeros(len(values), self._requests, dtype=torch.float64)
        return sums.index_add_(1, request, values[:, spot, which].double())


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

    @classmethod
    def joined(cls, parts: Sequence[Answers]) -> Answers:
        """The numbers of several batches."""
        pooled = [part.pooled for part in parts if part.pooled]
        return cls(
            np.concatenate([part.loglikelihood for part in parts]),
            np.concatenate([part.greedy for part in parts]),
            {plane: np.concatenate([p[plane] for p in pooled]) for plane in (pooled or [{}])[0]},
        )

    def keep(self, store: Store, states: slice = slice(None)) -> None:
        """Write the requests, of some of the states that were read."""
        values = zip(ANSWER_PLANES, (self.loglikelihood, self.greedy), strict=True)
        planes = {plane: array[:, states].astype(np.float32) for plane, array in values}
        store.write(self.requests, planes, self.cut)


def counted(requests: Sequence[Continuation]) -> Captured:
    """The counters that are known beforehand."""
    empty = {r.context for r in requests if not r.context.strip()}
    return Captured(asked=len(requests), texts=len(set(requests)), empty=len(empty))


def truncated(store: Store, requests: Sequence[Continuation]) -> set[str]:
    """The contexts that were longer than the model takes, and so cut from the left."""
    return {r.context for r in set(requests) if store.truncated([key(r)])}


def lacking(
    requests: Sequence[Continuation],
    contexts: Sequence[Text],
    store: Store,
    watched: Watched | None,
) -> tuple[list[Continuation], set[str]]:
    """The distinct requests to be run, and the contexts to be pooled in doing so.

    A context that no missing request has is run with the first of its requests.
    """
    distinct = list(dict.fromkeys(requests))
    missing = set(store.missing([key(r) for r in distinct]))
    unread = {t.text for t in store.missing(contexts)}
    unread |= {t.text for t in watched.missing()} if watched else set()
    run = [r for r in distinct if key(r) in missing]
    unread_only = unread - {r.context for r in run}
    run += {r.context: r for r in reversed(distinct) if r.context in unread_only}.values()
    return run, unread


def capture(
    model: LanguageModel,
    requests: Sequence[Continuation],
    contexts: Sequence[str],
    tokenize: Tokenize,
    store: Store,
    *,
    batch_tokens: int | Budget,
    progress: Progress = lambda done, total: None,
    watched: Watched | None = None,
) -> Captured:
    """Run what the store lacks: the log-likelihoods of requests, and pooled states of contexts.

    contexts: those of the requests' whose states are wanted. `progress(done, total)` counts passes.
    watched: token metrics that see the contexts in the same pass.
    In the counters `forwarded` are passes, `truncated` contexts that were cut from the left.
    """
    begun = time.perf_counter()
    run, unread = lacking(requests, [Text(context) for context in contexts], store, watched)

    def keep(answers: Answers) -> None:
        """The contexts first: a request's presence says that both are there."""
        if answers.contexts:
            pooled = answers.pooled
            store.write(
                answers.contexts, watched.keep(answers.contexts, pooled) if watched else pooled
            )
        answers.keep(store)

    done = forward(
        model,
        run,
        unread,
        tokenize,
        model.watch,
        keep,
        batch_tokens=batch_tokens,
        progress=progress,
        observe=watched if watched and watched.tokens else None,
    )
    counts = counted(requests) + done
    counts.stored = counts.texts - len(run)
    for *_, tokens in watched.attend(model) if watched else ():  # contexts as texts of their own
        counts += Captured(forwarded=1, tokens=tokens)
    counts.truncated = len(truncated(store, requests))
    counts.seconds = time.perf_counter() - begun
    return counts


def forward(
    model: LanguageModel,
    requests: Sequence[Continuation],
    contexts: set[str],
    tokenize: Tokenize,
    watch: Callable[[Sequence[Encoded], Watch], None],
    keep: Callable[[Answers], None],
    *,
    batch_tokens: int | Budget,
    progress: Progress,
    observe: Observe | None = None,
) -> Captured:
    """Run distinct requests in batches, longest first; returns how many passes, and their tokens.

    contexts: those of the requests' whose pooled states are wanted; watch: runs a batch and shows
    k numbered states of it; keep: is given the answers of each segment; observe: adds planes made
    of the contexts' token states.
    """
    pairs = tokenize(model, requests) if requests else TokenPairs([], 1)
    passages, cut = _passages(requests, pairs, contexts)
    passages.sort(key=lambda p: -len(p.tokens))
    lengths = [len(p.tokens) for p in passages]

    def keep_segment(numbers: range, parts: list[Answers]) -> None:
        answers = Answers.joined(parts)
        here = [passages[i] for i in numbers]
        indices = [i for passage in here for i, _ in passage.reads]
        answers.requests = [key(requests[i]) for i in indices]
        answers.cut = [cut[i] for i in indices]
        answers.contexts = [Text(text) for passage in here for text, _ in passage.contexts]
        keep(answers)

    embeddings.in_batches(
        model,
        lengths,
        lambda numbers: _read(model, [passages[i] for i in numbers], watch, observe),
        keep_segment,
        batch_tokens=batch_tokens,
        alike=model.padding == "none",
        progress=progress,
    )
    return Captured(forwarded=len(passages), tokens=sum(lengths))


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


def _read(
    model: LanguageModel,
    batch: Sequence[Passage],
    run: Callable[[Sequence[Encoded], Watch], None],
    observe: Observe | None,
) -> Answers:
    """Run a batch; requests and contexts in the order in which its passages list them."""
    longest = max(len(p.tokens) for p in batch)
    starts = [longest - len(p.tokens) if model.padding == "left" else 0 for p in batch]
    spots = Spots(batch, starts, model.device)
    # of the contexts to be pooled, the rows that they are in, and which tokens are theirs (c, T)
    lengths = [(row, length) for row, passage in enumerate(batch) for _, length in passage.contexts]
    rows = [row for row, _ in lengths]
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=model.device)
    for line, (row, length) in zip(mask, lengths, strict=True):
        line[starts[row] : starts[row] + length] = 1
    whole = rows == list(range(len(batch)))
    normed: dict[int, Tensor] = {}
    pooled: dict[Plane, np.ndarray] = {}
    tokens: list[Tensor] = []

    def watch(layer: int, state: Tensor) -> None:
        normed[layer] = model.normed(state[spots.rows, spots.columns])
        if rows:
            here = state if whole else state[rows]
            kinds = model.pooled(here, {"attention_mask": mask})
            pooled.update({(kind, layer): s.cpu().numpy() for kind, s in kinds.items()})
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


class Likelihoods(StateReader):
    """Log-likelihoods of the continuations that tasks compare, and pooled states of the contexts.

    The store is one of its own: a context is cut from the left and a text from the right.
    """

    likelihood = True

    @staticmethod
    def identity(model: Any) -> dict[str, str]:
        """What changes a log-likelihood."""
        length = {"context": str(model.options.max_length)}  # None: as lm-eval finds it
        return {**model.identity, **length, "reading": "likelihoods"}

    def ask(self, task: Task, evaluated: bool, measured: bool) -> list[Continuation]:
        """All requests of a task: metrics see the contexts in the same pass."""
        return list(self.questions.requests(task))

    def sample(self, task: Task) -> list[Text]:
        """The contexts that metrics are measured on, as the store knows them."""
        return [Text(request.text) for request in self.questions.sample(task)]

    def capture(
        self,
        asked: Mapping[Task, Sequence[Continuation]],
        progress: Progress,
        measured: Measured | None = None,
    ) -> dict[Task, Exception]:
        """Read what is missing of these requests; which tasks failed, and how.

        measured: as of Embeddings. Views of contexts are read as texts of their own.
        """
        failed: dict[Task, Exception] = {}
        for task, requests in asked.items():
            items = (measured or {}).get(task, ())
            try:
                mine, sample = shared_out(self.ranks, requests), self.sample(task)
                self.compare(task, mine, sample, items, behind(progress, self.captured.forwarded))
                distinct = dict.fromkeys(self.samples.views(sample, items))
                views = self.ranks.share(distinct, embeddings.size)
                self.read(views, behind(progress, self.captured.forwarded))
            except Exception as error:  # a request it cannot take, memory that does not suffice
                failed[task] = error
        return failed

    def compare(
        self,
        task: Task,
        requests: Sequence[Continuation],
        sample: Sequence[Text],
        items: Sequence[PlannedMetric],
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Have what is missing of a task's requests, and of the sample those that are contexts."""
        assert task.tokenize is not None
        contexts = {request.context for request in requests}
        pooled = [text for text in sample if text.text in contexts]
        self.captured += capture(
            cast("LanguageModel", self.model),
            requests,
            [text.text for text in pooled],
            task.tokenize,
            self.store,
            batch_tokens=self.budget,
            progress=progress,
            watched=self.samples.watched(pooled, items),
        )

    @cached_property
    def _stored(self) -> StoredLikelihoods:
        return StoredLikelihoods(self.store)

    def met(self, task: Task, asked: Sequence[Continuation]) -> dict[str, Any]:
        """What a task's contexts are like: repeated, empty, cut, and how long."""
        every = [request.text for request in self.questions.texts(task)]
        contexts = {request.context for request in asked}
        return embeddings.described(every, contexts, len(truncated(self.store, asked)))

    def view(
        self, layer: int, name: str, revision: str, experiments: Experiments
    ) -> LikelihoodLayer:
        """The model truncated at a layer, as a language model."""
        return LikelihoodLayer(self._stored, layer, name, revision, experiments)


Reader = embeddings.Embeddings | Likelihoods


def shared_out(ranks: Ranks, requests: Sequence[Continuation]) -> list[Continuation]:
    """Those of the requests that this process reads; those of a context stay together."""
    mine = set(ranks.share(dict.fromkeys(r.context for r in requests), len))
    return [request for request in requests if request.context in mine]
