"""The whole sweep of a model against one stock evaluation of its last layer, in CPU seconds.

    python tests/benchmarks/stock.py --tasks STSBenchmark Banking77Classification --task-data DIR

Stock is `mteb.evaluate` of SentenceTransformer on the tasks, as they come. Ours is `lrd-harness
run` from an empty store: every layer read, three metrics, mteb's evaluator at every layer, result
files and tables. Each is a process of its own, user and system time counted, with one thread: more
of them wait for each other, which counts as well. What it takes to begin (imports, the tasks' data)
is measured by one that then has nothing to do, and taken off. The share of each stage is what the
run says of itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _setting import arguments, folder

LIBRARIES = ("OMP", "MKL", "OPENBLAS", "RAYON")


def cpu(command: list[str], threads: int, **environment: str) -> float:
    """The CPU seconds of a command, its children's among them."""
    each = {f"{name}_NUM_THREADS": str(threads) for name in LIBRARIES}
    env = {**os.environ, **each, "TOKENIZERS_PARALLELISM": "false", **environment}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


def ours(name: str, options: argparse.Namespace) -> tuple[float, float, dict[str, Any]]:
    """Seconds of the sweep, and to begin; what its run.json says."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "lrd_harness", "run", "--models", str(folder(name))]
        command += ["--tasks", *options.tasks, "--plugins", "frenet,nrs,gfmi", "--quiet"]
        command += ["--max-length", str(options.max_length), "--pooling", "mean"]
        command += ["--output", f"{place}/out", *data(options)]
        packages = Path(os.environ.get("LRD_HARNESS_CACHE", Path.home() / ".cache" / "lrd-harness"))
        cache = Path(place) / "cache"
        cache.mkdir()
        (cache / "packages").symlink_to(packages / "packages")
        own = {"LRD_HARNESS_CACHE": str(cache)}
        whole, begin = (cpu(command, options.threads, **own) for _ in range(2))
        return whole - begin, begin, json.loads(Path(place, "out", "run.json").read_text())


def stock(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the stock evaluation, and to begin."""
    command = [sys.executable, __file__, "--models", name, "--tasks", *options.tasks]
    command += ["--max-length", str(options.max_length), *data(options)]
    begin, whole = (
        cpu([*command, "--child", what], options.threads) for what in ("begin", "evaluate")
    )
    return whole - begin, begin


def data(options: argparse.Namespace) -> list[str]:
    """The option that says where tasks' data lie."""
    return ["--task-data", str(options.task_data.absolute())] if options.task_data else []


def loaded(options: argparse.Namespace) -> Iterable[Any]:
    """mteb's task objects with their data."""
    import mteb
    from lrd_harness.tasks.embedding import local_data
    from lrd_harness.tasks.offline.tasks import OFFLINE

    offline = {task.name: task.make for task in OFFLINE}
    for name in options.tasks:
        task = offline[name]() if name in offline else mteb.get_task(name)
        if options.task_data and (options.task_data / name).is_dir():
            local_data.load(task, options.task_data / name)
        else:
            task.load_data()
        yield task


def child(options: argparse.Namespace) -> None:
    """The stock evaluation, or what goes before it."""
    import mteb
    from sentence_transformers import SentenceTransformer

    tasks = list(loaded(options))
    if options.child == "evaluate":
        model = SentenceTransformer(str(folder(options.models[0])), device="cpu")
        model.max_seq_length = options.max_length
        mteb.evaluate(model, tasks, cache=None, co2_tracker=False, show_progress_bar=False)


def main() -> None:
    """Print a row a model, and the shares of its stages."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", nargs="+", default=["LeeDocumentSTS"])
    parser.add_argument("--task-data", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    print(f"{'model':8} {'stock':>8} {'sweep':>8} {'ratio':>6}   to begin")
    for name in options.models:
        plain, before = stock(name, options)
        sweep, begin, run = ours(name, options)
        row = f"{name:8} {plain:7.1f}s {sweep:7.1f}s {sweep / plain:6.2f}"
        print(f"{row}   {before:.1f}s and {begin:.1f}s", flush=True)
        stages = run["profile"][0]["stages"]
        for stage, spent in sorted(stages.items(), key=lambda item: -item[1]["cpu"]):
            print(f"  {stage:18} {spent['cpu']:7.1f}s {spent['cpu'] / sweep:7.0%}")


if __name__ == "__main__":
    main()
