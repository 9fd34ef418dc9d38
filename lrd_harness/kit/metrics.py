"""Checks of metrics: on random states, as a run hands them over, and on odd ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrd_harness.contracts import Metric
from lrd_harness.errors import UnitError, described
from lrd_harness.kit.checking import Checks, alike, numbers
from lrd_harness.measuring import finish, measure
from lrd_harness.planning.parameters import LENGTHS, random_sample, random_states
from lrd_harness.scores import Scores

LAWS = ("rotation", "scaling", "permutation")
BY_TEXT = ("tokens", "attention")  # what hands over one text at a time
Sample = list[Any]  # of each text its states, as one tensor; or a list of those of all texts
Change = Callable[[Tensor], Tensor]


class MetricChecks(Checks):
    """Of a metric, called with these parameters."""

    record: Metric

    def __init__(self, metric: Metric, parameters: Mapping[str, Any]) -> None:
        super().__init__(metric)
        self.parameters, self.scores = parameters, Scores({}, 0)

    def values(self) -> None:
        """it gives finite numbers, and lists that belong to states, steps, inner states or blocks

        Return a mapping from names to numbers or lists, one value for each state that `measure`
        is given (or one less for steps, two less for inner states; Metric(of=...) says which).
        What cannot be computed raises lrd_harness.UnitError; a layer without a value is NaN.
        """
        self.scores = self._measured(self._sample())
        if fault := self._not_finite(self.scores):
            raise AssertionError(fault)

    def choices(self) -> None:
        """its selection and layer-choice scores are there

        selection=Choice(NAME, "max" or "min") names a number (a list `x` gives mean_x, slope_x ...),
        layer_choice=Choice(NAME, ...) a list.
        """
        choice = self.record.layer_choice
        listed = choice is None or isinstance(self.scores.get(choice.score), list)
        assert listed, f"it chooses layers by {choice and choice.score}, which is no list"

    def repeatable(self) -> None:
        """it gives the same again, whatever it measured before

        Draw from a generator with a fixed seed, as numpy.random.default_rng(0), and keep nothing
        between calls.
        """
        alike("a second call", self.scores, self._measured(self._sample()))
        self._tried(self._each(self._sample(), lambda state: state.flip(0) * 2))
        alike("a call on other states", self.scores, self._measured(self._sample()))

    def untouched(self) -> None:
        """it leaves its input as it was

        Work on a copy (state.clone()): no x -= y, no method that ends in _, and nothing written
        to state.numpy(), which shares its memory.
        """
        sample, before = self._sample(), self._sample()
        self._measured(sample)
        for old, new in zip(before, sample, strict=True):
            same = all(map(torch.equal, old, new))
            assert same, "it changes the states that it is given"

    def order(self) -> None:
        """the order of the texts changes nothing that matters

        Treat all texts alike. What is drawn by their number (a seeded sample) may change by a
        tenth, and then "permutation" is no law to declare.
        """
        declared = "permutation" in self.record.invariances
        near, tiny = (1e-6, 1e-9) if declared else (0.1, 1e-2)
        alike("a permutation", self.scores, self._measured(self._shuffled()), near, tiny)

    def laws(self) -> None:
        """the laws that it declares hold

        Take what does not hold out of Metric(invariances=...).
        """
        unknown = set(self.record.invariances) - set(LAWS)
        assert not unknown, f"it declares unknown laws: {sorted(unknown)}; there are {LAWS}"
        for law in sorted(set(self.record.invariances) & set(LAWS[:2])):
            sample = self._each(self._sample(), _turned if law == "rotation" else _scaled)
            alike(f"a {law}", self.scores, self._measured(sample))

    def rounding(self) -> None:
        """states in float32 give nearly the same

        A difference of nearly equal numbers, or a comparison for equality, loses the digits:
        centre first, compare with a tolerance.
        """
        sample = self._each(self._sample(), lambda state: state.float())
        alike("float32", self.scores, self._measured(sample), 1e-3, 1e-4)

    def odd(self) -> None:
        """odd states give finite numbers, or an error that says what is wrong

        Where there is nothing to divide by, or too little to compare, raise lrd_harness.UnitError
        (NotEnoughTexts, NotEnoughTokens, DegenerateState) in a sentence.
        """
        for what, sample in self._odd():
            try:
                fault = self._not_finite(self._measured(sample))
            except UnitError:
                continue
            except Exception as error:
                raise AssertionError(f"{what}: {described(error)}") from error
            assert not fault, f"{what}: {fault}"

    def _sample(self) -> Sample:
        """What it is measured on, made anew; of one text at a time some of several lengths."""
        if self.record.needs != "tokens":
            return [list(map(torch.from_numpy, random_sample(self.record)))]
        return [
            torch.from_numpy(np.stack(random_states(tokens, seed=seed)))
            for seed, tokens in enumerate(LENGTHS)
        ]

    def _each(self, sample: Sample, change: Change) -> Sample:
        changed = [[change(state) for state in states] for states in sample]
        return list(map(torch.stack, changed)) if self.record.needs == "tokens" else changed

    def _shuffled(self) -> Sample:
        sample = self._sample()
        if self.record.needs in BY_TEXT:
            return sample[::-1]
        order = torch.from_numpy(np.random.default_rng(2).permutation(len(sample[0][0])))
        return self._each(sample, lambda state: state[order])

    def _odd(self) -> Iterator[tuple[str, Sample]]:
        """Samples that a careless metric divides by nothing on."""
        text = self.record.needs in BY_TEXT
        rows = "tokens" if text else "texts"
        changes: dict[str, Change] = {
            f"one {rows[:-1]}": lambda state: state[:1],
            f"two {rows}": lambda state: state[:2],
            f"equal {rows}": lambda state: state[:1].expand_as(state).clone(),
            f"{rows} that are alike two by two": lambda s: s[torch.arange(len(s)) // 2 * 2],
            "one dimension": lambda state: state[..., :1],
            "states of zeros": torch.zeros_like,
        }
        for what, change in changes.items():
            yield what, self._each(self._sample(), change)
        for place in (0, 2, -1):
            sample = self._sample()
            for states in sample:
                states[place] = torch.zeros_like(states[place])
            yield f"a layer of zeros ({place % len(sample[0])})", sample
        if not text:
            yield "eight texts", self._each(self._sample(), lambda state: state[:8])

    def _tried(self, sample: Sample) -> None:
        try:
            self._measured(sample)
        except UnitError:
            pass  # other states are its right to refuse

    def _measured(self, sample: Sample) -> Scores:
        """Its scores; of texts one at a time, of all that it does not refuse.

        Raises UnitError where it refuses all.
        """
        if self.record.needs not in BY_TEXT:
            return measure(self.record, sample[0], **self.parameters)
        texts: list[Scores] = []
        refused = UnitError(f"{self.name} was tried on no text")
        for states in sample:
            try:
                texts.append(measure(self.record, states, **self.parameters))
            except UnitError as error:
                refused = error
        if not texts:
            raise refused
        for scores in texts:
            same = _lengths(scores) == _lengths(texts[0])
            assert same, "it gives other scores, or other lengths, for another text"
        return finish(self.record, texts)

    def _not_finite(self, scores: Scores) -> str:
        """Which score is no number; of one text at a time, layers may have none."""
        for name, value in scores.items():
            bad = ~np.isfinite(numbers(value))
            if self.record.needs in BY_TEXT and isinstance(value, list):
                bad = np.isinf(numbers(value))
            if bad.any():
                return f"{name} is not finite: {value}"
        return ""


def _lengths(scores: Scores) -> dict[str, int | None]:
    return {name: len(v) if isinstance(v, list) else None for name, v in scores.items()}


def _turned(state: Tensor) -> Tensor:
    width = state.shape[-1]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    return state @ torch.from_numpy(turn)


def _scaled(state: Tensor) -> Tensor:
    return state * 3.7
