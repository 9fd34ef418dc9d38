"""A disk on which nothing more can be written stops a run with a line, and loses nothing."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import running
from running import Patch, Shown, numbers, one_line, records

from lrd_harness.errors import StorageFull, UserError
from lrd_harness.results import journal
from lrd_harness.results.database import build_database
from lrd_harness.results.journal import Journal
from lrd_harness.store.files import FULL, full, space, write_text

ADVICE = "free some, or run `lrd-harness cache clear`; the same command then goes on where it"
TASKS = ["STSBenchmark"]


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: a real limit, as a quota is."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def stopped(capsys: Shown) -> None:
    """One line was said, which names what to do."""
    line = one_line(capsys)
    assert line.startswith("no space left on the disk or in the quota of ")
    assert ADVICE in line


@pytest.mark.parametrize("number", sorted(FULL))
def test_faults_behind_which_is_a_full_disk(number: int) -> None:
    cause = OSError(number, os.strerror(number), "/some/file")
    with pytest.raises(StorageFull, match=f"quota of /there: {ADVICE}"), space(Path("/there")):
        raise cause
    for wrapped in (UserError("cannot be written"), RuntimeError("writer failed")):
        wrapped.__cause__ = cause
        found = full(wrapped)
        assert found is not None
        assert "/some/file" in str(found)
    handling = ValueError("while handling it")
    handling.__context__ = cause
    assert full(handling) is not None
    stated = StorageFull("as it was said")
    assert full(stated) is stated


def test_other_faults_are_no_full_disk() -> None:
    with pytest.raises(PermissionError), space(Path("/there")):
        raise OSError(errno.EACCES, "Permission denied")
    one, two = ValueError("a"), ValueError("b")
    one.__context__, two.__context__ = two, one  # a circle, as careless code makes
    for error in (one, OSError("no number"), KeyError("x"), UserError("y")):
        assert full(error) is None


def test_files_stay_as_they_were(tmp_path: Path) -> None:
    """A text, a database and a journal, each within the limit first and then beyond."""
    out = tmp_path / "out"
    own = Journal(out)
    record = {"kind": "texts", "unit": "1", "model": "m", "revision": "r", "variant": "full"}
    record |= {"task": "t", "asked": 1, "duplicates": 0, "empty": 0, "truncated": 0}
    own.append(record)
    build_database(out)
    write_text(out / "a.txt", "before")
    held = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    big = {**record, "unit": "2", "text": "x" * 200_000}
    with files_up_to(100_000):
        with pytest.raises(StorageFull):
            write_text(out / "a.txt", "y" * 200_000)
        with pytest.raises(StorageFull):
            own.append(big)
    assert {r["unit"] for r in journal.read(out)} == {"1"}
    own.append(big)
    with files_up_to(100_000), pytest.raises(StorageFull):
        build_database(out)
    assert [r["unit"] for r in journal.read(out)] == ["1", "2"]
    (first,) = (out / "journal").glob(min(os.listdir(out / "journal")))
    for path, content in held.items():
        assert path.read_bytes()[: len(content)] == content
    assert first.read_bytes().count(b"\n") == 1
    names = {path.name for path in out.iterdir()}
    assert names == {"journal", "results.sqlite", "a.txt"}


def test_a_store_that_is_full_stops_the_run(
    place: Path, tmp_path: Path, own_cache: Path, capsys: Shown
) -> None:
    out, models = tmp_path / "out", [place / "bert", place / "gpt"]
    with files_up_to(40_000):
        assert running.run(out, models, place / "data", tasks=TASKS) == 2
    stopped(capsys)
    assert [r["model"] for r in records(out, "model")] == ["local/bert"]
    assert records(out, "error") == []  # no fault of the model, and the other was not tried
    assert list(own_cache.rglob("*.part")) == list(own_cache.rglob("*.safetensors")) == []
    assert running.run(out, models, place / "data", tasks=TASKS) == 0
    assert running.run(tmp_path / "whole", models, place / "data", tasks=TASKS) == 0
    assert numbers(out) == numbers(tmp_path / "whole")


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_journal_that_is_full_stops_the_run(
    after: int, place: Path, tmp_path: Path, own_cache: Path, capsys: Shown, monkeypatch: Patch
) -> None:
    """After so many records the next is written in part, and then nothing more."""
    out, left, real = tmp_path / "out", [after], os.write

    def write(file: int, data: Any) -> int:
        left[0] -= 1
        if left[0] < -1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data if left[0] >= 0 else data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr("lrd_harness.results.journal.os.write", write)
        assert running.run(out, [place / "bert"], place / "data", tasks=TASKS) == 2
    stopped(capsys)
    held = records(out)
    assert len(held) == after
    assert running.run(out, [place / "bert"], place / "data", tasks=TASKS) == 0
    now = [r["unit"] for r in records(out)]
    assert [r["unit"] for r in held] == now[:after]
    again = [r["unit"] for r in held if r["kind"] in ("score", "metric")]
    assert all(now.count(unit) == 1 for unit in again)  # nothing was done twice


def test_a_library_that_meets_a_full_disk_stops_the_run(
    place: Path, tmp_path: Path, own_cache: Path, capsys: Shown, monkeypatch: Patch
) -> None:
    """As mteb does when it writes its own result."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "result.json")

    monkeypatch.setattr("mteb.cache.ResultCache.save_to_cache", refuse)
    assert running.run(tmp_path / "out", [place / "bert"], place / "data", tasks=TASKS) == 2
    stopped(capsys)
    assert records(tmp_path / "out", "error") == []
