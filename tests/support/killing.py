"""Run a command again and again, killed at another moment each time; a program of its own.

It imports everything once and forks a child for each attempt, so that an attempt takes a second.
Arguments: a JSON list of objects with command, cache, log, seed, kills and world, the number of
connected processes, of which one is killed, and then the others, as torchrun does. A file of the
store is damaged after every fourth. Prints how the attempts of each ended: -9 killed, 0 finished.
The first command is also run whole, beside its --output and cache, with -warm behind their names.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ranks import environment, free_port


def attempt(job: dict[str, Any], victim: int, delay: float | None, torn: int | None) -> int:
    """One run in children; the victim is killed after `delay` seconds or at its torn-th record."""
    world, port = job["world"], free_port()
    children = []
    for rank in range(world):
        env = environment(rank, world, port) if world > 1 else {}
        children.append(start(job, env, torn if rank == victim else None))
    if delay is not None:
        time.sleep(delay)
        os.kill(children[victim], signal.SIGKILL)
    codes, left = [], set(children)
    while left:
        child, status = os.wait()
        left.discard(child)
        codes.append(os.waitstatus_to_exitcode(status))
        if codes[-1]:
            for other in left:
                os.kill(other, signal.SIGKILL)
    return min(codes)


def start(job: dict[str, Any], env: dict[str, str], torn: int | None) -> int:
    """A child that runs the command; its number."""
    child = os.fork()
    if not child:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.environ.update({**env, "LRD_HARNESS_CACHE": job["cache"]})
        watch(Path(job["log"]), torn)
        from lrd_harness.cli import main

        os._exit(main(job["command"]))
    return child


def watch(log: Path, torn: int | None) -> None:
    """Note each unit that is begun; make small segments; tear the torn-th record of the journal."""
    from lrd_harness.capture import embeddings
    from lrd_harness.results import journal
    from lrd_harness.runner import units

    embeddings.SEGMENT_TOKENS = 400
    for name in ("measure", "evaluate"):
        setattr(units, name, noted(getattr(units, name), log))
    write, left = os.write, [torn]

    def tear(file: int, line: bytes) -> int:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                write(file, line[: len(line) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
        return write(file, line)

    journal.os.write = tear  # type: ignore[attr-defined]


def noted(step: Any, log: Path) -> Any:
    """The same step, which writes a line to the log when it is begun."""

    def begun(*arguments: Any) -> Any:
        with log.open("a") as file:
            file.write(f"{step.__name__}\n")
        return step(*arguments)

    return begun


def damage(cache: Path, draw: random.Random) -> None:
    """Cut or change one file of the store, if there is one."""
    shards = sorted(cache.glob("states/*/*.safetensors"))
    if shards:
        shard = draw.choice(shards)
        data = bytearray(shard.read_bytes())
        data[draw.randrange(len(data))] ^= 0xFF
        shard.write_bytes(data[: draw.choice([len(data), len(data) // 2])])


class _Undrawn:
    """Draws nothing."""

    def vegalite_to_svg(self, chart: Any, **options: Any) -> str:
        return "<svg></svg>"


def warm(job: dict[str, Any]) -> float:
    """Run the command once in this process, elsewhere, so that the children need not import
    anything; how many seconds it then takes."""
    from lrd_harness.plugins.reporters import _figures

    from lrd_harness.cli import main as run

    # without figures, as the library that draws them has threads, which a child would wait for in
    # vain
    vl_convert, _figures.vl_convert = _figures.vl_convert, _Undrawn()
    os.environ["LRD_HARNESS_CACHE"] = job["cache"] + "-warm"
    out = job["command"].index("--output") + 1
    there = [*job["command"][:out], job["command"][out] + "-warm", *job["command"][out + 1 :]]
    assert run(there) == 0
    begun = time.monotonic()
    assert run([*there[:out], there[out] + "2", *there[out + 1 :]]) == 0
    _figures.vl_convert = vl_convert
    gc.collect()
    gc.freeze()  # children look for garbage in what is theirs alone
    return 2 * (time.monotonic() - begun)  # that one had the states already


def attempts(job: dict[str, Any], whole: float) -> list[int]:
    """All attempts, the last of them not killed."""
    draw = random.Random(job["seed"])
    codes = []
    for number in range(job["kills"]):
        torn = draw.randrange(5) if number % 2 else None
        delay = draw.uniform(0, whole / 3) if torn is None else None
        codes.append(attempt(job, draw.randrange(job["world"]), delay, torn))
        if number % 4 == 3:
            damage(Path(job["cache"]), draw)
    return [*codes, attempt(job, 0, None, None)]


def main(jobs: list[dict[str, Any]]) -> list[list[int]]:
    """All jobs."""
    whole = warm(jobs[0])
    return [attempts(job, whole) for job in jobs]


if __name__ == "__main__":
    stdout = os.dup(1)
    os.dup2(2, 1)
    os.write(stdout, json.dumps(main(json.loads(sys.argv[1]))).encode())
