"""Merging: slices joined are the whole run; what does not belong together is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
from running import Patch

from lrd_harness.cli import main
from lrd_harness.errors import UserError
from lrd_harness.results import journal
from lrd_harness.results.journal import read_run
from lrd_harness.runner.merge import merge

pytestmark = pytest.mark.slow

TABLES = ("leaderboard.csv", "leaderboard.md")


@pytest.fixture(scope="module")
def slices(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two models on two tasks: whole/, and in slices part-1/ to part-3/."""
    folder = tmp_path_factory.mktemp("merge")
    tiny.write_rows(folder / "own.jsonl", [{"text": text} for text in tiny.sentences(20, 3)])
    tasks = ["STSBenchmark", f"texts:{folder / 'own.jsonl'}"]
    models, asked = [place / "bert", place / "gpt"], ("--plugins", "nrs", "--layers", "last")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(folder / "cache"))
        assert running.run(folder / "whole", models, place / "data", *asked, tasks=tasks) == 0
        for i in (3, 1, 2):
            part, shard = folder / f"part-{i}", ("--shard", f"{i}/3")
            assert running.run(part, models, place / "data", *asked, *shard, tasks=tasks) == 0
    return folder


def copy(slices: Path, part: str, to: Path) -> Path:
    return Path(shutil.copytree(slices / part, to))


def tables(out: Path) -> dict[str, str]:
    return {name: (out / name).read_text() for name in TABLES}


def test_slices_are_joined_one_after_the_other(slices: Path, tmp_path: Path, capsys: Any) -> None:
    parts, out = [slices / f"part-{i}" for i in (1, 2, 3)], tmp_path / "out"
    assert merge([parts[2], parts[0]], out) == ["not among them: slice 2/3"]
    assert main(["merge", str(parts[1]), "--output", str(out)]) == 0
    assert "not among" not in capsys.readouterr().err
    assert tables(out) == tables(slices / "whole")
    joined, whole = read_run(out), read_run(slices / "whole")
    for name in ("settings", "models", "tasks", "metrics", "data", "layers", "suite", "pruning"):
        assert joined[name] == whole[name], name
    assert joined["counters"]["met"] == whole["counters"]["met"]
    runs = [read_run(part) for part in parts]
    asked = sum(run["counters"]["total"]["asked"] for run in runs)
    assert joined["counters"]["total"]["asked"] == asked
    assert sorted(joined["shards"]) == ["1/3", "2/3", "3/3"]
    assert joined["begun"] == min(run["begun"] for run in runs)
    assert joined["finished"] == max(run["finished"] for run in runs)
    assert joined["errors"] == 0
    begun = [call["begun"] for call in joined["profile"]]  # whole seconds: some may be equal
    assert begun == sorted(begun)
    calls = [str(call) for run in runs for call in run["profile"]]
    assert sorted(map(str, joined["profile"])) == sorted(calls)
    merge([*parts, out], out)
    assert {**read_run(out), "command": 0} == {**joined, "command": 0}
    # a merge of merges counts nothing twice
    merge([out, parts[0]], tmp_path / "two")
    assert read_run(tmp_path / "two")["counters"]["total"]["asked"] == asked
    assert read_run(tmp_path / "two")["profile"] == joined["profile"]


def test_the_newest_counts(slices: Path, tmp_path: Path) -> None:
    old, new = (copy(slices, "part-1", tmp_path / name) for name in ("old", "new"))
    (record, *_) = running.records(old, "score")
    journal.Journal(new).append({**record, "score": 0.125})
    for out, parts in ((tmp_path / "a", (old, new)), (tmp_path / "b", (new, old))):
        merge(parts, out)
        latest = {r["unit"]: r for r in journal.latest(journal.read(out))}
        assert latest[record["unit"]]["score"] == 0.125


def test_a_database_alone_a_torn_line_and_a_stopped_merge_do_no_harm(
    slices: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    out, parts = tmp_path / "o", [copy(slices, f"part-{i}", tmp_path / f"{i}") for i in (1, 2, 3)]
    for part in parts[:2]:
        shutil.rmtree(part / "journal")
    (file,) = journal.files(parts[2])
    with file.open("a") as torn:
        torn.write('{"kind": "sco')
    native = Path("lm_eval", "model", "results.json")
    (parts[2] / native).parent.mkdir(parents=True)
    (parts[2] / native).write_text("{}")

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lrd_harness.runner.merge._copy_tree", stop)
        with pytest.raises(KeyboardInterrupt):
            merge(parts, out)
    assert read_run(out)["finished"] is None
    assert main(["merge", *map(str, parts), "--output", str(out)]) == 0
    assert read_run(out)["finished"]
    assert tables(out) == tables(slices / "whole")
    assert not (parts[0] / "journal").exists()
    assert (out / native).read_text() == "{}"


def test_runs_that_are_not_of_one(slices: Path, tmp_path: Path) -> None:
    first, out = slices / "part-1", tmp_path / "out"
    other = copy(slices, "part-2", tmp_path / "other")
    run = read_run(other)
    task, before = next(iter(read_run(first)["data"].items()))
    for changed, message in (
        ({"settings": {**run["settings"], "norm": "raw"}}, ": norm is hf there and raw here"),
        ({"settings": {**run["settings"], "max_texts": 9}}, "max_texts is 5000 there and 9 here"),
        ({"metrics": [{"name": "nrs", "version": "0", "parameters": {}}]}, "metric nrs is {"),
        (
            {"tasks": [{"name": task, "type": "STS"}], "data": {task: "changed"}},
            f"data of {task} is {before} there and changed here",
        ),
        ({"models": [{**run["models"][0], "adapter": "mine"}]}, "encoder there and mine here"),
    ):
        (other / "run.json").write_text(json.dumps({**run, **changed}))
        with pytest.raises(UserError, match="they are not of one run: ") as fault:
            merge([first, other], out)
        assert message in str(fault.value)
        assert not out.exists()


def test_what_cannot_be_merged(slices: Path, tmp_path: Path) -> None:
    first, out, full = slices / "part-1", tmp_path / "out", tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    for parts, target, message in (
        ([tmp_path / "none"], out, f"no such folder: {tmp_path / 'none'}"),
        ([full], out, f"{full} is no run: it has no run.json"),
        ([first], full, f"{full} is not empty, and no merge of runs: give another --output"),
        ([first], slices / "part-2", "is a run, and no merge of runs: give another --output"),
        ([first], full / "notes.txt", "notes.txt is a file"),
    ):
        with pytest.raises(UserError) as fault:
            merge(parts, target)
        assert message in str(fault.value)
    assert not out.exists()
    assert [path.name for path in full.iterdir()] == ["notes.txt"]


def test_errors_and_versions_are_told(slices: Path, tmp_path: Path, capsys: Any) -> None:
    other, out = copy(slices, "part-2", tmp_path / "other"), tmp_path / "out"
    run = read_run(other)
    changed = {**run, "versions": {**run["versions"], "mteb": "0"}, "finished": None}
    (other / "run.json").write_text(json.dumps(changed))
    error = {"kind": "error", "unit": "new", "model": "local/bert", "error": "OSError: x"}
    journal.Journal(other).append(error)
    parts = [str(slices / "part-1"), str(other), str(slices / "part-3")]
    capsys.readouterr()
    assert main(["merge", *parts, "--output", str(out)]) == 1
    said = capsys.readouterr().err
    assert f"{other} is not finished: when it is, merge again" in said
    assert f"made with several versions of mteb: {run['versions']['mteb']} in " in said
    assert read_run(out)["errors"] == 1
