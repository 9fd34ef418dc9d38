"""Scores by name, as metrics give them: Python's own numbers, their summaries and means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrd_harness.contracts import Values
from lrd_harness.errors import UnitError

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


def summarised(values: Values) -> Scores:
    """The values with the `summaries` of every list for which they hold none of their own.

    A list of lists, as a histogram, has none.
    """
    scores = plain(values)
    for name, value in list(scores.items()):
        numbers = [v for v in value if not isinstance(v, list)] if isinstance(value, list) else []
        added = summaries(numbers, name)
        if added.keys().isdisjoint(scores):
            scores = {**added, **scores}
    return scores


def plain(values: Mapping[str, Any]) -> Scores:
    """Scores as Python's own floats and lists, whatever the metric made them of."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value  # numpy's and torch's
    if isinstance(value, Sequence):
        rows = any(isinstance(v, Sequence) or getattr(v, "ndim", 0) for v in value)
        return [_plain(v) if rows else float(v) for v in value]
    return value if isinstance(value, int) else float(value)


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
