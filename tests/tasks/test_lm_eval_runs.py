"""Runs of lm-eval's tasks: replayed, interrupted, with prompts too long, with metrics beside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import running
import stock
from stock import ANATOMY, ENDINGS, LAST_WORD

from lrd_harness.capture import embeddings as capturing
from lrd_harness.capture import likelihoods
from lrd_harness.cli import main

pytestmark = pytest.mark.usefixtures("own_cache")
BOTH = [f"lm-eval:{ANATOMY}", f"lm-eval:{ENDINGS}"]
FORWARDS = 9  # questions of ANATOMY


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock.place(tmp_path_factory.getbasetemp())


def run(out: Path, place: Path, *more: str, model: str = "gpt", tasks: Any = BOTH[:1]) -> int:
    typed = ("--include-path", str(place / "own"), *more)
    return running.run(out, [place / model], place / "data", *typed, tasks=tasks)


@pytest.fixture(autouse=True)
def index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrd_harness.tasks.likelihood.lm_eval_tasks.index", stock.index)


def layers(out: Path) -> list[int]:
    return sorted(r["layer"] for r in running.records(out, "score"))


@pytest.mark.slow
def test_a_replay_costs_no_forward_and_no_prompt(place: Path, tmp_path: Path, prompts: Any) -> None:
    """A layer more, all layers, and all again without the output folder."""
    out = tmp_path / "out"
    assert run(out, place, "--layers", "last") == 0
    assert (running.counters(out)["forwarded"], len(prompts)) == (FORWARDS, FORWARDS)
    first = running.numbers(out)
    assert run(out, place, "--layers", "all") == 0
    assert layers(out) == [0, 1, 2, 3]
    # once a run, not once a layer
    assert (running.counters(out)["forwarded"], len(prompts)) == (0, 2 * FORWARDS)
    whole = running.numbers(out)
    assert first.items() <= whole.items()
    shutil.rmtree(out)
    assert run(out, place) == 0
    assert (running.counters(out)["forwarded"], len(prompts)) == (0, 3 * FORWARDS)
    assert running.numbers(out) == whole
    assert run(out, place) == 0
    assert running.numbers(out) == whole


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of tasks whose prompts are made, prompt by prompt."""
    from lm_eval.api.task import ConfigurableTask

    seen: list[str] = []
    make: Any = ConfigurableTask.fewshot_context

    def context(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.config.task)
        return make(self, *args, **kwargs)

    monkeypatch.setattr(ConfigurableTask, "fewshot_context", context)
    return seen


@pytest.mark.slow
def test_interrupted_while_reading(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "SEGMENT_TOKENS", 300)
    out = tmp_path / "out"
    with running.interrupted(likelihoods.Answers, "keep", 3):
        assert run(out, place, tasks=BOTH) == 130
    assert not layers(out)
    assert run(out, place, tasks=BOTH) == 0
    rest = running.counters(out)["forwarded"]
    mended = running.numbers(out)

    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "other"))
    assert run(tmp_path / "whole", place, tasks=BOTH) == 0
    assert 0 < rest < running.counters(tmp_path / "whole")["forwarded"]
    assert mended == running.numbers(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["config", "option"])
def test_long_prompts_are_cut_from_the_left(
    limit: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As stock lm-eval cuts them: by the model's own limit, or by --max-length."""
    model, most = ("short", None) if limit == "config" else ("gpt", 45)
    out = tmp_path / "out"
    tasks = [*BOTH, f"lm-eval:{LAST_WORD}"]
    typed = ["--include-path", str(place / "own"), "--log-samples", "--num-fewshot", "1"]
    typed += ["--max-length", str(most)] if most else []
    command = running.command(out, [place / model], place / "data", *typed, tasks=tasks)
    command.remove("--quiet")
    assert main(command) == 0
    said = capsys.readouterr().err

    names, folders = [ANATOMY, ENDINGS, LAST_WORD], [place / "own", place / "mmlu"]
    loaded, options = stock.load(place / model), {"num_fewshot": 1, "max_length": most}
    expected = stock.evaluate(loaded, place / model, names, folders, **options)
    (met,) = json.loads((out / "run.json").read_text())["counters"]["met"].values()
    for name in names:
        theirs = stock.answers(expected["samples"][name])
        assert stock.difference(stock.harness_answers(out, 3, name), theirs) < 1e-4
        cut = _cut(place / model, theirs, most or 60)
        (record,) = [m for m in running.records(out, "texts") if m["task"] == f"lm-eval:{name}"]
        assert record["truncated"] == met[f"lm-eval:{name}"]["truncated"] == cut
        line = f"lm-eval:{name}: {cut} of {record['asked']} prompts are longer than the model takes"
        assert (line in said) == bool(cut)
        assert cut or name == LAST_WORD
    assert "cut from the left" in said


def _cut(folder: Path, answers: list[stock.Answer], most: int) -> int:
    from transformers import AutoTokenizer

    count = AutoTokenizer.from_pretrained(folder)
    long = {
        a.context for a in answers if len(count(a.context + a.continuation).input_ids) > most + 1
    }
    return len(long)


@pytest.mark.slow
def test_the_length_of_the_tokenizer_cuts_nothing(place: Path, tmp_path: Path) -> None:
    """It is 128 tokens, and lm-eval goes by the config."""
    out, options = tmp_path / "out", {"names": [ANATOMY], "include": [place / "mmlu"]}
    assert run(out, place, "--num-fewshot", "3", "--log-samples", "--layers", "last") == 0
    results = stock.evaluate(stock.load(place / "gpt"), place / "gpt", num_fewshot=3, **options)
    theirs = stock.answers(results["samples"][ANATOMY])
    assert stock.difference(stock.harness_answers(out, 3, ANATOMY), theirs) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "start"), [("last", 1), ("mean", 0)])
def test_metrics_beside_the_scores(pooling: str, start: int, place: Path, tmp_path: Path) -> None:
    """All prompts end in "Answer:", so state 0 of the last token is the same for all."""
    out = tmp_path / "out"
    typed = ("--plugins", "frenet,nrs,gfmi", "--pooling", pooling, "--layers", "last")
    assert run(out, place, *typed, model="llama") == 0
    records = {r["metric"]: r for r in running.records(out, "metric")}
    assert set(records) == {"frenet", "nrs", "gfmi"}
    expected = {"start": start, "task": BOTH[0], "task_type": "LogLikelihood", "n": FORWARDS}
    for record in records.values():
        assert expected.items() <= record.items()
        assert record["parameters"]["pooling"] == pooling
    assert records["frenet"]["values"]["d0L"] > 0
    assert running.counters(out)["forwarded"] == FORWARDS


@pytest.mark.slow
def test_an_encoder_beside_a_language_model(place: Path, tmp_path: Path) -> None:
    out, models = tmp_path / "out", [place / "bert", place / "gpt"]
    tasks = ["STSBenchmark", BOTH[0]]
    typed = ("--include-path", str(place / "own"), "--plugins", "nrs", "--layers", "last")
    assert running.run(out, models, place / "data", *typed, tasks=tasks) == 0
    units = {(r["model"], r["task"]) for r in running.records(out, "score", "metric")}
    assert units == {("local/bert", tasks[0]), *(("local/gpt", task) for task in tasks)}
    assert not running.records(out, "error")
    assert running.counters(out)["forwarded"] > FORWARDS


def test_a_fault_of_one_task_leaves_the_others(place: Path, tmp_path: Path) -> None:
    """A continuation that is longer than the model takes."""
    long = {"query": "the cat", "choices": ["sat " * 30, "ran"], "label": 0}
    include = tmp_path / "own"
    include.mkdir()
    split = {"validation": [long], "train": [long]}
    stock.write_task(include, "long_ending", stock.CHOICES, split)
    split = {"validation": [{**long, "choices": ["sat", "ran"]}], "train": [long]}
    stock.write_task(include, "short_ending", stock.CHOICES, split)
    out = tmp_path / "out"
    typed = ("--include-path", str(include), "--layers", "last")
    tasks = ["lm-eval:long_ending", "lm-eval:short_ending"]
    assert running.run(out, [place / "short"], place / "data", *typed, tasks=tasks) == 1
    assert {r["task"] for r in running.records(out, "score")} == {"lm-eval:short_ending"}
    error = running.records(out, "error")[0]
    assert error["task"] == "lm-eval:long_ending"
    assert "more than the model takes" in error["error"]
