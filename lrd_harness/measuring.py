"""Compute a metric: states in, scores by name out; the one way, for runs and library users.

Letters in shapes: n texts, T tokens, d width, q views, L blocks; a model has S = L + 1 states.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from lrd_harness.contracts import Metric, PanelMetric, Values
from lrd_harness.errors import (
    DegenerateState,
    NotEnoughTexts,
    NotFinite,
    UnitError,
    UserError,
    unknown,
)
from lrd_harness.guard import Loan, Watch
from lrd_harness.scores import FEWER, Of, Profile, Scores, mean_of_texts, plain, summaries

if TYPE_CHECKING:
    import torch

Measure = TypeVar("Measure", Metric, PanelMetric)
MIN_TEXTS = 8
SAME_ROW = 1e-6  # relative distance below which two rows are the same
_DIMENSIONS = {"pooled": 2, "tokens": 2, "views": 3, "halves": 3, "attention": 3, "labels": 2}
PER_TEXT = ("tokens", "attention")  # what metrics that see one text at a time need


class Arrays(Protocol):
    """Anything with a length and numbered arrays: a list, a 3-d array, a lazy view of the store."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class States(Sequence[Any]):
    """States as float64 tensors, converted and checked when they are read and not kept.

    `check(layer, state)` is called at each reading. A slice is again lazy. watch: of a stranger,
    for whom they are read.
    """

    def __init__(
        self,
        arrays: Arrays,
        check: Callable[[int, torch.Tensor], None],
        layers: range,
        watch: Watch | None = None,
    ) -> None:
        self._arrays, self._check, self._layers, self._watch = arrays, check, layers, watch

    def lent(self) -> Loan:
        """The same for a stranger, and whether it wrote to any of them."""
        watch = Watch()
        return Loan(States(self._arrays, self._check, self._layers, watch), watch.written)

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return States(self._arrays, self._check, self._layers[index], self._watch)
        layer = self._layers[index]
        array = self._arrays[layer]
        state = float64(array)
        self._check(layer, state)
        return state if self._watch is None else self._watch.hand_over(state, array)


class Check:
    """What every state must pass when it is first read; remembers how many rows there are."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.rows: tuple[int, ...] = ()  # (n,), (T,), (n, q) or (T, T) of the first one read
        self.first_sound: int | None = None  # known once the leading states have been looked at
        self.raised: UnitError | None = None
        self._passed: set[int] = set()

    def __call__(self, layer: int, state: torch.Tensor) -> None:
        if layer in self._passed:
            return
        self.raised = self._fault(layer, state)
        if self.raised:
            raise self.raised
        self._passed.add(layer)

    def _fault(self, layer: int, state: torch.Tensor) -> UnitError | None:
        name, n, needs = self.metric.name, len(state) if state.ndim else 0, self.metric.needs
        maps = needs == "attention"  # (h, T, T) of block 1..L
        place = f"block {layer + 1}" if maps else f"layer {layer}"
        shape = tuple(state.shape)
        if len(shape) != _DIMENSIONS[needs] or (maps and shape[1] != shape[2]):
            return UnitError(f"{name}: {place} has shape {shape}")
        least = max(MIN_TEXTS, self.metric.texts)
        if needs not in PER_TEXT and n < least:
            return NotEnoughTexts(f"{name} needs at least {least} texts, got {n}")
        rows = shape[1:] if maps else shape[:-1]
        if rows != (self.rows or rows):
            here, others = (" x ".join(map(str, r)) for r in (rows, self.rows))
            return UnitError(f"{name}: {place} has {here} rows, others have {others}")
        self.rows = rows
        if not is_finite(state):
            error = NotFinite(f"{name}: NaN or infinity in {place}")
            error.layer = layer + maps
            return error
        if self.first_sound is not None and layer > self.first_sound and is_degenerate(state):
            return DegenerateState(f"{name}: layer {layer} is the same for most texts")
        return None


def is_degenerate(state: torch.Tensor) -> bool:
    """Whether fewer than half of the n texts are distinct in a state (n, d) or (n, q, d).

    Of views the first one of each text counts: that a text's views are alike is no fault of a
    state, which still tells the texts apart.

    Examples
    --------
    >>> is_degenerate(float64([[1, 0], [0, 1]])), is_degenerate(float64([[1, 0]] * 3))
    (False, True)
    """
    rows = state if state.ndim == 2 else state[:, :1].flatten(0, 1)
    return 2 * distinct_rows(rows) < len(rows)


def distinct_rows(state: torch.Tensor) -> int:
    """How many rows of (n, d) differ by more than 1e-6 of their length.

    Sorts the rows along one fixed random direction, where equal rows become neighbours, and
    compares neighbours in full: O(n d + n log n). Differences are measured between rows and not
    against the state's spread, so a small spread around a large mean counts as distinct.

    Examples
    --------
    >>> distinct_rows(float64([[1, 0], [0, 1], [1, 1e-9]]))
    2
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


def is_finite(state: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite. A finite sum, which is quicker to make, says so."""
    return bool(state.sum().isfinite()) or bool(state.isfinite().all())


def float64(array: Any) -> torch.Tensor:
    """A float64 tensor of an array; a tensor stays on its device if that has float64.

    Examples
    --------
    >>> float64([1, 2])
    tensor([1., 2.], dtype=torch.float64)
    """
    import numpy as np
    import torch

    if isinstance(array, torch.Tensor):
        device = "cpu" if array.device.type == "mps" else array.device
        return array.detach().to(device=device, dtype=torch.float64)
    # A copy, since torch warns of memory that it may not write, as a mapped file's.
    return torch.from_numpy(np.array(array, dtype=np.float64, order="C"))


def copies(metric: Metric) -> int:
    """How many rows a metric has of each text, q of (n, q, d): views or halves; 0 for (n, d)."""
    return {"views": metric.views, "halves": 2}.get(metric.needs, 0)


def classes(labels: Any) -> torch.Tensor:
    """Labels as classes (n,) int64, numbered from 0 as they first come.

    Raises UserError for what is no label: None, NaN, a list.

    >>> classes(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    import torch

    numbers: dict[Any, int] = {}
    every = labels.tolist() if hasattr(labels, "tolist") else labels
    for text, label in enumerate(every):
        if label is None or label != label or not isinstance(label, Hashable):
            raise UserError(f"text {text} has no label but {label!r}: a text or a whole number")
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in every])


def measure(
    metric: Metric, states: Arrays, labels: Sequence[Any] | None = None, /, **parameters: Any
) -> Scores:
    """The scores of one metric on one sample.

    Parameters
    ----------
    metric : Metric
        The record of a metric; `lrd_harness.measure` takes its name as well.
    states : sequence of S arrays
        numpy or torch arrays of any float type, read one at a time: (n, d_l) pooled states, one
        text's (T, d_l) for a token metric (or one (S, T, d)), (n, q, d_l) for a view metric and for
        halves, q being 2; for attention one text's L maps (h, T, T) of block 1..L.
        Tensors stay on their device; arithmetic is in float64.
    labels : sequence of n texts or whole numbers
        For a metric that needs labels, and only for it.
    **parameters
        The metric's own settings, by default its paper's.

    Returns
    -------
    Scores
        Floats (of the model) and Profiles (of states, steps, inner states or blocks), by score
        name. A metric of many texts starts at the first sound state (see `distinct_rows`), and
        every profile of numbers gets its `summaries`. One text's values are lists as it gave
        them, NaN where a layer has none: `finish` makes one result of all texts' values.

    Raises UserError for an unknown parameter and for labels that do not suit; UnitError for what
    the metric cannot be computed on: NotEnoughTexts below 8 texts, NotFinite for NaN or infinity,
    DegenerateState for a state that is the same for most texts above the first sound one, or fewer
    than two sound states.

    Examples
    --------
    >>> import numpy as np
    >>> from lrd_harness.plugins.metrics import frenet
    >>> states = np.random.default_rng(0).normal(size=(5, 40, 16)).cumsum(0)
    >>> scores = measure(frenet.lrd_metrics()[0], states)
    >>> scores["speed"].of, len(scores["speed"])
    ('steps', 4)
    """
    check_parameters(metric, parameters)
    labelled = metric.needs == "labels"
    if labelled == (labels is None):
        raise UserError(f"{metric.name} {'needs' if labelled else 'takes no'} labels")
    if metric.needs in PER_TEXT:
        values = plain(metric.measure(_text_states(metric, states), **parameters), metric.name)
        for name, value in values.items():
            if isinstance(value, Profile) and value.start:
                late = f"starts at state {value.start}, and a text's values at state 0"
                raise UnitError(f"{metric.name}.{name} {late}: give NaN where there is none")
        return Scores(values, len(states) + (metric.needs == "attention"))
    return _measure_sample(metric, states, labels, parameters)


def finish(metric: Metric, values: Sequence[Scores]) -> Scores:
    """One result of a metric that sees one text at a time, of what `measure` gave for each.

    By the metric's own `finish`; by default the mean over the texts of every score, in each layer
    over the texts that have a value there, NaN where none has. Profiles get their `summaries`.
    Raises UnitError where no text has values, the texts' scores do not fit together, or the metric
    does not give its selection score.

    Examples
    --------
    >>> metric = Metric("norm", lambda states: {"norm": 1.0}, needs="tokens")
    >>> finish(metric, [Scores({"norm": [1.0, 3.0]}, 2), Scores({"norm": [3.0, 5.0]}, 2)])["norm"]
    [2.0, 4.0]
    """
    if not values:
        raise NotEnoughTexts(f"{metric.name} has a value for none of the texts")
    whole = metric.finish(values) if metric.finish else mean_of_texts(metric.name, values)
    return _complete(metric, whole, values[0].states)


def _complete(metric: Metric, values: Values, states: int, start: int = 0) -> Scores:
    """What a metric gave for the states from `start` on, as Profiles with their summaries.

    A metric that left out states itself gives Profiles that say so, or (an old way) a score
    `start`. A list gets summaries unless the metric gave one of its own; a list of lists, as a
    histogram, has none.
    Raises as `plain` does, and UnitError for a bad start, a missing selection score, or a list
    that does not fit what the metric's lists belong to.
    """
    scores = plain(values, metric.name)
    left_out, sound = scores.pop("start", 0), range(states - start + 1)
    if not isinstance(left_out, int | float) or left_out not in sound:
        raise UnitError(
            f"{metric.name} gave {left_out} as start, which is none of {sound[-1]} states"
        )
    first = start + int(left_out)
    for name, value in list(scores.items()):
        if isinstance(value, list):
            added = summaries([v for v in value if not isinstance(v, list)], name)
            if added.keys().isdisjoint(scores):
                scores = {**added, **scores}
    if metric.selection and not isinstance(scores.get(metric.selection.score), int | float):
        there = [name for name, value in scores.items() if not isinstance(value, list)]
        lacks = f"{metric.name} gave no score {metric.selection.score}, which ranks it"
        raise UnitError(f"{lacks}: its numbers are {', '.join(there) or 'none'}")
    of: Of | None = "blocks" if metric.needs == "attention" else None
    for name, value in scores.items():
        if isinstance(value, list):
            said = metric.of.get(name) if isinstance(metric.of, Mapping) else metric.of
            try:
                scores[name] = _placed(value, states, start, int(left_out), said or of)
            except UnitError as error:
                raise UnitError(f"{metric.name}.{name}: {error}") from None
    starts = [value.start for value in scores.values() if isinstance(value, Profile)]
    return Scores(scores, states, min(starts, default=first))


def _placed(values: list[Any], states: int, start: int, left_out: int, of: Of | None) -> Profile:
    """A list as the profile of a model's states; the metric was given those from `start` on."""
    given = states - start
    if isinstance(values, Profile):
        if values.of not in FEWER or of not in (None, values.of):
            raise UnitError(f"a profile of {values.of}, declared as of {of or 'nothing known'}")
        left_out, of = values.start, values.of
        if type(left_out) is not int or not 0 <= left_out <= given:
            raise UnitError(f"starts at {left_out!r}, which is none of {given} states")
    return Profile.fitted(values, given - left_out, start + left_out, of)


def _text_states(metric: Metric, arrays: Arrays) -> torch.Tensor | Sequence[torch.Tensor]:
    """One text's states, checked: a tensor (S, T, d), or S of (T, d_l) where widths differ.

    Of attention the L maps (h, T, T), converted when they are read.
    """
    import torch

    maps = metric.needs == "attention"
    if not len(arrays):
        raise UnitError(f"{metric.name} got no {'maps' if maps else 'states'}")
    lazy = States(arrays, Check(metric), range(len(arrays)))
    if maps:
        return lazy
    if hasattr(arrays, "ndim"):  # one array of all layers, converted and looked at as a whole
        whole = float64(arrays)
        if whole.ndim == 3 and is_finite(whole):
            return whole
    states = list(lazy)
    return torch.stack(states) if len({state.shape for state in states}) == 1 else states


def _measure_sample(
    metric: Metric, arrays: Arrays, labels: Sequence[Any] | None, parameters: Mapping[str, Any]
) -> Scores:
    """Leave out the leading degenerate states, measure the others, say where they start."""
    check = Check(metric)
    total, start = len(arrays), 0
    states = States(arrays, check, range(total))
    while start < total and is_degenerate(states[start]):
        start += 1
    if total - start < 2:
        raise DegenerateState(
            f"{metric.name} needs 2 states that tell the texts apart: "
            f"{total - start} of {total} do, the first {start} are the same for most texts"
        )
    check.first_sound = start
    given: list[Any] = [states[start:]]
    if labels is not None:
        if len(labels) != check.rows[0]:
            raise UserError(f"{metric.name} got {len(labels)} labels of {check.rows[0]} texts")
        given.append(classes(labels).to(states[start].device))
    try:
        values = metric.measure(*given, **parameters)
    except UnitError as error:
        # The metric counts from the first state that it was given: say so, or the number misleads.
        numbered = error is check.raised or getattr(error, "layer", None) is not None
        if start and error.args and "layer" in str(error) and not numbered:
            error.args = (f"{error} (counted from layer {start}, the first sound one)",)
        raise
    return _complete(metric, values, total, start)


def settings_of(metric: Metric | PanelMetric) -> list[inspect.Parameter]:
    """What `measure` takes behind the states, and the labels or families where it is given them."""
    every = inspect.signature(metric.measure).parameters.values()
    given = 2 if isinstance(metric, PanelMetric) or metric.needs == "labels" else 1
    return list(every)[given:]


def check_parameters(
    metric: Metric | PanelMetric, parameters: Mapping[str, Any], *more: str
) -> None:
    """Raise UserError for a parameter that the metric does not have, naming those it has.

    more: names of settings beside its own.

    Examples
    --------
    >>> check_parameters(Metric("own", lambda states, k=5: {}), {"kk": 5})
    Traceback (most recent call last):
    lrd_harness.errors.UserError: unknown parameter of metric own 'kk'. Did you mean k? It has: k.
    """
    settings = settings_of(metric)
    if any(p.kind is p.VAR_KEYWORD for p in settings):
        return
    known = [*(p.name for p in settings), *more]
    hint = f"It has: {', '.join(known)}." if known else "It has none."
    for name in parameters:
        if name not in known:
            raise unknown(f"parameter of metric {metric.name}", name, known, hint)


@dataclass(frozen=True)
class Planned(Generic[Measure]):
    """A metric, or a panel metric, with the parameters that it is called with.

    named: by its own name, not by its group's, as one of all, or by default.
    """

    metric: Measure
    parameters: Mapping[str, Any]
    named: bool = True

    @property
    def written(self) -> dict[str, Any]:
        """The parameters as JSON can hold them, others (an infinite order of entropy) as texts."""
        written = dict(self.parameters)
        for name, value in written.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                written[name] = str(value)
        return written


PlannedMetric = Planned[Metric]
PlannedPanel = Planned[PanelMetric]
