"""Files are whole or not there: work in progress stays while somebody is at it, and then goes."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import running

from lrd_harness import manager
from lrd_harness.contracts import Reporter
from lrd_harness.models.save import check_free
from lrd_harness.results import database, journal
from lrd_harness.runner import folder
from lrd_harness.store import files, location
from lrd_harness.store.files import write_bytes, write_text


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_have_the_mode_of_new_files_or_keep_theirs(umask: int, tmp_path: Path) -> None:
    file, usual = tmp_path / "file", 0o666 & ~umask
    before = os.umask(umask)
    try:
        for mode in (usual, 0o640, 0o600):
            file.unlink(missing_ok=True)
            write_text(file, f"{mode}")
            if mode != usual:
                file.chmod(mode)
                write_text(file, "again")
            assert stat.S_IMODE(file.stat().st_mode) == mode
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_file_is_written_into(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(10)
    assert got == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    for link, target in (("to file", "real"), ("to nothing", "new")):
        (tmp_path / "real").write_bytes(b"before")
        (tmp_path / link).symlink_to(target)
        write_bytes(tmp_path / link, b"after")
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / target).read_bytes() == b"after"
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path, b"")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="there is no /dev/fd")
def test_what_is_open_already_is_no_file_to_replace(tmp_path: Path) -> None:
    """As standard output, a file or a pipe."""
    file, (read, write) = tmp_path / "out", os.pipe()
    with file.open("wb") as stream:
        write_text(Path(f"/dev/fd/{stream.fileno()}"), "text")
        assert (os.fstat(stream.fileno()).st_ino, file.read_bytes()) == (
            file.stat().st_ino,
            b"text",
        )
    write_text(Path(f"/dev/fd/{write}"), "text")
    assert os.read(read, 9) == b"text"
    for descriptor in (read, write):
        os.close(descriptor)


def test_a_form_that_cannot_be_written_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: BaseException) -> Any:
        def write(report: Any) -> str:
            raise error

        return write

    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "leaderboard.taken").mkdir()
    forms = [
        Reporter("fault", raising(ValueError("two\nlines\tof it")), ".fault"),
        Reporter("exits", raising(SystemExit(3)), ".exits"),
        Reporter("half", lambda report: "half \ud83d of a pair", ".half"),
        Reporter("taken", lambda report: "text", ".taken"),
        Reporter("fine", lambda report: "\n".join(report.errors), ".fine"),
    ]
    running.with_plugin(monkeypatch, lrd_reporters=lambda: forms)
    _, faults = folder.write_views(tmp_path, manager.load())
    assert [fault.partition(" (")[0] for fault in faults[:2]] == [
        r"reporter fault: ValueError: two lines\tof it",
        "reporter exits: SystemExit: 3",
    ]
    assert [fault.split(":")[0] for fault in faults[2:]] == ["reporter half", "reporter taken"]
    assert all(fault.isprintable() for fault in faults)
    said = (tmp_path / "leaderboard.fine").read_text().splitlines()
    assert [line.split(":")[0] for line in said] == [fault.split(":")[0] for fault in faults]
    for record in (journal.read(tmp_path)[0], database.read(tmp_path)[0]):
        assert (record["kind"], record["unit"]) == ("reporter", "reporter|fault")
        assert "raise error\n" in record["traceback"]


CHILD = """
    import sys
    from pathlib import Path
    from lrd_harness.store import files
    place = Path(sys.argv[1])
    with files.path(place) as path, files.folder(place) as folder, path.open("xb") as file:
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_bytes(b"x" * 1000)
        file.write(b"half")
        file.flush()
        print("at it", flush=True)
        input()
"""


@contextlib.contextmanager
def worker(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that is making a file and a folder there, until it is told to go on or killed."""
    call = [sys.executable, "-c", textwrap.dedent(CHILD), str(place)]
    with subprocess.Popen(
        call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at it\n"
        try:
            yield process
        finally:
            process.kill()


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def killed_name() -> str:
    return files.name().replace(f".{os.getpid()}.", ".4194999.")


def dated(place: Path, when: float) -> None:
    for path in place.iterdir():
        os.utime(path, (when, when))


def test_the_work_of_a_living_process_stays_and_of_a_killed_one_goes(tmp_path: Path) -> None:
    """Whatever its time."""
    times = (0.0, time.time(), time.time() + 1e7)
    with worker(tmp_path) as process:
        for when in times:
            dated(tmp_path, when)
            files.remove_leftovers(tmp_path, older=files.ANY)
            assert len(names(tmp_path)) == 2
        process.communicate("\n")
    assert names(tmp_path) == []
    with worker(tmp_path) as process:
        left = names(tmp_path)
        process.kill()
        # nobody has asked for its exit code yet, which does not make it alive
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert names(tmp_path) == left
        for when in times:
            (tmp_path / left[0]).touch()
            dated(tmp_path, when)
            files.remove_leftovers(tmp_path)
            assert names(tmp_path) == []


@pytest.mark.skipif(not files._about(os.getpid())[1], reason="starts of processes are not told")
def test_a_number_that_another_process_has_now_is_not_the_same_process(tmp_path: Path) -> None:
    parts = files.name().split(".")
    earlier = ".".join([*parts[:3], str(int(parts[3]) - 1), parts[4]])
    mine = files.name()
    for name in (mine, earlier):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == [mine]


@pytest.mark.parametrize(
    ("age", "stays"), [(0, True), (86_000, True), (90_000, False), (-30, True), (-700, False)]
)
def test_of_another_machine_the_time_tells(age: float, stays: bool, tmp_path: Path) -> None:
    elsewhere = tmp_path / files.name().replace(files._machine(), "0" * 12)
    elsewhere.mkdir()
    dated(tmp_path, time.time() - age)
    files.remove_leftovers(tmp_path)
    assert elsewhere.exists() == stays


def test_links_and_what_is_named_otherwise_are_left_alone(tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "place"
    for inner in (outside, place):
        inner.mkdir()
    (outside / "mine").touch()
    dead = killed_name()
    (place / dead).symlink_to(outside, target_is_directory=True)
    others = [".work", ".work-notes", f"{dead}.txt", f"x{dead}", ".gitignore"]
    for name in others:
        (place / name).touch()
    files.remove_leftovers(place)
    assert names(place) == sorted(others)
    assert names(outside) == ["mine"]


@pytest.mark.parametrize("use", ["run", "results", "file", "saved beside", "cache"])
def test_the_next_command_that_uses_a_place_sweeps_it(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(location.VARIABLE, str(tmp_path))
    (inner := tmp_path / "journal").mkdir()
    (tmp_path / "run.json").write_text("{}")
    dead = killed_name()
    for place in (tmp_path, inner):
        (place / dead).mkdir()
        (place / dead / "weights").touch()
    {
        "run": lambda: folder.make(tmp_path),
        "results": lambda: folder.shown(tmp_path),
        "file": lambda: write_text(tmp_path / "board.md", "board"),
        "saved beside": lambda: check_free(tmp_path / "model"),
        "cache": location.cache_dir,
    }[use]()
    assert not (tmp_path / dead).exists()
    assert (inner / dead).exists() == (use not in ("run", "results"))
