"""The page of a large board in Chromium: is anything slow enough to be felt?

    python tests/benchmarks/page.py [--models 2000] [--tasks 100]

Made scores and values of three metrics go the way of published numbers, from CSV files to the page.
Printed: seconds to make it, its size, and in the browser milliseconds until everything is drawn,
of a sort and of a filter, the longest stretch in which the page could not answer, and the elements
that are in the document.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from board import write
from playwright.sync_api import sync_playwright

from lrd_harness import manager
from lrd_harness.board import interchange, leaderboard

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
WATCH = """
window.longest = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
}).observe({ type: "longtask", buffered: true });
"""
SORT = """() => {
  const button = document.querySelector("#tables thead th:nth-child(5) button");
  const start = performance.now();
  button.click();
  document.body.offsetHeight;
  return performance.now() - start;
}"""
FILTER = """() => {
  const box = document.querySelector("#ranking input");
  box.value = "model-99";
  const start = performance.now();
  box.dispatchEvent(new Event("input"));
  document.body.offsetHeight;
  return performance.now() - start;
}"""


def in_browser(path: Path) -> None:
    """Open the page, sort and filter, and print how long each took."""
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page: Any = browser.new_page()
        page.add_init_script(WATCH)
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]", timeout=120_000)
        print(f"drawn after {1000 * (time.perf_counter() - start):.0f} ms")
        print(f"longest task while loading {page.evaluate('window.longest'):.0f} ms")
        page.evaluate("window.longest = 0")
        first, again = page.evaluate(SORT), page.evaluate(SORT)
        print(f"sort of a column {first:.0f} ms, the other way {again:.0f} ms")
        print(f"filter by name {page.evaluate(FILTER):.0f} ms")
        print(f"elements {page.evaluate('document.querySelectorAll(`*`).length'):,}")
        browser.close()


def main() -> None:
    """Make the board and its page, and look at it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=2_000)
    parser.add_argument("--tasks", type=int, default=100)
    chosen = parser.parse_args()
    reporter = manager.load().get("reporter", "html")
    with tempfile.TemporaryDirectory() as name:
        files = write(Path(name), chosen.models, chosen.tasks, measured=1)
        start = time.perf_counter()
        report = leaderboard.report(interchange.read(*files))
        print(f"{chosen.models:,} models x {chosen.tasks} tasks")
        print(f"read and ranked in {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        path = Path(name) / "leaderboard.html"
        path.write_text(reporter.write(report), encoding="utf-8")
        print(
            f"page made in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.1f} MB"
        )
        in_browser(path)


if __name__ == "__main__":
    main()
