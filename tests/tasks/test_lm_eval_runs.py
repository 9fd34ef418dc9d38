"""lm-eval's tasks by name: refused in one line, or run, replayed, interrupted, measured."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import running
import stock
import tiny
from running import one_line
from stock import ANATOMY, ENDINGS, LAST_WORD

from lrd_harness.capture import embeddings as capturing
from lrd_harness.capture import likelihoods
from lrd_harness.cli import main
from lrd_harness.contracts import TaskOptions
from lrd_harness.errors import UserError

lm_eval_tasks: Any = importlib.import_module("lrd_harness.tasks.likelihood.lm_eval_tasks")
pytestmark = pytest.mark.usefixtures("own_cache")
BOTH = [f"lm-eval:{ANATOMY}", f"lm-eval:{ENDINGS}"]
FORWARDS = 9  # questions of ANATOMY


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stock.place(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No bars: in a process of the command they are off before the libraries are imported."""
    import datasets

    monkeypatch.setattr(lm_eval_tasks, "index", stock.index)
    datasets.disable_progress_bars()
    monkeypatch.setattr("lm_eval.api.task.tqdm", lambda rows, **_: rows)
    yield
    datasets.enable_progress_bars()


def run(
    out: Path,
    place: Path,
    *more: str,
    model: str = "gpt",
    tasks: Any = BOTH[:1],
    data: Path | None = None,
) -> int:
    typed = ("--include-path", str(place / "own"), *more)
    return running.run(out, [place / model], data or place / "data", *typed, tasks=tasks)


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


@pytest.mark.slow
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


REFUSED = {
    "lm-eval:gsm8k": ("lm-eval:gsm8k generates text; only tasks that compare log-likelihoods",),
    "lm-eval:wikitext": ("lm-eval:wikitext scores whole documents; only tasks that compare",),
    "lm-eval:speaks": ("lm-eval:speaks generates text",),
    "lm-eval:tiny_talks": ("lm-eval:tiny_talks (speaks) generates text",),
    "lm-eval:hellaswg": ("unknown lm-eval task 'hellaswg'. Did you mean hellaswag",),
    "lm-eval:tiny_ending": (f"unknown lm-eval task 'tiny_ending'. Did you mean {ENDINGS}",),
    "lm-evl:hellaswag": ("unknown kind of task 'lm-evl'. Did you mean lm-eval?",),
    "lm-eval:no_ending": ("lm-eval:no_ending: document 1: choice 1 is empty",),
    "lm-eval:blank_ending": ("lm-eval:blank_ending: document 1: choice 1 is empty",),
    "lm-eval:no_word": ("lm-eval:no_word: document 1: choice 0 is empty",),
    "lm-eval:no_column": ("lm-eval:no_column", "wrong"),
    "lm-eval:no_file": ("lm-eval:no_file cannot be prepared: ", "no_file-train.jsonl"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, place: Path, tmp_path: Path, capsys: Any) -> None:
    """Before a model is opened; no test can reach the hub."""
    out = tmp_path / "out"
    assert run(out, place, tasks=[name]) == 2
    said = one_line(capsys)
    for part in REFUSED[name]:
        assert part in said
    assert not out.exists()


def test_data_that_are_out_of_reach(
    place: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of lm-eval's own tasks are on the hub."""

    def fails(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach 'baber/piqa' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr("datasets.load_dataset", fails)
    assert run(tmp_path / "out", place, tasks=["lm-eval:piqa"]) == 2
    said = one_line(capsys)
    assert said == (
        "lm-eval:piqa: its data (baber/piqa) are not on this machine, and the hub is out of reach"
    )


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        (ANATOMY, {"subject": "anatomi"}, "test.jsonl, row 10: unknown subject 'anatomi'. Did you"),
        ("mmlu_virology", {}, "test.jsonl: no rows of 1 of 1 subjects: virology"),
    ],
)
def test_faults_in_local_mmlu_name_file_and_row(
    task: str, change: dict[str, Any], reason: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = stock.questions(10, 0, "anatomy")
    rows[9] |= change
    tiny.write_rows(tmp_path / "data" / "mmlu" / "test.jsonl", rows)
    assert run(tmp_path / "out", place, tasks=[f"lm-eval:{task}"], data=tmp_path / "data") == 2
    assert one_line(capsys).startswith(str(tmp_path / "data" / "mmlu" / reason))


def test_too_few_examples_and_no_language_model(place: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert run(out, place, "--num-fewshot", "4") == 2
    reason = f"{place / 'data' / 'mmlu' / 'dev.jsonl'}: 3 rows of subject anatomy, but 4"
    assert one_line(capsys).startswith(reason)
    assert run(out, place, model="bert", tasks=[f"lm-eval:{LAST_WORD}"]) == 2
    assert one_line(capsys).startswith(f"lm-eval:{LAST_WORD} needs a language model: none of")
    assert not out.exists()


def test_a_name_may_stand_for_several(place: Path) -> None:
    manager = lm_eval_tasks.index(place / "own")
    expand = lm_eval_tasks.expand
    assert expand(manager, "ai2_arc") == ["arc_challenge", "arc_easy"]
    for name in ("mmlu", "mmlu_stem", "hellaswag", "tiny_pair"):
        assert expand(manager, name) == [name]
    assert sorted(expand(manager, "tiny_loose")) == [ENDINGS, LAST_WORD]
    assert len(list(lm_eval_tasks.leaves(manager, "mmlu"))) == 57
    with pytest.raises(KeyError):
        expand(manager, "nothing")
    for config, names in (({"group": "empty", "task": []}, []), (None, ["empty"])):  # and a tag
        entries: Any = {"empty": SimpleNamespace(cfg=config, tags=set())}
        assert expand(Mock(task_index=entries), "empty") == names
    tasks = lm_eval_tasks.open_task("tiny_loose", TaskOptions(include_path=place / "own"))
    assert [task.name for task in tasks] == [f"lm-eval:{ENDINGS}", f"lm-eval:{LAST_WORD}"]
    with pytest.raises(UserError, match="generates text"):
        lm_eval_tasks.open_task("bbh", TaskOptions(include_path=place / "own"))
    names = lm_eval_tasks.compared(manager)
    assert {"hellaswag", "mmlu", "tiny_pair", "tiny_loose"} <= {*names}
    # less is better, text is generated
    assert not {"crows_pairs_english", "gsm8k", "bbh", "tiny_talks"} & {*names}


@pytest.mark.slow
def test_groups_are_one_task_or_several(place: Path, tmp_path: Path) -> None:
    """A group with a score of its own is one task; its members' scores are there as well."""
    out = tmp_path / "out"
    assert run(out, place, tasks=["lm-eval:tiny_pair", "lm-eval:tiny_loose"]) in (0, 1)
    records = {(r["task"], r["layer"]): r for r in running.records(out, "score")}
    names = ("tiny_pair", ENDINGS, LAST_WORD)
    assert set(records) == {(f"lm-eval:{name}", layer) for name in names for layer in range(4)}
    for layer in range(4):
        pair = records["lm-eval:tiny_pair", layer]
        native = stock.results(out, layer, "tiny_pair")["results"]
        assert pair["score"] == native["tiny_pair"]["acc,none"]
        sizes = {ENDINGS: 8, "one_word": 1}
        parts = {name: pair["scores"][f"{name}.acc,none"] for name in sizes}
        assert parts == {name: native[name]["acc,none"] for name in sizes}
        mean = sum(parts[name] * n for name, n in sizes.items()) / 9
        assert pair["score"] == pytest.approx(mean)
        assert parts[ENDINGS] == records[f"lm-eval:{ENDINGS}", layer]["score"]


@pytest.mark.slow
def test_all_subjects_and_their_groups(place: Path, tmp_path: Path) -> None:
    """Local MMLU whole: lm-eval's groups; a limit is of each subject, as lm-eval has it."""
    rows = importlib.import_module("lrd_harness.tasks.likelihood.mmlu")
    stock.mmlu(tmp_path / "data", *rows.subjects(), rows=2)
    out = tmp_path / "out"
    typed = ("--limit", "1", "--layers", "last", "--num-fewshot", "1")
    assert run(out, place, *typed, data=tmp_path / "data", tasks=["lm-eval:mmlu"]) == 0
    (record,) = running.records(out, "score")
    native = stock.results(out, 3, "mmlu")
    assert native["results"]["mmlu"]["acc,none"] == record["score"]
    assert set(native["groups"]) >= {"mmlu", "mmlu_stem", "mmlu_humanities"}
    assert sum(n["effective"] for n in native["n-samples"].values()) == 57
    assert record["chance"] == pytest.approx(0.25)
    assert record["scores"]["mmlu_anatomy.acc,none"] in (0, 1)
    assert running.counters(out)["forwarded"] == 57
