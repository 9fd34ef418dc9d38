"""What a leaderboard of many models costs: seconds of CPU for reading, building and each form.

    python tests/benchmarks/board.py

2,000 models x 100 tasks of last layers' scores and three metrics, by way of CSV files that are
made first. `--measured` says on how many of the tasks the metrics have a value (aim: with the
default, reading and building together under 8 seconds, each form a few seconds).
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from lrd_harness import manager
from lrd_harness.board import interchange, leaderboard

METRICS = "frenet.d0L", "dime.dime", "gfmi.mean_auc"
T = TypeVar("T")


def main() -> None:
    """Print a line a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=2_000)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--measured", type=int, default=1, help="tasks that metrics have values on")
    parser.add_argument("--forms", nargs="*", default=["csv", "md", "table", "json"])
    chosen = parser.parse_args()
    os.environ.setdefault("COLUMNS", "120")
    plugins = manager.load()
    with tempfile.TemporaryDirectory() as made:
        files = write(Path(made), chosen.models, chosen.tasks, chosen.measured)
        results = timed("read", lambda: interchange.read(*files))
    report = timed("build", lambda: leaderboard.report(results))
    for form in chosen.forms:
        reporter = plugins.get("reporter", form)
        text = timed(form, lambda reporter=reporter: reporter.write(report))
        print(f"{'':8} {len(text.encode()) / 2**20:7.1f} MiB of text")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{'memory':8} {peak:7.0f} MiB at most")


def write(folder: Path, models: int, tasks: int, measured: int) -> list[Path]:
    """The three files: scores (wide), values, models. Metrics and scores go with one skill."""
    draw = np.random.default_rng(0)
    skill = draw.normal(size=models)
    names = [f"org{i % 97}/model-{i}" for i in range(models)]
    headings = [f"Task{j}" for j in range(tasks)]
    noise = draw.normal(size=(models, tasks))
    scores = np.clip(0.5 + 0.1 * (skill[:, None] + noise), 0, 1).round(4).tolist()
    values = (skill[:, None, None] + draw.normal(size=(models, measured, len(METRICS)))).tolist()
    wide = [
        ["model", *headings],
        *([name, *map(str, row)] for name, row in zip(names, scores, strict=True)),
    ]
    long = [["model", "layer", "task", "name", "value"]]
    for name, by_task in zip(names, values, strict=True):
        for task, row in zip(headings, by_task, strict=False):
            long += [
                [name, "model", task, metric, f"{value:.5f}"]
                for metric, value in zip(METRICS, row, strict=True)
            ]
    sizes = [["model", "parameters_millions", "width", "blocks", "family"]]
    sizes += [
        [name, f"{30 + i % 7000}", f"{256 * (1 + i % 16)}", f"{6 + i % 40}", f"family{i % 20}"]
        for i, name in enumerate(names)
    ]
    files = [folder / f"{name}.csv" for name in ("scores", "values", "models")]
    for file, rows in zip(files, (wide, long, sizes), strict=True):
        file.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    return files


def timed(name: str, work: Callable[[], T]) -> T:
    """What the work gives; prints its seconds of CPU."""
    begun = time.process_time()
    found = work()
    print(f"{name:8} {time.process_time() - begun:7.2f} s", flush=True)
    return found


if __name__ == "__main__":
    main()
