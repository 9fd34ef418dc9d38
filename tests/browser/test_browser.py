"""The page in headless Chromium: it sorts, filters, draws, prints and asks for nothing.

    pytest -m browser

Left out, with the reason, where there is no Chromium or no Playwright.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import Open, column, heading, of_tables, sheet, table
from report_rows import HOSTILE, NAMES, report

from lrd_harness.errors import plain

pytestmark = [pytest.mark.browser, pytest.mark.slow]

parts: Any = importlib.import_module("lrd_harness.plugins.reporters._page")
figures: Any = importlib.import_module("lrd_harness.plugins.reporters._figures")
data: Any = importlib.import_module("lrd_harness.plugins.reporters._data")
RANKING = "Ranking of models (ranking)"

pytest_plugins = ("fixtures_browser",)


@pytest.fixture(scope="session")
def text() -> str:
    found: str = parts.page(report())
    return found


def test_a_table_is_sorted_by_value_both_ways_and_what_is_missing_is_last(opened: Open) -> None:
    """Numbers as people write them, in a table of their own."""
    values = ["28 of 30", "-", "1,234", "0.82 ± .01", "−3.5", "3=", "", "+0.5 to +0.9", "1e-3"]
    ordered = ["−3.5", "1e-3", "+0.5 to +0.9", "0.82 ± .01", "3=", "28 of 30", "1,234"]
    names = [f"m{i}" for i in (2, 10, 1, 3, 4, 5, 6, 7, 8)]
    made = opened(of_tables(table("Made", {"model": names, "value": values, "score ↑": values})))
    place = sheet(made, "Made")
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


def test_the_keyboard_alone_sorts_and_reaches_the_results(opened: Open, text: str) -> None:
    made = opened(text)
    made.keyboard.press("Tab")
    assert made.evaluate("document.activeElement.textContent") == "Skip to the results"
    place = sheet(made, RANKING)
    button = heading(place, "score").get_by_role("button")
    button.focus()
    made.keyboard.press("Enter")  # the better end first, as it was
    assert column(place, 4) == list(NAMES)
    made.keyboard.press("Space")
    assert column(place, 4) == list(reversed(NAMES))
    assert made.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert "sorted by score ↑, ascending" in place.get_by_role("status").inner_text()


def test_rows_are_filtered_by_text_and_by_family(opened: Open, text: str) -> None:
    made = opened(text)
    place = sheet(made, RANKING)
    place.get_by_role("searchbox").fill("MODEL-C")
    assert place.locator("tbody th").all_text_contents() == ["owner/model-c"]
    assert place.get_by_role("status").inner_text() == "1 of 8 rows"
    place.get_by_role("searchbox").fill("")
    place.get_by_role("combobox").select_option(label="llama")
    assert set(place.locator("tbody th").all_text_contents()) == {NAMES[i] for i in (1, 4, 7)}
    place.get_by_role("combobox").select_option(label="all")
    assert place.locator("tbody tr").count() == 8


def test_every_figure_is_drawn_labelled_and_readable_as_a_table(opened: Open, text: str) -> None:
    made = opened(text)
    figures = made.locator("figure").all()
    assert len(figures) == text.count("<figure ") == 17
    for figure in figures:
        assert figure.locator(
            "svg .mark-symbol path, svg .mark-line path, svg .mark-rect path"
        ).count()
        plot = figure.locator(".plot")
        assert plot.get_attribute("role") == "img"
        assert plot.get_attribute("aria-label").endswith(".")
        assert figure.locator("figcaption").inner_text()
    first = figures[0]
    first.locator("summary").click()
    first.locator("tbody tr").first.wait_for()
    assert (
        first.locator("tbody tr").count() == len(first.locator("svg .mark-symbol path").all()) - 3
    )
    box = first.locator("svg").bounding_box()
    assert box["width"] > 400


def test_every_heading_of_a_column_and_of_a_row_says_what_it_heads(opened: Open, text: str) -> None:
    made = opened(text)
    lacking = "[...document.querySelectorAll('th')].filter((th) => !th.scope).length"
    assert made.evaluate(lacking) == 0
    assert made.evaluate(
        "[...document.querySelectorAll('tbody tr')].every((r) => r.querySelector('th'))"
    )
    unnamed = (
        "[...document.querySelectorAll('button, input, select')].filter((c) =>"
        " !(c.textContent.trim() || c.getAttribute('aria-label') || c.closest('label'))).length"
    )
    assert made.evaluate(unnamed) == 0
    # what a sign of the order shows is said by aria-sort, and a table is one region, not two
    place = sheet(made, RANKING)
    assert place.get_by_role("button", name="actual rank", exact=True).count() == 1
    assert place.get_attribute("aria-labelledby") is None
    assert made.get_by_role("region", name=RANKING, exact=True).count() == 1


def test_hostile_names_are_shown_as_text(opened: Open) -> None:
    made = opened(parts.page(report(HOSTILE)))
    place = sheet(made, RANKING)
    assert set(place.locator("tbody th").all_text_contents()) == {plain(n) for n in HOSTILE}
    place.locator("tbody th").first.hover()
    for figure in made.locator("figure").all()[:3]:
        figure.locator("summary").click()
        figure.locator(".mark-symbol path, .mark-line path").first.hover(force=True)
    made.wait_for_timeout(200)
    assert made.evaluate("window.hacked") is None
    assert (
        made.evaluate("document.querySelectorAll('img, iframe, [onerror], [onload]').length") == 0
    )
    assert made.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_downloads_are_what_the_reporters_write(opened: Open, text: str) -> None:
    made, held = opened(text, accept_downloads=True), report()

    def saved(name: str, place: Any = None) -> tuple[str, str]:
        with made.expect_download() as waiting:
            (place or made).get_by_role("button", name=name).click()
        found = waiting.value
        return found.suggested_filename, Path(found.path()).read_text(encoding="utf-8")

    name, whole = saved("JSON, everything")
    assert name == "leaderboard.json"
    assert json.loads(whole) == json.loads(data.as_json(held))
    models = data.as_csv(held.table("models"))
    assert saved("CSV, one row per model") == ("leaderboard.csv", models)
    place = sheet(made, RANKING)
    place.get_by_role("searchbox").fill("model-b")
    name, rows = saved(f"Download as CSV: {RANKING}", place)
    assert name == "ranking.csv"
    assert len(rows.splitlines()) == 2
    assert "owner/model-b" in rows
    figure = made.locator("#figure-predictors")
    name, svg = saved("Download as SVG", figure)
    assert name == "predictors.svg"
    assert svg.startswith("<svg")
    assert "what a metric has to beat" in svg.lower()  # the title
    assert 'fill="white"' in svg


def test_light_and_dark_follow_the_system_and_the_button(opened: Open, text: str) -> None:
    made = opened(text, color_scheme="dark")

    def colours() -> list[str]:
        found: list[str] = made.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('figure svg text')).fill]"
        )
        return found

    assert colours() == ["rgb(20, 24, 28)", "rgb(232, 236, 240)"]
    made.get_by_role("button", name="Dark mode").click()
    assert colours() == ["rgb(255, 255, 255)", "rgb(26, 32, 38)"]
    assert made.get_by_role("button", name="Dark mode").get_attribute("aria-pressed") == "false"


def test_a_phone_scrolls_tables_and_not_the_page(opened: Open, text: str) -> None:
    made = opened(text, width=360, has_touch=True)
    assert made.evaluate("document.documentElement.scrollWidth") == 360
    assert made.evaluate(
        "[...document.querySelectorAll('.scroll')].some((s) => s.scrollWidth > s.clientWidth)"
    )
    fits = "[...document.querySelectorAll('.plot')].map((p) => p.scrollWidth - p.clientWidth)"
    assert max(made.evaluate(fits)) <= 1
    # what a row is of stands first, where there is room for little else, but not in a file
    assert made.locator("#ranking thead th").first.inner_text().startswith("model")
    with made.expect_download() as waiting:
        made.get_by_role("button", name=f"Download as CSV: {RANKING}").click()
    lines = Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("actual rank,")


def test_print_shows_every_row_that_is_filtered_in_and_no_controls(opened: Open) -> None:
    names = [f"m{i}" for i in range(250)]
    made = opened(of_tables(table("Made", {"model": names, "value": [str(i) for i in range(250)]})))
    place = sheet(made, "Made")

    def rows(wanted: int, media: str) -> None:
        """The page hears of the change a moment later."""
        made.emulate_media(media=media)
        count = "(n) => document.querySelectorAll('#tables tbody tr').length === n"
        made.wait_for_function(count, arg=wanted, timeout=5000)

    rows(100, "screen")
    rows(250, "print")
    assert not place.get_by_role("searchbox").is_visible()
    assert made.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    rows(100, "screen")
    place.get_by_role("button", name="Next rows").click()
    assert column(place, 1)[0] == "m100"
    made.evaluate("dispatchEvent(new Event('beforeprint'))")  # as the browser says it by itself
    rows(250, "screen")
    made.evaluate("dispatchEvent(new Event('afterprint'))")
    place.get_by_role("searchbox").fill("m24")
    rows(11, "print")


def test_print_shows_every_column_of_a_wide_table_each_block_with_the_key(opened: Open) -> None:
    held = {"model": ["a", "b"], **{f"t{i}": [f"{i}", f"{100 + i}"] for i in range(30)}}
    made = opened(of_tables(table("Made", held)))
    place = sheet(made, "Made")
    place.get_by_role("button", name="Columns to the right").click()
    made.emulate_media(media="print")
    made.wait_for_selector("#tables .paper")
    shown = [t for t in place.locator("table").all() if t.is_visible()]
    heads = [t.locator("thead th").all_text_contents() for t in shown]
    assert [head[0] for head in heads] == ["model"] * len(shown)
    assert [name for head in heads for name in head[1:]] == [f"t{i}" for i in range(30)]
    cells = [c for t in shown for c in t.locator("tbody tr").nth(1).locator("td").all()]
    assert [c.text_content() for c in cells] == [str(100 + i) for i in range(30)]
    assert shown[0].locator("caption").inner_text() == "Made: columns 1 to 12 of 30"
    made.emulate_media(media="screen")
    made.wait_for_selector("#tables .paper", state="detached")
    assert heading(place, "t20").count() == 1  # as it was left


def test_a_button_that_can_do_no_more_keeps_the_focus(opened: Open) -> None:
    held = {"model": ["a", "b"], **{f"t{i}": ["1", "2"] for i in range(30)}}
    made = opened(of_tables(table("Made", held)))
    place = sheet(made, "Made")
    button = place.get_by_role("button", name="Columns to the right")
    button.focus()
    for _ in range(2):  # the second time there is nothing more to be seen
        made.keyboard.press("Enter")
        assert made.evaluate("document.activeElement.textContent") == "Columns to the right"
        assert button.get_attribute("aria-disabled") == "true"
        assert "columns 21 to 30 of 30" in place.get_by_role("status").inner_text()


def test_a_figure_that_fails_costs_itself_alone(browser: Any, tmp_path: Path) -> None:
    held = report()
    first, *rest = figures.figures(held)
    broken = replace(first, chart={**first.chart, "layer": [{"mark": "none such"}]})
    path = tmp_path / "page.html"
    text = parts.page(held, [broken, *rest[:2]])
    path.write_text(text, encoding="utf-8")
    context = browser.new_context()
    made = context.new_page()
    made.goto(path.as_uri())
    made.wait_for_selector("html[data-ready=yes]", timeout=60_000)
    place = made.locator("#figure-predictors")
    assert "could not be drawn; its data are below" in place.locator(".plot").inner_text()
    place.locator("summary").click()
    place.locator("tbody tr").first.wait_for()
    assert place.locator("tbody tr").count() == len(first.rows)
    for figure in rest[:2]:
        assert made.locator(f"#figure-{figure.name} .plot svg").count() == 1
    context.close()


def test_two_thousand_models_by_a_hundred_tasks_stay_a_page_of_cells(opened: Open) -> None:
    models, tasks = 2_000, 100
    held = {"model": [f"owner/model-{i}" for i in range(models)]}
    # 7919 is prime to 2,000: each value is there once
    held |= {
        f"t{t} ↑": [f"{(i * 7919 + t) % models / models:.4f}" for i in range(models)]
        for t in range(tasks)
    }
    made = opened(of_tables(table("Made", held)))
    place = sheet(made, "Made")
    size = "document.querySelectorAll('*').length"
    assert made.evaluate(size) < 100 * 25
    heading(place, "t7").get_by_role("button").click()
    assert column(place, 9)[:3] == ["0.9995", "0.9990", "0.9985"]
    place.get_by_role("button", name="Columns to the right").click()
    assert place.locator("thead th").nth(1).inner_text().startswith("t20")
    place.get_by_role("searchbox").fill("model-199")
    assert place.locator("tbody tr").count() == 11
    place.get_by_role("searchbox").fill("")
    assert "2,000 of 2,000 rows; shown 1 to 100" in place.get_by_role("status").inner_text()
    assert made.evaluate(size) < 100 * 25
    made.wait_for_timeout(100)
    assert 0 < made.evaluate("window.longest") < 3000


def test_tables_that_are_downloaded_hold_no_formula(opened: Open) -> None:
    held = {"model": ["=1+1", "@b", "-", "'=c"], "rho": ["-1.00", "+0.5", "-", "0"]}
    made = opened(of_tables(table("Made", held)), accept_downloads=True)
    with made.expect_download() as waiting:
        made.get_by_role("button", name="Download as CSV: Made").click()
    lines = Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines == ["model,rho", "'=1+1,-1.00", "'@b,+0.5", "-,-", "''=c,0"]
