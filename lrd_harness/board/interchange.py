"""Scores, metric values and models from CSV files, or published ones, as the results of a run.

Without a run they are results themselves; beside one, their scores take the place of the run's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from lrd_harness import manager
from lrd_harness.board import external
from lrd_harness.board.cautions import count
from lrd_harness.board.external import Cell, Say, Scores, some
from lrd_harness.contracts import Choice, Metric, PanelMetric
from lrd_harness.errors import UserError
from lrd_harness.results.rows import (
    Key,
    MetricRow,
    ModelRow,
    Profile,
    Results,
    Row,
    ScoreRow,
    kind_of,
)

RowType = TypeVar("RowType", bound=Row)


def read(
    actual: Path | Scores | None = None,
    values: Path | None = None,
    models: Path | None = None,
    say: Say = lambda note: None,
) -> Results:
    """Scores, values and models as the results of a run, which a leaderboard is built of.

    L of a model is its `blocks`, or else the highest layer that any number of it has. Where there
    are values, models that have none are left out. say: is told what the reader should know, once
    all is read.

    Raises UserError, with file and line, for what is malformed, there twice, or beyond L; and where
    the files have no model in common.
    """
    notes: list[str] = []
    scores = external.read_scores(actual, notes.append) if isinstance(actual, Path) else actual
    measured = external.read_values(values) if values else ()
    if scores and values:
        scores = _with_values(scores, values, measured, notes.append)
    scored = scores.cells if scores else ()
    names = list(dict.fromkeys(cell.model for cell in (*scored, *measured)))
    known = external.read_models(models, names) if models else {}
    blocks = {name: row.blocks for name, row in known.items() if row.blocks is not None}
    notes += _taken_as_last([name for name in names if name not in blocks], scored, measured)
    depths = _highest_layers((*scored, *measured)) | blocks
    results = Results(
        models=tuple(
            replace(known.get(name, ModelRow(model=name)), blocks=depths[name] or None)
            for name in names
        ),
        scores=tuple(_score_rows(scores, depths)) if scores else (),
        metrics=tuple(_metric_rows(measured, depths, scores.types if scores else {})),
    )
    for note in notes:
        say(note)
    return results


def _with_values(scores: Scores, values: Path, measured: Sequence[Cell], say: Say) -> Scores:
    """The scores of models that have values, so that ranks and tasks are of the same models.

    Raises UserError where no model is in both files.
    """
    file, there = scores.file, dict.fromkeys(cell.model for cell in measured)
    kept = tuple(cell for cell in scores.cells if cell.model in there)
    if not kept:
        raise UserError(
            f"no model is in both {file} ({some(cell.model for cell in scores.cells)}) and "
            f"{values} ({some(there)}): the names must be the same"
        )
    if lacking := {cell.model: None for cell in scores.cells if cell.model not in there}:
        models = count(len(lacking), "model")
        say(f"{file}: {models} left out, without a value in {values}: {some(lacking)}")
    if {cell.task for cell in kept}.isdisjoint(cell.task for cell in measured):
        say(f"no task is in both {file} and {values}: values are compared with means only")
    return replace(scores, cells=kept)


def _taken_as_last(
    names: Iterable[str], scored: Iterable[Cell], measured: Iterable[Cell]
) -> Iterator[str]:
    """What is said of L where nothing gives it, of models whose scores and values differ in it.

    names: the models in question. Those that differ in the same way are named together.
    """
    by_values, by_scores = (
        _highest_layers(cell for cell in cells if cell.layer is not None)
        for cells in (measured, scored)
    )
    unscored = [name for name in names if name in by_values and name not in by_scores]
    if unscored:
        yield f"blocks are not given: the highest layer of a value is the last: {some(unscored)}"
    alike: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name in names:
        if name in by_values and name in by_scores and by_values[name] != by_scores[name]:
            alike[by_values[name], by_scores[name]].append(name)
    for (value, score), same in alike.items():
        yield (
            f"{some(same)}: values reach layer {value}, scores layer {score}: "
            f"{max(value, score)} is taken as the last"
        )


def _highest_layers(cells: Iterable[Cell]) -> dict[str, int]:
    """The highest layer of each model: L, since scores and values of states reach it."""
    depths: dict[str, int] = {}
    for cell in cells:
        depths[cell.model] = max(depths.get(cell.model, 0), cell.layer or 0)
    return depths


def _score_rows(scores: Scores, depths: Mapping[str, int]) -> Iterator[ScoreRow]:
    """One per cell. depths: model -> L. Raises UserError for what is there twice or beyond L."""
    for layer, cell in _unique(scores.cells, depths):
        yield ScoreRow(
            model=cell.model,
            task=cell.task,
            task_type=scores.types.get(cell.task, ""),
            layer=layer or 0,
            layers=depths[cell.model],
            score_name=scores.score_names.get(cell.task, ""),
            score=cell.number,
        )


def _metric_rows(
    cells: Iterable[Cell], depths: Mapping[str, int], types: Mapping[str, str]
) -> Iterator[MetricRow]:
    """One per (model, task, metric), with the choices of a metric of that name, if there is one."""
    plugins = manager.load()
    metrics: list[Metric | PanelMetric] = plugins.all("metric") + plugins.all("panel metric")
    registered = {metric.name: metric for metric in metrics}
    numbers: dict[tuple[str, str, str], dict[str, dict[int | None, float]]] = {}
    for layer, cell in _unique(cells, depths):
        metric, _, score = cell.name.partition(".")
        of_metric = numbers.setdefault((cell.model, cell.task, metric), {})
        of_metric.setdefault(score or metric, {})[layer] = cell.number
    for (model, task, metric), of_metric in numbers.items():
        values, profiles = {}, {}
        for name, by_layer in of_metric.items():
            if None in by_layer:
                values[name] = by_layer.pop(None)
            if layers := sorted(layer for layer in by_layer if layer is not None):
                profiles[name] = Profile(tuple(layers), tuple(by_layer[n] for n in layers))
        record = registered.get(metric)
        yield MetricRow(
            model=model,
            task=task,
            task_type=types.get(task, ""),
            metric=metric,
            n=0,  # how many texts is not in the file
            start=min((profile.layers[0] for profile in profiles.values()), default=0),
            selection=_ranking(record.selection, values) if record else None,
            layer_choice=_ranking(getattr(record, "layer_choice", None), profiles),
            margin=getattr(record, "margin", ""),
            control=getattr(record, "needs", "") == "labels",
            pairs={} if isinstance(record, PanelMetric) else None,
            summaries=getattr(record, "summaries", {}),
            values=values,
            profiles=profiles,
        )


def _ranking(
    choice: Choice | None, scores: Iterable[str]
) -> tuple[str, Literal["max", "min"]] | None:
    return (choice.score, choice.best) if choice and choice.score in scores else None


def _unique(cells: Iterable[Cell], depths: Mapping[str, int]) -> Iterator[tuple[int | None, Cell]]:
    """Each cell with its layer, which is L for the score of a model itself.

    Raises UserError for one that is there twice or beyond L.
    """
    lines: dict[tuple[str, int | None, str, str], int] = {}
    for cell in cells:
        depth = depths[cell.model]
        layer = depth if cell.layer is None and not cell.name else cell.layer
        if layer is not None and layer > depth:
            raise cell.line.fault(f"layer {layer} of {cell.model}, whose last layer is {depth}")
        key = cell.model, layer, cell.task, cell.name
        if key in lines:
            what = f"{cell.name} of" if cell.name else "the score of"
            where = ", the model," if layer is None else f", layer {layer},"
            if "layer" not in cell.line.places:  # a file that says nothing of layers
                where = ""
            raise cell.line.fault(
                f"{what} {cell.model} on {cell.task}{where} is there already, in line {lines[key]}"
            )
        lines[key] = cell.line.number
        yield layer, cell


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
    scores = external.read_scores(actual, notes.append) if isinstance(actual, Path) else actual
    file, models = scores.file, _whole(results.models)
    keys = _keys(scores.cells, [row.key for row in models])
    if not keys:
        names = some(cell.model for cell in scores.cells), some(row.model for row in results.models)
        raise UserError(f"{file} has no model of the run: it has {names[0]}, the run {names[1]}")
    if len(models) < len(results.models):
        notes.append(f"the run's pruned models are left out: {file} has no scores of them")
    replaced = _of_run(results, scores, keys)
    tasks = {row.task for row in replaced}
    kept = _whole(row for row in results.scores if row.task not in tasks)
    if strange := {cell.model: None for cell in scores.cells if cell.model not in keys}:
        number = count(len(strange), "model")
        notes.append(f"{file}: {number} left out that the run lacks: {some(strange)}")
    known = {row.task for row in results.scores} | {row.task for row in results.metrics}
    if added := {row.task: None for row in replaced if row.task not in known}:
        number = count(len(added), "task")
        notes.append(f"{file}: {number} added that the run lacks: {some(added)}")
    lacking = _lacking(results, replaced)
    if unranked := [row.model for row in models if row.key in lacking]:
        number = count(len(unranked), "model")
        notes.append(f"{file}: {number} without a score on some task, so no rank: {some(unranked)}")
    for note in notes:
        say(note)
    joined = Results(
        models=models,
        scores=(*kept, *replaced),
        metrics=_whole(results.metrics),
        errors=_whole(results.errors),
        captures=_whole(results.captures),
        texts=results.texts,
        undefined=_whole(row for row in results.undefined if row.task not in tasks),
    )
    which = some(row.task for row in replaced) if kept else "all tasks"
    return joined, f"Scores of {which}: from {file.name}, not from the run."


def _whole(rows: Iterable[RowType]) -> tuple[RowType, ...]:
    """The rows of whole models."""
    return tuple(row for row in rows if row.variant == "full")


def _lacking(results: Results, replaced: Sequence[ScoreRow]) -> set[Key]:
    """Models on a board that lack the file's last-layer score on one of the file's tasks there.

    Kinds of tasks have boards of their own: what a model lacks on another one is no loss.
    """
    rows: list[ScoreRow | MetricRow] = [*results.scores, *replaced, *results.metrics]
    boards = {(row.key, kind_of(row.task_type)) for row in rows}
    tasks = {(row.task, kind_of(row.task_type)) for row in replaced}
    scored = {(row.key, row.task) for row in replaced if row.last}
    return {
        key
        for key, board in boards
        for task, kind in tasks
        if board == kind and (key, task) not in scored
    }


def _of_run(results: Results, scores: Scores, keys: Mapping[str, Key]) -> list[ScoreRow]:
    """The file's scores of the run's models, with the run's L and types of task."""
    cells = tuple(cell for cell in scores.cells if cell.model in keys)
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
        for row in _score_rows(replace(scores, cells=cells), _highest_layers(cells) | blocks)
    ]


def _keys(cells: Iterable[Cell], keys: Sequence[Key]) -> dict[str, Key]:
    """The run's model that each name of the file means; names that mean none are left out."""
    revisions = Counter(key.model for key in keys)
    by_name = {key.model: key for key in keys}
    for key in keys:
        by_name |= {f"{key.model}@{key.revision}": key, f"{key.model}@{key.revision[:12]}": key}
    names: dict[Key, str] = {}
    for cell in cells:
        if cell.model in by_name:
            if revisions[cell.model] > 1:
                which = some(f"{k.model}@{k.revision[:12]}" for k in keys if k.model == cell.model)
                raise cell.line.fault(f"{cell.model} is several models of the run: {which}")
            if names.setdefault(by_name[cell.model], cell.model) != cell.model:
                raise cell.line.fault(f"{cell.model} is there already under another name")
    return {name: key for key, name in names.items()}
