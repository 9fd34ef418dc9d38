"""Several processes: two against one on the same work; and the memory of a run as it grows.

    python tests/benchmarks/processes.py

Speed: the same run (MiniLM on the quickstart's embedding tasks, all layers, three metrics), from an
empty store, in one process with all cores and in two with half of them each; the time of starting
up is measured by a run in which nothing is left to do, and taken off.
Memory: the largest that a process held, of runs on random models and texts, with n and 4n texts,
and with L and 2L blocks; what the larger model itself takes is printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from _setting import MODELS, timed

TASKS = ["TrecQuestionClassification", "LeeDocumentSTS", "ChatterbotRetrieval"]


def speed(processes: int, rounds: int) -> tuple[float, float]:
    """The best time of the run less that of starting up, and the latter."""
    from lrd_harness.store.location import cache_dir

    best = idle = float("inf")
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            cache.mkdir()
            for name in ("packages", "converted"):
                (cache / name).symlink_to(cache_dir() / name)
            command = [sys.executable, "-m", "lrd_harness", "run", "--models", MODELS["MiniLM"]]
            command += ["--tasks", *TASKS, "--plugins", "frenet,nrs,gfmi", "--quiet"]
            command += ["--output", f"{folder}/out", "--processes", str(processes)]
            env = {**os.environ, "LRD_HARNESS_CACHE": str(cache)}
            options = {"check": True, "stdout": subprocess.DEVNULL, "env": env}
            (whole, _), (again, _) = (timed(subprocess.run, command, **options) for _ in range(2))
            best, idle = min(best, whole - again), min(idle, again)
    return best, idle


def memory(texts: int, blocks: int) -> tuple[float, float]:
    """MiB that a run held at most, and that the opened model takes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", json.dumps([folder, texts, blocks])]
        env = {**os.environ, "LRD_HARNESS_CACHE": f"{folder}/cache"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        most, model = json.loads(done.stdout.splitlines()[-1])
    return most, model


def child(folder: str, texts: int, blocks: int) -> None:
    """One run in this process; print its largest memory."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import tiny

    from lrd_harness.cli import main

    draw = random.Random(0)
    words = [f"{draw.randrange(10**6)}" for _ in range(500)]
    rows = [{"text": " ".join(draw.choices(words, k=6))} for _ in range(texts)]
    tiny.write_rows(Path(folder) / "texts.jsonl", rows)
    size = {"hidden_size": 384, "intermediate_size": 768, "num_hidden_layers": blocks}
    model = tiny.save("Bert", Path(folder) / "model", **size)
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    arguments = ["run", "--models", str(model), "--tasks", f"texts:{folder}/texts.jsonl"]
    arguments += ["--plugins", "nrs,prompt_entropy", "--output", f"{folder}/out", "--quiet"]
    stdout = os.dup(1)
    os.dup2(2, 1)
    assert main(arguments) == 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    os.write(stdout, json.dumps([most, weights / 2**20]).encode())


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*json.loads(options.child))
        return
    one, two = speed(1, options.rounds), speed(2, options.rounds)
    print("processes   start    work  ratio")
    for name, (work, start) in (("one", one), ("two", two)):
        print(f"{name:9} {start:6.1f}s {work:6.1f}s {work / one[0]:6.2f}")
    print("texts blocks    peak   model")
    for texts, blocks in ((1000, 6), (4000, 6), (1000, 12)):
        most, model = memory(texts, blocks)
        print(f"{texts:5} {blocks:6} {most:5.0f} MiB {model:4.0f} MiB")


if __name__ == "__main__":
    main()
