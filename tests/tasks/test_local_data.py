"""Local data of every type of task; a malformed row is named with its file, and nothing is made."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mteb
import pytest
import tiny

from lrd_harness.contracts import TaskOptions
from lrd_harness.errors import UserError

local: Any = importlib.import_module("lrd_harness.tasks.embedding.local_data")
mteb_tasks: Any = importlib.import_module("lrd_harness.tasks.embedding.mteb_tasks")

INF, NAN = float("inf"), float("nan")
STS, CLASSES, CLUSTERS = "STSBenchmark", "Banking77Classification", "TwentyNewsgroupsClustering"
PAIRS, SUMMARIES = "SprintDuplicateQuestions", "SummEvalSummarization.v2"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.task_data(tmp_path / "data")


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def open_task(name: str, data: Path) -> Any:
    task = mteb_tasks._open(name, TaskOptions(data))
    task.check()
    return task


@pytest.mark.slow
def test_texts_of_every_type_of_task(data: Path) -> None:
    """What metrics are measured on."""
    test = {t: rows(data / t / "test.jsonl") for t in (STS, PAIRS, CLASSES, CLUSTERS, SUMMARIES)}
    tasks = {name: open_task(name, data) for name in (*test, "SciFact", "SciDocsRR")}
    texts = {name: {request.text.strip() for request in tasks[name].texts()} for name in tasks}
    for name, columns in (
        *((name, ("sentence1", "sentence2")) for name in (STS, PAIRS)),
        (CLASSES, ("text",)),
    ):
        assert texts[name] == {row[column] for row in test[name] for column in columns}
    assert texts[CLUSTERS] == {*test[CLUSTERS][0]["sentences"]}
    both = ("human_summaries", "machine_summaries")
    assert texts[SUMMARIES] == {t for row in test[SUMMARIES] for side in both for t in row[side]}
    for name in ("SciFact", "SciDocsRR"):
        assert {request.prompt_type for request in tasks[name].texts()} == {"document"}
        documents = {row["text"] for row in rows(data / name / "corpus.jsonl")}
        assert texts[name] == documents if name == "SciFact" else texts[name] <= documents
    train = {row["text"] for row in rows(data / CLASSES / "train.jsonl")}  # it is trained on
    requested = {request.text for request in tasks[CLASSES].requests()}
    assert texts[CLASSES] < requested <= texts[CLASSES] | train
    assert [name for name in tasks if tasks[name].labels] == [CLASSES, CLUSTERS]
    assert tasks[CLUSTERS].labels() == test[CLUSTERS][0]["labels"]
    by_text = {row["text"]: str(row["label"]) for row in test[CLASSES]}
    pairs = zip(tasks[CLASSES].texts(), tasks[CLASSES].labels(), strict=True)
    assert {request.text: str(label) for request, label in pairs} == by_text


def test_labels_of_copies_and_of_nested_classes() -> None:
    """A text with two labels has none; a class within a class is the whole path."""

    def labels(texts: list[Any], labels: list[Any]) -> list[Any]:
        data = {"test": {"sentences": texts, "labels": labels}}
        names = {"input_column_name": "sentences", "label_column_name": "labels"}
        about = {"hf_subsets": ["default"], "eval_splits": ["test"], "dataset": data}
        return list(mteb_tasks._labels(SimpleNamespace(**names, **about)).items())

    assert labels(list("abcab"), [0, 1, 1, 0, 2]) == [("a", 0), ("b", None), ("c", 1)]
    assert labels(list("aba"), [["x", "y"], ["x"], ["x", "z"]]) == [("a", None), ("b", ("x",))]
    assert labels([["a", "b"], ["a"]], [[0, 1], [0]]) == [("a", 0), ("b", 1)]
    assert labels([["a", "b"], ["c"]], ["in", "out"]) == [("a", "in"), ("b", "in"), ("c", "out")]


def edit(path: Path, number: int, line: str = "", **changes: Any) -> None:
    """Change columns of a row (from 1), or give it another text.

    None is written as null, ... takes the column out.
    """
    lines = path.read_text().split("\n")
    row = {**json.loads(lines[number - 1]), **changes}
    lines[number - 1] = line or json.dumps({k: v for k, v in row.items() if v is not ...})
    path.write_text("\n".join(lines))


def changed(number: int, line: str = "", **changes: Any) -> Callable[[Path], None]:
    return lambda path: edit(path, number, line, **changes)


RELEVANT = ": 'score' is not a whole number from 0 to 1,000,000"
# task, file, what is done to it, what the line says after the file's name
FAULTS: list[tuple[str, str, Callable[[Path], Any], str]] = [
    (STS, "test", changed(3, '{"sentence1": '), ", row 3: not JSON"),
    (STS, "test", changed(4, sentence2=...), ", row 4: no 'sentence2'"),
    (STS, "test", changed(4, sentence2=5), ", row 4: 'sentence2' is not a text"),
    *((STS, "test", changed(4, score=v), ", row 4: 'score' is not a number") for v in ("x", INF)),
    (STS, "test", changed(1, score=...), ", row 1: no 'score'"),
    (STS, "test", changed(2, sentence1="\ud800"), ", row 2: holds half of a surrogate pair"),
    (STS, "test", lambda path: path.write_text("\n\n"), ": no rows"),
    (STS, "test", lambda path: path.write_bytes(b'{"a": "\xff"}'), ": cannot be read"),
    (STS, "test", lambda path: path.unlink(), "no test.jsonl, which STSBenchmark needs"),
    (CLASSES, "train", lambda path: path.unlink(), f"no train.jsonl, which {CLASSES} needs"),
    (CLASSES, "train", changed(7, label=None), ", row 7: no 'label'"),
    (CLASSES, "test", changed(7, label="one"), ", row 7: 'label' is a text, and a number in"),
    (CLASSES, "test", changed(1, text=["a"]), ", row 2: 'text' is a text, and a list of texts"),
    *(
        (CLASSES, "test", changed(3, label=v), ", row 3: 'label' is not a class")
        for v in (0.5, NAN, {"a": 1})
    ),
    (CLUSTERS, "test", changed(1, labels=[1, 2]), ", row 1: 180 'sentences' but 2 'labels'"),
    (CLUSTERS, "test", changed(1, sentences=[1, 2]), ", row 1: 'sentences' is not a text or a l"),
    (CLUSTERS, "test", changed(1, labels=[1, None]), ", row 1: 'labels' is not a label"),
    (CLUSTERS, "test", changed(1, labels=[NAN]), ", row 1: 'labels' is not a label"),
    (PAIRS, "test", changed(9, labels=...), ", row 9: no 'labels'"),
    *(
        (PAIRS, "test", changed(9, labels=v), ", row 9: 'labels' is not 0 or 1")
        for v in (0.5, 2, "1")
    ),
    (SUMMARIES, "test", changed(2, relevance=[1.0]), ", row 2: 4 'machine_summaries' but 1 'relev"),
    (SUMMARIES, "test", changed(2, relevance=["x"] * 4), ", row 2: 'relevance' is not a list of n"),
    ("SciFact", "qrels", changed(5, **{"corpus-id": "d999"}), ", row 5: id 'd999' is not in corp"),
    ("SciFact", "qrels", changed(5, **{"query-id": "q999"}), ", row 5: id 'q999' is not in quer"),
    *(
        ("SciFact", "qrels", changed(5, score=value), f", row 5{RELEVANT}")
        for value in ("yes", "1", 0.5, 1e-9, 0.999, -1, 10**7, True, NAN, [1])
    ),
    ("SciFact", "corpus", changed(6, id="d0"), ", row 6: id 'd0' is there twice"),
    ("SciFact", "corpus", changed(6, text=...), ", row 6: no 'text'"),
    ("SciFact", "queries", lambda path: path.unlink(), ": cannot be read"),
    ("SciDocsRR", "top_ranked", changed(2, **{"corpus-ids": ["d1", "d999"]}), ", row 2: id 'd999'"),
    ("SciDocsRR", "top_ranked", changed(2, **{"corpus-ids": "d1"}), ", row 2: 'corpus-ids' is n"),
    ("SciDocsRR", "top_ranked", lambda path: path.unlink(), "no top_ranked.jsonl, which SciDocsRR"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f[0]}-{f[1]}{f[3]}")
def test_a_malformed_row_is_named(fault: Any, data: Path) -> None:
    name, file, change, message = fault
    path = data / name / f"{file}.jsonl"
    change(path)
    with pytest.raises(UserError) as caught:
        open_task(name, data)
    line = str(caught.value)
    assert message in line
    assert "\n" not in line
    assert str(path if message[0] in ",:" else path.parent) in line


def test_rows_are_counted_as_an_editor_counts_lines(data: Path) -> None:
    """Other line ends, within a text, are no row ends."""
    path, odd = data / STS / "test.jsonl", "a\u2028b\x85c\x0bd\u2029e"
    edit(path, 1, sentence1="#")
    path.write_bytes(path.read_text().replace('"#"', json.dumps(odd, ensure_ascii=False)).encode())
    assert odd in {r.text for r in open_task(STS, data).texts()}
    path.write_text("\n" + path.read_text())
    edit(path, 5, score=None)
    with pytest.raises(UserError, match=r"test\.jsonl, row 5: no 'score'"):
        open_task(STS, data)


def test_other_spellings_that_the_hub_has(data: Path) -> None:
    """A byte order mark, `_id`, ids that are numbers, no title, whole-number scores as floats."""
    folder = data / "SciFact"
    for name in ("corpus", "queries"):
        path = folder / f"{name}.jsonl"
        spelt = [{"_id": int(r["id"][1:]), "text": r["text"], "title": None} for r in rows(path)]
        tiny.write_rows(path, spelt)
    qrels = folder / "qrels.jsonl"
    before = {(r["query-id"][1:], r["corpus-id"][1:]) for r in rows(qrels)}
    judged = [{"query-id": int(q), "corpus-id": d, "score": 2.0} for q, d in sorted(before)]
    tiny.write_rows(qrels, judged)
    qrels.write_bytes(b"\xef\xbb\xbf" + qrels.read_bytes())
    task = mteb.get_task("SciFact")
    local.load(task, folder)
    part = task.dataset["default"]["test"]
    relevant = {(q, d): n for q, docs in part["relevant_docs"].items() for d, n in docs.items()}
    assert relevant == dict.fromkeys(before, 2)
    assert {*map(type, relevant.values())} == {int}
    assert set(part["corpus"]["id"]) >= {d for _, d in before}
    assert {type(i) for i in part["queries"]["id"]} == {str}
    assert set(part["corpus"]["title"]) == {""}


def test_a_task_without_a_folder_says_where_it_looked(data: Path) -> None:
    with pytest.raises(UserError, match=r"are not on this machine and not in .*data/SICK-R"):
        open_task("SICK-R", data)


def test_two_judgements_of_a_pair_are_refused(data: Path) -> None:
    qrels = data / "SciFact" / "qrels.jsonl"
    judged = rows(qrels)
    tiny.write_rows(qrels, [*judged, judged[0]])  # the same once more says nothing new
    open_task("SciFact", data)
    tiny.write_rows(qrels, [*judged, {**judged[0], "score": 0}])
    fault = f"row {len(judged) + 1}: .* has the score 1 in a row before"
    with pytest.raises(UserError, match=fault):
        open_task("SciFact", data)


def test_the_columns_of_the_hub_go_through_the_tasks_own_preparation(tmp_path: Path) -> None:
    """And what that makes of a row is checked."""
    task = mteb.get_task("SICK-R", eval_splits=["test"])
    hub = [{"sentence1": "a", "sentence2": "b", "score": 3.0, "extra": i} for i in range(3)]
    tiny.write_rows(tmp_path / "test.jsonl", hub)
    local.load(task, tmp_path)
    assert list(task.dataset["test"]["score"]) == [3.0] * 3
    names = {"sent1": "sentence1", "sent2": "sentence2", "value": "score"}

    def prepare() -> None:
        task.dataset = {"test": task.dataset["test"].rename_columns(names)}

    task.dataset_transform = prepare
    tiny.write_rows(tmp_path / "test.jsonl", [{"sent1": "a", "sent2": "b", "value": "high"}] * 3)
    with pytest.raises(UserError, match=r"'score', as mteb prepares it, is not a number in row 1"):
        local.load(task, tmp_path)
