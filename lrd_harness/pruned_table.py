"""The rows of the pruning table; pruned.py makes them. Blocks are numbered from 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lrd_harness.results import ErrorRow
from lrd_harness.sides import Kind

RANDOM = "random"  # the rule that the others are compared with
QUANTILES = 20  # seeds from which on its interval is of quantiles
Verdict = Literal["clearly", "yes", "no"]


@dataclass(frozen=True)
class Spread:
    """The changes (%) that random removal makes over its seeds.

    low, high: the lowest and the highest, or, if `quantiles`, the 2.5 % and 97.5 % quantiles.
    """

    seeds: int
    median: float
    low: float
    high: float
    quantiles: bool


@dataclass(frozen=True)
class TaskChange:
    """One task: the whole model's score, the pruned one's, the change (%), that of random (%)."""

    full: float
    score: float
    change: float | None
    random: float | None


@dataclass(frozen=True)
class Run:
    """A rule with one seed (None of a rule that draws nothing): the blocks it removes, 1-based.

    change: %, over the row's tasks, None where one of these is not scored; saved: %.
    """

    seed: int | None
    variant: str
    removed: tuple[int, ...]
    change: float | None
    parameters_saved: float | None
    latency_saved: float | None


@dataclass(frozen=True)
class PrunedRow:
    """A rule at one budget on one model, over its tasks of one kind; medians over `runs`.

    budget: share of the candidates; blocks: L; removed: how many go; tasks: that the whole model
    and a run have, and that full (the whole model's mean score), score, stderr (of a single run's)
    and change (%) are over; missing: tasks that others of this sweep are scored on and no run is.
    random: random removal's changes over the same tasks, of the seeds that have all of them.
    difference: change less random's median, percentage points; verdict: "yes" if that is above 0,
    "clearly" if the change is above the interval of at least 2 seeds. Both None for random itself.
    """

    model: str
    revision: str
    label: str
    kind: Kind
    rule: str
    budget: float
    blocks: int
    removed: int
    runs: tuple[Run, ...]
    tasks: tuple[str, ...]
    missing: tuple[str, ...]
    full: float | None
    score: float | None
    stderr: float | None
    change: float | None
    random: Spread | None
    difference: float | None
    verdict: Verdict | None
    parameters_saved: float | None
    latency_saved: float | None
    by_task: Mapping[str, TaskChange]


@dataclass(frozen=True)
class SummaryRow:
    """A rule at one budget over models and tasks of one kind.

    change: the median over `pairs` (model, task) of the change (%). Against random's median on the
    same pair, where it has one (`compared` of them): difference, the median in percentage points;
    beats: in how many pairs the rule is better. verdict: whether the median difference is above 0.
    """

    kind: Kind
    rule: str
    budget: float
    models: int
    pairs: int
    change: float | None
    compared: int
    difference: float | None
    beats: int
    verdict: Verdict | None


@dataclass(frozen=True)
class PrunedTable:
    """Rows by model, kind and budget, the best first; the summary by kind and budget likewise.

    errors: those of pruned models; the leaderboard lists those of whole ones.
    """

    rows: tuple[PrunedRow, ...]
    summary: tuple[SummaryRow, ...]
    notes: tuple[str, ...]
    errors: tuple[ErrorRow, ...]
