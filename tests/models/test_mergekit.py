"""What is written beside a pruned model: its blocks for mergekit, and its card."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lrd_harness.blocks import written
from lrd_harness.errors import UserError
from lrd_harness.models.cut import kept_blocks
from lrd_harness.models.mergekit import Pruned, card, mergekit


@pytest.mark.parametrize(
    ("removed", "ranges"),
    [
        ((1,), [[1, 12]]),
        ((12,), [[0, 11]]),
        ((7,), [[0, 6], [7, 12]]),
        ((7, 3, 4), [[0, 2], [4, 6], [7, 12]]),
        (tuple(range(2, 12)), [[0, 1], [11, 12]]),
    ],
)
def test_the_same_for_mergekit(removed: tuple[int, ...], ranges: list[list[int]]) -> None:
    config = yaml.safe_load(mergekit("org/model", 12, removed, dtype="bfloat16"))
    assert config == {
        "slices": [{"sources": [{"model": "org/model", "layer_range": found}]} for found in ranges],
        "merge_method": "passthrough",
        "dtype": "bfloat16",
    }
    kept = [i + 1 for first, end in ranges for i in range(first, end)]
    assert tuple(kept) == kept_blocks(removed, 12)


def test_mergekit_refuses_what_removal_refuses() -> None:
    with pytest.raises(UserError, match="block 13 does not exist"):
        mergekit("org/model", 12, (13,))
    assert yaml.safe_load(mergekit("./a: b #c", 2, (1,)))["slices"][0]["sources"][0] == {
        "model": "./a: b #c",
        "layer_range": [1, 2],
    }


PRUNED = Pruned(
    "org/model",
    "abc",
    30,
    (14, 7, 12, 13),
    (1000, 850),
    hub=True,
    rule="gfmi",
    budget=0.15,
    texts="500 texts of FILE.jsonl",
    scores={"STS|B": (0.8, 0.76), "Other": (-0.1, 0.0)},
)


def front(text: str) -> Any:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_what_was_done() -> None:
    from huggingface_hub import ModelCard

    text = card(PRUNED)
    assert front(text)["base_model"] == "org/model"
    assert {"pruned", "gfmi"} <= set(front(text)["tags"])
    assert ModelCard(text).data.base_model == "org/model"
    for said in (
        "# model without 4 of its 30 blocks",
        "| blocks removed | 7,12-14 (4 of 30) |",
        "| blocks kept | 1-6,8-11,15-30 |",
        "| chosen by | the rule `gfmi` at a budget of 15 % of the candidates |",
        "| texts | 500 texts of FILE.jsonl |",
        "| parameters | 1,000 before, 850 after (-15.0%) |",
        "| STS\\|B | 0.8000 | 0.7600 | -5.0% |",
        "| Other | -0.1000 | 0.0000 |  |",
    ):
        assert said in text.splitlines()


def test_the_card_of_a_model_that_was_kept_whole() -> None:
    text = card(Pruned("org/m", "main", 4, (), (9, 9), hub=True, metric="dime", texts="a.jsonl"))
    assert front(text)["tags"] == ["lrd-harness", "dime"]
    assert front(text)["base_model"] == "org/m"
    assert "# m with all of its 4 blocks" in text
    assert "kept whole by lrd-harness: the metric `dime` chose its last layer." in text
    for line in ("| blocks | 1-4 |", "| texts | a.jsonl |", "| parameters | 9 |"):
        assert line in text.splitlines()


def test_a_card_by_hand_of_a_model_of_one_s_own() -> None:
    mine = Pruned("/home/me/a: #b", "abc", 4, (2,), (10, 8), library="sentence-transformers")
    text = card(mine)
    assert front(text) == {
        "library_name": "sentence-transformers",
        "tags": ["lrd-harness", "pruned", "layer-pruning"],
    }
    assert "| chosen by | hand |" in text.splitlines()
    assert "Scores" not in text
    assert written((1, 2, 4)) == "1-2,4"
