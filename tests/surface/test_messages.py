"""Odd words and absurd numbers on the command line get one line of 300 characters at most."""

from __future__ import annotations

import threading
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import running
import tiny
from rich.console import Console

from lrd_harness import UserError
from lrd_harness.cli import main
from lrd_harness.errors import UnitError, bounded, described, named, short, there
from lrd_harness.planning import suite
from lrd_harness.progress import Display, Stage

Shown = pytest.CaptureFixture[str]
LONG = "x" * 5000
HUGE = "9" * 4000
MANY = ",".join(f"{i}e-5" for i in range(5000))
RUN = ["run", "--models", "M", "--tasks", "T"]


def refused(arguments: list[str], capsys: Shown) -> str:
    """What a command line is refused with."""
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]  # argparse's own, a number
    assert code == 2
    line = running.one_line(capsys)
    assert len(line) < 300
    return line


WORDS = [
    (["run", "--modles", "a"], "run: unrecognized arguments: --modles a (see lrd-harness run --h"),
    ([], "the following arguments are required: COMMAND"),
    (["x" * 400], "argument COMMAND: invalid choice: 'xxx"),
    (["run", "--max-texts", "9" * 5000], "run: argument --max-texts: invalid int value: '999"),
    (["leaderboard", "--output"], "leaderboard: argument --output: "),
    (["cache"], "cache: the following arguments are required: ACTION"),
    (["run", "--output", "a\x00b"], "'a\\x00b' holds a NUL character"),
    (["leaderboard", "a\udcff"], "'a\\udcff' is not UTF-8 text"),
    (["leaderboard", LONG], "xxx"),
    (["merge", "a", "--output", LONG], "xxx"),
    (["prune", f"./{LONG}", "--blocks", "1"], "model ./xxx"),
    (["layer", "m", "--texts", LONG], "xxx"),
    (["plan", "--suite", f"./{LONG}"], "xxx"),
    (["layer", "m", "--texts", "~nouser/x"], "~nouser/x: there is no user"),
    (["prune", "~nouser/x", "--blocks", "1"], "there is no user of that name"),
    (["run", "--load", "~nouser/x.py"], "there is no user of that name"),
    (
        ["prune", "a/b@{" + ",".join(f"step{i}" for i in range(99)) + "}", "--blocks", "1"],
        "model 'a/b' is not on this machine, and the hub is out of reach",
    ),
    # numbers that multiply work
    ([*RUN, "--processes", "1000000"], "--processes 1000000: at most "),
    ([*RUN, "--prune", "--random-seeds", "100000000"], "100000000: at most 10,000"),
    ([*RUN, "--max-texts", HUGE], "max_texts is beyond 10^30: at most 1,000,000,000"),
    ([*RUN, "--limit", HUGE], "limit is beyond 10^30: at most 1,000,000,000 is possible"),
    ([*RUN, "--layers", f"0,{HUGE}"], "layers: at most 10,000 is possible"),
    ([*RUN, "--shard", f"1/{HUGE}"], "9: not I/N with I from 1 to N, as 3/31"),
    ([*RUN, "--shard", "1/1000001"], "1/1000001: at most 1,000,000 slices are possible"),
    ([*RUN, "--plugins", "nrs", "--set", f"nrs.k={10**12}"], "of metric nrs is 1000000000000"),
    ([*RUN, "--plugins", "dime", "--set", "dime.permutations=100000"], "at most 10,000, n"),
    (["select", "--models", "A", "B", "--draws", str(10**9)], "--draws 1000000000: at most 10"),
    (["compare", "A", "B", "--seed", HUGE], "--seed beyond 10^30: at most 4,294,967,295"),
    (["probe", "A", "--kind", "length", "--lengths", "8,1e9"], "--lengths 1e+09: at most 1,00"),
    (["probe", "A", "--kind", "random", "--shares", MANY], "--shares: 5,000 numbers; at most"),
    (["prune", "A", "--rule", "last", "--budget", "0.1", "--seed", HUGE], "--seed beyond 10^3"),
]


@pytest.mark.parametrize(
    ("told", "seconds", "said"),
    [
        ([], 1.1, "reading (1.1 s)"),
        ([], 0.9, ""),
        ([(0, 0)], 1.1, "reading (1.1 s)"),
        ([(0, 0)], 0.9, ""),
        ([(1, 2), (2, 2)], 0.9, "reading: 2 texts (0.9 s)"),
    ],
)
def test_what_is_said_of_a_stage_without_a_terminal(
    told: list[tuple[int, int]], seconds: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=iter([0.0, seconds]).__next__)
    monkeypatch.setattr("lrd_harness.progress.time", clock)
    shown = StringIO()
    with Display(Console(file=shown)).stage("reading", "texts") as advance:
        for done, total in told:
            advance(done, total)
    assert shown.getvalue().strip() == said


class Minutes:
    """A clock, and an event that passes two minutes before the stage is over."""

    def __init__(self) -> None:
        self.now, self.begun, self.passed = 0.0, threading.Event(), threading.Event()

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        assert self.begun.wait(10)
        if self.now == 120:
            self.passed.set()
        else:
            self.now += seconds
            return False
        return True

    def set(self) -> None:
        self.begun.set()
        assert self.passed.wait(10)


def test_a_long_stage_without_a_terminal_gives_a_sign_of_life_each_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    minutes, shown = Minutes(), StringIO()
    threads = SimpleNamespace(Event=lambda: minutes, Thread=threading.Thread)
    monkeypatch.setattr("lrd_harness.progress.time", minutes)
    monkeypatch.setattr("lrd_harness.progress.threading", threads)
    before = threading.active_count()
    with Display(Console(file=shown)).stage("reading", "texts") as advance:
        advance(50, 200)
    assert threading.active_count() == before
    assert shown.getvalue().splitlines() == [
        "reading: 50 of 200 texts, 1 min so far, about 3 min to go",
        "reading: 50 of 200 texts, 2 min so far, about 6 min to go",
        "reading: 50 texts (120.0 s)",
    ]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (None, "1 min 30 s so far"),
        ((0, 200), "0 of 200 texts, 1 min 30 s so far"),
        ((7, None), "7 texts, 1 min 30 s so far"),
        ((150, 200), "150 of 200 texts, 1 min 30 s so far, about 30 s to go"),
    ],
)
def test_a_sign_of_life(seen: Any, said: str) -> None:
    assert Stage("reading", "texts", 10.0, seen).sign(100.0) == f"reading: {said}"


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("arguments", "message"), WORDS, ids=range(len(WORDS)))
def test_odd_words_get_one_line(arguments: list[str], message: str, capsys: Shown) -> None:
    assert message in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        *(
            ([*RUN, option, ""], option)
            for option in "--shard --suite --output --models --load --processes --set".split()
        ),
        ([*RUN, "--models", "A", " "], "--models"),
        ([*RUN, "--plugins", ","], "--plugins"),
        ([*RUN, "--task-data="], "--task-data"),
        (["prune", "A", "--blocks", "1", "--save-mergekit", ""], "--save-mergekit"),
        (["leaderboard", ""], "an argument"),
        (["cache", "clear", "--model", ""], "--model"),
    ],
)
def test_empty_arguments_are_refused(
    arguments: list[str],
    option: str,
    capsys: Shown,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(arguments, capsys) == f"{option} is empty: is a variable not set?"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("settings: {max_texts: 10000000000}", "max_texts is 10000000000: at most 1,000,000,000"),
        ("settings: {num_fewshot: 1e9}", "num_fewshot is 1e9, not a whole number"),
        ("settings: {limit: .nan}", "'.nan' is no finite number"),
        ("settings: {layers: [12345678]}", "layers: at most 10,000 is possible"),
        ("pruning: {random_seeds: 10000000}", "random_seeds is 10000000: at most 10,000"),
        ("settings: {device: ' '}", "device is empty"),
        ("tasks: ['']", "a name in 'tasks' is empty"),
    ],
)
def test_suites_have_the_same_bounds(part: str, message: str) -> None:
    with pytest.raises(UserError) as fault:
        suite.parse_suite(part, "own", "own.yaml")
    assert message in str(fault.value)


def test_generous_numbers_are_taken() -> None:
    text = "settings: {max_texts: 100000000, max_length: 10000000, num_fewshot: 64, layers: [999]}"
    parsed = suite.parse_suite(text + "\npruning: {random_seeds: 1000}", "own", "own.yaml")
    assert (parsed.settings.max_texts, parsed.pruning.random_seeds) == (10**8, 1000)
    assert parsed.settings.layers == (999,)


def test_what_is_long_loses_its_middle() -> None:
    assert short("a b") == "a b"
    assert short("one\ntwo\r\nthree\u2028four") == "one two three four"
    assert short("\x1b[31m\u202e") == "\\x1b[31m\\u202e"
    for middle in (LONG, "\x1b" * 5000, LONG * 2000):
        line = short(f"head {middle} tail")
        assert len(line) == 300
        assert line.startswith("head ")
        assert " ... " in line
        assert line.endswith(" tail")
    assert len(short("x" * 300)) == 300
    assert bounded(f"\n{LONG}\nshort").split("\n")[::2] == ["", "short"]
    assert described(ValueError("a\nb")) == "ValueError: a b"
    assert described(UserError("as it is")) == "as it is"
    assert len(described(UnitError(LONG * 100))) == 300


def test_names_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named("~/a") == tmp_path / "a"
    assert there("~")
    assert not there(LONG)
    for name in ("~nouser/a", "a\0b", "a\udcff"):
        with pytest.raises(UserError):
            named(name)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", ["m" * 250, "é" * 120])
def test_models_with_long_names_are_measured(name: str, place: Path, tmp_path: Path) -> None:
    model = tiny.save("Bert", tmp_path / name, max_position_embeddings=64)
    more = ("--layers", "last", "--pooling", "cls", "--max-length", "9")
    out = tmp_path / "out"
    assert running.run(out, [model], place / "data", *more, tasks=["STSBenchmark"]) == 0
    assert running.records(out, "error") == []
    assert len(running.records(out, "score")) == 1
