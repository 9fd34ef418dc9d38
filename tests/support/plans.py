"""Plans that are never run, and what a panel of models and tasks would cost."""

from __future__ import annotations

from lrd_harness.contracts import Adapter, Checkpoint, ModelOptions, Task
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.resolve import Plan, PlannedPruning
from lrd_harness.planning.settings import Pruning, Settings
from lrd_harness.planning.shards import Seconds
from lrd_harness.planning.suite import Suite


def plan(models: int, tasks: int, prune: bool = False, encoders: int = 0) -> Plan:
    """A plan that is never run; of its tasks the last compares continuations where `encoders`."""
    kinds = ["STS"] * (tasks - 1) + ["LogLikelihood" if encoders else "STS"]
    every = tuple(Task(f"t{i}", list, list, kind) for i, kind in enumerate(kinds))
    planned = []
    for i in range(models):
        adapter = Adapter("a", bool, list, likelihoods=i >= encoders)
        checkpoint = Checkpoint(f"m{i}", "p", "r", {}, frozenset())
        planned.append(PlannedModel(f"m{i}", checkpoint, adapter, ModelOptions(), "", 3))
    pruning = PlannedPruning((), every, Pruning()) if prune else None
    return Plan(Suite("s"), Settings(), tuple(planned), every, (), pruning)


def pairs(plan: Plan) -> list[tuple[str, str]]:
    """What it does, by names of model and task."""
    return [(m.name, t.name) for m in plan.models for t in plan.tasks if m.takes(t)]


def panel(models: int = 31, tasks: int = 30) -> dict[str, Seconds]:
    """What models from 22 M to 8 B parameters take, on tasks of 1,000 to 20,000 texts.

    Reading goes with parameters x tokens, evaluating with states x texts x width, opening with
    parameters; texts of 16 to 256 tokens, dealt out so that long ones are in small tasks, too.
    """
    found = {}
    for i in range(models):
        parameters = 22e6 * (8e9 / 22e6) ** (i / (models - 1))
        blocks = round(6 * 6 ** (i / (models - 1)))
        width = 64 * round((parameters / 12 / blocks) ** 0.5 / 64)
        seconds = {}
        for j in range(tasks):
            texts = 1e3 * 20 ** (j / (tasks - 1))
            tokens = texts * 2 ** (4 + 7 * j % 5)
            reading = 2 * parameters * tokens / 1e14
            seconds[f"t{j}"] = reading + 1e-7 * (blocks + 1) * texts * width
        found[f"m{i}"] = Seconds(5 + 4 * parameters / 1e9, seconds)
    return found
