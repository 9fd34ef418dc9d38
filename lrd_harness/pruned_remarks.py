"""What must be said under the pruning table, in plain sentences: how little it may mean."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from lrd_harness.budgets import written
from lrd_harness.pruned_table import QUANTILES, RANDOM, PrunedRow, Run, SummaryRow
from lrd_harness.remarks import guesses, names

if TYPE_CHECKING:
    from lrd_harness.results import Results

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
