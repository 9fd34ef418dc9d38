"""A board of twice as many models takes twice the steps, not four times: counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from lrd_harness import manager
from lrd_harness.board import leaderboard
from lrd_harness.results.rows import MetricRow, ModelRow, Results, ScoreRow

FEW, MANY = 510, 1020  # above 500, where nothing is drawn: numpy's work is not counted
FORMS = ("csv", "table", "json", "checkpoints")


def results(models: int, tasks: int = 2) -> Results:
    """Last layers' scores and one metric, of models without revisions and of checkpoints."""
    names = [(f"org/model-{i}", f"step{i}" if i % 3 == 0 else "") for i in range(models)]
    named = [{"model": f"{m}@{step}" if step else m} for m, step in names]
    places = [(i, own, f"task{t}") for i, own in enumerate(named) for t in range(tasks)]
    return Results(
        models=tuple(ModelRow(**own, parameters=10**6 + i) for i, own in enumerate(named)),
        scores=tuple(
            ScoreRow(**own, task=task, layer=2, layers=2, score=(i * 7919 % 1009) / 1009)
            for i, own, task in places
        ),
        metrics=tuple(
            MetricRow(
                **own,
                task=task,
                metric="frenet",
                n=9,
                selection=("d0L", "max"),
                values={"d0L": float(i * 31 % 53)},
            )
            for i, own, task in places
        ),
    )


def steps(work: Callable[[], Any]) -> int:
    """How many steps of the interpreter the project's own code takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if not frame.f_globals.get("__name__", "").startswith("lrd_harness"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.slow
def test_steps_grow_as_the_models_do() -> None:
    small, few, many = (results(n) for n in (3, FEW, MANY))
    boards = [leaderboard.report(one) for one in (small, few, many)]
    once = steps(lambda: leaderboard.report(few))
    assert steps(lambda: leaderboard.report(many)) < 2.2 * once
    for form in FORMS:
        write: Any = manager.load().get("reporter", form).write
        write(boards[0])  # what is done once
        once, twice = (steps(partial(write, board)) for board in boards[1:])
        assert twice < 2.2 * once, form
