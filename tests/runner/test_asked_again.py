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

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
LAST = ("--layers", "last")
STS = ["STSBenchmark"]


def shown(out: Path, metric: str) -> float:
    """The value of a metric in the leaderboard."""
    board = json.loads((out / "leaderboard.json").read_text())
    (row,) = board["tables"]["ranking"]["rows"]
    (value,) = (row[name] for name in row if name.startswith(f"{metric}."))
    return float(value)


def run_json(out: Path) -> Any:
    return json.loads((out / "run.json").read_text())


def run_suite(out: Path, place: Path, model: dict[str, Any], *more: str) -> None:
    """A run of a suite of one model, at its last layer."""
    settings = {"task_data": str(place / "data"), "layers": "last"}
    suite = {"models": [model], "tasks": STS, "plugins": ["nrs"], "settings": settings}
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(suite))
    assert main(["run", "--suite", str(file), "--output", str(out), "--quiet", *more]) == 0


def test_other_prompts_are_another_reading(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for prompt in ("query: ", "zebra zebra zebra: "):
        run_suite(out, place, {"model": str(place / "bert"), "prompts": {"STS": prompt}})
    scores = {r["model"]: r["score"] for r in records(out, "score")}
    assert len(scores) == len(set(scores.values())) == 2


def test_what_is_typed_replaces_what_the_suite_says(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    entry = {"model": str(place / "gpt"), "pooling": "mean-no-sink"}
    run_suite(out, place, entry, "--pooling", "mean")
    assert {r["pooling"] for r in records(out, "model")} == {"mean"}
    # a reading that is not the model's own is no result of the model itself in mteb's files
    assert list(out.glob("mteb/results/*/*/STSBenchmark.json")) == []
    assert len(list(out.glob("mteb/results/*/*/experiments/*/STSBenchmark.json"))) == 2


def test_the_board_shows_what_was_asked_for_last(
    place: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    out, values = tmp_path / "out", []
    monkeypatch.chdir(place)
    for parameter in (None, "nrs.k=3", None, "nrs.k=20.0"):
        more = ["--plugins", "nrs", *LAST, *(["--set", parameter] if parameter else [])]
        # the same data under another path are the same
        data = Path("data") if parameter else place / "data"
        assert running.run(out, [place / "bert"], data, *more, tasks=STS) == 0
        values.append(shown(out, "nrs"))
        parameters = run_json(out)["metrics"][0]["parameters"]
        assert parameters == {"k": 3 if parameter == "nrs.k=3" else 20, "anchors": 500}
    assert values[0] == values[2] == values[3] != values[1]
    # a default that is typed is no other unit
    assert [r["parameters"]["k"] for r in records(out, "metric")] == [20, 3]
    assert len(records(out, "score")) == 1
    assert main(["leaderboard", str(out), "--format", "json", "--output", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x").read_text() == (out / "leaderboard.json").read_text()


def test_an_error_of_settings_given_up_is_not_shown(place: Path, tmp_path: Path) -> None:
    out, errors = tmp_path / "out", []
    for parameters in (["--set", "prompt_entropy.skip=2000"], []):
        more = ["--plugins", "prompt_entropy", *LAST, *parameters]
        running.run(out, [place / "bert"], place / "data", *more, tasks=STS)
        tables = json.loads((out / "leaderboard.json").read_text())["tables"]
        rows = tables.get("errors", {"rows": []})["rows"]
        errors.append([(row["metric"], row["error"]) for row in rows])
    why = "NotEnoughTexts: prompt_entropy: no text has enough tokens with these parameters"
    assert errors == [[("prompt_entropy", why)], []]
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
        more = ["--load", str(file), "--plugins", "mine", *LAST]
        assert running.run(out, [place / "bert"], place / "data", *more, tasks=STS) == 0
        assert shown(out, "mine") == value


def test_parameters_that_no_metric_takes(place: Path, tmp_path: Path, capsys: Shown) -> None:
    out = tmp_path / "out"
    for value in (".nan", ".inf"):
        assert running.run(out, [place / "bert"], place / "data", "--set", f"nrs.k={value}") == 2
        assert f"parameter k of metric nrs is '{value}'" in one_line(capsys)
    assert not out.exists()


def test_another_folder_of_the_same_name_is_another_model(place: Path, tmp_path: Path) -> None:
    """In a second call, and by a link; the first goes on under its name, also where it is moved."""
    a, b = (tiny.save("Bert", tmp_path / p / "model", seed=i) for i, p in enumerate("ab"))
    (tmp_path / "link").symlink_to(b, target_is_directory=True)
    out = tmp_path / "out"

    def names(*models: Path) -> list[str]:
        more = ("--plugins", "nrs", *LAST)
        assert running.run(out, list(models), place / "data", *more, tasks=STS) == 0
        return [record["model"] for record in records(out, "score")]

    assert names(a) == ["local/model"]
    assert names(b) == ["local/model", "local/b/model"]
    every = ["local/model", "local/b/model", "local/link"]
    assert sorted(names(b, a, tmp_path / "link")) == sorted(every)
    assert sorted(names(a.rename(tmp_path / "model"))) == sorted(every)
    assert [entry["name"] for entry in run_json(out)["models"]] == every
