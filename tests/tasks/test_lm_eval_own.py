"""One's own tasks for lm-eval: faults told by document or file; chance; data that change."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import running
import stock
import tiny
import yaml
from stock import ANATOMY

from lrd_harness import UserError
from lrd_harness.cli import parser
from lrd_harness.cli.arguments import suite_of
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


@pytest.mark.parametrize("kind", [*DOCUMENTS, *TASKS])
def test_the_document_or_the_task_is_named(kind: str, tmp_path: Path) -> None:
    """Of documents the first, which lm-eval tries as it makes the task, and a later one."""
    change, expected = {**DOCUMENTS, **TASKS}[kind]
    for place in (0, 2) if kind in DOCUMENTS else ():
        write(tmp_path, [{**ROW, **(change if i == place else {})} for i in range(4)])
        said = refusal(tmp_path)
        assert said.startswith(f"lm-eval:mine: document {place}: ")
        assert expected in said
    if kind in TASKS:
        file = write(tmp_path, [ROW] * 4, **change)
        said = refusal(tmp_path)
        assert said.startswith("lm-eval:mine")
        assert expected in said
        assert said.endswith(f"({file})") or "cannot be prepared" not in said


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


CHOICES = """
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{query}}"
doc_to_target: "label"
doc_to_choice: "choices"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("GPT2", tmp_path_factory.mktemp("models") / "gpt", causal=True)


def rows(label: Any) -> list[dict[str, Any]]:
    ends = tiny.sentences(4, 3, most=3)
    return [{"query": t, "choices": ends, "label": label} for t in tiny.sentences(9, 5)]


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_chance_folders_of_results_and_data_that_change(
    gpt: Path, tmp_path: Path, capsys: Any
) -> None:
    """Chance counts the right answers; two models of one name have folders of their own."""
    include, out, away = tmp_path / "own", tmp_path / "out", tmp_path / "away.jsonl"
    stock.write_task(include, "around_one", CHOICES, {"validation": rows(2)})
    stock.write_task(include, "around_three", CHOICES, {"validation": rows([0, 2, 3])})
    (include / "counts.py").write_text("def count(doc, results):\n    return {'acc': 1.0}\n")
    body = CHOICES + "process_results: !function counts.count\n"
    stock.write_task(include, "around_own", body, {"validation": rows(1)})
    # its data lie elsewhere, where its file points to
    file, inside = include / "around_one.yaml", include / "data" / "around_one-validation.jsonl"
    shutil.move(inside, away)
    file.write_text(file.read_text().replace(str(inside), str(away)))
    models = [gpt, tiny.save("GPT2", tmp_path / "other" / "gpt", causal=True, seed=1)]
    typed = ("--include-path", str(include), "--plugins", "nrs", "--layers", "last")
    names = ["lm-eval:around_one", "lm-eval:around_three", "lm-eval:around_own"]
    assert running.run(out, models, include, *typed, tasks=names) == 0
    chance = {r["task"]: r["chance"] for r in running.records(out, "score")}
    assert chance == dict(zip(names, (0.25, 0.75, None), strict=True))
    folders = {p.parent for p in (out / "lm_eval").rglob("results_*.json")}
    assert len(folders) == 4  # of each model its last layer and itself
    assert all(len(list(folder.glob("results_*.json"))) == len(names) for folder in folders)
    tiny.write_rows(away, rows(0))
    capsys.readouterr()
    assert running.run(out, models, include, *typed, tasks=names) == 2
    assert "on data that have changed since" in capsys.readouterr().err
    worse = CHOICES.replace("higher_is_better: true", "higher_is_better: false")
    stock.write_task(include, "around_less", worse, {"validation": rows(2)})
    assert (
        running.run(tmp_path / "less", models, include, *typed, tasks=["lm-eval:around_less"]) == 2
    )
    assert "has no score of which more is better" in running.one_line(capsys)


@pytest.mark.usefixtures("own_cache")
def test_options_of_the_offline_task(
    gpt: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local rows are not passed over; a model that there is not is said before data are loaded."""

    def never(options: TaskOptions) -> None:
        raise AssertionError("data were loaded")

    monkeypatch.setattr(lm_eval_tasks, "load_offline", never)
    data = stock.mmlu(tmp_path / "data", "anatomy")
    for model, folder, more, reason in (
        (gpt, tmp_path, ("--num-fewshot", "6"), "MMLU has 5 examples a subject at most, not 6"),
        (gpt, tmp_path, ("--limit", "0"), "limit is 0, not a number above 0"),
        (gpt, tmp_path, ("--limit", "1.5"), "limit is 1.5"),
        (gpt, tmp_path, ("--max-questions", "-1"), "max_questions is -1, not a number above 0"),
        (gpt, data, (), "lm-eval:mmlu"),
        (tmp_path / "none", tmp_path, (), "none"),
    ):
        assert running.run(tmp_path / "out", [model], folder, *more, tasks=["MMLU"]) == 2
        assert reason in running.one_line(capsys)


def test_a_suites_limit_goes_with_its_tasks() -> None:
    for typed, counts in (
        (["run"], (None, 114)),
        (["run", "--tasks", "lm-eval:hellaswag"], (None, None)),
        (["run", "--suite", "mmlu", "--tasks", "MMLU", "--limit", "9"], (9, None)),
        (["run", "--tasks", "MMLU", "--max-questions", "0.5"], (None, 0.5)),
    ):
        chosen = suite_of(parser().parse_args(typed)).settings
        assert (chosen.limit, chosen.max_questions, chosen.num_fewshot) == (*counts, None)


def asked(task: Any) -> list[str]:
    return [request.context for request in task.requests() if request.continuation == " cat"]


class FewRight:
    """A view that is right in the documents of `few` alone, which asks twice the same."""

    name, revision, experiments, constant = "fake", "0", ({},), False

    def loglikelihoods(self, requests: Any) -> list[tuple[float, bool]]:
        return [(float((" cat" in r[1]) == ("few" in r[0])), False) for r in requests]


def test_a_limit_counts_documents_and_max_questions_counts_in_all(tmp_path: Path) -> None:
    for name, count in (("few", 4), ("many", 12)):
        write(tmp_path, [{**ROW, "q": f"{name}{i}"} for i in range(count)], name)
    mean = [{"metric": "acc", "weight_by_size": True}]
    group = {"group": "both", "task": ["few", "many"], "aggregate_metric_list": mean}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
    whole = [f"few{i}" for i in range(4)], [f"many{i}" for i in range(12)]

    def first(few: int, many: int) -> list[str]:
        return [*whole[0][:few], *whole[1][:many]]

    assert asked(prepare(tmp_path, "both")) == first(4, 12)
    assert asked(prepare(tmp_path, "both", limit=3)) == first(3, 3)
    assert asked(prepare(tmp_path, "both", limit=0.5)) == first(2, 6)
    for options, few, many in (
        ({"max_questions": 8}, 2, 6),
        ({"max_questions": 0.25}, 1, 3),
        ({"max_questions": 4, "limit": 4}, 2, 2),
        ({"max_questions": 99}, 4, 12),
    ):
        chosen = asked(prepare(tmp_path, "both", **options))
        within = first(4, 4) if "limit" in options else first(4, 12)
        assert chosen == [text for text in within if text in set(chosen)]  # in order, none twice
        assert [sum(t.startswith(n) for t in chosen) for n in ("few", "many")] == [few, many]
        task = prepare(tmp_path, "both", log_samples=True, **options)
        scores = [task.evaluate(FewRight()) for _ in range(2)]  # of two layers, as it were
        assert [score.main for score in scores] == [few / (few + many)] * 2
        for score in scores:
            logged = score.native["samples"]["many"]
            assert [row["doc_id"] for row in logged] == [int(t[4:]) for t in chosen[few:]]
            assert {len(answers) for row in logged for answers in row["resps"]} == {1}
    said = refusal(tmp_path, "both", max_questions=1)
    assert said == "lm-eval:both has 2 parts, and each needs a question: max_questions is 1"


def test_a_fault_names_the_document_that_was_drawn(tmp_path: Path) -> None:
    rows = [{**ROW, "q": f"text {i}"} for i in range(40)]
    rows[17]["gold"] = 9
    write(tmp_path, rows)
    for most in (39, 40):  # 39 are all but one, which is not that
        assert "document 17: its target" in refusal(tmp_path, max_questions=most)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_local_mmlu_goes_on_wherever_it_lies(gpt: Path, tmp_path: Path, capsys: Any) -> None:
    """Without development questions, which no prompt needs here."""
    here, there, out = (tmp_path / name for name in ("here", "there", "out"))
    tiny.write_rows(here / "mmlu" / "test.jsonl", stock.questions(9, 0, "anatomy"))
    typed = ("--plugins", "cosine", "--layers")
    assert running.run(out, [gpt], here, *typed, "last", tasks=[f"lm-eval:{ANATOMY}"]) == 0
    shutil.move(here, there)
    assert running.run(out, [gpt], there, *typed, "all", tasks=[f"lm-eval:{ANATOMY}"]) == 0
    assert {r["layer"] for r in running.records(out, "score")} == {0, 1, 2, 3}
    tiny.write_rows(there / "mmlu" / "test.jsonl", stock.questions(9, 1, "anatomy"))
    assert running.run(out, [gpt], there, *typed, "all", tasks=[f"lm-eval:{ANATOMY}"]) == 2
    assert "on data that have changed since" in capsys.readouterr().err


def test_a_task_in_yaml_may_move_with_its_data(tmp_path: Path) -> None:
    """Folders of before hold a hash of data and place: it is known as well, where that stays."""
    row = {"query": "the cat", "choices": ["sat", "ran"], "label": 0}
    prints = []
    for name, label in (("a", 0), ("b", 0), ("b", 1)):
        split = {"validation": [{**row, "label": label}], "train": [row]}
        stock.write_task(tmp_path / name, "moves", stock.CHOICES, split)
        (task,) = lm_eval_tasks.open_task("moves", TaskOptions(include_path=tmp_path / name))
        prints.append(task.fingerprint())
    here, moved, changed = prints
    assert here == moved != changed
    assert here.placed != moved.placed
    assert here == here.placed
    assert moved != here.placed
