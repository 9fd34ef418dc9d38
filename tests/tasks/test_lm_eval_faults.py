"""Faults of one's own tasks for lm-eval: each is named by its document or file, in one line."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import stock
import tiny
import yaml

from lrd_harness import UserError
from lrd_harness.contracts import TaskOptions

loading: Any = importlib.import_module("lrd_harness.tasks.likelihood.loading")
lm_eval_tasks: Any = importlib.import_module("lrd_harness.tasks.likelihood.lm_eval_tasks")
ROW: dict[str, Any] = {"q": "the cat", "a": ["cat", "dog"], "gold": 0, "say": "cat"}
BODY = {
    "output_type": "multiple_choice",
    "dataset_path": "json",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{a}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(autouse=True)
def own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stock.own_alone(monkeypatch)


def write(folder: Path, rows: list[Any] | bytes, name: str = "mine", **body: Any) -> Path:
    """A task of these rows; its file."""
    data = folder / f"{name}.jsonl"
    if isinstance(rows, bytes):
        data.write_bytes(rows)
    else:
        tiny.write_rows(data, rows)
    files = {"data_files": {"test": str(data)}}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"task": name, **BODY, "dataset_kwargs": files, **body}))
    return file


def prepare(folder: Path, name: str = "mine", **options: Any) -> Any:
    """Open the task and make its prompts, as a run does before any model is opened."""
    (task,) = lm_eval_tasks.open_task(name, TaskOptions(include_path=folder, **options))
    task.check()
    return task


def refusal(folder: Path, name: str = "mine", **options: Any) -> str:
    with pytest.raises(UserError) as fault:
        prepare(folder, name, **options)
    said = str(fault.value)
    assert "\n" not in said
    return said


DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "empty choice": ({"a": ["cat", ""]}, "choice 1 is empty, so there is no continuation to score"),
    "blank choice": ({"a": [" ", "dog"]}, "choice 0 is empty"),
    "no choices": ({"a": []}, "its choices are '[]', not a list of texts"),
    "beyond": ({"gold": 7}, "its target '7' is none of its 2 choices (from 0)"),
    "just beyond": ({"gold": 2}, "its target '2' is none of its 2 choices"),
    "negative": ({"gold": -1}, "its target '-1' is none of its 2 choices"),
    "null": ({"gold": None}, "its target 'None' is none of its 2 choices"),
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_the_document_is_named(kind: str, tmp_path: Path) -> None:
    """The first, which lm-eval tries as it makes the task, and a later one."""
    change, expected = DOCUMENTS[kind]
    for place in (0, 2):
        write(tmp_path, [{**ROW, **(change if i == place else {})} for i in range(4)])
        said = refusal(tmp_path)
        assert said.startswith(f"lm-eval:mine: document {place}: ")
        assert expected in said


TASKS: dict[str, tuple[dict[str, Any], str]] = {
    "no such column": ({"doc_to_text": "{{question}}"}, "document 0: 'question' is undefined"),
    "no such choice": ({"doc_to_choice": "{{b}}"}, "document 0: 'b' is undefined"),
    "choices in words": ({"doc_to_choice": "say"}, "its choices are 'cat', not a list of texts"),
    "choices of numbers": ({"doc_to_choice": [1, 2]}, "choice 0 is 1, not a text"),
    "not Jinja": ({"doc_to_text": "{{q"}, "document 0: "),
    "target in words": ({"doc_to_target": "bird"}, "its target 'bird' is none of its 2 choices"),
    "output": ({"output_type": "many_choice"}, "lm-eval:mine many_choice; only tasks that"),
    "metric": ({"metric_list": [{"metric": "nonsense"}]}, "cannot be prepared: "),
    "metrics": ({"metric_list": "acc"}, "cannot be prepared: 'metric' key not provided"),
    "split": ({"test_split": "elsewhere"}, "cannot be prepared: KeyError: 'elsewhere'"),
    "data": ({"dataset_kwargs": {"data_files": {"test": "/nowhere.jsonl"}}}, "/nowhere.jsonl"),
    "key": ({"doc_to_words": "q"}, "unexpected keyword argument 'doc_to_words'"),
}


@pytest.mark.parametrize("kind", TASKS)
def test_the_task_is_named(kind: str, tmp_path: Path) -> None:
    change, expected = TASKS[kind]
    file = write(tmp_path, [ROW] * 4, **change)
    said = refusal(tmp_path)
    assert said.startswith("lm-eval:mine")
    assert expected in said
    if "cannot be prepared" in said:
        assert said.endswith(f"({file})")


FILES = {
    "broken": "task: mine\noutput_type: [\n",
    "tag": "task: mine\nwho: !!python/object/apply:os.getcwd []\n",
    "include": "task: mine\ninclude: nowhere.yaml\n",
    "loop": "task: mine\ninclude: other.yaml\n",
    "list": "- task: mine\n",
    "date": "task: mine\nwhen: 2024-13-45\n",
    "bytes": "task: mine\nname: \x00\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_the_file_is_named(kind: str, tmp_path: Path) -> None:
    """By its own name or by that of the task in it."""
    name = "mine.yaml" if kind in ("broken", "loop") else "other.yaml"
    (tmp_path / name).write_text(FILES[kind].replace("other.yaml", name))
    write(tmp_path, [ROW] * 4, name="sound")
    assert f"{tmp_path / name}: no task that lm-eval can read (" in refusal(tmp_path)
    prepare(tmp_path, "sound")


def test_files_that_are_not_read_and_two_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: [\n")
    write(tmp_path, [ROW] * 4)
    said = refusal(tmp_path, "mines")
    assert said.startswith("unknown lm-eval task 'mines'. Did you mean mine? Not read: a.yaml (")
    (tmp_path / "again").mkdir()
    write(tmp_path / "again", [{**ROW, "gold": 1}] * 4)
    both = f"{tmp_path / 'again' / 'mine.yaml'} and {tmp_path / 'mine.yaml'}"
    loading.files.cache_clear()
    assert refusal(tmp_path) == f"{both} are both of the name mine: rename one"


DEEP = ("[" * 200_000, "- " * 200_000 + "a", "{a: " * 50_000)
NAMELESS = ("task: 5\n", "task: 2024-01-01\n", "task: x\ntag: [1]\n")


@pytest.mark.parametrize("text", [*NAMELESS, *DEEP], ids=lambda text: text[:9])
def test_a_name_that_is_no_text_and_a_file_that_ends_the_parser(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    said = refusal(tmp_path)
    assert said.startswith(f"{tmp_path / 'odd.yaml'}: ")
    assert said.endswith("nested too deeply to be read" if text in DEEP else "not a name in quotes")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (b"null\n", "row 1: not a JSON object"),
        (b'{"q":' * 20_000 + b"1" + b"}" * 20_000, "row 1: nested too deeply"),
        (b'{"q": 1}\n{"q": ' + b"[" * 9000 + b"\n", "row 2: "),
        (b"[\n" * 9000, "row 201: nested too deeply"),
    ],
    ids=["null", "mappings", "lists", "lines"],
)
def test_rows_that_end_the_reader_are_refused(rows: bytes, said: str, tmp_path: Path) -> None:
    write(tmp_path, rows)
    assert f"{tmp_path / 'mine.jsonl'}, {said}" in refusal(tmp_path)
    write(tmp_path, b'{"q": "a"}\n{"q": oops}\n')  # only wrong, and said by the reader itself
    assert re.match("lm-eval:mine cannot be prepared: .*JSON", refusal(tmp_path))


def test_what_is_sound_is_prepared(tmp_path: Path) -> None:
    rows = [{**ROW, "gold": 1, "say": "dog", "many": [0, 1]}] * 4
    write(tmp_path, rows, name="by_place")
    write(tmp_path, rows, name="by_word", doc_to_target="say", doc_to_choice="a")
    write(tmp_path, rows, name="several", doc_to_target="many", doc_to_choice="a")
    contexts = [{**row, "gold": 0, "a": ["the cat is", "a dog was"]} for row in rows]
    body = {"doc_to_text": "gold", "doc_to_target": "say", "doc_to_choice": "a"}
    write(tmp_path, contexts, name="by_context", **body)
    for name in ("by_place", "by_word", "several", "by_context"):
        assert len(prepare(tmp_path, name).requests()) == 8
