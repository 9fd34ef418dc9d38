"""Two models on the same texts, as a base and its tuned or pruned version: outputs, then layers."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrd_harness.capture.fidelity import alike
from lrd_harness.capture.layers import StoredStates
from lrd_harness.contracts import ModelInfo
from lrd_harness.errors import UnitError
from lrd_harness.planning.models import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.report import Column, Report, Row, Table
from lrd_harness.studies import fidelity
from lrd_harness.studies.fidelity import Fidelity, Outputs
from lrd_harness.studies.values import (
    DIRECTIONS,
    MANY,
    Design,
    LayerScore,
    Measurement,
    Sample,
    fault,
    interval,
    layer_score,
    opened,
    spaced,
)

COLUMNS = (
    "model_a revision_a model_b revision_b metric score layer depth a b difference low high apart "
    "n_a n_b draws layer_b"
).split()
LAYERS = (
    Column("layer", key=True),
    Column("layer_b", "layer of B", key=True),
    Column("cosine", form=".4g"),
    Column("rsa", "rank correlation", form=".4g"),
    Column("knn_overlap", "10 nearest", form=".4g"),
    Column("cka", "CKA", form=".4g"),
)
SHOWN = (
    Column("layer", key=True),
    Column("layer_b", "layer of B", key=True),
    Column("a", "A", form="#.4g"),
    Column("b", "B", form="#.4g"),
    Column("difference", "B - A", form="+#.3g"),
    Column("low", "from", form="+#.3g"),
    Column("high", "to", form="+#.3g"),
    Column("mark", " "),
)

STATES = "As above, of states before any scaling to length 1, which CKA sees."
UNEQUAL = (
    "The models are not equally deep: a layer of A stands beside the one of B that is nearest in "
    "relative depth (layer / blocks), nothing being interpolated."
)


@dataclass(frozen=True, eq=False)
class Side:
    """What was read of one model; faults: by metric, "fidelity" among them."""

    planned: PlannedModel
    info: ModelInfo
    measured: Mapping[str, Measurement[LayerScore]]
    faults: Mapping[str, str]
    outputs: Outputs | None
    states: StoredStates | None


def _read(planned: PlannedModel, design: Design, display: Display) -> Side:
    model = opened(fidelity.with_head(planned), display)
    sample = Sample(planned.name, model, design, display)
    measured, faults = sample.measured(layer_score)
    outputs, states = None, sample.states if design.items else None  # which else are not read
    try:
        outputs = fidelity.outputs(planned, model, design, display)
    except Exception as error:  # as memory that does not suffice; the metrics stay
        faults["fidelity"] = fault(error)
    if model.head is not None:  # which is kept, but there are to be no two models in memory
        del model.blocks[:]
    return Side(planned, model.info, measured, faults, outputs, states)


def compare(a: PlannedModel, b: PlannedModel, design: Design, display: Display) -> Report:
    """Measure both models, one after the other; how alike they are, and where they differ.

    Table "fidelity" compares their outputs, "alike" their states layer by layer; "compare" has the
    differences of all metrics, and one table per metric shows them. Of models of unequal depth, a
    layer of A stands beside the one of B that is nearest in relative depth. Raises UserError for
    too few texts for intervals, and for a model that cannot be opened.
    """
    design.check("a comparison needs")
    of_a = _read(a, design, display)
    gc.collect()
    items = [item for item in design.items if item.metric.name in of_a.measured]
    of_b = _read(b, replace(design, items=items), display)
    names = [item.metric.name for item in items if item.metric.name in of_b.measured]
    pairs = [(of_a.measured[name], of_b.measured[name]) for name in names]
    depths = of_a.info.blocks, of_b.info.blocks
    models = {"model_a": a.name, "revision_a": a.checkpoint.revision}
    models |= {"model_b": b.name, "revision_b": b.checkpoint.revision}
    rows = [{**models, **row} for pair in pairs for row in differences(*pair, depths, design.texts)]
    both = of_a.outputs and of_b.outputs and Fidelity(of_a.outputs, of_b.outputs)
    states = _alike(of_a.states, of_b.states, depths) if of_a.states and of_b.states else []
    tables = [both.table("fidelity", "original: A; changed: B.")] if both else []
    tables.append(Table("alike", "How alike the states of layers are", LAYERS, states, (STATES,)))
    tables += [_table(first.whole, rows) for first, _ in pairs]
    tables = [_equal(table) if depths[0] == depths[1] else table for table in tables if table.rows]
    if tables:
        caption = (*tables[-1].caption, *_caption(of_a, of_b, rows, design))
        tables[-1] = replace(tables[-1], caption=caption)
    tables.append(Table("compare", "Differences", tuple(map(Column, COLUMNS)), rows, shown=False))
    faults = [
        {"side": side, "metric": metric, "error": text}
        for side, of in (("A", of_a), ("B", of_b))
        for metric, text in of.faults.items()
    ]
    poolings = {"pooling_a": of_a.info.pooling, "pooling_b": of_b.info.pooling}
    facts = {**models, **poolings, "blocks": depths[0], "blocks_b": depths[1], **design.facts}
    facts |= {"fidelity": both.figures if both else {}, "alike": states, "errors": faults}
    return Report(
        f"{a.name} and {b.name}",
        tuple(tables),
        answer=both.answer if both else (),
        errors=tuple("{side}, {metric}: {error}".format(**row) for row in faults),
        facts=facts,
    ).of(a.modality, a.name, b.name)


def _caption(a: Side, b: Side, rows: Sequence[Row], design: Design) -> Iterator[str]:
    sides = (
        f"{name}: {of.planned.name} ({of.planned.checkpoint.revision}), {of.info.pooling} pooling"
        for name, of in (("A", a), ("B", b))
    )
    yield f"{'; '.join(sides)}; {design.texts} texts."
    if rows:
        yield DIRECTIONS
    if a.info.blocks != b.info.blocks:
        yield UNEQUAL
    yield from _intervals(rows, design)


def nearest(layer: int, depths: tuple[int, int], layers: Collection[int]) -> int | None:
    """The layer of B that stands beside one of A: of those, the nearest in relative depth.

    The first of two that are equally near; of models of equal depth, the layer itself, or none.
    """
    if depths[0] == depths[1]:
        return layer if layer in layers else None
    a, b = depths
    return min(layers, key=lambda other: (abs(other * a - layer * b), other), default=None)


def _alike(a: StoredStates, b: StoredStates, depths: tuple[int, int]) -> list[dict[str, Any]]:
    """Figures of the states of each layer of A and the one of B beside it, where there are any."""
    rows: list[dict[str, Any]] = []
    for layer in range(len(a)):
        other = nearest(layer, depths, range(len(b)))
        assert other is not None
        with suppress(UnitError):
            figures = alike(a[layer], b[other])
            rows.append({"layer": layer, "layer_b": other, "depth": layer / depths[0], **figures})
    return rows


def differences(
    a: Measurement[LayerScore], b: Measurement[LayerScore], depths: tuple[int, int], texts: int
) -> list[dict[str, Any]]:
    """The layers at which both models have a value, and b minus a there.

    depths: L of both; layer_b: the layer of B; depth: layer / L of A; low, high: the 95 % interval
    of the difference over texts, None without; apart: whether it excludes 0; draws: how many
    half-samples gave a value. texts: how many the halves are halves of.
    """
    rows: list[dict[str, Any]] = []
    both = {"metric": a.whole.metric, "score": a.whole.name, "n_a": a.n, "n_b": b.n}
    valued = [number for number, value in b.whole.values.items() if value is not None]
    for layer, value in a.whole.values.items():
        number = nearest(layer, depths, valued)
        if value is None or number is None:
            continue
        other = b.whole.values[number]
        assert other is not None
        # None becomes NaN, and so does its difference
        drawn_a, drawn_b = (
            np.array([half and half.values.get(at) for half in side.halves], dtype=float)
            for side, at in ((a, layer), (b, number))
        )
        drawn, difference = drawn_b - drawn_a, other - value
        low, high = interval(difference, drawn, texts) or (None, None)
        apart = low is not None and high is not None and not low <= 0 <= high
        here = {"layer": layer, "layer_b": number, "depth": layer / depths[0]}
        here |= {"a": value, "b": other}
        sure = {"low": low, "high": high, "apart": apart, "draws": int(np.isfinite(drawn).sum())}
        rows.append({**both, **here, "difference": difference, **sure})
    return rows


def _table(score: LayerScore, rows: Sequence[Row]) -> Table:
    by_layer = {row["layer"]: row for row in rows if row["metric"] == score.metric}
    shown = (by_layer[layer] for layer in spaced(list(by_layer)))
    marked = [{**row, "mark": "*" if row["apart"] else None} for row in shown]
    return Table(score.metric, score.title, SHOWN, marked)


def _equal(table: Table) -> Table:
    """A table of models of equal depth, whose layers have the same numbers."""
    return replace(table, columns=tuple(c for c in table.columns if c.name != "layer_b"))


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
