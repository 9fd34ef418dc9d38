"""Runs in several processes as users start them: how they begin, how they end, what is said."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

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
    ended = {"command": asked, "world": 1, "fork": True}
    (((code, _, told),),) = jobs(ended, cache=tmp_path / "cache")
    assert code == 2
    said = re.findall("lrd-harness: .*", told)
    assert len(said) == 1, told
    assert "of 2 ended (SIGKILL)" in said[0]
    (again,) = jobs({"command": asked, "world": 2}, cache=tmp_path / "cache")
    assert [code for code, _, _ in again] == [0, 0], again[0][2]
    assert len(running.records(tmp_path / "out", "metric")) == 4


def test_what_a_user_sees_of_control_c(own: Path, tmp_path: Path) -> None:
    out, group, begun = tmp_path / "out", tmp_path / "group", [0.0]
    file = tmp_path / "told.py"
    file.write_text(
        "import os, pathlib\nfrom lrd_harness import hookimpl\n"
        f"pathlib.Path({str(group)!r}).write_text(str(os.getpgid(0)))\n"
        "@hookimpl\ndef lrd_metrics():\n    return []\n"
    )
    more = ("--plugins", "nrs,curvature", "--processes", "2", "--load", str(file))
    asked = command(own, out, *more, tasks=TASKS[:2], models=["bert", "gpt"])

    def interrupt() -> None:
        end = time.monotonic() + 120
        while not list(out.glob("journal/*")) and time.monotonic() < end:
            time.sleep(0.02)
        begun[0] = time.monotonic()
        os.killpg(int(group.read_text()), signal.SIGINT)  # as a terminal does: to all processes

    Thread(target=interrupt).start()
    (((code, shown, said),),) = jobs(
        {"command": asked, "world": 1, "fork": True}, cache=tmp_path / "cache"
    )
    assert code == 130, said
    assert time.monotonic() - begun[0] < 25  # and not after elastic's patience
    assert shown == ""
    assert said.count("Interrupted.") == 1, said
    assert f"The same command with --output {out} goes on where it stopped." in said
    (again,) = jobs({"command": asked, "world": 2}, cache=tmp_path / "cache")
    assert [code for code, _, _ in again] == [0, 0]
    units = [r["unit"] for r in running.records(out, "score", "metric")]
    assert len(units) == len(set(units)) == 2 * 2 * (4 + 2)
