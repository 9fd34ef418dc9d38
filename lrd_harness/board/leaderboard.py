"""Results to a Report: the tables of every statistic, and what must be said beside them.

Likelihood tasks and tasks on images have boards of their own, made in the same way, whose tables
are named "base.NAME" and "image.NAME" where they stand beside another board.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np

from lrd_harness.board import (
    agreement,
    answers,
    cautions,
    claims,
    confounds,
    depth,
    families,
    layer_choice,
    layers,
    pruned,
    pruning_truth,
    size_controls,
    standing,
    statistics,
    training,
    unranked,
    unseen,
    values,
    verdicts,
)
from lrd_harness.board import panel as panels
from lrd_harness.board.cautions import Caution, count
from lrd_harness.board.layers import Row
from lrd_harness.board.one_layer import one_layer_table
from lrd_harness.report import BOARDS, Column, Report, Table, listing
from lrd_harness.results.kinds import model_kind, split
from lrd_harness.results.rows import Key, Kind, Results

STANDING = "rank_low rank_high level_with_next".split()
INFO = "revision parameters blocks width pooling max_length family".split()  # of a model's row
FIRST = 3  # predicted ranks that stand beside the actual one, and not behind
PAIRS = 3  # pairs of models named in one sentence


def report(results: Results, common: bool = False) -> Report:
    """The leaderboard of the whole models (variant "full"), and of pruned ones; holes are told.

    Tables that programs read besides are not shown. common: whether only the tasks count that all
    models have; pruned ones are compared with their own whole model, on all of its tasks. Raises
    UserError where there is none, and ValueError only for results that `database.load` would not
    give.
    """
    sweep = pruned.build_pruned(results)
    of_pruning = [*map(str, pruned.pruning_cautions(results, sweep))]
    of_pruning += map(str, pruning_truth.truth_cautions(results))
    results, said = standing.on_common_tasks(results) if common else (results, [])
    sides = split(results)
    labels = panels.model_labels(results.models)
    boards = [Board(side, kind, labels, bool(i)) for i, (kind, side) in enumerate(sides.items())]
    main, *others = boards
    picks = [pick for board in boards if board.choice for pick in board.choice.picks]
    errors = sorted(results.errors, key=lambda error: error.variant != "full")
    notes = [str(caution) for caution in said]
    notes += [note for board in boards for note in board.sentences(board.all_cautions)]
    notes += of_pruning
    failed = [Caution("failed", {"units": count(len(errors), "unit")})] if errors else []
    answers = [board.sentences(board.answer) for board in boards]
    answer = [sentence for of_board in answers for sentence in of_board[:1]]
    answer += map(str, (*said, *failed))
    answer += [sentence for of_board in answers for sentence in of_board[1:]]
    return Report(
        title=main.title,
        answer=tuple(answer),
        tables=(
            *(table for board in boards for table in board.tables(sweep, boards)),
            *pruned.pruning_tables(sweep),
            *pruning_truth.truth_tables(results),
            models_table(boards),
            layers.layers_table([*sides.values()], picks),
            training.checkpoints_table([*sides.values()]),
            values.values_table(sides),
            values.errors_table(errors),
        ),
        notes=tuple(notes),
        errors=tuple(map(values.error_line, errors)),
        facts={"kind": main.kind, **main.facts, **{other.kind: other.facts for other in others}},
    )


class Board:
    """All that is made of the models and the tasks of one kind.

    labels: what tables call the models; beside: whether it stands beside another board. prefix: of
    the names of its tables. selecting: the selection scores; left_out: how many models are in no
    family of two.
    """

    def __init__(
        self, results: Results, kind: Kind, labels: Mapping[Key, str], beside: bool = False
    ) -> None:
        self.results, self.kind, self.prefix = results, kind, f"{kind}." if beside else ""
        self.labels = labels
        self.base = kind == "base"
        self.what = BOARDS.get(kind, "models").lower()
        self.panel = panels.build_panel(results, labels)
        self.selecting = self.panel.selecting
        self.choice = layer_choice.build_choice(results, kind)
        self.selection = agreement.build_selection(self.panel)
        self.standing = standing.Standing(self.panel)
        self.outlying = standing.outlying(self.panel)
        self.combined = unseen.build_combined(self.panel)
        self.profiles = depth.build_profiles(results, kind)
        self.confounds = confounds.build_confounds(results, self.profiles, kind)
        self.by_kind = size_controls.by_kind(self.panel, kind)
        self.families, self.left_out = families.family_tables(self.panel, self.what)
        counts = count(len(self.panel.models), "model"), count(len(self.panel.tasks), "task")
        self.title = f"{BOARDS.get(kind, 'Leaderboard')}: {', '.join(counts)}"

    @property
    def facts(self) -> Row:
        """What programs may want beside the tables."""
        combined = self.combined.facts if self.combined else None
        return {"families": {"left_out": self.left_out}, "combined": combined}

    @cached_property
    def rows(self) -> list[Row]:
        """One per model, by actual rank; those without one last.

        Where no model has one, by the first metric's. Ranks, means and scores by task, under the
        names that they have in tables; place: in the panel; cautions: on this model.
        """
        panel, models = self.panel, self.panel.models
        columns: dict[str, Sequence[Any]] = {
            "rank": statistics.places(panel.actual),
            **self.standing.cells(),
            **{f"predicted.{p.name}": statistics.places(p.strength) for p in self.selecting},
            "model": panel.labels,
            "name": [model.model for model in models],
            "place": range(len(models)),
            "tasks": (~np.isnan(panel.scores.last)).sum(axis=0).tolist(),
            **{name: [getattr(m, name) for m in models] for name in (*INFO, "adapter", "released")},
            **{predictor.score: layers.present(predictor.means) for predictor in self.selecting},
            **_cells(panel.means),
        }
        for t, task in enumerate(panel.tasks):
            cells = _cells(panels.Scores(*(array[t] for array in panel.scores)))
            columns |= {f"{name}.{task.name}": of_task for name, of_task in cells.items()}
        cells_of_rows = zip(*columns.values(), strict=True)
        rows = [dict(zip(columns, cells, strict=True)) for cells in cells_of_rows]
        for row in rows:
            row["cautions"] = list(self._of_model(row))
        guide = "rank"
        if self.selecting and all(row["rank"] is None for row in rows):
            guide = f"predicted.{self.selecting[0].name}"
        return sorted(rows, key=lambda r: (inf if r[guide] is None else r[guide], -r["tasks"]))

    @property
    def info(self) -> list[Row]:
        """What is recorded of each model, in the order of the rows."""
        names, models = ("model", "name", *INFO, "adapter", "released"), self.panel.models
        return [
            {name: row[name] for name in names}
            | {"kind": model_kind(models[row["place"]], self.kind)}
            for row in self.rows
        ]

    def tables(self, sweep: Sequence[pruned.PrunedRow], boards: Sequence[Board]) -> Iterator[Table]:
        """In the order in which people read them. sweep: the pruned models of all kinds.

        boards: all of them; the table "model_info" of the main one has their models too.
        """
        known: dict[tuple[str, str], Row] = {}
        for board in [self] if self.prefix else boards:
            for row in board.info:
                known.setdefault((row["name"], row["revision"]), row)
        order = [row["place"] for row in self.rows]
        verdicts = claims.build_claims(self.kind, self.selection, self.choice, self.results, sweep)
        titled = [
            *unranked.unranked_tables(self.results, self.panel, order, self.kind),
            *layer_choice.choice_tables(self.choice),
            one_layer_table(self.results, self.labels, self.kind),
            *depth.profile_tables(self.profiles),
            *confounds.confound_tables(self.confounds),
            claims.claim_table(verdicts),
        ]
        titled = [replace(table, title=self._named(table.title)) for table in titled]
        tables = [
            self._ranking_table(),
            self._scores_table(),
            panels.correlation_table(self.panel, self.what),
            *agreement.agreement_tables(self.selection, self.what),
            *size_controls.control_tables(self.by_kind, self.panel, self.what),
            *self.families,
            *unseen.combined_tables(self.combined, self.panel, self.what),
            listing("model_info", "Models as recorded", [*known.values()], "model"),
            *self._listings(),
            *titled,
            *training.checkpoint_tables(self.results),
        ]
        yield from (replace(table, name=f"{self.prefix}{table.name}") for table in tables)

    def _named(self, text: str) -> str:
        """A title or a sentence, behind what the models are where it stands beside others."""
        return f"{BOARDS[self.kind]}: {text}" if self.prefix else text

    def sentences(self, of_board: Iterable[Caution]) -> list[str]:
        """Cautions in words."""
        return [self._named(str(caution)) for caution in of_board]

    @cached_property
    def all_cautions(self) -> list[Caution]:
        """On the whole, then on single models."""
        telling = self.selection is not None and self.selection.telling
        return [
            *self._of_order(),
            *standing.missing_cautions(self.panel),
            *standing.outlying_cautions(self.outlying),
            *cautions.of_results(self.results),
            *verdicts.agreement_cautions(self.selection),
            *verdicts.undated_cautions(self.panel),
            *(size_controls.pooled(self.by_kind) if telling else ()),
            *confounds.confound_cautions(self.confounds),
            *(unseen.combined_cautions(self.combined) if telling else ()),
            *layer_choice.choice_cautions(self.choice),
            *(caution for row in self.rows for caution in row["cautions"]),
        ]

    @property
    def answer(self) -> Iterator[Caution]:
        """See `answers`."""
        judged = self.panel, self.standing, self.selection, self.outlying
        return answers.build_answer(self.rows, *judged, self.all_cautions)

    def _of_order(self) -> Iterator[Caution]:
        """On the order of the models as a whole."""
        rows = self.rows
        if not rows:
            yield Caution("empty")
        elif not any(row["tasks"] for row in rows):
            order = "; the rows are ordered by the predicted rank of "
            numbers = {"order": order + self.selecting[0].name if self.selecting else ""}
            yield Caution("no_scores", numbers)
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
        model, tasks = row["model"], [task.name for task in self.panel.tasks]
        lacking = [task for task in tasks if row[f"score.{task}"] is None]
        if lacking and len(lacking) == len(tasks):
            yield Caution("unscored", {"model": model})
        elif lacking:
            numbers = {"tasks": cautions.names(lacking), "held": row["tasks"], "all": len(tasks)}
            yield Caution("lacks_tasks", {"model": model, **numbers})
        without: dict[tuple[str, ...], list[str]] = defaultdict(list)  # tasks -> metrics
        for predictor in self.selecting:
            cells = zip(predictor.tasks or (), predictor.values[:, row["place"]], strict=True)
            without[tuple(task for task, value in cells if np.isnan(value))].append(predictor.name)
        for missing, metrics in without.items():
            if missing:
                numbers = {"metrics": ", ".join(metrics), "tasks": cautions.names(missing)}
                yield Caution("lacks_metrics", {"model": model, **numbers})
        score = {name: row[name] for name in ("score", "stderr", "chance")}
        if self.base and row["score"] is not None and cautions.guesses(*score.values()):
            yield Caution("guessing", {"model": model, **score})

    def _ranking_table(self) -> Table:
        """One row per model: ranks, size, mean scores, means of the selection scores."""
        units, selecting, several = values.units(), self.selecting, len(self.panel.tasks) > 1
        measured = []
        for predictor in selecting:
            metric, _, score = predictor.score.partition(".")
            label, unit = f"{metric} {score}", units.get((metric, score), "")
            measured.append(Column(predictor.score, label, unit, predictor.best, "#.4g", rest=1))
        columns = (
            Column("rank", form="place"),
            Column("rank_interval", "95 %", tied=True),
            Column("level", "level", tied=True),
            Column("model", key=True),
            Column("score", "score", best="max", form=".4f", error="stderr"),
            Column("chance", form=".4f"),
            *(
                Column(f"predicted.{p.name}", f"pred. {p.name}", form="place", rest=n >= FIRST)
                for n, p in enumerate(selecting)
            ),
            Column("parameters_millions", "million params", form=",.1f", rest=1),
            Column("blocks", rest=1),
            Column("width", "width", "dims", rest=1),
            Column("best_layer", "best layer"),
            Column("best_score", "score best", "", "max", ".4f", "best_stderr", tied=self.base),
            *measured,
            *(Column(name, rest=2) for name in ("tasks", "pooling", "revision")),
            *layers.hidden(*STANDING, "stderr", "best_stderr"),
        )
        rows = []
        for row in self.rows:
            millions = row["parameters"] / 1e6 if row["parameters"] else None
            revision = row["revision"][:7] or None
            cells = {"parameters_millions": millions, "revision": revision}
            rows.append(row | cells | {"level": "≈" if row["level_with_next"] else ""})
        mean = "mean over the tasks of the main score" if several else "main score"
        head = ", its states read by the language-model head" if self.base else ""
        best = "best: of the layer with the highest mean, an oracle."
        caption = []
        if self.panel.tasks:
            caption.append(
                f"rank: order of the score (1 = best). score: {mean} (0 to 1) of the last layer, "
                f"which is the model itself{head}. "
                + best
                * any(row["best_layer"] is not None for row in rows)
            )
            caption += self.standing.caption(self.what)
        if any(row[name] is not None for row in rows for name in ("stderr", "chance")):
            independent = ", taking the tasks as independent" if several else ""
            error = f"±: one standard error over the questions{independent}"
            caption.append(f"{error}. chance: what guessing gets.")
        if selecting:
            caption.append(
                "pred.: rank predicted without labels (1 = best): order of the mean over tasks of "
                "the model's rank within each task by the metric's selection score, whose own mean "
                "is in the metric's column where that is shown (↑ higher, ↓ lower ranks first)."
            )
        return Table("ranking", self.title, columns, rows, tuple(caption))

    def _scores_table(self) -> Table:
        """Scores by task. Of a single embedding task the ranking says all."""
        columns, tasks = [Column("model", key=True)], self.panel.tasks
        for task in tasks:
            name, chance = task.name, "" if task.chance is None else f", chance {task.chance:.4g}"
            label, unit = f"{name} {task.score_name or 'score'}", f"n = {task.models}{chance}"
            hidden = ("stderr", "best_layer", "best_score")
            columns += [
                Column(f"score.{name}", label, unit, "max", ".4f", error=f"stderr.{name}"),
                Column(f"best.{name}", "best layer", tied=True),
                *layers.hidden(*(f"{part}.{name}" for part in hidden)),
            ]
        caption = (
            "Main score of the last layer (0 to 1), n: models that have it; ±: one standard error "
            "over the task's questions. best layer: the best one of that task and its score (an "
            "oracle).",
        )
        shown = bool(self.rows) and len(tasks) > (0 if self.base else 1)
        title = f"{BOARDS[self.kind]}: scores" if self.kind in BOARDS else "Scores"
        return Table("scores", f"{title} by task", tuple(columns), self.rows, caption, shown)

    def _listings(self) -> list[Table]:
        """Tasks, metrics and odd scores, for programs."""
        units = values.units()
        tasks = [
            {"task": name, "type": kind, "score_name": score, "models": n, "chance": chance}
            for name, kind, score, n, chance in self.panel.tasks
        ]
        metrics = [
            {"metric": p.name, "score": score, "best": p.best, "tasks": list(p.tasks or ())}
            | {"unit": units.get((p.name, score), "")}
            for p in self.selecting
            for score in [p.score.removeprefix(f"{p.name}.")]
        ]
        return [
            listing("tasks", "Tasks", tasks, "task"),
            listing("metrics", "Metrics that rank models", metrics, "metric"),
            listing("outlying_scores", "Outlying scores", self.outlying, "model", "task"),
        ]

    def wide(self) -> tuple[list[str], dict[tuple[str, str], Row]]:
        """Columns of the table "models", and the cells of each model and revision.

        Ranks, what is known of the models (columns of the main board), means, those by task, notes.
        """
        scores = ["score", *["stderr", "chance"] * self.base, "best_layer", "best_score"]
        ranks = [
            "rank",
            *STANDING,
            *(f"predicted.{predictor.name}" for predictor in self.selecting),
        ]
        means = ["tasks", *scores, *["best_stderr"] * self.base, *(p.score for p in self.selecting)]
        by_task = [f"{name}.{task.name}" for task in self.panel.tasks for name in scores]
        info = ["model", *INFO]
        names = {name: name for name in (*ranks, *info, *means, *by_task, "notes")}
        names |= {name: f"{self.prefix}{name}" for name in (*ranks, *means, "notes")}
        rows = {}
        for row in self.rows:
            notes = (str(note).removeprefix(f"{row['model']}: ") for note in row["cautions"])
            cells = row | {"model": row["name"]}
            cells["notes"] = "; ".join(note.removesuffix(".") for note in notes)
            rows[row["name"], row["revision"]] = {names[name]: cells[name] for name in names}
        return [name for name in names.values() if not self.prefix or name not in info], rows


def _cells(scores: panels.Scores) -> dict[str, list[Any]]:
    """Cells of the columns of scores (models,): name -> one per model."""
    names = "score stderr chance best_layer best_score best_stderr".split()
    cells = dict(zip(names, map(layers.present, scores), strict=True))
    best = zip(cells["best_layer"], cells["best_score"], strict=True)
    cells["best"] = [None if layer is None else f"{layer:g}: {score:.4f}" for layer, score in best]
    cells["best_layer"] = [None if layer is None else int(layer) for layer in cells["best_layer"]]
    return cells


def _level(rows: Sequence[Row]) -> Iterator[Caution]:
    """Neighbours in actual rank whose scores differ by less than chance would make them."""
    pairs = [
        f"{first['model']} and {second['model']}"
        for first, second in pairwise(row for row in rows if row["rank"] is not None)
        if first["rank"] != second["rank"] and standing.within_errors(first, second)
    ]
    if more := len(pairs[PAIRS:]):
        pairs[PAIRS:] = [f"and {count(more, 'more pair')}"]
    if pairs:
        yield Caution("level", {"pairs": "; ".join(pairs)})


def models_table(boards: Sequence[Board]) -> Table:
    """One row per model, numbers in full, for programs; behind the notes other boards' columns.

    Of likelihood tasks also standard errors and chance. Of a board beside the first the columns
    are base.rank, base.predicted.METRIC, ..., then score.TASK, ..., and base.notes; empty for
    models without such tasks.
    """
    names: list[str] = []
    rows: dict[tuple[str, str], Row] = {}
    for board in boards:
        columns_of_board, of_board = board.wide()
        names += columns_of_board if of_board or not names else []
        for key, cells in of_board.items():
            rows.setdefault(key, {}).update(cells)
    columns = tuple(Column(name, key=name == "model") for name in names)
    return Table("models", "Models", columns, list(rows.values()), shown=False)
