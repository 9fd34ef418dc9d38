"""Commands that plugins bring: found, listed, run; what is wrong with one costs a line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures_packages import Install
from running import one_line

from lrd_harness import manager
from lrd_harness.cli import COMMANDS, main

Shown = pytest.CaptureFixture[str]
SOURCE = """
from lrd_harness import Command, UserError, hookimpl
{imports}


def arguments(parser):
    {arguments}


def run(typed):
    {run}


@hookimpl
def lrd_commands():
    return [Command({name!r}, run, arguments, description={description!r})]
"""


def source(run: str, name: str = "greet", **more: str) -> str:
    """A plugin with one command."""
    usual = {"imports": "", "arguments": "parser.add_argument('who', type=str)"}
    return SOURCE.format(**{**usual, "run": run, "name": name, "description": "say it", **more})


GREET = source("print('hello', typed.who)")


@pytest.fixture
def loaded(tmp_path: Path, capsys: Shown) -> Any:
    """Runs a command of a file behind --load: exit code, and what it printed."""

    def load(code: str, *typed: str) -> tuple[int, str, str]:
        (tmp_path / "mine.py").write_text(code)
        try:
            code_ = main([*typed, "--load", str(tmp_path / "mine.py")])
        except SystemExit as stop:
            code_ = int(str(stop.code))
        printed = capsys.readouterr()
        return code_, printed.out, printed.err

    return load


def test_an_installed_command_is_listed_has_help_and_runs(install: Install, capsys: Shown) -> None:
    install("greet", GREET)
    assert main(["greet", "you"]) == 0
    assert capsys.readouterr() == ("hello you\n", "")
    for typed, words in (
        (["--help"], "greet say it"),
        (["greet", "--help"], "usage: lrd-harness greet who say it --load"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(typed)
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in words.split())
    assert main(["plugins"]) == 0
    assert "greet say it (from lrd-greet 1.2)" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as stop:
        main(["greet"])
    assert stop.value.code == 2
    assert one_line(capsys).startswith("greet: the following arguments are required")


@pytest.mark.parametrize("word", [*COMMANDS, "--version"])
def test_commands_that_are_built_in_wait_for_no_plugin(
    word: str, install: Install, tmp_path: Path, capsys: Shown
) -> None:
    install("greet", GREET + "\nopen('imported', 'w')")
    with pytest.raises(SystemExit) as stop:
        main([word, "--help"])
    assert stop.value.code == 0
    assert "lrd_greet" not in sys.modules


def test_a_command_of_a_file(loaded: Any, tmp_path: Path) -> None:
    assert loaded(GREET, "greet", "you") == (0, "hello you\n", "")
    code, out, _ = loaded(GREET, "--help")
    assert (code, "greet" in out) == (0, True)
    code, _, err = loaded(GREET, "greed", "you")
    assert code == 2
    assert "greet" in err
    code, _, err = loaded(source("print(typed.load, typed.command)"), "greet", "you")
    assert (code, "no attribute 'command'" in err) == (2, True)
    once = source("print('run')", imports="print('imported')")
    (tmp_path / "same.py").symlink_to(tmp_path / "mine.py")
    typed = ("greet", "you", "--load", str(tmp_path / "same.py"))
    assert loaded(once, *typed) == (0, "run\n", "imported\n")


@pytest.mark.parametrize(
    ("run", "code", "line"),
    [
        ("return 3", 3, ""),
        ("return 0", 0, ""),
        ("raise UserError('no such folder')", 2, "lrd-harness: no such folder\n"),
        ("raise ValueError('one\\nline')", 2, "greet: ValueError: one line (mine.py, line 11)\n"),
        ("import sys; sys.exit(0)", 2, "greet: SystemExit: 0 (mine.py, line 11)\n"),
        ("return 'done'", 2, "greet: TypeError: run gave 'done', no exit code: None, or 0 to 255"),
        ("return True", 2, "run gave True, no exit code"),
        ("return 256", 2, "run gave 256, no exit code"),
        ("raise KeyboardInterrupt", 130, "Interrupted"),
        ("raise BrokenPipeError", 0, ""),
    ],
)
def test_how_a_command_ends(run: str, code: int, line: str, loaded: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.stderr, "close", lambda: None)
    ended, out, err = loaded(source(run), "greet", "you")
    assert (ended, out) == (code, "")
    assert line in err
    assert err.count("\n") == bool(err) + ("\n" in err[:1])


def test_what_a_command_prints_in_any_way_is_its_output(install: Install, capfd: Any) -> None:
    here = os.getcwd()
    run = "os.chdir('/'); os.system('echo one'); sys.stdout.write('two\\n')"
    install("greet", source(run, imports="import os, sys"))
    assert main(["greet", "you"]) == 0
    assert sorted(capfd.readouterr().out.split()) == ["one", "two"]
    assert os.getcwd() == here


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (source("pass", name="run"), "a command named 'run': lrd-harness and mine"),
        (source("pass", name="two words"), "name of command 'two words' is not a word"),
        (source("pass", name="--full"), "name of command '--full' is not a word"),
        (source("pass", arguments="1 / 0"), "command greet: ZeroDivisionError"),
        (source("pass", arguments="parser.add_argument('--load')"), "conflicting option string"),
        (
            source("pass", arguments="parser.add_argument('who', type=lambda v: {}[v])"),
            "command greet: KeyError: 'you' (mine.py, line 7)",
        ),
        (source("pass", name=""), "name of command"),
        ("def lrd_commands(): return []", "implements no hook at all"),
    ],
)
def test_what_is_wrong_with_a_command_is_one_line(code: str, line: str, loaded: Any) -> None:
    ended, out, err = loaded(code, "greet", "you")
    assert (ended, out, err.count("\n")) == (2, "", 1)
    assert line in err


def test_odd_descriptions_are_shown_as_they_are(loaded: Any) -> None:
    odd = source("pass", description="100 % of %(prog)s, {}\nand more")
    for typed in ("--help", "greet --help"):
        code, out, err = loaded(odd, *typed.split())
        assert (code, err) == (0, "")
        assert "100 % of %(prog)s, {}" in " ".join(out.split())
    code, _, err = loaded(
        source("pass", arguments="parser.add_argument('who', help='100 %')"), "greet", "--help"
    )
    assert (code, "command greet: ValueError" in err) == (2, True)


def test_an_installed_command_that_cannot_be_used_is_left_out_and_said(
    install: Install, capsys: Shown
) -> None:
    install("greet", source("pass", name="merge"))
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "lrd-greet 1.2 is left out: two plugins provide a command" in capsys.readouterr().err
    install("one", GREET)
    install("two", GREET)
    assert main(["greet", "you"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("lrd-harness: two plugins provide a command named 'greet': lrd-")


def test_an_installed_command_whose_file_is_loaded_is_that_files(
    install: Install, tmp_path: Path, capsys: Shown
) -> None:
    """As while it is written, installed by `pip install -e`."""
    install("greet", GREET)
    assert main(["greet", "you", "--load", str(tmp_path / "lrd_greet.py")]) == 0
    assert capsys.readouterr() == ("hello you\n", "")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("")
    (tmp_path / "package/part.py").write_text(source("pass", name="part"))
    info = tmp_path / "lrd_greet-1.2.dist-info/entry_points.txt"
    info.write_text("[lrd_harness]\npart = package.part\n")
    assert main(["part", "you", "--load", str(tmp_path / "package/part.py")]) == 0
    assert capsys.readouterr().err == ""


def test_no_plugin_can_take_a_name_of_ours() -> None:
    assert list(COMMANDS) == manager.COMMANDS


def test_load_before_the_command_is_said_to_stand_behind_it(capsys: Shown) -> None:
    assert main(["--load", "mine.py", "plugins"]) == 2
    assert "--load stands behind a command" in one_line(capsys)
