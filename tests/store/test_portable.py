"""What OUT keeps names no folder of the machine, and a folder from before goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import running
import tiny

from lrd_harness.cli import main
from lrd_harness.runner import merge
from lrd_harness.store import location

FAULTY = """
from lrd_harness import Metric, hookimpl

def measure(states):
    raise ValueError(f"cannot read {__file__}, row 3")

@hookimpl
def lrd_metrics():
    return [Metric("faulty", measure)]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "ann"
    tiny.save("Bert", folder / "models" / "bert")
    tiny.task_data(folder / "data")
    (folder / "own.txt").write_text("\n".join(tiny.sentences(20)))
    (folder / "other").mkdir()
    (folder / "other" / "own.txt").write_text("\n".join(tiny.sentences(20, 1)))
    (folder / "faulty_plugin.py").write_text(FAULTY)
    return folder


def run(place: Path, out: Path, *more: str, files: tuple[str, ...] = ("own.txt",)) -> int:
    tasks = ["STSBenchmark", *(f"texts:{place / file}" for file in files)]
    if "--plugins" not in more:
        more = (*more, "--plugins", "nrs")
    models = [place / "models" / "bert"]
    return running.run(out, models, place / "data", "--layers", "last", *more, tasks=tasks)


@pytest.mark.slow
def test_no_file_of_a_run_names_a_folder_and_one_from_before_goes_on(
    place: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then paths stood in run.json and in the names of units."""
    out = tmp_path / "out"
    more = ["--load", str(place / "faulty_plugin.py"), "--plugins", "nrs", "faulty"]
    typed = running.command(out, [place / "models" / "bert"], place / "data", *more)
    monkeypatch.setattr("sys.argv", ["lrd-harness", *typed])
    assert run(place, out, *more) == 1
    (error,) = {r["error"] for r in running.records(out, "error") if r["metric"] == "faulty"}
    assert error == "ValueError: cannot read faulty_plugin.py, row 3 (faulty_plugin.py, line 5)"
    for folder in (place, out.parent, own_cache, Path(location.__file__).parent.parent):
        files = [path for path in out.rglob("*") if path.is_file()]
        assert [p.name for p in files if str(folder).encode() in p.read_bytes()] == []
    kept = json.loads((out / "run.json").read_text())
    assert kept["models"][0]["path"] == "bert"
    assert [task["name"] for task in kept["tasks"]] == ["STSBenchmark", "texts:own.txt"]
    assert "--task-data data" in " ".join(kept["command"])

    before = len(running.records(out, "score", "metric"))
    file = str(place / "own.txt")
    for path in [out / "run.json", *(out / "journal").iterdir()]:
        path.write_text(path.read_text().replace("texts:own.txt", f"texts:{file}"))
    kept = json.loads((out / "run.json").read_text())
    for entry in [*kept["models"], *kept["tasks"]]:
        entry.pop("place", None)
    kept["models"][0]["path"] = str(place / "models" / "bert")
    kept["models"][0]["name"] = "local/models/bert"  # told apart from another, then
    (out / "run.json").write_text(json.dumps(kept))
    for path in (out / "journal").iterdir():
        path.write_text(path.read_text().replace("local/bert", "local/models/bert"))
    assert run(place, out, *more) == 1
    assert running.counters(out)["forwarded"] == 0
    assert len(running.records(out, "score", "metric")) == before
    sentences = (place / "own.txt").read_text()
    (place / "own.txt").write_text(f"{sentences}\nmore")
    assert run(place, out, *more) == 2  # its data have changed
    (place / "own.txt").write_text(sentences)


@pytest.mark.slow
def test_files_that_are_called_alike_are_told_apart(
    place: Path, tmp_path: Path, own_cache: Path
) -> None:
    out = tmp_path / "out"
    assert run(place, out, files=("own.txt", "other/own.txt")) == 0
    names = {r["task"] for r in running.records(out, "metric")}
    assert names == {"STSBenchmark", "texts:ann/own.txt", "texts:other/own.txt"}
    before = len(running.records(out))
    assert run(place, out) == 0  # one of them alone has the name that it got
    assert len(running.records(out)) == before
    assert run(place, out, files=("own.txt", "own.txt")) == 2


@pytest.mark.slow
def test_merges_name_their_parts_from_where_they_are(
    place: Path, tmp_path: Path, own_cache: Path
) -> None:
    parts, whole = [tmp_path / "part-1", tmp_path / "part-2"], tmp_path / "whole"
    for i, part in enumerate(parts, 1):
        assert run(place, part, "--shard", f"{i}/2") == 0
    merge.merge(parts, whole)
    kept = json.loads((whole / "run.json").read_text())
    assert sorted(kept["merged"]) == ["../part-1", "../part-2"]
    # as an earlier version wrote it
    old = {str((whole / part).resolve()): entry for part, entry in kept["merged"].items()}
    (whole / "run.json").write_text(json.dumps({**kept, "merged": old}))
    merge.merge(parts, whole)
    again = json.loads((whole / "run.json").read_text())
    assert sorted(again["merged"]) == ["../part-1", "../part-2"]
    assert again["counters"]["total"] == kept["counters"]["total"]
    assert str(tmp_path) not in (whole / "run.json").read_text()


def test_messages_and_words_of_a_command_line_keep_names_alone() -> None:
    here, library = Path.cwd(), Path(json.__file__).parent
    messages = {
        "/a/b/c.json: not JSON": "c.json: not JSON",
        "see https://host/a/b and 1/2 or a/b/c": "see https://host/a/b and 1/2 or a/b/c",
        "texts:/data/own.txt, row 2": "texts:own.txt, row 2",
        f"{here}/sub/f.txt": "sub/f.txt",
        f'File "{library}/decoder.py"': 'File "json/decoder.py"',
        "a folder /data/models/": "a folder models",
    }
    assert [*map(location.text, messages)] == [*messages.values()]
    words = ["run", f"{here}/out", "texts:/data/x.txt", "--output=/srv/a/out", "a/b", "hub/id@v1"]
    kept = ["run", "out", "texts:x.txt", "--output=out", "a/b", "hub/id@v1"]
    assert [*map(location.word, words)] == kept


def test_csv_forms_guard_names_unless_asked_not_to(tmp_path: Path, capsys: Any) -> None:
    scores, models = tmp_path / "S.csv", tmp_path / "M.csv"
    scores.write_text('model,=T\n"=HYPERLINK(1)",0.5\n@b,-0.25\n+c,0.125\n')
    models.write_text('model,width,family\n"=HYPERLINK(1)",8,-f\n@b,16,f\n+c,32,f\n')
    board = ["leaderboard", "--actual", str(scores), "--models-info", str(models)]
    board += ["--format", "csv"]
    assert main(board) == 0
    guarded = capsys.readouterr().out
    for name in ("'=HYPERLINK(1)", "'@b", "'+c", "'-f", ",-0.25"):
        assert name in guarded
    assert main([*board, "--literal-names"]) == 0
    assert capsys.readouterr().out == guarded.replace(",'", ",")
