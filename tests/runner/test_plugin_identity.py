"""A value of an edited plugin is another value: nothing of an earlier version is taken for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import running
from running import Shown, one_line, records

from lrd_harness.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]

CODE = """
from importlib import import_module
from lrd_harness import Adapter, Metric, Pruner, Request, Score, Task, TaskFamily, hookimpl

def measure(states, factor=FACTOR):
    return {"size": factor * float(states[-1].norm())}

def tokens(states):
    return {"size": [RATE * float(h.norm()) for h in states]}

def texts():
    return [Request(f"cat {i} sat on {i * i} mats") for i in range(12)]

def score(view):
    return Score(SCORE, "of the test")

def opened(checkpoint, options):
    plain = import_module("lrd_harness.plugins.adapters.plain")
    model = plain.open_plain(checkpoint, options, adapter="mine", default_pooling="mean")
    states = model.states
    model.states = lambda *a: {key: SCALE * state for key, state in states(*a).items()}
    return model

@hookimpl
def lrd_metrics():
    return [Metric("size", measure), Metric("token_size", tokens, needs="tokens")]

@hookimpl
def lrd_adapters():
    return [Adapter("mine", lambda checkpoint: False, opened)]

@hookimpl
def lrd_tasks():
    made = lambda name, options: Task(f"made:{name}", texts, score, requests=texts)
    return [Task("Mine", texts, score, requests=texts), TaskFamily("made", dict, made)]
"""
FIRST = {"FACTOR": "1.0", "RATE": "1.0", "SCORE": "0.25", "SCALE": "1.0"}


def put(folder: Path, name: str = "mine.py", **changes: str) -> Path:
    """The plugin, all its parts in one file, with these constants changed."""
    source = CODE
    for word, number in {**FIRST, **changes}.items():
        source = source.replace(word, number)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(source)
    return folder / name


def run(out: Path, place: Path, file: Path, task: str = "STSBenchmark", model: str = "") -> int:
    words = running.command(out, [], place / "data", tasks=[task])
    words[words.index("frenet,nrs")] = "size" if model else "size,token_size"
    words[2:2] = [f"{model}{place / 'bert'}"]
    return main([*words, "--layers", "last", "--load", str(file)])


def values(out: Path, metric: str) -> list[float]:
    """What was recorded of a metric, in the order of the runs."""
    return [r["values"].get("size") or r["values"]["max_size"] for r in _of(out, metric)]


def _of(out: Path, metric: str) -> list[dict[str, Any]]:
    return [row for row in records(out, "metric") if row["metric"] == metric]


def test_an_edited_metric_is_measured_again_and_shown_alone(place: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", put(tmp_path)
    assert run(out, place, file) == 0
    moved = put(tmp_path / "elsewhere", "renamed.py")
    assert run(out, place, moved) == 0
    assert len(values(out, "size")) == len(values(out, "token_size")) == 1  # taken up again
    for changes in ({"FACTOR": "2.0"}, {"FACTOR": "2.0", "RATE": "3.0"}):
        assert run(out, place, put(tmp_path, **changes)) == 0
    (first, double, same), (a, b, triple) = values(out, "size"), values(out, "token_size")
    assert (double / first, same / first, b / a, triple / a) == pytest.approx((2, 2, 1, 3))
    assert len({row["version"] for row in _of(out, "size")}) == 3
    assert [row["parameters"]["factor"] for row in _of(out, "size")] == [1.0, 2.0, 2.0]
    plugin, _ = json.loads((out / "run.json").read_text())["plugins"]  # and under its other name
    assert (plugin["name"], plugin["provider"]) == ("mine", "mine")
    assert _of(out, "size")[-1]["version"] == f"1+{plugin['version']}"
    metric, token = json.loads((out / "run.json").read_text())["metrics"]
    assert metric["version"] == token["version"] == _of(out, "size")[-1]["version"]


def test_states_of_an_edited_adapter_are_read_again(
    place: Path, tmp_path: Path, capsys: Shown
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(one, place, put(tmp_path), model="mine:") == 0
    assert running.counters(one)["forwarded"] > 0
    file = put(tmp_path, SCALE="2.0")
    capsys.readouterr()
    assert run(one, place, file, model="mine:") == 2
    assert "results of local/bert [mine] as read by mine 1+" in (line := one_line(capsys))
    assert line.endswith(": give another --output")
    assert run(two, place, file, model="mine:") == 0
    (before,), (after,) = values(one, "size"), values(two, "size")
    assert after / before == pytest.approx(2)
    capsys.readouterr()
    assert main(["merge", str(one), str(two), "--output", str(tmp_path / "whole")]) == 2
    assert "they are not of one run: " in one_line(capsys)


@pytest.mark.parametrize("task", ["Mine", "made:one"])
def test_scores_of_an_edited_task_are_not_taken_for_its_own(
    task: str, place: Path, tmp_path: Path, capsys: Shown
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for _ in range(2):
        assert run(one, place, put(tmp_path), task) == 0
    assert [row["score"] for row in records(one, "score")] == [0.25]
    file = put(tmp_path, SCORE="0.75")
    capsys.readouterr()
    assert run(one, place, file, task) == 2
    assert f"{one} holds results of {task} in its version 1+" in one_line(capsys)
    assert run(two, place, file, task) == 0
    assert [row["score"] for row in records(two, "score")] == [0.75]
    capsys.readouterr()
    assert main(["merge", str(one), str(two), "--output", str(tmp_path / "whole")]) == 2
    assert f"version of {task} is 1+" in one_line(capsys)


def test_what_is_built_in_has_no_version_of_code(place: Path, tmp_path: Path) -> None:
    """So that a folder of an earlier release is taken up again."""
    out = tmp_path / "out"
    assert running.run(out, [place / "bert"], place / "data", tasks=["STSBenchmark"]) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["plugins"] == []
    assert [entry["adapter"] for entry in run["models"]] == ["encoder"]
    assert [sorted(entry) for entry in run["tasks"]] == [["name", "type"]]
    assert {entry["version"] for entry in run["metrics"]} == {"1"}
