"""The page in headless Chromium: on paper, very large, with a figure that cannot be drawn.

pytest -m browser
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import Open, column, heading, of_tables, sheet, table
from report_rows import report

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest_plugins = ("fixtures_browser",)

figures: Any = importlib.import_module("lrd_harness.plugins.reporters._figures")
parts: Any = importlib.import_module("lrd_harness.plugins.reporters._page")


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
