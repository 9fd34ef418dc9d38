"""How scores and metrics run over depth, group by group: the rows that profiles.py makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from lrd_harness.rows import Key

DEPTHS = 101  # 0, 0.01, ..., 1
SCORE = "score"  # the source that is the task's main score
Grouping = Literal["all", "kind", "family", "task type"]
GROUPINGS: tuple[Grouping, ...] = ("all", "kind", "family", "task type")
Place = tuple[Key, str]  # model and task


class Peak(NamedTuple):
    """The depth (0..1) of a curve's extreme value.

    mean: over models of their mean over tasks; low, high: the least and the greatest of any model
    and task.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ProfileRow:
    """The mean curve of one source in one group of models or tasks.

    grouping, group: "kind", "encoder"; "all" is one group of its own. source: "score", or
    "metric.profile". best: which end of it chooses a layer: "max" of the score, the published end
    of a metric's own profile, None of a profile without one.
    means: (101,), at depths 0, 0.01, ..., 1, in the source's unit: the mean over models of each
    one's mean over its tasks, so that a model with many tasks counts no more than another.
    spread: (101,), the standard deviation (n - 1) of these models' means, None below two.
    counts: (101,), how many models have a value at that depth; None in `means` where it is 0.
    highest, lowest: where the curves have their greatest and their least value.
    models, tasks: how many different ones; pairs: how many models x tasks.
    """

    grouping: Grouping
    group: str
    source: str
    best: Literal["max", "min"] | None
    means: tuple[float | None, ...]
    spread: tuple[float | None, ...]
    counts: tuple[int, ...]
    highest: Peak
    lowest: Peak
    models: int
    tasks: int
    pairs: int


@dataclass(frozen=True)
class ProfileCorrelation:
    """Spearman's rho of two sources over the layers of one model on one task: its median.

    Over the `pairs` models x tasks of the group that have at least 4 layers of both, neither of
    them constant; low, high: its quartiles over these; models: how many they are of.
    """

    grouping: Grouping
    group: str
    first: str
    second: str
    rho: float
    low: float
    high: float
    pairs: int
    models: int


@dataclass(frozen=True)
class Profiles:
    """The curves and correlations of one board.

    main: the source that stands for each metric, the score first: the profile that chooses its
    layer, else its first. selection: of these, those of metrics that rank models. notes: what is
    left out and why.
    """

    rows: tuple[ProfileRow, ...]
    correlations: tuple[ProfileCorrelation, ...]
    main: tuple[str, ...]
    selection: tuple[str, ...]
    notes: tuple[str, ...] = ()


def members(
    places: Sequence[Place], groups: Mapping[Grouping, Mapping[Place, str]]
) -> Iterator[tuple[Grouping, str, list[int]]]:
    """Which of the places (their numbers) are in each group, in order of appearance."""
    for grouping in GROUPINGS:
        by_group: dict[str, list[int]] = {}
        for i, place in enumerate(places):
            if place in groups[grouping]:
                by_group.setdefault(groups[grouping][place], []).append(i)
        for group, own in by_group.items():
            yield grouping, group, own
