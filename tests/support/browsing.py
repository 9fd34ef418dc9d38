"""A headless Chromium, pages that are opened in it, pages of made tables, and tables in a page."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lrd_harness.report import Column, Report, Table

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
Open = Callable[..., Any]  # opens a page: the fixture `opened`
WATCH = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({ type: "longtask", buffered: true });
"""  # keeps the longest time, in ms, for which the page did not answer


def sheet(page: Any, title: str) -> Any:
    """The section of a table."""
    title = page.get_by_role("heading", name=title, exact=True)
    return page.locator("section.sheet").filter(has=title)


def column(table: Any, number: int) -> list[str]:
    cells: list[str] = table.locator(f"tbody tr > :nth-child({number})").all_text_contents()
    return cells


def heading(table: Any, name: str) -> Any:
    return table.locator("thead th").filter(has_text=name)


def table(title: str, columns: dict[str, list[str]]) -> Table:
    """A table of these columns; the first is the key."""
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    headings = tuple(Column(name, key=i == 0) for i, name in enumerate(columns))
    return Table(title.lower(), title, headings, rows)


def of_tables(*tables: Table) -> str:
    """A page of a ranking and these tables."""
    reporter = importlib.import_module("lrd_harness.plugins.reporters._page")
    ranking = table("Leaderboard", {"model": ["a"]})
    text: str = reporter.page(Report("Made", (ranking, *tables)), [])
    return text


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    candidates = [os.environ.get("CHROMIUM", ""), *map(shutil.which, CHROMIUMS)]
    path = next(filter(None, candidates), None)
    if path is None:
        pytest.skip(
            "left out: no Chromium to look at the page; on Debian: apt-get install chromium"
        )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("left out: no Playwright to drive Chromium; pip install playwright")
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page; at the end nothing was asked for, and nothing complained."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(text: str, width: int = 1200, **settings: Any) -> Any:
        path = tmp_path / f"page{len(contexts)}.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 800}, **settings)
        contexts.append(context)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(url.startswith("file:") and url.endswith(".html") for url in requests), requests
    assert len(requests) == len(contexts)
