"""Files are replaced whole, what is no file is left what it is, and a form's fault is its own."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lrd_harness import manager
from lrd_harness.contracts import Reporter
from lrd_harness.guard import Owner
from lrd_harness.registration import registered
from lrd_harness.runner import folder
from lrd_harness.store.files import write_bytes, write_text


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_mode_of_new_files_or_keep_theirs(umask: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for mode in (0o666 & ~umask, 0o640, 0o600):
        file.unlink(missing_ok=True)
        write_text(file, f"{mode}")
        if mode != 0o666 & ~umask:
            file.chmod(mode)
            write_text(file, "again")
        assert stat.S_IMODE(file.stat().st_mode) == mode
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


@pytest.mark.parametrize("into", ["pipe", "file"])
def test_standard_output_is_no_file_to_replace(into: str, tmp_path: Path) -> None:
    if not Path("/dev/stdout").exists():
        pytest.skip("there is no /dev/stdout")
    code = "from pathlib import Path; from lrd_harness.store.files import write_text as w;"
    call = [sys.executable, "-c", f"{code} w(Path('/dev/stdout'), 'text')"]
    file = tmp_path / "out"
    with file.open("wb") as stream:
        to = subprocess.PIPE if into == "pipe" else stream
        done = subprocess.run(call, stdout=to, check=True, timeout=60)
        inode = os.fstat(stream.fileno()).st_ino
    assert (done.stdout if into == "pipe" else file.read_bytes()) == b"text"
    assert file.stat().st_ino == inode
    assert Path("/dev/stdout").is_symlink()


def test_a_form_that_cannot_be_written_costs_itself_alone(tmp_path: Path) -> None:
    def broken(error: BaseException) -> Any:
        def write(board: Any) -> str:
            raise error

        return write

    plugins = manager.Plugins()
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "leaderboard.taken").mkdir()
    forms = [
        Reporter("html", broken(ValueError("two\nlines\tof it")), ".html"),
        Reporter("exits", broken(SystemExit(3)), ".exits"),
        Reporter("half", lambda board: "half \ud83d of a pair", ".half"),
        Reporter("taken", lambda board: "text", ".taken"),
        Reporter("fine", lambda board: "text", ".fine"),
    ]
    owner = Owner("test")
    plugins.entries["reporter"] = {
        form.name: manager.Entry("reporter", registered(form, "reporter", owner), "test")
        for form in forms
    }
    _, faults = folder.write_views(tmp_path, plugins)
    assert [fault.partition(" (")[0] for fault in faults[:2]] == [
        r"reporter html: ValueError: two lines\tof it",
        "reporter exits: SystemExit: 3",
    ]
    assert [fault.split(":")[0] for fault in faults[2:]] == ["reporter half", "reporter taken"]
    assert all(fault.isprintable() for fault in faults)
    assert (tmp_path / "leaderboard.fine").read_text() == "text"
