"""A model's captured states, one reading for each kind of task: embeddings, and likelihoods.

Both readings do the same for the run: say what a task asks for, capture what the store lacks, and
give each layer as a view that tasks evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from lrd_harness.capture import likelihoods
from lrd_harness.capture.batches import Budget, as_budget
from lrd_harness.capture.embeddings import Captured, behind, capture
from lrd_harness.capture.layers import Answers, LayerView, LikelihoodLayer
from lrd_harness.capture.requests import Questions
from lrd_harness.capture.samples import Samples, Sampling
from lrd_harness.capture.token_metrics import Watched
from lrd_harness.contracts import (
    Continuation,
    Experiments,
    LanguageModel,
    Model,
    Request,
    Task,
    Text,
)
from lrd_harness.measuring import PlannedMetric
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.store.location import cache_dir
from lrd_harness.store.store import Store

Progress = Callable[[int, int], None]
AS_IT_IS = Sampling()
Measured = Mapping[Task, Sequence[PlannedMetric]]


class Embeddings:
    """Pooled states of the texts that tasks embed, and that metrics are measured on.

    captured: what was done so far. Raises UserError where the store cannot be written.
    """

    likelihood = False

    def __init__(
        self,
        model: Model,
        questions: Questions,
        batch_tokens: int | Budget,
        sampling: Sampling = AS_IT_IS,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.questions, self.budget = model, questions, as_budget(batch_tokens)
        self.ranks = ranks
        self.store = Store(cache_dir() / "states", model.identity)
        self.samples = Samples(model, self.store, self.store, model.identity, sampling)
        self.captured = Captured()

    def ask(self, task: Task, evaluated: bool, measured: bool) -> list[Text]:
        """The texts of a task's evaluation, if there is one, and those that metrics add."""
        wanted = self._texts(task, self.questions.requests(task)) if evaluated else []
        if measured:
            known = set(wanted)
            wanted += [text for text in self.sample(task) if text not in known]
        return wanted

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
        texts = [text for texts in asked.values() for text in texts]
        seen: dict[Text, None] = {}
        items: dict[int, PlannedMetric] = {}
        for task in asked:
            wanted = (measured or {}).get(task, ())
            sample = self.sample(task) if wanted else []
            texts += self.samples.views(sample, wanted)
            tokens = [item for item in wanted if item.metric.needs == "tokens"]
            seen |= dict.fromkeys(sample if tokens else ())
            items |= {id(item): item for item in tokens}
        mine = set(self.ranks.share(dict.fromkeys([*texts, *seen]), size))
        watched = self.samples.watched([t for t in seen if t in mine], list(items.values()))
        self._read([text for text in texts if text in mine], progress, watched)
        return {}

    def refresh(self) -> None:
        """Take note of what other processes have read; each waits for all."""
        self.store.refresh()
        self.samples.refresh(self.ranks)

    def _read(
        self, texts: Sequence[Text], progress: Progress, watched: Watched | None = None
    ) -> None:
        self.captured += capture(
            self.model,
            texts,
            self.store,
            batch_tokens=self.budget,
            progress=progress,
            watched=watched,
        )

    def met(self, task: Task, asked: Sequence[Text]) -> dict[str, int]:
        """What a task's texts are like: repeated, empty, longer than the model takes."""
        every: Sequence[Any] = self.questions.texts(task) if task.evaluate is None else asked
        distinct = set(asked)
        return {
            "asked": len(every),
            "duplicates": len(every) - len(set(every)),
            "empty": sum(not text.text.strip() for text in distinct),
            "truncated": self.store.truncated(asked),
        }

    def view(self, layer: int, name: str, revision: str, experiments: Experiments) -> LayerView:
        """The model truncated at a layer, as an encoder."""
        return LayerView(
            self.model,
            self.store,
            layer,
            name=name,
            revision=revision,
            experiments=experiments,
            fetch=lambda texts: self._read(texts, lambda done, total: None),
        )

    def _texts(self, task: Task, requests: Sequence[Request]) -> list[Text]:
        return [Text(r.text, self.model.prompt(task, r.prompt_type)) for r in requests]


class Likelihoods:
    """Log-likelihoods of the continuations that tasks compare, and pooled states of the contexts.

    The store is one of its own: a context is cut from the left and a text from the right.
    """

    likelihood = True

    def __init__(
        self,
        model: Model,
        questions: Questions,
        batch_tokens: int | Budget,
        sampling: Sampling = AS_IT_IS,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.model = cast("LanguageModel", model)
        self.questions, self.budget = questions, as_budget(batch_tokens)
        identity = likelihoods.identity(self.model)
        self.store = Store(cache_dir() / "states", identity)
        self._plain = Store(cache_dir() / "states", model.identity)
        self.samples = Samples(model, self.store, self._plain, identity, sampling)
        self._answers = Answers(self.store)
        self.captured = Captured()

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
            assert task.tokenize is not None
            items = (measured or {}).get(task, ())
            try:
                own = shared_out(self.ranks, requests)
                contexts = {request.context for request in own}
                sample = [text for text in self.sample(task) if text.text in contexts]
                self.captured += likelihoods.capture(
                    self.model,
                    own,
                    [text.text for text in sample],
                    task.tokenize,
                    self.store,
                    batch_tokens=self.budget,
                    progress=behind(progress, self.captured.forwarded),
                    watched=self.samples.watched(sample, items),
                )
                views = dict.fromkeys(self.samples.views(self.sample(task), items))
                self.captured += capture(
                    self.model,
                    self.ranks.share(views, size),
                    self._plain,
                    batch_tokens=self.budget,
                    progress=behind(progress, self.captured.forwarded),
                )
            except Exception as error:  # a request it cannot take, memory that does not suffice
                failed[task] = error
        return failed

    def refresh(self) -> None:
        """Take note of what other processes have read; each waits for all."""
        for store in (self.store, self._plain):
            store.refresh()
        self.samples.refresh(self.ranks)

    def met(self, task: Task, asked: Sequence[Continuation]) -> dict[str, int]:
        """What a task's contexts are like: repeated, empty, longer than the model takes."""
        every = [request.text for request in self.questions.texts(task)]
        distinct = {request.context for request in asked}
        return {
            "asked": len(every),
            "duplicates": len(every) - len(set(every)),
            "empty": sum(not context.strip() for context in distinct),
            "truncated": len(likelihoods.truncated(self.store, asked)),
        }

    def view(
        self, layer: int, name: str, revision: str, experiments: Experiments
    ) -> LikelihoodLayer:
        """The model truncated at a layer, as a language model."""
        return LikelihoodLayer(self._answers, layer, name, revision, experiments)


def size(text: Text) -> int:
    """About how long it takes to read a text."""
    return len(text.prompt) + len(text.text)


def shared_out(ranks: Ranks, requests: Sequence[Continuation]) -> list[Continuation]:
    """Those of the requests that this process reads; those of a context stay together."""
    mine = set(ranks.share(dict.fromkeys(r.context for r in requests), len))
    return [request for request in requests if request.context in mine]


Reading = Embeddings | Likelihoods
View = LayerView | LikelihoodLayer
