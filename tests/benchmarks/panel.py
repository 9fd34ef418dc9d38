"""What panel metrics cost: seconds of 10 models on 2,000 texts, and the memory beside the states.

    python tests/benchmarks/panel.py

The states are random, as float16, of spectra that fall as 1 / i, as wide as models are; they
are read one at a time, as from the store (aim: under 5 minutes on two cores).
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from lrd_harness import manager
from lrd_harness.panels import ByModel, measure_panel

WIDTHS = (384, 384, 384, 576, 576, 768, 768, 768, 1024, 1024)
METRICS = ("info_gauss", "mutual_knn", "panel_cka")


def main() -> None:
    """Print a line a metric."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--metrics", nargs="+", default=METRICS)
    options = parser.parse_args()
    plugins, states = manager.load(), panel(options.texts, options.widths)
    held = peak()
    narrow, wide = min(options.widths), max(options.widths)
    print(f"{len(states)} models, {options.texts} texts, {narrow} to {wide} wide")
    print(f"{'metric':11} {'wall':>8} {'CPU':>8} {'most memory':>12}")
    for name in options.metrics:
        began, cpu = time.perf_counter(), time.process_time()
        measure_panel(plugins.get("panel metric", name), ByModel(states, states.__getitem__))
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(f"{name:11} {wall:7.1f}s {cpu:7.1f}s {peak() - held:8.0f} MiB", flush=True)


def panel(texts: int, widths: list[int]) -> dict[str, torch.Tensor]:
    """Models that see the same directions in part, by their width and number."""
    seen = np.random.default_rng(0).standard_normal((texts, 256), dtype=np.float32)
    states = {}
    for i, width in enumerate(widths):
        draw = np.random.default_rng(i + 1)
        falling = 1 / np.arange(1, 257)[:, None]
        state = (seen * falling.T) @ draw.standard_normal((256, width))
        state += 0.05 * draw.standard_normal((texts, width))
        states[f"{width:4} wide, {i}"] = torch.from_numpy(state).half()
    return states


def peak() -> float:
    """The most memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
