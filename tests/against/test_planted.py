"""Useless blocks planted in a model: the rules find exactly these first, by number, 1-based."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import torch
import transformers

from lrd_harness.cli import main

pytestmark = pytest.mark.slow

BLOCKS = 10  # of them 3-8 may go
RULES = ("block_influence", "frenet", "nrs", "composite", "greedy")


def plant(folder: Path, *numbers: int) -> Path:
    """A random model in which these blocks (1-based) add nothing to the residual stream."""
    tiny.save("Llama", folder, causal=True, num_hidden_layers=BLOCKS, max_position_embeddings=64)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for number in numbers:
            block = model.model.layers[number - 1]
            for weight in (block.self_attn.o_proj.weight, block.mlp.down_proj.weight):
                weight.zero_()
    model.save_pretrained(folder)
    return folder


def removed(capsys: Any, model: Path, texts: Path, rule: str, budget: float) -> str:
    """The blocks that the command names."""
    options = ("--rule", rule, "--budget", str(budget), "--texts", str(texts), "--quiet")
    assert main(["prune", str(model), *options]) == 0
    return str(capsys.readouterr().out.partition("blocks ")[2].partition(" of 1-10 removed")[0])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    tiny.write_rows(file, [{"text": t} for t in tiny.sentences(40, least=4)])
    return file


@pytest.mark.parametrize("planted", [(4, 7), (5, 6)])
def test_rules_find_planted_blocks(
    planted: tuple[int, int], texts: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    model = plant(tmp_path / "model", *planted)
    both = "{}-{}" if planted[1] - planted[0] == 1 else "{},{}"
    for rule in RULES:
        assert removed(capsys, model, texts, rule, 0.3) == both.format(*planted), rule
        # alone, either does as well, and of equals the deeper goes first
        assert removed(capsys, model, texts, rule, 0.1) == str(planted[1]), rule
    if both == "{}-{}":  # a run of blocks that follow one another is all that angular removes
        assert removed(capsys, model, texts, "angular", 0.3) == both.format(*planted)
    assert removed(capsys, model, texts, "angular", 0.1) == str(planted[1])


def test_a_sweep_finds_them_and_loses_nothing(tmp_path: Path, own_cache: Path) -> None:
    model, data, out = plant(tmp_path / "model", 4, 7), tiny.task_data(tmp_path / "data"), tmp_path
    rules = ("--prune", ",".join(RULES), "--budgets", "0.3", "--layers", "last")
    more = ("--plugins", "frenet,nrs,gfmi", *rules)
    assert running.run(out / "out", [model], data, *more, tasks=["STSBenchmark"]) == 0
    chosen = {r["rule"]: r["removed"] for r in running.records(out / "out", "pruning")}
    assert chosen == {key: [4, 7] for key in RULES}
    scores = {r["variant"]: r["score"] for r in running.records(out / "out", "score")}
    assert scores["without 4,7"] == pytest.approx(scores["full"], abs=1e-9)


def test_gfmi_asks_for_something_else(
    texts: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    model = plant(tmp_path / "model", 4)  # like the last state is what is deep, not what is idle
    assert removed(capsys, model, texts, "gfmi", 0.1) != "4"
