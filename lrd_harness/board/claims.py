"""The papers' headline findings restated on a run's own data, each with a control and a verdict.

A claim "holds" if its test passes (see `_TESTS`); "does not hold" says that these data do not show
it, not that they show the opposite; "not enough data", that the test could not tell or too few
models are there to speak for others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pandas as pd
from scipy import stats

from lrd_harness.board import layer_choice
from lrd_harness.board.agreement import Agreement, Selection
from lrd_harness.board.cautions import count
from lrd_harness.board.layer_choice import ALPHA, FEW_PAIRS, FEW_RUNS, LayerChoice, Mean
from lrd_harness.board.layers import Row, hidden
from lrd_harness.board.pruned import RANDOM, PrunedRow
from lrd_harness.board.random_removal import Contest, contest
from lrd_harness.board.statistics import span
from lrd_harness.board.training import runs
from lrd_harness.report import Column, Table
from lrd_harness.results.rows import Key, Kind, Results

HOLDS, FAILS, OPEN = "holds", "does not hold", "not enough data"
FEW_MODELS = 10  # models: fewer order themselves by chance too easily
FEW_TASKS = 5  # tasks: of fewer, even all positive has p > .05
GAIN = 3.0  # %: what the paper's layers are said to gain, about
HEAVY = (0.15, 0.20)  # budgets at which gfmi is said to beat random
SCORES = ("frenet.d0L", "nrs.mean_jaccard", "gfmi.mean_auc")
SIZES = ("log width", "log parameters", "depth")
LRD, LBL = "LRD, arXiv 2605.12714", "LbL, arXiv 2502.02013"

MOST, ALL = "d0L agrees on most tasks", "all three scores agree"
LIGHT = "frenet beats random only lightly"
MIDDLE, CHOSEN = "middle layers beat the last", "a label-free layer gains 3 %"
STATEMENTS = {
    MOST: "Spearman's rho between frenet's d0L and the task score is positive on most tasks.",
    ALL: "The median rho over tasks is positive for each of frenet, nrs and gfmi (number: the "
    "least).",
    **{
        f"gfmi beats random, {100 * budget:g} %": f"The {100 * budget:g} % of the blocks that "
        "gfmi chooses cost less of the score than as many random ones."
        for budget in HEAVY
    },
    LIGHT: "The blocks that frenet chooses cost less of the score than random ones do at the "
    "lightest budget (number), and at no heavier one.",
    MIDDLE: "The layer of the middle half (depth 0.25 to 0.75) that is best on a model's other "
    "tasks scores higher than its last layer.",
    CHOSEN: "A layer that a metric chooses without labels gains about 3 % over the last layer's "
    "score (number: the metric that gains most, in its published direction).",
}
# The unit of a claim's number, and what it is over.
UNITS = {
    MOST: ("% of tasks", "task"),
    ALL: ("median rho", "task"),
    MIDDLE: ("points", "pair"),
    CHOSEN: ("%", "pair"),
}


def build_claims(
    kind: Kind,
    selection: Selection | None,
    choice: LayerChoice | None,
    results: Results,
    pruned: Sequence[PrunedRow],
) -> list[Row]:
    """All claims on the tasks of one kind; pruned: rows of both kinds, of which this one counts."""
    run_of = runs(results.models) if pruned else {}
    rows = [row for row in pruned if row.line["kind"] == kind]
    return [*selection_claims(selection), *pruning_claims(rows, run_of), *layer_claims(choice)]


def _claim(
    name: str, holds: bool, reasons: Sequence[str], missing: str = "", **numbers: Any
) -> Row:
    """A row of the table. missing: why there is not enough data for a verdict; numbers:

    value, control_value: the run's number and the same of `control`, what needs no metric (of
    choices of a layer also no labels). low, high: 95 % interval of value; p: one-sided, that chance
    alone gives a value as high. ahead: whether value exceeds control_value by more than chance may
    give; None: not known. n: how many the number is over.
    """
    sentences = [*reasons, missing] if missing else [*reasons]
    if holds and not missing and numbers.get("ahead") is False:
        sentences.append(f"but {numbers['control']} may do as well")
    unit, of = UNITS.get(name, ("% change", "model"))  # of those on pruning
    row: Row = {"predictor": name, "statement": STATEMENTS[name], "unit": unit, "of": of, "n": 0}
    row["paper"] = LBL if name in (MIDDLE, CHOSEN) else LRD
    row |= dict.fromkeys("value low high p control control_value ahead".split())
    verdict = OPEN if missing else HOLDS if holds else FAILS
    return row | {"verdict": verdict, "reason": "; ".join(sentences)} | numbers


def claim_table(claims: Sequence[Row]) -> Table:
    """The table, for people where a claim has a verdict."""
    shown = any(row["verdict"] != OPEN for row in claims)
    form: dict[str, Any] = {"best": "max", "form": ".3g"}
    columns = (
        Column("predictor", "claim", key=True),
        Column("value", "number", **form),
        Column("control_value", "control", **form),
        Column("unit"),
        Column("cases", "n"),
        Column("verdict"),
        Column("interval", "95 %", rest=1),
        Column("p", "p (one-sided)", form=".2g", rest=1),
        Column("control", "the control", rest=1),
        Column("ahead", "ahead of control", rest=1),
        *hidden("low", "high", "n", "of", "paper", "statement", "reason"),
    )
    rows, said = [], []
    for row in claims:
        cases = count(row["n"], row["of"]) if row["n"] else None
        unit = None if row["value"] is None else row["unit"]
        of_number = {"interval": span(row["low"], row["high"], "+z.3g"), "unit": unit}
        rows.append(row | of_number | {"cases": cases})
        if row["value"] is not None:
            verdict = f"{row['verdict'].capitalize()}: {row['reason']}."
            said.append(f"{row['predictor']} ({row['paper']}): {row['statement']} {verdict}")
    title = "The papers' claims on this run"
    return Table("claim", title, columns, rows, (_VERDICTS, _TESTS, *said), shown)


_VERDICTS = (
    "number, control: of the claim and of what needs no metric, in the unit; n: what the number is "
    "over. holds: the test of the claim passes. does not hold: there is enough data for the test, "
    "and it does not pass; that is no proof of the opposite. not enough data: no test, or too few "
    "models to speak for others. The verdict is on the claim alone: ahead of control says whether "
    "the number exceeds the control's by more than chance may give."
)
_TESTS = (
    f"Tests, with at least {FEW_MODELS} models, of as many training runs, and {FEW_TASKS} tasks: "
    "d0L: one-sided binomial test over tasks, p < .05, and the 95 % bootstrap interval over models "
    "of the median rho above 0; all three scores: that interval, of each; control: the best size "
    f"baseline. With at least {FEW_RUNS} training runs: the rule's rank among random's seeds, "
    "p < .05, models of one depth together as they share the draws; frenet: at the lightest "
    f"budget only. With {FEW_PAIRS} model-task pairs too: 95 % t intervals over training runs "
    f"above 0; about {GAIN:g} %: for all metrics together, and with {GAIN:g} % within or below it; "
    "controls: a random layer, and the best of the last, first, random and fixed-depth layers."
)


def _span(low: float | None, high: float | None, form: str = "+z.1f") -> str:
    interval = span(low, high, form)
    return f" (95 % {interval})" if interval else ""


def selection_claims(selection: Selection | None) -> list[Row]:
    """Both claims; the control is the size baseline with the highest median rho."""
    rows = {row.name: row for row in (selection.rows if selection else ()) if row.rho is not None}
    if selection and not selection.large:  # where models can be drawn, those over tasks say less
        rows = {name: replace(row, low=None, high=None) for name, row in rows.items()}
    sizes = [rows[name] for name in SIZES if name in rows]
    size = max(sizes, key=lambda row: row.rho or 0.0, default=None)
    claims = []
    for name, scores in {MOST: SCORES[:1], ALL: SCORES}.items():
        if absent := [score for score in scores if score not in rows]:
            reason = f"{', '.join(absent)}: not measured on a task with the scores of 4 models"
            claims.append(_claim(name, False, [], reason))
        else:
            test = _most if name == MOST else _all
            claims.append(test([rows[score] for score in scores], size))
    return claims


def _most(scores: Sequence[Agreement], size: Agreement | None) -> Row:
    """The tasks share their models and so are not independent, which the binomial test ignores."""
    (row,) = scores
    signs, above = _signs(row), _above(row)
    p = float(stats.binomtest(sum(signs), len(signs), 0.5, "greater").pvalue)
    tasks = count(len(signs), "task")
    reasons = [f"positive on {sum(signs)} of {tasks} (binomial p = {p:.2g})", *_rhos([row, size])]
    missing = _too_few(row)
    if not missing:
        reasons += _runs([row])
        if p < ALPHA and not above:
            reasons.append("the tasks share their models, and with other models it might not be so")
    numbers = {"value": _share(row), "p": p, "n": len(signs)}
    numbers |= _against(row, size, _share(size) if size else None)
    return _claim(MOST, p < ALPHA and above, reasons, missing, **numbers)


def _all(three: Sequence[Agreement], size: Agreement | None) -> Row:
    least = min(three, key=lambda row: row.rho or 0.0)
    low, high = _interval(least)
    missing = next(filter(None, map(_too_few, three)), "")
    reasons = [*_rhos([*three, size]), *([] if missing else _runs(three))]
    numbers = {"value": least.rho, "low": low, "high": high, "n": len(_signs(least))}
    numbers |= _against(least, size, size.rho if size else None)
    return _claim(ALL, all(map(_above, three)), reasons, missing, **numbers)


def _signs(row: Agreement) -> list[bool]:
    """Of each task with a rho, whether it is positive."""
    return [task["rho"] > 0 for task in row.tasks if task["rho"] is not None]


def _share(row: Agreement) -> float:
    """% of tasks with a positive rho."""
    signs = _signs(row)
    return 100 * sum(signs) / len(signs) if signs else 0.0


def _interval(row: Agreement) -> tuple[float | None, float | None]:
    """Over models; over tasks where so many models are there that it is not drawn."""
    if row.models_low is None:
        return row.low, row.high
    return row.models_low, row.models_high


def _above(row: Agreement) -> bool:
    low, _ = _interval(row)
    return low is not None and low > 0


def _rhos(rows: Sequence[Agreement | None]) -> list[str]:
    return [
        f"{row.name}: median rho {row.rho:+z.2f}{_span(*_interval(row), '+z.2f')}"
        for row in rows
        if row
    ]


def _too_few(row: Agreement) -> str:
    """What is missing for a verdict."""
    n, tasks = row.n or 0, len(_signs(row))
    models = f"{n:g} models per task"
    if n < FEW_MODELS:
        return f"{models}, a verdict needs {FEW_MODELS}"
    if (row.runs or 0) < FEW_MODELS:
        return f"{models} from {_count(row)}, a verdict needs {FEW_MODELS} of these"
    if tasks < FEW_TASKS:
        return f"{count(tasks, 'task')}, a verdict needs {FEW_TASKS}"
    return "no interval can be drawn" if _interval(row)[0] is None else ""


def _count(row: Agreement) -> str:
    runs = row.runs or 0
    return f"{runs:g} training run{'s' * (runs != 1)}"


def _runs(rows: Sequence[Agreement]) -> list[str]:
    """A caution where several models are of one training run."""
    least = min(rows, key=lambda row: (row.runs or 0) - (row.n or 0))
    if least.runs == least.n:
        return []
    return [f"{least.n:g} models per task from {_count(least)}, all taken as independent"]


def _against(row: Agreement, size: Agreement | None, value: float | None) -> Row:
    """The control; ahead: whether the median rho leads on the same models and tasks."""
    if size is None:
        return {}
    rival = next((rival for rival in row.rivals if rival.name == size.name), None)
    enough = rival is not None and rival.runs >= FEW_MODELS and rival.low is not None
    ahead = (rival.low or 0.0) > 0 if rival and enough else None
    return {"control": size.name, "control_value": value, "ahead": ahead}


def pruning_claims(rows: Sequence[PrunedRow], run_of: Mapping[Key, Key]) -> list[Row]:
    """The claims on tasks of one kind; run_of: models' training runs, where not their own."""
    claims = []
    for budget in HEAVY:
        gfmi = contest(rows, "gfmi", budget, run_of)
        name = f"gfmi beats random, {100 * budget:g} %"
        claims.append(_judged(name, {budget: gfmi}, gfmi is not None and gfmi.beaten))
    budgets = sorted({row.line["budget"] for row in rows if row.line["rule"] == "frenet"})
    contests = {b: contest(_heavier(rows, b, budgets), "frenet", b, run_of) for b in budgets}
    beaten = [frenet.beaten for frenet in contests.values() if frenet]
    return [*claims, _judged(LIGHT, contests, beaten[:1] == [True] and not any(beaten[1:]))]


def _judged(name: str, contests: Mapping[float, Contest | None], holds: bool) -> Row:
    """The number is of the first budget."""
    first = next(iter(contests.values()), None)
    if first is None:
        at = "the lightest budget" if name == LIGHT else name.partition(", ")[2]
        missing = f"no model was pruned by {name.partition(' ')[0]} and at random at {at}"
        return _claim(name, False, [], f"{missing} and scored on the same tasks")
    there = {budget: of for budget, of in contests.items() if of}
    reasons = [
        f"{100 * budget:g} %: {of.change:+z.1f} % against random's {of.random:+z.1f} % "
        f"({count(of.seeds, 'seed')}, {of.low:+z.1f} to {of.high:+z.1f} %; p = {of.p:.2g}, "
        f"{count(of.models, 'model')})"
        for budget, of in there.items()
    ]
    missing = next((of.undecided for of in there.values() if of.undecided), "")
    if name == LIGHT and len(there) < 2:
        missing = "no heavier budget that removes more blocks is there to compare"
    numbers: Row = {"value": first.change, "p": first.p, "control": RANDOM, "n": first.models}
    numbers |= {"control_value": first.random, "ahead": None if missing else first.beaten}
    return _claim(name, holds, reasons, missing, **numbers)


def _heavier(
    rows: Sequence[PrunedRow], budget: float, budgets: Sequence[float]
) -> Sequence[PrunedRow]:
    """Without the models in which a heavier budget comes to as many blocks as the lightest."""
    if budget == budgets[0]:
        return rows
    least = {row.key: row.line["removed"] for row in rows if row.line["budget"] == budgets[0]}
    return [row for row in rows if row.line["removed"] > least.get(row.key, row.line["removed"])]


def layer_claims(choice: LayerChoice | None) -> list[Row]:
    """Both claims, on one side's results."""
    if choice is None:
        return [_claim(n, False, [], "only last layers were scored") for n in (MIDDLE, CHOSEN)]
    return [_middle(choice), _chosen(choice)]


def _too_small(mean: Mean) -> str:
    """What is missing for a verdict."""
    if mean.n >= FEW_PAIRS and mean.runs >= FEW_RUNS:
        return ""
    pairs = f"{count(mean.n, 'model-task pair')} of {count(mean.runs, 'training run')}"
    return f"{pairs}, a verdict needs {FEW_PAIRS} of {FEW_RUNS}"


def _middle(choice: LayerChoice) -> Row:
    cells = choice.cells[choice.cells.whole]
    gains = pd.concat([pd.DataFrame(), *map(middle_gains, layer_choice.by_model(cells))])
    if gains.empty:
        reason = "no model has two tasks with scores of the last layer and the same middle layer"
        return _claim(MIDDLE, False, [], reason)
    means = cells.groupby("place")[["run", "gain"]].mean().loc[gains.index]
    run, random = means.run, means.gain
    gain, lead = layer_choice.mean(run, gains.honest), layer_choice.mean(run, gains.honest - random)
    best, control = 100 * fmean(gains.oracle), 100 * fmean(random)
    missing = _too_small(gain)
    numbers: Row = {**gain.percent(), "n": gain.n, "control": layer_choice.RANDOM}
    numbers |= {"control_value": control, "ahead": None if missing else (lead.low or 0.0) > 0}
    value = numbers["value"]
    reason = (
        f"{value:+z.1f} points{_span(numbers['low'], numbers['high'])}, a random layer "
        f"{control:+z.1f} points; the best middle layer of each pair by its own score would show "
        f"{best:+z.1f}: picking after the fact adds {best - value:.1f}"
    )
    return _claim(MIDDLE, (gain.low or 0.0) > 0, [reason], missing, **numbers)


def middle_gains(scores: pd.DataFrame) -> pd.DataFrame:
    """Of one model's scores (layers x tasks, the last one L): honest gain and oracle by task.

    honest: of the middle layer with the highest mean over the other tasks, ties to the lower;
    oracle: of the best middle layer. Empty where there is no middle layer.
    """
    blocks = scores.index[-1]
    middle = scores[(blocks <= 4 * scores.index) & (4 * scores.index <= 3 * blocks)]
    if middle.empty:
        return pd.DataFrame()
    gains = middle - scores.loc[blocks]
    others = middle.rsub(middle.sum(axis=1), axis=0).round(12)
    best = others.to_numpy().argmax(axis=0)
    honest = gains.to_numpy()[best, range(len(best))]
    return pd.DataFrame({"honest": honest, "oracle": gains.max()})


def _chosen(choice: LayerChoice) -> Row:
    """At 95 % for all metrics with a published direction together (Bonferroni).

    It is the best of them that is looked at.
    """
    judged = choice.judged
    of_metrics = ((_ratio(choice.chosen[gain["rule"]], len(judged)), gain) for gain in judged)
    ratios = [(ratio, gain) for ratio, gain in of_metrics if ratio]
    if not ratios:
        reason = "no metric that chooses a layer was measured with its scores"
        return _claim(CHOSEN, False, [], reason)
    (last, rest, relative), gain = max(ratios, key=lambda pair: pair[0][2])
    missing = _too_small(rest)
    numbers: Row = {**rest.percent(last, relative), "n": rest.n, "control": gain["rival"]}
    numbers["control_value"] = 100 * gain["rival_gain"] / last
    numbers["ahead"] = None if missing else layer_choice.exceeds(gain, len(judged))
    low, high = numbers["low"], numbers["high"]
    reasons = [
        f"{gain['rule']} gains {numbers['value']:+z.1f} %{_span(low, high)}, the best of "
        f"{count(len(judged), 'metric')}; {gain['rival']}, the best that needs no metric, "
        f"{numbers['control_value']:+z.1f} %"
    ]
    above = (low or 0.0) > 0
    holds = above and (high or 0.0) >= GAIN
    if above and not holds and not missing:
        reasons.append(f"a gain, but less than {GAIN:g} %")
    return _claim(CHOSEN, holds, reasons, missing, **numbers)


def _ratio(chosen: pd.DataFrame, metrics: int) -> tuple[float, Mean, float] | None:
    """The last layer's mean score, what a gain's deviations are (of mean 0), the relative gain.

    The standard error of a ratio of means is that of the deviations gain - ratio x last score.
    None where the mean score is not above 0.
    """
    last = fmean(chosen["last"]) if len(chosen) else 0.0
    if last <= 0:
        return None
    ratio = fmean(chosen.gain) / last
    rest = chosen.gain - ratio * chosen["last"]
    return last, layer_choice.mean(chosen.run, rest, metrics), ratio
