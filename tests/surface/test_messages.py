"""Messages are one line of 300 characters at most, and odd words on the command line get one."""

from __future__ import annotations

from pathlib import Path

import pytest
import running
import tiny

from lrd_harness import UserError
from lrd_harness.cli import main
from lrd_harness.errors import UnitError, bounded, described, named, short, there

Shown = pytest.CaptureFixture[str]
LONG = "x" * 5000


def test_what_is_long_loses_its_middle() -> None:
    assert short("a b") == "a b"
    assert short("one\ntwo\r\nthree\u2028four") == "one two three four"
    assert short("\x1b[31m\u202e") == "\\x1b[31m\\u202e"
    for text in (
        f"head {LONG} tail",
        "head " + "\x1b" * 5000 + " tail",
        f"head {LONG * 2000} tail",
    ):
        line = short(text)
        assert len(line) == 300
        assert line.startswith("head ")
        assert " ... " in line
        assert line.endswith(" tail")
    assert len(short("x" * 300)) == 300
    assert bounded(f"\n{LONG}\nshort").split("\n")[::2] == ["", "short"]


def test_what_is_recorded_of_an_error_is_one_bounded_line() -> None:
    assert described(ValueError("a\nb")) == "ValueError: a b"
    assert described(UserError("as it is")) == "as it is"
    assert len(described(UnitError(LONG * 100))) == 300


WORDS = {
    "unknown option": (["run", "--modles", "a"], "lrd-harness: unrecognized arguments: --modles a"),
    "no command": ([], "lrd-harness: the following arguments are required: COMMAND"),
    "wrong command": (["x" * 400], "lrd-harness: argument COMMAND: invalid choice: 'xxx"),
    "wrong number": (
        ["run", "--max-texts", "9" * 5000],
        "lrd-harness: run: argument --max-texts: invalid int value: '999",
    ),
    "no value": (["leaderboard", "--output"], "lrd-harness: leaderboard: argument --output: "),
    "no action": (["cache"], "lrd-harness: cache: the following arguments are required: ACTION"),
    "NUL": (["run", "--output", "a\x00b"], "lrd-harness: 'a\\x00b' holds a NUL character"),
    "no text": (["leaderboard", "a\udcff"], "lrd-harness: 'a\\udcff' is not UTF-8 text"),
    "long folder": (["leaderboard", LONG], "lrd-harness: xxx"),
    "long output": (["merge", "a", "--output", LONG], "lrd-harness: xxx"),
    "long model": (["prune", f"./{LONG}", "--layers", "1"], "lrd-harness: model ./xxx"),
    "long texts": (["layer", "m", "--texts", LONG], "lrd-harness: xxx"),
    "long suite": (["plan", "--suite", f"./{LONG}"], "lrd-harness: xxx"),
    "no user": (["layer", "m", "--texts", "~nouser/x"], "lrd-harness: ~nouser/x: there is no user"),
    "no user's model": (["prune", "~nouser/x", "--layers", "1"], "there is no user of that name"),
    "no user's plugin": (["run", "--load", "~nouser/x.py"], "there is no user of that name"),
    "many revisions": (
        ["prune", "a/b@{" + ",".join(f"step{i}" for i in range(99)) + "}", "--layers", "1"],
        "model 'a/b' is not on this machine, and the hub is out of reach",
    ),
}


@pytest.mark.parametrize("kind", WORDS)
def test_odd_words_get_one_line(kind: str, capsys: Shown, own_cache: Path) -> None:
    arguments, expected = WORDS[kind]
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]  # argparse's own, a number
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lrd-harness: ")
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert len(captured.err) <= 301


def test_names_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named("~/a") == tmp_path / "a"
    assert there("~")
    assert not there(LONG)
    for name in ("~nouser/a", "a\0b", "a\udcff"):
        with pytest.raises(UserError):
            named(name)


@pytest.mark.parametrize("name", ["m" * 250, "é" * 120])
def test_models_with_long_names_are_measured(
    name: str, place: Path, tmp_path: Path, own_cache: Path, capsys: Shown
) -> None:
    model = tiny.save("Bert", tmp_path / name, max_position_embeddings=64)
    given = ("--layers", "last", "--pooling", "cls", "--max-length", "9")
    out = tmp_path / "out"
    assert running.run(out, [model], place / "data", *given, tasks=["STSBenchmark"]) == 0
    assert running.records(out, "error") == []
    assert len(running.records(out, "score")) == 1
