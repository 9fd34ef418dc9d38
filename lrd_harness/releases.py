"""When a model was released: what "released later" predicts, which needs no metric at all.

Dates are ISO 8601, as exact as they are known: 2024-02-08, 2024-02 or 2024.
"""

from __future__ import annotations

import calendar
import re
from datetime import date

FORM = "YYYY-MM-DD, YYYY-MM or YYYY"
_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)


def middle(released: str) -> float:
    """The middle of the day, month or year, in days since year 1.

    The middle, as it is the least wrong where dates of unlike exactness are put in order.
    Raises ValueError for what is no such date.
    """
    found = _DATE.fullmatch(released)
    year, month, day = (
        (int(part) if part else None for part in found.groups()) if found else [0] * 3
    )
    try:
        first = date(year or 0, 1 if month is None else month, 1 if day is None else day)
    except ValueError:
        raise ValueError(f"'{released}' is no date: {FORM}") from None
    if day is not None:
        days = 1
    elif month is not None:
        days = calendar.monthrange(first.year, month)[1]
    else:
        days = 365 + calendar.isleap(first.year)
    return first.toordinal() + days / 2


def known(model: str) -> str | None:
    """The release date that mteb's registry, which is part of its package, has for a model.

    model: the name in results; a revision or a reading of its own (`NAME@REVISION`, `NAME [cls]`)
    was released with NAME. None for a model that mteb does not know.
    """
    import mteb

    try:
        meta = mteb.get_model_meta(hub_name(model), fetch_from_hf=False)
        released = str(meta.release_date)
        middle(released)
    except (KeyError, ValueError):
        return None
    return released


def hub_name(model: str) -> str:
    """The name without revision and reading: `NAME@REVISION [cls]` is NAME."""
    return model.partition(" [")[0].partition("@")[0]
