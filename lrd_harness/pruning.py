"""What a pruning sweep is asked for: rules, budgets, seeds, tasks; read, checked and resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from lrd_harness import bounds
from lrd_harness.budgets import BUDGETS, candidates, count
from lrd_harness.contracts import Pruner, Task
from lrd_harness.errors import UserError, unknown
from lrd_harness.evidence import Indexing
from lrd_harness.manager import Plugins

NUMBERS = {  # least and most
    "random_seeds": (1, bounds.DRAWS),
    "protect": (0, bounds.BLOCKS),
    "texts": (8, bounds.COUNT),
}


@dataclass(frozen=True)
class Pruning:
    """The `pruning` part of a suite.

    rules: names, None for all whose metrics are measured; budgets: shares of the candidates;
    random_seeds: how many of a seeded rule; protect: blocks kept at either end, None: min(3, L//4);
    tasks: names of the run's tasks that pruned models are scored on, None for all; texts: on how
    many texts, drawn by a seed, tokens and outputs are compared (block_influence, angular, greedy);
    indexing: how profiles become values of blocks (evidence.block_profiles), "block" or "paper".
    """

    rules: tuple[str, ...] | None = None
    budgets: tuple[float, ...] = BUDGETS
    random_seeds: int = 3
    protect: int | None = None
    tasks: tuple[str, ...] | None = None
    texts: int = 256
    indexing: str = "block"


@dataclass(frozen=True)
class PlannedPruning:
    """A sweep, resolved: every rule as it will be asked, and the tasks for what is left."""

    rules: tuple[Pruner, ...]
    tasks: tuple[Task, ...]
    asked: Pruning

    def seeds(self, rule: Pruner) -> Sequence[int | None]:
        """The seeds that a rule is asked with; None for one that needs none."""
        return range(self.asked.random_seeds) if rule.seeded else [None]


def parse(given: Any, where: str, base: Pruning | None = None) -> Pruning:
    """A Pruning from a mapping, on top of `base`. Raises UserError for unknown or wrong values."""
    if not isinstance(given, dict):
        raise UserError(f"{where}: 'pruning' is not a mapping")
    known = [f.name for f in fields(Pruning)]
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise unknown(f"key of pruning in {where}", str(key), known)
        values[key] = _value(key, value, where)
    return replace(base or Pruning(), **values)


def _value(key: str, value: Any, where: str) -> Any:
    if value is None and key in ("rules", "protect", "tasks"):
        return None
    if key in ("rules", "tasks"):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise UserError(f"{where}: {key} of pruning is not a list of names")
        return tuple(dict.fromkeys(value))
    if key == "indexing":
        if value not in get_args(Indexing):
            raise unknown(f"indexing in {where}", str(value), get_args(Indexing))
        return value
    if key == "budgets":
        items = value if isinstance(value, list) else [value]
        if len(items) > bounds.STEPS:
            raise UserError(f"{where}: {len(items):,} budgets: at most {bounds.STEPS:,} are tried")
        numbers = [v for v in items if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if not items or len(numbers) < len(items):
            raise UserError(f"{where}: budgets are {value}, not shares such as 0.15")
        for budget in numbers:
            count(budget, range(10**6))  # what is no share of any model
        return tuple(sorted(set(map(float, numbers))))
    bounds.check_whole(value, f"{where}: {key} is", *NUMBERS[key])
    return value


def resolve(
    asked: Pruning, tasks: Sequence[Task], metrics: Sequence[str], plugins: Plugins
) -> PlannedPruning:
    """The sweep of a run with these tasks and metrics.

    Raises UserError for a rule or task that there is not, a rule without its metrics, and a run
    without scored tasks.
    """
    scored = {task.name: task for task in tasks if task.evaluate is not None}
    if not scored:
        raise UserError("pruned models are scored on tasks: none of this run's has scores")
    for name in asked.tasks or ():
        if name not in scored:
            raise unknown("task to score pruned models on", name, scored)
    chosen = [scored[name] for name in asked.tasks] if asked.tasks else list(scored.values())
    names = plugins.names("pruning rule")
    rules = [plugins.get("pruning rule", name) for name in asked.rules or names]
    for rule in rules:
        lacking = [name for name in rule.metrics if name not in metrics]
        if lacking and asked.rules is not None:
            raise UserError(
                f"the pruning rule {rule.name} needs the metric {lacking[0]}: name it in --plugins"
            )
    rules = [rule for rule in rules if not set(rule.metrics) - set(metrics)]
    return PlannedPruning(tuple(rules), tuple(chosen), asked)


def check_depths(asked: Pruning, depths: Mapping[str, int | None]) -> None:
    """Raise UserError where a budget or the protection does not fit a model's known depth."""
    for name, depth in depths.items():
        if depth is None:
            continue
        try:
            for budget in asked.budgets:
                count(budget, candidates(depth, asked.protect))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
