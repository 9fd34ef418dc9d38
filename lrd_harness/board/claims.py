"""The papers' headline findings restated on a run's own data, each with a control and a verdict.

    leaderboard.build(results).claims

* d0L agrees on most tasks: share of tasks with a positive rho. Holds if a one-sided binomial test
  against one half has p < .05 and the 95 % bootstrap interval over models of the median rho is
  above 0. At least 10 models, of as many training runs, and 5 tasks. Control: the best size
  baseline.
* all three scores agree: the least of the three median rhos. Holds if all three intervals are above
  0. As many. Control: the best size baseline.
* gfmi beats random, 15 % and 20 %: mean change of the score. Holds if a rank test among random's
  seeds, see claim_pruning.py, has p < .05. At least 5 training runs.
* frenet beats random only lightly: holds if that test has p < .05 at the lightest budget and at no
  heavier one that removes more blocks. At least 5 training runs.
* middle layers beat the last: mean gain of the middle layer that is best on the other tasks. Holds
  if its 95 % t interval over training runs is above 0. At least 5 of them, and 30 model-task pairs.
  Control: a random layer.
* a label-free layer gains 3 %: gain of the best metric in percent. Holds if its 95 % t interval,
  for all metrics together, is above 0 and reaches 3 %. As many. Control: the best of last, first,
  random and fixed-depth layers.

Whether a middle layer beats the last, and what a layer that is chosen without labels gains.

Whether a pruning rule beats random removal: gfmi at 15 and 20 %, frenet at the least budget.

Whether the selection scores order the models: d0L on most tasks, all three in the median.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import stats
from scipy.stats import t

from lrd_harness.board.agreement import Agreement, Selection
from lrd_harness.board.claim_rows import (
    ALPHA,
    FAILS,
    FEW_MODELS,
    FEW_PAIRS,
    FEW_RUNS,
    FEW_TASKS,
    HOLDS,
    LBL,
    LRD,
    OPEN,
    Claim,
    Verdict,
    count,
)
from lrd_harness.board.families import families
from lrd_harness.board.layer_choice import (
    BLIND,
    Cell,
    Gain,
    LayerChoice,
    cells_of,
    stderr_over_runs,
)
from lrd_harness.board.layers import pick
from lrd_harness.board.pruned import RANDOM, PrunedRow, PrunedTable
from lrd_harness.results.database import Key, Results
from lrd_harness.results.tasks import Kind

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


GAIN = 3.0  # %: what the paper's layers are said to gain, about
_RANDOM = "random layer"
_MIDDLE = Claim(
    "middle layers beat the last",
    "The layer of the middle half (depth 0.25 to 0.75) that is best on a model's other tasks "
    "scores higher than its last layer.",
    LBL,
    "points",
    "pairs",
    OPEN,
    "",
)
_CHOSEN = Claim(
    "a label-free layer gains 3 %",
    "A layer that a metric chooses without labels gains about 3 % over the last layer's score "
    "(number: the metric that gains most, in its published direction).",
    LBL,
    "%",
    "pairs",
    OPEN,
    "",
)


class Mean(NamedTuple):
    """A mean over cells, its interval (None below 2 training runs), how many cells and runs."""

    value: float
    low: float | None
    high: float | None
    n: int
    runs: int


def layer_claims(choice: LayerChoice | None, results: Results) -> tuple[Claim, Claim]:
    """Both claims, on one side's results; choice: theirs."""
    if choice is None:
        reason = "only last layers were scored"
        return replace(_MIDDLE, reason=reason), replace(_CHOSEN, reason=reason)
    cells = [cell for cell in cells_of(results).values() if cell.whole]
    return _middle(cells), _chosen(choice, cells)


def middle_gains(cells: Sequence[Cell]) -> list[tuple[Cell, float, float]]:
    """Of one model's tasks, at least two: cell, honest gain, gain of the best middle layer.

    Honest: of the middle layers that all its tasks have, the one with the highest mean over the
    other tasks, ties to the lower. None of them: [].
    """
    held = set.intersection(*(set(cell.scores) for cell in cells))
    middle = [layer for layer in sorted(held) if _is_middle(layer, cells[0].layers)]
    if len(cells) < 2 or not middle:
        return []
    found = []
    for cell in cells:
        others = [other for other in cells if other is not cell]
        sums = {layer: round(fsum(o.scores[layer] for o in others), 12) for layer in middle}
        gains = {layer: cell.outcome(layer).gain for layer in middle}
        found.append((cell, gains[pick(sums)], max(gains.values())))
    return found


def _is_middle(layer: int, layers: int) -> bool:
    return layers <= 4 * layer <= 3 * layers


def _middle(cells: Sequence[Cell]) -> Claim:
    """Holds if the t interval over training runs of the honest gain is above 0."""
    by_model: dict[Key, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.key, []).append(cell)
    found = [one for own in by_model.values() for one in middle_gains(own)]
    if not found:
        reason = "no model has two tasks with scores of the last layer and the same middle layer"
        return replace(_MIDDLE, reason=reason)
    held, honest, oracle = zip(*found, strict=True)
    blind = [BLIND[_RANDOM](cell).gain for cell in held]
    gain = mean(held, honest)
    lead = mean(held, [own - other for own, other in zip(honest, blind, strict=True)])
    best = fmean(oracle)
    said = (
        f"{_points(gain.value)}{_span(gain, 100)}, a random layer {_points(fmean(blind))}; the "
        f"best middle layer of each pair by its own score would show {_points(best)}: picking "
        f"after the fact adds {100 * (best - gain.value):.1f}"
    )
    missing = _few(gain)
    return replace(
        _MIDDLE,
        value=100 * gain.value,
        low=_scaled(gain.low, 100),
        high=_scaled(gain.high, 100),
        control=_RANDOM,
        control_value=100 * fmean(blind),
        ahead=None if missing else (lead.low or 0.0) > 0,
        n=gain.n,
        verdict=OPEN if missing else HOLDS if (gain.low or 0.0) > 0 else FAILS,
        reason=f"{said}; {missing}" if missing else said,
    )


def _chosen(choice: LayerChoice, cells: Sequence[Cell]) -> Claim:
    """Holds if the metric's interval is above 0 and does not end below 3 %.

    Over training runs, by Student's t, at 95 % for all metrics with a published direction together
    (Bonferroni): it is the best of them that is looked at.
    """
    own = [g for g in choice.gains if g.kind == "metric" and g.first and g.published and g.n]
    by_place = {(cell.key, cell.task): cell for cell in cells}
    ratios = {gain.rule: _ratio(choice, gain.rule, by_place, len(own)) for gain in own}
    held = [(ratio, gain) for gain in own if (ratio := ratios[gain.rule]) is not None]
    if not held:
        return replace(
            _CHOSEN, reason="no metric that chooses a layer was measured with its scores"
        )
    ratio, gain = max(held, key=lambda one: one[0].value)
    control = 100 * (gain.rival_gain or 0.0) / _last(choice, gain.rule, by_place)
    said = f"{gain.rule} gains {ratio.value:+z.1f} %{_span(ratio, 1, ' %')}"
    if len(own) > 1:
        said += f", the best of {len(own)} metrics"
    said += f"; {gain.rival}, the best that needs no metric, {control:+z.1f} %"
    missing = _few(ratio)
    holds = (ratio.low or 0.0) > 0 and (ratio.high or 0.0) >= GAIN
    if not missing and (ratio.low or 0.0) > 0 and not holds:
        said += f"; a gain, but less than {GAIN:g} %"
    return replace(
        _CHOSEN,
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        control=gain.rival,
        control_value=control,
        ahead=None if missing else _leads(gain, len(own)),
        n=ratio.n,
        verdict=OPEN if missing else HOLDS if holds else FAILS,
        reason=f"{said}; {missing}" if missing else said,
    )


Places = Mapping[tuple[Key, str], Cell]


def _picked(choice: LayerChoice, metric: str, cells: Places) -> list[tuple[Cell, float]]:
    """The cells in which the metric picks a layer, and what that gains."""
    return [
        (cells[Key(p.model, p.revision, "full"), p.task], p.gain)
        for p in choice.picks
        if p.metric == metric and p.gain is not None
    ]


def _last(choice: LayerChoice, metric: str, cells: Places) -> float:
    """The mean score of the last layer in these cells."""
    return fmean([cell.scores[cell.layers] for cell, _ in _picked(choice, metric, cells)])


def _ratio(choice: LayerChoice, metric: str, cells: Places, metrics: int) -> Mean | None:
    """The gain in percent of the last layer's mean score; None where that is not above 0.

    Its standard error is that of a ratio of means: of the deviations gain - ratio x last score.
    """
    picked = _picked(choice, metric, cells)
    last = _last(choice, metric, cells) if picked else 0.0
    if last <= 0:
        return None
    held = [cell for cell, _ in picked]
    ratio = fmean([gain for _, gain in picked]) / last
    rest = [gain - ratio * cell.scores[cell.layers] for cell, gain in picked]
    off = mean(held, rest, metrics)  # of mean 0
    low, high = (None if end is None else 100 * (ratio + end / last) for end in (off.low, off.high))
    return Mean(100 * ratio, low, high, off.n, off.runs)


def _leads(gain: Gain, metrics: int) -> bool | None:
    """Whether a metric gains more than its rival does, for all metrics together."""
    if gain.lead_stderr is None:
        return None
    lead = (gain.gain or 0.0) - (gain.rival_gain or 0.0)
    return bool(lead > gain.lead_stderr * t.ppf(1 - ALPHA / 2 / metrics, gain.runs - 1))


def mean(cells: Sequence[Cell], values: Sequence[float], tests: int = 1) -> Mean:
    """Of a value a cell, with its 95 % t interval over training runs, `tests` of them together."""
    runs = len({cell.run for cell in cells})
    error, middle = stderr_over_runs(cells, values), fmean(values)
    if error is None:
        return Mean(middle, None, None, len(cells), runs)
    reach = error * float(t.ppf(1 - ALPHA / 2 / tests, runs - 1))
    return Mean(middle, middle - reach, middle + reach, len(cells), runs)


def _few(found: Mean) -> str:
    """What is missing for a verdict; "" if nothing is."""
    if found.n >= FEW_PAIRS and found.runs >= FEW_RUNS:
        return ""
    return (
        f"{count(found.n, 'model-task pair')} of {count(found.runs, 'training run')}, a verdict "
        f"needs {FEW_PAIRS} of {FEW_RUNS}"
    )


def _points(gain: float) -> str:
    return f"{100 * gain:+z.1f} points"


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else by * value


def _span(found: Mean, by: float, unit: str = "") -> str:
    if found.low is None or found.high is None:
        return ""
    return f" (95 % {by * found.low:+z.1f} to {by * found.high:+z.1f}{unit})"


HEAVY = (0.15, 0.20)  # budgets at which gfmi is said to beat random
_SAME = 1e-9  # changes (%) that differ by less are the same
RunOf = Callable[[Key], Key]  # a model's training run


@dataclass(frozen=True)
class Contest:
    """A rule against random's seeds at one budget, over models.

    change: the mean over models of the change (%); random: the same in the mean over random's
    seeds; low, high: of its worst and best seed. p: one-sided, see `contest`; least: the least that
    so many seeds and depths can give. models, runs: how many, and of how many training runs.
    """

    change: float
    random: float
    low: float
    high: float
    p: float
    least: float
    seeds: int
    models: int
    runs: int

    @property
    def beaten(self) -> bool:
        return self.p < ALPHA and self.change > self.random

    def missing(self) -> str:
        """What is missing for a verdict; "" if nothing is."""
        if self.runs < FEW_RUNS:
            return f"{count(self.runs, 'training run')}, a verdict needs {FEW_RUNS}"
        if self.least >= ALPHA:
            return f"{count(self.seeds, 'random seed')} cannot give p < .05 (--random-seeds)"
        return ""

    def said(self) -> str:
        seeds = count(self.seeds, "seed")
        return (
            f"{self.change:+z.1f} % against random's {self.random:+z.1f} % ({seeds}, "
            f"{self.low:+z.1f} to {self.high:+z.1f} %; p = {self.p:.2g}, "
            f"{count(self.models, 'model')})"
        )


def pruning_claims(table: PrunedTable | None, kind: Kind, run_of: RunOf) -> tuple[Claim, ...]:
    """The claims on tasks of one kind; of a model that is scored on them."""
    rows = [row for row in table.rows if row.kind == kind] if table else []
    return (*(_heavy(rows, budget, run_of) for budget in HEAVY), _lightest(rows, run_of))


def _empty(name: str, statement: str) -> Claim:
    return Claim(name, statement, LRD, "% change", "models", OPEN, "")


def _heavy(rows: Sequence[PrunedRow], budget: float, run_of: RunOf) -> Claim:
    """Holds if gfmi keeps more of the score than random removal does, p < .05."""
    empty = _empty(
        f"gfmi beats random, {100 * budget:g} %",
        f"The {100 * budget:g} % of the blocks that gfmi chooses cost less of the score than as "
        "many random ones.",
    )
    held = contest(rows, "gfmi", budget, run_of)
    if held is None:
        return replace(empty, reason=_absent("gfmi", f"at {100 * budget:g} %"))
    verdict = HOLDS if held.beaten else FAILS
    return _judged(empty, held, verdict, held.said(), held.missing())


def _lightest(rows: Sequence[PrunedRow], run_of: RunOf) -> Claim:
    """Holds if frenet beats random at the least budget, p < .05, and at none that removes more."""
    empty = _empty(
        "frenet beats random only lightly",
        "The blocks that frenet chooses cost less of the score than random ones do at the lightest "
        "budget (number), and at no heavier one.",
    )
    budgets = sorted({row.budget for row in rows if row.rule == "frenet"})
    found = {b: contest(_heavier(rows, b, budgets), "frenet", b, run_of) for b in budgets}
    held = {budget: one for budget, one in found.items() if one is not None}
    if not budgets or budgets[0] not in held:
        return replace(empty, reason=_absent("frenet", "at the lightest budget"))
    said = "; ".join(f"{100 * budget:g} %: {one.said()}" for budget, one in held.items())
    light, *others = held.values()
    missing = next((few for one in held.values() if (few := one.missing())), "")
    if not others:
        missing = "no heavier budget that removes more blocks is there to compare"
    only = light.beaten and not any(one.beaten for one in others)
    return _judged(empty, light, HOLDS if only else FAILS, said, missing)


def _heavier(
    rows: Sequence[PrunedRow], budget: float, budgets: Sequence[float]
) -> Sequence[PrunedRow]:
    """Without the models in which a heavier budget comes to as many blocks as the lightest."""
    if budget == budgets[0]:
        return rows
    least = {_key(row): row.removed for row in rows if row.budget == budgets[0]}
    return [row for row in rows if row.removed > least.get(_key(row), row.removed)]


def _absent(rule: str, where: str) -> str:
    return f"no model was pruned by {rule} and at random {where} and scored on the same tasks"


def _judged(empty: Claim, held: Contest, verdict: Verdict, said: str, missing: str) -> Claim:
    return replace(
        empty,
        value=held.change,
        p=held.p,
        control=RANDOM,
        control_value=held.random,
        ahead=None if missing else held.beaten,
        n=held.models,
        verdict=OPEN if missing else verdict,
        reason=f"{said}; {missing}" if missing else said,
    )


def contest(rows: Sequence[PrunedRow], rule: str, budget: float, run_of: RunOf) -> Contest | None:
    """The rule against the seeds of random that all models have; None without any.

    The test: random's blocks depend on seed and depth alone, so that models of as many blocks have
    the same draws, and count as one. Of each depth the rule's mean change over the models is ranked
    among those of the S seeds: T = how many are worse, level ones not counted. If the rule were one
    more draw, T would be uniform on 0..S, or lower for level ones, and independent between depths:
    p is the chance that the sum over depths is as large as it is.
    """
    random = {_key(row): row for row in rows if (row.rule, row.budget) == (RANDOM, budget)}
    own = [row for row in rows if (row.rule, row.budget) == (rule, budget)]
    pairs = [(row, _seeds(random.get(_key(row)), row.tasks)) for row in own]
    pairs = [(row, drawn) for row, drawn in pairs if drawn and row.change is not None]
    seeds = sorted(set.intersection(*(set(drawn) for _, drawn in pairs))) if pairs else []
    if not seeds:
        return None
    changes = np.array([row.change for row, _ in pairs], dtype=np.float64)
    table = np.array([[drawn[seed] for seed in seeds] for _, drawn in pairs])  # (models, seeds)
    depths = np.array([row.blocks for row, _ in pairs])
    worse = [
        int(np.sum(table[depths == depth].mean(axis=0) < changes[depths == depth].mean() - _SAME))
        for depth in np.unique(depths)
    ]
    over_models = table.mean(axis=0)
    return Contest(
        change=float(changes.mean()),
        random=float(over_models.mean()),
        low=float(over_models.min()),
        high=float(over_models.max()),
        p=_tail(worse, len(seeds)),
        least=float((len(seeds) + 1.0) ** -len(worse)),
        seeds=len(seeds),
        models=len(pairs),
        runs=len({run_of(_key(row)) for row, _ in pairs}),
    )


def _seeds(row: PrunedRow | None, tasks: Sequence[str]) -> dict[int, float]:
    """The change by seed of random removal; none if it is not over these tasks."""
    if row is None or row.tasks != tuple(tasks):
        return {}
    return {
        run.seed: run.change for run in row.runs if run.seed is not None and run.change is not None
    }


def _tail(worse: Sequence[int], seeds: int) -> float:
    """The chance that as many numbers, uniform on 0..seeds, have as high a sum."""
    chances = np.ones(1)
    for _ in worse:
        chances = np.convolve(chances, np.full(seeds + 1, 1 / (seeds + 1)))
    return min(1.0, fsum(chances[sum(worse) :].tolist()))


def _key(row: PrunedRow) -> Key:
    return Key(row.model, row.revision, "full")


D0L = "frenet.d0L"
SCORES = (D0L, "nrs.mean_jaccard", "gfmi.mean_auc")
SIZES = ("log width", "log parameters", "depth")

_MOST = Claim(
    "d0L agrees on most tasks",
    "Spearman's rho between frenet's d0L and the task score is positive on most tasks.",
    LRD,
    "% of tasks",
    "tasks",
    OPEN,
    "",
)
_ALL = Claim(
    "all three scores agree",
    "The median rho over tasks is positive for each of frenet, nrs and gfmi (number: the least).",
    LRD,
    "median rho",
    "tasks",
    OPEN,
    "",
)


def selection_claims(selection: Selection | None) -> tuple[Claim, Claim]:
    """Both claims; the control is the size baseline with the highest median rho."""
    rows = {row.name: row for row in selection.rows} if selection else {}
    if selection and not selection.large:  # where models can be drawn, those over tasks say less
        rows = {name: replace(row, low=None, high=None) for name, row in rows.items()}
    sizes = [rows[name] for name in SIZES if name in rows and rows[name].rho is not None]
    size = max(sizes, key=lambda row: row.rho or 0.0) if sizes else None
    return _most(rows.get(D0L), size), _all([rows.get(name) for name in SCORES], size)


def _most(row: Agreement | None, size: Agreement | None) -> Claim:
    """Holds if a binomial test (1/2, one-sided) and the interval over models both say so.

    The tasks share their models and so are not independent, which the first does not know.
    """
    if row is None or row.rho is None:
        return replace(_MOST, reason=_absent_claim_selection([D0L]))
    signs = _signs(row)
    p = float(stats.binomtest(sum(signs), len(signs), 0.5, "greater").pvalue)
    held = replace(_MOST, value=100 * sum(signs) / len(signs), p=p, n=len(signs))
    held = _against(held, row, size, None if size is None else 100 * _share(_signs(size)))
    said = f"positive on {sum(signs)} of {count(len(signs), 'task')} (binomial p = {p:.2g})"
    said += f", median rho {row.rho:+z.2f}{_span_claim_selection(row)}{_beside(held, size)}"
    if missing := _few_claim_selection(row):
        return replace(held, reason=f"{said}; {missing}")
    said += _kin([row])
    above = _above(row)
    verdict = HOLDS if p < ALPHA and above else FAILS
    if p < ALPHA and not above:
        said += "; the tasks share their models, and with others of these it might not be so"
    return replace(held, verdict=verdict, reason=said)


def _all(rows: Sequence[Agreement | None], size: Agreement | None) -> Claim:
    """Holds if the interval over models of every one's median is above 0."""
    held = [row for row in rows if row is not None and row.rho is not None]
    if len(held) < len(rows):
        there = {row.name for row in held}
        return replace(
            _ALL, reason=_absent_claim_selection([name for name in SCORES if name not in there])
        )
    least = min(held, key=lambda row: row.rho or 0.0)
    low, high = _interval(least)
    found = replace(_ALL, value=least.rho, low=low, high=high, n=len(_signs(least)))
    found = _against(found, least, size, None if size is None else size.rho)
    said = "; ".join(f"{row.name} {row.rho:+z.2f}{_span_claim_selection(row)}" for row in held)
    said = f"median rho: {said}{_beside(found, size)}"
    missing = next((few for row in held if (few := _few_claim_selection(row))), "")
    if missing:
        return replace(found, reason=f"{said}; {missing}")
    said += _kin(held)
    return replace(found, verdict=HOLDS if all(map(_above, held)) else FAILS, reason=said)


def _absent_claim_selection(names: Sequence[str]) -> str:
    return f"{', '.join(names)}: not measured on a task with the scores of 4 models"


def _signs(row: Agreement) -> list[bool]:
    """Of each task with a rho, whether it is positive."""
    return [task.rho > 0 for task in row.tasks if task.rho is not None]


def _share(signs: Sequence[bool]) -> float:
    return sum(signs) / len(signs) if signs else 0.0


def _interval(row: Agreement) -> tuple[float | None, float | None]:
    """Over models; over tasks where so many models are there that it is not drawn."""
    if row.models_low is None:
        return row.low, row.high
    return row.models_low, row.models_high


def _above(row: Agreement) -> bool:
    low, _ = _interval(row)
    return low is not None and low > 0


def _span_claim_selection(row: Agreement) -> str:
    low, high = _interval(row)
    over = "tasks" if row.models_low is None else "models"
    if low is None or high is None:
        return ""
    return f" (95 % over {over} {low:+z.2f} to {high:+z.2f})"


def _few_claim_selection(row: Agreement) -> str:
    """What is missing for a verdict; "" if nothing is."""
    if (row.n or 0) < FEW_MODELS:
        return f"{row.n or 0:g} models a task, a verdict needs {FEW_MODELS}"
    if (row.runs or 0) < FEW_MODELS:
        return f"{_of_runs(row)}, a verdict needs {FEW_MODELS} of these"
    if len(_signs(row)) < FEW_TASKS:
        return f"{count(len(_signs(row)), 'task')}, a verdict needs {FEW_TASKS}"
    return "" if _interval(row)[0] is not None else "no interval can be drawn"


def _of_runs(row: Agreement) -> str:
    runs = row.runs or 0
    return f"{row.n or 0:g} models a task from {runs:g} training run{'s' * (runs != 1)}"


def _kin(rows: Sequence[Agreement]) -> str:
    """A caution where several models are of one training run."""
    least = min(rows, key=lambda row: (row.runs or 0) - (row.n or 0))
    return f"; {_of_runs(least)}, all taken as independent" if least.runs != least.n else ""


def _against(claim: Claim, row: Agreement, size: Agreement | None, value: float | None) -> Claim:
    """With its control; ahead: whether the median rho leads on the same models and tasks."""
    if size is None:
        return claim
    rival = next((rival for rival in row.rivals if rival.name == size.name), None)
    enough = rival is not None and rival.runs >= FEW_MODELS and rival.low is not None
    ahead = (rival.low or 0.0) > 0 if rival and enough else None
    return replace(claim, control=size.name, control_value=value, ahead=ahead)


def _beside(claim: Claim, size: Agreement | None) -> str:
    if size is None:
        return ""
    if claim.control_value is None or claim.unit != _MOST.unit:
        return f"; {size.name} {size.rho:+z.2f}"
    return f"; {size.name}: {claim.control_value:.0f} % of tasks, median rho {size.rho:+z.2f}"


__all__ = ["Claim", "Verdict", "build_claims"]


def build_claims(board: Leaderboard, pruned: PrunedTable | None) -> tuple[Claim, ...]:
    """All claims, in the order above, on one board's tasks.

    pruned: the table of both kinds of task, of which the board's kind counts.
    """
    runs: dict[Key, Key] = {}
    if pruned:
        held = families(board.results)
        runs = {member.key: one.members[0].key for one in held for member in one.members}
    found = (
        *selection_claims(board.selection),
        *pruning_claims(pruned, board.kind, lambda key: runs.get(key, key)),
        *layer_claims(board.choice, board.results),
    )
    return tuple(map(_beside_control, found))


def _beside_control(claim: Claim) -> Claim:
    """With a caution where what needs no metric may do as well."""
    if claim.verdict != HOLDS or claim.ahead is not False:
        return claim
    return replace(claim, reason=f"{claim.reason}; but {claim.control} may do as well")
