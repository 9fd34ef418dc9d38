"""Pruned models beside the whole ones, and each rule beside random removal.

    build_pruned(results)       # None where nothing was pruned

A change is that of a mean score, in percent of the whole model's on the same tasks. Embedding and
likelihood tasks are kept apart, as in sides.py. Rules that choose the same blocks share a variant
and its scores. Where a rule was asked with several seeds, its numbers are medians over them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, inf
from statistics import median
from typing import TypeVar

import numpy as np

from lrd_harness import pruned_remarks, stats
from lrd_harness.pruned_table import (
    QUANTILES,
    RANDOM,
    PrunedRow,
    PrunedTable,
    Run,
    Spread,
    SummaryRow,
    TaskChange,
    Verdict,
)
from lrd_harness.results import Key, PruningRow, Results, ScoreRow, VariantRow
from lrd_harness.sides import Kind, likelihood_tasks

__all__ = ["PrunedRow", "PrunedTable", "Run", "Spread", "SummaryRow", "TaskChange", "build_pruned"]

Scores = Mapping[str, ScoreRow]  # task -> the score of the last layer


@dataclass(frozen=True)
class _Model:
    """One model and kind of task: whole scores, scores by variant, choices by (rule, budget)."""

    key: Key
    label: str
    kind: Kind
    full: Scores
    variants: Mapping[str, Scores]
    sizes: Mapping[str, VariantRow]
    choices: Mapping[tuple[str, float], Sequence[PruningRow]]


def build_pruned(results: Results) -> PrunedTable | None:
    """The table of a sweep, None where there is none; holes in it are remarked on.

    Of a rule that was asked twice at one budget and with one seed, the later record counts.
    """
    if not results.prunings:
        return None
    models = _models(results)
    rows = [row for model in models for row in _best_first(_row(model, *c) for c in model.choices)]
    errors = tuple(error for error in results.errors if error.variant != "full")
    summary = _summary(rows)
    notes = pruned_remarks.of_table(results, rows, summary)
    return PrunedTable(tuple(rows), summary, notes, errors)


def percent(score: float, full: float) -> float | None:
    """The change in percent; None where the whole model's score is not above 0."""
    return 100 * (score - full) / full if full > 0 else None


def spread(changes: Sequence[float]) -> Spread | None:
    """Median and interval of random removal's changes; None without any."""
    if not changes:
        return None
    quantiles = len(changes) >= QUANTILES
    low, high = min(changes), max(changes)
    if quantiles:
        low, high = (float(q) for q in np.quantile(changes, [0.025, 0.975]))
    return Spread(len(changes), median(changes), low, high, quantiles)


def _models(results: Results) -> list[_Model]:
    """Models in order of their first choice, each once a kind of task that it is scored on."""
    last = {(row.model, row.revision): row for row in results.sweeps}
    newest = {
        (r.model, r.revision, r.rule, r.seed, r.budget): r
        for r in results.prunings
        if (r.model, r.revision) not in last or r.unit in last[r.model, r.revision].choices
    }
    choices: dict[Key, dict[tuple[str, float], list[PruningRow]]] = {}
    for row in newest.values():
        own = choices.setdefault(Key(row.model, row.revision, "full"), {})
        own.setdefault((row.rule, row.budget), []).append(row)
    scores: dict[Key, dict[str, ScoreRow]] = {}
    for score in results.scores:
        if score.last:
            scores.setdefault(score.key, {})[score.task] = score
    # The sweep may be asked for some of the run's tasks only: what no variant has is not missing.
    asked = {task for key, own in scores.items() if key.variant != "full" for task in own}
    asked |= {e.task for e in results.errors if e.variant != "full" and e.task}
    asked |= {row.task for row in results.undefined if row.variant != "full"}
    likelihood = likelihood_tasks(results)
    names = Counter(row.model for row in results.models if row.variant == "full")
    found = []
    for key, own in choices.items():
        own_tasks = asked & set(last[key[:2]].tasks) if key[:2] in last else asked
        whole = {task: row for task, row in scores.get(key, {}).items() if task in own_tasks}
        held = {k.variant: v for k, v in scores.items() if k[:2] == key[:2] and k != key}
        sizes = {r.variant: r for r in results.variants if (r.model, r.revision) == key[:2]}
        label = f"{key.model}@{key.revision[:12]}" if names[key.model] > 1 else key.model
        kinds = {_kind(task, likelihood) for task in whole}
        for kind in sorted(kinds or {_fallback(asked, likelihood)}, reverse=True):
            full = {t: row for t, row in whole.items() if _kind(t, likelihood) == kind}
            found.append(_Model(key, label, kind, full, held, sizes, own))
    return found


def _kind(task: str, likelihood: frozenset[str]) -> Kind:
    return "base" if task in likelihood else "embedding"


def _fallback(asked: set[str], likelihood: frozenset[str]) -> Kind:
    """The kind of a model without any scored task."""
    return "base" if asked and asked <= likelihood else "embedding"


def _row(model: _Model, rule: str, budget: float) -> PrunedRow:
    chosen = model.choices[rule, budget]
    held = [model.variants.get(choice.variant, {}) for choice in chosen]
    tasks = tuple(task for task in model.full if any(task in scores for scores in held))
    full = _mean(model.full, tasks)
    changes = [_change(model, choice.variant, tasks) for choice in chosen]
    runs = tuple(_run(model, *pair) for pair in zip(chosen, changes, strict=True))
    change = _median(changes)
    drawn = model.choices.get((RANDOM, budget), ())
    random = spread([c for c in (_change(model, d.variant, tasks) for d in drawn) if c is not None])
    against = None if rule == RANDOM or random is None or change is None else random
    difference = change - against.median if against and change is not None else None
    only = held[0] if len(held) == 1 else {}
    return PrunedRow(
        model=model.key.model,
        revision=model.key.revision,
        label=model.label,
        kind=model.kind,
        rule=rule,
        budget=budget,
        blocks=chosen[0].blocks,
        removed=len(chosen[0].removed),
        runs=runs,
        tasks=tasks,
        missing=tuple(task for task in model.full if task not in tasks),
        full=full,
        score=_median(_mean(scores, tasks) for scores in held),
        stderr=stats.mean_stderr([only[t].stderr for t in tasks]) if only else None,
        change=change,
        random=random,
        difference=difference,
        verdict=_verdict(change, against),
        parameters_saved=_median(run.parameters_saved for run in runs),
        latency_saved=_median(run.latency_saved for run in runs),
        by_task={task: _on_task(model, task, chosen, drawn) for task in tasks},
    )


def _run(model: _Model, choice: PruningRow, change: float | None) -> Run:
    size = model.sizes.get(choice.variant)
    saved = (
        (_saved(size.parameters, size.parameters_full), _saved(size.latency, size.latency_full))
        if size
        else (None, None)
    )
    return Run(choice.seed, choice.variant, choice.removed, change, *saved)


def _saved(now: float | None, before: float | None) -> float | None:
    """What is saved, in percent."""
    return 100 * (1 - now / before) if now is not None and before else None


def _on_task(
    model: _Model, task: str, chosen: Sequence[PruningRow], drawn: Sequence[PruningRow]
) -> TaskChange:
    """The task of one of the chosen variants at least."""

    def scores(choices: Sequence[PruningRow]) -> list[float]:
        held = [model.variants.get(choice.variant, {}) for choice in choices]
        return [own[task].score for own in held if task in own]

    full, score, random = model.full[task].score, median(scores(chosen)), _median(scores(drawn))
    return TaskChange(
        full=full,
        score=score,
        change=percent(score, full),
        random=None if random is None else percent(random, full),
    )


def _change(model: _Model, variant: str, tasks: Sequence[str]) -> float | None:
    """The change of the mean over these tasks, %; None where one is not scored."""
    score, full = _mean(model.variants.get(variant, {}), tasks), _mean(model.full, tasks)
    return None if score is None or full is None else percent(score, full)


def _mean(scores: Scores, tasks: Sequence[str]) -> float | None:
    """The mean score over these tasks; None without any, or where one is not there."""
    if not tasks or not all(task in scores for task in tasks):
        return None
    return fsum(scores[task].score for task in tasks) / len(tasks)


def _median(values: Iterable[float | None]) -> float | None:
    held = [value for value in values if value is not None]
    return median(held) if held else None


def _verdict(change: float | None, random: Spread | None) -> Verdict | None:
    if change is None or random is None:
        return None
    if change <= random.median:
        return "no"
    return "clearly" if change > random.high and random.seeds > 1 else "yes"


def _summary(rows: Sequence[PrunedRow]) -> tuple[SummaryRow, ...]:
    groups: dict[tuple[Kind, str, float], list[PrunedRow]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.rule, row.budget), []).append(row)
    return tuple(_best_first(_over_models(*names, own) for names, own in groups.items()))


def _over_models(kind: Kind, rule: str, budget: float, rows: Sequence[PrunedRow]) -> SummaryRow:
    pairs = [(t.change, t.random) for row in rows for t in row.by_task.values()]
    changes = [change for change, _ in pairs if change is not None]
    differences = [
        change - random
        for change, random in pairs
        if change is not None and random is not None and rule != RANDOM
    ]
    difference = _median(differences)
    return SummaryRow(
        kind=kind,
        rule=rule,
        budget=budget,
        models=sum(bool(row.by_task) for row in rows),
        pairs=len(changes),
        change=_median(changes),
        compared=len(differences),
        difference=difference,
        beats=sum(one > 0 for one in differences),
        verdict=None if difference is None else "yes" if difference > 0 else "no",
    )


AnyRow = TypeVar("AnyRow", PrunedRow, SummaryRow)


def _best_first(rows: Iterable[AnyRow]) -> list[AnyRow]:
    """By kind (embedding tasks first) and budget, within these the least loss first."""

    def place(row: AnyRow) -> tuple[bool, float, float]:
        return (row.kind == "base", row.budget, inf if row.change is None else -row.change)

    return sorted(rows, key=place)
