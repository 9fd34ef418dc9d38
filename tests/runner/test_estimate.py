"""Plans of cost: counts are those of the run, times scale as they should, nothing is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import running
import stock
from hypothesis import given
from hypothesis import strategies as st
from running import Patch, one_line

from lrd_harness.capture.embeddings import Captured
from lrd_harness.cli import main
from lrd_harness.models import text_model
from lrd_harness.runner.calibration import Growth, Span, calibrate, spread

pytestmark = pytest.mark.usefixtures("own_cache")


def plan_of(command: list[str], file: Path, *more: str) -> dict[str, Any]:
    """What `plan` writes for the arguments of a run."""
    assert main(["plan", *command[1:], *more, "--json", str(file)]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock.place(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("views", [False, True])
def test_the_counts_are_those_of_the_run(
    own: Path, tmp_path: Path, views: bool, capsys: Any, monkeypatch: Patch
) -> None:
    """Embedding and likelihood tasks, pooled, token and view metrics."""

    def index(include: Path, **_: Any) -> Any:  # lm-eval's own tasks take seconds to list
        from lm_eval.tasks import TaskManager

        return TaskManager(include_defaults=False, include_path=str(include))

    monkeypatch.setattr("lrd_harness.tasks.likelihood.lm_eval_tasks.index", index)
    out, plugins = tmp_path / "out", "frenet,curvature,dime" if views else "frenet,nrs"
    tasks = ["STSBenchmark", "SciFact", f"lm-eval:{stock.ENDINGS}"]
    models = [own / "bert", own / "gpt"]
    given = ("--plugins", plugins, "--include-path", str(own / "own"))
    command = running.command(out, models, own / "data", *given, tasks=tasks)
    found = plan_of(command, tmp_path / "plan.json")
    shown = capsys.readouterr().out
    assert "The run will take about " in shown
    assert not out.exists()

    assert main(command) == 0
    counters = json.loads((out / "run.json").read_text())["counters"]["models"]
    for model in found["models"]:
        done = counters[model["name"]]
        assert model["passes"] == done["forwarded"]
        assert model["stored"] == 0
        assert model["tokens"] == pytest.approx(done["tokens"], rel=0.05)
        units = [
            r
            for r in running.records(out, "score", "metric", "undefined", "error")
            if r["model"] == model["name"]
        ]
        assert model["units"] == len(units)
        assert not model["faults"]

    # what is recorded is not counted, and what is stored needs no pass
    again = plan_of(command, tmp_path / "plan.json")
    assert [m["units"] for m in again["models"]] == [0, 0]
    assert again["seconds"]["high"] < found["seconds"]["high"]
    assert sum(m["passes"] for m in again["models"]) == 0
    other = running.command(tmp_path / "new", models, own / "data", *given, tasks=tasks)
    stored = plan_of(other, tmp_path / "plan.json")
    for model, before in zip(stored["models"], found["models"], strict=True):
        assert model["texts"] == model["stored"] == before["texts"]
        assert model["passes"] == model["tokens"] == model["disk"] == 0
        assert model["units"] == before["units"]


def test_the_store_grows_by_what_was_told(place: Path, tmp_path: Path, own_cache: Path) -> None:
    models = [place / "bert", place / "gpt"]
    command = running.command(tmp_path / "out", models, place / "data")
    whole = plan_of(command, tmp_path / "plan.json")
    assert not list(own_cache.glob("states/*/*.safetensors"))
    assert main(command) == 0
    size = sum(path.stat().st_size for path in own_cache.glob("states/*/*.safetensors"))
    assert sum(m["disk"] for m in whole["models"]) == pytest.approx(size, rel=0.2)


def test_pruning_is_added(place: Path, tmp_path: Path, capsys: Any) -> None:
    given = ("--prune", "last,random", "--budgets", "0.3", "--protect", "0")
    tasks = ["STSBenchmark"]
    command = running.command(tmp_path / "out", [place / "gpt"], place / "data", tasks=tasks)
    (plain,) = plan_of(command, tmp_path / "plan.json")["models"]
    (model,) = plan_of([*command, *given], tmp_path / "plan.json")["models"]
    assert model["passes"] == plain["passes"] * (1 + 1 + 3)  # the model, last, three seeds
    assert plain["spans"]["pruning"] == {"low": 0, "high": 0}
    assert model["spans"]["pruning"]["high"] > 0
    assert "Pruning is a rough guess" in capsys.readouterr().out


def test_what_cannot_be_estimated(
    place: Path, tmp_path: Path, monkeypatch: Patch, capsys: Any
) -> None:
    original = text_model.TextModel.__init__

    def broken(self: Any, checkpoint: Any, *rest: Any) -> None:
        if checkpoint.name == "local/bert":
            raise MemoryError("too large")
        original(self, checkpoint, *rest)

    monkeypatch.setattr(text_model.TextModel, "__init__", broken)
    models = [place / "bert", place / "gpt"]
    command = running.command(tmp_path / "out", models, place / "data", tasks=["STSBenchmark"])
    capsys.readouterr()
    assert main(["plan", *command[1:]]) == 1
    said = capsys.readouterr()
    assert "not estimated: local/bert: MemoryError: too large" in said.err
    assert "local/gpt" in said.out
    assert main(["plan", "quickstart", "--suite", "mmlu"]) == 2
    assert one_line(capsys) == "give one suite: quickstart or --suite mmlu"


def middle(span: Span) -> float:
    """The estimate itself."""
    return (span.low * span.high) ** 0.5


@pytest.mark.parametrize("power", [1, 2, 3])
def test_growth_finds_the_power(power: int) -> None:
    asked: list[int] = []

    def run(n: int) -> float:
        asked.append(n)
        return 0.02 * (n / 128) ** power

    growth = Growth(run)
    n = 20_000
    assert middle(growth.at(n)) == pytest.approx(0.02 * (n / 128) ** power, rel=1e-6)
    assert max(asked) < n
    assert growth.at(100) == Span.about(run(100))
    count = len(asked)
    growth.at(n)
    assert len(asked) == count  # nothing is measured twice


@given(st.integers(0, 400), st.integers(1, 500), st.integers(1, 20))
def test_spread(length: int, count: int, runs: int) -> None:
    chosen = spread(range(length), count, runs)
    assert len(chosen) == len(set(chosen)) <= max(count, 0)
    assert set(chosen) <= set(range(length))
    if length > 2 * count:
        assert len(chosen) >= count // 2
        assert abs(sum(chosen) / len(chosen) - length / 2) <= length / 6 + 1


@given(st.floats(0, 1), st.floats(1e-5, 1e-2), st.integers(1, 3000))
def test_what_is_fixed_is_told_from_what_grows(fixed: float, rate: float, count: int) -> None:
    def read(part: Sequence[int], folder: Path) -> Captured:
        return Captured(seconds=fixed + rate * 10 * len(part), tokens=10 * len(part))

    found = calibrate(range(count), read)
    assert middle(found.seconds(10 * count)) == pytest.approx(fixed + rate * 10 * count, rel=1e-6)


def test_spans_in_words() -> None:
    spans = {(180, 360): "3-6 min", (0.1, 0.4): "< 1 s", (20, 45): "20-45 s"}
    spans |= {(5000, 9000): "1.4-2.5 h", (86_400 * 3, 86_400 * 5): "3-5 d"}
    assert {ends: str(Span(*ends)) for ends in spans} == spans
