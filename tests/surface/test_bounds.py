"""Numbers that multiply work have an upper bound, and empty arguments are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import one_line

from lrd_harness import UserError
from lrd_harness.cli import main
from lrd_harness.planning import suite

HUGE = "9" * 4000
MANY = ",".join(f"{i}e-5" for i in range(5000))
RUN = ["run", "--models", "M", "--tasks", "T"]
Shown = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
    ],
)
def test_absurd_numbers_end_in_a_line(arguments: list[str], message: str, capsys: Shown) -> None:
    assert main(arguments) == 2
    said = one_line(capsys)
    assert message in said
    assert len(said) < 300


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
    found = suite.parse_suite(text + "\npruning: {random_seeds: 1000}", "own", "own.yaml")
    assert (found.settings.max_texts, found.pruning.random_seeds) == (10**8, 1000)
    assert found.settings.layers == (999,)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *(
            ([*RUN, option, ""], option)
            for option in ("--shard", "--suite", "--output", "--models")
        ),
        *(([*RUN, option, ""], option) for option in ("--load", "--processes", "--limit", "--set")),
        ([*RUN, "--models", "A", " "], "--models"),
        ([*RUN, "--plugins", ","], "--plugins"),
        ([*RUN, "--task-data="], "--task-data"),
        (["prune", "A", "--layers", "1", "--save-mergekit", ""], "--save-mergekit"),
        (["leaderboard", ""], "an argument"),
        (["cache", "clear", "--model", ""], "--model"),
    ],
)
def test_empty_arguments_are_refused(
    arguments: list[str], named: str, capsys: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert one_line(capsys) == f"{named} is empty: is a variable not set?"
    assert list(tmp_path.iterdir()) == []
