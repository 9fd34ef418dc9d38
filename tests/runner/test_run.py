"""The run: everything once, nothing twice; what is there is taken up, what is new is added."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import running
import tiny
from running import Patch, Shown, counters, numbers, one_line, records, with_plugin

from lrd_harness.cli import main
from lrd_harness.contracts import Metric, Request, Score, Task
from lrd_harness.models import text_model

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def forwards(monkeypatch: Patch) -> list[int]:
    """How many texts each forward pass of a model got, counted where the model runs."""
    seen: list[int] = []
    original = text_model.TextModel.states

    def states(self: Any, batch: Sequence[Any]) -> Any:
        if hasattr(self, "identity"):  # not the probe when a model is opened
            seen.append(len(batch))
        return original(self, batch)

    monkeypatch.setattr(text_model.TextModel, "states", states)
    return seen


def texts_of(data: Path, *tasks: str) -> set[str]:
    """Every text that is in the data of these tasks."""
    found: set[str] = set()
    for task in tasks:
        for file in (data / task).glob("*.jsonl"):
            for row in map(json.loads, file.read_text().splitlines()):
                found |= {row[k] for k in ("sentence1", "sentence2", "text") if k in row}
    return found


def test_mtebs_own_tools_read_its_files(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert running.run(out, [place / "bert"], place / "data") == 0
    cache = mteb.ResultCache(out / "mteb")
    found: dict[str, dict[int, float]] = {r["task"]: {} for r in records(out, "score")}
    for r in records(out, "score"):
        found[r["task"]][r["layer"]] = r["score"]

    own = cache.load_results(include_remote=False, load_experiments="no_experiments")
    (result,) = own.model_results
    assert result.model_name == "local/bert"
    assert {t.task_name: t.get_score() for t in result.task_results} == {
        task: pytest.approx(layers[3], abs=1e-5) for task, layers in found.items()
    }
    everything = cache.load_results(include_remote=False, load_experiments="match_name")
    layers = {
        (result.experiment_name, task.task_name): task.get_score()
        for result in everything.model_results
        for task in result.task_results
    }
    for task, scores in found.items():
        for layer, score in scores.items():
            assert layers[f"layer_{layer}", task] == pytest.approx(score, abs=1e-5)


def test_each_text_is_forwarded_once(place: Path, tmp_path: Path, forwards: list[int]) -> None:
    tasks = ["STSBenchmark", "SciFact", "Banking77Classification"]
    distinct = texts_of(place / "data", *tasks)
    out = tmp_path / "out"

    def run(folder: Path, *more: str) -> int:
        return running.run(folder, [place / "bert"], place / "data", *more, tasks=tasks)

    assert run(out, "--plugins", "frenet,nrs,gfmi") == 0
    first = counters(out)
    assert first["forwarded"] == first["texts"] == sum(forwards) == len(distinct)
    assert first["asked"] == first["texts"] + first["duplicates"]
    assert first["duplicates"] > 0
    before = records(out)

    assert run(out, "--plugins", "frenet,nrs,gfmi") == 0  # again: nothing at all
    assert counters(out)["forwarded"] == 0
    assert records(out) == before
    assert run(tmp_path / "new") == 0  # another folder, the same store
    assert counters(tmp_path / "new")["forwarded"] == 0
    assert counters(tmp_path / "new")["texts"] == len(distinct)
    assert sum(forwards) == len(distinct)
    new = numbers(tmp_path / "new")
    assert {unit: numbers(out)[unit] for unit in new} == new


def test_layers_that_are_added_later(place: Path, tmp_path: Path, forwards: list[int]) -> None:
    out = tmp_path / "out"

    def layers(*chosen: str) -> list[tuple[str, int]]:
        before = len(records(out))
        assert running.run(out, [place / "bert"], place / "data", "--layers", *chosen) == 0
        added = records(out)[before:]
        return [(r["task"], r["layer"]) for r in added if r["kind"] == "score"]

    assert set(layers("0")) == {(t, 0) for t in running.TASKS}
    everything = len(texts_of(place / "data", *running.TASKS))
    (capture,) = records(out, "capture")  # in one pass, none late
    assert capture["forwarded"] == everything == sum(forwards)
    assert set(layers("0,2")) == {(t, 2) for t in running.TASKS}
    assert set(layers("last")) == {(t, 3) for t in running.TASKS}
    assert set(layers("all")) == {(t, 1) for t in running.TASKS}
    assert layers("all") == []
    assert sum(forwards) == everything


def test_settings_and_data_of_another_run(place: Path, tmp_path: Path, capsys: Shown) -> None:
    out, data = tmp_path / "out", Path(shutil.copytree(place / "data", tmp_path / "data"))
    sts = ["STSBenchmark"]
    assert running.run(out, [place / "bert"], data, tasks=sts) == 0
    before = records(out)
    capsys.readouterr()
    assert running.run(out, [place / "bert"], data, "--norm", "final", tasks=sts) == 2
    assert one_line(capsys) == f"{out} holds a run with norm hf, not final: give another --output"
    (data / "SciFact" / "corpus.jsonl").touch()
    assert running.run(out, [place / "bert"], data, "--batch-tokens", "64", tasks=sts) == 0
    capsys.readouterr()
    file = data / "STSBenchmark" / "test.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    assert running.run(out, [place / "bert"], data, tasks=sts) == 2
    assert "results of STSBenchmark on data that have changed since" in one_line(capsys)
    assert records(out) == before

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    assert running.run(tmp_path / "other", [place / "bert"], data, tasks=sts) == 2
    assert "is not empty and no run: it has no run.json: give another" in one_line(capsys)
    assert running.run(tmp_path / "other" / "notes.txt", [place / "bert"], data, tasks=sts) == 2
    assert "is a file: give another --output" in one_line(capsys)
    assert running.run(tmp_path / "other" / "notes.txt" / "x", [place / "bert"], data) == 2
    assert "cannot be made (Not a directory)" in one_line(capsys)


def test_the_usual_folder_is_taken_up_or_numbered(
    place: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*more: str, models: Sequence[str] = ("bert",)) -> list[str]:
        chosen = [str(place / m) for m in models]
        command = ["run", "--models", *chosen, "--tasks", "STSBenchmark", "--plugins", "nrs"]
        data = ["--task-data", str(place / "data"), "--layers", "last", "--quiet"]
        assert main([*command, *data, *more]) == 0
        return sorted(p.name.replace(p.name[7:17], "DATE") for p in Path("runs").iterdir())

    assert run() == ["custom-DATE"]
    assert run("--layers", "all") == ["custom-DATE"]
    assert run("--norm", "raw") == ["custom-DATE", "custom-DATE-2"]
    assert run(models=["bert", "gpt"]) == ["custom-DATE", "custom-DATE-2"]
    assert run(models=["gpt"]) == ["custom-DATE", "custom-DATE-2", "custom-DATE-3"]
    assert run("--norm", "raw") == ["custom-DATE", "custom-DATE-2", "custom-DATE-3"]


def met(out: Path) -> Any:
    """What run.json says of the tasks' texts, by model and task."""
    return json.loads((out / "run.json").read_text())["counters"]["met"]


def test_odd_texts_are_met_and_counted(place: Path, tmp_path: Path) -> None:
    own = [{"text": t} for t in tiny.sentences(20)]
    own += [own[3], own[3], {"text": ""}, {"text": " \n"}, {"text": "word " * 100}]
    tiny.write_rows(tmp_path / "own.jsonl", own)
    out = tmp_path / "out"
    tasks = [f"texts:{tmp_path / 'own.jsonl'}"]
    assert running.run(out, [place / "bert"], place / "data", tasks=tasks) == 0
    counted = counters(out)
    assert (counted["texts"], counted["empty"], counted["truncated"]) == (23, 2, 1)
    odd = {"asked": 25, "duplicates": 2, "empty": 2, "truncated": 1}
    assert met(out) == {"local/bert": {"texts:own.jsonl": odd}}
    assert running.run(out, [place / "bert"], place / "data", tasks=tasks) == 0
    assert counters(out)["forwarded"] == 0
    assert met(out) == {"local/bert": {"texts:own.jsonl": odd}}  # what was met is not forgotten
    assert {r["n"] for r in records(out, "metric")} == {23}

    rows = json.loads((tmp_path / "own.jsonl").read_text().splitlines()[3])["text"]
    sts = [{"sentence1": rows, "sentence2": t, "score": i} for i, t in enumerate(["", "a", rows])]
    tiny.write_rows(tmp_path / "d" / "STSBenchmark" / "test.jsonl", sts)
    out = tmp_path / "sts"
    more = ["--plugins", "nrs"]
    assert running.run(out, [place / "gpt"], tmp_path / "d", *more, tasks=["STSBenchmark"]) == 1
    counted = counters(out)
    assert (counted["asked"], counted["texts"], counted["duplicates"]) == (6, 3, 3)
    (error,) = records(out, "error")  # three texts are too few for a metric, not for a score
    assert error["error"].startswith("NotEnoughTexts")
    assert len(records(out, "score")) == 4


def test_the_sample_of_a_metric(place: Path, tmp_path: Path) -> None:
    texts = tiny.sentences(50)
    tiny.write_rows(tmp_path / "own.jsonl", [{"text": t} for t in [texts[7], *texts, texts[2]]])
    order = list(dict.fromkeys([texts[7], *texts]))
    expected = [order[i] for i in sorted(np.random.RandomState(42).choice(50, 20, replace=False))]
    seen: list[Any] = []

    def measure(states: Any) -> dict[str, float]:
        seen.append(states[2].clone())
        return {"x": 1.0}

    with pytest.MonkeyPatch.context() as patch:
        with_plugin(patch, lrd_metrics=lambda: [Metric("seen", measure)])
        tasks = [f"texts:{tmp_path / 'own.jsonl'}"]
        more = ["--plugins", "seen", "--max-texts", "20"]
        assert running.run(tmp_path / "a", [place / "gpt"], place / "data", *more, tasks=tasks) == 0
        assert counters(tmp_path / "a")["forwarded"] == 20
        tiny.write_rows(tmp_path / "own.jsonl", [{"text": t} for t in expected])
        more = ["--plugins", "seen"]
        assert running.run(tmp_path / "b", [place / "gpt"], place / "data", *more, tasks=tasks) == 0
    sampled, whole = seen
    assert sampled.shape[0] == 20
    assert np.array_equal(sampled, whole)  # the same texts in the same order
    assert counters(tmp_path / "b")["forwarded"] == 0


def test_texts_that_only_the_evaluation_asks_for(
    place: Path, tmp_path: Path, monkeypatch: Patch, forwards: list[int]
) -> None:
    """A task whose questions depend on the answers, and whose metric texts carry another prompt."""
    texts = tiny.sentences(20)

    def evaluate(view: Any) -> Score:
        asked = texts[:10] if view.name.endswith("dry-run") else texts
        return Score(float(np.abs(view.encode(asked, task, "query")).mean()), "size")

    task = Task("Late", lambda: [Request(t, "document") for t in texts], evaluate)
    with_plugin(monkeypatch, lrd_tasks=lambda: [task])
    out, prompts = tmp_path / "out", "{query: 'ask: ', document: 'read: '}"
    suite = f"models: [{{model: {place / 'bert'}, prompts: {prompts}}}]\ntasks: [Late]\n"
    (tmp_path / "s.yaml").write_text(suite + "plugins: [nrs]")
    assert main(["run", "--suite", str(tmp_path / "s.yaml"), "--output", str(out), "--quiet"]) == 0
    assert len(numbers(out)) == 5
    assert counters(out)["forwarded"] == sum(forwards) == 40


def test_quiet_and_not(place: Path, tmp_path: Path, capsys: Shown, monkeypatch: Patch) -> None:
    more = ["--layers", "last"]
    assert running.run(tmp_path / "a", [place / "bert"], place / "data", *more) == 0
    quiet = capsys.readouterr().out
    assert quiet.startswith("Leaderboard: 1 model, 2 tasks")
    command = running.command(tmp_path / "b", [place / "bert"], place / "data", *more)
    command.remove("--quiet")
    assert main(command) == 0
    loud = capsys.readouterr()
    assert loud.out == quiet
    assert f"1 model × 2 tasks, 2 metrics, into {tmp_path / 'b'}" in loud.err
    assert "[1/1] local/bert: metrics, tasks × layers: 6 units" in loud.err
    assert "leaderboard.html, .md, .csv, .json, .tex" in loud.err
