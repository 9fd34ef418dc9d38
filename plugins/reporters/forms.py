"""Reporters: the leaderboard for a terminal, as Markdown, CSV and JSON."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lrd_harness.contracts import Reporter
from lrd_harness.hookspecs import hookimpl
from lrd_harness.store import files

from ._checkpoints import checkpoints_csv, checkpoints_document
from ._claims import claims_document
from ._dumping import dumps
from ._layers import choice_document, layers_csv
from ._markdown import markdown
from ._profiles import profile_document
from ._pruned import pruning_csv, pruning_document
from ._selection import selection_document
from ._terminal import layers_renderable, renderable, text

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import LayerTable, Leaderboard, Row
    from lrd_harness.results.database import Results


__all__ = ["layers_renderable", "renderable"]  # for a console that knows its width and colours

SCHEMA = "lrd-harness/leaderboard"
VERSION = 1
INFO = (
    "model",
    "revision",
    "parameters",
    "blocks",
    "width",
    "pooling",
    "max_length",
    "family",
)


@hookimpl
def lrd_reporters() -> Sequence[Reporter]:
    """The built-in forms; the CLI prints `renderable` where the table goes to a terminal."""
    return [
        Reporter("table", table),
        Reporter("md", markdown, ".md"),
        Reporter("csv", as_csv, ".csv"),
        Reporter("json", as_json, ".json"),
        Reporter("layers", layers_csv, "-layers.csv"),
        Reporter("pruning", pruning_csv, "-pruning.csv"),
        Reporter("checkpoints", checkpoints_csv, "-checkpoints.csv"),
    ]


def table(board: Leaderboard) -> str:
    """As wide as the terminal (80 where there is none), without colours."""
    width = shutil.get_terminal_size().columns
    return text(renderable(board, width), width)


def layers(layer_table: LayerTable) -> str:
    """One model layer by layer, as wide as the terminal, without colours."""
    width = shutil.get_terminal_size().columns
    return text(layers_renderable(layer_table, width), width)


def as_csv(board: Leaderboard) -> str:
    """One line a model, numbers in full, empty where there is none.

    rank, predicted.METRIC (a column a metric), model, revision, parameters, blocks, width, pooling,
    max_length, family, tasks (scored), score (mean, last layer), best_layer, best_score,
    METRIC.SCORE (mean of the selection score), score.TASK, best_layer.TASK, best_score.TASK, notes.
    Of likelihood tasks also stderr and best_stderr (standard errors of score and best_score),
    chance, and stderr.TASK and chance.TASK. Where there are embedding tasks too, the likelihood
    tasks are behind the notes: base.rank, base.predicted.METRIC, base.tasks, base.score, ...,
    base.METRIC.SCORE, then score.TASK, ..., and base.notes; empty for models without such tasks.
    A name that a spreadsheet would take for a formula has an apostrophe before it (csv_cells.py).
    """
    lines = [_line(board, row) for row in board.rows]
    if board.base and board.base.rows:
        rows = {row.info.key: row for row in board.base.rows}
        for line, row in zip(lines, board.rows, strict=True):
            line |= _base_cells(board.base, rows.get(row.info.key))
    return files.written_rows(list(lines[0]), lines) if lines else ""


def as_json(board: Leaderboard) -> str:
    """Everything, for programs.

    schema, version: of this form; version changes when a key changes its meaning or goes.
    kind: "embedding", or "base" where there are only likelihood tasks.
    metrics: [{name, score, best ("max"|"min"), tasks}];
    tasks: [{name, type, score_name, models, chance}].
    models: in order, [{rank, predicted: {metric: rank}, label, model, revision, variant,
        parameters, blocks, width, pooling, max_length, family, adapter, tasks, score, stderr,
        chance, best_layer, best_score, best_stderr, values: {metric: mean}, notes, by_task: {task:
        {last, stderr, chance, best_layer, best, best_stderr, layers: {layer: score}}},
        metrics: [{task, task_type, metric, version, n, start, parameters,
        selection, values: {name: value}, profiles: {name: {layers, values}}, seconds}],
        captures: [{texts, forwarded, tokens, truncated, empty, duplicates, seconds}]}].
    stderr, chance: standard error of the score, and what guessing gets; null where there is none.
    correlations: [{name, kind, rho, p, n}];
    selection: how well each predictor orders the models task by task, [{name, kind ("metric",
        "baseline", "control"), best, rho, low, high, models_low, models_high, significant, holm,
        tau, partial: {control: rho}, n, regret, regret_largest, regret_random, tasks: [{task, n,
        rho, p, p_holm, tau, low, high, partial, partial_p, regret, ...}], rivals: [{name, size,
        own, rho, low, high, n, tasks}]}], the fields of the rows of selection.py; regrets are
        fractions of 1, as scores are; null where no task has 4 models.
    families: {rows, families, left_out}, see families.py; combined: {lacking, rows, models, ...},
        see combined.py: the fields of their rows; null where there is nothing to compare.
    profiles: {rows, correlations, main, selection, notes}, see profile_rows.py; null where only
        last layers have values. claims: [{name, statement, verdict, ...}], see claim_rows.py.
    layer_choice: {gains, correlations, picks}, lists of
        the rows of choice.py with their fields, null where only last layers were scored; notes;
        errors: [{model, ..., error}], of whole models.
    base: of the likelihood tasks where there are embedding tasks too, {kind, metrics, tasks,
        models, correlations, selection, layer_choice, notes} in the same form, without captures;
        null where there are none.
    pruning: {summary, rows, notes, errors}, see _pruned.py; null where nothing was pruned.
    checkpoints: training runs, [{kind, stem, unit, tasks, members, curves}], see _checkpoints.py.
    """
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        **_document(board),
        "errors": [asdict(error) for error in board.errors],
        "base": _document(board.base) if board.base else None,
        "pruning": pruning_document(board.pruned) if board.pruned else None,
        "checkpoints": checkpoints_document(board),
    }
    return dumps(document) + "\n"


def _document(board: Leaderboard) -> dict[str, Any]:
    """What each board has of its own."""
    return {
        "kind": board.kind,
        "metrics": [
            {"name": m.name, "score": m.selection.score, "best": m.selection.best, "tasks": m.tasks}
            for m in board.metrics
        ],
        "tasks": [asdict(task) for task in board.tasks],
        "models": _models(board),
        "correlations": [asdict(correlation) for correlation in board.correlations],
        "selection": selection_document(board.selection),
        "families": asdict(board.families) if board.families else None,
        "combined": asdict(board.combined) if board.combined else None,
        "layer_choice": choice_document(board.choice),
        "profiles": profile_document(board.profiles),
        "claims": claims_document(board.claims),
        "notes": board.notes,
    }


def _line(board: Leaderboard, row: Row) -> dict[str, Any]:
    """A model's cells, on a board of either kind."""
    return {
        **_ranks(board, row),
        **{name: getattr(row.info, name) for name in INFO},
        **_means(board, row),
        **_tasks(board, row),
        "notes": "; ".join(row.notes),
    }


def _base_cells(board: Leaderboard, row: Row | None) -> dict[str, Any]:
    """What the board of the likelihood tasks adds to a model's line; all None without a row."""
    model = row or board.rows[0]  # the columns are the same for all
    means = {**_ranks(board, model), **_means(board, model)}
    cells = {f"base.{name}": value for name, value in means.items()} | _tasks(board, model)
    cells["base.notes"] = "; ".join(model.notes)
    return cells if row else dict.fromkeys(cells)


def _ranks(board: Leaderboard, row: Row) -> dict[str, Any]:
    return {
        "rank": row.rank,
        **{f"predicted.{m.name}": row.predicted[m.name] for m in board.metrics},
    }


def _means(board: Leaderboard, row: Row) -> dict[str, Any]:
    base = board.kind == "base"
    names = ["tasks", "score", *(("stderr", "chance") if base else ()), "best_layer", "best_score"]
    cells = {name: getattr(row, name) for name in [*names, *(["best_stderr"] if base else [])]}
    return cells | {f"{m.name}.{m.selection.score}": row.values[m.name] for m in board.metrics}


def _tasks(board: Leaderboard, row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for task in board.tasks:
        score = row.scores[task.name]
        cells[f"score.{task.name}"] = score.last
        if board.kind == "base":
            cells[f"stderr.{task.name}"] = score.stderr
            cells[f"chance.{task.name}"] = score.chance
        cells[f"best_layer.{task.name}"] = score.best_layer
        cells[f"best_score.{task.name}"] = score.best
    return cells


def _models(board: Leaderboard) -> list[dict[str, Any]]:
    from lrd_harness.board.leaderboard import (
        TaskScore,  # not above: it would cost scipy to list plugins
    )

    scores, metrics, captures = _by_model(board.results)
    models = []
    for row in board.rows:
        key = row.info.key
        by_task: dict[str, dict[str, Any]] = {
            task: {**vars(score), "layers": {}} for task, score in row.scores.items()
        }
        for task, layer, value in scores.get(key, []):
            if task not in by_task:
                by_task[task] = {**vars(TaskScore()), "layers": {}}
            by_task[task]["layers"][layer] = value
        whole = {
            f: getattr(row, f) for f in row.__dataclass_fields__ if f not in ("info", "scores")
        }
        models.append(
            {
                **whole,
                **asdict(row.info),
                "by_task": by_task,
                "metrics": metrics.get(key, []),
                "captures": captures.get(key, []),
            }
        )
    return models


def _by_model(results: Results) -> tuple[dict[Any, list[Any]], ...]:
    """The rows of each model, as JSON holds them: scores by layer, metrics, captures."""
    scores: dict[Any, list[Any]] = {}
    metrics: dict[Any, list[Any]] = {}
    captures: dict[Any, list[Any]] = {}
    for score in results.scores:
        scores.setdefault(score.key, []).append((score.task, score.layer, score.score))
    for metric in results.metrics:
        line = _own(metric)
        line["profiles"] = {name: p._asdict() for name, p in metric.profiles.items()}
        metrics.setdefault(metric.key, []).append(line)
    for capture in results.captures:
        captures.setdefault(capture.key, []).append(_own(capture))
    return scores, metrics, captures


def _own(row: Any) -> dict[str, Any]:
    """A row's fields without those that say which model it is of."""
    of_model = ("model", "revision", "variant")
    return {name: value for name, value in vars(row).items() if name not in of_model}
