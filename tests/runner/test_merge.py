"""Merging: slices joined are the whole run; what does not belong together is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import running
import stock
import tiny
from running import Patch, one_line

from lrd_harness.cli import main
from lrd_harness.results import journal
from lrd_harness.results.journal import read_run
from lrd_harness.runner.merge import merge

TABLES = ("leaderboard.csv", "leaderboard.md")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two models on three kinds of tasks: whole/, and in slices part-1/ to part-3/."""
    folder, own = tmp_path_factory.mktemp("merge"), stock.place(tmp_path_factory.getbasetemp())
    tiny.write_rows(folder / "own.jsonl", [{"text": text} for text in tiny.sentences(40, 3)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(folder / "cache"))
        for out, more in (
            ("whole", []),
            *((f"part-{i}", ["--shard", f"{i}/3"]) for i in (3, 1, 2)),
        ):
            assert main(command(folder, own, folder / out, *more)) == 0
    return folder


def command(folder: Path, own: Path, out: Path, *more: str) -> list[str]:
    tasks = ["STSBenchmark", f"lm-eval:{stock.ANATOMY}", f"texts:{folder / 'own.jsonl'}"]
    models = [own / "bert", own / "gpt"]
    return running.command(out, models, own / "data", *more, tasks=tasks)


def merged(out: Path, *parts: Path) -> int:
    return main(["merge", *map(str, parts), "--output", str(out)])


def tables(out: Path) -> dict[str, str]:
    return {name: (out / name).read_text() for name in TABLES}


def test_run_json_is_joined(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert merged(out, *(made / f"part-{i}" for i in (3, 1, 2))) == 0
    found, whole = read_run(out), read_run(made / "whole")
    for name in ("settings", "models", "tasks", "metrics", "data", "layers", "suite", "pruning"):
        assert found[name] == whole[name], name
    assert found["counters"]["met"] == whole["counters"]["met"]
    parts = [read_run(made / f"part-{i}") for i in (1, 2, 3)]
    asked = [part["counters"]["total"]["asked"] for part in parts]
    assert found["counters"]["total"]["asked"] == sum(asked)
    assert found["shards"] == ["1/3", "2/3", "3/3"]
    assert found["begun"] == min(part["begun"] for part in parts)
    assert found["finished"] == max(part["finished"] for part in parts)
    assert found["errors"] == 0


def test_merging_again_changes_nothing_and_adds_what_is_new(
    made: Path, tmp_path: Path, capsys: Any
) -> None:
    out, parts = tmp_path / "out", [made / f"part-{i}" for i in (1, 2, 3)]
    assert merged(out, *parts[:2]) == 0
    assert "not among them: slice 3/3" in capsys.readouterr().err
    assert merged(out, parts[2]) == 0
    assert "not among" not in capsys.readouterr().err
    assert tables(out) == tables(made / "whole")
    held = read_run(out)
    assert merged(out, *parts, out) == 0
    assert {**read_run(out), "command": 0} == {**held, "command": 0}
    # a merge of merges counts nothing twice
    assert merged(tmp_path / "two", out, parts[0]) == 0
    assert read_run(tmp_path / "two")["counters"]["total"] == held["counters"]["total"]


def test_the_newest_counts(made: Path, tmp_path: Path) -> None:
    old, new, out = (tmp_path / name for name in ("old", "new", "out"))
    shutil.copytree(made / "part-1", new)
    shutil.copytree(made / "part-1", old)
    (record, *_) = running.records(old, "score")
    journal.Journal(new).append({**record, "score": 0.125})
    for out, parts in ((tmp_path / "a", (old, new)), (tmp_path / "b", (new, old))):
        assert merged(out, *parts) == 0
        held = {r["unit"]: r for r in journal.latest(journal.read(out))}
        assert held[record["unit"]]["score"] == 0.125


def test_a_run_of_which_the_database_alone_is_left(made: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"part-{i}" for i in (1, 2, 3)]
    for part in parts:
        shutil.copytree(made / part.name, part)
    for part in parts[:2]:
        shutil.rmtree(part / "journal")
    assert merged(tmp_path / "out", *parts) == 0
    assert tables(tmp_path / "out") == tables(made / "whole")
    assert not (parts[0] / "journal").exists()


def test_a_torn_line_and_a_stopped_merge_do_no_harm(
    made: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    part, out = tmp_path / "part", tmp_path / "out"
    shutil.copytree(made / "part-1", part)
    (file,) = journal.files(part)
    with file.open("a") as torn:
        torn.write('{"kind": "sco')
    with monkeypatch.context() as patch:
        patch.setattr("lrd_harness.runner.merge._copy_tree", _stop)
        with pytest.raises(KeyboardInterrupt):
            merge([part], out)
    assert read_run(out)["finished"] is None
    assert merged(out, part, made / "part-2", made / "part-3") == 0
    assert tables(out) == tables(made / "whole")
    assert read_run(out)["finished"]


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def test_what_is_not_of_one_run(made: Path, tmp_path: Path, capsys: Any) -> None:
    first, other, out = made / "part-1", tmp_path / "other", tmp_path / "out"
    shutil.copytree(made / "part-2", other)
    held = read_run(other)
    own = next(iter(read_run(first)["data"]))
    for changed, message in (
        ({"settings": {**held["settings"], "norm": "raw"}}, ": norm is hf there and raw here"),
        ({"settings": {**held["settings"], "max_texts": 9}}, "max_texts is 5000 there and 9 here"),
        ({"metrics": [{"name": "nrs", "version": "0", "parameters": {}}]}, "metric nrs is {"),
        (
            {"tasks": [{"name": own, "type": "STS"}], "data": {own: "changed"}},
            f"data of {own} is {read_run(first)['data'][own]} there and changed here",
        ),
    ):
        (other / "run.json").write_text(json.dumps({**held, **changed}))
        capsys.readouterr()
        assert merged(out, first, other) == 2
        said = one_line(capsys)
        assert said.startswith("they are not of one run: ")
        assert message in said
        assert not out.exists()


def test_what_cannot_be_merged(made: Path, tmp_path: Path, capsys: Any) -> None:
    first, out, full = made / "part-1", tmp_path / "out", tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    capsys.readouterr()
    for parts, target, message in (
        ([tmp_path / "none"], out, f"no such folder: {tmp_path / 'none'}"),
        ([full], out, f"{full} is no run: it has no run.json"),
        ([first], full, f"{full} is not empty, and no merge of runs: give another --output"),
        ([first], made / "part-2", "is a run, and no merge of runs: give another --output"),
        ([first], full / "notes.txt", "notes.txt is a file"),
    ):
        assert merged(target, *parts) == 2
        assert message in one_line(capsys)
    assert not out.exists()
    assert [p.name for p in full.iterdir()] == ["notes.txt"]


def test_errors_and_versions_are_told(made: Path, tmp_path: Path, capsys: Any) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    shutil.copytree(made / "part-2", other)
    held = read_run(other)
    versions = {**held["versions"], "mteb": "0"}
    changed = {**held, "versions": versions, "finished": None}
    (other / "run.json").write_text(json.dumps(changed))
    (record, *_) = running.records(other, "score")
    gone = {k: record[k] for k in ("model", "revision", "variant", "task", "layer")}
    journal.Journal(other).append(
        {**gone, "kind": "error", "unit": "new", "metric": None, "error": "OSError: x"}
    )
    capsys.readouterr()
    assert merged(out, made / "part-1", other, made / "part-3") == 1
    said = capsys.readouterr().err
    assert f"{other} is not finished: when it is, merge again" in said
    assert f"made with several versions of mteb: {held['versions']['mteb']} in " in said
    assert read_run(out)["errors"] == 1
