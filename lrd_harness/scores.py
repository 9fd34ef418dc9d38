"""Scores by name, as metrics give them: Python's own numbers, profiles along layers, summaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite, isinf, isnan
from typing import Any, Literal, NamedTuple

from lrd_harness.errors import NotFinite, UnitError

LEFT_OUT = {"left_out", "too_short"}  # scores that count the texts without a value
EXACT = 2**53  # beyond which floats are no longer all integers
Of = Literal["states", "steps", "inner states", "blocks"]
FEWER: Mapping[Of, int] = {"states": 0, "steps": 1, "inner states": 2, "blocks": 1}  # than states


class Profile(list[Any]):
    """The values of a score along the layers: a list that says what its values belong to.

    of: S values belong to the S "states" that were measured, S - 1 to the "steps" between
    neighbours, S - 2 to the "inner states", all but the first and the last, S - 1 to the "blocks"
    that write all but the first; start: the first state that was measured, 0..L (from a metric: of
    those that it was given); values: numbers, or a list of numbers each (a histogram).

    Examples
    --------
    >>> curvature = Profile("inner states", 1, [0.5, 0.25])
    >>> list(curvature), curvature.layers
    ([0.5, 0.25], [2, 3])
    """

    def __init__(self, of: Of, start: int, values: Iterable[Any]) -> None:
        super().__init__(values)
        self.of, self.start = of, start

    @classmethod
    def fitted(
        cls, values: Sequence[Any], states: int, start: int = 0, of: Of | None = None
    ) -> Profile:
        """The profile that a list is which a metric gave for `states` states from `start` on.

        of: what the metric says that it belongs to; else the length tells, of S, S - 1 or S - 2.
        Raises UnitError for a list of another length.
        """
        told: dict[int, Of] = {0: "states", 1: "steps", 2: "inner states"}
        said = of or told.get(states - len(values))
        if said is None:
            raise UnitError(
                f"a list of {len(values)} values fits neither {states} states nor the steps "
                "between them"
            )
        if len(values) != states - FEWER[said]:
            of_them = f"{states - FEWER[said]} {said}"
            raise UnitError(
                f"a list of {len(values)} values, declared as of {said}: {of_them} are there"
            )
        return cls(said, start, values)

    @property
    def layers(self) -> list[int]:
        """The numbers of the states that the values belong to; a step has that of its earlier.

        Of blocks their own numbers, each that of the state that it writes.
        """
        first = self.start + (self.of in ("inner states", "blocks"))
        return list(range(first, first + len(self)))


class Scores(dict[str, "float | list[Any]"]):
    """A metric's scores by name: numbers of the model, and Profiles along its layers.

    states: how many states the model has, S; start: the first one that was measured, since those
    before it are the same for most texts.
    """

    def __init__(self, values: Mapping[str, Any], states: int, start: int = 0) -> None:
        super().__init__(values)
        self.states, self.start = states, start


def summaries(values: Sequence[float], name: str) -> dict[str, float]:
    """The model-level summaries of a per-layer score, named `mean_NAME` and so on.

    mean, std (of the population), min, max; early and late: means of the first and the last
    max(1, len // 3) values; trend: late minus early; slope: least squares on depth 0..1, absent
    for a single value. NaN stands where a layer has no value, and is left out: depth runs from the
    first value to the last. None at all for no values.

    Examples
    --------
    >>> summaries([1.0, 2.0, 4.0, 5.0], "x")["trend_x"]
    4.0
    """
    import numpy as np

    curve = np.asarray(values, dtype=np.float64)
    places = np.flatnonzero(~np.isnan(curve))
    if not len(places):
        return {}
    x = curve[places]
    third = max(1, len(x) // 3)
    early, late = x[:third].mean(), x[-third:].mean()
    scores = {"mean": x.mean(), "std": x.std(), "min": x.min(), "max": x.max()}
    scores |= {"early": early, "late": late, "trend": late - early}
    if len(x) > 1:
        depth = (places - places.mean()) / (places[-1] - places[0])  # its slope is that on 0..1
        scores["slope"] = depth @ (x - x.mean()) / (depth @ depth)
    return {f"{key}_{name}": float(value) for key, value in scores.items()}


def plain(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Scores as Python's own floats and lists, whatever the metric made them of.

    A Profile stays one. Raises TypeError, with the metric's name, for all but a mapping from names
    to numbers, lists of numbers and lists of these; OverflowError for an integer that is beyond any
    float.

    Examples
    --------
    >>> import numpy as np
    >>> plain({"speed": np.array([1, 2]), "start": np.int64(1)}, "own")
    {'speed': [1.0, 2.0], 'start': 1}
    """
    return {score: _plain(value, f"{name}.{score}") for score, value in _scores(values, name)}


def plain_panel(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """As `plain`, of a panel metric: numbers, mappings by model to numbers, or to such mappings.

    Examples
    --------
    >>> import numpy as np
    >>> plain_panel({"chance": np.float64(0.5), "like": {"a": {"b": 1}, "b": {"a": 1}}}, "own")
    {'chance': 0.5, 'like': {'a': {'b': 1}, 'b': {'a': 1}}}
    """
    return {score: _by_model(value, f"{name}.{score}") for score, value in _scores(values, name)}


def _scores(values: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The scores that a metric gave, their names checked."""
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        raise TypeError(f"{name} gave {kind}, not a mapping from names of scores to numbers")
    for score, value in values.items():
        if not isinstance(score, str) or not score.isprintable() or not score.strip():
            raise TypeError(f"{name} gave a score named {ascii(score)[:60]}, which is no name")
        yield str(score), value


def _by_model(value: Any, what: str, depth: int = 2) -> Any:
    if not isinstance(value, Mapping) or not depth:
        return number(value, what)
    if 0 < sum(isinstance(of_model, Mapping) for of_model in value.values()) < len(value):
        raise TypeError(f"{what} holds numbers and mappings side by side")
    return {model: _by_model(v, f"{what} of {model}", depth - 1) for model, v in value.items()}


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, Profile):
        return Profile(value.of, value.start, _plain([*value], what))
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray):
        return number(value, what)
    items = [_plain(item, what) for item in value]
    nested = [isinstance(item, list) for item in items]
    if any(nested) and not all(nested):
        raise TypeError(f"{what} holds numbers and lists side by side")
    if any(isinstance(inner, list) for item in items if isinstance(item, list) for inner in item):
        raise TypeError(f"{what} is a list, where a number belongs")
    return [[float(v) for v in item] if isinstance(item, list) else float(item) for item in items]


def number(value: Any, what: str) -> int | float:
    """A number as Python's own, whatever it was. Raises TypeError and OverflowError, as `plain`.

    Examples
    --------
    >>> import numpy as np
    >>> number(np.float32(0.5), "a score"), number(True, "a score")
    (0.5, 1)
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str | bytes | bytearray) or not hasattr(value, "__float__"):
        plainly = value is None or isinstance(value, complex)
        kind = value if plainly else f"a {type(value).__name__}"
        raise TypeError(f"{what} is {kind}, where a number belongs")
    try:
        as_float = float(value)
    except OverflowError:
        raise OverflowError(f"{what} is an integer that no float can hold") from None
    # larger ones are rounded, as a database and other languages would
    return int(value) if isinstance(value, int) and abs(value) <= EXACT else as_float


def mean_of_texts(name: str, texts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of every score over the texts, each number over those where it is not NaN.

    Raises UnitError, with the metric's name, where the texts differ in which scores they have, or
    in how many numbers.

    Examples
    --------
    >>> mean_of_texts("own", [{"x": [1.0, 2.0]}, {"x": [3.0, float("nan")]}])["x"].tolist()
    [2.0, 2.0]
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


class Split(NamedTuple):
    """A metric's scores as a record holds them: of the model, per layer, several per layer."""

    values: dict[str, float]
    profiles: dict[str, dict[str, list[Any]]]
    tables: dict[str, dict[str, list[Any]]]


def split_scores(scores: Scores) -> Split:
    """Model-level values, and per-layer ones with the layers that they belong to.

    NaN in a profile says that the layer has no value, and becomes None. A profile of blocks says
    so, where others' lengths tell what they are of. Raises NotFinite for any
    other number that is not finite, which no table can hold, and UnitError for no score at all.

    Examples
    --------
    >>> split = split_scores(Scores({"a": 0.5, "b": Profile("steps", 1, [2.0, float("nan")])}, 4))
    >>> split.values, split.profiles
    ({'a': 0.5}, {'b': {'layers': [1, 2], 'values': [2.0, None]}})
    """
    if scores.keys() <= LEFT_OUT:
        raise UnitError("no score was given")
    split = Split({}, {}, {})
    # before any number: what is wrong in a profile shows in its summaries, too
    profiles = {name: value for name, value in scores.items() if isinstance(value, Profile)}
    for name, profile in profiles.items():
        for layer, row in zip(profile.layers, profile, strict=True):
            if not all(map(isfinite, row)) if isinstance(row, list) else isinf(row):
                raise NotFinite(f"the score {name} is {row} at layer {layer}")
    for name, value in scores.items():
        if isinstance(value, Profile):
            if value and isinstance(value[0], list):
                split.tables[name] = {"layers": value.layers, "rows": list(value)}
            else:
                values = [None if isnan(number) else number for number in value]
                of: dict[str, Any] = {"of": "blocks"} if value.of == "blocks" else {}
                split.profiles[name] = {"layers": value.layers, "values": values, **of}
        elif isinstance(value, list) or not isfinite(value):
            raise NotFinite(f"the score {name} is {value}")
        else:
            split.values[name] = value
    some = any(v is not None for p in split.profiles.values() for v in p["values"])
    if not (some or split.tables or split.values.keys() - LEFT_OUT):
        raise UnitError("no score has a value in any layer")
    return split
