"""Sizes of a config.json that are far beyond the weights beside it end in a line, at once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from running import one_line

from lrd_harness import UserError
from lrd_harness.cli import main
from lrd_harness.models.find import find
from lrd_harness.models.recognition import check_sizes


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("models") / "bert")


def changed(folder: Path, target: Path, **values: Any) -> Path:
    """The model with other values in its config.json."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text()) | values
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"num_hidden_layers": 10**9},
            "num_hidden_layers is 1000000000: at most 10,000",
        ),
        ({"num_hidden_layers": 10**40}, "num_hidden_layers is beyond 10^30: at most 10,000"),
        (
            {"num_hidden_layers": 9999},
            "num_hidden_layers is 9999, but the weights beside it have",
        ),
        ({"num_attention_heads": 10**9}, "num_attention_heads is 1000000000: at most 65,536"),
        ({"hidden_size": 10**9}, "hidden_size is 1000000000: at most 100,000,000 is possible"),
        (
            {"intermediate_size": 5 * 10**7},
            "intermediate_size is 50000000, but no weight",
        ),
        (
            {"vocab_size": 10**8},
            "vocab_size is 100000000, but no weight beside it",
        ),
        (
            {"max_position_embeddings": 10**9},
            "max_position_embeddings is 1000000000: at most 50",
        ),
        ({"text_config": {"n_layer": 10**9}}, "n_layer is 1000000000: at most 10,000"),
        ({"num_local_experts": 10**9}, "num_local_experts is 1000000000: at most 65,536"),
        ({"num_hidden_layers": float("nan")}, "num_hidden_layers is nan: at most 10,000"),
        ({"num_hidden_layers": float("inf")}, "num_hidden_layers is inf: at most 10,000"),
    ],
)
def test_absurd_sizes_end_in_a_line(
    values: dict[str, Any], message: str, bert: Path, tmp_path: Path
) -> None:
    begun = time.perf_counter()
    with pytest.raises(UserError) as fault:
        find(str(changed(bert, tmp_path / "m", **values)))
    assert f"config.json: {message}" in str(fault.value)
    assert time.perf_counter() - begun < 10


def test_the_command_says_so(
    bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = changed(bert, tmp_path / "m", num_hidden_layers=10**9)
    assert main(["layer", str(model), "--task", "LeeDocumentSTS", "--quiet"]) == 2
    assert "num_hidden_layers is 1000000000" in one_line(capsys)


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 48},  # of blocks that share their weights
        {"max_position_embeddings": 10_485_760},
        {"vocab_size": 262_144},
        {"bos_token_id": 10**9, "rope_theta": 1e12},
    ],
)
def test_large_sizes_are_left_to_transformers(values: dict[str, Any], bert: Path) -> None:
    check_sizes(bert, values)
