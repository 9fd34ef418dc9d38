"""What metrics may say beside what they are asked: the same as another, or what they hang on.

Of each metric without labels one value of a model on a task is looked at: its selection score, else
the mean over layers of the profile that chooses its layer (its first where none does), else its
first number that differs between models. All of it is of the run's own data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lrd_harness.board import depth, statistics, training
from lrd_harness.board.cautions import Caution
from lrd_harness.board.layers import Row, hidden, roles
from lrd_harness.report import Column, Table, inputs
from lrd_harness.results.rows import Results

SAME = 0.9  # |rho| from which two metrics say the same
FOLLOWS = 0.7  # |rho| from which half of what ranks differ by is shared
BY_METRIC = ("top_share", "sink_norm")  # metrics that others may follow
_ABOUT = {"start", "left_out", "too_short", "k", "tokens", "rank"}  # numbers that say how


@dataclass(frozen=True)
class Measured:
    """A metric's values and the texts that they are of: (tasks, models), NaN where there is none.

    score: what is looked at, "frenet.d0L", or "curvature.mean_curvature" of a profile.
    """

    metric: str
    score: str
    values: pd.DataFrame
    n: pd.DataFrame

    def is_score_of(self, other: Measured) -> bool:
        """Whether it is another metric's score by the same name, and equal where both are."""
        if self.score.partition(".")[2] != other.score.partition(".")[2]:
            return False
        mine, theirs = self.values.align(other.values)
        both = (mine.notna() & theirs.notna()).to_numpy()
        return bool(both.any() and np.allclose(mine.to_numpy()[both], theirs.to_numpy()[both]))

    @cached_property
    def _whole(self) -> pd.DataFrame:
        """The values of the models that have all of the metric's tasks."""
        return self.values.dropna(axis=1)

    def of_models(self) -> pd.Series[float]:
        """The mean over tasks of the rank within the task, 1 the lowest, of these models."""
        ranks = stats.rankdata(self._whole.to_numpy(), axis=1).mean(axis=0)
        return pd.Series(ranks, self._whole.columns)

    def of_tasks(self) -> pd.Series[float]:
        """The mean over these models of a task's rank within the model."""
        return self._whole.rank(axis=0).mean(axis=1)


def measured(results: Results) -> list[Measured]:
    """The metrics of the whole models, in order of appearance; models by their place in them.

    Where several metrics give one and the same score, the first alone.
    """
    frame = results.frame
    frame = frame[(frame.variant == "full") & frame.kind.isin(["value", "profile"])]
    places = {row.key[:2]: i for i, row in enumerate(results.models) if row.variant == "full"}
    keys = zip(frame.model, frame.revision, strict=True)
    frame = frame.assign(place=[places.get(key, -1) for key in keys])
    frame = frame[frame.place >= 0].astype({"n": "float64"})
    chosen = {r.metric: r.selection[0] for r in results.metrics if r.selection and not r.control}
    profiles = {name: role.profile for name, role in roles(results.metrics).items()}
    found = list[Measured]()
    for metric, rows in frame.groupby("source", sort=False):
        name, kind = chosen.get(metric), "value"
        if name is None and metric in profiles:
            name, kind = profiles[metric], "profile"
        elif name is None:
            differs = rows.groupby(["name", "task"]).value.transform("nunique") > 1
            name = next((name for name in rows.name[differs] if name not in _ABOUT), None)
        rows = rows[(rows.kind == kind) & (rows.name == name)].dropna(subset="value")
        if not rows.empty:
            grid = rows.pivot_table(["value", "n"], "task", "place", "mean", sort=False)
            score = f"{metric}.{'mean_' * (kind == 'profile')}{name}"
            one = Measured(str(metric), score, grid["value"], grid["n"])
            if not any(one.is_score_of(other) for other in found):
                found.append(one)
    return found


class Confounds(NamedTuple):
    """rows: of the table `confounds`; redundant: of `redundancy`; what the tasks are made of."""

    rows: list[Row]
    redundant: list[Row]
    read: str

    @property
    def found(self) -> list[Row]:
        """The strongest of each metric, those that follow something."""
        strongest: dict[str, Row] = {}
        for row in self.rows:  # the strongest come first
            if row["follows"]:
                strongest.setdefault(row["metric"], row)
        return [*strongest.values()]


def build_confounds(
    results: Results, profiles: depth.Profiles | None, kind: str = "embedding"
) -> Confounds:
    """Of the whole models of one side's results, whose curves over layers are `profiles`."""
    metrics, read = measured(results), inputs(kind)
    rows = [*_over_models(results, metrics), *_over_tasks(results, metrics, read)]
    adjusted = statistics.holm([row["p"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        strong = abs(row["rho"]) >= FOLLOWS and p is not None and p < statistics.ALPHA
        row |= {"holm": p, "follows": strong}
    rows.sort(key=lambda row: (not row["follows"], -abs(row["rho"])))
    return Confounds(rows, _redundant(results, metrics, profiles), read)


def _over_models(results: Results, metrics: Sequence[Measured]) -> Iterator[Row]:
    """What each metric has to do with the models' sizes and states; a training run counts once."""
    models = [row for row in results.models if row.variant == "full"]
    at = [i for i, row in enumerate(results.models) if row.variant == "full"]
    run_of = training.runs(models)
    runs = pd.Series([str(run_of.get(row.key, row.key)) for row in models], at)
    about = {
        name: pd.Series([getattr(m, name) for m in models], at) for name in ("width", "blocks")
    }
    about |= {m.metric: m.of_models() for m in metrics if m.metric in BY_METRIC}
    by_run = {name: of.astype(float).groupby(runs).mean() for name, of in about.items()}
    for metric in metrics:
        yield from _rows(metric, "models", metric.of_models().groupby(runs).mean(), by_run)


def _over_tasks(results: Results, metrics: Sequence[Measured], read: str) -> Iterator[Row]:
    """What each metric has to do with how many texts a task has, and with their length."""
    lengths = defaultdict(list)
    for row in results.texts:
        if row.length is not None and row.variant == "full":
            lengths[row.task].append(row.length)
    length = pd.Series({task: float(np.mean(of)) for task, of in lengths.items()}, dtype=float)
    for metric in metrics:
        about = {f"number of {read}": metric.n.mean(axis=1), f"length of {read}": length}
        yield from _rows(metric, "tasks", metric.of_tasks(), about)


def _rows(
    metric: Measured, over: str, values: pd.Series[float], about: Mapping[str, pd.Series[float]]
) -> Iterator[Row]:
    """One for each thing that a metric's values may follow, where there are 5 cases at least."""
    for what, of in about.items():
        x, y = statistics.complete(values, of.reindex(values.index).to_numpy())
        rho = statistics.spearman(x, y) if len(x) >= statistics.LEAST else None
        if rho is not None and what != metric.metric:
            row: Row = {"metric": metric.metric, "score": metric.score, "what": what, "over": over}
            yield row | {"rho": rho, "p": statistics.permutation_p(x, y), "n": len(x)}


def _redundant(
    results: Results, metrics: Sequence[Measured], profiles: depth.Profiles | None
) -> list[Row]:
    """Of each metric the one that is most like it, and those that say the same."""
    names = [metric.metric for metric in metrics]
    sources = {r.source: name for name, r in roles(results.metrics).items() if name in names}
    layers = {
        frozenset((sources[row["first"]], sources[row["second"]])): (row["mean"], row["pairs"])
        for row in (profiles.correlations if profiles else ())
        if row["grouping"] == "all" and {row["first"], row["second"]} <= sources.keys()
        if row["pairs"] >= statistics.LEAST
    }
    models = _alike(metrics)
    pairs = [frozenset(pair) for pair in combinations(names, 2)]
    pairs = [pair for pair in pairs if pair in layers or pair in models]
    like = {p: min(abs(of[p][0]) for of in (layers, models) if p in of) for p in pairs}
    group = {name: {name} for name in names}
    for first, second in sorted(pairs, key=lambda pair: -like[pair]):  # complete linkage
        across = product(group[first], group[second])
        if all(a == b or like.get(frozenset((a, b)), 0) >= SAME for a, b in across):
            joined = group[first] | group[second]
            group |= dict.fromkeys(joined, joined)
    nothing, rows = (None, None), list[Row]()
    for name in names:
        others = [o for o in names if frozenset((name, o)) in like]
        if others:
            kin = max(others, key=lambda other: like[frozenset((name, other))])
            pair = frozenset((name, kin))
            row: Row = {"metric": name, "kin": kin}
            row |= dict(zip(("layers", "pairs"), layers.get(pair, nothing), strict=True))
            row |= dict(zip(("models", "tasks"), models.get(pair, nothing), strict=True))
            row["same"] = ", ".join(o for o in names if o in group[name] - {name}) or None
            row["set"] = " = ".join(o for o in names if o in group[name])
            rows.append(row)
    return rows


def _alike(metrics: Sequence[Measured]) -> dict[frozenset[str], tuple[float, int]]:
    """Of each two metrics the mean over tasks of rho over 5 models or more; how many tasks."""
    if len(metrics) < 2:
        return {}
    grids = [m.values for m in metrics]
    tasks = pd.Index(dict.fromkeys(task for grid in grids for task in grid.index))
    models = pd.Index(dict.fromkeys(model for grid in grids for model in grid.columns))
    table = np.stack([grid.reindex(tasks, columns=models) for grid in grids], axis=1)
    rho = depth.by_pair(table, [m.metric for m in metrics], statistics.LEAST)
    means, counts = rho.mean(), rho.count()
    return {
        frozenset(pair): (float(means[pair]), int(counts[pair])) for pair in rho if counts[pair]
    }


def confound_tables(confounds: Confounds) -> list[Table]:
    """Which metrics say the same; what they follow, of which notes tell people."""
    sets = "; ".join(dict.fromkeys(row["set"] for row in confounds.redundant if row["same"]))
    answer = Caution("redundant", {"sets": sets}) if sets else Caution("not_redundant")
    same = (
        Column("metric", key=True),
        Column("same", "says the same as"),
        Column("kin", "most like"),
        Column("layers", "rho over layers", "mean", form="+z.2f"),
        Column("models", "rho over models", "mean", form="+z.2f"),
        *hidden("pairs", "tasks", "set"),
    )
    caption = (
        str(answer),
        "Spearman's rho of each metric without labels with the one most like it. Over layers: of "
        "the profile that chooses its layer, else its first, the mean over pairs of model and "
        f"task, {statistics.LEAST} at least. Over models: of its selection score, else of that "
        f"profile's mean, the mean over the tasks on which {statistics.LEAST} models or more have "
        "both. Most like: the largest |rho|, the smaller of the two where both are known.",
    )
    title = "Which metrics say the same"
    redundancy = Table("redundancy", title, same, confounds.redundant, caption)
    follow = (
        Column("score", "metric", key=True),
        Column("over"),
        Column("what", "and", key=True),
        Column("rho", "Spearman's rho", form="+z.2f"),
        Column("p", "p (two-sided)", form=".2g"),
        Column("holm", "Holm", form=".2g"),
        Column("n", "n"),
        *hidden("follows", "metric"),
    )
    captions = (
        "Over models: of the mean over tasks of the rank within the task, with width, blocks, and "
        "the same mean of top_share and sink_norm where they were measured; models of one training "
        "run count once. Over tasks: of the mean over models of the rank within the model, with "
        f"the number of {confounds.read} and their mean length in characters. p by permutation, "
        "as if models and tasks were independent; Holm: over all rows. A metric follows what it "
        f"has |rho| of {FOLLOWS} or more with, and p < .05 after Holm.",
    )
    title = "What metrics follow"
    return [redundancy, Table("confounds", title, follow, confounds.rows, captions, shown=False)]


def confound_cautions(confounds: Confounds) -> Iterator[Caution]:
    """One for each thing that metrics follow, with those that follow it most."""
    follow: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in confounds.found:
        number = f"{row['score']} (rho {row['rho']:+z.2f}, p = {row['holm']:.2g})"
        follow[row["over"], row["what"]].append(number)
    for (over, what), scores in follow.items():
        yield Caution("confound", {"over": over, "what": what, "scores": ", ".join(scores)})
