"""How sure the actual order is: over other tasks, without missing scores, without outlying ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import hypot, sqrt
from typing import Any

import numpy as np
from scipy import stats

from lrd_harness.board import statistics
from lrd_harness.board.cautions import Caution, count, names
from lrd_harness.board.layers import Row
from lrd_harness.board.panel import DIGITS, Panel, build_panel, over_tasks
from lrd_harness.errors import UserError
from lrd_harness.results.kinds import split
from lrd_harness.results.rows import Results

LEAST = statistics.LEAST  # tasks of an interval; models and tasks of a panel with outlying scores
FAR, TIGHT = 5.0, 0.02  # an outlying score: robust standard deviations, and the least of these
POLISHES = 6  # rounds of a median polish
DRAWS = 400  # of tasks, where there are more than 500 models
NAMED = 10  # models, or scores, named in one sentence


def rank_intervals(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The 95 % interval of each model's place by the mean over tasks: two of (models,), whole.

    scores: (tasks, models), no NaN; None below 5 tasks. Bootstrap over the tasks, the same draws
    for all models. A resample of n tasks spreads too little by sqrt((n - 1) / n), and percentiles
    are the normal distribution's: draws are stretched about the means to Student's interval.

    Examples
    --------
    >>> low, high = rank_intervals(np.array([[0.5, 0.4, 0.1]] * 5))
    >>> low.tolist(), high.tolist()
    ([1, 2, 3], [1, 2, 3])
    """
    n = len(scores)
    if n < LEAST:
        return None
    draws = DRAWS if scores.shape[1] > statistics.LARGE else statistics.RESAMPLES
    drawn = statistics.resamples(n, draws) @ scores / n
    means = scores.mean(axis=0)
    end = (1 + statistics.LEVEL) / 2
    wider = stats.t.ppf(end, n - 1) / stats.norm.ppf(end) * sqrt(n / (n - 1))
    drawn = np.round(means + wider * (drawn - means), DIGITS)
    ranks = stats.rankdata(-drawn, method="min", axis=1)
    low = np.percentile(ranks, 100 * (1 - end), axis=0, method="lower")
    high = np.percentile(ranks, 100 * end, axis=0, method="higher")
    return low.astype(int), high.astype(int)


def within_errors(first: Row, second: Row) -> bool | None:
    """Whether two scores differ by less than 2 standard errors; None where one has none.

    The questions are the same for both and their errors go together, so that the true standard
    error of the difference is mostly smaller: this is on the careful side.
    """
    if None in (first["stderr"], second["stderr"]):
        return None
    reach = 2 * hypot(first["stderr"], second["stderr"])
    return bool(abs(first["score"] - second["score"]) < reach)


class Standing:
    """The models that have an actual rank, and how far one can be told from another.

    ranked: their places in the panel, the best first.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        actual = panel.actual
        order = np.argsort(-actual, kind="stable")
        self.ranked = order[~np.isnan(actual[order])]
        self._scores = panel.scores.last[:, self.ranked]
        error = panel.means.stderr[self.ranked]
        self._means = [
            {"score": score, "stderr": None if np.isnan(stderr) else stderr}
            for score, stderr in zip(actual[self.ranked].tolist(), error.tolist(), strict=True)
        ]

    def _p(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Two-sided, of Student's paired t over tasks, for each pair; NaN below 5 tasks."""
        if len(self._scores) < LEAST:
            return np.full(len(first), np.nan)
        difference = np.round(self._scores[:, first] - self._scores[:, second], DIGITS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of pairs that differ alike on all
            p = stats.ttest_1samp(difference, 0.0, axis=0).pvalue
        return np.asarray(np.where((difference == 0).all(axis=0), 1.0, p))

    def _level(self, first: int, second: int, p: float | None) -> bool | None:
        """Whether two cannot be told apart, over tasks or by their standard errors."""
        over_tasks = None if p is None or np.isnan(p) else bool(p >= statistics.ALPHA)
        known = {over_tasks, within_errors(self._means[first], self._means[second])} - {None}
        return any(known) if known else None

    def level_with_next(self) -> list[bool | None]:
        """Of each ranked model but the last; None where nothing tells."""
        before, after = np.arange(len(self.ranked) - 1), np.arange(1, len(self.ranked))
        pairs = zip(before.tolist(), after.tolist(), self._p(before, after).tolist(), strict=True)
        return [self._level(*pair) for pair in pairs]

    def level_with_first(self) -> list[int]:
        """Ranked models, by number, that cannot be told from the best: p by Holm over them all."""
        others = np.arange(1, len(self.ranked))
        ps = statistics.holm(self._p(np.zeros_like(others), others))
        return [k for k, p in enumerate(ps, start=1) if self._level(0, k, p)]

    def caption(self, what: str) -> list[str]:
        """How to read the columns; why there are none."""
        tasks = len(self._scores)
        if len(self.ranked) < 2:
            return []
        parts = []
        if tasks >= LEAST:
            parts.append(
                f"95 %: interval of the rank, bootstrap over the {tasks} tasks, the same draws for "
                f"all {what}, widened to Student's t."
            )
        elif tasks > 1:
            parts.append(f"Ranks have no intervals: these take {LEAST} tasks.")
        by = [f"the paired t test over tasks has p ≥ {statistics.ALPHA:g}"] * (tasks >= LEAST)
        if self._means[0]["stderr"] is not None:
            by.append("they differ by less than 2 standard errors over the questions")
        if by:
            parts.append(f"level ≈: cannot be told from the next, as {' or '.join(by)}.")
        return [" ".join(parts)] if parts else []

    def cells(self) -> dict[str, list[Any]]:
        """Columns of the ranking, one cell per model of the panel."""
        columns: dict[str, list[Any]] = {
            name: [None] * len(self.panel.models)
            for name in ("rank_low", "rank_high", "rank_interval", "level_with_next")
        }
        intervals = rank_intervals(self._scores) if len(self.ranked) > 1 else None
        for ends in zip(self.ranked, *intervals, strict=True) if intervals else ():
            place, low, high = map(int, ends)
            columns["rank_low"][place], columns["rank_high"][place] = low, high
            columns["rank_interval"][place] = f"{low} to {high}"
        for place, level in zip(self.ranked, self.level_with_next(), strict=False):
            columns["level_with_next"][place] = level
        return columns


def _scored(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Models (models,) that have any score, and tasks (tasks,) that all of these have."""
    there = ~np.isnan(panel.scores.last)
    models = there.any(axis=0)
    return models, there[:, models].all(axis=1)


def missing_cautions(panel: Panel, named: int = NAMED) -> Iterator[Caution]:
    """What ranks would be on the tasks that all models have; nothing where all have all."""
    models, shared = _scored(panel)
    if shared.all() or models.sum() < 2:
        return
    there = (~np.isnan(panel.scores.last[:, models])).sum(axis=0)
    numbers: dict[str, Any] = {"n": int(models.sum()), "all": len(shared)}
    if not shared.any():
        fewest = panel.labels[int(np.flatnonzero(models)[there.argmin()])]
        yield Caution("none_common", numbers | {"model": fewest, "held": int(there.min())})
        return
    means = np.where(models, np.round(over_tasks(panel.scores.last[shared]), DIGITS), np.nan)
    among = np.where(np.isnan(panel.actual), np.nan, means)  # those that have a rank already
    ranks = zip(*map(statistics.places, (panel.actual, among, means)), strict=True)
    moves = [
        (-np.inf if old is None else -abs(old - beside), new, f"{label} {old or 'none'} → {new}")
        for label, (old, beside, new) in zip(panel.labels, ranks, strict=True)
        if new and (old is None or old != beside)
    ]
    moves.sort(key=lambda move: move[:2])
    said = [sentence for *_, sentence in moves[:named]]
    said += [f"and {more} more"] if (more := len(moves) - named) > 0 else []
    numbers["lacking"] = int((there < len(shared)).sum())
    numbers["tasks"] = count(int(shared.sum()), "task")
    yield Caution("missing", numbers | {"moves": ", ".join(said)})


def on_common_tasks(results: Results) -> tuple[Results, list[Caution]]:
    """The results without the tasks that some model of the same kind lacks, and what was left out.

    A model without any score does not count. Raises UserError where no task is left of any kind.
    """
    dropped: set[str] = set()
    said: list[Caution] = []
    gaps: list[str] = []
    for side in split(results).values():
        panel = build_panel(side)
        models, shared = _scored(panel)
        if shared.any():
            out = [t.name for t, kept in zip(panel.tasks, shared, strict=True) if not kept]
            dropped.update(out)
            numbers = {"tasks": count(int(shared.sum()), "task"), "n": int(models.sum())}
            numbers["out"] = f"; left out: {names(out)}" if out else ""
            said.append(Caution("common", numbers))
        else:
            gaps += map(str, missing_cautions(panel))
    if not said:
        raise UserError(f"--common: {gaps[0] if gaps else 'no task was scored'}".rstrip("."))
    rows = {
        name: tuple(row for row in getattr(results, name) if row.task not in dropped)
        for name in ("scores", "metrics", "undefined")
    }
    return replace(results, **rows), said


def outlying(panel: Panel) -> list[Row]:
    """Scores far off what the model's other scores and the task's others lead to expect.

    Expected: model plus task, by median polish of the last layer's scores. Outlying: more than 5
    robust standard deviations off (1.4826 x the median absolute residual; the largest of the
    task's, the model's and the whole panel's, and at least 0.02), so that neither a weak model nor
    an odd task stands out. The farthest first. Nothing below 5 models and 5 tasks.
    """
    scores = panel.scores.last
    if min(scores.shape) < LEAST or np.isnan(scores).all():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of models without any score
        rest = scores.copy()
        for _ in range(POLISHES):
            rest -= np.nanmedian(rest, axis=1, keepdims=True)
            rest -= np.nanmedian(rest, axis=0, keepdims=True)
        sizes = np.abs(rest)
        spread = np.maximum(
            np.nanmedian(sizes, axis=1, keepdims=True), np.nanmedian(sizes, axis=0, keepdims=True)
        )
        spread = np.maximum(1.4826 * np.maximum(spread, np.nanmedian(sizes)), TIGHT)
    rows = [
        panel.named(m)
        | {
            "task": panel.tasks[t].name,
            "score": scores[t, m],
            "expected": scores[t, m] - rest[t, m],
        }
        | {"deviations": rest[t, m] / spread[t, m]}
        for t, m in np.argwhere(sizes > FAR * spread).tolist()
    ]
    return sorted(rows, key=lambda row: -abs(row["score"] - row["expected"]))


def outlying_cautions(rows: Sequence[Row], named: int = NAMED) -> Iterator[Caution]:
    """The farthest by name."""
    if rows:
        said = [
            "{model} on {task}, {score:.4f} (about {expected:.2f} is to be expected)".format(**row)
            for row in rows[:named]
        ]
        said += [f"{more} more"] if (more := len(rows) - named) > 0 else []
        yield Caution("outlying", {"scores": "; ".join(said)})
