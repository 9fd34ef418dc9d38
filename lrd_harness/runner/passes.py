"""The forward passes of a run, and nothing else: all that it reads goes into the store."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from lrd_harness.capture.embeddings import Captured
from lrd_harness.capture.likelihoods import Reader
from lrd_harness.capture.samples import Questions
from lrd_harness.contracts import Task
from lrd_harness.errors import tell, told_to
from lrd_harness.models import opened
from lrd_harness.planning.resolve import Plan
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.progress import Display
from lrd_harness.runner import folder
from lrd_harness.runner.loop import ModelRun
from lrd_harness.runner.panel import Panel
from lrd_harness.runner.units import Ledger
from lrd_harness.store import files, inventory
from lrd_harness.store.location import cache_dir

Row = tuple[str, int, int, int, int, float, float]


class Passes(ModelRun):
    """What a run reads of one model."""

    def _evaluate(self, reader: Reader, requests: Mapping[Task, Sequence[Any]]) -> None:
        """It is left to the run."""


def capture(plan: Plan, display: Display, ranks: Ranks = ALONE) -> tuple[list[Row], int]:
    """Have the store hold what a run of the plan reads; how many units of it failed.

    Of each model that could be opened: its name, distinct inputs, those that were in the store,
    passes, tokens, seconds, and megabytes of all that the store now has of it.
    """
    opened.exact()
    inventory.make_room(cache_dir())
    folder.check_shared(ranks, [cache_dir()])
    if plan.pruning is not None:
        display.line("pruned models are read by `run` alone: rules look at metrics")
    plan = replace(plan, pruning=None)
    read: list[tuple[str, str, Captured, float]] = []
    questions, told = Questions(plan.settings.max_texts), told_to(display.line)
    with files.scratch() as out, told if ranks.main else nullcontext():
        ledger = Ledger(out)  # of this call alone
        panel = Panel(plan, ledger, out, display, ranks)
        for context in panel.contexts():
            begun = time.perf_counter()
            work = Passes(context, questions, panel)
            work.execute()
            whose = [reader.model.identity for reader in work.readers.values()]
            done = sum(ranks.gather(work.captured), Captured())
            if whose:
                name = f"{whose[0]['model']}@{whose[0]['revision']}"
                read.append((context.planned.name, name, done, time.perf_counter() - begun))
            del work, whose
            gc.collect()  # no two models in memory at once
        ledger.close()
    stores = inventory.stores(cache_dir()) if ranks.main else []
    rows: list[Row] = []
    for model, name, done, seconds in read:
        size = sum(stored.size for stored in stores if stored.of(name)) / 1e6
        counts = done.texts, done.stored, done.forwarded, done.tokens
        rows.append((model, *counts, round(seconds, 1), round(size, 1)))
    faults = {unit: line for part in ranks.gather(ledger.faults()) for unit, line in part.items()}
    heard = set() if display.console.quiet else ledger.failed
    for unit in sorted(faults.keys() - heard) if ranks.main else ():  # there is no board to show it
        tell(f"error: {faults[unit]}")
    return rows, len(faults)
