"""`select`, `compare`, `probe`, `layer` on one's own texts: values, files, faults, bad input."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny

from lrd_harness import measure
from lrd_harness.capture import samples
from lrd_harness.cli import main
from lrd_harness.contracts import Choice, Metric, Text
from lrd_harness.studies import select
from lrd_harness.studies.values import halves

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
TEXTS = tiny.sentences(24)
RANK = "--plugins effective_rank"
COMMANDS = {
    "select": "--models one two --plugins nrs --draws 2",
    "compare": f"one two {RANK} --draws 2",
    "probe": f"one --kind random --shares 0 {RANK}",
    "layer": "one --by effective_rank",
}
BAD = {
    "select --models one two one": "is named twice",
    "select --models one two --plugins curvature": "curvature ranks no models",
    "select --models one two --max-texts 12": "at least 16 texts, got 12: give more, or --draws 0",
    "select --models one two --draws 1": "1 draws: intervals need at least 2",
    "select --models one two --draws 0 --texts few": "to rank models takes at least 8 texts, got 5",
    "compare one two --draws 0 --texts few": "a comparison needs at least 8 texts, got 5",
    "probe one --kind random --plugins lidar": "lidar compares augmented views, and a probe",
    "probe one --kind random --lengths 4": "--lengths needs --kind length",
    "probe one --kind length --shares 0": "--shares needs --kind repetition or random",
    "probe one --kind random --shares half": "--shares half: not numbers such as 0,0.5,1",
    "probe one --kind random --seed -1": "--seed -1: not a whole number",
    "probe one --kind random --task x": "give either --texts or --task",
    "probe one --kind random --set curvature.skip=-1": "skip",
    "probe one --kind random --texts few": "a probe needs at least 8 texts with words, got 5",
    "layer one --by cosine": "metric cosine chooses no layer",
    "layer one --by dime --set dime.alpha=0": "metric dime: alpha must be above 0, not 0",
    "layer one --save full": "is not empty",
    "layer one --by dime --texts few": "has 5 distinct texts; to choose a layer takes at least 8",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of 3, 3 and 2 blocks, one that gives NaN, texts, too few, and a folder with a file."""
    place = tmp_path_factory.mktemp("own-texts")
    tiny.save("Bert", place / "one")
    tiny.save("Bert", place / "two", seed=1)
    tiny.save("Bert", place / "short", num_hidden_layers=2)
    running.save_nan(place / "nan")
    tiny.write_rows(place / "texts.jsonl", [{"text": text} for text in TEXTS])
    (place / "few").write_text("\n".join(TEXTS[:5]))
    (place / "full").mkdir()
    (place / "full" / "file").touch()
    return place


@pytest.fixture(autouse=True)
def timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass is enough to say what a model costs."""
    monkeypatch.setattr(select, "ROUNDS", 1)


def run(folder: Path, typed: str, *more: object) -> int:
    """A command on the texts; names of files stand for those in the folder."""
    files = {path.name for path in folder.iterdir()} | {"nowhere"}
    command, *words = (str(folder / word) if word in files else word for word in typed.split())
    texts = () if "--texts" in words else ("--texts", str(folder / "texts.jsonl"))
    return main([command, "--quiet", *texts, *words, *map(str, more)])


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


@pytest.mark.parametrize("typed", BAD)
def test_bad_input_is_one_line(typed: str, folder: Path, capsys: Any) -> None:
    assert run(folder, typed) == 2
    assert BAD[typed] in running.one_line(capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_no_fault_of_a_metric(
    command: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> Any:
        raise RuntimeError("odd") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("lrd_harness.measuring.measure", full)
    assert run(folder, f"{command} {COMMANDS[command]}") == 2
    assert "no space left" in running.one_line(capsys)


@pytest.mark.parametrize("command", ["select", "compare", "probe"])
def test_where_files_cannot_be_written_no_model_is_opened(
    command: str, folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command's own files are written over, all others are left."""
    typed = f"{command} {COMMANDS[command]} --output"
    for _ in range(2):
        assert run(folder, typed, tmp_path / "out") == 0
    capsys.readouterr()
    monkeypatch.setattr("lrd_harness.models.text_model.TextModel.__init__", None)
    file = tmp_path / "file"
    file.write_text("")
    refused = {file / "x": "file/x cannot be made", file: "is a file, not a folder"}
    for name in (f"{command}.json", f"{command}.csv"):
        folder_of_another = tmp_path / name / "out"
        folder_of_another.mkdir(parents=True)
        (folder_of_another / name).write_text('{"mine": 1}')
        refused[folder_of_another] = (
            f"{folder_of_another / name} is there already and was not made by lrd-harness {command}"
        )
    for output, said in refused.items():
        assert run(folder, typed, output) == 2
        assert said in running.one_line(capsys)
        assert all(path.read_text() == '{"mine": 1}' for path in output.glob("*.*"))


def states(folder: Path, name: str, texts: list[str]) -> list[np.ndarray]:
    """Pooled states 0..L, (n, d), of texts that are run one by one."""
    model = tiny.open_model(folder / name, pooling="mean")
    passes = [model.states(model.tokenize([Text(text)])) for text in texts]
    layers = range(model.info.blocks + 1)
    return [np.array([states["raw", layer][0].numpy() for states in passes]) for layer in layers]


def test_select_gives_the_values_of_measure(folder: Path, tmp_path: Path, capsys: Any) -> None:
    typed = "select --models one short --pooling mean --plugins nrs --draws 40 --seed 3 --output"
    assert run(folder, typed, tmp_path) == 0
    printed = capsys.readouterr().out
    rows = rows_of(tmp_path / "select.csv")
    assert [row["rank"] for row in rows] == ["1", "2"]
    for row in rows:
        pooled = states(folder, row["model"].removeprefix("local/").partition(" ")[0], TEXTS)
        value = measure("nrs", pooled)["mean_jaccard"]
        assert float(row["value"]) == pytest.approx(value, rel=1e-3)
        on_halves = [[state[half] for state in pooled] for half in halves(24, 40, 3)]
        drawn = np.array([measure("nrs", half)["mean_jaccard"] for half in on_halves], dtype=float)
        reach = float(row["high"]) - float(row["value"])
        assert reach == pytest.approx(1.96 * np.std(drawn), rel=1e-2)
        assert float(row["halved"]) == pytest.approx(np.mean(drawn), rel=1e-3)
        assert f"{float(row['value']):#.4g}" in printed
        assert (row["n"], row["draws"], row["width"], row["bytes"]) == ("24", "40", "32", "128")
        assert row["unit"] == "0-1"
        assert float(row["seconds_1000"]) > 0
    document = json.loads((tmp_path / "select.json").read_text())
    assert document["made_by"] == "lrd-harness select"
    assert len(document["models"]) == 2
    assert all(line in " ".join(printed.split()) for line in document["remarks"])
    assert max(map(len, printed.splitlines())) <= 80


def test_compare_gives_the_values_of_measure(folder: Path, tmp_path: Path, capsys: Any) -> None:
    metrics = {"effective_rank": "effective_rank", "nrs": "jaccard", "dime": "dime"}
    typed = f"compare one two --pooling mean --plugins {','.join(metrics)} --draws 9 --output"
    assert run(folder, typed, tmp_path) == 0
    printed = capsys.readouterr().out
    rows = rows_of(tmp_path / "compare.csv")
    views = [view for text in TEXTS for view in samples.views(text, 2)]
    for column, name in (("a", "one"), ("b", "two")):
        pooled = states(folder, name, TEXTS)
        viewed = [state.reshape(len(TEXTS), 2, -1) for state in states(folder, name, views)]
        for metric, score in metrics.items():
            values = [float(row[column]) for row in rows if row["metric"] == metric]
            expected = measure(metric, viewed if metric == "dime" else pooled)[score]
            np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-4)
    for row in rows:
        low, high, difference = (float(row[name]) for name in ("low", "high", "difference"))
        assert difference == float(row["b"]) - float(row["a"])
        assert low < difference < high
        assert (row["apart"] == "True") == (low > 0 or high < 0)
        assert (row["n_a"], row["n_b"], row["draws"]) == ("24", "24", "9")
        assert f"{difference:+#.3g}" in printed
    marked = sum(row["apart"] == "True" for row in rows)
    assert sum(line.endswith(" *") for line in printed.splitlines()) == marked
    record = json.loads((tmp_path / "compare.json").read_text())
    assert (record["blocks"], len(record["values"])) == (3, len(rows))
    assert (record["pooling_a"], record["texts"], record["draws"]) == ("mean", 24, 9)
    assert run(folder, "compare one two --plugins nrs --draws 0 --output", tmp_path) == 0
    rows = rows_of(tmp_path / "compare.csv")
    assert {(row["low"], row["high"], row["apart"]) for row in rows} == {("", "", "False")}
    assert "95 %" not in capsys.readouterr().out


FAULTS = {  # on standard error, and what is measured all the same
    "select --models one two --draws 2 --plugins nrs,never": (
        ["local/one, never: RuntimeError: never", "local/two, never: RuntimeError: never"],
        "Ranks on 24 texts",
    ),
    "compare one two --draws 4 --plugins whole,never": (
        ["A, never: RuntimeError: never"],
        "No interval",
    ),
    "probe one --kind random --shares 0.5 --plugins never,effective_rank": (
        ["share random 0.5, never: RuntimeError: never"],
        "effective_rank ↑ by share random",
    ),
    "select --models one nan two --draws 2 --plugins nrs": (
        ["local/nan, nrs: NotFinite"],
        "Ranks on 24 texts",
    ),
    "select --models one two --draws 2 --plugins nrs --seed 1": (
        [f"local/{name}, what it costs: ZeroDivisionError" for name in ("one", "two")],
        "Ranks on 24 texts",
    ),
}


@pytest.mark.parametrize("typed", FAULTS)
def test_a_fault_costs_its_values_only(
    typed: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def never(states: Any) -> Any:
        raise RuntimeError("never")

    def whole(states: Any) -> Any:
        if len(states[0]) < 24:
            raise RuntimeError("a half")
        return {"whole": [1.0 for _ in states]}

    metrics = [Metric("never", never, selection=Choice("x")), Metric("whole", whole)]
    running.with_plugin(monkeypatch, lrd_metrics=lambda: metrics)
    if "--seed" in typed:
        monkeypatch.setattr(select, "cost", lambda *arguments: 1 / 0)
    assert run(folder, typed, "--output", tmp_path) == 1
    printed, (faults, shown) = capsys.readouterr(), FAULTS[typed]
    lines = printed.err.splitlines()
    assert len(lines) == len(faults)
    for line, fault in zip(lines, faults, strict=True):
        assert line.startswith(f"error: {fault}")
    assert shown in printed.out
    rows = rows_of(tmp_path / f"{typed.split()[0]}.csv")
    assert rows
    assert "never" not in {row["metric"] for row in rows}
    if "--seed" in typed:
        cells = [(row["rank"], row["width"], row["seconds_1000"]) for row in rows]
        assert cells == [("1", "32", ""), ("2", "32", "")]


def test_where_all_fails_no_value_is_shown(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert run(folder, f"compare one nan {RANK},curvature") == 1
    printed = capsys.readouterr()
    assert "blocks" in printed.out  # sizes need no states
    assert "effective_rank" not in printed.out
    lines = [line.split(": ")[:3] for line in printed.err.splitlines()]
    names = ("effective_rank", "curvature")
    assert lines == [["error", f"B, {name}", "NotFinite"] for name in names]
    shutil.copytree(folder / "nan", tmp_path / "other")
    typed = f"select --models nan {tmp_path / 'other'} --plugins nrs --draws 2 --output"
    assert run(folder, typed, tmp_path / "out") == 1
    assert "• No model could be ranked." in capsys.readouterr().out.splitlines()
    document = json.loads((tmp_path / "out" / "select.json").read_text())
    assert (document["values"], document["answer"]) == ([], ["No model could be ranked."])
