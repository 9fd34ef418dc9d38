"""The results of a run with scores from elsewhere: from a file, or published ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from lrd_harness.claim_rows import count
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.csv_forms import Cell, Say, Scores, read_scores, some
from lrd_harness.errors import UserError
from lrd_harness.interchange import last_layers, score_rows
from lrd_harness.rows import Key, Results, Row, ScoreRow

RowType = TypeVar("RowType", bound=Row)


def with_scores(
    results: Results, actual: Path | Scores, say: Say = lambda note: None
) -> tuple[Results, str]:
    """The results of a run, the scores of the file's tasks replaced by the file's, for all models.

    A task has its scores from one source: a model of the run that the file lacks has none there.
    Tasks that the file lacks keep the run's. Pruned models are left out, as their scores would be
    compared with the file's. Names are the run's, as MODEL or MODEL@REVISION. The second: a
    sentence on which scores are from where, for the board. say: is told, once all is read, of
    models of the file that the run lacks, and of tasks that the run lacks and that are added.

    Raises UserError as `interchange.read` does, and where the file has none of the run's models.
    """
    notes: list[str] = []
    found = read_scores(actual, notes.append) if isinstance(actual, Path) else actual
    keys = _keys(found.cells, [row.key for row in results.models if row.variant == "full"])
    if not keys:
        have, want = some(c.model for c in found.cells), some(r.model for r in results.models)
        raise UserError(f"{found.file} has no model of the run: it has {have}, the run {want}")
    if any(row.variant != "full" for row in results.models):
        notes.append(f"the run's pruned models are left out: {found.file} has no scores of them")
    own = _own(results, found, keys)
    tasks = {row.task for row in own}
    kept = _whole(row for row in results.scores if row.task not in tasks)
    notes += _differences(results, found, keys, own)
    for note in notes:
        say(note)
    joined = Results(
        models=_whole(results.models),
        scores=(*kept, *own),
        metrics=_whole(results.metrics),
        errors=_whole(results.errors),
        captures=_whole(results.captures),
        undefined=_whole(row for row in results.undefined if row.task not in tasks),
    )
    which = some(row.task for row in own) if kept else "all tasks"
    return joined, f"Scores of {which}: from {found.file.name}, not from the run."


def _differences(
    results: Results, found: Scores, keys: Mapping[str, Key], own: Sequence[ScoreRow]
) -> Iterable[str]:
    """Models that only the file has, tasks that only the file has, models that lose scores."""
    strange = dict.fromkeys(cell.model for cell in found.cells if cell.model not in keys)
    if strange:
        models = count(len(strange), "model")
        yield f"{found.file}: {models} left out that the run lacks: {some(strange)}"
    known = {row.task for row in results.scores} | {row.task for row in results.metrics}
    if added := dict.fromkeys(row.task for row in own if row.task not in known):
        yield f"{found.file}: {count(len(added), 'task')} added that the run lacks: {some(added)}"
    lacking = _lacking(results, own, likelihood=False) | _lacking(results, own, likelihood=True)
    if named := [row.model for row in _whole(results.models) if row.key in lacking]:
        models = count(len(named), "model")
        yield f"{found.file}: {models} without a score on some task, so no rank: {some(named)}"


def _lacking(results: Results, own: Sequence[ScoreRow], likelihood: bool) -> set[Key]:
    """Models on the board of such tasks without a score of the file on one of its tasks there."""
    kinds = [(row.key, row.task_type) for row in (*results.scores, *own)]
    kinds += [(row.key, row.task_type) for row in results.metrics]
    lacking: set[Key] = set()
    there = {key for key, kind in kinds if (kind == LIKELIHOOD) == likelihood}
    mine = [row for row in own if (row.task_type == LIKELIHOOD) == likelihood]
    for task in {row.task for row in mine}:
        lacking |= there - {row.key for row in mine if row.task == task and row.last}
    return lacking


def _own(results: Results, found: Scores, keys: Mapping[str, Key]) -> list[ScoreRow]:
    """The file's scores of the run's models, with the run's L and types of task."""
    cells = [cell for cell in found.cells if cell.model in keys]
    types = {row.task: row.task_type for row in results.metrics}
    types |= {row.task: row.task_type for row in results.scores}
    depths = {row.key: row.layers for row in results.scores}
    depths |= {row.key: row.blocks for row in results.models if row.blocks is not None}
    blocks = {name: depths[key] for name, key in keys.items() if key in depths}
    return [
        replace(
            row,
            model=keys[row.model].model,
            revision=keys[row.model].revision,
            task_type=types.get(row.task) or row.task_type,
        )
        for row in score_rows(cells, last_layers(cells) | blocks, found)
    ]


def _keys(cells: Iterable[Cell], keys: Sequence[Key]) -> dict[str, Key]:
    """The run's model that each name of the file means; names that mean none are left out."""
    by_name: dict[str, Key | None] = {}  # None where a name is that of several revisions
    for key in keys:
        by_name[key.model] = None if key.model in by_name else key
    for key in keys:
        by_name |= {f"{key.model}@{key.revision}": key, f"{key.model}@{key.revision[:12]}": key}
    found: dict[str, Key] = {}
    for cell in cells:
        if cell.model not in by_name:
            continue
        meant = by_name[cell.model]
        if meant is None:
            which = some(f"{k.model}@{k.revision[:12]}" for k in keys if k.model == cell.model)
            raise cell.line.fault(f"{cell.model} is several models of the run: {which}")
        if found.setdefault(cell.model, meant) in [k for n, k in found.items() if n != cell.model]:
            raise cell.line.fault(f"{cell.model} is there already under another name")
    return found


def _whole(rows: Iterable[RowType]) -> tuple[RowType, ...]:
    """The rows of whole models."""
    return tuple(row for row in rows if row.variant == "full")
