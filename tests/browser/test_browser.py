"""The page in headless Chromium: it sorts, filters, draws, prints and asks for nothing.

    pytest -m browser

Left out, with the reason, where there is no Chromium or no Playwright.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from browsing import Open, column, heading, of_tables, sheet, table
from report_rows import HOSTILE, NAMES, report

from lrd_harness.errors import plain

pytestmark = [pytest.mark.browser, pytest.mark.slow]

parts: Any = importlib.import_module("lrd_harness.plugins.reporters._page")
data: Any = importlib.import_module("lrd_harness.plugins.reporters._data")
RANKING = "Ranking of models (ranking)"


@pytest.fixture(scope="session")
def text() -> str:
    page: str = parts.page(report())
    return page


def test_a_table_is_sorted_by_value_both_ways_and_what_is_missing_is_last(opened: Open) -> None:
    """Numbers as people write them, in a table of their own."""
    values = ["28 of 30", "-", "1,234", "0.82 ± .01", "−3.5", "3=", "", "+0.5 to +0.9", "1e-3"]
    ordered = ["−3.5", "1e-3", "+0.5 to +0.9", "0.82 ± .01", "3=", "28 of 30", "1,234"]
    names = [f"m{i}" for i in (2, 10, 1, 3, 4, 5, 6, 7, 8)]
    columns = {"model": names, "value": values, "score ↑": values, "n": ["1"] * len(names)}
    page = opened(of_tables(table("Made", columns)))
    place = sheet(page, "Made")
    head = heading(place, "value")
    assert head.get_attribute("aria-sort") is None
    head.get_by_role("button").click()
    assert column(place, 2) == [*ordered, "-", ""]
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert column(place, 2) == [*reversed(ordered), "-", ""]
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").click()
    assert column(place, 2) == values  # as it was
    heading(place, "score").get_by_role("button").click()  # the better end first
    assert column(place, 3) == [*reversed(ordered), "-", ""]
    heading(place, "model").get_by_role("button").click()
    assert column(place, 1) == ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m10"]


def test_the_page_as_it_is_read(opened: Open, text: str) -> None:
    """One visit: figures are drawn, headings say what they head, filters and keys work."""
    page = opened(text)
    figures = page.locator("figure").all()
    assert len(figures) == text.count("<figure ") == 16
    for figure in figures:
        assert figure.locator(".wide [data-row]").first.is_visible()
        assert not figure.locator(".narrow").is_visible()
        plot = figure.locator(".plot")
        assert plot.get_attribute("role") == "img"
        assert plot.get_attribute("aria-label").endswith(".")
        assert figure.locator("figcaption").inner_text()
    first = figures[0]
    first.locator("summary").click()
    first.locator("tbody tr").first.wait_for()
    marks = first.locator(".wide [data-row]")
    assert first.locator("tbody tr").count() == marks.count() == 3
    marks.nth(1).hover()
    told = page.locator("#tip tr").all_inner_texts()
    row = first.locator("tbody tr").nth(1).locator("th, td").all_inner_texts()
    assert page.locator("#tip").is_visible()
    assert [line.split("\t")[1] for line in told] == row
    page.mouse.move(0, 0)
    assert not page.locator("#tip").is_visible()
    assert first.locator(".wide svg").bounding_box()["width"] > 400

    lacking = "[...document.querySelectorAll('th')].filter((th) => !th.scope).length"
    assert page.evaluate(lacking) == 0
    rows = "[...document.querySelectorAll('#tables tbody tr')]"
    assert page.evaluate(f"{rows}.every((row) => row.querySelector('th'))")
    unnamed = (
        "[...document.querySelectorAll('button, input, select')].filter((c) =>"
        " !(c.textContent.trim() || c.getAttribute('aria-label') || c.closest('label'))).length"
    )
    assert page.evaluate(unnamed) == 0
    # what a sign of the order shows is said by aria-sort, and a table is one region, not two
    place = sheet(page, RANKING)
    assert place.get_by_role("button", name="actual rank", exact=True).count() == 1
    assert place.get_attribute("aria-labelledby") is None
    assert page.get_by_role("region", name=RANKING, exact=True).count() == 1

    place.get_by_role("searchbox").fill("MODEL-C")
    assert place.locator("tbody th").all_text_contents() == ["owner/model-c"]
    assert place.get_by_role("status").inner_text() == "1 of 8 rows"
    place.get_by_role("searchbox").fill("")
    place.get_by_role("combobox").select_option(label="llama")
    assert set(place.locator("tbody th").all_text_contents()) == {NAMES[i] for i in (1, 4, 7)}
    place.get_by_role("combobox").select_option(label="all")
    assert place.locator("tbody tr").count() == 8

    button = heading(place, "score").get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")  # the better end first, as it was
    assert column(place, 2) == list(NAMES)
    page.keyboard.press("Space")
    assert column(place, 2) == list(reversed(NAMES))
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert "sorted by score ↑, ascending" in place.get_by_role("status").inner_text()


def test_light_and_dark_follow_the_system_and_the_button(opened: Open, text: str) -> None:
    page = opened(text, color_scheme="dark")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"

    def colours() -> list[str]:
        values: list[str] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('figure svg text')).fill]"
        )
        return values

    assert colours() == ["rgb(20, 24, 28)", "rgb(232, 236, 240)"]
    page.get_by_role("button", name="Dark mode").click()
    assert colours() == ["rgb(255, 255, 255)", "rgb(26, 32, 38)"]
    assert page.get_by_role("button", name="Dark mode").get_attribute("aria-pressed") == "false"


def test_hostile_names_are_shown_as_text(opened: Open) -> None:
    page = opened(parts.page(report(HOSTILE)))
    place = sheet(page, RANKING)
    assert set(place.locator("tbody th").all_text_contents()) == {plain(n) for n in HOSTILE}
    place.locator("tbody th").first.hover()
    for figure in page.locator("figure").all()[:3]:
        figure.locator("summary").click()
        figure.locator(".wide [data-row]").first.hover(force=True)
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert (
        page.evaluate("document.querySelectorAll('img, iframe, [onerror], [onload]').length") == 0
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def saved(page: Any, place: Any, name: str) -> tuple[str, str]:
    """The name and the text of a file that a button downloads."""
    with page.expect_download() as waiting:
        place.get_by_role("button", name=name).click()
    download = waiting.value
    return download.suggested_filename, Path(download.path()).read_text(encoding="utf-8")


def test_downloads_are_what_the_reporters_write(opened: Open, text: str) -> None:
    page, board = opened(text, accept_downloads=True), report()
    name, whole = saved(page, page, "JSON, everything")
    assert name == "leaderboard.json"
    assert json.loads(whole) == json.loads(data.as_json(board))
    models = data.as_csv(board.table("models"))
    assert saved(page, page, "CSV, one row per model") == ("leaderboard.csv", models)
    place = sheet(page, RANKING)
    place.get_by_role("searchbox").fill("model-b")
    name, rows = saved(page, place, f"Download as CSV: {RANKING}")
    assert name == "ranking.csv"
    assert len(rows.splitlines()) == 2
    assert "owner/model-b" in rows
    name, svg = saved(page, page.locator("#figure-predictors"), "Download as SVG")
    assert name == "predictors.svg"
    assert svg.startswith("<svg")
    assert "what a metric has to beat" in svg.lower()  # the title
    assert 'fill="white"' in svg


def test_a_phone_scrolls_tables_and_not_the_page(opened: Open, text: str) -> None:
    page = opened(text, width=400, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.evaluate(
        "[...document.querySelectorAll('.scroll')].some((s) => s.scrollWidth > s.clientWidth)"
    )
    fits = "[...document.querySelectorAll('.plot svg')].map((s) => s.clientWidth)"
    assert 250 < max(page.evaluate(fits)) <= 376
    assert page.locator(".plot .wide").first.is_visible() is False
    # rank and score are seen at once
    right = heading(sheet(page, RANKING), "score").bounding_box()
    assert right["x"] + right["width"] <= 400 - 12
    # what a row is of stands first, where there is room for little else, but not in a file
    assert page.locator("#ranking thead th").first.inner_text().startswith("model")
    _, lines = saved(page, page, f"Download as CSV: {RANKING}")
    assert lines.startswith("actual rank,")


def test_print_shows_every_row_that_is_filtered_in_and_no_controls(opened: Open) -> None:
    names = [f"m{i}" for i in range(250)]
    page = opened(of_tables(table("Made", {"model": names, "value": [str(i) for i in range(250)]})))
    place = sheet(page, "Made")

    def rows(count: int, media: str) -> None:
        """The page hears of the change a moment later."""
        page.emulate_media(media=media)
        shown = "(n) => document.querySelectorAll('#tables tbody tr').length === n"
        page.wait_for_function(shown, arg=count, timeout=5000)

    rows(100, "screen")
    rows(250, "print")
    assert not place.get_by_role("searchbox").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    rows(100, "screen")
    place.get_by_role("button", name="Next rows").click()
    assert column(place, 1)[0] == "m100"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # as the browser says it by itself
    rows(250, "screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    place.get_by_role("searchbox").fill("m24")
    rows(11, "print")


def test_print_shows_every_column_of_a_wide_table_each_block_with_the_key(opened: Open) -> None:
    columns = {"model": ["a", "b"], **{f"t{i}": [f"{i}", f"{100 + i}"] for i in range(30)}}
    page = opened(of_tables(table("Made", columns)))
    place = sheet(page, "Made")
    place.get_by_role("button", name="Columns to the right").click()
    page.emulate_media(media="print")
    page.wait_for_selector("#tables .paper")
    shown = [t for t in place.locator("table").all() if t.is_visible()]
    heads = [t.locator("thead th").all_text_contents() for t in shown]
    assert [head[0] for head in heads] == ["model"] * len(shown)
    assert [name for head in heads for name in head[1:]] == [f"t{i}" for i in range(30)]
    cells = [c for t in shown for c in t.locator("tbody tr").nth(1).locator("td").all()]
    assert [c.text_content() for c in cells] == [str(100 + i) for i in range(30)]
    assert shown[0].locator("caption").inner_text() == "Made: columns 1 to 12 of 30"
    page.emulate_media(media="screen")
    page.wait_for_selector("#tables .paper", state="detached")
    assert heading(place, "t20").count() == 1  # as it was left


def test_a_button_that_can_do_no_more_keeps_the_focus(opened: Open) -> None:
    columns = {"model": ["a", "b"], **{f"t{i}": ["1", "2"] for i in range(30)}}
    page = opened(of_tables(table("Made", columns)))
    place = sheet(page, "Made")
    button = place.get_by_role("button", name="Columns to the right")
    button.focus()
    for _ in range(2):  # the second time there is nothing more to be seen
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.textContent") == "Columns to the right"
        assert button.get_attribute("aria-disabled") == "true"
        assert "columns 21 to 30 of 30" in place.get_by_role("status").inner_text()


def test_tables_and_figures_are_there_before_the_first_paint(opened: Open, text: str) -> None:
    """Nothing that is shown moves once it is."""
    page = opened(text)
    moved = "new Promise((done) => new PerformanceObserver((list) => done(list.getEntries()"
    moved += ".reduce((sum, entry) => sum + entry.value, 0))).observe({type: 'layout-shift',"
    moved += " buffered: true}) || setTimeout(() => done(0), 300))"
    assert page.evaluate(moved) < 0.01


def test_two_thousand_models_by_a_hundred_tasks_stay_a_page_of_cells(opened: Open) -> None:
    models, tasks = 2_000, 100
    columns = {"model": [f"owner/model-{i}" for i in range(models)]}
    # 7919 is prime to 2,000: each value is there once
    columns |= {
        f"t{t} ↑": [f"{(i * 7919 + t) % models / models:.4f}" for i in range(models)]
        for t in range(tasks)
    }
    page = opened(of_tables(table("Made", columns)))
    place = sheet(page, "Made")
    size = "document.querySelectorAll('*').length"
    assert page.evaluate(size) < 100 * 25
    heading(place, "t7").get_by_role("button").click()
    assert column(place, 9)[:3] == ["0.9995", "0.9990", "0.9985"]
    place.get_by_role("button", name="Columns to the right").click()
    assert place.locator("thead th").nth(1).inner_text().startswith("t20")
    place.get_by_role("searchbox").fill("model-199")
    assert place.locator("tbody tr").count() == 11
    place.get_by_role("searchbox").fill("")
    assert "2,000 of 2,000 rows; shown 1 to 100" in place.get_by_role("status").inner_text()
    assert page.evaluate(size) < 100 * 25
    # what is noted of tasks of 50 ms and more comes later; this one is noted for certain
    page.evaluate("setTimeout(() => { for (const t = Date.now(); Date.now() < t + 99; ); })")
    for _ in range(100):  # the page's policy forbids what wait_for_function does
        if longest := page.evaluate("window.longest"):
            break
        page.wait_for_timeout(50)
    assert 0 < longest < 3000


def test_tables_that_are_downloaded_hold_no_formula(opened: Open) -> None:
    columns = {"model": ["=1+1", "@b", "-", "'=c"], "rho": ["-1.00", "+0.5", "-2", "0"]}
    page = opened(of_tables(table("Made", columns)), accept_downloads=True)
    _, lines = saved(page, page, "Download as CSV: Made")
    assert lines.splitlines() == ["model,rho", "'=1+1,-1.00", "'@b,+0.5", "-,-2", "''=c,0"]
