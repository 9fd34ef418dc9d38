"""A board of twice as many models takes twice the steps, not four times: counted, not timed."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness import manager
from lrd_harness.board import leaderboard
from lrd_harness.board.leaderboard import uncollected
from lrd_harness.results.rows import MetricRow, ModelRow, Results, ScoreRow

dumping = importlib.import_module("lrd_harness.plugins.reporters._dumping")
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


def test_steps_grow_as_the_models_do() -> None:
    few, many = (results(n) for n in (FEW, MANY))
    leaderboard.build(results(3))  # what is done once
    assert grown(lambda held: leaderboard.build(held), few, many) < 2.2
    boards = [leaderboard.build(held) for held in (few, many)]
    for form in FORMS:
        write = manager.load().get("reporter", form).write
        write(leaderboard.build(results(3)))
        assert grown(write, *boards) < 2.2, form


def grown(work: Callable[[Any], Any], few: Any, many: Any) -> float:
    """How many times the steps for few are taken for many."""
    return steps(lambda: work(many)) / steps(lambda: work(few))


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(DOCUMENTS)
@settings(max_examples=150, deadline=None)
def test_json_is_the_standard_librarys(document: Any) -> None:
    expected = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    assert dumping.dumps(document) == expected


def test_what_json_cannot_hold_is_refused_as_there() -> None:
    for wrong in (math.nan, [math.inf], {"a": -math.inf}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            dumping.dumps(wrong)
    for wrong in (object(), {"a": {1}}):
        with pytest.raises(TypeError, match="not JSON serializable"):
            dumping.dumps(wrong)
    with pytest.raises(TypeError, match="keys must be"):
        dumping.dumps({(1, 2): 3})


def test_collecting_goes_on_afterwards() -> None:
    import gc

    @uncollected()
    def enabled(fail: bool = False) -> bool:
        if fail:
            raise RuntimeError
        return gc.isenabled()

    assert gc.isenabled()
    assert not enabled()
    with pytest.raises(RuntimeError):
        enabled(fail=True)
    assert gc.isenabled()
    with uncollected():
        assert not enabled()
        assert not gc.isenabled()  # whoever paused it first goes on pausing
    assert gc.isenabled()
