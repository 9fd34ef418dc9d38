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

from lrd_harness.capture import batches as capturing
from lrd_harness.capture import likelihoods
from lrd_harness.cli import main

pytestmark = pytest.mark.usefixtures("own_cache")
BOTH = [f"lm-eval:{ANATOMY}", f"lm-eval:{ENDINGS}"]
FORWARDS = 9  # questions of ANATOMY


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock.place(tmp_path_factory.getbasetemp())


def run(out: Path, own: Path, *more: str, model: str = "gpt", tasks: Any = BOTH[:1]) -> int:
    given = ("--include-path", str(own / "own"), *more)
    return running.run(out, [own / model], own / "data", *given, tasks=tasks)


@pytest.fixture
def own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stock.own_alone(monkeypatch)


def layers(out: Path) -> list[int]:
    return sorted(r["layer"] for r in running.records(out, "score"))


def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of tasks whose prompts are made, prompt by prompt."""
    from lm_eval.api.task import ConfigurableTask

    seen: list[str] = []
    own: Any = ConfigurableTask.fewshot_context

    def context(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.config.task)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(ConfigurableTask, "fewshot_context", context)
    return seen


def test_a_replay_costs_no_forward_and_no_prompt(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer more, all layers, and all again without the output folder."""
    seen = prompts(monkeypatch)
    out = tmp_path / "out"
    assert run(out, own, "--layers", "last") == 0
    assert running.counters(out)["forwarded"] == FORWARDS
    assert len(seen) == FORWARDS
    first = running.numbers(out)
    assert run(out, own, "--layers", "all") == 0
    assert running.counters(out)["forwarded"] == 0
    assert layers(out) == [0, 1, 2, 3]
    assert len(seen) == 2 * FORWARDS  # once a run, not once a layer
    whole = running.numbers(out)
    assert first.items() <= whole.items()

    shutil.rmtree(out)
    assert run(out, own) == 0
    assert running.counters(out)["forwarded"] == 0
    assert len(seen) == 3 * FORWARDS
    assert running.numbers(out) == whole
    assert run(out, own) == 0
    assert running.numbers(out) == whole


@pytest.mark.slow
def test_interrupted_while_reading(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "SEGMENT_TOKENS", 300)
    kept: Any = likelihoods.Answers.keep
    begun = 0

    def keep(*args: Any) -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            raise KeyboardInterrupt
        kept(*args)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(likelihoods.Answers, "keep", keep)
        assert run(out, own, tasks=BOTH) == 130
    assert not layers(out)
    assert run(out, own, tasks=BOTH) == 0
    rest = running.counters(out)["forwarded"]
    mended = running.numbers(out)

    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "other"))
    assert run(tmp_path / "whole", own, tasks=BOTH) == 0
    assert 0 < rest < running.counters(tmp_path / "whole")["forwarded"]
    assert mended == running.numbers(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["config", "option"])
def test_long_prompts_are_cut_from_the_left(
    limit: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As stock lm-eval cuts them: by the model's own limit, or by --max-length."""
    model, most = ("short", None) if limit == "config" else ("gpt", 45)
    out = tmp_path / "out"
    tasks = [*BOTH, f"lm-eval:{LAST_WORD}"]
    given = ["--include-path", str(own / "own"), "--log-samples", "--num-fewshot", "1"]
    given += ["--max-length", str(most)] if most else []
    command = running.command(out, [own / model], own / "data", *given, tasks=tasks)
    command.remove("--quiet")
    assert main(command) == 0
    said = capsys.readouterr().err

    asked = [ANATOMY, ENDINGS, LAST_WORD], [own / "own", own / "mmlu"]
    loaded, options = stock.load(own / model), {"num_fewshot": 1, "max_length": most}
    expected = stock.evaluate(loaded, own / model, *asked, **options)
    (met,) = json.loads((out / "run.json").read_text())["counters"]["met"].values()
    for name in asked[0]:
        theirs = stock.answers(expected["samples"][name])
        assert stock.difference(stock.harness_answers(out, 3, name), theirs) < 1e-4
        cut = _cut(own / model, theirs, most or 60)
        (told,) = [m for m in running.records(out, "texts") if m["task"] == f"lm-eval:{name}"]
        assert told["truncated"] == met[f"lm-eval:{name}"]["truncated"] == cut
        line = f"lm-eval:{name}: {cut} of {told['asked']} prompts are longer than the model takes"
        assert (line in said) == bool(cut)
        assert cut or name == LAST_WORD
    assert "cut from the left" in said


def _cut(folder: Path, asked: list[stock.Answer], most: int) -> int:
    from transformers import AutoTokenizer

    count = AutoTokenizer.from_pretrained(folder)
    long = {a.context for a in asked if len(count(a.context + a.continuation).input_ids) > most + 1}
    return len(long)


@pytest.mark.slow
def test_another_length_is_another_reading(own: Path, tmp_path: Path) -> None:
    """The tokenizer's 128 cut nothing here, as lm-eval goes by the config; --max-length does."""
    given = ("--num-fewshot", "3", "--log-samples", "--layers", "last")
    whole, short = tmp_path / "whole", tmp_path / "short"
    assert run(whole, own, *given) == 0
    assert run(short, own, *given, "--max-length", "128") == 0
    options = {"num_fewshot": 3, "names": [ANATOMY], "include": [own / "mmlu"]}
    for out, most in ((whole, None), (short, 128)):
        found = stock.evaluate(stock.load(own / "gpt"), own / "gpt", max_length=most, **options)
        theirs = stock.answers(found["samples"][ANATOMY])
        assert stock.difference(stock.harness_answers(out, 3, ANATOMY), theirs) < 1e-4, most


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "start"), [("last", 1), ("mean", 0)])
def test_metrics_beside_the_scores(pooling: str, start: int, own: Path, tmp_path: Path) -> None:
    """All prompts end in "Answer:", so state 0 of the last token is the same for all."""
    out = tmp_path / "out"
    given = ("--plugins", "frenet,nrs,gfmi", "--pooling", pooling, "--layers", "last")
    assert run(out, own, *given, model="llama") == 0
    found = {r["metric"]: r for r in running.records(out, "metric")}
    assert set(found) == {"frenet", "nrs", "gfmi"}
    for record in found.values():
        assert record["start"] == start
        assert record["task"] == BOTH[0]
        assert record["task_type"] == "LogLikelihood"
        assert record["n"] == FORWARDS
        assert record["parameters"]["pooling"] == pooling
    assert found["frenet"]["values"]["d0L"] > 0
    assert running.counters(out)["forwarded"] == FORWARDS


@pytest.mark.slow
def test_an_encoder_beside_a_language_model(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    models = [own / "bert", own / "gpt"]
    tasks, given = ["STSBenchmark", BOTH[0]], ("--include-path", str(own / "own"))
    assert running.run(out, models, own / "data", *given, "--layers", "last", tasks=tasks) == 0
    found = {(r["model"], r["task"]) for r in running.records(out, "score", "metric")}
    assert found == {("local/bert", tasks[0]), *(("local/gpt", task) for task in tasks)}
    assert not running.records(out, "error")
    forwarded = running.counters(out)["forwarded"]
    assert running.run(out, models, own / "data", *given, tasks=tasks) == 0
    assert forwarded > FORWARDS
    assert running.counters(out)["forwarded"] == 0


@pytest.mark.usefixtures("own_alone")
def test_a_fault_of_one_task_leaves_the_others(own: Path, tmp_path: Path) -> None:
    """A continuation that is longer than the model takes."""
    long = {"query": "the cat", "choices": ["sat " * 30, "ran"], "label": 0}
    include = tmp_path / "own"
    include.mkdir()
    split = {"validation": [long], "train": [long]}
    stock.write_task(include, "long_ending", stock.CHOICES, split)
    split = {"validation": [{**long, "choices": ["sat", "ran"]}], "train": [long]}
    stock.write_task(include, "short_ending", stock.CHOICES, split)
    out = tmp_path / "out"
    given = ("--include-path", str(include), "--layers", "last")
    tasks = ["lm-eval:long_ending", "lm-eval:short_ending"]
    assert running.run(out, [own / "short"], own / "data", *given, tasks=tasks) == 1
    assert {r["task"] for r in running.records(out, "score")} == {"lm-eval:short_ending"}
    error = running.records(out, "error")[0]
    assert error["task"] == "lm-eval:long_ending"
    assert "more than the model takes" in error["error"]
