"""Texts of one's own: a column of a table in any form, plain lines, and what is said of others."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import running
import tiny
from running import one_line

from lrd_harness.contracts import TaskOptions
from lrd_harness.errors import UserError, told_to

own_texts: Any = importlib.import_module("lrd_harness.tasks.own_texts")

TEXTS = ["a, b; c\td", 'two\nlines and "quotes"', "", "  blanks  ", "=1+1", "# é\u2028模"]
TEXTS += ["x" * 200_000]
FORMS = ("jsonl", "ndjson", "json", "csv", "tsv", "CSV", "parquet", "semicolon.csv", "sep.csv")


def write(path: Path, texts: Sequence[str], column: str = "text", form: str = "") -> Path:
    """A table of these texts between two other columns."""
    rows = [{"id": i, column: text, "note": f"n{i}"} for i, text in enumerate(texts)]
    form = (form or path.suffix[1:]).lower()
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form in ("jsonl", "ndjson", "json"):
        tiny.write_rows(path, rows)
    else:
        marks = {"tsv": "\t", "csv": ",", "semicolon.csv": ";", "sep.csv": "|"}
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]), delimiter=marks[form], lineterminator="\r\n")
        table.writeheader()
        table.writerows(rows)
        first = "sep=|\r\n" if form == "sep.csv" else ""
        path.write_bytes((first + text.getvalue()).encode("utf-8-sig"))
    return path


def read(path: Path, column: str = "text") -> list[str]:
    task = own_texts.open_file(str(path), TaskOptions(text_column=column))
    task.check()
    return [request.text for request in task.texts()]


@pytest.mark.parametrize("form", FORMS)
def test_the_column_of_a_table(form: str, tmp_path: Path) -> None:
    for column in ("text", "body text"):
        path = write(tmp_path / f"x.{form}", TEXTS, column, form)
        assert read(path, column) == TEXTS


def test_plain_lines_stay_as_they_are(tmp_path: Path) -> None:
    said: list[str] = []
    for name in ("x.txt", "x.md", "x"):
        (tmp_path / name).write_bytes("id,text\r\n\r\n1,fir\x85st\r\n".encode())
        with told_to(said.append):
            assert read(tmp_path / name) == ["id,text", "1,fir\x85st"]
        assert said.pop() == f"{tmp_path / name}: blank lines left out: 1"


FAULTS = [
    ("x.csv", "id,body\n1,a\n", r"x.csv has no column 'text' \(--text-column\): it has id, body"),
    ("x.csv", "first text\nsecond text\n", "has no column 'text'.*: it has first text"),
    ("x.csv", "text\nhello, world\n", r"x.csv line 2: 2 cells, but 1 columns \(a text that holds"),
    ("x.csv", 'id,text\n1,"a\nb"\n2\n', r"x.csv line 4: no 'text': the row ends before it"),
    ("x.csv", 'id,text\n1,"a\n', r"x.csv line 2: no CSV"),
    ("x.csv", "text,text\na,b\n", r"x.csv has the column text twice"),
    ("x.csv", "id,text\n", r"x.csv: no texts"),
    ("x.csv", "", r"x.csv: no texts"),
    ("x.csv", b"id,text\n1,\xe9\n", r"x.csv is not UTF-8 text"),
    ("x.tsv", "id,text\n1,a\n", r"x.tsv has no column 'text'.*: it has id,text"),
    ("x.jsonl", '{"body": "a"}\n', r"x.jsonl has no column 'text'.*: it has body"),
    ("x.json", '[{"text": "a"}]', r"x.json, row 1: not a JSON object"),
    ("x.parquet", "no parquet", r"x.parquet: cannot be read \("),
    ("x.jsonl", '{"text": "a"}\n{"txt": "b"}', r"x.jsonl, row 2: no 'text'"),
    ("x.jsonl", '{"text": "a"}\n{"text": 4}', r"x.jsonl, row 2: 'text' is not a text"),
    ("x.jsonl", '{"text": "a"}\nb', r"x.jsonl, row 2: not JSON"),
    ("x.jsonl", "", r"x.jsonl: no rows"),
    ("x.txt", " \n\n", r"x.txt: no texts"),
    ("x.csv", ",".join(f"c{i}" for i in range(30)) + "\n1\n", "c7 and 22 more"),
    ("x.parquet", ["a", None], "row 2: no 'text'"),
    ("x.parquet", [1], "row 1: 'text' is not a text"),
]


@pytest.mark.parametrize(("name", "content", "message"), FAULTS)
def test_faults_are_one_line(name: str, content: Any, message: str, tmp_path: Path) -> None:
    if isinstance(content, list):
        pq.write_table(pa.table({"text": content}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as fault:
        read(tmp_path / name)
    assert len(str(fault.value).splitlines()) == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("models") / "model")


@pytest.mark.slow
def test_a_table_gives_what_its_texts_give_as_lines(
    model: Path, tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through a run, the column named by the option and by a suite; another is another run."""
    texts = tiny.sentences(20)
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(texts))
    table = write(tmp_path / "table.csv", texts, "body")
    suite = {"models": [str(model)], "tasks": [f"texts:{table}"], "plugins": ["nrs"]}
    suite |= {"settings": {"text_column": "body"}}  # type: ignore[dict-item]
    (tmp_path / "own.yaml").write_text(json.dumps(suite))
    source = ["--models", str(model), "--plugins", "nrs", "--tasks"]
    runs = {
        "lines": [*source, f"texts:{lines}"],
        "option": [*source, f"texts:{table}", "--text-column", "body"],
        "suite": ["--suite", str(tmp_path / "own.yaml")],
    }
    values = {}
    for name, arguments in runs.items():
        out = tmp_path / name
        command = ["run", *arguments, "--output", str(out), "--quiet"]
        assert running.main(command) == 0
        (record,) = running.records(out, "metric")
        values[name] = (record["n"], record["values"])
    assert values["option"] == values["suite"] == values["lines"]
    assert values["lines"][0] == 20
    capsys.readouterr()
    assert running.main([*command, "--text-column", "note"]) == 2
    assert "holds a run with text_column body, not note" in one_line(capsys)


@pytest.mark.parametrize(
    "command",
    [
        ("select", "--models", "M", "M"),
        ("layer", "M"),
        ("probe", "M", "--kind", "repetition"),
        ("compare", "M", "M"),
        ("prune", "M", "--rule", "nrs", "--budget", "0.5"),
        ("run", "--models", "M", "--plugins", "nrs"),
        ("plan", "--models", "M", "--plugins", "nrs"),
    ],
)
def test_every_command_reads_tables(
    command: tuple[str, ...], model: Path, tmp_path: Path, own_cache: Path, capsys: Any
) -> None:
    table = write(tmp_path / "table.csv", tiny.sentences(20))
    tasks = command[0] in ("run", "plan")
    source = ["--tasks", f"texts:{table}"] if tasks else ["--texts", str(table)]
    typed = [str(model) if word == "M" else word for word in command]
    assert running.main([*typed, *source, "--text-column", "body", "--quiet"]) == 2
    said = one_line(capsys)
    assert "table.csv has no column 'body' (--text-column): it has id, text, note" in said
    if not tasks:
        assert running.main([*typed, "--text-column", "body", "--quiet"]) == 2
        assert "--text-column needs --texts" in one_line(capsys)
