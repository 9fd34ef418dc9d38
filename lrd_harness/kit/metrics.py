"""Checks of metrics and panel metrics: on random states, as a run has them, and on odd ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrd_harness.contracts import Metric, PanelMetric
from lrd_harness.errors import UnitError, described
from lrd_harness.kit.checking import Checks, alike, numbers, stir
from lrd_harness.measuring import PER_TEXT, finish, measure
from lrd_harness.panels import PanelScores, measure_panel
from lrd_harness.planning.parameters import (
    LENGTHS,
    random_labels,
    random_maps,
    random_panel,
    random_sample,
    random_states,
)
from lrd_harness.scores import Scores

LAWS = ("rotation", "scaling", "permutation")
SISTERS = {"model 1": "x", "model 2": "x"}  # of a panel, whose others' families are not known
Sample = list[Any]  # of each text its states, as one tensor; or a list of those of all texts
Change = Callable[[Tensor], Tensor]
_ODD_STATES: Mapping[str, Change] = {
    "one ROW": lambda state: state[:1],
    "two ROWs": lambda state: state[:2],
    "equal ROWs": lambda state: state[:1].expand_as(state).clone(),
    "ROWs that are alike two by two": lambda state: state[torch.arange(len(state)) // 2 * 2],
    "one dimension": lambda state: state[..., :1],
    "states of zeros": torch.zeros_like,
}
_ODD_MAPS: Mapping[str, Change] = {
    "one ROW": lambda maps: maps[:, :1, :1],
    "two ROWs": lambda maps: maps[:, :2, :2],
    "one head": lambda maps: maps[:1],
    "ROWs that see themselves alone": lambda maps: torch.eye(len(maps[0])).expand_as(maps).clone(),
    "ROWs that see all alike": lambda maps: torch.full_like(maps, 1 / len(maps[0])),
}


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

        selection=Choice(NAME, "max" or "min") names a number (a list x gives mean_x and so on),
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
        sample, labels = self._sample(), random_labels(self.record)
        if self.record.needs in PER_TEXT:
            sample.reverse()
        else:
            order = np.random.default_rng(2).permutation(len(sample[0][0]))
            sample = self._each(sample, lambda state: state[torch.from_numpy(order)])
            labels = labels and [labels[row] for row in order]
        alike("a permutation", self.scores, self._measured(sample, labels), near, tiny)

    def laws(self) -> None:
        """the laws that it declares hold

        Take what does not hold out of Metric(invariances=...).
        """
        unknown = set(self.record.invariances) - set(LAWS)
        assert not unknown, f"it declares unknown laws: {sorted(unknown)}; there are {LAWS}"
        states = self.record.needs != "attention"  # maps are neither turned nor scaled
        for law in sorted(set(self.record.invariances) & set(LAWS[:2])) if states else ():
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
            self._refused_or_finite(what, sample)
        if self.record.needs == "labels":
            for what, labels in (("one class", [1] * 48), ("a class a text", range(48))):
                self._refused_or_finite(what, self._sample(), list(labels))

    def _sample(self) -> Sample:
        """What it is measured on, made anew; of one text at a time some of several lengths."""
        if self.record.needs not in PER_TEXT:
            return [list(map(torch.from_numpy, random_sample(self.record)))]
        make: Any = random_states if self.record.needs == "tokens" else random_maps
        every = (make(tokens, seed=seed) for seed, tokens in enumerate(LENGTHS))
        return [torch.from_numpy(np.stack(states)) for states in every]

    def _each(self, sample: Sample, change: Change) -> Sample:
        changed = [[change(state) for state in states] for states in sample]
        return list(map(torch.stack, changed)) if self.record.needs in PER_TEXT else changed

    def _odd(self) -> Iterator[tuple[str, Sample]]:
        """Samples on which a careless metric divides by nothing."""
        maps, text = self.record.needs == "attention", self.record.needs in PER_TEXT
        rows = "tokens" if text else "texts"
        for what, change in (_ODD_MAPS if maps else _ODD_STATES).items():
            yield what.replace("ROW", rows[:-1]), self._each(self._sample(), change)
        if not text:
            yield "eight texts", self._each(self._sample(), lambda state: state[:8])
        for place in () if maps else (0, 2, -1):
            sample = self._sample()
            for states in sample:
                states[place] = torch.zeros_like(states[place])
            yield f"a layer of zeros ({place % len(sample[0])})", sample

    def _refused_or_finite(self, what: str, *sample: Any) -> None:
        with _named(what):
            fault = self._not_finite(self._measured(*sample))
            assert not fault, fault

    def _tried(self, sample: Sample) -> None:
        with suppress(UnitError):  # other states are its right to refuse
            self._measured(sample)

    def _measured(self, sample: Sample, labels: Sequence[int] | None = None) -> Scores:
        """Its scores; of texts one at a time, of all that it does not refuse.

        Raises UnitError where it refuses all.
        """
        stir()
        if self.record.needs not in PER_TEXT:
            labels = labels or random_labels(self.record)
            labels = labels and labels[: len(sample[0][0])]
            return measure(self.record, sample[0], labels, **self.parameters)
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
            if self.record.needs in PER_TEXT and isinstance(value, list):
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


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Within the block a UnitError is an answer; another error is a fault, on what it came."""
    try:
        yield
    except UnitError:
        return
    except Exception as error:
        ours = isinstance(error, AssertionError) and str(error)
        raise AssertionError(f"{what}: {ours or described(error)}") from error


class PanelChecks(Checks):
    """Of a panel metric, called with these parameters."""

    record: PanelMetric

    def __init__(self, metric: PanelMetric, parameters: Mapping[str, Any]) -> None:
        super().__init__(metric)
        self.parameters, self.scores = parameters, PanelScores({}, {}, {})

    def values(self) -> None:
        """it gives finite numbers, of the panel, of each model, or of each two

        Return {score: number}, {score: {model: number}} or {score: {model: {other: number}}},
        for all models that `states` has, without a diagonal; selection=Choice(NAME) names a score
        by model. What cannot be computed raises lrd_harness.UnitError.
        """
        self.scores = self._measured(self._panel())

    def repeatable(self) -> None:
        """it gives the same again, whatever it measured before

        Draw from a generator with a fixed seed, and keep nothing between calls.
        """
        self._same("a second call", self._panel())
        with suppress(UnitError):  # other states are its right to refuse
            self._measured(self._each(lambda state: state.flip(0) * 2))
        self._same("a call on other states", self._panel())

    def untouched(self) -> None:
        """it leaves the states as they were

        Work on a copy (state.clone()): no x -= y, no method that ends in _, and nothing written
        to state.numpy(), which shares its memory.
        """
        panel, before = self._panel(), self._panel()
        self._measured(panel)
        same = all(map(torch.equal, _states(panel), _states(before)))
        assert same, "it changes the states that it is given"

    def models(self) -> None:
        """the order and the names of the models change nothing

        Go by the names in `states`, never by their order or spelling.
        """
        self._same("another order of models", dict(reversed(self._panel().items())))
        renamed = {name: f"{9 - i} org/Model" for i, name in enumerate(self._panel())}
        sisters = {renamed[name]: family for name, family in SISTERS.items()}
        panel = {renamed[name]: state for name, state in self._panel().items()}
        read = self._measured(panel, sisters)
        for name, of_model in self.scores.by_model.items():
            values = {old: read.by_model[name][new] for old, new in renamed.items()}
            alike("another name of models", {name: of_model}, {name: values})

    def order(self) -> None:
        """the order of the texts changes nothing that matters

        Treat all texts alike; what is drawn by their number may change by a tenth.
        """
        order = torch.from_numpy(np.random.default_rng(2).permutation(48))
        self._same("a permutation", self._each(lambda state: state[order]), 0.1, 1e-2)

    def rounding(self) -> None:
        """states in float32 give nearly the same

        A difference of nearly equal numbers, or a comparison for equality, loses the digits.
        """
        self._same("float32", self._each(lambda state: state.float()), 1e-3, 1e-4)

    def odd(self) -> None:
        """two models, copies, one family and odd states give numbers, or an error that says why

        Where there is nothing to divide by or to compare, raise lrd_harness.UnitError.
        """
        panel = self._panel()
        first = next(iter(panel.values()))
        family = {"all of one family": dict.fromkeys(panel, "x"), "no family": None}
        several = {n: dict(list(panel.items())[:n]) for n in (1, 2, 3)}
        for n, some in several.items():
            with _named(f"{n} model{'s' * (n > 1)}"):
                self._measured(some)
        with _named("copies of one model"):
            self._measured(dict.fromkeys(panel, first))
        for what, families in family.items():
            with _named(what):
                self._measured(panel, families)
        for what, change in _ODD_STATES.items():
            with _named(what.replace("ROW", "text")):
                self._measured(self._each(change))

    def _panel(self) -> dict[str, Any]:
        return self._each(lambda state: state)

    def _each(self, change: Change) -> dict[str, Any]:
        """Random states of models, each changed."""
        every = self.record.states == "all"
        panel = random_panel(self.record).items()
        changed = {m: [change(torch.as_tensor(s)) for s in (v if every else [v])] for m, v in panel}
        return changed if every else {model: state for model, (state,) in changed.items()}

    def _measured(self, panel: Mapping[str, Any], families: Any = ()) -> PanelScores:
        stir()
        known = SISTERS if families == () else families
        return measure_panel(self.record, panel, known, **self.parameters)

    def _same(self, what: str, panel: Mapping[str, Any], *near: float) -> None:
        alike(what, self._flat(self.scores), self._flat(self._measured(panel)), *near)

    def _flat(self, scores: PanelScores) -> dict[str, Any]:
        """All numbers, by score, model and other model."""
        flat: dict[str, Any] = dict(scores.numbers)
        every: dict[str, Any] = {**scores.by_model, **scores.pairs}
        for name, values in every.items():
            for model, value in sorted(values.items()):
                of_others = sorted(value.items()) if isinstance(value, dict) else [("", value)]
                flat |= {f"{name} of {model} {other}".strip(): v for other, v in of_others}
        return flat


def _states(panel: Mapping[str, Any]) -> Iterator[Tensor]:
    for states in panel.values():
        yield from states if isinstance(states, list) else [states]
