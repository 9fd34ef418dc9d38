"""Pruning sweeps through the command line: choices, scores of what is left, resuming, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import running
import stock
import tiny

from lrd_harness.contracts import Pruner
from lrd_harness.runner import units

BUDGETS = ("--budgets", "0.2,0.5")
RULES = "gfmi,last,random,block_influence,angular,greedy"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bert and a Llama of six blocks, and local data."""
    folder = tmp_path_factory.mktemp("deep")
    tiny.save("Bert", folder / "bert", num_hidden_layers=6, max_position_embeddings=64)
    tiny.save("Llama", folder / "llama", causal=True, num_hidden_layers=6, uneven=True)
    tiny.task_data(folder / "data")
    return folder


def sweep(
    out: Path, deep: Path, *more: str, model: str = "bert", tasks: Any = ("STSBenchmark",)
) -> int:
    command = ("--plugins", "gfmi", "--prune", RULES, *BUDGETS, *more)
    return running.run(out, [deep / model], deep / "data", *command, tasks=tasks)


def scores(out: Path) -> dict[tuple[str, str], float]:
    """(variant, task) -> score of the last layer."""
    return {
        (r["variant"], r["task"]): r["score"]
        for r in running.records(out, "score")
        if r["layer"] == r["layers"]
    }


@pytest.fixture(scope="module")
def swept(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("swept") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(out.parent / "cache"))
        assert sweep(out, deep, "--layers", "2") == 0
    return out


def test_every_choice_is_recorded_and_scored(swept: Path) -> None:
    chosen = running.records(swept, "pruning")
    rules = RULES.split(",")
    assert len(chosen) == 2 * (len(rules) - 1 + 3)
    assert {r["rule"] for r in chosen} == set(rules)
    for record in chosen:
        assert record["candidates"] == [2, 3, 4, 5]
        assert len(record["removed"]) == {0.2: 1, 0.5: 2}[record["budget"]]
        assert set(record["removed"]) <= {2, 3, 4, 5}
        assert record["blocks"] == 6
    last = {r["budget"]: r["removed"] for r in chosen if r["rule"] == "last"}
    assert last == {0.2: [5], 0.5: [4, 5]}
    variants = {r["variant"] for r in chosen}
    found = scores(swept)
    assert {variant for variant, _ in found} == {"full", *variants}
    # the full model's last layer was not asked for, but is needed to compare with
    assert sorted(
        r["layer"] for r in running.records(swept, "score") if r["variant"] == "full"
    ) == [2, 6]
    sizes = {r["variant"]: r for r in running.records(swept, "variant")}
    assert set(sizes) == variants
    for size in sizes.values():
        assert size["parameters"] < size["parameters_full"]
        assert 0 <= size["latency"] < size["latency_full"]


def test_native_results_are_experiments(swept: Path) -> None:
    found = {p.parent.name for p in (swept / "mteb").rglob("STSBenchmark.json")}
    assert any("removed" in name for name in found)


def test_scores_are_those_of_the_saved_model(
    swept: Path, deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    from lrd_harness.cli import main

    saved = tmp_path / "smaller"
    assert (
        main(["prune", str(deep / "bert"), "--layers", "4,5", "--save", str(saved), "--quiet"]) == 0
    )
    out = tmp_path / "out"
    assert (
        running.run(out, [saved], deep / "data", "--plugins", "gfmi", tasks=["STSBenchmark"]) == 0
    )
    assert scores(out)["full", "STSBenchmark"] == pytest.approx(
        scores(swept)["without 4-5", "STSBenchmark"], abs=1e-6
    )
    assert scores(swept)["full", "STSBenchmark"] != scores(swept)["without 4-5", "STSBenchmark"]


def test_a_second_run_computes_nothing(
    swept: Path, deep: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(swept, out)
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(swept.parent / "cache"))
    before = running.records(out)
    assert sweep(out, deep, "--layers", "2") == 0
    assert running.records(out) == before
    assert running.counters(out)["forwarded"] == 0
    # without the journal all is there again, and nothing was run for it
    shutil.rmtree(out)
    assert sweep(out, deep, "--layers", "2") == 0
    assert running.counters(out)["forwarded"] == 0
    assert scores(out) == scores(swept)


def test_an_interrupted_sweep_goes_on(
    deep: Path, swept: Path, tmp_path: Path, own_cache: Path
) -> None:
    out = tmp_path / "out"
    original, calls = units.evaluate, []

    def evaluate(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "evaluate", evaluate)
        assert sweep(out, deep, "--layers", "2") == 130
    done = len(running.records(out, "score"))
    assert 0 < done < len(running.records(swept, "score"))
    assert sweep(out, deep, "--layers", "2") == 0
    names = [r["unit"] for r in running.records(out, "score", "pruning", "variant")]
    assert len(names) == len(set(names))
    assert scores(out) == pytest.approx(scores(swept))


def test_a_language_model_is_pruned_on_both_kinds_of_task(
    deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    own = stock.tasks(tmp_path / "own")
    tasks = ["STSBenchmark", f"lm-eval:{stock.ENDINGS}"]
    more = ("--include-path", str(own), "--layers", "last")
    out = tmp_path / "out"
    assert sweep(out, deep, *more, model="llama", tasks=tasks) == 0
    found = scores(out)
    assert {task for _, task in found} == set(tasks)
    from lrd_harness.cli import main

    saved = tmp_path / "smaller"
    assert (
        main(["prune", str(deep / "llama"), "--layers", "5", "--save", str(saved), "--quiet"]) == 0
    )
    again = tmp_path / "again"
    command = ("--plugins", "gfmi", *more)
    assert running.run(again, [saved], deep / "data", *command, tasks=tasks) == 0
    for task in tasks:
        assert scores(again)["full", task] == pytest.approx(found["without 5", task], abs=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--budgets", "0"), "a budget is a share between 0 and 1, not 0"),
        (("--budgets", "15"), "15 % is 0.15"),
        (("--budgets", "0.99"), "removes all candidate blocks (4 of 4)"),
        (("--budgets", "much"), "--budgets much: not a share such as 0.15"),
        (("--protect", "3"), "protecting 3 blocks at either end leaves none of 6"),
        (("--prune", "gfmy"), "Did you mean gfmi?"),
        (("--prune", "nrs"), "the pruning rule nrs needs the metric nrs: name it in --plugins"),
        (("--prune-tasks", "SciFact"), "unknown task to score pruned models on 'SciFact'"),
        (("--random-seeds", "0"), "random_seeds is 0, not a whole number of at least 1"),
    ],
)
def test_errors(
    more: tuple[str, ...], said: str, deep: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    assert sweep(out, deep, *more) == 2
    assert said in running.one_line(capsys)
    assert not out.exists()


def test_options_without_prune_are_refused(
    deep: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    assert running.run(tmp_path / "out", [deep / "bert"], deep / "data", *BUDGETS) == 2
    assert "--budgets needs --prune" in running.one_line(capsys)


def test_a_fault_in_a_rule_costs_that_rule_only(
    deep: Path, tmp_path: Path, own_cache: Path, monkeypatch: Any
) -> None:
    def wrong(evidence: Any, candidates: Any, m: int, seed: int) -> list[int]:
        return [1] * m

    def raising(evidence: Any, candidates: Any, m: int, seed: int) -> list[int]:
        raise ZeroDivisionError("no blocks")

    rules = [Pruner("wrong", wrong), Pruner("raising", raising)]
    running.with_plugin(monkeypatch, lrd_pruners=lambda: rules)
    out = tmp_path / "out"
    command = ("--prune", "wrong,raising,last", "--budgets", "0.2", "--layers", "last")
    assert sweep(out, deep, *command) == 1
    errors = {r["rule"]: r["error"] for r in running.records(out, "error")}
    assert errors == {
        "wrong": "UnitError: the rule wrong gave blocks (1,), not 1 of the candidates",
        "raising": "ZeroDivisionError: no blocks",
    }
    assert ("without 5", "STSBenchmark") in scores(out)


def test_run_json_says_what_was_asked(swept: Path) -> None:
    asked = json.loads((swept / "run.json").read_text())["pruning"]
    assert asked["budgets"] == [0.2, 0.5]
    assert asked["rules"] == RULES.split(",")
