"""What is being made is left alone while somebody is at it, and goes when nobody is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrd_harness.models.save import check_free
from lrd_harness.runner import folder as output
from lrd_harness.store import files, location
from lrd_harness.store.files import write_text

CHILD = """
    import sys
    from pathlib import Path
    from lrd_harness.store import files as temporary
    place = Path(sys.argv[1])
    with temporary.file(place) as file, temporary.folder(place) as folder:
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
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as found:
        assert found.stdout is not None
        assert found.stdout.readline() == "at it\n"
        try:
            yield found
        finally:
            found.kill()


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_the_work_of_a_living_process_stays_whatever_its_time(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        for when in (0.0, time.time() + 1e7):
            for path in tmp_path.iterdir():
                os.utime(path, (when, when))
            files.sweep(tmp_path, older=files.ANY)
            assert len(names(tmp_path)) == 2
        process.communicate("\n")
    assert names(tmp_path) == []


@pytest.mark.parametrize("ago", [1e9, 0.0, -1e7])
def test_the_work_of_a_killed_process_goes_at_once(ago: float, tmp_path: Path) -> None:
    when = time.time() - ago
    with worker(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        assert len(names(tmp_path)) == 2
        # nobody has asked for its exit code yet, which does not make it alive
        deadline = time.monotonic() + 20
        while files._about(process.pid)[0] not in ("Z", "X", "") and time.monotonic() < deadline:
            time.sleep(0.01)
        for path in tmp_path.iterdir():
            os.utime(path, (when, when))
        files.sweep(tmp_path)
        assert names(tmp_path) == []


def test_a_number_that_another_process_has_now_is_not_the_same_process(tmp_path: Path) -> None:
    if not files._about(os.getpid())[1]:
        pytest.skip("this system does not tell when a process was started")
    parts = files.name().split(".")
    earlier = ".".join([*parts[:3], str(int(parts[3]) - 1), parts[4]])
    for name in (files.name(), earlier):
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert earlier not in names(tmp_path)
    assert len(names(tmp_path)) == 1


@pytest.mark.parametrize(
    ("age", "stays"), [(0, True), (86_000, True), (90_000, False), (-30, True), (-700, False)]
)
def test_of_another_machine_the_time_tells(age: float, stays: bool, tmp_path: Path) -> None:
    elsewhere = tmp_path / files.name().replace(files._machine(), "0" * 12)
    elsewhere.mkdir()
    os.utime(elsewhere, (time.time() - age,) * 2)
    files.sweep(tmp_path)
    assert elsewhere.exists() == stays


def test_links_and_what_is_named_otherwise_are_left_alone(tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "place"
    for folder in (outside, place):
        folder.mkdir()
    (outside / "mine").touch()
    dead = files.name().replace(f".{os.getpid()}.", ".4194999.")
    (place / dead).symlink_to(outside, target_is_directory=True)
    others = [".work", ".work-notes", f"{dead}.txt", f"x{dead}", ".gitignore"]
    for name in others:
        (place / name).touch()
    files.sweep(place)
    assert names(place) == sorted(others)
    assert names(outside) == ["mine"]


@pytest.mark.parametrize("use", ["run", "results", "file", "saved beside", "cache"])
def test_the_next_command_that_uses_a_place_sweeps_it(
    use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(location.VARIABLE, str(tmp_path))
    inner = tmp_path / "journal"
    inner.mkdir()
    dead = files.name().replace(f".{os.getpid()}.", ".4194999.")
    for place in (tmp_path, inner):
        (place / dead).mkdir()
        (place / dead / "weights").touch()
    if use == "run":
        output.make(tmp_path)
    elif use == "results":
        (tmp_path / "run.json").write_text("{}")
        output.shown(tmp_path)
    elif use == "file":
        write_text(tmp_path / "board.md", "board")
    elif use == "saved beside":
        check_free(tmp_path / "model")
    else:
        location.cache_dir()
    assert not (tmp_path / dead).exists()
    assert (inner / dead).exists() == (use not in ("run", "results"))
