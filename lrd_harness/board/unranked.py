"""Scores that rank no models: of metrics of a whole panel of models, and of controls, with labels.

Where a panel metric has a selection score, it ranks models as any metric does, and stands here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrd_harness.board import statistics
from lrd_harness.board.layers import LABELS, Row, present
from lrd_harness.board.panel import Panel, Predictor
from lrd_harness.report import Column, Table, inputs, listing
from lrd_harness.results.rows import MetricRow, Results

SHOWN = 30  # models of a matrix that people see


def unranked_tables(results: Results, panel: Panel, order: Sequence[int], kind: str) -> list[Table]:
    """Of a panel "panel", "panel_correlations", "pairs.METRIC.SCORE"; of controls "controls".

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
    best = {(row.metric, row.selection[0]): row.selection[1] for row in rows if row.selection}
    columns, cells = [Column("model", key=True)], {}
    rhos: list[Row] = []
    groups = [*frame.groupby(["source", "name"], sort=False)]
    groups.sort(key=lambda group: group[1].groupby("task").value.nunique().max() < 2)
    for (metric, score), values in groups:  # those of the panel as a whole behind
        name = f"{metric}.{score}"
        means = _means(values.pivot(index="task", columns="place", values="value"), panel)
        columns.append(Column(name, f"{metric} {score}", "", best.get((metric, score), ""), ".4g"))
        cells[name] = present(means)
        rho = statistics.spearman(means, panel.actual)
        n = len(statistics.complete(means, panel.actual)[0])
        p = statistics.permutation_p(means, panel.actual)
        rhos.append({"predictor": name, "best": columns[-1].best, "rho": rho, "p": p, "n": n})
    caption = [
        f"Of several models on the same {read}, mean over tasks: a value depends on which models "
        "are on the panel, and compares with values of the same panel only.",
        *(_both_ends(**row) for row in rhos if row["rho"] is not None and not row["best"]),
    ]
    table = [panel.named(i) | {name: of[i] for name, of in cells.items()} for i in order]
    title = "Scores of the models beside each other"
    yield Table("panel", title, tuple(columns), table, tuple(caption))
    title = "Scores of a panel and the mean score"
    yield listing("panel_correlations", title, rhos, "predictor")
    yield from _matrices(rows, panel, order)


def _means(by_task: pd.DataFrame, panel: Panel) -> np.ndarray:
    """Over the tasks, NaN for a model that lacks one: (models,)."""
    whole = by_task.reindex(columns=range(len(panel.models)))
    return np.asarray(whole.mean(axis=0, skipna=False).to_numpy(np.float64))


def _both_ends(predictor: str, rho: float, p: float | None, n: int, **_: Any) -> str:
    chance = "" if p is None else f", p = {p:.2g}"
    return (
        f"{predictor}: no better end is published. Spearman's rho with the mean score {rho:+.2f} "
        f"with the highest first, {-rho:+.2f} with the lowest first (n = {n} models{chance})."
    )


def _matrices(rows: Iterable[MetricRow], panel: Panel, order: Sequence[int]) -> Iterator[Table]:
    """Model beside model, the mean over tasks; up to 500 models, for people up to 30."""
    n = len(panel.models)
    if n > statistics.LARGE:
        return
    names = {label: place for place, label in enumerate(panel.labels)}
    names |= {f"{row.model}@{row.revision}": place for place, row in enumerate(panel.models)}
    places = {row.key: place for place, row in enumerate(panel.models)}
    # by score: the tasks, sums over them, and how many each sum has
    grids: dict[tuple[str, str], tuple[set[str], np.ndarray, np.ndarray]] = {}
    for row in {(row.key, row.task, row.metric): row for row in rows}.values():
        listed = row.parameters.get("panel")  # as NAME@REVISION
        listed = listed if isinstance(listed, list) else []
        full = {str(name).rpartition("@")[0]: str(name) for name in listed}
        for score, others in (row.pairs or {}).items():
            empty = set[str](), np.zeros((n, n)), np.zeros((n, n))
            tasks, sums, counts = grids.setdefault((row.metric, score), empty)
            tasks.add(row.task)
            known = ((full.get(name, name), value) for name, value in others.items())
            at = {names[name]: value for name, value in known if name in names}
            sums[places[row.key], list(at)] += list(at.values())
            counts[places[row.key], list(at)] += 1
    caption = (
        "Row: the model that the value is of; column: the model that it is measured against; mean "
        "over tasks, none where a pair lacks one.",
    )
    for (metric, score), (tasks, sums, counts) in grids.items():
        means = np.where(counts == len(tasks), sums, np.nan)[np.ix_(order, order)] / len(tasks)
        labels = [panel.labels[place] for place in order]
        columns = [Column(f"with.{label}", label, form=".3f") for label in labels]
        cells = [dict(zip((c.name for c in columns), present(of), strict=True)) for of in means]
        table = [panel.named(i) | of for i, of in zip(order, cells, strict=True)]
        title, head = f"{metric} {score}, model by model", Column("model", key=True)
        name, shown = f"pairs.{metric}.{score}", len(order) <= SHOWN
        yield Table(name, title, (head, *columns), table, caption, shown)


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
