"""Pruned models beside the whole ones, and each rule beside random removal.

A change is that of a mean score, in percent of the whole model's on the same tasks. Kinds of tasks
are kept apart. Blocks are numbered from 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import inf
from typing import Any, NamedTuple

import numpy as np

from lrd_harness.blocks import written
from lrd_harness.board.cautions import Caution, count, guesses, names
from lrd_harness.board.layers import Row, filled, hidden
from lrd_harness.board.panel import model_labels
from lrd_harness.board.statistics import mean_of_all, mean_stderr, median, span
from lrd_harness.report import Column, Table
from lrd_harness.results.kinds import KINDS, TASKS
from lrd_harness.results.rows import Key, Kind, PruningRow, Results, ScoreRow, VariantRow

RANDOM = "random"  # the rule that the others are compared with
QUANTILES = 20  # seeds from which on its interval is of quantiles
_MODELS = 10  # from which on medians over them need no warning
_RULE = ("kind", "rule", "budget")
Scores = Mapping[str, ScoreRow]  # task -> the score of the last layer


class Run(NamedTuple):
    """A rule with one seed (None of a rule that draws nothing): the blocks it removes.

    change: %, over the row's tasks, None where one of these is not scored; saved: %; perplexity:
    of a language model, and of the whole one on the same texts, where they were read.
    """

    seed: int | None
    variant: str
    removed: tuple[int, ...]
    change: float | None
    parameters_saved: float | None
    latency_saved: float | None
    perplexity: float | None = None
    perplexity_full: float | None = None


class PrunedRow(NamedTuple):
    """A rule at one budget on one model, over its tasks of one kind.

    line: its row of the table "pruning", medians over `runs`; tasks: that the whole model and a run
    have; missing: tasks that others of this sweep are scored on and no run is; by_task: full (the
    whole model's score), score, change (%), random (the change of random removal, %).
    """

    label: str
    line: Row
    runs: tuple[Run, ...]
    tasks: tuple[str, ...]
    missing: tuple[str, ...]
    by_task: Mapping[str, Row]

    @property
    def key(self) -> Key:
        return Key(self.line["model"], self.line["revision"], "full")


class _Model(NamedTuple):
    """One model and kind of task: scores and sizes by variant, choices by (rule, budget)."""

    key: Key
    label: str
    kind: Kind
    tasks: tuple[str, ...]
    variants: Mapping[str, Scores]
    sizes: Mapping[str, VariantRow]
    choices: Mapping[tuple[str, float], Sequence[PruningRow]]

    def mean(self, variant: str, tasks: Sequence[str]) -> float | None:
        """The mean score over these tasks; None without any, or where one is not there."""
        scores = self.variants.get(variant, {})
        return mean_of_all([scores[t].score if t in scores else None for t in tasks])

    def change(self, variant: str, tasks: Sequence[str]) -> float | None:
        """The change of the mean over these tasks, %; None where one is not scored."""
        return percent(self.mean(variant, tasks), self.mean("full", tasks))


def build_pruned(results: Results) -> list[PrunedRow]:
    """By model, kind and budget, the best first; [] where nothing was pruned.

    Rules that choose the same blocks share a variant and its scores. Of a rule that was asked for
    twice at one budget and with one seed, the later record counts.
    """
    rows = []
    for model in _models(results) if results.prunings else ():
        of_model = [_row(model, rule, budget) for rule, budget in model.choices]
        rows += sorted(of_model, key=lambda row: _place(row.line))
    return rows


def _place(line: Row) -> tuple[int, float, float]:
    """By kind of task, then by budget, then the least loss first."""
    loss = inf if line["change"] is None else -line["change"]
    return KINDS.index(line["kind"]), line["budget"], loss


def percent(score: float | None, full: float | None) -> float | None:
    """The change in percent; None where one is not there, or the whole model's is not above 0."""
    return None if score is None or full is None or full <= 0 else 100 * (score - full) / full


def spread(changes: Sequence[float]) -> Row:
    """The changes (%) that random removal makes over its seeds: median and interval.

    The lowest and the highest, or, from 20 seeds on, the 2.5 % and 97.5 % quantiles.

    Examples
    --------
    >>> list(spread([-50.0, -5.0, -20.0]).values())
    [3, -20.0, -50.0, -5.0, 'min-max']
    """
    names = [f"random_{part}" for part in ("seeds", "median", "low", "high", "interval")]
    if not changes:
        return dict.fromkeys(names)
    quantiles = len(changes) >= QUANTILES
    low, high = np.quantile(changes, [0.025, 0.975] if quantiles else [0, 1]).tolist()
    interval = "2.5-97.5 %" if quantiles else "min-max"
    return dict(zip(names, (len(changes), median(changes), low, high, interval), strict=True))


def _models(results: Results) -> Iterator[_Model]:
    """Models in order of their first choice, each once per kind of task that it is scored on."""
    sweeps = {row.key[:2]: row for row in results.sweeps}
    choices: dict[Any, dict[tuple[str, float], dict[int | None, PruningRow]]] = {}
    for row in results.prunings:
        sweep = sweeps.get(row.key[:2])
        if sweep is None or row.unit in sweep.choices:
            of_rule = choices.setdefault(row.key[:2], {}).setdefault((row.rule, row.budget), {})
            of_rule[row.seed] = row
    scores: dict[Any, dict[str, dict[str, ScoreRow]]] = defaultdict(lambda: defaultdict(dict))
    for score in results.scores:
        if score.last:
            scores[score.key[:2]][score.variant][score.task] = score
    # The sweep may be asked for some of the run's tasks only: what no variant has is not missing.
    swept = {row.task for row in results.scores if row.variant != "full" and row.last}
    swept |= {row.task for row in results.errors if row.variant != "full" and row.task}
    swept |= {row.task for row in results.undefined if row.variant != "full"}
    labels = model_labels(results.models)
    for place, rules in choices.items():
        key = Key(place[0], place[1], "full")
        of_sweep = swept.intersection(sweeps[place].tasks) if place in sweeps else swept
        tasks = [task for task in scores[place]["full"] if task in of_sweep]
        sizes = {row.variant: row for row in results.variants if row.key[:2] == place}
        label = labels.get(key, key.model)
        listed = {rule: list(seeds.values()) for rule, seeds in rules.items()}
        kinds = {task: results.kinds.get(task, KINDS[0]) for task in tasks or of_sweep}
        there = [kind for kind in KINDS if kind in kinds.values()]
        for kind in there if tasks or len(there) == 1 else KINDS[:1]:
            of_kind = tuple(task for task in tasks if kinds[task] == kind)
            yield _Model(key, label, kind, of_kind, scores[place], sizes, listed)


def _row(model: _Model, rule: str, budget: float) -> PrunedRow:
    chosen = model.choices[rule, budget]
    drawn = [choice.variant for choice in model.choices.get((RANDOM, budget), ())]
    scored = [model.variants.get(choice.variant, {}) for choice in chosen]
    tasks = tuple(task for task in model.tasks if any(task in scores for scores in scored))
    missing = tuple(task for task in model.tasks if task not in tasks)
    runs, by_task = [], {}
    for choice in chosen:
        size = model.sizes.get(choice.variant, VariantRow(model="", removed=()))
        change = model.change(choice.variant, tasks)
        parameters = _saved(size.parameters, size.parameters_full)
        latency = _saved(size.latency, size.latency_full)
        saved = change, parameters, latency, size.perplexity, size.perplexity_full
        runs.append(Run(choice.seed, choice.variant, choice.removed, *saved))
    for task in tasks:
        full, score, random_score = (
            median([model.mean(variant, [task]) for variant in variants])
            for variants in (["full"], [run.variant for run in runs], drawn)
        )
        changes = {"change": percent(score, full), "random": percent(random_score, full)}
        by_task[task] = {"full": full, "score": score, **changes}
    change = median([run.change for run in runs])
    random = spread([c for variant in drawn if (c := model.change(variant, tasks)) is not None])
    difference, verdict = None, None
    if rule != RANDOM and change is not None and random["random_seeds"]:
        difference = change - random["random_median"]
        clearly = random["random_seeds"] > 1 and change > random["random_high"]
        verdict = "no" if difference <= 0 else "clearly" if clearly else "yes"
    stderrs = [scored[0][task].stderr for task in tasks] if len(scored) == 1 else []
    line: Row = {
        "model": model.key.model,
        "revision": model.key.revision,
        "kind": model.kind,
        "rule": rule,
        "budget": budget,
        "blocks": chosen[0].blocks,
        "removed": len(chosen[0].removed),
        "removed_blocks": "; ".join(",".join(map(str, run.removed)) for run in runs),
        "seeds": sum(run.seed is not None for run in runs) or None,
        "tasks": len(tasks),
        "full": model.mean("full", tasks),
        "score": median([model.mean(run.variant, tasks) for run in runs]),
        "stderr": mean_stderr(stderrs),
        "change": change,
        **random,
        "difference": difference,
        "beats_random": verdict,
        "parameters_saved": median([run.parameters_saved for run in runs]),
        "latency_saved": median([run.latency_saved for run in runs]),
        "perplexity": median([run.perplexity for run in runs]),
        "perplexity_full": median([run.perplexity_full for run in runs]),
        "missing": "; ".join(missing),
    }
    return PrunedRow(model.label, line, tuple(runs), tasks, missing, by_task)


def _saved(now: float | None, before: float | None) -> float | None:
    """What is saved, in percent."""
    return 100 * (1 - now / before) if now is not None and before else None


def summary(rows: Sequence[PrunedRow]) -> list[Row]:
    """Each rule at each budget over the pairs of model and task of a kind, the best first.

    change: the median over `pairs` of the change (%). Against random's median on the same pair,
    where it has one (`compared` of them): difference, the median in percentage points; beats: in
    how many pairs the rule is better; verdict: whether the median difference is above 0.
    """
    groups: dict[tuple[str, ...], list[PrunedRow]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.line[name] for name in _RULE)].append(row)
    lines = []
    for place, of_rule in groups.items():
        pairs = [(on["change"], on["random"]) for row in of_rule for on in row.by_task.values()]
        changes = [change for change, _ in pairs if change is not None]
        both = (pair for pair in pairs if None not in pair and RANDOM not in place)
        differences = [change - random for change, random in both]
        difference = median(differences)
        line: Row = dict(zip(_RULE, place, strict=True)) | {"change": median(changes)}
        line["difference"] = difference
        line["verdict"] = None if difference is None else "yes" if difference > 0 else "no"
        line |= {"beats": sum(d > 0 for d in differences), "compared": len(differences)}
        line |= {"pairs": len(changes), "models": sum(bool(row.by_task) for row in of_rule)}
        lines.append(line)
    return sorted(lines, key=_place)


_CHANGE = (
    "change: of the score against the whole model's, in percent (0: as good as whole). vs random: "
    "that change less the median of random removal's over its seeds, in percentage points. Budget: "
    "the share of the candidate blocks that is removed."
)
_PAIRS = (
    "Medians over the pairs of model and task. beats random: whether vs random is above 0. better "
    "in: pairs where the rule is above random's median, of those compared."
)
_MODEL = (
    "Blocks are numbered from 1. score: the mean over the tasks, at the last layer; of several "
    'seeds the median. beats random: "yes" above random\'s median, "clearly" above the whole '
    f"interval: lowest to highest over its seeds, from {QUANTILES} seeds on 2.5 % to 97.5 % "
    "quantile. latency: of one forward pass, as measured; a few percent are noise."
)
_PERPLEXITY = (
    "perplexity: of the next token, on a sample of the tasks' texts, the same for all, and none "
    "that blocks are chosen on where there are enough; of several seeds the median."
)
_CHANGES = (
    Column("change", unit="%", best="max", form="+z.2f"),
    Column("difference", "vs random", unit="points", best="max", form="+z.2f"),
    Column("verdict", "beats random", tied=True),
)


def pruning_tables(rows: Sequence[PrunedRow]) -> list[Table]:
    """The summary and one table per model and kind of task, for people; all numbers for programs.

    Table "pruning": removed_blocks ("; " between seeds), tasks (how many), full (the whole model's
    mean score over these), random_interval ("min-max" or "2.5-97.5 %"), missing (tasks).
    """
    if not rows:
        return []
    both = len({row.line["kind"] for row in rows}) > 1
    rule = (Column("rule", key=True), Column("budget", key=True, form=".1%"))
    counts = (Column("beats", "better in"), *(Column(n) for n in ("compared", "pairs", "models")))
    columns = (Column("kind", "tasks", shown=both), *rule, *_CHANGES, *counts)
    sums, title = summary(rows), "Pruning: summary"
    tables = [Table("pruning_summary", title, filled(columns, sums), sums, (_CHANGE, _PAIRS))]
    models = groupby(rows, key=lambda row: (row.label, row.line["kind"]))
    for number, (_, of_model) in enumerate(models, 1):
        tables.append(_of_model(f"pruning.{number}", list(of_model), rule, both))
    tasks = dict.fromkeys(task for row in rows for task in row.by_task)
    who = [{n: row.line[n] for n in ("model", "revision", *_RULE)} for row in rows]
    pairs = list(zip(who, rows, strict=True))
    programs = {
        "pruning": [row.line | _by_task(row, tasks) for row in rows],
        "pruning_runs": [w | run._asdict() for w, r in pairs for run in r.runs],
        "pruning_tasks": [w | {"task": t} | on for w, r in pairs for t, on in r.by_task.items()],
    }
    return tables + [
        Table(name, "Pruning in full", hidden(*lines[0]), lines, shown=False)
        for name, lines in programs.items()
        if lines
    ]


def _by_task(row: PrunedRow, tasks: Iterable[str]) -> Row:
    return {f"change.{t}": row.by_task.get(t, {}).get("change") for t in tasks}


def _of_model(name: str, rows: Sequence[PrunedRow], rule: tuple[Column, ...], both: bool) -> Table:
    tasks = dict.fromkeys(task for row in rows for task in row.by_task)
    scored: dict[str, Any] = {"best": "max", "form": ".4f", "rest": 1}
    form: dict[str, Any] = {"unit": "%", "best": "max"}
    columns = [
        *rule,
        Column("cut", "blocks removed", rest=1),
        Column("full", "whole model's score", **scored),
        Column("score", error="stderr", **scored),
        *hidden("stderr"),
        *_CHANGES,
        Column("perplexity", best="min", form=",.1f"),
        Column("perplexity_full", "whole model's perplexity", best="min", form=",.1f"),
        Column("interval", "random's change", unit="%", rest=1),
        Column("parameters_saved", "parameters saved", form=".1f", rest=1, **form),
        Column("latency_saved", "latency saved", form="z.1f", rest=1, **form),
    ]
    columns += [Column("scored", "tasks", rest=1)] if any(row.missing for row in rows) else []
    for task in tasks if len(tasks) > 1 else ():
        label = f"change {task}"
        columns.append(Column(f"change.{task}", label, form="+z.2f", rest=2, **form))
    lines = []
    for row in rows:
        line = row.line | _by_task(row, tasks)
        line["verdict"] = line["beats_random"]
        line["cut"] = written(row.runs[0].removed)
        if len({run.removed for run in row.runs}) > 1:
            line["cut"] = f"{line['removed']} ({len(row.runs)} seeds)"
        line["scored"] = f"{len(row.tasks)}/{len(row.tasks) + len(row.missing)}"
        line["interval"] = span(line["random_low"], line["random_high"])
        lines.append({column.name: line[column.name] for column in columns})
    title = f"Pruning: {rows[0].label}"
    title += f", {TASKS[rows[0].line['kind']]} tasks" if both else ""
    read = any(line["perplexity"] is not None for line in lines)
    caption = (_CHANGE, _MODEL, *([_PERPLEXITY] if read else ()))
    return Table(name, title, filled(columns, lines), lines, caption)


def pruning_cautions(results: Results, rows: Sequence[PrunedRow]) -> Iterator[Caution]:
    """How little the tables may mean, and what they lack."""
    if not rows:
        return
    if (models := len({row.label for row in rows})) < _MODELS:
        yield Caution("pruning_few", {"models": count(models, "model")})
    seeds = [row.line["random_seeds"] for row in rows if row.line["random_seeds"]]
    if not seeds:
        drawn = any(row.line["rule"] == RANDOM for row in rows)
        yield Caution(f"pruning_random_{'unscored' if drawn else 'absent'}")
    elif min(seeds) < QUANTILES:
        numbers = {"seeds": count(min(seeds), "seed"), "cases": min(seeds) + 1}
        yield Caution("pruning_random_few", numbers)
    pairs = {(line["kind"], line["budget"], line["pairs"]) for line in summary(rows)}
    if len(pairs) > len({pair[:2] for pair in pairs}):
        yield Caution("pruning_uneven")
    for label, group in groupby(rows, key=lambda row: row.label):  # a model's stand together
        of_model = list(group)
        codes = *_generation(of_model), *_shared(of_model), *_missing(results, of_model)
        for code, numbers in codes:
            yield Caution(code, {"model": label, **numbers})
    candidates: dict[tuple[str, ...], set[tuple[int, ...]]] = defaultdict(set)
    versions: dict[str, set[str]] = defaultdict(set)
    for row in results.prunings:
        candidates[row.key[:2]].add(row.candidates)
        versions[row.rule].add(row.version)
    for model in dict.fromkeys(key[0] for key, several in candidates.items() if len(several) > 1):
        yield Caution("pruning_protection", {"model": model})
    for rule, several in versions.items():
        if len(several) > 1:
            numbers = {"rule": rule, "versions": ", ".join(sorted(several))}
            yield Caution("pruning_versions", numbers)


Codes = Iterator[tuple[str, Row]]  # cautions on one model: code and numbers


def _generation(rows: Sequence[PrunedRow]) -> Codes:
    """How far the perplexity of a language model rises, which its scores may not show."""
    runs = [run for row in rows for run in row.runs]
    read = [run for run in runs if None not in (run.perplexity, run.perplexity_full)]
    if read:
        worst = max(read, key=lambda run: run.perplexity or 0)
        both = {"perplexity": worst.perplexity, "perplexity_full": worst.perplexity_full}
        yield "pruning_generation", both


def _shared(rows: Sequence[PrunedRow]) -> Codes:
    """Budgets that come to the same number of blocks, and rules that chose the same ones."""
    budgets: dict[int, dict[str, None]] = defaultdict(dict)
    chosen: dict[tuple[int, ...], dict[str, None]] = defaultdict(dict)
    for row in rows:
        budgets[row.line["removed"]][f"{100 * row.line['budget']:g} %"] = None
        for run in row.runs:
            seed = "" if run.seed is None else f" (seed {run.seed})"
            chosen[run.removed][f"{row.line['rule']}{seed}"] = None
    for removed, several in sorted(budgets.items()):
        if len(several) > 1:
            blocks = count(removed, "block")
            yield "pruning_same_count", {"budgets": ", ".join(several), "blocks": blocks}
    sets = [f"{written(cut)} by {', '.join(by)}" for cut, by in chosen.items() if len(by) > 1]
    if sets:
        yield "pruning_same_blocks", {"sets": names(sets)}


def _missing(results: Results, rows: Sequence[PrunedRow]) -> Codes:
    """Scores that a mean does without, and those of whole models that say nothing."""
    key = rows[0].key[:2]
    scores = [row for row in results.scores if row.key[:2] == key]
    whole = {row.task: row for row in scores if row.variant == "full" and row.last}
    if lacking := list(dict.fromkeys(row.task for row in scores if row.task not in whole)):
        yield "pruning_whole_missing", {"tasks": names(lacking)}
    compared = {task for row in rows for task in row.by_task}
    if low := [task for task, full in whole.items() if task in compared and full.score <= 0]:
        yield "pruning_not_positive", {"tasks": names(low)}
    for task, full in whole.items():
        if task in compared and guesses(full.score, full.stderr, full.chance):
            numbers = {name: getattr(full, name) for name in ("task", "score", "stderr", "chance")}
            yield "pruning_guess", numbers
    if not any(row.tasks or row.missing for row in rows):
        yield "pruning_whole_unscored", {}
    without: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        who = f"{row.line['rule']} at {100 * row.line['budget']:g} %"
        if row.missing:
            without.setdefault(row.missing, []).append(who)
        left = [str(run.seed) for run in row.runs if run.change is None]
        if row.tasks and (row.line["full"] or 0) > 0 and left:
            yield "pruning_seeds_missing", {"who": who, "seeds": ", ".join(left)}
    for tasks, several in without.items():
        yield "pruning_missing", {"tasks": names(tasks), "who": names(several)}
    undefined: dict[tuple[str, str], list[str]] = {}
    for gap in results.undefined:
        if gap.variant != "full" and gap.key[:2] == key:
            undefined.setdefault((gap.task, gap.error), []).append(gap.variant)
    for (task, reason), several in undefined.items():
        yield "pruning_undefined", {"variants": names(several), "task": task, "reason": reason}
