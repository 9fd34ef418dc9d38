"""What is said of predictors in sentences: what a metric has to beat, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lrd_harness.board.agreement import ALPHA, Agreement, Row, Selection, span
from lrd_harness.board.cautions import Caution, count
from lrd_harness.board.panel import FRENET_RANK, RELEASED
from lrd_harness.board.unseen import COMBINED, GUESS, SIZE, TELLING, Combined

FEW = 10  # training runs: below, a rho is an illustration


def agreement_cautions(selection: Selection | None) -> Iterator[Caution]:
    """What a metric has to beat, then a verdict on each; nothing where p cannot reach .05.

    Between the two, where models are checkpoints of one training run, that they are.
    """
    if selection is None or not selection.telling:
        return
    other = (FRENET_RANK, RELEASED)
    metrics = [row for row in selection.rows if row.kind == "metric"]
    sizes = [row for row in selection.rows if row.kind == "baseline" and row.name not in other]
    sizes = sorted((row for row in sizes if row.rho is not None), key=lambda row: -(row.rho or 0))
    if sizes:
        listed = "; ".join(
            f"{row.name}, median rho {row.rho:+z.2f}, p < .05 on {row.significant} of "
            + count(len(row.tasks), "task")
            for row in sizes
        )
        yield Caution("bar" if metrics else "bar_alone", {"sizes": listed})
    if selection.runs != selection.models:
        runs = count(selection.runs, "training run")
        yield Caution("runs", {"models": selection.models, "runs": runs})
    yield from (verdict(row, len(metrics)) for row in metrics)


def verdict(row: Agreement, metrics: int = 1) -> Caution:
    """One metric in one sentence. metrics: how many are judged by the table."""
    said: Row = {"name": row.name, "rho": row.rho, "n": row.n, "runs": row.runs, "least": FEW}
    if row.rho is None:
        return Caution("no_task", said)
    if row.n is not None and row.runs is not None and row.runs < FEW:
        best = min(row.sizes, key=lambda rival: rival.lead, default=None)
        said["beside"] = "" if best is None else f", {best.name} {best.rho:+z.2f}"
        return Caution("few_models" if row.runs == row.n else "few_runs", said)
    sizes = [rival for rival in row.sizes if rival.runs >= FEW]
    if not sizes:
        return Caution("no_size", said)
    if all(size.ahead for size in sizes):
        rival = min(sizes, key=lambda size: -2.0 if size.low is None else size.low)
        code = "better" if rival.low is not None and rival.low > 0 else "may_be_chance"
        others = [other for other in row.rivals if not other.size and not other.ahead]
    else:
        code, rival, others = "not_better", min(sizes, key=lambda rival: rival.lead), []
    same = rival.tasks == len(row.tasks) and rival.n == row.n
    on = f", on the {count(rival.tasks, 'task')} and {rival.n:g} models that have both"
    over = "" if rival.over == "models" else "over tasks, not models; "
    together = f" for {metrics} metrics together" if metrics > 1 else ""
    interval = span(rival.low, rival.high)
    also = (f"; no better than {o.name} ({o.own:+z.2f} against {o.rho:+z.2f})" for o in others)
    return Caution(
        code,
        said
        | {
            "other": rival.name,
            "rho": rival.own,
            "other_rho": rival.rho,
            "lead": rival.lead,
            "where": "" if same else on,
            "over": over if code == "better" else rival.over,
            "spread": f"{over}95 %{together}: {interval}" if interval else "no interval",
            "also": "".join(also),
        },
    )


def combined_cautions(found: Combined | None) -> Iterator[Caution]:
    """One sentence on it, and one on what was left out."""
    if found is None:
        return
    if found.lacking:
        yield Caution("combined_lacks", {"lacking": found.lacking})
        return
    rows = {row["predictor"]: row for row in found.rows}
    size, whole = rows.get(SIZE), rows.get(COMBINED)
    families = f"{len(found.models)} models of {len(found.families)} families"
    said: dict[str, Any] = {"on": f"on {families}, each predicted without its own"}
    said["guess"] = f"error {rows[GUESS]['rmse']:.3f}"
    if whole is None:
        yield Caution("combined_size", said | {"size": _judged(size or {})})
    else:
        said["and_size"] = " and size" if size else " (no size is known)"
        said["size"] = f"; size alone: {_judged(size)}" if size else ""
        said["verdict"] = _verdict(found, whole)
        yield Caution("combined", said | {"combined": _judged(whole)})
    parts = []
    if found.models_left_out:
        several = found.models_left_out > 1
        parts.append(
            f"{count(found.models_left_out, 'model')} whose family, or one of the scores it is "
            f"made of, {'are' if several else 'is'} not known"
        )
    if found.features_left_out:
        parts.append(f"{', '.join(found.features_left_out)}, which most models lack")
    if parts:
        yield Caution("combined_left_out", {"parts": "; ".join(parts)})


def _judged(row: Mapping[str, Any]) -> str:
    rho = "no rho" if row["rho"] is None else f"rho {row['rho']:+z.2f}"
    p = "" if row["p"] is None else f" (p = {row['p']:.2g})"
    return f"{rho}{p}, error {row['rmse']:.3f}"


def _verdict(found: Combined, whole: Mapping[str, Any]) -> str:
    """whole: the row of combining, which has to beat the best of the others."""
    rival = min((row for row in found.rows if row is not whole), key=lambda row: row["rmse"])
    name = f"the {GUESS}" if rival["predictor"] == GUESS else rival["predictor"]
    lead, low = rival["lead"], rival["lead_low"]
    if lead is None or lead <= 0:
        return f"combining is no better than {name}"
    spread = "no interval can be drawn"
    if low is not None:
        spread = f"95 %: {rival['lead_interval']}"
    by = f"by {lead:.3f} ({spread})"
    ahead = f"combining is ahead of {name}, {by}, but"
    if low is None or low <= 0:
        return f"{ahead} other families might undo that"
    if len(found.families) < TELLING:
        return f"{ahead} a verdict needs {TELLING} families"
    if whole["p"] is None or whole["p"] >= ALPHA:  # where an interval is drawn, p is as well
        return f"{ahead} its order of the models may be chance"
    return f"combining is better than {name}, {by}"
