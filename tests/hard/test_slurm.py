"""A run on a real Slurm whose jobs are killed, told to end, and fail: as in one process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import running
import slurm
from test_killed import flat

from lrd_harness.cli import main

TASKS = ("STSBenchmark", "SciFact", "TwentyNewsgroupsClustering")
# A metric that waits in slices 1 and 3, and fails in slice 2, the first time each
ODD = """
import pathlib, sys, time
from lrd_harness import Choice, Metric, hookimpl
FLAGS = pathlib.Path({flags!r})
def odd(states):
    of = next((word for word in sys.argv if word in ("1/3", "2/3", "3/3")), None)
    flag = of and FLAGS / of.replace("/", "-")
    if flag and not flag.exists():
        flag.touch()
        if of == "2/3":
            raise ValueError("out of luck")
        time.sleep(600)
    return {{"odd": float(len(states))}}
@hookimpl
def lrd_metrics():
    return [Metric("odd", odd, selection=Choice("odd", "max"))]
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if why := slurm.absent():
        pytest.skip(why)
    with slurm.cluster(tmp_path_factory.mktemp("slurm")):
        yield


def ended() -> bool:
    """Whether the queue is empty; what was requeued, and would wait for minutes, begins now."""
    for job in slurm.asked("squeue", "--noheader", "--array", "--format=%i %r").splitlines():
        if job.endswith(" BeginTime"):
            slurm.asked("scontrol", "update", f"JobId={job.split()[0]}", "StartTime=now")
    return not slurm.asked("squeue", "--noheader").strip()


def pids(job: str) -> list[int]:
    """The processes of a job's steps."""
    listed = slurm.asked("scontrol", "listpids", job).splitlines()[1:]
    return [int(line.split()[0]) for line in listed if line.split()[2] != "batch"]


def rounded(table: Path) -> str:
    """A table with four digits behind the point."""
    return re.sub(r"\d+\.\d+(e-\d+)?", lambda n: f"{float(n[0]):.4f}", table.read_text())


@pytest.mark.usefixtures("node")
def test_a_run_on_slurm(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: running.Shown
) -> None:
    """One job is killed and requeued, one is told that it must end, one fails: all goes on."""
    (tmp_path / "odd.py").write_text(ODD.format(flags=str(tmp_path)))
    models = [place / "bert", place / "gpt"]
    more = ("--plugins", "nrs,odd", "--load", str(tmp_path / "odd.py"))
    one = tmp_path / "one"
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "cache-of-one"))
    assert running.run(one, models, place / "data", *more, tasks=TASKS) == 0
    capfd.readouterr()

    out = tmp_path / "out"
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "cache"))
    command = running.command(out, models, place / "data", *more, tasks=TASKS)
    asked = [*command, "--cluster", "slurm", "--shards", "3", "--cpus", "1", "--slurm", "comment=a"]

    def submit() -> str:
        assert main(asked) == 0
        return capfd.readouterr().out

    said = submit()
    array, merge = re.findall(r"^Job (\d+): ", said, re.M)
    assert "slices 1, 2, 3 of 3" in said
    slurm.until(lambda: all((tmp_path / f"{i}-3").exists() for i in (1, 2, 3)), 200)
    again = submit()  # all of it is in the queue
    assert re.findall(r"^Job (\d+).*(?:RUNNING|PENDING)", again, re.M)[-1:] == [merge]
    assert "slices" not in again
    for number in pids(f"{array}_0"):
        os.kill(number, signal.SIGKILL)
    subprocess.run(["scontrol", "requeue", f"{array}_0"], check=True)
    subprocess.run(["scancel", "--signal=USR2", f"{array}_2"], check=True)
    slurm.until(ended, 300)

    assert json.loads((out / "run.json").read_text())["errors"] == 1  # merged by the other job
    assert "Requeued job" in (out / f"shards/logs/{array}_2_0_log.out").read_text()
    assert main(asked) == 0  # the slice that failed, alone
    shown = capfd.readouterr()
    log = out / f"shards/logs/{array}_1_0_log.err"
    assert shown.err == f"slice 2/3 is not done, though its job has ended: see {log}\n"
    assert "UserError: some of it failed (exit code 1)" in log.read_text()
    assert "slices 2 of 3" in shown.out
    slurm.until(ended, 200)
    found, expected = running.numbers(out), running.numbers(one)
    assert found.keys() == expected.keys()
    for unit, numbers in expected.items():  # slices read other batches, which round otherwise
        assert flat(found[unit]) == pytest.approx(flat(numbers), rel=1e-5, abs=1e-6), unit
    for name in ("leaderboard.csv", "leaderboard-layers.csv"):
        assert rounded(out / name) == rounded(one / name)
    jobs = (out / "shards" / "jobs.json").read_text()
    assert submit().startswith("All 3 slices are done.\nLeaderboard: 2 models, 3 tasks")
    assert (out / "shards" / "jobs.json").read_text() == jobs
