"""Columns of plain text cells: what the sheets that people read are made of.

Every heading says unit and direction (↑ higher is better, ↓ lower is better); "-" stands for what
is not there. Names come from strangers: what cannot be printed is shown as an escape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lrd_harness.errors import plain as plain

NONE = "-"


@dataclass(frozen=True, eq=False)  # a column is itself: two may look alike
class Column:
    """A column: heading in lines, one cell a row.

    key: repeated where a sheet is split, and broken into lines where it must be.
    rest: where a sheet is too wide, columns of a higher one go behind the others first.
    tied: where a sheet is split, it stays with the column before it.
    """

    heading: tuple[str, ...]
    cells: tuple[str, ...]
    align: Literal["left", "right"] = "right"
    key: bool = False
    rest: int = 0
    tied: bool = False


@dataclass(frozen=True)
class Sheet:
    """A titled table, one of its columns a key, and what the columns mean."""

    title: str
    columns: tuple[Column, ...]
    legend: tuple[str, ...] = ()


def number(value: float | None, form: str = ".4f") -> str:
    """A number in that format, or the mark for none."""
    return NONE if value is None else f"{value:{form}}"


def measured(value: float | None, stderr: float | None) -> str:
    """A score with its standard error, where it has one."""
    return number(value) + (f" ± {stderr:.4f}" if value is not None and stderr is not None else "")


def places(ranks: Iterable[int | None]) -> tuple[str, ...]:
    """Ranks as text, with = behind those that several share."""
    held = list(ranks)
    models = Counter(held)
    return tuple(
        NONE if place is None else f"{place}{'=' if models[place] > 1 else ''}" for place in held
    )
