"""Compute a metric: states in, scores by name out; the one way, for runs and library users.

Letters in shapes: n texts, T tokens, d width, q views, L blocks; a model has L + 1 states.

Scores by name, as metrics give them: Python's own numbers, their summaries and means.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isinf, isnan
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

from lrd_harness.contracts import Metric, Values
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UnitError, unknown

if TYPE_CHECKING:
    import torch


EXACT = 2**53  # beyond which floats are no longer all integers
Scores = dict[str, "float | list[float] | list[list[float]]"]


def summaries(values: Sequence[float], name: str) -> dict[str, float]:
    """The model-level summaries of a per-layer score, named `mean_NAME` and so on.

    mean, std (of the population), min, max; early and late: means of the first and the last
    max(1, len // 3) values; trend: late minus early; slope: least squares on depth 0..1, absent
    for a single value. NaN stands where a layer has no value, and is left out: depth runs from the
    first value to the last. None at all for no values.
    """
    import numpy as np

    given = np.asarray(values, dtype=np.float64)
    places = np.flatnonzero(~np.isnan(given))
    if not len(places):
        return {}
    x = given[places]
    third = max(1, len(x) // 3)
    early, late = x[:third].mean(), x[-third:].mean()
    scores = {"mean": x.mean(), "std": x.std(), "min": x.min(), "max": x.max()}
    scores |= {"early": early, "late": late, "trend": late - early}
    if len(x) > 1:
        depth = (places - places.mean()) / (places[-1] - places[0])  # its slope is that on 0..1
        scores["slope"] = depth @ (x - x.mean()) / (depth @ depth)
    return {f"{key}_{name}": float(value) for key, value in scores.items()}


def summarised(values: Values, name: str = "the metric") -> Scores:
    """The values with the `summaries` of every list for which they hold none of their own.

    A list of lists, as a histogram, has none. Raises as `plain` does, which names the metric.
    """
    scores = plain(values, name)
    for score, value in list(scores.items()):
        numbers = [v for v in value if not isinstance(v, list)] if isinstance(value, list) else []
        added = summaries(numbers, score)
        if added.keys().isdisjoint(scores):
            scores = {**added, **scores}
    return scores


def plain(values: Mapping[str, Any], name: str = "the metric") -> Scores:
    """Scores as Python's own floats and lists, whatever the metric made them of.

    Raises TypeError, with the metric's name, for all but a mapping from names to numbers, lists of
    numbers and lists of these; OverflowError for an integer that no float can hold.
    """
    if not isinstance(values, Mapping):
        given = type(values).__name__
        raise TypeError(f"{name} gave {given}, not a mapping from names of scores to numbers")
    for score in values:
        if not isinstance(score, str) or not score.isprintable() or not score.strip():
            raise TypeError(f"{name} gave a score named {ascii(score)[:60]}, which is no name")
    return {str(score): _plain(value, f"{name}.{score}") for score, value in values.items()}


def _plain(value: Any, what: str) -> Any:
    value = _listed(value)
    if not _is_list(value):
        return number(value, what)
    items = [_listed(item) for item in value]
    rows = [_is_list(item) for item in items]
    if not any(rows):
        return [float(number(item, what)) for item in items]
    if not all(rows):
        raise TypeError(f"{what} holds numbers and lists side by side")
    return [[float(number(one, what)) for one in item] for item in items]


def number(value: Any, what: str) -> int | float:
    """A number as Python's own, whatever it was. Raises TypeError and OverflowError, as `plain`."""
    value = _listed(value)
    if isinstance(value, str | bytes | bytearray) or not hasattr(value, "__float__"):
        plainly = value is None or isinstance(value, complex)
        given = value if plainly else f"a {type(value).__name__}"
        raise TypeError(f"{what} is {given}, where a number belongs")
    try:
        found = float(value)
    except OverflowError:
        raise OverflowError(f"{what} is an integer that no float can hold") from None
    # larger ones are rounded, as a database and other languages would
    return int(value) if isinstance(value, int) and abs(value) <= EXACT else found


def _listed(value: Any) -> Any:
    """numpy's and torch's arrays as lists, and those without a dimension as numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def mean_of_texts(name: str, texts: Sequence[Values]) -> dict[str, Any]:
    """The mean of every score over the texts, each number over those where it is not NaN.

    Raises UnitError, with the metric's name, where the texts differ in which scores they have, or
    in how many numbers.
    """
    import numpy as np

    if any(text.keys() != texts[0].keys() for text in texts):
        raise UnitError(f"{name} gave other scores for one text than for another")
    means = {}
    for score in texts[0]:
        try:
            numbers = np.array([text[score] for text in texts], dtype=np.float64)
        except ValueError:
            raise UnitError(
                f"{name}.{score} has more values for one text than for another"
            ) from None
        known = ~np.isnan(numbers)
        total, count = np.where(known, numbers, 0.0).sum(axis=0), known.sum(axis=0)
        means[score] = np.where(count, total / np.maximum(count, 1), np.nan)
    return means


MIN_TEXTS = 8
SAME_ROW = 1e-6  # relative distance below which two rows are the same
_DIMENSIONS = {"pooled": 2, "tokens": 2, "views": 3}


class Arrays(Protocol):
    """Anything with a length and numbered arrays: a list, a 3-d array, a lazy view of the store."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class States(Sequence["torch.Tensor"]):
    """States as float64 tensors, converted and checked when they are read and not kept.

    `check(layer, state)` is called at the first reading of each layer. A slice is again lazy.
    """

    def __init__(
        self,
        arrays: Arrays,
        check: Callable[[int, torch.Tensor], None],
        layers: range | None = None,
        checked: set[int] | None = None,
    ) -> None:
        self._arrays, self._check = arrays, check
        self._layers = range(len(arrays)) if layers is None else layers
        self._checked = set() if checked is None else checked

    def __len__(self) -> int:
        return len(self._layers)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> States: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | States:
        if isinstance(index, slice):
            return States(self._arrays, self._check, self._layers[index], self._checked)
        layer = self._layers[index]
        state = _float64(self._arrays[layer])
        if layer not in self._checked:
            self._check(layer, state)
            self._checked.add(layer)
        return state


def measure(metric: str | Metric, states: Arrays, /, **parameters: Any) -> Scores:
    """The scores of one metric on one sample.

    metric: the name of a registered metric, or its record.
    states: L + 1 numpy or torch arrays of any float type, read one at a time: (n, d_l) pooled
        states, one text's (T, d_l) for a token metric, (n, q, d_l) for a view metric. Tensors stay
        on their device; arithmetic is in float64. A token metric's may also be one (S, T, d).
    parameters: the metric's own settings, by default its paper's.

    Returns floats (of the model) and lists (a value per state, step or inner state), by score name.
    A pooled or view metric starts at the first state that is sound (see `distinct_rows`); its
    number is the score `start`, and `profile_layers` says which layers a list belongs to. Every
    list of numbers gets its `summaries`. A token metric's values for one text are returned as they
    are, NaN where a layer has none, since `finish` makes one result of all texts' values.

    Raises UserError for an unknown metric or parameter; NotEnoughTexts below 8 texts; NotFinite for
    NaN or infinity; DegenerateState for a state that is the same for most texts above the first
    sound one, and where fewer than two sound states are left; UnitError for states that do not fit
    together, for whatever else the metric cannot be computed on, and for a pooled or view metric
    that does not give its selection score.
    """
    record = _look_up(metric) if isinstance(metric, str) else metric
    check_parameters(record, parameters)
    if record.needs == "tokens":
        values = record.measure(_token_states(record, states), **parameters)
        return plain(values, record.name)
    return _complete(record, _measure_sample(record, states, parameters))


def finish(metric: str | Metric, values: Sequence[Values]) -> Scores:
    """One result of a token metric, from the values that `measure` gave for each text.

    By the metric's own `finish`; by default the mean over the texts of every score, in each layer
    over the texts that have a value there, NaN where none has. Lists get their `summaries`.
    Raises UnitError where no text has values, the texts' scores do not fit together, or the metric
    does not give its selection score; UserError for an unknown metric.
    """
    record = _look_up(metric) if isinstance(metric, str) else metric
    if not values:
        raise NotEnoughTexts(f"{record.name} has a value for none of the texts")
    whole = record.finish(values) if record.finish else mean_of_texts(record.name, values)
    return _complete(record, whole)


def _complete(metric: Metric, values: Values) -> Scores:
    """The values with their summaries; raises UnitError where they lack the selection score."""
    scores = summarised(values, metric.name)
    if metric.selection and not isinstance(scores.get(metric.selection.score), int | float):
        raise UnitError(f"{metric.name} gave no score {metric.selection.score}, which ranks it")
    return scores


def _token_states(metric: Metric, arrays: Arrays) -> torch.Tensor | list[torch.Tensor]:
    """One text's states, checked: a tensor (S, T, d), or S of (T, d_l) where widths differ."""
    import torch

    if not len(arrays):
        raise UnitError(f"{metric.name} got no states")
    if hasattr(arrays, "ndim"):  # one array of all layers, converted and looked at as a whole
        whole = _float64(arrays)
        if whole.ndim == 3 and _is_finite(whole):
            return whole
    states = list(States(arrays, _Check(metric)))
    return torch.stack(states) if len({state.shape for state in states}) == 1 else states


def _look_up(name: str) -> Metric:
    from lrd_harness import manager

    record: Metric = manager.load().get("metric", name)
    return record


def _measure_sample(metric: Metric, arrays: Arrays, parameters: Mapping[str, Any]) -> Scores:
    """Leave out the leading degenerate states, measure the others, say where they start."""
    check = _Check(metric)
    states = States(arrays, check)
    total, start = len(states), 0
    while start < total and is_degenerate(states[start]):
        start += 1
    if total - start < 2:
        raise DegenerateState(
            f"{metric.name} needs 2 states that tell the texts apart: "
            f"{total - start} of {total} do, the first {start} are the same for most texts"
        )
    check.first_sound = start
    try:
        scores = plain(metric.measure(states[start:], **parameters), metric.name)
    except UnitError as error:
        # The metric counts from the first state that it was given: say so, or the number misleads.
        if start and error.args and "layer" in str(error) and error is not check.raised:
            error.args = (f"{error} (counted from layer {start}, the first sound one)",)
        raise
    scores["start"] = start + start_of(scores, total - start, metric.name)
    return scores


class _Check:
    """What every state must pass when it is first read; remembers how many rows there are."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.rows: tuple[int, ...] = ()  # (n,), (T,) or (n, q) of the first state read
        self.first_sound: int | None = None  # known once the leading states have been looked at
        self.raised: UnitError | None = None

    def __call__(self, layer: int, state: torch.Tensor) -> None:
        self.raised = self._fault(layer, state)
        if self.raised:
            raise self.raised

    def _fault(self, layer: int, state: torch.Tensor) -> UnitError | None:
        name, n = self.metric.name, len(state) if state.ndim else 0
        if state.ndim != _DIMENSIONS[self.metric.needs]:
            return UnitError(f"{name}: layer {layer} has shape {tuple(state.shape)}")
        if self.metric.needs != "tokens" and n < MIN_TEXTS:
            return NotEnoughTexts(f"{name} needs at least {MIN_TEXTS} texts, got {n}")
        rows = tuple(state.shape[:-1])
        if rows != (self.rows or rows):
            found, others = (" x ".join(map(str, r)) for r in (rows, self.rows))
            return UnitError(f"{name}: layer {layer} has {found} rows, others have {others}")
        self.rows = rows
        if not _is_finite(state):
            return NotFinite(f"{name}: NaN or infinity in layer {layer}")
        if self.first_sound is not None and layer > self.first_sound and is_degenerate(state):
            return DegenerateState(f"{name}: layer {layer} is the same for most texts")
        return None


def is_degenerate(state: torch.Tensor) -> bool:
    """Whether fewer than half of the n texts are distinct in a state (n, d) or (n, q, d).

    Of views the first one of each text counts: that a text's views are alike is no fault of a
    state, which still tells the texts apart.
    """
    rows = state if state.ndim == 2 else state[:, :1].flatten(0, 1)
    return 2 * distinct_rows(rows) < len(rows)


def distinct_rows(state: torch.Tensor) -> int:
    """How many rows of (n, d) differ by more than 1e-6 of their length.

    Sorts the rows along one fixed random direction, where equal rows become neighbours, and
    compares neighbours in full: O(n d + n log n). Differences are measured between rows and not
    against the state's spread, so a small spread around a large mean counts as distinct.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(state.shape[1], generator=generator, dtype=torch.float64)
    along, order = (state @ direction.to(state.device)).sort()
    lengths = torch.linalg.vector_norm(state, dim=1)[order]
    tolerance = SAME_ROW * torch.maximum(lengths[1:], lengths[:-1])
    # Rows are at least |gap| / |direction| apart, so only those with a small gap need comparing.
    near = along.diff() <= tolerance * direction.norm().to(state.device)
    pairs = near.nonzero()[:, 0]
    apart = torch.linalg.vector_norm(state[order[pairs + 1]] - state[order[pairs]], dim=1)
    return len(state) - int((apart <= tolerance[pairs]).sum())


def check_parameters(metric: Metric, parameters: Mapping[str, Any]) -> None:
    """Raise UserError for a parameter that the metric does not have, naming those it has."""
    signature = inspect.signature(metric.measure).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in signature):
        return
    known = [p.name for p in list(signature)[1:]]
    hint = f"It has: {', '.join(known)}." if known else "It has none."
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of metric {metric.name}", name, known, hint)


def start_of(scores: Mapping[str, Any], states: int, name: str = "the metric") -> int:
    """The first of so many states that lists belong to, by the score `start`; 0 without one.

    Raises UnitError, with the metric's name, for what is not the number of a state.
    """
    start = scores.get("start", 0)
    if not isinstance(start, int | float) or start not in range(states + 1):
        raise UnitError(f"{name} gave {start} as start, which is none of {states} states")
    return int(start)


def profile_layers(S: int, m: int, start: int) -> list[int]:
    """The layers that a list of m values belongs to, S sound states being measured from `start` on.

    m = S: the states; m = S - 1: the steps, named by the earlier state; m = S - 2: the inner
    states. Raises UnitError for any other m.
    """
    if not 0 <= S - m <= 2:
        raise UnitError(f"a list of {m} values fits neither {S} states nor the steps between them")
    first = start + (S - m) // 2
    return list(range(first, first + m))


def _is_finite(state: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite. A finite sum, which is quicker to make, says so."""
    return bool(state.sum().isfinite()) or bool(state.isfinite().all())


def _float64(array: Any) -> torch.Tensor:
    """A float64 tensor of an array; a tensor stays on its device if that has float64."""
    import numpy as np
    import torch

    if isinstance(array, torch.Tensor):
        device = "cpu" if array.device.type == "mps" else array.device
        return array.detach().to(device=device, dtype=torch.float64)
    # A copy, since torch warns of memory that it may not write, as a mapped file's.
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))


@dataclass(frozen=True)
class PlannedMetric:
    """A metric with the parameters that it is called with."""

    metric: Metric
    parameters: Mapping[str, Any]

    @property
    def written(self) -> dict[str, Any]:
        """The parameters as JSON can hold them, others (an infinite order of entropy) as texts."""
        return {name: _written(value) for name, value in self.parameters.items()}


def _written(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value


class Split(NamedTuple):
    """A metric's scores as a record holds them: of the model, per layer, several a layer."""

    values: dict[str, float]
    profiles: dict[str, dict[str, list[Any]]]
    tables: dict[str, dict[str, list[Any]]]


def split_scores(scores: Mapping[str, Any], states: int) -> Split:
    """Model-level values, and per-layer ones with the layers that they belong to.

    NaN in a profile says that the layer has no value, and becomes None. Raises NotFinite for any
    other number that is not finite, which no table can hold, and UnitError for lists that belong to
    no layers, and for no score at all.
    """
    if scores.keys() <= {"start", "left_out"}:
        raise UnitError("no score was given")
    start = start_of(scores, states)
    found = Split({}, {}, {})
    lists = {name: value for name, value in scores.items() if isinstance(value, list)}
    # before any number: what is wrong in a list shows in its summaries, too
    places = {
        name: profile_layers(states - start, len(value), start) for name, value in lists.items()
    }
    for name, layers in places.items():
        _check_rows(name, layers, lists[name])
    for name, value in scores.items():
        if name not in places:
            if not isfinite(value):
                raise NotFinite(f"the score {name} is {value}")
            found.values[name] = value
        elif value and isinstance(value[0], list):
            found.tables[name] = {"layers": places[name], "rows": value}
        else:
            values = [None if isnan(one) else one for one in value]
            found.profiles[name] = {"layers": places[name], "values": values}
    some = any(v is not None for held in found.profiles.values() for v in held["values"])
    if not (some or found.tables or found.values.keys() - {"start", "left_out"}):
        raise UnitError("no score has a value in any layer")
    return found


def _check_rows(name: str, layers: Sequence[int], rows: Sequence[Any]) -> None:
    """Raise NotFinite where a layer's number is infinite, or a number of its row is none."""
    for layer, row in zip(layers, rows, strict=True):
        odd = not all(map(isfinite, row)) if isinstance(row, list) else isinf(row)
        if odd:
            raise NotFinite(f"the score {name} is {row} at layer {layer}")
