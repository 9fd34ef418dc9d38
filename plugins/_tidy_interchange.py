"""Whole models in the CSV forms that `lrd-harness leaderboard` reads without a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._sheets import boards

if TYPE_CHECKING:
    from lrd_harness.leaderboard import Leaderboard
    from lrd_harness.results import Key, Results

Table = tuple[Sequence[str], list[Sequence[Any]]]  # header, rows
SCORES = ("model", "layer", "task", "score", "task_type", "score_name")
VALUES = ("model", "layer", "task", "name", "value")
MODELS = ("model", "parameters_millions", "width", "blocks", "family", "released")


def interchange(board: Leaderboard) -> dict[str, Table]:
    """scores, metrics and models: of each what there is any of.

    A model is named as in the tables, MODEL@REVISION where a name is that of several. Scores that
    do not lie in 0..1 have no file, as they would be read as percent. Histograms are left out.
    """
    names: dict[Key, str] = {row.info.key: row.label for row in board.rows}
    parts = [part.results for part, _ in boards(board)]
    scored = [row for part in parts for row in part.scores if row.key in names]
    scores: list[Sequence[Any]] = [
        (names[r.key], r.layer, r.task, r.score, r.task_type, r.score_name) for r in scored
    ]
    if any(row.score > 1 for row in scored):
        scores = []
    models: list[Sequence[Any]] = [
        (
            row.label,
            row.info.parameters / 1e6 if row.info.parameters else None,
            row.info.width,
            row.info.blocks,
            row.info.family,
            row.info.released,
        )
        for row in board.rows
    ]
    tables: Mapping[str, Table] = {
        "scores": (SCORES, scores),
        "metrics": (VALUES, [row for part in parts for row in _values(part, names)]),
        "models": (MODELS, models),
    }
    return {name: table for name, table in tables.items() if table[1]}


def _values(results: Results, names: Mapping[Key, str]) -> Iterator[Sequence[Any]]:
    """The last value of each counts, as in the tables; the model's own, then those of layers."""
    latest = {(r.key, r.task, r.metric): r for r in results.metrics if r.key in names}
    for row in latest.values():
        model = names[row.key]
        for name, value in row.values.items():
            yield model, "model", row.task, f"{row.metric}.{name}", value
        for name, profile in row.profiles.items():
            for layer, found in zip(profile.layers, profile.values, strict=True):
                if found is not None:
                    yield model, layer, row.task, f"{row.metric}.{name}", found
