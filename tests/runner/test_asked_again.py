"""The same folder, asked for something else: new numbers where they differ, the old where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import yaml
from running import Patch, Shown, one_line, records

from lrd_harness.cli import main

pytestmark = pytest.mark.usefixtures("own_cache")


def shown(out: Path, metric: str) -> float:
    """The value of a metric in the leaderboard."""
    board = json.loads((out / "leaderboard.json").read_text())
    (row,) = board["tables"]["ranking"]["rows"]
    (value,) = (row[name] for name in row if name.startswith(f"{metric}."))
    return float(value)


def run_json(out: Path) -> Any:
    return json.loads((out / "run.json").read_text())


def test_other_prompts_are_another_reading(place: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "mine.yaml"
    found = []
    for prompt in ("query: ", "zebra zebra zebra: "):
        entry = {"model": str(place / "bert"), "prompts": {"STS": prompt}}
        settings = {"task_data": str(place / "data")}
        suite = {"models": [entry], "tasks": ["STSBenchmark"], "plugins": ["nrs"]}
        file.write_text(yaml.safe_dump({**suite, "settings": settings}))
        assert main(["run", "--suite", str(file), "--output", str(out), "--quiet"]) == 0
        found.append({r["model"]: r["score"] for r in records(out, "score") if r["layer"] == 3})
    assert len(found[0]) == 1
    assert len(found[1]) == 2
    assert len(set(found[1].values())) == 2


def test_the_board_shows_what_was_asked_for_last(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--plugins", "nrs", "--layers", "last"]
    seen = []
    for parameters in ([], ["--set", "nrs.k=3"], [], ["--set", "nrs.k=20.0"]):
        assert running.run(out, [place / "bert"], place / "data", *more, *parameters) == 0
        seen.append(shown(out, "nrs"))
        held = run_json(out)["metrics"][0]["parameters"]
        assert held == {"k": 3 if "nrs.k=3" in parameters else 20, "anchors": 500}
    assert seen[0] == seen[2] == seen[3] != seen[1]
    # a default that is typed is no other unit
    assert len(records(out, "metric")) == 2 * len(running.TASKS)
    assert {r["parameters"]["k"] for r in records(out, "metric")} == {3, 20}
    assert main(["leaderboard", str(out), "--format", "json", "--output", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x").read_text() == (out / "leaderboard.json").read_text()


def test_an_error_of_settings_given_up_is_not_shown(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ["--plugins", "prompt_entropy", "--layers", "last", "--tasks", "STSBenchmark"]
    found = []
    for parameters in (["--set", "prompt_entropy.skip=2000"], []):
        running.run(out, [place / "bert"], place / "data", *more, *parameters)
        board = json.loads((out / "leaderboard.json").read_text())
        found.append(
            [(e["metric"], e["error"]) for e in board["tables"].get("errors", {"rows": []})["rows"]]
        )
    why = "NotEnoughTexts: prompt_entropy: no text has enough tokens with these parameters"
    assert found == [[("prompt_entropy", why)], []]
    assert len(records(out, "error")) == 1


def test_an_edited_plugin_file_is_another_version(place: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "mine.py"
    code = """
from lrd_harness import Choice, Metric, hookimpl

@hookimpl
def lrd_metrics():
    return [Metric("mine", lambda states: {"x": VALUE}, selection=Choice("x"))]
"""
    for value in (1.0, 9.0):
        file.write_text(code.replace("VALUE", str(value)))
        more = ["--load", str(file), "--plugins", "mine", "--layers", "last"]
        assert running.run(out, [place / "bert"], place / "data", *more) == 0
        assert shown(out, "mine") == value


def test_what_is_typed_replaces_what_the_suite_says(place: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "mine.yaml"
    entry = {"model": str(place / "gpt"), "pooling": "mean-no-sink"}
    settings = {"task_data": str(place / "data"), "layers": "last"}
    suite = {"models": [entry], "tasks": ["STSBenchmark"], "plugins": ["nrs"]}
    file.write_text(yaml.safe_dump({**suite, "settings": settings}))
    command = ["run", "--suite", str(file), "--output", str(out), "--quiet"]
    assert main([*command, "--pooling", "mean"]) == 0
    assert {r["pooling"] for r in records(out, "model")} == {"mean"}
    # a reading that is not the model's own is no result of the model itself in mteb's files
    own = [p for p in out.glob("mteb/results/*/*/*.json") if p.name == "STSBenchmark.json"]
    assert own == []
    assert len(list(out.glob("mteb/results/*/*/experiments/*/STSBenchmark.json"))) == 2


def test_the_same_data_under_another_path_is_the_same(
    place: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    out = tmp_path / "out"
    more = ["--plugins", "nrs", "--layers", "last"]
    assert running.run(out, [place / "bert"], place / "data", *more) == 0
    monkeypatch.chdir(place)
    assert running.run(out, [place / "bert"], Path("data"), *more) == 0
    assert len(records(out, "score")) == len(running.TASKS)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nrs.k=.nan", "parameter k of metric nrs is '.nan'"),
        ("nrs.k=.inf", "parameter k of metric nrs is '.inf'"),
        ("frenet.space=both", "space"),
    ],
)
def test_parameters_that_no_metric_takes(
    value: str, reason: str, place: Path, tmp_path: Path, capsys: Shown
) -> None:
    out = tmp_path / "out"
    assert running.run(out, [place / "bert"], place / "data", "--set", value) == 2
    assert reason in one_line(capsys)
    assert not out.exists()


def test_another_folder_of_the_same_name_is_another_model(place: Path, tmp_path: Path) -> None:
    """In a second call, and by a link; the first goes on under its name, also where it is moved."""
    a, b = (tiny.save("Bert", tmp_path / p / "model", seed=i) for i, p in enumerate("ab"))
    (tmp_path / "link").symlink_to(b, target_is_directory=True)
    out, data, last = tmp_path / "out", place / "data", ("--layers", "last")

    def names(*models: Path) -> list[str]:
        assert running.run(out, list(models), data, *last, tasks=["STSBenchmark"]) == 0
        return [record["model"] for record in records(out, "score")]

    assert names(a) == ["local/model"]
    assert names(b) == ["local/model", "local/b/model"]
    assert sorted(names(b, a)) == ["local/b/model", "local/model"]
    assert running.counters(out)["forwarded"] == 0
    assert sorted(names(tmp_path / "link")) == ["local/b/model", "local/link", "local/model"]
    moved = a.rename(tmp_path / "model")
    assert sorted(names(moved)) == ["local/b/model", "local/link", "local/model"]
    assert [entry["name"] for entry in run_json(out)["models"]] == [
        "local/model",
        "local/b/model",
        "local/link",
    ]
