"""How well each predictor orders the models task by task, and whether a metric beats size.

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

from lrd_harness import inference, selection_intervals, stats
from lrd_harness.checkpoints import families
from lrd_harness.panel import Panel, Values
from lrd_harness.predictors import FRENET_RANK, LOG_PARAMETERS, RELEASED, dates, sizes
from lrd_harness.results import Key, Results
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
    """What all predictors are held against. runs: the models' training runs, as numbers."""

    tasks: Sequence[str]
    actual: Grid
    controls: Mapping[str, Grid]
    runs: np.ndarray
    draws: selection_intervals.Draws

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
        draws=selection_intervals.Draws(actual),
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
    over_models = selection_intervals.of_median(
        [setting.draws.rho(predictor.values, t, both[t]) for t in in_median]
    )
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
        regret=stats.mean_of_all([task.regret for task in tasks]),
        regret_largest=stats.mean_of_all([task.regret_largest for task in tasks]),
        regret_random=stats.mean_of_all([task.regret_random for task in tasks]),
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
        rho=stats.spearman(x, y),
        p=stats.permutation_p(x, y),
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
        own, rho = (stats.spearman(side, setting.actual[t][both]) for side in sides)
        if own is None or rho is None:
            continue
        pairs.append((own, rho))
        n.append(int(both.sum()))
        runs.append(setting.count_runs(both))
        drawn.append([setting.draws.rho(grid.values, t, both) for grid in (metric, baseline)])
    if not pairs:
        return None
    large = setting.draws.large
    found = (
        selection_intervals.of_lead_over_tasks(np.array(pairs), level)
        if large
        else selection_intervals.of_lead(drawn, level)
    )
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
