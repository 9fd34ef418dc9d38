"""Checks of tasks, and of families of them: evaluated on random vectors, and on constant ones."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from lrd_harness.capture.samples import Listener
from lrd_harness.contracts import Task, TaskFamily, TaskOptions
from lrd_harness.errors import UserError, described
from lrd_harness.kit.checking import Checks, stir, twice
from lrd_harness.scores import number

NO_NAME = "no-such-task"  # of any family


class View(Listener):
    """A layer of a model that there is not: vectors, or log-likelihoods, that go by text and seed.

    seed: None for a layer at which all texts are the same.
    """

    def __init__(self, task: Task, seed: int | None) -> None:
        super().__init__(task)
        self.seed = seed

    def encode(self, texts: Sequence[str], task: Task, prompt_type: Any = None) -> np.ndarray:
        """Vectors (len(texts), 8) float32."""
        vectors = super().encode(texts, task, prompt_type)
        if self.seed is None:
            return np.ones_like(vectors)
        return np.asarray(vectors + np.float32(self.seed) * np.cos(vectors * 7))

    def loglikelihoods(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of each request -1 .. 0, and False."""
        self.requests += requests
        texts = (f"{self.seed}{context}\0{rest}" for context, rest in requests)
        return [(-zlib.crc32(text.encode()) / 2**32, False) for text in texts]


class TaskChecks(Checks):
    """Of a task, or of some tasks of a family."""

    record: Task

    def data(self) -> None:
        """where its data are missing, its check says so before anything else is tried

        Return a list of Request(text). Of a file that is not there Task(check=...) tells first: a
        function that raises lrd_harness.UserError with its name, before any model is opened.
        """
        try:
            if self.record.check is not None:
                self.record.check()
        except UserError as error:
            raise AssertionError(f"its data are missing, and it says so: {error}") from error
        try:
            self.texts = list(self.record.texts())
        except Exception as error:
            said = f"it gives no texts, and its check did not say so: {described(error)}"
            raise AssertionError(said) from error

    def repeatable(self) -> None:
        """it has texts, the same ones each time

        Return a list of Request(text), in an order that does not change: sort files, draw with a
        fixed seed.
        """
        assert self.texts, "it has no texts"
        twice("its texts are others", self.record.texts)

    def labels(self) -> None:
        """its labels, if it has any, are one for each text

        Task(labels=...) gives the class of each of `texts`, in their order.
        """
        if self.record.labels is not None:
            n, texts = len(twice("its labels are others", self.record.labels)), len(self.texts)
            assert n == texts, f"it has {n} labels for {texts} texts"

    def fingerprint(self) -> None:
        """its fingerprint, if it has one, is the same text each time

        Make it of the data's content alone, as a hashlib digest; `hash()` changes with each start.
        """
        if self.record.fingerprint is not None:
            twice("its fingerprint is another", self.record.fingerprint)

    def requests(self) -> None:
        """evaluate asks for what requests names, and for nothing else

        `evaluate(view)` calls view.encode(TEXTS, TASK), TEXTS a list of str, and returns
        Score(NUMBER, NAME). Have Task(requests=...) list all these texts (their prompt types with
        them), or leave it out: they are then found by a trial.
        """
        if self.record.evaluate is None:
            return
        view = View(self.record, 1)
        self.record.evaluate(view)
        if self.record.requests is not None:
            named = set(map(self._key, self.record.requests()))
            more = [request for request in view.requests if self._key(request) not in named]
            assert not more, f"evaluate asks for what it did not name: {more[0][:2]!r:.80}"

    def scores(self) -> None:
        """every layer gets a finite score, the same again after other layers

        `evaluate(view)` returns a Score made of this view alone: nothing may be kept from one view
        to the next, and what is drawn needs a fixed seed.
        """
        if self.record.evaluate is None:
            return
        first, other, again = (self._score(seed) for seed in (1, 2, 1))
        for score in (first, other):
            assert math.isfinite(score.main), f"its score is {score.main}"
            for what in ("stderr", "chance"):
                value = getattr(score, what)
                assert value is None or math.isfinite(value), f"its {what} is {value}"
            for name, further in score.scores.items():
                number(further, f"its further score {name}")
        assert other.name == first.name, f"its score is called {first.name} and {other.name}"
        same = math.isclose(again.main, first.main, rel_tol=1e-9)
        assert same, f"of one layer its score is {first.main}, and then {again.main}"

    def constant(self) -> None:
        """a layer at which all texts are the same gets a score too

        Vectors may be equal or zero (state 0 of a model pooled at its first token): divide with
        care; a score that is not defined there is float("nan").
        """
        if self.record.evaluate is not None:
            self._score(None)

    def _key(self, request: Any) -> tuple[Any, ...]:
        """A request; a part that is the task itself, as its author knows it, is none."""
        part = getattr(request, "part", None)
        return (*request[:2], part if part and part.name != self.name else None)

    def _score(self, seed: int | None) -> Any:
        assert self.record.evaluate is not None
        stir()
        view = View(self.record, seed)
        score = self.record.evaluate(view)
        assert view.requests, "evaluate asks the view for nothing, so its score is not this one's"
        return score


class FamilyChecks(Checks):
    """Of a family of tasks. given: names of some that it can open here.

    Where there are none it is the first that it lists, if it needs no hub.
    """

    record: TaskFamily

    def listing(self) -> None:
        """it lists its names, the same each time, without a network

        `names()` returns {name: type}, of those that are known; the type as Task.type.
        """
        known = twice("its names are others", self.record.names)
        wrong = [pair for pair in known.items() if {type(part) for part in pair} != {str}]
        assert not wrong, f"{wrong[0]!r:.60} is no name with a type"

    def unknown(self) -> None:
        """a name that it does not know is a KeyError

        `open(name, options)` raises KeyError(name) there (or UserError with a better reason), so
        that other families are asked.
        """
        with suppress(KeyError, UserError):
            for task in self._opened(NO_NAME):
                if task.check is not None:  # of data that are looked for later
                    task.check()
            raise AssertionError(f"it opens {NO_NAME!r}, which there is not")

    def opening(self) -> None:
        """it opens names that it knows

        `open(name, options)` returns a Task of that name, or a list of several.
        """
        self._tasks = []
        for name in self.given or (list(self.record.names())[:1] if self.record.offline else []):
            tasks = self._opened(name)
            assert tasks, f"{name} stands for no task"
            self._tasks.append(tasks[0])

    def each(self) -> None:
        """what it opens passes the checks of tasks

        Of a name that stands for several tasks the first is checked, as one that stands alone.
        """
        for task in self._tasks:
            TaskChecks(task).passed()

    def _opened(self, name: str) -> list[Task]:
        opened = self.record.open(name, TaskOptions())
        return [opened] if isinstance(opened, Task) else list(opened)
