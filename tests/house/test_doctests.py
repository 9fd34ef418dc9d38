"""The examples in the docstrings of every module run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from lrd_harness import manager

ROOT = Path(__file__).parents[2]
ROOMS = {
    "lrd_harness": "lrd_harness",
    "plugins": "lrd_harness.plugins",
    "tasks": "lrd_harness.tasks",
}


def modules() -> list[str]:
    """The names of all modules whose text holds an example, in order."""
    found = []
    for folder, package in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>>" in path.read_text(encoding="utf-8"):
                parts = path.relative_to(ROOT / folder).with_suffix("").parts
                found.append(".".join((package, *(part for part in parts if part != "__init__"))))
    return found


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


NAMES = modules()


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    assert examples(module), "examples that no docstring holds"
    ran = doctest.testmod(module)
    assert ran.attempted > 0
    assert ran.failed == 0


def test_there_are_examples_and_one_in_every_metric() -> None:
    assert sum(len(examples(importlib.import_module(name))) for name in NAMES) >= 10
    for metric in manager.load().all("metric"):
        assert ">>>" in (metric.measure.__doc__ or ""), metric.name
