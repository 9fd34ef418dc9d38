"""accelerate launch and torchrun, killed and followed by one another: the tables of one process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import running
from ranks import jobs
from slurm import until
from test_killed import flat
from test_processes import TASKS, command, own

from lrd_harness.errors import told_to
from lrd_harness.processes import connected

__all__ = ["own"]  # a fixture
pytestmark = pytest.mark.slow

OURS = ("-m", "lrd_harness")
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2", *OURS)
ACCELERATE = ("accelerate", "launch", "--multi_gpu", "--num_processes", "2")
ACCELERATE = (*ACCELERATE, "--main_process_port", "0", *OURS)  # a port that is free
# what a user may have configured for a training; transformers reads the last two
TRAINING = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
# holds the process that gets there first until there is a file `go`
PLUGIN = """
import os, pathlib, time
from lrd_harness import Metric, hookimpl
place = pathlib.Path({place!r})
def held(states):
    (place / f"{{os.getpid()}}.held").touch()
    while not (place / "go").exists():
        time.sleep(0.02)
    return {{"held": [float(state.norm()) for state in states]}}
@hookimpl
def lrd_metrics():
    return [Metric("held", held)]
"""


@contextmanager
def launched(words: list[str], cache: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, running; what is left of it at the end is killed."""
    env = {**os.environ, **TRAINING, "OMP_NUM_THREADS": "1", "LRD_HARNESS_CACHE": str(cache)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
            process.communicate()


def killed(words: list[str], cache: Path, place: Path, launcher: bool) -> tuple[int, str]:
    """How the command ended, of which one process is killed while it works: none is left."""
    with launched(words, cache) as process:
        until(lambda: bool(list(place.glob("*.held"))) or process.poll() is not None, 240)
        assert process.poll() is None, process.communicate()[1]
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        time.sleep(random.random() / 2)
        number = int(next(place.glob("*.held")).stem)
        os.kill(process.pid if launcher else number, signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
        until(lambda: not any(worker.is_running() for worker in workers), 15)
    for file in place.glob("*.held"):
        file.unlink()
    return process.returncode, said


def test_one_process_where_several_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `accelerate launch --cpu --num_processes 2` does without MPI; with --num_processes 1."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    for address, lines in (("127.0.0.1", 1), (None, 0)):
        said: list[str] = []
        if address:
            monkeypatch.setenv("MASTER_ADDR", address)
        else:
            monkeypatch.delenv("MASTER_ADDR", raising=False)
        with told_to(said.append), connected() as ranks:
            assert ranks.world == 1
        assert len(said) == lines
        assert all("--multi_gpu" in line and "--processes N" in line for line in said)


def test_killed_and_resumed_by_another_launcher(own: Path, tmp_path: Path) -> None:
    """The launcher, then a process; at last all is there, once, as of one process."""
    file, out, whole = tmp_path / "held.py", tmp_path / "out", tmp_path / "whole"
    file.write_text(PLUGIN.format(place=str(tmp_path)))
    more = ("--plugins", "frenet,held,nrs", "--load", str(file), "--full")
    asked, plain = (command(own, to, *more, tasks=TASKS[:2]) for to in (out, whole))
    cache = tmp_path / "cache"
    code, said = killed([*ACCELERATE, *asked], cache, tmp_path, launcher=True)
    assert code == -signal.SIGKILL
    code, said = killed([*TORCHRUN, *asked], cache, tmp_path, launcher=False)
    assert code == 1, said
    assert "Signal 9 (SIGKILL)" in said
    (tmp_path / "go").touch()
    with launched([*ACCELERATE, *asked], cache) as process:
        shown, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    ((single,),) = jobs({"command": plain, "world": 1}, cache=tmp_path / "alone")
    assert single[0] == 0, single[2]
    assert len(shown.split()) == len(single[1].split()) > 100
    found, wanted = running.numbers(out), running.numbers(whole)
    assert found.keys() == wanted.keys()
    for unit, numbers in wanted.items():
        assert flat(found[unit]) == pytest.approx(flat(numbers), rel=1e-6, abs=1e-6), unit
    units = [r["unit"] for r in running.records(out, "score", "metric")]
    assert len(units) == len(set(units)) == 2 * 2 * (4 + 3)
