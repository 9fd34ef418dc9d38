"""Plans of cost: counts are those of the run, times scale as they should, nothing is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import running
import stock
import tiny
from running import Patch, one_line

from lrd_harness.capture.embeddings import Captured
from lrd_harness.cli import main
from lrd_harness.models import text_model
from lrd_harness.runner.calibration import Span, calibrate, grown
from lrd_harness.runner.cost import Estimate, ModelCost

pytestmark = pytest.mark.usefixtures("own_cache")


def plan_of(command: list[str], file: Path, *more: str) -> dict[str, Any]:
    """What `plan` writes for the arguments of a run."""
    assert main(["plan", *command[1:], *more, "--json", str(file)]) == 0
    plan: dict[str, Any] = json.loads(file.read_text())
    return plan


@pytest.mark.slow
def test_the_counts_are_those_of_the_run(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    own_cache: Path,
    capsys: Any,
    monkeypatch: Patch,
) -> None:
    """Embedding and likelihood tasks, pooled, token and view metrics."""
    stock.own_alone(monkeypatch)
    place, file, out = stock.place(tmp_path_factory.getbasetemp()), tmp_path / "p", tmp_path / "out"
    asked = ("--plugins", "frenet,curvature,dime", "--include-path", str(place / "own"))
    tasks = ["STSBenchmark", f"lm-eval:{stock.ENDINGS}"]

    def command(folder: Path) -> list[str]:
        models = [place / "bert", place / "gpt"]
        return running.command(folder, models, place / "data", *asked, tasks=tasks)

    plan = plan_of(command(out), file)
    assert "The run will take about " in capsys.readouterr().out
    assert not out.exists()
    assert not list(own_cache.glob("states/*/*.safetensors"))

    assert main(command(out)) == 0
    counters = json.loads((out / "run.json").read_text())["counters"]["models"]
    units = running.records(out, "score", "metric", "undefined", "error")
    for model in plan["models"]:
        counted = counters[model["name"]]
        assert (model["passes"], model["stored"]) == (counted["forwarded"], 0)
        assert model["tokens"] == pytest.approx(counted["tokens"], rel=0.05)
        assert model["units"] == sum(unit["model"] == model["name"] for unit in units)
        assert not model["faults"]
        alone = sum(middle(model[part]) for part in ("device", "cpu"))
        alone -= middle(model["spans"]["opening"])
        assert sum(model["tasks"].values()) == pytest.approx(alone)  # they share no text
        assert {*model["tasks"]} == ({*tasks} if model["name"] == "local/gpt" else {tasks[0]})
    size = sum(path.stat().st_size for path in own_cache.glob("states/*/*.safetensors"))
    assert sum(model["disk"] for model in plan["models"]) == pytest.approx(size, rel=0.2)

    # what is recorded is not counted, and what is stored needs no pass
    again = plan_of(command(out), file)
    assert [(model["units"], model["passes"]) for model in again["models"]] == [(0, 0), (0, 0)]
    assert again["seconds"]["high"] < plan["seconds"]["high"]
    stored = plan_of(command(tmp_path / "new"), file)
    for model, before in zip(stored["models"], plan["models"], strict=True):
        assert model["texts"] == model["stored"] == before["texts"]
        assert model["passes"] == model["tokens"] == model["disk"] == 0
        assert model["units"] == before["units"]


def middle(span: dict[str, float]) -> float:
    return (span["low"] + span["high"]) / 2


def test_what_is_not_known_takes_as_long_as_the_mean() -> None:
    spans = {"opening": Span(1, 3), "pruning": Span(4, 4)}
    known = ModelCost("a", spans=spans, tasks={"s": 10, "t": 20})
    unknown = ModelCost("b", tasks={"s": 30}, faults=["b: t: fails"])
    plan: Any = SimpleNamespace(tasks=[SimpleNamespace(name=name) for name in "st"])
    found = Estimate([known, unknown], Span()).seconds(plan)
    assert found["a"].opening == 2
    assert found["a"].tasks == pytest.approx({"s": 12, "t": 22}, abs=0.01)
    assert found["b"].tasks == pytest.approx({"s": 30, "t": 20}, abs=0.01)


@pytest.mark.slow
def test_pruning_is_added(place: Path, tmp_path: Path, capsys: Any) -> None:
    pruning = ("--prune", "last,random", "--budgets", "0.3", "--protect", "0")
    tasks = ["STSBenchmark"]
    command = running.command(tmp_path / "out", [place / "gpt"], place / "data", tasks=tasks)
    (plain,) = plan_of(command, tmp_path / "plan.json")["models"]
    (model,) = plan_of([*command, *pruning], tmp_path / "plan.json")["models"]
    assert model["passes"] == plain["passes"] * (1 + 1 + 3)  # the model, last, three seeds
    assert plain["spans"]["pruning"] == {"low": 0, "high": 0}
    assert model["spans"]["pruning"]["high"] > 0
    assert "Pruning is a rough guess" in capsys.readouterr().out


@pytest.mark.slow
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
    assert main(["plan", *command[1:]]) == 1
    said = capsys.readouterr()
    assert "not estimated: local/bert: MemoryError: too large" in said.err
    assert "local/gpt" in said.out
    assert main(["plan", "quickstart", "--suite", "mmlu"]) == 2
    assert one_line(capsys) == "give one suite: quickstart or --suite mmlu"


def test_a_store_that_cannot_be_made(
    place: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    (own_cache / "states").parent.mkdir(parents=True, exist_ok=True)
    (own_cache / "states").write_text("no folder")
    models, out = [place / "bert"], tmp_path / "out"
    command = running.command(out, models, place / "data", tasks=["STSBenchmark"])
    assert main(["plan", *command[1:]]) == 2
    assert "states" in one_line(capsys)


def test_evaluations_are_timed_at_the_width_of_embeddings(
    place: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    widths: list[int] = []

    def evaluated(task: Any, width: int, similarity: str) -> Span:
        widths.append(width)
        return Span.about(1)

    monkeypatch.setattr("lrd_harness.runner.calibration.evaluated", evaluated)
    models = [place / "bert", tiny.save_st(tmp_path / "st", dense=8)]
    command = running.command(tmp_path / "out", models, place / "data", tasks=["STSBenchmark"])
    assert main(["plan", *command[1:]]) == 0
    assert widths == [32, 8]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_growth_finds_the_power(power: int) -> None:
    sizes: list[int] = []

    def run(n: int) -> float:
        sizes.append(n)
        return 0.02 * (n / 128) ** power

    span = grown(run, 20_000)
    assert max(sizes) < 20_000
    assert (span.low * span.high) ** 0.5 == pytest.approx(run(20_000), rel=1e-6)
    assert grown(run, 100) == Span.about(run(100))


@pytest.mark.parametrize("count", [1, 40, 3000])
def test_a_part_is_read_until_it_takes_long_enough(count: int) -> None:
    parts: list[int] = []

    def read(part: Sequence[int], folder: Path) -> Captured:
        assert len(set(part)) == len(part)
        (folder / "a.safetensors").write_bytes(b"0" * len(part))
        parts.append(len(part))
        return Captured(seconds=sum(part) / 100, tokens=2 * sum(part), forwarded=len(part))

    whole = list(range(1, count + 1))
    reading = calibrate(reversed(whole), lambda number: number, read)
    assert parts[-1] == min(count, 48)
    assert (reading.passes, reading.disk) == pytest.approx((count, count))
    assert reading.tokens == pytest.approx(2 * sum(whole))
    assert reading.seconds == pytest.approx(sum(whole) / 100)


def test_spans_in_words() -> None:
    spans = {(180, 360): "3-6 min", (0.1, 0.4): "< 1 s", (20, 45): "20-45 s"}
    spans |= {(5000, 9000): "1.4-2.5 h", (86_400 * 3, 86_400 * 5): "3-5 d"}
    assert {ends: str(Span(*ends)) for ends in spans} == spans


def test_a_slow_path_is_told_of(place: Path, tmp_path: Path, capsys: Any) -> None:
    """Of a model whose kernels are missing, with the speed that the trial had; of no other."""
    mamba = tiny.save("Mamba", tmp_path / "mamba")
    command = running.command(tmp_path / "out", [mamba, place / "bert"], place / "data")
    plan = plan_of(command, tmp_path / "plan.json")
    slow, usual = plan["models"]
    assert "mamba-ssm" in slow["slow"]
    assert usual["slow"] == ""
    low, high = (slow["spans"]["reading"][end] for end in ("low", "high"))
    assert slow["tokens"] / high < slow["speed"] < slow["tokens"] / low
    printed = " ".join(capsys.readouterr().out.split())
    assert f"about {slow['speed']:,.0f} tokens a second here" in printed
    assert printed.count("tokens a second") == 1
