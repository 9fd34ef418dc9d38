"""Score, value and model files: columns as numbers that know their line, and what is percent.

    scores   wide: model, then a column for each task (the last layer's scores)
             long: model, layer, task, score          (layer: a number, or "model" for the last)
                   and, where known, task_type, score_name
    values   model, layer, task, name, value          (layer likewise; name: frenet.d0L)
    models   model, parameters_millions, width, blocks, family, released
                   and, where the family does not tell it, kind (encoder, decoder, base model)

Whether scores are shares (0 to 1) or percentages (0 to 100) is decided for each task. Scores of
which none is above 1 are shares, whatever other tasks are in; negative ones, as of correlations,
count by their size. With one above 1 the task is in percent. Where some are at most 1 beside others
above (0 is both), a few sources may have been mixed, so this is taken for percent only where the
others lead down to them, and refused otherwise: they are at most a fifth of the scores, the next
one above is at most five times the largest of them, and some score is above 10; and where a model
that has several of these tasks is above 1 on one of them. A task whose name says that it is in
percent is. What is neither is refused by name: scores above 100, ranks 1, 2, 3 ..., and what is
called a rank, a size, a date, or a mean of the other tasks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from scipy.stats import rankdata

from lrd_harness import errors
from lrd_harness.errors import UserError
from lrd_harness.results import kinds
from lrd_harness.results.rows import ModelRow
from lrd_harness.store.tables import MISSING, MOST_COLUMNS, SHOWN, Line, Sheet, read_sheet

SCORE_FORMS = "scores are wide (model, a column per task) or long (model, layer, task, score)"
VALUE_FORM = "values have the columns model, layer, task, name, value"
MODEL_FORM = "models have the columns model, parameters_millions, width, blocks, family, released"
# What the column kind may say -> the adapter of such models, by which kinds are told.
DECODER = "decoder embedder"
ADAPTERS = {"encoder": "encoder", "decoder": DECODER, DECODER: DECODER, "base model": "decoder"}
KEYS = ("model", "layer", "task", "score", "name", "value")
IGNORED = ("n_tasks",)  # a column of published wide tables that is no task
LAST = "model"  # as a layer: the model itself
SHARE, PERCENT = 1 + 1e-6, 100 + 1e-4  # a rounding above 1 and 100
WAY_OUT = "write all of them from 0 to 1"
_MEAN = re.compile(r"((overall|total)[ _])?(mean|average|avg\.?)([ _]scores?)?")
_NO_SCORE = re.compile(
    r"(.*[\W_])?rank(s|ing|ings)?([\W_].*)?|place|position|no\.?|nr\.?|#|id|index|seed|zero-?shot|"
    r"year|date|released|revision|family|depth|width|size|model[ _]size|"
    r"(time|seconds|latency|epochs?|steps?).*|"
    r"((n|num|number of|#)[ _]?)?(layers|blocks|heads|tasks)|"
    r"((n|number of|active|total|embed|embedding|max|maximum|hidden)[ _]?)?"
    r"(params?|parameters|dim|dimensions?|tokens)([ _]millions|[ _]m|[ _]b)?|memory([ _]usage)?"
)


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
    """The scores of a file in either form; percentages become 0..1 (the module says which are).

    Raises UserError for a file in neither form, for what is no number, no layer or no score, and
    for a file without any score.
    """
    sheet = read_sheet(path, KEYS)
    long = {"task", "score"} & set(sheet.columns)
    sheet.require(["model", "task", "score"] if long else ["model"], SCORE_FORMS)
    wide = [name for name in sheet.columns if name not in ("model", "layer", *IGNORED)]
    cells = list(_cells(sheet, "score", None if long else wide))
    if not cells:
        raise UserError(f"{path} has no score: {SCORE_FORMS}")
    tasks: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        tasks[cell.task].append(cell)
    if len(tasks) > MOST_COLUMNS:
        raise UserError(f"{path}: {len(tasks):,} tasks; at most {MOST_COLUMNS:,} are read")
    if percent := in_percent(tasks):
        which, others = (
            some(t for t in tasks if t in percent),
            some(t for t in tasks if t not in percent),
        )
        say(
            f"{path}: scores of {which} are above 1: read as percent; of {others} as they are"
            if others
            else f"{path}: scores are above 1: read as percent"
        )
    cells = [c._replace(number=_share(c.number)) if c.task in percent else c for c in cells]
    types, names = (sheet.remarks.get(name, {}) for name in ("type", "main_score"))
    if long:
        columns = ("task_type", "score_name")
        types, names = ({c.task: c.line.text(name) for c in cells} for name in columns)
    return Scores(path, tuple(cells), types, names)


def _share(percent: float) -> float:
    """As it would be written: 79.28 is 0.7928, where 79.28 / 100 is 0.7928000000000001."""
    return float(Decimal(repr(percent)) / 100)


def read_values(path: Path) -> tuple[Cell, ...]:
    sheet = read_sheet(path, KEYS)
    sheet.require(["model", "layer", "task", "name", "value"], VALUE_FORM)
    cells = tuple(_cells(sheet, "value"))
    if not cells:
        raise UserError(f"{path} has no value: {VALUE_FORM}")
    return cells


def _cells(sheet: Sheet, column: str, tasks: Sequence[str] | None = None) -> Iterator[Cell]:
    """The numbers of one column, by task, or of a wide table's column for each of these tasks."""
    for line in sheet.lines:
        model, layer = _name(line, "model"), _layer(line)
        name = _name(line, "name") if column == "value" else ""
        if "." in name and not all(name.partition(".")[::2]):
            raise line.fault(f"'{name}' is no name of a value: METRIC.SCORE, as frenet.d0L")
        for task in [_name(line, "task")] if tasks is None else tasks:
            number = line.value(column if tasks is None else task)
            if number is not None:
                yield Cell(line, model, layer, task, number, name)


def read_models(path: Path, names: Sequence[str]) -> dict[str, ModelRow]:
    """The models of these names that the file has, by name."""
    sheet = read_sheet(path, KEYS)
    sheet.require(["model"], MODEL_FORM)
    lines: dict[str, Line] = {}
    rows = {}
    for line in sheet.lines:
        name = _name(line, "model")
        if name in lines:
            raise line.fault(f"{name} is there already, in line {lines[name].number}")
        lines[name] = line
        rows[name] = ModelRow(
            model=name,
            parameters=_parameters(line),
            blocks=_whole_number(line, "blocks", errors.BLOCKS),
            width=_whole_number(line, "width", errors.WIDTH),
            family=line.text("family") or None,
            released=_released(line),
            adapter=_adapter(line),
        )
    known = {name: rows[name] for name in names if name in rows}
    if not known:
        raise UserError(f"{path} has none of the models: it has {some(rows)}, not {some(names)}")
    return known


def some(names: Iterable[str]) -> str:
    """A few names, the first ones, and how many more there are."""
    several = list(dict.fromkeys(names))
    more = f" and {len(several) - 3} more" if len(several) > 3 else ""
    return ", ".join(several[:3]) + more


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
    if layer > errors.BLOCKS:
        raise line.fault(f"layer {layer}: at most {errors.BLOCKS:,} are possible")
    return layer


def _parameters(line: Line) -> int | None:
    """How many a model has. Raises UserError for fewer than one, and beyond 64 bit."""
    millions = line.value("parameters_millions")
    if millions is None:
        return None
    cell = f"'{line.text('parameters_millions'):.{SHOWN}}' million parameters"
    if millions * 1e6 > errors.PARAMETERS:
        raise line.fault(f"{cell} are too many: at most {errors.PARAMETERS / 1e6:.3g} are possible")
    if round(millions * 1e6) < 1:
        raise line.fault(f"{cell} are not one parameter")
    return round(millions * 1e6)


def _adapter(line: Line) -> str | None:
    """By the column kind; None where it is empty, or not there."""
    kind = line.text("kind")
    if kind.lower() in MISSING:
        return None
    if kind.lower() not in ADAPTERS:
        raise line.fault(f"kind '{kind:.{SHOWN}}' is none of {', '.join(ADAPTERS)}")
    return ADAPTERS[kind.lower()]


def _released(line: Line) -> str | None:
    """An ISO date; pandas writes a year as 2024.0 where others are missing."""
    cell = line.text("released")
    if cell.lower() in MISSING:
        return None
    date = cell.removesuffix(".0")
    try:
        kinds.middle(date)
    except ValueError:
        raise line.fault(f"released '{cell:.{SHOWN}}' is no date: {kinds.FORM}") from None
    return date


def _whole_number(line: Line, column: str, most: int) -> int | None:
    number = line.value(column)
    if number is None:
        return None
    cell = f"'{line.text(column):.{SHOWN}}' in column {column}"
    if number != int(number) or number < 1:
        raise line.fault(f"{cell} is no whole number above 0")
    if number > most:
        raise line.fault(f"{cell} is too large: at most {most:,} is possible")
    return int(number)


def in_percent(tasks: Mapping[str, Sequence[Cell]]) -> set[str]:
    """The tasks whose scores are percentages; those of all others are shares.

    Raises UserError, with the name of the column or task, for what is neither or not clear.
    """
    for name, cells in tasks.items():
        _check(name, cells, alone=len(tasks) == 1)
    large = {name: [c for c in cells if abs(c.number) > SHARE] for name, cells in tasks.items()}
    percent = [name for name in tasks if large[name]]
    rows: dict[tuple[str, int | None], list[Cell]] = defaultdict(list)
    for name in percent:
        small = [cell for cell in tasks[name] if 0 < abs(cell.number) <= SHARE]
        if small and not (_said(name) or _leads_down(large[name], small)):
            _refuse(small[0], large[name][0])
        for cell in tasks[name]:
            rows[cell.model, cell.layer].append(cell)
    for cells in rows.values():
        if len(cells) > 1 and all(0 < abs(cell.number) <= SHARE for cell in cells):
            _refuse(cells[0], large[cells[0].task][0])
    return {*percent, *filter(_said, tasks)}


def _said(name: str) -> bool:
    """Whether a name says that its scores are in percent."""
    return "%" in name or "percent" in name.lower()


def _check(name: str, cells: Sequence[Cell], alone: bool) -> None:
    """Raise UserError for what is no score of any kind; alone: whether it is the only task."""
    for cell in cells:
        if abs(cell.number) > PERCENT:
            raise cell.line.fault(
                f"{cell.number:g} in {name} is no score, which is from 0 to 1 or in percent: "
                "leave that column or task out"
            )
    bare = re.sub(r"\s*\(.*\)", "", name).strip().lower()  # in parentheses: a note
    if not alone and _MEAN.fullmatch(bare):
        reason = "name says that they are means of the others"
    elif _are_ranks([cell.number for cell in cells]):
        reason = "values are ranks"
    elif _NO_SCORE.fullmatch(bare):
        reason = "name says that they are no scores"
    else:
        return
    file = cells[0].line.file
    raise UserError(f"{file}: column or task '{name:.60}': its {reason}: leave it out")


def _are_ranks(numbers: Sequence[float]) -> bool:
    """Whether they are places from 1 (or 0) on, in any of the ways in which ties are numbered."""
    ordered, unlike = sorted(numbers), sorted(set(numbers))
    first, last = ordered[0], ordered[-1]
    whole = all(number == int(number) >= 1 for number in ordered)
    if whole and len(ordered) == len(unlike) > 2 and last <= 2 * len(ordered):
        return True  # among more models than the file has
    if first not in (0, 1, 1.5, 2) or len(unlike) < 2 or last <= 1:
        return False
    if first in (0, 1) and unlike == [first + i for i in range(len(unlike))]:
        return True
    return any(ordered == rankdata(ordered, ties).tolist() for ties in ("min", "average"))


def _leads_down(large: Iterable[Cell], small: Sequence[Cell]) -> bool:
    above = [abs(score.number) for score in large]
    below = max(abs(score.number) for score in small)
    return max(above) > 10 and min(above) <= 5 * below and 4 * len(small) <= len(above)


def _refuse(small: Cell, large: Cell) -> None:
    raise UserError(
        f"{small.line.file}: {small.task:.60} has {small.number:g} (line {small.line.number}) and "
        f"{large.number:g} (line {large.line.number}): from 0 to 1 or in percent? {WAY_OUT}"
    )
