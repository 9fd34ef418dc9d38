"""Values to a table: actual and predicted ranks, and how well each predictor does.

The actual rank orders the mean over tasks of the main score of the last layer (the model's own
output). A predicted rank, one a metric, orders the mean over tasks of the within-task ranks of the
metric's selection score. Means over different tasks are not comparable, so a model that lacks a
task that others have gets no rank. Likelihood tasks have a board of their own, made in the same
way: see sides.py.

A pause for Python's garbage collector, for work that makes millions of rows and no garbage.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf

from lrd_harness.board import agreement, cautions, layer_choice, statistics, unseen
from lrd_harness.board import panel as panels
from lrd_harness.board.agreement import Selection, build_selection
from lrd_harness.board.claims import Claim, build_claims
from lrd_harness.board.depth import Profiles, build_profiles
from lrd_harness.board.families import Families, build_families
from lrd_harness.board.layer_choice import LayerChoice, build_choice
from lrd_harness.board.layers import LayerTable, layer_table
from lrd_harness.board.panel import (
    Correlation,
    MetricColumn,
    Panel,
    TaskColumn,
    TaskScore,
    correlations,
)
from lrd_harness.board.pruned import PrunedTable, build_pruned
from lrd_harness.board.unseen import Combined, build_combined
from lrd_harness.results.database import ErrorRow, Key, ModelRow, Results
from lrd_harness.results.tasks import Kind, split


@contextmanager
def uncollected() -> Iterator[None]:
    """While this lasts, cycles of objects are not looked for; also a decorator of a function.

    Each search goes through every row that there is, again and again as more are made: a third of
    the time that a board of a million scores takes. What has no cycles is freed as ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


__all__ = [
    "Correlation",
    "Kind",
    "LayerChoice",
    "LayerTable",
    "Leaderboard",
    "MetricColumn",
    "PrunedTable",
    "Row",
    "Selection",
    "TaskColumn",
    "TaskScore",
    "build",
    "layer_table",
]


@dataclass(frozen=True)
class Row:
    """A model's line.

    rank, predicted: 1 = best, level models share the better rank, None where not comparable;
    score: mean over `tasks` tasks of the last layer's main score; best_layer: the layer with the
    highest mean over the same tasks, None where only one was scored; values: metric -> mean over
    tasks of its selection score; scores: by task; notes: what the reader must know of this line;
    stderr, best_stderr: standard errors of score and best_score, the tasks taken as independent;
    chance: mean over the same tasks of what guessing gets; None where one of the tasks has none.
    """

    label: str
    info: ModelRow
    rank: int | None
    predicted: Mapping[str, int | None]
    tasks: int
    score: float | None
    best_layer: int | None
    best_score: float | None
    values: Mapping[str, float | None]
    scores: Mapping[str, TaskScore]
    notes: tuple[str, ...] = ()
    stderr: float | None = None
    chance: float | None = None
    best_stderr: float | None = None


@dataclass(frozen=True)
class Leaderboard:
    """The table and all that belongs under it; `results` are the rows that it was made of.

    kind: "embedding", or "base" for a board of likelihood tasks.
    base: the board of the likelihood tasks where there are embedding tasks too. Its models are
        among this board's, those that have anything on such a task. It holds no errors and no
        captures: these are listed once, with this board.
    pruned: the pruned models of both kinds of task, where there are any; with this board only.
    choice: what choosing a layer without labels gains; None where only last layers were scored.
    selection: how well predictors order the models task by task; None where no task has 4 models.
    families: how well they order kin; None where no family has two models with a mean score.
    profiles: scores and metrics over depth; None where only last layers have any.
    claims: the papers' findings on this board's tasks, each with a control and a verdict.
    combined: all metrics and size in one, on families not seen; None where no model has a mean.
    """

    rows: tuple[Row, ...]
    metrics: tuple[MetricColumn, ...]
    tasks: tuple[TaskColumn, ...]
    correlations: tuple[Correlation, ...]
    notes: tuple[str, ...]
    errors: tuple[ErrorRow, ...]
    results: Results
    kind: Kind = "embedding"
    base: Leaderboard | None = None
    pruned: PrunedTable | None = None
    choice: LayerChoice | None = None
    selection: Selection | None = None
    families: Families | None = None
    combined: Combined | None = None
    profiles: Profiles | None = None
    claims: tuple[Claim, ...] = ()


@uncollected()
def build(results: Results) -> Leaderboard:
    """The leaderboard of the whole models (variant "full") of a run; holes in it are remarked on.

    Pruned models are in `pruned` alone. Raises ValueError only for results that `load` would not
    give.
    """
    sides = split(results)
    names = Counter(row.model for row in results.models if row.variant == "full")
    board = _board(sides.main, sides.kind, names)
    base = _board(sides.base, "base", names) if sides.base else None
    pruned = build_pruned(results)
    if base:
        base = replace(base, claims=build_claims(base, pruned))
    return replace(board, base=base, pruned=pruned, claims=build_claims(board, pruned))


def _board(results: Results, kind: Kind, names: Mapping[str, int]) -> Leaderboard:
    """One side's board. names: how many models have the name, revisions of one."""
    panel = panels.make(results)
    actual = panel.actual()
    order = {
        column.name: panels.mean_ranks(panel.selected[column.name], panel.models, column.selection)
        for column in panel.metrics
    }
    places = _places(actual, higher_is_better=True)
    predicted = {name: _places(ranks, higher_is_better=False) for name, ranks in order.items()}
    made = [_row(panel, key, kind, names, places, predicted) for key in panel.models]
    rows = _sorted(made, panel.metrics)
    choice = build_choice(results)
    selection = build_selection(panel)
    combined = build_combined(panel, actual)
    choices = {len(panel.means(row.info.key)) for row in rows if row.best_layer is not None}
    return Leaderboard(
        rows=rows,
        metrics=panel.metrics,
        tasks=panel.tasks,
        correlations=correlations(panel, actual, order),
        notes=(
            *cautions.of_table(results, rows, panel.metrics, kind, choices),
            *agreement.of_selection(selection),
            *unseen.of_combined(combined, selection),
            *layer_choice.of_choice(choice),
        ),
        errors=tuple(error for error in results.errors if error.variant == "full"),
        results=results,
        kind=kind,
        choice=choice,
        selection=selection,
        families=build_families(panel, actual, order),
        combined=combined,
        profiles=build_profiles(results, kind),
    )


def _row(
    panel: Panel,
    key: Key,
    kind: Kind,
    names: Mapping[str, int],
    places: Mapping[Key, int | None],
    predicted: Mapping[str, Mapping[Key, int | None]],
) -> Row:
    whole = panel.whole(key)
    notes = cautions.of_model(key, panel.last, panel.selected)
    return Row(
        label=f"{key.model}@{key.revision[:12]}" if names[key.model] > 1 else key.model,
        info=panel.models[key],
        rank=places[key],
        predicted={name: by_model[key] for name, by_model in predicted.items()},
        tasks=len(panel.scored(key)),
        score=whole.last,
        best_layer=whole.best_layer,
        best_score=whole.best,
        values={name: panels.mean(values, key) for name, values in panel.selected.items()},
        scores={task: panel.on_task(key, task) for task in panel.last},
        notes=(*notes, *cautions.of_guessing(whole)) if kind == "base" else notes,
        stderr=whole.stderr,
        chance=whole.chance,
        best_stderr=whole.best_stderr,
    )


def _places(values: Mapping[Key, float | None], higher_is_better: bool) -> dict[Key, int | None]:
    places = statistics.places(list(values.values()), higher_is_better)
    return dict(zip(values, places, strict=True))


def _sorted(rows: Sequence[Row], columns: Sequence[MetricColumn]) -> tuple[Row, ...]:
    """By actual rank, models without one last; where no model has one, by the first metric's."""
    guide = columns[0].name if columns and all(row.rank is None for row in rows) else None

    def place(row: Row) -> tuple[float, float]:
        rank = row.predicted.get(guide) if guide else row.rank
        return (inf if rank is None else rank, -row.tasks)

    return tuple(sorted(rows, key=place))
