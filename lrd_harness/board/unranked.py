"""Scores that rank no models: of metrics of a whole panel of models, and of controls, with labels.

Where a panel metric has a selection score, it ranks models as any metric does, and stands here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lrd_harness import manager
from lrd_harness.board import statistics
from lrd_harness.board.layers import LABELS, Row, present
from lrd_harness.board.pairs import left_out_tables, matrices, matrix_table
from lrd_harness.board.panel import Panel, Predictor
from lrd_harness.measures import OTHER_FAMILIES
from lrd_harness.report import Column, Table, inputs, listing
from lrd_harness.results.rows import MetricRow, Results


def unranked_tables(results: Results, panel: Panel, order: Sequence[int], kind: str) -> list[Table]:
    """Of a panel "panel", "panel_correlations", those of `pairs`; of controls "controls".

    order: places in the panel, as models stand in the ranking; kind: of the tasks.
    """
    models = {row.key for row in panel.models}
    rows = [row for row in results.metrics if row.key in models and row.pairs is not None]
    controls = [p for p in panel.predictors if p.selection and p.kind == "control"]
    of_panel = _of_panel(rows, results, panel, order, inputs(kind))
    return [*of_panel, *_controls(controls, panel, order)]


def _of_panel(
    rows: Sequence[MetricRow], results: Results, panel: Panel, order: Sequence[int], read: str
) -> Iterator[Table]:
    """One row per model, a column for each score; the matrices. read: what models read."""
    if not rows:
        return
    frame = results.frame[results.frame.variant == "full"]
    frame = frame[(frame.kind == "value") & frame.source.isin({row.metric for row in rows})]
    places = {row.key[:2]: place for place, row in enumerate(panel.models)}
    keys = zip(frame.model, frame.revision, strict=True)
    frame = frame.assign(place=[places.get(key, -1) for key in keys])
    frame = frame[frame.place >= 0]
    best = {(row.metric, s): of.best for row in rows for s, of in row.summaries.items()}
    best |= {(row.metric, row.selection[0]): row.selection[1] for row in rows if row.selection}
    known = {metric.name: metric for metric in manager.load().all("panel metric")}
    measured = (known[name] for name in dict.fromkeys(row.metric for row in rows) if name in known)
    columns, cells = [Column("model", key=True)], {}
    rhos: list[Row] = []
    groups = [*frame.groupby(["source", "name"], sort=False)]
    groups.sort(key=lambda group: group[1].groupby("task").value.nunique().max() < 2)
    for (metric, score), values in groups:  # those of the panel as a whole behind
        name = f"{metric}.{score}"
        means = _means(values.pivot(index="task", columns="place", values="value"), panel)
        end = best.get((metric, score.removesuffix(OTHER_FAMILIES)), "")
        columns.append(Column(name, f"{metric} {score}", "", end, ".4g"))
        cells[name] = present(means)
        rho = statistics.spearman(means, panel.actual)
        n = len(statistics.complete(means, panel.actual)[0])
        p = statistics.permutation_p(means, panel.actual)
        rhos.append({"predictor": name, "best": columns[-1].best, "rho": rho, "p": p, "n": n})
    # what ranks has tables of its own
    unsaid = (
        OTHER_FAMILIES,
        *(f"{row.metric}.{row.selection[0]}" for row in rows if row.selection),
    )
    caption = [
        f"Of several models on the same {read}, mean over tasks: a value depends on which models "
        "are on the panel, and compares with values of the same panel only.",
        *(
            said
            for row in rhos
            if not row["predictor"].endswith(unsaid)
            for said in _with_scores(**row)
        ),
        *(f"{m.name} is experimental: {m.evidence}." for m in measured if m.experimental),
    ]
    table = [panel.named(i) | {name: of[i] for name, of in cells.items()} for i in order]
    title = "Scores of the models beside each other"
    yield Table("panel", title, tuple(columns), table, tuple(caption))
    title = "Scores of a panel and the mean score"
    yield listing("panel_correlations", title, rhos, "predictor")
    every = [*matrices(rows, panel)]
    yield from left_out_tables(every, panel)
    yield from (matrix_table(matrix, panel, order) for matrix in every)


def _means(by_task: pd.DataFrame, panel: Panel) -> np.ndarray:
    """Over the tasks, NaN for a model that lacks one: (models,)."""
    whole = by_task.reindex(columns=range(len(panel.models)))
    return np.asarray(whole.mean(axis=0, skipna=False).to_numpy(np.float64))


def _with_scores(
    predictor: str, best: str, rho: float | None, p: float | None, n: int
) -> Iterator[str]:
    """How a score goes with the mean score, by both ends where none is published."""
    chance = "" if p is None else f", p = {p:.2g}"
    if rho is None:
        return
    if best:
        end = "higher" if best == "max" else "lower"
        yield (
            f"{predictor}: Spearman's rho with the mean score {rho:+.2f}, and {end} is published "
            f"as better (n = {n} models{chance})."
        )
    else:
        yield (
            f"{predictor}: no better end is published. Spearman's rho with the mean score "
            f"{rho:+.2f} with the highest first, {-rho:+.2f} with the lowest first (n = {n} "
            f"models{chance})."
        )


def _controls(controls: Sequence[Predictor], panel: Panel, order: Sequence[int]) -> Iterator[Table]:
    """One row per model: means of the controls' selection scores, and the ranks by them."""
    columns, cells = [Column("model", key=True)], {}
    for predictor in controls:
        name = predictor.name.removesuffix(LABELS)
        columns.append(Column(f"rank.{name}", f"rank by {name}", form="place"))
        columns.append(Column(predictor.score, predictor.score, "", predictor.best, "#.4g"))
        cells[f"rank.{name}"] = statistics.places(predictor.strength)
        cells[predictor.score] = present(predictor.means)
    rows = [panel.named(i) | {name: of[i] for name, of in cells.items()} for i in order]
    caption = (
        "They see the labels of the very data that the scores are made of, and show how much these "
        "tell: they are no label-free predictors, and no verdict on metrics counts them. Means and "
        "ranks are over the tasks that have labels.",
    )
    if controls:
        yield Table("controls", "Controls: measured with labels", tuple(columns), rows, caption)
