"""Gains of a layer over the last one, and whether they are more than chance.

Cells are models on tasks. Those of one training run go together: checkpoints of a run, and the
tasks of a model, are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import fmean
from typing import Any, NamedTuple

from scipy.stats import t

from lrd_harness.board.layers import pick
from lrd_harness.results.rows import Key

ALPHA = 0.05  # two-sided, for all metrics together
FEW_PAIRS, FEW_RUNS = 30, 5  # below either, what is seen is an illustration
Row = dict[str, Any]


class Outcome(NamedTuple):
    """What a rule makes of one cell: depth (0..1) of its layer, gain, whether it gained (0..1)."""

    depth: float
    gain: float
    gained: float


@dataclass(frozen=True)
class Cell:
    """One model on one task: its score at each layer that has one, of 0..layers (L).

    checkpoint_of: what stands for its training run, if other models are checkpoints of it too.
    """

    key: Key
    task: str
    layers: int
    scores: Mapping[int, float]
    checkpoint_of: Key | None = None

    @property
    def run(self) -> Key:
        """What is independent of other cells: the training run; without others, the model."""
        return self.checkpoint_of or self.key

    @property
    def whole(self) -> bool:
        """Whether there is a choice of layers and a last one to compare it with."""
        return len(self.scores) > 1 and self.layers in self.scores

    def outcome(self, layer: int) -> Outcome:
        """Of choosing this layer. KeyError where it, or the last one, has no score."""
        gain = self.scores[layer] - self.scores[self.layers]
        return Outcome(layer / self.layers, gain, float(gain > 0))


def stderr_over_runs(cells: Sequence[Cell], values: Sequence[float]) -> float | None:
    """The standard error of the mean of one value per cell; cells of a training run go together.

    The square root of M / (M - 1) times the sum over the M runs of the squared sum of a run's
    deviations from the mean, over the number of cells. None for fewer than 2 runs.

    Examples
    --------
    >>> cells = [Cell(Key(name, "", "full"), "STS", 4, {}) for name in ("a", "b")]
    >>> stderr_over_runs(cells, [0.0, 1.0])
    0.5
    """
    mean = fsum(values) / max(1, len(values))
    by_run: dict[Key, float] = {}
    for cell, value in zip(cells, values, strict=True):
        by_run[cell.run] = by_run.get(cell.run, 0.0) + value - mean
    m = len(by_run)
    if m < 2:
        return None
    return sqrt(m / (m - 1) * fsum(total**2 for total in by_run.values())) / len(values)


def exceeds(row: Row, metrics: int) -> bool | None:
    """Whether a gain exceeds its rival's by more than the best of so many metrics has by chance.

    By Student's t over training runs (Bonferroni); None for fewer than 2 of them.
    """
    if row["lead_stderr"] is None:
        return None
    limit = row["lead_stderr"] * t.ppf(1 - ALPHA / 2 / metrics, row["runs"] - 1)
    return bool(row["gain"] - row["rival_gain"] > limit)


class Mean(NamedTuple):
    """A mean over cells, its interval (None below 2 training runs), how many cells and runs."""

    value: float
    low: float | None
    high: float | None
    n: int
    runs: int

    def percent(self, of: float = 1.0, above: float = 0.0) -> Row:
        """Value and interval in percent of a number, plus another."""
        ends = zip(("value", "low", "high"), self[:3], strict=True)
        return {name: None if v is None else 100 * (above + v / of) for name, v in ends}


def mean(cells: Sequence[Cell], values: Sequence[float], tests: int = 1) -> Mean:
    """Of one value per cell, with its 95 % t interval over training runs, for all `tests`."""
    runs = len({cell.run for cell in cells})
    error, middle = stderr_over_runs(cells, values), fmean(values)
    if error is None:
        return Mean(middle, None, None, len(cells), runs)
    reach = error * float(t.ppf(1 - ALPHA / 2 / tests, runs - 1))
    return Mean(middle, middle - reach, middle + reach, len(cells), runs)


def middle_gains(cells: Sequence[Cell]) -> list[tuple[Cell, float, float]]:
    """Of one model's tasks, at least two: cell, honest gain, gain of the best middle layer.

    Honest: of the middle layers that all its tasks have, the one with the highest mean over the
    other tasks, ties to the lower. None of them: [].
    """
    common = set.intersection(*(set(cell.scores) for cell in cells))
    blocks = cells[0].layers
    middle = [layer for layer in sorted(common) if blocks <= 4 * layer <= 3 * blocks]
    if len(cells) < 2 or not middle:
        return []
    gains_of_cells = []
    for cell in cells:
        others = [other for other in cells if other is not cell]
        sums = {layer: round(fsum(o.scores[layer] for o in others), 12) for layer in middle}
        gains = {layer: cell.outcome(layer).gain for layer in middle}
        gains_of_cells.append((cell, gains[pick(sums)], max(gains.values())))
    return gains_of_cells
