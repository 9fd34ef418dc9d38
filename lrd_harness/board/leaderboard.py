"""Results to a Report: the tables of every statistic, and what must be said beside them.

Likelihood tasks have a board of their own, made in the same way, whose tables are named "base.NAME"
where there are embedding tasks too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import hypot, inf
from typing import Any

import numpy as np

from lrd_harness.board import (
    agreement,
    cautions,
    claims,
    depth,
    families,
    layer_choice,
    layers,
    pruned,
    statistics,
    training,
    unseen,
    values,
)
from lrd_harness.board import panel as panels
from lrd_harness.board.cautions import Caution, count
from lrd_harness.report import Column, Report, Table, listing
from lrd_harness.results.kinds import Kind, model_kind, split
from lrd_harness.results.rows import Results

INFO = "model revision parameters blocks width pooling max_length family".split()
PAIRS = 3  # pairs of models named in one sentence
Row = dict[str, Any]


def report(results: Results) -> Report:
    """The leaderboard of the whole models (variant "full"), and of pruned ones; holes are told.

    Tables that programs read besides are not shown. Raises ValueError only for results that `load`
    would not give.
    """
    sides = split(results)
    names = Counter(
        {row.key: row.model for row in results.models if row.variant == "full"}.values()
    )
    main = Board(sides.main, sides.kind, names)
    base = Board(sides.base, "base", names, "base.") if sides.base else None
    boards = [main, base] if base else [main]
    of_boards = [board.results for board in boards]
    sweep = pruned.build_pruned(results)
    errors = sorted(results.errors, key=lambda error: error.variant != "full")
    notes = [str(caution) for caution in main.all_cautions]
    notes += [f"Base models: {caution}" for caution in base.all_cautions] if base else []
    notes += map(str, pruned.pruning_cautions(results, sweep))
    return Report(
        title=main.title,
        tables=(
            *(table for board in boards for table in board.tables(sweep)),
            *pruned.pruning_tables(sweep),
            models_table(main, base),
            layers.layers_table(of_boards, [pick for board in boards for pick in board.picks]),
            training.checkpoints_table(of_boards),
            values.values_table(of_boards),
            values.errors_table(errors),
        ),
        notes=tuple(notes),
        errors=tuple(map(values.error_line, errors)),
        facts={"kind": main.kind, **main.facts, **({"base": base.facts} if base else {})},
    )


@dataclass(frozen=True)
class Board:
    """All that is made of the models and the tasks of one kind.

    names: how many models have a name, revisions of one; prefix: of the names of its tables.
    """

    results: Results
    kind: Kind
    names: Mapping[str, int]
    prefix: str = ""

    @cached_property
    def panel(self) -> panels.Panel:
        return panels.make(self.results)

    @cached_property
    def choice(self) -> layer_choice.LayerChoice | None:
        return layer_choice.build_choice(self.results)

    @cached_property
    def selection(self) -> agreement.Selection | None:
        return agreement.build_selection(self.panel)

    @cached_property
    def combined(self) -> unseen.Combined | None:
        return unseen.build_combined(self.panel)

    @cached_property
    def families(self) -> tuple[list[Table], int]:
        """Their tables, and how many models are in no family of two."""
        return families.family_tables(self.panel, self.labels, self.what)

    @property
    def base(self) -> bool:
        return self.kind == "base"

    @property
    def what(self) -> str:
        return "base models" if self.base else "models"

    @property
    def title(self) -> str:
        counts = count(len(self.panel.models), "model"), count(len(self.panel.tasks), "task")
        return f"{'Base models' if self.base else 'Leaderboard'}: {', '.join(counts)}"

    @property
    def picks(self) -> Sequence[Row]:
        """The layers that metrics choose."""
        return self.choice.picks if self.choice else ()

    @property
    def selecting(self) -> list[panels.Predictor]:
        """The selection scores."""
        return [one for one in self.panel.predictors if one.selection]

    @property
    def facts(self) -> Row:
        """What programs may want beside the tables."""
        combined = self.combined.facts if self.combined else None
        return {"families": {"left_out": self.families[1]}, "combined": combined}

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
        for t, task in enumerate(found.tasks):
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

    def tables(self, sweep: Sequence[pruned.PrunedRow]) -> Iterator[Table]:
        """In the order in which people read them. sweep: the pruned models of both kinds."""
        own = [
            self._ranking_table(),
            self._scores_table(),
            panels.correlation_table(self.panel, self.what),
            *agreement.agreement_tables(self.selection, self.what),
            *self.families[0],
            *unseen.combined_tables(self.combined, self.panel, self.labels, self.what),
            *self._listings(),
        ]
        yield from (replace(table, name=f"{self.prefix}{table.name}") for table in own)
        profiles = depth.build_profiles(self.results, self.kind)
        found = claims.build_claims(self.kind, self.selection, self.choice, self.results, sweep)
        yield from layer_choice.choice_tables(self.choice, self.prefix)
        yield from depth.profile_tables(profiles, self.prefix)
        yield from claims.claim_tables(found, self.prefix)
        yield from training.checkpoint_tables(self.results, self.prefix)

    @cached_property
    def all_cautions(self) -> list[Caution]:
        """On the whole, then on single models."""
        telling = self.selection is not None and self.selection.telling
        return [
            *self._of_order(),
            *cautions.of_results(self.results),
            *agreement.agreement_cautions(self.selection),
            *(unseen.combined_cautions(self.combined) if telling else ()),
            *layer_choice.choice_cautions(self.choice),
            *(caution for row in self.rows for caution in row["cautions"]),
        ]

    def _of_order(self) -> Iterator[Caution]:
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

    def _of_model(self, row: Row) -> Iterator[Caution]:
        """What a model lacks that others have, and that its last layer may as well have guessed."""
        model, place = row["model"], row["place"]
        tasks = [task.name for task in self.panel.tasks]
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
        numbers = {name: row[name] for name in ("score", "stderr", "chance")}
        if self.base and row["score"] is not None and cautions.guesses(*numbers.values()):
            yield Caution("guessing", {"model": model, **numbers})

    def _ranking_table(self) -> Table:
        """One row per model: ranks, size, mean scores, means of the selection scores."""
        units, selecting, several = values.units(), self.selecting, len(self.panel.tasks) > 1
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
            Column("best_score", "score best", "", "max", ".4f", "best_stderr", tied=self.base),
            *measured,
            *(Column(name, rest=2) for name in ("tasks", "pooling", "revision")),
            *(Column(name, shown=False) for name in ("stderr", "best_stderr")),
        )
        rows = []
        for row in self.rows:
            millions = row["parameters"] / 1e6 if row["parameters"] else None
            short = {"parameters_millions": millions, "revision": row["revision"][:7] or None}
            rows.append(row | short)
        mean = "mean over the tasks of the main score" if several else "main score"
        head = ", its states read by the language-model head" if self.base else ""
        caption = []
        if self.panel.tasks:
            caption.append(
                f"actual rank: order of the score (1 = best). score last: {mean} (0 to 1) of the "
                "last layer, which is the model itself; best: of the layer with the highest "
                f"mean{head}."
            )
        if any(row[name] is not None for row in rows for name in ("stderr", "chance")):
            independent = ", taking the tasks as independent" if several else ""
            of = f"one standard error over the questions{independent}"
            caption.append(f"±: {of}. chance: what guessing gets.")
        if selecting:
            caption.append(
                "pred.: predicted rank (1 = best), without labels: order of the mean over tasks of "
                "the model's rank within each task by the metric's selection score, whose own mean "
                "over tasks is in the metric's column (↑ higher, ↓ lower is ranked first)."
            )
        return Table("ranking", self.title, columns, rows, tuple(caption))

    def _scores_table(self) -> Table:
        """Scores by task. Of a single embedding task the ranking says all."""
        columns, tasks = [Column("model", key=True)], self.panel.tasks
        rows = [dict(row) for row in self.rows]
        for task in tasks:
            name, chance = task.name, "" if task.chance is None else f", chance {task.chance:.4g}"
            label, of = f"{name} {task.score_name or 'score'}", f"n = {task.models}{chance}"
            hidden = ("stderr", "best_layer", "best_score")
            columns += [
                Column(f"score.{name}", label, of, "max", ".4f", error=f"stderr.{name}"),
                Column(f"best.{name}", "best layer", tied=True),
                *layers.hidden(*(f"{part}.{name}" for part in hidden)),
            ]
            for row in rows:
                layer, best = row[f"best_layer.{name}"], row[f"best_score.{name}"]
                row[f"best.{name}"] = None if layer is None else f"{layer}: {best:.4f}"
        caption = (
            "Main score of the last layer (0 to 1), n: models that have it; ±: one standard error "
            "over the task's questions. best layer: the best one of that task and its score (an "
            "oracle).",
        )
        shown = bool(rows) and len(tasks) > (0 if self.base else 1)
        title = "Base models: scores by task" if self.base else "Scores by task"
        return Table("scores", title, tuple(columns), rows, caption, shown)

    def _listings(self) -> list[Table]:
        """Models, tasks and metrics, for programs."""
        names, units = ["model", "name", *INFO[1:], "adapter", "released"], values.units()
        models = [
            {name: row[name] for name in names}
            | {"kind": model_kind(self.panel.models[row["place"]], self.kind)}
            for row in self.rows
        ]
        tasks = [
            {"task" if field == "name" else field: cell for field, cell in task._asdict().items()}
            for task in self.panel.tasks
        ]
        metrics = [
            {"metric": name, "score": score, "best": best, "tasks": list(of)}
            | {"unit": units.get((name, score), "")}
            for name, (score, best), of in self.panel.metrics
        ]
        return [
            listing("model_info", "Models as recorded", models, "model"),
            listing("tasks", "Tasks", tasks, "task"),
            listing("metrics", "Metrics that rank models", metrics, "metric"),
        ]

    def columns(self, part: str) -> list[str]:
        """Names of columns of the wide table: the "ranks", the "means", or those by "task"."""
        if part == "ranks":
            return ["rank", *(f"predicted.{one.name}" for one in self.selecting)]
        errors = ("stderr", "chance") if self.base else ()
        names = ["score", *errors, "best_layer", "best_score"]
        if part == "task":
            return [f"{name}.{task.name}" for task in self.panel.tasks for name in names]
        names += ["best_stderr"] if self.base else []
        return ["tasks", *names, *(one.score for one in self.selecting)]


def _cells(scores: panels.Scores) -> dict[str, list[Any]]:
    """Cells of the columns of scores (models,): name -> one per model."""
    last, stderr, chance, layer, best, best_stderr = map(_numbers, scores)
    found = {"score": last, "stderr": stderr, "chance": chance}
    found["best_layer"] = [None if value is None else int(value) for value in layer]
    return found | {"best_score": best, "best_stderr": best_stderr}


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
        named.append(f"and {count(more, 'more pair')}")
    if named:
        yield Caution("level", {"pairs": "; ".join(named)})


def models_table(main: Board, base: Board | None) -> Table:
    """One row per model, numbers in full, for programs; behind the notes the base board's columns.

    Of likelihood tasks also standard errors and chance. Where there are embedding tasks too, the
    columns of the likelihood tasks are behind the notes: base.rank, base.predicted.METRIC, ...,
    then score.TASK, ..., and base.notes; empty for models without such tasks.
    """
    names = [*main.columns("ranks"), *INFO, *main.columns("means"), *main.columns("task"), "notes"]
    rows = [row | {"model": row["name"], "notes": _notes(row)} for row in main.rows]
    if base and base.rows:
        whole = [*base.columns("ranks"), *base.columns("means")]
        names += [*(f"base.{name}" for name in whole), *base.columns("task"), "base.notes"]
        own = {(row["name"], row["revision"]): row for row in base.rows}
        for row in rows:
            if found := own.get((row["name"], row["revision"])):
                row |= {f"base.{name}": found[name] for name in whole}
                row |= {name: found[name] for name in base.columns("task")}
                row["base.notes"] = _notes(found)
    columns = tuple(Column(name, key=name == "model") for name in names)
    return Table("models", "Models", columns, rows, shown=False)


def _notes(row: Row) -> str:
    """What is said of the model, without its name."""
    said = [str(caution).removeprefix(f"{row['model']}: ") for caution in row["cautions"]]
    return "; ".join(text.removesuffix(".") for text in said)
