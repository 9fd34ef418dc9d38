"""How well each predictor orders the models task by task, and whether a metric beats size.

Per task: Spearman's rho over the models between a predictor and the main score of the last layer.
Predictors: every metric's selection score, some other model-level scores, and what needs no metric
(log parameters, log width, depth, `frenet.rank`, released later). + always means that they agree: a
metric that ranks the lowest value first is turned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from lrd_harness.board import inference, statistics
from lrd_harness.board.families import families
from lrd_harness.board.panel import FRENET_RANK, LOG_PARAMETERS, RELEASED, Kind, Panel, Predictor
from lrd_harness.report import Column, Table, listing
from lrd_harness.results.rows import Results

REACHES = 5  # models from which on p < .05 can be reached
LEAST = 4  # models that have both, for a task to count
RANDOM = "random model"
ALPHA = 0.05
CONTROLS = (LOG_PARAMETERS, FRENET_RANK)
Row = dict[str, Any]


@dataclass(frozen=True)
class Rival:
    """A metric beside one baseline, on the models and tasks that have both and a score.

    own, rho: median rho over these tasks of the metric and of the baseline; low, high: bootstrap
    interval of own - rho, for all metrics together at 95 % (Bonferroni), over models, or over tasks
    for more than 500 models; None where it cannot be drawn of each of these tasks.
    n, runs: median numbers of models, and of training runs, per task.
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
    over: Literal["models", "tasks"]

    @property
    def lead(self) -> float:
        return self.own - self.rho

    @property
    def ahead(self) -> bool:
        """Whether the metric leads, by what is seen in print."""
        return round(self.lead, 2) > 0


@dataclass(frozen=True)
class Agreement:
    """One predictor over all tasks with at least 4 models that have it and a score.

    best: which of its values predicts the better model. rho, tau, partial: medians over tasks; low,
    high: 95 % bootstrap interval of the median rho over tasks (None below 5); models_low,
    models_high: the same over models (None above 500, and where a task of the median has fewer than
    5); significant, holm: tasks with p < .05 and after Holm over tasks; n, runs: median numbers of
    models and of training runs; regret, regret_largest, regret_random: means over tasks. tasks: see
    `_on_task`; rivals: of a metric, the baselines beside it.
    """

    name: str
    kind: Kind
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
    tasks: tuple[Row, ...]
    rivals: tuple[Rival, ...] = ()

    @property
    def sizes(self) -> list[Rival]:
        """The baselines beside it that are sizes."""
        return [rival for rival in self.rivals if rival.size]


class Selection(NamedTuple):
    """All predictors. models: the most that a task has; runs: the training runs that these are of.

    large: whether there are more models than can be resampled, so that intervals are over tasks.
    """

    rows: tuple[Agreement, ...]
    models: int
    runs: int
    large: bool = False

    @property
    def telling(self) -> bool:
        """Whether p < .05 can be reached."""
        return self.models >= REACHES


Drawn = np.ndarray | None  # rho in each resample (draws,), NaN where not defined


@dataclass(frozen=True)
class _Task:
    """One task: what all predictors are held against, and what was drawn for it.

    actual: (models,) scores; values: predictor -> (models,), + agrees; runs: the models' training
    runs, as numbers.
    """

    name: str
    actual: np.ndarray
    values: Mapping[str, np.ndarray]
    runs: np.ndarray
    resampled: dict[tuple[bytes, bool], inference.Resampled] = field(default_factory=dict)
    drawn: dict[tuple[str, bytes, bool], np.ndarray] = field(default_factory=dict)

    def both(self, *predictors: str) -> np.ndarray:
        """Where there is a score and a value of each: (models,)."""
        sides = [self.actual, *(self.values[name] for name in predictors)]
        return np.asarray(~np.isnan(np.array(sides)).any(axis=0))

    def draw(self, name: str, both: np.ndarray, alone: bool = False) -> Drawn:
        """Rho in resamples of all models, or of those in the mask alone; None for fewer than 5.

        All predictors and tasks see the same resamples. None too above 500 models, which would not
        fit, and where rho is not defined.
        """
        x, y = self.values[name][both], self.actual[both]
        if len(both) > statistics.LARGE or len(x) < inference.LEAST:
            return None
        if not statistics.comparable(x, y):
            return None
        place = both.tobytes(), alone and not both.all()
        if place not in self.resampled:
            counts = inference.resamples(len(x) if place[1] else len(both))
            self.resampled[place] = inference.Resampled(y, counts if place[1] else counts[:, both])
        if (name, *place) not in self.drawn:
            self.drawn[name, *place] = self.resampled[place].rho(x)
        return self.drawn[name, *place]


class _Pair(NamedTuple):
    """A metric and a baseline on one task: their rhos, models, training runs, rhos as drawn."""

    rhos: tuple[float, float]
    n: int
    runs: int
    drawn: tuple[Drawn, Drawn]


def build_selection(panel: Panel) -> Selection | None:
    """Every predictor on every task; None where no task has scores of 4 models."""
    counts = (~np.isnan(panel.scores.last)).sum(axis=1)
    places = np.flatnonzero(counts >= LEAST).tolist()
    if not places:
        return None
    names = [panel.tasks[t].name for t in places]
    none = np.zeros((1, len(panel.models)))
    predictors = (*panel.predictors, Predictor(RANDOM, RANDOM, "control", "max", none))
    grids = {one.score: one.on(names) for one in predictors}
    runs = _runs(panel)
    on_task: dict[str, list[Row]] = {name: [] for name in grids}
    medians: dict[str, list[Drawn]] = {name: [] for name in grids}  # of tasks with a rho
    pairs: dict[tuple[str, str], list[_Pair]] = {}
    for i, t in enumerate(places):  # one task at a time: what is drawn for it is large
        values = {name: grid[i] for name, grid in grids.items()}
        task = _Task(names[i], panel.scores.last[t], values, runs)
        for one in predictors:
            both = task.both(one.score)
            if both.sum() < LEAST:
                continue
            on_task[one.score].append(_on_task(task, one.score, both))
            if on_task[one.score][-1]["rho"] is not None:
                medians[one.score].append(task.draw(one.score, both))
            for other in predictors if one.kind == "metric" else ():
                pair = _pair(task, one.score, other.score) if other.kind == "baseline" else None
                if pair is not None:
                    pairs.setdefault((one.score, other.score), []).append(pair)
    metrics = sum(one.kind == "metric" for one in predictors)
    level = 1 - (1 - inference.LEVEL) / max(1, metrics)
    large = len(panel.models) > statistics.LARGE
    rows = []
    for one in predictors:
        own = {base: found for (name, base), found in pairs.items() if name == one.score}
        rivals = [_rival(base, found, level, large) for base, found in own.items()]
        if on_task[one.score] or one.kind == "metric":
            rows.append(_agreement(one, on_task[one.score], medians[one.score], rivals))
    most = max(~np.isnan(panel.scores.last[places]), key=np.sum)
    return Selection(tuple(rows), int(most.sum()), len(np.unique(runs[most])), large)


def _runs(panel: Panel) -> np.ndarray:
    """Training runs as numbers: checkpoints and revisions of one model are of the same."""
    found = families(Results(models=panel.models))
    runs = {member.key: -1 - i for i, family in enumerate(found) for member in family.members}
    return np.array([runs.get(row.key, i) for i, row in enumerate(panel.models)])


def _on_task(task: _Task, name: str, both: np.ndarray) -> Row:
    """One predictor on one task, over the n models in the mask, of so many training runs.

    p: permutation p-value of rho (two-sided); tau: Kendall's tau-b; low, high: 95 % bootstrap
    interval of rho over these models; partial.CONTROL, partial_p.CONTROL: partial rank correlation
    given the control, and its p-value by permuting the predictor. regret: score lost by taking the
    predictor's top model instead of the best one (a fraction, as the score); regret_largest,
    regret_random: the same of the model with the most parameters known, and expected of a random
    one. None where not defined. p_holm, after Holm over the tasks, is added by `_agreement`.
    """
    x, y = task.values[name][both], task.actual[both]
    controls = {c: task.values[c][both] for c in CONTROLS}
    partial = {c: inference.partial_rho(x, y, v) for c, v in controls.items()}
    partial_p = {c: inference.partial_p(x, y, v, rho=partial[c]) for c, v in controls.items()}
    drawn = task.draw(name, both, alone=True)
    low, high = (None if drawn is None else inference.interval(drawn)) or (None, None)
    size = controls[LOG_PARAMETERS]
    known = ~np.isnan(size)
    return {
        "task": task.name,
        "n": len(x),
        "runs": len(np.unique(task.runs[both])),
        "rho": statistics.spearman(x, y),
        "p": statistics.permutation_p(x, y),
        "p_holm": None,
        "tau": inference.kendall(x, y),
        "low": low,
        "high": high,
        **{f"partial.{control}": rho for control, rho in partial.items()},
        **{f"partial_p.{control}": p for control, p in partial_p.items()},
        "regret": inference.regret(x, y),
        "regret_largest": inference.regret(np.where(known, size, -np.inf), y)
        if known.any()
        else None,
        "regret_random": inference.regret(np.zeros_like(y), y),
    }


def _pair(task: _Task, metric: str, baseline: str) -> _Pair | None:
    """The two on the same models; None below 4, and where one has no rho."""
    both = task.both(metric, baseline)
    if both.sum() < LEAST:
        return None
    y = task.actual[both]
    own, rho = (statistics.spearman(task.values[who][both], y) for who in (metric, baseline))
    if own is None or rho is None:
        return None
    drawn = task.draw(metric, both), task.draw(baseline, both)
    return _Pair((own, rho), len(y), len(np.unique(task.runs[both])), drawn)


def _agreement(
    one: Predictor, tasks: Sequence[Row], drawn: Sequence[Drawn], rivals: Sequence[Rival]
) -> Agreement:
    of = {name: [task[name] for task in tasks] for name in (tasks[0] if tasks else ())}
    median = {name: inference.median(cells) for name, cells in of.items() if name != "task"}
    mean = {name: statistics.mean_of_all(of[name]) for name in of if name.startswith("regret")}
    holm = inference.holm(of.get("p", []))
    low, high = inference.bootstrap_median(of.get("rho", [])) or (None, None)
    together = _together(drawn)
    over_models = None if together is None else inference.interval(_medians(together))
    models_low, models_high = over_models or (None, None)
    metric, _, score = one.score.partition(".")
    return Agreement(
        name=metric if one.selection and score == metric else one.score,
        kind=one.kind,
        best=one.best,
        rho=median.get("rho"),
        low=low,
        high=high,
        models_low=models_low,
        models_high=models_high,
        significant=sum(p is not None and p < ALPHA for p in of.get("p", [])),
        holm=sum(p is not None and p < ALPHA for p in holm),
        tau=median.get("tau"),
        partial={control: median.get(f"partial.{control}") for control in CONTROLS},
        n=median.get("n"),
        runs=median.get("runs"),
        regret=mean.get("regret"),
        regret_largest=mean.get("regret_largest"),
        regret_random=mean.get("regret_random"),
        tasks=tuple(task | {"p_holm": p} for task, p in zip(tasks, holm, strict=True)),
        rivals=tuple(rivals),
    )


def _rival(name: str, pairs: Sequence[_Pair], level: float, large: bool) -> Rival:
    rhos = np.array([pair.rhos for pair in pairs])
    own, rho = np.median(rhos, axis=0).tolist()
    lead = _lead_over_tasks(rhos, level) if large else _lead([p.drawn for p in pairs], level)
    low, high = lead or (None, None)
    return Rival(
        name=name,
        size=name not in (FRENET_RANK, RELEASED),
        own=own,
        rho=rho,
        low=low,
        high=high,
        n=float(np.median([pair.n for pair in pairs])),
        runs=float(np.median([pair.runs for pair in pairs])),
        tasks=len(pairs),
        over="tasks" if large else "models",
    )


def _lead(drawn: Sequence[tuple[Drawn, Drawn]], level: float) -> inference.Interval | None:
    """The interval of the metric's median rho less the baseline's, models resampled."""
    together = _together([one for both in drawn for one in both])
    if together is None:
        return None
    together = together.reshape(len(drawn), 2, -1)
    lacking = np.isnan(together).any(axis=1, keepdims=True)
    medians = _medians(np.where(lacking, np.nan, together))
    return inference.interval(medians[0] - medians[1], level)


def _lead_over_tasks(rhos: np.ndarray, level: float) -> inference.Interval | None:
    """The same of rhos (tasks, 2), tasks resampled; None below 5."""
    if len(rhos) < inference.LEAST:
        return None
    shape = inference.RESAMPLES, len(rhos)
    chosen = np.random.default_rng(42).integers(0, len(rhos), shape)
    medians = np.median(rhos[chosen], axis=1)  # (draws, 2)
    return inference.interval(medians[:, 0] - medians[:, 1], level)


def _together(drawn: Sequence[Drawn]) -> np.ndarray | None:
    """(tasks, draws); None for nothing, or where one is not defined in half of the resamples."""
    kept = [one for one in drawn if one is not None and 2 * np.isnan(one).sum() <= len(one)]
    return np.array(kept) if kept and len(kept) == len(drawn) else None


def _medians(drawn: np.ndarray) -> np.ndarray:
    """Medians over tasks (the first axis) of what is defined in a resample, NaN for nothing."""
    there = ~np.isnan(drawn)
    counts = there.sum(axis=0, keepdims=True)
    ordered = np.sort(drawn, axis=0)  # NaN last
    low, high = np.maximum(counts - 1, 0) // 2, np.minimum(counts // 2, len(drawn) - 1)
    found = (np.take_along_axis(ordered, low, 0) + np.take_along_axis(ordered, high, 0)) / 2
    return np.asarray(found[0])


def span(low: float | None, high: float | None, form: str = "+z.2f") -> str | None:
    """An interval for people: "+0.12 to +0.45"."""
    return None if low is None or high is None else f"{low:{form}} to {high:{form}}"


def agreement_tables(selection: Selection | None, what: str = "models") -> list[Table]:
    """Over all tasks, for people where p < .05 can be reached; by task and beside each baseline."""
    if selection is None:
        return []
    rows, tasks, rivals = [], [], []
    for row in selection.rows:
        who = {"predictor": row.name, "kind": row.kind, "best": row.best}
        cells = vars(row) | {f"partial.{control}": rho for control, rho in row.partial.items()}
        cells["interval"] = span(row.low, row.high)
        cells["interval_models"] = span(row.models_low, row.models_high)
        if row.rho is not None:
            cells["significant_share"] = f"{row.significant}/{len(row.tasks)}"
            cells["holm_share"] = f"{row.holm}/{len(row.tasks)}"
        rows.append(cells | who)
        tasks += [who | task for task in row.tasks]
        rivals += [who | vars(rival) | {"other": rival.name} for rival in row.rivals]
    columns = (
        Column("predictor", key=True),
        Column("kind"),
        Column("best"),
        Column("rho", "median rho", best="max", form="+z.2f"),
        Column("interval", "95 % over tasks"),
        Column("significant_share", "p < .05", "tasks"),
        Column("holm_share", "Holm", "tasks"),
        Column("regret", best="min", form=".3f"),
        Column("n", "n", "models", form="g", rest=1),
        Column("interval_models", "95 % over models", rest=1),
        Column("tau", "median tau", "", "max", "+z.2f", rest=1),
        Column("regret_largest", "regret (largest)", "", "min", ".3f", rest=1),
        Column("regret_random", "regret (random)", "", "min", ".3f", rest=1),
        *(Column(f"partial.{c}", f"rho given {c}", form="+z.2f", rest=1) for c in CONTROLS),
        *(Column(name, shown=False) for name in ("low", "high", "models_low", "models_high")),
        *(Column(name, shown=False) for name in ("significant", "holm", "runs")),
    )
    title = f"How well each predictor orders the {what}, task by task"
    caption = (
        "Per task, Spearman's rho over the models between predictor and main score of the last "
        "layer (+1 the same order, -1 the reverse; a metric whose best is min is turned); the "
        "median over the tasks with at least 4 models. 95 %: " + _intervals(selection),
        "p < .05: tasks whose two-sided permutation p is below, of all; Holm: the same after "
        "Holm's correction over the tasks. n: median number of models. tau: Kendall's tau-b. rho "
        "given: median partial rank correlation, what the predictor says beyond the number of "
        "parameters, or beyond the rank of the final state.",
        "regret: score lost by taking the model predicted best instead of the one that is, mean "
        "over tasks; (largest): by taking the largest known of the same models, (random): what a "
        "draw among them is expected to lose.",
    )
    names = "predictor kind best other size own rho low high n runs tasks over".split()
    beside = [{name: rival[name] for name in names} for rival in rivals]
    return [
        Table("agreement", title, columns, rows, caption, selection.telling),
        listing("agreement_tasks", "Each predictor on each task", tasks, "predictor", "task"),
        listing("rivals", "Each metric beside each baseline", beside, "predictor", "other"),
    ]


def _intervals(selection: Selection) -> str:
    what = "bootstrap interval of this median over tasks"
    if selection.large:
        return (
            f"{what}, as are those of the verdicts: above {statistics.LARGE} models none is drawn "
            "over models, which would be the one that counts for models not seen here."
        )
    needs = "it needs 5 models on each task of the median."
    if all(row.models_low is None for row in selection.rows):
        return f"{what}; over models, which counts for models not seen here, {needs}"
    return (
        f"{what}, and over models, which is the one that counts for models not seen here (and too "
        f"narrow where they are of one family); {needs}"
    )
