"""Faults of a unit are recorded, tried again in the next run, and cost nothing but themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
from running import Patch, Shown, numbers, records, with_plugin
from safetensors.torch import load_file, save_file

from lrd_harness.contracts import Metric, Request, Score, Task
from lrd_harness.models import text_model
from lrd_harness.runner import units

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_model_pooled_at_one_token(place: Path, tmp_path: Path) -> None:
    """State 0 is then the same for all texts: no score there, and metrics start above it."""
    out = tmp_path / "out"
    more = ["--pooling", "cls", "--plugins", "frenet,nrs,gfmi"]
    tasks = ["STSBenchmark"]
    assert running.run(out, [place / "bert"], place / "data", *more, tasks=tasks) == 0
    (undefined,) = records(out, "undefined")
    assert (undefined["layer"], undefined["error"]) == (0, "every text has the same state there")
    assert {r["layer"] for r in records(out, "score")} == {1, 2, 3}
    found = {r["metric"]: r for r in records(out, "metric")}
    assert {r["start"] for r in found.values()} == {1}
    assert found["frenet"]["profiles"]["speed"]["layers"] == [1, 2]
    assert found["gfmi"]["profiles"]["auc"]["layers"] == [1, 2, 3]
    before = records(out)
    assert running.run(out, [place / "bert"], place / "data", *more, tasks=tasks) == 0
    assert records(out) == before


def test_states_that_are_no_numbers(place: Path, tmp_path: Path, capsys: Shown) -> None:
    out = tmp_path / "out"
    models = [place / "nan", place / "bert"]
    assert running.run(out, models, place / "data", tasks=["STSBenchmark"]) == 1
    shown = capsys.readouterr().out
    assert "local/bert" in shown
    assert "Errors: 6" in shown
    failed = records(out, "error")
    assert {r["model"] for r in failed} == {"local/nan"}
    assert all(r["error"].startswith("NotFinite") for r in failed)
    assert {(r["layer"], r["metric"]) for r in failed} == {
        *((layer, None) for layer in range(4)),
        *((None, "frenet"), (None, "nrs")),
    }
    assert not any("local/nan" in unit for unit in numbers(out))
    assert len([u for u in numbers(out) if "local/bert" in u]) == 6
    assert json.loads((out / "run.json").read_text())["errors"] == 6


class Broken:
    """A metric and two tasks that fail until they are mended."""

    def __init__(self) -> None:
        self.whole = False
        self.calls: list[str] = []
        self.texts = [Request(t) for t in tiny.sentences(20)]

    def fault(self, name: str) -> None:
        self.calls.append(name)
        if not self.whole:
            raise ValueError(f"{name} is broken\nin two lines")

    def measure(self, states: Any) -> dict[str, float]:
        self.fault("measure")
        return {"x": 1.0}

    def odd(self, states: Any) -> dict[str, Any]:
        return {"x": 1.0} if self.whole else {"x": float("nan")}

    def evaluate(self, view: Any) -> Score:
        view.encode([r.text for r in self.texts], self.tasks()[0])
        if getattr(view, "layer", None) == 1:
            self.fault("evaluate")
        return Score(0.5, "accuracy")

    def silent(self, view: Any) -> Score:
        self.fault("dry run")
        return Score(0.5, "accuracy")

    def reads(self) -> list[Request]:
        self.fault("texts")
        return self.texts

    def tasks(self) -> list[Task]:
        return [
            Task("EvaluateFails", lambda: self.texts, self.evaluate),
            Task("DryRunFails", lambda: self.texts, self.silent),
            Task("TextsFail", self.reads, None),
        ]


def test_what_raises_is_recorded_and_tried_again(
    place: Path, tmp_path: Path, monkeypatch: Patch, capsys: Shown
) -> None:
    broken = Broken()
    metrics = [Metric("raises", broken.measure), Metric("gives-nan", broken.odd)]
    with_plugin(monkeypatch, lrd_metrics=lambda: metrics, lrd_tasks=broken.tasks)
    out = tmp_path / "out"
    tasks = ["EvaluateFails", "DryRunFails", "TextsFail", "STSBenchmark"]

    def run() -> int:
        more = ["--plugins", "raises", "gives-nan", "nrs"]
        return running.run(out, [place / "bert", place / "gpt"], place / "data", *more, tasks=tasks)

    assert run() == 1
    failed = [r for r in records(out, "error") if r["model"] == "local/bert"]
    assert {(r["task"], r["layer"], r["metric"]) for r in failed} == {
        ("EvaluateFails", 1, None),
        ("DryRunFails", None, None),
        ("TextsFail", None, None),
        ("EvaluateFails", None, "raises"),
        ("STSBenchmark", None, "raises"),
        ("EvaluateFails", None, "gives-nan"),
        ("STSBenchmark", None, "gives-nan"),
    }
    assert all("Traceback" in r["traceback"] for r in failed)
    nan = next(r for r in failed if r["metric"] == "gives-nan")
    assert nan["error"] == "NotFinite: the score x is nan"
    done = numbers(out)
    assert len(done) == 2 * (3 + 4 + 2)  # layers of two tasks, nrs on both
    assert "Errors: 14" in capsys.readouterr().out

    broken.whole = True
    before = len(records(out))
    assert run() == 0
    added = [r for r in records(out)[before:] if r["kind"] in ("score", "metric")]
    assert {r["unit"] for r in added}.isdisjoint(done)
    assert len(added) == 2 * (1 + 4 + 4 + 3 + 3)  # the layer, DryRunFails, "raises", odd, nrs
    assert "Errors" not in capsys.readouterr().out
    assert json.loads((out / "leaderboard.json").read_text())["errors"] == []
    before = len(records(out))
    assert run() == 0
    assert len(records(out)) == before


def test_a_model_that_cannot_be_opened_or_read_costs_only_itself(
    place: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    broken = Path(shutil.copytree(place / "bert", tmp_path / "broken"))
    weights = broken / "model.safetensors"
    tensors = load_file(weights)
    del tensors[next(name for name in tensors if "layer.1" in name)]
    save_file(tensors, weights, metadata={"format": "pt"})
    out = tmp_path / "out"
    tasks = ["STSBenchmark"]
    assert running.run(out, [broken, place / "gpt"], place / "data", tasks=tasks) == 1
    (error,) = records(out, "error")
    assert (error["model"], error["task"]) == ("local/broken", None)
    assert len(numbers(out)) == 6

    with monkeypatch.context() as patch:
        original = text_model.TextModel.states

        def states(self: Any, batch: Sequence[Any]) -> Any:
            if hasattr(self, "identity"):
                raise RuntimeError("out of memory")
            return original(self, batch)

        patch.setattr(text_model.TextModel, "states", states)
        assert running.run(out, [place / "bert"], place / "data", tasks=tasks) == 1
    assert records(out, "error")[-1]["error"] == "RuntimeError: out of memory"
    assert running.run(out, [place / "bert"], place / "data", tasks=tasks) == 0
    left = json.loads((out / "leaderboard.json").read_text())["tables"]["errors"]["rows"]
    assert [e["model"] for e in left] == ["local/broken"]


def test_a_reporter_that_raises_costs_only_its_own_file(
    place: Path, tmp_path: Path, monkeypatch: Patch, capsys: Shown
) -> None:
    from lrd_harness.contracts import Reporter

    def write(board: Any) -> str:
        raise KeyError("column")

    with_plugin(monkeypatch, lrd_reporters=lambda: [Reporter("odd", write, ".odd")])
    more = ["--layers", "last"]
    assert running.run(tmp_path / "out", [place / "gpt"], place / "data", *more) == 1
    assert "Leaderboard" in capsys.readouterr().out
    assert (tmp_path / "out" / "leaderboard.md").exists()


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


def test_a_score_that_is_none_though_nothing_was_encoded(
    place: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """That is an error of the task, and no word on the layer."""
    texts = [Request(t) for t in tiny.sentences(20)]
    task = Task("Encodes nothing", lambda: texts, lambda view: Score(float("nan"), "accuracy"))
    with_plugin(monkeypatch, lrd_tasks=lambda: [task])
    out = tmp_path / "out"
    assert running.run(out, [place / "bert"], place / "data", tasks=[task.name]) == 1
    assert records(out, "undefined") == []
    assert all("gave nan" in r["error"] for r in records(out, "error"))
