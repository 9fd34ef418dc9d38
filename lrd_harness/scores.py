"""Scores by name, as metrics give them: Python's own numbers, their summaries and means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrd_harness.contracts import Values
from lrd_harness.errors import UnitError

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
