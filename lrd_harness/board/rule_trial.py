"""The trial of a rule that chooses layers, or orders models, without labels: one verdict.

layers: a rule takes a layer of each model on each task; it gains what that layer scores above the
one that the control takes. models: a rule orders the models; it gains what its rank correlation
with the scores is above that of the control. One rule is primary, tested at alpha; all others are
secondary, and their p are Holm's. `trial` has the statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic.dataclasses import dataclass

from lrd_harness import errors
from lrd_harness.board import statistics
from lrd_harness.board.candidates import Candidate, Candidates, of_layers, of_models
from lrd_harness.board.cautions import Caution, count, names
from lrd_harness.board.layers import Row, hidden
from lrd_harness.board.trial import LEAST_FAMILIES, LEAST_TASKS, Layout, Tested, Trial, best_of
from lrd_harness.board.verdicts import FEW
from lrd_harness.errors import UserError
from lrd_harness.report import Column, Report, Table
from lrd_harness.results.kinds import TASKS, split
from lrd_harness.results.rows import Results

BEST = "best rule"  # of each family the one that is best on the others
FAMILIES, MANY = (5, 10, 20, 40, 80, 160, 320), (5, 10, 30, 100)  # families and tasks of the plan
ROUGH = 10  # families below which a plan says little
ENDLESS = 1e9


class Unit(NamedTuple):
    """How effects are shown, and what else a choice needs: the fewest models of a test."""

    scale: float
    name: str
    form: str
    least: int
    outcome: str


UNITS = {
    "layers": Unit(100, "points", "+z.2f", 1, "score of its layer, mean over models and tasks"),
    "models": Unit(1, "rho", "+z.2f", FEW, "Spearman's rho of its order, mean over tasks"),
}


def _number(value: Any, info: ValidationInfo) -> float:
    most = 100 if info.field_name == "smallest" else 1
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or not 0 < value < most:
        shown = errors.shown(value)
        raise ValueError(f"{info.field_name} is {shown}, not a number between 0 and {most}")
    return float(value)


def _rules(value: Any) -> tuple[str, ...] | None:
    if value is None or value == "all":
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"secondary is {errors.shown(value)}, neither all nor a list of rules")
    return tuple(dict.fromkeys(value))


Number = Annotated[float, BeforeValidator(_number)]
Name = Annotated[str, Field(pattern=r"\S")]


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Terms:
    """What is tested and how, as a suite of YAML states it.

    primary: the rule that the verdict is on; control: what it has to beat; smallest: the least
    effect that matters, in points or in rho; secondary: other rules, None for all that use no
    labels; alpha: two-sided; power: with which the smallest effect is to be found; held_out: what
    goes as one in resamples; kind: of the tasks, None for the main kind of the results.
    """

    primary: Name
    control: Name
    smallest: Number
    secondary: Annotated[tuple[str, ...] | None, BeforeValidator(_rules)] = None
    alpha: Number = 0.05
    power: Number = 0.8
    resamples: int = Field(default=2000, ge=100, le=errors.DRAWS)
    seed: int = Field(default=42, ge=0, le=errors.SEED - 1)
    held_out: Literal["family", "model"] = "family"
    kind: Literal["embedding", "base", "image"] | None = None
    description: str = ""


def report(of: str, results: Results, terms: Terms, stated: str) -> Report:
    """The verdict and its tables. of: "layers" or "models"; stated: where the primary was stated.

    Raises UserError for rules that were not measured, and where there is nothing to choose from.
    """
    sides = split(results)
    kind = terms.kind or next(iter(sides))
    if kind not in sides:
        raise UserError(f"kind {kind}: the results have {' and '.join(sides)} tasks alone")
    held_out = terms.held_out
    found = (
        of_layers(sides[kind], kind, held_out)
        if of == "layers"
        else of_models(sides[kind], held_out)
    )
    rules = _Rules(of, found, terms)
    said = [*rules.sentences()]
    said.insert(1, Caution("trial_stated", {"stated": stated}))
    said += found.cautions
    if others := [TASKS[other] for other in sides if other != kind]:
        left = {"kind": TASKS[kind], "others": " and ".join(others)}
        said.append(Caution("trial_kind", left))
    return Report(
        f"Trial of rules that {'choose layers' if of == 'layers' else 'order models'}",
        tuple(rules.tables()),
        answer=tuple(map(str, said)),
        facts={"trial": {**vars(terms), "of": of, "control": rules.control, "stated": stated}},
    )


class _Rules:
    """The trials of all rules. rows: the primary first; chosen: of each group the rule of BEST."""

    def __init__(self, of: str, found: Candidates, terms: Terms) -> None:
        self.of, self.found, self.terms, self.unit = of, found, terms, UNITS[of]
        self.control = found.find(terms.control, "control")
        self.against, *others = found.rules[self.control].ways.values()
        if others:
            raise UserError(f"{self.control} may choose by either end: it can be no control")
        primary = terms.primary if terms.primary == BEST else found.find(terms.primary, "rule")
        if primary == self.control:
            raise UserError(f"{primary} is the control: name another rule or --control")
        free = [name for name in _free(found.rules) if name != self.control]
        named = free if terms.secondary is None else self._secondary(terms.secondary)
        self.ways: dict[str, Trial] = {}  # every way of every rule without labels
        self.trials: dict[str, Trial] = {}
        self.rows: list[Row] = []
        own = [] if primary == BEST else [primary]
        for name in sorted({*named, *own}):  # the first is chosen of those that are level
            self._add(name, found.rules[name])
        if not self.ways:
            raise UserError("nothing but the control and what uses labels is there to choose from")
        best, chosen = best_of([*self.ways.values()])
        self.chosen = [[*self.ways][i] for i in chosen]
        if len(self.ways) > 1 or primary == BEST:
            self._judge(BEST, "choice", "on other families", best, {})
        if primary not in self.trials:
            if self.ways and len(found.groups.names) == 1:
                what = "it is chosen on other families, and there is but one"
            else:
                what = f"it has no model and task with {self.control}"
            raise UserError(f"{primary} cannot be tried: {what}")
        self.rows.sort(key=lambda row: -row["effect"])
        self.rows.sort(key=lambda row: (row["rule"] != primary, row["rule"] != BEST))
        ps = statistics.holm([row["p"] for row in self.rows[1:]])
        for row, p in zip(self.rows, [None, *ps], strict=True):
            row["p_holm"], row["role"] = p, "primary" if row is self.rows[0] else "secondary"
            row["verdict"] = self._verdict(row)
        self.primary = self.rows[0]
        self.layout = self.trials[primary].layout()

    def _secondary(self, typed: Sequence[str]) -> list[str]:
        rules = [self.found.find(name, "rule") for name in typed if name != BEST]
        return [name for name in rules if name != self.control]

    def _add(self, name: str, candidate: Candidate) -> None:
        pairs = {
            f"{name} {way}".strip(): self.found.trial(choice, self.against)
            for way, choice in candidate.ways.items()
        }
        trials = {way: trial for way, (trial, _) in pairs.items() if trial.counts["pairs"]}
        if not trials:
            return  # on no model and task with the control
        if candidate.kind != "labels":
            self.ways |= trials
        (way, *others), ((_, sides), *_) = candidate.ways, pairs.values()
        alone = {} if others else dict(zip(("alone", "control_alone"), sides.tolist(), strict=True))
        picks = "either end, by other families" if others else way
        picks += ", in-sample" * (candidate.kind == "labels")  # which it is judged by as well
        self._judge(name, candidate.kind, picks, best_of([*trials.values()])[0], alone)

    def _judge(self, name: str, kind: str, picks: str, trial: Trial, alone: Row) -> None:
        if np.isnan(trial.effect):
            return  # nothing that it could be chosen on
        terms, scale = self.terms, self.unit.scale
        few = trial.counts["models"] < self.unit.least
        test = Tested() if few else trial.test(terms.alpha, terms.resamples, terms.seed)
        shown = {"effect": trial.effect, "stderr": test.stderr, "low": test.low, "high": test.high}
        shown |= alone
        row: Row = {"rule": name, "kind": kind, "picks": picks, "p": test.p, **trial.counts}
        row |= {name: None if value is None else scale * value for name, value in shown.items()}
        row["interval"] = statistics.span(row["low"], row["high"], self.unit.form)
        self.rows.append(row)
        self.trials[name] = trial

    def _verdict(self, row: Row) -> str:
        p = row["p"] if row["role"] == "primary" else row["p_holm"]
        if p is None:
            return "too few"
        if p >= self.terms.alpha:
            return "not shown"
        return "better" if row["effect"] > 0 else "worse"

    def sentences(self) -> Iterator[Caution]:
        """The verdict first, then the other rules, and how many would settle it."""
        row, unit, terms = self.primary, self.unit, self.terms
        numbers = {n: count(row[n], n[:-1]) for n in ("models", "tasks")} | self._shown(row)
        numbers |= {"families": _families(row["families"], terms.held_out), "p": row["p"]}
        if row["verdict"] == "too few":
            least = f"{_families(LEAST_FAMILIES, terms.held_out)} and {count(LEAST_TASKS, 'task')}"
            numbers["least"] = f"{unit.least} models of {least}" if unit.least > 1 else least
        yield Caution(f"trial_{row['verdict'].replace(' ', '_')}", numbers)
        if row["verdict"] == "not shown" and row["high"] < self.terms.smallest:
            yield Caution("trial_small", {"smallest": self._size(self.terms.smallest)})
        if others := self.rows[1:]:
            yield self._others(others)
        yield from self._plan()

    def _others(self, others: Sequence[Row]) -> Caution:
        better = [row["rule"] for row in others if row["verdict"] == "better"]
        ahead = max(others, key=lambda row: row["effect"])
        numbers = {"rules": count(len(others), "secondary rule"), "better": names(better)}
        numbers |= {"ahead": ahead["rule"], "effect": self._size(ahead["effect"])}
        tested = any(row["p"] is not None for row in others)
        code = "_better" if better else "" if tested else "_few"
        return Caution(f"trial_others{code}", numbers)

    def _size(self, effect: float) -> str:
        return f"{effect:{self.unit.form}} {self.unit.name}"

    def _shown(self, row: Row) -> Row:
        interval = f", {100 * (1 - self.terms.alpha):g} % {row['interval']}" * bool(row["interval"])
        effect = f"{self._size(row['effect'])}{interval}"
        rule = f"the {BEST}" if row["rule"] == BEST else row["rule"]
        return {"rule": rule, "control": self.control, "effect": effect}

    def _power(self, families: float, tasks: float, effect: float) -> float:
        assert self.layout is not None
        alpha = self.terms.alpha
        return self.layout.power(families, tasks, effect / self.unit.scale, alpha)

    def _plan(self) -> Iterator[Caution]:
        row, terms, layout = self.primary, self.terms, self.layout
        if layout is None:
            yield Caution("trial_no_plan")
            return
        if not any(layout):
            yield Caution("trial_same", {"rule": row["rule"], "control": self.control})
            return
        f, t, smallest = row["families"], row["tasks"], self.terms.smallest
        numbers = {"smallest": self._size(smallest), "power": f"{100 * terms.power:g} %"}
        small = smallest / self.unit.scale
        plans = [
            (tasks, layout.least(tasks, small, terms.alpha, terms.power))
            for tasks in dict.fromkeys([max(t, LEAST_TASKS), *(n for n in MANY if n > t)])
        ]
        reached = [(tasks, least) for tasks, least in plans if least is not None]
        if reached:
            tasks, least = min(reached, key=lambda plan: plan[0] * plan[1])
            numbers["needed"] = f"{_families(least, terms.held_out)} and {count(tasks, 'task')}"
            yield Caution("trial_plan", numbers)
        else:
            yield Caution("trial_endless", numbers)
        if self._power(max(f, 2), ENDLESS, smallest) < terms.power:
            yield Caution("trial_tasks_alone", {"families": _families(f, terms.held_out)})
        if f < ROUGH:
            yield Caution("trial_rough", {"families": _families(f, terms.held_out)})

    def tables(self) -> Iterator[Table]:
        """The rules, what left-out families change, and the plan."""
        unit, level = self.unit, f"{100 * (1 - self.terms.alpha):g} %"
        columns = (
            Column("rule", key=True),
            Column("role", key=True),
            *hidden("kind"),
            Column("effect", "gain", unit.name, "max", unit.form),
            Column("interval", level),
            Column("p", form=".2g"),
            Column("p_holm", "p (Holm)", form=".2g"),
            Column("verdict"),
            Column("families", rest=1),
            Column("models", rest=1),
            Column("tasks", rest=1),
            Column("picks", rest=1),
            Column("alone", "rule alone", unit.name, "max", unit.form, rest=1),
            Column("control_alone", "control alone", unit.name, "max", unit.form, rest=1),
            *hidden("stderr", "low", "high", "pairs"),
        )
        caption = (
            f"Gain: {unit.outcome}, less that of {self.control}; "
            f"{level}: two-way bootstrap over families and tasks, Student's t. p (Holm): of "
            "secondary rules, corrected for how many there are; the primary's own p counts.",
            f"{BEST}: for each family and task the rule that gains most on all others. either end: "
            "of a metric of which nobody says whether high or low is better, chosen likewise.",
        )
        title = f"Rules against {self.control}"
        yield Table("rules", title, columns, self.rows, caption)
        yield self._left_out()
        if self.layout is not None and any(self.layout):
            yield self._plan_table(self.layout)

    def _left_out(self) -> Table:
        unit, name = self.unit, self.primary["rule"]
        trial = self.trials[name]
        rows: list[Row] = []
        for i, family in enumerate(self.found.groups.names):
            there = trial.cells[i][~np.isnan(trial.cells[i])]
            gains = float(np.mean(there)) if len(there) else np.nan, float(trial.without[i])
            gain, without = (None if np.isnan(v) else unit.scale * v for v in gains)
            row: Row = {"family": family, "gain": gain, "chosen": self.chosen[i]}
            rows.append(row | {"without": None if trial.chosen else without})
        columns = (
            Column("family", "left out", key=True),
            Column("gain", f"gain of {name} there", unit.name, "max", unit.form),
            Column("without", "gain on the others", unit.name, "max", unit.form),
            Column("chosen", "best on the others"),
        )
        caption = ("What each family adds to the primary rule's gain.",)
        return Table("left_out", "With each family left out", columns, rows, caption)

    def _plan_table(self, layout: Layout) -> Table:
        smallest, observed, scale = self.terms.smallest, self.primary["effect"], self.unit.scale
        effects = {"smallest": smallest} | ({"observed": observed} if observed > 0 else {})
        rows: list[Row] = [
            {"lead": name, "effect": effect, "families": n}
            | {f"power.{t}": self._power(n, t, effect) for t in MANY}
            for name, effect in effects.items()
            for n in FAMILIES
        ]
        spread = [f"{scale * variance**0.5:.3g}" for variance in layout]
        columns = (
            Column("lead", "true lead", key=True),
            Column("effect", "", self.unit.name, form=self.unit.form),
            Column("families", key=True),
            *(Column(f"power.{t}", f"{t} tasks", form=".2f") for t in MANY),
        )
        caption = (
            "The probability that a true lead of that size is found, by so many families and "
            f"tasks like these. Standard deviations of one gain, in {self.unit.name}: "
            f"{spread[0]} between families, {spread[1]} between tasks, {spread[2]} beyond both.",
        )
        return Table("plan", "How many families and tasks would tell", columns, rows, caption)


def _free(rules: Mapping[str, Candidate]) -> list[str]:
    """All metrics; where none was measured, all rules that need none. RANDOM is no rule."""
    metrics = [name for name, rule in rules.items() if rule.kind == "metric"]
    return metrics or [name for name, rule in rules.items() if rule.kind == "rule"]


def _families(n: int, held_out: str) -> str:
    if held_out == "model":
        return count(n, "model")
    return f"{n} {'family' if n == 1 else 'families'}"
