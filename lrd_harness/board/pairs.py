"""Model beside model: the matrices of panel metrics, and their scores without some models."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lrd_harness.board import statistics
from lrd_harness.board.layers import Row, hidden, present
from lrd_harness.board.panel import Panel
from lrd_harness.measures import Summary
from lrd_harness.report import Column, Table, listing
from lrd_harness.results.rows import MetricRow

SHOWN = 30  # models of a matrix that people see
LEFT_OUT = 100  # models: beyond, none is left out, which takes the cube of their number
LISTED = 12  # models of which people see what each one changes
NAMED = 3  # models in a cell


class Matrix(NamedTuple):
    """A score of a metric by model and other model, NaN where there is none: (tasks, n, n).

    summaries: the scores by model that are made of it.
    """

    metric: str
    score: str
    values: np.ndarray
    summaries: Mapping[str, Summary]

    def summary(self, name: str, kept: np.ndarray) -> np.ndarray:
        """A score by model, mean over tasks, where only the kept models are: (n,), else NaN."""
        _, of, along, _ = self.summaries[name]
        middle = np.nanmean if of == "mean" else np.nanmedian
        values = self.values[:, kept][:, :, kept]
        scores = np.full(len(kept), np.nan)
        with warnings.catch_warnings():  # of a model that has no other in a task
            warnings.simplefilter("ignore", RuntimeWarning)
            scores[kept] = middle(values, axis=2 if along == "row" else 1).mean(axis=0)
        return scores


def matrices(rows: Iterable[MetricRow], panel: Panel) -> Iterator[Matrix]:
    """Of panel metrics; up to 500 models."""
    n = len(panel.models)
    names = {label: place for place, label in enumerate(panel.labels)}
    names |= {f"{row.model}@{row.revision}": place for place, row in enumerate(panel.models)}
    places = {row.key: place for place, row in enumerate(panel.models)}
    by_score: dict[tuple[str, str], dict[str, list[MetricRow]]] = {}
    for row in {(row.key, row.task, row.metric): row for row in rows}.values():
        for score in row.pairs or {} if n <= statistics.LARGE else ():
            by_score.setdefault((row.metric, score), {}).setdefault(row.task, []).append(row)
    for (metric, score), by_task in by_score.items():
        values, summaries = np.full((len(by_task), n, n), np.nan), dict[str, Summary]()
        for of_task, task in zip(values, by_task.values(), strict=True):
            for row in task:
                listed = row.parameters.get("panel")  # as NAME@REVISION
                listed = listed if isinstance(listed, list) else []
                full = {str(name).rpartition("@")[0]: str(name) for name in listed}
                known = ((full.get(o, o), value) for o, value in (row.pairs or {})[score].items())
                at = {names[name]: value for name, value in known if name in names}
                of_task[places[row.key], list(at)] = list(at.values())
                summaries |= {s: of for s, of in row.summaries.items() if of.matrix == score}
        yield Matrix(metric, score, values, summaries)


def matrix_table(matrix: Matrix, panel: Panel, order: Sequence[int]) -> Table:
    """Model beside model, the mean over tasks; for people up to 30 models."""
    means = matrix.values.mean(axis=0)[np.ix_(order, order)]
    directed = not np.allclose(means, means.T, equal_nan=True)
    caption = (
        "Row: the model that the value is of; column: the model that it is measured against; mean "
        "over tasks, none where a pair lacks one."
        + " The matrix is directed: from the row's model to the column's."
        * directed,
    )
    labels = [panel.labels[place] for place in order]
    columns = [Column(f"with.{label}", label, form=".3f") for label in labels]
    cells = [dict(zip((c.name for c in columns), present(of), strict=True)) for of in means]
    table = [panel.named(i) | of for i, of in zip(order, cells, strict=True)]
    title, head = f"{matrix.metric} {matrix.score}, model by model", Column("model", key=True)
    name = f"pairs.{matrix.metric}.{matrix.score}"
    return Table(name, title, (head, *columns), table, caption, len(order) <= SHOWN)


def left_out_tables(every: Sequence[Matrix], panel: Panel) -> Iterator[Table]:
    """The order of the models with each model, and each family, left out: "panel_without".

    "panel_places": by score and model its place, and the first and the last of those that it has
    where others are left out: its place by as much as it moves among those that are left.
    """
    rows: list[Row] = []
    places: list[Row] = []
    for matrix in every if len(panel.models) <= LEFT_OUT else ():
        for name in matrix.summaries:
            moves = [*_left_out(matrix, name, panel)]
            rows += [row for row, _ in moves]
            places += _places(moves, panel, f"{matrix.metric}.{name}")
    caption = (
        "Each score again without a model, or without all models of a family. rho: Spearman's, of "
        "the order of those that are left and their order in the whole panel; moves: the most "
        "places that one of them moves; rho with scores: of the order and the mean score, the "
        "highest first. Where these change much, who is on the panel decides the order.",
    )
    columns = (
        Column("predictor", "score", key=True),
        Column("other", "left out", key=True),
        *hidden("kind", "n"),
        Column("rho", form="+.2f"),
        Column("moves", unit="places"),
        Column("actual", "rho with scores", form="+.2f"),
        Column("moved", "who moves most", rest=1),
    )
    title = "The order with each model, and each family, left out"
    if len(rows) > len({row["predictor"] for row in rows}):
        shown = len({row["model"] for row in places}) <= LISTED
        yield Table("panel_without", title, columns, rows, caption, shown)
        yield listing("panel_places", "Places of the models", places, "predictor", "model")


def _left_out(
    matrix: Matrix, name: str, panel: Panel
) -> Iterator[tuple[Row, Mapping[int, tuple[int, int]]]]:
    """A row for each that is left out, none at first; by model its place there, and in the whole.

    The places are among those that are left, 3 models at least.
    """
    whole = matrix.summary(name, np.full(len(panel.models), True))
    members = np.flatnonzero(~np.isnan(whole)).tolist()
    families: dict[str, list[int]] = {}
    for i in members:
        families.setdefault(panel.models[i].family or "", []).append(i)
    out: list[tuple[str, str, list[int]]] = [("none", "none", [])]
    out += [("model", panel.labels[i], [i]) for i in members]
    out += [("family", f, of) for f, of in families.items() if f and len(of) > 1]
    for kind, label, without in out:
        kept = ~np.isnan(whole)
        kept[without] = False
        if kept.sum() < 3:
            continue
        scores, before = matrix.summary(name, kept), np.where(kept, whole, np.nan)
        highest = matrix.summaries[name].best != "min"
        both = (statistics.places(values, highest) for values in (scores, before))
        moved = {i: (a, b) for i, (a, b) in enumerate(zip(*both, strict=True)) if a and b}
        most = max(abs(a - b) for a, b in moved.values())
        who = [panel.labels[i] for i, (a, b) in moved.items() if most and abs(a - b) == most]
        more = [f"{len(who) - NAMED} more"] * (len(who) > NAMED)
        yield (
            {
                "predictor": f"{matrix.metric}.{name}",
                "other": f"{label} (family)" if kind == "family" else label,
                "kind": kind,
                "n": int(kept.sum()),
                "rho": statistics.spearman(scores, before),
                "moves": most,
                "moved": ", ".join([*who[:NAMED], *more]) or None,
                "actual": statistics.spearman(scores, panel.actual),
            },
            moved,
        )


def _places(
    moves: Sequence[tuple[Row, Mapping[int, tuple[int, int]]]], panel: Panel, predictor: str
) -> Iterator[Row]:
    """A row per model: its place, the first and the last of its places."""
    for i, (place, _) in moves[0][1].items() if moves else ():
        there = [place + of[i][0] - of[i][1] for _, of in moves if i in of]
        row = {"predictor": predictor, **panel.named(i)}
        yield row | {"place": place, "first": min(there), "last": max(there)}
