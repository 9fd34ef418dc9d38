"""lm-eval's tasks by name: which are refused, what is wrong in data is told in one line."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import running
import stock
import tiny
from running import one_line
from stock import ANATOMY, ENDINGS, LAST_WORD

from lrd_harness.contracts import TaskOptions
from lrd_harness.errors import UserError

lm_eval_tasks: Any = importlib.import_module("lrd_harness.tasks.likelihood.lm_eval_tasks")
pytestmark = pytest.mark.usefixtures("own_cache")


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


def run(out: Path, place: Path, *tasks: str, data: Path | None = None, model: str = "gpt") -> int:
    typed = ("--include-path", str(place / "own"))
    return running.run(out, [place / model], data or place / "data", *typed, tasks=tasks)


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
    assert run(out, place, name) == 2
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
    assert run(tmp_path / "out", place, "lm-eval:piqa") == 2
    said = one_line(capsys)
    assert said == "lm-eval:piqa cannot be prepared: Couldn't reach 'baber/piqa' on the Hub"


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
    assert run(tmp_path / "out", place, f"lm-eval:{task}", data=tmp_path / "data") == 2
    assert one_line(capsys).startswith(str(tmp_path / "data" / "mmlu" / reason))


def test_too_few_examples_and_no_language_model(place: Path, tmp_path: Path, capsys: Any) -> None:
    data, out = place / "data", tmp_path / "out"
    typed = ("--num-fewshot", "4", "--include-path", str(place / "own"))
    assert running.run(out, [place / "gpt"], data, *typed, tasks=[f"lm-eval:{ANATOMY}"]) == 2
    reason = f"{data / 'mmlu' / 'dev.jsonl'}: 3 rows of subject anatomy, but 4"
    assert one_line(capsys).startswith(reason)
    assert run(out, place, f"lm-eval:{LAST_WORD}", model="bert") == 2
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
    assert run(out, place, "lm-eval:tiny_pair", "lm-eval:tiny_loose") in (0, 1)
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
    typed += ("--include-path", str(place / "own"))
    data, tasks = tmp_path / "data", ["lm-eval:mmlu"]
    assert running.run(out, [place / "gpt"], data, *typed, tasks=tasks) == 0
    (record,) = running.records(out, "score")
    native = stock.results(out, 3, "mmlu")
    assert native["results"]["mmlu"]["acc,none"] == record["score"]
    assert set(native["groups"]) >= {"mmlu", "mmlu_stem", "mmlu_humanities"}
    assert sum(n["effective"] for n in native["n-samples"].values()) == 57
    assert record["chance"] == pytest.approx(0.25)
    assert record["scores"]["mmlu_anatomy.acc,none"] in (0, 1)
    assert running.counters(out)["forwarded"] == 57
