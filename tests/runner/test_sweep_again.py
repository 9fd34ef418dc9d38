"""A sweep asked for again, in other ways: no stale choices, no mixed table; and faults in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import running
import tiny

from lrd_harness.contracts import Request, Task


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    tiny.save("Bert", folder / "bert", num_hidden_layers=8, max_position_embeddings=64)
    tiny.save("Albert", folder / "albert")
    tiny.task_data(folder / "data")
    return folder


def sweep(out: Path, deep: Path, *more: str, tasks: Any = ("STSBenchmark",)) -> int:
    given = ("--plugins", "nrs", "--layers", "last", "--budgets", "0.5", *more)
    prune = () if "--prune" in more else ("--prune", "nrs,last")
    return running.run(out, [deep / "bert"], deep / "data", *given, *prune, tasks=tasks)


def shown(out: Path) -> dict[str, Any]:
    """rule -> its row of the table."""
    tables = json.loads((out / "leaderboard.json").read_text())["tables"]
    return {row["rule"]: row for row in tables["pruning"]["rows"]}


def tasks_of(out: Path, rule: str) -> set[str]:
    """The tasks on which a rule's models stand in the table."""
    tables = json.loads((out / "leaderboard.json").read_text())["tables"]
    return {row["task"] for row in tables["pruning_tasks"]["rows"] if row["rule"] == rule}


def blocks(out: Path, rule: str) -> list[int]:
    return list(map(int, shown(out)[rule]["removed_blocks"].split(",")))


def test_parameters_of_a_metric_change_its_rules_choice(
    deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    assert sweep(tmp_path / "one", deep) == 0
    assert sweep(tmp_path / "one", deep, "--set", "nrs.k=2") == 0
    assert sweep(tmp_path / "two", deep, "--set", "nrs.k=2") == 0
    assert blocks(tmp_path / "one", "nrs") == blocks(tmp_path / "two", "nrs")
    choices = running.records(tmp_path / "one", "pruning")
    assert [r["rule"] for r in choices].count("nrs") == 2
    assert [r["rule"] for r in choices].count("last") == 1  # it reads no metric


def test_the_table_shows_what_was_asked_for_last(
    deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    out = tmp_path / "out"
    for protect, deepest in (("1", 7), ("2", 6), ("1", 7)):
        assert sweep(out, deep, "--protect", protect) == 0
        assert blocks(out, "last")[-1] == deepest
    before = running.records(out)
    assert sweep(out, deep, "--protect", "1") == 0
    assert running.records(out) == before
    assert sweep(out, deep, "--protect", "1", "--prune", "last") == 0
    assert set(shown(out)) == {"last"}


def test_tasks_of_an_earlier_call_are_not_averaged_in(
    deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    out, both = tmp_path / "out", ("STSBenchmark", "SciFact")
    assert sweep(out, deep, tasks=both) == 0
    assert tasks_of(out, "last") == set(both)
    assert sweep(out, deep, "--prune-tasks", "STSBenchmark,STSBenchmark", tasks=both) == 0
    assert tasks_of(out, "last") == {"STSBenchmark"}


def test_a_latency_that_cannot_be_measured_costs_itself_only(
    deep: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise RuntimeError("out of memory")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("lrd_harness.runner.sweep.measured", full)
        assert sweep(out, deep) == 1
    assert shown(out)["last"]["change"] is not None
    assert shown(out)["last"]["latency_saved"] is None
    assert shown(out)["last"]["parameters_saved"] > 0


def test_a_broken_task_costs_itself_only(
    deep: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Request]:
        raise RuntimeError("no data here")

    task = Task("Broken", broken, evaluate=lambda view: None, requests=broken)  # type: ignore[arg-type,return-value]
    running.with_plugin(monkeypatch, lrd_tasks=lambda: [task])
    out = tmp_path / "out"
    rules = ("--prune", "last,block_influence,nrs")
    assert sweep(out, deep, *rules, tasks=("STSBenchmark", "Broken")) == 1
    found = shown(out)
    assert set(found) == {"last", "block_influence", "nrs"}
    assert all(tasks_of(out, rule) == {"STSBenchmark"} for rule in found)


def test_a_model_that_cannot_be_pruned_is_one_error(
    deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    out = tmp_path / "out"
    more = ("--plugins", "nrs", "--layers", "last", "--prune", "nrs,last", "--protect", "0")
    assert running.run(out, [deep / "albert"], deep / "data", *more, tasks=["STSBenchmark"]) == 1
    (error,) = running.records(out, "error")
    assert "share" in error["error"]
    assert running.records(out, "score")


RULE = """
from lrd_harness import Pruner, hookimpl


@hookimpl
def lrd_pruners():
    return [Pruner("mine", lambda evidence, candidates, m, seed: candidates[:m])]
"""


def test_a_rule_of_ones_own_that_was_edited_chooses_anew(
    deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    file, out = tmp_path / "mine.py", tmp_path / "out"
    file.write_text(RULE)
    given = ("--prune", "mine", "--protect", "1", "--load", str(file))
    assert sweep(out, deep, *given) == 0
    assert blocks(out, "mine") == [2, 3, 4]
    file.write_text(RULE.replace("candidates[:m]", "candidates[-m:]"))
    assert sweep(out, deep, *given) == 0
    assert blocks(out, "mine") == [5, 6, 7]
