"""Pruned models beside the whole ones, and each rule beside random removal.

    build_pruned(results)       # None where nothing was pruned

A change is that of a mean score, in percent of the whole model's on the same tasks. Embedding and
likelihood tasks are kept apart, as in sides.py. Rules that choose the same blocks share a variant
and its scores. Where a rule was asked with several seeds, its numbers are medians over them.

The rows of the pruning table; pruned.py makes them. Blocks are numbered from 1.

What must be said under the pruning table, in plain sentences: how little it may mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import fsum, inf
from statistics import median
from typing import Literal, TypeVar

import numpy as np

from lrd_harness.blocks import written
from lrd_harness.board import statistics
from lrd_harness.board.cautions import guesses, names
from lrd_harness.results.database import ErrorRow, Key, PruningRow, Results, ScoreRow, VariantRow
from lrd_harness.results.tasks import Kind, likelihood_tasks

RANDOM = "random"  # the rule that the others are compared with
QUANTILES = 20  # seeds from which on its interval is of quantiles
Verdict = Literal["clearly", "yes", "no"]


@dataclass(frozen=True)
class Spread:
    """The changes (%) that random removal makes over its seeds.

    low, high: the lowest and the highest, or, if `quantiles`, the 2.5 % and 97.5 % quantiles.
    """

    seeds: int
    median: float
    low: float
    high: float
    quantiles: bool


@dataclass(frozen=True)
class TaskChange:
    """One task: the whole model's score, the pruned one's, the change (%), that of random (%)."""

    full: float
    score: float
    change: float | None
    random: float | None


@dataclass(frozen=True)
class Run:
    """A rule with one seed (None of a rule that draws nothing): the blocks it removes, 1-based.

    change: %, over the row's tasks, None where one of these is not scored; saved: %.
    """

    seed: int | None
    variant: str
    removed: tuple[int, ...]
    change: float | None
    parameters_saved: float | None
    latency_saved: float | None


@dataclass(frozen=True)
class PrunedRow:
    """A rule at one budget on one model, over its tasks of one kind; medians over `runs`.

    budget: share of the candidates; blocks: L; removed: how many go; tasks: that the whole model
    and a run have, and that full (the whole model's mean score), score, stderr (of a single run's)
    and change (%) are over; missing: tasks that others of this sweep are scored on and no run is.
    random: random removal's changes over the same tasks, of the seeds that have all of them.
    difference: change less random's median, percentage points; verdict: "yes" if that is above 0,
    "clearly" if the change is above the interval of at least 2 seeds. Both None for random itself.
    """

    model: str
    revision: str
    label: str
    kind: Kind
    rule: str
    budget: float
    blocks: int
    removed: int
    runs: tuple[Run, ...]
    tasks: tuple[str, ...]
    missing: tuple[str, ...]
    full: float | None
    score: float | None
    stderr: float | None
    change: float | None
    random: Spread | None
    difference: float | None
    verdict: Verdict | None
    parameters_saved: float | None
    latency_saved: float | None
    by_task: Mapping[str, TaskChange]


@dataclass(frozen=True)
class SummaryRow:
    """A rule at one budget over models and tasks of one kind.

    change: the median over `pairs` (model, task) of the change (%). Against random's median on the
    same pair, where it has one (`compared` of them): difference, the median in percentage points;
    beats: in how many pairs the rule is better. verdict: whether the median difference is above 0.
    """

    kind: Kind
    rule: str
    budget: float
    models: int
    pairs: int
    change: float | None
    compared: int
    difference: float | None
    beats: int
    verdict: Verdict | None


@dataclass(frozen=True)
class PrunedTable:
    """Rows by model, kind and budget, the best first; the summary by kind and budget likewise.

    errors: those of pruned models; the leaderboard lists those of whole ones.
    """

    rows: tuple[PrunedRow, ...]
    summary: tuple[SummaryRow, ...]
    notes: tuple[str, ...]
    errors: tuple[ErrorRow, ...]


_MODELS = 10  # from which on medians over them need no warning
_NAMED = 3  # things of a kind named in one line


def of_table(
    results: Results, rows: Sequence[PrunedRow], summary: Sequence[SummaryRow]
) -> tuple[str, ...]:
    """The lines under the whole table."""
    notes = [_few(len({row.label for row in rows})), *_random(rows), *_uneven(summary)]
    for _, own in groupby(rows, key=lambda row: row.label):  # rows of a model stand together
        held = list(own)
        first = [row for row in held if row.kind == held[0].kind]  # choices are those of all kinds
        notes += [*_same_count(first), *_same_blocks(first)]
        notes += [*_missing(results, held), *_meaningless(results, held)]
    return tuple(note for note in [*notes, *_unlike(results)] if note)


def share(budget: float) -> str:
    """A budget as people write it."""
    return f"{100 * budget:g} %"


def _few(models: int) -> str:
    if models >= _MODELS:
        return ""
    if models == 1:
        return "1 model: medians are over its tasks alone, and say nothing of other models."
    return f"{models} models: medians over so few say little of others."


def _random(rows: Sequence[PrunedRow]) -> list[str]:
    """What random removal's interval is of, and how easily it is left by luck."""
    if not any(row.rule == RANDOM for row in rows):
        return ["Random removal was not asked for: nothing says whether a rule beats chance."]
    counts = {row.random.seeds for row in rows if row.random}
    if not counts:
        return ["Random removal has no scores: nothing says whether a rule beats chance."]
    notes = []
    if few := sorted(count for count in counts if count < QUANTILES):
        many = (
            f"{few[0]} to {few[-1]} seeds" if len(few) > 1 else f"{few[0]} seed{'s' * (few[0] > 1)}"
        )
        interval = "the interval goes from their lowest to their highest change"
        notes.append(
            f"Random removal was drawn with {many}: "
            f"{interval if few[-1] > 1 else 'there is no interval'}, and a rule no better than "
            f"random lies above {'all of them' if few[0] > 1 else 'it'} in up to 1 of "
            f"{few[0] + 1} cases by luck (--random-seeds draws more)."
        )
    if enough := sorted(count for count in counts if count >= QUANTILES):
        many = f"{enough[0]} to {enough[-1]}" if len(enough) > 1 else f"{enough[0]}"
        notes.append(
            f"Random removal was drawn with {many} seeds: the interval holds the middle 95 % of "
            "their changes (2.5 % to 97.5 % quantiles)."
        )
    return notes


def _uneven(summary: Sequence[SummaryRow]) -> list[str]:
    """Medians over different pairs."""
    counts: dict[tuple[str, float], set[int]] = {}
    for row in summary:
        counts.setdefault((row.kind, row.budget), set()).add(row.pairs)
    if all(len(held) == 1 for held in counts.values()):
        return []
    return [
        "At one budget the rules were not all scored on the same models and tasks: see the number "
        "of pairs; their medians do not compare exactly."
    ]


def _same_count(rows: Sequence[PrunedRow]) -> list[str]:
    """Budgets that come to the same number of blocks in a model."""
    budgets: dict[int, list[float]] = {}
    for row in rows:
        held = budgets.setdefault(row.removed, [])
        held += [] if row.budget in held else [row.budget]
    said = [
        f"{_and([share(b) for b in held])} each come to {count} block{'s' if count > 1 else ''}"
        for count, held in sorted(budgets.items())
        if len(held) > 1
    ]
    return [f"{rows[0].label}: {'; '.join(said)}."] if said else []


def _same_blocks(rows: Sequence[PrunedRow]) -> list[str]:
    """Rules that chose the same blocks."""
    found: dict[str, tuple[Run, dict[str, None], dict[str, None]]] = {}
    for row in rows:
        for run in row.runs:
            who = row.rule if run.seed is None else f"{row.rule} (seed {run.seed})"
            _, rules, budgets = found.setdefault(run.variant, (run, {}, {}))
            rules[who] = budgets[share(row.budget)] = None
    shared = [
        f"{written(run.removed)} by {_and(list(rules))} (at {_and(list(budgets))})"
        for run, rules, budgets in found.values()
        if len(rules) > 1
    ]
    if not shared:
        return []
    named = "; ".join(shared[:_NAMED])
    more = f"; and {len(shared) - _NAMED} more such sets" if len(shared) > _NAMED else ""
    return [
        f"{rows[0].label}: the same blocks were chosen by several and scored once: {named}{more}."
    ]


def _missing(results: Results, rows: Sequence[PrunedRow]) -> list[str]:
    """Scores that a mean does without, and why where that is known."""
    label, notes = rows[0].label, []
    own = [r for r in results.scores if (r.model, r.revision) == (rows[0].model, rows[0].revision)]
    whole = {row.task for row in own if row.variant == "full" and row.last}
    lacking = list(dict.fromkeys(row.task for row in own if row.task not in whole))
    if lacking:
        notes.append(
            f"{label}: the whole model has no score on {names(lacking)}, so pruned ones are not "
            "compared there."
        )
    if not any(row.tasks or row.missing for row in rows):
        notes.append(f"{label}: no score of the whole model to compare pruned ones with.")
    without: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.missing:
            without.setdefault(row.missing, []).append(f"{row.rule} at {share(row.budget)}")
        left = [str(run.seed) for run in row.runs if run.change is None]
        if row.tasks and row.full and row.full > 0 and left:
            notes.append(
                f"{label}: {row.rule} at {share(row.budget)} is without seed{_s(left)} "
                f"{_and(left)}, not scored on all of its tasks."
            )
    for tasks, who in without.items():
        notes.append(
            f"{label}: no score on {names(tasks)} of {_some(who)}; what is there is compared with "
            "the whole model and with random on the same tasks."
        )
    undefined: dict[tuple[str, str], list[str]] = {}
    for gap in results.undefined:
        if gap.variant != "full" and (gap.model, gap.revision) == (rows[0].model, rows[0].revision):
            undefined.setdefault((gap.task, gap.error), []).append(gap.variant)
    for (task, reason), variants in undefined.items():
        notes.append(f"{label} {_some(variants)} has no score on {task}: {reason}.")
    return notes


def _meaningless(results: Results, rows: Sequence[PrunedRow]) -> list[str]:
    """Whole models whose own score says nothing, so that no change of it does."""
    label, notes = rows[0].label, []
    tasks = {task: change.full for row in rows for task, change in row.by_task.items()}
    if low := [task for task, full in tasks.items() if full <= 0]:
        notes.append(
            f"{label}: the whole model's score on {names(low)} is not above 0, so a change of it "
            "in percent is not defined."
        )
    for row in results.scores:
        if row.key != (rows[0].model, rows[0].revision, "full") or not row.last:
            continue
        if row.task in tasks and guesses(row.score, row.stderr, row.chance):
            notes.append(
                f"{label}: on {row.task} the whole model is within 2 standard errors of chance "
                f"({row.score:.4f} ± {row.stderr:.4f}, chance {row.chance:.4f}): what pruning "
                "changes there says nothing, though it counts in the means and medians."
            )
    return notes


def _unlike(results: Results) -> list[str]:
    """Choices that were not made alike and so do not compare."""
    blocks: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    versions: dict[str, set[str]] = {}
    for row in results.prunings:
        blocks.setdefault((row.model, row.revision), set()).add(row.candidates)
        versions.setdefault(row.rule, set()).add(row.version)
    differ = list(dict.fromkeys(model for (model, _), held in blocks.items() if len(held) > 1))
    return [
        f"{model}: not all choices were made among the same blocks (the protection differs), so "
        "they may not compare."
        for model in differ
    ] + [
        f"{rule} was asked in different versions ({', '.join(sorted(held))}): its choices may not "
        "compare."
        for rule, held in versions.items()
        if len(held) > 1
    ]


def _some(things: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(things) - _NAMED
    return _and([*things[:_NAMED], *([f"{more} more"] if more > 0 else [])])


def _and(things: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(things[:-1]), *things[-1:]) if part)


def _s(things: Sequence[str]) -> str:
    return "s" if len(things) > 1 else ""


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
    notes = of_table(results, rows, summary)
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
        stderr=statistics.mean_stderr([only[t].stderr for t in tasks]) if only else None,
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
