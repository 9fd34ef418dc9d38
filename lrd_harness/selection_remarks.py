"""Whether each metric orders the models better than their size does, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lrd_harness.claim_rows import count
from lrd_harness.predictors import FRENET_RANK, RELEASED
from lrd_harness.selection import Agreement, Rival, Selection

FEW = 10  # training runs: below, a rho is an illustration


def of_selection(selection: Selection | None) -> tuple[str, ...]:
    """What a metric has to beat, then a verdict on each; () where p < .05 cannot be reached.

    Between the two, where models are checkpoints of one training run, that they are.
    """
    if selection is None or not selection.telling:
        return ()
    other = (FRENET_RANK, RELEASED)
    sizes = [r for r in selection.rows if r.kind == "baseline" and r.name not in other]
    metrics = [row for row in selection.rows if row.kind == "metric"]
    bar = (_bar(sizes, len(metrics)),) if any(row.rho is not None for row in sizes) else ()
    return (*bar, *_kin(selection), *(verdict(row, len(metrics)) for row in metrics))


def verdict(row: Agreement, metrics: int = 1) -> str:
    """One metric in one sentence. metrics: how many are judged by the table."""
    return f"{row.name}: {_judged(row, metrics)}."


def _kin(selection: Selection) -> tuple[str, ...]:
    if selection.runs == selection.models:
        return ()
    runs = count(selection.runs, "training run")
    return (f"{selection.models} models from {runs}: p and intervals take them as independent.",)


def _bar(sizes: Sequence[Agreement], metrics: int) -> str:
    held = sorted((row for row in sizes if row.rho is not None), key=lambda row: -(row.rho or 0.0))
    named = "; ".join(
        f"{row.name}, median rho {_rho(row.rho)}, p < .05 on {row.significant} of "
        + (count(len(row.tasks), "task") if i == 0 else str(len(row.tasks)))
        for i, row in enumerate(held)
    )
    lead = (
        "What a metric has to beat, task by task"
        if metrics
        else ("No metric is judged here; what one would have to beat, task by task")
    )
    return f"{lead}: {named}."


def _judged(row: Agreement, metrics: int) -> str:
    if row.rho is None:
        return "no task has 4 models with different values and scores: nothing to say"
    size = [rival for rival in row.rivals if rival.size]
    if row.n is not None and row.runs is not None and row.runs < FEW:
        few = f"training runs to say ({row.runs:g} of {row.n:g} models"
        if row.runs == row.n:
            few = f"models to say ({row.n:g}"
        return (
            f"too few {few}, the median over tasks; {FEW} at least): median rho "
            f"{_rho(row.rho)}" + (_beside(size) if size else "")
        )
    size = [rival for rival in size if rival.runs >= FEW]
    if not size:
        return f"median rho {_rho(row.rho)}, and no size of {FEW} models to compare it with"
    if any(not _ahead(rival) for rival in size):
        best = min(size, key=lambda rival: rival.own - rival.rho)
        return f"no better than {best.name} (median rho {_rhos(best)}{_where(row, best)})"
    said = _ahead_of_size(row, size, metrics)
    for rival in row.rivals:  # what is no size: rank of the final state, release date
        if not rival.size and not _ahead(rival):
            said += f"; no better than {rival.name} ({_rhos(rival)})"
    return said


def _ahead(rival: Rival) -> bool:
    """By a lead that is seen as it is printed."""
    return round(rival.own - rival.rho, 2) > 0


def _ahead_of_size(row: Agreement, size: Sequence[Rival], metrics: int) -> str:
    closest = min(size, key=lambda rival: rival.low if rival.low is not None else -2.0)
    over = "" if closest.over == "models" else "over tasks, not models; "
    if closest.low is not None and closest.low > 0:
        return (
            f"better than every size baseline ({over}closest: {closest.name}, median rho "
            f"{_rhos(closest)}{_where(row, closest)})"
        )
    together = f" for {metrics} metrics together" if metrics > 1 else ""
    spread = "no interval can be drawn"
    if closest.low is not None:
        spread = f"{over}95 %{together}: {closest.low:+z.2f} to {closest.high or 0.0:+z.2f}"
    return (
        f"ahead of every size baseline, but by no more than other {closest.over} might undo: its "
        f"lead over {closest.name} is {closest.own - closest.rho:+z.2f} ({spread})"
    )


def _beside(size: Sequence[Rival]) -> str:
    best = min(size, key=lambda rival: rival.own - rival.rho)
    return f", {best.name} {_rho(best.rho)}"


def _where(row: Agreement, rival: Rival) -> str:
    """Said where the two were compared on less than all that the metric has."""
    same = rival.tasks == len(row.tasks) and rival.n == row.n
    on = f"{count(rival.tasks, 'task')} and {rival.n:g} models"
    return "" if same else f", on the {on} that have both"


def _rhos(rival: Rival) -> str:
    return f"{_rho(rival.own)} against {_rho(rival.rho)}"


def _rho(value: float | None) -> str:
    return "-" if value is None else f"{value:+z.2f}"
