"""Results that tests of exports share: hostile names, both kinds of task, every kind of row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.database import MetricRow, ModelRow, Profile, Results, ScoreRow, Table
from lrd_harness.results.rows import CaptureRow, ErrorRow, PruningRow, UndefinedRow, VariantRow

HOSTILE = (
    "org/model_50%",
    "[red]*star*",
    "--- ,, '' `` ?` !` \"x\"",
    "a & b \\ {c} $d$ #e ^f ~g",
    "two\nlines\r\x1b[31m: {yaml: [1, 2]}",
    "<script>|</script>",
    "../../etc/passwd",
    "right\u202eto left",
    "x" * 300,
    "模型 é ß",
    "- |\n---\n",
    "=1+1",
    "#type",
    "lead",
    " lead",
    "lead\n",
    "\\#type",
    "nan",
    "Org/model_50%",
)


def results(names: tuple[str, ...] = ("a/one", "b", "c", "d", "e"), seed: int = 0) -> Results:
    """Models of two embedding tasks and a likelihood task, with a metric that ranks and one not."""
    draw = np.random.default_rng(seed)
    models, scores, metrics = [], [], []
    for i, name in enumerate(names):
        who: dict[str, Any] = {"model": name, "revision": f"rev{i}"}
        sizes = {"parameters": 1_234_567 * (i + 1), "blocks": 2, "width": 8 * (i % 3 + 1)}
        models.append(ModelRow(**who, **sizes, family=f"f{i % 2}", pooling="mean"))
        for task, kind in (("One", "STS"), ("Two, too", "Retrieval"), ("Base", LIKELIHOOD)):
            on = {**who, "task": task, "task_type": kind}
            error = {"stderr": 0.01, "chance": 0.25} if kind == LIKELIHOOD else {}
            for layer in range(3):
                held = {"layer": layer, "layers": 2, "score_name": "acc_norm", **error}
                scores.append(
                    ScoreRow(**on, **held, score=float(draw.uniform()), scores={"f1": 0.5})
                )
            profile = Profile((0, 1, 2), (0.1, None, float(draw.normal())))
            metrics.append(
                MetricRow(
                    **on,
                    metric="frenet",
                    n=50,
                    selection=("d0L", "max"),
                    values={"d0L": float(draw.normal()), "rank": float(draw.uniform())},
                    profiles={"speed": profile},
                    parameters={"k": 3},
                )
            )
            chosen = Profile((0, 1, 2), tuple(map(float, draw.normal(size=3))))
            best: Any = ("dime", "min")
            held = {"metric": "dime", "n": 50, "layer_choice": best, "profiles": {"dime": chosen}}
            tables = {"histogram": Table((0, 2), ((1.0, 2.0), (3.0, 4.5)))}
            metrics.append(MetricRow(**on, **held, tables=tables))
    return Results(models=tuple(models), scores=tuple(scores), metrics=tuple(metrics))


def whole() -> Results:
    """A result of every kind."""
    made = results()
    who: dict[str, Any] = {"model": "b", "revision": "rev1"}
    pruned = {**who, "variant": "pruned-1"}
    return replace(
        made,
        errors=(ErrorRow(**who, task="One", metric="nrs", error="NotFinite: state 3"),),
        captures=(
            CaptureRow(
                **who,
                texts=9,
                forwarded=8,
                tokens=70,
                truncated=1,
                empty=0,
                duplicates=1,
                seconds=2.5,
            ),
        ),
        undefined=(UndefinedRow(**who, task="One", layer=0, error="all the same"),),
        prunings=(
            PruningRow(**pruned, rule="random", seed=1, budget=0.5, removed=(2,), blocks=2, n=50),
        ),
        variants=(
            VariantRow(**pruned, removed=(2,), parameters=5, parameters_full=9, latency=0.5),
        ),
    )
