"""One layer a model, by one standard error: of metrics that say how sure a layer's lead is.

A layer's lead is how much its mean over texts is better than the last layer's. The best layer is
chosen where its lead exceeds the standard error of that, else the last one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import fsum, sqrt
from typing import NamedTuple

from lrd_harness import manager
from lrd_harness.board.layers import Direction, LayerScores, Role, last_layers, pick, roles
from lrd_harness.report import Column, Table
from lrd_harness.results.kinds import model_kind, rule_layer
from lrd_harness.results.rows import Key, Kind, MetricRow, Results

RULE = "depth 0.8 if decoder"  # see `kinds.rule_layer`; of other models the last layer


class Curve(NamedTuple):
    """Of n texts, the mean of a score by layer, and the standard error of its lead (n - 1)."""

    n: int
    means: LayerScores
    errors: LayerScores


class Steady(NamedTuple):
    """The layer that is chosen, and why.

    best: the first with the best mean over all n texts; lead: that of this layer; error: its
    standard error.
    """

    layer: int
    best: int
    lead: float
    error: float
    n: int


def steady(curves: Sequence[Curve], last: int, best: Direction = "max") -> Steady | None:
    """The choice on the texts of several tasks together, of the layers that all of these have.

    The error is the one that all texts have together: of each task the sum of squares about its
    own lead, and that of its lead about the common one. None where the last layer has no value.

    Examples
    --------
    >>> clear = Curve(4, {1: 0.75, 2: 0.5}, {1: 0.125, 2: 0.0})
    >>> steady([clear], 2)
    Steady(layer=1, best=1, lead=0.25, error=0.125, n=4)
    >>> steady([clear, Curve(4, {1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.0})], 2).layer
    2
    """
    common = [curve.means.keys() & curve.errors.keys() for curve in curves]
    layers = set.intersection(*common) if common else set[int]()
    n = sum(curve.n for curve in curves)
    if last not in layers or n < 2:
        return None
    means = {i: fsum(curve.n * curve.means[i] for curve in curves) / n for i in sorted(layers)}
    first = pick({i: round(mean, 12) for i, mean in means.items()}, best)  # ties are ties
    sign = 1 if best == "max" else -1
    leads = [sign * (curve.means[first] - curve.means[last]) for curve in curves]
    parts = [(c.n, lead, c.errors[first]) for c, lead in zip(curves, leads, strict=True)]
    lead = fsum(m * of_task for m, of_task, _ in parts) / n
    squares = (m * (m - 1) * se**2 + m * (of_task - lead) ** 2 for m, of_task, se in parts)
    error = sqrt(fsum(squares) / (n - 1) / n)
    return Steady(first if lead > error else last, first, lead, error, n)


def one_layers(
    results: Results, role: Role, among: Mapping[Key, Collection[int]] | None = None
) -> dict[Key, Steady]:
    """The choice of a metric with a margin for each whole model, on all of its tasks together.

    among: the layers that may be chosen, by model; None: all.
    """
    tasks: dict[Key, dict[str, Curve]] = defaultdict(dict)
    for row in results.metrics:
        if row.variant == "full" and row.metric == role.metric and row.margin in row.profiles:
            only = None if among is None else among.get(row.key, ())
            means, errors = (_values(row, name, only) for name in (role.profile, row.margin))
            tasks[row.key][row.task] = Curve(row.n, means, errors)
    last = last_layers(results)
    every = (
        (key, steady([*of.values()], last.get(key) or 0, role.best)) for key, of in tasks.items()
    )
    return {key: choice for key, choice in every if choice}


def _values(row: MetricRow, name: str, only: Collection[int] | None) -> dict[int, float]:
    pairs = zip(row.profiles[name].layers, row.profiles[name].values, strict=True)
    return {i: v for i, v in pairs if v is not None and (only is None or i in only)}


_CAPTION = (
    "best layer: the first with the best mean over the texts of all tasks, compared within each; "
    "lead: how much better that is than the last layer's; SE: its standard error over texts; "
    f"chosen: the best layer where the lead exceeds SE, else the last. {RULE}: the layer that the "
    "one-line rule takes, which no metric here is known to beat."
)


def one_layer_table(results: Results, labels: Mapping[Key, str], kind: Kind) -> Table:
    """A row for each model and metric with a margin; what is said of experimental ones below."""
    kinds = {row.key: model_kind(row, kind) for row in results.models}
    known = {metric.name: metric for metric in manager.load().all("metric")}
    last, rows, caption = last_layers(results), [], [_CAPTION]
    for role in roles(results.metrics).values():
        choices = one_layers(results, role) if role.margin else {}
        for key, choice in choices.items():
            blocks = last[key] or 0
            row = {"model": labels.get(key, key.model), "metric": role.source, "blocks": blocks}
            rows.append(row | {"rule": rule_layer(kinds.get(key), blocks)} | choice._asdict())
        metric = known.get(role.metric)
        if choices and metric and metric.experimental:
            evidence = f": {metric.evidence}" * bool(metric.evidence)
            caption.append(f"{role.metric} is experimental{evidence}.")
    columns = (
        *(Column(name, key=True) for name in ("model", "metric")),
        Column("best", "best layer"),
        Column("lead", form="+z.4f"),
        Column("error", "SE", form=".4f"),
        Column("layer", "chosen"),
        Column("rule", RULE),
        Column("blocks"),
        Column("n", unit="texts"),
    )
    title = "One layer a model, by one standard error"
    return Table("one_layer", title, columns, rows, tuple(caption), bool(rows))
