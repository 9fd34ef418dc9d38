"""What a rho over all models may hide: it only tells kinds apart, or hangs on the largest models.

Encoders are small and old, decoders large and new, so that whatever tells these from one another
has a high rho, size above all. Here every predictor is held against each kind by itself, against
the models that remain as the largest are left out, and against size and date together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lrd_harness.board import statistics
from lrd_harness.board.cautions import Caution, count
from lrd_harness.board.layers import Row, hidden
from lrd_harness.board.panel import LOG_PARAMETERS, Panel, Predictor
from lrd_harness.board.statistics import Cells
from lrd_harness.report import Column, Table
from lrd_harness.results.kinds import DECODERS, model_kind
from lrd_harness.results.rows import Kind

LEAST = 4  # models that have both, for a task to count
FEWEST = 5  # models that the curve ends with, and of a kind for it to be spoken of
DRAWS, WORK = 1_999, 4_000_000  # orders drawn at most, and so many as bound orders x models x tasks
MOST = 200  # models of one kind above which no p is drawn
STEPS = 20_000  # models of all steps of a curve together: of up to 143 each is left out by itself
ALL, ENCODERS, DECODER = "all models", "encoders", "decoders"
_SAME = 1e-9  # relative: statistics that differ by less are level


def partial_rho(x: Cells, y: Cells, *controls: Cells) -> float | None:
    """Partial rank correlation: Pearson's partial correlation of average ranks, -1..1.

    Ranks are taken among the cases of which all sides are there. A constant control explains
    nothing. None for fewer than three more than there are controls, where all of these are
    constant, and where x or y goes with them without exception, so that nothing of it is left.

    Examples
    --------
    >>> round(partial_rho([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], [1, 3, 2, 5, 4]), 4)
    0.9784
    """
    ranks = [statistics.doubled_ranks(side) for side in statistics.complete(x, y, *controls)]
    if len(ranks[0]) < 3 + len(controls) or not any(side.any() for side in ranks[2:]):
        return None
    of_u, shared, of_v, _ = _given([[int(a @ b) for b in ranks] for a in ranks])
    if not (of_u > 0 and of_v > 0):
        return None
    return float(np.clip(float(shared) / math.sqrt(of_u) / math.sqrt(of_v), -1, 1))


def partial_p(
    x: Cells,
    y: Cells,
    *controls: Cells,
    draws: int = statistics.DRAWS,
    seed: int = 42,
    rho: float | None = None,
) -> float | None:
    """Two-sided p-value of `partial_rho` by permuting x; None where that is.

    The null: x says nothing of y, nor of the controls. Under it P(p <= a) <= a for any n and any
    ties; where x goes with a control it is an approximation, a good one as the statistic is
    studentised. The orders are those of `statistics.permutation_p`; those that leave the statistic
    undefined are not counted. rho: `partial_rho` of the same, where it is known already.

    Examples
    --------
    >>> round(partial_p([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], [1, 3, 2, 5, 4]), 4)
    0.0508
    """
    observed = partial_rho(x, y, *controls) if rho is None else rho
    if observed is None:
        return None
    sides = statistics.complete(x, y, *controls)
    u, *others = map(statistics.doubled_ranks, sides)
    drawn = statistics.products(u, *others, draws=draws, seed=seed)
    rest = [[p, *(int(a @ b) for b in others)] for p, a in zip(drawn, others, strict=True)]
    left, shared, of_v, most = _given([[int(u @ u), *drawn], *rest])
    there = left > _SAME * most
    least = observed**2 * float(of_v) * (1 - _SAME)
    return float(np.mean(shared[there] ** 2 >= least * left[there]))


def _given(products: list[list[Any]]) -> tuple[Any, Any, Any, float]:
    """What the other sides leave of the inner products of the first two: uu, uv, vv, and uu whole.

    products: of all sides with each other, whole numbers, or float64 where there are many orders of
    u. All that is given is times one factor, so that whole numbers stay exact.
    """
    most = float(products[0][0])
    while len(products) > 2:
        *rest, last = products
        pivot, products = last[-1], [row[:-1] for row in rest]
        if pivot:  # else it says nothing beyond the controls behind it
            most *= pivot
            products = [
                [cell * pivot - row[-1] * other for cell, other in zip(cut, last, strict=False)]
                for cut, row in zip(products, rest, strict=True)
            ]
    return products[0][0], products[0][1], products[1][1], most


class Median(NamedTuple):
    """The median rho over tasks with at least 4 models; n: the median number of these."""

    rho: float | None
    n: float | None
    tasks: int
    p: float | None = None


def median_rho(values: np.ndarray, scores: np.ndarray, p: bool = False) -> Median:
    """Of values and scores (tasks, models), NaN: not there.

    p: whether to draw one, two-sided: the models' values are given to other models, of all tasks at
    once, so that tasks that share their models count as what they are. All orders of up to 6
    models, else at least 199 seeded ones; none above 200 models.
    """
    there = ~(np.isnan(values) | np.isnan(scores))
    enough = there.sum(axis=1) >= LEAST
    if not enough.any():
        return Median(None, None, 0)
    values, scores, there = values[enough], scores[enough], there[enough]
    rhos = statistics.spearman_rows(values, scores)
    kept = np.flatnonzero(there.any(axis=0))
    rho = statistics.median(rhos)
    drawn = p and rho is not None and len(kept) <= MOST
    of_median = _median_p(values[:, kept], scores[:, kept]) if drawn else None
    tasks = int((~np.isnan(rhos)).sum())
    return Median(rho, float(np.median(there.sum(axis=1))), tasks, of_median)


def _median_p(values: np.ndarray, scores: np.ndarray) -> float:
    """The share of orders of the models whose median rho is as far from 0; the first is as it is.

    Ranks are had from signs of differences: what is below less what is above.
    """
    tasks, n = values.shape
    if n <= 6:
        orders = statistics.all_orders(n)
    else:
        draws = max(199, min(DRAWS, WORK // (tasks * n)))
        orders = np.tile(np.arange(n), (draws + 1, 1))
        np.random.default_rng(42).permuted(orders[1:], axis=1, out=orders[1:])
    rhos = np.full((tasks, len(orders)), np.nan)
    for x, y, rho in zip(values, scores, rhos, strict=True):
        there = (~np.isnan(x) & ~np.isnan(y)[orders]).astype(np.float64)  # place i has y of order i
        back = np.empty_like(there)
        np.put_along_axis(back, orders, there, axis=1)
        u = there * (there @ _signs(x))
        v = there * np.take_along_axis(back @ _signs(y), orders, axis=1)
        square = np.einsum("di,di->d", u, u) * np.einsum("di,di->d", v, v)
        some = (square > 0) & (there.sum(axis=1) >= LEAST)
        rho[some] = np.einsum("di,di->d", u, v)[some] / np.sqrt(square[some])
    some = ~np.isnan(rhos).all(axis=0)
    medians = np.abs(np.nanmedian(rhos[:, some], axis=0))
    return float(np.mean(medians >= medians[0] * (1 - _SAME)))


def _signs(values: np.ndarray) -> np.ndarray:
    """Sign of values[i] - values[j] at [j, i], 0 where one is not there."""
    return np.asarray(np.nan_to_num(np.sign(values - values[:, None])))


def by_kind(panel: Panel, kind: Kind) -> list[Row]:
    """One row per predictor: `Median` over all models, and over those of each kind apart.

    rho.GROUP, n.GROUP, tasks.GROUP, p.GROUP, models.GROUP (that have a score). [] where the models
    are of one kind, or where of another too few are known.
    """
    kinds = [model_kind(model, kind) for model in panel.models]
    scored = ~np.isnan(panel.scores.last).all(axis=0)
    groups = {
        ALL: scored,
        ENCODERS: scored & np.array([of == "encoder" for of in kinds], dtype=bool),
        DECODER: scored & np.array([of in DECODERS for of in kinds], dtype=bool),
    }
    if min(there.sum() for there in groups.values()) < LEAST:
        return []
    rows = []
    for predictor, values in _on_tasks(panel):
        row: Row = {"predictor": predictor.label, "kind": predictor.kind}
        for name, there in groups.items():
            of_group = median_rho(values[:, there], panel.scores.last[:, there], p=True)
            cells = of_group._asdict() | {"models": int(there.sum())}
            row = {**row, **{f"{column}.{name}": cell for column, cell in cells.items()}}
        if row[f"rho.{ALL}"] is not None or predictor.kind == "metric":
            rows.append(row)
    return rows


def _on_tasks(panel: Panel) -> Iterator[tuple[Predictor, np.ndarray]]:
    """Metrics and baselines with values, turned so that higher predicts better: (tasks, models)."""
    names = [task.name for task in panel.tasks]
    for predictor in {predictor.label: predictor for predictor in panel.predictors}.values():
        if predictor.kind != "control":  # which changes nothing that is said of others
            yield predictor, predictor.on(names)


def pooled(rows: Sequence[Row]) -> Iterator[Caution]:
    """Of each predictor that tells kinds apart more than models: what it is within each.

    Where the models of each kind are 5 at least, and the mean of the rhos within (weighted by
    models) is at most half of the one over all, which is above 0 with p < .05 where it is drawn.
    """
    for row in rows:
        rho, *within = (row[f"rho.{group}"] for group in (ALL, ENCODERS, DECODER))
        n = [row[f"models.{group}"] for group in (ENCODERS, DECODER)]
        if None in (rho, *within) or min(n) < FEWEST or (row[f"p.{ALL}"] or 0) >= statistics.ALPHA:
            continue
        if rho > 0 and np.average(within, weights=n) <= rho / 2:
            numbers = {"name": row["predictor"], "encoders": within[0], "decoders": within[1]}
            yield Caution("pooled", numbers | {"n_encoders": n[0], "n_decoders": n[1]})


def control_tables(rows: Sequence[Row], panel: Panel, what: str = "models") -> list[Table]:
    """rows: `by_kind`, a table where there are any; and the curve without the largest models."""
    tables = [_kind_table(rows, len(panel.models), what)] if rows else []
    steps, unknown = without_largest(panel)
    return [*tables, _curve_table(steps, unknown, panel, what)] if steps else tables


def _kind_table(rows: Sequence[Row], models: int, what: str) -> Table:
    columns = [Column("predictor", key=True), *hidden("kind")]
    for group in (ALL, ENCODERS, DECODER):
        n = rows[0][f"models.{group}"]
        columns += [
            Column(f"rho.{group}", f"rho, {group}, n = {n}", best="max", form="+z.2f"),
            Column(f"p.{group}", "p", form=".2g", tied=True),
            *hidden(*(f"{name}.{group}" for name in ("n", "tasks", "models"))),
        ]
    caption = [
        "Median over tasks of Spearman's rho. High over all and low within both kinds: it only "
        "tells encoders from decoders, as any size does. p (two-sided) by giving the models' "
        f"values to other models, on all tasks at once (up to {MOST} models). n: {what} with a "
        f"score, of which a task needs {LEAST}."
    ]
    unknown = rows[0][f"models.{ALL}"] - sum(rows[0][f"models.{g}"] for g in (ENCODERS, DECODER))
    if unknown:
        caption.append(f"Of {count(unknown, 'model')} the kind is not known: in neither.")
    title = f"How well each predictor orders {what} of one kind"
    return Table("kinds", title, tuple(columns), rows, tuple(caption))


def without_largest(panel: Panel) -> tuple[list[Row], int]:
    """rho.PREDICTOR as the largest models are left out one by one, down to 5; how many are unknown.

    Of models with a score whose parameters are known; those of one size go together. Of many models
    the steps are longer, 10 at least.
    """
    sizes = next((p.values[0] for p in panel.predictors if p.label == LOG_PARAMETERS), None)
    scored = ~np.isnan(panel.scores.last).all(axis=0)
    if sizes is None or not scored.any():
        return [], 0
    known = scored & ~np.isnan(sizes)
    ascending = np.flatnonzero(known)[np.argsort(sizes[known], kind="stable")]
    n = len(ascending)
    whole = [m for m in range(FEWEST, n) if sizes[ascending[m]] > sizes[ascending[m - 1]]] + [n]
    places = np.linspace(0, len(whole) - 1, min(len(whole), max(10, STEPS // max(1, n)))).round()
    rows = list[Row]()
    for m in (whole[int(i)] for i in places[::-1] if n >= FEWEST):
        there = ascending[:m]
        row = {"left_out": n - m, "models": m, "largest": panel.models[there[-1]].parameters}
        for predictor, values in _on_tasks(panel):
            rho = median_rho(values[:, there], panel.scores.last[:, there]).rho
            row[f"rho.{predictor.label}"] = rho
        rows.append(row)
    if all(rho is None for row in rows for name, rho in row.items() if name.startswith("rho.")):
        rows = []
    return rows, int(scored.sum()) - n


def _curve_table(steps: Sequence[Row], unknown: int, panel: Panel, what: str) -> Table:
    rows = [row | {"millions": row["largest"] / 1e6} for row in steps]
    labels = {predictor.label: predictor.kind for predictor, _ in _on_tasks(panel)}
    drawn = [name for name in labels if any(row[f"rho.{name}"] is not None for row in rows)]
    metrics = [name for name in drawn if labels[name] == "metric"]
    columns = (
        Column("left_out", "left out", "models", key=True),
        Column("models", "n", "models"),
        Column("millions", "largest left", "million params", form=",.1f"),
        *(
            Column(f"rho.{name}", name, best="max", form="+z.2f", rest=name not in first)
            for first in [{*metrics, LOG_PARAMETERS}]
            for name in drawn
        ),
        *hidden("largest"),
    )
    caption = [
        "Median over tasks of Spearman's rho as the largest models are left out one by one (those "
        "of one size together). What predicts only through a few large models falls as they go."
    ]
    if unknown:
        caption.append(f"{count(unknown, 'model')} of unknown size left out of all rows.")
    title = f"How well each predictor orders the {what} without the largest"
    return Table("without_largest", title, columns, rows, tuple(caption), len(rows) > 2)
