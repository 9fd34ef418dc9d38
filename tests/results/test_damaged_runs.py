"""Folders of runs that were damaged: one clear line by every command, and nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import fuzzing
import pytest
import running
from running import main

from lrd_harness.results import journal as journals

LAST = ("--layers", "last", "--plugins", "nrs")


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(folder / "cache"))
        assert main(command(folder / "out", place)) == 0
    return folder / "out"


def command(out: Path, place: Path) -> list[str]:
    return running.command(out, [place / "bert"], place / "data", *LAST, tasks=["STSBenchmark"])


def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def journal(out: Path) -> Path:
    return next((out / "journal").glob("*.jsonl"))


def line(change: Callable[[dict[str, Any]], Any], kind: str = "score") -> Callable[[Path], None]:
    """Damage the first record of a kind."""

    def damage(out: Path) -> None:
        lines = journal(out).read_text().splitlines()
        place = next(i for i, text in enumerate(lines) if json.loads(text)["kind"] == kind)
        record = json.loads(lines[place])
        changed = change(record)
        lines[place] = changed if isinstance(changed, str) else json.dumps(record)
        journal(out).write_text("\n".join(lines) + "\n")

    return damage


def run_json(**fields: Any) -> Callable[[Path], None]:
    """Change fields of run.json."""

    def damage(out: Path) -> None:
        run = json.loads((out / "run.json").read_text())
        (out / "run.json").write_text(json.dumps({**run, **fields}))

    return damage


def instead(name: str, make: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Put something in the place of a file or folder."""

    def damage(out: Path) -> None:
        path = journal(out) if name == "a journal" else out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        make(path)

    return damage


def database(out: Path) -> None:
    """A folder whose journals are gone, and in whose database a record is of a wrong kind."""
    shutil.rmtree(out / "journal")
    with closing(sqlite3.connect(out / "results.sqlite", isolation_level=None)) as connection:
        wrong = json.dumps({"kind": "score", "unit": 3})
        connection.execute("UPDATE records SET json = ? WHERE position = 1", [wrong])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not UTF-8": (instead("run.json", lambda p: p.write_bytes(b"\xff\xfe{")), "cannot be read"),
    "empty": (instead("run.json", lambda p: p.touch()), "cannot be read"),
    "deep": (instead("run.json", lambda p: p.write_text("[" * 10**5)), "nested too deeply"),
    "a list": (instead("run.json", lambda p: p.write_text("[]")), "it is a list, not a mapping"),
    "models": (run_json(models=[3]), "models[0] is a whole number, not a mapping"),
    "NaN": (run_json(errors=float("nan")), "errors is not finite, not a whole number"),
    "pipe": (instead("run.json", os.mkfifo), "is no file"),
    "journal file": (instead("journal", lambda p: p.write_text("")), "is no folder"),
    "journal folder": (instead("a journal", lambda p: p.mkdir()), "is no file, but a folder"),
    "journal pipe": (instead("a journal", os.mkfifo), "is no file"),
    "journal bytes": (line(lambda r: "\x00" * 40, "model"), "not a journal record"),
    "journal depth": (line(lambda r: "[" * 10**5, "model"), "not a journal record"),
    "journal NaN": (line(lambda r: r.update(seconds=float("nan"))), "seconds is not finite"),
    "record": (line(lambda r: "[1]"), "not a journal record: it is a list, not a mapping"),
    "bits": (line(lambda r: r.update(seconds=10**400)), "seconds is beyond 64 bits, not a number"),
    "overflow": (line(lambda r: json.dumps(r).replace(str(r["score"]), "1e999")), "not finite"),
    "half": (line(lambda r: '{"kind": "sco', "model"), "not a journal record"),
    "counts": (line(lambda r: r.update(asked="many"), "texts"), "asked is a text"),
    "database": (database, "record 2: not a journal record: 'unit' is no text"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_one_line_and_nothing_lost(
    kind: str, whole: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = DAMAGE[kind]
    out = copy(whole, tmp_path)
    damage(out)
    before = fuzzing.tree_of(out)
    commands = [["leaderboard", str(out)], ["merge", str(out), "--output", str(tmp_path / "all")]]
    if kind in ("NaN", "journal pipe", "bits"):
        commands.append(command(out, place))
    for arguments in commands:
        assert main(arguments) == 2, arguments
        said = running.one_line(capsys)
        assert expected in said
        assert len(said) <= 300
    assert fuzzing.tree_of(out) == before
    assert not (tmp_path / "all").exists()


def test_a_wrong_record_is_named_by_file_and_line(
    whole: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy(whole, tmp_path)
    line(lambda r: r.update(score=[]))(out)
    lines = journal(out).read_text().splitlines(keepends=True)
    wrong = [json.loads(text)["kind"] for text in lines].index("score")
    prune = ["prune", str(place / "bert"), "--blocks", "1", "--scores", str(out), "--quiet"]
    for arguments in (prune, ["leaderboard", str(out)]):
        assert main(arguments) == 2
        said = running.one_line(capsys)
        assert f"{journal(out).name}, line {wrong + 1}: the score record of unit " in said
        assert said.endswith(f"score is a list, not a number; {journals.ADVICE}")
    journal(out).write_text("".join(lines[:wrong] + lines[wrong + 1 :]))
    assert main(["leaderboard", str(out)]) == 0


@pytest.mark.parametrize(
    ("name", "make"), [("leaderboard.md", Path.mkdir), ("results.sqlite", os.mkfifo)]
)
def test_what_is_in_the_way_of_a_file_is_told_of_before_anything_is_done(
    name: str,
    make: Callable[[Path], None],
    whole: Path,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = copy(whole, tmp_path)
    instead(name, make)(out)
    assert main(command(out, place)) == 2
    assert f"{name} is no file, and one of that name is written" in running.one_line(capsys)


SCORE = {"kind": "score", "unit": "u", "model": "m", "task": "T", "layer": 1, "layers": 1}
SCORE |= {"score": 0.5}
METRIC = {"kind": "metric", "unit": "u", "model": "m", "task": "T", "metric": "f", "n": 3}
UNEVEN = {"a": {"layers": [1], "values": []}}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ({"kind": "model"}, "not a journal record: it has no unit"),
        ({"kind": "model", "unit": "u", "model": "m", "blocks": -1}, "blocks is -1, not at least"),
        ({**SCORE, "score": "0.5"}, "score is a text, not a number"),
        ({**SCORE, "task": None}, "task is null, not a text"),
        ({**SCORE, "layer": 10**9}, "layer is 1000000000, not at most 100000"),
        ({k: v for k, v in SCORE.items() if k not in ("task", "score")}, "lacks task, score"),
        ({**METRIC, "profiles": {"a": [1]}}, "profiles.a is no mapping"),
        ({**METRIC, "profiles": UNEVEN}, "profiles.a has lists of unequal length"),
        ({**METRIC, "selection": ["a"]}, "selection has 1 values, not 2"),
        ({**METRIC, "values": {"a": "x"}}, "values.a is a text"),
        ({"settings": "hf"}, "settings is a text, not a mapping"),
        ({"tasks": [{"type": "STS"}]}, "tasks[0] lacks name"),
        ({"metrics": [{"name": "nrs"}]}, "metrics[0] lacks version, parameters"),
        ({"counters": {"total": {"texts": None}}}, "counters.total.texts is null"),
        ({"shards": ["x"]}, "shards[0] is a text, not I/N"),
        ({"errors": 10**400}, "errors is beyond 64 bits"),
        # what a later version adds is let through, and lists of numbers
        ({"of_tomorrow": 1, "models": []}, ""),
        ({"kind": "of tomorrow", "unit": "u", "model": 3}, ""),
        ({**SCORE, "of_tomorrow": [{}], "stderr": None, "scores": {"a": 1}}, ""),
        ({**METRIC, "values": {"a": 1.5, "histogram": [1, 2.0]}}, ""),
    ],
)
def test_faults_of_records_and_of_run_json(document: dict[str, Any], fault: str) -> None:
    fault_of = journals.record_fault if "kind" in document else journals.run_fault
    said = fault_of(document)
    assert fault in said
    assert bool(fault) == bool(said)
