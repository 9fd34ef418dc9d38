"""How well each predictor orders the models task by task, and whether a metric beats size.

Predictors are the metrics' selection scores, some other model-level scores, and what needs no
metric. + always means that they agree: a metric that ranks the lowest value first is turned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from lrd_harness.board import statistics, training
from lrd_harness.board.cautions import Caution, count
from lrd_harness.board.panel import FRENET_RANK, LOG_PARAMETERS, RELEASED, Kind, Panel, Predictor
from lrd_harness.report import Column, Table, listing

REACHES = 5  # models from which on p < .05 can be reached
LEAST = 4  # models that have both, for a task to count
FEW = 10  # training runs: below, a rho is an illustration
RANDOM = "random model"
ALPHA = 0.05
CONTROLS = (LOG_PARAMETERS, FRENET_RANK)
NO_SIZES = (FRENET_RANK, RELEASED)  # baselines that are none
NOT_DRAWN = np.full((2, 1), np.nan)
Row = dict[str, Any]
Drawn = np.ndarray | None  # rho in each resample (draws,), NaN where not defined


@dataclass(frozen=True)
class Rival:
    """A metric beside one baseline, on the models and tasks that have both and a score.

    own, rho: median rho of the metric and of the baseline; low, high: bootstrap interval of their
    difference, for all metrics together at 95 % (Bonferroni); None where it cannot be drawn of each
    of these tasks. n, runs: median numbers of models, and of training runs, per task.
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

    rho, tau, partial, n, runs: medians over tasks; low, high: 95 % bootstrap interval of the median
    rho over tasks (None below 5); models_low, models_high: the same over models (None above 500,
    and where a task of the median has fewer than 5); regrets: means over tasks. tasks: see
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
    tau: float | None
    partial: Mapping[str, float | None]
    n: float | None
    runs: float | None
    regrets: Mapping[str, float | None]
    tasks: tuple[Row, ...]
    rivals: tuple[Rival, ...] = ()

    @property
    def sizes(self) -> list[Rival]:
        """The baselines beside it that are sizes."""
        return [rival for rival in self.rivals if rival.size]

    def below(self, p: str) -> int:
        """Tasks with a p, or p_holm, below .05."""
        return sum(task[p] is not None and task[p] < ALPHA for task in self.tasks)


class Selection(NamedTuple):
    """All predictors. models: the most that a task has, of so many training runs.

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


@dataclass(frozen=True)
class _Task:
    """One task: scores (models,), predictor -> values (models,), + agrees, runs as numbers."""

    name: str
    actual: np.ndarray
    values: Mapping[str, np.ndarray]
    runs: np.ndarray
    resampled: dict[tuple[bytes, bool], statistics.Resampled] = field(default_factory=dict)
    drawn: dict[tuple[str, bytes, bool], np.ndarray] = field(default_factory=dict)

    def both(self, *predictors: str) -> np.ndarray:
        """Where there is a score and a value of each: (models,)."""
        sides = [self.actual, *(self.values[name] for name in predictors)]
        return np.asarray(~np.isnan(np.array(sides)).any(axis=0))

    def draw(self, name: str, both: np.ndarray, alone: bool = False) -> Drawn:
        """Rho in resamples of all models, the same for all predictors, or of those in the mask.

        None for fewer than 5, above 500 models, which would not fit, and where rho is not defined.
        """
        x, y = self.values[name][both], self.actual[both]
        few = len(both) > statistics.LARGE or len(x) < statistics.LEAST
        if few or not statistics.comparable(x, y):
            return None
        place = both.tobytes(), alone and not both.all()
        if place not in self.resampled:
            counts = statistics.resamples(len(x) if place[1] else len(both))
            counts = counts if place[1] else counts[:, both]
            self.resampled[place] = statistics.Resampled(y, counts)
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
    of = training.runs(panel.models)
    numbers = {of.get(row.key, row.key): i for i, row in enumerate(panel.models)}
    runs = np.array([numbers[of.get(row.key, row.key)] for row in panel.models])
    baselines = [one.score for one in predictors if one.kind == "baseline"]
    on_task: dict[str, list[Row]] = defaultdict(list)
    medians: dict[str, list[Drawn]] = defaultdict(list)  # of tasks with a rho
    pairs: dict[tuple[str, str], list[_Pair]] = defaultdict(list)
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
            for other in baselines if one.kind == "metric" else ():
                if pair := _pair(task, one.score, other):
                    pairs[one.score, other].append(pair)
    metrics = sum(one.kind == "metric" for one in predictors)
    level = 1 - (1 - statistics.LEVEL) / max(1, metrics)
    large = len(panel.models) > statistics.LARGE
    rows = []
    for one in predictors:
        own = {base: found for (name, base), found in pairs.items() if name == one.score}
        rivals = [_rival(base, found, level, large) for base, found in own.items()]
        if on_task[one.score] or one.kind == "metric":
            rows.append(_agreement(one, on_task[one.score], medians[one.score], rivals))
    most = max(~np.isnan(panel.scores.last[places]), key=np.sum)
    return Selection(tuple(rows), int(most.sum()), len(np.unique(runs[most])), large)


def _on_task(task: _Task, name: str, both: np.ndarray) -> Row:
    """One predictor on one task, over the n models in the mask, of so many training runs.

    p: of rho, by permutation (two-sided); low, high: 95 % bootstrap interval of rho over these
    models; partial.CONTROL: partial rank correlation given the control. regret: score lost by
    taking the predictor's top model instead of the best one; regret_largest, regret_random: by
    taking the largest known, and expected of a random one. p_holm is added by `_agreement`.
    """
    x, y = task.values[name][both], task.actual[both]
    controls = {c: task.values[c][both] for c in CONTROLS}
    partial = {c: statistics.partial_rho(x, y, v) for c, v in controls.items()}
    partial_p = {c: statistics.partial_p(x, y, v, rho=partial[c]) for c, v in controls.items()}
    drawn = task.draw(name, both, alone=True)
    low, high = (None, None) if drawn is None else statistics.interval(drawn)
    size = controls[LOG_PARAMETERS]
    largest = None if np.isnan(size).all() else np.where(np.isnan(size), -np.inf, size)
    return {
        "task": task.name,
        "n": len(x),
        "runs": len(np.unique(task.runs[both])),
        "rho": statistics.spearman(x, y),
        "p": statistics.permutation_p(x, y),
        "p_holm": None,
        "tau": statistics.kendall(x, y),
        "low": low,
        "high": high,
        **{f"partial.{control}": rho for control, rho in partial.items()},
        **{f"partial_p.{control}": p for control, p in partial_p.items()},
        "regret": statistics.regret(x, y),
        "regret_largest": None if largest is None else statistics.regret(largest, y),
        "regret_random": statistics.regret(np.zeros_like(y), y),
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
    def of(name: str) -> list[Any]:
        return [task[name] for task in tasks]

    low, high = statistics.bootstrap_median(of("rho"))
    together = _together(drawn)
    over_models = (None, None) if together is None else statistics.interval(_medians(together))
    metric, _, score = one.score.partition(".")
    regrets = ("regret", "regret_largest", "regret_random")
    adjusted = zip(tasks, statistics.holm(of("p")), strict=True)
    return Agreement(
        metric if one.selection and score == metric else one.score,
        one.kind,
        one.best,
        statistics.median(of("rho")),
        low,
        high,
        *over_models,
        tau=statistics.median(of("tau")),
        partial={f"partial.{c}": statistics.median(of(f"partial.{c}")) for c in CONTROLS},
        n=statistics.median(of("n")),
        runs=statistics.median(of("runs")),
        regrets={name: statistics.mean_of_all(of(name)) for name in regrets},
        tasks=tuple(task | {"p_holm": p} for task, p in adjusted),
        rivals=tuple(rivals),
    )


def _rival(name: str, pairs: Sequence[_Pair], level: float, large: bool) -> Rival:
    rhos = np.array([pair.rhos for pair in pairs])
    own, rho = np.median(rhos, axis=0).tolist()
    n, runs = (float(np.median(of)) for of in zip(*((p.n, p.runs) for p in pairs), strict=True))
    medians = _over_tasks(rhos) if large else _over_models([pair.drawn for pair in pairs])
    low, high = statistics.interval(medians[0] - medians[1], level)
    over: Literal["models", "tasks"] = "tasks" if large else "models"
    return Rival(name, name not in NO_SIZES, own, rho, low, high, n, runs, len(pairs), over)


def _over_models(drawn: Sequence[tuple[Drawn, Drawn]]) -> np.ndarray:
    """Median rhos of metric and baseline, models resampled: (2, draws); NaN for none."""
    together = _together([one for both in drawn for one in both])
    if together is None:
        return NOT_DRAWN
    together = together.reshape(len(drawn), 2, -1)
    lacking = np.isnan(together).any(axis=1, keepdims=True)
    return _medians(np.where(lacking, np.nan, together))


def _over_tasks(rhos: np.ndarray) -> np.ndarray:
    """The same of rhos (tasks, 2), tasks resampled; none below 5."""
    if len(rhos) < statistics.LEAST:
        return NOT_DRAWN
    shape = statistics.RESAMPLES, len(rhos)
    chosen = np.random.default_rng(42).integers(0, len(rhos), shape)
    return np.asarray(np.median(rhos[chosen], axis=1).T)


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
    """Over all tasks, for people where p < .05 is in reach; by task; beside each baseline."""
    if selection is None:
        return []
    rows, tasks, rivals = [], [], []
    for row in selection.rows:
        who = {"predictor": row.name, "kind": row.kind, "best": row.best}
        below = {"significant": row.below("p"), "holm": row.below("p_holm")}
        cells = {**vars(row), **row.partial, **row.regrets, **below}
        cells["interval"] = span(row.low, row.high)
        cells["interval_models"] = span(row.models_low, row.models_high)
        if row.rho is not None:
            cells |= {f"{name}_share": f"{n}/{len(row.tasks)}" for name, n in below.items()}
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
    needs = "it needs 5 models on each task of the median."
    if selection.large:
        return (
            f"{what}, as are those of the verdicts: above {statistics.LARGE} models none is drawn "
            "over models, which would be the one that counts for models not seen here."
        )
    if all(row.models_low is None for row in selection.rows):
        return f"{what}; over models, which counts for models not seen here, {needs}"
    return (
        f"{what}, and over models, which is the one that counts for models not seen here (and too "
        f"narrow where they are of one family); {needs}"
    )


def agreement_cautions(selection: Selection | None) -> Iterator[Caution]:
    """What a metric has to beat, whether models share training runs, and a verdict on each."""
    if selection is None or not selection.telling:
        return
    metrics = [row for row in selection.rows if row.kind == "metric"]
    sizes = [row for row in selection.rows if row.kind == "baseline" and row.rho is not None]
    sizes = [row for row in sizes if row.name not in NO_SIZES]
    if sizes:
        listed = "; ".join(
            f"{row.name}, median rho {row.rho:+z.2f}, p < .05 on {row.below('p')} of "
            + count(len(row.tasks), "task")
            for row in sorted(sizes, key=lambda row: -(row.rho or 0))
        )
        yield Caution("bar" if metrics else "bar_alone", {"sizes": listed})
    if selection.runs != selection.models:
        runs = count(selection.runs, "training run")
        yield Caution("runs", {"models": selection.models, "runs": runs})
    yield from (verdict(row, len(metrics)) for row in metrics)


def verdict(row: Agreement, metrics: int = 1) -> Caution:
    """One metric in one sentence. metrics: how many are judged by the table."""
    said: Row = {"name": row.name, "rho": row.rho, "n": row.n, "runs": row.runs, "least": FEW}
    if row.rho is None:
        return Caution("no_task", said)
    if row.n is not None and row.runs is not None and row.runs < FEW:
        best = min(row.sizes, key=lambda rival: rival.lead, default=None)
        said["beside"] = "" if best is None else f", {best.name} {best.rho:+z.2f}"
        return Caution("few_models" if row.runs == row.n else "few_runs", said)
    sizes = [rival for rival in row.sizes if rival.runs >= FEW]
    if not sizes:
        return Caution("no_size", said)
    if all(size.ahead for size in sizes):
        rival = min(sizes, key=lambda size: -2.0 if size.low is None else size.low)
        code = "better" if rival.low is not None and rival.low > 0 else "may_be_chance"
        others = [other for other in row.rivals if not other.size and not other.ahead]
    else:
        code, rival, others = "not_better", min(sizes, key=lambda rival: rival.lead), []
    same = rival.tasks == len(row.tasks) and rival.n == row.n
    on = f", on the {count(rival.tasks, 'task')} and {rival.n:g} models that have both"
    over = "" if rival.over == "models" else "over tasks, not models; "
    together = f" for {metrics} metrics together" if metrics > 1 else ""
    interval = span(rival.low, rival.high)
    also = (f"; no better than {o.name} ({o.own:+z.2f} against {o.rho:+z.2f})" for o in others)
    said |= {"other": rival.name, "rho": rival.own, "other_rho": rival.rho, "lead": rival.lead}
    said |= {"where": "" if same else on, "over": over if code == "better" else rival.over}
    said["spread"] = f"{over}95 %{together}: {interval}" if interval else "no interval"
    return Caution(code, said | {"also": "".join(also)})
