"""Curves over layers: a score or a metric's profile of one model on one task; tables of them.

And gains: what the layer that a rule chooses scores above the last one of the same model and task.
In standard errors those of one training run go together: checkpoints of a run, and the tasks of a
model, are not independent of each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, isfinite, sqrt
from statistics import fmean
from typing import Any, Literal, NamedTuple

from scipy.stats import t

from lrd_harness.errors import unknown
from lrd_harness.report import Column, Table
from lrd_harness.results.kinds import likelihood_tasks
from lrd_harness.results.rows import Key, MetricRow, Results

Row = dict[str, Any]
LayerScores = Mapping[int, float]  # layer -> score
Direction = Literal["max", "min"]
OTHER: Mapping[Direction, Direction] = {"max": "min", "min": "max"}
ALPHA = 0.05  # two-sided, for all metrics together
FEW_PAIRS, FEW_RUNS = 30, 5  # below either, what is seen is an illustration
SCORE = "score"  # the source that is the task's main score
Place = tuple[Key, str]  # model and task


class Curve(NamedTuple):
    """One source over the layers of one model on one task.

    values: by layer, ascending, without absent ones; first, last: the layers between which it may
    have values: 0 and L of a score.
    """

    values: Mapping[int, float]
    first: int
    last: int


Curves = dict[str, dict[Place, Curve]]  # source ("score", "METRIC.PROFILE") -> place -> curve


class Role(NamedTuple):
    """What a metric is for.

    profile: the one that chooses its layer, else its first; best: which value chooses; published:
    whether the metric itself says so; ranks: whether it ranks models.
    """

    metric: str
    profile: str
    best: Direction
    published: bool
    ranks: bool

    @property
    def source(self) -> str:
        return f"{self.metric}.{self.profile}"


def curves(results: Results, variant: str = "full") -> Curves:
    """All curves, the score's first; of a unit that is there twice the newer row counts."""
    scores: dict[Place, dict[int, float]] = {}
    layers: dict[Place, int] = {}
    for row in results.scores:
        if row.variant == variant:
            scores.setdefault((row.key, row.task), {})[row.layer] = row.score
            layers[row.key, row.task] = row.layers
    ordered = {at: Curve(dict(sorted(own.items())), 0, layers[at]) for at, own in scores.items()}
    by_source: Curves = {SCORE: ordered} if ordered else {}
    rows = (row for row in results.metrics if row.variant == variant and row.profiles)
    for (metric, key, task), measured in {(r.metric, r.key, r.task): r for r in rows}.items():
        for name, profile in measured.profiles.items():
            pairs = sorted(zip(profile.layers, profile.values, strict=True))
            values = {layer: v for layer, v in pairs if v is not None and isfinite(v)}
            span = min(profile.layers, default=0), max(profile.layers, default=0)
            by_source.setdefault(f"{metric}.{name}", {})[key, task] = Curve(values, *span)
    return by_source


def roles(rows: Iterable[MetricRow]) -> dict[str, Role]:
    """The metrics that have a profile, in order of appearance."""
    by_metric: dict[str, Role] = {}
    for row in rows:
        if row.profiles and row.variant == "full":
            old = by_metric.get(row.metric)
            role = old or Role(row.metric, next(iter(row.profiles)), "max", False, False)
            if row.layer_choice and not role.published:
                role = Role(row.metric, *row.layer_choice, True, role.ranks)
            by_metric[row.metric] = role._replace(ranks=role.ranks or row.selection is not None)
    return by_metric


def pick(values: LayerScores, direction: Direction = "max") -> int:
    """The layer with the highest or lowest value; ties to the lower layer, the cheaper one.

    Examples
    --------
    >>> pick({0: 0.2, 1: 0.5, 2: 0.5}), pick({0: 0.2, 1: 0.5}, "min")
    (1, 0)
    """
    sign = 1 if direction == "max" else -1
    return max(values, key=lambda layer: (sign * values[layer], -layer))


def best(scores: LayerScores) -> tuple[int, float] | None:
    """The layer with the highest score and that score; ties to the lower layer, the cheaper one.

    None where fewer than two layers were scored: there was nothing to choose from.

    Examples
    --------
    >>> best({0: 0.2, 1: 0.5, 2: 0.5}), best({2: 0.5})
    ((1, 0.5), None)
    """
    if len(scores) < 2:
        return None
    layer = pick(scores)
    return layer, scores[layer]


def mean_by_layer(tasks: Iterable[LayerScores]) -> dict[int, float]:
    """The mean over tasks at every layer that all of them have.

    Examples
    --------
    >>> mean_by_layer([{0: 1.0, 1: 2.0}, {1: 4.0}])
    {1: 3.0}
    """
    several = list(tasks)
    layers = set(several[0]).intersection(*several[1:]) if several else set()
    return {n: fsum(own[n] for own in several) / len(several) for n in sorted(layers)}


def hidden(*names: str) -> tuple[Column, ...]:
    """Columns for programs alone."""
    return tuple(Column(name, shown=False) for name in names)


def filled(columns: Iterable[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Without the columns in which people see nothing."""
    return tuple(c for c in columns if not c.shown or any(r.get(c.name) is not None for r in rows))


def layer_table(
    results: Results, model: str, revision: str | None = None, variant: str = "full"
) -> Table:
    """The scores and profiles of a model, one row per layer.

    The mean score is over the embedding tasks alone where there are some, and so is every profile
    that was measured on one; None where a task lacks the layer.

    Parameters
    ----------
    revision : str, optional
        The newest revision of the model where it is not given.

    Raises
    ------
    UserError
        For a model that is not in the results.
    """
    keys = [row.key for row in results.models if row.variant == variant]
    matches = [key for key in keys if key.model == model and revision in (None, key.revision)]
    if not matches:
        said = model if revision is None else f"{model} (revision {revision})"
        raise unknown("model", said, {key.model for key in keys})
    by_source = {
        source: by_task
        for source, places in curves(results, variant).items()
        if (by_task := {task: c.values for (key, task), c in places.items() if key == matches[-1]})
    }
    likelihood, tasks = likelihood_tasks(results), {t for own in by_source.values() for t in own}
    apart = likelihood if likelihood & tasks < tasks else frozenset[str]()
    columns = [Column("layer", key=True)]
    cells: dict[str, LayerScores] = {}
    for source, of in by_source.items():
        main = [values for task, values in of.items() if task not in apart]
        if source != SCORE:
            cells[source] = mean_by_layer(main or of.values())
            columns.append(Column(source, source, form="#.4g"))
            continue
        cells[SCORE] = mean_by_layer(main)
        cells |= {f"score.{task}": values for task, values in of.items()}
        columns.append(Column(SCORE, "mean score", best="max", form=".4f"))
        columns += [Column(f"score.{task}", task, best="max", form=".4f") for task in of]
    layers = sorted({n for by_layer in cells.values() for n in by_layer})
    rows = [{"layer": n} | {name: column.get(n) for name, column in cells.items()} for n in layers]
    caption = [
        "Layer 0: what enters the first block; layer l: what block l writes. Scores: the task's "
        "main score at that layer, 0 to 1. Other columns: the metric's profile, the mean over its "
        "tasks, in its own unit; empty where a task has none."
    ]
    if apart & tasks:
        names = ", ".join(task for task in by_source.get(SCORE, {}) if task in apart)
        caption.append(
            "Means are over the embedding tasks alone, of scores and of every profile that was "
            f"measured on one; likelihood tasks: {names}."
        )
    return Table("model_layers", f"Layers of {model}", tuple(columns), rows, tuple(caption))


def layers_table(sides: Sequence[Results], picks: Iterable[Mapping[str, Any]] = ()) -> Table:
    """One row per whole model, task and layer, for programs; tasks of one side below the other.

    model, revision, task, layer, depth (layer / L), score, METRIC.PROFILE (a step's value stands
    with the earlier state), picked.METRIC (1 at the layer that the metric chooses among those with
    a score). No rows where there are neither profiles nor scores of other layers than the last.

    Parameters
    ----------
    picks : of mappings with model, revision, task, metric and layer
    """
    head = ("model", "revision", "task", "layer", "depth", SCORE)
    lines: dict[tuple[str, str, str], dict[int, Row]] = {}
    names = dict.fromkeys(head)
    for side in sides:
        blocks = {row.key: row.blocks for row in side.models}
        every = curves(side)
        blocks |= {key: curve.last for (key, _), curve in every.get(SCORE, {}).items()}
        for source, places in every.items():
            for (key, task), curve in places.items():
                last, place = blocks.get(key), (key.model, key.revision, task)
                own = lines.setdefault(place, {})
                for layer, value in curve.values.items():
                    at = (*place, layer, layer / last if last else None)
                    row = own.setdefault(layer, dict(zip(head, at, strict=False)))
                    row[source], names[source] = value, None
    sources = len(names) - len(head)
    for one in picks:
        name = f"picked.{one['metric']}"
        names[name] = None
        lines[one["model"], one["revision"], one["task"]][one["layer"]][name] = 1
    columns = tuple(Column(name, key=name in head[:4]) for name in names)
    several = any(not row.last for side in sides for row in side.scores if row.variant == "full")
    rows = [row for own in lines.values() for _, row in sorted(own.items())]
    shown = rows if sources or several else []
    return Table("layers", "Scores and profiles by layer", columns, shown, shown=False)


# ---------------------------------------------------------------- gains over the last layer


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
    by_run: dict[Key, float] = defaultdict(float)
    for cell, value in zip(cells, values, strict=True):
        by_run[cell.run] += value - mean
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


def by_model(cells: Iterable[Cell]) -> list[tuple[list[Cell], list[int]]]:
    """The tasks of each model that has several, and the layers that all of them have."""
    own: dict[Key, list[Cell]] = defaultdict(list)
    for cell in cells:
        own[cell.key].append(cell)
    several = (tasks for tasks in own.values() if len(tasks) > 1)
    return [(tasks, sorted(set.intersection(*(set(c.scores) for c in tasks)))) for tasks in several]


def middle_gains(cells: Sequence[Cell], layers: Sequence[int]) -> list[tuple[Cell, float, float]]:
    """Of one model's tasks: cell, honest gain, gain of the best middle layer.

    Honest: of the middle layers among those that all its tasks have, the one with the highest mean
    over the other tasks, ties to the lower. None of them: [].
    """
    blocks = cells[0].layers
    middle = [layer for layer in layers if blocks <= 4 * layer <= 3 * blocks]
    if not middle:
        return []
    gains_of_cells = []
    for cell in cells:
        others = [other for other in cells if other is not cell]
        sums = {layer: round(fsum(o.scores[layer] for o in others), 12) for layer in middle}
        gains = {layer: cell.outcome(layer).gain for layer in middle}
        gains_of_cells.append((cell, gains[pick(sums)], max(gains.values())))
    return gains_of_cells
