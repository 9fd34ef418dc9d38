"""Whether the selection scores order the models: d0L on most tasks, all three in the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scipy import stats

from lrd_harness.claim_rows import (
    ALPHA,
    FAILS,
    FEW_MODELS,
    FEW_TASKS,
    HOLDS,
    LRD,
    OPEN,
    Claim,
    count,
)
from lrd_harness.selection_rows import Agreement, Selection

D0L = "frenet.d0L"
SCORES = (D0L, "nrs.mean_jaccard", "gfmi.mean_auc")
SIZES = ("log width", "log parameters", "depth")

_MOST = Claim(
    "d0L agrees on most tasks",
    "Spearman's rho between frenet's d0L and the task score is positive on most tasks.",
    LRD,
    "% of tasks",
    "tasks",
    OPEN,
    "",
)
_ALL = Claim(
    "all three scores agree",
    "The median rho over tasks is positive for each of frenet, nrs and gfmi (number: the least).",
    LRD,
    "median rho",
    "tasks",
    OPEN,
    "",
)


def selection_claims(selection: Selection | None) -> tuple[Claim, Claim]:
    """Both claims; the control is the size baseline with the highest median rho."""
    rows = {row.name: row for row in selection.rows} if selection else {}
    if selection and not selection.large:  # where models can be drawn, those over tasks say less
        rows = {name: replace(row, low=None, high=None) for name, row in rows.items()}
    sizes = [rows[name] for name in SIZES if name in rows and rows[name].rho is not None]
    size = max(sizes, key=lambda row: row.rho or 0.0) if sizes else None
    return _most(rows.get(D0L), size), _all([rows.get(name) for name in SCORES], size)


def _most(row: Agreement | None, size: Agreement | None) -> Claim:
    """Holds if a binomial test (1/2, one-sided) and the interval over models both say so.

    The tasks share their models and so are not independent, which the first does not know.
    """
    if row is None or row.rho is None:
        return replace(_MOST, reason=_absent([D0L]))
    signs = _signs(row)
    p = float(stats.binomtest(sum(signs), len(signs), 0.5, "greater").pvalue)
    held = replace(_MOST, value=100 * sum(signs) / len(signs), p=p, n=len(signs))
    held = _against(held, row, size, None if size is None else 100 * _share(_signs(size)))
    said = f"positive on {sum(signs)} of {count(len(signs), 'task')} (binomial p = {p:.2g})"
    said += f", median rho {row.rho:+z.2f}{_span(row)}{_beside(held, size)}"
    if missing := _few(row):
        return replace(held, reason=f"{said}; {missing}")
    said += _kin([row])
    above = _above(row)
    verdict = HOLDS if p < ALPHA and above else FAILS
    if p < ALPHA and not above:
        said += "; the tasks share their models, and with others of these it might not be so"
    return replace(held, verdict=verdict, reason=said)


def _all(rows: Sequence[Agreement | None], size: Agreement | None) -> Claim:
    """Holds if the interval over models of every one's median is above 0."""
    held = [row for row in rows if row is not None and row.rho is not None]
    if len(held) < len(rows):
        there = {row.name for row in held}
        return replace(_ALL, reason=_absent([name for name in SCORES if name not in there]))
    least = min(held, key=lambda row: row.rho or 0.0)
    low, high = _interval(least)
    found = replace(_ALL, value=least.rho, low=low, high=high, n=len(_signs(least)))
    found = _against(found, least, size, None if size is None else size.rho)
    said = "; ".join(f"{row.name} {row.rho:+z.2f}{_span(row)}" for row in held)
    said = f"median rho: {said}{_beside(found, size)}"
    missing = next((few for row in held if (few := _few(row))), "")
    if missing:
        return replace(found, reason=f"{said}; {missing}")
    said += _kin(held)
    return replace(found, verdict=HOLDS if all(map(_above, held)) else FAILS, reason=said)


def _absent(names: Sequence[str]) -> str:
    return f"{', '.join(names)}: not measured on a task with the scores of 4 models"


def _signs(row: Agreement) -> list[bool]:
    """Of each task with a rho, whether it is positive."""
    return [task.rho > 0 for task in row.tasks if task.rho is not None]


def _share(signs: Sequence[bool]) -> float:
    return sum(signs) / len(signs) if signs else 0.0


def _interval(row: Agreement) -> tuple[float | None, float | None]:
    """Over models; over tasks where so many models are there that it is not drawn."""
    if row.models_low is None:
        return row.low, row.high
    return row.models_low, row.models_high


def _above(row: Agreement) -> bool:
    low, _ = _interval(row)
    return low is not None and low > 0


def _span(row: Agreement) -> str:
    low, high = _interval(row)
    over = "tasks" if row.models_low is None else "models"
    if low is None or high is None:
        return ""
    return f" (95 % over {over} {low:+z.2f} to {high:+z.2f})"


def _few(row: Agreement) -> str:
    """What is missing for a verdict; "" if nothing is."""
    if (row.n or 0) < FEW_MODELS:
        return f"{row.n or 0:g} models a task, a verdict needs {FEW_MODELS}"
    if (row.runs or 0) < FEW_MODELS:
        return f"{_of_runs(row)}, a verdict needs {FEW_MODELS} of these"
    if len(_signs(row)) < FEW_TASKS:
        return f"{count(len(_signs(row)), 'task')}, a verdict needs {FEW_TASKS}"
    return "" if _interval(row)[0] is not None else "no interval can be drawn"


def _of_runs(row: Agreement) -> str:
    runs = row.runs or 0
    return f"{row.n or 0:g} models a task from {runs:g} training run{'s' * (runs != 1)}"


def _kin(rows: Sequence[Agreement]) -> str:
    """A caution where several models are of one training run."""
    least = min(rows, key=lambda row: (row.runs or 0) - (row.n or 0))
    return f"; {_of_runs(least)}, all taken as independent" if least.runs != least.n else ""


def _against(claim: Claim, row: Agreement, size: Agreement | None, value: float | None) -> Claim:
    """With its control; ahead: whether the median rho leads on the same models and tasks."""
    if size is None:
        return claim
    rival = next((rival for rival in row.rivals if rival.name == size.name), None)
    enough = rival is not None and rival.runs >= FEW_MODELS and rival.low is not None
    ahead = (rival.low or 0.0) > 0 if rival and enough else None
    return replace(claim, control=size.name, control_value=value, ahead=ahead)


def _beside(claim: Claim, size: Agreement | None) -> str:
    if size is None:
        return ""
    if claim.control_value is None or claim.unit != _MOST.unit:
        return f"; {size.name} {size.rho:+z.2f}"
    return f"; {size.name}: {claim.control_value:.0f} % of tasks, median rho {size.rho:+z.2f}"
