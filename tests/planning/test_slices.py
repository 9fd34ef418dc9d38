"""Slices: every pair of model and task in exactly one, evenly, and a slice runs its own alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import running
from hypothesis import given
from hypothesis import strategies as st
from running import one_line

from lrd_harness.cli import main
from lrd_harness.contracts import Adapter, Checkpoint, ModelOptions, Task
from lrd_harness.errors import UserError
from lrd_harness.planning import shards
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.resolve import Plan, PlannedPruning
from lrd_harness.planning.settings import Pruning, Settings
from lrd_harness.planning.shards import Shard
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
    return [(m.name, t.name) for m in plan.models for t in plan.tasks if m.takes(t)]


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 60), st.integers(0, 7))
def test_every_pair_is_in_one_slice(models: int, tasks: int, of: int, encoders: int) -> None:
    whole = plan(models, tasks, encoders=encoders)
    cuts = [shards.cut(whole, Shard(i, of)) for i in range(1, of + 1)]
    assert [pair for cut in cuts for pair in pairs(cut)] == pairs(whole)
    assert {m.name for cut in cuts for m in cut.models} == {m.name for m in whole.models}
    if not encoders:
        sizes = {len(pairs(cut)) for cut in cuts}
        assert max(sizes) - min(sizes) <= 1
    # cut where they lie side by side: a cut opens one model twice at most
    assert sum(len(cut.models) for cut in cuts) <= models + of - 1


@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_with_pruning_slices_are_of_whole_models(models: int, tasks: int, data: Any) -> None:
    whole = plan(models, tasks, prune=True)
    of = data.draw(st.integers(1, models))
    cuts = [shards.cut(whole, Shard(i, of)) for i in range(1, of + 1)]
    assert [m.name for cut in cuts for m in cut.models] == [m.name for m in whole.models]
    assert all(len(pairs(cut)) == tasks * len(cut.models) for cut in cuts)


def test_more_slices_than_models_with_pruning() -> None:
    with pytest.raises(UserError, match="whole models, of which there are 2"):
        shards.cut(plan(2, 3, prune=True), Shard(1, 3))


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.5/2"])
def test_what_is_no_slice(text: str) -> None:
    with pytest.raises(UserError, match="not I/N"):
        shards.parse(text)


def test_names() -> None:
    shard = shards.parse("3/31")
    assert shard == (3, 31)
    assert (str(shard), shard.suffix) == ("3/31", "-shard-3-of-31")


@pytest.mark.parametrize(
    ("there", "lacking"),
    [(["2/3"], ["1/3", "3/3"]), (["1/2", "2/2"], []), (["1/2", "1/3"], []), ([], [])],
)
def test_slices_that_are_lacking(there: list[str], lacking: list[str]) -> None:
    assert shards.lacking(there) == lacking


def test_a_sliced_model_keeps_its_tasks_under_another_name() -> None:
    (model,) = shards.cut(plan(1, 4), Shard(2, 2)).models
    renamed = replace(model, name="other")
    assert [t.name for t in plan(1, 4).tasks if renamed.takes(t)] == ["t2", "t3"]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.slow
def test_a_slice_runs_its_own_pairs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Two models on two tasks in three slices; the folder of each has its own name."""
    monkeypatch.chdir(tmp_path)
    command = running.command(Path("X"), [place / "bert", place / "gpt"], place / "data")
    at = command.index("--output")
    command[at : at + 2] = []
    every: list[tuple[str, str]] = []
    for number in (1, 2, 3):
        assert main([*command, "--shard", f"{number}/3"]) == 0
        (out,) = tmp_path.glob(f"runs/custom-*-shard-{number}-of-3")
        run = json.loads((out / "run.json").read_text())
        assert run["shards"] == [f"{number}/3"]
        scored, measured = (
            {(row["model"], row["task"]) for row in running.records(out, kind)}
            for kind in ("score", "metric")
        )
        assert scored == measured
        assert {model["name"] for model in run["models"]} == {model for model, _ in scored}
        every += scored
    assert len(every) == len(set(every)) == 4
    capsys.readouterr()
    assert main([*command, "--shard", "1/5"]) == 0
    empty = "Slice 1/5 is empty: there are fewer pairs of model and task.\n"
    assert capsys.readouterr().out == empty
    assert main([*command, "--shard", "6/5"]) == 2
    assert one_line(capsys) == "--shard 6/5: not I/N with I from 1 to N, as 3/31"
