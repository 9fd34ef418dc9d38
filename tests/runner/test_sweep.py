"""Pruning sweeps through the command line: choices, scores, resuming, errors.

Asked for again in other ways, there are no stale choices and no mixed tables.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import stock
import tiny
from running import Patch
from scipy import stats

from lrd_harness import blocks as blocks_module
from lrd_harness.capture import evidence
from lrd_harness.capture.pruned import Variants
from lrd_harness.cli import main
from lrd_harness.contracts import Pruner, Task
from lrd_harness.processes import Ranks
from lrd_harness.runner import units

pytestmark = pytest.mark.slow

BUDGETS = ("--budgets", "0.2,0.5")
RULES = "gfmi,last,random,block_influence,angular,greedy"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bert and a Llama of six blocks, an Albert, and local data."""
    folder = tmp_path_factory.mktemp("deep")
    tiny.save("Bert", folder / "bert", num_hidden_layers=6, max_position_embeddings=64)
    tiny.save("Albert", folder / "albert")
    tiny.save("Llama", folder / "llama", causal=True, num_hidden_layers=6, uneven=True)
    tiny.task_data(folder / "data")
    return folder


def sweep(out: Path, deep: Path, *more: str) -> int:
    command = ("--plugins", "gfmi", "--prune", RULES, *BUDGETS, *more)
    return running.run(out, [deep / "bert"], deep / "data", *command, tasks=["STSBenchmark"])


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
    assert {variant for variant, _ in scores(swept)} == {"full", *variants}
    # the full model's last layer was not asked for, but is needed to compare with
    assert sorted(
        r["layer"] for r in running.records(swept, "score") if r["variant"] == "full"
    ) == [2, 6]
    sizes = {r["variant"]: r for r in running.records(swept, "variant")}
    assert set(sizes) == variants
    for size in sizes.values():
        assert size["parameters"] < size["parameters_full"]
        assert 0 <= size["latency"] < size["latency_full"]


def test_a_second_run_computes_nothing(
    swept: Path, deep: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    out = Path(shutil.copytree(swept, tmp_path / "out"))
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
    with running.interrupted(units, "evaluate", 4):
        assert sweep(out, deep, "--layers", "2") == 130
    assert 0 < len(running.records(out, "score")) < len(running.records(swept, "score"))
    assert sweep(out, deep, "--layers", "2") == 0
    names = [r["unit"] for r in running.records(out, "score", "pruning", "variant")]
    assert len(names) == len(set(names))
    assert scores(out) == pytest.approx(scores(swept))


def test_a_language_model_is_pruned_on_both_kinds_of_task(
    deep: Path, tmp_path: Path, own_cache: Path, monkeypatch: Patch
) -> None:
    stock.own_alone(monkeypatch)
    place = stock.tasks(tmp_path / "own")
    tasks = ["STSBenchmark", f"lm-eval:{stock.ENDINGS}"]
    more = ("--include-path", str(place), "--plugins", "nrs", "--layers", "last")
    out, saved, again = (tmp_path / name for name in ("out", "smaller", "again"))
    prune = ("--prune", "nrs,last", "--budgets", "0.2")
    assert running.run(out, [deep / "llama"], deep / "data", *more, *prune, tasks=tasks) == 0
    pruned = scores(out)
    assert {task for _, task in pruned} == set(tasks)
    (read,) = running.records(out, "variant")
    assert read["perplexity"] > 1 < read["perplexity_full"] != read["perplexity"]
    rows = [
        line for line in (out / "leaderboard.md").read_text().splitlines() if "| last |" in line
    ]
    assert sum(f"| {read['perplexity']:,.1f} |" in line for line in rows) == 2  # of both kinds
    command = ["prune", str(deep / "llama"), "--blocks", "5", "--save", str(saved), "--quiet"]
    assert main(command) == 0
    assert running.run(again, [saved], deep / "data", *more, tasks=tasks) == 0
    for task in tasks:
        assert scores(again)["full", task] == pytest.approx(pruned["without 5", task], abs=1e-6)


def test_errors(deep: Path, tmp_path: Path, own_cache: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    for option, value, message in (
        ("--budgets", "0.99", "removes all candidate blocks (4 of 4)"),
        ("--protect", "3", "protecting 3 blocks at either end leaves none of 6"),
        ("--prune", "nrs", "the pruning rule nrs needs the metric nrs: name it in --plugins"),
        ("--prune-tasks", "SciFact", "unknown task to score pruned models on 'SciFact'"),
    ):
        assert sweep(out, deep, option, value) == 2
        assert message in running.one_line(capsys)
    assert not out.exists()


def test_faults_of_rules_tasks_and_clocks_cost_themselves_only(
    deep: Path, tmp_path: Path, own_cache: Path, monkeypatch: Patch
) -> None:
    def wrong(evidence: Any, candidates: Any, m: int, seed: int) -> list[int]:
        return [1] * m

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("it fails")

    def careless(evidence: Any, candidates: list[int], m: int, seed: int) -> list[int]:
        candidates.reverse()
        del candidates[m:]
        return candidates

    def meddling(evidence: Any, candidates: Any, m: int, seed: int) -> list[int]:
        evidence.profiles["nrs.jaccard"] = []
        return [2, 3]

    bodies = {"careless": careless, "meddling": meddling, "wrong": wrong, "raising": fail}
    rules = [Pruner(name, body) for name, body in bodies.items()]
    task = Task("Broken", fail, evaluate=fail, requests=fail)
    running.with_plugin(monkeypatch, lrd_pruners=lambda: rules, lrd_tasks=lambda: [task])
    monkeypatch.setattr("lrd_harness.runner.sweep.pass_latency", fail)  # the latency
    out, chosen = tmp_path / "out", ("--prune", ",".join([*bodies, "last,block_influence,nrs"]))
    assert again(out, deep, *chosen, tasks=("STSBenchmark", "Broken")) == 1
    errors = {r["rule"]: r["error"] for r in running.records(out, "error") if "rule" in r}
    assert errors.pop("meddling").startswith("TypeError: ")
    assert errors == {
        "wrong": "UnitError: the rule wrong gave blocks (1, 1), not 2 of the candidates",
        "raising": "RuntimeError: it fails",
    }
    rows = shown(out)
    assert set(rows) == {"careless", "last", "block_influence", "nrs"}
    assert (blocks(out, "careless"), blocks(out, "last")) == ([4, 5], [4, 5])
    assert all(r["candidates"] == [2, 3, 4, 5] for r in running.records(out, "pruning"))
    for row in rows.values():
        assert row["tasks"] == 1
        assert row["change"] is not None
        assert row["latency_saved"] is None
        assert row["parameters_saved"] > 0


def test_a_pass_of_variants_that_fails_in_another_process_is_counted(
    deep: Path, tmp_path: Path, own_cache: Path, monkeypatch: Patch, capsys: Any
) -> None:
    capture = Variants.capture

    def captured(*arguments: Any) -> Any:
        monkeypatch.setattr(Ranks, "agree", lambda ranks, good: False)
        return capture(*arguments)

    monkeypatch.setattr(Variants, "capture", captured)
    out, more = tmp_path / "out", ("--layers", "last", "--plugins", "nrs", "--prune", "last")
    tasks = ["STSBenchmark"]
    asked = running.command(out, [deep / "bert"], deep / "data", *more, tasks=tasks)
    asked.remove("--quiet")
    assert main(asked) == 0
    assert capsys.readouterr().err.count("collecting texts: ") == 1
    (whole,) = running.records(out, "capture")
    assert running.counters(out)["forwarded"] == 2 * whole["forwarded"] > 0


def again(out: Path, deep: Path, *more: str, tasks: Any = ("STSBenchmark",)) -> int:
    """A sweep of two rules, to be asked for again in other ways."""
    asked = ("--plugins", "nrs", "--layers", "last", "--budgets", "0.5", *more)
    prune = () if "--prune" in more else ("--prune", "nrs,last")
    return running.run(out, [deep / "bert"], deep / "data", *asked, *prune, tasks=tasks)


def shown(out: Path) -> dict[str, Any]:
    """rule -> its row of the table."""
    tables = json.loads((out / "leaderboard.json").read_text())["tables"]
    return {row["rule"]: row for row in tables["pruning"]["rows"]}


def blocks(out: Path, rule: str) -> list[int]:
    return list(map(int, shown(out)[rule]["removed_blocks"].split(",")))


def test_parameters_of_a_metric_change_its_rules_choice(
    deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    assert again(first, deep) == 0
    assert again(first, deep, "--set", "nrs.k=2") == 0
    assert again(second, deep, "--set", "nrs.k=2") == 0
    assert blocks(first, "nrs") == blocks(second, "nrs")
    rules = [record["rule"] for record in running.records(first, "pruning")]
    assert sorted(rules) == ["last", "nrs", "nrs"]  # last reads no metric


def test_the_table_shows_what_was_asked_for_last(
    deep: Path, tmp_path: Path, own_cache: Path
) -> None:
    out, both = tmp_path / "out", ("STSBenchmark", "SciFact")
    for protect, deepest in (("1", 5), ("2", 4), ("1", 5)):
        assert again(out, deep, "--protect", protect, tasks=both) == 0
        assert blocks(out, "last")[-1] == deepest
    assert shown(out)["last"]["tasks"] == 2
    before = running.records(out)
    assert again(out, deep, "--protect", "1", tasks=both) == 0
    assert running.records(out) == before
    fewer = ("--protect", "1", "--prune", "last", "--prune-tasks", "STSBenchmark,STSBenchmark")
    assert again(out, deep, *fewer, tasks=both) == 0
    assert {rule: row["tasks"] for rule, row in shown(out).items()} == {"last": 1}


def table(out: Path, name: str) -> list[dict[str, Any]]:
    """Rows of a table of the leaderboard, which is made of the journals alone."""
    tables = json.loads((out / "leaderboard.json").read_text())["tables"]
    return tables[name]["rows"] if name in tables else []


def test_rules_are_ranked_by_the_effect_of_single_blocks(
    deep: Path, tmp_path: Path, own_cache: Path, monkeypatch: Patch
) -> None:
    out, rules = tmp_path / "out", ("--prune", "nrs,random,angular,ablation")
    with running.interrupted(blocks_module, "checked", 5), monkeypatch.context():
        assert again(out, deep, *rules) == 130
    with monkeypatch.context() as patch:
        if running.records(out, "ablation"):  # what was computed is not computed again
            patch.setattr(evidence, "ablate", None)
        assert again(out, deep, *rules) == 0
    (found,) = running.records(out, "ablation")
    assert list(found["effects"]) == ["cosine_loss", "rsa_loss"]
    effect = found["effects"]["cosine_loss"]
    orders = {(r["rule"], r["seed"]): r for r in running.records(out, "order")}
    assert len(orders) == 3 + 3  # random has three seeds
    assert set(blocks(out, "ablation")) == set(
        sorted([2, 3, 4, 5], key=lambda b: effect[b - 1])[:2]
    )
    for (rule, _), order in orders.items():
        assert order["candidates"] == [2, 3, 4, 5]
        assert sum(order["chosen"]) == 1 + 2 + 3
        assert sorted(order["chosen"]) == [0, 1, 2, 3] or rule == "angular"
    rows = {row["rule"]: row for row in table(out, "pruning_truth")}
    assert (rows["ablation"]["rho"], rows["ablation"]["n"]) == (1, 4)
    for rule in ("nrs", "angular"):
        earlier = [-times for times in orders[rule, None]["chosen"]]
        rho = stats.spearmanr(earlier, effect[1:5]).statistic
        assert rows[rule]["rho"] == pytest.approx(rho)
    assert rows["random"]["seeds"] == 3
    assert [row["cosine_loss"] for row in table(out, "pruning_effects")] == effect
    before = running.records(out)
    assert again(out, deep, *rules) == 0
    assert running.records(out) == before
    # of a sweep that asks for it no more, nothing is shown that it does not know
    assert again(out, deep, "--prune", "last", "--prune-tasks", "SciFact", tasks=BOTH) == 0
    assert table(out, "pruning_truth") == []


BOTH = ("STSBenchmark", "SciFact")


def test_rules_choose_again_on_halves_of_the_texts(
    deep: Path, tmp_path: Path, own_cache: Path, monkeypatch: Patch
) -> None:
    out, rules = tmp_path / "out", ("--prune", "nrs,random,last,block_influence,ablation")
    assert again(out, deep, *rules) == 0
    assert running.records(out, "redraw") == []
    before = running.records(out, "pruning", "score")
    monkeypatch.setattr(evidence, "ablate", None)  # what each text loses is recorded
    assert again(out, deep, *rules, "--text-samples", "6") == 0
    assert running.records(out, "pruning", "score") == before
    (lost,) = running.records(out, "ablation")
    mean = np.average(lost["losses"], axis=0, weights=lost["weights"])
    assert lost["effects"]["cosine_loss"] == pytest.approx(mean)
    assert lost["n"] == np.count_nonzero(lost["weights"])
    drawn = {r["rule"]: r["removed"] for r in running.records(out, "redraw")}
    assert set(drawn) == {"nrs", "last", "block_influence", "ablation"}
    assert all(len(sets) == 6 for sets in drawn.values())
    assert {tuple(sets) for sets in drawn["last"]} == {(4, 5)}
    assert len({tuple(sets) for sets in drawn["nrs"]}) > 1
    rows = {row["rule"]: row for row in table(out, "pruning_spread")}
    assert (rows["last"]["overlap"], rows["last"]["modal"]) == (1, "4-5")
    assert 0 <= rows["nrs"]["overlap"] < 1
    again_ = running.records(out)
    assert again(out, deep, *rules, "--text-samples", "6") == 0
    assert running.records(out) == again_


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
    mine = ("--prune", "mine", "--protect", "1", "--load", str(file))
    assert again(out, deep, *mine) == 0
    assert blocks(out, "mine") == [2, 3]
    file.write_text(RULE.replace("candidates[:m]", "candidates[-m:]"))
    assert again(out, deep, *mine) == 0
    assert blocks(out, "mine") == [4, 5]
