"""Faults of a unit are recorded, tried again in the next run, and cost nothing but themselves."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import running
import tiny
from running import Patch, Shown, numbers, records, with_plugin
from safetensors.torch import load_file, save_file

from lrd_harness.cli import main
from lrd_harness.contracts import Metric, Reporter, Request, Score, Task
from lrd_harness.models import text_model
from lrd_harness.runner import units

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
STS = ["STSBenchmark"]


def test_a_model_pooled_at_one_token(place: Path, tmp_path: Path) -> None:
    """State 0 is then the same for all texts: no score there, and metrics start above it."""
    out = tmp_path / "out"
    more = ["--pooling", "cls", "--plugins", "frenet,nrs,gfmi"]
    assert running.run(out, [place / "bert"], place / "data", *more, tasks=STS) == 0
    (undefined,) = records(out, "undefined")
    assert (undefined["layer"], undefined["error"]) == (0, "every text has the same state there")
    assert {r["layer"] for r in records(out, "score")} == {1, 2, 3}
    metrics = {r["metric"]: r for r in records(out, "metric")}
    assert {r["start"] for r in metrics.values()} == {1}
    assert metrics["frenet"]["profiles"]["speed"]["layers"] == [1, 2]
    assert metrics["gfmi"]["profiles"]["auc"]["layers"] == [1, 2, 3]
    before = records(out)
    assert running.run(out, [place / "bert"], place / "data", *more, tasks=STS) == 0
    assert records(out) == before


def test_states_that_are_no_numbers(place: Path, tmp_path: Path, capsys: Shown) -> None:
    out = tmp_path / "out"
    assert running.run(out, [place / "nan", place / "bert"], place / "data", tasks=STS) == 1
    shown = capsys.readouterr().out
    assert "local/bert" in shown
    assert "Errors: 6" in shown
    errors = records(out, "error")
    assert {r["model"] for r in errors} == {"local/nan"}
    assert all(r["error"].startswith("NotFinite") for r in errors)
    assert {(r["layer"], r["metric"]) for r in errors} == {
        *((layer, None) for layer in range(4)),
        *((None, "frenet"), (None, "nrs")),
    }
    assert [unit.partition("@")[0] for unit in numbers(out)] == ["local/bert"] * 6
    assert json.loads((out / "run.json").read_text())["errors"] == 6


class Broken:
    """Metrics and tasks that fail until they are mended."""

    def __init__(self) -> None:
        self.mended = False
        self.texts = [Request(t) for t in tiny.sentences(20)]

    def fault(self, name: str) -> None:
        if not self.mended:
            raise ValueError(f"{name} is broken\nin two lines")

    def measure(self, states: Any) -> dict[str, float]:
        self.fault("measure")
        return {"x": 1.0}

    def odd(self, states: Any) -> dict[str, Any]:
        return {"x": 1.0} if self.mended else {"x": float("nan")}

    def evaluate(self, view: Any) -> Score:
        view.encode([r.text for r in self.texts], self.tasks()[0])
        if getattr(view, "layer", None) == 1:
            self.fault("evaluate")
        return Score(0.5, "accuracy")

    def silent(self, view: Any) -> Score:
        self.fault("dry run")
        return Score(0.5, "accuracy")

    def empty(self, view: Any) -> Score:
        """No score though nothing was encoded: an error of the task, and no word on the layer."""
        return Score(0.5 if self.mended else float("nan"), "accuracy")

    def reads(self) -> list[Request]:
        self.fault("texts")
        return self.texts

    def tasks(self) -> list[Task]:
        return [
            Task("EvaluateFails", lambda: self.texts, self.evaluate),
            Task("DryRunFails", lambda: self.texts, self.silent),
            Task("TextsFail", self.reads, None),
            Task("EncodesNothing", lambda: self.texts, self.empty, requests=lambda: self.texts),
        ]


def test_what_raises_is_recorded_and_tried_again(
    place: Path, tmp_path: Path, monkeypatch: Patch, capsys: Shown
) -> None:
    broken = Broken()
    metrics = [Metric("raises", broken.measure), Metric("gives-nan", broken.odd)]
    with_plugin(monkeypatch, lrd_metrics=lambda: metrics, lrd_tasks=broken.tasks)
    out = tmp_path / "out"
    tasks = [task.name for task in broken.tasks()]

    def run() -> int:
        more = ["--plugins", "raises", "gives-nan", "nrs"]
        return running.run(out, [place / "bert"], place / "data", *more, tasks=tasks)

    assert run() == 1
    errors = records(out, "error")
    nothing = [("EncodesNothing", layer, None) for layer in range(4)]
    failed = [("EvaluateFails", 1, None), ("DryRunFails", None, None), ("TextsFail", None, None)]
    failed += [(t, None, m) for m in ("raises", "gives-nan") for t in (tasks[0], tasks[3])]
    assert {(r["task"], r["layer"], r["metric"]) for r in errors} == {*failed, *nothing}
    assert all("Traceback" in r["traceback"] for r in errors)
    nan = {r["error"] for r in errors if r["metric"] == "gives-nan"}
    assert nan == {"NotFinite: the score x is nan"}
    assert all("gave nan" in r["error"] for r in errors if r["layer"] not in (None, 1))
    assert records(out, "undefined") == []
    done = numbers(out)
    assert len(done) == 3 + 2  # layers of EvaluateFails, nrs on two tasks
    assert f"Errors: {len(errors)}" in capsys.readouterr().out

    broken.mended = True
    before = len(records(out))
    assert run() == 0
    added = [r for r in records(out)[before:] if r["kind"] in ("score", "metric")]
    assert {r["unit"] for r in added}.isdisjoint(done)
    # the layer, all of DryRunFails and of EncodesNothing, two metrics on four tasks, nrs on two
    assert len(added) == 1 + 4 + 4 + 8 + 2
    assert "Errors" not in capsys.readouterr().out
    assert json.loads((out / "leaderboard.json").read_text())["errors"] == []
    before = len(records(out))
    assert run() == 0
    assert len(records(out)) == before


def test_how_long_a_model_took_that_cannot_be_opened(
    place: Path, tmp_path: Path, monkeypatch: Patch, capsys: Shown
) -> None:
    clock = SimpleNamespace(monotonic=itertools.count(0.0, 2.0).__next__)
    monkeypatch.setattr("lrd_harness.progress.time", clock)
    monkeypatch.setattr(text_model.TextModel, "__init__", lambda *_: 1 / 0)
    asked = running.command(tmp_path / "out", [place / "bert"], place / "data", tasks=STS)
    asked.remove("--quiet")
    assert main(asked) == 1
    assert "[1/1] local/bert: opening (2.0 s)" in capsys.readouterr().err


def test_a_model_or_a_reporter_that_fails_costs_only_itself(
    place: Path, tmp_path: Path, monkeypatch: Patch, capsys: Shown
) -> None:
    broken = Path(shutil.copytree(place / "bert", tmp_path / "broken"))
    weights = broken / "model.safetensors"
    tensors = load_file(weights)
    del tensors[next(name for name in tensors if "layer.1" in name)]
    save_file(tensors, weights, metadata={"format": "pt"})
    out = tmp_path / "out"
    original = text_model.TextModel.states

    def states(self: Any, batch: Sequence[Any]) -> Any:
        if hasattr(self, "identity") and self.identity["adapter"] == "encoder":
            raise RuntimeError("out of memory")
        return original(self, batch)

    def run(*models: Path) -> int:
        return running.run(out, list(models), place / "data", "--layers", "last", tasks=STS)

    with monkeypatch.context() as patch:
        patch.setattr(text_model.TextModel, "states", states)
        assert run(broken, place / "bert", place / "gpt") == 1
    unopened, unread = records(out, "error")
    assert (unopened["model"], unopened["task"]) == ("local/broken", None)
    assert (unread["model"], unread["error"]) == ("local/bert", "RuntimeError: out of memory")
    assert len(numbers(out)) == 3
    assert run(place / "bert") == 0
    errors = json.loads((out / "leaderboard.json").read_text())["tables"]["errors"]["rows"]
    assert [error["model"] for error in errors] == ["local/broken"]

    def write(board: Any) -> str:
        raise KeyError("column")

    with_plugin(monkeypatch, lrd_reporters=lambda: [Reporter("odd", write, ".odd")])
    (out / "leaderboard.md").unlink()
    capsys.readouterr()
    assert run(place / "bert") == 1
    assert "Leaderboard" in capsys.readouterr().out
    assert (out / "leaderboard.md").exists()


def test_an_interrupted_run_says_how_to_go_on(place: Path, tmp_path: Path, capsys: Shown) -> None:
    out = tmp_path / "out"
    with running.interrupted(units, "evaluate", 4):
        assert running.run(out, [place / "bert"], place / "data") == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"--output {out} goes on where it stopped" in captured.err
    run = json.loads((out / "run.json").read_text())
    assert run["finished"] is None
    assert run["counters"]["total"]["forwarded"] > 0
    assert len(records(out, "score")) == 3
    assert running.run(out, [place / "bert"], place / "data") == 0
    names = [r["unit"] for r in records(out, "score", "metric")]
    assert len(names) == len(set(names)) == 12
