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
from running import Patch, Shown, one_line, records

from lrd_harness.errors import StorageFull, UserError
from lrd_harness.results import journal
from lrd_harness.results.database import build_database
from lrd_harness.store.files import FULL, full, space, write_text

ADVICE = "free some, or run `lrd-harness cache clear`; the same command then goes on where it"
LAST = ("--layers", "last")
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


def test_which_faults_are_a_full_disk() -> None:
    for number in FULL:
        cause = OSError(number, os.strerror(number), "/some/file")
        with pytest.raises(StorageFull, match=f"quota of /there: {ADVICE}"), space(Path("/there")):
            raise cause
        caused, handling = UserError("cannot be written"), ValueError("while handling it")
        caused.__cause__ = handling.__context__ = cause
        for error in (caused, handling):
            assert "/some/file" in str(full(error))
    stated = StorageFull("as it was said")
    assert full(stated) is stated
    with pytest.raises(PermissionError), space(Path("/there")):
        raise OSError(errno.EACCES, "Permission denied")
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first  # a circle, as careless code makes
    for other in (first, OSError("no number"), KeyError("x"), UserError("y")):
        assert full(other) is None


def test_files_stay_as_they_were(tmp_path: Path) -> None:
    """A text, a database and a journal, each within the limit first and then beyond."""
    out = tmp_path / "out"
    units = journal.Journal(out)
    record = {"kind": "texts", "unit": "1", "model": "m", "revision": "r", "variant": "full"}
    record |= {"task": "t", "asked": 1, "duplicates": 0, "empty": 0, "truncated": 0}
    units.append(record)
    build_database(out)
    write_text(out / "a.txt", "before")
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    big = {**record, "unit": "2", "text": "x" * 200_000}
    with files_up_to(100_000):
        with pytest.raises(StorageFull):
            write_text(out / "a.txt", "y" * 200_000)
        with pytest.raises(StorageFull):
            units.append(big)
    assert {r["unit"] for r in journal.read(out)} == {"1"}
    units.append(big)
    with files_up_to(100_000), pytest.raises(StorageFull):
        build_database(out)
    assert [r["unit"] for r in journal.read(out)] == ["1", "2"]
    for path, content in before.items():
        assert path.read_bytes()[: len(content)] == content
    assert journal.files(out)[0].read_bytes().count(b"\n") == 1
    assert {path.name for path in out.iterdir()} == {"journal", "results.sqlite", "a.txt"}


@pytest.mark.slow
def test_a_store_that_is_full_stops_the_run(
    place: Path, tmp_path: Path, own_cache: Path, capsys: Shown
) -> None:
    out, models = tmp_path / "out", [place / "bert", place / "gpt"]
    with files_up_to(40_000):
        assert running.run(out, models, place / "data", *LAST, tasks=TASKS) == 2
    stopped(capsys)
    assert [r["model"] for r in records(out, "model")] == ["local/bert"]
    assert records(out, "error") == []  # no fault of the model, and the other was not tried
    assert list(own_cache.rglob("*.part")) == list(own_cache.rglob("*.safetensors")) == []
    assert running.run(out, models, place / "data", *LAST, tasks=TASKS) == 0
    assert len(records(out, "score")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 5])
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
        assert running.run(out, [place / "bert"], place / "data", *LAST, tasks=TASKS) == 2
    stopped(capsys)
    before = records(out)
    assert len(before) == after
    assert running.run(out, [place / "bert"], place / "data", *LAST, tasks=TASKS) == 0
    units = [r["unit"] for r in records(out)]
    assert [r["unit"] for r in before] == units[:after]
    finished = [r["unit"] for r in before if r["kind"] in ("score", "metric")]
    assert all(units.count(unit) == 1 for unit in finished)  # nothing was done twice


def test_a_library_that_meets_a_full_disk_stops_the_run(
    place: Path, tmp_path: Path, own_cache: Path, capsys: Shown, monkeypatch: Patch
) -> None:
    """As mteb does when it writes its own result."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "result.json")

    monkeypatch.setattr("mteb.cache.ResultCache.save_to_cache", refuse)
    assert running.run(tmp_path / "out", [place / "bert"], place / "data", *LAST, tasks=TASKS) == 2
    stopped(capsys)
    assert records(tmp_path / "out", "error") == []
