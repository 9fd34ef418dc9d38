"""A panel of 25 models and 30 tasks as CSV files, drawn from a seed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MODELS, TASKS, BLOCKS = 25, 30, 4
FAMILIES = ("bert", "gte", "e5", "bge", "llama", "qwen", "mpnet", "t5", "phi")
TYPES = ("STS", "Retrieval", "Classification", "Clustering", "Reranking")
WIDTHS = (128, 256, 384, 768, 1024)
LAYERED = {"dime.dime": -1.0, "prompt_entropy.prompt_entropy": 0.5}  # how they go with quality
WHOLE = {"frenet.d0L": 0.9, "nrs.mean_jaccard": -0.4, "gfmi.mean_auc": 0.2, "frenet.rank": 0.1}


class Panel(NamedTuple):
    """The files: scores layer by layer, the last layer's alone, values, and sizes."""

    scores: Path
    wide: Path
    values: Path
    models: Path


def model(i: int) -> str:
    return f"org/model-{i:02d}"


def task(t: int) -> str:
    return f"Task{t:02d}"


def write(folder: Path) -> Panel:
    """Quality grows with width, by family and by chance; layers rise and fall again at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(2026)
    width = np.array([WIDTHS[(3 * i) % 5] for i in range(MODELS)])
    family = 0.1 * draw.random(len(FAMILIES))
    quality = np.log2(width) / 40 + family[np.arange(MODELS) % len(FAMILIES)]
    quality = quality + 0.1 * draw.random(MODELS)
    ease = 0.3 * draw.random(TASKS)
    scores = quality[:, None] + ease + 0.08 * draw.random((MODELS, TASKS))
    shape = np.array([-0.2, -0.1, 0.0, 0.015, 0.0])
    layered = scores[:, :, None] + shape + 0.02 * draw.random((MODELS, TASKS, BLOCKS + 1))
    panel = Panel(*(folder / f"{name}.csv" for name in ("scores", "wide", "values", "models")))
    _scores(panel, layered)
    _values(panel.values, scores, layered, draw)
    header = ["model", "parameters_millions", "width", "blocks", "family", "released"]
    millions = (width * (4 + np.arange(MODELS) % 7) / 8).round(1)
    sizes = [
        [model(i), millions[i], width[i], BLOCKS, FAMILIES[i % len(FAMILIES)], _released(i)]
        for i in range(MODELS)
    ]
    _write(panel.models, header, sizes)
    return panel


def _released(i: int) -> str:
    """Of every fifth model none is known."""
    return "" if i % 5 == 4 else f"202{i % 4}-{1 + (7 * i) % 12:02d}"


def _scores(panel: Panel, layered: np.ndarray) -> None:
    """Long as shares, wide as percent with the tasks' types; a score is missing."""
    cells = [
        [model(i), layer, task(t), f"{layered[i, t, layer]:.6f}", TYPES[t % len(TYPES)]]
        for i in range(MODELS)
        for t in range(TASKS)
        for layer in range(BLOCKS + 1)
    ]
    _write(panel.scores, ["model", "layer", "task", "score", "task_type"], cells)
    last = [[f"{100 * value:.4f}" for value in layered[i, :, -1]] for i in range(MODELS)]
    last[7][3] = ""
    types = ["#type", *(TYPES[t % len(TYPES)] for t in range(TASKS))]
    named = [[model(i), *last[i]] for i in range(MODELS)]
    _write(panel.wide, ["model", *map(task, range(TASKS))], [types, *named])


def _values(path: Path, scores: np.ndarray, layered: np.ndarray, draw: Any) -> None:
    cells: list[list[Any]] = []
    for name, share in WHOLE.items():
        made = share * scores + 0.2 * draw.random(scores.shape)
        cells += [
            [model(i), "model", task(t), name, f"{made[i, t]:.6f}"]
            for i, t in np.ndindex(*made.shape)
        ]
    for name, share in LAYERED.items():
        made = share * layered + 0.1 * draw.random(layered.shape)
        cells += [
            [model(i), layer, task(t), name, f"{made[i, t, layer]:.6f}"]
            for i, t, layer in np.ndindex(*made.shape)
        ]
    _write(path, ["model", "layer", "task", "name", "value"], cells)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
