"""Pages of made tables, and how to find a table in a page that is open in a browser."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from lrd_harness.report import Column, Report, Table

parts: Any = importlib.import_module("lrd_harness.plugins.reporters._page")


def sheet(made: Any, title: str) -> Any:
    """The section of a table."""
    return made.locator("section.sheet").filter(
        has=made.get_by_role("heading", name=title, exact=True)
    )


def column(table: Any, number: int) -> list[str]:
    found: list[str] = table.locator(f"tbody tr > :nth-child({number})").all_text_contents()
    return found


def heading(table: Any, name: str) -> Any:
    return table.locator("thead th").filter(has_text=name)


def table(title: str, held: dict[str, list[str]]) -> Table:
    """A table of these columns; the first is the key."""
    columns = tuple(Column(name, key=i == 0) for i, name in enumerate(held))
    rows = [dict(zip(held, cells, strict=True)) for cells in zip(*held.values(), strict=True)]
    return Table(title.lower(), title, columns, rows)


def of_tables(*held: Table) -> str:
    """A page of a ranking and these tables."""
    text: str = parts.page(Report("Made", (table("Leaderboard", {"model": ["a"]}), *held)), [])
    return text


Open = Callable[..., Any]  # opens a page: the fixture `opened`
WATCH = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({ type: "longtask", buffered: true });
"""  # keeps the longest time, in ms, for which the page did not answer
