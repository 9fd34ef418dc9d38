"""Journals, what is read of them, and the database made of them."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import re
import signal
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrd_harness import UserError
from lrd_harness.errors import StorageFull
from lrd_harness.results import journal as journals
from lrd_harness.results.database import build_database, from_records, load
from lrd_harness.results.journal import Journal, finite, latest, read
from lrd_harness.results.rows import COLUMNS, ModelRow, Profile, Results

WHO: dict[str, Any] = {"model": "m", "revision": "r1", "variant": "full"}
MODEL = {**WHO, "kind": "model", "unit": "m|model", "parameters": 10, "blocks": 2, "width": 4}
MODEL |= {"pooling": "mean", "max_length": 512, "family": "bert", "adapter": "encoder"}
METRIC = {**WHO, "kind": "metric", "unit": "m|T|frenet", "task": "T", "metric": "frenet", "n": 30}
METRIC |= {"version": "1", "start": 1, "parameters": {"norm": "hf", "pooling": "mean"}}
METRIC |= {"seconds": 0.1, "selection": ["d0L", "max"], "values": {"d0L": 1.5, "rank": 9.0}}
METRIC |= {"profiles": {"speed": {"layers": [1, 2], "values": [0.25, 0.5]}}}
CAPTURE = {**WHO, "kind": "capture", "unit": "m|capture", "texts": 9, "forwarded": 8, "tokens": 70}
CAPTURE |= {"truncated": 1, "empty": 0, "duplicates": 1, "seconds": 2.0}


def score(layer: int = 2, value: float = 0.5, task: str = "T") -> dict[str, Any]:
    where = {**WHO, "kind": "score", "unit": f"m|{task}|{layer}", "task": task, "layer": layer}
    scores = {"cosine_spearman": value, "pearson": 0.25}
    about = {"task_type": "STS", "layers": 2, "score_name": "cosine_spearman", "seconds": 1.0}
    return {**where, **about, "score": value, "scores": scores}


def error(unit: str = "m|T|2") -> dict[str, Any]:
    failed = {"task": "T", "layer": 2, "metric": None, "error": "NotFinite: state 3"}
    return {**WHO, "kind": "error", "unit": unit, **failed}


def write(out: Path, *records: dict[str, Any]) -> Path:
    journal = Journal(out)
    for record in records:
        journal.append(record)
    journal.close()
    return next((out / "journal").iterdir())


def test_records_come_back_with_their_times_in_order_over_all_journals(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    assert not (tmp_path / "journal").exists()  # made at the first append
    for i in range(20):
        (first if i % 3 else second).append(score(i))
    records = read(tmp_path)
    assert [{k: v for k, v in r.items() if k != "time"} for r in records] == list(
        map(score, range(20))
    )
    for record in records:
        assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{6}\+00:00", record["time"])
    names = [path.name for path in (tmp_path / "journal").glob("*.jsonl")]
    assert len([name for name in names if f"-{os.getpid()}-" in name]) == 2


def test_a_clock_that_is_set_back_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([2030, 2030, 2020, 2020, 2020])
    monkeypatch.setattr(journals, "_now", lambda: datetime(next(times), 1, 1, tzinfo=UTC))
    write(tmp_path, score(0), score(1), score(2))
    assert [record["layer"] for record in read(tmp_path)] == [0, 1, 2]


def test_numpy_is_taken_and_strange_text_survives(tmp_path: Path) -> None:
    text = 'line\nend \u2028 "quote" \ud800 \x00 😀'
    values = {"a": np.float32(0.5), "b": np.float64(2), "c": np.arange(2), "d": np.int64(3)}
    write(tmp_path, {**error(), "error": text}, {**METRIC, "values": values})
    first, second = read(tmp_path)
    assert first["error"] == text.replace("\ud800", "?")
    assert second["values"] == {"a": 0.5, "b": 2.0, "c": [0, 1], "d": 3}
    build_database(tmp_path)


def test_what_is_no_number_and_what_is_no_unit_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for bad in (float("nan"), float("inf"), np.float32("nan"), np.float64("-inf")):
        for record in (
            score(value=bad),
            {**METRIC, "values": {"d0L": bad}},
            {**METRIC, "profiles": {"speed": {"layers": [0], "values": np.array([bad])}}},
        ):
            with pytest.raises(ValueError, match="NaN or infinity"):
                journal.append(record)
    for key in ("kind", "unit"):
        with pytest.raises(ValueError, match="needs 'kind' and 'unit'"):
            journal.append({k: v for k, v in MODEL.items() if k != key})
    journal.append(MODEL)
    assert [record["kind"] for record in read(tmp_path)] == ["model"]


def test_finite_keeps_the_numbers() -> None:
    scores = {"a": 1, "b": np.float32(0.5), "c": float("nan"), "d": np.inf, "e": "x", "f": None}
    assert finite(scores) == {"a": 1.0, "b": 0.5}


def test_a_line_torn_at_any_byte_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, MODEL, {**score(), "task": "größe"})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [record["kind"] for record in read(tmp_path)] == ["model"]
    path.write_bytes(whole[:-1])  # only the line's end is missing: the record is whole
    assert len(read(tmp_path)) == 2
    path.write_bytes(whole[: first + 9] + b"\0" * 40)
    assert len(read(tmp_path)) == 1


def test_after_a_failed_write_a_new_file_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.append(MODEL)
    real, calls = os.write, itertools.count()

    def full(file: int, data: bytes) -> int:
        """As a full disk: what fits is written, then nothing."""
        if next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:10])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull, match=f"no space left .* {re.escape(str(tmp_path))}"):
        journal.append(score(0))
    monkeypatch.undo()
    journal.append(score(1))
    assert [record["unit"] for record in read(tmp_path)] == ["m|model", "m|T|1"]


def _append_for_ever(out: Path) -> None:
    journal = Journal(out)
    for layer in range(10**9):
        journal.append(score(layer))


def test_a_killed_process_loses_at_most_the_record_in_flight(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        process = context.Process(target=_append_for_ever, args=(tmp_path,), daemon=True)
        process.start()
        deadline = time.monotonic() + 20
        while len(read(tmp_path)) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for path in (tmp_path / "journal").iterdir():
            lines = path.read_bytes().split(b"\n")[:-1]
            assert [json.loads(line)["layer"] for line in lines] == list(range(len(lines)))
    assert load(tmp_path).scores


def test_the_last_record_of_a_unit_wins_in_its_first_place_but_no_error_over_a_success() -> None:
    old, new, newer = score(value=0.1), score(value=0.2), {**error(), "error": "other"}
    assert latest([score(0, 0.1), score(1), score(0, 0.9)]) == [score(0, 0.9), score(1)]
    assert latest([error(), old, error(), new, error()]) == [new]
    assert latest([error(), newer]) == [newer]


def test_load_gives_typed_rows(tmp_path: Path) -> None:
    failed, unknown = {**error("b"), "model": "b"}, {"kind": "new", "unit": "z"}
    write(
        tmp_path,
        failed,
        MODEL,
        score(),
        METRIC,
        CAPTURE,
        unknown,
        {**MODEL, "model": "a", "unit": "a"},
    )
    loaded = load(tmp_path)
    fields = {k: v for k, v in MODEL.items() if k not in ("kind", "unit")}
    assert [row.model for row in loaded.models] == ["b", "m", "a"]  # of first appearance
    assert loaded.models[:2] == (ModelRow(**{**WHO, "model": "b"}), ModelRow(**fields))
    (row,) = loaded.scores
    assert (row.last, row.scores["pearson"]) == (True, 0.25)
    (metric,) = loaded.metrics
    assert metric.selection == ("d0L", "max")
    assert metric.profiles == {"speed": Profile((1, 2), (0.25, 0.5))}
    assert loaded.errors[0].error == "NotFinite: state 3"
    assert loaded.captures[0].forwarded == 8


def test_a_folder_must_be_one_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "missing")
    for make in (load, build_database):
        with pytest.raises(UserError, match="not a folder of a run"):
            make(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert load(tmp_path) == Results()
    (tmp_path / "run.json").unlink()
    (tmp_path / "results.sqlite").write_text("no database" * 100)
    with pytest.raises(UserError, match="not a record of results"):
        load(tmp_path)


def test_the_database_can_be_queried(tmp_path: Path) -> None:
    known = {"task_type": "LogLikelihood"}
    likelihood = {**score(task="mmlu"), **known, "stderr": 0.0184, "chance": 0.25}
    metric = {**METRIC, **known, "unit": "m|mmlu|frenet", "task": "mmlu", "values": {}}
    records = [error(), MODEL, score(0, 0.25), score(2, 0.75), METRIC, error("x"), CAPTURE]
    write(tmp_path, *records, likelihood, metric)
    path = build_database(tmp_path)
    assert path == tmp_path / "results.sqlite"
    values = [("d0L", "model", 1.5, 30), ("rank", "model", 9.0, 30)]
    values += [("speed", "1", 0.25, 30), ("speed", "2", 0.5, 30)]
    types = [("T", None), ("mmlu", "LogLikelihood")]
    with closing(sqlite3.connect(path)) as database:
        for query, expected in {
            "SELECT model, width, pooling FROM models": [("m", 4, "mean")],
            "SELECT layer, score FROM scores WHERE task = 'T' ORDER BY layer": [
                (0, 0.25),
                (2, 0.75),
            ],
            "SELECT stderr, chance FROM scores": [(None, None), (None, None), (0.0184, 0.25)],
            "SELECT DISTINCT value FROM score_details WHERE name = 'pearson'": [(0.25,)],
            "SELECT name, layer, value, n FROM metric_values WHERE task = 'T'": values,
            "SELECT DISTINCT parameters FROM metric_values": [(json.dumps(METRIC["parameters"]),)],
            "SELECT DISTINCT task, task_type FROM metric_values": types,
            "SELECT task, task_type FROM metrics": types,
            "SELECT selection, best, start FROM metrics WHERE task = 'T'": [("d0L", "max", 1)],
            "SELECT error FROM errors": [("NotFinite: state 3",)],
            "SELECT forwarded FROM captures": [(8,)],
            "PRAGMA journal_mode": [("delete",)],
            "PRAGMA integrity_check": [("ok",)],
        }.items():
            assert database.execute(query).fetchall() == expected, query


def test_results_are_the_same_without_the_journals(tmp_path: Path) -> None:
    journal = write(tmp_path, MODEL, error(), score(), METRIC, error("x"), CAPTURE)
    whole = load(tmp_path)
    kept = build_database(tmp_path).read_bytes()
    assert build_database(tmp_path).read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["journal", "results.sqlite"]
    journal.unlink()
    assert load(tmp_path) == whole
    assert build_database(tmp_path).read_bytes() == kept  # not emptied
    (tmp_path / "results.sqlite").chmod(0o444)
    assert load(tmp_path) == whole


def test_all_numbers_as_one_frame() -> None:
    """The newest of a unit; both kinds of tasks; a row per value, of layers and of the model."""
    old, other = score(2, 0.1), {**score(1, 0.25, "mmlu"), "task_type": "LogLikelihood"}
    untyped = {**METRIC, "unit": "m|mmlu|frenet", "task": "mmlu"}
    histogram = {**METRIC["values"], "counts": [1, 2]}
    records = [MODEL, old, score(2, 0.5), {**other, "stderr": 0.02, "chance": 0.25}, untyped]
    frame = from_records([*records, {**METRIC, "values": histogram}]).frame
    assert [*frame.columns] == [*COLUMNS]
    assert (frame.dtypes.astype(str) == pd.Series(COLUMNS)).all()
    assert (frame[["model", "revision", "variant"]] == ["m", "r1", "full"]).all(axis=None)
    assert (frame.side == frame.task.map({"T": "embedding", "mmlu": "base"})).all()
    scores = frame[frame.kind == "score"].set_index("task")
    assert scores.value.to_dict() == {"T": 0.5, "mmlu": 0.25}
    of_score = scores.loc["mmlu", ["layer", "layers", "stderr", "chance"]]
    assert of_score.tolist() == [1, 2, 0.02, 0.25]
    assert (scores.source == "score").all()
    metric = frame[(frame.source == "frenet") & (frame.task == "T")]
    assert metric[["kind", "name", "value", "n", "start"]].values.tolist() == [
        ["value", "d0L", 1.5, 30, 1],
        ["value", "rank", 9.0, 30, 1],
        ["profile", "speed", 0.25, 30, 1],
        ["profile", "speed", 0.5, 30, 1],
    ]
    assert metric.layer.isna().tolist() == [True, True, False, False]
    assert len(Results().frame) == 0
    assert [*Results().frame.columns] == [*COLUMNS]


@pytest.mark.parametrize(
    ("tasks", "settings", "now"),
    [
        (["MMLU"], {"limit": 12}, {"limit": None, "max_questions": 12}),
        (["MMLU", "lm-eval:piqa"], {"limit": 9}, {"max_questions": "9 for MMLU alone"}),
        (["lm-eval:piqa"], {"limit": 9}, {}),
        (["MMLU"], {"limit": None}, {}),
        (["MMLU"], {"limit": 12, "max_questions": None}, {}),  # a run of now
    ],
)
def test_a_limit_of_before_is_read_as_it_was_meant(
    tasks: list[str], settings: dict[str, Any], now: dict[str, Any], tmp_path: Path
) -> None:
    run = {"settings": settings, "tasks": [{"name": name} for name in tasks]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert journals.read_run(tmp_path)["settings"] == settings | now
