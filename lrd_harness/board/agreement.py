"""Whether each metric orders the models better than their size does, in plain sentences.

How well predictors order the models task by task: the rows that selection.py makes.

Intervals of rho, and of medians of it over tasks, when other models might have been there.

How well each predictor orders the models task by task, and whether a metric beats size.

Per task: Spearman's rho over the models between a predictor and the main score of the last layer.
Predictors: every metric's selection score, some other model-level scores, and what needs no metric
(log parameters, log width, depth, `frenet.rank`, released later). + always means that they agree: a
metric that ranks the lowest value first is turned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lrd_harness.board import inference, statistics
from lrd_harness.board.claim_rows import count
from lrd_harness.board.families import families
from lrd_harness.board.panel import (
    FRENET_RANK,
    LOG_PARAMETERS,
    RELEASED,
    Panel,
    Values,
    dates,
    sizes,
)
from lrd_harness.results.database import Key, Results

REACHES = 5  # models from which on p < .05 can be reached


@dataclass(frozen=True)
class TaskAgreement:
    """One predictor on one task, over the n models that have both, of so many training runs.

    rho: Spearman's, p: its permutation p-value (two-sided), p_holm: the same after Holm's
    correction over the tasks; tau: Kendall's tau-b; low, high: 95 % bootstrap interval of rho over
    these n models; partial, partial_p: control -> partial rank correlation given it, and its
    p-value by permuting the predictor.
    regret: score lost by taking the predictor's top model instead of the best one (a fraction, as
    the score); regret_largest, regret_random: the same of the model with the most parameters known,
    and expected of a random one, among the same n models. None where not defined.
    """

    task: str
    n: int
    runs: int
    rho: float | None
    p: float | None
    p_holm: float | None
    tau: float | None
    low: float | None
    high: float | None
    partial: Mapping[str, float | None]
    partial_p: Mapping[str, float | None]
    regret: float | None
    regret_largest: float | None
    regret_random: float | None


@dataclass(frozen=True)
class Rival:
    """A metric beside one baseline, on the models and tasks that have both and a score.

    own, rho: median rho over these tasks of the metric and of the baseline; low, high: bootstrap
    interval of own - rho, for all metrics together at 95 % (Bonferroni), over models, or over tasks
    for more than 500 models; None where it cannot be drawn of each of these tasks.
    n, runs: median numbers of models, and of training runs, a task.
    """

    name: str
    size: bool
    own: float
    rho: float
    low: float | None
    high: float | None
    n: float
    runs: float
    tasks: int
    over: Literal["models", "tasks"] = "models"


@dataclass(frozen=True)
class Agreement:
    """One predictor over all tasks with at least 4 models that have it and a score.

    best: which of its values predicts the better model. rho, tau, partial: medians over tasks; low,
    high: 95 % bootstrap interval of the median rho over tasks (None below 5); models_low,
    models_high: the same over models (None above 500, and where a task of the median has fewer than
    5); significant, holm: tasks with p < .05 and after Holm over tasks; n, runs: median numbers of
    models and of training runs; regret, regret_largest, regret_random: means over tasks. rivals: of
    a metric, the baselines beside it.
    """

    name: str
    kind: Literal["metric", "baseline", "control"]
    best: Literal["max", "min"]
    rho: float | None
    low: float | None
    high: float | None
    models_low: float | None
    models_high: float | None
    significant: int
    holm: int
    tau: float | None
    partial: Mapping[str, float | None]
    n: float | None
    runs: float | None
    regret: float | None
    regret_largest: float | None
    regret_random: float | None
    tasks: tuple[TaskAgreement, ...]
    rivals: tuple[Rival, ...] = ()


@dataclass(frozen=True)
class Selection:
    """All predictors. models: the most that a task has; runs: the training runs that these are of.

    large: whether there are more models than can be resampled, so that intervals are over tasks;
    telling: whether p < .05 can be reached.
    """

    rows: tuple[Agreement, ...]
    models: int
    runs: int
    large: bool = False

    @property
    def telling(self) -> bool:
        return self.models >= REACHES


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
        self.large = models > statistics.LARGE
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
        if self._counts is None or len(x) < inference.LEAST or not statistics.comparable(x, y):
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


__all__ = ["Agreement", "Rival", "Selection", "TaskAgreement", "build_selection"]

LEAST = 4  # models that have both, for a task to count
RANDOM = "random model"
ALPHA = 0.05
Grid = np.ndarray  # (tasks, models) float64, NaN: not there


@dataclass(frozen=True)
class _Predictor:
    name: str
    kind: Literal["metric", "baseline", "control"]
    best: Literal["max", "min"]
    values: Grid  # turned so that + agrees


@dataclass(frozen=True)
class _Setting:
    """What all predictors are held against. runs: the models' training runs, as numbers."""

    tasks: Sequence[str]
    actual: Grid
    controls: Mapping[str, Grid]
    runs: np.ndarray
    draws: Draws

    def both(self, *predictors: _Predictor) -> np.ndarray:
        """Where there is a score and a value of each: (tasks, models)."""
        there: np.ndarray = ~np.isnan(self.actual)
        for one in predictors:
            there &= ~np.isnan(one.values)
        return there

    def count_runs(self, mask: np.ndarray) -> int:
        """Of how many training runs the models in the mask are."""
        return len(np.unique(self.runs[mask]))


def build_selection(panel: Panel) -> Selection | None:
    """Every predictor on every task; None where no task has scores of 4 models."""
    tasks = [task for task, by_model in panel.last.items() if len(by_model) >= LEAST]
    if not tasks:
        return None
    actual = _grid(panel.last, tasks, panel)
    held = _predictors(panel, tasks)
    by_name = {predictor.name: predictor.values for predictor in held}
    setting = _Setting(
        tasks=tasks,
        actual=actual,
        controls={name: by_name[name] for name in (LOG_PARAMETERS, FRENET_RANK)},
        runs=_runs(panel),
        draws=Draws(actual),
    )
    _draw(held, setting)
    most = max(setting.both(), key=np.sum)
    models, runs = int(most.sum()), setting.count_runs(most)
    return Selection(_agreements(held, setting), models, runs, setting.draws.large)


def _runs(panel: Panel) -> np.ndarray:
    """Training runs as numbers: checkpoints and revisions of one model are of the same."""
    held = families(Results(models=tuple(panel.models.values())))
    runs = {member.key: -1 - i for i, family in enumerate(held) for member in family.members}
    return np.array([runs.get(key, i) for i, key in enumerate(panel.models)])


def _draw(held: Sequence[_Predictor], setting: _Setting) -> None:
    """All that will be asked of the resamples, by task and models: as `Draws` is quick."""
    baselines = [one for one in held if one.kind == "baseline"]
    alone = [(one, setting.both(one)) for one in held]
    beside = [
        (one, setting.both(metric, baseline))
        for metric in held
        for baseline in baselines
        if metric.kind == "metric"
        for one in (metric, baseline)
    ]
    for t in range(len(setting.tasks)):
        for one, both in sorted(alone, key=lambda pair: pair[1][t].tobytes()):
            setting.draws.interval(one.values, t, both[t])
        for one, both in sorted(alone + beside, key=lambda pair: pair[1][t].tobytes()):
            setting.draws.rho(one.values, t, both[t])


def _predictors(panel: Panel, tasks: Sequence[str]) -> list[_Predictor]:
    found = []
    for column in panel.metrics:
        values = _grid(panel.selected[column.name], tasks, panel)
        choice = column.selection
        name = column.name if choice.score == column.name else f"{column.name}.{choice.score}"
        turned = values if choice.best == "max" else -values
        found.append(_Predictor(name, "metric", choice.best, turned))
    for name, other in panel.others.items():
        found.append(_Predictor(name, "metric", "max", _grid(other, tasks, panel)))
    rank = _grid(panel.frenet_rank, tasks, panel)
    found += _of_models(sizes(panel), panel, tasks)
    found.append(_Predictor(FRENET_RANK, "baseline", "max", rank))
    found += _of_models(dates(panel), panel, tasks)
    found.append(_Predictor(RANDOM, "control", "max", np.zeros_like(rank)))
    return found


def _of_models(
    baselines: Mapping[str, Mapping[Key, float | None]], panel: Panel, tasks: Sequence[str]
) -> Iterable[_Predictor]:
    """Baselines that are the same on every task."""
    for name, by_model in baselines.items():
        row = np.array([by_model[key] for key in panel.models], dtype=np.float64)
        yield _Predictor(name, "baseline", "max", np.tile(row, (len(tasks), 1)))


def _grid(values: Values, tasks: Sequence[str], panel: Panel) -> Grid:
    rows = [list(map(values.get(task, {}).get, panel.models)) for task in tasks]
    return np.array(rows, dtype=np.float64)


def _agreements(held: Sequence[_Predictor], setting: _Setting) -> tuple[Agreement, ...]:
    metrics = [predictor for predictor in held if predictor.kind == "metric"]
    baselines = [predictor for predictor in held if predictor.kind == "baseline"]
    level = 1 - (1 - inference.LEVEL) / max(1, len(metrics))
    found = []
    for predictor in held:
        against = baselines if predictor.kind == "metric" else []
        rivals = [_rival(predictor, baseline, setting, level) for baseline in against]
        one = _agreement(predictor, setting, tuple(rival for rival in rivals if rival))
        if one.tasks or predictor.kind == "metric":
            found.append(one)
    return tuple(found)


def _agreement(predictor: _Predictor, setting: _Setting, rivals: tuple[Rival, ...]) -> Agreement:
    both = setting.both(predictor)
    counted = [t for t, n in enumerate(both.sum(axis=1)) if n >= LEAST]
    tasks = [_on_task(predictor, setting, t, both[t]) for t in counted]
    holm = inference.holm([task.p for task in tasks])
    over_tasks = inference.bootstrap_median([task.rho for task in tasks])
    in_median = [t for t, task in zip(counted, tasks, strict=True) if task.rho is not None]
    over_models = of_median([setting.draws.rho(predictor.values, t, both[t]) for t in in_median])
    low, high = over_tasks or (None, None)
    models_low, models_high = over_models or (None, None)
    return Agreement(
        name=predictor.name,
        kind=predictor.kind,
        best=predictor.best,
        rho=inference.median([task.rho for task in tasks]),
        low=low,
        high=high,
        models_low=models_low,
        models_high=models_high,
        significant=sum(task.p is not None and task.p < ALPHA for task in tasks),
        holm=sum(p is not None and p < ALPHA for p in holm),
        tau=inference.median([task.tau for task in tasks]),
        partial={c: inference.median([t.partial[c] for t in tasks]) for c in setting.controls},
        n=inference.median([task.n for task in tasks]),
        runs=inference.median([task.runs for task in tasks]),
        regret=statistics.mean_of_all([task.regret for task in tasks]),
        regret_largest=statistics.mean_of_all([task.regret_largest for task in tasks]),
        regret_random=statistics.mean_of_all([task.regret_random for task in tasks]),
        tasks=tuple(replace(t, p_holm=p) for t, p in zip(tasks, holm, strict=True)),
        rivals=rivals,
    )


def _on_task(predictor: _Predictor, setting: _Setting, t: int, both: np.ndarray) -> TaskAgreement:
    """On task t, over the models in the mask `both`; p_holm is left to whoever has all tasks."""
    x, y = predictor.values[t][both], setting.actual[t][both]
    controls = {name: values[t][both] for name, values in setting.controls.items()}
    own = predictor.name if predictor.kind == "baseline" else None
    nothing = np.full_like(y, np.nan)  # a predictor says nothing beside itself
    beside = {c: nothing if c == own else v for c, v in controls.items()}
    partial = {c: inference.partial_rho(x, y, v) for c, v in beside.items()}
    low, high = setting.draws.interval(predictor.values, t, both) or (None, None)
    return TaskAgreement(
        task=setting.tasks[t],
        n=len(x),
        runs=setting.count_runs(both),
        rho=statistics.spearman(x, y),
        p=statistics.permutation_p(x, y),
        p_holm=None,
        tau=inference.kendall(x, y),
        low=low,
        high=high,
        partial=partial,
        partial_p={c: inference.partial_p(x, y, v, rho=partial[c]) for c, v in beside.items()},
        regret=inference.regret(x, y),
        regret_largest=_regret_largest(controls[LOG_PARAMETERS], y),
        regret_random=inference.regret(np.zeros_like(y), y),
    )


def _regret_largest(size: np.ndarray, y: np.ndarray) -> float | None:
    """Of the largest whose size is known, against the best of all."""
    known = ~np.isnan(size)
    return inference.regret(np.where(known, size, -np.inf), y) if known.any() else None


def _rival(
    metric: _Predictor, baseline: _Predictor, setting: _Setting, level: float
) -> Rival | None:
    """The two on the same cells; None where no task has both."""
    cells = setting.both(metric, baseline)
    pairs, drawn, n, runs = [], [], [], []
    for t in np.flatnonzero(cells.sum(axis=1) >= LEAST).tolist():
        both = cells[t]
        sides = [grid.values[t][both] for grid in (metric, baseline)]
        own, rho = (statistics.spearman(side, setting.actual[t][both]) for side in sides)
        if own is None or rho is None:
            continue
        pairs.append((own, rho))
        n.append(int(both.sum()))
        runs.append(setting.count_runs(both))
        drawn.append([setting.draws.rho(grid.values, t, both) for grid in (metric, baseline)])
    if not pairs:
        return None
    large = setting.draws.large
    found = of_lead_over_tasks(np.array(pairs), level) if large else of_lead(drawn, level)
    own, rho = np.median(pairs, axis=0).tolist()
    low, high = found or (None, None)
    return Rival(
        name=baseline.name,
        size=baseline.name not in (FRENET_RANK, RELEASED),
        own=own,
        rho=rho,
        low=low,
        high=high,
        n=float(np.median(n)),
        runs=float(np.median(runs)),
        tasks=len(pairs),
        over="tasks" if large else "models",
    )


FEW = 10  # training runs: below, a rho is an illustration


def of_selection(selection: Selection | None) -> tuple[str, ...]:
    """What a metric has to beat, then a verdict on each; () where p < .05 cannot be reached.

    Between the two, where models are checkpoints of one training run, that they are.
    """
    if selection is None or not selection.telling:
        return ()
    other = (FRENET_RANK, RELEASED)
    sizes = [r for r in selection.rows if r.kind == "baseline" and r.name not in other]
    metrics = [row for row in selection.rows if row.kind == "metric"]
    bar = (_bar(sizes, len(metrics)),) if any(row.rho is not None for row in sizes) else ()
    return (*bar, *_kin(selection), *(verdict(row, len(metrics)) for row in metrics))


def verdict(row: Agreement, metrics: int = 1) -> str:
    """One metric in one sentence. metrics: how many are judged by the table."""
    return f"{row.name}: {_judged(row, metrics)}."


def _kin(selection: Selection) -> tuple[str, ...]:
    if selection.runs == selection.models:
        return ()
    runs = count(selection.runs, "training run")
    return (f"{selection.models} models from {runs}: p and intervals take them as independent.",)


def _bar(sizes: Sequence[Agreement], metrics: int) -> str:
    held = sorted((row for row in sizes if row.rho is not None), key=lambda row: -(row.rho or 0.0))
    named = "; ".join(
        f"{row.name}, median rho {_rho(row.rho)}, p < .05 on {row.significant} of "
        + (count(len(row.tasks), "task") if i == 0 else str(len(row.tasks)))
        for i, row in enumerate(held)
    )
    lead = (
        "What a metric has to beat, task by task"
        if metrics
        else ("No metric is judged here; what one would have to beat, task by task")
    )
    return f"{lead}: {named}."


def _judged(row: Agreement, metrics: int) -> str:
    if row.rho is None:
        return "no task has 4 models with different values and scores: nothing to say"
    size = [rival for rival in row.rivals if rival.size]
    if row.n is not None and row.runs is not None and row.runs < FEW:
        few = f"training runs to say ({row.runs:g} of {row.n:g} models"
        if row.runs == row.n:
            few = f"models to say ({row.n:g}"
        return (
            f"too few {few}, the median over tasks; {FEW} at least): median rho "
            f"{_rho(row.rho)}" + (_beside(size) if size else "")
        )
    size = [rival for rival in size if rival.runs >= FEW]
    if not size:
        return f"median rho {_rho(row.rho)}, and no size of {FEW} models to compare it with"
    if any(not _ahead(rival) for rival in size):
        best = min(size, key=lambda rival: rival.own - rival.rho)
        return f"no better than {best.name} (median rho {_rhos(best)}{_where(row, best)})"
    said = _ahead_of_size(row, size, metrics)
    for rival in row.rivals:  # what is no size: rank of the final state, release date
        if not rival.size and not _ahead(rival):
            said += f"; no better than {rival.name} ({_rhos(rival)})"
    return said


def _ahead(rival: Rival) -> bool:
    """By a lead that is seen as it is printed."""
    return round(rival.own - rival.rho, 2) > 0


def _ahead_of_size(row: Agreement, size: Sequence[Rival], metrics: int) -> str:
    closest = min(size, key=lambda rival: rival.low if rival.low is not None else -2.0)
    over = "" if closest.over == "models" else "over tasks, not models; "
    if closest.low is not None and closest.low > 0:
        return (
            f"better than every size baseline ({over}closest: {closest.name}, median rho "
            f"{_rhos(closest)}{_where(row, closest)})"
        )
    together = f" for {metrics} metrics together" if metrics > 1 else ""
    spread = "no interval can be drawn"
    if closest.low is not None:
        spread = f"{over}95 %{together}: {closest.low:+z.2f} to {closest.high or 0.0:+z.2f}"
    return (
        f"ahead of every size baseline, but by no more than other {closest.over} might undo: its "
        f"lead over {closest.name} is {closest.own - closest.rho:+z.2f} ({spread})"
    )


def _beside(size: Sequence[Rival]) -> str:
    best = min(size, key=lambda rival: rival.own - rival.rho)
    return f", {best.name} {_rho(best.rho)}"


def _where(row: Agreement, rival: Rival) -> str:
    """Said where the two were compared on less than all that the metric has."""
    same = rival.tasks == len(row.tasks) and rival.n == row.n
    on = f"{count(rival.tasks, 'task')} and {rival.n:g} models"
    return "" if same else f", on the {on} that have both"


def _rhos(rival: Rival) -> str:
    return f"{_rho(rival.own)} against {_rho(rival.rho)}"


def _rho(value: float | None) -> str:
    return "-" if value is None else f"{value:+z.2f}"
