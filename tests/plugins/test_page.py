"""The page as a file: whole, the same each time, and nothing in it but what was put there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import itertools
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from typing import Any

import pytest
from report_rows import HOSTILE, report

from lrd_harness.errors import plain, told_to
from lrd_harness.report import Report

parts: Any = importlib.import_module("lrd_harness.plugins.reporters._page")
data: Any = importlib.import_module("lrd_harness.plugins.reporters._data")
figures: Any = importlib.import_module("lrd_harness.plugins.reporters._figures")
sheets: Any = importlib.import_module("lrd_harness.plugins.reporters._sheets")

BOARD = report()
TEXT = parts.page(BOARD)


class Read(HTMLParser):
    """Elements with their attributes, and the text of each script and heading."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.within = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append((tag, ""))
        self.within = True

    def handle_endtag(self, tag: str) -> None:
        self.within = False

    def handle_data(self, data: str) -> None:
        if self.within:
            tag, text = self.texts[-1]
            self.texts[-1] = tag, text + data

    def blocks(self) -> list[dict[str, Any]]:
        texts = zip(self.elements, self.texts, strict=True)
        data = [text for (_, attributes), (_, text) in texts if attributes.get("type") == DATA]
        return [json.loads(text) for text in data]


DATA = "application/json"
PAGE = set(
    "html head meta link title style script body a header div h1 p button nav ul li details "
    "summary noscript main section h2 h3 table caption figure figcaption dl dt dd".split()
)
SVG = set("svg g path text rect line defs clippath tspan lineargradient stop".split())
READ = Read(TEXT)


def test_every_table_is_there_cell_for_cell() -> None:
    """Of rankings rank, model and score come first, which a phone has room for."""
    tables = {block["title"]: block for block in READ.blocks() if "columns" in block}
    for sheet in sheets.sheets(BOARD):
        shown = [(tuple(c["heading"]), tuple(c["cells"])) for c in tables[sheet.title]["columns"]]
        columns = [(c.heading, c.cells) for c in sheet.columns]
        assert sorted(shown) == sorted(columns)
        if "ranking" not in sheet.name:
            assert shown == columns
    ranking = tables["Ranking of models (ranking)"]
    heads = [column["heading"][0] for column in ranking["columns"]]
    assert heads[:4] == ["actual rank", "model", "score ↑", "pred. frenet"]
    assert ranking["families"] == BOARD.table("models").column("family")
    assert tables["Scores by task"]["families"] == ranking["families"]
    assert tables["agreement"]["families"] is None
    (errors,) = tables["What failed"]["columns"]
    assert errors["cells"] == list(BOARD.errors)
    assert "actual rank: order of the mean score" in TEXT


def test_the_answer_stands_first_then_the_ranking_then_figures_then_notes() -> None:
    order = ["<h1>Leaderboard", BOARD.answer[0], BOARD.answer[1], "<nav ", '<section id="ranking"']
    order += ["<table>", 'id="figure-predictors"', escape(BOARD.notes[1]), BOARD.notes[0]]
    order += ['<section id="base"', "<li>Base models: few."]
    places = [TEXT.index(part) for part in order]
    assert places == sorted(places)
    idents = [a["id"] for tag, a in READ.elements if tag == "section" and "id" in a]
    known = ["ranking", "figures", "notes", "tables", "base", "pruning", "errors", "made"]
    assert idents == known


def test_what_the_sections_say_stands_there_alone() -> None:
    more = ("Base models: a is best.", BOARD.notes[0], "It is clear.")
    told = replace(BOARD, tables=(), answer=(*BOARD.answer, *more))
    text = parts.page(told, [])
    assert [text.count(line) for line in more] == [1, 1, 1]
    assert text.index("It is clear.") < text.index("<nav ") < text.index(more[1])
    assert text.index('<section id="base"') < text.index(more[0]) < text.index("Base models: few.")


def test_every_section_table_and_figure_is_in_the_contents() -> None:
    links = [str(a["href"])[1:] for tag, a in READ.elements if tag == "a"]
    shown = ("section", "figure", "h3")
    idents = [a["id"] for tag, a in READ.elements if tag in shown and "id" in a]
    assert sorted(links) == sorted(["main", *(i for i in idents if not str(i).endswith("-title"))])


def test_how_it_was_made_is_said_as_far_as_it_is_known() -> None:
    for word in ("lrd-harness run &#34;a b&#34;", "2026-01-02 03:04 UTC", "torch 2, mteb 3"):
        assert word.replace("03:04", "03:04:05") in TEXT
    assert "<dt>Finished" not in TEXT  # it is running still


def test_nothing_is_asked_for_and_only_the_pages_own_scripts_run() -> None:
    for tag, attributes in READ.elements:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in {"img", "iframe", "object", "embed", "base", "form"}
        if "href" in attributes:
            assert str(attributes["href"]).startswith(("#", "data:,"))
    policy = next(str(a["content"]) for _, a in READ.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    pairs = zip(READ.texts, READ.elements, strict=True)
    scripts = [text for (tag, text), (_, a) in pairs if tag == "script" and "type" not in a]
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert hashes == set(re.findall(r"'sha256-([^']+)'", policy))
    assert len(set(scripts)) == 4  # light or dark, tables, the next table, page


def test_headings_are_in_order_and_every_reference_leads_somewhere() -> None:
    levels = [int(tag[1]) for tag, _ in READ.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    idents = [attributes["id"] for _, attributes in READ.elements if "id" in attributes]
    assert len(idents) == len(set(idents))
    names = ("aria-labelledby", "data-from")
    references = [a[name] for _, a in READ.elements for name in names if name in a]
    references += [str(a["href"])[1:] for tag, a in READ.elements if tag == "a"]
    assert set(references) <= set(idents)
    tags = [tag for tag, _ in READ.elements]
    assert tags.count("table") == tags.count("caption")
    assert tags.count("figure") == tags.count("figcaption")
    assert {"main", "nav", "header"} <= set(tags)


@pytest.mark.slow
def test_hostile_names_add_no_element_and_break_no_block() -> None:
    text = parts.page(report(HOSTILE))
    read = Read(text)
    usual = Read(parts.page(report([f"owner/model-{i}" for i in range(len(HOSTILE))])))
    tags, plain_tags = ([tag for tag, _ in r.elements] for r in (read, usual))
    assert set(tags) <= {*PAGE, *SVG}
    drawn = tags.count("table")  # each by a script of its own
    assert tags.count("script") == len(read.blocks()) + 2 + 3 + drawn  # data, downloads, the page's
    assert tags.count("section") == plain_tags.count("section")
    names, plain_names = ({name for _, a in r.elements for name in a} for r in (read, READ))
    assert names == plain_names
    models = next(b for b in read.blocks() if b["title"] == "Ranking of models (ranking)")
    (names,) = (column["cells"] for column in models["columns"] if column["key"])
    assert names == [plain(name) for name in HOSTILE]
    assert "\u202e" not in text


def test_the_downloads_are_what_the_reporters_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """A very large report does not carry them, and says so."""
    blocks = re.findall(r'<script type="application/gzip" id="[^"]+">([^<]*)</script>', TEXT)
    texts = [gzip.decompress(base64.b64decode(block)).decode() for block in blocks]
    assert texts == [data.as_json(BOARD), data.as_csv(BOARD.table("models"))]
    monkeypatch.setattr(parts, "CARRIED", 3)
    text = parts.page(BOARD, [])
    assert "application/gzip" not in text
    assert "are too large to be" in text


def test_a_report_of_nothing_is_a_page_too() -> None:
    small = parts.page(Report("Nothing", notes=("Nothing is recorded yet.",)))
    assert len(small) < 50_000
    assert "Nothing is recorded yet." in small
    assert "<figure" not in small
    read = Read(small)
    assert [h["id"] for tag, h in read.elements if tag == "section"] == ["notes", "made"]


def test_a_figure_that_fails_costs_itself_alone() -> None:
    first, second, *_ = figures.figures(BOARD)
    broken = replace(first, chart={**first.chart, "layer": [{"mark": "none such"}]})
    lines: list[str] = []
    with told_to(lines.append):
        text = parts.page(BOARD, [broken, second])
    (line,) = lines
    assert line.startswith("The figure 'predictors' could not be drawn: ")
    assert text.count("could not be drawn; its data are below") == 1
    assert text.count("<svg") == 2  # for a wide page and for a phone
    assert [block["file"] for block in Read(text).blocks()[1:3]] == ["predictors", "ranks"]
