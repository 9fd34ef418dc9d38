"""The records of a pruning sweep: in journals, in results.sqlite, as rows."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lrd_harness.board.leaderboard import report
from lrd_harness.errors import UserError
from lrd_harness.results import database as store
from lrd_harness.results.journal import Journal


def record(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "unit": f"a|{kind}", "model": "a", "revision": "r", **fields}


NAME = "without 5-6"
RECORDS = [
    record("model", blocks=10),
    record(
        "pruning",
        variant=NAME,
        rule="random",
        seed=0,
        budget=0.1,
        removed=[5, 6],
        candidates=[4, 5, 6],
        blocks=10,
        n=20,
        version="1",
    ),
    record(
        "variant",
        variant=NAME,
        removed=[5, 6],
        parameters=9,
        parameters_full=10,
        latency=None,
        latency_full=None,
    ),
    record("score", variant=NAME, task="t", layer=8, layers=8, score=0.5),
    record("error", metric=None, rule="nrs", error="ValueError: no"),
]


def test_records_and_database_hold_the_sweep(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for record in RECORDS:
        journal.append(record)
    loaded = store.load(tmp_path)
    (choice,), (variant,) = loaded.prunings, loaded.variants
    assert (choice.removed, choice.candidates, choice.seed) == ((5, 6), (4, 5, 6), 0)
    assert (variant.removed, variant.parameters, variant.latency) == ((5, 6), 9, None)
    assert loaded.scores[0].last
    assert loaded.errors[0].rule == "nrs"
    assert [key.variant for key in (m.key for m in loaded.models)] == ["full", "without 5-6"]
    with sqlite3.connect(store.build_database(tmp_path)) as database:
        query = database.execute
        assert query(
            "SELECT variant, rule, seed, removed, candidates FROM prunings"
        ).fetchall() == [("without 5-6", "random", 0, "[5, 6]", "[4, 5, 6]")]
        assert query("SELECT removed, parameters, latency FROM variants").fetchall() == [
            ("[5, 6]", 9, None)
        ]
        assert query("SELECT rule, metric FROM errors").fetchall() == [("nrs", None)]
        assert query(
            "SELECT score FROM prunings JOIN scores USING (model, revision, variant)"
        ).fetchall() == [(0.5,)]
    database.close()
    next((tmp_path / "journal").iterdir()).unlink()
    assert store.load(tmp_path) == loaded
    store.restore(tmp_path)
    assert store.load(tmp_path) == loaded


def test_a_database_from_before_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(RECORDS[0])
    with sqlite3.connect(store.build_database(tmp_path)) as database:
        database.execute("DROP TABLE prunings")
        database.execute("DROP TABLE variants")
        database.execute("ALTER TABLE errors DROP COLUMN rule")
    database.close()
    next((tmp_path / "journal").iterdir()).unlink()
    loaded = store.load(tmp_path)
    assert (loaded.prunings, loaded.variants) == ((), ())
    assert not {"pruning", "prunings"} & {table.name for table in report(loaded).tables}


@pytest.mark.parametrize(("record", "lacking"), [(1, "removed"), (1, "rule"), (2, "removed")])
def test_a_record_without_a_field_is_named(record: int, lacking: str) -> None:
    bad = {name: value for name, value in RECORDS[record].items() if name != lacking}
    with pytest.raises(UserError, match=f"lacks {lacking}"):
        store.from_records([bad])
