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
from lrd_harness.errors import UserError
from lrd_harness.runner import cluster
from lrd_harness.store import files

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
    """The processes of a job's steps. job: as 1_0, which listpids does not take."""
    number = re.search(r"JobId=(\d+)", slurm.asked("scontrol", "show", "job", job))
    assert number is not None
    listed = slurm.asked("scontrol", "listpids", number[1]).splitlines()[1:]
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
    begun = pids(f"{array}_0")
    assert begun
    for number in begun:
        os.kill(number, signal.SIGKILL)
    subprocess.run(["scontrol", "requeue", f"{array}_0"], check=True)
    subprocess.run(["scancel", "--signal=USR2", f"{array}_2"], check=True)
    slurm.until(ended, 300)

    assert json.loads((out / "run.json").read_text())["errors"] == 1  # merged by the other job
    told = (out / f"shards/logs/{array}_2_0_log.out").read_text()
    assert "Calling checkpoint method" in told
    assert told.count("Starting with JobEnvironment") == 2
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


@pytest.mark.usefixtures("node")
def test_what_is_in_the_queue_and_what_was_done(tmp_path: Path, capfd: running.Shown) -> None:
    """Commands of which no folder tells; one that fails; one that waits for another."""
    folder = tmp_path / "an out" / "shards"
    more = ["gres=gpu:1", "comment=two words"]
    typed = {"gpus": None, "cpus": 1, "slurm": more, "time": "1:00:00", "partition": "tests"}
    given = cluster.resources({"account": None, "memory": None, **typed})

    def submit(*words: str, undone: bool | None = None) -> tuple[bool, str, str]:
        left = None if undone is None else lambda number: undone
        return cluster.resume(folder, 2, left, words, (), given), *capfd.readouterr()

    with pytest.raises(UserError, match="sbatch: invalid partition specified: none"):
        cluster.resume(folder, 2, None, ["--version"], (), given | {"partition": "none"})
    slurm.asked("scontrol", "update", "PartitionName=tests", "State=DOWN")
    submitted, said, _ = submit("--version")
    assert submitted
    (first,) = re.findall(r"^Job (\d+): slices 1, 2 of 2$", said, re.M)
    _, said, _ = submit("--version")
    assert re.findall(r"^Job (\w+): slice (\d)/2, PENDING \(Partition", said, re.M) == [
        (f"{first}_0", "1"),
        (f"{first}_1", "2"),
    ]
    _, said, _ = submit("nothing", undone=True)
    second, merge = re.findall(r"^Job (\d+): ", said, re.M)
    for job, waits in ((second, first), (merge, second)):
        shown = slurm.asked("scontrol", "show", "job", job)
        assert re.search(rf"Dependency=afterany:{waits}_\*", shown)
        assert ("gres:gpu:1" in shown) == (job == second)
    slurm.asked("scontrol", "update", "PartitionName=tests", "State=UP")
    slurm.until(ended, 200)
    assert submit("--version") == (False, "", "")
    jobs = json.loads((folder / "jobs.json").read_text())
    assert [job["slices"] for job in jobs[-2:]] == [[1, 2], []]
    _, said, told = submit("nothing", undone=True)
    logs = [folder / "logs" / f"{second}_{n}_0_log.err" for n in (0, 1)]
    lines = "slice {}/2 is not done, though its job has ended: see {}\n"
    assert told == "".join(lines.format(n + 1, log) for n, log in enumerate(logs))
    assert "invalid choice: 'nothing'" in logs[0].read_text()
    slurm.until(ended, 200)
    with files.path(folder / "logs") as mark:
        mark.touch()
        with pytest.raises(UserError, match="another command is just submitting"):
            submit("--version")
