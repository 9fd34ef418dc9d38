"""The models in order: ranks, means and scores by task, and the tables made of them.

The actual rank orders the mean over tasks of the main score of the last layer. A predicted rank,
one per metric, orders the mean over tasks of the within-task ranks of its selection score. Means
over different tasks are not comparable, so a model that lacks a task that others have gets no rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import hypot, inf
from typing import Any

import numpy as np

from lrd_harness.board import cautions, statistics, values
from lrd_harness.board import panel as panels
from lrd_harness.board.cautions import Caution
from lrd_harness.report import Column, Table, listing
from lrd_harness.results.kinds import Kind, model_kind
from lrd_harness.results.rows import Results

INFO = "model revision parameters blocks width pooling max_length family".split()
PAIRS = 3  # pairs of models named in one sentence
Row = dict[str, Any]


@dataclass(frozen=True)
class Ranking:
    """Models and tasks of one kind. names: how many models have a name, revisions of one."""

    results: Results
    kind: Kind
    names: Mapping[str, int]

    @cached_property
    def panel(self) -> panels.Panel:
        return panels.make(self.results)

    @property
    def tasks(self) -> tuple[panels.TaskColumn, ...]:
        return self.panel.tasks

    @property
    def base(self) -> bool:
        return self.kind == "base"

    @cached_property
    def selecting(self) -> list[panels.Predictor]:
        """The selection scores."""
        return [one for one in self.panel.predictors if one.selection]

    @property
    def title(self) -> str:
        counts = (len(self.panel.models), "model"), (len(self.tasks), "task")
        name = "Base models" if self.base else "Leaderboard"
        return f"{name}: {', '.join(cautions.count(*one) for one in counts)}"

    @cached_property
    def labels(self) -> list[str]:
        """What tables call the models: the name, with the revision where several have it."""
        return [
            f"{m.model}@{m.revision[:12]}" if self.names[m.model] > 1 else m.model
            for m in self.panel.models
        ]

    @cached_property
    def rows(self) -> list[Row]:
        """One per model, by actual rank; those without one last.

        Where no model has one, by the first metric's. Ranks, means and scores by task, under the
        names that they have in tables; place: in the panel; cautions: on this model.
        """
        found = self.panel
        columns: dict[str, list[Any]] = {"rank": statistics.places(found.actual)}
        columns |= {f"predicted.{p.name}": statistics.places(p.order) for p in self.selecting}
        columns |= {"model": self.labels, "place": list(range(len(found.models)))}
        columns |= {"tasks": (~np.isnan(found.scores.last)).sum(axis=0).tolist()}
        columns |= _cells(found.means)
        columns |= {one.score: _numbers(one.means) for one in self.selecting}
        for t, task in enumerate(self.tasks):
            of_task = _cells(panels.Scores(*(array[t] for array in found.scores)))
            columns |= {f"{name}.{task.name}": cells for name, cells in of_task.items()}
        rows: list[Row] = []
        for i, model in enumerate(found.models):
            row: Row = {name: getattr(model, name) for name in (*INFO[1:], "adapter", "released")}
            row |= {"name": model.model} | {name: cells[i] for name, cells in columns.items()}
            rows.append(row | {"cautions": list(self._of_model(row))})
        guide = "rank"
        if self.selecting and all(row["rank"] is None for row in rows):
            guide = f"predicted.{self.selecting[0].name}"
        return sorted(rows, key=lambda r: (inf if r[guide] is None else r[guide], -r["tasks"]))

    def cautions(self) -> Iterator[Caution]:
        """On the order of the models as a whole."""
        rows = self.rows
        if not rows:
            yield Caution("empty")
        elif not any(row["tasks"] for row in rows):
            guide = [one.name for one in self.selecting[:1]]
            said = [f"; the rows are ordered by the predicted rank of {name}" for name in guide]
            yield Caution("no_scores", {"order": "".join(said)})
        else:
            yield from cautions.of_number(sum(row["rank"] is not None for row in rows))
        if rows and not self.selecting:
            yield Caution("no_metrics", {"where": " on these tasks" if self.base else ""})
        if any(row["best_layer"] is not None for row in rows):
            yield Caution("oracle")
            if self.base and any(row["chance"] is not None for row in rows):
                most, same = self.panel.layers
                yield Caution("many_layers", {"layers": f"{'' if same else 'up to '}{most}"})
        if self.base:
            yield from _level(rows)
        yield from cautions.of_results(self.results)

    def _of_model(self, row: Row) -> Iterator[Caution]:
        """What a model lacks that others have, and that its last layer may as well have guessed."""
        model, place = row["model"], row["place"]
        tasks = [task.name for task in self.tasks]
        lacking = [task for task in tasks if row[f"score.{task}"] is None]
        if lacking and len(lacking) == len(tasks):
            yield Caution("unscored", {"model": model})
        elif lacking:
            of = {"tasks": cautions.names(lacking), "all": len(tasks)}
            yield Caution("lacks_tasks", {"model": model, "held": row["tasks"], **of})
        without: dict[tuple[str, ...], list[str]] = {}  # tasks -> metrics that miss these
        for one in self.selecting:
            cells = zip(one.tasks or (), one.values[:, place], strict=True)
            missing = tuple(task for task, value in cells if np.isnan(value))
            without.setdefault(missing, []).append(one.name)
        for missing, metrics in without.items():
            if missing:
                of = {"metrics": ", ".join(metrics), "tasks": cautions.names(missing)}
                yield Caution("lacks_metrics", {"model": model, **of})
        score, stderr, chance = row["score"], row["stderr"], row["chance"]
        if self.base and score is not None and cautions.guesses(score, stderr, chance):
            numbers = {"score": score, "stderr": stderr, "chance": chance}
            yield Caution("guessing", {"model": model, **numbers})


def _cells(scores: panels.Scores) -> dict[str, list[Any]]:
    """Cells of the columns of scores (models,): name -> one per model."""
    last, stderr, chance, layer, best, best_stderr = map(_numbers, scores)
    layers = [None if value is None else int(value) for value in layer]
    found = {"score": last, "stderr": stderr, "chance": chance}
    return found | {"best_layer": layers, "best_score": best, "best_stderr": best_stderr}


def _numbers(cells: np.ndarray) -> list[Any]:
    return [None if np.isnan(value) else value for value in cells.tolist()]


def _level(rows: Sequence[Row]) -> Iterator[Caution]:
    """Neighbours in actual rank whose scores differ by less than chance would make them.

    The questions are the same for both and their errors go together, so that the true standard
    error of the difference is mostly smaller: the remark is on the careful side.
    """
    pairs = []
    for first, second in pairwise(row for row in rows if row["rank"] is not None):
        if first["rank"] == second["rank"] or None in (first["stderr"], second["stderr"]):
            continue
        if first["score"] - second["score"] < 2 * hypot(first["stderr"], second["stderr"]):
            pairs.append(f"{first['model']} and {second['model']}")
    named = pairs[:PAIRS]
    if more := len(pairs) - len(named):
        named.append(f"and {cautions.count(more, 'more pair')}")
    if named:
        yield Caution("level", {"pairs": "; ".join(named)})


def ranking_table(ranking: Ranking) -> Table:
    """One row per model: ranks, size, mean scores, means of the selection scores."""
    units, selecting, several = values.units(), ranking.selecting, len(ranking.tasks) > 1
    measured = []
    for one in selecting:
        metric, _, score = one.score.partition(".")
        unit = units.get((metric, score), "")
        measured.append(Column(one.score, f"{metric} {score}", unit, one.best, "#.4g"))
    columns = (
        Column("rank", "actual rank", form="place"),
        *(Column(f"predicted.{p.name}", f"pred. {p.name}", form="place") for p in selecting),
        Column("model", key=True),
        Column("parameters_millions", "million params", form=",.1f", rest=1),
        Column("blocks", rest=1),
        Column("width", "width", "dims", rest=1),
        Column("score", "score last", best="max", form=".4f", error="stderr"),
        Column("chance", form=".4f"),
        Column("best_layer", "best layer"),
        Column("best_score", "score best", "", "max", ".4f", "best_stderr", tied=ranking.base),
        *measured,
        Column("tasks", rest=2),
        Column("pooling", rest=2),
        Column("revision", rest=2),
        *(Column(name, shown=False) for name in ("stderr", "best_stderr")),
    )
    rows = [
        row
        | {
            "parameters_millions": row["parameters"] / 1e6 if row["parameters"] else None,
            "revision": row["revision"][:7] or None,
        }
        for row in ranking.rows
    ]
    mean = "mean over the tasks of the main score" if several else "main score"
    head = ", its states read by the language-model head" if ranking.base else ""
    caption = []
    if ranking.tasks:
        caption.append(
            f"actual rank: order of the score (1 = best). score last: {mean} (0 to 1) of the last "
            f"layer, which is the model itself; best: of the layer with the highest mean{head}."
        )
    if any(row[name] is not None for row in rows for name in ("stderr", "chance")):
        independent = ", taking the tasks as independent" if several else ""
        caption.append(
            f"±: one standard error over the questions{independent}. chance: what guessing gets."
        )
    if selecting:
        caption.append(
            "pred.: predicted rank (1 = best), without labels: order of the mean over tasks of the "
            "model's rank within each task by the metric's selection score, whose own mean over "
            "tasks is in the metric's column (↑ higher, ↓ lower is ranked first)."
        )
    return Table("ranking", ranking.title, columns, rows, tuple(caption))


def scores_table(ranking: Ranking) -> Table:
    """Scores by task. Of a single embedding task the ranking says all."""
    columns = [Column("model", key=True)]
    rows = [dict(row) for row in ranking.rows]
    for task in ranking.tasks:
        name, chance = task.name, "" if task.chance is None else f", chance {task.chance:.4g}"
        label, of = f"{name} {task.score_name or 'score'}", f"n = {task.models}{chance}"
        columns += [
            Column(f"score.{name}", label, of, "max", ".4f", error=f"stderr.{name}"),
            Column(f"best.{name}", "best layer", tied=True),
            *(Column(f"{n}.{name}", shown=False) for n in ("stderr", "best_layer", "best_score")),
        ]
        for row in rows:
            layer, best = row[f"best_layer.{name}"], row[f"best_score.{name}"]
            row[f"best.{name}"] = None if layer is None else f"{layer}: {best:.4f}"
    caption = (
        "Main score of the last layer (0 to 1), n: models that have it; ±: one standard error over "
        "the task's questions. best layer: the best one of that task and its score (an oracle).",
    )
    shown = bool(rows) and len(ranking.tasks) > (0 if ranking.base else 1)
    title = "Base models: scores by task" if ranking.base else "Scores by task"
    return Table("scores", title, tuple(columns), rows, caption, shown)


def listings(ranking: Ranking) -> list[Table]:
    """Models, tasks and metrics, for programs."""
    names, units, found = ["model", "name", *INFO[1:], "adapter", "released"], values.units(), []
    for row in ranking.rows:
        kind = model_kind(ranking.panel.models[row["place"]], ranking.kind)
        found.append({name: row[name] for name in names} | {"kind": kind})
    tasks = [{"task": task.name, **task._asdict()} for task in ranking.tasks]
    metrics = []
    for name, (score, best), of in ranking.panel.metrics:
        row = {"metric": name, "score": score, "best": best, "tasks": list(of)}
        metrics.append(row | {"unit": units.get((name, score), "")})
    for task in tasks:
        del task["name"]
    return [
        listing("model_info", "Models as recorded", found, "model"),
        listing("tasks", "Tasks", tasks, "task"),
        listing("metrics", "Metrics that rank models", metrics, "metric"),
    ]


def models_table(main: Ranking, base: Ranking | None) -> Table:
    """One row per model, numbers in full, for programs; behind the notes the base board's columns.

    rank, predicted.METRIC (one column per metric), model, revision, parameters, blocks, width,
    pooling, max_length, family, tasks (scored), score (mean, last layer), best_layer, best_score,
    METRIC.SCORE (mean of the selection score), score.TASK, best_layer.TASK, best_score.TASK, notes.
    Of likelihood tasks also stderr and best_stderr (standard errors of score and best_score),
    chance, and stderr.TASK and chance.TASK. Where there are embedding tasks too, the likelihood
    tasks are behind the notes: base.rank, base.predicted.METRIC, base.tasks, base.score, ...,
    base.METRIC.SCORE, then score.TASK, ..., and base.notes; empty for models without such tasks.
    """
    names = [*_ranks(main), *INFO, *_means(main), *_by_task(main), "notes"]
    rows = [row | {"model": row["name"], "notes": _notes(row)} for row in main.rows]
    if base and base.rows:
        whole = [*_ranks(base), *_means(base)]
        names += [*(f"base.{name}" for name in whole), *_by_task(base), "base.notes"]
        own = {(row["name"], row["revision"]): row for row in base.rows}
        for row in rows:
            found = own.get((row["name"], row["revision"]))
            if found:
                row |= {f"base.{name}": found[name] for name in whole}
                row |= {name: found[name] for name in _by_task(base)}
                row["base.notes"] = _notes(found)
    columns = tuple(Column(name, key=name == "model") for name in names)
    return Table("models", "Models", columns, rows, shown=False)


def _notes(row: Row) -> str:
    """What is said of the model, without its name."""
    said = [str(caution).removeprefix(f"{row['model']}: ") for caution in row["cautions"]]
    return "; ".join(text.removesuffix(".") for text in said)


def _ranks(ranking: Ranking) -> list[str]:
    return ["rank", *(f"predicted.{one.name}" for one in ranking.selecting)]


def _means(ranking: Ranking) -> list[str]:
    names = ["tasks", "score", *(("stderr", "chance") if ranking.base else ()), "best_layer"]
    names += ["best_score", *(["best_stderr"] if ranking.base else [])]
    return [*names, *(one.score for one in ranking.selecting)]


def _by_task(ranking: Ranking) -> list[str]:
    parts = ["score", *(("stderr", "chance") if ranking.base else ()), "best_layer", "best_score"]
    return [f"{part}.{task.name}" for task in ranking.tasks for part in parts]
