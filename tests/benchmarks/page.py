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
from pathlib import Path
from typing import Any

from _setting import timed
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
        page.goto(path.as_uri(), wait_until="commit")
        seconds, _ = timed(page.wait_for_selector, "html[data-ready=yes]", timeout=120_000)
        print(f"drawn after {1000 * seconds:.0f} ms")
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
    options = parser.parse_args()
    reporter = manager.load().get("reporter", "html")
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), options.models, options.tasks, measured=1)
        seconds, report = timed(lambda: leaderboard.report(interchange.read(*files)))
        print(f"{options.models:,} models x {options.tasks} tasks")
        print(f"read and ranked in {seconds:.1f} s")
        seconds, page = timed(reporter.write, report)
        path = Path(folder) / "leaderboard.html"
        path.write_text(page, encoding="utf-8")
        print(f"page made in {seconds:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
        in_browser(path)


if __name__ == "__main__":
    main()
