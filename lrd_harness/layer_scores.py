"""The one score a layer by which a metric is shown, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lrd_harness.contracts import Metric
from lrd_harness.errors import UnitError, UserError
from lrd_harness.files import full
from lrd_harness.measuring import Scores
from lrd_harness.units import Split, split_scores

MOST_ROWS = 40  # layers that a printed table shows at most


@dataclass(frozen=True)
class LayerScore:
    """A per-layer score of a metric. best: which of its values chooses a layer, if it does."""

    name: str
    best: Literal["max", "min"] | None
    values: Mapping[int, float | None]  # by layer


def layer_score(metric: Metric, split: Split) -> LayerScore:
    """The score by which the metric chooses a layer, else its first per-layer score.

    Raises UnitError for a metric that gave none.
    """
    choice = metric.layer_choice
    if choice is not None and choice.score not in split.profiles:
        raise UnitError(f"{metric.name} gave no score {choice.score}, which chooses a layer")
    name = choice.score if choice else next(iter(split.profiles), None)
    if name is None:
        raise UnitError(f"{metric.name} has no score for single layers")
    return LayerScore(name, choice.best if choice else None, by_layer(split, name))


def by_layer(split: Split, name: str) -> dict[int, float | None]:
    """The values of a per-layer score; none of a score that is not there."""
    found = split.profiles.get(name, {"layers": [], "values": []})
    return dict(zip(found["layers"], found["values"], strict=True))


def split_of(scores: Scores, blocks: int) -> Split:
    """Scores of a model of so many blocks as values of the model and of layers."""
    return split_scores(scores, blocks + 1)


ARROWS = {"min": " ↓", "max": " ↑"}
DIRECTIONS = (
    "A line a layer, 0 being what enters the first block; a step between layers has\n"
    "the number of the first. ↓, ↑: the least, the greatest value chooses a layer.\n"
    "Units are the metric's own (README)."
)


def title(metric: str, score: LayerScore) -> str:
    """How a score is called above its table, with the direction of the better value."""
    name = metric if score.name == metric else f"{metric}.{score.name}"
    return name + (ARROWS[score.best] if score.best else "")


def shown(layers: Sequence[int]) -> list[int]:
    """All layers, or of many, evenly spaced ones with the first and the last."""
    if len(layers) <= MOST_ROWS:
        return list(layers)
    step = (len(layers) - 1) / (MOST_ROWS - 1)
    return [layers[round(i * step)] for i in range(MOST_ROWS)]


def fault(error: Exception, metric: str | None = None) -> str:
    """An error in one line, its kind first where that says something.

    metric: the one that it is shown behind, whose name then need not begin it again.
    Raises StorageFull where a full disk is behind it, which is no fault of a model or a metric.
    """
    no_space = full(error)
    if no_space is not None:
        raise no_space from error
    text = next(iter(str(error).splitlines()), "")
    if metric is not None:
        text = text.removeprefix(f"{metric}: ").removeprefix(f"{metric} ")
    kind = type(error).__name__
    if isinstance(error, UserError) and text:
        return text
    return f"{kind}: {text}" if text else kind
