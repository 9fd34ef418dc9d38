"""Whether scores are shares (0 to 1) or percentages (0 to 100): decided a task at a time.

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

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from lrd_harness.csv_tables import Line
from lrd_harness.errors import UserError

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
