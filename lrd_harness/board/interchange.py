"""Scores, metric values and models from CSV files, or published ones, as the results of a run.

Without a run they are results themselves; beside one, their scores take the place of the run's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from lrd_harness import manager
from lrd_harness.board.cautions import count
from lrd_harness.board.external import (
    Cell,
    Say,
    Scores,
    read_models,
    read_scores,
    read_values,
    some,
)
from lrd_harness.contracts import LIKELIHOOD, Choice, Metric
from lrd_harness.errors import UserError
from lrd_harness.results.rows import Key, MetricRow, ModelRow, Profile, Results, Row, ScoreRow

Ranking = tuple[str, Literal["max", "min"]]


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
    scores = read_scores(actual, notes.append) if isinstance(actual, Path) else actual
    measured = read_values(values) if values else ()
    scored = scores.cells if scores else ()
    if scores and values:
        _check_common(scores.file, scored, values, measured)
        scored = _with_values(scores.file, scored, values, measured, notes.append)
    names = list(dict.fromkeys(cell.model for cell in [*scored, *measured]))
    known = read_models(models, names) if models else {}
    given = {name: row.blocks for name, row in known.items() if row.blocks is not None}
    notes += _taken_as_last([name for name in names if name not in given], scored, measured)
    depths = last_layers([*scored, *measured]) | given
    types = scores.types if scores else {}
    results = Results(
        models=tuple(
            replace(known.get(name, ModelRow(model=name)), blocks=depths[name] or None)
            for name in names
        ),
        scores=score_rows(scored, depths, scores) if scores else (),
        metrics=_metric_rows(measured, depths, types),
    )
    for note in notes:
        say(note)
    return results


def _check_common(
    actual: Path, scored: Sequence[Cell], values: Path, measured: Sequence[Cell]
) -> None:
    """Raise UserError where no model is in both files."""
    here, there = ({cell.model: None for cell in cells} for cells in (scored, measured))
    if here.keys().isdisjoint(there):
        raise UserError(
            f"no model is in both {actual} ({some(here)}) and {values} ({some(there)}): "
            "the names must be the same"
        )


def _with_values(
    actual: Path, scored: Sequence[Cell], values: Path, measured: Sequence[Cell], say: Say
) -> tuple[Cell, ...]:
    """The scores of models that have values, so that ranks and tasks are of the same models."""
    there = {cell.model for cell in measured}
    lacking = dict.fromkeys(cell.model for cell in scored if cell.model not in there)
    if lacking:
        number = count(len(lacking), "model")
        say(f"{actual}: {number} left out, without a value in {values}: {some(lacking)}")
    kept = tuple(cell for cell in scored if cell.model in there)
    if {cell.task for cell in kept}.isdisjoint(cell.task for cell in measured):
        say(f"no task is in both {actual} and {values}: values are compared with means only")
    return kept


def _taken_as_last(
    names: Iterable[str], scored: Sequence[Cell], measured: Sequence[Cell]
) -> Iterable[str]:
    """What is said of L where nothing gives it, of models whose scores and values differ in it.

    names: the models in question. Those that differ in the same way are named together.
    """
    by_values, by_scores = (
        last_layers(cell for cell in cells if cell.layer is not None)
        for cells in (measured, scored)
    )
    alike: dict[tuple[int, int | None], list[str]] = {}
    for name in names:
        pair = by_values.get(name), by_scores.get(name)
        if pair[0] is not None and pair[0] != pair[1]:
            alike.setdefault((pair[0], pair[1]), []).append(name)
    unscored = [name for (_, score), same in alike.items() if score is None for name in same]
    if unscored:
        yield f"blocks are not given: the highest layer of a value is the last: {some(unscored)}"
    for (value, score), same in alike.items():
        if score is not None:
            yield (
                f"{some(same)}: values reach layer {value}, scores layer {score}: "
                f"{max(value, score)} is taken as the last"
            )


def last_layers(cells: Iterable[Cell]) -> dict[str, int]:
    """The highest layer of each model: L, since scores and values of states reach it."""
    depths: dict[str, int] = {}
    for cell in cells:
        depths[cell.model] = max(depths.get(cell.model, 0), cell.layer or 0)
    return depths


def score_rows(
    cells: Iterable[Cell], depths: Mapping[str, int], scores: Scores
) -> tuple[ScoreRow, ...]:
    """One per cell. depths: model -> L. Raises UserError for what is there twice or beyond L."""
    return tuple(
        ScoreRow(
            model=cell.model,
            task=cell.task,
            task_type=scores.types.get(cell.task, ""),
            layer=layer or 0,
            layers=depths[cell.model],
            score_name=scores.score_names.get(cell.task, ""),
            score=cell.number,
        )
        for layer, cell in _unique(cells, depths, last=True)
    )


def _metric_rows(
    cells: Iterable[Cell], depths: Mapping[str, int], types: Mapping[str, str]
) -> tuple[MetricRow, ...]:
    """One per (model, task, metric), with the choices of a metric of that name, if there is one."""
    metrics: list[Metric] = manager.load(kinds=["metric"]).all("metric")
    registered = {metric.name: metric for metric in metrics}
    numbers: dict[tuple[str, str, str], dict[str, dict[int | None, float]]] = {}
    for layer, cell in _unique(cells, depths, last=False):
        metric, _, score = cell.name.partition(".")
        scores = numbers.setdefault((cell.model, cell.task, metric), {})
        scores.setdefault(score or metric, {})[layer] = cell.number
    rows = []
    for (model, task, metric), scores in numbers.items():
        values = {name: by_layer[None] for name, by_layer in scores.items() if None in by_layer}
        profiles = {name: _profile(by_layer) for name, by_layer in scores.items()}
        profiles = {name: profile for name, profile in profiles.items() if profile.layers}
        record = registered.get(metric)
        rows.append(
            MetricRow(
                model=model,
                task=task,
                task_type=types.get(task, ""),
                metric=metric,
                n=0,  # how many texts is not in the file
                start=min((profile.layers[0] for profile in profiles.values()), default=0),
                selection=_ranking(record.selection, values) if record else None,
                layer_choice=_ranking(record.layer_choice, profiles) if record else None,
                values=values,
                profiles=profiles,
            )
        )
    return tuple(rows)


def _unique(
    cells: Iterable[Cell], depths: Mapping[str, int], last: bool
) -> Iterable[tuple[int | None, Cell]]:
    """Each cell with its layer; last: whether that of the model is a layer, L.

    Raises UserError for one that is there twice or beyond L.
    """
    seen: dict[tuple[str, int | None, str, str], Cell] = {}
    for cell in cells:
        depth = depths[cell.model]
        layer = depth if last and cell.layer is None else cell.layer
        if layer is not None and layer > depth:
            raise cell.line.fault(f"layer {layer} of {cell.model}, whose last layer is {depth}")
        key = cell.model, layer, cell.task, cell.name
        if key in seen:
            what = f"{cell.name} of" if cell.name else "the score of"
            where = f", layer {layer}," if layer is not None else ", the model,"
            if "layer" not in cell.line.places:  # a file that says nothing of layers
                where = ""
            raise cell.line.fault(
                f"{what} {cell.model} on {cell.task}{where} is there already, "
                f"in line {seen[key].line.number}"
            )
        seen[key] = cell
        yield layer, cell


def _profile(by_layer: Mapping[int | None, float]) -> Profile:
    layers = sorted(layer for layer in by_layer if layer is not None)
    return Profile(tuple(layers), tuple(by_layer[layer] for layer in layers))


def _ranking(choice: Choice | None, scores: Iterable[str]) -> Ranking | None:
    return (choice.score, choice.best) if choice and choice.score in scores else None


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
    replaced = _own(results, found, keys)
    tasks = {row.task for row in replaced}
    kept = _whole(row for row in results.scores if row.task not in tasks)
    notes += _differences(results, found, keys, replaced)
    for note in notes:
        say(note)
    joined = Results(
        models=_whole(results.models),
        scores=(*kept, *replaced),
        metrics=_whole(results.metrics),
        errors=_whole(results.errors),
        captures=_whole(results.captures),
        undefined=_whole(row for row in results.undefined if row.task not in tasks),
    )
    which = some(row.task for row in replaced) if kept else "all tasks"
    return joined, f"Scores of {which}: from {found.file.name}, not from the run."


def _differences(
    results: Results, found: Scores, keys: Mapping[str, Key], replaced: Sequence[ScoreRow]
) -> Iterable[str]:
    """Models that only the file has, tasks that only the file has, models that lose scores."""
    strange = dict.fromkeys(cell.model for cell in found.cells if cell.model not in keys)
    if strange:
        models = count(len(strange), "model")
        yield f"{found.file}: {models} left out that the run lacks: {some(strange)}"
    known = {row.task for row in results.scores} | {row.task for row in results.metrics}
    if added := dict.fromkeys(row.task for row in replaced if row.task not in known):
        yield f"{found.file}: {count(len(added), 'task')} added that the run lacks: {some(added)}"
    lacking: set[Key] = set().union(
        *(_lacking(results, replaced, likelihood=k) for k in (False, True))
    )
    if named := [row.model for row in _whole(results.models) if row.key in lacking]:
        models = count(len(named), "model")
        yield f"{found.file}: {models} without a score on some task, so no rank: {some(named)}"


def _lacking(results: Results, replaced: Sequence[ScoreRow], likelihood: bool) -> set[Key]:
    """Models on the board of such tasks without a score of the file on one of its tasks there."""
    kinds = [(row.key, row.task_type) for row in (*results.scores, *replaced)]
    kinds += [(row.key, row.task_type) for row in results.metrics]
    lacking: set[Key] = set()
    there = {key for key, kind in kinds if (kind == LIKELIHOOD) == likelihood}
    mine = [row for row in replaced if (row.task_type == LIKELIHOOD) == likelihood]
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
