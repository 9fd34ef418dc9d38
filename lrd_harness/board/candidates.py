"""What may choose layers, or order models, without labels, on the models and tasks of results.

Rules are metrics, each by its published end, or both ends where none is published; and rules that
need no metric: fixed depths for layers, size and release date for models. What uses labels is known
by name alone. Models of one family go together: what a rule gains is taken without each in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from lrd_harness.board import layer_choice, panel, statistics, training
from lrd_harness.board.agreement import LEAST
from lrd_harness.board.layers import LABELS, OTHER, curves
from lrd_harness.board.trial import Groups, Trial
from lrd_harness.errors import UserError, unknown
from lrd_harness.results.rows import Kind, ModelRow, Results

_PICKS = "model revision task metric gain reverse_gain".split()
_KINDS: Mapping[panel.Kind, Of] = {"metric": "metric", "baseline": "rule", "control": "labels"}
SIZE = "size"  # parameters and date together, or else the parameters, or width, or depth
Of = Literal["metric", "rule", "score", "labels"]
Ways = Mapping[str, np.ndarray]  # "argmax" -> (models, tasks), NaN where it says nothing


@dataclass(frozen=True)
class Candidate:
    """A rule. kind: "metric", "rule" for what needs none, "score" for a metric's value that ranks
    nothing by itself, "labels" for what uses them.

    ways: of choosing, one, or both ends of a metric of which nobody says which is better. For
    layers the scores of those chosen, less the last layer's; for models what orders them, the
    higher the better.
    """

    kind: Of
    ways: Ways


@dataclass(frozen=True)
class Candidates:
    """All rules of some results. scores: of models, (models, tasks), where these are ordered.

    unknown: of how many models the family is not known, so that each stands for one.
    """

    rules: Mapping[str, Candidate]
    groups: Groups
    unknown: int
    scores: np.ndarray | None = None
    _ranked: dict[tuple[int, bytes], statistics.Resampled] = field(default_factory=dict)

    def find(self, name: str, what: str) -> str:
        """The name of a candidate as it is known here. Raises UserError for none."""
        if name == SIZE:
            known = [size for size in (panel.TOGETHER, *panel.SIZES) if size in self.rules]
            if not known:
                raise UserError("no model's size is known: name another --control")
            if known[0] == panel.TOGETHER and self._models(known[0]) < self._models(known[1]):
                del known[0]  # it would leave models out
            name = known[0]
        if name not in self.rules:
            few = ", ".join(self.rules) or "none: there are no scores to choose by"
            raise unknown(what, name, self.rules, f"Measured here: {few}.")
        return name

    def _models(self, rule: str) -> int:
        (way,) = self.rules[rule].ways.values()
        return int(np.sum(~np.isnan(way).all(axis=1)))

    def trial(self, way: np.ndarray, control: np.ndarray) -> Trial:
        """A way of choosing against another one, on the models and tasks that both have."""
        if self.scores is None:
            gains = way - control
            return self.groups.trial(self.groups.means(gains), ~np.isnan(gains))
        there = ~np.isnan(self.scores + way + control)
        rho = [self._rho(t, m, way) - self._rho(t, m, control) for t, m in enumerate(there.T)]
        return self.groups.trial(np.array(rho).reshape(len(rho), -1).T, there)

    def alone(self, way: np.ndarray, control: np.ndarray) -> float | None:
        """What a way of choosing comes to on the models and tasks that both have."""
        there = ~np.isnan(way + control)
        if self.scores is None:
            means = self.groups.means(np.where(there, way, np.nan))[0]
        else:
            there &= ~np.isnan(self.scores)
            means = np.array([self._rho(t, m, way)[0] for t, m in enumerate(there.T)])
        return statistics.mean_of_all(means[~np.isnan(means)])

    def regret(self, way: np.ndarray, control: np.ndarray) -> float | None:
        """The score lost by taking the model that is first, the mean over tasks; None of layers."""
        if self.scores is None:
            return None
        there = ~np.isnan(self.scores + way + control)
        of_tasks = zip(there.T, way.T, self.scores.T, strict=True)
        lost = [statistics.regret(x[m], y[m]) for m, x, y in of_tasks if m.sum() >= LEAST]
        return statistics.mean_of_all(lost)

    def _rho(self, task: int, there: np.ndarray, way: np.ndarray) -> np.ndarray:
        """Of a task, with all models and without each group: (groups + 1,)."""
        assert self.scores is not None
        if there.sum() < LEAST:
            return np.full(len(self.groups.weights), np.nan)
        place = task, there.tobytes()
        if place not in self._ranked:
            y, weights = self.scores[there, task], self.groups.weights[:, there]
            self._ranked[place] = statistics.Resampled(y, weights)
        return self._ranked[place].rho(way[there, task])


def of_layers(results: Results, kind: Kind, held_out: str) -> Candidates:
    """What chooses layers: metrics, fixed depths (`layer_choice.BLIND`), and the last layer.

    held_out: what goes as one, "family" or "model". Raises UserError where no model has scores of
    two layers, the last one among them.
    """
    choice = layer_choice.build_choice(results, kind)
    if choice is None or not choice.cells.whole.any():
        raise UserError("no model has scores at its last and another layer: nothing to choose from")
    places = curves(results).drop_duplicates("place").set_index("place")
    models, tasks = _whole(results), list(dict.fromkeys(places.task))
    picks = pd.DataFrame(choice.picks, columns=[*_PICKS])
    rules: dict[str, Candidate] = {}
    for gain in choice.gains:
        if gain.get("first"):
            labelled, best = gain["kind"] == "control", gain["best"]
            name = gain["rule"] + LABELS * labelled
            of_metric = picks[picks.metric == name]
            ways = {f"arg{best}": _grid(of_metric, "gain", models, tasks)}
            if not gain["published"]:
                ways[f"arg{OTHER[best]}"] = _grid(of_metric, "reverse_gain", models, tasks)
            rules[name] = Candidate("labels" if labelled else "metric", ways)
    gains = layer_choice.control_outcomes(choice.cells[choice.cells.whole])
    gains[layer_choice.LAST] = gains[layer_choice.RANDOM].assign(gain=0.0)
    for rule in (layer_choice.LAST, *layer_choice.BLIND):
        of_rule = places[["model", "revision", "task"]].join(gains[rule].gain, how="inner")
        rules[rule] = Candidate("rule", {"": _grid(of_rule, "gain", models, tasks)})
    return Candidates(rules, *_groups(models, held_out))


def of_models(results: Results, held_out: str) -> Candidates:
    """What orders models: the predictors of `panel`, and by name any score METRIC.SCORE.

    Raises UserError where no task has scores of 4 models.
    """
    board = panel.build_panel(results)
    tasks = [task.name for task in board.tasks]
    if not any(task.models >= LEAST for task in board.tasks):
        raise UserError(f"no task has scores of {LEAST} models: nothing to order")
    rules: dict[str, Candidate] = {}
    for predictor in board.predictors:
        order = predictor.on(tasks).T
        if not np.isnan(order).all():
            ways = {f"arg{predictor.best}" if predictor.kind == "metric" else "": order}
            rules[predictor.name] = Candidate(_KINDS[predictor.kind], ways)
    frame = results.frame
    frame = frame[(frame.kind == "value") & (frame.variant == "full") & frame.task.isin(tasks)]
    known = {predictor.score for predictor in board.predictors}
    for (metric, score), rows in frame.groupby(["source", "name"], sort=False):
        if f"{metric}.{score}" not in known:
            values = _grid(rows, "value", board.models, tasks)
            name = metric if metric == score and metric not in rules else f"{metric}.{score}"
            rules[name] = Candidate("score", {"argmax": values, "argmin": -values})
    return Candidates(rules, *_groups(board.models, held_out), board.scores.last.T)


def _whole(results: Results) -> list[ModelRow]:
    return [*{row.key: row for row in results.models if row.variant == "full"}.values()]


def _grid(
    rows: pd.DataFrame, column: str, models: Sequence[ModelRow], tasks: Sequence[str]
) -> np.ndarray:
    """A column of rows that have model, revision and task: (models, tasks), NaN: not there."""
    of_model = {row.key[:2]: i for i, row in enumerate(models)}
    of_task = {task: i for i, task in enumerate(tasks)}
    cells = np.full((len(models), len(tasks)), np.nan)
    names = zip(rows.model, rows.revision, strict=True)
    at = [of_model[name] for name in names], [of_task[task] for task in rows.task]
    cells[at] = rows[column].astype("float64")
    return cells


def _groups(models: Sequence[ModelRow], held_out: str) -> tuple[Groups, int]:
    """Training runs always go as one. Also how many models have no known family."""
    run_of = training.runs(models)
    runs = ["@".join(filter(None, run_of.get(row.key, row.key)[:2])) for row in models]
    if held_out == "model":
        return Groups(runs), 0
    known = zip(models, runs, strict=True)
    return Groups([row.family or run for row, run in known]), sum(not m.family for m in models)
