"""Texts in, pooled states of all layers on disk, one forward pass per distinct text."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from lrd_harness.capture.layers import LayerView
from lrd_harness.capture.samples import Questions, Samples, Sampling
from lrd_harness.capture.token_budget import Budget, as_budget
from lrd_harness.capture.token_metrics import Watched
from lrd_harness.contracts import Encoded, Experiments, Model, Request, Task, Text
from lrd_harness.images import Image
from lrd_harness.measuring import PER_TEXT, PlannedMetric
from lrd_harness.models.opened import token_count
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.store.files import writing
from lrd_harness.store.location import cache_dir
from lrd_harness.store.store import Plane, Store

Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # (done, total)

# A segment is a file of the store, and what is lost when a run is killed.
SEGMENT_TOKENS = 131_072
SEGMENT_BATCHES = 8  # where batches are small, as on a CPU, of which each takes long
SEGMENT_TEXTS = 4_096
SEGMENT_BYTES = 64 * 2**20  # of pooled states in memory at once, however many layers there are


def in_batches(
    model: Model,
    lengths: Sequence[int],
    run: Callable[[range], Result],
    keep: Callable[[range, list[Result]], None],
    *,
    batch_tokens: int | Budget,
    alike: bool,
    progress: Progress,
) -> None:
    """Run items in batches, and keep each segment of them before the next one's results are in.

    Where memory does not suffice, a segment is tried again with half the tokens per batch. An
    accelerator goes on with the next segment while one is kept.

    lengths: tokens of the items, in descending order; run: the numbers of a batch's items -> its
    result; keep: is given the numbers of a segment's items and the results of its batches;
    alike: whether the items of a batch must be of equal length.
    """
    budget = as_budget(batch_tokens)

    def attempt(segment: range, tokens: int) -> list[Result]:
        results: list[Result] = []
        done = segment.start
        for batch in batches([lengths[i] for i in segment], tokens, alike):
            results.append(run(segment[batch.start : batch.stop]))
            done += len(batch)
            progress(done, len(lengths))
        return results

    progress(0, len(lengths))
    states = (model.info.blocks + 1) * (1 + model.has_final_norm)
    texts = max(1, SEGMENT_BYTES // (4 * states * model.info.width))
    device = getattr(model, "device", torch.device("cpu"))
    with one_behind() if device.type != "cpu" else nullcontext(lambda do: do()) as soon:
        for segment in segments(lengths, texts, SEGMENT_BATCHES * budget.tokens):
            soon(partial(keep, segment, budget.attempt(partial(attempt, segment))))


@contextmanager
def one_behind() -> Iterator[Callable[[Callable[[], None]], None]]:
    """`soon(do)` does things one after the other in a thread beside this one, one at a time.

    It first waits for the last, and raises what that has raised; so does the end of the block. What
    is written there is no stage of the run's profile, which is of this thread.
    """
    last: Future[None] | None = None

    def soon(do: Callable[[], None]) -> None:
        nonlocal last
        if last is not None:
            last.result()
        context = copy_context()
        context.run(writing.set, nullcontext)
        last = beside.submit(context.run, do)

    with ThreadPoolExecutor(1) as beside:
        yield soon
        if last is not None:
            last.result()


def segments(
    lengths: Sequence[int], most: int = SEGMENT_TEXTS, largest: int = 2**63
) -> Iterator[range]:
    """Runs of texts, of so many tokens each, that are kept together in one file.

    most, largest: how many texts and tokens; SEGMENT_TEXTS and SEGMENT_TOKENS at most.
    """
    start = tokens = 0
    for i, length in enumerate(lengths):
        tokens += length
        if (tokens > min(SEGMENT_TOKENS, largest) and i > start) or i - start >= min(
            most, SEGMENT_TEXTS
        ):
            yield range(start, i)
            start, tokens = i, length
    if start < len(lengths):
        yield range(start, len(lengths))


def batches(lengths: Sequence[int], budget: int, alike: bool = False) -> Iterator[range]:
    """Runs of texts, longest first, whose padded size is within the budget; alike: no padding."""
    start = 0
    for i, length in enumerate(lengths):
        full = (i + 1 - start) * lengths[start] > budget
        if i > start and (full or (alike and length != lengths[start])):
            yield range(start, i)
            start = i
    if start < len(lengths):
        yield range(start, len(lengths))


Name = TypeVar("Name")
AS_IT_IS = Sampling()
Measured = Mapping[Task, Sequence[PlannedMetric]]


@dataclass
class Captured:
    """What one capture did; the counters of run.json.

    asked: texts asked for; texts: distinct ones; stored: those of which the store had all, in no
    record; forwarded: those that were run now; tokens: in those; truncated, empty: of the distinct
    ones, how many the model saw only the beginning of, and how many have no character but white
    space; seconds: of the whole capture.
    """

    asked: int = 0
    texts: int = 0
    stored: int = 0
    forwarded: int = 0
    tokens: int = 0
    truncated: int = 0
    empty: int = 0
    seconds: float = 0.0

    def __add__(self, other: Self) -> Self:
        """The counters of both."""
        return type(self)(**{k: v + getattr(other, k) for k, v in asdict(self).items()})

    def record(self) -> dict[str, float]:
        """The counters as a journal record's fields."""
        counts = asdict(self)
        del counts["stored"]
        return {**counts, "duplicates": self.asked - self.texts}


def capture(
    model: Model,
    texts: Sequence[Text],
    store: Store,
    *,
    batch_tokens: int | Budget,
    progress: Progress = lambda done, total: None,
    watched: Watched | None = None,
) -> Captured:
    """Run those of the texts through the model that the store lacks, and store their states.

    batch_tokens: padding included. `progress(done, total)` counts passes. watched: metrics of
    single texts, and the texts that they see, which are run again where values are not there.
    """
    begun = time.perf_counter()
    missing = dict.fromkeys(store.missing(texts))
    seen = dict.fromkeys(watched.missing()) if watched else {}
    rest = [text for text in missing if text not in seen]
    counts = counted(texts)
    counts.forwarded = total = len(seen) + len(rest)
    counts.stored = counts.texts - total

    def keep(here: Sequence[Text], values: Mapping[Plane, np.ndarray], cut: Sequence[bool]) -> None:
        pooled = watched.keep(here, values) if watched else values
        new = [i for i, text in enumerate(here) if text in missing]
        if new:
            planes = {plane: rows[new] for plane, rows in pooled.items()}
            store.write([here[i] for i in new], planes, [cut[i] for i in new])

    forwarded = partial(forward, model, batch_tokens=batch_tokens)
    if seen:
        run = partial(model.states, observe=watched)
        counts.tokens = forwarded(
            list(seen), run, keep, progress=lambda done, _: progress(done, total)
        )
    if rest or not seen:
        onwards = behind(progress, len(seen))
        counts.tokens += forwarded(rest, model.states, store.write, progress=onwards)
    for done, all_of_them, tokens in watched.attend(model) if watched else ():
        progress(total + done, total + all_of_them)
        counts += Captured(forwarded=1, tokens=tokens)
    counts.truncated = store.truncated(texts)
    counts.seconds = time.perf_counter() - begun
    return counts


def counted(texts: Sequence[Text]) -> Captured:
    """The counters that are known beforehand."""
    distinct = set(texts)
    empty = sum(not t.text.strip() for t in distinct)
    return Captured(asked=len(texts), texts=len(distinct), empty=empty)


def behind(progress: Progress, before: int) -> Progress:
    """Progress that goes on where `before` passes were done."""
    return lambda done, total: progress(before + done, before + total)


def forward(
    model: Model,
    texts: Sequence[Text],
    run: Callable[[Sequence[Encoded]], Mapping[Name, Tensor]],
    keep: Callable[[Sequence[Text], Mapping[Name, np.ndarray], Sequence[bool]], None],
    *,
    batch_tokens: int | Budget,
    progress: Progress,
    alike: bool = False,
) -> int:
    """Run distinct texts in batches, longest first; returns how many tokens they had.

    run: one batch -> (b, d) by name; keep: a segment's texts, (n, d) by the same names, and whether
    each was truncated; alike: whether the texts of a batch must be of equal length.
    """
    # sorted by characters first: tokenisers pad what they are given together
    texts = sorted(texts, key=lambda t: -len(t.prompt) - len(t.text))
    encoded: list[Encoded] = []
    cut: list[bool] = []
    for start in range(0, len(texts), 512):
        part = texts[start : start + 512]
        encoded += model.tokenize(part)
        cut += model.truncated(part, encoded[start:])
    lengths = [token_count(e) for e in encoded]
    order = sorted(range(len(texts)), key=lambda i: -lengths[i])

    def run_batch(numbers: range) -> tuple[dict[Name, Tensor], list[torch.cuda.Event]]:
        states = run([encoded[order[i]] for i in numbers])
        gpus = {state.device for state in states.values() if state.is_cuda}
        # from a CUDA device they are on their way until it has come to what is marked behind them
        copies = {k: s.to("cpu", non_blocking=s.is_cuda) for k, s in states.items()}
        return copies, [torch.cuda.current_stream(gpu).record_event() for gpu in gpus]

    def keep_segment(
        numbers: range, results: list[tuple[dict[Name, Tensor], list[torch.cuda.Event]]]
    ) -> None:
        for event in (event for _, events in results for event in events):
            event.synchronize()
        parts = [copies for copies, _ in results]
        joined = {name: np.concatenate([part[name].numpy() for part in parts]) for name in parts[0]}
        here = [order[i] for i in numbers]
        keep([texts[i] for i in here], joined, [cut[i] for i in here])

    in_batches(
        model,
        [lengths[i] for i in order],
        run_batch,
        keep_segment,
        batch_tokens=batch_tokens,
        alike=alike,
        progress=progress,
    )
    return sum(lengths)


class StateReader:
    """A model as tasks of one kind read it: what they ask for, captured; each layer as a view.

    captured: what was done so far. store: of what tasks are evaluated on; plain: of texts that are
    embedded as they are. root: the folder of all stores, by default the cache's.
    Raises UserError where a store cannot be written.
    """

    likelihood: ClassVar[bool]

    def __init__(
        self,
        model: Model,
        questions: Questions,
        batch_tokens: int | Budget,
        sampling: Sampling = AS_IT_IS,
        ranks: Ranks = ALONE,
        root: Path | None = None,
    ) -> None:
        self.model, self.questions, self.budget = model, questions, as_budget(batch_tokens)
        self.ranks = ranks
        root, identity = root or cache_dir() / "states", self.identity(model)
        self.plain, kept = Store(root, sampling.kept(model.identity)), sampling.kept(identity)
        self.store = self.plain if kept == self.plain.identity else Store(root, kept)
        self.samples = Samples(model, self.store, self.plain, identity, sampling, root)
        self.captured = Captured()

    @staticmethod
    def identity(model: Any) -> dict[str, str]:
        """What changes what is read."""
        return dict(model.identity)

    def at(self, root: Path) -> Self:
        """A reader of the same kind whose stores are in another folder."""
        settings = self.budget, self.samples.sampling, self.ranks
        return type(self)(self.model, self.questions, *settings, root)

    def refresh(self) -> None:
        """Take note of what other processes have read; each waits for all."""
        self.store.refresh()
        if self.plain is not self.store:
            self.plain.refresh()
        self.samples.refresh(self.ranks)

    def read(
        self,
        texts: Sequence[Text],
        progress: Progress = lambda done, total: None,
        watched: Watched | None = None,
    ) -> None:
        """Have the pooled states of texts as they are."""
        tokens, store = self.budget, self.plain
        self.captured += capture(
            self.model, texts, store, batch_tokens=tokens, progress=progress, watched=watched
        )


class Embeddings(StateReader):
    """Pooled states of the texts that tasks embed, and that metrics are measured on."""

    likelihood = False

    def ask(self, task: Task, evaluated: bool, measured: bool) -> list[Text]:
        """The texts of a task's evaluation, if there is one, and those that metrics add."""
        texts = self._texts(task, self.questions.requests(task)) if evaluated else []
        if measured:
            known = set(texts)
            texts += [text for text in self.sample(task) if text not in known]
        return texts

    def sample(self, task: Task) -> list[Text]:
        """The texts that metrics are measured on, as the store knows them."""
        return self._texts(task, self.questions.sample(task))

    def capture(
        self,
        asked: Mapping[Task, Sequence[Text]],
        progress: Progress,
        measured: Measured | None = None,
    ) -> dict[Task, Exception]:
        """Read what is missing of these texts, of all tasks together; no task fails alone.

        measured: the metrics to be measured on each task, for what they need beside pooled states.
        """
        texts, seen, items = self.demand(asked, measured or {})
        mine = set(self.ranks.share(dict.fromkeys([*texts, *seen]), size))
        watched = self.samples.watched([t for t in seen if t in mine], items)
        self.read([text for text in texts if text in mine], progress, watched)
        return {}

    def demand(
        self, asked: Mapping[Task, Sequence[Text]], measured: Measured
    ) -> tuple[list[Text], list[Text], list[PlannedMetric]]:
        """All texts to be read, views among them; those that token metrics see; these metrics."""
        texts = [text for texts in asked.values() for text in texts]
        seen: dict[Text, None] = {}
        items: dict[int, PlannedMetric] = {}
        for task in asked:
            metrics = measured.get(task, ())
            sample = self.sample(task) if metrics else []
            texts += self.samples.views(sample, metrics)
            by_text = {id(item): item for item in metrics if item.metric.needs in PER_TEXT}
            seen |= dict.fromkeys(sample if by_text else ())
            items |= by_text
        return texts, list(seen), list(items.values())

    def met(self, task: Task, asked: Sequence[Text]) -> dict[str, Any]:
        """What a task's texts are like: repeated, empty, cut, and how long."""
        every: Sequence[Any] = self.questions.texts(task) if task.evaluate is None else asked
        texts = [text.text for text in set(asked)]
        return described(every, texts, self.store.truncated(asked))

    def view(self, layer: int, name: str, revision: str, experiments: Experiments) -> LayerView:
        """The model truncated at a layer, as an encoder."""
        return LayerView(self.model, self.store, layer, name, revision, experiments, self.read)

    def _texts(self, task: Task, requests: Sequence[Request]) -> list[Text]:
        return [Text(r.text, self.model.prompt(r.part or task, r.prompt_type)) for r in requests]


def described(every: Sequence[Any], distinct: Collection[str], truncated: int) -> dict[str, Any]:
    """A task's texts: how many, how many of them are odd, and their mean length in characters."""
    lengths = [len(text) for text in distinct if not isinstance(text, Image)]
    return {
        "asked": len(every),
        "duplicates": len(every) - len(set(every)),
        "empty": sum(not text.strip() for text in distinct),
        "truncated": truncated,
        "length": sum(lengths) / len(lengths) if lengths else None,
    }


def size(text: Text) -> int:
    """About how long it takes to read a text; of images all take the same."""
    return 1 if isinstance(text.text, Image) else len(text.prompt) + len(text.text)
