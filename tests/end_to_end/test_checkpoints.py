"""Checkpoints of one training run: folders whose names differ in the step."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import made, reading
from .commands import done
from .conftest import Place
from .frozen import expect


@pytest.fixture(scope="module")
def out(place: Place) -> Path:
    """Three steps of a run, named in braces, and a model apart."""
    steps = place.folder / "steps"
    for seed, step in enumerate((100, 500, 2000)):
        made.bert(steps / f"checkpoint-{step}", 20 + seed, 3, 16)
    family = f"{steps}/checkpoint-{{100,500,2000}}"
    asked = ("--models", family, place.folder / "sentence", "--tasks", "STSBenchmark")
    more = ("--task-data", place.data, "--plugins", "frenet,effective_rank,prompt_entropy")
    done(place.cache, "run", *asked, *more, "--output", place.folder / "stepped", "--quiet")
    return place.folder / "stepped"


def test_every_number_by_step(place: Place, out: Path) -> None:
    rows = reading.table(out / "leaderboard-checkpoints.csv")
    assert {row["step"] for row in rows} == {100, 500, 2000}
    expect("checkpoints-csv", reading.columns(rows))
    printed = done(place.cache, "leaderboard", out, "--format", "checkpoints")
    assert printed.rstrip("\n") == (out / "leaderboard-checkpoints.csv").read_text().rstrip("\n")


def test_names_and_ranks(out: Path) -> None:
    rows = reading.table(out / "leaderboard.csv")
    expect("checkpoints-ranks", reading.columns(rows))


def test_values(place: Place, out: Path, tmp_path: Path) -> None:
    done(place.cache, "leaderboard", out, "--format", "tidy", "--output", tmp_path)
    expect("checkpoints-values", reading.series(tmp_path))
    expect("checkpoints-statistics", reading.statistics(tmp_path))


def test_families_of_the_json_form(out: Path) -> None:
    (board,) = reading.boards((out / "leaderboard.json").read_text())
    expect("checkpoints-families", reading.checkpoints(board))
