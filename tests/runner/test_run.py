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

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
STS = ["STSBenchmark"]


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
    texts: set[str] = set()
    for task in tasks:
        for file in (data / task).glob("*.jsonl"):
            for row in map(json.loads, file.read_text().splitlines()):
                texts |= {row[k] for k in ("sentence1", "sentence2", "text") if k in row}
    return texts


def test_each_text_is_forwarded_once_also_for_layers_that_are_added(
    place: Path, tmp_path: Path, forwards: list[int]
) -> None:
    out, tasks = tmp_path / "out", [*running.TASKS, "Banking77Classification"]

    def layers(*chosen: str) -> set[tuple[str, int]]:
        before = len(records(out))
        more = ("--plugins", "frenet,nrs", "--layers", *chosen)
        assert running.run(out, [place / "bert"], place / "data", *more, tasks=tasks) == 0
        return {(r["task"], r["layer"]) for r in records(out)[before:] if r["kind"] == "score"}

    assert layers("0") == {(task, 0) for task in tasks}
    first, distinct = counters(out), len(texts_of(place / "data", *tasks))
    assert first["forwarded"] == first["texts"] == sum(forwards) == distinct
    assert first["asked"] == first["texts"] + first["duplicates"]
    assert first["duplicates"] > 0
    assert len(records(out, "capture")) == 1  # in one pass, none late
    assert layers("last") == {(task, 3) for task in tasks}
    assert layers("all") == {(task, layer) for task in tasks for layer in (1, 2)}
    before = records(out)
    assert layers("all") == set()
    assert counters(out)["forwarded"] == 0
    assert json.loads((out / "run.json").read_text())["counters"]["models"] == {}
    assert records(out) == before
    assert sum(forwards) == distinct

    cache, scores = (
        mteb.ResultCache(out / "mteb"),
        records(out, "score"),
    )  # read by mteb's own tools
    results = cache.load_results(include_remote=False, load_experiments="no_experiments")
    (result,) = results.model_results
    assert result.model_name == "local/bert"
    whole = {task.task_name: task.get_score() for task in result.task_results}
    assert whole == pytest.approx({r["task"]: r["score"] for r in scores if r["layer"] == 3})
    results = cache.load_results(include_remote=False, load_experiments="match_name")
    every = {
        (result.experiment_name, task.task_name): task.get_score()
        for result in results.model_results
        for task in result.task_results
    }
    for r in scores:
        assert every[f"layer_{r['layer']}", r["task"]] == pytest.approx(r["score"], abs=1e-5)


def test_settings_and_data_of_another_run(place: Path, tmp_path: Path, capsys: Shown) -> None:
    out, data = tmp_path / "out", Path(shutil.copytree(place / "data", tmp_path / "data"))

    def run(out: Path, *more: str) -> int:
        more = ("--plugins", "nrs", "--layers", "last", *more)
        code = running.run(out, [place / "bert"], data, *more, tasks=STS)
        if code == 0:
            capsys.readouterr()
        return code

    assert run(out) == 0
    before = records(out)
    assert run(out, "--norm", "final") == 2
    assert one_line(capsys) == f"{out} holds a run with norm hf, not final: give another --output"
    (data / "SciFact" / "corpus.jsonl").touch()
    assert run(out, "--batch-tokens", "64") == 0
    file = data / "STSBenchmark" / "test.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    assert run(out) == 2
    assert "results of STSBenchmark on data that have changed since" in one_line(capsys)
    file = out / "run.json"
    file.write_text(file.read_text().replace('"adapter": "encoder"', '"adapter": "mine"'))
    shutil.copytree(place / "data" / "STSBenchmark", data / "STSBenchmark", dirs_exist_ok=True)
    assert run(out) == 2
    assert "results of local/bert as read by mine, not encoder" in one_line(capsys)
    assert records(out) == before

    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    for folder, message in (
        (other, "is not empty and no run: it has no run.json: give another"),
        (other / "notes.txt", "is a file: give another --output"),
        (other / "notes.txt" / "x", "cannot be made (Not a directory)"),
    ):
        assert run(folder) == 2
        assert message in one_line(capsys)


def test_the_usual_folder_is_taken_up_or_numbered(
    place: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*more: str, models: Sequence[str] = ("bert",)) -> list[str]:
        chosen = [str(place / m) for m in models]
        command = ["run", "--models", *chosen, "--tasks", *STS, "--plugins", "nrs"]
        data = ["--task-data", str(place / "data"), "--layers", "last", "--quiet"]
        assert main([*command, *data, *more]) == 0
        return sorted(p.name.replace(p.name[7:17], "DATE") for p in Path("runs").iterdir())

    assert run() == ["custom-DATE"]
    assert run("--norm", "raw") == ["custom-DATE", "custom-DATE-2"]
    assert run(models=["bert", "gpt"]) == ["custom-DATE", "custom-DATE-2"]
    assert run(models=["gpt"]) == ["custom-DATE", "custom-DATE-2", "custom-DATE-3"]
    assert run("--norm", "raw") == ["custom-DATE", "custom-DATE-2", "custom-DATE-3"]


def test_odd_texts_are_met_and_counted(place: Path, tmp_path: Path) -> None:
    rows = [{"text": t} for t in tiny.sentences(20)]
    rows += [rows[3], rows[3], {"text": ""}, {"text": " \n"}, {"text": "word " * 100}]
    tiny.write_rows(tmp_path / "own.jsonl", rows)
    out, tasks = tmp_path / "out", [f"texts:{tmp_path / 'own.jsonl'}"]
    odd = {"asked": 25, "duplicates": 2, "empty": 2, "truncated": 1}
    for forwarded in (23, 0):
        assert running.run(out, [place / "bert"], place / "data", tasks=tasks) == 0
        assert counters(out)["forwarded"] == forwarded
        # what was met is not forgotten
        met = json.loads((out / "run.json").read_text())["counters"]["met"]
        assert met == {"local/bert": {"texts:own.jsonl": odd}}
    assert {r["n"] for r in records(out, "metric")} == {23}

    text = rows[3]["text"]
    sts = [{"sentence1": text, "sentence2": t, "score": i} for i, t in enumerate(["", "a", text])]
    tiny.write_rows(tmp_path / "d" / "STSBenchmark" / "test.jsonl", sts)
    out = tmp_path / "sts"
    more = ["--plugins", "nrs", "--layers", "last"]
    assert running.run(out, [place / "gpt"], tmp_path / "d", *more, tasks=STS) == 1
    counted = counters(out)
    assert (counted["asked"], counted["texts"], counted["duplicates"]) == (6, 3, 3)
    (error,) = records(out, "error")  # three texts are too few for a metric, not for a score
    assert error["error"].startswith("NotEnoughTexts")
    assert len(records(out, "score")) == 1


def test_the_sample_of_a_metric(place: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    texts = tiny.sentences(50)
    order = list(dict.fromkeys([texts[7], *texts]))
    chosen = [order[i] for i in sorted(np.random.RandomState(42).choice(50, 20, replace=False))]
    seen: list[Any] = []

    def measure(states: Any) -> dict[str, float]:
        seen.append(states[2].clone())
        return {"x": 1.0}

    with_plugin(monkeypatch, lrd_metrics=lambda: [Metric("seen", measure)])
    tasks, file = [f"texts:{tmp_path / 'own.jsonl'}"], tmp_path / "own.jsonl"
    for name, written, most, forwarded in (
        ("a", [texts[7], *texts, texts[2]], "20", 20),
        ("b", chosen, "5000", 0),
    ):
        tiny.write_rows(file, [{"text": text} for text in written])
        more = ["--plugins", "seen", "--max-texts", most]
        out = tmp_path / name
        assert running.run(out, [place / "gpt"], place / "data", *more, tasks=tasks) == 0
        assert counters(out)["forwarded"] == forwarded
    sampled, whole = seen
    assert sampled.shape[0] == 20
    assert np.array_equal(sampled, whole)  # the same texts in the same order


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


def test_quiet_and_not(place: Path, tmp_path: Path, capsys: Shown) -> None:
    models, more = [place / "bert"], ["--layers", "last"]
    assert running.run(tmp_path / "a", models, place / "data", *more, tasks=STS) == 0
    quiet = capsys.readouterr().out
    assert quiet.startswith("Leaderboard: 1 model, 1 task")
    command = running.command(tmp_path / "b", models, place / "data", *more, tasks=STS)
    command.remove("--quiet")
    assert main(command) == 0
    loud = capsys.readouterr()
    assert loud.out.replace(str(tmp_path / "b"), str(tmp_path / "a")) == quiet
    assert f"1 model × 1 task, 2 metrics, into {tmp_path / 'b'}" in loud.err
    assert "[1/1] local/bert: metrics, tasks × layers: 3 units" in loud.err
    assert "leaderboard.html, .md, .csv, .json, .tex" in loud.err
