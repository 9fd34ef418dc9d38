"""A model's captured states, one reading for each kind of task: embeddings, and likelihoods.

Both readings do the same for the run: say what a task asks for, capture what the store lacks, and
give each layer as a view that tasks evaluate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from lrd_harness import likelihoods
from lrd_harness.cache import cache_dir
from lrd_harness.capture import Captured, behind, capture
from lrd_harness.contracts import Continuation, Request, Task, Text
from lrd_harness.parameters import PlannedMetric
from lrd_harness.protocols import Experiments, LanguageModel, Model
from lrd_harness.questions import Questions
from lrd_harness.samples import Samples, Sampling
from lrd_harness.store import Store
from lrd_harness.token_values import Watched
from lrd_harness.view import Answers, LayerView, LikelihoodLayer

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
        batch_tokens: int,
        sampling: Sampling = AS_IT_IS,
    ) -> None:
        self.model, self.questions, self.batch_tokens = model, questions, batch_tokens
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
        self._read(texts, progress, self.samples.watched(list(seen), list(items.values())))
        return {}

    def _read(
        self, texts: Sequence[Text], progress: Progress, watched: Watched | None = None
    ) -> None:
        self.captured += capture(
            self.model,
            texts,
            self.store,
            batch_tokens=self.batch_tokens,
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
        batch_tokens: int,
        sampling: Sampling = AS_IT_IS,
    ) -> None:
        self.model = cast("LanguageModel", model)
        self.questions, self.batch_tokens = questions, batch_tokens
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
                sample = self.sample(task)
                self.captured += likelihoods.capture(
                    self.model,
                    requests,
                    [text.text for text in sample],
                    task.tokenize,
                    self.store,
                    batch_tokens=self.batch_tokens,
                    progress=behind(progress, self.captured.forwarded),
                    watched=self.samples.watched(sample, items),
                )
                views = self.samples.views(sample, items)
                self.captured += capture(
                    self.model,
                    views,
                    self._plain,
                    batch_tokens=self.batch_tokens,
                    progress=behind(progress, self.captured.forwarded),
                )
            except Exception as error:  # a request it cannot take, memory that does not suffice
                failed[task] = error
        return failed

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


Reading = Embeddings | Likelihoods
View = LayerView | LikelihoodLayer
