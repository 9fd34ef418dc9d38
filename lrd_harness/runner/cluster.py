"""The slices of a run as jobs of Slurm: an array, by submitit, and a job that merges what it made.

OUT/shards/jobs.json says which slices an array has. It is written before the array is submitted,
whose name tells it in Slurm's queue: so no slice is there twice, whenever a command was killed.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lrd_harness.errors import UserError, first_line, short, tell
from lrd_harness.processes import INTERRUPTED
from lrd_harness.results.journal import recorded_run
from lrd_harness.store import files
from lrd_harness.store.documents import read_file
from lrd_harness.store.location import cache_dir

JOBS, LOGS = "jobs.json", "logs"  # in OUT/shards
RESTARTS = 100  # how often a job is requeued at the end of its time, and goes on
GRACE = 600.0  # seconds that Slurm takes at most to end a job that it has told to end
SIGNALLED = (-signal.SIGTERM, -signal.SIGUSR2, INTERRUPTED)  # exit codes of what was told to end
MOST = 10**4  # GPUs and cores of a job
NEVER = 10**7  # minutes; to submitit, which counts no requeuing then
TIME = "4:00:00"  # of a job
CARRIED = ("PYTHONPATH", "HF_HOME", "HF_HUB_OFFLINE", "LRD_HARNESS_CACHE_LIMIT")
OURS = (
    "array job-name output error open-mode signal requeue no-requeue wrap chdir nodes "
    "ntasks ntasks-per-node"
).split()
SBATCH = {  # its name of what has an option of our own
    "partition": "partition",
    "account": "account",
    "gpus": "gpus-per-node",
    "cpus": "cpus-per-task",
    "memory": "mem",
    "time": "time",
}
Options = dict[str, Any]  # of sbatch, by their long names; True for one without a value
Queued = dict[int, tuple[str, str]]  # by slice, 0 the merge: its job, its state and why it waits


class Submitted(TypedDict):
    """An array, as jobs.json keeps it. id: "" where it may not have been submitted in the end."""

    name: str
    words: list[str]
    slices: list[int]
    id: str


class Job:
    """A command of this harness as a job, begun again where Slurm requeues it: it then goes on."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self) -> None:
        """Run it. Raises UserError where it fails, so that Slurm has the job for failed."""
        command = [sys.executable, "-m", "lrd_harness", *self.words]
        code = subprocess.run(command, check=False).returncode
        if code in SIGNALLED:  # Slurm ends the job, and requeues it, unless it has failed before
            time.sleep(GRACE)
        if code:
            what = "some of it failed" if code == 1 else "it failed"
            raise UserError(f"{what} (exit code {code})")

    def checkpoint(self) -> Any:
        """What is to be done when it is requeued, as submitit asks shortly before its end."""
        from submitit.helpers import DelayedSubmission

        often = int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= RESTARTS
        return None if often else DelayedSubmission(self)


class MergeJob(Job):
    """The job that merges those of some slices that were begun. folder: OUT/shards.

    words: the command that compares the models once all are done, () where nothing is compared.
    """

    def __init__(self, folder: Path, of: int, words: Sequence[str]) -> None:
        super().__init__(*words)
        self.folder, self.of = folder, of

    def __call__(self) -> None:
        """Run it. Raises UserError as a Job does."""
        slices, out = begun(self.folder, self.of), self.folder.parent
        Job("merge", *map(str, slices), "--output", str(out))()
        if self.words and recorded_run(out).get("finished") and len(slices) == self.of:
            super().__call__()


def begun(folder: Path, of: int) -> list[Path]:
    """The folders of the slices that were begun, not of those of another cut."""
    return sorted(file.parent for file in folder.glob(f"*-of-{of}/run.json"))


def resources(typed: Mapping[str, Any]) -> Options:
    """What the options of a command say of a job. Raises UserError for what cannot be so."""
    options: Options = {SBATCH[n]: typed[n] for n in SBATCH if typed[n] is not None}
    for text in typed["slurm"] or ():
        name, equals, value = text.partition("=")
        if not re.fullmatch(r"[a-z][a-z-]+", name) or not text.isprintable():
            raise UserError(f"--slurm {text:.60}: not KEY=VALUE as sbatch has it, as qos=long")
        if name in OURS:
            raise UserError(f"--slurm {text:.60}: {name} is what the harness sets itself")
        options[name] = value if equals else True
    return {"time": TIME, "requeue": True, **options}


def resume(
    folder: Path,
    of: int,
    undone: Callable[[int], bool] | None,
    words: Sequence[str],
    compare: Sequence[str],
    given: Options,
) -> bool:
    """Submit the slices that are neither done nor in the queue, and for a run a job that merges.

    folder: OUT/shards; undone: whether a slice, by its number, is to be done, None for a capture,
    whose slices are done once a job of theirs has come to a good end; words: the command of a
    slice, without the options of the cluster; compare: the command that compares the models in the
    end, () for none; given: see `resources`. The slices of a run wait for the jobs of a capture.
    Prints what there is. Returns False where nothing is: all is done. Raises UserError before
    anything is submitted where Slurm cannot be asked.
    """
    to = ("--output", str(folder.parent))
    files.make_folder(folder / LOGS)
    with _alone(folder / LOGS):
        jobs = Jobs(folder, words)
        queued = jobs.queued()
        for number, (job, state) in queued.items():
            what = f"slice {number}/{of}" if number else "merges them"
            print(f"Job {job}: {what}, {state}")
        left = [number for number in range(1, of + 1) if number not in queued]
        missing = [number for number in left if not jobs.done(number, of, undone)]
        if not missing and not queued:
            return False
        ids = _ids(queued)
        if missing:
            array = [Job(*words, "--shard", f"{number}/{of}", *to) for number in missing]
            before = _ids(jobs.queued(own=False)) if undone else set()
            ids.add(new := jobs.submit(array, missing, before, given))
            print(short(f"Job {new}: slices {', '.join(map(str, missing))} of {of}"))
        if undone and (missing or 0 not in queued):
            merge = MergeJob(folder, of, (*compare, *to) if compare else ())
            any_node = {n: v for n, v in given.items() if not n.startswith(("gpu", "gres"))}
            try:
                ids.add(new := jobs.submit([merge], [], ids, any_node))
                print(f"Job {new}: merges them into {folder.parent} when they have ended")
            except UserError as error:
                print(f"None merges them ({error}): give this command again when they have ended")
    print(
        f"Logs: {folder / LOGS}; how far they are: squeue --jobs={','.join(sorted(ids))}\n"
        "The same command again submits what is missing then, and nothing twice."
    )
    return True


class Jobs:
    """The jobs of a run and of its capture, as jobs.json tells of them.

    folder: OUT/shards, where that lies; words: the command of the slices that are looked after.
    """

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self._file, self._logs, self._words = folder / JOBS, folder / LOGS, [*words]
        self._submitted: list[Submitted] = []
        if self._file.exists():
            try:
                kind = TypeAdapter(list[Submitted])
                self._submitted = kind.validate_json(read_file(self._file))
            except ValidationError:
                advice = "remove it when no job of it is in the queue"
                raise UserError(f"{self._file} is damaged: {advice}") from None

    def queued(self, own: bool = True) -> Queued:
        """What is in Slurm's queue of this command, `run` or `capture`; of the other if not own."""
        mine = self._words[0]
        jobs = [job for job in self._submitted if (job["words"][0] == mine) == own]
        return _queued({job["name"]: job["slices"] for job in jobs})

    def done(self, number: int, of: int, undone: Callable[[int], bool] | None) -> bool:
        """Whether a slice that is not in the queue is done; if a job of it has failed, tell."""
        tried = [job for job in self._submitted if number in job["slices"] and job["id"]]
        log, succeeded = "", False
        for job in [job for job in tried if job["words"] == self._words][-1:]:
            index = job["slices"].index(number)
            name = f"{job['id']}_{index}" if len(job["slices"]) > 1 else job["id"]
            file, result = (self._logs / f"{name}_0_{end}" for end in ("log.err", "result.pkl"))
            log = f"see {file}" if file.exists() else f"no {file}: do the nodes see this folder?"
            succeeded = result.exists() and pickle.loads(result.read_bytes())[0] == "success"
        done = not undone(number) if undone else succeeded
        if not done and log and not succeeded:
            tell(f"slice {number}/{of} is not done, though its job has ended: {log}")
        return done

    def submit(
        self, array: Sequence[Job], slices: list[int], after: Collection[str], given: Options
    ) -> str:
        """Submit jobs, of these slices, to begin when others have ended; returns their id.

        What is to be submitted is kept first, and its id then. Raises UserError.
        """
        job = Submitted(name=f"lrd-{secrets.token_hex(6)}", words=self._words, slices=slices, id="")
        self._submitted.append(job)
        files.write_text(self._file, json.dumps(self._submitted))
        if after:
            asked, wait = given.get("dependency"), f"afterany:{':'.join(sorted(after))}"
            given = given | {"dependency": ",".join([*filter(None, [asked]), wait])}
        job["id"] = _submit(self._logs, job["name"], array, given)
        files.write_text(self._file, json.dumps(self._submitted))
        return job["id"]


def check(out: Path) -> None:
    """Raise UserError where nothing can be submitted from here."""
    if find_spec("submitit") is None:
        needed = 'needs submitit: pip install "lrd-harness[cluster]"'
        raise UserError(f"--cluster slurm {needed}")
    if lacking := [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]:
        raise UserError(f"--cluster slurm: no {', '.join(lacking)} here, is it a cluster's node?")
    if "%" in str(out) or not str(out).isprintable():
        raise UserError(f"{out}: Slurm takes no % and no control characters in the path of a log")


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Raise UserError where another command is just submitting, by a mark in a folder."""
    with files.path(place) as mark:
        mark.touch()
        others = [p for p in place.iterdir() if files.known(p.name) and p.name != mark.name]
        if any(not files.dead(other, files.clock(place)) for other in others):
            raise UserError(f"another command is just submitting {place.parent.parent}")
        yield


def _queued(slices: Mapping[str, Sequence[int]]) -> Queued:
    """What is in Slurm's queue of the arrays of these names. slices: of each; a merge has none."""
    if not slices:
        return {}
    asked = ["squeue", "--noheader", "--array", f"--name={','.join(slices)}"]
    done = subprocess.run([*asked, "--format=%F|%K|%j|%T|%r"], capture_output=True, text=True)
    if done.returncode:
        said = first_line(OSError(done.stderr)).removeprefix("squeue: error: ")
        raise UserError(f"squeue: {said}; so nothing was submitted")
    queued: Queued = {}
    for line in sorted(done.stdout.splitlines()):
        job, index, name, state, reason = line.strip().split("|", 4)
        place = int(index) if index.isdigit() else 0
        job += f"_{index}" if index.isdigit() else ""
        number = slices[name][place] if slices[name] else 0
        queued[number] = job, state if reason == "None" else f"{state} ({reason})"
    return queued


def _ids(queued: Queued) -> set[str]:
    """The jobs and arrays that it is in."""
    return {job.partition("_")[0] for job, _ in queued.values()}


def _submit(logs: Path, name: str, array: Sequence[Job], given: Options) -> str:
    """Have submitit submit jobs under a name; returns their id. Raises UserError."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    carried = {name: os.environ[name] for name in CARRIED if name in os.environ}
    carried["LRD_HARNESS_CACHE"] = str(cache_dir().absolute())
    cpus = given.get("cpus-per-task")  # which srun does not take from sbatch
    try:
        with _environment(given), redirect_stderr(StringIO()):
            executor = SlurmExecutor(logs)
            executor.update_parameters(
                job_name=name,
                time=NEVER,
                wckey=None,
                setup=[f"export {name}={shlex.quote(value)}" for name, value in carried.items()],
                srun_args=[f"--cpus-per-task={cpus}"] if cpus else None,
                additional_parameters=given,
            )
            with executor.batch():
                sent = [executor.submit(job) for job in array]
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"sbatch: {first_line(error).removeprefix('sbatch: error: ')}") from None
    return str(sent[0].job_id.partition("_")[0])


@contextmanager
def _environment(given: Options) -> Iterator[None]:
    """Within it no variable of a job around this one is there, and none that beats an option."""
    from submitit.helpers import clean_env

    usual = {"account", "partition", "qos", "reservation"} - {*given}
    names = ("SLURM_CONF", *(f"SBATCH_{name.upper()}" for name in usual))
    kept = {name: os.environ[name] for name in names if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield
