"""The page as a file: whole, the same each time, and nothing in it but what was put there."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from page_rows import HOSTILE, NAMES, board, page, results

from lrd_harness.board.leaderboard import build
from lrd_harness.errors import StorageFull
from lrd_harness.results.database import Results
from lrd_harness.store import inventory

parts: Any = importlib.import_module("lrd_harness.plugins.reporters._page")
pieces: Any = importlib.import_module("lrd_harness.plugins.reporters._page_parts")
reporters: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
sheets: Any = importlib.import_module("lrd_harness.plugins.reporters._sheets")

HELD = board()
TEXT = page(HELD)


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
        kinds = [held for _, held in self.elements]
        return [
            json.loads(text)
            for (_, text), held in zip(self.texts, kinds, strict=True)
            if held.get("type") == "application/json"
        ]


READ = Read(TEXT)


def test_every_sheet_is_there_cell_for_cell() -> None:
    held = {block["title"]: block for block in READ.blocks() if "columns" in block}
    for part in (HELD, HELD.base):
        for i, sheet in enumerate(sheets.sheets(part)):
            block = held["Models" if i == 0 and part is HELD else sheet.title]
            assert [tuple(c["cells"]) for c in block["columns"]] == [c.cells for c in sheet.columns]
            assert [tuple(c["heading"]) for c in block["columns"]] == [
                c.heading for c in sheet.columns
            ]
    families = held["Models"]["families"]
    assert families == [row.info.family for row in HELD.rows]
    assert held["Scores by task"]["families"] == families
    assert held["What could not be measured"]["columns"][0]["cells"] == [
        "owner/model-a · Sts · gfmi: NotFinite: state 3"
    ]
    assert any("Pruning" in title for title in held)


def test_what_a_metric_has_to_beat_stands_first() -> None:
    bar = next(note for note in HELD.notes if "to beat" in note)
    assert f'<div class="bar"><p>{pieces.escape(bar)}</p></div>' in TEXT
    assert TEXT.index('class="bar"') < TEXT.index("<table>")
    assert TEXT.index('id="figure-predictors"') < TEXT.index("<table>")


def test_nothing_is_asked_for_and_only_the_pages_own_scripts_run() -> None:
    for tag, held in READ.elements:
        assert "src" not in held
        assert not any(name.startswith("on") for name in held)
        assert tag not in {"img", "iframe", "object", "embed", "base", "form"}
        if "href" in held:
            assert str(held["href"]).startswith(("#", "data:,"))
    policy = next(str(h["content"]) for _, h in READ.elements if h.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = [
        text
        for (tag, text), (_, held) in zip(READ.texts, READ.elements, strict=True)
        if tag == "script" and "type" not in held
    ]
    found = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert found == allowed
    assert len(scripts) == 4  # light or dark, tables, page, Vega


def test_headings_are_in_order_and_every_reference_leads_somewhere() -> None:
    levels = [int(tag[1]) for tag, _ in READ.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    idents = [held["id"] for _, held in READ.elements if "id" in held]
    assert len(idents) == len(set(idents))
    wanted = [
        h[name] for _, h in READ.elements for name in ("aria-labelledby", "data-from") if name in h
    ]
    wanted += [str(h["href"])[1:] for tag, h in READ.elements if tag == "a"]
    assert set(wanted) <= set(idents)
    tags = [tag for tag, _ in READ.elements]
    assert tags.count("table") == tags.count("caption")
    assert tags.count("figure") == tags.count("figcaption")
    assert {"main", "nav", "header"} <= set(tags)


def test_the_same_board_gives_the_same_page() -> None:
    assert page(board()) == TEXT


def test_hostile_names_add_no_element_and_break_no_block() -> None:
    held = board(HOSTILE)
    text = page(held)
    read = Read(text)
    usual = Read(page(board([f"owner/model-{i}" for i in range(len(HOSTILE))])))
    tags, plain = ([tag for tag, _ in one.elements] for one in (read, usual))
    assert set(tags) == set(plain)
    assert tags.count("script") == len(read.blocks()) + 2 + 4  # data, downloads, the page's own
    assert tags.count("section") == plain.count("section")
    assert {name for _, h in read.elements for name in h} == {
        name for _, h in READ.elements for name in h
    }
    models = next(block for block in read.blocks() if block["title"] == "Models")
    (names,) = (column["cells"] for column in models["columns"] if column["key"])
    assert set(names) == {sheets.plain(name) for name in HOSTILE}
    assert "\u202e" not in text


def test_the_downloads_are_what_the_reporters_write() -> None:
    found = re.findall(r'<script type="application/gzip" id="[^"]+">([^<]*)</script>', TEXT)
    texts = [gzip.decompress(base64.b64decode(block)).decode() for block in found]
    assert texts == [reporters.as_json(HELD), reporters.as_csv(HELD)]


def test_a_very_large_board_says_that_it_does_not_carry_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "CELLS", 3)
    text = page(HELD)
    assert "application/gzip" not in text
    assert "too large to be carried along" in text


def test_a_board_without_figures_carries_no_library() -> None:
    small = page(build(Results()))
    assert len(small) < 50_000
    assert "Nothing is recorded yet." in small
    assert "<figure" not in small


def test_parts_of_a_run_that_are_not_there_have_no_section() -> None:
    held = Read(page(build(Results(models=results().models, scores=results().scores))))
    idents = {h["id"] for tag, h in held.elements if tag == "section" and "id" in h}
    assert idents == {"verdict", "ranking", "figures", "tables", "base", "downloads"}
    assert len(NAMES) > 5


def test_the_script_is_kept_in_the_cache_and_is_not_strange_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin: Any = importlib.import_module("lrd_harness.plugins.reporters.page")
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path))
    plugin.library.cache_clear()
    script = plugin.library()
    (kept,) = inventory.scripts(tmp_path)
    assert kept.read_text(encoding="utf-8") == script
    assert inventory.strangers(tmp_path) == []
    assert "</script" not in script
    kept.write_text("// kept", encoding="utf-8")
    plugin.library.cache_clear()
    assert plugin.library() == "// kept"
    (tmp_path / "scripts" / "other.js").touch()
    assert [path.name for path in inventory.strangers(tmp_path)] == ["other.js"]
    # where nothing can be kept, the page is made all the same
    kept.unlink()
    monkeypatch.setattr("lrd_harness.store.files.write_text", _full)
    plugin.library.cache_clear()
    assert plugin.library() == script
    plugin.library.cache_clear()


def _full(path: Path, text: str) -> None:
    raise StorageFull("no space")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Leaderboard: 4 models, 4 tasks", "leaderboard-4-models-4-tasks"),
        ("../../etc/passwd", "etc-passwd"),
        ("模型", "table"),
        ("x" * 200, "x" * 60),
    ],
)
def test_titles_become_plain_file_names(title: str, name: str) -> None:
    assert pieces.file_name(title) == name
