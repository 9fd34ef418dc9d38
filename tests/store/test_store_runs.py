"""A run whose states are removed while it evaluates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
from running import numbers, records, with_plugin

from lrd_harness.contracts import Request, Score, Task

TASKS = ["STSBenchmark"]


def flat(found: Any) -> list[float]:
    """All numbers in nested results, in order."""
    if isinstance(found, dict):
        return [x for name in sorted(found) for x in flat(found[name])]
    if isinstance(found, list):
        return [x for one in found for x in flat(one)]
    return [] if found is None else [float(found)]


class Removing:
    """A task that removes all states when it is evaluated at layer 1."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.texts = cache, tiny.sentences(30)

    def requests(self) -> list[Request]:
        return [Request(text) for text in self.texts]

    def evaluate(self, view: Any) -> Score:
        if getattr(view, "layer", None) == 1:
            shutil.rmtree(self.cache / "states", ignore_errors=True)
        return Score(float(abs(view.encode(self.texts, self.task())).mean()), "mean")

    def task(self) -> Task:
        return Task("Removing", self.requests, self.evaluate)


@pytest.mark.slow
def test_states_that_are_removed_under_a_run(
    place: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What encodes reads them again; a metric after that fails cleanly, and not the next time."""
    removing = Removing(tmp_path / "nowhere")
    with_plugin(monkeypatch, lrd_tasks=lambda: [removing.task()])
    models, data, tasks = [place / "bert"], place / "data", ["Removing", *TASKS]
    assert running.run(tmp_path / "whole", models, data, tasks=tasks) == 0
    shutil.rmtree(own_cache / "states")
    removing.cache, out = own_cache, tmp_path / "out"
    assert running.run(out, models, data, tasks=tasks) == 1
    failed = records(out, "error")
    assert {(r["task"], r["metric"]) for r in failed} == {(TASKS[0], m) for m in ("frenet", "nrs")}
    assert all(r["error"].startswith("StatesLost: ") for r in failed)
    assert running.run(out, models, data, tasks=tasks) == 0
    assert flat(numbers(out)) == pytest.approx(flat(numbers(tmp_path / "whole")), abs=1e-5)
