"""Slices of the models and tasks of a run, for job arrays: every pair is in exactly one.

They are cut by count, or at equal cost; such a cut is kept in OUT, and each slice runs by it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from lrd_harness import errors
from lrd_harness.contracts import Task
from lrd_harness.errors import UserError
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.resolve import Plan
from lrd_harness.planning.settings import Settings
from lrd_harness.results.journal import recorded_run
from lrd_harness.store import files

FOLDER, CUT = "shards", "cut.json"  # in OUT: the cut, beside it a folder for each slice
SURE = 1 - 1e-9  # of a sum: less than it is, however it is rounded
STEP = 1.01  # from one limit of a slice's seconds to the next that is tried
Pairs = dict[str, tuple[str, ...]]  # tasks by model


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

    def place(self, out: Path) -> Path:
        """Its folder in the OUT of a run whose cut is kept there."""
        return out / FOLDER / f"{self.number}-of-{self.of}"


class Seconds(NamedTuple):
    """What a model takes: to open it, in each slice that has it, and each of its tasks."""

    opening: float
    tasks: Mapping[str, float]

    def of(self, tasks: Iterable[str]) -> float:
        """What these tasks take in a slice."""
        return self.opening + sum(self.tasks[task] for task in tasks)


@dataclass(frozen=True)
class Slice:
    """What a slice does: the seconds of its pairs, by model and task, and with opening, in all."""

    pairs: dict[str, dict[str, float]]
    seconds: float


@dataclass(frozen=True)
class Cut:
    """A run cut into slices, as OUT keeps it; run: what it was made for, see `_described`."""

    run: dict[str, dict[str, Any]]
    slices: tuple[Slice, ...]

    @property
    def ratio(self) -> float:
        """The seconds of the slowest slice, to the mean."""
        seconds = [part.seconds for part in self.slices]
        return max(seconds) * len(seconds) / (sum(seconds) or 1.0)

    @property
    def largest(self) -> tuple[float, str, str]:
        """The pair that takes longest: seconds, model, task."""
        every = (part.pairs.items() for part in self.slices)
        return max((s, m, t) for models in every for m, tasks in models for t, s in tasks.items())


@dataclass(frozen=True)
class SlicedModel(PlannedModel):
    """A model of which a slice has some tasks. only: their names."""

    only: frozenset[str] = frozenset()

    def takes(self, task: Task) -> bool:
        """Whether the slice has this task of the model, and its kind can do it at all."""
        return task.name in self.only and super().takes(task)


def parse(text: str) -> Shard:
    """A slice as it is typed, "3/31", or auto. Raises UserError for anything else."""
    if text.strip() == "auto":
        return of_array(os.environ)
    match = re.fullmatch(r"0*([0-9]{1,9})/0*([0-9]{1,9})", text.strip())
    shard = Shard(*map(int, match.groups())) if match else Shard(0, 0)
    if not 1 <= shard.number <= shard.of:
        raise UserError(f"--shard {text:.60}: not I/N with I from 1 to N, as 3/31")
    if shard.of > errors.SLICES:
        raise UserError(f"--shard {shard}: at most {errors.SLICES:,} slices are possible")
    return shard


def of_array(variables: Mapping[str, str]) -> Shard:
    """The slice of a job of Slurm's array. Raises UserError elsewhere, and for one with gaps."""
    names = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT", "STEP"))
    try:
        place, least, most, count, step = (int(variables[name]) for name in names)
    except (KeyError, ValueError):
        advice = "sbatch --array=1-N makes one, and elsewhere it is --shard I/N"
        raise UserError(f"--shard auto: this is no job of a Slurm array ({advice})") from None
    gaps = most - least != (count - 1) * step or (place - least) % step
    if least not in (0, 1) or gaps:
        array = f"an array of {count} from {least} to {most}"
        raise UserError(f"--shard auto: {array} has gaps or begins late; give --shard I/N")
    return Shard((place - least) // step + 1, count)


def cut(plan: Plan, shard: Shard, kept: Cut | None = None) -> Plan:
    """The part of a plan that a slice does: its models, each with its own tasks.

    kept: how the run is cut, by count without it. More slices than pairs leave some of them empty.
    None has all models of a task, so panel metrics are left out.
    Raises UserError for more slices than models with pruning.
    """
    pairs = kept.slices[shard.number - 1].pairs if kept else by_count(plan, shard.of, shard.number)
    models = (
        SlicedModel(**vars(model), only=frozenset(pairs[model.name]))
        for model in plan.models
        if model.name in pairs
    )
    there = {task for tasks in pairs.values() for task in tasks}
    left = (task for task in plan.tasks if task.name in there)
    return replace(plan, models=tuple(models), tasks=tuple(left), panel=())


def _pairs(plan: Plan) -> Pairs:
    """All that slices do; of a model that can do none of the tasks the first, to be in one too."""
    tasks = {m.name: [t for t in plan.tasks if m.takes(t)] or plan.tasks[:1] for m in plan.models}
    return {name: tuple(task.name for task in every) for name, every in tasks.items()}


def by_count(plan: Plan, of: int, number: int) -> Pairs:
    """A slice of those whose numbers of pairs differ by one at most, cut side by side.

    So few models are opened twice. Slices with pruning are of whole models, since rules look at
    all tasks of a model. Raises UserError for more of them than models.
    """
    return _counted(plan, of, [number])[0]


def _counted(plan: Plan, of: int, numbers: Iterable[int]) -> list[Pairs]:
    """The slices of these numbers, as `by_count` has them."""
    every, parts = _pairs(plan), list[Pairs]()
    things: list[tuple[str, Sequence[str]]] = [(name, (t,)) for name in every for t in every[name]]
    if plan.pruning is not None:
        things = list(every.items())
    for number in numbers:
        if plan.pruning is not None and of > (count := len(plan.models)):
            raise UserError(
                f"--shard {number}/{of}: slices with --prune are of whole models, of which there "
                f"{'is' if count == 1 else 'are'} {count}"
            )
        pairs: Pairs = {}
        for name, tasks in things[(number - 1) * len(things) // of : number * len(things) // of]:
            pairs[name] = (*pairs.get(name, ()), *tasks)
        parts.append(pairs)
    return parts


def by_cost(plan: Plan, of: int, costs: Mapping[str, Seconds]) -> Cut:
    """Slices whose slowest is as fast as can be found, never slower than by count.

    costs: by model. Raises UserError as `by_count` does.
    """
    slices = _counted(plan, of, range(1, of + 1))

    def slowest(parts: Iterable[Pairs]) -> float:
        return max(sum(costs[name].of(part[name]) for name in part) for part in parts)

    every, whole = _pairs(plan), plan.pruning is not None
    sums = {name: costs[name].of(every[name]) for name in every}
    most = max(costs[n].of([t]) for n in every for t in every[n])
    most = max(sum(sums.values()) / of, max(sums.values()) if whole else most)
    ordered = {
        name: tuple(sorted(every[name], key=lambda task: -costs[name].tasks[task]))
        for name in sorted(every, key=lambda name: -sums[name])
    }
    counted = slowest(slices)
    while most < counted:
        if filled := _filled(ordered, of, costs, most, whole):
            slices = filled
            break
        most *= STEP
    parts = [{n: {t: costs[n].tasks[t] for t in part[n]} for n in part} for part in slices]
    seconds = [sum(costs[name].of(part[name]) for name in part) for part in slices]
    return Cut(_described(plan), tuple(map(Slice, parts, seconds)))


def _filled(
    pairs: Pairs, of: int, costs: Mapping[str, Seconds], most: float, whole: bool
) -> list[Pairs] | None:
    """So many slices, of at most `most` seconds each; None where something is left over then.

    A slice is filled with the rest of the model that the slice before has cut, then with others, in
    the order of `pairs`. Of models that do not fit into it the first is cut: it takes as many tasks
    as fit, the next slice goes on with the others. With `whole` no model is cut.
    """
    rest, slices = dict(pairs), [Pairs() for _ in range(of)]
    # what is sure without trying, whatever sums are rounded to
    sums = {name: SURE * costs[name].of(tasks) for name, tasks in rest.items()}
    least = SURE * min(costs[name].of(tasks[-1:]) for name, tasks in rest.items())
    for number, part in enumerate(slices):
        if sum(sums.values()) > (of - number) * most:
            return None
        gap, left = most, ""
        for name in list(rest):
            if gap < least:
                break
            seconds, room, taken = costs[name].tasks, gap - costs[name].opening, list[str]()
            if seconds[rest[name][-1]] > room or ((whole or left) and sums[name] > gap):
                continue
            for task in rest[name]:  # from the largest on
                if seconds[task] <= room:
                    taken.append(task)
                    room -= seconds[task]
            all_of_it = len(taken) == len(rest[name])
            if all_of_it or not (whole or left):
                part[name], gap = tuple(taken), room
                rest[name] = tuple(task for task in rest[name] if task not in part[name])
                sums[name] = SURE * costs[name].of(rest[name]) if rest[name] else 0.0
                left = left if all_of_it else name
        rest = {name: rest[name] for name in [left, *rest] if rest.get(name)}
        if not rest:
            return slices
    return None


def _described(plan: Plan) -> dict[str, dict[str, Any]]:
    """What a cut is made for, so that no other run is cut by it."""
    models = {model.name: model.checkpoint.revision for model in plan.models}
    tasks = {task.name: task.version for task in plan.tasks}
    return {"models": models, "tasks": tasks, "settings": plan.settings.results()}


def settled(
    out: Path | None, plan: Plan, of: int, costs: Callable[[], Mapping[str, Seconds]]
) -> Cut:
    """The cut that OUT keeps, or else one at equal cost, which OUT keeps from now on.

    costs: gives them by model. Raises UserError as `kept` does, and where OUT cannot be written.
    """
    if found := kept(out, plan, of):
        return found
    if of > (count := sum(map(len, _pairs(plan).values()))):
        each = "one for each pair of model and task"
        raise UserError(f"--shards {of}: at most {count:,} can be cut of this run, {each}")
    found = by_cost(plan, of, costs())
    if out is not None:
        files.make_folder(out / FOLDER)
        if there := kept(out, plan, of):  # another command has been faster
            return there
        files.write_text(out / FOLDER / CUT, TypeAdapter(Cut).dump_json(found, indent=1).decode())
    return found


def kept(out: Path | None, plan: Plan, of: int) -> Cut | None:
    """The cut that OUT keeps; None where there is none.

    Raises UserError for one that is damaged, or for other models, tasks, settings or slices, and
    as `by_count` does.
    """
    by_count(plan, of, 1)
    if out is None or (found := read(out)) is None:
        return None
    file = out / FOLDER / CUT
    other = f"{file} is for {{}}: give another --output, or remove it before any slice has begun"
    if of != (there := len(found.slices)):
        raise UserError(other.format(f"{there} slices, not {of}"))
    mine, usual = json.loads(json.dumps((_described(plan), Settings().results())))
    found.run["settings"] = usual | found.run.get("settings", {})
    for what, value in mine.items():
        if found.run.get(what) != value:
            raise UserError(other.format(f"other {what}"))
    pairs = sorted((n, t) for part in found.slices for n in part.pairs for t in part.pairs[n])
    if pairs != sorted((name, task) for name, tasks in _pairs(plan).items() for task in tasks):
        raise UserError(f"{file} has not every pair of model and task once")
    if plan.pruning is not None and sum(len(p.pairs) for p in found.slices) > len(plan.models):
        raise UserError(f"{file} cuts models, and slices with --prune are of whole ones")
    return found


def read(out: Path) -> Cut | None:
    """The cut that OUT keeps; None where there is none. Raises UserError for a damaged one."""
    if not (file := out / FOLDER / CUT).exists():
        return None
    try:
        return TypeAdapter(Cut).validate_json(file.read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"{file} cannot be read as a cut of a run") from None


def part(whole: Plan, shard: Shard | None, out: Path | None) -> tuple[Plan, Path | None, str]:
    """What a slice does, its folder, and the suffix of a folder that has no name yet.

    Where OUT keeps a cut it is by this, and in OUT. Raises UserError as `kept` and `cut` do.
    """
    if shard is None:
        return whole, out, ""
    there = kept(out, whole, shard.of)
    return cut(whole, shard, there), shard.place(out) if out and there else out, shard.suffix


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
