"""Whole models in the CSV forms that `lrd-harness leaderboard` reads without a run.

They carry what orders models, and no more: not the kind of a model (adapter, pooling, longest
text), no standard errors, no chance, no further scores of a task, no pruned models, no histograms
and no errors. values.csv has all of these.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ._cells import plain
from ._sheets import boards

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard
    from lrd_harness.results.database import Key, Results


Named = TypeVar("Named", bound=Hashable)
Table = tuple[Sequence[str], list[Sequence[Any]]]  # header, rows
SCORES = ("model", "layer", "task", "score", "task_type", "score_name")
VALUES = ("model", "layer", "task", "name", "value")
MODELS = ("model", "parameters_millions", "width", "blocks", "family", "released")


def interchange(board: Leaderboard) -> dict[str, Table]:
    """scores, metrics and models: of each what there is any of.

    A model is named as in the tables, MODEL@REVISION where a name is that of several. What the
    forms would read as another name is changed: see `distinct`. Scores that do not lie in -1..1
    have no file, as they would be read as percent.
    """
    names: dict[Key, str] = distinct({row.info.key: row.label for row in board.rows})
    parts = [part.results for part, _ in boards(board)]
    tasks = distinct(
        {r.task: r.task for part in parts for r in part.scores}
        | {r.task: r.task for part in parts for r in part.metrics}
    )
    families = distinct({f: f for row in board.rows if (f := row.info.family) is not None})
    scored = [row for part in parts for row in part.scores if row.key in names]
    scores: list[Sequence[Any]] = [
        (
            names[r.key],
            r.layer,
            tasks[r.task],
            r.score,
            readable(r.task_type),
            readable(r.score_name),
        )
        for r in scored
    ]
    if any(abs(row.score) > 1 for row in scored):
        scores = []
    models: list[Sequence[Any]] = [
        (
            names[row.info.key],
            row.info.parameters / 1e6 if row.info.parameters else None,
            row.info.width,
            row.info.blocks,
            families.get(row.info.family) if row.info.family else None,
            row.info.released,
        )
        for row in board.rows
    ]
    tables: Mapping[str, Table] = {
        "scores": (SCORES, scores),
        "metrics": (VALUES, [row for part in parts for row in _values(part, names, tasks)]),
        "models": (MODELS, models),
    }
    return {name: table for name, table in tables.items() if table[1]}


def distinct(names: Mapping[Named, str]) -> dict[Named, str]:
    """Names that the forms give back as they are, as different as those given; most are the same.

    One with blanks around it, line ends, a # at its beginning, or none at all is changed so that it
    is read, and numbered where another has the changed name already.
    """
    found: dict[Named, str] = {}
    taken: set[str] = set()
    for one, name in names.items():
        if name and readable(name) == name and name not in taken:
            found[one] = name
            taken.add(name)
    for one, name in names.items():
        if one not in found:
            new = base = readable(name) or "unnamed"
            number = 1
            while new in taken:
                number += 1
                new = f"{base} ({number})"
            taken.add(new)
            found[one] = new
    return found


def readable(name: str) -> str:
    """Without what a form drops: blanks around, unprintable characters (as escapes), a # first."""
    shown = plain(name.strip()).strip()
    return f"\\{shown}" if shown.startswith("#") else shown


def _values(
    results: Results, names: Mapping[Key, str], tasks: Mapping[str, str]
) -> Iterator[Sequence[Any]]:
    """The last value of each counts, as in the tables; the model's own, then those of layers."""
    latest = {(r.key, r.task, r.metric): r for r in results.metrics if r.key in names}
    for row in latest.values():
        model, task = names[row.key], tasks[row.task]
        for name, value in row.values.items():
            yield model, "model", task, f"{row.metric}.{name}", value
        for name, profile in row.profiles.items():
            for layer, found in zip(profile.layers, profile.values, strict=True):
                if found is not None:
                    yield model, layer, task, f"{row.metric}.{name}", found
