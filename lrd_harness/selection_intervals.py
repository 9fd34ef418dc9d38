"""Intervals of rho, and of medians of it over tasks, when other models might have been there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lrd_harness import inference, stats

Drawn = np.ndarray | None  # rho in each resample (draws,), NaN where not defined; None: none at all


class Draws:
    """rho of predictors with the scores (tasks, models) in resamples of the models.

    The resamples are the same for all predictors and tasks. What was found is kept; the ranks of a
    task's scores are large, and kept until other models or another task are asked for.
    large: too many models to resample.
    """

    def __init__(self, actual: np.ndarray) -> None:
        self.actual = actual
        models = actual.shape[1]
        self.large = models > stats.LARGE
        self._counts = None if self.large else inference.resamples(models)
        self._found: dict[tuple[int, int, bytes], Drawn] = {}
        self._own: dict[tuple[int, int, bytes], inference.Interval | None] = {}
        self._ready: dict[tuple[int, bytes, bool], inference.Resampled] = {}  # one at most

    def rho(self, values: np.ndarray, t: int, both: np.ndarray) -> Drawn:
        """Of values (tasks, models) on task t, over the models in the mask, with resamples of all.

        None where there are too many models, fewer than 5 in the mask, or rho is not defined.
        """
        place = id(values), t, both.tobytes()
        if place not in self._found:
            self._found[place] = self._drawn(values, t, both, own=False)
        return self._found[place]

    def interval(self, values: np.ndarray, t: int, both: np.ndarray) -> inference.Interval | None:
        """The bootstrap interval of rho on task t: as many models resampled as are in the mask."""
        place = id(values), t, both.tobytes()
        if place not in self._own:
            whole = bool(both.all())
            drawn = self.rho(values, t, both) if whole else self._drawn(values, t, both, own=True)
            self._own[place] = None if drawn is None else inference.interval(drawn)
        return self._own[place]

    def _drawn(self, values: np.ndarray, t: int, both: np.ndarray, own: bool) -> Drawn:
        x, y = values[t][both], self.actual[t][both]
        if self._counts is None or len(x) < inference.LEAST or not stats.comparable(x, y):
            return None
        place = t, both.tobytes(), own
        if place not in self._ready:
            counts = inference.resamples(len(x)) if own else self._counts[:, both]
            self._ready = {place: inference.Resampled(y, counts)}
        return self._ready[place].rho(x)


def of_median(drawn: Sequence[Drawn]) -> inference.Interval | None:
    """The interval of the median over tasks; None unless each of its tasks can be drawn."""
    held = _all(drawn)
    return None if held is None else inference.interval(_medians(held))


def of_lead(drawn: Sequence[Sequence[Drawn]], level: float) -> inference.Interval | None:
    """The interval of the first's median rho less the second's; None as above. drawn: task, two."""
    held = _all([one for both in drawn for one in both])
    if held is None:
        return None
    held = held.reshape(len(drawn), 2, -1)
    held[np.broadcast_to(np.isnan(held).any(axis=1, keepdims=True), held.shape)] = np.nan
    medians = _medians(held)
    return inference.interval(medians[0] - medians[1], level)


def of_lead_over_tasks(pairs: np.ndarray, level: float) -> inference.Interval | None:
    """The same of rhos (tasks, 2), tasks resampled; None below 5."""
    if len(pairs) < inference.LEAST:
        return None
    shape = inference.RESAMPLES, len(pairs)
    chosen = np.random.default_rng(42).integers(0, len(pairs), shape)
    medians = np.median(pairs[chosen], axis=1)  # (draws, 2)
    return inference.interval(medians[:, 0] - medians[:, 1], level)


def _all(drawn: Sequence[Drawn]) -> np.ndarray | None:
    """Together; None where there is none, or one is not defined in half of the resamples."""
    held = [one for one in drawn if one is not None and 2 * np.isnan(one).sum() <= len(one)]
    return np.array(held) if held and len(held) == len(drawn) else None


def _medians(drawn: np.ndarray) -> np.ndarray:
    """Medians over tasks (the first axis) of what is defined in a resample, NaN for nothing."""
    there = ~np.isnan(drawn)
    counts = there.sum(axis=0, keepdims=True)
    ordered = np.sort(drawn, axis=0)  # NaN last
    low, high = np.maximum(counts - 1, 0) // 2, np.minimum(counts // 2, len(drawn) - 1)
    found = (np.take_along_axis(ordered, low, 0) + np.take_along_axis(ordered, high, 0)) / 2
    return np.asarray(found[0])
