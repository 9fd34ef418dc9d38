"""Checks of metrics and panel metrics: on random states, as a run has them, and on odd ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrd_harness import manager
from lrd_harness.contracts import Metric, PanelMetric
from lrd_harness.errors import UnitError
from lrd_harness.kit.checking import Checks, check_alike, numbers, said, stir
from lrd_harness.measuring import PER_TEXT, finish, measure
from lrd_harness.panels import measure_panel
from lrd_harness.planning.parameters import (
    LENGTHS,
    random_labels,
    random_maps,
    random_panel,
    random_sample,
    random_states,
    sample_size,
)
from lrd_harness.scores import Scores, split_scores

Change = Callable[[Tensor], Tensor]
MORE = 10  # times as many texts, or tokens, for a metric that refuses so few
ODD_STATES: Mapping[str, Change] = {
    "one ROW": lambda state: state[:1],
    "two ROWs": lambda state: state[:2],
    "equal ROWs": lambda state: state[:1].expand_as(state).clone(),
    "ROWs that are alike two by two": lambda state: state[torch.arange(len(state)) // 2 * 2],
    "one dimension": lambda state: state[..., :1],
    "states of zeros": torch.zeros_like,
}
ODD_MAPS: Mapping[str, Change] = {
    "one ROW": lambda maps: maps[:, :1, :1],
    "two ROWs": lambda maps: maps[:, :2, :2],
    "one head": lambda maps: maps[:1],
    "ROWs that see themselves alone": lambda maps: torch.eye(len(maps[0])).expand_as(maps).clone(),
    "ROWs that see all alike": lambda maps: torch.full_like(maps, 1 / len(maps[0])),
}


def _turned(state: Tensor) -> Tensor:
    width = state.shape[-1]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    return state @ torch.from_numpy(turn)


LAWS: Mapping[str, Change] = {"rotation": _turned, "scaling": lambda state: state * 3.7}


class _MeasureChecks(Checks):
    """What holds of metrics and of panel metrics. given: the parameters that they are called with.

    `_sample` makes anew what `_measured` is called on, each state of it changed; `_odd` gives
    samples on which a careless metric divides by nothing, and what is odd about them.
    """

    scores: Any
    times = 1  # as many texts, or tokens, as usual
    _sample: Callable[..., Any]
    _measured: Callable[..., Any]
    _odd: Callable[[], Iterator[tuple[Any, ...]]]

    def values(self) -> None:
        """it gives finite numbers, and leaves its input as it was"""
        try:
            self.scores = self._measured(self._sample())
        except UnitError:
            self.times = MORE
            self.scores = self._measured(self._sample())

    def repeatable(self) -> None:
        """it gives the same again, whatever it measured before

        Draw from a generator with a fixed seed, as numpy.random.default_rng(0), and keep nothing
        between calls.
        """
        self._same("a second call", self._sample(), near=1e-9, tiny=1e-12)
        with suppress(UnitError):  # other states are its right to refuse
            self._measured(self._sample(lambda state: state.flip(0) * 2))
        self._same("a call on other states", self._sample(), near=1e-9, tiny=1e-12)

    def order(self) -> None:
        """the order of the texts changes nothing that matters

        Treat all texts alike. What is drawn by their number (a seeded sample) may change by a
        tenth; where "permutation" is declared a law, nothing may.
        """
        declared = "permutation" in getattr(self.record, "invariances", ())
        near, tiny = (1e-6, 1e-9) if declared else (0.1, 1e-2)
        self._same("a permutation", *self._permuted(), near=near, tiny=tiny)

    def rounding(self) -> None:
        """states in float32 give nearly the same

        A difference of nearly equal numbers, or a comparison for equality, loses the digits:
        centre first, compare with a tolerance.
        """
        self._same("float32", self._sample(lambda state: state.float()), near=1e-3, tiny=1e-4)

    def odd(self) -> None:
        """odd samples (one text, equal ones, zeros, copies) give finite numbers, or say why not

        Where there is nothing to divide by, or too little to compare, raise lrd_harness.UnitError
        (NotEnoughTexts, NotEnoughTokens, DegenerateState) in a sentence.
        """
        for what, *sample in self._odd():
            try:
                self._measured(*sample)
            except UnitError:
                continue
            except Exception as error:
                raise AssertionError(f"{what}: {said(error)}") from error

    def group(self) -> None:
        """its group, if any, is a word that --plugins takes for nothing else

        Choose a plain word, as geometry, that is neither "all" nor the name of a metric.
        """
        plugins, group = manager.load(), self.record.group
        names = ["all", *plugins.names("metric"), *plugins.names("panel metric"), self.name]
        assert not group or re.fullmatch("[a-z][a-z0-9_-]*", group), f"{group!r} is no plain word"
        assert group not in names, f"{group} is a name of --plugins already"

    def _same(self, what: str, *sample: Any, near: float = 1e-6, tiny: float = 1e-9) -> None:
        check_alike(what, self.scores, self._measured(*sample), near, tiny)

    def _permuted(self) -> tuple[Any, ...]:
        order = np.random.default_rng(2).permutation(sample_size(self.record) * self.times)
        return (self._sample(lambda state: state[order]),)


class MetricChecks(_MeasureChecks):
    """Of a metric."""

    record: Metric
    scores: Scores

    def values(self) -> None:
        """it gives finite numbers and lists that belong to states, and leaves its input as it was

        Return a mapping from names to numbers or lists, one value for each state that `measure`
        is given (or one less for steps or blocks, two less for inner states: Metric(of=...));
        selection=Choice(NAME, "max" or "min") names a number (a list x gives mean_x and so on),
        layer_choice=Choice(NAME, ...) a list, and margin=NAME another one. What cannot be computed
        raises lrd_harness.UnitError; where it sees one text at a time, a layer without a value is
        NaN.
        Work on a copy (state.clone()): no x -= y, no method that ends in _, nothing written to
        state.numpy().
        """
        super().values()
        split_scores(self.scores)  # as a run records them
        choice = self.record.layer_choice
        listed = choice is None or isinstance(self.scores.get(choice.score), list)
        assert listed, f"it chooses layers by {choice and choice.score}, which is no list"
        margin = self.record.margin
        sure = not margin or (choice is not None and isinstance(self.scores.get(margin), list))
        assert sure, f"its margin is {margin}, which is no list beside one that chooses layers"
        of = self.record.of if isinstance(self.record.of, Mapping) else {}
        lists = {name for name, value in self.scores.items() if isinstance(value, list)}
        strange = sorted(set(of) - lists)
        assert not strange, f"Metric(of=...) names {strange[0]}, and its lists are {sorted(lists)}"

    def laws(self) -> None:
        """the laws that it declares hold

        Take what does not hold out of Metric(invariances=...).
        """
        declared, known = self.record.invariances, (*LAWS, "permutation")  # of which see `order`
        unknown = sorted(set(declared) - set(known))
        assert not unknown, f"it declares unknown laws: {unknown}; there are {known}"
        for law in LAWS.keys() & declared if self.record.needs != "attention" else ():
            self._same(f"a {law}", self._sample(LAWS[law]))

    @property
    def _per_text(self) -> bool:
        return self.record.needs in PER_TEXT

    def _sample(self, change: Change = torch.clone) -> list[Any]:
        """States; of a metric that sees one text at a time those of several texts."""
        if not self._per_text:
            every = random_sample(self.record, self.times)
            return [change(torch.from_numpy(state)) for state in every]
        make: Any = random_states if self.record.needs == "tokens" else random_maps
        texts = (make(tokens * self.times, seed=seed) for seed, tokens in enumerate(LENGTHS))
        return [torch.stack([change(torch.from_numpy(s)) for s in states]) for states in texts]

    def _permuted(self) -> tuple[Any, ...]:
        if self._per_text:
            return (self._sample()[::-1],)
        labels = random_labels(self.record, self.times)
        if labels is None:
            return super()._permuted()
        # the classes come in another order as well, and so have other numbers
        order = np.argsort(np.negative(labels), kind="stable")
        return self._sample(lambda state: state[order]), [labels[row] for row in order]

    def _odd(self) -> Iterator[tuple[Any, ...]]:
        maps, row = self.record.needs == "attention", "token" if self._per_text else "text"
        for what, change in (ODD_MAPS if maps else ODD_STATES).items():
            yield what.replace("ROW", row), self._sample(change)
        for layer in () if maps else (0, 2, 4):
            sample = self._sample()
            for states in sample if self._per_text else [sample]:
                states[layer] = torch.zeros_like(states[layer])
            yield f"a layer of zeros ({layer})", sample
        if not self._per_text:
            yield "eight texts", self._sample(lambda state: state[:8])
        if self.record.needs == "labels":
            n = sample_size(self.record) * self.times
            yield "one class", self._sample(), [1] * n
            yield "a class a text", self._sample(), list(range(n))

    def _measured(self, sample: list[Any], labels: list[int] | None = None) -> Scores:
        """Its scores, finite; of texts one at a time, of all that it does not refuse.

        Raises UnitError where it refuses all.
        """
        stir()
        if self._per_text:
            scores = self._finished(sample)
        else:
            labels = labels or random_labels(self.record, self.times)
            labels = labels and labels[: len(sample[0])]
            scores = measure(self.record, sample, labels, **self.given or {})
        for name, value in scores.items():
            lacking = self._per_text and isinstance(value, list)  # layers may have none
            found = np.array(list(numbers(value).values()))
            sound = not np.isinf(found).any() if lacking else np.isfinite(found).all()
            assert sound, f"{name} is not finite: {value}"
        return scores

    def _finished(self, sample: list[Tensor]) -> Scores:
        texts: list[Scores] = []
        for states in sample:
            try:
                texts.append(measure(self.record, states, **self.given or {}))
            except UnitError:
                if states is sample[-1] and not texts:
                    raise
        infinite = [n for text in texts for n, v in text.items() if np.isinf(v).any()]
        assert not infinite, f"{infinite[0]} of a text is infinite"
        lengths = [{n: isinstance(v, list) and len(v) for n, v in t.items()} for t in texts]
        same = all(of_text == lengths[0] for of_text in lengths)
        assert same, "it gives other scores, or other lengths, for another text"
        return finish(self.record, texts)


class PanelChecks(_MeasureChecks):
    """Of a panel metric, on four models, of which two are known to be sisters."""

    record: PanelMetric
    scores: dict[str, Any]
    sisters: Mapping[str, str] = {"model 1": "x", "model 2": "x"}

    def values(self) -> None:
        """it gives finite numbers of the panel, models or pairs, and leaves its input as it was

        Return {score: number}, {score: {model: number}} or {score: {model: {other: number}}},
        for all models that `states` has, without a diagonal; selection=Choice(NAME) names a score
        by model. What cannot be computed raises lrd_harness.UnitError. Work on a copy
        (state.clone()): no x -= y, no method that ends in _, nothing written to state.numpy().
        """
        super().values()

    def models(self) -> None:
        """the order and the names of the models change nothing

        Go by the names in `states`, never by their order or spelling.
        """
        self._same("another order of models", dict(reversed(self._sample().items())))
        names = {name: f"{9 - i} org/Model" for i, name in enumerate(self._sample())}
        read = self._measured(_renamed(self._sample(), names), _renamed(self.sisters, names))
        former = _renamed(read, {new: old for old, new in names.items()})
        check_alike("another name of models", self.scores, former)

    def _sample(self, change: Change = torch.clone) -> dict[str, Any]:
        """By model its state, or all of them."""
        panel = random_panel(self.record, self.times).items()
        if self.record.states == "last":
            return {model: change(torch.from_numpy(state)) for model, state in panel}
        return {model: [change(torch.from_numpy(s)) for s in states] for model, states in panel}

    def _odd(self) -> Iterator[tuple[Any, ...]]:
        panel = self._sample()
        for n in (1, 2, 3):
            yield f"{n} model{'s' * (n > 1)}", dict(list(panel.items())[:n])
        yield "copies of one model", dict.fromkeys(panel, panel["model 1"])
        yield "all of one family", panel, dict.fromkeys(panel, "x")
        yield "no family", panel, {}
        for what, change in ODD_STATES.items():
            yield what.replace("ROW", "text"), self._sample(change)

    def _measured(self, panel: Mapping[str, Any], families: Any = sisters) -> dict[str, Any]:
        stir()
        scores = measure_panel(self.record, panel, families, **self.given or {})
        return {**scores.numbers, **scores.by_model, **scores.pairs}


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Values by name of model, or by score and name of model, under other names."""
    return {
        names.get(key, key): _renamed(value, names) if isinstance(value, dict) else value
        for key, value in values.items()
    }
