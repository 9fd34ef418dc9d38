"""Compute a panel metric: the states of several models in, scores out; the one way.

Letters in shapes: n texts, d width; a model has L + 1 states.
"""

from __future__ import annotations

import inspect
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple

from lrd_harness.contracts import PanelMetric
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UnitError
from lrd_harness.guard import Loan, Watch
from lrd_harness.measures import OTHER_FAMILIES
from lrd_harness.measuring import (
    MIN_TEXTS,
    PlannedPanel,
    States,
    check_parameters,
    float64,
    is_degenerate,
    is_finite,
)
from lrd_harness.scores import plain_panel

LAYER = "layer"  # which state a metric that is given one of a model sees, if not the last


class PanelScores(NamedTuple):
    """A panel metric's scores by name: of the panel, by model, and by model and other model."""

    numbers: dict[str, float]
    by_model: dict[str, dict[str, float]]
    pairs: dict[str, dict[str, dict[str, float]]]

    def values(self, model: str) -> dict[str, float]:
        """A model's own numbers, and those of the panel."""
        return {**self.numbers, **{name: v[model] for name, v in self.by_model.items()}}


class ByModel(Mapping[str, Any]):
    """What `read` gives of each model, when it is looked up and not kept."""

    def __init__(self, models: Collection[str], read: Callable[[str], Any]) -> None:
        self._models, self._read = models, read

    def __getitem__(self, model: str) -> Any:
        if model not in self._models:
            raise KeyError(model)
        return self._read(model)

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


class _Given(ByModel):
    """States by model, made float64 when they are looked up. watch: see States."""

    def __init__(
        self, metric: PanelMetric, states: Mapping[str, Any], watch: Watch | None = None
    ) -> None:
        super().__init__(states, self._state)
        self._metric, self._states, self._watch = metric, states, watch

    def lent(self) -> Loan:
        """The same for a stranger, and whether it wrote to any of them."""
        watch = Watch()
        return Loan(_Given(self._metric, self._states, watch), watch.written)

    def _state(self, model: str) -> Any:
        state = self._states[model]
        if self._metric.states == "all":  # every one was checked before the metric was called
            return States(state, lambda layer, state: None, range(len(state)), self._watch)
        tensor = float64(state)
        return tensor if self._watch is None else self._watch.hand_over(tensor, state)


def has_layer(metric: PanelMetric) -> bool:
    """Whether `layer` can be set: it is given one state, and has no parameter of that name."""
    return metric.states == "last" and LAYER not in inspect.signature(metric.measure).parameters


def given(item: PlannedPanel) -> tuple[int | str, dict[str, Any]]:
    """Which of a model's states it is given, 0..L, "last" or "all"; the keywords of its call."""
    own = dict(item.parameters)
    return (own.pop(LAYER) if has_layer(item.metric) else item.metric.states), own


def check_state(metric: PanelMetric, model: str, state: Any) -> int:
    """n, of what the metric is to be given of a model: (n, d), or with "all" L + 1 of these.

    Raises UnitError naming the model: NotEnoughTexts for too few, NotFinite for NaN or infinity,
    DegenerateState for a state (of all: the last) that is the same for most texts.
    """
    name, last, n, least = metric.name, None, set(), max(MIN_TEXTS, metric.texts)
    states = _Given(metric, {model: state})[model]
    for last in states if metric.states == "all" else [states]:
        if last.ndim != 2:
            raise UnitError(f"{name}: a state of {model} has shape {tuple(last.shape)}")
        n.add(len(last))
        if min(n) < least:
            raise NotEnoughTexts(f"{name} needs at least {least} texts, got {min(n)}")
        if not is_finite(last):
            raise NotFinite(f"{name}: NaN or infinity in the states of {model}")
    if last is None or len(n) > 1:
        raise UnitError(f"{name}: the states of {model} are of {len(n)} numbers of texts")
    if is_degenerate(last):
        raise DegenerateState(f"{name}: the state of {model} is the same for most texts")
    return n.pop()


def measure_panel(
    metric: PanelMetric,
    states: Mapping[str, Any],
    families: Mapping[str, str | None] | None = None,
    /,
    **parameters: Any,
) -> PanelScores:
    """The scores of a panel metric on the states of several models on the same texts.

    states: by name of model, as `check_state` has them, numpy or torch, of any float type; they
    are read as the metric looks them up. families: by name of model, where they are known.

    Raises UserError for an unknown parameter; UnitError for what it cannot be computed on (as
    `check_state`, unequal n, fewer than 2 models), and for scores that are not finite, or not of
    just these models.

    Examples
    --------
    >>> import numpy as np
    >>> size = PanelMetric("size", lambda states, _: {"sum": {m: states[m].sum() for m in states}})
    >>> measure_panel(size, {"a": np.eye(8), "b": 2 * np.eye(8)}).values("b")
    {'sum': 16.0}
    """
    check_parameters(metric, parameters)
    n = {check_state(metric, model, states[model]) for model in states}
    if len(n) > 1:
        raise UnitError(f"{metric.name} needs the same texts of all models, got {sorted(n)} texts")
    return measure_sound(metric, states, families or {}, **parameters)


def measure_sound(
    metric: PanelMetric,
    states: Mapping[str, Any],
    families: Mapping[str, str | None],
    /,
    **parameters: Any,
) -> PanelScores:
    """`measure_panel` of states that `check_state` has passed, of as many texts each."""
    if len(states) < 2:
        raise UnitError(f"{metric.name} compares models, and has the states of {len(states)}")
    known = {model: families.get(model) for model in states}
    values = metric.measure(_Given(metric, states), known, **parameters)
    scores = _checked(metric, plain_panel(values, metric.name), list(states))
    if len(states) > 2:
        made = _summarised(metric, scores.pairs, known)
        for name in made.keys() & {*scores.numbers, *scores.by_model}:
            raise UnitError(f"{metric.name} gave a score {name}, which its summaries make")
        scores.by_model.update(made)
    elif metric.selection and metric.selection.score in metric.summaries:
        raise UnitError(f"{metric.name} ranks 3 models or more, and has the states of 2")
    if metric.selection and metric.selection.score not in scores.by_model:
        score = metric.selection.score
        raise UnitError(f"{metric.name} gave no score {score} by model, which ranks them")
    return scores


def _summarised(
    metric: PanelMetric,
    matrices: Mapping[str, Mapping[str, Mapping[str, float]]],
    families: Mapping[str, str | None],
) -> dict[str, dict[str, float]]:
    """The scores by model that the metric's `summaries` make of its matrices."""
    sizes = Counter(families.values())
    ways: dict[str, Callable[[str, str], bool]] = {"": lambda model, other: model != other}
    if None not in sizes and 1 < len(sizes) < len(families):
        ways[OTHER_FAMILIES] = lambda model, other: families[model] != families[other]
    scores: dict[str, dict[str, float]] = {}
    for name, (matrix, of, along, _) in metric.summaries.items():
        if (rows := matrices.get(matrix)) is None:
            raise UnitError(f"{metric.name} gave no matrix {matrix}, of which {name} is made")
        middle = statistics.fmean if of == "mean" else statistics.median
        for end, taken in ways.items():
            by_model = scores[f"{name}{end}"] = {}
            for model in families:
                others = [other for other in families if taken(model, other)]
                pairs = [(model, o) if along == "row" else (o, model) for o in others]
                by_model[model] = middle([rows[a][b] for a, b in pairs])
    return scores


def _checked(metric: PanelMetric, values: Mapping[str, Any], models: list[str]) -> PanelScores:
    """What a metric gave, sorted; all numbers finite, and of these models."""
    scores = PanelScores({}, {}, {})
    for name, value in values.items():
        what = f"{metric.name}.{name}"
        if not isinstance(value, Mapping):
            scores.numbers[name] = _finite(value, what)
            continue
        _check_models(value, models, what)
        if not any(isinstance(of_model, Mapping) for of_model in value.values()):
            scores.by_model[name] = {m: _finite(value[m], f"{what} of {m}") for m in models}
            continue
        scores.pairs[name] = {}
        for model, row in value.items():
            others = [other for other in models if other != model]
            _check_models(row, others, f"{what} of {model}")
            pairs = {m: _finite(row[m], f"{what} of {model} and {m}") for m in others}
            scores.pairs[name][model] = pairs
    if not any(scores):
        raise UnitError(f"{metric.name} gave no score")
    return scores


def _check_models(value: Mapping[Any, Any], models: Collection[str], what: str) -> None:
    for model in models:
        if model not in value:
            raise UnitError(f"{what} has no value for {model}")
    for model in value:
        if model not in models:
            raise UnitError(f"{what} has a value for {model!s:.60}, where none belongs")


def _finite(value: float, what: str) -> float:
    if not isfinite(value):
        raise NotFinite(f"{what} is {value}")
    return value
