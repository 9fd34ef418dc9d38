"""Local data of every type of task; a malformed row is named with its file, and nothing is made."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import pytest
import running
import tiny
from running import one_line

from lrd_harness.contracts import TaskOptions
from lrd_harness.errors import UserError

local: Any = importlib.import_module("lrd_harness.tasks.embedding.local_data")
mteb_tasks: Any = importlib.import_module("lrd_harness.tasks.embedding.mteb_tasks")

STS, CLASSES, CLUSTERS = "STSBenchmark", "Banking77Classification", "TwentyNewsgroupsClustering"
PAIRS, SUMMARIES = "SprintDuplicateQuestions", "SummEvalSummarization.v2"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.task_data(tmp_path / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("models") / "model")


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def open_task(name: str, data: Path) -> Any:
    task = mteb_tasks._open(name, TaskOptions(data))
    task.check()
    return task


def test_texts_of_every_type_of_task(data: Path) -> None:
    """What metrics are measured on."""
    test = {t: rows(data / t / "test.jsonl") for t in (STS, PAIRS, CLASSES, CLUSTERS, SUMMARIES)}
    for name in (STS, PAIRS):
        both = {row[side] for row in test[name] for side in ("sentence1", "sentence2")}
        assert {r.text for r in open_task(name, data).texts()} == both
    asked = open_task(CLASSES, data).texts()
    assert [r.text for r in asked] == [row["text"] for row in test[CLASSES]]
    sentences = test[CLUSTERS][0]["sentences"]
    assert {r.text for r in open_task(CLUSTERS, data).texts()} == {*sentences}
    for name in ("SciFact", "SciDocsRR"):
        found = open_task(name, data).texts()
        assert {r.prompt_type for r in found} == {"document"}
        documents = {row["text"] for row in rows(data / name / "corpus.jsonl")}
        assert {r.text.strip() for r in found} <= documents
        if name == "SciFact":
            assert {r.text.strip() for r in found} == documents
    summaries = {r.text for r in open_task(SUMMARIES, data).texts()}
    both = ("human_summaries", "machine_summaries")
    assert summaries == {t for row in test[SUMMARIES] for side in both for t in row[side]}
    train = {row["text"] for row in rows(data / CLASSES / "train.jsonl")}  # it is trained on
    tested = {row["text"] for row in test[CLASSES]}
    assert tested < {r.text for r in open_task(CLASSES, data).requests()} <= tested | train


def edit(path: Path, number: int, line: str = "", **changes: Any) -> None:
    """Change columns of a row (from 1, or -1 for the last), or give it another text.

    None is written as null, ... takes the column out.
    """
    lines = path.read_text().splitlines()
    place = number - (number > 0)
    row = {**json.loads(lines[place]), **changes}
    lines[place] = line or json.dumps({k: v for k, v in row.items() if v is not ...})
    path.write_text("\n".join(lines))


def changed(number: int, line: str = "", **changes: Any) -> Callable[[Path], None]:
    return lambda path: edit(path, number, line, **changes)


# task, file, what is done to it, what the line says after the file's name
FAULTS: list[tuple[str, str, Callable[[Path], Any], str]] = [
    (STS, "test", changed(3, '{"sentence1": '), ", row 3: not JSON"),
    (STS, "test", changed(3, "[1]"), ", row 3: not a JSON object"),
    (STS, "test", changed(4, sentence2=...), ", row 4: no 'sentence2'"),
    (STS, "test", changed(4, sentence2=None), ", row 4: no 'sentence2'"),
    (STS, "test", changed(4, sentence2=5), ", row 4: 'sentence2' is not a text"),
    (STS, "test", changed(4, score="high"), ", row 4: 'score' is not a number"),
    (STS, "test", changed(4, score=float("nan")), ", row 4: 'score' is not a number"),
    (STS, "test", changed(1, score=...), ", row 1: no 'score'"),
    (STS, "test", changed(2, sentence1="\ud800"), ", row 2: holds half of a surrogate pair"),
    (STS, "test", lambda path: path.write_text("\n\n"), ": no rows"),
    (STS, "test", lambda path: path.write_bytes(b'{"a": "\xff"}'), ": cannot be read"),
    (STS, "test", lambda path: path.unlink(), "no test.jsonl, which STSBenchmark needs"),
    (CLASSES, "train", lambda path: path.unlink(), f"no train.jsonl, which {CLASSES} needs"),
    (CLASSES, "train", changed(7, label=None), ", row 7: no 'label'"),
    (CLASSES, "test", changed(7, label="one"), ", row 7: 'label' is a text, and a number in"),
    (CLASSES, "test", changed(1, text=["a"]), ", row 2: 'text' is a text, and a list of texts"),
    (CLUSTERS, "test", changed(1, labels=[1, 2]), ", row 1: 180 'sentences' but 2 'labels'"),
    (CLUSTERS, "test", changed(1, sentences=[1, 2]), ", row 1: 'sentences' is not a text or a l"),
    (PAIRS, "test", changed(9, labels=...), ", row 9: no 'labels'"),
    (SUMMARIES, "test", changed(2, relevance=[1.0]), ", row 2: 4 'machine_summaries' but 1 'relev"),
    (SUMMARIES, "test", changed(2, relevance=["x"] * 4), ", row 2: 'relevance' is not a list of n"),
    ("SciFact", "qrels", changed(5, **{"corpus-id": "d999"}), ", row 5: id 'd999' is not in corp"),
    ("SciFact", "qrels", changed(5, **{"query-id": "q999"}), ", row 5: id 'q999' is not in quer"),
    ("SciFact", "qrels", changed(5, score="yes"), ", row 5: 'score' is not a whole number"),
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


def test_nothing_is_made_where_a_row_is_malformed(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(data / STS / "test.jsonl", 4, score=...)
    out = tmp_path / "out"
    assert running.run(out, [model], data, tasks=["SciFact", STS]) == 2
    assert "test.jsonl, row 4: no 'score'" in one_line(capsys)
    assert not out.exists()


def test_rows_are_counted_as_an_editor_counts_lines(data: Path) -> None:
    path = data / STS / "test.jsonl"
    path.write_text("\n" + path.read_text())
    edit(path, 5, score=None)
    with pytest.raises(UserError, match=r"test\.jsonl, row 5: no 'score'"):
        open_task(STS, data)


def test_line_ends_within_a_text_are_no_row_ends(data: Path) -> None:
    path = data / STS / "test.jsonl"
    odd = "a\u2028b\x85c\x0bd\u2029e"
    edit(path, 1, sentence1="#")
    path.write_bytes(path.read_text().replace('"#"', json.dumps(odd, ensure_ascii=False)).encode())
    assert odd in {r.text for r in open_task(STS, data).texts()}


def test_other_spellings_that_the_hub_has(data: Path) -> None:
    """A byte order mark, `_id`, ids that are numbers, no title, whole-number scores as floats."""
    folder = data / "SciFact"
    for name in ("corpus", "queries"):
        found = rows(folder / f"{name}.jsonl")
        made = [{"_id": int(row["id"][1:]), "text": row["text"], "title": None} for row in found]
        tiny.write_rows(folder / f"{name}.jsonl", made)
    judged = rows(folder / "qrels.jsonl")
    before = {(r["query-id"][1:], r["corpus-id"][1:]) for r in judged}
    made = [{"query-id": int(q), "corpus-id": d, "score": 2.0} for q, d in sorted(before)]
    tiny.write_rows(folder / "qrels.jsonl", made)
    qrels = folder / "qrels.jsonl"
    qrels.write_bytes(b"\xef\xbb\xbf" + qrels.read_bytes())
    task = mteb.get_task("SciFact")
    local.load(task, folder)
    part = task.dataset["default"]["test"]
    read = {(q, d): n for q, found in part["relevant_docs"].items() for d, n in found.items()}
    assert read == dict.fromkeys(before, 2)
    assert {*map(type, read.values())} == {int}
    assert set(part["corpus"]["id"]) >= {d for _, d in before}
    assert {type(i) for i in part["queries"]["id"]} == {str}
    assert set(part["corpus"]["title"]) == {""}


def test_the_columns_of_the_hub_go_through_the_tasks_own_preparation(tmp_path: Path) -> None:
    task = mteb.get_task("SICK-R", eval_splits=["test"])
    given = [{"sentence1": "a", "sentence2": "b", "score": 3.0, "extra": i} for i in range(3)]
    tiny.write_rows(tmp_path / "test.jsonl", given)
    local.load(task, tmp_path)
    assert list(task.dataset["test"]["score"]) == [3.0] * 3


def test_a_task_without_a_folder_says_where_it_looked(data: Path) -> None:
    with pytest.raises(UserError, match=r"are not on this machine and not in .*data/SICK-R"):
        open_task("SICK-R", data)


RELEVANT = "'score' is not a whole number from 0 to 1,000,000"
MISREAD = [
    *(("SciFact/qrels.jsonl", "score", v, RELEVANT) for v in (0.5, 1e-9, -1, 10**7, True, "1")),
    *(("SciDocsRR/qrels.jsonl", "score", v, RELEVANT) for v in (0.999, float("nan"), [1])),
    *((f"{PAIRS}/test.jsonl", "labels", v, "'labels' is not 0 or 1") for v in (0.5, 2, "1", -1)),
    *((f"{CLASSES}/train.jsonl", "label", v, "'label' is not a class") for v in (0.5, {"a": 1})),
    (f"{CLASSES}/test.jsonl", "label", float("nan"), "'label' is not a class"),
    (f"{CLUSTERS}/test.jsonl", "labels", [1, None], "'labels' is not a label"),
    (f"{CLUSTERS}/test.jsonl", "labels", [float("nan")], "'labels' is not a label"),
    (f"{STS}/test.jsonl", "score", float("inf"), "'score' is not a number"),
]


@pytest.mark.parametrize(("file", "column", "value", "message"), MISREAD)
def test_labels_that_would_be_cast_are_refused_by_row(
    file: str, column: str, value: Any, message: str, data: Path
) -> None:
    path = data / file
    edit(path, -1, **{column: value})
    with pytest.raises(UserError) as fault:
        open_task(path.parent.name, data)
    assert f"{path.name}, row {len(rows(path))}: {message}" in str(fault.value)


def test_two_judgements_of_a_pair_are_refused(data: Path) -> None:
    qrels = data / "SciFact" / "qrels.jsonl"
    held = rows(qrels)
    tiny.write_rows(qrels, [*held, held[0]])  # the same once more says nothing new
    open_task("SciFact", data)
    tiny.write_rows(qrels, [*held, {**held[0], "score": 0}])
    with pytest.raises(UserError, match=f"row {len(held) + 1}: .* has the score 1 in a row before"):
        open_task("SciFact", data)


def test_what_mtebs_preparation_makes_of_a_row_is_checked(tmp_path: Path) -> None:
    task = mteb.get_task("SICK-R", eval_splits=["test"])
    given = [{"sent1": "a", "sent2": "b", "value": "high"} for _ in range(3)]
    tiny.write_rows(tmp_path / "test.jsonl", given)
    task.dataset_transform = lambda **_: setattr(
        task,
        "dataset",
        {
            "test": task.dataset["test"].rename_columns(
                {"sent1": "sentence1", "sent2": "sentence2", "value": "score"}
            )
        },
    )
    with pytest.raises(UserError, match=r"'score', as mteb prepares it, is not a number in row 1"):
        local.load(task, tmp_path)
