"""Homes that cannot be written, and terminals that are not UTF-8."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import running
from running import Patch

from lrd_harness.cli import main
from lrd_harness.store import location

PLACES = {*location._places(), "HF_HOME"}


@pytest.fixture
def unset(tmp_path: Path, monkeypatch: Patch) -> pytest.MonkeyPatch:
    """No variable of the user's, and a cache of the test's own."""
    for name in (*PLACES, "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "")  # for it to be restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "cache"))
    return monkeypatch


def test_a_home_that_can_be_written_stays(unset: Patch, tmp_path: Path) -> None:
    unset.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    location.redirect()
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []  # to try it leaves nothing


@pytest.mark.parametrize("home", ["/proc", "/proc/none", "/dev/null", "/sys"])
def test_libraries_of_a_home_that_cannot_use_our_cache(
    home: str, unset: Patch, tmp_path: Path
) -> None:
    mine = str(tmp_path / "mine")
    unset.setenv("HOME", home)
    unset.setenv("MTEB_CACHE", mine)
    location.redirect()
    assert os.environ["HOME"] == home  # "~" means what it did
    assert os.environ["MTEB_CACHE"] == mine
    for name in PLACES - {"MTEB_CACHE"}:
        assert Path(os.environ[name]).parent == tmp_path / "cache" / "home"


def test_a_cache_that_is_there_to_be_read_stays(unset: Patch, tmp_path: Path) -> None:
    (tmp_path / "huggingface" / "hub" / "models--a--b").mkdir(parents=True)
    unset.setenv("HOME", "/proc")
    unset.setenv("XDG_CACHE_HOME", str(tmp_path))
    unset.setattr(location, "_is_writable", lambda path: False)
    location.redirect()
    assert "HF_HOME" not in os.environ
    assert Path(os.environ["HF_DATASETS_CACHE"]).parent == tmp_path / "cache" / "home"


def test_a_home_that_cannot_be_read(unset: Patch, tmp_path: Path) -> None:
    def fail(*_: object) -> Any:
        raise PermissionError(13, "Permission denied")

    unset.setenv("HOME", "/proc")
    for name in ("iterdir", "glob"):
        unset.setattr(location.Path, name, fail)
    assert location._places()["HF_HOME"] == Path("/proc/.cache/huggingface")


def test_nobodys_home(unset: Patch, tmp_path: Path) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    unset.setattr(location.Path, "home", fail)
    location.redirect()
    assert os.environ["HOME"] == str(tmp_path / "cache" / "home")


@pytest.mark.slow
def test_a_run_where_nothing_can_be_written_at_home(place: Path, tmp_path: Path) -> None:
    out, more = tmp_path / "out", ("--layers", "last", "--plugins", "nrs")
    tasks = ["STSBenchmark"]
    command = running.command(out, [place / "bert"], place / "data", *more, tasks=tasks)
    kept = {k: v for k, v in os.environ.items() if k not in {*PLACES, "XDG_CACHE_HOME"}}
    env = {**kept, "HOME": "/proc", "LRD_HARNESS_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "lrd_harness", *command]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "cache" / "home" / "mteb").is_dir()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_an_encoding_lacks_is_replaced(
    encoding: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "s.csv").write_text("model,T1\nä→,0.5\nb,0.4\n\u4e2d,0.3\n", encoding="utf-8")
    (tmp_path / "m.csv").write_text("model,width\nä→,64\nb,128\n\u4e2d,192\n", encoding="utf-8")
    board = ["leaderboard", "--actual", "s.csv", "--models-info", "m.csv"]
    monkeypatch.chdir(tmp_path)
    for name, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding, errors, write_through=True)
        monkeypatch.setattr(sys, name, stream)
    for helped in ([], ["run"], ["leaderboard"]):
        with pytest.raises(SystemExit, match=r"^0$"):
            main([*helped, "--help"])
    for command, code in ((["plugins"], 0), (["models"], 0), (board, 0), (["leaderboard", "→"], 2)):
        assert main(command) == code
    written: Any = (sys.stdout.buffer, sys.stderr.buffer)
    shown, told = (stream.getvalue().decode(encoding) for stream in written)
    assert ("?" if encoding == "ascii" else "ä?") in shown
    assert told.count("\n") == 1
    assert "\\u2192" in told
