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
from typing import Any

import numpy as np
import pandas as pd

from lrd_harness import manager
from lrd_harness.board import interchange, leaderboard

METRICS = "frenet.d0L", "dime.dime", "gfmi.mean_auc"


def main() -> None:
    """Print a line a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=2_000)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--measured", type=int, default=1, help="tasks that metrics have values on")
    parser.add_argument("--forms", nargs="*", default=["csv", "md", "table", "json"])
    options = parser.parse_args()
    os.environ.setdefault("COLUMNS", "120")
    plugins = manager.load()
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), options.models, options.tasks, options.measured)
        results = timed("read", lambda: interchange.read(*files))
    report = timed("build", lambda: leaderboard.report(results))
    for form in options.forms:
        reporter = plugins.get("reporter", form)
        text = timed(form, lambda reporter=reporter: reporter.write(report))
        print(f"{'':8} {len(text.encode()) / 2**20:7.1f} MiB of text")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{'memory':8} {peak:7.0f} MiB at most")


def write(folder: Path, models: int, tasks: int, measured: int) -> list[Path]:
    """The three files: scores (wide), values, models. Metrics and scores go with one skill."""
    draw, n = np.random.default_rng(0), np.arange(models)
    skill = draw.normal(size=models)
    names = pd.Index([f"org{i % 97}/model-{i}" for i in n], name="model")
    headings = [f"Task{j}" for j in range(tasks)]
    noise = draw.normal(size=(models, tasks))
    scores = np.clip(0.5 + 0.1 * (skill[:, None] + noise), 0, 1).round(4)
    columns = pd.MultiIndex.from_product([headings[:measured], METRICS], names=["task", "name"])
    values = skill[:, None] + draw.normal(size=(models, len(columns)))
    long = pd.DataFrame(values.round(5), names, columns).stack(["task", "name"], future_stack=True)
    sizes = {"parameters_millions": 30 + n % 7000, "width": 256 * (1 + n % 16)}
    sizes |= {"blocks": 6 + n % 40, "family": [f"family{i % 20}" for i in n]}
    frames = {
        "scores": pd.DataFrame(scores, names, headings),
        "values": long.rename("value").reset_index().assign(layer="model"),
        "models": pd.DataFrame(sizes, names),
    }
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=name != "values")
    return [folder / f"{name}.csv" for name in frames]


def timed(name: str, work: Callable[[], Any]) -> Any:
    """What the work gives; prints its seconds of CPU."""
    begin = time.process_time()
    result = work()
    print(f"{name:8} {time.process_time() - begin:7.2f} s", flush=True)
    return result


if __name__ == "__main__":
    main()
