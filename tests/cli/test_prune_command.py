"""`lrd-harness prune`: blocks by a rule or by hand, a checkpoint, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import transformers
import yaml

from lrd_harness.cli import main

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bert and a Llama of eight blocks, a Bert of one, and texts."""
    folder = tmp_path_factory.mktemp("deep")
    small = {"hidden_size": 16, "intermediate_size": 16}
    tiny.save("Bert", folder / "bert", num_hidden_layers=8, **small)
    tiny.save("Llama", folder / "llama", causal=True, num_hidden_layers=8, **small)
    tiny.save("Bert", folder / "flat", num_hidden_layers=1, **small)
    tiny.write_rows(folder / "texts.jsonl", [{"text": t} for t in tiny.sentences(16)])
    return folder


def prune(model: Path, *more: object) -> int:
    return main(["prune", str(model), "--quiet", *map(str, more)])


@pytest.mark.parametrize(
    "rule", "gfmi frenet nrs composite block_influence angular greedy last random ablation".split()
)
def test_every_rule_names_its_blocks(rule: str, deep: Path, capsys: Any) -> None:
    texts = ("--texts", deep / "texts.jsonl")
    assert prune(deep / "llama", "--rule", rule, "--budget", 0.5, *texts) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{rule} at 0.5: blocks ")
    assert "of 1-8 removed" in printed


@pytest.mark.slow
def test_what_a_rule_chooses_is_saved_with_a_card(deep: Path, tmp_path: Path) -> None:
    """The card names the texts where the rule has read them."""
    texts = ("--texts", deep / "texts.jsonl")
    for model, rule, budget, more in (
        ("llama", "gfmi", 0.5, ()),
        ("bert", "random", 0.125, ("--seed", 3, "--protect", 1)),
    ):
        small = tmp_path / rule
        typed = ("--rule", rule, "--budget", budget, *texts, *more, "--save", small)
        assert prune(deep / model, *typed) == 0
        card = (small / "README.md").read_text()
        assert f"`{rule}`" in card
        assert ("| texts | texts.jsonl |" in card) == (rule == "gfmi")
    assert (
        "`random` (seed 3) at a budget of 12.5 % of the candidates; blocks kept at either end: 1"
        in card
    )
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gfmi")
    assert saved.config.num_hidden_layers == 6  # half of the candidates 3-6


def test_given_blocks_and_mergekit(deep: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "merge.yaml"
    assert prune(deep / "bert", "--blocks", "2,4-5", "--save-mergekit", file) == 0
    assert "blocks 2,4-5 of 1-8 removed" in capsys.readouterr().out
    ranges = [s["sources"][0]["layer_range"] for s in yaml.safe_load(file.read_text())["slices"]]
    assert ranges == [[0, 1], [2, 3], [5, 8]]


def test_a_rule_chooses_again_on_halves_of_the_texts(
    deep: Path, tmp_path: Path, capsys: Any
) -> None:
    texts = ("--texts", deep / "texts.jsonl", "--output", tmp_path, "--text-samples", 4)
    for rule in ("nrs", "ablation"):
        assert prune(deep / "llama", "--rule", rule, "--budget", 0.5, *texts) == 0
        assert "choices on halves of the texts" in capsys.readouterr().out
        found = json.loads((tmp_path / "prune.json").read_text())
        spread = found["spread"]
        assert (spread["draws"], spread["chosen"]) == (4, 4)
        assert 0 <= spread["overlap"] <= 1
        counts = [int(part.rstrip(")").split("(")[1]) for part in spread["blocks"].split(", ")]
        assert sum(counts) == 4 * len(found["removed"])


@pytest.mark.slow
def test_scores_of_a_run_go_into_the_card(deep: Path, tmp_path: Path) -> None:
    data, out = tiny.task_data(tmp_path / "data"), tmp_path / "out"
    sweep = ("--plugins", "nrs", "--prune", "last", "--budgets", "0.25", "--layers", "last")
    assert running.run(out, [deep / "bert"], data, *sweep, tasks=["STSBenchmark"]) == 0
    more = ("--rule", "last", "--budget", 0.25, "--scores", out, "--save", tmp_path / "small")
    assert prune(deep / "bert", *more) == 0
    card = (tmp_path / "small" / "README.md").read_text()
    (row,) = [r for r in running.records(out, "score") if r["variant"] == "without 6"]
    assert f"{row['score']:.4f}" in card
    assert "STSBenchmark" in card


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ("effective_rank.rank", "there are effective_rank.effective_rank, effective_rank.normal"),
        ("nrs.score", "Pruner(metrics=...) does not name nrs"),
    ],
)
def test_a_profile_that_there_is_not(
    score: str, says: str, deep: Path, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "by_rank.py"
    file.write_text(
        "from lrd_harness import Pruner, hookimpl\n"
        "def choose(evidence, candidates, m, seed):\n"
        "    assert evidence.profiles.get('none.such') is None\n"
        f"    return evidence.profiles['{score}']\n"
        "@hookimpl\n"
        "def lrd_pruners():\n"
        "    return [Pruner('by_rank', choose, metrics=('effective_rank',))]\n"
    )
    rule = ("--load", file, "--rule", "by_rank", "--budget", 0.5)
    assert prune(deep / "bert", *rule, "--texts", deep / "texts.jsonl") == 2
    line = running.one_line(capsys)
    assert f"no profile {score}: {says}" in line
    assert "(by_rank.py, line 4)" in line


REFUSED = {
    "bert": "give either --rule with --budget, or --blocks",
    "bert --rule last --blocks 2": "give either --rule with --budget, or --blocks",
    "bert --rule last": "--rule needs a --budget, as 0.15",
    "bert --rule gfmi --budget 0.2": "chooses on texts: give --texts FILE",
    "bert --rule last --budget 0": "a budget is a share between 0 and 1, not 0",
    "bert --rule last --budget 0.9": "removes all candidate blocks (4 of 4)",
    "bert --blocks 9": "block 9 does not exist: the model has blocks 1 to 8",
    "bert --blocks 0": "block 0",
    "bert --blocks two": "two",
    "bert --blocks 1-8": "all 8 blocks are to be removed: none would be left",
    "bert --rule gfmi --budget 0.2 --texts nowhere.jsonl": "no such file",
    "bert --blocks 2 --texts nowhere.jsonl": "no such file",
    "bert --blocks 2 --seed 1": "--seed needs --rule",
    "bert --blocks 2 --text-samples 3": "--text-samples needs --rule",
    "bert --rule last --budget 0.2 --text-samples 3": "chooses on texts: give --texts FILE",
    "bert --rule random --budget 0.2 --text-samples 3": "chooses by its seed, not by texts",
    "bert --rule last --budget 0.2 --text-samples 0": "text_samples is 0",
    "bert --blocks 2 --save-mergekit no/such/m.yaml": "its folder is not there",
    "flat --rule last --budget 0.2": "at least 2 blocks, this one has 1",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_errors_write_nothing(typed: str, deep: Path, tmp_path: Path, capsys: Any) -> None:
    model, *more = typed.split()
    assert prune(deep / model, *more, "--save", tmp_path / "small") == 2
    assert REFUSED[typed] in running.one_line(capsys)
    assert not (tmp_path / "small").exists()
