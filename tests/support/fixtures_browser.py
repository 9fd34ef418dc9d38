"""A headless Chromium and pages that are opened in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import WATCH, Open

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    named = [os.environ.get("CHROMIUM", ""), *map(shutil.which, CHROMIUMS)]
    path = next((name for name in named if name), None)
    if path is None:
        pytest.skip(
            "left out: no Chromium to look at the page; on Debian: apt-get install chromium"
        )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("left out: no Playwright to drive Chromium; pip install playwright")
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page; at the end nothing was asked for, and nothing complained."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(text: str, width: int = 1200, **settings: Any) -> Any:
        path = tmp_path / f"page{len(contexts)}.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 800}, **settings)
        contexts.append(context)
        context.add_init_script(WATCH)
        made = context.new_page()
        made.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        made.on("pageerror", lambda error: said.append(str(error)))
        made.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        made.on("request", lambda request: asked.append(request.url))
        made.goto(path.as_uri())
        made.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        return made

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert all(url.startswith("file:") and url.endswith(".html") for url in asked), asked
    assert len(asked) == len(contexts)
