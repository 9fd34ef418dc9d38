"""The page as a file: whole, the same each time, and nothing in it but what was put there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import itertools
import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_rows import HOSTILE, report

from lrd_harness.errors import StorageFull, plain
from lrd_harness.report import Report
from lrd_harness.store import inventory

parts: Any = importlib.import_module("lrd_harness.plugins.reporters._page")
data: Any = importlib.import_module("lrd_harness.plugins.reporters._data")
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
READ = Read(TEXT)


def test_every_table_is_there_cell_for_cell() -> None:
    tables = {block["title"]: block for block in READ.blocks() if "columns" in block}
    for sheet in sheets.sheets(BOARD):
        block = tables[sheet.title]
        assert [tuple(c["cells"]) for c in block["columns"]] == [c.cells for c in sheet.columns]
        assert [tuple(c["heading"]) for c in block["columns"]] == [c.heading for c in sheet.columns]
    families = tables["Ranking of models (ranking)"]["families"]
    assert families == BOARD.table("models").column("family")
    assert tables["Scores by task"]["families"] == families
    assert tables["agreement"]["families"] is None
    (errors,) = tables["What failed"]["columns"]
    assert errors["cells"] == list(BOARD.errors)
    assert "actual rank: order of the mean score" in TEXT


def test_what_a_metric_has_to_beat_stands_first_and_those_on_base_models_by_their_tables() -> None:
    assert f'<div class="bar"><p>{escape(BOARD.notes[1])}</p></div>' in TEXT
    assert TEXT.index('class="bar"') < TEXT.index("<table>")
    assert TEXT.index('id="figure-predictors"') < TEXT.index("<table>")
    assert TEXT.index('section id="base"') < TEXT.index("<p>Base models: few.")
    idents = [a["id"] for tag, a in READ.elements if tag == "section" and "id" in a]
    known = ["verdict", "ranking", "figures", "tables", "base", "pruning", "errors", "downloads"]
    assert idents == known


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
    assert len(scripts) == 4  # light or dark, tables, page, Vega


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
    assert set(tags) == set(plain_tags)
    assert tags.count("script") == len(read.blocks()) + 2 + 4  # data, downloads, the page's own
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
    assert "too large to be carried along" in text


def test_a_report_without_figures_carries_no_library() -> None:
    small = parts.page(Report("Nothing", notes=("Nothing is recorded yet.",)))
    assert len(small) < 50_000
    assert "Nothing is recorded yet." in small
    assert "<figure" not in small
    read = Read(small)
    assert [h["id"] for tag, h in read.elements if tag == "section"] == ["verdict", "downloads"]


@pytest.mark.slow
def test_the_script_is_kept_in_the_cache_and_is_not_strange_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path))
    parts.library.cache_clear()
    script = parts.library()
    (kept,) = inventory.small_files(tmp_path)
    assert kept.read_text(encoding="utf-8") == script
    assert inventory.strangers(tmp_path) == []
    assert "</script" not in script
    kept.write_text("// kept", encoding="utf-8")
    parts.library.cache_clear()
    assert parts.library() == "// kept"
    (tmp_path / "scripts" / "other.js").touch()
    assert [path.name for path in inventory.strangers(tmp_path)] == ["other.js"]
    # where nothing can be kept, the page is made all the same
    kept.unlink()
    monkeypatch.setattr("lrd_harness.plugins.reporters._page.write_text", _full)
    parts.library.cache_clear()
    assert parts.library() == script
    parts.library.cache_clear()


def _full(path: Path, text: str) -> None:
    raise StorageFull("no space")
