"""What choosing a layer gains without any metric: what a metric's choice must be held against.

A gain is the score of the chosen layer less the score of the last one, in the score's unit (0..1).
A cell is one model on one task; all means are over cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Literal, NamedTuple

import numpy as np

from lrd_harness.layers import pick
from lrd_harness.results import Key

SPLITS = 500  # random halves of a model's tasks
SEED = 42
LAST, HONEST, ORACLE = "last layer", "honest choice", "oracle"
_TENTHS = (5, 7, 8)  # the fixed depths
_DIGITS = 12  # means of scores that are equal to this are the same


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
        """Whether there is a choice of layers and a last one to hold it against."""
        return len(self.scores) > 1 and self.layers in self.scores

    def outcome(self, layer: int) -> Outcome:
        """Of choosing this layer. KeyError where it, or the last one, has no score."""
        gain = self.scores[layer] - self.scores[self.layers]
        return Outcome(layer / self.layers, gain, float(gain > 0))


@dataclass(frozen=True)
class Gain:
    """What a rule for choosing a layer gains over the last layer, on average over n cells.

    rule: the metric, or the control; score: the metric's profile, and best: which of its values is
    chosen, None of a control; published: whether the metric itself says so (the paper's
    direction); first: whether this direction is the one that the metric is judged by.
    depth: mean of chosen layer / L; gain: mean, in the score's unit; gained: the share of cells
    with a gain above 0; n: cells; models: how many models they are of, runs: of how many training
    runs, checkpoints of one counting once. None where n is 0.
    rival, rival_gain: the control that gains most on the same n cells, of those that know no score
    (last layer: 0, first, random, fixed depths), and what it gains. lead_stderr: the standard
    error of gain - rival_gain, the training runs taken as independent, their checkpoints and tasks
    not; None for fewer than 2 runs.
    """

    rule: str
    kind: Literal["metric", "control"]
    score: str | None = None
    best: Literal["max", "min"] | None = None
    published: bool = False
    first: bool = True
    depth: float | None = None
    gain: float | None = None
    gained: float | None = None
    n: int = 0
    models: int = 0
    rival: str | None = None
    rival_gain: float | None = None
    lead_stderr: float | None = None
    runs: int = 0


class Means(NamedTuple):
    """The averaged fields of a Gain."""

    depth: float | None
    gain: float | None
    gained: float | None


def means(outcomes: Sequence[Outcome]) -> Means:
    """Over cells; None of none."""
    return Means(*_mean(outcomes)) if outcomes else Means(None, None, None)


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(fsum(column) / len(outcomes) for column in zip(*outcomes, strict=True)))


class Counts(NamedTuple):
    """How much cells are: the counts of a Gain."""

    n: int
    models: int
    runs: int


def counts(cells: Sequence[Cell]) -> Counts:
    """How many cells, models and training runs."""
    return Counts(len(cells), len({cell.key for cell in cells}), len({cell.run for cell in cells}))


def controls(cells: Sequence[Cell]) -> tuple[Gain, ...]:
    """A row a control, over the cells that have the last layer's score and another one."""
    whole = [cell for cell in cells if cell.whole]
    of = counts(whole)._asdict()
    blind = {rule: means([play(cell) for cell in whole]) for rule, play in BLIND.items()}
    best = means([_oracle(cell) for cell in whole])
    rows = [Gain(rule, "control", **found._asdict(), **of) for rule, found in blind.items()]
    oracle = Gain(ORACLE, "control", **best._asdict(), **of)
    return (*rows, honest_choice(whole), oracle)


def rival(cells: Sequence[Cell]) -> tuple[str, list[float]]:
    """The control that gains most on these cells without knowing a score; its gain on each."""
    gains = {LAST: [0.0] * len(cells)}
    gains |= {rule: [play(cell).gain for cell in cells] for rule, play in BLIND.items()}
    best = max(gains, key=lambda rule: fsum(gains[rule]))
    return best, gains[best]


def stderr_over_runs(cells: Sequence[Cell], values: Sequence[float]) -> float | None:
    """The standard error of the mean of a value a cell; cells of one training run may go together.

    The square root of M / (M - 1) times the sum over the M runs of the squared sum of a run's
    deviations from the mean, over the number of cells. None for fewer than 2 runs.
    """
    mean = fsum(values) / max(1, len(values))
    by_run: dict[Key, float] = {}
    for cell, value in zip(cells, values, strict=True):
        by_run[cell.run] = by_run.get(cell.run, 0.0) + value - mean
    m = len(by_run)
    if m < 2:
        return None
    return sqrt(m / (m - 1) * fsum(total**2 for total in by_run.values())) / len(values)


def honest_choice(cells: Sequence[Cell]) -> Gain:
    """Of each model the layer best in the mean over half of its tasks, scored on the other half.

    A random half of floor(k / 2) of its k tasks chooses among the layers that all k have, ties to
    the lower layer. 500 seeded splits; averaged over those in which a task is scored, then over
    tasks. Models with one task, or without two such layers, are left out. n: models x tasks.
    """
    by_model: dict[Key, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.key, []).append(cell)
    found: list[Outcome] = []
    chosen: list[Cell] = []
    for own in by_model.values():
        layers = sorted(set.intersection(*(set(cell.scores) for cell in own)))
        if len(own) > 1 and len(layers) > 1:
            found += _honest(own, layers)
            chosen += own
    return Gain(HONEST, "control", **means(found)._asdict(), **counts(chosen)._asdict())


def _honest(cells: Sequence[Cell], layers: Sequence[int]) -> list[Outcome]:
    """Of one model's tasks: each one's mean over its splits; the last of `layers` is L."""
    k, half = len(cells), len(cells) // 2
    scores = np.array([[cell.scores[layer] for layer in layers] for cell in cells])  # (k, layers)
    gains = scores - scores[:, -1:]
    generator = np.random.default_rng(SEED)
    orders = generator.permuted(np.tile(np.arange(k), (SPLITS, 1)), axis=1)  # (splits, k)
    chooses = orders < half  # (splits, k): in each split `half` of the tasks, at random
    picked = np.argmax(np.round(chooses @ scores / half, _DIGITS), axis=1)  # the lower of ties
    found = []
    for task, cell in enumerate(cells):
        layer = picked[~chooses[:, task]]  # as often as the task was not among those that chose
        depth = np.mean(np.array(layers)[layer]) / cell.layers
        gain, gained = np.mean(gains[task, layer]), np.mean(gains[task, layer] > 0)
        found.append(Outcome(float(depth), float(gain), float(gained)))
    return found


def _first(cell: Cell) -> Outcome:
    return cell.outcome(min(cell.scores))


def _random(cell: Cell) -> Outcome:
    """The expectation of a layer drawn among all that were scored."""
    return _mean([cell.outcome(layer) for layer in cell.scores])


def _at(tenths: int) -> Callable[[Cell], Outcome]:
    """The scored layer nearest to a depth, in whole numbers so that ties are ties: the lower."""

    def play(cell: Cell) -> Outcome:
        aim = tenths * cell.layers
        return cell.outcome(min(cell.scores, key=lambda layer: (abs(10 * layer - aim), layer)))

    return play


def _oracle(cell: Cell) -> Outcome:
    """The best layer, the lower one of several."""
    return cell.outcome(pick(cell.scores))


# The controls that know no score, in the order shown.
BLIND: Mapping[str, Callable[[Cell], Outcome]] = {
    "first layer": _first,
    "random layer": _random,
    **{f"depth 0.{tenths}": _at(tenths) for tenths in _TENTHS},
}
