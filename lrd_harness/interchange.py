"""Published or exported numbers as results: scores, metric values and models from CSV files.

    scores   wide: model, then a column a task        (the last layer's scores)
             long: model, layer, task, score          (layer: a number, or "model" for the last)
                   and, where known, task_type, score_name
    values   model, layer, task, name, value          (layer likewise; name: frenet.d0L)
    models   model, parameters_millions, width, blocks, family, released

See csv_tables.py for what a file may look like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lrd_harness import manager
from lrd_harness.claim_rows import count
from lrd_harness.collecting import uncollected
from lrd_harness.contracts import Choice, Metric
from lrd_harness.csv_forms import Cell, Say, Scores, read_models, read_scores, read_values, some
from lrd_harness.errors import UserError
from lrd_harness.rows import MetricRow, ModelRow, Profile, Results, ScoreRow

Ranking = tuple[str, Literal["max", "min"]]


@uncollected()
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
    unscored = [name for (_, score), held in alike.items() if score is None for name in held]
    if unscored:
        yield f"blocks are not given: the highest layer of a value is the last: {some(unscored)}"
    for (value, score), held in alike.items():
        if score is not None:
            yield (
                f"{some(held)}: values reach layer {value}, scores layer {score}: "
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
    """A row a cell. depths: model -> L. Raises UserError for what is there twice or beyond L."""
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
    """One a (model, task, metric), its scores those of one metric by that name, if there is one."""
    registered: dict[str, Metric] = {m.name: m for m in manager.load().all("metric")}
    numbers: dict[tuple[str, str, str], dict[str, dict[int | None, float]]] = {}
    for layer, cell in _unique(cells, depths, last=False):
        metric, _, score = cell.name.partition(".")
        held = numbers.setdefault((cell.model, cell.task, metric), {})
        held.setdefault(score or metric, {})[layer] = cell.number
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
    """Each cell with its layer; last: whether the model's own is a layer, L.

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
