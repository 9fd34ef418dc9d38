"""How even slices are: slowest / mean, of a panel of 31 models from 22 M to 8 B on 30 tasks.

    python tests/benchmarks/shards.py

By count, and at equal cost; beside it how often models are opened, and what no cut goes below: the
largest pair of model and task, its model opened, to the mean (aim: 1.15 where that allows it).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from plans import panel, plan

from lrd_harness.planning import shards

AIM = 1.15


def main() -> int:
    """Print a row a number of slices; 1 where one of them is less even than it can be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=31)
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--slices", type=int, nargs="+", default=[8, 16, 31, 64])
    options = parser.parse_args()
    whole, costs = plan(options.models, options.tasks), panel(options.models, options.tasks)
    print("slices  by count  at equal cost  openings  least possible")
    uneven = False
    for of in options.slices:
        counted = [shards.by_count(whole, of, number) for number in range(1, of + 1)]
        seconds = [sum(costs[name].of(part[name]) for name in part) for part in counted]
        cut = shards.by_cost(whole, of, costs)
        mean = sum(part.seconds for part in cut.slices) / of
        largest = max(costs[name].of([t]) for name in costs for t in costs[name].tasks) / mean
        openings = sum(len(part.pairs) for part in cut.slices)
        by_count = max(seconds) * of / sum(seconds)
        print(f"{of:6}  {by_count:8.2f}  {cut.ratio:13.3f}  {openings:8}  {max(1, largest):14.3f}")
        uneven |= cut.ratio > max(AIM, largest * shards.STEP)
    return int(uneven)


if __name__ == "__main__":
    sys.exit(main())
