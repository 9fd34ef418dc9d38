"""Run a command in several connected processes; a program of its own, which imports all once.

Arguments: a JSON list of jobs with command, world and env (one mapping a process, or none). Each is
run in forked children that torch.distributed connects, as torchrun would have it. Prints of each
job what its processes ended with and wrote: [[code, stdout, stderr], ...].
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(n) for name, n in ranks.items()}}


def fork(command: list[str], env: dict[str, str], outputs: tuple[str, str]) -> int:
    """A child that runs the command; its number."""
    child = os.fork()
    if not child:
        os.environ.update(env)
        for number, file in enumerate(outputs, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        from lrd_harness.cli import main

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
            own = job["env"][rank] if job.get("env") else {}
            told = environment(rank, world, port) if world > 1 else {}
            children[fork(job["command"], {**told, **own}, outputs[rank])] = rank
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


def jobs(*given: dict[str, Any], cache: Path) -> list[list[tuple[int, str, str]]]:
    """Have a fresh program run these jobs."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LRD_HARNESS_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[list[tuple[int, str, str]]] = json.loads(done.stdout)
    return found


def main(given: list[dict[str, Any]]) -> list[Any]:
    """All jobs, one after another."""
    import lm_eval.tasks
    import mteb  # noqa: F401
    import torch.distributed
    from sentence_transformers import SentenceTransformer  # noqa: F401

    import lrd_harness.run

    assert lm_eval.tasks
    assert torch.distributed.is_available()
    assert lrd_harness.run
    return [run(job) for job in given]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
