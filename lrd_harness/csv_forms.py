"""The columns of score, value and model files, read as numbers that know their line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from lrd_harness import releases
from lrd_harness.csv_tables import MISSING, SHOWN, Line, Sheet, read_sheet
from lrd_harness.errors import UserError
from lrd_harness.rows import ModelRow

SCORE_FORMS = "scores are wide (model, a column a task) or long (model, layer, task, score)"
VALUE_FORM = "values have the columns model, layer, task, name, value"
MODEL_FORM = "models have the columns model, parameters_millions, width, blocks, family, released"
KEYS = ("model", "layer", "task", "score", "name", "value")
IGNORED = ("n_tasks",)  # a column of published wide tables that is no task
LAST = "model"  # as a layer: the model itself
_ROUNDING = 1e-6  # how far above 1 a score may be and still be meant as 1

Say = Callable[[str], None]


class Cell(NamedTuple):
    """A number of a file. layer: None is the model's; name: of a value, "" for a score."""

    line: Line
    model: str
    layer: int | None
    task: str
    number: float
    name: str = ""


@dataclass(frozen=True)
class Scores:
    """The scores of a file, 0..1; types and score_names by task, where the file says them."""

    file: Path
    cells: tuple[Cell, ...]
    types: Mapping[str, str] = field(default_factory=dict)
    score_names: Mapping[str, str] = field(default_factory=dict)


def read_scores(path: Path, say: Say = lambda note: None) -> Scores:
    """The scores of a file in either form; percentages, of which one is above 1, become 0..1.

    Raises UserError for a file in neither form, for what is no number or no layer, and for a file
    without any score.
    """
    sheet = read_sheet(path, KEYS)
    long = {"task", "score"} & set(sheet.columns)
    sheet.require(["model", "task", "score"] if long else ["model"], SCORE_FORMS)
    read_form = _long if long else _wide
    cells = tuple(read_form(sheet))
    if not cells:
        raise UserError(f"{path} has no score: {SCORE_FORMS}")
    highest = max(cell.number for cell in cells)
    if highest > 100:
        say(f"{path}: scores are above 100: read as they are")
    elif highest > 1 + _ROUNDING:
        say(f"{path}: scores are above 1: read as percent")
        cells = tuple(cell._replace(number=cell.number / 100) for cell in cells)
    types, names = (sheet.remarks.get(name, {}) for name in ("type", "main_score"))
    if long:
        known = ("task_type", "score_name")
        types, names = ({c.task: c.line.text(name) for c in cells} for name in known)
    return Scores(path, cells, types, names)


def _wide(sheet: Sheet) -> Iterable[Cell]:
    """A column a task; where there is a column layer, it says whose scores a row has."""
    tasks = [name for name in sheet.columns if name not in ("model", "layer", *IGNORED)]
    for line in sheet.lines:
        model, layer = _name(line, "model"), _layer(line)
        for task in tasks:
            number = line.value(task)
            if number is not None:
                yield Cell(line, model, layer, task, number)


def _long(sheet: Sheet) -> Iterable[Cell]:
    for line in sheet.lines:
        model, layer, task = _name(line, "model"), _layer(line), _name(line, "task")
        number = line.value("score")
        if number is not None:
            yield Cell(line, model, layer, task, number)


def read_values(path: Path) -> tuple[Cell, ...]:
    sheet = read_sheet(path, KEYS)
    sheet.require(["model", "layer", "task", "name", "value"], VALUE_FORM)
    cells = []
    for line in sheet.lines:
        model, layer, task = _name(line, "model"), _layer(line), _name(line, "task")
        name, number = _name(line, "name"), line.value("value")
        if not all(name.partition(".")[::2]) and "." in name:
            raise line.fault(f"'{name}' is no name of a value: METRIC.SCORE, as frenet.d0L")
        if number is not None:
            cells.append(Cell(line, model, layer, task, number, name))
    if not cells:
        raise UserError(f"{path} has no value: {VALUE_FORM}")
    return tuple(cells)


def read_models(path: Path, wanted: Sequence[str]) -> dict[str, ModelRow]:
    """The wanted models that the file has, by name."""
    sheet = read_sheet(path, KEYS)
    sheet.require(["model"], MODEL_FORM)
    found: dict[str, tuple[ModelRow, Line]] = {}
    for line in sheet.lines:
        name = _name(line, "model")
        if name in found:
            raise line.fault(f"{name} is there already, in line {found[name][1].number}")
        row = ModelRow(
            model=name,
            parameters=_parameters(line),
            blocks=_whole_number(line, "blocks"),
            width=_whole_number(line, "width"),
            family=line.text("family") or None,
            released=_released(line),
        )
        found[name] = row, line
    known = {name: found[name][0] for name in wanted if name in found}
    if not known:
        raise UserError(f"{path} has none of the models: it has {some(found)}, not {some(wanted)}")
    return known


def _name(line: Line, column: str) -> str:
    name = line.text(column)
    if not name:
        raise line.fault(f"no {column}")
    return name


def _layer(line: Line) -> int | None:
    """The number of a state; None for the model's own, the last one. pandas writes 3 as 3.0."""
    cell = line.text("layer")
    if cell.lower() in MISSING | {LAST}:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.0*)?", cell):
        raise line.fault(
            f"layer '{cell:.{SHOWN}}' is neither a whole number from 0 on nor '{LAST}'"
        )
    return int(cell.partition(".")[0])


def _parameters(line: Line) -> int | None:
    """How many a model has. Raises UserError where a million times the cell is no number."""
    millions = line.value("parameters_millions")
    if millions is not None and not isfinite(millions * 1e6):
        raise line.fault(f"'{line.text('parameters_millions')}' million parameters are too many")
    return None if millions is None else round(millions * 1e6)


def _released(line: Line) -> str | None:
    """An ISO date; pandas writes a year as 2024.0 where others are missing."""
    cell = line.text("released")
    if cell.lower() in MISSING:
        return None
    found = cell.removesuffix(".0")
    try:
        releases.middle(found)
    except ValueError:
        raise line.fault(f"released '{cell:.{SHOWN}}' is no date: {releases.FORM}") from None
    return found


def _whole_number(line: Line, column: str) -> int | None:
    number = line.value(column)
    if number is not None and (number != int(number) or number < 1):
        raise line.fault(f"'{line.text(column)}' in column {column} is no whole number above 0")
    return None if number is None else int(number)


def some(names: Iterable[str]) -> str:
    """A few names, the first ones, and how many more there are."""
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more
