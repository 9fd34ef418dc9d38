"""A paper's finding restated on a run's own data, and what decides whether it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lrd_harness.board.layer_choice import ALPHA, FEW_PAIRS, FEW_RUNS

__all__ = [
    "ALPHA",
    "FAILS",
    "FEW_MODELS",
    "FEW_PAIRS",
    "FEW_RUNS",
    "FEW_TASKS",
    "HOLDS",
    "LBL",
    "LRD",
    "OPEN",
    "Claim",
    "Verdict",
    "count",
]

Verdict = Literal["holds", "does not hold", "not enough data"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "not enough data"
FEW_MODELS = 10  # models: fewer order themselves by chance too easily
FEW_TASKS = 5  # tasks: of fewer, even all positive has p > .05
LRD = "LRD, arXiv 2605.12714"
LBL = "LbL, arXiv 2502.02013"


@dataclass(frozen=True)
class Claim:
    """One finding.

    name: short; statement: the sentence that is judged; paper: whose finding it is.
    value, control_value: the run's number and the same of `control`, what needs no metric (of
    choices of a layer also no labels), both in `unit`; None where there is none.
    low, high: 95 % interval of value; p: one-sided, that chance alone gives a value as high; None
    where the verdict does not rest on it.
    ahead: whether value exceeds control_value by more than chance may give; None: not known.
    n, of: how many ("tasks", "models", "pairs") the number is over.
    verdict: "holds" or "does not hold" by the test of each claim, see claims.py: the latter says
    that these data do not show it, not that they show the opposite; "not enough data" where the
    test could not tell or too few models are there to speak for others.
    reason: why, in a sentence, with what would be needed.
    """

    name: str
    statement: str
    paper: str
    unit: str
    of: str
    verdict: Verdict
    reason: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    control: str | None = None
    control_value: float | None = None
    ahead: bool | None = None
    n: int = 0


def count(n: int, thing: str) -> str:
    """A number with its noun: "1 task", "3 tasks"."""
    return f"{n} {thing}{'' if n == 1 else 's'}"
