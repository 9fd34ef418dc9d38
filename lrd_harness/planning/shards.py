"""A slice of the models and tasks of a run, for job arrays: every pair is in exactly one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lrd_harness import errors
from lrd_harness.contracts import Task
from lrd_harness.errors import UserError
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.resolve import Plan
from lrd_harness.results.journal import recorded_run

T = TypeVar("T")


class Shard(NamedTuple):
    """Slice `number` (from 1 on) of `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def suffix(self) -> str:
        """What tells the folders of slices apart."""
        return f"-shard-{self.number}-of-{self.of}"


@dataclass(frozen=True)
class SlicedModel(PlannedModel):
    """A model of which a slice has some tasks. only: their names."""

    only: frozenset[str] = frozenset()

    def takes(self, task: Task) -> bool:
        """Whether the slice has this task of the model, and its kind can do it at all."""
        return task.name in self.only and super().takes(task)


def parse(text: str) -> Shard:
    """A slice as it is typed, "3/31". Raises UserError for anything else."""
    match = re.fullmatch(r"0*([0-9]{1,9})/0*([0-9]{1,9})", text.strip())
    shard = Shard(*map(int, match.groups())) if match else Shard(0, 0)
    if not 1 <= shard.number <= shard.of:
        raise UserError(f"--shard {text:.60}: not I/N with I from 1 to N, as 3/31")
    if shard.of > errors.SLICES:
        raise UserError(f"--shard {shard}: at most {errors.SLICES:,} slices are possible")
    return shard


def cut(plan: Plan, shard: Shard) -> Plan:
    """The part of a plan that a slice does: its models, each with its own tasks.

    The pairs of the plan, model by model, are cut into runs that differ by one pair at most, so
    that few models are opened twice. Slices with pruning are of whole models, since rules look at
    all tasks of a model. More slices than pairs leave some of them empty. None has all models of a
    task, so panel metrics are left out.
    Raises UserError for more slices than models with pruning.
    """
    # of a model that can do none of the tasks the first, so that it is in a slice as well
    tasks = {m.name: [t for t in plan.tasks if m.takes(t)] or plan.tasks[:1] for m in plan.models}
    if plan.pruning is None:
        chosen = _dealt([(name, task.name) for name in tasks for task in tasks[name]], shard)
    else:
        if shard.of > (count := len(plan.models)):
            raise UserError(
                f"--shard {shard}: slices with --prune are of whole models, of which there "
                f"{'is' if count == 1 else 'are'} {count}"
            )
        chosen = [(name, task.name) for name in _dealt([*tasks], shard) for task in tasks[name]]
    by_model = groupby(chosen, itemgetter(0))
    only = {name: frozenset(task for _, task in pairs) for name, pairs in by_model}
    models = (SlicedModel(**vars(m), only=only[m.name]) for m in plan.models if m.name in only)
    there = {task for _, task in chosen}
    left = (task for task in plan.tasks if task.name in there)
    return replace(plan, models=tuple(models), tasks=tuple(left), panel=())


def _dealt(things: list[T], shard: Shard) -> list[T]:
    """Those of a slice."""
    count = len(things)
    return things[(shard.number - 1) * count // shard.of : shard.number * count // shard.of]


def with_names(model: PlannedModel, names: Mapping[str, str]) -> PlannedModel:
    """A model of a slice whose tasks are called otherwise; of a whole run, the model itself."""
    if not isinstance(model, SlicedModel):
        return model
    return replace(model, only=frozenset(names.get(name, name) for name in model.only))


def recorded(out: Path, shard: Shard | None, whole: Plan) -> dict[str, Any]:
    """What run.json of a folder keeps of slices: those that were run into it, the whole's order.

    whole: the plan that the slice was cut from.
    """
    before = recorded_run(out)
    names = ("shards", "order", "merged")
    kept: dict[str, Any] = {name: before[name] for name in names if name in before}
    if shard is not None:
        kept["shards"] = list(dict.fromkeys([*before.get("shards", []), str(shard)]))
        models, tasks = ([part.name for part in parts] for parts in (whole.models, whole.tasks))
        kept["order"] = {"models": models, "tasks": tasks}
    return kept


def lacking(shards: list[str]) -> list[str]:
    """Of slices of one run, as "1/3", those that are not there; [] where they are of several."""
    every = [parse(text) for text in shards]
    if len({shard.of for shard in every}) != 1:
        return []
    there, of = {shard.number for shard in every}, every[0].of
    return [f"{number}/{of}" for number in range(1, of + 1) if number not in there]
