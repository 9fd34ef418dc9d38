"""Kill commands before the n-th thing that they do to files, and give them again; its own program.

It imports everything once and forks a child for each attempt. Argument: JSON, a list of objects
with name, command, before (what the place is before the command), place (what the command may
change), cache, and kills. Prints, by name, what was amiss after which step.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

HAS_THREADS = ("vl_convert", "__main")  # for which a child would wait in vain
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.utime"}


def child(
    job: dict[str, Any], last: int | None, count: int | None = None, loaded: int | None = None
) -> int:
    """Run the command in a child, killed before its last-th step; its exit code.

    count: a pipe into which a byte is written a step; loaded: a file for the modules it has at its
    end.
    """
    number = os.fork()
    if not number:
        sink = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(sink, stream)
        os.environ["LRD_HARNESS_CACHE"] = job["cache"]
        place, done = os.path.realpath(job["place"]), [0]

        def step(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open":
                if not (isinstance(arguments[2], int) and arguments[2] & os.O_CREAT):
                    return
            elif event not in CHANGES:
                return
            path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
            path = os.fsdecode(path)
            below = os.path.abspath(path).startswith(place)
            if below or (event in ("os.remove", "os.rmdir") and arguments[1] != -1):
                done[0] += 1
                if count is not None:
                    os.write(count, b".")
                if done[0] == last:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(step)
        from lrd_harness.cli import main

        code = main(job["command"])
        if loaded is not None:
            os.write(loaded, " ".join(sys.modules).encode())
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def load(names: list[str]) -> None:
    """Import what a child has imported, so that no other child has to; it takes them seconds."""
    for name in names:
        if not name.startswith(HAS_THREADS):
            with contextlib.suppress(Exception):  # parts that are no modules by themselves
                importlib.import_module(name)


def anew(job: dict[str, Any]) -> None:
    """Make the place what it was before the command."""
    shutil.rmtree(job["place"], ignore_errors=True)
    shutil.copytree(job["before"], job["place"], symlinks=True)


def listing(job: dict[str, Any]) -> list[str]:
    place = Path(job["place"])
    return sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))


def faults(job: dict[str, Any]) -> list[str]:
    """What is amiss after a kill and the same command again, a line each."""
    anew(job)
    with tempfile.TemporaryFile() as names:
        # which fills the cache, so that all that follow take the same steps
        child(job, None, loaded=names.fileno())
        names.seek(0)
        load(names.read().decode().split())
    anew(job)
    reading, writing = os.pipe()
    code = child(job, None, writing)
    os.close(writing)
    steps = 0
    while dots := os.read(reading, 4096):
        steps += len(dots)
    os.close(reading)
    if code or not steps:
        return [f"exit code {code} and {steps} steps, not killed"]
    whole = listing(job)
    kills = min(job["kills"], steps)
    amiss = []
    for turn in range(kills):
        last = 1 + turn * (steps - 1) // max(1, kills - 1)
        anew(job)
        killed, left = child(job, last), listing(job)
        again = child(job, None)
        kept = [path for path in left if ".work-" not in path]
        done = kept == whole and again == 2 and job["once"]  # it was all done
        if killed != -signal.SIGKILL or (again and not done):
            amiss.append(f"step {last} of {steps}: exit codes {killed}, {again}: {left}")
        if listing(job) != whole:
            differ = sorted(set(listing(job)) ^ set(whole))
            amiss.append(f"step {last} of {steps}: {differ}")
    return amiss


def main(jobs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """All jobs; the libraries are imported before the first child is made."""
    for name in (
        "torch",
        "sentence_transformers",
        "lrd_harness.studies.prune",
        "lrd_harness.models.save",
    ):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children look for garbage in what is theirs alone
    return {job["name"]: faults(job) for job in jobs}


if __name__ == "__main__":
    stdout = os.dup(1)
    os.dup2(2, 1)
    os.write(stdout, json.dumps(main(json.loads(sys.argv[1]))).encode())
