"""The columns of score, value and model files, read as numbers that know their line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lrd_harness import bounds, releases
from lrd_harness.csv_tables import MISSING, MOST_COLUMNS, SHOWN, Line, Sheet, read_sheet
from lrd_harness.errors import UserError
from lrd_harness.percent import Scored, in_percent
from lrd_harness.rows import ModelRow

SCORE_FORMS = "scores are wide (model, a column a task) or long (model, layer, task, score)"
VALUE_FORM = "values have the columns model, layer, task, name, value"
MODEL_FORM = "models have the columns model, parameters_millions, width, blocks, family, released"
KEYS = ("model", "layer", "task", "score", "name", "value")
IGNORED = ("n_tasks",)  # a column of published wide tables that is no task
LAST = "model"  # as a layer: the model itself

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
    """The scores of a file in either form; percentages become 0..1 (percent.py says which are).

    Raises UserError for a file in neither form, for what is no number, no layer or no score, and
    for a file without any score.
    """
    sheet = read_sheet(path, KEYS)
    long = {"task", "score"} & set(sheet.columns)
    sheet.require(["model", "task", "score"] if long else ["model"], SCORE_FORMS)
    read_form = _long if long else _wide
    cells = tuple(read_form(sheet))
    if not cells:
        raise UserError(f"{path} has no score: {SCORE_FORMS}")
    cells = _as_shares(path, cells, say)
    types, names = (sheet.remarks.get(name, {}) for name in ("type", "main_score"))
    if long:
        known = ("task_type", "score_name")
        types, names = ({c.task: c.line.text(name) for c in cells} for name in known)
    return Scores(path, cells, types, names)


def _as_shares(path: Path, cells: Sequence[Cell], say: Say) -> tuple[Cell, ...]:
    """The scores from 0 to 1, those of tasks that are in percent divided by 100.

    Raises UserError as `percent.in_percent` does.
    """
    tasks: dict[str, list[Scored]] = {}
    for cell in cells:
        tasks.setdefault(cell.task, []).append(
            Scored(cell.line, (cell.model, cell.layer), cell.number)
        )
    if len(tasks) > MOST_COLUMNS:
        raise UserError(f"{path}: {len(tasks):,} tasks; at most {MOST_COLUMNS:,} are read")
    found = in_percent(tasks)
    if not found:
        return tuple(cells)
    if len(found) == len(tasks):
        say(f"{path}: scores are above 1: read as percent")
    else:
        which = some(name for name in tasks if name in found)
        others = some(name for name in tasks if name not in found)
        say(f"{path}: scores of {which} are above 1: read as percent; of {others} as they are")
    return tuple(
        cell._replace(number=cell.number / 100) if cell.task in found else cell for cell in cells
    )


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
            blocks=_whole_number(line, "blocks", bounds.BLOCKS),
            width=_whole_number(line, "width", bounds.WIDTH),
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
    layer = int(cell.partition(".")[0])
    if layer > bounds.BLOCKS:
        raise line.fault(f"layer {layer}: at most {bounds.BLOCKS:,} are possible")
    return layer


def _parameters(line: Line) -> int | None:
    """How many a model has. Raises UserError for fewer than one, and beyond 64 bit."""
    millions = line.value("parameters_millions")
    if millions is None:
        return None
    cell = f"'{line.text('parameters_millions'):.{SHOWN}}' million parameters"
    if millions * 1e6 > bounds.PARAMETERS:
        raise line.fault(f"{cell} are too many: at most {bounds.PARAMETERS / 1e6:.3g} are possible")
    if round(millions * 1e6) < 1:
        raise line.fault(f"{cell} are not one parameter")
    return round(millions * 1e6)


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


def _whole_number(line: Line, column: str, most: int) -> int | None:
    number = line.value(column)
    cell = f"'{line.text(column):.{SHOWN}}' in column {column}"
    if number is not None and (number != int(number) or number < 1):
        raise line.fault(f"{cell} is no whole number above 0")
    if number is not None and number > most:
        raise line.fault(f"{cell} is too large: at most {most:,} is possible")
    return None if number is None else int(number)


def some(names: Iterable[str]) -> str:
    """A few names, the first ones, and how many more there are."""
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more
