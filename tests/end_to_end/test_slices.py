"""Slices of a run, joined, are the whole run; what a plan tells before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import reading
from .commands import done, lrd
from .conftest import Place
from .frozen import expect

TABLES = ("leaderboard.csv", "leaderboard-layers.csv", "leaderboard.md")
PLANNED = ("name", "texts", "stored", "passes", "tokens")


def command(place: Place, *more: object) -> list[object]:
    models = place.models("bert-two", "gpt")
    asked = ("--tasks", "STSBenchmark", "SciFact", "--task-data", place.data)
    return [*("run", "--models", *models, *asked, "--plugins", "frenet,nrs,gfmi", "--quiet"), *more]


@pytest.fixture(scope="module")
def parts(place: Place) -> list[Path]:
    """Two halves of a run."""
    folders = [place.folder / f"part-{i}" for i in (1, 2)]
    for i, folder in enumerate(folders):
        done(place.cache, *command(place, "--shard", f"{i + 1}/2", "--output", folder))
    return folders


@pytest.fixture(scope="module")
def joined(place: Place, parts: list[Path]) -> Path:
    done(place.cache, "merge", *reversed(parts), "--output", place.folder / "joined")
    return place.folder / "joined"


def test_each_pair_is_in_one_slice(parts: list[Path], joined: Path) -> None:
    first, second = (reading.recorded(part).keys() for part in parts)
    assert first
    assert second
    assert not first & second
    assert first | second == reading.recorded(joined).keys()


def test_joined_they_are_the_whole(place: Place, joined: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = done(place.cache, *command(place, "--output", out))
    assert reading.recorded(joined) == reading.recorded(out)
    for name in TABLES:
        assert (joined / name).read_text() == (out / name).read_text()
    assert done(place.cache, "leaderboard", joined) == printed
    assert reading.native(joined, "mteb") == reading.native(out, "mteb")
    expect("slices-recorded", reading.recorded(joined))


def test_a_run_goes_on_with_what_was_joined(place: Place, joined: Path) -> None:
    before = reading.recorded(joined)
    done(place.cache, *command(place, "--output", joined))
    assert reading.counters(joined)["forwarded"] == 0
    assert reading.recorded(joined) == before


def test_joining_again_changes_nothing(place: Place, parts: list[Path], joined: Path) -> None:
    before = {name: (joined / name).read_text() for name in TABLES}
    done(place.cache, "merge", *parts, "--output", joined)
    assert {name: (joined / name).read_text() for name in TABLES} == before


def test_other_settings_are_not_joined(place: Place, parts: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    done(place.cache, *command(place, "--max-length", 32, "--shard", "1/2", "--output", other))
    said = lrd(place.cache, "merge", parts[0], other, "--output", tmp_path / "both")
    assert said.code == 2
    assert "max_length" in said.err
    assert not (tmp_path / "both").exists()


def test_a_plan_counts_what_there_is_to_do(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    asked = ["plan", *command(place)[1:], "--output", tmp_path / "out", "--json", file]
    cache = tmp_path / "cache"
    printed = done(cache, *asked)
    held = json.loads(file.read_text())
    assert not (tmp_path / "out").exists()
    for model in held["models"]:
        assert model["name"] in printed
    assert held.keys() >= {"models"}
    expect("slices-plan", [{name: model[name] for name in PLANNED} for model in held["models"]])
