"""Runs in several processes as users start them: how they begin, how they end, what is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import running
from ranks import jobs
from test_processes import TASKS, command, faulty, own, same_numbers

__all__ = ["own"]  # a fixture
pytestmark = pytest.mark.slow


def call(*arguments: str, cache: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LRD_HARNESS_CACHE": str(cache), **more}
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, env=env
    )


AT_EXIT = """
import atexit, os, pathlib
from lrd_harness import hookimpl
def threads():
    names = [file.read_text().strip() for file in pathlib.Path("/proc/self/task").glob("*/comm")]
    pathlib.Path({folder!r}, f"{{os.getpid()}}.threads").write_text(" ".join(names))
if "RANK" in os.environ:
    atexit.register(threads)
@hookimpl
def lrd_metrics():
    return []
"""


def test_the_option_and_torchrun(own: Path, tmp_path: Path) -> None:
    """As users start them: by `--processes`, and by torchrun; progress is one process's.

    No thread of theirs is left at the exit of any, where it could abort the process.
    """
    file = tmp_path / "at_exit.py"
    file.write_text(AT_EXIT.format(folder=str(tmp_path)))
    tasks, metrics = TASKS[:1], ("--plugins", "nrs", "--load", str(file), "--full")
    first, second = tmp_path / "first", tmp_path / "second"
    asked = command(own, first, *metrics, "--processes", "2", tasks=tasks, models=["bert"])
    asked.remove("--quiet")
    done = call("lrd_harness", *asked, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Leaderboard: 1 model, 1 task")
    assert "1 model × 1 task, 1 metric, in 2 processes into" in done.stderr
    assert done.stderr.count("[1/1] local/bert: metrics, tasks × layers") == 1
    ran = ("torch.distributed.run", "--nproc-per-node", "2", "-m", "lrd_harness")
    plain = command(own, second, *metrics, tasks=tasks, models=["bert"])
    again = call(*ran, *plain, cache=tmp_path / "cache")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    same_numbers(first, second)
    left = [names.read_text() for names in tmp_path.glob("*.threads")]
    assert len(left) == 2 * 2
    assert not any("gloo" in names for names in left), left


def test_a_process_that_dies(own: Path, tmp_path: Path) -> None:
    """The others are ended, one line says so, and the same command goes on."""
    fault = "flag.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    asked = faulty(own, tmp_path, "True", fault, "--processes", "2")
    done = call("lrd_harness", *asked, cache=tmp_path / "cache")
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("lrd-harness: ")]
    assert len(said) == 1, done.stderr
    assert "of 2 ended (SIGKILL)" in said[0]
    (again,) = jobs({"command": asked, "world": 2}, cache=tmp_path / "cache")
    assert [code for code, _, _ in again] == [0, 0], again[0][2]
    assert len(running.records(tmp_path / "out", "metric")) == 4


def test_what_a_user_sees_of_control_c(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ("--plugins", "nrs,curvature", "--processes", "2")
    asked = command(own, out, *more, tasks=TASKS[:2], models=["bert", "gpt"])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LRD_HARNESS_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "lrd_harness", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while not list(out.glob("journal/*")) and time.monotonic() < end:
        time.sleep(0.02)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
    shown, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert time.monotonic() - begun < 25  # and not after elastic's patience
    assert shown == ""
    assert said.count("Interrupted.") == 1, said
    assert f"The same command with --output {out} goes on where it stopped." in said
    (again,) = jobs({"command": asked, "world": 2}, cache=tmp_path / "cache")
    assert [code for code, _, _ in again] == [0, 0]
    units = [r["unit"] for r in running.records(out, "score", "metric")]
    assert len(units) == len(set(units)) == 2 * 2 * (4 + 2)
