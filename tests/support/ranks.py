"""Run a command in several connected processes; a program of its own, which imports all once.

Reads a line after another: a JSON list of jobs with command, world, env (one mapping a process, or
none), and fork: whether it is a session of its own, in which `--processes` forks as well. Each is
run in forked children that torch.distributed connects, as torchrun would have it.
Answers a line with what the processes of each job ended with and wrote: [[code, stdout, stderr],
...]. As it forks before it does anything itself, a job leaves nothing behind for the next.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

OURS = [f"lrd_harness.{name}" for name in ("runner.loop", "runner.folder", "board.leaderboard")]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    ranks["LOCAL_WORLD_SIZE"] = world
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in ranks.items()}}


def forks() -> None:
    """Have `--processes` fork what it starts, where nothing has to be imported once more.

    What is started answers signals as a new interpreter does.
    """
    from torch.distributed.launcher import api

    from lrd_harness import processes

    config, child = api.LaunchConfig, processes._child

    def unaware(*given: Any) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return child(*given)

    api.LaunchConfig = lambda **given: config(**{**given, "start_method": "fork"})
    processes._child = unaware


def fork(command: list[str], env: dict[str, str], outputs: tuple[str, str], more: bool) -> int:
    """A child that runs the command; its number. more: as `fork` of a job."""
    child = os.fork()
    if not child:
        os.environ.update(env)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate(outputs, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        from lrd_harness.cli import main

        if more:
            os.setsid()
            forks()
        code = main(command)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return child


def run(job: dict[str, Any]) -> list[tuple[int, str, str]]:
    """One job. Where a process is killed, so are the others."""
    port, world = free_port(), job["world"]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [(f"{folder}/{rank}.out", f"{folder}/{rank}.err") for rank in range(world)]
        children = {}
        for rank in range(world):
            env = environment(rank, world, port) if world > 1 else {}
            env |= job["env"][rank] if job.get("env") else {}
            child = fork(job["command"], env, outputs[rank], job.get("fork", False))
            children[child] = rank
        codes = [0] * world
        left = set(children)
        while left:
            child, status = os.wait()
            left.discard(child)
            codes[children[child]] = os.waitstatus_to_exitcode(status)
            if codes[children[child]] < 0:
                for other in left:
                    os.kill(other, signal.SIGKILL)
        return [
            (code, *(Path(file).read_text() for file in files))  # type: ignore[misc]
            for code, files in zip(codes, outputs, strict=True)
        ]


def jobs(*commands: dict[str, Any], cache: Path) -> list[list[tuple[int, str, str]]]:
    """Have the program run these jobs, with this cache folder where a job does not say another."""
    program = started()
    assert program.stdin is not None
    assert program.stdout is not None
    usual = {"LRD_HARNESS_CACHE": str(cache)}
    line = [
        {**job, "env": [{**usual, **env} for env in job.get("env") or [{}] * job["world"]]}
        for job in commands
    ]
    program.stdin.write(json.dumps(line) + "\n")
    program.stdin.flush()
    answer = program.stdout.readline()
    assert answer, f"the program of the jobs ended: {program.wait()}"
    outcomes: list[list[tuple[int, str, str]]] = json.loads(answer)
    return outcomes


@functools.cache
def started() -> subprocess.Popen[str]:
    """The program, once for all tests of this process: it takes seconds to import everything."""
    pipe, env = subprocess.PIPE, {**os.environ, "OMP_NUM_THREADS": "1"}
    program = subprocess.Popen(
        [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=env
    )
    atexit.register(program.communicate)  # it ends where its input does
    return program


def main() -> None:
    """Answer as long as something is asked."""
    import mteb

    for name in ("lm_eval.tasks", "torch.distributed", "sentence_transformers", *OURS):
        importlib.import_module(name)
    importlib.import_module("lrd_harness.manager").load()
    mteb.get_benchmark("MTEB(eng, v2)")  # these are opened one and all
    gc.collect()
    gc.freeze()  # children look for garbage in what is theirs alone
    for line in sys.stdin:
        commands = json.loads(line)
        for job in commands:
            read_index(job["command"])
        print(json.dumps([run(job) for job in commands]), flush=True)


def read_index(command: list[str]) -> None:
    """lm-eval's index of the tasks of a folder, once for all children: it takes six seconds."""
    from lrd_harness.tasks.likelihood.loading import index

    if "--include-path" in command and any("lm-eval:" in word for word in command):
        index(Path(command[command.index("--include-path") + 1]))


if __name__ == "__main__":
    main()
