"""Choose a layer of one model on texts without labels, and what is to be cut off behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrd_harness.board.layers import OTHER, Direction, pick
from lrd_harness.capture.states import Embeddings
from lrd_harness.contracts import Task, Text
from lrd_harness.errors import UserError
from lrd_harness.measuring import PlannedMetric, split_scores
from lrd_harness.models.text_model import TextModel
from lrd_harness.progress import Display
from lrd_harness.studies.values import fault


@dataclass(frozen=True)
class LayerValues:
    """A metric's values by which it chooses, and its choices among the layers from 1 on.

    values: layer -> value, of layers that have one; n: texts; chosen: the layer that the metric's
    direction picks; other: the layer that the opposite one does.
    """

    metric: str
    score: str
    best: Direction
    values: Mapping[int, float]
    n: int
    chosen: int
    other: int


def choosing(items: Sequence[PlannedMetric]) -> None:
    """Raise UserError for a metric that names no score to choose a layer by."""
    for item in items:
        if item.metric.layer_choice is None:
            raise UserError(
                f"metric {item.metric.name} chooses no layer: it has no score that is known to be "
                "best at one"
            )


def layer_values(
    model: TextModel, reading: Embeddings, task: Task, items: Sequence[PlannedMetric], show: Display
) -> tuple[list[LayerValues], dict[str, str]]:
    """Each metric's values on the task's texts, and what went wrong with those that have none.

    Layer 0, the embeddings alone, is measured and not chosen: it is no model to be kept.
    """
    texts: list[Text] = reading.sample(task)
    with show.stage("reading all layers", "texts") as advance:
        reading.capture({task: texts}, advance, {task: items})
    found, faults = [], {}
    for item in items:
        try:
            with show.stage(f"measuring {item.metric.name}"):
                scores, n = reading.samples.measure(item, texts)
                profiles = split_scores(scores, model.info.blocks + 1).profiles
            found.append(_chosen(item, profiles, n))
        except Exception as error:  # a stranger's metric; the others go on
            faults[item.metric.name] = fault(error, item.metric.name)
    return found, faults


def _chosen(
    item: PlannedMetric, profiles: Mapping[str, Mapping[str, Sequence[float | None]]], n: int
) -> LayerValues:
    assert item.metric.layer_choice is not None
    score, best = item.metric.layer_choice
    if score not in profiles:
        raise UserError(f"gave no {score}, by which it chooses")
    pairs = zip(profiles[score]["layers"], profiles[score]["values"], strict=True)
    values = {int(layer): v for layer, v in pairs if layer is not None and v is not None}
    inner = {layer: value for layer, value in values.items() if layer}
    if not inner:
        raise UserError("has no value at any layer above 0")
    return LayerValues(
        metric=item.metric.name,
        score=score,
        best=best,
        values=values,
        n=n,
        chosen=pick(inner, best),
        other=pick(inner, OTHER[best]),
    )
