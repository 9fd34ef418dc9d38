"""The columns of score, value and model files, read as numbers that know their line.

CSV files as people make them: rows by column name, each knowing its line for a clear error.

Commas, semicolons or tabs, by which the header has the columns that are looked for, or else most
columns; a first line `sep=;`, as Excel writes it, decides. UTF-8 with or without a byte order mark;
blanks around cells and empty rows do not count; a quoted cell may hold line ends. Rows that begin
with # are remarks about the columns, as `#type` in published tables, or comments. What was written
before a name to keep it from being a formula (csv_cells.py) is taken off.

Whether scores are shares (0 to 1) or percentages (0 to 100): decided a task at a time.

Scores of which none is above 1 are shares, whatever other tasks are in; negative ones, as of
correlations, count by their size. With one above 1 the task is in percent. Where some are at most 1
beside others above (0 is both), a few sources may have been mixed, so this is taken for percent
only where the others lead down to them, and refused otherwise: they are at most a fifth of the
scores, the next one above is at most five times the largest of them, and some score is above 10;
and where a model that has several of these tasks is above 1 on one of them. A task whose name says
that it is in percent is. What is neither is refused by name: scores above 100, ranks 1, 2, 3 ...,
and what is called a rank, a size, a date, or a mean of the other tasks.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from lrd_harness import errors
from lrd_harness.errors import UserError
from lrd_harness.results import models
from lrd_harness.results.rows import ModelRow
from lrd_harness.store.files import unguarded

DELIMITERS = ",;\t"
SHOWN = 40  # characters of a cell that is wrong
MOST_COLUMNS = 20_000
LONGEST = 131_072  # characters of a cell
MISSING = frozenset(["", "-", "\u2013", "na", "n/a", "nan", "none", "null"])  # in lower case


@dataclass(frozen=True)
class Line:
    """A row. places: column name -> index; a row that is shorter than the header lacks the rest."""

    file: Path
    number: int
    cells: Sequence[str]
    places: Mapping[str, int]

    def text(self, column: str) -> str:
        """The cell; "" where the row or the table has none."""
        place = self.places.get(column, -1)
        return self.cells[place] if 0 <= place < len(self.cells) else ""

    def value(self, column: str) -> float | None:
        """The cell as a number; None where it is missing. Raises UserError for anything else."""
        cell = self.text(column)
        try:
            found = float(cell)
        except ValueError:
            found = math.nan
        if math.isfinite(found) and "_" not in cell:  # first, as nearly all are
            return found
        if cell.lower() in MISSING:
            return None
        hint = ": write decimals with a point, as 0.5" if "," in cell else ""
        raise self.fault(f"'{cell:.{SHOWN}}' in column {column:.{SHOWN}} is no number{hint}")

    def fault(self, message: str) -> UserError:
        """What is wrong with this row."""
        return UserError(f"{self.file} line {self.number}: {message}")


@dataclass(frozen=True)
class Sheet:
    """A file. remarks: what rows that begin with #NAME say, NAME -> column -> cell."""

    file: Path
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    remarks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def require(self, columns: Iterable[str], form: str) -> None:
        """Raise UserError unless these columns are there. form: which columns there should be."""
        lacking = [name for name in columns if name not in self.columns]
        if lacking:
            several = "s" if len(lacking) > 1 else ""
            raise UserError(f"{self.file} lacks the column{several} {', '.join(lacking)}: {form}")


def read_sheet(path: Path, keys: Iterable[str] = ()) -> Sheet:
    """The rows of a file. keys: columns whose names may be written in upper case.

    Raises UserError as `records` does; for a file with a header only; for a column twice or without
    a name; and for a row with more cells than columns.
    """
    keys = frozenset(keys)
    rows = [
        (number, [unguarded(cell.strip()) for cell in cells])
        for number, cells in records(path, keys, remarks=True)
    ]
    header = next((i for i, (_, cells) in enumerate(rows) if not cells[0].startswith("#")), None)
    if header is None:
        raise UserError(f"{path} is empty")
    head = rows.pop(header)[1]
    places = column_places(path, head, keys)
    nameless = [place for place, name in enumerate(head) if not name]
    lines, remarks = [], {}
    for number, cells in rows:
        line = Line(path, number, cells, places)
        if cells[0].startswith("#"):
            remarks[cells[0][1:].strip().lower()] = {name: line.text(name) for name in places}
        elif any(cells[len(head) :]) or any(any(cells[place : place + 1]) for place in nameless):
            raise line.fault(
                f"{len(cells)} cells, but {len(places)} columns have a name "
                "(a cell that holds the separator needs quotes)"
            )
        else:
            lines.append(line)
    if not lines:
        raise UserError(f"{path} has no rows under its header")
    return Sheet(path, tuple(places), tuple(lines), remarks)


def records(
    path: Path,
    columns: Iterable[str],
    remarks: bool = False,
    longest: int = LONGEST,
    delimiter: str | None = None,
) -> list[tuple[int, list[str]]]:
    """The rows that are not blank: number of the line that each begins in, and its cells as such.

    columns: those that are looked for, by which the delimiter is found; remarks: whether a row may
    begin with #; longest: characters that a cell may have.
    Raises UserError for a file that is not there, cannot be read, is not UTF-8 or no CSV, and for
    too many columns.
    """
    text, skipped = _text(path), 0
    if first := _SEPARATOR.match(text):
        text, skipped, delimiter = text[first.end() :], 1, first[1]
    with _cells_up_to(longest):
        mark = delimiter or max(DELIMITERS, key=lambda one: _fit(text, one, columns, remarks))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        rows: list[tuple[int, list[str]]] = []
        number = 1 + skipped
        try:
            for cells in reader:
                if len(cells) > MOST_COLUMNS:
                    raise UserError(
                        f"{path} line {number}: {len(cells):,} columns; "
                        f"at most {MOST_COLUMNS:,} are read"
                    )
                if any(map(str.strip, cells)):
                    rows.append((number, cells))
                number = reader.line_num + 1 + skipped
        except csv.Error as error:
            raise UserError(f"{path} line {number}: no CSV ({error})") from None
    return rows


_SEPARATOR = re.compile(r'"?sep=([^\w\s"\\]|\t)"?[ \t]*(?:\r\n|\r|\n|$)', re.IGNORECASE)


def _text(path: Path) -> str:
    """The text of a file, line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as CSV UTF-8") from None


@contextmanager
def _cells_up_to(longest: int) -> Iterator[None]:
    """Within the block, csv takes cells of so many characters."""
    before = csv.field_size_limit(longest)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _fit(text: str, delimiter: str, columns: Iterable[str], remarks: bool) -> tuple[int, int]:
    """How many of the columns a header has that is read so, and how many in all.

    (0, 0) where it cannot be read, as reading the rows will tell.
    """
    wanted = {name.lower() for name in columns}
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            names = [cell.strip(f" {DELIMITERS}") for cell in cells]
            if any(names) and not (remarks and names[0].startswith("#")):
                return len(wanted & {name.lower() for name in names}), len(names)
    except csv.Error:
        pass
    return 0, 0


def column_places(
    path: Path, header: Sequence[str], keys: frozenset[str] = frozenset()
) -> dict[str, int]:
    """Column name -> index, of the columns that have a name."""
    places: dict[str, int] = {}
    for place, cell in enumerate(header):
        name = cell.lower() if cell.lower() in keys else cell
        if name in places:
            raise UserError(f"{path} has the column {name:.{SHOWN}} twice")
        if name:
            places[name] = place
    return places


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


class Scored(NamedTuple):
    """A score of a file: the row it is in, whose it is, and the number."""

    line: Line
    row: tuple[str, int | None]
    number: float


def in_percent(tasks: Mapping[str, Sequence[Scored]]) -> set[str]:
    """The tasks whose scores are percentages; those of all others are shares.

    Raises UserError, with the name of the column or task, for what is neither or not clear.
    """
    for name, scores in tasks.items():
        _check(name, scores, alone=len(tasks) == 1)
    large, small = {}, {}
    for name, scores in tasks.items():
        large[name] = [score for score in scores if abs(score.number) > SHARE]
        small[name] = [score for score in scores if 0 < abs(score.number) <= SHARE]
    percent = {name for name, scores in large.items() if scores}
    rows: dict[tuple[str, int | None], list[tuple[str, Scored]]] = {}
    for name in percent:
        if small[name] and not (_said(name) or _leads_down(large[name], small[name])):
            _refuse(name, small[name][0], large[name][0])
        for score in tasks[name]:
            rows.setdefault(score.row, []).append((name, score))
    for held in rows.values():
        if len(held) > 1 and all(0 < abs(score.number) <= SHARE for _, score in held):
            name, score = held[0]
            _refuse(name, score, large[name][0])
    return percent | set(filter(_said, tasks))


def _said(name: str) -> bool:
    """Whether a name says that its scores are in percent."""
    return "%" in name or "percent" in name.lower()


def _check(name: str, scores: Sequence[Scored], alone: bool) -> None:
    """Raise UserError for what is no score of any kind; alone: whether it is the only task."""
    file, numbers = scores[0].line.file, [score.number for score in scores]
    beyond = next((score for score in scores if abs(score.number) > PERCENT), None)
    if beyond is not None:
        raise beyond.line.fault(
            f"{beyond.number:g} in {name} is no score, which is from 0 to 1 or in percent: "
            "leave that column or task out"
        )
    how = "values are ranks" if _are_ranks(numbers) else ""
    how = how or ("name says that they are no scores" if _is(name, _NO_SCORE) else "")
    if not alone and _is(name, _MEAN):
        how = "name says that they are means of the others"
    if how:
        raise UserError(f"{file}: column or task '{name:.60}': its {how}: leave it out")


def _is(name: str, what: re.Pattern[str]) -> bool:
    """Whether it is called so; what is in parentheses behind it is a note."""
    return what.fullmatch(re.sub(r"\s*\(.*\)", "", name).strip().lower()) is not None


def _are_ranks(numbers: Sequence[float]) -> bool:
    """Whether they are places from 1 (or 0) on, in any of the ways in which ties are numbered."""
    ordered = sorted(numbers)
    first, several = ordered[0], sorted(set(ordered))
    whole = all(number == int(number) >= 1 for number in ordered)
    if whole and len(ordered) == len(several) > 2 and ordered[-1] <= 2 * len(ordered):
        return True  # among more models than the file has
    if first not in (0, 1, 1.5, 2) or len(several) < 2 or ordered[-1] <= 1:
        return False
    if first in (0, 1) and several == [first + i for i in range(len(several))]:
        return True
    return ordered in (_places(ordered, "min"), _places(ordered, "average"))


def _places(ordered: Sequence[float], ties: str) -> list[float]:
    found: list[float] = []
    for _, group in groupby(ordered):
        alike, begin = len(list(group)), len(found) + 1
        found += [float(begin) if ties == "min" else begin + (alike - 1) / 2] * alike
    return found


def _leads_down(large: Iterable[Scored], small: Sequence[Scored]) -> bool:
    above = [abs(score.number) for score in large]
    below = max(abs(score.number) for score in small)
    return max(above) > 10 and min(above) <= 5 * below and 4 * len(small) <= len(above)


def _refuse(name: str, small: Scored, large: Scored) -> None:
    raise UserError(
        f"{small.line.file}: {name:.60} has {small.number:g} (line {small.line.number}) and "
        f"{large.number:g} (line {large.line.number}): from 0 to 1 or in percent? {WAY_OUT}"
    )


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
            blocks=_whole_number(line, "blocks", errors.BLOCKS),
            width=_whole_number(line, "width", errors.WIDTH),
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


def _released(line: Line) -> str | None:
    """An ISO date; pandas writes a year as 2024.0 where others are missing."""
    cell = line.text("released")
    if cell.lower() in MISSING:
        return None
    found = cell.removesuffix(".0")
    try:
        models.middle(found)
    except ValueError:
        raise line.fault(f"released '{cell:.{SHOWN}}' is no date: {models.FORM}") from None
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
