"""What must be said under a leaderboard, in plain sentences: how little it may mean, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import pairwise
from math import factorial, hypot
from typing import TYPE_CHECKING

from lrd_harness.board.panel import MetricColumn, TaskScore, Values
from lrd_harness.results.database import Key, Results
from lrd_harness.results.tasks import Kind

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Row


# The least |rho| with a two-sided p < .05 in the exact distribution without ties; for n < 5 none.
CRITICAL = {5: 1.0, 6: 0.886, 7: 0.786, 8: 0.738, 9: 0.700}
_NAMED = 5  # tasks named in one line
_PAIRS = 3  # pairs of models named in one line


def of_table(
    results: Results,
    rows: Sequence[Row],
    columns: Sequence[MetricColumn],
    kind: Kind = "embedding",
    choices: Set[int] = frozenset(),
) -> tuple[str, ...]:
    """The lines under the whole table. choices: from how many layers best ones were chosen."""
    notes = []
    models = sum(row.rank is not None for row in rows)
    if not rows:
        notes.append("Nothing is recorded yet.")
    elif not any(row.tasks for row in rows):
        by = f"; the rows are ordered by the predicted rank of {columns[0].name}" if columns else ""
        notes.append(f"No task was scored at the last layer, so there is no actual rank{by}.")
    else:
        notes.append(few(models))
    if rows and not columns:
        where = " on these tasks" if kind == "base" else ""
        notes.append(f"No metric that ranks models was measured{where}: no predicted rank.")
    if any(row.best_layer is not None for row in rows):
        notes.append(
            "The best layer was chosen on the very scores it is shown with (an oracle): its score "
            "is optimistic, and a choice made without labels will get less."
        )
        if kind == "base" and any(row.chance is not None for row in rows):
            notes.append(
                f"With {'up to ' if len(choices) > 1 else ''}{max(choices)} layers to choose from, "
                "the best of them exceeds chance by luck, even where no layer knows an answer."
            )
    if kind == "base":
        notes += _level(rows)
    notes += _undefined(results)
    return tuple(note for note in [*notes, *_mixed(results)] if note)


def _undefined(results: Results) -> list[str]:
    """Where a task has no score at a layer though nothing failed."""
    places: dict[tuple[str, int, str], list[str]] = {}
    for row in results.undefined:
        if row.variant != "full":
            continue
        places.setdefault((row.model, row.layer, row.error), []).append(row.task)
    return [
        f"{model} has no score at layer {layer} on {names(tasks)}: {reason}."
        for (model, layer, reason), tasks in places.items()
    ]


def of_model(key: Key, scores: Values, selected: Mapping[str, Values]) -> tuple[str, ...]:
    """What a model lacks that others have, and what follows from it."""
    notes = []
    lacking = [task for task, by_model in scores.items() if key not in by_model]
    if lacking and len(lacking) == len(scores):
        notes.append("no task scored: no actual rank")
    elif lacking:
        notes.append(
            f"lacks {names(lacking)}: its mean is over {len(scores) - len(lacking)} of "
            f"{len(scores)} tasks and not comparable, so it has no actual rank"
        )
    without: dict[tuple[str, ...], list[str]] = {}  # tasks -> metrics that miss these
    for metric, values in selected.items():
        missing = tuple(task for task, by_model in values.items() if key not in by_model)
        without.setdefault(missing, []).append(metric)
    for missing, metrics in without.items():
        if missing:
            by = ", ".join(metrics)
            notes.append(f"lacks {by} on {names(missing)}: no predicted rank by {by}")
    return tuple(notes)


def of_guessing(score: TaskScore) -> tuple[str, ...]:
    """That a model's last layer may as well have guessed; both over the same tasks."""
    if score.last is None or not guesses(score.last, score.stderr, score.chance):
        return ()
    return (
        "the score of its last layer is within 2 standard errors of chance "
        f"({score.last:.4f} ± {score.stderr:.4f}, chance {score.chance:.4f}) and cannot be told "
        "from guessing",
    )


def guesses(score: float, stderr: float | None, chance: float | None) -> bool:
    """Whether a score is within 2 standard errors of what guessing gets; False where unknown."""
    return stderr is not None and chance is not None and abs(score - chance) <= 2 * stderr


def _level(rows: Sequence[Row]) -> list[str]:
    """Neighbours in actual rank whose scores differ by less than chance would make them.

    The questions are the same for both and their errors go together, so that the true standard
    error of the difference is mostly smaller: the remark is on the careful side.
    """
    pairs = []
    ranked = sorted((row for row in rows if row.rank is not None), key=lambda row: row.rank or 0)
    for first, second in pairwise(ranked):
        if first.rank == second.rank or first.score is None or second.score is None:
            continue
        if first.stderr is None or second.stderr is None:
            continue
        if first.score - second.score < 2 * hypot(first.stderr, second.stderr):
            pairs.append(f"{first.label} and {second.label}")
    if not pairs:
        return []
    named = pairs[:_PAIRS]
    if more := len(pairs) - len(named):
        named.append(f"and {more} more pair{'s' if more > 1 else ''}")
    return [
        "Neighbours in actual rank whose scores differ by less than 2 standard errors of their "
        f"difference, so that their order may be chance: {'; '.join(named)}."
    ]


def few(n: int) -> str:
    """How little n models say, in one sentence; "" for n >= 10."""
    if n >= 10:
        return ""
    if n == 0:
        return "No model has every task, so none has an actual rank."
    if n == 1:
        return "1 model: nothing to rank, and no correlation."
    if n == 2:
        return "2 models: too few for a correlation (3 at least)."
    if n < 5:
        chance = (
            f"even a perfect order arises by chance with p = {2 / factorial(n):.2g} (two-sided)"
        )
    else:
        chance = f"without ties, only |rho| of {CRITICAL[n]:.3g} or more has p < .05"
    return f"{n} models: {chance}; read rho as illustration, not evidence."


def names(tasks: Sequence[str]) -> str:
    """Tasks in one line, the first few by name."""
    more = len(tasks) - _NAMED
    return ", ".join(tasks[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _mixed(results: Results) -> list[str]:
    """Values of one metric that were not computed alike and so do not compare."""
    versions: dict[str, set[str]] = {}
    settings: dict[tuple[str, str], set[str]] = {}
    for row in results.metrics:
        if row.variant == "full":
            versions.setdefault(row.metric, set()).add(row.version)
            # A model's pooling is its own; everything else should be the same for all models.
            same = [pair for pair in row.parameters.items() if pair[0] != "pooling"]
            settings.setdefault((row.metric, row.task), set()).add(repr(sorted(same)))
    several = [m for m, found in versions.items() if len(found) > 1]
    differ = {m for (m, _), found in settings.items() if len(found) > 1}
    return [
        f"{m} was measured with different versions ({', '.join(sorted(versions[m]))}): "
        "its values may not compare."
        for m in several
    ] + [
        f"{m} was measured with different parameters on one task: its values may not compare."
        for m in sorted(differ)
    ]
