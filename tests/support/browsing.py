"""Pages of made tables, and how to find a table in a page that is open in a browser."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from lrd_harness.board.leaderboard import build
from lrd_harness.results.database import Results

cells: Any = importlib.import_module("lrd_harness.plugins.reporters._cells")
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


def table(title: str, held: dict[str, list[str]]) -> Any:
    """A sheet of these columns; the first is the key."""
    columns = [
        cells.Column((name,), tuple(values), "left" if i == 0 else "right", key=i == 0)
        for i, (name, values) in enumerate(held.items())
    ]
    return cells.Sheet(title, tuple(columns))


Open = Callable[..., Any]  # opens a page: the fixture `opened`
WATCH = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({ type: "longtask", buffered: true });
"""  # keeps the longest time, in ms, for which the page did not answer


def of_sheets(*held: Any) -> str:
    """A page of one board's ranking and these tables."""
    with pytest.MonkeyPatch.context() as patch:
        ranking = table("Leaderboard", {"model": ["a"]})
        patch.setattr(parts, "sheets", lambda _: [ranking, *held])
        text: str = parts.page(build(Results()), [], lambda: "", [])
        return text
