"""What the tests of runs share: small models and data, a run in this process, what it recorded."""

from __future__ import annotations

import itertools
import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny

from lrd_harness import manager
from lrd_harness.cli import main
from lrd_harness.hookspecs import hookimpl

TASKS = ("STSBenchmark", "SciFact")
Patch = pytest.MonkeyPatch
Shown = pytest.CaptureFixture[str]


def command(out: Path, models: list[Path], data: Path, *more: str, tasks: Any = TASKS) -> list[str]:
    """The arguments of a run, quiet, with the metrics frenet and nrs unless `more` says other."""
    metrics = [] if "--plugins" in more else ["--plugins", "frenet,nrs"]
    return [
        *("run", "--models", *map(str, models), "--tasks", *tasks, "--task-data", str(data)),
        *("--output", str(out), "--quiet", *metrics, *more),
    ]


def run(*arguments: Any, **keywords: Any) -> int:
    """`command`, run."""
    return main(command(*arguments, **keywords))


def records(out: Path, *kinds: str) -> list[dict[str, Any]]:
    """All journal records of some kinds (of all kinds where none is named), file by file.

    What a killed process wrote of its last line is left out.
    """
    files = sorted((out / "journal").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().split("\n")[:-1]]
    return [r for r in map(json.loads, lines) if not kinds or r["kind"] in kinds]


def numbers(out: Path) -> dict[str, Any]:
    """Unit -> the scores, values and profiles that were recorded for it."""
    names = ("score", "scores", "values", "profiles", "n", "start")
    return {
        r["unit"]: {name: r[name] for name in names if name in r}
        for r in records(out, "score", "metric")
    }


def counters(out: Path) -> dict[str, float]:
    """The counters of the last call, over all models."""
    total: dict[str, float] = json.loads((out / "run.json").read_text())["counters"]["total"]
    return total


def with_plugin(monkeypatch: pytest.MonkeyPatch, **hooks: Callable[[], Any]) -> None:
    """Register a plugin module with these hooks for the test."""
    module = types.ModuleType("plugin_of_the_test")
    for name, hook in hooks.items():
        setattr(module, name, hookimpl(lambda hook=hook: hook()))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(manager, "BUILT_IN", (*manager.BUILT_IN, module.__name__))


@contextmanager
def interrupted(owner: Any, name: str, number: int) -> Iterator[None]:
    """Within it, the number-th call of a function or method is Ctrl-C instead, and ends it."""
    original, calls = getattr(owner, name), itertools.count(1)

    def fails(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) == number:
            raise KeyboardInterrupt
        return original(*arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fails)
        yield


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Standard error, which must be one line, and nothing on standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("lrd-harness: ")
    return captured.err.removeprefix("lrd-harness: ").strip()


def save_nan(folder: Path) -> Path:
    """A model that gives NaN for every text with a word on s, as weights gone wrong in training."""
    from safetensors.torch import load_file, save_file

    tiny.save("Bert", folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    (name,) = (n for n in weights if n.endswith("word_embeddings.weight"))
    weights[name][tiny.VOCAB.index("s")] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    return folder
