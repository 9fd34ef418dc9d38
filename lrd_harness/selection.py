"""How well each predictor orders the models task by task, and whether a metric beats size.

Per task: Spearman's rho over the models between a predictor and the main score of the last layer.
Predictors: every metric's selection score, some other model-level scores, and what needs no metric
(log parameters, log width, depth, `frenet.rank`, released later). + always means that they agree: a
metric that ranks the lowest value first is turned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Literal

import numpy as np

from lrd_harness import inference, stats
from lrd_harness.panel import Panel, Values
from lrd_harness.predictors import FRENET_RANK, LOG_PARAMETERS, RELEASED, dates, sizes
from lrd_harness.results import Key
from lrd_harness.selection_rows import Agreement, Rival, Selection, TaskAgreement

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
    """What all predictors are held against.

    counts: resamples of the models, None: too many; drawn: rho in these, of what was asked for
    before, by predictor, task and models.
    """

    tasks: Sequence[str]
    actual: Grid
    controls: Mapping[str, Grid]
    counts: np.ndarray | None
    drawn: dict[tuple[int, int, bytes], np.ndarray] = field(default_factory=dict)


def build_selection(panel: Panel) -> Selection | None:
    """Every predictor on every task; None where no task has scores of 4 models."""
    tasks = [task for task, by_model in panel.last.items() if len(by_model) >= LEAST]
    if not tasks:
        return None
    actual = _grid(panel.last, tasks, panel)
    held = _predictors(panel, tasks)
    by_name = {predictor.name: predictor.values for predictor in held}
    few = actual.shape[1] <= stats.LARGE
    setting = _Setting(
        tasks=tasks,
        actual=actual,
        controls={name: by_name[name] for name in (LOG_PARAMETERS, FRENET_RANK)},
        counts=inference.resamples(actual.shape[1]) if few else None,
    )
    models = int(np.max(np.sum(~np.isnan(actual), axis=1)))
    return Selection(_agreements(held, setting), models)


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
    both = ~np.isnan(predictor.values) & ~np.isnan(setting.actual)
    counted = [t for t, n in enumerate(both.sum(axis=1)) if n >= LEAST]
    drawn = {t: _drawn(predictor, setting, t, both[t]) for t in counted}
    tasks = [_on_task(predictor, setting, t, both[t], drawn[t]) for t in counted]
    holm = inference.holm([task.p for task in tasks])
    over_tasks = inference.bootstrap_median([task.rho for task in tasks])
    over_models = _median_interval(drawn.values())
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
        regret=_mean([task.regret for task in tasks]),
        regret_largest=_mean([task.regret_largest for task in tasks]),
        regret_random=_mean([task.regret_random for task in tasks]),
        tasks=tuple(replace(t, p_holm=p) for t, p in zip(tasks, holm, strict=True)),
        rivals=rivals,
    )


def _on_task(
    predictor: _Predictor, setting: _Setting, t: int, both: np.ndarray, drawn: np.ndarray | None
) -> TaskAgreement:
    """On task t, over the models in the mask `both`; p_holm is left to whoever has all tasks."""
    x, y = predictor.values[t][both], setting.actual[t][both]
    controls = {name: values[t][both] for name, values in setting.controls.items()}
    of_size = controls[LOG_PARAMETERS]
    own = predictor.name if predictor.kind == "baseline" else None
    nothing = np.full_like(y, np.nan)  # a predictor says nothing beside itself
    beside = {c: nothing if c == own else v for c, v in controls.items()}
    partial = {c: inference.partial_rho(x, y, v) for c, v in beside.items()}
    low, high = (inference.interval(drawn) if drawn is not None else None) or (None, None)
    return TaskAgreement(
        task=setting.tasks[t],
        n=len(x),
        rho=stats.spearman(x, y),
        p=stats.permutation_p(x, y),
        p_holm=None,
        tau=inference.kendall(x, y),
        low=low,
        high=high,
        partial=partial,
        partial_p={c: inference.partial_p(x, y, v, rho=partial[c]) for c, v in beside.items()},
        regret=inference.regret(x, y),
        regret_largest=inference.regret(of_size, y),
        regret_random=inference.regret(np.zeros_like(y), y),
    )


def _drawn(predictor: _Predictor, setting: _Setting, t: int, both: np.ndarray) -> np.ndarray | None:
    """rho on task t in each resample of the models in the mask; None for too few or too many."""
    if setting.counts is None or both.sum() < inference.LEAST:
        return None
    place = id(predictor), t, both.tobytes()
    if place not in setting.drawn:
        x, y = predictor.values[t][both], setting.actual[t][both]
        setting.drawn[place] = inference.resampled_rho(x, y, setting.counts[:, both])
    return setting.drawn[place]


def _rival(
    metric: _Predictor, baseline: _Predictor, setting: _Setting, level: float
) -> Rival | None:
    """The two on the same cells; None where no task has both."""
    cells = ~np.isnan(metric.values) & ~np.isnan(baseline.values) & ~np.isnan(setting.actual)
    pairs, drawn, n = [], [], []
    for t in np.flatnonzero(cells.sum(axis=1) >= LEAST).tolist():
        both = cells[t]
        sides = [grid.values[t][both] for grid in (metric, baseline)]
        own, rho = (stats.spearman(side, setting.actual[t][both]) for side in sides)
        if own is None or rho is None:
            continue
        pairs.append((own, rho))
        n.append(int(both.sum()))
        drawn.append([_drawn(grid, setting, t, both) for grid in (metric, baseline)])
    if not pairs:
        return None
    own, rho = np.median(pairs, axis=0).tolist()
    low, high = _lead(np.array(pairs), drawn, setting.counts is None, level) or (None, None)
    size = baseline.name not in (FRENET_RANK, RELEASED)
    return Rival(baseline.name, size, own, rho, low, high, float(np.median(n)), len(pairs))


def _lead(
    pairs: np.ndarray, drawn: Sequence[Sequence[np.ndarray | None]], large: bool, level: float
) -> inference.Interval | None:
    """The interval of the first's median rho less the second's: over models, or tasks if large."""
    if large:
        if len(pairs) < inference.LEAST:
            return None
        shape = inference.RESAMPLES, len(pairs)
        chosen = np.random.default_rng(42).integers(0, len(pairs), shape)
        medians = np.median(pairs[chosen], axis=1)  # (draws, 2)
        return inference.interval(medians[:, 0] - medians[:, 1], level)
    held = np.array([both for both in drawn if both[0] is not None])  # (tasks, 2, draws)
    if not len(held):
        return None
    held[np.broadcast_to(np.isnan(held).any(axis=1, keepdims=True), held.shape)] = np.nan
    medians = _medians(held)
    return inference.interval(medians[0] - medians[1], level)


def _median_interval(drawn: Iterable[np.ndarray | None]) -> inference.Interval | None:
    held = [one for one in drawn if one is not None]
    return inference.interval(_medians(np.array(held))) if held else None


def _medians(drawn: np.ndarray) -> np.ndarray:
    """Medians over tasks (the first axis) of what is defined in a resample, NaN for nothing."""
    there = ~np.isnan(drawn)
    counts = there.sum(axis=0, keepdims=True)
    ordered = np.sort(drawn, axis=0)  # NaN last
    low, high = np.maximum(counts - 1, 0) // 2, np.minimum(counts // 2, len(drawn) - 1)
    found = (np.take_along_axis(ordered, low, 0) + np.take_along_axis(ordered, high, 0)) / 2
    return np.asarray(found[0])


def _mean(values: Sequence[float | None]) -> float | None:
    held = [value for value in values if value is not None]
    return fsum(held) / len(held) if held else None
