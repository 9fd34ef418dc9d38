"""`lrd-harness prune`: blocks by a rule or by hand, a checkpoint, and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import transformers
import yaml

from lrd_harness.cli import main


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bert and a Llama of eight blocks, and texts."""
    folder = tmp_path_factory.mktemp("deep")
    tiny.save("Bert", folder / "bert", num_hidden_layers=8)
    tiny.save("Llama", folder / "llama", causal=True, num_hidden_layers=8)
    tiny.write_rows(folder / "texts.jsonl", [{"text": t} for t in tiny.sentences(60)])
    return folder


def prune(model: Path, *more: object) -> int:
    return main(["prune", str(model), "--quiet", *map(str, more)])


@pytest.mark.parametrize(
    "rule",
    [
        *("gfmi", "random"),
        *(
            pytest.param(rule, marks=pytest.mark.slow)
            for rule in "frenet nrs composite block_influence angular greedy last".split()
        ),
    ],
)
def test_every_rule_removes_and_saves(
    rule: str, deep: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    texts = ("--texts", deep / "texts.jsonl")
    more = ("--rule", rule, "--budget", 0.5, *texts, "--save", tmp_path / "small")
    assert prune(deep / "llama", *more) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{rule} at 0.5: blocks ")
    assert "of 1-8 removed" in printed
    small = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert small.config.num_hidden_layers == 6  # half of the candidates 3-6
    card = (tmp_path / "small" / "README.md").read_text()
    assert f"`{rule}`" in card
    assert ("texts.jsonl" in card) == (rule not in ("random", "last"))  # these read none


def test_given_blocks_and_mergekit(
    deep: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    file = tmp_path / "merge.yaml"
    assert prune(deep / "bert", "--layers", "2,4-5", "--save-mergekit", file) == 0
    assert "blocks 2,4-5 of 1-8 removed" in capsys.readouterr().out
    ranges = [s["sources"][0]["layer_range"] for s in yaml.safe_load(file.read_text())["slices"]]
    assert ranges == [[0, 1], [2, 3], [5, 8]]


@pytest.mark.slow
def test_scores_of_a_run_go_into_the_card(deep: Path, tmp_path: Path, own_cache: Path) -> None:
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
    ("more", "said"),
    [
        ((), "give either --rule with --budget, or --layers"),
        (("--rule", "last", "--layers", "2"), "give either --rule with --budget, or --layers"),
        (("--rule", "last"), "--rule needs a --budget, as 0.15"),
        (("--rule", "lost", "--budget", 0.2), "Did you mean last?"),
        (("--rule", "gfmi", "--budget", 0.2), "chooses on texts: give --texts FILE"),
        (("--rule", "last", "--budget", 0), "a budget is a share between 0 and 1, not 0"),
        (("--rule", "last", "--budget", 0.9), "removes all candidate blocks (4 of 4)"),
        (("--layers", "9"), "block 9 does not exist: the model has blocks 1 to 8"),
        (("--layers", "0"), "block 0"),
        (("--layers", "1-8"), "all 8 blocks are to be removed: none would be left"),
        (("--layers", "two"), "two"),
        (("--rule", "gfmi", "--budget", 0.2, "--texts", "nowhere.jsonl"), "no such file"),
        (("--layers", "2", "--texts", "some.jsonl"), "--texts needs --rule"),
        (("--layers", "2", "--seed", "1"), "--seed needs --rule"),
        (("--rule", "random", "--budget", 0.2, "--seed", "-1"), "--seed -1: not a whole number"),
        (("--rule", "last", "--budget", 0.2, "--device", "cuda:77"), "device 'cuda:77' cannot be"),
        (("--layers", "2", "--save-mergekit", "no/such/m.yaml"), "its folder is not there"),
        (("--layers", "2", "--max-length", "0"), "max_length is 0, not a whole number of at least"),
    ],
)
def test_errors_write_nothing(
    more: tuple[object, ...], said: str, deep: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    assert prune(deep / "bert", *more, "--save", tmp_path / "small") == 2
    assert said in running.one_line(capsys)
    assert not (tmp_path / "small").exists()


def test_the_card_says_what_was_used(deep: Path, tmp_path: Path, own_cache: Path) -> None:
    texts = ("--texts", deep / "texts.jsonl")
    more = ("--rule", "random", "--budget", 0.125, "--seed", 3, "--protect", 1, *texts)
    assert prune(deep / "bert", *more, "--save", tmp_path / "small") == 0
    card = (tmp_path / "small" / "README.md").read_text()
    assert (
        "`random` (seed 3) at a budget of 12.5 % of the candidates; blocks kept at either end: 1"
        in card
    )
    assert "texts.jsonl" not in card  # random reads none


def test_a_model_of_one_block(tmp_path: Path, own_cache: Path, capsys: Any) -> None:
    model = tiny.save("Bert", tmp_path / "flat", num_hidden_layers=1)
    capsys.readouterr()  # what saving it has said
    assert prune(model, "--rule", "last", "--budget", 0.2) == 2
    assert "at least 2 blocks, this one has 1" in running.one_line(capsys)
