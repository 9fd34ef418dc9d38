"""Bad input: exit code 2, one line on standard error, nothing printed, nothing made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .commands import Said, lrd
from .conftest import Made, Place

LONGEST = 300  # characters of the line
TEXTS = ("--texts", "{folder}/texts.jsonl")


def check(said: Said, *parts: str) -> None:
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("lrd-harness: ")
    assert said.err.count("\n") == 1
    assert len(said.err) <= LONGEST + 1
    for part in parts:
        assert part in said.err


RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("--models", "nowhere/at-all"), ("nowhere/at-all",)),
    "folder": (("--models", "{folder}/bert-onn"), ("bert-onn", "bert-one")),
    "task": (("--tasks", "STSBenchmarc"), ("STSBenchmarc", "STSBenchmark")),
    "no local data": (("--tasks", "STS12"), ("STS12",)),
    "metric": (("--plugins", "frennet"), ("frennet", "frenet")),
    "parameter": (("--set", "nrs.q=3"), ("nrs", "q")),
    "value": (("--set", "nrs.k=0"), ("nrs", "k")),
    "layer": (("--layers", "9"), ("9",)),
    "option": (("--poolin", "mean", "--colour", "red"), ("colour",)),
    "pooling": (("--pooling", "median"), ("median",)),
    "rule": (("--prune", "lost"), ("lost", "last")),
    "budget": (("--prune", "last", "--budgets", "1.5"), ("1.5",)),
    "shard": (("--shard", "3/2"), ("3/2",)),
    "empty": (("--output", ""), ("--output", "empty")),
    "suite": (("--suite", "quickstrat"), ("quickstrat", "quickstart")),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str, place: Place, tmp_path: Path) -> None:
    given, parts = RUNS[name]
    out = tmp_path / "out"
    usual = {
        "--models": str(place.folder / "bert-one"),
        "--tasks": "STSBenchmark",
        "--task-data": str(place.data),
        "--output": str(out),
    }
    left = [word for pair in usual.items() if pair[0] not in given for word in pair]
    typed = [word.format(folder=place.folder) for word in given]
    check(lrd(place.cache, "run", *left, *typed, "--quiet"), *parts)
    assert not out.exists()


SIZES = "model,parameters_millions,width,blocks\na,1,8,2\nb,2,8,2\n"
BOARDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no columns": ("colour\nred\n", SIZES, ("S.csv",)),
    "no number": ("model,X\na,much\nb,0.5\n", SIZES, ("S.csv", "much")),
    "twice": ("model,X\na,0.5\na,0.6\n", SIZES, ("S.csv", "line 3")),
    "above one hundred": ("model,Xyz\na,50\nb,250\n", SIZES, ("S.csv", "Xyz")),
    "both scales": ("model,Xyz\na,0.9\nb,90\n", SIZES, ("S.csv", "Xyz")),
    "nothing": ("", SIZES, ("S.csv",)),
    "a size": ("model,X\na,0.5\nb,0.6\n", SIZES.replace("a,1,8", "a,1,wide"), ("M.csv", "wide")),
}


@pytest.mark.parametrize("name", BOARDS)
def test_tables(name: str, tmp_path: Path) -> None:
    scores, sizes, parts = BOARDS[name]
    (tmp_path / "S.csv").write_text(scores)
    (tmp_path / "M.csv").write_text(sizes)
    given = ("--actual", tmp_path / "S.csv", "--models-info", tmp_path / "M.csv")
    check(lrd(tmp_path / "cache", "leaderboard", *given), *parts)


def test_folders_that_are_no_runs(place: Place, tmp_path: Path) -> None:
    check(lrd(place.cache, "leaderboard", tmp_path / "none"), "none")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    check(lrd(place.cache, "leaderboard", tmp_path / "mine"), "mine")
    check(lrd(place.cache, "merge", tmp_path / "mine", "--output", tmp_path / "all"), "mine")
    asked = ("--models", place.folder / "bert-one", "--tasks", "STSBenchmark")
    more = ("--task-data", place.data, "--output", tmp_path / "mine", "--quiet")
    check(lrd(place.cache, "run", *asked, *more), "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_run_of_other_settings_or_data(place: Place, whole: Made, tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    shutil.copytree(whole.out, out)
    command = [out if word == whole.out else word for word in whole.command]
    check(lrd(place.cache, *command, "--max-length", 32), "max_length")
    shutil.copytree(place.data, data)
    with (data / "STSBenchmark" / "test.jsonl").open("a") as file:
        file.write(json.dumps({"sentence1": "a cat", "sentence2": "a dog", "score": 3}) + "\n")
    changed = [data if word == place.data else word for word in command]
    check(lrd(place.cache, *changed), "STSBenchmark")


def test_a_damaged_journal(place: Place, whole: Made, tmp_path: Path) -> None:
    """The line names the file and its line; nothing is mended."""
    out = tmp_path / "out"
    shutil.copytree(whole.out, out)
    (journal,) = (out / "journal").glob("*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:2], "{not json\n", *lines[3:]]))
    check(lrd(place.cache, "leaderboard", out), "line 3")


def test_damaged_weights_and_rows(place: Place, tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(place.folder / "bert-one", model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    asked = ("--tasks", "STSBenchmark", "--output", tmp_path / "out", "--quiet", "--task-data")
    check(lrd(place.cache, "run", "--models", model, *asked, place.data), "model.safetensors")
    (data / "STSBenchmark").mkdir(parents=True)
    (data / "STSBenchmark" / "test.jsonl").write_text('{"sentence1": "a", "sentence2": "b"}\n')
    model = place.folder / "bert-one"
    check(lrd(place.cache, "run", "--models", model, *asked, data), "score")


@pytest.mark.parametrize(
    "typed",
    [
        ("select", "--models", "{folder}/bert-one", *TEXTS),
        ("layer", "{folder}/bert-one", "--by", "nothing", *TEXTS),
        ("probe", "{folder}/bert-one", "--kind", "shuffle", *TEXTS),
        ("prune", "{folder}/bert-one", "--blocks", "9"),
        ("prune", "{folder}/bert-one", "--rule", "gfmi", "--budget", "0.5"),
        ("suites", "no-such-suite"),
        ("cache", "clear", "--older-than", "yesterday", "--yes"),
        ("nothing",),
        (),
    ],
)
def test_other_commands(typed: tuple[str, ...], place: Place) -> None:
    check(lrd(place.cache, *(word.format(folder=place.folder) for word in typed)))
