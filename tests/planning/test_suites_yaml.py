"""The suites that are shipped: they parse, and every name in them resolves without network."""

from __future__ import annotations

import importlib
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest
import yaml

from lrd_harness.models.wheels import KNOWN

offline = importlib.import_module("lrd_harness.tasks.offline.tasks")


def suite(name: str) -> dict[str, Any]:
    text = (files("lrd_harness.tasks.suites") / f"{name}.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def types_of(names: list[str]) -> Counter[str]:
    """How many of each of mteb's types; fails for a name that mteb does not know."""
    import mteb

    return Counter(mteb.get_task(name).metadata.type for name in names)


@pytest.mark.parametrize("name", ["quickstart", "lrd-30", "mteb-32", "lrd-mmlu", "mmlu"])
def test_form(name: str) -> None:
    loaded = suite(name)
    assert set(loaded) <= {
        "description",
        "source",
        "models",
        "tasks",
        "plugins",
        "settings",
        "pruning",
    }
    assert loaded["description"]
    assert len(set(loaded["tasks"])) == len(loaded["tasks"])


def test_quickstart_needs_no_hub() -> None:
    loaded = suite("quickstart")
    assert tuple(loaded["tasks"]) == (*offline.QUICKSTART, "MMLU")
    assert loaded["settings"] == {"limit": 114}
    models = [m if isinstance(m, str) else m["model"] for m in loaded["models"]]
    assert len(models) == 4
    assert all(KNOWN[model.removeprefix("pypi:")].model for model in models)
    assert loaded["models"][3]["pooling"] == "mean-no-sink"


def test_lrd_30() -> None:
    loaded = suite("lrd-30")
    assert loaded["source"] == "arXiv 2605.12714"
    assert len(loaded["models"]) == len(set(loaded["models"])) == 25
    assert all(model.count("/") == 1 for model in loaded["models"])
    assert types_of(loaded["tasks"]) == {
        "Classification": 13,
        "PairClassification": 2,
        "Reranking": 2,
        "Retrieval": 11,
        "STS": 2,
    }


def test_lrd_mmlu() -> None:
    loaded = suite("lrd-mmlu")
    assert loaded["source"] == "arXiv 2605.12714"
    assert len(loaded["models"]) == 6
    assert loaded["tasks"] == ["lm-eval:mmlu"]
    assert loaded["settings"]["num_fewshot"] == 5


def test_mmlu_needs_no_hub() -> None:
    loaded = suite("mmlu")
    assert loaded["tasks"] == ["MMLU"]
    assert all(KNOWN[model.removeprefix("pypi:")].model for model in loaded["models"])
    assert loaded["settings"] == {"num_fewshot": 5}


def test_mteb_32() -> None:
    loaded = suite("mteb-32")
    assert loaded["source"] == "arXiv 2502.02013"
    assert "models" not in loaded
    assert types_of(loaded["tasks"]) == {
        "Classification": 10,
        "Clustering": 6,
        "PairClassification": 3,
        "Reranking": 4,
        "STS": 9,
    }
