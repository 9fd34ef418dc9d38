"""Two models of equal depth on the same texts, layer by layer: a base and its tuned version."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lrd_harness.contracts import ModelInfo
from lrd_harness.errors import UserError
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.report import Column, Report, Row, Table
from lrd_harness.studies.values import (
    DIRECTIONS,
    MANY,
    Design,
    LayerScore,
    Measurement,
    Sample,
    captioned,
    interval,
    layer_score,
    opened,
    spaced,
)

COLUMNS = (
    "model_a revision_a model_b revision_b metric score layer depth a b difference low high apart "
    "n_a n_b draws"
).split()
SHOWN = (
    Column("layer", key=True),
    Column("a", "A", form="#.4g"),
    Column("b", "B", form="#.4g"),
    Column("difference", "B - A", form="+#.3g"),
    Column("low", "from", form="+#.3g"),
    Column("high", "to", form="+#.3g"),
    Column("mark", " "),
)


def compare(a: PlannedModel, b: PlannedModel, design: Design, display: Display) -> Report:
    """Measure both models, one after the other; their differences by metric and layer.

    Table "compare" has all of them; one table per metric shows them.
    Raises UserError for models of unequal depth, for too few texts for intervals, and for a model
    that cannot be opened.
    """

    def check_depths(depth_a: int | None, depth_b: int | None) -> None:
        if None not in (depth_a, depth_b) and depth_a != depth_b:
            raise UserError(
                f"{a.name} has {depth_a} blocks and {b.name} has {depth_b}: "
                "layers are compared one by one, so the models must be equally deep"
            )

    check_depths(a.depth, b.depth)
    design.check("a comparison needs")
    info: list[ModelInfo] = []
    sides: list[dict[str, Measurement[LayerScore]]] = []
    faults, left = [], design
    for side, planned in zip("AB", (a, b), strict=True):
        model = opened(planned, display)
        info.append(model.info)
        check_depths(info[0].blocks, model.info.blocks)
        sample = Sample(planned.name, model, left, display)
        measured, failed = sample.measured(layer_score)
        del model, sample
        gc.collect()  # no two models in memory at once
        sides.append(measured)
        faults += [{"side": side, "metric": m, "error": text} for m, text in failed.items()]
        left = replace(left, items=[item for item in left.items if item.metric.name in measured])
    (of_a, of_b), (info_a, info_b) = sides, info
    models = {"model_a": a.name, "revision_a": a.checkpoint.revision}
    models |= {"model_b": b.name, "revision_b": b.checkpoint.revision}
    rows = [
        {**models, **row}
        for item in left.items
        for row in differences(
            of_a[item.metric.name], of_b[item.metric.name], info_a.blocks, design.texts
        )
    ]
    caption = [
        f"A: {a.name} ({a.checkpoint.revision}), {info_a.pooling} pooling; "
        f"B: {b.name} ({b.checkpoint.revision}), {info_b.pooling} pooling; {design.texts} texts.",
        DIRECTIONS,
        *_intervals(rows, design),
    ]
    tables = captioned([_table(of_a[item.metric.name].whole, rows) for item in left.items], caption)
    tables.append(Table("compare", "Differences", tuple(map(Column, COLUMNS)), rows, shown=False))
    errors = (f"{f['side']}, {f['metric']}: {f['error']}" for f in faults)
    poolings = {"pooling_a": info_a.pooling, "pooling_b": info_b.pooling}
    facts = {**models, **poolings, "blocks": info_a.blocks, **design.facts, "errors": faults}
    return Report(f"{a.name} and {b.name}", tuple(tables), (), tuple(errors), facts)


def differences(
    a: Measurement[LayerScore], b: Measurement[LayerScore], blocks: int, texts: int
) -> list[dict[str, Any]]:
    """The layers at which both models have a value, and b minus a there.

    depth: layer / L; low, high: the 95 % interval of the difference over texts, None without;
    apart: whether it excludes 0; draws: how many half-samples gave a value. texts: how many the
    halves are halves of.
    """
    rows: list[dict[str, Any]] = []
    both = {"metric": a.whole.metric, "score": a.whole.name, "n_a": a.n, "n_b": b.n}
    for layer, value in a.whole.values.items():
        other = b.whole.values.get(layer)
        if value is None or other is None:
            continue
        # None becomes NaN, and so does its difference
        drawn_a, drawn_b = (
            np.array([half and half.values.get(layer) for half in side.halves], dtype=float)
            for side in (a, b)
        )
        drawn, difference = drawn_b - drawn_a, other - value
        low, high = interval(difference, drawn, texts) or (None, None)
        apart = low is not None and high is not None and not low <= 0 <= high
        here = {"layer": layer, "depth": layer / blocks, "a": value, "b": other}
        sure = {"low": low, "high": high, "apart": apart, "draws": int(np.isfinite(drawn).sum())}
        rows.append({**both, **here, "difference": difference, **sure})
    return rows


def _table(score: LayerScore, rows: Sequence[Row]) -> Table:
    by_layer = {row["layer"]: row for row in rows if row["metric"] == score.metric}
    shown = (by_layer[layer] for layer in spaced(list(by_layer)))
    marked = [{**row, "mark": "*" if row["apart"] else None} for row in shown]
    return Table(score.metric, score.title, SHOWN, marked)


def _intervals(rows: Sequence[Row], design: Design) -> Iterator[str]:
    """What the intervals say, and where they are rough."""
    sure = [row for row in rows if row["low"] is not None]
    if sure:
        yield (
            "from, to: 95 % interval of B - A over texts. "
            f"*: it excludes 0, as at {sum(row['apart'] for row in sure)} of {len(sure)} layers of "
            f"all metrics; about {0.05 * len(sure):.1f} would by chance (5 %) without any "
            "difference."
        )
    if sure and design.texts < MANY:
        yield (
            "Intervals of means over texts hold; those of what is made of all texts together "
            f"(ranks, neighbours, entropies of a data set) are rough below {MANY} texts."
        )
    if design.draws and len(sure) < len(rows):
        yield "No interval: fewer than half of the half-samples gave a value."
