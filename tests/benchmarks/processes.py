"""Several processes: two against one on the same work; and the memory of a run as it grows.

    python tests/benchmarks/processes.py

Speed: the same run (the quickstart's embedding tasks, all layers, three metrics), from an empty
store, in one process on one core and with two cores, and in two processes on two cores; the best of
some rounds in turn. "work" is the time of the command less that of one in which nothing is left to
do ("start"), so what is imported and loaded at its first use is in it. "profile" is what each
process counts itself (run.json), from the plan on. What else runs on the machine shows in all.
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
from functools import partial
from pathlib import Path

from _setting import MODELS, timed

TASKS = ["TrecQuestionClassification", "LeeDocumentSTS", "ChatterbotRetrieval"]


def speed(model: str, processes: int, cores: set[int]) -> tuple[float, float, float]:
    """The seconds of a run on these cores less those of starting up, by its profile; the latter."""
    from lrd_harness.store.location import cache_dir

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        cache.mkdir()
        for name in ("packages", "converted"):
            (cache / name).symlink_to(cache_dir() / name)
        command = [sys.executable, "-m", "lrd_harness", "run", "--models", MODELS[model]]
        command += ["--tasks", *TASKS, "--plugins", "frenet,nrs,gfmi", "--quiet"]
        command += ["--output", f"{folder}/out", "--processes", str(processes)]
        env = {**os.environ, "LRD_HARNESS_CACHE": str(cache)}
        env["OMP_NUM_THREADS"] = str(len(cores) // processes)
        options = {"check": True, "stdout": subprocess.DEVNULL, "env": env}
        options["preexec_fn"] = partial(os.sched_setaffinity, 0, cores)
        whole, _ = timed(subprocess.run, command, **options)
        (profile,) = json.loads(Path(folder, "out", "run.json").read_text())["profile"]
        again, _ = timed(subprocess.run, command, **options)
        own = sum(spent["wall"] for spent in profile["stages"].values()) / profile["processes"]
        return whole - again, own, again


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
    sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
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
    parser.add_argument("--model", default="SmolLM2", choices=list(MODELS))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*json.loads(options.child))
        return
    first, second, *_ = os.sched_getaffinity(0)
    ways = [(1, {first}), (1, {first, second}), (2, {first, second})]
    rounds = [[speed(options.model, *way) for way in ways] for _ in range(options.rounds)]
    print("processes cores   start    work  times as fast  profile  times as fast")
    best = [[min(kind) for kind in zip(*times, strict=True)] for times in zip(*rounds, strict=True)]
    for (processes, cores), (work, own, start) in zip(ways, best, strict=True):
        print(
            f"{processes:9} {len(cores):5} {start:6.1f}s {work:6.1f}s {best[0][0] / work:14.2f}"
            f" {own:7.1f}s {best[0][1] / own:14.2f}"
        )
    print("texts blocks    peak   model")
    for texts, blocks in ((1000, 6), (4000, 6), (1000, 12)):
        most, model = memory(texts, blocks)
        print(f"{texts:5} {blocks:6} {most:5.0f} MiB {model:4.0f} MiB")


if __name__ == "__main__":
    main()
