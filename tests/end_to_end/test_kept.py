"""The way back: a run and a cache that were kept are gone on with, as if they were of today."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from . import keep, reading
from .commands import done, lrd
from .frozen import SUMS, differences, expect

BYTES = 300_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models and data, elsewhere than where the run was made."""
    return keep.place(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was kept; commands run where the models are."""
    keep.copy(keep.KEPT, tmp_path / "kept")
    keep.restore(tmp_path / "kept")
    monkeypatch.chdir(folder)
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """All of the run, made anew."""
    with contextlib.chdir(folder):
        done(folder / "new-cache", *keep.command(folder / "new"))
    return folder / "new"


def near(expected: Path, found: Path) -> list[str]:
    """Where the numbers of two runs differ; units of one alone are left out."""
    one, other = reading.recorded(expected), reading.recorded(found)
    both = one.keys() & other.keys()
    return [line for unit in both for line in differences(one[unit], other[unit], SUMS, (unit,))]


def test_what_is_kept_is_small_and_has_no_weights() -> None:
    files = [path for path in keep.KEPT.rglob("*") if path.is_file()]
    assert files
    assert sum(path.stat().st_size for path in files) < BYTES
    assert not [path for path in files if path.name in ("model.safetensors", "config.json")]


def test_it_is_gone_on_with_and_nothing_is_read(kept: Path) -> None:
    out = kept / keep.OUT
    before = reading.recorded(out)
    assert before
    done(kept / keep.CACHE, *keep.command(out, half=keep.MINE))
    assert reading.counters(out)["forwarded"] == 0
    assert reading.recorded(out) == before
    assert {path.name for path in out.iterdir()} >= {"leaderboard.csv", "leaderboard.html"}


def test_it_is_gone_on_with_without_its_cache(kept: Path) -> None:
    """What is recorded is not read again, whatever the cache has."""
    out = kept / keep.OUT
    before = reading.recorded(out)
    done(kept / "empty", *keep.command(out, half=keep.MINE))
    assert reading.counters(out)["forwarded"] == 0
    assert reading.recorded(out) == before


def test_kept_states_serve_a_new_run(kept: Path) -> None:
    out = kept / "new"
    done(kept / keep.CACHE, *keep.command(out, half=keep.MINE))
    assert reading.counters(out)["forwarded"] == 0
    before = reading.recorded(kept / keep.OUT)
    assert reading.recorded(out).keys() == before.keys()
    assert not near(kept / keep.OUT, out)


def test_the_numbers_are_those_of_today(kept: Path, whole: Path) -> None:
    assert reading.counters(whole)["forwarded"] > 0
    assert reading.recorded(kept / keep.OUT).keys() < reading.recorded(whole).keys()
    assert not near(kept / keep.OUT, whole)
    expect("kept-recorded", reading.recorded(kept / keep.OUT))


def test_it_is_joined_with_a_new_half(kept: Path, whole: Path) -> None:
    done(kept / keep.CACHE, *keep.command(kept / "half", half=keep.OTHER))
    joined = kept / "joined"
    done(kept / keep.CACHE, "merge", kept / keep.OUT, kept / "half", "--output", joined)
    assert reading.recorded(joined).keys() == reading.recorded(whole).keys()
    assert not near(joined, whole)
    done(kept / keep.CACHE, *keep.command(joined))
    assert reading.counters(joined)["forwarded"] == 0


def test_its_leaderboard_is_printed(kept: Path, tmp_path: Path) -> None:
    cache, out = kept / keep.CACHE, kept / keep.OUT
    printed = done(cache, "leaderboard", out)
    rows = reading.table(done(cache, "leaderboard", out, "--format", "csv"))
    assert all(row["model"] in printed for row in rows)
    expect("kept-csv", reading.columns(rows))
    done(cache, "leaderboard", out, "--format", "tidy", "--output", tmp_path / "tidy")
    expect("kept-values", reading.series(tmp_path / "tidy"))
    expect("kept-database", reading.database(out))


def test_its_cache_is_verified_and_listed(kept: Path) -> None:
    cache = kept / keep.CACHE
    said = lrd(cache, "cache", "verify")
    assert said.code == 0
    printed = done(cache, "cache", "info")
    assert "local/decoder" in printed


def test_the_database_alone_is_enough(kept: Path, tmp_path: Path) -> None:
    """Where the journal is lost, its records are read from results.sqlite."""
    cache, out = kept / keep.CACHE, kept / keep.OUT
    before = reading.recorded(out)
    printed = done(cache, "leaderboard", out)
    shutil.rmtree(out / "journal")
    assert done(cache, "leaderboard", out) == printed
    done(cache, *keep.command(out, half=keep.MINE))
    assert reading.counters(out)["forwarded"] == 0
    assert reading.recorded(out) == before
