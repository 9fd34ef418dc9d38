"""A made board with something for every table and figure of the page."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pruning_rows import SWEEP

from lrd_harness.board.leaderboard import Leaderboard, build
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.database import ErrorRow, MetricRow, ModelRow, Profile, Results, ScoreRow
from lrd_harness.results.rows import Table

NAMES = tuple(f"owner/model-{letter}" for letter in "abcdefgh")
BLOCKS = 4
TASKS = {"Bank": "Classification", "Sts": "STS", "Trec": "Classification", "News": "Clustering"}
BINS = 50
INHERITED = ("constructor", "toString")  # what every object of JavaScript has
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script><!--",
    '"><img src=x onerror="window.hacked = 3">',
    "'onmouseover='window.hacked = 4' x='",
    "{{constructor.constructor('window.hacked = 5')()}} ${window.hacked = 6}",
    "right\u202eto left \u200f\u2067",
    "x" * 300,
    "javascript:window.hacked=7 datum['model'] [0].a\\n\n\x1b[31m",
    "__proto__",
    *INHERITED,
)


def results(names: Sequence[str] = NAMES, seed: int = 0) -> Results:
    """Models with scores and metrics at every layer; the last two are scored on MMLU too."""
    rng = np.random.default_rng(seed)
    models, scores, metrics = [], [], []
    own = tuple(names) == HOSTILE  # then names of tasks, families and metrics are hostile too
    odd = (*INHERITED, HOSTILE[0], "__proto__")
    tasks = dict(zip(odd, TASKS.values(), strict=False)) if own else TASKS
    families = odd[:3] if own else ("bert", "llama", "gpt2")
    named = odd[1:4] if own else ("frenet", "prompt_entropy", "subspace_distance")
    for i, name in enumerate(names):
        size = {"parameters": 10**6 * (i + 1), "width": 64 * (i + 1), "blocks": BLOCKS}
        family = families[i % len(families)]
        models.append(ModelRow(model=name, family=family, pooling="mean", **size))
        base = {"MMLU": LIKELIHOOD} if i >= len(names) - 2 else {}
        for task, kind in (tasks | base).items():
            held: dict[str, Any] = {"model": name, "task": task, "task_type": kind}
            for layer in range(BLOCKS + 1):
                score = 0.3 + 0.05 * layer + 0.02 * i + 0.05 * rng.random()
                scores.append(ScoreRow(**held, layer=layer, layers=BLOCKS, score=score))
            metrics += _metrics(held, rng, float(i), named)
    error = ErrorRow(model=names[0], task="Sts", metric="gfmi", error="NotFinite: state 3")
    return Results(tuple(models), tuple(scores), tuple(metrics), (error,))


def _metrics(
    held: dict[str, Any], rng: np.random.Generator, level: float, names: Sequence[str]
) -> list[MetricRow]:
    layers = tuple(range(BLOCKS + 1))

    def profile() -> Profile:
        return Profile(layers, tuple(rng.random(BLOCKS + 1).tolist()))

    counts = rng.integers(0, 5, (BLOCKS + 1, BINS)).tolist()
    far = rng.random((BLOCKS + 1, BLOCKS + 1))
    first, second, third = names
    far = (far + far.T) / 2 * (1 - np.eye(BLOCKS + 1))
    return [
        MetricRow(
            **held,
            metric=first,
            n=20,
            selection=("d0L", "max"),
            values={"d0L": level + 3 * rng.random(), "rank": 3.0},
            profiles={"speed": profile()},
        ),
        MetricRow(
            **held,
            metric=second,
            n=20,
            layer_choice=(second, "min"),
            profiles={"normalised": profile(), second: profile()},
            tables={"histogram": Table(layers, tuple(map(tuple, counts)))},
        ),
        MetricRow(
            **held,
            metric=third,
            n=20,
            tables={"distance": Table(layers, tuple(map(tuple, far.tolist())))},
        ),
    ]


def board(names: Sequence[str] = NAMES) -> Leaderboard:
    """The board of these results, with a pruning sweep beside them."""
    found = build(results(names))
    return replace(found, pruned=build(SWEEP).pruned)


def page(held: Leaderboard) -> str:
    """The page of a board."""
    plugin: Any = importlib.import_module("lrd_harness.plugins.reporters.page")
    text: str = plugin.html(held)
    return text
