"""A sentence on each metric: whether it beats what needs no metric, and by more than chance gives.

What has to be beaten is size and, where release dates are known, size and date: each by itself, the
two as one order, and the two as controls of a partial rank correlation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lrd_harness.board import panel as panels
from lrd_harness.board import statistics
from lrd_harness.board.agreement import Agreement, Rival, Selection
from lrd_harness.board.cautions import Caution, count
from lrd_harness.board.layers import Row
from lrd_harness.board.panel import Panel

FEW = 10  # training runs: below, a rho is an illustration


def agreement_cautions(selection: Selection | None) -> Iterator[Caution]:
    """What a metric has to beat, whether models share training runs, and a verdict on each."""
    if selection is None or not selection.telling:
        return
    metrics = [row for row in selection.rows if row.kind == "metric"]
    baselines = [row for row in selection.rows if row.kind == "baseline" and row.rho is not None]
    sizes = "; ".join(
        f"{row.name}, median rho {row.rho:+z.2f}, p < .05 on {row.below('p')} of "
        + count(len(row.tasks), "task")
        for row in sorted(baselines, key=lambda row: -(row.rho or 0))
        if row.name in panels.BARS
    )
    if sizes:
        yield Caution("bar" if metrics else "bar_alone", {"sizes": sizes})
    if selection.runs != selection.models:
        runs = count(selection.runs, "training run")
        yield Caution("runs", {"models": selection.models, "runs": runs})
    yield from (verdict(row, len(metrics)) for row in metrics)


def verdict(row: Agreement, metrics: int = 1) -> Caution:
    """One metric in one sentence. metrics: how many are judged by the table."""
    numbers: Row = {"name": row.name, "rho": row.rho, "n": row.n, "runs": row.runs, "least": FEW}
    if row.rho is None:
        return Caution("no_task", numbers)
    sizes = sorted((rival for rival in row.rivals if rival.bar), key=lambda size: size.lead)
    if (row.runs or 0) < FEW:
        numbers["beside"] = "".join(f", {size.name} {size.rho:+z.2f}" for size in sizes[:1])
        return Caution("few_models" if row.runs == row.n else "few_runs", numbers)
    sizes = [size for size in sizes if size.runs >= FEW]
    if not sizes:
        return Caution("no_size", numbers)
    code, rival, also = "not_better", sizes[0], []
    if all(size.ahead for size in sizes):
        sizes = [rival for rival in row.rivals if rival in sizes]
        rival = min(sizes, key=lambda size: -2.0 if size.low is None else size.low)
        code = "better" if rival.low is not None and rival.low > 0 else "may_be_chance"
        also = [other for other in row.rivals if not other.bar and not other.ahead]
        code, numbers["given"] = _given_both(row, code, sizes)
    numbers["bar"] = bar_of(rival.name for rival in sizes)
    same = rival.tasks == len(row.tasks) and rival.n == row.n
    on = f", on the {count(rival.tasks, 'task')} and {rival.n:g} models that have both"
    over = "" if rival.over == "models" else "over tasks, not models; "
    together = f" for {metrics} metrics together" if metrics > 1 else ""
    interval = statistics.span(rival.low, rival.high)
    numbers |= {"other": rival.name, "rho": rival.metric_rho, "other_rho": rival.rho}
    numbers |= {"lead": rival.lead, "where": "" if same else on}
    numbers["over"] = over if code == "better" else rival.over
    numbers["spread"] = f"{over}95 %{together}: {interval}" if interval else "no interval"
    numbers["also"] = "".join(
        f"; no better than {other.name} ({other.metric_rho:+z.2f} against {other.rho:+z.2f})"
        for other in also
    )
    return Caution(code, numbers)


def bar_of(names: Iterable[str]) -> str:
    """What has to be beaten, in words: size, and the release date where it is known."""
    return "size and date" if {panels.RELEASED, panels.TOGETHER} & {*names} else "size"


def _given_both(row: Agreement, code: str, sizes: Sequence[Rival]) -> tuple[str, str]:
    """The verdict on a metric ahead of all sizes and dates, and what is left of it given both.

    Better is one alone of which on some task something is left by p < .05 after Holm's correction,
    and on the median of all tasks.
    """
    if panels.TOGETHER not in {rival.name for rival in sizes}:
        return code, ""
    adjusted = statistics.holm([task[f"partial_p.{panels.TOGETHER}"] for task in row.tasks])
    below = sum(p is not None and p < statistics.ALPHA for p in adjusted)
    rho = row.more[f"partial.{panels.TOGETHER}"]
    if code == "better" and not (below and rho is not None and round(rho, 2) > 0):
        code = "explained"
    left = "nothing" if rho is None else f"rho {rho:+z.2f}"
    on = f"p < .05 on {below} of {count(len(row.tasks), 'task')} after Holm's correction"
    return code, f"; given size and date together {left} is left ({on})"


def undated_cautions(panel: Panel) -> Iterator[Caution]:
    """How many models have no release date, where others have one that counts."""
    dated = sum(model.released is not None for model in panel.models)
    if panels.RELEASED in {p.name for p in panel.predictors} and dated < len(panel.models):
        yield Caution("undated", {"dated": dated, "models": len(panel.models)})
