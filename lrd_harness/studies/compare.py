"""Two models of equal depth on the same texts, layer by layer: a base and its tuned version."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np

from lrd_harness.contracts import Model, ModelInfo
from lrd_harness.errors import UserError
from lrd_harness.measuring import MIN_TEXTS
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
    _check_depths(a, b, a.depth, b.depth)
    if design.texts < MIN_TEXTS:
        raise UserError(f"a comparison needs at least {MIN_TEXTS} texts, got {design.texts}")
    _ = design.halves  # which may not be possible: not after a model is read
    info: list[ModelInfo] = []
    both: list[dict[str, Measurement[LayerScore]]] = []
    faults = []
    items = design.items
    for side, planned in zip("AB", (a, b), strict=True):

        def check(model: Model) -> None:
            if info:
                _check_depths(a, b, info[0].blocks, model.info.blocks)
            info.append(model.info)

        found, failed = Sample(planned, design, items, display, check).measured(items, layer_score)
        gc.collect()  # no two models in memory at once
        both.append(found)
        faults += [{"side": side, "metric": m, "error": text} for m, text in failed.items()]
        items = [item for item in items if item.metric.name in found]
    scores = {item.metric.name: both[0][item.metric.name].whole for item in items}
    blocks = info[0].blocks
    names = {"model_a": a.name, "revision_a": a.checkpoint.revision}
    names |= {"model_b": b.name, "revision_b": b.checkpoint.revision}
    rows = [
        {**names, **row}
        for name in scores
        for row in differences(both[0][name], both[1][name], blocks, design.texts)
    ]
    poolings = {f"pooling_{side}": one.pooling for side, one in zip("ab", info, strict=True)}
    facts = {**names, **poolings, "blocks": blocks, **design.facts, "errors": faults}
    caption = [
        f"A: {a.name} ({a.checkpoint.revision}), {info[0].pooling} pooling; "
        f"B: {b.name} ({b.checkpoint.revision}), {info[1].pooling} pooling; {design.texts} texts.",
        DIRECTIONS,
        *_intervals(rows, design),
    ]
    tables = captioned([_table(score, rows) for score in scores.values()], caption)
    tables.append(Table("compare", "Differences", tuple(map(Column, COLUMNS)), rows, shown=False))
    errors = (f"{f['side']}, {f['metric']}: {f['error']}" for f in faults)
    return Report(f"{a.name} and {b.name}", tuple(tables), (), tuple(errors), facts)


def _check_depths(
    a: PlannedModel, b: PlannedModel, depth_a: int | None, depth_b: int | None
) -> None:
    if None not in (depth_a, depth_b) and depth_a != depth_b:
        raise UserError(
            f"{a.name} has {depth_a} blocks and {b.name} has {depth_b}: "
            "layers are compared one by one, so the models must be equally deep"
        )


def differences(
    a: Measurement[LayerScore], b: Measurement[LayerScore], blocks: int, texts: int
) -> list[dict[str, Any]]:
    """The layers at which both models have a value, and b minus a there.

    depth: layer / L; low, high: the 95 % interval of the difference over texts, None without;
    apart: whether it excludes 0; draws: how many half-samples gave a value. texts: how many the
    halves are halves of.
    """
    found = []
    for layer, value in a.whole.values.items():
        other = b.whole.values.get(layer)
        if value is None or other is None:
            continue
        pairs = zip(
            *([h and h.values.get(layer) for h in side.halves] for side in (a, b)), strict=True
        )
        drawn = [None if x is None or y is None else y - x for x, y in pairs]
        low, high = interval(other - value, drawn, texts) or (None, None)
        found.append(
            {
                "metric": a.whole.metric,
                "score": a.whole.name,
                "layer": layer,
                "depth": layer / blocks,
                "a": value,
                "b": other,
                "difference": other - value,
                "low": low,
                "high": high,
                "apart": low is not None and high is not None and not low <= 0 <= high,
                "n_a": a.n,
                "n_b": b.n,
                "draws": sum(x is not None and bool(np.isfinite(x)) for x in drawn),
            }
        )
    return found


def _table(score: LayerScore, rows: Sequence[Row]) -> Table:
    own = {row["layer"]: row for row in rows if row["metric"] == score.metric}
    some = [{**own[i], "mark": "*" if own[i]["apart"] else None} for i in spaced(list(own))]
    return Table(score.metric, score.title, SHOWN, some)


def _intervals(rows: Sequence[Row], design: Design) -> list[str]:
    """What the intervals say, and where they are rough."""
    sure = [row for row in rows if row["low"] is not None]
    said = []
    if sure:
        said.append(
            "from, to: 95 % interval of B - A over texts. "
            f"*: it excludes 0, as at {sum(row['apart'] for row in sure)} of {len(sure)} layers of "
            f"all metrics; about {0.05 * len(sure):.1f} would by chance (5 %) without any "
            "difference."
        )
        if design.texts < MANY:
            said.append(
                "Intervals of means over texts hold; those of what is made of all texts together "
                f"(ranks, neighbours, entropies of a data set) are rough below {MANY} texts."
            )
    if design.draws and len(sure) < len(rows):
        said.append("No interval: fewer than half of the half-samples gave a value.")
    return said
