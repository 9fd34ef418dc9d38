"""What may choose layers, or order models, without labels, on the models and tasks of results.

Rules are metrics, each by its published end, or both ends where none is published; and rules that
need no metric: fixed depths for layers, size and release date for models. What uses labels is tried
only where it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from lrd_harness.board import layer_choice, panel, training
from lrd_harness.board.agreement import LEAST
from lrd_harness.board.cautions import Caution, count, names
from lrd_harness.board.layers import LABELS, OTHER, curves
from lrd_harness.board.one_layer import RULE
from lrd_harness.board.statistics import Resampled
from lrd_harness.board.trial import Groups, Trial, means
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
    """All rules of some results. scores: (models, tasks), where models are ordered."""

    rules: Mapping[str, Candidate]
    groups: Groups
    cautions: tuple[Caution, ...]
    scores: np.ndarray | None = None

    def find(self, name: str, what: str) -> str:
        """The name of a candidate as it is known here. Raises UserError for none."""
        if name == SIZE:
            known = [size for size in (panel.TOGETHER, *panel.SIZES) if size in self.rules]
            if not known:
                raise UserError("no model's size is known: name another --control")
            if known[0] == panel.TOGETHER and self._models(known[0]) < self._models(known[1]):
                del known[0]  # it would leave models out
            name = known[0]
        name += LABELS * (name not in self.rules and name + LABELS in self.rules)
        if name not in self.rules:
            few = "; ".join(self.rules) or "none: there are no scores to choose by"
            raise unknown(what, name, self.rules, f"Measured here: {few}.")
        return name

    def _models(self, rule: str) -> int:
        (way,) = self.rules[rule].ways.values()
        return int(np.sum(~np.isnan(way).all(axis=1)))

    def trial(self, way: np.ndarray, control: np.ndarray) -> tuple[Trial, np.ndarray]:
        """A way of choosing against another one, on the models and tasks that both have.

        Also what each comes to alone, the mean over tasks: (2,).
        """
        there = ~np.isnan(way + control if self.scores is None else way + control + self.scores)
        outcomes = np.full((2, len(self.groups.weights), there.shape[1]), np.nan)
        if self.scores is None:
            outcomes[:] = [self.groups.means(np.where(there, x, np.nan)) for x in (way, control)]
        else:
            for task, of in enumerate(there.T):
                if of.sum() >= LEAST:
                    actual = Resampled(self.scores[of, task], self.groups.weights[:, of])
                    outcomes[..., task] = [actual.rho(x[of, task]) for x in (way, control)]
        gains = outcomes[0] - outcomes[1]
        alone = outcomes[:, 0, ~np.isnan(gains[0])].T
        return self.groups.trial(gains, there), means(alone)


def of_layers(results: Results, kind: Kind, held_out: str) -> Candidates:
    """What chooses layers: metrics, fixed depths (`layer_choice.BLIND`), and the last layer.

    held_out: what goes as one, "family" or "model". Raises UserError where no model has scores of
    two layers, the last one among them.
    """
    choice = layer_choice.build_choice(results, kind)
    if choice is None or choice.blind.empty:
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
    for rule, gains in choice.blind.items():
        of_rule = places.join(gains.rename("gain"), how="inner")
        rules[str(rule)] = Candidate("rule", {"": _grid(of_rule, "gain", models, tasks)})
    groups, cautions = _groups(models, held_out)
    if choice.unknown:
        told = {"models": names(choice.unknown), "rule": RULE}
        cautions = (*cautions, Caution("choice_kind", told))
    return Candidates(rules, groups, cautions)


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
    frame = frame[frame.kind.isin(panel.VALUES) & (frame.variant == "full")]
    known = {predictor.score for predictor in board.predictors}
    rows = frame[frame.task.isin(tasks)].groupby(["source", "name", "kind"], sort=False)
    for (metric, score, kind), of_score in rows:
        labels = LABELS * (kind == panel.VALUES[1])
        if f"{metric}.{score}{labels}" not in known:
            values = _grid(of_score, "value", board.models, tasks)
            short = metric == score and metric + labels not in rules
            name = (metric if short else f"{metric}.{score}") + labels
            ways = {"argmax": values, "argmin": -values}
            rules[name] = Candidate("labels" if labels else "score", ways)
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


def _groups(models: Sequence[ModelRow], held_out: str) -> tuple[Groups, tuple[Caution, ...]]:
    """Training runs always go as one. Also how many models have no known family."""
    run_of = training.runs(models)
    runs = ["@".join(filter(None, run_of.get(row.key, row.key)[:2])) for row in models]
    if held_out == "model":
        return Groups(runs), ()
    unknown = sum(not row.family for row in models)
    of_none = Caution("trial_unknown", {"models": count(unknown, "model")})
    families = [row.family or run for row, run in zip(models, runs, strict=True)]
    return Groups(families), (of_none,) * bool(unknown)
